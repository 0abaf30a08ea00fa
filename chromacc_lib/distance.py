"""How far the inputs of each cell type lie from the training cell types, and whether that tells the model's error.

Two figures describe each track of a cell type: the mean of z and of |z| over the windows of training chromosomes; its
expression is described by z itself. An input's distance between two cell types is the root mean square difference of
its figures, each in standard deviations between training cell types; all inputs that both have, tracks and expression
alike, then count once in a root mean square. A cell type's distance is that to its nearest training cell type (nearest
neighbours as in Sun et al. 2022, ICML, "Out-of-distribution detection with deep nearest neighbors", on inputs instead
of embeddings), of a training cell type that to its nearest other one. Accessibility takes no part.
"""

from dataclasses import dataclass
from math import factorial

import numpy as np
import pandas as pd
from scipy import stats

from chromacc_lib.dataset import Arrays
from chromacc_lib.hub import track_figures
from chromacc_lib.manifest import UNKNOWN_LINEAGE
from chromacc_lib.wording import count

__all__ = ["input_distance"]

MIN_SPREAD = 0.01       # z; training cell types that differ by less are alike, and no yardstick
MIN_SHARED = 0.5        # of the inputs shared with whoever shares most, to be somebody's nearest
FEW_CELL_TYPES = 10     # fewer: whether distance tells error is hardly known
N_PERMUTATIONS = 10_000  # of cell types; all of them where there are no more (up to 7 cell types)
SIGNIFICANT = 0.05
FIGURES = ("mean z", "mean |z|")


@dataclass(frozen=True)
class _Inputs:
    """figures: shape=(C, K, 2), z, NaN = missing; spread: (K, 2), their sd between training cell types; metadata:
    (C, E), z, NaN = missing; names: K tracks, then "expression".
    """

    figures: np.ndarray
    spread: np.ndarray
    metadata: np.ndarray
    names: tuple[str, ...]


def input_distance(arrays: Arrays, predictions: pd.DataFrame) -> dict[str, object]:
    """Return the distance of every cell type from the training cell types, beside the model's error.

    predictions: of `inference.predict_dataset`; error: on unseen chromosomes (window_split "test"), where a score was
    measured and an average is known. Keys:
    table: a dict a cell type: cell_type, split, distance, nearest, same_lineage (is the nearest of its own lineage?
    None where one is not known), far, most_unusual, mse, skill (over the average); distance NaN and far None where no
    input is shared with a training cell type;
    threshold, rule: beyond which distance `far` is said, the largest of n training cell types; a cell type drawn as
    they were, its distance exchangeable with theirs, would lie beyond it once in n + 1. That holds roughly at best:
    held-out cell types are compared with n of them, each training cell type with n - 1; so `far` is a warning, no test;
    lineages: of how many held-out cell types the nearest is of their lineage, in words;
    predicts_error: for "test", "validation" and "all" cell types, Spearman of distance with mse and with skill, p of
    a permutation test (exact for up to 7 cell types), n; rho and p NaN below 3 cell types;
    sentence: what that says in plain words, of test and of validation cell types apart: those chose the checkpoint.
    """
    inputs = _inputs(arrays)
    squares = _squares(inputs, arrays.train_mask)  # (C, T, K + 1)
    away = _root_mean_square(squares)
    training = np.flatnonzero(arrays.train_mask)
    distance, nearest = away.min(axis=1, initial=np.inf), away.argmin(axis=1) if len(training) else None
    known = np.isfinite(distance)
    own = distance[training][known[training]]
    threshold = float(own.max()) if len(own) else np.nan
    rows = []
    for c, cell in enumerate(arrays.cell_types.itertuples()):
        row = {"cell_type": cell.cell_type, "split": cell.split, "distance": np.nan, "nearest": None,
               "same_lineage": None, "far": None, "most_unusual": "no input shared with a training cell type"}
        if known[c]:
            other = training[nearest[c]]
            row |= {"distance": float(distance[c]), "far": bool(distance[c] > threshold),
                    "nearest": str(arrays.cell_types["cell_type"].iloc[other]),
                    "same_lineage": _same_lineage(cell.lineage, arrays.cell_types["lineage"].iloc[other]),
                    "most_unusual": _most_unusual(inputs, squares[c, nearest[c]], c, other, arrays)}
        rows.append(row)
    table = pd.DataFrame(rows).merge(_errors(predictions), on="cell_type", how="left")
    parts = {name: table[table["split"] == name] for name in ("test", "validation")} | {"all": table}
    relation = {name: {error: _spearman(some["distance"], some[error]) for error in ("mse", "skill")}
                for name, some in parts.items()}
    return {
        "table": table.to_dict("records"), "threshold": threshold,
        "rule": f"far: farther from its nearest training cell type than any of {len(own)} training cell types from its "
                f"nearest other one ({threshold:.2f})" if len(own) else
                "far cannot be said: no two training cell types share an input",
        "predicts_error": relation, "lineages": _lineages(table, arrays.cell_types),
        "sentence": _sentence(relation),
    }


