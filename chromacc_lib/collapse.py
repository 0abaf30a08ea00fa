"""Did the model learn, and if not, why? Checks on predictions, data, model and training, and one named cause.

`diagnose` takes anybody's table of (cell type, window, measured, predicted); the dataset, the model and the
training history add checks when they are given. Every check returns a value, the rule that judged it and a
sentence; `causes.CAUSES` is the ordered list that turns checks into one cause: read it from top to bottom.

Words: a *row* is one window in one cell type; *seen* = training, *unseen* = test; the *locus average* is the mean
of the training cell types at the same window (leave-one-out for a training cell type). Scores are arcsinh-scaled.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from chromacc_lib.causes import (
    ASSEMBLY,
    CAUSES,
    GIVE_DATASET,
    GROUPS,
    NO_SIGNAL,
    NO_UNSEEN,
    NOTHING_LEARNED,
    ON_UNSEEN,
    SHIFTED,
    TOO_FEW,
    TURNED,
    WITHIN,
    Cause,
)
from chromacc_lib.checks import Check, Table, auc_half_width, quadrant_table, variance_table
from chromacc_lib.checks_generalisation import generalisation_checks
from chromacc_lib.checks_history import history_checks
from chromacc_lib.checks_inputs import data_checks, take
from chromacc_lib.checks_labels import information_left, label_checks
from chromacc_lib.checks_model import SAME, model_checks
from chromacc_lib.checks_predictions import prediction_checks
from chromacc_lib.checks_scores import score_checks
from chromacc_lib.dataset import Arrays
from chromacc_lib.tables import prepare

__all__ = ["CAUSES", "Cause", "Check", "Diagnosis", "auc_half_width", "diagnose", "plant_predecessor_failure",
           "quadrant_table", "variance_table"]


@dataclass(frozen=True)
class Diagnosis:
    """The verdict (healthy, collapsed, underperforming, cannot tell), its most likely cause and all checks.

    evidence: sentences that speak for `cause`; evidence_against: what speaks against the other causes.
    confidence: high = every cause higher up the list was examined and ruled out; medium = some could not be examined with
    what was given, or another cause holds, too, which the named one does not bring about; low = other causes fit as well
    (`alternatives`) or power is short.
    """

    verdict: str
    cause: str
    confidence: str
    sentence: str
    evidence: tuple[str, ...]
    evidence_against: tuple[str, ...]
    alternatives: tuple[str, ...]
    next_step: str
    simulated: bool | None   # None: not known, since no dataset was given
    checks: tuple[Check, ...]

    def __getitem__(self, name: str) -> Check:
        """Return the check called `name`; raise KeyError naming the checks there are."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check is called {name!r}; there are: {', '.join(c.name for c in self.checks)}")

    def table(self) -> pd.DataFrame:
        """Return one row a check: group, name, verdict, value, rule, sentence."""
        columns = ["group", "name", "verdict", "value", "rule", "sentence"]
        return pd.DataFrame([{c: getattr(check, c) for c in columns} for check in self.checks], columns=columns)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the diagnosis as JSON (numbers that are not finite become null); write it whole to `path` if given."""
        text = json.dumps(_plain(asdict(self)), indent=2, allow_nan=False)
        if path is not None:
            temporary = Path(f"{path}.partial")
            temporary.write_text(text + "\n")
            os.replace(temporary, path)
        return text


def _plain(value: Any) -> Any:
    """Turn numpy and non-finite numbers, arrays, tables and tuples into what JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("list"))
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def diagnose(predictions: pd.DataFrame, *, arrays: Arrays | None = None, model: Any = None,
             history: pd.DataFrame | None = None, evaluation: dict[str, Any] | None = None,
             seed: int = 1) -> Diagnosis:
    """Run every check that the given objects allow, and name the most likely cause.

    predictions: one row a window and cell type, columns cell_type, window, score (measured; NaN = unknown),
        predicted_score; further columns of predictions.parquet are used where present: label (0, 1; -1 or NaN =
        unknown), predicted_probability (0 to 1), gc, average_score, cell_type_split and window_split (train,
        validation or test).
    arrays: the dataset that the predictions were made for; `window` is then its window index.
    model: the trained network (needs arrays). history: history.csv. evaluation: evaluation_metrics.json.
    Raises ChromaccError when the table is none, a column is missing, occurs twice or holds what it may not, a (cell
    type, window) pair occurs twice, no score is known, or the history or the evaluation lack what is read from them.
    """
    table = prepare(predictions, arrays)
    sample = None if arrays is None else take(arrays, seed)
    checks = [*prediction_checks(table, evaluation), *score_checks(table), *data_checks(arrays, sample, table, seed),
              *label_checks(arrays, sample, table, seed), *generalisation_checks(arrays, table),
              *model_checks(model, arrays, table, history, seed), *history_checks(history, table)]
    changes = next(c for c in checks if c.name == "dead modality").detail.get("rms_change_shuffled", {})
    checks.append(information_left(sample, table, tuple(n for n, change in changes.items() if change < SAME), seed))
    checks.sort(key=lambda check: GROUPS.index(check.group))
    return _decide(tuple(checks), table, None if arrays is None else bool(arrays.simulated))


