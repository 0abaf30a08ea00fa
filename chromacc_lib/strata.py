"""Strata: parts of the headline's rows that deserve a look of their own, each by a rule in words.

Where most windows are open everywhere or nowhere, a mean over all of them says little about the others. Everything here
is a pure function of the predictions table (columns of `evaluation.COLUMNS`; `tss_distance` and `observed_tracks` where
known, see `inference.predict_dataset`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError

__all__ = ["PROMOTER_BP", "Stratum", "entropy_windows", "observed_levels", "specific_windows", "strata"]

SPECIFIC_SHARE = 1 / 3  # windows that differ most between cell types: the top third
PROMOTER_BP = 1_000     # from a window to the nearest TSS, at most
MOST_LEVELS = 4         # of the number of observed tracks
LEAST_SHARE = 0.1       # of the rows, in each level
FEWEST_WINDOWS = 5      # in a stratum: fewer say nothing


@dataclass(frozen=True)
class Stratum:
    """Which rows, by a rule in words. rows: bool, aligned with the rows given; None = undefined, and why in words."""

    rule: str
    rows: np.ndarray | None
    undefined: str = ""


def strata(predictions: pd.DataFrame, rows: pd.DataFrame) -> dict[str, Stratum]:
    """Return every stratum by name, as masks over `rows`.

    predictions: the whole table, from which windows are chosen. rows: the part of it that is evaluated. A stratum that
    has fewer than 5 windows among the rows, or cannot be told, is undefined, in words.
    """
    n_training = predictions.loc[predictions["cell_type_split"] == "train", "cell_type"].nunique()
    found = {"varying": Stratum(
        "windows whose score varies most between training cell types", None,
        f"needs 2 training cell types with a score, got {n_training}")}  # fmt: skip
    choices = {"varying": specific_windows} if n_training > 1 else {}
    for name, choose in (choices | {"specific_by_entropy": entropy_windows}).items():
        windows, rule = choose(predictions)
        found[name] = Stratum(rule, rows["window"].isin(windows).to_numpy())
    found |= _by_promoter(rows) | _by_tracks(rows)
    return {name: _with_enough(stratum, rows) for name, stratum in found.items()}


def _with_enough(stratum: Stratum, rows: pd.DataFrame) -> Stratum:
    """Return the stratum, as undefined when it has too few windows."""
    n_windows = None if stratum.rows is None else rows["window"][stratum.rows].nunique()
    if n_windows is None or n_windows >= FEWEST_WINDOWS:
        return stratum
    return Stratum(stratum.rule, None, f"{n_windows} of the {rows['window'].nunique():,} windows here are such; at "
                                       f"least {FEWEST_WINDOWS} are needed")


# --- windows where cell types differ -------------------------------------------------------------------------


def specific_windows(predictions: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return the windows (ids, sorted) whose score varies most between training cell types, and the rule in words.

    The rule: standard deviation of the score over training cell types above 0 and in the top third of all windows that
    have rows of them.
    No held-out cell type takes part. Raises ChromaccError with fewer than two training cell types.
    """
    seen = predictions[predictions["cell_type_split"] == "train"]
    n_cells = seen["cell_type"].nunique()
    if n_cells < 2:
        raise ChromaccError(
            f"evaluation: cell-type-specific windows need at least 2 training cell types, got {n_cells}; "
            "hold out fewer cell types in 01_data_curation"
        )
    spread = seen.groupby("window")["score"].std()
    cut = spread.quantile(1 - SPECIFIC_SHARE)
    chosen = spread[(spread >= cut) & (spread > 0)].index.to_numpy()
    rule = (
        f"standard deviation of the score over the {n_cells} training cell types in the top third of the windows that "
        f"all of them have (at least {max(cut, 0):.3g}): {len(chosen):,} of {len(spread):,} windows"
    )
    return np.sort(chosen), rule


