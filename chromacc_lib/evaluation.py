"""Evaluation against the training-cell-type average: skill, metrics, three correlations, ceiling, verdict.

On accessibility the average of the training cell types at a locus is so strong that in the ENCODE Imputation
Challenge no entry beat it on every measure (Schreiber et al. 2023, Genome Biol. 24:79). So the headline is skill over
this average on unseen cell types x unseen chromosomes, and every baseline is compared on the same rows, paired.

Everything here is a pure function of the predictions table (one row a window x cell type; columns in `COLUMNS`).
Scores are arcsinh(fold over the genome-wide mean); labels are 1 = overlaps a peak, 0 = does not, -1 = no peaks known.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics as sk

from chromacc_lib import ChromaccError
from chromacc_lib import intervals as iv
from chromacc_lib.calibration import Plan, measure_coverage, measure_recalibration, validation_rows
from chromacc_lib.ceiling import ceiling, replicate_table
from chromacc_lib.comparison import (
    Ranking,
    baseline_metrics,
    correlations,
    rankings,
    ranks_by,
    residual,
    score_columns,
)
from chromacc_lib.dataset import write_table
from chromacc_lib.regions import write_durably
from chromacc_lib.strata import Stratum, specific_windows, strata
from chromacc_lib.wording import cluster_note, verdict

__all__ = [
    "COLUMNS", "HEADLINE", "QUADRANTS", "check_predictions", "choose_threshold", "chromosome_blocks", "compare",
    "evaluate", "metrics", "quadrant_rows", "replicate_table", "specific_windows", "write_metrics", "write_table",
]

COLUMNS = (
    "cell_type", "cell_type_split", "window", "chrom", "start", "end", "window_split", "kind", "gc", "score", "label",
    "predicted_score", "predicted_probability", "average_score", "average_label", "truth",
)
# name -> (cell type split, window split). Seen = fitted on. Validation rows serve the threshold and calibration alone.
QUADRANTS: dict[str, tuple[str, str]] = {
    "seen_cell_type_x_seen_chromosome": ("train", "train"),
    "seen_cell_type_x_unseen_chromosome": ("train", "test"),
    "unseen_cell_type_x_seen_chromosome": ("test", "train"),
    "unseen_cell_type_x_unseen_chromosome": ("test", "test"),
}
HEADLINE = "unseen_cell_type_x_unseen_chromosome"
CALLED = ("accuracy", "precision", "recall", "f1")  # of windows called open; undefined without a threshold
P_VALUE_NOTE = "pearson_p and spearman_p take every window for independent and are far too small; read the intervals"


# --- reading and checking ------------------------------------------------------------------------------------


def check_predictions(predictions: pd.DataFrame) -> None:
    """Raise ChromaccError unless every column is there, one row a window x cell type, and no prediction is missing."""
    lost = [name for name in COLUMNS if name not in predictions]
    if lost:
        raise ChromaccError(f"predictions table: columns {lost} are missing; it has {list(predictions.columns)}")
    twice = predictions.duplicated(["cell_type", "window"])
    if twice.any():
        first = predictions[twice].iloc[0]
        raise ChromaccError(
            f"predictions table: {int(twice.sum())} rows repeat a window x cell type, first window {first['window']} "
            f"of {first['cell_type']}; needed: one row each; write the table again with inference.predict_dataset"
        )
    for name in ("predicted_score", "predicted_probability"):
        bad = ~np.isfinite(predictions[name].to_numpy(np.float64))
        if bad.any():
            first = predictions[bad].iloc[0]
            raise ChromaccError(
                f"predictions table: {name} is NaN or infinite in {int(bad.sum())} of {len(bad)} rows, first in window "
                f"{first['window']} of {first['cell_type']}; the model diverged or its input is NaN: train again "
                "with a lower learning rate, and look at the signals of this cell type"
            )
    known = predictions["label"].isin((-1, 0, 1))
    if not known.all():
        got = predictions.loc[~known, "label"].unique()[:5].tolist()
        raise ChromaccError(f"predictions table: label must be 1, 0, or -1 (no peaks known); got {got}")


def quadrant_rows(predictions: pd.DataFrame, quadrant: str) -> pd.DataFrame:
    """Return the rows of one of `QUADRANTS` that have a measured score and an average to compare with.

    Raises ChromaccError when nothing is left, and when a cell type of the quadrant has no such window.
    """
    cell_split, window_split = QUADRANTS[quadrant]
    rows = predictions[(predictions["cell_type_split"] == cell_split) & (predictions["window_split"] == window_split)]
    usable = rows[np.isfinite(rows["score"]) & np.isfinite(rows["average_score"])]
    if usable.empty:
        raise ChromaccError(
            f"evaluation: no rows in {quadrant} (cell_type_split {cell_split!r}, window_split {window_split!r}): "
            f"{len(rows)} predicted, 0 of them with a measured score and a training average; hold out cell types and "
            "chromosomes with known accessibility in 01_data_curation"
        )
    of_split = predictions.loc[predictions["cell_type_split"] == cell_split, "cell_type"]
    empty = sorted(set(of_split) - set(usable["cell_type"]))
    if empty:
        raise ChromaccError(
            f"evaluation: cell types {empty} have no window with a measured score in {quadrant}; give them an "
            "accessibility_signal on these chromosomes, or leave them out of the manifest"
        )
    return usable


def choose_threshold(predictions: pd.DataFrame) -> tuple[float, str]:
    """Return the probability above or at which a window is called open, and a sentence that says where it is from.

    It maximises F1 on validation cell types x validation chromosomes; where there are no validation cell types, on
    training cell types x validation chromosomes. NaN when these rows lack one of the classes: the sentence says so.
    """
    rows, where = validation_rows(predictions)
    rows = rows[rows["label"] >= 0]
    label = rows["label"].to_numpy()
    if len(np.unique(label)) < 2:
        return np.nan, f"undefined, because {where} have {_classes(label)}: nothing tells where to call a window open"
    precision, recall, thresholds = sk.precision_recall_curve(label, rows["predicted_probability"])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])]), f"highest F1 on {where}, {len(rows):,} rows"


def _require_both_classes(label: np.ndarray, where: str) -> None:
    """Raise ChromaccError unless labels 0 and 1 both occur."""
    if len(np.unique(label)) < 2:
        raise ChromaccError(
            f"evaluation: {where}: got {_classes(label)}; AUROC, AUPRC and F1 need windows labelled 0 and windows "
            "labelled 1; "
            "hold out more or larger chromosomes, or check the accessibility_peaks files of these cell types"
        )


def _classes(label: np.ndarray) -> str:
    """Say which class the labels are of that lack one."""
    return f"{len(label):,} windows, all labelled {int(label[0])}" if len(label) else "0 windows with a label"


# --- metrics -------------------------------------------------------------------------------------------------


def metrics(
    measured: np.ndarray, predicted: np.ndarray, label: np.ndarray, probability: np.ndarray, threshold: float,
    where: str = "these rows",
) -> dict[str, float]:
    """Return every metric as one number (scikit-learn, scipy); arrays shape=(n,).

    measured, predicted: score and predicted score. label: 0, 1, or -1 (row left out of the label metrics; NaN when all
    are). probability: of being open; `threshold`: called open at or above it (NaN: what needs it is NaN). Correlations
    are NaN where the prediction is constant. Raises ChromaccError for NaN scores, for no rows, and for labels of one
    class only.
    """
    measured, predicted = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    for name, values in (("measured scores", measured), ("predicted scores", predicted)):
        bad = int((~np.isfinite(values)).sum())
        if bad or not len(values):
            raise ChromaccError(
                f"evaluation: {where}: {bad} of {len(values)} {name} are NaN or infinite; needed: at least one row and "
                "none of them; leave rows without a measured score out first (evaluation.quadrant_rows does)"
            )
    spread = [float(np.std(predicted)), float(np.std(measured))]
    varies = min(spread) > 1e-9 * max(1.0, np.abs(predicted).max()) and len(measured) > 2
    (r, p), (rho, rho_p) = (
        (stats.pearsonr(measured, predicted), stats.spearmanr(measured, predicted)) if varies else ((np.nan,) * 2,) * 2
    )
    result = {
        "mse": sk.mean_squared_error(measured, predicted), "pearson": r, "pearson_p": p, "spearman": rho,
        "spearman_p": rho_p, "prediction_std": spread[0], "label_std": spread[1],
        "std_ratio": spread[0] / spread[1] if spread[1] > 0 else np.nan,
    }
    result |= _label_metrics(np.asarray(label), np.asarray(probability, np.float64), threshold, where)
    return {name: float(value) for name, value in result.items()}


def _label_metrics(label: np.ndarray, probability: np.ndarray, threshold: float, where: str) -> dict[str, float]:
    """Return the metrics of open or not, from rows with a known label; all NaN when no label is known."""
    names = ("roc_auc", "pr_auc", *CALLED, "base_rate")
    known = label >= 0
    if not known.any():
        return dict.fromkeys(names, np.nan)
    label, probability = label[known], probability[known]
    _require_both_classes(label, where)
    called = probability >= threshold
    values = (
        sk.roc_auc_score(label, probability), sk.average_precision_score(label, probability),
        sk.accuracy_score(label, called), sk.precision_score(label, called, zero_division=0),
        sk.recall_score(label, called), sk.f1_score(label, called, zero_division=0), label.mean(),
    )
    undefined = dict.fromkeys(CALLED, np.nan) if np.isnan(threshold) else {}
    return dict(zip(names, values, strict=True)) | undefined


# --- metrics with intervals ----------------------------------------------------------------------------------


def chromosome_blocks(rows: pd.DataFrame, block_bp: int) -> np.ndarray:
    """Return the chromosome block of each row, as text `chrom:number`; rows: chrom, start (bp).

    Blocks of equal length are joined from the left while they have fewer than half the windows of the median one, and
    what is left at a chromosome's end joins the last: a rest of a few windows is no cluster of its own.
    """
    number = (rows["start"] // block_bp).rename("number")
    windows = pd.concat([rows["chrom"].astype(str), number, rows["start"]], axis=1).drop_duplicates()
    sizes = windows.groupby(["chrom", "number"]).size()
    fewest, joined = sizes.median() / 2, {}
    for chrom, of_chrom in sizes.groupby(level="chrom"):
        block, n_windows = 0, 0
        for (_, place), size in of_chrom.items():
            joined[chrom, place] = block
            n_windows += size
            if n_windows >= fewest:
                block, n_windows = block + 1, 0
        last = max(block - 1, 0)
        joined |= {key: min(joined[key], last) for key in of_chrom.index}
    keys = zip(rows["chrom"].astype(str), number, strict=True)
    return np.array([f"{key[0]}:{joined[key]}" for key in keys])


def _plan(rows: pd.DataFrame, block_bp: int, n_bootstrap: int, seed: int) -> iv.Resampling:
    return iv.resampling(rows["cell_type"].to_numpy(), chromosome_blocks(rows, block_bp), n_bootstrap, seed)


def _model_metrics(
    rows: pd.DataFrame, plan: iv.Resampling, threshold: float, ranked: Mapping[str, Ranking], where: str
) -> dict[str, dict]:
    """Return every metric of the model on these rows as {"value", "low", "high"}, with skill and gain in AUPRC.

    ranked: of `comparison.rankings`, for the column that the average ranks by.
    """
    measured, predicted, average = (rows[c].to_numpy(np.float64) for c in ("score", "predicted_score", "average_score"))
    label, probability = rows["label"].to_numpy(), rows["predicted_probability"].to_numpy(np.float64)
    point = metrics(measured, predicted, label, probability, threshold, where)
    result = {name: {"value": value, "low": np.nan, "high": np.nan} for name, value in point.items()}

    def add(name: str, values: np.ndarray, scale: iv.Scale, of: iv.Resampling = plan) -> None:
        """Add a metric with its interval; of: the weightings of the rows that it is taken from."""
        result[name] = iv.interval(values, of, scale)

    spread = [iv.standard_deviation(plan, v) for v in (predicted, measured)]
    add("mse", iv.mse(plan, measured, predicted), iv.POSITIVE)
    add("prediction_std", spread[0], iv.POSITIVE)
    add("label_std", spread[1], iv.POSITIVE)
    add("std_ratio", spread[0] / np.where(spread[1] > 0, spread[1], np.nan), iv.POSITIVE)
    add("pearson", iv.pearson(plan, measured, predicted), iv.CORRELATION)
    add("spearman", iv.spearman(plan, measured, predicted), iv.CORRELATION)
    result["skill"] = iv.skill_interval(iv.skill(plan, measured, predicted, average), plan)
    cell = rows["cell_type"].to_numpy()
    left = [residual(v, average, cell) for v in (measured, predicted)]
    add("residual_pearson", iv.pearson(plan, *left), iv.CORRELATION)
    known = label >= 0
    if known.any():
        some = plan.take(known)
        for name, values in iv.classification(some, label[known], probability[known] >= threshold).items():
            if name not in CALLED or np.isfinite(threshold):
                add(name, values, iv.SHARE, some)
        roc_auc, pr_auc = iv.ranking(some, label[known], probability[known])
        add("roc_auc", roc_auc, iv.SHARE, some)
        add("pr_auc", pr_auc, iv.SHARE, some)
        average = rows.loc[known, ranks_by(rows[known], "average", ranked).column].to_numpy(np.float64)
        add("pr_auc_gain", pr_auc - iv.ranking(some, label[known], average)[1], iv.DIFFERENCE, some)
    return result


# --- the whole evaluation ------------------------------------------------------------------------------------


def evaluate(
    predictions: pd.DataFrame, baselines: pd.DataFrame, simulated: bool, replicates: pd.DataFrame | None = None,
    n_bootstrap: int = 1000, block_bp: int = 250_000, seed: int = 1, of_windows: Mapping[str, int] | None = None,
) -> dict[str, object]:
    """Return everything of evaluation_metrics.json.

    predictions: columns `COLUMNS`, all windows x cell types; tss_distance and observed_tracks too, where known, for the
    strata. baselines: cell_type, window and one column of scores a baseline, for some NAME_probability too, for the
    same rows (`baselines.fit_predict`). replicates: from `replicate_table`, for the ceiling. block_bp: length of a
    chromosome block, bp; nothing in the data says how long is long enough, so the headline's skill has intervals from
    blocks of 2 and 4 times that length, too. of_windows: how many windows there are in each window split, where the
    predictions are of a sample of them. Raises ChromaccError for bad tables and empty or one-class test sets; what else cannot be told
    (a threshold, a stratum, one cell type's labels) is undefined, in words, and the rest stands.
    """
    check_predictions(predictions)
    table, names = _join(predictions, baselines)
    threshold, source = choose_threshold(table)
    ranked = rankings(table, names)
    draw = {"block_bp": block_bp, "n_bootstrap": n_bootstrap, "seed": seed}
    plan_of = partial(_plan, **draw)
    quadrants, sizes, against = {}, {}, {name: {} for name in names}
    for quadrant in QUADRANTS:
        rows = quadrant_rows(table, quadrant)
        plan = plan_of(rows)
        quadrants[quadrant] = _model_metrics(rows, plan, threshold, ranked, quadrant)
        split = QUADRANTS[quadrant][1]
        n_windows = (of_windows or {}).get(split, table.loc[table["window_split"] == split, "window"].nunique())
        sizes[quadrant] = _sizes(rows, plan, n_windows) | {"rows_without_score": _n_unmeasured(table, quadrant)}
        for name, values in baseline_metrics(rows, plan_of, names, ranked).items():
            against[name][quadrant] = values
    rows = quadrant_rows(table, HEADLINE)
    parts = strata(table, rows)
    varying = rows["window"][parts["varying"].rows].unique() if parts["varying"].rows is not None else np.array([], int)
    result = {
        "simulated": bool(simulated), "threshold": threshold, "threshold_source": source, "confidence": iv.LEVEL,
        "interval_method": iv.METHOD, **draw, "notes": [P_VALUE_NOTE, cluster_note(sizes[HEADLINE])],
        "headline": _headline(quadrants[HEADLINE], sizes[HEADLINE], sorted(rows["cell_type"].unique()))
        | {"by_block_bp": _by_block_length(rows, **draw)},
        "quadrants": quadrants, "sizes": sizes,
        "per_cell_type": _per_cell_type(table, threshold, ranked, plan_of),
        "baselines": against, "baselines_per_cell_type": {
            str(name): baseline_metrics(_with_both_classes(some)[0], plan_of, names, ranked)
            for name, some in rows.groupby("cell_type", sort=True)},
        "correlations": correlations(rows, ["predicted_score", *names], varying, plan_of),
        "ceiling": ceiling(rows, plan_of, replicates),
        "recalibration": measure_recalibration(table, rows, plan_of),
        "conformal": measure_coverage(table, rows, plan_of),
    }
    result["strata"] = {"all_windows": _whole(result)} | {
        name: _stratum(part, rows, name, (names, threshold, ranked), plan_of) for name, part in parts.items()
    }
    result["verdict"] = verdict(result)
    return result


def compare(predictions: pd.DataFrame, others: pd.DataFrame, n_bootstrap: int = 1000, block_bp: int = 250_000,
            seed: int = 1) -> dict[str, dict]:  # fmt: skip
    """Return skill, Pearson, AUPRC and what the model is ahead, with intervals, of further predictors on headline rows.

    others: cell_type, window and one column of scores a predictor; rows of the headline quadrant that it lacks are left
    out for all alike. The model itself comes first, as "all inputs".
    """
    rows = quadrant_rows(predictions, HEADLINE).merge(others, on=["cell_type", "window"], validate="1:1")
    names = ["all inputs", *(c for c in others if c not in ("cell_type", "window"))]
    rows = rows.assign(**{"all inputs": rows["predicted_score"]})
    plan_of = partial(_plan, block_bp=block_bp, n_bootstrap=n_bootstrap, seed=seed)
    return baseline_metrics(rows, plan_of, names, rankings(predictions, names))


def _join(predictions: pd.DataFrame, baselines: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the predictions with every baseline as a column, and the baselines' names, the average first."""
    names = score_columns(baselines)
    clash = sorted(set(baselines) & (set(COLUMNS) - {"cell_type", "window"} | {"average"}))
    if clash:
        raise ChromaccError(f"evaluation: baselines {clash} have the name of a column of the predictions; rename them")
    table = predictions.merge(baselines, on=["cell_type", "window"], how="left", validate="1:1", indicator=True)
    lost = int((table["_merge"] == "left_only").sum())
    if lost:
        raise ChromaccError(
            f"evaluation: the baselines lack {lost:,} of {len(table):,} rows (window x cell type) of the predictions; "
            "they must come from the same dataset: run 03_evaluation again from its start"
        )
    return table.drop(columns="_merge").assign(average=table["average_score"]), ["average", *names]


def _sizes(rows: pd.DataFrame, plan: iv.Resampling, of_windows: int | None = None) -> dict[str, object]:
    """Return how much stands behind the numbers of a set of rows; of_windows: how many there are in all, where said."""
    return {
        "rows": len(rows), "windows": int(rows["window"].nunique()),
        **({} if of_windows is None else {"of_windows": int(of_windows)}),
        "cell_types": plan.n_cells, "blocks": plan.n_blocks,
        "labelled_rows": int((rows["label"] >= 0).sum()), "open_rows": int((rows["label"] == 1).sum()),
    }


def _n_unmeasured(table: pd.DataFrame, quadrant: str) -> int:
    """Return how many rows of a quadrant are left out, because no score was measured or no average is known."""
    cells, windows = QUADRANTS[quadrant]
    rows = table[(table["cell_type_split"] == cells) & (table["window_split"] == windows)]
    return int((~(np.isfinite(rows["score"]) & np.isfinite(rows["average_score"]))).sum())


def _headline(quadrant: dict, size: dict, cell_types: list[str]) -> dict[str, object]:
    names = ("skill", "pr_auc_gain", "mse", "pearson", "roc_auc", "pr_auc", "base_rate", "std_ratio")
    return {"quadrant": HEADLINE, **{name: quadrant[name] for name in names if name in quadrant},
            "cell_types": cell_types, "size": size}


def _by_block_length(rows: pd.DataFrame, block_bp: int, n_bootstrap: int, seed: int) -> list[dict]:
    """Return the skill with intervals from blocks of 1, 2 and 4 times a length: an interval that widens with it stood
    on blocks that are not independent.
    """
    measured, predicted, average = (rows[c].to_numpy(np.float64) for c in ("score", "predicted_score", "average_score"))
    result = []
    for length in (block_bp, 2 * block_bp, 4 * block_bp):
        plan = _plan(rows, length, n_bootstrap, seed)
        skill = iv.skill_interval(iv.skill(plan, measured, predicted, average), plan)
        result.append({"block_bp": length, "blocks": plan.n_blocks, "cell_types": plan.n_cells, "skill": skill})
    return result


def _per_cell_type(table: pd.DataFrame, threshold: float, ranked: Mapping[str, Ranking], plan_of: Plan) -> dict[str, dict]:
    """Return the model's metrics for every training and test cell type, on seen and on unseen chromosomes apart.

    Where its labels are of one class, what needs two is undefined, and `labels` says so.
    """
    result: dict[str, dict] = {}
    for quadrant in QUADRANTS:
        chromosomes = quadrant.split("_x_")[1]
        for name, rows in quadrant_rows(table, quadrant).groupby("cell_type", sort=True):
            rows, note = _with_both_classes(rows)
            where = f"cell type {name}, {chromosomes.replace('_', ' ')}s"
            entry = _model_metrics(rows, plan_of(rows), threshold, ranked, where)
            result.setdefault(str(name), {})[chromosomes] = note | entry
    return result


def _with_both_classes(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the rows, their labels as not known where they are of one class, and {"labels": what that means}."""
    known = rows.loc[rows["label"] >= 0, "label"]
    if known.nunique() != 1:
        return rows, {}
    return rows.assign(label=-1), {
        "labels": f"all {len(known):,} rows with a label are {'open' if known.iloc[0] else 'closed'}: AUROC, AUPRC, F1 "
                  "and what else needs both are undefined here"
    }


def _whole(result: dict) -> dict[str, object]:
    """Return the headline quadrant as the stratum of all windows, to compare the others with."""
    against = {name: values[HEADLINE] for name, values in result["baselines"].items()}
    return {"rule": "all windows of unseen chromosomes in unseen cell types", "quadrant": HEADLINE,
            "sizes": result["sizes"][HEADLINE], "model": result["quadrants"][HEADLINE], "baselines": against}


def _stratum(
    part: Stratum, rows: pd.DataFrame, name: str, by: tuple[Sequence[str], float, Mapping[str, Ranking]], plan_of: Plan
) -> dict[str, object]:
    """Return the model's and the baselines' metrics on a stratum of the headline rows, or {"rule", "undefined"}.

    by: names of the baselines, threshold, what ranks. Where the labels are of one class, what needs two is undefined,
    and `labels` says so.
    """
    if part.rows is None:
        return {"rule": part.rule, "undefined": part.undefined}
    names, threshold, ranked = by
    rows, plan = rows[part.rows], plan_of(rows[part.rows])
    entry = {"rule": part.rule, "quadrant": HEADLINE, "sizes": _sizes(rows, plan)}
    rows, note = _with_both_classes(rows)
    return entry | note | {
        "model": _model_metrics(rows, plan, threshold, ranked, f"stratum {name}, {HEADLINE}"),
        "baselines": baseline_metrics(rows, plan_of, names, ranked),
    }


# --- the file ------------------------------------------------------------------------------------------------


def write_metrics(result: dict, path: Path) -> None:
    """Write the evaluation as JSON, whole or not at all; NaN (undefined) becomes null."""
    write_durably(Path(path), json.dumps(_plain(result), indent=1, allow_nan=False))


def _plain(value: object) -> object:
    """Return value with numpy numbers as Python's and NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
