"""95% intervals from resampling what is really independent: whole cell types and whole chromosome blocks.

Windows are not independent: neighbours share chromatin, and all windows of a cell type share its depth, its batch
and its regulators. Two methods resample the two kinds of cluster together, and `interval` takes the wider:

- the pigeonhole bootstrap: cell types and blocks are drawn with replacement, independently, and a row counts as
  often as its cell type times its block was drawn (Owen 2007, Ann. Appl. Stat. 1:386); percentiles of 1,000 draws;
- the cluster jackknife with Student's t: the statistic with each cell type, and each block, left out once. The
  variances of both add up, and the degrees of freedom are Satterthwaite's. Percentiles of a bootstrap over three
  clusters are far too narrow (Cameron, Gelbach & Miller 2008, Rev. Econ. Stat. 90:414); the delete-one-cluster
  jackknife with t is the remedy that holds for few clusters (MacKinnon, Nielsen & Webb 2023, J. Appl. Econom. 38:671).

With one cell type only blocks can be resampled; such an interval says nothing about other cell types.

Student's t is symmetric, and most measures are not: near an end of their range, a symmetric interval is too long at one
end and too short at the other, or leaves the range. So the jackknife is taken on a scale without ends and turned back:
the logarithm for errors and ratios of them, Fisher's z for correlations, the logit for shares and areas under a curve.
Differences stay as they are. Percentiles of a bootstrap are the same on every such scale.

How often intervals of 95% held a known truth, in 2,000 simulated draws (tests/test_intervals.py; skill, Pearson, AUPRC
difference): 3 cell types x 8 blocks whose error differs little (sd of its log 0.15), 93.7, 94.0, 98.4%; as the pilot's
(0.26), 92.2, 92.3, 96.8%; by far more (0.5, and 0.3 between blocks), 87.5, 88.6, 85.8%; 1 cell type with 10 blocks,
94.2, 94.2, 94.7%. So with three cell types that are very unlike, an interval is still too narrow.

Every statistic here returns shape=(R,): its value under each of R weightings of the same rows. Row 0 is the data
itself, then come the bootstrap draws, then each cell type left out, then each block left out (where there are two).
So the difference of two such arrays is a paired comparison.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit, logit

__all__ = [
    "CORRELATION", "DIFFERENCE", "DIFFERENCE_OF_CORRELATIONS", "METHOD", "POSITIVE", "REAL", "SHARE", "SKILL", "Resampling",
    "Scale", "classification", "freedom", "interval", "mean", "mse", "p_value", "pearson", "ranking", "resampling",
    "skill", "skill_interval", "spearman", "standard_deviation",
]

LEVEL = 0.95
METHOD = (
    "wider of two 95% intervals: percentiles of a pigeonhole bootstrap over whole cell types and chromosome blocks "
    "(Owen 2007), and a two-way cluster jackknife with Student's t and Satterthwaite's degrees of freedom "
    "on the log of errors, Fisher's z of correlations and the logit of shares (for few clusters: Cameron, Gelbach & Miller 2008; MacKinnon, Nielsen & Webb 2023)"
)
# A statistic may be undefined in a draw, say AUROC without a positive. More than this share of such draws: no interval.
MAX_UNDEFINED = 0.05
MAX_GROUPS = 1024  # thresholds of a ranking under resampling


@dataclass(frozen=True)
class Scale:
    """The range of a statistic, and the scale without ends that its jackknife is taken on.

    forth: (values, n) -> values there; n: rows behind the statistic, which say how near to an end of its range a share
    can be told from it (1 / 2n). back: its inverse.
    """

    low: float
    high: float
    forth: Callable[[np.ndarray, int], np.ndarray] = lambda values, n: values
    back: Callable[[np.ndarray], np.ndarray] = lambda values: values


TINY = 1e-12
REAL = Scale(-np.inf, np.inf)
POSITIVE = Scale(0.0, np.inf, lambda v, n: np.log(np.maximum(v, 1e-300)), np.exp)
CORRELATION = Scale(-1.0, 1.0, lambda v, n: np.arctanh(np.clip(v, TINY - 1, 1 - TINY)), np.tanh)
SHARE = Scale(0.0, 1.0, lambda v, n: logit(np.clip(v, 0.5 / n, 1 - 0.5 / n)), expit)
SKILL = Scale(-np.inf, 1.0, lambda v, n: -np.log(np.maximum(1 - v, 1e-300)), lambda v: 1 - np.exp(-v))
DIFFERENCE = Scale(-1.0, 1.0)  # of two shares, cut to its range
DIFFERENCE_OF_CORRELATIONS = Scale(-2.0, 2.0)


@dataclass(frozen=True)
class Resampling:
    """Which cluster each of n rows belongs to, and how often each cluster counts under each of R weightings."""

    cell: np.ndarray           # shape=(n,), int, index of the row's cell type
    block: np.ndarray          # shape=(n,), int, index of the row's chromosome block
    cell_weights: np.ndarray   # shape=(R, cell types), float64
    block_weights: np.ndarray  # shape=(R, blocks), float64
    n_bootstrap: int

    @property
    def n_cells(self) -> int:
        """Number of cell types."""
        return self.cell_weights.shape[1]

    @property
    def n_blocks(self) -> int:
        """Number of chromosome blocks."""
        return self.block_weights.shape[1]

    def __len__(self) -> int:
        return len(self.cell_weights)

    def take(self, rows: np.ndarray) -> "Resampling":
        """Return the same weightings for some of the rows (a mask or an index), so that comparisons stay paired."""
        return Resampling(self.cell[rows], self.block[rows], self.cell_weights, self.block_weights, self.n_bootstrap)

    def weights(self, r: int) -> np.ndarray:
        """Return how often each row counts under weighting r: shape=(n,), float64."""
        table = np.outer(self.cell_weights[r], self.block_weights[r]).ravel()
        return table[self.cell * self.n_blocks + self.block]

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sums of values shape=(n, k) under every weighting: shape=(R, k), float64.

        The rows are first added up within each cell type and block; all R weightings use these sums alone.
        """
        cluster = self.cell * self.n_blocks + self.block
        size = self.n_cells * self.n_blocks
        table = np.stack([np.bincount(cluster, column, size) for column in np.asarray(values, np.float64).T], axis=-1)
        table = table.reshape(self.n_cells, self.n_blocks, -1)  # (C, K, k)
        return np.einsum("rb,rbk->rk", self.block_weights, np.tensordot(self.cell_weights, table, axes=1))


