"""Are the model's probabilities and score intervals honest for a cell type that it has not seen?

Two things are fitted, on validation cell types x validation chromosomes and never on test rows: a recalibration of
the probability of being open, and conformal intervals for the score. Both are small, can be written to JSON, and
apply to new predictions. Where there are no validation cell types, training cell types x validation chromosomes serve,
which the model was fitted on: the results say so, and are then likely to promise too much. The checkpoint
was chosen on validation rows, too, of a few epochs: errors there are a little smaller than on rows with no say at all.

Both assume that an unseen cell type behaves like the validation ones (conformal inference calls it exchangeable).
Windows of one cell type share its depth, its batch and its biology, so thousands of windows of two or three validation
cell types are two or three draws from the cell types that there are, and nothing guarantees the nominal coverage in
the next one. What counts is the coverage that is measured on the unseen cell types.

Scores are arcsinh(fold over the genome-wide mean); labels are 1 = open, 0 = closed, -1 = not known.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from chromacc_lib import ChromaccError
from chromacc_lib import intervals as iv
from chromacc_lib.wording import count, estimate, side

__all__ = [
    "Plan", "Recalibration", "ScoreIntervals", "fit_recalibration", "fit_score_intervals", "measure_coverage",
    "measure_recalibration", "reliability", "validation_rows",
]

NOMINAL = 0.9
N_BINS = 10  # of a reliability curve, of equal width
ROWS_PER_GROUP, MAX_GROUPS = 100, 10  # of the conformal intervals; 39 rows are the fewest for finite ones at 90%
LOWEST, HIGHEST = 1e-38, 1 - 2.0 ** -25  # float32 probabilities of 0 and 1, before their logit: order is kept
FLAT = 1e-6  # logits that spread less than this are one value

WORTH_IT = {  # by the side of 0 on which the change of the Brier score lies
    -1: "below 0 is better, and it is better for them", 0: "below 0 is better, and this cannot be told from no change",
    1: "below 0 is better, and it is worse for them: leave the probabilities as they are",
    None: "below 0 is better, and whether it is cannot be told",
}

Plan = Callable[[pd.DataFrame], iv.Resampling]


def validation_rows(predictions: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows that thresholds, recalibration and intervals are fitted on, and which they are, in words."""
    has_validation = (predictions["cell_type_split"] == "validation").any()
    split = "validation" if has_validation else "train"
    name = "validation cell types" if has_validation else "training cell types (no validation cell types)"
    chosen = (predictions["cell_type_split"] == split) & (predictions["window_split"] == "validation")
    return predictions[chosen], f"{name} x validation chromosomes"


# --- reliability ---------------------------------------------------------------------------------------------


def reliability(rows: pd.DataFrame, n_bins: int = N_BINS) -> dict[str, object]:
    """Return Brier score, its parts, expected calibration error, and the reliability table in bins of equal width.

    rows: label (rows with -1 are left out) and predicted_probability. The parts are Murphy's (1973, J. Appl. Meteorol.
    12:595), reliability (0 = calibrated), resolution and uncertainty, with the two that binning adds (Stephenson,
    Coelho & Jolliffe 2008, Weather Forecast. 23:752), so that for any bins, exactly,
    brier = reliability - resolution + uncertainty + within_bin_variance - within_bin_covariance.
    Raises ChromaccError when no label is known.
    """
    rows = rows[rows["label"] >= 0]
    if rows.empty:
        raise ChromaccError("calibration: no row has a known label; give accessibility_peaks in the manifest")
    label, probability = (rows[c].to_numpy(np.float64) for c in ("label", "predicted_probability"))
    which = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    filled, which, count = np.unique(which, return_inverse=True, return_counts=True)
    predicted, observed = (np.bincount(which, values) / count for values in (probability, label))
    share, base_rate = count / count.sum(), label.mean()
    inside = probability - predicted[which], label - observed[which]
    return {
        "brier": float(np.mean((probability - label) ** 2)),
        "expected_calibration_error": float(share @ np.abs(predicted - observed)),
        "reliability": float(share @ (predicted - observed) ** 2),
        "resolution": float(share @ (observed - base_rate) ** 2),
        "uncertainty": float(base_rate * (1 - base_rate)),
        "within_bin_variance": float(np.mean(inside[0] ** 2)),
        "within_bin_covariance": float(2 * np.mean(inside[0] * inside[1])),
        "bins": [
            {"predicted": float(p), "observed": float(o), "n": int(n)}
            for p, o, n in zip(predicted, observed, count, strict=True)
        ],
    }


