"""Checks of predictions and of a training history: each returns a value, its rule, a verdict and a sentence.

None of them needs the dataset or the model, so they judge anybody's predictions; `checks_inputs` and `checks_model` have those that do.
`collapse.diagnose` runs them all and names the cause.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import Arrays, locus_average

__all__ = [
    "auc_half_width", "Check", "draw", "flat", "judge", "not_run", "pearson", "prediction_checks",
    "prefer_unseen", "prepare", "quadrant_table", "rule_text", "Table", "variance_table",
]

FEW_WINDOWS = 100  # below this a correlation is known to no better than +-0.2
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


def _partial(r_xy: float, r_xz: float, r_yz: float) -> float:
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


# --- the table of predictions --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Table:
    """A validated table of predictions; `prepare` makes it."""

    rows: pd.DataFrame       # score known and prediction finite; average_score added where it can be computed
    headline: pd.DataFrame   # the rows that the verdict rests on
    scope: str               # which rows those are, in words
    n_given: int
    n_unscored: int
    n_not_finite: int

    def windows(self) -> int:
        """Number of different windows in the headline rows."""
        return int(self.headline["window"].nunique())


def prepare(predictions: pd.DataFrame, arrays: Arrays | None) -> Table:
    """Validate the table and choose the headline rows; see `diagnose` for the columns and what is raised."""
    required = ["cell_type", "window", "score", "predicted_score"]
    missing = [name for name in required if name not in predictions.columns]
    if missing:
        raise ChromaccError(f"diagnose: the table of predictions lacks the columns {', '.join(missing)}; it has "
                            f"{', '.join(map(str, predictions.columns))}. Rename them, or add them.")
    twice = int(predictions.duplicated(["cell_type", "window"]).sum())
    if twice:
        raise ChromaccError(f"diagnose: {twice} of {len(predictions)} rows repeat a (cell_type, window) pair; "
                            "each pair may occur once. Drop or average the repeats.")
    known = np.isfinite(predictions["score"].to_numpy(float))
    finite = np.isfinite(predictions["predicted_score"].to_numpy(float))
    if not known.any():
        raise ChromaccError(f"diagnose: none of {len(predictions)} rows has a known score; give measured scores.")
    if arrays is not None:
        _match_arrays(predictions, arrays)
    rows = _with_average(predictions[known & finite].reset_index(drop=True))
    headline, scope = _headline(rows)
    return Table(rows, headline, scope, len(predictions), int((~known).sum()), int((known & ~finite).sum()))


def _match_arrays(predictions: pd.DataFrame, arrays: Arrays) -> None:
    """Raise ChromaccError unless cell types and window indices of the table exist in the dataset."""
    unknown = sorted(set(predictions["cell_type"]) - set(arrays.cell_types["cell_type"]))
    if unknown:
        raise ChromaccError(f"diagnose: cell types {', '.join(unknown[:5])} of the predictions are not in the "
                            "dataset; give the dataset that the predictions were made for.")
    n_windows = len(arrays.windows)
    wrong = ~predictions["window"].isin(range(n_windows))
    if wrong.any():
        raise ChromaccError(f"diagnose: {int(wrong.sum())} rows name windows such as "
                            f"{predictions['window'][wrong].iloc[0]}; the dataset has {n_windows} windows, 0 to "
                            f"{n_windows - 1}. Give the dataset that the predictions were made for.")


def _headline(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows that come closest to unseen x unseen, and their name."""
    cell, chrom = (rows.get(name, pd.Series("", index=rows.index)) for name in ("cell_type_split", "window_split"))
    choices = {"unseen cell types on unseen chromosomes": (cell == "test") & (chrom == "test"),
               "seen cell types on unseen chromosomes": (cell == "train") & (chrom == "test"),
               "unseen cell types on seen chromosomes": (cell == "test") & (chrom == "train")}
    for scope, chosen in choices.items():
        if chosen.any():
            return rows[chosen], scope
    return rows, "all rows that were given"


def _with_average(rows: pd.DataFrame) -> pd.DataFrame:
    """Add average_score, the locus average, when the table lacks it and holds three training cell types or more."""
    if "average_score" in rows:
        return rows
    scores = rows.pivot(index="window", columns="cell_type", values="score")
    split = rows.groupby("cell_type")["cell_type_split"].first() if "cell_type_split" in rows else None
    train = np.ones(scores.shape[1], bool) if split is None else (split.reindex(scores.columns) == "train").to_numpy()
    if train.sum() < 3:
        return rows
    average = pd.DataFrame(locus_average(scores.to_numpy(np.float32), train), scores.index, scores.columns)
    return rows.merge(average.stack().rename("average_score"), on=["window", "cell_type"], how="left")


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
    return pd.DataFrame(out)


