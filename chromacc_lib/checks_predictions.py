"""Checks of predictions against what was measured: each returns a value, its rule, a verdict and a sentence.

None of them needs the dataset or the model, so they judge anybody's predictions.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit

from chromacc_lib import ChromaccError
from chromacc_lib.checks import (
    AUC_WIDTH,
    FEW_WINDOWS,
    R_WIDTH,
    Check,
    auc_half_width,
    enough,
    flat,
    judge,
    median_r,
    not_run,
    partial,
    pearson,
    quadrant_table,
    r_half_width,
    rule_text,
    skill_over_average,
    variance_table,
)
from chromacc_lib.tables import NO_SPLITS, Table

__all__ = ["prediction_checks"]

NAMES = {  # name -> group of the checks that need predictions to be numbers
    "constant output": "model", "association": "model", "sign of predictions": "data",
    "association in each cell type": "data", "predictions are not the scores": "data", "variance ratio": "model",
    "level": "model", "training fit": "optimisation", "locus-average residual": "model",
    "variation across cell types": "model", "follows its own cell type": "model",
    "skill over the locus average": "model", "cell-type gap": "generalisation", "chromosome gap": "generalisation",
    "GC shortcut": "generalisation", "class prior": "optimisation", "positive rate": "optimisation",
}  # fmt: skip


def prediction_checks(table: Table, evaluation: dict[str, Any] | None) -> list[Check]:
    """Run the checks that need no data and no model. Raises ChromaccError where the evaluation has no skill."""
    skill = _evaluated_skill(evaluation)
    first = [_check_power(table), *_check_finite(table), _check_unseen(table)]
    if table.headline.empty:
        return first + [not_run(name, group, f"none of the predictions of {table.scope} is a number")
                        for name, group in NAMES.items()]
    cells = variance_table(table.headline)
    return [*first, _check_constant(table), _check_association(table, cells), _check_sign(table, cells),
            _check_each_cell_type(table), _check_copied(table, cells), _check_variance(table, cells),
            _check_level(table, cells), _check_training_fit(table), _check_residual(table), _check_variation(table),
            _check_own_part(table), _check_skill(table, skill), *_check_gaps(table), _check_gc(table),
            _check_class_prior(table), _check_positive_rate(table)]


# --- what there is to judge ----------------------------------------------------------------------------------

def _check_power(table: Table) -> Check:
    """How well can these rows tell a correlation, or a ROC-AUC, from chance? Half-widths of 95% intervals.

    Predictions are judged by r, whose interval depends on the number of windows alone (Fisher 1921); that of the AUC
    (Hanley & McNeil 1982) on how many of them are open as well. Rows of one window in several cell types are not
    independent, so windows are counted, not rows.
    """
    rows, n, n_cells = table.headline, table.windows(), table.headline["cell_type"].nunique()
    known = rows[rows["label"] >= 0] if "label" in rows else rows.iloc[:0]
    base = float((known["label"] == 1).mean()) if len(known) else math.nan
    of_r, of_auc = r_half_width(n), math.nan
    what = f"know r to ±{of_r:.3f}"
    if 0 < base < 1 and n > 1:
        positive = min(n - 1, max(1, round(base * n)))
        of_auc = auc_half_width(positive, n - positive)
        what = f"give an AUC interval of ±{of_auc:.3f}, and {what}"
    elif len(known):
        what += f" (all labels are {'open' if base else 'closed'}, so there is no AUC)"
    verdict = judge(of_r, *R_WIDTH)
    verdict = "warn" if verdict == "ok" and of_auc > AUC_WIDTH[1] else verdict
    unknown = table.n_given - len(table.scored)
    kept = f"{len(table.rows)} of {table.n_given} rows are used" + (
        f", because {unknown} have no known score" if unknown else "")
    return Check("power", "data", of_auc if math.isfinite(of_auc) else of_r, "half-width of the 95% interval: of r, "
                 f"warn above {R_WIDTH[0]}, fail above {R_WIDTH[1]}; of the labels' AUC, warn above {AUC_WIDTH[1]}",
                 verdict,
                 f"{n} windows in {n_cells} cell type{'s' * (n_cells != 1)} ({table.scope}) {what}; {kept}.",
                 {"n_windows": n, "base_rate": base, "r_half_width": of_r, "auc_half_width": of_auc})


def _check_finite(table: Table) -> list[Check]:
    """Are all predictions numbers? A few that are not leave the others to be judged; most, and there is nothing."""
    bad, n = table.not_finite, len(table.scored)
    here = int(bad["headline"].sum())
    share = max(len(bad) / n, here / max(1, here + len(table.headline)))
    rows = ", ".join(f"{cell} window {window}" for cell, window in bad[["cell_type", "window"]].head(5).to_numpy())
    where = (f": {rows}" + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")) if len(bad) else ""
    sentence = f"{len(bad)} of {n} predictions are NaN or infinite{where}."
    return [Check("finite predictions", "model", share, "share that is NaN or infinite: warn above 0, fail above 0.5",
                  judge(share, 0, 0.5), sentence),
            Check("gaps in predictions", "model", share, rule_text("share that is NaN or infinite", 0.01, 0.05),
                  judge(share, 0.01, 0.05), sentence)]


def _check_unseen(table: Table) -> Check:
    """Are the rows that are judged rows that the model was not trained on?"""
    name, n = "unseen rows", len(table.headline) + int(table.not_finite["headline"].sum())
    if table.scope == NO_SPLITS and not table.seen:
        return not_run(name, "generalisation", "the table has no split columns, so that it is not known")
    verdict = "ok" if not table.seen else "fail" if table.scope == NO_SPLITS else "warn"
    return Check(name, "generalisation", float(0 if table.seen else n), "rows of test cell types or test chromosomes: "
                 "warn with validation rows alone, fail with training rows alone", verdict,
                 f"{n} rows are judged: {table.scope}, which {table.seen or 'were not trained on'}.")


# --- do predictions follow the scores? -----------------------------------------------------------------------

def _check_constant(table: Table) -> Check:
    """Do predictions vary at all? Standard deviation of the predictions over that of the scores, same rows.

    On the headline rows where there are enough of them, else on all; with few windows in all it warns at most.
    """
    rows, scope = table.headline, table.scope
    if not enough(table.windows()):
        rows, scope = table.rows, NO_SPLITS
    n = rows["window"].nunique()
    if flat(rows["score"].to_numpy(float)):
        return not_run("constant output", "model", f"the scores do not vary on {scope}")
    spread, predicted = (float(rows[column].std(ddof=0)) for column in ("score", "predicted_score"))
    value = predicted / spread
    verdict = judge(value, 0.25, 0.05)
    return Check("constant output", "model", value, rule_text("std of predictions over std of scores", 0.25, 0.05)
                 + "; with few windows warn at most", "warn" if verdict == "fail" and not enough(n) else verdict,
                 f"Predictions have mean {rows['predicted_score'].mean():.3g} and standard deviation "
                 f"{predicted:.3g}, {value:.2f} of the scores' {spread:.3g} ({n} windows, {scope}).")


def _too_little(n_windows: int, r: float) -> str:
    """Why a correlation cannot be judged; "" where it can."""
    if n_windows < FEW_WINDOWS:
        return f"{n_windows} windows, fewer than {FEW_WINDOWS}"
    return "" if math.isfinite(r) else "the scores do not vary"


def _check_association(table: Table, cells: pd.DataFrame) -> Check:
    """Do predictions follow the scores? Median over cell types of Pearson's r, against its noise 2/sqrt(windows)."""
    n, r = table.windows(), float(cells["r"].median())
    if why := _too_little(n, r):
        return not_run("association", "model", why)
    noise = 2 / math.sqrt(n)
    verdict = "fail" if r < max(0.05, noise) and enough(n) else "warn" if r < 0.3 else "ok"
    return Check("association", "model", r, f"r: fail below {max(0.05, noise):.2g} (no better than chance; with few windows "
                 "warn), warn below 0.3", verdict,
                 f"Predictions correlate with the scores at r = {r:.3f} (median over cell types, {table.scope}, "
                 f"chance alone gives up to ±{noise:.3f}).")