# --- recalibration -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recalibration:
    """A straight line through the logit: logit(recalibrated) = logit(probability) / temperature + offset.

    It rises strictly, so that ranking, AUROC and AUPRC stay as they are. source: the rows it was fitted on, and what
    could not be fitted there. JSON: `dataclasses.asdict`, and `Recalibration(**content)`.
    """

    temperature: float  # above 0; above 1: the model was too sure
    offset: float
    source: str

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """Return the recalibrated probability of being open, float64, same shape."""
        return expit(_logit(probability) / self.temperature + self.offset)


def _logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probability, np.float64), LOWEST, HIGHEST)
    return np.log(p) - np.log1p(-p)


def fit_recalibration(predictions: pd.DataFrame) -> Recalibration:
    """Fit temperature and offset by maximum likelihood on the validation rows (`validation_rows`) with a known label.

    Platt scaling (Platt 1999, Advances in Large Margin Classifiers, p. 61) with his targets, (n1 + 1) / (n1 + 2) for
    the n1 open and 1 / (n0 + 2) for the n0 closed windows instead of 1 and 0: so it is finite where a threshold
    separates the classes. Where probabilities do not vary, or rank the windows backwards, no temperature can be had
    without changing the ranking: it stays 1, the offset alone is fitted, and source says so.
    Raises ChromaccError when the validation rows lack one of the classes.
    """
    rows, where = validation_rows(predictions)
    rows = rows[rows["label"] >= 0]
    is_open = rows["label"].to_numpy() == 1
    n_open, n_closed = int(is_open.sum()), int((~is_open).sum())
    if not (n_open and n_closed):
        raise ChromaccError(
            f"calibration: {where}: got {n_open:,} open and {n_closed:,} closed windows; recalibration needs both: "
            "hold out more or larger chromosomes, or check the accessibility_peaks files of these cell types"
        )
    source = f"maximum likelihood on {where}, {len(rows):,} rows"
    logit = _logit(rows["predicted_probability"].to_numpy())
    target = np.where(is_open, (n_open + 1) / (n_open + 2), 1 / (n_closed + 2))
    mean, spread = logit.mean(), logit.std()
    if spread < FLAT:
        source += "; the probabilities do not vary there: offset only"
        return Recalibration(1.0, _offset(logit, target), source)
    slope, intercept = _line((logit - mean) / spread, target)
    if slope <= 0:
        source += "; the probabilities rank the windows backwards there: offset only"
        return Recalibration(1.0, _offset(logit, target), source)
    return Recalibration(spread / slope, intercept - slope * mean / spread, source)