def quadrant_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a quadrant: cell_types and chromosomes (seen/unseen), n_rows, n_windows, r and average_r.

    r and average_r are medians over cell types of Pearson's r of prediction, and of locus average, with the score.
    Empty when the table has no split columns.
    """
    words, out = {"train": "seen", "test": "unseen"}, []
    if not {"cell_type_split", "window_split"} <= set(rows.columns):
        return pd.DataFrame(columns=["cell_types", "chromosomes", "n_rows", "n_windows", "r", "average_r"])
    for cell, chrom in QUADRANTS:
        part = rows[(rows["cell_type_split"] == cell) & (rows["window_split"] == chrom)]
        out.append({"cell_types": words[cell], "chromosomes": words[chrom], "n_rows": len(part),
                    "n_windows": part["window"].nunique(), "r": _median_r(part, "predicted_score"),
                    "average_r": _median_r(part, "average_score")})
    return pd.DataFrame(out)


def _median_r(rows: pd.DataFrame, column: str, other: str = "score") -> float:
    """Return the median over cell types of Pearson's r between two columns; NaN when a column or rows are absent."""
    if column not in rows or other not in rows or rows.empty:
        return math.nan
    per_cell = [pearson(g[column].to_numpy(float), g[other].to_numpy(float)) for _, g in rows.groupby("cell_type")]
    known = [r for r in per_cell if math.isfinite(r)]
    return float(np.median(known)) if known else math.nan


# --- checks on the predictions alone -------------------------------------------------------------------------

def prediction_checks(table: Table, evaluation: dict[str, Any] | None) -> list[Check]:
    """Run the checks that need no data and no model."""
    cells = variance_table(table.headline)
    return [_check_power(table), _check_finite(table), _check_score_scale(table), _check_labels_agree(table), _check_constant(table),
            _check_association(table, cells), _check_variance(table, cells), _check_level(table, cells),
            _check_training_fit(table),
            _check_residual(table), _check_variation(table), _check_skill(table, evaluation),
            *_check_gaps(table), _check_gc(table), _check_class_prior(table)]


def _check_power(table: Table) -> Check:
    """How well can these rows tell a ROC-AUC of 0.5 from others? Half-width after Hanley & McNeil (1982).

    Rows of one window in several cell types are not independent, so windows are counted, not rows. Without labels
    the score is split at its median, which gives the narrowest interval that is possible.
    """
    rows, n, n_cells = table.headline, table.windows(), table.headline["cell_type"].nunique()
    known = rows[rows["label"] >= 0] if "label" in rows else rows.iloc[:0]
    base = float((known["label"] == 1).mean()) if len(known) else 0.5
    positive = round(base * n)
    value = auc_half_width(positive, n - positive)
    kept = f"{len(table.rows)} of {table.n_given} rows are used" + (
        f", because {table.n_unscored} have no known score" if table.n_unscored else "")
    return Check("power", "data", value, rule_text("half-width of the AUC's 95% interval", 0.07, 0.10),
                 judge(value, 0.07, 0.10),
                 f"{n} windows in {n_cells} cell type{'s' * (n_cells != 1)} ({table.scope}) give an AUC interval of "
                 f"±{value:.3f}; {kept}.", {"n_windows": n, "base_rate": base})