def _check_sign(table: Table, cells: pd.DataFrame) -> Check:
    """Do predictions fall where scores rise? Median over cell types of Pearson's r, asked for its sign."""
    n, r = table.windows(), float(cells["r"].median())
    if why := _too_little(n, r):
        return not_run("sign of predictions", "data", why)
    chance = max(0.1, round(2 / math.sqrt(n), 3))
    way = "fall where the scores rise" if r < -chance else "do not fall where the scores rise"
    return Check("sign of predictions", "data", r, rule_text("r", -chance, -0.3), judge(r, -chance, -0.3),
                 f"Predictions {way}: r = {r:.3f} (median over cell types, {table.scope})"
                 + (f"; with their sign turned round r would be {-r:.3f}." if r < -chance else "."))


def _check_each_cell_type(table: Table) -> Check:
    """In which cell types do predictions follow the scores no better than chance? A median over all would hide them.

    On unseen chromosomes where the table has them: what was learned by heart follows any labels.
    """
    name, rows = "association in each cell type", table.rows
    if "window_split" in rows and (rows["window_split"] == "test").any():
        rows = rows[rows["window_split"] == "test"]
    cells = variance_table(rows)
    cells = cells[(cells["n_windows"] >= FEW_WINDOWS) & cells["r"].notna()]
    if cells.empty:
        return not_run(name, "data", f"no cell type has {FEW_WINDOWS} windows with scores that vary")
    weak = cells[cells["r"] <= np.maximum(0.05, 2 / np.sqrt(cells["n_windows"]))].sort_values("r")
    named = ", ".join(f"{cell} (r = {r:.3f})" for cell, r in zip(weak["cell_type"].head(5), weak["r"]))
    named += f" and {len(weak) - 5} more" if len(weak) > 5 else ""
    return Check(name, "data", float(len(weak)), "cell types with r of 2/sqrt(windows) or less, or of 0.05: warn above "
                 "0", "warn" if len(weak) else "ok",
                 f"Predictions follow the scores in all {len(cells)} cell types, r = {cells['r'].min():.3f} or more."
                 if weak.empty else f"In {len(weak)} of {len(cells)} cell types predictions follow the scores no "
                 f"better than chance: {named}. Check the labels, and the inputs, of these.",
                 {"r": dict(zip(cells["cell_type"], cells["r"]))})


