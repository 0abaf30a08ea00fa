"""What is known of a trained model by its evaluation, kept in its folder, and what to expect of a new cell type.

`evaluation.json` holds the part of a run's `evaluation_metrics.json` and `assay_worth.json` that a prediction needs:
threshold, recalibration, conformal intervals, skill, and the accuracy with every set of modalities shown;
`diagnosis.json` the verdict of `collapse_diagnostics.json`. Both name the weights that they are about. So `model/`
alone is all that prediction needs, and its `model_card.md` says how good the model was found to be.
"""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.assays import EVERY, EXPRESSION_ASSAY
from chromacc_lib.calibration import Recalibration, ScoreIntervals
from chromacc_lib.hub import LATER, NOT_EVALUATED, RESULT_HEADING, ModelFolder, open_model_folder, read_json
from chromacc_lib.model import ModelConfig
from chromacc_lib.wording import estimate

__all__ = ["Evaluated", "add_diagnosis", "add_evaluation", "expected_accuracy", "read_evaluated", "update_card"]

EVALUATION_FILE, DIAGNOSIS_FILE = LATER
METRICS = {"skill": "skill over the locus average", "pr_auc": "AUPRC", "mse": "MSE"}
CARD_METRICS = ("skill", "pearson", "residual_pearson", "roc_auc", "pr_auc", "pr_auc_gain", "base_rate", "mse")