def resampling(cell: np.ndarray, block: np.ndarray, n_bootstrap: int, seed: int) -> Resampling:
    """Draw the weightings for rows with these cell types and blocks (any hashable labels), shape=(n,) each."""
    cell_names, cell = np.unique(np.asarray(cell), return_inverse=True)
    block_names, block = np.unique(np.asarray(block), return_inverse=True)
    rng = np.random.default_rng(seed)
    n_cells, n_blocks = len(cell_names), len(block_names)
    cell_draws, block_draws = _draws(n_cells, n_bootstrap, rng), _draws(n_blocks, n_bootstrap, rng)
    less_cell, less_block = _one_left_out(n_cells), _one_left_out(n_blocks)
    cell_weights = [np.ones((1, n_cells)), cell_draws, less_cell, np.ones((len(less_block), n_cells))]
    block_weights = [np.ones((1, n_blocks)), block_draws, np.ones((len(less_cell), n_blocks)), less_block]
    return Resampling(cell, block, np.concatenate(cell_weights), np.concatenate(block_weights), n_bootstrap)


def _draws(n: int, n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Return how often each of n clusters is drawn: shape=(n_bootstrap, n). A single cluster is always drawn once."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64)


def _one_left_out(n: int) -> np.ndarray:
    """Return n weightings that each leave one of n clusters out: shape=(n, n); none, shape=(0, 1), for one cluster."""
    return 1 - np.eye(n) if n > 1 else np.ones((0, 1))


def interval(values: np.ndarray, plan: Resampling, scale: Scale = REAL) -> dict[str, float]:
    """Return {"value", "low", "high"} of a statistic given under every weighting, shape=(R,).

    scale: the range that the statistic can take, and how its jackknife is taken. low and high are NaN where no interval
    can be had: one cell type in one block, or a statistic that is undefined in more than 5% of the draws.
    """
    missing = {"value": float(values[0]), "low": np.nan, "high": np.nan}
    draws = values[1:1 + plan.n_bootstrap]
    known = np.isfinite(draws)
    if plan.n_cells * plan.n_blocks == 1 or known.mean() < 1 - MAX_UNDEFINED:
        return missing
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws[known], [tail, 100 - tail])
    moved = scale.forth(values, len(plan.cell))
    error, freedom = _jackknife(moved, plan)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom) * error) if error > 0 else error
    if not np.isfinite(half):
        return missing
    ends = [values[0]] if half == 0 else [values[0], *scale.back(moved[0] + np.array([-half, half]))]
    low, high = min(low, *ends), max(high, *ends)
    return {"value": float(values[0]), "low": float(max(low, scale.low)), "high": float(min(high, scale.high))}