def _check_finite(table: Table) -> Check:
    """Are all predictions numbers?"""
    value = table.n_not_finite / max(1, table.n_given - table.n_unscored)
    return Check("finite predictions", "model", value, "share that is NaN or infinite: fail above 0",
                 "fail" if value > 0 else "ok",
                 f"{table.n_not_finite} of {table.n_given - table.n_unscored} predictions are NaN or infinite.")


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
    value = np.maximum(ratio / 4, level / 2)
    worst = value.idxmax()
    return Check("score scale", "data", float(value[worst]),
                 rule_text("spread over 4 times, or level over 2 standard deviations away from, the median cell type's, "
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


def _check_constant(table: Table) -> Check:
    """Do predictions vary at all? Standard deviation of the predictions over that of the scores, same rows."""
    spread = float(table.headline["score"].std(ddof=0))
    if not spread > 0:
        return not_run("constant output", "model", f"the scores do not vary on {table.scope}")
    predicted = float(table.headline["predicted_score"].std(ddof=0))
    value = predicted / spread
    return Check("constant output", "model", value, rule_text("std of predictions over std of scores", 0.25, 0.05),
                 judge(value, 0.25, 0.05),
                 f"Predictions have mean {table.headline['predicted_score'].mean():.3g} and standard deviation "
                 f"{predicted:.3g}, {value:.2f} of the scores' {spread:.3g}.")


def _check_association(table: Table, cells: pd.DataFrame) -> Check:
    """Do predictions follow the scores? Median over cell types of Pearson's r, against its noise 2/sqrt(windows)."""
    n, r = table.windows(), float(cells["r"].median())
    if n < FEW_WINDOWS or not math.isfinite(r):
        return not_run("association", "model", f"{n} windows, fewer than {FEW_WINDOWS}" if n < FEW_WINDOWS
                        else "the scores do not vary")
    noise = 2 / math.sqrt(n)
    verdict = "fail" if r < max(0.05, noise) else "warn" if r < 0.3 else "ok"
    return Check("association", "model", r, f"r: fail below {max(0.05, noise):.2g} (no better than chance), warn "
                 "below 0.3", verdict,
                 f"Predictions correlate with the scores at r = {r:.3f} (median over cell types, {table.scope}, "
                 f"chance alone gives up to ±{noise:.3f}).")


def _check_variance(table: Table, cells: pd.DataFrame) -> Check:
    """Read var(predicted)/var(score) against r squared: equal for a predictor that minimises the squared error.

    It follows from the decomposition of the mean squared error (Murphy 1988, Mon. Weather Rev. 116:2417).
    """
    ratio, r2 = float(cells["variance_ratio"].median()), float(cells["r_squared"].median())
    if not math.isfinite(ratio):
        return not_run("variance ratio", "model", "the scores do not vary")
    if r2 < 4 / table.windows():
        verdict, reading = "fail", ("both low: the mean is predicted, which is right when nothing can be learned"
                                    if ratio < 0.05 else "predictions vary without following the scores")
    elif ratio < 0.5 * r2:
        verdict, reading = ("fail" if ratio < 0.2 * r2 else "warn"), "right order, too small amplitude (shrinkage)"
    elif ratio > r2 + 0.4:
        verdict, reading = ("fail" if ratio > r2 + 1 else "warn"), "predictions vary more than they know"
    else:
        verdict, reading = "ok", "the two agree, as they should"
    return Check("variance ratio", "model", ratio, "against r²: warn below 0.5 r² or above r² + 0.4, fail below "
                 "0.2 r², above r² + 1, or when r² is chance", verdict,
                 f"Predictions hold {ratio:.3f} of the scores' variance, with r² = {r2:.3f}: {reading}.",
                 {"r_squared": r2, "per_cell_type": cells})


def _check_level(table: Table, cells: pd.DataFrame) -> Check:
    """Are predictions right on average in every cell type? Largest |mean(predicted - score)| over the scores' std."""
    level = cells.set_index("cell_type")["level"].dropna()
    if table.windows() < FEW_WINDOWS or level.empty:
        return not_run("level", "model", f"fewer than {FEW_WINDOWS} windows, or the scores do not vary")
    worst = level.abs().idxmax()
    value = float(abs(level[worst]))
    return Check("level", "model", value, rule_text("|mean of predicted - score| over the scores' std", 0.5, 1),
                 judge(value, 0.5, 1), f"In {worst}, where it is worst, predictions lie {level[worst]:+.2f} standard "
                 "deviations of the scores off on average.", {"level": level.to_dict()})


def _check_training_fit(table: Table) -> Check:
    """Does the model fit the rows it was trained on? Median r on seen cell types and seen chromosomes."""
    quadrants = quadrant_table(table.rows)
    if quadrants.empty or quadrants.loc[0, "n_windows"] < FEW_WINDOWS:
        return not_run("training fit", "optimisation", "the table has no split columns" if quadrants.empty else
                        f"fewer than {FEW_WINDOWS} training windows")
    seen = table.rows[(table.rows["cell_type_split"] == "train") & (table.rows["window_split"] == "train")]
    r, n = float(variance_table(seen)["r"].median()), int(quadrants.loc[0, "n_windows"])
    noise = 2 / math.sqrt(n)
    verdict = "fail" if not r >= max(0.1, noise) else "warn" if r < 0.3 else "ok"
    return Check("training fit", "optimisation", r, rule_text("r on training rows", 0.3, max(0.1, round(noise, 3))),
                 verdict, f"On the {n} windows that the model was trained on, predictions correlate with the "
                 f"scores at r = {r:.3f} (chance: ±{noise:.3f}).")


def _check_residual(table: Table) -> Check:
    """What does the model know beyond the locus average? Partial correlation of score and prediction given it.

    The difference to the average at the same locus is what a model of unseen cell types is for (Schreiber et al.
    2020, Genome Biology 21:82, "A pitfall for machine learning methods aiming to predict across cell types").
    """
    rows, n = table.headline, table.windows()
    if "average_score" not in rows:
        return not_run("locus-average residual", "model", "no average_score, and fewer than three training cell "
                        "types to compute it from")
    parts = [tuple(pearson(g[a].to_numpy(float), g[b].to_numpy(float)) for a, b in
                   (("score", "predicted_score"), ("score", "average_score"), ("predicted_score", "average_score")))
             for _, g in rows.groupby("cell_type")]
    parts = [part for part in parts if all(map(math.isfinite, part))]
    if n < FEW_WINDOWS or not parts:
        return not_run("locus-average residual", "model", f"fewer than {FEW_WINDOWS} windows, or nothing varies")
    value = float(np.median([_partial(*part) for part in parts]))
    copy = float(np.median([part[2] for part in parts]))
    limit = max(0.1, round(2 / math.sqrt(n), 3))
    return Check("locus-average residual", "model", value, rule_text("partial r given the locus average", 0.2, limit),
                 judge(value, 0.2, limit),
                 f"Once the locus average is held fixed, predictions still correlate with the scores at "
                 f"{value:.3f}; predictions correlate with the average itself at {copy:.3f}.", {"r_with_average": copy})


def _check_variation(table: Table) -> Check:
    """Do predictions differ between cell types at one locus? Within-window variance, predicted over measured."""
    rows, scope = table.headline, table.scope
    if rows["cell_type"].nunique() < 2 and "window_split" in table.rows:
        rows, scope = table.rows[table.rows["window_split"] == "test"], "all cell types on unseen chromosomes"
    within = rows.groupby("window")[["score", "predicted_score"]].var(ddof=0)[
        rows.groupby("window").size() >= 2].mean()
    if rows["cell_type"].nunique() < 2 or not within["score"] > 0:
        return not_run("variation across cell types", "model", "no window is measured in two cell types")
    value = float(within["predicted_score"] / within["score"])
    return Check("variation across cell types", "model", value,
                 rule_text("variance across cell types at a locus, predicted over measured", 0.1, 0.02),
                 judge(value, 0.1, 0.02),
                 f"At one locus predictions vary between cell types {value:.3f} times as much as the scores "
                 f"(variance, {scope}).")


def _check_skill(table: Table, evaluation: dict[str, Any] | None) -> Check:
    """Is the model better than the locus average? 1 - MSE(model)/MSE(average); the interval is the evaluation's."""
    name, group, rows = "skill over the locus average", "model", table.headline
    rule = "skill: fail when it, or its whole interval, is below 0; warn when the interval holds 0"
    interval = None if evaluation is None else evaluation["headline"]["skill"]
    if interval is not None and all(interval[k] is not None for k in ("value", "low", "high")):
        value, low, high = (float(interval[k]) for k in ("value", "low", "high"))
        verdict = "fail" if high < 0 else "warn" if low < 0 else "ok"
        return Check(name, group, value, rule, verdict, f"Skill over the locus average is {value:.3f} (95% interval "
                     f"{low:.3f} to {high:.3f}, from the evaluation).")
    known = rows[rows["average_score"].notna()] if "average_score" in rows else rows.iloc[:0]
    if known.empty:
        return not_run(name, group, "no locus average is known")
    error = ((known["score"] - known["average_score"])**2).mean()
    value = 1 - float(((known["score"] - known["predicted_score"])**2).mean() / error) if error > 0 else math.nan
    return Check(name, group, value, rule, "fail" if not value >= 0 else "ok",
                 f"Skill over the locus average is {value:.3f} ({table.scope}; no interval, since no evaluation was "
                 "given).")


def _check_gaps(table: Table) -> list[Check]:
    """How much is lost on unseen cell types and on unseen chromosomes, beyond what the locus average loses there?

    Difference in differences: a cell type that is merely noisier lowers the average's correlation as well.
    """
    quadrants, out = quadrant_table(table.rows), []
    for name, seen, unseen in (("cell-type gap", 1, 3), ("chromosome gap", 0, 1)):
        if quadrants.empty or quadrants.loc[[seen, unseen], "n_windows"].min() < FEW_WINDOWS:
            out.append(not_run(name, "generalisation", "the table has no split columns" if quadrants.empty else
                                f"a quadrant has fewer than {FEW_WINDOWS} windows"))
            continue
        a, b = quadrants.loc[seen], quadrants.loc[unseen]
        loss = float(np.nan_to_num(a["r"]) - np.nan_to_num(b["r"]))
        expected = float(a["average_r"] - b["average_r"])
        excess = loss - (max(0.0, expected) if math.isfinite(expected) else 0.0)
        what = "cell types" if name == "cell-type gap" else "chromosomes"
        out.append(Check(name, "generalisation", excess, rule_text("excess loss of r", 0.1, 0.2),
                         judge(excess, 0.1, 0.2),
                         f"From seen to unseen {what} r goes from {a['r']:.3f} to {b['r']:.3f}; the locus average "
                         f"goes from {a['average_r']:.3f} to {b['average_r']:.3f}.", {"quadrants": quadrants}))
    return out


def _check_gc(table: Table) -> Check:
    """Does the prediction lean on GC more than the score does?

    An unbiased prediction has cov(prediction, gc) = cov(score, gc), hence r(prediction, gc) = r(score, gc) /
    r(score, prediction); what exceeds that is a shortcut, and so is a prediction with nothing left given GC.
    """
    rows, n = table.headline, table.windows()
    if "gc" not in rows or n < FEW_WINDOWS or flat(rows["gc"].to_numpy(float)):
        return not_run("GC shortcut", "generalisation", "no varying gc column" if n >= FEW_WINDOWS else
                        f"{n} windows, fewer than {FEW_WINDOWS}")
    pairs = (("predicted_score", "gc"), ("score", "gc"), ("score", "predicted_score"))
    predicted, measured, r = (_median_r(rows, *pair) for pair in pairs)
    if not all(map(math.isfinite, (predicted, measured, r))):
        return not_run("GC shortcut", "generalisation", "predictions or scores do not vary")
    expected = min(1.0, abs(measured) / r) if r > 0.05 else abs(measured)
    excess, beyond = abs(predicted) - expected, _partial(r, measured, predicted)
    only_gc = abs(predicted) >= 0.5 and beyond < 0.1
    return Check("GC shortcut", "generalisation", excess,
                 rule_text("|r| of prediction and GC beyond that of an unbiased prediction", 0.15, 0.3)
                 + ", fail when nothing but GC is left",
                 "fail" if only_gc else judge(excess, 0.15, 0.3),
                 f"Predictions correlate with GC at {predicted:.3f}, the scores at {measured:.3f}; with GC held "
                 f"fixed, predictions and scores correlate at {beyond:.3f}.", {"beyond_gc": beyond})


def _check_class_prior(table: Table) -> Check:
    """Is the rate of predicted positives (probability above 0.5) that of the labels, or is everything called open?"""
    rows = table.headline
    if not {"label", "predicted_probability"} <= set(rows.columns) or not (rows["label"] >= 0).any():
        return not_run("class prior", "optimisation", "no labels with predicted probabilities")
    rows = rows[rows["label"] >= 0]
    positive, called = rows["label"] == 1, rows["predicted_probability"] > 0.5
    base, rate = float(positive.mean()), float(called.mean())
    if not 0 < base < 1:
        return not_run("class prior", "optimisation", "all labels are the same")
    precision = float(positive[called].mean()) if called.any() else math.nan
    recall, ratio = float(called[positive].mean()), rate / base
    uninformed = recall >= 0.8 and precision - base < 0.1 * (1 - base)
    never = rate == 0 and base > 0.1
    verdict = "fail" if uninformed or never else "warn" if not 0.4 <= ratio <= 2.5 else "ok"
    return Check("class prior", "optimisation", ratio, "predicted over true rate of positives: warn outside 0.4 to "
                 "2.5; fail when recall is 0.8 or more at the base rate's precision, or nothing is called", verdict,
                 f"{rate:.3f} of the rows are called open, {base:.3f} are: precision {precision:.3f}, recall "
                 f"{recall:.3f}.", {"base_rate": base, "precision": precision, "recall": recall})
