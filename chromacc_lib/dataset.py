"""A dataset as it lies on disk, a labelled zarr store, opened lazily or loaded as the arrays that a model reads.

Every bigWig's mean, variance and maximum of each bin are stored in file units: `histone`, `tf`, and, by replicate,
`accessibility_raw`. Beside them stand accessibility's targets, arcsinh of the fold over genome-wide means
(`accessibility`, `score`, `score_replicate`, `truth`). normalization.json has every constant of either scaling.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.normalization import file_constants, normalise_metadata, normalise_tracks, track_constants
from chromacc_lib.signals import STATISTICS, window_statistics

__all__ = [
    "Arrays", "arrays_of", "expected_departure", "load_arrays", "locus_average", "open_dataset", "read_normalization",
    "replace_folder", "state_weights", "track_signal", "window_summaries", "window_table", "window_tracks",
    "write_table",
]

STATE_NOISE = 0.2  # variance of a training cell type's own departure, where 1 is that of all


# --- the training-cell-type average -------------------------------------------------------------------------
def locus_average(values: np.ndarray, train_mask: np.ndarray) -> np.ndarray:
    """Mean over training cell types at each locus; a training cell type is left out of its own average.

    values: shape=(W, C, ...), NaN = unknown. train_mask: bool, shape=(C,). Returns float32, same shape, NaN
    where no other training cell type is known. Sums run from both ends, so a cell type's own value never
    enters its average, not even as a rounding error.
    """
    known = np.isfinite(values) & train_mask.reshape((1, -1) + (1,) * (values.ndim - 2))
    total = _sum_of_others(np.where(known, values, 0).astype(np.float64))
    count = _sum_of_others(known.astype(np.int32))
    mean = np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0)
    return mean.astype(np.float32)


def _sum_of_others(values: np.ndarray) -> np.ndarray:
    """Return, for each position on axis 1, the sum over all others."""
    out = np.zeros_like(values)
    out[:, 1:] = np.cumsum(values[:, :-1], axis=1)
    out[:, :-1] += np.cumsum(values[:, :0:-1], axis=1)[:, ::-1]
    return out


# --- what cell types in a like state show -------------------------------------------------------------------
def state_weights(metadata: np.ndarray, observed: np.ndarray, train_mask: np.ndarray) -> np.ndarray:
    """How much each training cell type's departure from the locus average counts for every cell type: float64, (C, C).

    Gaussian-process regression over cell types (Rasmussen & Williams 2006, chapter 2) of which the metadata say how
    alike two are: exp(-d^2 / m), with d their distance and m the median of d^2 between training cell types; the
    variance of what is a training cell type's own is STATE_NOISE, where 1 is that of all departures. Row: the cell
    type that is described; column: a training cell type, never the same one; 0 where either has no metadata. metadata: z, shape=(C, E); observed, train_mask: bool, shape=(C,).
    """
    weights = np.zeros((len(metadata), len(metadata)))
    known = np.flatnonzero(observed & train_mask)
    z = metadata.astype(np.float64)
    distance = ((z[:, None] - z[None]) ** 2).sum(axis=2)  # (C, C)
    between = distance[np.ix_(known, known)][np.triu_indices(len(known), 1)]
    middle = np.median(between) if len(between) else 0.0
    if middle == 0:
        return weights
    alike = np.exp(-distance / middle)
    for cell in np.flatnonzero(observed):
        others = known[known != cell]
        noisy = alike[np.ix_(others, others)] + STATE_NOISE * np.eye(len(others))
        weights[cell, others] = np.linalg.solve(noisy, alike[others, cell])
    return weights


def expected_departure(values: np.ndarray, weights: np.ndarray, average: np.ndarray) -> np.ndarray:
    """What `state_weights` expect of every cell type on top of its locus average: float32, shape=(W, C, ...).

    values: shape=(W, C, ...), NaN = unknown, which counts as no departure; average: of `locus_average`, same shape.
    """
    known = np.isfinite(values)
    total, share = (
        np.moveaxis(np.tensordot(np.where(known, part, 0).astype(np.float64), weights, axes=(1, 1)), -1, 1)
        for part in (values, 1.0)
    )
    return np.nan_to_num(total - share * average).astype(np.float32)


# --- loading ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Arrays:
    """A dataset in memory, normalised, ready for the model. W windows of L bp, C cell types, B bins.

    sequence uint8 (W, L), 0..3 = ACGT, 4 = N; histone float32 (W, C, M, B, 3) and tf (W, C, F, B, 3), z, 0 =
    missing, with their observed masks, bool (W, C, M) and (W, C, F); metadata float32 (C, E), z, with its
    mask (C,); accessibility float32 (W, C, B), score (W, C), arcsinh units, NaN = unknown; label int8 (W, C),
    -1 = unknown; windows: as of `window_table`; cell_types: cell_type, split, lineage, donor;
    truth float32 (W, C) and score_replicate (W, C, R), None where there is none.
    """

    sequence: np.ndarray
    histone: np.ndarray
    histone_observed: np.ndarray
    tf: np.ndarray
    tf_observed: np.ndarray
    metadata: np.ndarray
    metadata_observed: np.ndarray
    accessibility: np.ndarray
    score: np.ndarray
    label: np.ndarray
    windows: pd.DataFrame
    cell_types: pd.DataFrame
    histone_marks: tuple[str, ...]
    tfs: tuple[str, ...]
    features: tuple[str, ...]
    simulated: bool
    truth: np.ndarray | None = None
    score_replicate: np.ndarray | None = None

    @property
    def train_mask(self) -> np.ndarray:
        """bool, shape=(C,): the training cell types."""
        return self.cell_types["split"].to_numpy() == "train"

    @cached_property
    def prior_profile(self) -> np.ndarray:
        """float32, shape=(W, C, B, 3): accessibility's mean and sd over (other) training cell types, and by how much
        those of like metadata depart from that mean (`expected_departure`; 0 without metadata).

        0 where `prior_observed` is False.
        """
        mean = locus_average(self.accessibility, self.train_mask)
        square = locus_average(self.accessibility.astype(np.float64) ** 2, self.train_mask)
        sd = np.sqrt(np.maximum(square - mean.astype(np.float64) ** 2, 0)).astype(np.float32)
        departure = expected_departure(self.accessibility, self.state_weights, mean)
        return np.nan_to_num(np.stack([mean, sd, departure], axis=-1), nan=0.0)

    @cached_property
    def state_weights(self) -> np.ndarray:
        """float64, shape=(C, C): see `state_weights`."""
        return state_weights(self.metadata, self.metadata_observed, self.train_mask)

    @cached_property
    def _average_score(self) -> np.ndarray:
        return locus_average(self.score, self.train_mask)

    @cached_property
    def prior_score(self) -> np.ndarray:
        """float32, shape=(W, C): mean score over (other) training cell types; 0 = unknown."""
        return np.nan_to_num(self._average_score, nan=0.0)

    @cached_property
    def prior_observed(self) -> np.ndarray:
        """bool, shape=(W, C): some (other) training cell type is known at the window."""
        return np.isfinite(self._average_score)


def open_dataset(path: str | Path) -> xr.Dataset:
    """Open a dataset lazily. path: its folder, or dataset.zarr itself. Raises ChromaccError without one."""
    store = project_path(path)
    store = store if store.name.endswith(".zarr") else store / "dataset.zarr"
    if not store.is_dir():
        raise ChromaccError(
            f"{store}: no dataset there; run notebook 01_data_curation, or correct dataset_dir")
    return xr.open_dataset(store, engine="zarr", chunks=None)


def track_signal(dataset: xr.Dataset, track: str) -> xr.DataArray:
    """Return one histone or TF track: window, cell_type, bin, statistic; raw file units, NaN = missing.

    Raises ChromaccError for a name that is no track of the dataset.
    """
    for kind, dim in (("histone", "histone_mark"), ("tf", "tf_name")):
        if track in dataset[dim].values:
            return dataset[kind].sel({dim: track})
    raise ChromaccError(
        f"no track is called {track!r}; the dataset has: {', '.join(dataset['track'].values)}")


def window_summaries(dataset: xr.Dataset, tracks: Sequence[str] = ()) -> xr.DataArray:
    """Return mean, variance and max of tracks over whole windows, from the bins; tracks: () = all.

    Dims window, cell_type, track, statistic; float32, raw file units, NaN = missing.
    """
    names, length = list(tracks or dataset["track"].values.tolist()), int(dataset.attrs["window_bp"])
    sizes = (dataset.sizes[dim] for dim in ("window", "cell_type"))
    values = np.empty((*sizes, len(names), len(STATISTICS)), dtype=np.float32)
    for i, name in enumerate(names):
        values[:, :, i] = window_statistics(track_signal(dataset, name).values, length)
    labels = {"cell_type": dataset["cell_type"].values, "track": names, "statistic": list(STATISTICS)}
    return xr.DataArray(values, dims=("window", *labels), coords=labels)


def window_tracks(dataset: xr.Dataset, window: int, cell_type: str) -> pd.DataFrame:
    """Return all signals of one window in one cell type: bins as rows, accessibility and tracks as columns.

    Unit: bin mean as fold over the file's genome-wide mean; NaN = not measured.
    """
    here = dataset.isel(window=window).sel(cell_type=cell_type)
    columns = {"accessibility": np.sinh(here["accessibility"].values)}
    for name in dataset["track"].values.tolist():
        signal = track_signal(here, name).sel(statistic="mean").values
        columns[name] = signal / float(here["genome_mean"].sel(track=name))
    return pd.DataFrame(columns)


def read_normalization(path: str | Path) -> dict:
    """Return normalization.json of a dataset's folder. Raises ChromaccError when it is not there."""
    file = project_path(path) / "normalization.json"
    if not file.is_file():
        raise ChromaccError(f"{file}: not there; curate the dataset again (notebook 01_data_curation)")
    content = json.loads(file.read_text())
    if "normalization" not in content:
        raise ChromaccError(f"{file}: written by an older version, without the files' own constants; curate "
                            "the dataset again (notebook 01_data_curation), and train again")
    return content


