"""How much could any model reach? What noise in the measurement leaves of correlation and of skill.

The noise-free truth of a simulation sets it, else the agreement of replicates. Counting noise could also be had from a
single file by thinning its reads, but not from what a dataset holds: its signals are folds over the genome-wide mean,
which do not tell how many reads stand behind them. So without truth and replicates no ceiling is known, and it is said.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from chromacc_lib import intervals as iv
from chromacc_lib.calibration import Plan
from chromacc_lib.comparison import residual

__all__ = ["ceiling", "replicate_table"]

NOT_KNOWN = (
    "No ceiling known: there is no noise-free truth, no unseen cell type has a second replicate, and reads cannot be "
    "thinned, because bigWigs of fold do not tell how many reads stand behind a value."
)


def replicate_table(score_replicate: np.ndarray, cell_types: list[str]) -> pd.DataFrame:
    """Return columns cell_type, window, replicate_1 to replicate_R where at least two of them are known, else NaN.

    score_replicate: shape=(W, C, R), float, arcsinh fold, NaN = not measured. Empty with fewer than two.
    """
    n_windows, n_cells, n_replicates = score_replicate.shape
    values = score_replicate.transpose(1, 0, 2).reshape(-1, n_replicates)  # (W, C, R) -> (C*W, R)
    table = pd.DataFrame(values, columns=[f"replicate_{i + 1}" for i in range(n_replicates)])
    table.insert(0, "cell_type", np.repeat(cell_types, n_windows))
    table.insert(1, "window", np.tile(np.arange(n_windows), n_cells))
    return table[np.isfinite(values).sum(axis=1) >= 2].reset_index(drop=True)


def ceiling(rows: pd.DataFrame, plan_of: Plan, replicates: pd.DataFrame | None) -> dict[str, object]:
    """Return the highest Pearson and skill that any model could reach, and what share of them the model reaches.

    The rows whose truth is known are used; where there are none, those with replicates (of `replicate_table`). Keys: kind, sentence, and where a
    ceiling is known rows, of_rows, pearson, skill, fraction_of_pearson, fraction_of_skill; concordance from replicates.
    """
    known = np.isfinite(rows["truth"].to_numpy(np.float64))
    if known.any():
        return _from_truth(rows[known], plan_of(rows[known]), len(rows))
    both = None if replicates is None else rows.merge(replicates, on=["cell_type", "window"])
    if both is None or both.empty:
        return {"kind": "none", "sentence": NOT_KNOWN}
    return _from_replicates(both, plan_of(both), len(rows))


def _from_truth(rows: pd.DataFrame, plan: iv.Resampling, n_all: int) -> dict[str, object]:
    """Return the ceiling that noise-free truth sets.

    Background and depth of a file stretch and shift its scores, so a line a cell type puts the truth on their scale: of
    all such lines the one with the highest correlation and the lowest error.
    """
    measured, truth, average = (rows[c].to_numpy(np.float64) for c in ("score", "truth", "average_score"))
    on_scale = measured - residual(measured, truth, rows["cell_type"].to_numpy())
    top = iv.pearson(plan, measured, on_scale), iv.skill(plan, measured, on_scale, average)
    return _entry("noise-free truth of the simulation", "whose truth is known", rows, n_all, plan, *top)


def _from_replicates(rows: pd.DataFrame, plan: iv.Resampling, n_all: int) -> dict[str, object]:
    """Return the ceiling that replicates set: the score is the mean of k, and 1/k of their variance is its noise.

    Where all replicates vary alike, 1 - noise / variance is the reliability that Spearman and Brown give for the mean
    of k replicates, k r / (1 + (k - 1) r). Here k may differ from row to row. How far a replicate lies from the
    others all along its cell type is no noise of a window, and is taken off first.
    """
    names = [name for name in rows if name.startswith("replicate_")]
    values = rows[names].to_numpy(np.float64)
    k = np.isfinite(values).sum(axis=1)
    apart = pd.DataFrame(values - np.nanmean(values, axis=1, keepdims=True))
    apart -= apart.groupby(rows["cell_type"].to_numpy()).transform("mean")
    noise = iv.mean(plan, (apart ** 2).sum(axis=1).to_numpy() / (k - 1) / k)
    measured, average = (rows[c].to_numpy(np.float64) for c in ("score", "average_score"))
    variance, loss = iv.standard_deviation(plan, measured) ** 2, iv.mse(plan, measured, average)
    kept = 1 - np.divide(noise, variance, out=np.full(len(plan), np.nan), where=variance > 0)
    top = np.sqrt(np.where(kept > 0, kept, np.nan)), 1 - np.divide(noise, np.where(loss > 0, loss, np.nan))
    agreement = []
    for i, j in combinations(range(len(names)), 2):
        pair = np.isfinite(values[:, [i, j]]).all(axis=1)
        if pair.any():
            agreement.append(iv.pearson(plan.take(pair), *values[pair][:, [i, j]].T))
    entry = _entry("replicate concordance (Spearman-Brown)", "with two replicates or more", rows, n_all, plan, *top)
    return entry | {"concordance": iv.interval(np.mean(agreement, axis=0), plan, iv.CORRELATION)}


def _entry(kind: str, which: str, rows: pd.DataFrame, n_all: int, plan: iv.Resampling, pearson: np.ndarray,
           skill: np.ndarray) -> dict[str, object]:  # fmt: skip
    """Return a ceiling, given under every weighting, and the model's share of it on the same rows; which: of them all."""
    measured, average, predicted = (rows[c].to_numpy(np.float64) for c in ("score", "average_score", "predicted_score"))
    reached = iv.pearson(plan, measured, predicted), iv.skill(plan, measured, predicted, average)
    share = [_share(r / np.where(top > 0, top, np.nan), plan) for r, top in zip(reached, (pearson, skill), strict=True)]
    where = "here" if len(rows) == n_all else f"on the {len(rows):,} of {n_all:,} rows {which}"
    return {
        "kind": kind, "rows": len(rows), "of_rows": n_all, "pearson": iv.interval(pearson, plan, iv.CORRELATION),
        "fraction_of_pearson": share[0], "skill": iv.skill_interval(skill, plan), "fraction_of_skill": share[1],
        "sentence": f"The highest Pearson that any model can reach {where} is {pearson[0]:.3f}, and the highest skill "
                    f"{skill[0]:.3f} ({kind}); the model reaches {_percent(share[0])} and {_percent(share[1])} of "
                    "them.",
    }


def _share(values: np.ndarray, plan: iv.Resampling) -> dict[str, float]:
    """Return a share of a ceiling with its interval, on the logit where it lies between 0 and 1 under every weighting.

    A ceiling is an estimate itself: replicates can agree less than the model does, and a skill can be below 0.
    """
    inside = (values > 0) & (values < 1) | np.isnan(values)
    return iv.interval(values, plan, iv.SHARE if inside.all() else iv.REAL)


def _percent(share: dict[str, float]) -> str:
    return f"{100 * share['value']:.0f}%" if np.isfinite(share["value"]) else "an undefined share"
