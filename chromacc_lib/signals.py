"""Signals: exact binned statistics of bigWig tracks under windows.

Zoom levels are never read. Bases without data count as zero, except that a chromosome on which a file has no
interval at all is missing there (NaN); how much of a window had data is kept beside it. All coordinates are
0-based half-open, in bp.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError, cores
from chromacc_lib.bigwig import NO_ALIASES, open_bigwig, read_bins
from chromacc_lib.progress import progress

__all__ = [
    "STATISTICS", "RemoteBytes", "Signal", "bin_edges", "binned_signal", "binned_signals", "bytes_to_fetch",
    "chroms_with_data", "genome_mean", "read_signal", "window_mean", "window_statistics",
]

STATISTICS = ("mean", "variance", "max")


class Signal(NamedTuple):
    """One track under W windows of B bins.

    values: float32, shape=(W, B, 3), mean, variance and max, raw file units, NaN on a chromosome that the
    file does not cover at all. covered: float32, shape=(W, B), share of the bin's bases that have data.
    """

    values: np.ndarray
    covered: np.ndarray


def bin_edges(window_bp: int, n_bins: int) -> np.ndarray:
    """Return bin edges floor(i * window_bp / n_bins), int64, shape=(n_bins + 1,)."""
    if not 1 <= n_bins <= window_bp:
        raise ChromaccError(f"n_bins: got {n_bins}, needed from 1 to the window's {window_bp} bp")
    return np.arange(n_bins + 1, dtype=np.int64) * window_bp // n_bins


def genome_mean(entry: str | Path) -> float:
    """Return the file's own depth: sum of its signal / length (bp) of the chromosomes with data in it.

    Needs no other file, so that an unseen cell type is scaled from its own inputs. Raises ChromaccError
    unless the mean is finite and above 0.
    """
    with open_bigwig(entry) as bigwig:
        length = sum(bigwig.chroms[chrom] for chrom in bigwig.chroms_with_data())
    mean = bigwig.total / length if length else 0.0
    if not (np.isfinite(mean) and mean > 0):
        raise ChromaccError(f"{entry}: genome-wide mean is {mean:g}; needed above 0 to scale the track; "
                            "leave the track out, or give a signal of at least 0")
    return mean


def chroms_with_data(entry: str | Path, aliases: Mapping[str, str] = NO_ALIASES) -> tuple[str, ...]:
    """Return the chromosomes on which a bigWig has at least one interval; on all others it is missing."""
    with open_bigwig(entry, aliases) as bigwig:
        return bigwig.chroms_with_data()


def read_signal(entry: str | Path, windows: pd.DataFrame, n_bins: int,
                present: Sequence[str] | None = None, aliases: Mapping[str, str] = NO_ALIASES) -> Signal:
    """Read one bigWig (path or URL) under windows: mean, variance, max and covered share of each bin.

    windows: chrom, start, end, all of one length, in any order. present: `chroms_with_data(entry)` where it
    is known already. aliases: of chromosomes, see `open_bigwig`. Population variance; float64 sums; bases without data are zero; windows on a chromosome
    without any interval are NaN. Raises ChromaccError that names the file.
    """
    return _read(entry, _by_chrom(windows), len(windows), n_bins, present, aliases)


class _Rows(NamedTuple):
    """The windows of one chromosome, sorted: row numbers, starts (bp), and their one length."""

    chrom: str
    rows: np.ndarray
    starts: np.ndarray
    length: int


def _by_chrom(windows: pd.DataFrame) -> list[_Rows]:
    """Sort windows once for all the files that are read under them."""
    starts, codes = windows["start"].to_numpy(dtype=np.int64), pd.factorize(windows["chrom"])
    length = int(windows["end"].iloc[0] - starts[0]) if len(windows) else 0
    groups = []
    for code, chrom in enumerate(codes[1]):
        rows = np.flatnonzero(codes[0] == code)
        rows = rows[np.argsort(starts[rows], kind="stable")]
        groups.append(_Rows(str(chrom), rows, starts[rows], length))
    return groups


def _read(entry: str | Path, groups: Sequence[_Rows], n_windows: int, n_bins: int,
          present: Sequence[str] | None = None, aliases: Mapping[str, str] = NO_ALIASES) -> Signal:
    signal = Signal(np.full((n_windows, n_bins, len(STATISTICS)), np.nan, dtype=np.float32),
                    np.zeros((n_windows, n_bins), dtype=np.float32))
    with open_bigwig(entry, aliases) as bigwig:
        present = bigwig.chroms_with_data() if present is None else present
        for chrom, rows, starts, length in groups:
            if chrom in present:
                _require_inside(entry, chrom, starts, length, bigwig.chroms[chrom])
                read_bins(bigwig, chrom, starts, bin_edges(length, n_bins), rows, *signal)
    return signal


def binned_signal(entry: str | Path, windows: pd.DataFrame, n_bins: int,
                  aliases: Mapping[str, str] = NO_ALIASES) -> np.ndarray:
    """Return `read_signal(...).values`: float32, shape=(W, n_bins, 3), raw file units."""
    return read_signal(entry, windows, n_bins, aliases=aliases).values


class RemoteBytes(NamedTuple):
    """Of a remote bigWig, in bytes: the whole file; the blocks under some windows; what is to be fetched of these."""

    file: int
    blocks: int
    to_fetch: int


def bytes_to_fetch(entry: str, windows: pd.DataFrame, aliases: Mapping[str, str] = NO_ALIASES) -> RemoteBytes:
    """Return what reading these windows (any number) of a remote bigWig will take.

    The index on the way to the windows is read for it, and not part of it; what the cache holds is not fetched.
    Requests are joined over all windows here, and region by region when they are read: at most `cache.WASTE` of the
    bytes are read along either way, so that what is fetched lies within that share of `to_fetch`.
    """
    blocks: dict[int, int] = {}  # an index may name a block under two chromosomes
    with open_bigwig(entry, aliases) as bigwig:
        for chrom, rows in windows.groupby("chrom", sort=False):
            if chrom in bigwig.chroms:
                rows = rows.sort_values("start")
                found = bigwig.blocks(chrom, *(rows[side].to_numpy(dtype=np.int64) for side in ("start", "end")))
                blocks |= zip(found["offset"].tolist(), found["size"].tolist())
        source = bigwig.source
        to_fetch = sum(size for _, size in source.missing(list(blocks.items())))
        return RemoteBytes(source.size, sum(blocks.values()), to_fetch)


def _require_inside(entry: str | Path, chrom: str, starts: np.ndarray, length: int, size: int) -> None:
    outside = int(((starts < 0) | (starts + length > size)).sum())
    if outside:
        raise ChromaccError(
            f"{entry}: {outside} window(s) reach outside {chrom} of {size:,} bp; needed windows of the "
            "same assembly as the bigWig")


def window_mean(bin_means: np.ndarray, window_bp: int) -> np.ndarray:
    """Return the mean of each window from its bins' means, by their widths: (..., B) -> (...), float64."""
    widths = np.diff(bin_edges(window_bp, bin_means.shape[-1]))
    return bin_means.astype(np.float64) @ (widths / window_bp)


