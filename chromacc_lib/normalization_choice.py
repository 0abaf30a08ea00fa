"""The choice of a normalisation: every track under every method side by side, and what that says of them in words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from chromacc_lib.normalization import KINDS, METHODS, scale_file, try_track
from chromacc_lib.problems import Problem

__all__ = ["Comparison", "compare_methods", "compare_normalizations", "explain_choice"]

# what a method supposes, or leaves: the reason for it, and against it
TRADE = {
    "arcsinh": "It evens out the depth of the files and nothing else: a cell type with more marked places, or stronger "
               "ones, keeps them, and so does a file with a worse antibody.",
    "log1p": "It evens out the depth of the files and pulls weak signal in as well: a cell type with more marked "
             "places, or stronger ones, keeps them, and so does a file with a worse antibody.",
    "quantile": "It makes files as alike as their distinct values allow, by construction: a true difference in amount "
                "is taken away together with a technical one, and a small distance is no finding.",
    "s3norm": "It supposes that what is peak and what is background in the training cell types is so in a new one, and "
              "takes a true difference between the two means away together with a technical one.",
}


class Comparison(NamedTuple):
    """One track before and after every method.

    values: {"raw" or method: bin means, float32, shape=(W, C, B)}, before the z-score, NaN = missing.
    distance: by the same names; see `compare_methods`. refused: {method: the files it cannot take}.
    """

    values: dict[str, np.ndarray]
    distance: pd.Series
    refused: dict[str, list[Problem]]


def compare_normalizations(dataset: xr.Dataset, max_windows: int = 500) -> dict[str, Comparison]:
    """Scale every track by every method; see `compare_methods`.

    max_windows: of training chromosomes' windows, so many, evenly spaced, are read; the methods are fitted on them.
    """
    rows = np.flatnonzero(dataset["window_split"].values == "train")
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), max_windows)).astype(int)]
    is_peak, training = dataset["kind"].values[rows] == "peak", dataset["cell_type_split"].values == "train"
    comparisons = {}
    for kind, dim in KINDS.items():
        raw = dataset[kind].isel(window=rows).values  # (W, C, M, B, 3)
        for i, track in enumerate(dataset[dim].values.tolist()):
            names = [f"{cell}, {track}" for cell in dataset["cell_type"].values]
            scales = dataset["genome_mean"].sel(track=track).values
            comparisons[track] = compare_methods(raw[:, :, i], scales, is_peak, training, names)
    return comparisons


def compare_methods(raw: np.ndarray, genome_mean: np.ndarray, is_peak: np.ndarray, training: np.ndarray,
                    names: Sequence[str]) -> Comparison:
    """Scale one track by every method, fitted on the same windows; how far apart are training cell types then?

    raw: shape=(W, C, B, 3), under the reference windows; the rest as in `normalization.fit_track`. distance: mean over training
    cell types of the Wasserstein-1 distance of their bins to those of the other training cell types pooled, in sd
    of all; NaN with fewer than two, and for a method that a file refuses, of which `refused` says why. "raw" is
    arcsinh of file units over their mean in the training cell types' files, one for all, so that it compares.
    """
    values, refused = {"raw": raw[..., 0].astype(np.float32)}, {}
    missing = np.full(values["raw"].shape[::2], np.nan, dtype=np.float32)
    for method in METHODS:
        files, reference, problems = try_track(raw[..., 0], genome_mean, is_peak, training, method, names)
        if problems:
            refused[method] = problems
            continue
        values[method] = np.stack([missing if own is None else scale_file(raw[:, c], own, reference, method)[..., 0]
                                   for c, own in enumerate(files)], axis=1)
    scaled = values | {"raw": np.arcsinh(values["raw"] / np.nanmean(genome_mean[training]))}
    distance = {name: _apart(scaled[name][:, training]) if name in scaled else np.nan
                for name in ("raw", *METHODS)}
    return Comparison(values, pd.Series(distance, name="distance"), refused)


def explain_choice(distance: pd.DataFrame, chosen: str) -> str:
    """Say in Markdown which method a run uses, and what the distances between training cell types say of it.

    distance: of `compare_methods`, tracks as rows, "raw" and methods as columns, NaN = refused. Means are taken
    over the tracks that every method can take. Nothing is said of which method predicts better.
    """
    common = distance.dropna()
    text = f"**This run uses `{chosen}`**, as its parameter `normalization` says. {TRADE[chosen]}"
    if common.empty:
        return f"{text} No track can be taken by every method here, so that they are not compared."
    mean = common.mean().round(3)  # as the table shows it
    others = mean.drop(["raw", chosen]).sort_values()
    closer = [f"`{name}` ({value:.3f})" for name, value in others.items() if value < mean[chosen]]
    tracks = f"{len(common)} track" + ("s" if len(common) > 1 else "")
    return (f"{text}\n\nOver {tracks}, the mean distance between training cell types is {mean['raw']:.3f} sd in raw "
            f"files and {mean[chosen]:.3f} sd under `{chosen}`; "
            + (f"it is smaller under {' and '.join(closer)}. " if closer else "it is smaller under no other method. ")
            + "Smaller is not better by itself: the distance falls when a technical difference is removed, and when a "
            "true one is.")


def _apart(values: np.ndarray) -> float:
    """Mean Wasserstein-1 distance of each cell type to the others, in sd of all; values: (W, C, B), NaN = missing.

    One sort serves all cell types: scipy's wasserstein_distance would sort everything again for each.
    """
    flat = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)  # (C, W * B)
    owner, known = np.repeat(np.arange(len(flat)), flat.shape[1]), np.isfinite(flat).ravel()
    pooled = flat.ravel()[known]
    order = np.argsort(pooled, kind="stable")
    owner, gaps, sd = owner[known][order], np.diff(pooled[order]), pooled.std()
    distances = []
    for c in np.unique(owner):
        mine = np.cumsum(owner == c)
        others = np.arange(1, len(owner) + 1) - mine
        if others[-1]:
            area = np.abs(mine / mine[-1] - others / others[-1])[:-1] @ gaps  # between the distribution functions
            distances.append(area / sd if sd > 0 else 0.0)
    return float(np.mean(distances)) if distances else np.nan