def _decide(checks: tuple[Check, ...], table: Table, simulated: bool | None) -> Diagnosis:
    """Walk down `CAUSES` and gather the evidence; no cause and a sound association read as healthy."""
    by_name = {check.name: check for check in checks}
    named = next((cause for cause in CAUSES if _holds(cause, by_name)), None)
    if named is None:
        return _without_cause(checks, by_name, table, simulated)
    named = _with_alternatives(named, by_name)
    quoted = [by_name[name] for name in (*named.needs, *named.supports) if name in by_name]
    evidence = tuple(c.sentence for c in quoted if c.verdict in ("fail", "warn"))
    unexamined = _unexamined(CAUSES[:CAUSES.index(next(c for c in CAUSES if c.name == named.name))], by_name)
    others = _also_found(named, by_name)
    confidence = "low" if named.alternatives or named.name == TOO_FEW else \
        "medium" if unexamined or _rivals(named, others) else "high"
    what = "" if named.name == TOO_FEW else f"{named.name}. "
    sentence = f"{named.verdict.capitalize()}: {what}{by_name[named.needs[0]].sentence}"
    if named.alternatives:
        sentence += f" What was given cannot tell this from: {'; '.join(named.alternatives)}."
        sentence += f" {named.separated_by}" if named.separated_by else ""
    if others:
        sentence += f" Also found, further down the list: {'; '.join(others)}."
    return Diagnosis(named.verdict, named.name, confidence, sentence, evidence, _against(named, by_name),
                     named.alternatives, named.next_step, simulated, checks)


def _holds(cause: Cause, by_name: dict[str, Check]) -> bool:
    """Say whether all checks that `cause` needs failed, and none that excludes it is ok."""
    failed = all(name in by_name and by_name[name].verdict == "fail" for name in cause.needs)
    failed = failed and all(by_name[name].verdict == "not run" for name in cause.only_without)
    return failed and not any(name in by_name and by_name[name].verdict == "ok" for name in cause.unless)


def _also_found(named: Cause, by_name: dict[str, Check]) -> list[str]:
    """Return the other causes that hold; beside a collapse, or a turned sign, only faults of the data, since the rest
    follow from it.

    Those that rest on how unseen rows are predicted are left out where these are few or none.
    """
    others = [c for c in CAUSES if c.name != named.name and _holds(c, by_name)]
    if named.name == NO_SIGNAL:  # noise is in no order either
        others = [c for c in others if c.name != WITHIN]
    if named.name in (TOO_FEW, NO_UNSEEN) or any(by_name[name].verdict == "fail" for name in ("power", "unseen rows")):
        others = [c for c in others if c not in ON_UNSEEN]
    if named.verdict == "collapsed" or named.name == TURNED:
        others = [c for c in others if by_name[c.needs[0]].group == "data"
                  and c.needs[0] not in ("power", "cell-type signal")]
    return list(dict.fromkeys(c.name for c in others))


