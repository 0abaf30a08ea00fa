"""Evaluation against the training-cell-type average: skill, metrics, three correlations, ceiling, verdict.

On accessibility the average of the training cell types at a locus is so strong that in the ENCODE Imputation
Challenge no entry beat it on every measure (Schreiber et al. 2023, Genome Biol. 24:79). So the headline is skill over
this average on unseen cell types x unseen chromosomes, and every baseline is compared on the same rows, paired.

Everything here is a pure function of the predictions table (one row a window x cell type; columns in `COLUMNS`).
Scores are arcsinh(fold over the genome-wide mean); labels are 1 = overlaps a peak, 0 = does not, -1 = no peaks known.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics as sk

from chromacc_lib import ChromaccError
from chromacc_lib import intervals as iv
from chromacc_lib.calibration import measure_coverage, measure_recalibration, reliability, validation_rows
from chromacc_lib.dataset import write_table
from chromacc_lib.regions import write_durably
from chromacc_lib.strata import specific_windows, strata
from chromacc_lib.wording import cluster_note, verdict

__all__ = [
    "COLUMNS", "HEADLINE", "QUADRANTS", "check_predictions", "choose_threshold", "chromosome_blocks", "compare",
    "evaluate", "metrics", "quadrant_rows", "replicate_table", "residual", "specific_windows", "write_metrics",
    "write_table",
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
MIN_CELLS_ACROSS = 3    # fewer cell types give no correlation across cell types
UNIT_RANGE, CORRELATION_RANGE, POSITIVE = (0.0, 1.0), (-1.0, 1.0), (0.0, np.inf)
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
    training cell types x validation chromosomes. Raises ChromaccError when these rows lack one of the classes.
    """
    rows, where = validation_rows(predictions)
    rows = rows[rows["label"] >= 0]
    label = rows["label"].to_numpy()
    _require_both_classes(label, f"{where}, from which the threshold is chosen")
    precision, recall, thresholds = sk.precision_recall_curve(label, rows["predicted_probability"])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[np.argmax(f1[:-1])]), f"highest F1 on {where}, {len(rows):,} rows"


def _require_both_classes(label: np.ndarray, where: str) -> None:
    """Raise ChromaccError unless labels 0 and 1 both occur."""
    if len(np.unique(label)) < 2:
        got = f"{len(label)} windows, all labelled {int(label[0])}" if len(label) else "0 windows with a label"
        raise ChromaccError(
            f"evaluation: {where}: got {got}; AUROC, AUPRC and F1 need windows labelled 0 and windows labelled 1; "
            "hold out more or larger chromosomes, or check the accessibility_peaks files of these cell types"
        )


# --- metrics -------------------------------------------------------------------------------------------------


def metrics(
    measured: np.ndarray, predicted: np.ndarray, label: np.ndarray, probability: np.ndarray, threshold: float,
    where: str = "these rows",
) -> dict[str, float]:
    """Return every metric as one number (scikit-learn, scipy); arrays shape=(n,).

    measured, predicted: score and predicted score. label: 0, 1, or -1 (row left out of the label metrics; NaN when
    all are). probability: of being open; `threshold`: called open at or above it. Correlations are NaN where the
    prediction is constant. Raises ChromaccError for NaN scores, for no rows, and for labels of one class only.
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
    names = ("roc_auc", "pr_auc", "accuracy", "precision", "recall", "f1", "base_rate")
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
    return dict(zip(names, values, strict=True))


def residual(values: np.ndarray, average: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Return what is left of values when the locus average is removed, within each cell type; shape=(n,) each.

    Removed by a straight line a cell type, not by subtraction: subtracting the same average from truth and prediction
    would make them correlate even where the prediction knows nothing. Nothing left gives exact zeros.
    """
    left = np.zeros(len(values))
    for name in np.unique(cell):
        rows = cell == name
        y, x = (np.asarray(v, np.float64)[rows] for v in (values, average))
        y, x = y - y.mean(), x - x.mean()
        slope = (x @ y) / (x @ x) if x @ x > 0 else 0.0
        rest = y - slope * x
        left[rows] = rest if rest @ rest > 1e-10 * (y @ y) else 0.0
    return left