def p_value(values: np.ndarray, plan: Resampling, scale: Scale = REAL) -> float:
    """Return the two-sided p of no effect, of an effect given under every weighting, shape=(R,).

    The larger of two, as `interval` takes the wider: the cluster jackknife's t-test, on a scale that leaves 0 where it
    is, and twice the share of bootstrap draws on the other side of 0. NaN where there is no interval.
    """
    if not np.isfinite(interval(values, plan)["low"]):
        return np.nan
    draws = values[1:1 + plan.n_bootstrap]
    draws = draws[np.isfinite(draws)]
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    moved = scale.forth(values, len(plan.cell))
    error, freedom = _jackknife(moved, plan)
    by_t = 2 * stats.t.sf(abs(moved[0]) / error, freedom) if error > 0 else float(values[0] == 0)
    return float(min(1.0, max(by_t, 2 * (beyond + 1) / (len(draws) + 1))))


def freedom(values: np.ndarray, plan: Resampling, scale: Scale = REAL) -> float:
    """Return Satterthwaite's degrees of freedom of an interval; NaN where nothing varies, or none can be had."""
    return _jackknife(scale.forth(values, len(plan.cell)), plan)[1]


def skill_interval(values: np.ndarray, plan: Resampling) -> dict[str, float]:
    """Return {"value", "low", "high"} of a skill 1 - loss / loss of a reference, given under every weighting.

    The limits are taken on the logarithm of the ratio of losses and turned back: a ratio is skewed, and with three
    cell types a symmetric interval around it would be too long at one end and too short at the other.
    """
    return interval(values, plan, SKILL)


def _jackknife(values: np.ndarray, plan: Resampling) -> tuple[float, float]:
    """Return standard error and degrees of freedom of the two-way cluster jackknife.

    The error is NaN when leaving one out is undefined, and 0 where nothing varies (freedom NaN). Clusters that
    `Resampling.take` left without a row do not count.
    """
    first_cell = 1 + plan.n_bootstrap
    first_block = len(plan) - len(_one_left_out(plan.n_blocks))
    variances, freedoms = [], []
    for left_out, cluster in ((values[first_cell:first_block], plan.cell), (values[first_block:], plan.block)):
        left_out = left_out[np.unique(cluster)] if len(left_out) else left_out  # a cluster without a row is none
        n = len(left_out)
        if n > 1:
            variances.append((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))
            freedoms.append(n - 1)
    total = np.sum(variances)
    if not total > 0:  # 0: no spread at all; NaN: undefined
        return float(total), np.nan
    return float(np.sqrt(total)), float(total ** 2 / np.sum(np.square(variances) / freedoms))


# --- statistics under every weighting ------------------------------------------------------------------------


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Return top / bottom, NaN where the bottom is not above 0."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)


def mean(plan: Resampling, values: np.ndarray) -> np.ndarray:
    """Return the mean of values shape=(n,)."""
    sums = plan.sums(np.stack([values, np.ones(len(values))], axis=1))
    return _divide(sums[:, 0], sums[:, 1])