def _check_copied(table: Table, cells: pd.DataFrame) -> Check:
    """Are the predictions the scores themselves? No model, and no second experiment, agrees with one so well."""
    name, cells = "predictions are not the scores", cells[(cells["n_windows"] >= 20) & cells["r"].notna()]
    if cells.empty:
        return not_run(name, "data", "no cell type has 20 windows with scores that vary")
    r = float(cells["r"].median())
    return Check(name, "data", r, rule_text("r", 0.98, 0.995), judge(r, 0.98, 0.995),
                 f"Predictions and scores correlate at r = {r:.4f} (median over cell types, {table.scope}); a "
                 "replicate of the experiment would not agree so well." if r > 0.98 else
                 f"Predictions are not copies of the scores (r = {r:.3f}, {table.scope}).")


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
                 judge(value, 0.5, 1), f"In {worst}, where it is worst, predictions lie on average "
                 f"{value:.3g} standard deviations of the scores {'above' if level[worst] > 0 else 'below'} them.",
                 {"level": level.to_dict()})


def _check_training_fit(table: Table) -> Check:
    """Does the model fit the rows it was trained on? Median r on seen cell types and seen chromosomes."""
    quadrants = quadrant_table(table.rows)
    if quadrants.empty or not enough(n := int(quadrants.loc[0, "n_windows"])):
        return not_run("training fit", "optimisation", "the table has no split columns" if quadrants.empty else
                       f"{n} training windows, which give r to ±{r_half_width(n):.2f}")
    seen = table.rows[(table.rows["cell_type_split"] == "train") & (table.rows["window_split"] == "train")]
    r = float(variance_table(seen)["r"].median())
    if not math.isfinite(r):
        return not_run("training fit", "optimisation", "the scores of the training rows do not vary")
    noise = 2 / math.sqrt(n)
    verdict = "fail" if r < max(0.1, noise) else "warn" if r < 0.3 else "ok"
    return Check("training fit", "optimisation", r, rule_text("r on training rows", 0.3, max(0.1, round(noise, 3))),
                 verdict, f"On the {n} windows that the model was trained on, predictions correlate with the "
                 f"scores at r = {r:.3f} (chance: ±{noise:.3f}).")