def window_statistics(bins: np.ndarray, window_bp: int) -> np.ndarray:
    """Return mean, variance and max of whole windows, from their bins': (..., B, 3) -> (..., 3), float32.

    The variance is that of the window's bases: within bins, and between their means (law of total variance).
    """
    means, variances = bins[..., 0].astype(np.float64), bins[..., 1].astype(np.float64)
    mean = window_mean(means, window_bp)
    variance = window_mean(variances + (means - mean[..., None]) ** 2, window_bp)
    return np.stack([mean, variance, bins[..., 2].max(axis=-1)], axis=-1).astype(np.float32)


def binned_signals(entries: Sequence[str | Path], windows: pd.DataFrame, n_bins: int,
                   workers: int | None = None, aliases: Mapping[str, str] = NO_ALIASES) -> list[Signal]:
    """Return `read_signal` of each file, in the order given; the result does not depend on `workers`.

    workers: threads; None = one a core. The work is done without Python's lock, so that threads suffice.
    """
    if workers is None:
        workers = cores()
    signals = []
    groups = _by_chrom(windows)
    threads = max(1, min(workers, len(entries)))
    with ThreadPoolExecutor(threads) as pool, progress(len(entries), "reading bigWigs", "files") as bar:
        jobs = [pool.submit(_read, entry, groups, len(windows), n_bins, None, aliases) for entry in entries]
        for job in jobs:
            signals.append(job.result())
            bar.update()
    return signals
