"""Single windows, and groups of them, to look at: chosen by rule, with what was measured, the average and the model."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import Arrays, locus_average

__all__ = ["error_by_spread", "example_windows", "gains", "locus_tables"]


def error_by_spread(rows: pd.DataFrame, predictions: pd.DataFrame, columns: Mapping[str, str], n_groups: int = 8
                    ) -> pd.DataFrame:
    """Return MSE on `rows` for groups of windows of rising spread between training cell types.

    predictions: the whole table, from which the spread (sd of the score over training cell types) is taken.
    columns: {name: column of scores}. The index is the mean spread of a group; groups hold equally many windows, or
    more where windows have the same spread.
    """
    seen = predictions[predictions["cell_type_split"] == "train"]
    spread = rows["window"].map(seen.groupby("window")["score"].std())
    group = pd.qcut(spread, n_groups, labels=False, duplicates="drop").fillna(0)  # NaN: all windows alike
    errors = {name: ((rows[column] - rows["score"]) ** 2).groupby(group).mean() for name, column in columns.items()}
    return pd.DataFrame(errors).set_index(spread.groupby(group).mean().rename("spread"))


def gains(rows: pd.DataFrame) -> pd.Series:
    """Return the gain of the model over the average in each window (id): squared error of the average minus the
    model's, summed over the cell types in rows.
    """
    gain = (rows["average_score"] - rows["score"]) ** 2 - (rows["predicted_score"] - rows["score"]) ** 2
    return gain.groupby(rows["window"]).sum().sort_index()


def example_windows(rows: pd.DataFrame, windows: np.ndarray, seed: int) -> dict[str, int]:
    """Return three windows by rule: "best" and "worst" for the model against the average, and one "random".

    Best and worst by `gains`; only `windows` (ids) take part. Raises ChromaccError when none of them is in rows.
    """
    here = rows[rows["window"].isin(windows)]
    if here.empty:
        raise ChromaccError("loci.example_windows: none of the windows asked for is among the rows")
    gain = gains(here)
    random = np.random.default_rng(seed).choice(gain.index.to_numpy())
    return {"best": int(gain.idxmax()), "random": int(random), "worst": int(gain.idxmin())}


def locus_tables(
    arrays: Arrays, windows: Mapping[str, int], cells: np.ndarray, profile: np.ndarray
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[str, np.ndarray]]]:
    """Return what `plots.plot_loci` draws: profiles and input tracks of a few windows in a few cell types.

    windows: {why it was chosen: window}. cells: indices, shape=(C,). profile: predicted, shape=(windows, C, B), arcsinh
    fold. Profiles: {title: table of cell_type, bp (middle of the bin, from the window's start), measured, average,
    model}.
    Tracks: {title: {cell type: shape=(tracks, B), z of the bin means, NaN = missing}}.
    """
    n_bins, window_bp = arrays.accessibility.shape[2], arrays.sequence.shape[1]
    middle = (np.arange(n_bins) + 0.5) * window_bp / n_bins
    profiles, tracks = {}, {}
    for i, (why, window) in enumerate(windows.items()):
        place = arrays.windows.iloc[window]
        title = f"{why}: {place['chrom']}:{place['start']:,}-{place['end']:,}"
        average = locus_average(arrays.accessibility[[window]], arrays.train_mask)[0]  # (C, B)
        names = arrays.cell_types["cell_type"].iloc[cells].tolist()
        profiles[title] = pd.concat([
            pd.DataFrame({"cell_type": name, "bp": middle, "measured": arrays.accessibility[window, c],
                          "average": average[c], "model": profile[i, k]})
            for k, (name, c) in enumerate(zip(names, cells, strict=True))
        ], ignore_index=True)
        tracks[title] = {name: _tracks(arrays, window, c) for name, c in zip(names, cells, strict=True)}
    return profiles, tracks


def _tracks(arrays: Arrays, window: int, cell: int) -> np.ndarray:
    """Return the bin means of every track in one window and cell type, NaN where missing: shape=(tracks, B)."""
    values = np.concatenate([arrays.histone[window, cell, ..., 0], arrays.tf[window, cell, ..., 0]])
    observed = np.concatenate([arrays.histone_observed[window, cell], arrays.tf_observed[window, cell]])
    return np.where(observed[:, None], values, np.nan)
