"""Two or more runs side by side: on the rows that all of them predicted and none was fitted on, paired.

Rows are the same when cell type and place (chrom, start, end; 0-based half-open) are. Only rows that are unseen cell
type x unseen chromosome in every run count, and their measured scores and labels have to be the same: what is compared
is predictions of one truth. Differences are taken under the same resamplings of cell types and chromosome blocks
(`intervals`), so that what is hard for all cancels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from chromacc_lib import ChromaccError, project_path
from chromacc_lib import intervals as iv
from chromacc_lib.evaluation import HEADLINE, check_predictions, chromosome_blocks, quadrant_rows
from chromacc_lib.pages import read_json
from chromacc_lib.provenance import shown_path
from chromacc_lib.wording import count, estimate, side

__all__ = ["Comparison", "Run", "compare_runs", "comparison_table", "differing", "read_run"]

KEY = ["cell_type", "chrom", "start", "end"]
FOLDERS = ("run_dir", "dataset_dir", "raw_dir")  # parameters that differ between any two runs
SAME = {"rtol": 1e-4, "atol": 1e-5}  # two curations of the same files on two machines
# metric -> the scale of its interval, and of the interval of a difference
METRICS = {
    "skill": (iv.SKILL, iv.REAL), "mse": (iv.POSITIVE, iv.REAL),
    "pearson": (iv.CORRELATION, iv.DIFFERENCE_OF_CORRELATIONS), "spearman": (iv.CORRELATION, iv.DIFFERENCE_OF_CORRELATIONS),
    "roc_auc": (iv.SHARE, iv.DIFFERENCE), "pr_auc": (iv.SHARE, iv.DIFFERENCE),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What a finished run left that can be compared."""

    name: str
    folder: Path
    record: dict  # run.json
    rows: pd.DataFrame  # the headline's rows of predictions.parquet
    training_cell_types: frozenset[str]
    metrics: dict  # evaluation_metrics.json
    diagnosis: dict | None  # collapse_diagnostics.json
    curation: dict | None  # curation.json of its dataset, where that is still there

    @property
    def not_done(self) -> list[str]:
        """The stages that are not done, such as 03_evaluation (outdated)."""
        return [f"{name} ({entry['state']})" for name, entry in sorted(self.record["stages"].items())
                if entry["state"] != "done"]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; the first is the one that the others are compared with."""

    runs: tuple[Run, ...]
    sizes: dict[str, int]  # rows, cell_types, blocks that all runs share, labelled_rows
    entries: dict[str, dict]  # {run: {metric: {"value", "low", "high", "difference"}, "skill_over_first", p, ...}}
    per_cell_type: dict[str, dict[str, dict]]  # {cell type: entries}
    verdicts: dict[str, str]  # {run: a sentence}, without the first
    notes: list[str]
    draw: dict[str, int]  # block_bp, n_bootstrap, seed

    @property
    def first(self) -> Run:
        """The run that the others are compared with."""
        return self.runs[0]


def read_run(folder: Path) -> Run:
    """Read what a finished run left. Raises ChromaccError when something is missing or damaged, by name."""
    found = {name: read_json(folder / f"{name}.json") for name in ("run", "evaluation_metrics", "collapse_diagnostics")}
    if found["run"] is None:
        raise ChromaccError(f"{folder}: no run.json there, so it is no run's folder. Give one such as reports/pilot")
    table = folder / "predictions.parquet"
    if found["evaluation_metrics"] is None or not table.is_file():
        lost = [name for name in ("evaluation_metrics.json", table.name) if not (folder / name).is_file()]
        raise ChromaccError(f"{folder}: {' and '.join(lost)} missing: the run has to be evaluated before it is compared: "
                            f"chromacc run {found['run'].get('profile') or 'PROFILE'} --run-id {folder.name} --until 03")  # fmt: skip
    predictions = pd.read_parquet(table)
    try:
        check_predictions(predictions)
        rows = quadrant_rows(predictions, HEADLINE)
    except ChromaccError as error:
        raise ChromaccError(f"{table}: {error}") from error
    dataset_dir = found["run"].get("parameters", {}).get("dataset_dir")
    train = predictions.loc[predictions["cell_type_split"] == "train", "cell_type"]
    return Run(
        str(found["run"].get("run_id") or folder.name), folder, found["run"], rows, frozenset(train),
        found["evaluation_metrics"], found["collapse_diagnostics"],
        read_json(project_path(dataset_dir) / "curation.json") if dataset_dir else None,
    )  # fmt: skip


def compare_runs(folders: Sequence[Path], n_bootstrap: int = 1000, block_bp: int = 250_000, seed: int = 1) -> Comparison:
    """Compare the runs in some folders, each with the first one.

    Raises ChromaccError for fewer than two folders or one given twice, and when the runs cannot be paired: simulated
    and real data, no row held out by all, or other measured scores or labels in the rows that are.
    """
    folders = [Path(folder).resolve() for folder in folders]
    twice = sorted({shown_path(folder) for folder in folders if folders.count(folder) > 1})
    if len(folders) < 2 or twice:
        got = f"{', '.join(twice)} given twice" if twice else f"got {count(len(folders), 'run')}"
        raise ChromaccError(f"compare: {got}; needed: the folders of two or more runs, such as reports/pilot reports/deeper")
    runs = _named([read_run(folder) for folder in folders])
    tables = _pair(runs)
    draw = {"block_bp": block_bp, "n_bootstrap": n_bootstrap, "seed": seed}
    blocks = chromosome_blocks(tables[0], block_bp)
    plan = iv.resampling(tables[0]["cell_type"].to_numpy(), blocks, n_bootstrap, seed)
    entries = dict(zip((run.name for run in runs), _entries(tables, plan), strict=True))
    _adjust(list(entries.values())[1:])
    per_cell_type = {}
    for cell_type in sorted(tables[0]["cell_type"].unique()):
        some = (tables[0]["cell_type"] == cell_type).to_numpy()
        of_cell = [table[some] for table in tables]
        one = iv.resampling(of_cell[0]["cell_type"].to_numpy(), blocks[some], n_bootstrap, seed)
        per_cell_type[str(cell_type)] = dict(zip(entries, _entries(of_cell, one), strict=True))
    sizes = {"rows": len(tables[0]), "cell_types": plan.n_cells, "blocks": plan.n_blocks,
             "labelled_rows": int((tables[0]["label"] >= 0).sum())}  # fmt: skip
    verdicts = {run.name: _verdict(run.name, runs[0].name, entries[run.name]) for run in runs[1:]}
    return Comparison(tuple(runs), sizes, entries, per_cell_type, verdicts, _notes(runs, tables), draw)


def _named(runs: Sequence[Run]) -> list[Run]:
    """Return the runs, those of one name by their folders."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else Run(**vars(run) | {"name": shown_path(run.folder)}) for run in runs]