def _check_residual(table: Table) -> Check:
    """What does the model know beyond the locus average? Partial correlation of score and prediction given it.

    The difference to the average at the same locus is what a model of unseen cell types is for (Schreiber et al.
    2020, Genome Biology 21:282, "A pitfall for machine learning methods aiming to predict across cell types").
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
    value = float(np.median([partial(*part) for part in parts]))
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
    if rows["cell_type"].nunique() < 2 or not within["score"] > 1e-12:
        return not_run("variation across cell types", "model", "no window is measured in two cell types")
    value = float(within["predicted_score"] / within["score"])
    return Check("variation across cell types", "model", value,
                 rule_text("variance across cell types at a locus, predicted over measured", 0.1, 0.02),
                 judge(value, 0.1, 0.02),
                 f"At one locus predictions vary between cell types {value:.3f} times as much as the scores "
                 f"(variance, {scope}).")


def _check_own_part(table: Table) -> Check:
    """Does the model know what sets a cell type apart at a locus? r of prediction and score, the mean of all cell types
    at the window taken from either.

    On unseen chromosomes, in all cell types that the table has there: one cell type alone has no others to differ from.
    """
    name, rows = "follows its own cell type", table.rows
    if "window_split" in rows and (rows["window_split"] == "test").any():
        rows = rows[rows["window_split"] == "test"]
    size = rows.groupby("window")["score"].transform("size")
    rows = rows[size >= 3]
    n = rows["window"].nunique()
    if n < FEW_WINDOWS:
        return not_run(name, "model", f"{n} windows are measured in three cell types, fewer than {FEW_WINDOWS}")
    own = rows[["score", "predicted_score"]] - rows.groupby("window")[["score", "predicted_score"]].transform("mean")
    own = own - own.groupby(rows["cell_type"]).transform("mean")
    value = float(np.nan_to_num(pearson(own["score"].to_numpy(float), own["predicted_score"].to_numpy(float))))
    return Check(name, "model", value, rule_text("r of what differs from the window's mean", 0.3, 0.15),
                 judge(value, 0.3, 0.15), f"How a cell type differs from the others at a locus is predicted at r = "
                 f"{value:.3f} ({n} windows, {rows['cell_type'].nunique()} cell types).")


def _evaluated_skill(evaluation: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the evaluation's skill (value, low, high), None without one; raise ChromaccError where it has no skill."""
    if evaluation is None:
        return None
    headline = evaluation.get("headline") if isinstance(evaluation, dict) else None
    skill = headline.get("skill") if isinstance(headline, dict) else None
    if not isinstance(skill, dict) or not {"value", "low", "high"} <= set(skill):
        got = f"the keys {', '.join(map(str, evaluation)) or '(none)'}" if isinstance(evaluation, dict) else \
            f"a {type(evaluation).__name__}"
        raise ChromaccError(f"diagnose: evaluation is {got}; needed: a dict with evaluation['headline']['skill'] of "
                            "value, low and high. Give what evaluation_metrics.json holds, or leave evaluation out.")
    return skill