def _same_lineage(one: str, other: str) -> bool | None:
    """Return whether two lineages are the same, None where one is not known."""
    return None if {one, other} & {"", UNKNOWN_LINEAGE} else bool(one == other)


def _lineages(table: pd.DataFrame, cell_types: pd.DataFrame) -> str:
    """Say of how many held-out cell types the nearest training cell type is of their own lineage."""
    lineage = cell_types.set_index("cell_type")["lineage"]
    train = set(lineage[(cell_types["split"] == "train").to_numpy()])
    held = table[(table["split"] != "train") & table["same_lineage"].notna()]
    held = held[held["cell_type"].map(lineage).isin(train)]
    if held.empty:
        return "No held-out cell type has a lineage that a training cell type is known to have."
    own = int(held["same_lineage"].astype(bool).sum())
    return (f"Of {count(len(held), 'held-out cell type')} whose lineage is among the training cell types, {own} "
            f"{'has' if own == 1 else 'have'} the nearest one in it.")


def _inputs(arrays: Arrays) -> _Inputs:
    """Describe the inputs of every cell type, from the windows of training chromosomes alone."""
    windows = (arrays.windows["split"] == "train").to_numpy()
    kinds = ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed))
    figures = [
        np.stack(track_figures(values[:, :, k][windows], observed[:, :, k][windows]), axis=-1)
        for values, observed in kinds for k in range(values.shape[2])
    ]
    n_cells = len(arrays.cell_types)
    stacked = np.stack(figures, axis=1) if figures else np.empty((n_cells, 0, 2))
    training = stacked[arrays.train_mask]
    enough = np.isfinite(training).sum(axis=0) > 1
    spread = np.full(enough.shape, np.nan)
    spread[enough] = np.nanstd(training[:, enough], axis=0, ddof=1)
    metadata = np.where(arrays.metadata_observed[:, None], arrays.metadata, np.nan).astype(np.float64)
    names = (*arrays.histone_marks, *arrays.tfs, "expression")
    return _Inputs(stacked, np.maximum(spread, MIN_SPREAD), metadata, names)


def _squares(inputs: _Inputs, train: np.ndarray) -> np.ndarray:
    """Return the mean squared difference of each input: shape=(C, T, K + 1), NaN = not known in both or oneself."""
    difference = (inputs.figures[:, None] - inputs.figures[train]) / inputs.spread  # (C, T, K, 2)
    described = inputs.metadata[:, None] - inputs.metadata[train]  # (C, T, E); z over training cell types already
    n_features = described.shape[-1] or np.nan  # none: expression is not known
    expression = (described ** 2).sum(axis=-1) / n_features
    squares = np.concatenate([(difference ** 2).mean(axis=-1), expression[..., None]], axis=-1)
    squares[np.flatnonzero(train), np.arange(train.sum())] = np.nan
    return squares


def _root_mean_square(squares: np.ndarray) -> np.ndarray:
    """Return the distance of every cell type to every training cell type: shape=(C, T), infinite = not comparable."""
    shared = np.isfinite(squares).sum(axis=-1)
    enough = (shared > 0) & (shared >= MIN_SHARED * shared.max(axis=1, initial=0)[:, None])
    mean = np.nansum(squares, axis=-1) / np.maximum(shared, 1)
    return np.where(enough, np.sqrt(mean), np.inf)