# --- pairing -------------------------------------------------------------------------------------------------


def _pair(runs: Sequence[Run]) -> list[pd.DataFrame]:
    """Return the rows that all runs held out, in one order: a table a run. Raises ChromaccError when they do not pair."""
    words = {run.name: "simulated" if run.metrics["simulated"] else "real" for run in runs}
    if len(set(words.values())) > 1:
        raise ChromaccError(f"compare: simulated and real data cannot be compared: {_each(words)}")
    shared = pd.MultiIndex.from_frame(runs[0].rows[KEY])
    for run in runs[1:]:
        shared = shared.intersection(pd.MultiIndex.from_frame(run.rows[KEY]), sort=False)
    if not len(shared):
        raise ChromaccError(
            "compare: the runs share no row that all of them held out (unseen cell type x unseen chromosome): "
            + _each({run.name: _held_out(run.rows) for run in runs})
            + "; curate one dataset, or set the same test_cell_types, test_chromosomes, window_bp and window_placement"
        )
    tables = [run.rows.set_index(KEY).loc[shared].reset_index() for run in runs]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        for column, what in (("score", "measured scores"), ("label", "labels")):
            _require_same(runs[0], run, tables[0], table, column, what)
    return tables


def _require_same(first: Run, run: Run, a: pd.DataFrame, b: pd.DataFrame, column: str, what: str) -> None:
    """Raise ChromaccError unless two runs were measured against the same values in their shared rows."""
    bad = ~np.isclose(a[column].to_numpy(np.float64), b[column].to_numpy(np.float64), **SAME)
    if not bad.any():
        return
    row, other = a[bad].iloc[0], b[bad].iloc[0]
    curated = [(r.curation or {}).get("parameters", {}) for r in (first, run)]
    differ = differing({first.name: curated[0], run.name: curated[1]})
    why = f"; their datasets were curated with other {', '.join(differ)}" if differ else ""
    raise ChromaccError(
        f"compare: {first.name} and {run.name} were evaluated on other {what}: they differ in {int(bad.sum()):,} of "
        f"{len(bad):,} shared rows, first in {row['cell_type']} {row['chrom']}:{row['start']}-{row['end']}, "
        f"{row[column]:.4g} and {other[column]:.4g}{why}; evaluate both on one dataset (dataset_dir)"
    )


