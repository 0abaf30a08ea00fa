"""Checks of the measured scores in a table of predictions: are they labels that a model could have learned from?

None of them needs the dataset or the model, so they judge anybody's table.
"""

import math

import numpy as np

from chromacc_lib.checks import FEW_WINDOWS, Check, judge, not_run, pearson, rule_text
from chromacc_lib.tables import Table

__all__ = ["score_checks"]


def score_checks(table: Table) -> list[Check]:
    """Run the checks of what was measured."""
    return [_check_score_scale(table), _check_labels_agree(table)]


def _check_score_scale(table: Table) -> Check:
    """Are the measured scores of all cell types in one unit?

    A factor shows in the spread of linear scores, and in the level of scores on a log or arcsinh scale: both are held
    against the median cell type, the level in its standard deviations.
    """
    cells = table.rows.groupby("cell_type")["score"].agg(["mean", "std", "size"])
    cells = cells[cells["size"] >= 20]
    if len(cells) < 3:
        return not_run("score scale", "data", "fewer than three cell types have 20 rows or more")
    spread, middle = cells["std"], cells.median()
    ratio = np.maximum(spread / middle["std"], middle["std"] / spread.clip(lower=1e-12))
    level = (cells["mean"] - middle["mean"]).abs() / max(middle["std"], 1e-12)
    value = np.maximum(ratio / 4, level / 1.5)
    worst = value.idxmax()
    return Check("score scale", "data", float(value[worst]),
                 rule_text("spread over 4 times, or level over 1.5 standard deviations away from, the median cell type's, "
                           "as a share of that", 0.6, 1), judge(float(value[worst]), 0.6, 1),
                 f"The scores of {worst} have mean {cells['mean'][worst]:.3g} and standard deviation {spread[worst]:.3g}; "
                 f"the median cell type has {middle['mean']:.3g} and {middle['std']:.3g}.", {"score_std": spread.to_dict()})


def _check_labels_agree(table: Table) -> Check:
    """Do cell types agree on what is open at a locus? Median over cell types of r with the mean of the others.

    Most of accessibility is shared by cell types (ENCODE 2020, Nature 583:699): scores without any agreement are noise,
    or stand at other windows than their own.
    """
    name = "labels agree between cell types"
    scores = table.rows.pivot(index="window", columns="cell_type", values="score").to_numpy(float)
    known = np.isfinite(scores)
    n = int((known.sum(1) >= 3).sum())
    if scores.shape[1] < 3 or n < FEW_WINDOWS:
        return not_run(name, "data", f"{n} windows are measured in three cell types, fewer than {FEW_WINDOWS}")
    scores = scores - np.nanmean(scores, axis=0)
    total, count = np.where(known, scores, 0).sum(1), known.sum(1)
    r = []
    for c in range(scores.shape[1]):
        others = np.where(count - known[:, c] > 0, (total - np.where(known[:, c], scores[:, c], 0))
                          / np.maximum(count - known[:, c], 1), np.nan)
        r.append(pearson(scores[:, c], others))
    value, chance = float(np.nanmedian(r)) if np.isfinite(r).any() else 0.0, max(0.05, 2 / math.sqrt(n))
    return Check(name, "data", value, rule_text("r of a cell type's scores with the mean of the others", 0.2, round(chance, 3)),
                 judge(value, 0.2, chance), f"At the same window, the scores of a cell type correlate with the mean of the "
                 f"others at {value:.3f} (median over cell types; chance: {chance:.3f}).")