def _check_skill(table: Table, interval: dict[str, Any] | None) -> Check:
    """Is the model better than the locus average? 1 - MSE(model)/MSE(average); the interval is the evaluation's."""
    name, group, rows = "skill over the locus average", "model", table.headline
    rule = "skill: fail when it, or its whole interval, is below 0; warn when the interval holds 0"
    if interval is not None and all(interval[k] is not None for k in ("value", "low", "high")):
        value, low, high = (float(interval[k]) for k in ("value", "low", "high"))
        verdict = "fail" if high < 0 else "warn" if low < 0 else "ok"
        return Check(name, group, value, rule, verdict, f"Skill over the locus average is {value:.3f} (95% interval "
                     f"{low:.3f} to {high:.3f}, from the evaluation).")
    value = skill_over_average(rows)
    if not math.isfinite(value):
        return not_run(name, group, "no locus average is known, or it is the score itself")
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
        turned = excess > 0.1 and a["skill"] > 0 > b["skill"]   # better than the locus average there, worse here
        out.append(Check(name, "generalisation", excess, rule_text("excess loss of r", 0.1, 0.2) + ", or above 0.1 "
                         "where skill over the locus average turns negative",
                         "fail" if turned else judge(excess, 0.1, 0.2),
                         f"From seen to unseen {what} r goes from {a['r']:.3f} to {b['r']:.3f}; the locus average "
                         f"goes from {a['average_r']:.3f} to {b['average_r']:.3f}; skill over it from {a['skill']:.3f} "
                         f"to {b['skill']:.3f}.", {"quadrants": quadrants}))
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
    predicted, measured, r = (median_r(rows, *pair) for pair in pairs)
    if not all(map(math.isfinite, (predicted, measured, r))):
        return not_run("GC shortcut", "generalisation", "predictions or scores do not vary")
    expected = min(1.0, abs(measured) / r) if r > 0.05 else abs(measured)
    excess, beyond = abs(predicted) - expected, partial(r, measured, predicted)
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
    if not {"label", "predicted_probability"} <= set(rows.columns):
        return not_run("class prior", "optimisation", "no labels with predicted probabilities")
    labelled, known = rows["label"] >= 0, rows["predicted_probability"].notna()
    rows, missing = rows[labelled & known], int((labelled & ~known).sum())
    if rows.empty:
        return not_run("class prior", "optimisation", "no labels with predicted probabilities")
    positive, called = rows["label"] == 1, rows["predicted_probability"] > 0.5
    base, rate = float(positive.mean()), float(called.mean())
    if not 0 < base < 1:
        return not_run("class prior", "optimisation", "all labels are the same")
    precision = float(positive[called].mean()) if called.any() else math.nan
    recall, ratio = float(called[positive].mean()), rate / base
    uninformed = recall >= 0.8 and precision - base < 0.1 * (1 - base)
    never = rate == 0 and base > 0.1
    verdict = "fail" if uninformed or never else "warn" if not 0.4 <= ratio <= 2.5 or missing else "ok"
    left_out = f"; {missing} labelled rows have no probability and are left out" if missing else ""
    return Check("class prior", "optimisation", ratio, "predicted over true rate of positives: warn outside 0.4 to "
                 "2.5; fail when recall is 0.8 or more at the base rate's precision, or nothing is called", verdict,
                 f"{rate:.3f} of the rows are called open, {base:.3f} are: precision {precision:.3f}, recall "
                 f"{recall:.3f}{left_out}.", {"base_rate": base, "precision": precision, "recall": recall})


def _check_positive_rate(table: Table) -> Check:
    """Is the mean predicted probability the share of open rows? If not, by how much do the log-odds have to be moved?

    Calibration in the large (Van Calster et al. 2019, BMC Medicine 17:230). A classifier trained at another base rate
    than it meets is off by the difference of their log-odds, and by nothing else (Saerens et al. 2002, Neural Comput.
    14:21).
    """
    name, rows = "positive rate", table.headline
    if not {"label", "predicted_probability"} <= set(rows.columns):
        return not_run(name, "optimisation", "no labels with predicted probabilities")
    rows = rows[(rows["label"] >= 0) & rows["predicted_probability"].notna()]
    base, probability = float((rows["label"] == 1).mean()), rows["predicted_probability"].to_numpy(float)
    if not 0 < base < 1:
        return not_run(name, "optimisation", "no labels with predicted probabilities" if rows.empty else
                       "all labels are the same")
    odds = logit(probability.clip(1e-9, 1 - 1e-9))
    value = float(brentq(lambda by: expit(odds - by).mean() - base, -60, 60))
    return Check(name, "optimisation", value, "log-odds by which probabilities are too high (+) or too low (-): warn "
                 "beyond 0.6, fail beyond 1.2", judge(abs(value), 0.6, 1.2),
                 f"Predicted probabilities have a mean of {probability.mean():.3f}, {base:.3f} of the rows are open: "
                 f"odds are {math.exp(value):.2g} times what they should be.", {"base_rate": base})
