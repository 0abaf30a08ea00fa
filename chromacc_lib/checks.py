"""Checks: each returns a value, its rule, a verdict and a sentence; here is what all of them share.

`checks_scores` and `checks_predictions` judge anybody's table of predictions, `checks_history` a training history;
`checks_inputs`, `checks_labels` and `checks_model` need the dataset or the model. `collapse.diagnose` runs them all and
names the cause.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from chromacc_lib.tables import Table

__all__ = [
    "auc_half_width", "Check", "draw", "enough", "flat", "judge", "median_r", "not_run", "partial", "pearson",
    "prefer_unseen", "quadrant_table", "r_half_width", "rule_text", "skill_over_average", "Table", "variance_table",
]

FEW_WINDOWS = 100  # below this a correlation is known to no better than +-0.2
R_WIDTH = (0.12, 0.17)    # warn, fail: half-width of the 95% interval of r; 267 and 134 windows
AUC_WIDTH = (0.07, 0.10)  # the same of the ROC-AUC, where half of so many windows are open
QUADRANTS = tuple((cell, chromosome) for cell in ("train", "test") for chromosome in ("train", "test"))


@dataclass(frozen=True)
class Check:
    """One question put to the run. `value` is NaN when not run; `detail` holds the numbers that a figure needs."""

    name: str
    group: str      # data, model, optimisation or generalisation
    value: float
    rule: str
    verdict: str    # ok, warn, fail or not run
    sentence: str
    detail: dict[str, Any] = field(default_factory=dict)


# --- shared arithmetic ---------------------------------------------------------------------------------------

def judge(value: float, warn: float, fail: float) -> str:
    """Return ok, warn or fail; higher is worse when fail > warn, else lower is worse."""
    sign = 1 if fail > warn else -1
    return "fail" if sign * value > sign * fail else "warn" if sign * value > sign * warn else "ok"


def rule_text(what: str, warn: float, fail: float) -> str:
    """Say in words what `judge` does with the same two limits."""
    side = "above" if fail > warn else "below"
    return f"{what}: warn {side} {warn:g}, fail {side} {fail:g}"


def not_run(name: str, group: str, why: str) -> Check:
    """Return a check that could not be run, and why."""
    return Check(name, group, math.nan, "", "not run", f"Not run: {why}.")


def draw(items: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return at most n of the items, without replacement, in their order."""
    return items if len(items) <= n else np.sort(rng.choice(items, n, replace=False))


def prefer_unseen(split: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of at most n items, test ones first (up to half of n), then the others at random."""
    test = draw(np.flatnonzero(split == "test"), max(1, n // 2), rng)
    rest = np.setdiff1d(np.arange(len(split)), test)
    return np.sort(np.concatenate([test, draw(rest, n - len(test), rng)]))


def flat(values: np.ndarray) -> bool:
    """Say whether values are all the same, but for rounding."""
    return values.size == 0 or float(np.ptp(values)) <= 1e-7 * max(1.0, float(np.abs(values).max()))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's r over the entries where both are known; NaN below 3 entries or without variation."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = np.asarray(a, float)[both], np.asarray(b, float)[both]
    if both.sum() < 3 or flat(a) or flat(b):
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def partial(r_xy: float, r_xz: float, r_yz: float) -> float:
    """Return the correlation of x and y once z is held fixed; 0 when z explains x or y entirely."""
    left = (1 - r_xz**2) * (1 - r_yz**2)
    return 0.0 if left < 1e-9 else (r_xy - r_xz * r_yz) / math.sqrt(left)


def auc_half_width(n_positive: int, n_negative: int, auc: float = 0.5) -> float:
    """Return half the width of the 95% interval of a ROC-AUC, at most 0.5 (Hanley & McNeil 1982, Radiology 143:29)."""
    if n_positive < 1 or n_negative < 1:
        return 0.5
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (n_positive - 1) * (q1 - auc**2) + (n_negative - 1) * (q2 - auc**2))
    return min(0.5, 1.96 * math.sqrt(variance / (n_positive * n_negative)))


def r_half_width(n: int) -> float:
    """Return half the width of the 95% interval of an r of 0, at most 1 (Fisher's z: Fisher 1921, Metron 1:3)."""
    return math.tanh(1.96 / math.sqrt(n - 3)) if n > 3 else 1.0


def enough(n: int) -> bool:
    """Say whether n windows tell r from 0 well enough that its absence is a finding."""
    return r_half_width(n) <= R_WIDTH[1]


# --- tables of statistics ---------------------------------------------------------------------------------------

def variance_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a cell type: n_windows, score_std, predicted_std, variance_ratio, r, r_squared, level.

    For a predictor that minimises the squared error, var(predicted) / var(score) equals r squared; both low means
    that nothing was learned, a ratio below r squared means shrinkage. level = mean(predicted - score) / score_std.
    r is 0 for a constant prediction, and NaN (with the ratio) for a constant score or fewer than 3 windows.
    """
    out = []
    for name, group in rows.groupby("cell_type", sort=False):
        y, p = group["score"].to_numpy(float), group["predicted_score"].to_numpy(float)
        known = len(y) >= 3 and not flat(y)
        r = math.nan if not known else 0.0 if flat(p) else pearson(y, p)
        out.append({"cell_type": name, "n_windows": len(y), "score_std": y.std(), "predicted_std": p.std(),
                    "variance_ratio": p.var() / y.var() if known else math.nan, "r": r, "r_squared": r**2,
                    "level": (p - y).mean() / y.std() if known else math.nan})
    return pd.DataFrame(out, columns=["cell_type", "n_windows", "score_std", "predicted_std", "variance_ratio", "r",
                                      "r_squared", "level"])


def quadrant_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a quadrant: cell_types and chromosomes (seen/unseen), n_rows, n_windows, r, average_r and skill.

    r and average_r are medians over cell types of Pearson's r of prediction, and of locus average, with the score;
    skill is 1 - MSE(prediction)/MSE(locus average).
    Empty when the table has no split columns.
    """
    words, out = {"train": "seen", "test": "unseen"}, []
    if not {"cell_type_split", "window_split"} <= set(rows.columns):
        return pd.DataFrame(columns=["cell_types", "chromosomes", "n_rows", "n_windows", "r", "average_r", "skill"])
    for cell, chrom in QUADRANTS:
        part = rows[(rows["cell_type_split"] == cell) & (rows["window_split"] == chrom)]
        out.append({"cell_types": words[cell], "chromosomes": words[chrom], "n_rows": len(part),
                    "n_windows": part["window"].nunique(), "r": median_r(part, "predicted_score"),
                    "average_r": median_r(part, "average_score"), "skill": skill_over_average(part)})
    return pd.DataFrame(out)


def skill_over_average(rows: pd.DataFrame) -> float:
    """1 - MSE(prediction)/MSE(locus average) over the rows that have one; NaN without any."""
    known = rows[rows["average_score"].notna()] if "average_score" in rows else rows.iloc[:0]
    error = float(((known["score"] - known["average_score"])**2).mean()) if len(known) else 0.0
    return 1 - float(((known["score"] - known["predicted_score"])**2).mean()) / error if error > 0 else math.nan


def median_r(rows: pd.DataFrame, column: str, other: str = "score") -> float:
    """Return the median over cell types of Pearson's r between two columns; NaN when a column or rows are absent."""
    if column not in rows or other not in rows or rows.empty:
        return math.nan
    per_cell = [pearson(g[column].to_numpy(float), g[other].to_numpy(float)) for _, g in rows.groupby("cell_type")]
    known = [r for r in per_cell if math.isfinite(r)]
    return float(np.median(known)) if known else math.nan
