"""Tables of predictions: anybody's (cell type, window, measured, predicted), validated, and the rows that count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import Arrays, locus_average
from chromacc_lib.windows import SPLITS

__all__ = ["NO_SPLITS", "prepare", "Table"]

REQUIRED = ("cell_type", "window", "score", "predicted_score")
NUMBERS = ("score", "predicted_score", "average_score", "gc", "label", "predicted_probability")
SPLIT_COLUMNS = ("cell_type_split", "window_split")
NO_SPLITS = "all rows that were given"


@dataclass(frozen=True)
class Table:
    """A validated table of predictions; `prepare` makes it."""

    scored: pd.DataFrame     # score known, whatever the prediction; average_score added where it can be computed
    rows: pd.DataFrame       # of these, the rows whose prediction is finite
    headline: pd.DataFrame   # of these, the rows that the verdict rests on
    scope: str               # which rows those are, in words
    seen: str                # "" where they are unseen, or the table does not say; else what speaks against it
    n_given: int
    not_finite: pd.DataFrame  # the other scored rows: cell_type, window, headline (bool: in scope?)

    def windows(self) -> int:
        """Number of different windows in the headline rows."""
        return int(self.headline["window"].nunique())


def prepare(predictions: pd.DataFrame, arrays: Arrays | None) -> Table:
    """Validate the table and choose the headline rows; see `diagnose` for the columns and what is raised."""
    predictions = _checked(predictions)
    known = np.isfinite(predictions["score"].to_numpy(float))
    if not known.any():
        raise ChromaccError(f"diagnose: none of {len(predictions)} rows has a known score; give measured scores.")
    if arrays is not None:
        _match_arrays(predictions, arrays)
    scored = _with_average(predictions[known].reset_index(drop=True), arrays)
    finite = np.isfinite(scored["predicted_score"].to_numpy(float))
    chosen, scope, seen = _headline(scored)
    return Table(scored, scored[finite].reset_index(drop=True), scored[finite & chosen], scope, seen, len(predictions),
                 scored.loc[~finite, ["cell_type", "window"]].assign(headline=chosen[~finite]))


# --- validation ----------------------------------------------------------------------------------------------

def _checked(given: pd.DataFrame) -> pd.DataFrame:
    """Return the table with plain numbers in its columns of numbers; raise ChromaccError where that cannot be."""
    if not isinstance(given, pd.DataFrame):
        raise ChromaccError(f"diagnose: the table of predictions is a {type(given).__name__}; needed: a pandas "
                            f"DataFrame with the columns {', '.join(REQUIRED)}. pandas.DataFrame(...) makes one.")
    twice = list(dict.fromkeys(map(str, given.columns[given.columns.duplicated()])))
    if twice:
        raise ChromaccError(f"diagnose: the columns {', '.join(twice)} occur more than once in the table of "
                            "predictions; needed: one column of each name. Drop or rename the others.")
    missing = [name for name in REQUIRED if name not in given.columns]
    if missing:
        raise ChromaccError(f"diagnose: the table of predictions lacks the columns {', '.join(missing)}; it has "
                            f"{', '.join(map(str, given.columns))}. Rename them (measured -> score, predicted -> "
                            "predicted_score), or add them.")
    for name in ("cell_type", "window"):
        _refuse(given, name, given[name].isna(), "the name of a cell type" if name == "cell_type" else
                "the id of a window", "Fill it in, or drop the row")
    repeats = int(given.duplicated(["cell_type", "window"]).sum())
    if repeats:
        raise ChromaccError(f"diagnose: {repeats} of {len(given)} rows repeat a (cell_type, window) pair; "
                            "each pair may occur once. Drop or average the repeats.")
    if isinstance(given["cell_type"].dtype, pd.CategoricalDtype):  # else every category is a group, measured or not
        given = given.assign(cell_type=given["cell_type"].astype(object))
    given = given.assign(**{name: _numbers(given, name) for name in NUMBERS if name in given})
    _check_ranges(given)
    return given


def _check_ranges(given: pd.DataFrame) -> None:
    """Raise ChromaccError unless labels are 0, 1 or unknown, probabilities in [0, 1], and splits have known names."""
    if "label" in given:
        _refuse(given, "label", given["label"].notna() & ~given["label"].isin((0, 1, -1)),
                "0 (closed), 1 (open), -1 or NaN (unknown)", "Turn labels into these")
    if "predicted_probability" in given:
        outside = (given["predicted_probability"] < 0) | (given["predicted_probability"] > 1)
        _refuse(given, "predicted_probability", outside, "a probability, 0 to 1",
                "Divide percent by 100, send log-odds through the logistic function, or leave the column out")
    for name in SPLIT_COLUMNS:
        if name in given:
            _refuse(given, name, ~given[name].isin(SPLITS), "train, validation or test",
                    "Rename the words of the split, or leave the column out")


def _numbers(given: pd.DataFrame, name: str) -> pd.Series:
    """Return a column as numbers, NaN where there is none; raise ChromaccError at the first entry that is no number."""
    column = given[name]
    if column.dtype.kind in "iuf" and isinstance(column.dtype, np.dtype):
        return column
    number = pd.Series([value is None or value is pd.NA or _is_number(value) for value in column], given.index, bool)
    _refuse(given, name, ~number, "a number", "Convert the column with pandas.to_numeric")
    return pd.Series(column.to_numpy(float, na_value=np.nan), given.index)


def _is_number(value: Any) -> bool:
    """Say whether a value is a real number and neither text, date nor complex."""
    return isinstance(value, (int, float, np.integer, np.floating, np.bool_))


def _refuse(given: pd.DataFrame, name: str, bad: pd.Series, needed: str, remedy: str) -> None:
    """Raise ChromaccError that names the first bad entry of a column, if there is one."""
    at = np.flatnonzero(bad.to_numpy(bool))
    if len(at):
        row = given.iloc[at[0]]
        got = repr(row[name]) if isinstance(row[name], str) else row[name]
        raise ChromaccError(f"diagnose: column {name}, {len(at)} of {len(given)} rows, first row {at[0]} (counted from "
                            f"0; cell_type {row['cell_type']}, window {row['window']}): got {got}; needed: {needed}. "
                            f"{remedy}.")


def _match_arrays(predictions: pd.DataFrame, arrays: Arrays) -> None:
    """Raise ChromaccError unless cell types and window indices of the table exist in the dataset."""
    unknown = predictions["cell_type"][~predictions["cell_type"].isin(arrays.cell_types["cell_type"])].unique()
    if len(unknown):
        raise ChromaccError(f"diagnose: cell types {', '.join(sorted(map(str, unknown))[:5])} of the predictions are "
                            "not in the dataset; give the dataset that the predictions were made for.")
    n_windows = len(arrays.windows)
    wrong = ~predictions["window"].isin(range(n_windows))
    if wrong.any():
        raise ChromaccError(f"diagnose: {int(wrong.sum())} rows name windows such as "
                            f"{predictions['window'][wrong].iloc[0]}; the dataset has {n_windows} windows, 0 to "
                            f"{n_windows - 1}. Give the dataset that the predictions were made for.")


# --- what the checks read ------------------------------------------------------------------------------------

def _headline(rows: pd.DataFrame) -> tuple[np.ndarray, str, str]:
    """Return which rows come closest to unseen x unseen (bool), their name, and what makes them seen ("" = unseen)."""
    cell, chrom = (rows[name] if name in rows else None for name in SPLIT_COLUMNS)
    everything = np.ones(len(rows), bool)
    if cell is None and chrom is None:
        return everything, NO_SPLITS, ""
    if chrom is None:
        choices = {"unseen cell types": cell == "test"}
    elif cell is None:
        choices = {"unseen chromosomes": chrom == "test"}
    else:
        choices = {"unseen cell types on unseen chromosomes": (cell == "test") & (chrom == "test"),
                   "seen cell types on unseen chromosomes": (cell == "train") & (chrom == "test"),
                   "unseen cell types on seen chromosomes": (cell == "test") & (chrom == "train"),
                   "unseen cell types or chromosomes, the others of validation": (cell == "test") | (chrom == "test")}
    for scope, chosen in choices.items():
        if chosen.any():
            return chosen.to_numpy(), scope, ""
    validation = ((cell == "validation") if cell is not None else False) | (
        (chrom == "validation") if chrom is not None else False)
    if validation.any():
        return validation.to_numpy(), "validation rows", "were used to choose the checkpoint"
    return everything, NO_SPLITS, "were trained on"


def _with_average(rows: pd.DataFrame, arrays: Arrays | None) -> pd.DataFrame:
    """Add average_score, the locus average, when the table lacks it and three training cell types or more are measured.

    The training cell types are the dataset's where there is one, else those of the table.
    """
    if "average_score" in rows:
        return rows
    if arrays is not None:
        scores = pd.DataFrame(arrays.score, columns=arrays.cell_types["cell_type"])
        train = arrays.train_mask
    else:
        scores = rows.pivot(index="window", columns="cell_type", values="score")
        split = rows.groupby("cell_type")["cell_type_split"].first() if "cell_type_split" in rows else None
        train = np.ones(scores.shape[1], bool)
        if split is not None:
            train = (split.reindex(scores.columns) == "train").to_numpy()
    if train.sum() < 3:
        return rows
    average = locus_average(scores.to_numpy(np.float32), train)                                            # (W, C)
    at = scores.index.get_indexer(rows["window"]), scores.columns.get_indexer(rows["cell_type"])
    return rows.assign(average_score=average[at])