def _held_out(rows: pd.DataFrame) -> str:
    """Say what a run held out."""
    cells, chromosomes = (sorted(map(str, rows[c].unique())) for c in ("cell_type", "chrom"))
    lengths = sorted(set(rows["end"] - rows["start"]))
    return f"{', '.join(cells)} on {', '.join(chromosomes)} in windows of {', '.join(map(str, lengths))} bp"


def _each(of: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in of.items())


def _notes(runs: Sequence[Run], tables: Sequence[pd.DataFrame]) -> list[str]:
    """Return what a reader has to know of the pairing: rows that are not shared, other training cell types, old results."""
    notes = []
    for run, table in zip(runs, tables, strict=True):
        if len(table) < len(run.rows):
            notes.append(f"{run.name} held out {len(run.rows):,} rows, of which {len(table):,} are shared by all.")
        if run.not_done:
            notes.append(f"{run.name} is not up to date: {', '.join(run.not_done)}.")
        other = sorted(map(str, run.training_cell_types ^ runs[0].training_cell_types))
        if other:
            notes.append(f"{run.name} and {runs[0].name} were not trained on the same cell types; one of them alone on "
                         f"{', '.join(other)}.")  # fmt: skip
        averages = [t["average_score"].to_numpy(np.float64) for t in (tables[0], table)]
        if not np.allclose(*averages, **SAME):
            notes.append(f"The locus averages of {run.name} and {runs[0].name} differ: skill over the average is each "
                         "run's over its own; what one is ahead of the other does not depend on it.")  # fmt: skip
    return notes


# --- numbers -------------------------------------------------------------------------------------------------


def _entries(tables: Sequence[pd.DataFrame], plan: iv.Resampling) -> list[dict]:
    """Return for each run its metrics with intervals, and what it is ahead of the first, under the same weightings.

    difference: run - first run. skill_over_first: 1 - MSE(run) / MSE(first); skill_over_first_p and pr_auc_p: two-sided,
    of no difference. equal: whether the two predict the very same.
    """
    reached = [_reached(table, plan) for table in tables]
    known = plan.take((tables[0]["label"] >= 0).to_numpy())
    measured, first = (tables[0][c].to_numpy(np.float64) for c in ("score", "predicted_score"))
    entries = []
    for table, values in zip(tables, reached, strict=True):
        entry: dict[str, object] = {}
        for name, (scale, of_difference) in METRICS.items():
            if name in values:
                of = known if name in ("roc_auc", "pr_auc") else plan
                difference = values[name] - reached[0][name]
                entry[name] = iv.interval(values[name], of, scale) | {
                    "difference": iv.interval(difference, of, of_difference)}  # fmt: skip
                if name == "pr_auc":
                    entry["pr_auc_p"] = iv.p_value(difference, of)
        ahead = iv.skill(plan, measured, table["predicted_score"].to_numpy(np.float64), first)
        columns = ["predicted_score", "predicted_probability"]
        entries.append(entry | {
            "skill_over_first": iv.skill_interval(ahead, plan), "skill_over_first_p": iv.p_value(ahead, plan, iv.SKILL),
            "equal": bool((table[columns].to_numpy() == tables[0][columns].to_numpy()).all()),
        })  # fmt: skip
    return entries