def _rivals(named: Cause, others: list[str]) -> bool:
    """Say whether a cause that holds as well is none that the named one brings about: one of its own group or before."""
    return any(GROUPS.index(c.group) <= GROUPS.index(named.group) for c in CAUSES if c.name in others)


def _with_alternatives(cause: Cause, by_name: dict[str, Check]) -> Cause:
    """Name what the checks at hand cannot tell from the cause.

    Labels without signal beside "learned nothing", unless the label-signal check has ruled them out; noise that was given
    the shape of peaks, or labels from another place, beside labels out of order, all of which look measured and fit nothing;
    a modality that outweighs the others beside dead ones, where nearly all that moves predictions is one modality's.
    """
    if cause.name == WITHIN and cause.needs[0] in ("label signal", "labels of each cell type"):
        placed = by_name["assembly"].verdict == "ok"
        return replace(cause, alternatives=(NO_SIGNAL, *(() if placed else (ASSEMBLY, SHIFTED))), separated_by="Join the "
                       "labels to the windows again by chromosome, start and cell type: those out of order then fit. If not, "
                       "make them anew from the file" + ("." if placed else ", whose assembly is to be compared."))  # fmt: skip
    if cause.name == "a modality is dead" and by_name["dominating modality"].verdict in ("warn", "fail"):
        return replace(cause, alternatives=("a modality dominates",), separated_by="Train again with modalities dropped at "
                       "random: one that was outweighed comes back, one that is cut off stays silent.")  # fmt: skip
    if cause.name not in (NOTHING_LEARNED, "constant output") or by_name["label signal"].verdict in ("ok", "warn"):
        return cause
    others = (NO_SIGNAL, "a fault of the model or its training", *cause.alternatives)
    if by_name["labels agree between cell types"].verdict == "ok":  # then they are no noise, if perhaps out of order
        others = ("a fault of the model or its training", *cause.alternatives, WITHIN)
    return replace(cause, alternatives=tuple(n for n in dict.fromkeys(others) if n != NO_SIGNAL or n in others[:1]),
                   separated_by=cause.separated_by or GIVE_DATASET)


def _unexamined(causes: tuple[Cause, ...], by_name: dict[str, Check]) -> list[str]:
    """Return the names of the causes whose checks were not run."""
    return [c.name for c in causes if any(by_name[name].verdict == "not run" for name in c.needs)]


def _against(named: Cause, by_name: dict[str, Check]) -> tuple[str, ...]:
    """Return 'Not <other cause>: <sentence>' for every other cause that a check has ruled out."""
    seen, out = {*named.needs, named.name}, []
    for cause in CAUSES:
        ruled_out = [n for n in cause.needs if by_name[n].verdict == "ok" and n not in seen]
        if cause.name not in seen and ruled_out:
            seen |= {ruled_out[0], cause.name}
            out.append(f"Not '{cause.name}': {by_name[ruled_out[0]].sentence}")
    return tuple(out)