def load_arrays(path: str | Path, windows: slice = slice(None)) -> Arrays:
    """Load a dataset's folder, or these windows of it, into memory, normalised by its own constants.

    Raises ChromaccError if it is not there.
    """
    return arrays_of(open_dataset(path).isel(window=windows), read_normalization(path))


def arrays_of(dataset: xr.Dataset, normalization: Mapping) -> Arrays:
    """Load an opened dataset, or a part of its windows, normalised; normalization: of `read_normalization`."""
    marks, tfs = (tuple(dataset[dim].values.tolist()) for dim in ("histone_mark", "tf_name"))
    features = tuple(dataset["feature"].values.tolist())
    cell_names = dataset["cell_type"].values.tolist()
    (histone, histone_observed), (tf, tf_observed) = (
        normalise_tracks(dataset[kind].values, file_constants(normalization, cell_names, names),
                         track_constants(normalization, names))
        for kind, names in (("histone", marks), ("tf", tfs)))
    metadata, metadata_observed = normalise_metadata(dataset["metadata"].values, normalization, features)
    cells = {"cell_type": "cell_type", "split": "cell_type_split", "lineage": "lineage", "donor": "donor"}
    several = "score_replicate" in dataset and dataset.sizes["replicate"] > 1
    plain = {name: dataset[name].values for name in ("sequence", "accessibility", "score", "label")}
    cell_types = pd.DataFrame({new: dataset[old].values for new, old in cells.items()})
    return Arrays(
        **plain, histone=histone, histone_observed=histone_observed, tf=tf, tf_observed=tf_observed,
        metadata=metadata, metadata_observed=metadata_observed, windows=window_table(dataset),
        cell_types=cell_types, histone_marks=marks, tfs=tfs, features=features,
        simulated=bool(dataset.attrs["simulated"]),
        truth=dataset["truth"].values if "truth" in dataset else None,
        score_replicate=dataset["score_replicate"].values if several else None)


def window_table(dataset: xr.Dataset) -> pd.DataFrame:
    """Return chrom, start, end (0-based half-open), gc, kind, split, tss_distance of every window.

    tss_distance: bp to the nearest TSS, float32, 0 = one touches it; NaN = unknown: the dataset was curated without a
    file of TSS, or that has none on the chromosome.
    """
    columns = {name: dataset[name].values for name in ("chrom", "start", "end", "gc", "kind")}
    columns |= {"split": dataset["window_split"].values, "tss_distance": np.float32(np.nan)}
    if "tss_distance" in dataset:
        columns["tss_distance"] = dataset["tss_distance"].values
    return pd.DataFrame(columns)


# --- files --------------------------------------------------------------------------------------------------
def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet, whole or not at all; its `attrs` become metadata of the file."""
    draft = Path(path).with_name(Path(path).name + ".part")
    table.to_parquet(draft, index=False)
    os.replace(draft, path)


def replace_folder(new: Path, target: Path) -> None:
    """Rename `new` to `target`; an older `target` is set aside first and removed last."""
    old = target.with_name(target.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if target.exists():
        target.rename(old)
    new.rename(target)
    if old.exists():
        shutil.rmtree(old)
