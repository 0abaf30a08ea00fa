"""Tables of predictions: anybody's (cell type, window, measured, predicted), validated, and the rows that count."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import Arrays, locus_average

__all__ = ["prepare", "Table"]


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