def _without_cause(checks: tuple[Check, ...], by_name: dict[str, Check], table: Table,
                   simulated: bool | None) -> Diagnosis:
    """Build the diagnosis when no cause holds: healthy, or weak for a reason that was not found."""
    nobody = Cause("", "model", "healthy", (), "Read the evaluation for how good the predictions are, and against what.")
    failed, warned = ([check.name for check in checks if check.verdict == verdict] for verdict in ("fail", "warn"))
    ran = sum(check.verdict != "not run" for check in checks)
    unexamined = _unexamined(CAUSES, by_name)
    association = by_name["association"]
    if association.verdict == "ok":
        alone = f"{', '.join(failed)} failed, but not what would make it a cause" if failed else "no check failed"
        sentence = f"Healthy: of {ran} checks that were run, {alone}. {association.sentence}"
        cause, verdict, step = "", "healthy", nobody.next_step
    else:
        cause, verdict = "no cause found", "underperforming"
        sentence = f"Underperforming, and none of the {ran} checks that were run names why. {association.sentence}"
        step = "Give what was not given (dataset, model, history), and compare with the baselines of the evaluation."
    if warned:
        sentence += f" Worth a look: {', '.join(warned)}."
    confidence = "low" if verdict != "healthy" else \
        "medium" if unexamined or failed or by_name["power"].verdict != "ok" else "high"
    return Diagnosis(verdict, cause, confidence, sentence, (association.sentence,), _against(nobody, by_name), (),
                     step, simulated, checks)




# --- the failure of the predecessor, planted -----------------------------------------------------------------

PREDECESSOR_WINDOWS = {"train": 318, "validation": 68, "test": 69}


def plant_predecessor_failure(arrays: Arrays, seed: int = 1) -> tuple[pd.DataFrame, Arrays]:
    """Return predictions and a dataset that fail as the predecessor of this project did, for demonstration.

    Windows: 318 / 68 / 69 of the given dataset, or as many as it has in these proportions. Planted: scores drawn
    from N(0.5, 0.2) and clipped to [0, 1], independent of every input; label = score above 0.5; all N in four of five
    windows; predictions near constant (mean 0.51, standard deviation 0.02). Signals and metadata stay as they are.
    """
    rng, wanted = np.random.default_rng(seed), sum(PREDECESSOR_WINDOWS.values())
    share = min(1.0, len(arrays.windows) / wanted)
    split = np.repeat(list(PREDECESSOR_WINDOWS), [int(share * n) for n in PREDECESSOR_WINDOWS.values()])
    n_windows = len(split)
    chosen = np.sort(rng.choice(len(arrays.windows), n_windows, replace=False))
    windows = arrays.windows.iloc[chosen].reset_index(drop=True).assign(split=rng.permutation(split))
    sequence = arrays.sequence[chosen].copy()
    sequence[rng.permutation(n_windows)[:round(0.8 * n_windows)]] = 4
    score = np.clip(rng.normal(0.5, 0.2, (n_windows, len(arrays.cell_types))), 0, 1).astype(np.float32)
    flat_profile = np.repeat(score[:, :, None], arrays.accessibility.shape[2], axis=2)
    planted = replace(
        arrays, sequence=sequence, score=score, accessibility=flat_profile, label=(score > 0.5).astype(np.int8),
        histone=arrays.histone[chosen], histone_observed=arrays.histone_observed[chosen], tf=arrays.tf[chosen],
        tf_observed=arrays.tf_observed[chosen], windows=windows, truth=None, score_replicate=None)
    return _near_constant(planted, rng), planted


def _near_constant(arrays: Arrays, rng: np.random.Generator) -> pd.DataFrame:
    """Return a predictions table for the dataset whose predictions are 0.51 +- 0.02 and know nothing."""
    n_windows, n_cells = arrays.score.shape
    cells, windows = arrays.cell_types, arrays.windows
    predicted = rng.normal(0.51, 0.02, n_windows * n_cells)
    return pd.DataFrame({
        "cell_type": np.repeat(cells["cell_type"].to_numpy(), n_windows),
        "cell_type_split": np.repeat(cells["split"].to_numpy(), n_windows),
        "window": np.tile(np.arange(n_windows), n_cells), "chrom": np.tile(windows["chrom"].to_numpy(), n_cells),
        "window_split": np.tile(windows["split"].to_numpy(), n_cells), "gc": np.tile(windows["gc"], n_cells),
        "score": arrays.score.T.ravel(), "label": arrays.label.T.ravel(), "predicted_score": predicted,
        "predicted_probability": np.clip(predicted, 0, 1)})