def entropy_windows(predictions: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Return the windows (ids, sorted) of the lowest Shannon entropy over all cell types, and the rule in words.

    Schug et al. 2005 (Genome Biol. 6:R33): p = fold / its sum over the cell types that are measured there, with
    fold = sinh(score), not below 0; H = -sum(p log2 p), from 0 (one cell type alone) to log2 of their number (alike in
    all). Ordered by how far H lies below that, so that windows measured in fewer cell types can be compared; the third
    that lies farthest is chosen. Held-out cell types take part: nothing may be fitted on this choice. Windows that not
    every cell type has a row for (`inference.predict_dataset` leaves some out) take no part.
    """
    rows = predictions.groupby("window")["cell_type"].transform("size")
    predictions = predictions[rows == rows.max()]
    score = predictions.pivot(index="window", columns="cell_type", values="score").astype(np.float64)
    fold = np.sinh(score).clip(lower=0)
    n_cells = np.isfinite(fold).sum(axis=1)
    total = fold.sum(axis=1)
    p = fold.div(total.where(total > 0), axis=0).to_numpy()
    entropy = -np.where(p > 0, p * np.log2(np.where(p > 0, p, 1)), 0).sum(axis=1)
    below = (np.log2(n_cells.clip(lower=1)) - entropy).where((n_cells > 1) & (total > 0))  # bits below the highest
    cut = below.quantile(1 - SPECIFIC_SHARE)
    chosen = below[(below >= cut) & (below > 1e-9)].index.to_numpy()
    rule = (
        f"Shannon entropy of the accessibility fold over all {int(n_cells.max())} measured cell types in the lowest "
        f"third of all windows (at least {max(cut, 0):.3g} bits below that of a window alike in all): {len(chosen):,} "
        f"of {len(below):,} windows; the held-out cell types take part in this definition"
    )
    return np.sort(chosen), rule


# --- promoters, observed tracks ------------------------------------------------------------------------------


def _by_promoter(rows: pd.DataFrame) -> dict[str, Stratum]:
    """Return the strata of windows near and far from a TSS; those of unknown distance are in neither."""
    rules = {"promoters": f"windows within {PROMOTER_BP:,} bp of a transcription start site",
             "distal": f"windows more than {PROMOTER_BP:,} bp from every transcription start site"}
    distance = rows["tss_distance"].to_numpy(np.float64) if "tss_distance" in rows else np.full(len(rows), np.nan)
    if np.isnan(distance).all():
        why = "no transcription start sites are known here; give a BED of them as tss in 01_data_curation"
        return {name: Stratum(rule, None, why) for name, rule in rules.items()}
    near, far = distance <= PROMOTER_BP, distance > PROMOTER_BP  # NaN is neither
    return {"promoters": Stratum(rules["promoters"], near), "distal": Stratum(rules["distal"], far)}


def _by_tracks(rows: pd.DataFrame) -> dict[str, Stratum]:
    """Return a stratum for each level of the number of observed histone and TF tracks."""
    rule = "rows (window x cell type) by how many histone and TF tracks were observed"
    if "observed_tracks" not in rows:
        return {"observed_tracks": Stratum(rule, None, "the predictions table has no column observed_tracks (an older "
                                                       "version wrote it); write it again with 03_evaluation")}
    count = rows["observed_tracks"].to_numpy()
    levels = observed_levels(count)
    if len(levels) == 1:
        low, high = levels[0]
        got = f"{low}" if low == high else f"{low} to {high}, few of them unlike the others"
        return {"observed_tracks": Stratum(rule, None, f"there is nothing to compare: all rows have {got} tracks")}
    level = np.searchsorted([low for low, _ in levels], count, side="right")
    if pd.Series(level).groupby(rows["chrom"].to_numpy()).nunique().max() == 1:
        where = pd.Series(count).groupby(rows["chrom"].to_numpy()).unique()
        told = ", ".join(f"{chrom} {'/'.join(map(str, sorted(n)))}" for chrom, n in where.items())
        return {"observed_tracks": Stratum(rule, None, "the number of tracks and the chromosome coincide, so that "
                                                       f"neither can be told from the other: {told}")}
    found = {}
    for low, high in levels:
        which = f"{low}" if low == high else f"{low}_to_{high}"
        found[f"observed_tracks_{which}"] = Stratum(
            f"rows (window x cell type) with {which.replace('_', ' ')} observed histone and TF tracks",
            (count >= low) & (count <= high))
    return found


def observed_levels(count: np.ndarray) -> list[tuple[int, int]]:
    """Return (lowest, highest) of each level that numbers of tracks, int, shape=(n,), are grouped into.

    Every number is a level of its own at first; the smallest is joined with the smaller of its neighbours, until there
    are 4 at most, and each has a tenth of the rows.
    """
    values, sizes = np.unique(count, return_counts=True)
    levels = [(int(value), int(value), int(size)) for value, size in zip(values, sizes, strict=True)]
    while len(levels) > 1:
        smallest = min(range(len(levels)), key=lambda i: levels[i][2])
        if len(levels) <= MOST_LEVELS and levels[smallest][2] >= LEAST_SHARE * len(count):
            break
        beside = [i for i in (smallest - 1, smallest + 1) if 0 <= i < len(levels)]
        first, second = sorted((smallest, min(beside, key=lambda i: levels[i][2])))
        levels[first:second + 1] = [(levels[first][0], levels[second][1], levels[first][2] + levels[second][2])]
    return [(low, high) for low, high, _ in levels]
