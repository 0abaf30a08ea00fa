"""Checks of the measured scores in a table of predictions: are they labels that a model could have learned from?

None of them needs the dataset or the model, so they judge anybody's table; scores count whatever was predicted.
"""

import math

import numpy as np

from chromacc_lib.checks import Check, enough, flat, judge, not_run, pearson, r_half_width, rule_text
from chromacc_lib.tables import Table

__all__ = ["score_checks"]


def score_checks(table: Table) -> list[Check]:
    """Run the checks of what was measured."""
    return [_check_scores_vary(table), _check_score_scale(table), _check_labels_agree(table), _check_compared(table)]


def _check_scores_vary(table: Table) -> Check:
    """Do the scores of a cell type differ between windows? Share of cell types, with three rows or more, where not."""
    kept = {name: flat(group.to_numpy(float)) for name, group in table.scored.groupby("cell_type")["score"]
            if len(group) >= 3}
    if not kept:
        return not_run("scores vary", "data", "no cell type has three rows with a known score")
    constant = [str(name) for name, is_flat in kept.items() if is_flat]
    value = len(constant) / len(kept)
    named = ", ".join(constant[:5]) + (f" and {len(constant) - 5} more" if len(constant) > 5 else "")
    one = table.scored.loc[table.scored["cell_type"].astype(str).isin(constant), "score"]
    each = "" if one.empty else f", such as {one.iloc[0]:.3g}"
    sentence = (f"The scores of all {len(kept)} cell types vary between windows." if not constant else
                f"The scores of {len(constant)} of {len(kept)} cell types are the same at every window{each}: {named}.")
    return Check("scores vary", "data", value, "share of cell types with constant scores: warn above 0, fail at half "
                 "or more", "fail" if value >= 0.5 else "warn" if constant else "ok", sentence, {"constant": constant})


def _check_score_scale(table: Table) -> Check:
    """Are the measured scores of all cell types in one unit?

    A factor shows in the spread of linear scores, and in the level of scores on a log or arcsinh scale: both are held
    against the median cell type, the level in its standard deviations.
    """
    cells = table.scored.groupby("cell_type")["score"].agg(["mean", "std", "size"])
    cells = cells[cells["size"] >= 20]
    middle = cells.median()
    if len(cells) < 3 or not middle["std"] > 1e-7 * max(1.0, abs(middle["mean"])):
        return not_run("score scale", "data", "fewer than three cell types have 20 rows or more" if len(cells) < 3 else
                       "the scores of half of the cell types do not vary")
    spread = cells["std"]
    ratio = np.maximum(spread / middle["std"], middle["std"] / spread.clip(lower=1e-12))
    level = (cells["mean"] - middle["mean"]).abs() / max(middle["std"], 1e-12)
    value = np.maximum(ratio / 4, level / 1.5)
    worst = value.idxmax()
    return Check("score scale", "data", float(value[worst]),
                 rule_text("spread over 4 times, or level over 1.5 standard deviations away from, the median cell "
                           "type's, as a share of that", 0.6, 1), judge(float(value[worst]), 0.6, 1),
                 f"The scores of {worst} have mean {cells['mean'][worst]:.3g} and standard deviation "
                 f"{spread[worst]:.3g}; the median cell type has {middle['mean']:.3g} and {middle['std']:.3g}.",
                 {"score_std": spread.to_dict()})


def _check_labels_agree(table: Table) -> Check:
    """Do cell types agree on what is open at a locus? Median over cell types of r with the mean of the others.

    The mean of other cell types at a locus foretells much of what is measured there in one more (Schreiber et al. 2020,
    "A pitfall for machine learning methods aiming to predict across cell types", Genome Biology 21:282): scores without
    any agreement are noise, or stand at other windows than their own, or had the mean of the locus taken off; after
    that they cannot agree, and what is left of r is negative.
    """
    name = "labels agree between cell types"
    scores = table.scored.pivot(index="window", columns="cell_type", values="score").to_numpy(float)
    known = np.isfinite(scores)
    n = int((known.sum(1) >= 3).sum())
    if scores.shape[1] < 3 or not enough(n):
        return not_run(name, "data", f"{n} windows are measured in three cell types, and give r to "
                       f"±{r_half_width(n):.2f}")
    r = _agreement_by_cell_type(scores)
    if not np.isfinite(r).any():
        return not_run(name, "data", "the scores do not vary")
    value, chance = float(np.nanmedian(r)), max(0.05, 2 / math.sqrt(n))
    centred = value < -chance
    sentence = f"At the same window, the scores of a cell type correlate with the mean of the others at {value:.3f} " \
               f"(median over cell types; chance: {chance:.3f})."
    if centred:
        sentence += " That is below chance: the scores look centred by locus, after which cell types cannot agree, " \
                    "so this says nothing of whether they are noise."
    return Check(name, "data", value, rule_text("r of a cell type's scores with the mean of the others", 0.2,
                 round(chance, 3)) + "; below minus chance warn, since scores are centred by locus",
                 "warn" if centred else judge(value, 0.2, chance), sentence)


def _agreement_by_cell_type(scores: np.ndarray) -> list[float]:
    """Return each cell type's r of its scores with the mean of the others'; scores: shape=(W, C), NaN = unknown."""
    known = np.isfinite(scores)
    count = known.sum(axis=0)
    scores = scores - np.where(known, scores, 0).sum(axis=0) / np.maximum(count, 1)
    total, count = np.where(known, scores, 0).sum(1), known.sum(1)
    r = []
    for c in range(scores.shape[1]):
        others = np.where(count - known[:, c] > 0, (total - np.where(known[:, c], scores[:, c], 0))
                          / np.maximum(count - known[:, c], 1), np.nan)
        r.append(pearson(scores[:, c], others))
    return r


def _check_compared(table: Table) -> Check:
    """Is there another cell type to compare with? Without one, the locus average cannot be told from a good model."""
    rows, name = table.headline, "another cell type to compare with"
    average = "average_score" in rows and bool(rows["average_score"].notna().any())
    shared = int((table.scored.groupby("window").size() >= 2).sum())
    if shared or average:
        sentence = f"{shared} windows are measured in two cell types or more; the locus average is " \
            f"{'known' if average else 'not known'}."
    else:
        sentence = "There is no other cell type to compare with: no window is measured in two, and the table has no " \
            "average_score, so predictions that repeat the locus average would look as good."
    return Check(name, "generalisation", float(shared), "windows measured in two cell types, or a locus average: fail without "
                 "either", "ok" if average or shared else "fail", sentence)