def mse(plan: Resampling, measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the mean squared error; measured, predicted: shape=(n,)."""
    return mean(plan, (np.asarray(measured, np.float64) - predicted) ** 2)


def skill(plan: Resampling, measured: np.ndarray, predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return 1 - MSE(predicted) / MSE(reference): 0 = no better than the reference, 1 = perfect; shape=(n,) each."""
    return 1 - _divide(mse(plan, measured, predicted), mse(plan, measured, reference))


def _second_moments(plan: Resampling, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return variance of x, variance of y and their covariance, each shape=(R,); tiny variances are set to 0."""
    means = [np.mean(v, dtype=np.float64) for v in (x, y)]
    x, y = (np.asarray(v, np.float64) - mean for v, mean in zip((x, y), means, strict=True))
    sums = plan.sums(np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y], axis=1))
    n, x1, y1, xx, yy, xy = sums.T
    x1, y1, xx, yy, xy = (_divide(v, n) for v in (x1, y1, xx, yy, xy))
    var_x, var_y = xx - x1 ** 2, yy - y1 ** 2
    var_x[var_x < 1e-12 * (xx + means[0] ** 2)] = 0  # rounding of float64 sums, not variation
    var_y[var_y < 1e-12 * (yy + means[1] ** 2)] = 0
    return var_x, var_y, xy - x1 * y1


def standard_deviation(plan: Resampling, values: np.ndarray) -> np.ndarray:
    """Return the population standard deviation of values shape=(n,)."""
    return np.sqrt(_second_moments(plan, values, values)[0])


def pearson(plan: Resampling, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of x and y, shape=(n,) each; NaN where either does not vary."""
    var_x, var_y, covariance = _second_moments(plan, x, y)
    return _divide(covariance, np.sqrt(var_x * var_y))


def spearman(plan: Resampling, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation, shape=(n,) each: Pearson's of the ranks (mid-ranks for ties).

    Ranks are taken once, over all rows; ranking anew in each draw moves the limits in the third digit only.
    """
    return pearson(plan, stats.rankdata(x), stats.rankdata(y))


def ranking(plan: Resampling, label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (AUROC, AUPRC as average precision) under every weighting; NaN where only one class has weight.

    label: shape=(n,), 0 or 1. score: shape=(n,), higher = more likely 1; ties share a threshold. The data itself is
    exact. Under the other weightings scores of neighbouring rank share one of at most `MAX_GROUPS` thresholds, and the
    whole is shifted by the small error that this makes on the data.
    """
    group = np.unique(-np.asarray(score, np.float64), return_inverse=True)[1]  # 0 = highest score
    positive = np.asarray(label) == 1
    exact = _areas(np.bincount(group, positive)[None], np.bincount(group)[None])
    if group.max() >= MAX_GROUPS:
        rank = np.cumsum(np.bincount(group)) - 1  # of the last row in each group
        group = np.unique((rank * MAX_GROUPS // len(group))[group], return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    cluster, row_cluster = np.unique(plan.cell * plan.n_blocks + plan.block, return_inverse=True)
    place = row_cluster * n_groups + group
    shape = (len(cluster), n_groups)
    hits, called = (
        np.bincount(place, v, len(cluster) * n_groups).reshape(shape).astype(np.float32)  # counts: exact in float32
        for v in (positive, np.ones(len(place)))
    )
    areas = []
    for some in np.array_split(np.arange(len(plan)), max(1, len(plan) // 128)):
        weights = plan.cell_weights[some][:, cluster // plan.n_blocks]
        weights = (weights * plan.block_weights[some][:, cluster % plan.n_blocks]).astype(np.float32)
        areas.append(_areas((weights @ hits).astype(np.float64), (weights @ called).astype(np.float64)))
    roc_auc, pr_auc = (np.concatenate(values) for values in zip(*areas, strict=True))
    return roc_auc + (exact[0] - roc_auc[0]), pr_auc + (exact[1] - pr_auc[0])


def _areas(hits: np.ndarray, called: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (AUROC, AUPRC) from positives and rows at each threshold, highest first: shape=(R, groups) each."""
    n_hits, n_called = np.cumsum(hits, axis=1), np.cumsum(called, axis=1)
    misses = called - hits
    positives, negatives = n_hits[:, -1], n_called[:, -1] - n_hits[:, -1]
    roc_auc = _divide(np.sum(misses * (n_hits - hits / 2), axis=1), positives * negatives)
    pr_auc = _divide(np.sum(hits * n_hits / np.maximum(n_called, 1), axis=1), np.where(negatives > 0, positives, 0))
    return roc_auc, pr_auc


def classification(plan: Resampling, label: np.ndarray, called: np.ndarray) -> dict[str, np.ndarray]:
    """Return accuracy, precision, recall, f1 and base_rate; label, called: shape=(n,), 0 or 1 (True = called open).

    Precision is 0 where nothing is called, as in scikit-learn with zero_division=0; recall is NaN without a positive.
    """
    label, called = np.asarray(label) == 1, np.asarray(called).astype(bool)
    sums = plan.sums(np.stack([label & called, ~label & called, label & ~called, ~label & ~called], axis=1))
    tp, fp, fn, tn = sums.T
    total = sums.sum(axis=1)
    precision = np.where(tp + fp > 0, _divide(tp, tp + fp), 0.0)
    return {
        "accuracy": _divide(tp + tn, total), "precision": precision, "recall": _divide(tp, tp + fn),
        "f1": _divide(2 * tp, 2 * tp + fp + fn), "base_rate": _divide(tp + fn, total),
    }