def _line(x: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of the logistic regression of targets between 0 and 1, without penalty."""
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8, max_iter=1000)
    both, classes = np.concatenate([x, x])[:, None], np.repeat([1, 0], len(x))  # each row counts as open in part
    model.fit(both, classes, sample_weight=np.concatenate([target, 1 - target]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def _offset(logit: np.ndarray, target: np.ndarray) -> float:
    """Return what to add to the logits, so that the mean probability is the mean target."""
    far = np.abs(logit).max() + 50.0
    return float(brentq(lambda offset: np.mean(expit(logit + offset)) - target.mean(), -far, far))


def measure_recalibration(predictions: pd.DataFrame, rows: pd.DataFrame, plan_of: Plan) -> dict[str, object]:
    """Fit a recalibration on validation rows, and return what it does to `rows`, which it has not seen.

    plan_of: draws the resampling of some rows, for the 95% intervals. brier_change = after - before, paired: below 0
    is better. pooled and per_cell_type: {"before", "after"} of `reliability`, each with ece, the expected calibration
    error with its interval: its bins are those of the rows, and each draw's error counts, so that it is 0 or above, and
    with few windows well above, for honest probabilities too. {"undefined": a sentence} without labels to judge, or
    without both classes to fit on.
    """
    rows = rows[rows["label"] >= 0]
    if rows.empty:
        return {"undefined": "no unseen cell type has known peaks, so nothing tells whether probabilities are right"}
    known, where = validation_rows(predictions)
    known = known.loc[known["label"] >= 0, "label"]
    if known.nunique() < 2:
        return {"undefined": f"{where} have {len(known):,} labels of {known.nunique()} class"
                             f"{'' if known.nunique() == 1 else 'es'}, and a recalibration is fitted on both"}
    fitted = fit_recalibration(predictions)
    after = rows.assign(predicted_probability=fitted.apply(rows["predicted_probability"].to_numpy()))
    plan, label = plan_of(rows), rows["label"].to_numpy(np.float64)
    brier = [iv.mse(plan, label, table["predicted_probability"].to_numpy(np.float64)) for table in (rows, after)]
    change = iv.interval(brier[1] - brier[0], plan, iv.DIFFERENCE)
    per_cell = {str(name): _before_and_after(rows.loc[some.index], some, plan_of(some))
                for name, some in after.groupby("cell_type", sort=True)}  # fmt: skip
    pooled = _before_and_after(rows, after, plan)
    ece = [estimate(pooled[when]["ece"], ".3f") for when in ("before", "after")]
    return asdict(fitted) | {
        "brier_before": iv.interval(brier[0], plan, iv.SHARE), "brier_after": iv.interval(brier[1], plan, iv.SHARE),
        "brier_change": change, "pooled": pooled, "per_cell_type": per_cell,
        "sentence": (
            f"Temperature {fitted.temperature:.2f} and offset {fitted.offset:+.2f} ({fitted.source}) take the expected "
            f"calibration error on unseen cell types from {ece[0]} to {ece[1]}, and the Brier score by "
            f"{estimate(change, '+.4f', '95% interval ')}; {WORTH_IT[side(change)]}."
        ),
    }


def _before_and_after(rows: pd.DataFrame, after: pd.DataFrame, plan: iv.Resampling) -> dict[str, dict]:
    """Return `reliability` of rows as predicted and recalibrated, with the interval of the calibration error."""
    return {when: reliability(some) | {"ece": iv.interval(_calibration_error(some, plan), plan, iv.SHARE)}
            for when, some in (("before", rows), ("after", after))}  # fmt: skip


def _calibration_error(rows: pd.DataFrame, plan: iv.Resampling, n_bins: int = N_BINS) -> np.ndarray:
    """Return the expected calibration error under every weighting, shape=(R,); rows with known labels alone."""
    label, probability = (rows[c].to_numpy(np.float64) for c in ("label", "predicted_probability"))
    which = np.minimum((probability * n_bins).astype(int), n_bins - 1)
    off = (which[:, None] == np.arange(n_bins)) * (probability - label)[:, None]  # (n, bins)
    sums = plan.sums(np.column_stack([off, np.ones(len(rows))]))
    total = np.where(sums[:, -1] > 0, sums[:, -1], np.nan)
    return np.abs(sums[:, :-1]).sum(axis=1) / total


# --- conformal intervals for the score -----------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreIntervals:
    """Intervals for the measured score around a predicted one, of G groups of predicted score.

    edges: G - 1 rising scores; a prediction at or above an edge belongs to the group above. low, high, n: of each
    group, what is added to the prediction (arcsinh fold; infinite where its rows were too few), and its rows.
    """

    nominal: float
    edges: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]
    source: str

    def apply(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end for predicted scores (arcsinh fold), float64, same shape; NaN gives NaN."""
        score = np.asarray(score, np.float64)
        group = np.searchsorted(self.edges, score, side="right")
        return score + np.array(self.low)[group], score + np.array(self.high)[group]

    def to_dict(self) -> dict[str, object]:
        """Return what goes into JSON; an infinite end becomes None."""
        content = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        return content | {end: [v if np.isfinite(v) else None for v in content[end]] for end in ("low", "high")}

    @classmethod
    def from_dict(cls, content: Mapping) -> "ScoreIntervals":
        """Return the intervals that `to_dict` wrote."""
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
        for end, infinite in (("low", -np.inf), ("high", np.inf)):
            values[end] = tuple(infinite if v is None else v for v in values[end])
        return cls(**values)


def fit_score_intervals(predictions: pd.DataFrame, nominal: float = NOMINAL) -> ScoreIntervals:
    """Fit intervals that hold a share `nominal` of the measured scores, on the validation rows (`validation_rows`).

    Split conformal inference (Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World; Lei et al. 2018,
    J. Am. Stat. Assoc. 113:1094) in groups of predicted score (Mondrian: Vovk 2012, ACML 25:475), since errors grow
    with the score. Each end is an order statistic of measured - predicted, with half of 1 - nominal beyond it and the
    correction for finite n: the k-th lowest and the k-th highest of n, k = floor((n + 1)(1 - nominal) / 2), infinite
    for k = 0. Groups hold equally many rows, at least 100 where there are so many, and are at most 10.
    Coverage is as promised only if unseen cell types are exchangeable with these; see the module's docstring.
    Raises ChromaccError without a measured score among the rows, and unless 0 < nominal < 1.
    """
    if not 0 < nominal < 1:
        raise ChromaccError(f"calibration: nominal coverage {nominal}; needed: a share between 0 and 1, such as 0.9")
    rows, where = validation_rows(predictions)
    rows = rows[np.isfinite(rows["score"])]
    if rows.empty:
        raise ChromaccError(
            f"calibration: {where}: no row has a measured score; conformal intervals need some: give these cell types "
            "an accessibility_signal on these chromosomes"
        )
    measured, predicted = (rows[c].to_numpy(np.float64) for c in ("score", "predicted_score"))
    n_groups = int(np.clip(len(rows) // ROWS_PER_GROUP, 1, MAX_GROUPS))
    inner = np.arange(1, n_groups) / n_groups
    edges = np.unique(np.quantile(predicted, inner, method="inverted_cdf"))
    edges = edges[edges > predicted.min()]  # none, where all predictions are alike; no group is empty
    group = np.searchsorted(edges, predicted, side="right")
    ends = [_ends(measured[group == g] - predicted[group == g], nominal) for g in range(len(edges) + 1)]
    low, high = zip(*ends, strict=True)
    n = tuple(np.bincount(group).tolist())
    return ScoreIntervals(nominal, tuple(edges.tolist()), low, high, n, f"{where}, {len(rows):,} rows")


def _ends(residuals: np.ndarray, nominal: float) -> tuple[float, float]:
    """Return the k-th lowest and k-th highest residual, infinite for k = 0."""
    k = int((len(residuals) + 1) * (1 - nominal) / 2 + 1e-9)  # 1e-9: 0.9 is not exact in binary
    if k == 0:
        return -np.inf, np.inf
    ranked = np.sort(residuals)
    return float(ranked[k - 1]), float(ranked[-k])


def measure_coverage(predictions: pd.DataFrame, rows: pd.DataFrame, plan_of: Plan) -> dict[str, object]:
    """Fit score intervals on validation rows, and return how many of the scores in `rows`, not seen there, they hold.

    rows: with a measured score; plan_of: draws the resampling of some rows, for the 95% intervals of coverage and
    mean width. intervals: `ScoreIntervals.to_dict`. by_group: coverage by group of predicted score. below: cell types
    whose coverage lies below the nominal with its whole interval.
    """
    known, where = validation_rows(predictions)
    known = known[np.isfinite(known["score"])]
    if known.empty:
        return {"undefined": f"no measured score in {where}, from which the intervals are fitted"}
    fitted, n_cells = fit_score_intervals(predictions), known["cell_type"].nunique()
    low, high = fitted.apply(rows["predicted_score"].to_numpy())
    held = ((rows["score"] >= low) & (rows["score"] <= high)).to_numpy(np.float64)
    table = rows[["cell_type", "chrom", "start"]].assign(
        held=held, width=high - low, group=np.searchsorted(fitted.edges, rows["predicted_score"], side="right")
    )
    pooled = _coverage(table, plan_of)
    per_cell = {str(name): _coverage(some, plan_of) for name, some in table.groupby("cell_type", sort=True)}
    coverage = {name: entry["coverage"] for name, entry in per_cell.items()}
    worst = min(coverage, key=lambda name: coverage[name]["value"])
    below = [name for name, entry in coverage.items() if entry["high"] < fitted.nominal]
    return {
        "nominal": fitted.nominal, "source": fitted.source, "intervals": fitted.to_dict(), "pooled": pooled,
        "per_cell_type": per_cell, "below": below,
        "by_group": [{"group": int(g), "rows": len(some), "coverage": float(some["held"].mean())}
                     for g, some in table.groupby("group")],
        "sentence": (
            f"Intervals made to hold {fitted.nominal:.0%} of the scores ({fitted.source}) hold "
            f"{estimate(pooled['coverage'], '.1%', '95% interval ')} on unseen cell types, least in {worst}: "
            f"{coverage[worst]['value']:.1%}; mean width {pooled['mean_width']['value']:.2f} arcsinh fold. "
            + (f"Too few, beyond chance of windows: {', '.join(below)}. " if below else
               "In no cell type too few, beyond chance of windows. ")
            + f"They were made as if all windows were drawn alike, but stand on {count(n_cells, 'cell type')}: what "
              "differs between cell types is not in them."
        ),
    }


def _coverage(table: pd.DataFrame, plan_of: Plan) -> dict[str, object]:
    """Return coverage and mean width of some rows; the width has no interval where some are unbounded."""
    plan, width = plan_of(table), table["width"].to_numpy()
    bounded = np.isfinite(width).all()
    return {
        "coverage": iv.interval(iv.mean(plan, table["held"].to_numpy()), plan, iv.SHARE),
        "mean_width": iv.interval(iv.mean(plan, width), plan, iv.POSITIVE) if bounded
        else {"value": np.inf, "low": np.nan, "high": np.nan},
        "rows": len(table),
    }
