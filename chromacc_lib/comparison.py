"""The model beside each baseline, on the same rows and under the same weightings; and three correlations, apart.

Everything here is a pure function of rows of the predictions table (columns of `evaluation.COLUMNS`, with a column of
scores a baseline). `plan_of` draws the resampling of some rows (`evaluation.evaluate` gives it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn import metrics as sk

from chromacc_lib import intervals as iv
from chromacc_lib.calibration import Plan, validation_rows

__all__ = [
    "Ranking", "baseline_metrics", "correlations", "rankings", "ranks_by", "residual", "score_columns",
]

MIN_CELLS_ACROSS = 3           # fewer cell types give no correlation across cell types
PROBABILITY = "_probability"   # NAME_probability: of a baseline that was also fitted on the labels
AVERAGE_RANKS = ("average_score", "average_label")


def score_columns(baselines: pd.DataFrame) -> list[str]:
    """Return the names of the baselines in a table: its columns of scores, without those of probabilities."""
    columns = [c for c in baselines if c not in ("cell_type", "window")]
    return [c for c in columns if not (c.endswith(PROBABILITY) and c.removesuffix(PROBABILITY) in columns)]


class Ranking(NamedTuple):
    """The column that ranks windows for a baseline, and why that one, in words."""

    column: str
    why: str


def rankings(predictions: pd.DataFrame, names: Sequence[str]) -> dict[str, Ranking]:
    """Return what ranks windows for each baseline: the column with the highest AUPRC on validation rows.

    predictions: the whole table. The average ranks by its score or by the share of open training cell types; a baseline
    by its score or, where it has one, by the probability of a classifier that was fitted on the labels. No test row has
    a say. The first stands where validation rows cannot tell: of one class, or without a value of the other.
    """
    rows, where = validation_rows(predictions)
    rows = rows[rows["label"] >= 0]
    n_classes, chosen = rows["label"].nunique(), {}
    for name in names:
        options = [c for c in (AVERAGE_RANKS if name == "average" else (name, name + PROBABILITY)) if c in rows]
        gaps = [c for c in options if not np.isfinite(rows[c].to_numpy(np.float64)).all()]
        if len(options) < 2:  # none: a predictor that the validation rows lack ranks by its score
            chosen[name] = Ranking(options[0] if options else name, "it has no other")
        elif n_classes < 2:
            chosen[name] = Ranking(options[0], f"labels of {where} are of {n_classes} class{'es' * (n_classes == 0)}, so "
                                               "that nothing could be chosen there: its score")
        elif gaps:
            chosen[name] = Ranking(options[0], f"{' and '.join(gaps)} has gaps on {where}: its score")
        else:
            area = {c: sk.average_precision_score(rows["label"], rows[c]) for c in options}
            best = max(options, key=area.get)
            told = ", ".join(f"{c} {value:.3f}" for c, value in area.items())
            chosen[name] = Ranking(best, f"highest AUPRC on {where}: {told}")
    return chosen


def ranks_by(rows: pd.DataFrame, name: str, ranked: Mapping[str, Ranking]) -> Ranking:
    """Return what ranks these rows: the chosen column, or the score where that has gaps here."""
    score = "average_score" if name == "average" else name
    chosen = ranked.get(name, Ranking(score, "it has no other"))
    if chosen.column == score or np.isfinite(rows[chosen.column].to_numpy(np.float64)).all():
        return chosen
    return Ranking(score, f"{chosen.column} has gaps in these rows: its score")


# --- the model beside each baseline --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Some rows, their weightings, and what the model reaches on them under each."""

    table: pd.DataFrame
    plan: iv.Resampling

    @cached_property
    def known(self) -> np.ndarray:
        """Return which rows have a label: bool, shape=(n,)."""
        return (self.table["label"] >= 0).to_numpy()

    @cached_property
    def labelled(self) -> iv.Resampling:
        """Return the weightings of the rows with a label."""
        return self.plan.take(self.known)

    @cached_property
    def measured(self) -> np.ndarray:
        """Return the measured scores, shape=(n,)."""
        return self.column("score")

    @cached_property
    def reached(self) -> dict[str, np.ndarray]:
        """Return the model's correlations, shape=(R,) each."""
        predicted = self.column("predicted_score")
        return {kind: of(self.plan, self.measured, predicted) for kind, of in _CORRELATIONS.items()}

    @cached_property
    def model_pr(self) -> np.ndarray:
        """Return the AUPRC of the model under every weighting, shape=(R,)."""
        return self.ranking("predicted_probability")[1]

    def column(self, name: str) -> np.ndarray:
        """Return a column as float64, shape=(n,)."""
        return self.table[name].to_numpy(np.float64)

    def ranking(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return AUROC and AUPRC of a column, rows with a known label alone."""
        return iv.ranking(self.labelled, self.table["label"].to_numpy()[self.known], self.column(column)[self.known])


_CORRELATIONS = {"pearson": iv.pearson, "spearman": iv.spearman}


def baseline_metrics(rows: pd.DataFrame, plan_of: Plan, names: Sequence[str], ranked: Mapping[str, Ranking]
                     ) -> dict[str, dict]:  # fmt: skip
    """Return for each baseline its skill, MSE, correlations, AUROC, AUPRC and how far the model is ahead of it, paired.

    model_skill = 1 - MSE(model) / MSE(baseline), pr_auc_difference = AUPRC(model) - AUPRC(baseline), and so with
    pearson_difference and spearman_difference: above 0 = the model is better. Both compare the two under the same
    weightings, so that what is hard for both cancels. ranked: of `rankings`; ranked_by and ranked_because say
    what ranked here, and why.

    model_skill_p and pr_auc_difference_p: two-sided, of no difference; with _adjusted: over all opponents but the average.
    model_skill_freedom: degrees of freedom of the interval.

    A baseline that is undefined in some rows is compared on the others, and so are model and average: rows, of_rows,
    cell_types_without (some of their rows), `partly` (a sentence) and same_rows {"model", "average"} say so. One that
    is defined nowhere gets only {"undefined": a sentence}.
    """
    whole, result = _Rows(rows, plan_of(rows)), {}
    for name in names:
        defined = np.isfinite(rows[name].to_numpy(np.float64))
        if defined.all():
            result[name] = _against(whole, name, ranked)
        elif defined.any():
            some = _Rows(rows[defined], plan_of(rows[defined]))
            result[name] = _against(some, name, ranked) | _partly(some, rows[~defined], name, ranked)
        else:
            result[name] = {"undefined": f"{name} has no prediction in any of {len(rows):,} rows"}
    _adjust([entry for name, entry in result.items() if name != "average" and "undefined" not in entry])
    return result


def _adjust(entries: Sequence[dict]) -> None:
    """Add p_adjusted beside each p, over the opponents (Benjamini & Hochberg 1995), of error and of ranking apart.

    The average is the one comparison that was asked for beforehand, and takes no part.
    """
    for name in ("model_skill_p", "pr_auc_difference_p"):
        known = [entry for entry in entries if np.isfinite(entry.get(name, np.nan))]
        adjusted = stats.false_discovery_control([entry[name] for entry in known]) if known else ()
        for entry, p in zip(known, adjusted, strict=True):
            entry[f"{name}_adjusted"] = float(p)


def _against(some: _Rows, name: str, ranked: Mapping[str, Ranking]) -> dict[str, object]:
    """Return what one baseline reaches on rows where it is defined, and what the model is ahead of it."""
    plan, measured, predicted = some.plan, some.measured, some.column(name)
    skill = iv.skill(plan, measured, predicted, some.column("average_score"))
    ahead = iv.skill(plan, measured, some.column("predicted_score"), predicted)
    entry = {
        "skill": iv.skill_interval(skill, plan), "model_skill": iv.skill_interval(ahead, plan),
        "model_skill_p": iv.p_value(ahead, plan, iv.SKILL), "model_skill_freedom": iv.freedom(ahead, plan, iv.SKILL),
        "mse": iv.interval(iv.mse(plan, measured, predicted), plan, iv.POSITIVE),
    }
    for kind, of in _CORRELATIONS.items():
        values = of(plan, measured, predicted)
        entry |= {
            kind: iv.interval(values, plan, iv.CORRELATION),
            f"{kind}_difference": iv.interval(some.reached[kind] - values, plan, iv.DIFFERENCE_OF_CORRELATIONS),
        }
    if some.known.any():
        by = ranks_by(some.table[some.known], name, ranked)
        roc_auc, pr_auc = some.ranking(by.column)
        entry |= {
            "ranked_by": by.column, "ranked_because": by.why, "roc_auc": iv.interval(roc_auc, some.labelled, iv.SHARE),
            "pr_auc": iv.interval(pr_auc, some.labelled, iv.SHARE),
            "pr_auc_difference": iv.interval(some.model_pr - pr_auc, some.labelled, iv.DIFFERENCE),
            "pr_auc_difference_p": iv.p_value(some.model_pr - pr_auc, some.labelled),
        }
    return entry


def _partly(some: _Rows, without: pd.DataFrame, name: str, ranked: Mapping[str, Ranking]) -> dict[str, object]:
    """Return where a baseline is undefined, and what model and average reach on the other rows."""
    average = some.column("average_score")
    same = {"model": {"skill": iv.skill_interval(
        iv.skill(some.plan, some.measured, some.column("predicted_score"), average), some.plan)}, "average": {}}
    if some.known.any():
        by = ranks_by(some.table[some.known], "average", ranked)
        for who, values in (("model", some.model_pr), ("average", some.ranking(by.column)[1])):
            same[who]["pr_auc"] = iv.interval(values, some.labelled, iv.SHARE)
    n, of = len(some.table), len(some.table) + len(without)
    cells = sorted(without["cell_type"].unique())
    return {
        "rows": n, "of_rows": of, "cell_types_without": cells, "same_rows": same,
        "partly": f"{name} is compared on {n:,} of {of:,} rows, because it has no prediction in the others "
                  f"({', '.join(cells)})",
    }


# --- three correlations --------------------------------------------------------------------------------------


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


def correlations(rows: pd.DataFrame, columns: Sequence[str], varying: np.ndarray, plan_of: Plan) -> dict[str, dict]:
    """Return the three correlations apart for every column of scores, on the rows where it is defined.

    within_cell_type: Pearson across windows, mean over cell types. across_cell_types: Pearson across cell types, mean
    over `varying` windows (ids). residual: Pearson of what is left after the locus average is removed (`residual`).
    A column that is defined nowhere is left out.
    """
    whole, result = plan_of(rows), {}
    for column in columns:
        defined = np.isfinite(rows[column].to_numpy(np.float64))
        if not defined.any():
            continue
        some, plan = (rows, whole) if defined.all() else (rows[defined], plan_of(rows[defined]))
        measured, average, predicted = (some[c].to_numpy(np.float64) for c in ("score", "average_score", column))
        cell = some["cell_type"].to_numpy()
        within = _mean_within_cell_types(plan, measured, predicted)
        rest = [residual(values, average, cell) for values in (measured, predicted)]
        result["model" if column == "predicted_score" else column] = {
            "within_cell_type": iv.interval(within, plan, iv.CORRELATION),
            "across_cell_types": _across_cell_types(some[some["window"].isin(varying)], column, plan_of),
            "residual": iv.interval(iv.pearson(plan, *rest), plan, iv.CORRELATION),
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


def _across_cell_types(rows: pd.DataFrame, column: str, plan_of: Plan) -> dict[str, object]:
    """Return the mean over windows of Pearson across cell types: measured against `column`.

    A window counts when at least 3 cell types are measured there and their scores differ; a prediction that is the
    same in all of them scores 0. Only blocks are resampled: the statement is about these cell types.
    """
    undefined = {"value": np.nan, "low": np.nan, "high": np.nan, "n_windows": 0}
    if rows.empty:
        return undefined
    table = rows.pivot(index="window", columns="cell_type", values=["score", column])
    measured, predicted = (table[c].to_numpy(np.float64) for c in ("score", column))
    use = (np.isfinite(measured) & np.isfinite(predicted)).sum(axis=1) >= MIN_CELLS_ACROSS
    use &= np.isfinite(measured).all(axis=1) & np.isfinite(predicted).all(axis=1) & (np.ptp(measured, axis=1) > 1e-9)
    if not use.any():
        return undefined
    x, y = (v[use] - v[use].mean(axis=1, keepdims=True) for v in (measured, predicted))
    spread = np.sqrt((x ** 2).sum(axis=1) * (y ** 2).sum(axis=1))
    varies = (y ** 2).sum(axis=1) > 1e-12
    r = np.where(varies, (x * y).sum(axis=1) / np.where(varies, spread, 1), 0.0)
    places = rows.drop_duplicates("window").set_index("window").loc[table.index[use]]
    plan = plan_of(places.assign(cell_type="all"))
    return iv.interval(iv.mean(plan, r), plan, iv.CORRELATION) | {"n_windows": int(use.sum())}