def _most_unusual(inputs: _Inputs, squares: np.ndarray, cell: int, other: int, arrays: Arrays) -> str:
    """Say which input of a cell type differs most from its nearest training cell type's, and how."""
    i, name = int(np.nanargmax(squares)), arrays.cell_types["cell_type"].iloc[other]
    if i == len(inputs.names) - 1:
        return f"expression: {np.sqrt(squares[i]):.1f} sd from {name}'s, root mean square over genes"
    here, there = inputs.figures[cell, i], inputs.figures[other, i]
    difference = (here - there) / inputs.spread[i]
    k = int(np.abs(difference).argmax())
    side = "above" if difference[k] >= 0 else "below"
    return f"{inputs.names[i]}: {FIGURES[k]} {here[k]:.2f}, {abs(difference[k]):.1f} sd {side} {name}'s {there[k]:.2f}"


def _errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return cell_type, mse and skill over the average on unseen chromosomes."""
    rows = predictions[predictions["window_split"] == "test"]
    rows = rows[np.isfinite(rows["score"]) & np.isfinite(rows["average_score"])]
    squares = pd.DataFrame({
        "cell_type": rows["cell_type"], "mse": (rows["score"].astype(float) - rows["predicted_score"]) ** 2,
        "average": (rows["score"].astype(float) - rows["average_score"]) ** 2,
    })
    error = squares.groupby("cell_type").mean()
    return error.assign(skill=1 - error["mse"] / error["average"].where(error["average"] > 0)).drop(
        columns="average").reset_index()


def _spearman(distance: pd.Series, error: pd.Series) -> dict[str, float]:
    """Return rho, two-sided p of a permutation test, n; NaN below 3 cell types, or where either does not vary."""
    known = np.isfinite(distance) & np.isfinite(error)
    x, y = (stats.rankdata(values[known]) for values in (distance, error))
    n = int(known.sum())
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {"rho": np.nan, "p": np.nan, "n": n}
    y = (y - y.mean()) / (np.linalg.norm(x - x.mean()) * np.linalg.norm(y - y.mean()))
    test = stats.permutation_test((x,), lambda x, axis: (x * y).sum(axis=axis), permutation_type="pairings",
                                  n_resamples=N_PERMUTATIONS, vectorized=True, rng=np.random.default_rng(1))
    return {"rho": float(test.statistic), "p": float(test.pvalue), "n": n}


def _sentence(relation: dict[str, dict[str, dict[str, float]]]) -> str:
    """Say whether distance tells error and skill, of test and of validation cell types apart."""
    asked = [name for name in ("test", "validation") if name == "test" or relation[name]["mse"]["n"]]
    parts = [_of_split(relation[name], f"{name} cell type") for name in asked]
    few = max(relation[name]["mse"]["n"] for name in asked) < FEW_CELL_TYPES
    return " ".join(parts) + (" So few cell types say little either way." if few else "")


def _of_split(found: dict[str, dict[str, float]], noun: str) -> str:
    """Say it of one split's cell types."""
    n = found["mse"]["n"]
    if not np.isfinite([entry["rho"] for entry in found.values()]).all():
        return (f"Whether distance tells the error cannot be said from {count(n, noun)}: needed are 3 whose errors "
                "differ.")
    words = {"mse": ("error", "larger", "smaller", "MSE"), "skill": ("skill", "higher", "lower", "skill")}
    told, figures = [], []
    for name, (what, more, less, short) in words.items():
        rho, p = found[name]["rho"], found[name]["p"]
        figures.append(f"Spearman {rho:+.2f} with {short}, permutation p = {p:.2g}")
        if p < SIGNIFICANT:
            told.append(f"the {more if rho > 0 else less} the {what}")
    given, least = f"({'; '.join(figures)})", 2 / factorial(n)
    if least > SIGNIFICANT:
        return (f"Whether distance tells the error cannot be known from {count(n, noun)}: even a perfect order has "
                f"p = {least:.2g} {given}.")
    if told:
        return f"Over {count(n, noun)}: the farther the inputs, {' and '.join(told)} {given}."
    return f"Over {count(n, noun)}, distance tells neither error nor skill beyond chance {given}."
