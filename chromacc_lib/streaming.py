"""Train on datasets larger than memory: windows are read from disk pool by pool, the next one while this one is used.

A pool is made of randomly drawn stretches of windows, whole chunks of the zarr store, from all over the training
chromosomes, and is shuffled within. What is in memory is two pools, the windows that are kept for validation, and the
light tables of all windows (scores, labels, coordinates), however many windows the dataset has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
import xarray as xr

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, Target
from chromacc_lib.dataset import Arrays, arrays_of, load_arrays, open_dataset, read_normalization, window_table
from chromacc_lib.model import Batch

__all__ = ["StreamedRegionData", "array_parts", "open_training_data"]

LIGHT = ("chrom", "start", "end", "gc", "kind", "window_split", "score", "label")  # of all windows, always in memory


def open_training_data(path: str | Path, stream_windows: int) -> tuple[Arrays, RegionData | StreamedRegionData]:
    """A dataset's arrays, and what batches are gathered from: all in memory, or pools of `stream_windows` windows.

    When streamed, the arrays hold scores, labels, windows and cell types of all windows, and everything else of none.
    """
    if stream_windows == 0:
        arrays = load_arrays(path)
        return arrays, RegionData(arrays)
    data = StreamedRegionData(path, stream_windows)
    return data.tables, data


def array_parts(path: str | Path) -> Iterator[Arrays]:
    """Yield a dataset in parts of a zarr chunk's windows, in their order."""
    dataset, normalization = _open(path), read_normalization(path)
    step = _chunk_windows(dataset)
    for first in range(0, dataset.sizes["window"], step):
        yield arrays_of(dataset.isel(window=slice(first, first + step)), normalization)


def _open(path: str | Path) -> xr.Dataset:
    """Open what a model reads of a dataset; the light tables are in memory, so that no part of it reads them again."""
    dataset = open_dataset(path).drop_vars(["truth", "score_replicate"], errors="ignore")
    return dataset.assign({name: dataset[name].load() for name in LIGHT})


def _chunk_windows(dataset: xr.Dataset) -> int:
    return int(dataset["sequence"].encoding["chunks"][0])