@dataclass(frozen=True)
class Evaluated:
    """content: of evaluation.json, {} = the model folder has none. recalibration, intervals: None = not known."""

    content: dict
    recalibration: Recalibration | None
    intervals: ScoreIntervals | None

    @property
    def threshold(self) -> tuple[float, str]:
        """The probability (as predicted, not recalibrated) from which a window is called open, and where it is from."""
        if not self.content:
            return 0.5, f"default: the model folder has no {EVALUATION_FILE} (03_evaluation writes it)"
        source = self.content["threshold_source"]
        if self.content["threshold"] is None:
            return 0.5, f"default: the evaluation's is {source}"
        return float(self.content["threshold"]), f"evaluation of the model: {source}"

    def calibrated(self, probability: np.ndarray) -> np.ndarray:
        """Recalibrated probability of being open, float32, same shape; NaN where no recalibration is known."""
        if self.recalibration is None:
            return np.full_like(probability, np.nan, dtype=np.float32)
        return self.recalibration.apply(probability).astype(np.float32)

    def interval(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end of the score (arcsinh fold), float32, same shape; NaN where no intervals are known."""
        if self.intervals is None:
            return tuple(np.full_like(score, np.nan, dtype=np.float32) for _ in range(2))
        return tuple(end.astype(np.float32) for end in self.intervals.apply(score))


# --- from a run into its model folder ------------------------------------------------------------------------
def add_evaluation(model_dir: str | Path, run_dir: str | Path) -> Path:
    """Write evaluation.json into a model folder from the run's evaluation_metrics.json and assay_worth.json.

    The card is updated, too. Raises ChromaccError when the folder is no whole model, or a file is not there.
    """
    folder, run = open_model_folder(model_dir), project_path(run_dir)
    metrics, worth = (_required(run / f"{name}.json") for name in ("evaluation_metrics", "assay_worth"))
    content = {"weights_sha256": folder.weights_sha256}
    content |= {name: metrics[name] for name in ("simulated", "verdict", "headline", "threshold", "threshold_source",
                                                 "interval_method")}
    recalibration, conformal = metrics["recalibration"], metrics["conformal"]
    content["recalibration"] = _chosen(recalibration, [f.name for f in fields(Recalibration)], "sentence")
    if "pooled" in recalibration:
        content["recalibration"] |= {f"ece_{when}": entry["ece"] for when, entry in recalibration["pooled"].items()}
    content["conformal"] = _chosen(conformal, ["nominal", "source", "intervals", "pooled"], "sentence")
    content["distance"] = {name: metrics["distance"][name] for name in ("threshold", "rule", "sentence")}
    content["accuracy"] = {"basis": worth["basis"], "subsets": worth["subsets"][EVERY], "assays": [
        {"assay": entry["assay"], "added_last": entry["added_last"]} for entry in worth["assays"]
        if entry["cell_type"] == EVERY]}  # fmt: skip
    path = folder.path / EVALUATION_FILE
    _write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    update_card(folder.path)
    return path


def add_diagnosis(model_dir: str | Path, run_dir: str | Path) -> Path:
    """Write diagnosis.json into a model folder from the run's collapse_diagnostics.json, and update the card."""
    folder = open_model_folder(model_dir)
    found = _required(project_path(run_dir) / "collapse_diagnostics.json")
    content = {"weights_sha256": folder.weights_sha256}
    content |= {name: found[name] for name in ("verdict", "cause", "confidence", "sentence", "next_step")}
    path = folder.path / DIAGNOSIS_FILE
    _write(path, json.dumps(content, indent=1) + "\n")
    update_card(folder.path)
    return path


def _chosen(entry: Mapping, names: Sequence[str], *more: str) -> dict:
    """Some of an entry, or why it is undefined."""
    return {name: entry[name] for name in (("undefined",) if "undefined" in entry else (*names, *more))}


def _required(path: Path) -> dict:
    if not path.is_file():
        raise ChromaccError(
            f"{path}: not there; run the notebook that writes it (03_evaluation, 04_collapse_diagnostics)"
        )
    return read_json(path)


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    os.replace(part, path)


def update_card(model_dir: str | Path) -> None:
    """Bring the card's section on the result up to date: skill with its interval, calibration, diagnosis."""
    folder = project_path(model_dir)
    card = folder / "model_card.md"
    before, heading, rest = card.read_text().partition(f"{RESULT_HEADING}\n")
    if not heading:
        raise ChromaccError(f"{card}: no section {RESULT_HEADING!r}: of an older version, or edited; train again")
    _, following, after = rest.partition("\n## ")
    evaluated = folder / EVALUATION_FILE
    parts = [_result_text(read_json(evaluated)) if evaluated.is_file() else NOT_EVALUATED]
    if (folder / DIAGNOSIS_FILE).is_file():
        found = read_json(folder / DIAGNOSIS_FILE)
        cause = f": {found['cause']}" if found["cause"] else ""
        parts.append(
            f"**Diagnosis: {found['verdict']}{cause}** (confidence: {found['confidence']}). {found['sentence']}"
        )
    _write(card, f"{before}{heading}\n" + "\n\n".join(parts) + f"\n{following}{after}")


def _result_text(content: Mapping) -> str:
    headline = content["headline"]
    size = headline["size"]
    rows = [f"| {name.replace('_', ' ')} | {_figure(headline[name], '.3f', '')} |" for name in CARD_METRICS
            if isinstance(headline.get(name), dict)]
    table = "\n".join(["| | value (95% interval) |", "|---|---|", *rows])
    calibration = [entry.get("sentence") or f"Not known: {entry['undefined']}." for entry in
                   (content["recalibration"], content["conformal"])]
    return "\n\n".join([
        content["verdict"], table,
        f"{size['rows']:,} rows: {size['windows']:,} windows of {', '.join(headline['cell_types'])}; {size['blocks']} "
        f"chromosome blocks. Intervals: {content['interval_method']}.",
        *calibration, content["distance"]["sentence"],
    ])  # fmt: skip


# --- what a new cell type may expect --------------------------------------------------------------------------
def read_evaluated(folder: ModelFolder) -> Evaluated:
    """Read what is known of a model. Raises ChromaccError when it is of other weights, or damaged."""
    path = folder.path / EVALUATION_FILE
    if not path.is_file():
        return Evaluated({}, None, None)
    content = read_json(path)
    if content.get("weights_sha256") != folder.weights_sha256:
        raise ChromaccError(
            f"{path}: the evaluation of other weights than those of model.safetensors; copy the whole folder of one "
            "run, or run 03_evaluation again"
        )
    try:
        known = {name: content[name] for name in ("recalibration", "conformal")}
        names = [field.name for field in fields(Recalibration)]
        recalibration = None if "undefined" in known["recalibration"] else Recalibration(
            **{name: known["recalibration"][name] for name in names})
        conformal = known["conformal"]
        intervals = None if "undefined" in conformal else ScoreIntervals.from_dict(conformal["intervals"])
    except (KeyError, TypeError) as error:
        raise ChromaccError(
            f"{path}: not as this version of chromacc writes it ({error!r}); run 03_evaluation again"
        ) from error
    return Evaluated(content, recalibration, intervals)


def expected_accuracy(evaluated: Evaluated, config: ModelConfig, present: Collection[str], prior: str) -> dict | None:
    """What the evaluation found on unseen cell types x unseen chromosomes with such inputs; None = not evaluated.

    present: names of tracks, and "expression". prior: of how many windows the locus average is known: "all", "some" or
    "none". Returns "with" and "without", each {"shown": modalities, skill, pr_auc, mse: intervals}: what is there of a
    modality counted as the whole of it, and as nothing. They are the same, and "exact" true, where each modality is
    there whole or not at all. "missing": {assay: what it added to all others: intervals}, of those that the evaluation
    knows.
    "sentence": all that in words; "basis": on what it was measured.
    """
    accuracy = evaluated.content.get("accuracy")
    if accuracy is None:
        return None
    groups = {"histone": config.histone_marks, "tf": config.tfs, "cell": (EXPRESSION_ASSAY,) if config.features else ()}
    there = {name: [one for one in tracks if one in present] for name, tracks in groups.items()}
    some = {"sequence", *(name for name, tracks in there.items() if tracks)} | ({"prior"} if prior != "none" else set())
    whole = {"sequence", *(name for name, tracks in there.items() if tracks and len(tracks) == len(groups[name]))}
    whole |= {"prior"} if prior == "all" else set()
    measured = {frozenset(entry["shown"]): entry for entry in accuracy["subsets"]}
    known = frozenset().union(*measured)
    ends = {}
    for name, shown in (("with", some), ("without", whole)):
        entry = measured.get(frozenset(shown & known))
        if entry is None:
            return None
        ends[name] = {"shown": sorted(entry["shown"])} | {metric: entry[metric] for metric in METRICS}
    missing = {entry["assay"]: {metric: entry["added_last"][metric] for metric in METRICS}
               for entry in accuracy["assays"] if entry["assay"] not in present}  # fmt: skip
    result = {**ends, "exact": some & known == whole & known, "missing": missing, "basis": accuracy["basis"]}
    return result | {"sentence": _expectation_words(result)}


def _expectation_words(found: Mapping) -> str:
    with_, without = (_skill_words(found[name]) for name in ("with", "without"))
    if found["exact"]:
        text = f"Shown {_listed(found['with']['shown'])}, the model had {with_}"
    else:
        text = (f"Shown {_listed(found['with']['shown'])}, of which this cell type has a part, the model had {with_}; "
                f"shown {_listed(found['without']['shown'])} alone, {without}: expect something between")  # fmt: skip
    text += f" ({found['basis'].rstrip('.')})."
    costs = [f"{name} {_figure(entry['skill'], '+.3f')}" for name, entry in found["missing"].items()]
    return text + (f" What is missing added to the skill, beside all others: {'; '.join(costs)}." if costs else "")


def _skill_words(entry: Mapping) -> str:
    return ", ".join(f"{words} {_figure(entry[name], '.3f')}" for name, words in METRICS.items())


def _figure(entry: Mapping, form: str, what: str = "95% interval ") -> str:
    """An estimate as JSON has it, where None is not known."""
    return "not known" if entry["value"] is None else estimate(entry, form, what)


def _listed(names: Sequence[str]) -> str:
    words = {"cell": "expression", "histone": "histone marks", "tf": "TF tracks", "prior": "the locus average",
             "sequence": "the sequence"}
    return ", ".join(words[name] for name in names) or "nothing"
