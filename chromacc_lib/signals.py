"""Signals: exact binned statistics of bigWig tracks under windows.

Zoom levels are never read. Bases without data count as zero, except that a chromosome on which a file has no
interval at all is missing there (NaN). All coordinates are 0-based half-open, in bp.
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
from tqdm import tqdm

from chromacc_lib import ChromaccError
from chromacc_lib.manifest import bigwig_layout

__all__ = [
    "STATISTICS", "bin_edges", "binned_signal", "binned_signals", "chroms_with_data", "genome_mean",
    "window_mean",
]

STATISTICS = ("mean", "variance", "max")
CHUNK_BP = 1_000_000  # bases read at once: large enough to touch each data block about once, small in memory
MAX_GAP_BP = 20_000   # a gap between windows longer than this is not worth reading through
POOL_FROM = 400_000   # windows x files (some 5 s of work) from which starting worker processes pays


def bin_edges(window_bp: int, n_bins: int) -> np.ndarray:
    """Return bin edges floor(i * window_bp / n_bins), int64, shape=(n_bins + 1,)."""
    if not 1 <= n_bins <= window_bp:
        raise ChromaccError(f"n_bins: got {n_bins}, needed from 1 to the window's {window_bp} bp")
    return np.arange(n_bins + 1, dtype=np.int64) * window_bp // n_bins


def genome_mean(path: str | Path) -> float:
    """Return the file's own depth: sum of its signal / length (bp) of the chromosomes with data in it.

    Needs no other file, so that an unseen cell type is scaled from its own inputs. Raises ChromaccError
    unless the mean is finite and above 0.
    """
    layout = bigwig_layout(path)
    length = sum(layout.chroms[chrom] for chrom in layout.chroms_with_data)
    mean = layout.total / length if length else 0.0
    if not (np.isfinite(mean) and mean > 0):
        raise ChromaccError(f"{path}: genome-wide mean is {mean:g}; needed above 0 to scale the track; "
                            "leave the track out, or give a signal of at least 0")
    return mean


def chroms_with_data(path: str | Path) -> tuple[str, ...]:
    """Return the chromosomes on which a bigWig has at least one interval; on all others it is missing."""
    return bigwig_layout(path).chroms_with_data


def binned_signal(path: str | Path, windows: pd.DataFrame, n_bins: int) -> np.ndarray:
    """Return mean, variance and max of each bin: float32, shape=(W, n_bins, 3), raw file units.

    windows: chrom, start, end, all of one length, in any order. Population variance; float64 sums; bases
    without data are zero; windows on a chromosome without any interval are NaN. Raises ChromaccError that
    names the file.
    """
    layout = bigwig_layout(path)
    present = set(layout.chroms_with_data)
    out = np.full((len(windows), n_bins, len(STATISTICS)), np.nan, dtype=np.float32)
    if not len(windows):
        return out
    length = int(windows["end"].iloc[0] - windows["start"].iloc[0])
    edges = bin_edges(length, n_bins)
    chroms, starts = windows["chrom"].to_numpy(dtype=str), windows["start"].to_numpy(dtype=np.int64)
    with pyBigWig.open(str(path)) as bigwig:
        for chrom in sorted(set(chroms.tolist()) & present):
            rows = np.flatnonzero(chroms == chrom)
            rows = rows[np.argsort(starts[rows], kind="stable")]
            _require_inside(path, chrom, starts[rows], length, layout.chroms[chrom])
            for group in _read_groups(rows, starts, length):
                first, last = int(starts[group[0]]), int(starts[group[-1]]) + length
                values = _values(path, bigwig, chrom, first, last)
                views = np.lib.stride_tricks.sliding_window_view(values, length)
                out[group] = _reduce(views[starts[group] - first], edges)
    return out


def _require_inside(path: str | Path, chrom: str, starts: np.ndarray, length: int, size: int) -> None:
    outside = int(((starts < 0) | (starts + length > size)).sum())
    if outside:
        raise ChromaccError(
            f"{path}: {outside} window(s) reach outside {chrom} of {size:,} bp; needed windows of the "
            "same assembly as the bigWig")


def _read_groups(rows: np.ndarray, starts: np.ndarray, length: int) -> list[np.ndarray]:
    """Cut rows, sorted by start, into groups read by one call: near each other, and CHUNK_BP at most."""
    groups, first = [], 0
    for i in range(1, len(rows) + 1):
        end = i == len(rows)
        if end or starts[rows[i]] - starts[rows[i - 1]] > MAX_GAP_BP \
                or starts[rows[i]] + length - starts[rows[first]] > CHUNK_BP:
            groups.append(rows[first:i])
            first = i
    return groups


def _values(path: str | Path, bigwig: "pyBigWig.pyBigWig", chrom: str, first: int, last: int) -> np.ndarray:
    """Return the signal of each base as float32, shape=(last - first,), zero where there is none."""
    try:
        values = bigwig.values(chrom, first, last, numpy=True)
    except RuntimeError as error:
        raise ChromaccError(f"{path}: cannot read {chrom}:{first}-{last} ({error}); the file is corrupt: "
                            "fetch it again, and compare its md5") from error
    values[np.isnan(values)] = 0.0
    return values


def _reduce(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return mean, population variance and max over bins: (n, L) -> float32 (n, B, 3); sums in float64."""
    widths = np.diff(edges)
    if (widths == widths[0]).all():
        binned = values.reshape(len(values), len(widths), widths[0])  # (n, L) -> (n, B, L/B)
        mean = binned.mean(axis=2, dtype=np.float64)
        centred = binned - mean[:, :, None]
        variance = np.einsum("nbl,nbl->nb", centred, centred) / widths
        top = binned.max(axis=2)
    else:
        mean = np.add.reduceat(values, edges[:-1], axis=1, dtype=np.float64) / widths
        centred = values - np.repeat(mean, widths, axis=1)
        variance = np.add.reduceat(centred * centred, edges[:-1], axis=1) / widths
        top = np.maximum.reduceat(values, edges[:-1], axis=1)
    return np.stack([mean, variance, top], axis=2).astype(np.float32)


def window_mean(bin_means: np.ndarray, window_bp: int) -> np.ndarray:
    """Return the mean of each window from its bins' means, by their widths: (..., B) -> (...), float64."""
    widths = np.diff(bin_edges(window_bp, bin_means.shape[-1]))
    return bin_means.astype(np.float64) @ (widths / window_bp)


def binned_signals(paths: Sequence[str | Path], windows: pd.DataFrame, n_bins: int,
                   workers: int | None = None) -> list[np.ndarray]:
    """Return `binned_signal` of each file, in the order given; the result does not depend on `workers`.

    workers: processes; None = one a core, where the work is large enough to pay for starting them; 1 = none.
    """
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(cores, len(paths)) if len(paths) * len(windows) >= POOL_FROM else 1
    progress = {"total": len(paths), "desc": "bigWigs read", "unit": "file", "disable": None}
    if workers <= 1:
        return [binned_signal(path, windows, n_bins) for path in tqdm(paths, **progress)]
    # spawn, not fork: notebooks and torch run threads, and a forked child may deadlock on their locks
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(binned_signal, path, windows, n_bins) for path in paths]
        return [job.result() for job in tqdm(jobs, **progress)]