class StreamedRegionData:
    """What training and prediction read of `RegionData`, with only some of the windows in memory.

    `epoch_order` draws an epoch's pools; batches that follow that order find theirs in memory. Windows that are
    neither in the pools at hand nor kept are read from disk for that one batch.

    pool_windows: at most so many a pool; those of two zarr chunks where fewer are asked for, so that pools are at least
    half full and no batch of half a pool meets three. tables: the light arrays of all windows. prior_score, float32
    (W, C), as in `RegionData`. held_bytes and most_bytes: of the tensors that are, and at most were, in memory. Raises
    `ChromaccError` for a pool without windows.
    """

    def __init__(self, path: str | Path, pool_windows: int) -> None:
        if pool_windows < 1:
            raise ChromaccError(f"stream_windows={pool_windows}; needed: windows a pool, 1 or more (0 = no streaming).")
        self._dataset, self._normalization = _open(path), read_normalization(path)
        self.pool_windows = max(pool_windows, 2 * _chunk_windows(self._dataset))
        none = arrays_of(self._dataset.isel(window=slice(0, 0)), self._normalization)
        self.tables = replace(
            none, score=self._dataset["score"].values, label=self._dataset["label"].values,
            windows=window_table(self._dataset),
        )  # fmt: skip
        self.prior_score = torch.from_numpy(self.tables.prior_score)
        n_windows = len(self.tables.windows)
        self._chunk = np.arange(n_windows) // _chunk_windows(self._dataset)
        self._stretch = np.full(n_windows, -1)  # of each window: its number in _rows, -1 = read when asked for
        self._rows: list[np.ndarray] = []  # windows of each stretch, ascending
        self._held: dict[int, RegionData] = {}  # by stretch
        self._pools: list[list[int]] = []  # stretches of each pool of this epoch
        self._pool_of: dict[int, int] = {}
        self._coming: tuple[int, Future] | None = None  # the pool that the thread reads
        self._reader = ThreadPoolExecutor(1, "pool")
        self._lock = Lock()  # of the two counts, which both threads change
        self.held_bytes = self.most_bytes = 0

    def epoch_order(self, windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the pools of an epoch and return `windows` in the order in which to go through them.

        Where one pool holds them all, it is the order of `RegionData`.
        """
        if self._coming is not None:
            self._held |= self._coming[1].result()  # of an epoch that was given up
            self._coming = None
        stretches = self._stretches(windows)
        if len(windows) <= self.pool_windows:
            self._pools, order = [stretches], rng.permutation(windows)
        else:
            self._pools = self._grouped(rng.permutation(stretches).tolist())
            order = np.concatenate([rng.permutation(np.concatenate([self._rows[s] for s in p])) for p in self._pools])
        ours = set(stretches)
        self._pool_of = {stretch: number for number, pool in enumerate(self._pools) for stretch in pool}
        self._drop([s for s in self._held if s in ours and self._pool_of[s] > 0])
        return order

    def keep(self, windows: np.ndarray) -> None:
        """Read `windows` now, and hold them in memory for good."""
        for stretch in self._stretches(windows):
            if stretch not in self._held:
                self._held[stretch] = self._count(self._read(self._rows[stretch]))

    def batch(self, windows: np.ndarray, cell_types: np.ndarray) -> Batch:
        """As `RegionData.batch`."""
        return self._gather("batch", windows, cell_types)

    def target(self, windows: np.ndarray, cell_types: np.ndarray) -> Target:
        """As `RegionData.target`."""
        return self._gather("target", windows, cell_types)

    def still_to_read(self) -> int:
        """Bytes that two pools take."""
        return 2 * self.pool_windows * self._window_bytes()

    def _window_bytes(self) -> int:
        """Bytes of one window, as it is held."""
        return _bytes(self._read(np.arange(1)))

    def memory(self) -> str:
        """What will be in memory, in words."""
        tables, each = self.tables, self._window_bytes()
        light = [tables.score, tables.label, tables.prior_score, tables.prior_observed]
        light_bytes = sum(a.nbytes for a in light) + tables.windows.memory_usage(deep=True).sum()
        n = len(tables.windows)
        return (
            f"streamed from disk in pools of {self.pool_windows:,} windows, {each / 1e3:,.1f} kB each: two pools take "
            f"{2 * self.pool_windows * each / 1e6:,.1f} MB, tables of all {n:,} windows {light_bytes / 1e6:,.1f} MB "
            f"({light_bytes / n:,.0f} bytes a window); all in memory would take {n * each / 1e6:,.1f} MB"
        )

    def _stretches(self, windows: np.ndarray) -> list[int]:
        """Numbers of the stretches of `windows`: those of one chunk are one stretch."""
        new = np.sort(windows[self._stretch[windows] < 0])
        if len(new):
            for rows in np.split(new, np.flatnonzero(np.diff(self._chunk[new])) + 1):
                self._stretch[rows] = len(self._rows)
                self._rows.append(rows)
        return np.unique(self._stretch[windows]).tolist()

    def _grouped(self, stretches: Sequence[int]) -> list[list[int]]:
        """Fill pools up to their size, each with one stretch at least."""
        pools, filled = [[]], 0
        for stretch in stretches:
            n = len(self._rows[stretch])
            if pools[-1] and filled + n > self.pool_windows:
                pools.append([])
                filled = 0
            pools[-1].append(stretch)
            filled += n
        return pools

    def _gather(self, what: str, windows: np.ndarray, cell_types: np.ndarray) -> Batch | Target:
        cells = np.broadcast_to(cell_types, (len(windows), np.shape(cell_types)[-1]))
        stretches = self._stretch[windows]
        pools = [self._pool_of[s] for s in set(stretches.tolist()) if s in self._pool_of]
        if pools:
            self._reach(min(pools), max(pools))
        pieces, places = [], []
        for stretch in np.unique(stretches).tolist():
            here = np.flatnonzero(stretches == stretch)
            if stretch in self._held:
                data, rows = self._held[stretch], self._rows[stretch]
            else:
                rows = np.unique(windows[here])
                data = self._read(rows)
            pieces.append(getattr(data, what)(np.searchsorted(rows, windows[here]), cells[here]))
            places.append(here)
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return type(pieces[0])(**{
            name: torch.cat([getattr(piece, name) for piece in pieces])[back] for name in vars(pieces[0])
        })

    def _reach(self, first: int, last: int) -> None:
        """Have the pools first to last in memory and none before them; begin to read the next one."""
        self._drop([s for s in self._held if self._pool_of.get(s, first) < first])
        for number in range(first, last + 1):
            if self._coming is not None and self._coming[0] <= number:
                self._held |= self._coming[1].result()
                self._coming = None
            self._held |= self._read_pool(number)
        if self._coming is None and first == last < len(self._pools) - 1:
            self._coming = last + 1, self._reader.submit(self._read_pool, last + 1)

    def _read_pool(self, number: int) -> dict[int, RegionData]:
        """Those stretches of a pool that are not in memory."""
        return {s: self._count(self._read(self._rows[s])) for s in self._pools[number] if s not in self._held}

    def _read(self, rows: np.ndarray) -> RegionData:
        """Read windows, ascending, from disk; what it returns is not counted as held."""
        straight = rows[-1] - rows[0] == len(rows) - 1
        part = self._dataset.isel(window=slice(rows[0], rows[-1] + 1) if straight else rows)
        return RegionData(arrays_of(part, self._normalization))

    def _count(self, data: RegionData) -> RegionData:
        with self._lock:
            self.held_bytes += _bytes(data)
            self.most_bytes = max(self.most_bytes, self.held_bytes)
        return data

    def _drop(self, stretches: Sequence[int]) -> None:
        with self._lock:
            self.held_bytes -= sum(_bytes(self._held.pop(s)) for s in stretches)


def _bytes(data: RegionData) -> int:
    return sum(tensor.nbytes for tensor in vars(data).values())