# --- metrics with intervals ----------------------------------------------------------------------------------


def chromosome_blocks(rows: pd.DataFrame, block_bp: int) -> np.ndarray:
    """Return the chromosome block of each row, as text `chrom:number`."""
    return (rows["chrom"].astype(str) + ":" + (rows["start"] // block_bp).astype(str)).to_numpy()


def _plan(rows: pd.DataFrame, block_bp: int, n_bootstrap: int, seed: int) -> iv.Resampling:
    return iv.resampling(rows["cell_type"].to_numpy(), chromosome_blocks(rows, block_bp), n_bootstrap, seed)


def _model_metrics(rows: pd.DataFrame, plan: iv.Resampling, threshold: float, where: str) -> dict[str, dict]:
    """Return every metric of the model on these rows as {"value", "low", "high"}, with skill and gain in AUPRC."""
    measured, predicted, average = (rows[c].to_numpy(np.float64) for c in ("score", "predicted_score", "average_score"))
    label, probability = rows["label"].to_numpy(), rows["predicted_probability"].to_numpy(np.float64)
    point = metrics(measured, predicted, label, probability, threshold, where)
    result = {name: {"value": value, "low": np.nan, "high": np.nan} for name, value in point.items()}

    def add(name: str, values: np.ndarray, bounds: tuple[float, float], of: iv.Resampling = plan) -> None:
        """Add a metric with its interval; of: the weightings of the rows that it is taken from."""
        result[name] = iv.interval(values, of, bounds)

    spread = [iv.standard_deviation(plan, v) for v in (predicted, measured)]
    add("mse", iv.mse(plan, measured, predicted), POSITIVE)
    add("prediction_std", spread[0], POSITIVE)
    add("label_std", spread[1], POSITIVE)
    add("std_ratio", spread[0] / np.where(spread[1] > 0, spread[1], np.nan), POSITIVE)
    add("pearson", iv.pearson(plan, measured, predicted), CORRELATION_RANGE)
    add("spearman", iv.spearman(plan, measured, predicted), CORRELATION_RANGE)
    result["skill"] = iv.skill_interval(iv.skill(plan, measured, predicted, average), plan)
    cell = rows["cell_type"].to_numpy()
    left = [residual(v, average, cell) for v in (measured, predicted)]
    add("residual_pearson", iv.pearson(plan, *left), CORRELATION_RANGE)
    known = label >= 0
    if known.any():
        some = plan.take(known)
        for name, values in iv.classification(some, label[known], probability[known] >= threshold).items():
            add(name, values, UNIT_RANGE, some)
        roc_auc, pr_auc = iv.ranking(some, label[known], probability[known])
        add("roc_auc", roc_auc, UNIT_RANGE, some)
        add("pr_auc", pr_auc, UNIT_RANGE, some)
        add("pr_auc_gain", pr_auc - _average_ranking(rows[known], some)[2], (-1.0, 1.0), some)
    return result


def _average_ranking(rows: pd.DataFrame, plan: iv.Resampling) -> tuple[str, np.ndarray, np.ndarray]:
    """Return (column, AUROC, AUPRC) of the average, rows with known labels only.

    It ranks windows by its score or by the share of open training cell types, whichever has the higher AUPRC on these
    rows: the harder one to beat.
    """
    label = rows["label"].to_numpy()
    columns = [c for c in ("average_score", "average_label") if np.isfinite(rows[c].to_numpy(np.float64)).all()]
    ranked = [(c, *iv.ranking(plan, label, rows[c].to_numpy())) for c in columns]
    return max(ranked, key=lambda entry: entry[2][0])


def _baseline_metrics(rows: pd.DataFrame, plan: iv.Resampling, names: list[str]) -> dict[str, dict]:
    """Return for each baseline its skill, MSE, correlations, AUROC, AUPRC and how far the model is ahead of it, paired.

    model_skill = 1 - MSE(model) / MSE(baseline), pr_auc_difference = AUPRC(model) - AUPRC(baseline), and so with
    pearson_difference and spearman_difference: above 0 = the model is better. Both compare the two under the same weightings, so that what is hard for both cancels.
    A baseline that is undefined for any of the rows gets only {"undefined": a sentence}.
    """
    measured, average = rows["score"].to_numpy(np.float64), rows["average_score"].to_numpy(np.float64)
    known = (rows["label"] >= 0).to_numpy()
    label, some = rows["label"].to_numpy()[known], plan.take(known)
    model = rows["predicted_score"].to_numpy(np.float64)
    correlation = {"pearson": iv.pearson, "spearman": iv.spearman}
    reached = {kind: of(plan, measured, model) for kind, of in correlation.items()}
    model_pr = iv.ranking(some, label, rows["predicted_probability"].to_numpy()[known])[1] if known.any() else None
    result: dict[str, dict] = {}
    for name in names:
        predicted = rows[name].to_numpy(np.float64)
        missing = int((~np.isfinite(predicted)).sum())
        if missing:
            result[name] = {"undefined": f"{name} has no prediction in {missing:,} of {len(rows):,} rows"}
            continue
        result[name] = {
            "skill": iv.skill_interval(iv.skill(plan, measured, predicted, average), plan),
            "model_skill": iv.skill_interval(iv.skill(plan, measured, model, predicted), plan),
            "mse": iv.interval(iv.mse(plan, measured, predicted), plan, POSITIVE),
        }
        for kind, of in correlation.items():
            values = of(plan, measured, predicted)
            result[name] |= {
                kind: iv.interval(values, plan, CORRELATION_RANGE),
                f"{kind}_difference": iv.interval(reached[kind] - values, plan, (-2.0, 2.0)),
            }
        if model_pr is not None:
            by, roc_auc, pr_auc = (
                _average_ranking(rows[known], some) if name == "average"
                else (name, *iv.ranking(some, label, predicted[known]))
            )
            result[name] |= {
                "ranked_by": by, "roc_auc": iv.interval(roc_auc, some, UNIT_RANGE),
                "pr_auc": iv.interval(pr_auc, some, UNIT_RANGE),
                "pr_auc_difference": iv.interval(model_pr - pr_auc, some, (-1.0, 1.0)),
            }
    return result


# --- three correlations, ceiling -----------------------------------------------------------------------------


def _across_cell_types(rows: pd.DataFrame, column: str, **draw: int) -> dict[str, object]:
    """Return the mean over windows of Pearson across cell types: measured against `column`.

    A window counts when at least 3 cell types are measured there and their scores differ; a prediction that is the
    same in all of them scores 0. Only blocks are resampled: the statement is about these cell types.
    """
    table = rows.pivot(index="window", columns="cell_type", values=["score", column])
    measured, predicted = (table[c].to_numpy(np.float64) for c in ("score", column))
    use = (np.isfinite(measured) & np.isfinite(predicted)).sum(axis=1) >= MIN_CELLS_ACROSS
    use &= np.isfinite(measured).all(axis=1) & np.isfinite(predicted).all(axis=1) & (np.ptp(measured, axis=1) > 1e-9)
    if not use.any():
        return {"value": np.nan, "low": np.nan, "high": np.nan, "n_windows": 0}
    x, y = (v[use] - v[use].mean(axis=1, keepdims=True) for v in (measured, predicted))
    spread = np.sqrt((x ** 2).sum(axis=1) * (y ** 2).sum(axis=1))
    varies = (y ** 2).sum(axis=1) > 1e-12
    r = np.where(varies, (x * y).sum(axis=1) / np.where(varies, spread, 1), 0.0)
    places = rows.drop_duplicates("window").set_index("window").loc[table.index[use]]
    plan = _plan(places.assign(cell_type="all"), **draw)
    sums = plan.sums(np.stack([r, np.ones(len(r))], axis=1))
    mean = np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
    return iv.interval(mean, plan, CORRELATION_RANGE) | {"n_windows": int(use.sum())}


def _correlations(rows: pd.DataFrame, columns: list[str], specific: np.ndarray, **draw: int) -> dict[str, dict]:
    """Return the three correlations apart for every column of scores; only the known ones of baselines are listed.

    within_cell_type: Pearson across windows, mean over cell types. across_cell_types: Pearson across cell types, mean
    over `specific` windows. residual: Pearson of what is left after the locus average is removed (`residual`).
    """
    plan = _plan(rows, **draw)
    measured, average = rows["score"].to_numpy(np.float64), rows["average_score"].to_numpy(np.float64)
    cell = rows["cell_type"].to_numpy()
    varying = rows[rows["window"].isin(specific)]
    left = residual(measured, average, cell)
    result = {}
    for column in columns:
        predicted = rows[column].to_numpy(np.float64)
        if not np.isfinite(predicted).all():
            continue
        within = _mean_within_cell_types(plan, measured, predicted)
        rest = residual(predicted, average, cell)
        result["model" if column == "predicted_score" else column] = {
            "within_cell_type": iv.interval(within, plan, CORRELATION_RANGE),
            "across_cell_types": _across_cell_types(varying, column, **draw),
            "residual": iv.interval(iv.pearson(plan, left, rest), plan, CORRELATION_RANGE),
        }
    return result


def _mean_within_cell_types(plan: iv.Resampling, measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean over cell types of Pearson across windows, under every weighting: shape=(R,)."""
    per_cell = []
    for c in range(plan.n_cells):
        rows = plan.cell == c
        one = iv.Resampling(
            np.zeros(int(rows.sum()), int), plan.block[rows], np.ones((len(plan), 1)), plan.block_weights,
            plan.n_bootstrap,
        )
        per_cell.append(iv.pearson(one, measured[rows], predicted[rows]))
    total = np.sum([plan.cell_weights[:, c] * r for c, r in enumerate(per_cell)], axis=0)
    return total / plan.cell_weights.sum(axis=1)


def replicate_table(score_replicate: np.ndarray, cell_types: list[str]) -> pd.DataFrame:
    """Return columns cell_type, window, replicate_1, replicate_2 where both are known.

    score_replicate: shape=(W, C, replicates), float; the first two replicates are used. Empty without a second one.
    """
    columns = ["cell_type", "window", "replicate_1", "replicate_2"]
    if score_replicate.shape[2] < 2:
        return pd.DataFrame({name: [] for name in columns})
    n_windows, n_cells = score_replicate.shape[:2]
    pairs = score_replicate[:, :, :2].transpose(1, 0, 2).reshape(-1, 2)  # (W, C, 2) -> (C*W, 2)
    table = pd.DataFrame({
        "cell_type": np.repeat(cell_types, n_windows), "window": np.tile(np.arange(n_windows), n_cells),
        "replicate_1": pairs[:, 0], "replicate_2": pairs[:, 1],
    })
    return table[np.isfinite(pairs).all(axis=1)].reset_index(drop=True)


def _ceiling(rows: pd.DataFrame, plan: iv.Resampling, replicates: pd.DataFrame | None) -> dict[str, object]:
    """Return the best Pearson that any model could reach on these rows, and the model's as a fraction of it."""
    measured = rows["score"].to_numpy(np.float64)
    reached = iv.pearson(plan, measured, rows["predicted_score"].to_numpy(np.float64))
    truth = rows["truth"].to_numpy(np.float64)
    if np.isfinite(truth).all():
        average, predicted = (rows[c].to_numpy(np.float64) for c in ("average_score", "predicted_score"))
        # Background and depth of a file stretch and shift its scores; a line a cell type takes that off the truth.
        on_scale = measured - residual(measured, truth, rows["cell_type"].to_numpy())
        top_skill, model_skill = (iv.skill(plan, measured, v, average) for v in (on_scale, predicted))
        kind = "noise-free truth of the simulation"
        return _ceiling_entry(kind, iv.pearson(plan, measured, truth), reached, plan) | {
            "skill": iv.skill_interval(top_skill, plan),
            "fraction_of_skill": iv.interval(model_skill / np.where(top_skill > 0, top_skill, np.nan), plan),
        }
    pairs = None if replicates is None else rows.merge(replicates, on=["cell_type", "window"], how="left")
    if pairs is None or not np.isfinite(pairs["replicate_2"]).all():
        return {"kind": "none", "sentence": "No ceiling known: no noise-free truth, and not every cell type here has a "
                                            "second replicate."}
    concordance = iv.pearson(plan, pairs["replicate_1"].to_numpy(), pairs["replicate_2"].to_numpy())
    # Spearman-Brown: reliability of the mean of two replicates; its root is the correlation of that mean with what
    # is the same in both, which bounds what any model can reach.
    reliability = 2 * concordance / (1 + concordance)
    top = np.sqrt(np.where(reliability > 0, reliability, np.nan))
    return _ceiling_entry("replicate concordance (Spearman-Brown)", top, reached, plan) | {
        "concordance": iv.interval(concordance, plan, CORRELATION_RANGE)
    }


def _ceiling_entry(kind: str, top: np.ndarray, reached: np.ndarray, plan: iv.Resampling) -> dict[str, object]:
    fraction = iv.interval(reached / top, plan)
    sentence = (
        f"The highest Pearson that any model can reach here is {top[0]:.3f} ({kind}); the model reaches "
        f"{100 * fraction['value']:.0f}% of it."
    )
    return {"kind": kind, "pearson": iv.interval(top, plan, CORRELATION_RANGE), "fraction_of_pearson": fraction,
            "sentence": sentence}


# --- the whole evaluation ------------------------------------------------------------------------------------


def evaluate(
    predictions: pd.DataFrame, baselines: pd.DataFrame, simulated: bool, replicates: pd.DataFrame | None = None,
    n_bootstrap: int = 1000, block_bp: int = 250_000, seed: int = 1,
) -> dict[str, object]:
    """Return everything of evaluation_metrics.json.

    predictions: columns `COLUMNS`, all windows x cell types; tss_distance and observed_tracks too, where known, for the
    strata. baselines: cell_type, window and one column of scores a baseline (`baselines.fit_predict`), for the same
    rows. replicates: from `replicate_table`, for the ceiling.
    block_bp: length of a chromosome block, bp. Raises ChromaccError for bad tables and empty or one-class test sets.
    """
    check_predictions(predictions)
    table, names = _join(predictions, baselines)
    threshold, source = choose_threshold(table)
    specific, _ = specific_windows(table)
    draw = {"block_bp": block_bp, "n_bootstrap": n_bootstrap, "seed": seed}
    quadrants, sizes, against = {}, {}, {name: {} for name in names}
    for quadrant in QUADRANTS:
        rows = quadrant_rows(table, quadrant)
        plan = _plan(rows, **draw)
        quadrants[quadrant] = _model_metrics(rows, plan, threshold, quadrant)
        sizes[quadrant] = _sizes(rows, plan) | {"rows_without_score": _n_unmeasured(table, quadrant)}
        for name, values in _baseline_metrics(rows, plan, names).items():
            against[name][quadrant] = values
    rows = quadrant_rows(table, HEADLINE)
    result = {
        "simulated": bool(simulated), "threshold": threshold, "threshold_source": source, "confidence": iv.LEVEL,
        "interval_method": iv.METHOD, **draw, "notes": [P_VALUE_NOTE, cluster_note(sizes[HEADLINE])],
        "headline": _headline(quadrants[HEADLINE], sizes[HEADLINE], sorted(rows["cell_type"].unique())),
        "quadrants": quadrants, "sizes": sizes, "per_cell_type": _per_cell_type(table, threshold, **draw),
        "baselines": against,
        "strata": _strata(table, rows, names, threshold, **draw),
        "correlations": _correlations(rows, ["predicted_score", *names], specific, **draw),
        "ceiling": _ceiling(rows, _plan(rows, **draw), replicates),
        "calibration": reliability(rows) if (rows["label"] >= 0).any() else None,
        "recalibration": measure_recalibration(table, rows, partial(_plan, **draw)),
        "conformal": measure_coverage(table, rows, partial(_plan, **draw)),
    }
    result["strata"] = {"all_windows": _whole(result)} | result["strata"]
    result["cell_type_specific"] = result["strata"]["varying"]
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
    return _baseline_metrics(rows, _plan(rows, block_bp=block_bp, n_bootstrap=n_bootstrap, seed=seed), names)


def _join(predictions: pd.DataFrame, baselines: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the predictions with every baseline as a column, and the baselines' names, the average first."""
    names = [c for c in baselines if c not in ("cell_type", "window")]
    clash = sorted(set(names) & (set(COLUMNS) | {"average"}))
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


def _sizes(rows: pd.DataFrame, plan: iv.Resampling) -> dict[str, object]:
    """Return how much stands behind the numbers of a set of rows."""
    return {
        "rows": len(rows), "windows": int(rows["window"].nunique()),
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


def _per_cell_type(table: pd.DataFrame, threshold: float, **draw: int) -> dict[str, dict]:
    """Return the model's metrics for every training and test cell type, on seen and on unseen chromosomes apart."""
    result: dict[str, dict] = {}
    for quadrant in QUADRANTS:
        chromosomes = quadrant.split("_x_")[1]
        for name, rows in quadrant_rows(table, quadrant).groupby("cell_type", sort=True):
            where = f"cell type {name}, {chromosomes.replace('_', ' ')}s"
            entry = _model_metrics(rows, _plan(rows, **draw), threshold, where)
            result.setdefault(str(name), {})[chromosomes] = entry
    return result


def _whole(result: dict) -> dict[str, object]:
    """Return the headline quadrant as the stratum of all windows, to compare the others with."""
    against = {name: values[HEADLINE] for name, values in result["baselines"].items()}
    return {"rule": "all windows of unseen chromosomes in unseen cell types", "quadrant": HEADLINE,
            "sizes": result["sizes"][HEADLINE], "model": result["quadrants"][HEADLINE], "baselines": against}


def _strata(table: pd.DataFrame, rows: pd.DataFrame, names: list[str], threshold: float, **draw: int
            ) -> dict[str, dict]:
    """Return the metrics on each of `strata.strata` of the headline rows, or {"rule", "undefined": a sentence}."""
    result = {}
    for name, stratum in strata(table, rows).items():
        if stratum.rows is None:
            result[name] = {"rule": stratum.rule, "undefined": stratum.undefined}
        else:
            where = f"stratum {name}, {HEADLINE}"
            result[name] = _stratum(rows[stratum.rows], stratum.rule, where, names, threshold, **draw)
    return result


def _stratum(rows: pd.DataFrame, rule: str, where: str, names: list[str], threshold: float, **draw: int
             ) -> dict[str, object]:
    """Return the model's and the baselines' metrics on some rows of the headline quadrant; rule: which, in words.

    Where the labels are of one class, what needs two is left undefined, and `labels` says so.
    """
    plan = _plan(rows, **draw)
    entry = {"rule": rule, "quadrant": HEADLINE, "sizes": _sizes(rows, plan)}
    known = rows.loc[rows["label"] >= 0, "label"]
    if known.nunique() == 1:
        entry["labels"] = (f"all {len(known):,} rows with a label are {'open' if known.iloc[0] else 'closed'}: AUROC, "
                           "AUPRC, F1 and what else needs both are undefined here")
        rows = rows.assign(label=-1)
    return entry | {
        "model": _model_metrics(rows, plan, threshold, where), "baselines": _baseline_metrics(rows, plan, names),
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