def _reached(table: pd.DataFrame, plan: iv.Resampling) -> dict[str, np.ndarray]:
    """Return the metrics of a run under every weighting, shape=(R,) each; AUROC and AUPRC where labels are of both classes."""
    measured, predicted, average = (table[c].to_numpy(np.float64) for c in ("score", "predicted_score", "average_score"))
    values = {"skill": iv.skill(plan, measured, predicted, average), "mse": iv.mse(plan, measured, predicted),
              "pearson": iv.pearson(plan, measured, predicted), "spearman": iv.spearman(plan, measured, predicted)}  # fmt: skip
    label = table["label"].to_numpy()
    known = label >= 0
    if len(np.unique(label[known])) == 2:
        probability = table["predicted_probability"].to_numpy(np.float64)
        values["roc_auc"], values["pr_auc"] = iv.ranking(plan.take(known), label[known], probability[known])
    return values


def _adjust(entries: Sequence[dict]) -> None:
    """Add p_adjusted beside each p, over the runs that are compared with the first (Benjamini & Hochberg 1995)."""
    for name in ("skill_over_first_p", "pr_auc_p"):
        known = [entry for entry in entries if np.isfinite(entry.get(name, np.nan))]
        adjusted = stats.false_discovery_control([entry[name] for entry in known]) if known else ()
        for entry, p in zip(known, adjusted, strict=True):
            entry[f"{name}_adjusted"] = float(p)


def _verdict(name: str, first: str, entry: dict) -> str:
    """Say whether a run is better than the first one, by error and by ranking."""
    if entry["equal"]:
        return f"{name} predicts exactly what {first} predicts."
    words = {1: "is better than", -1: "is worse than", 0: "cannot be told from", None: "cannot be told from"}
    ahead = entry["skill_over_first"]
    text = f"{name} {words[side(ahead)]} {first} by error: skill over it {estimate(ahead, what='95% interval ')}."
    if "pr_auc" in entry:
        gain = entry["pr_auc"]["difference"]
        ranks = {1: "better", -1: "worse", 0: "not tellably better or worse", None: "not tellably better or worse"}
        text += f" It ranks open windows {ranks[side(gain)]}: AUPRC {estimate(gain)}."
    return text


# --- tables --------------------------------------------------------------------------------------------------


def differing(of: Mapping[str, Mapping]) -> dict[str, list]:
    """Return what is not the same in all: {name: its values, in the order of `of`}; None where one lacks it."""
    names = dict.fromkeys(name for values in of.values() for name in values)
    rows = {name: [values.get(name) for values in of.values()] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def comparison_table(comparison: Comparison) -> pd.DataFrame:
    """Return every number as one row: run, compared_with, cell_type ("" = all), metric, value, low, high, difference..., p."""
    rows = []
    everything = {"": comparison.entries} | comparison.per_cell_type
    for cell_type, entries in everything.items():
        for name, entry in entries.items():
            who = {"run": name, "compared_with": comparison.first.name, "cell_type": cell_type}
            for metric in [m for m in METRICS if m in entry]:
                value, difference = entry[metric], entry[metric]["difference"]
                p = {"p": entry["pr_auc_p"], "p_adjusted": entry.get("pr_auc_p_adjusted")} if metric == "pr_auc" else {}
                rows.append(who | {"metric": metric} | {end: value[end] for end in ("value", "low", "high")}
                            | {"difference": difference["value"], "difference_low": difference["low"],
                               "difference_high": difference["high"]} | p)  # fmt: skip
            rows.append(who | {"metric": "skill_over_first"} | entry["skill_over_first"]
                        | {"p": entry["skill_over_first_p"], "p_adjusted": entry.get("skill_over_first_p_adjusted")})  # fmt: skip
    columns = ["run", "compared_with", "cell_type", "metric", "value", "low", "high", "difference", "difference_low",
               "difference_high", "p", "p_adjusted"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)
