"""Binned signals under windows: this project's reader against its peers, and against the physical limit.

    python tests/benchmarks/bench_signals.py [--folder DIR] [--tracks 8] [--windows 20000]

Writes synthetic bigWigs (one chromosome of 145 Mbp, some 3.7 million intervals a track), once with pyBigWig's
blocks and once with 1,024 items a block, and reads mean, variance and max of 16 and of 30 bins under windows of
1,500 bp. Peers that are not installed are named as such. The limit is reading and inflating each touched block
once, with the same inflater and as many threads. All roads run on one worker; those with workers of their own
run on two as well.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import pyBigWig

from chromacc_lib.bigwig import _libdeflate, inflater, merge_ranges, open_bigwig
from chromacc_lib.signals import bin_edges, binned_signals

CHROM, LENGTH, INTERVALS, WINDOW_BP = "chr1", 145_000_000, 3_700_000, 1500
SLOW_STATS, SLOW_VALUES = 300, 3_000  # windows that a slow road is measured on


def main() -> None:
    """Write the files where they are not there, measure every road, and print a table for each layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "chromacc-bench-signals")
    parser.add_argument("--tracks", type=int, default=8)
    parser.add_argument("--windows", type=int, default=20_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    windows = random_windows(options.windows)
    binned_signals(write_tracks(options.folder, "pybigwig", 1), windows.iloc[:2], 16, 1)  # compile
    for layout in ("pybigwig", "1024 items"):
        paths = write_tracks(options.folder, layout, options.tracks)
        for n_bins in (16, 30):
            for workers in (1, 2):
                report(layout, n_bins, paths, windows, workers)


def random_windows(n: int) -> pd.DataFrame:
    """Return n windows that do not overlap, sorted."""
    rng = np.random.default_rng(0)
    starts = np.sort(rng.choice(LENGTH // WINDOW_BP - 1, n, replace=False)) * WINDOW_BP
    return pd.DataFrame({"chrom": CHROM, "start": starts, "end": starts + WINDOW_BP})


# --- files --------------------------------------------------------------------------------------------------
def write_tracks(folder: Path, layout: str, n: int) -> list[Path]:
    """Write what is missing of n bigWigs with pyBigWig's blocks, or with 1,024 items a block; return paths."""
    paths = [folder / f"{layout.replace(' ', '_')}_{i}.bw" for i in range(n)]
    for seed, path in enumerate(paths):
        if not path.exists():
            partial = path.with_name(f"partial_{path.name}")
            (write_pybigwig if layout == "pybigwig" else write_1024)(partial, *intervals(seed))
            partial.rename(path)
    return paths


def intervals(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, ends and values like those of a fold-change track: most bases covered, few values high."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(LENGTH // 2, INTERVALS + 1, replace=False)) * 2
    values = np.round(rng.gamma(0.7, 0.8, INTERVALS), 4).astype(np.float32)
    kept = rng.random(INTERVALS) < 0.95
    return cuts[:-1][kept], cuts[1:][kept], values[kept]


def write_pybigwig(path: Path, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    """Write with pyBigWig: 2,728 intervals a block."""
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader([(CHROM, LENGTH)])
        bigwig.addEntries([CHROM] * len(starts), starts.tolist(), ends=ends.tolist(), values=values.tolist())


def write_1024(path: Path, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
    """Write with pybigtools, which has 1,024 intervals a block, as UCSC's tools."""
    import pybigtools
    rows = zip([CHROM] * len(starts), starts.tolist(), ends.tolist(), values.tolist())
    pybigtools.open(str(path), "w").write({CHROM: LENGTH}, rows)


# --- roads --------------------------------------------------------------------------------------------------
def reduce_values(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return mean, variance and max over bins of base values: (n, L) -> (n, B, 3)."""
    values = np.nan_to_num(values).astype(np.float64)
    widths = np.diff(edges)
    mean = np.add.reduceat(values, edges[:-1], axis=1) / widths
    centred = values - np.repeat(mean, widths, axis=1)
    variance = np.add.reduceat(centred * centred, edges[:-1], axis=1) / widths
    return np.stack([mean, variance, np.maximum.reduceat(values, edges[:-1], axis=1)], axis=2)


def by_stats(path: Path, windows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """pyBigWig.stats(exact=True): one call a window and statistic; its bins are its own."""
    out = np.zeros((len(windows), len(edges) - 1, 3))
    with pyBigWig.open(str(path)) as bigwig:
        for i, start in enumerate(windows["start"].tolist()):
            for j, name in enumerate(("mean", "std", "max")):
                got = bigwig.stats(CHROM, start, start + WINDOW_BP, type=name, nBins=len(edges) - 1, exact=True)
                out[i, :, j] = [value or 0.0 for value in got]
    return out


def by_values(path: Path, windows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """pyBigWig.values, one call a window."""
    out = []
    with pyBigWig.open(str(path)) as bigwig:
        for start in windows["start"].tolist():
            out.append(reduce_values(bigwig.values(CHROM, start, start + WINDOW_BP, numpy=True)[None], edges))
    return np.concatenate(out)


def by_pybigtools(path: Path, windows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """pybigtools' values, one call a window, reduced together."""
    import pybigtools
    with pybigtools.open(str(path)) as bigwig:
        rows = [bigwig.values(CHROM, start, start + WINDOW_BP, fillna=0) for start in windows["start"].tolist()]
    return reduce_values(np.stack(rows), edges)


def by_figwig(paths: list[Path], windows: pd.DataFrame, edges: np.ndarray, workers: int) -> np.ndarray:
    """figwig's windows of base values, binned afterwards."""
    import figwig
    values = figwig.read_bigwig([str(p) for p in paths], CHROM, windows["start"].to_numpy(), WINDOW_BP,
                                n_jobs=workers)  # (n, tracks, L)
    with ThreadPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(lambda i: reduce_values(values[:, i], edges), range(len(paths)))))


def by_deeptools(paths: list[Path], windows: pd.DataFrame, workers: int) -> float:
    """Seconds of deepTools' multiBigwigSummary: one mean a window only."""
    with tempfile.TemporaryDirectory() as folder:
        bed = Path(folder) / "windows.bed"
        windows.to_csv(bed, sep="\t", header=False, index=False)
        begin = time.perf_counter()
        subprocess.run([deeptools(), "BED-file", "--BED", str(bed), "-b", *map(str, paths), "-o",
                        str(Path(folder) / "out.npz"), "-p", str(workers)], check=True, capture_output=True)
        return time.perf_counter() - begin


def deeptools() -> str | None:
    """Return multiBigwigSummary's path, beside this Python or on PATH."""
    return shutil.which("multiBigwigSummary")


@numba.njit(nogil=True)
def _inflate_only(inflate, state, raw, offsets, sizes, words):
    used = np.zeros(1, dtype=np.uint64)
    total = 0
    for i in range(len(offsets)):
        inflate(state, raw.ctypes.data + offsets[i], sizes[i], words.ctypes.data, 4 * len(words), used.ctypes.data)
        total += used[0]
    return total


def inflate_touched(path: Path, windows: pd.DataFrame) -> int:
    """Read and inflate each block under the windows once, and do nothing with it; return the bytes it held."""
    functions = _libdeflate()
    state, total = functions.alloc(), 0
    with open_bigwig(path) as bigwig:
        starts = windows["start"].to_numpy()
        blocks = bigwig.blocks(CHROM, starts, starts + WINDOW_BP)
        offsets, sizes = blocks["offset"].astype(np.int64), blocks["size"].astype(np.int64)
        words = np.empty(bigwig.buffer_bytes // 4 + 1, dtype=np.uint32)
        for first, last in merge_ranges(offsets, sizes, bigwig.source.gap, 4 << 20):
            begin = int(offsets[first])
            raw = bigwig.source.read(begin, int(offsets[last - 1] + sizes[last - 1]) - begin)
            total += _inflate_only(functions.inflate, state, np.frombuffer(raw, np.uint8),
                                   offsets[first:last] - begin, sizes[first:last], words)
    functions.free(state)
    return total


def each(road: Callable, paths: list[Path], windows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """Run a one-file road over all files."""
    return np.stack([road(path, windows, edges) for path in paths])


# --- report -------------------------------------------------------------------------------------------------
def best_of(n: int, work: Callable[[], object]) -> tuple[float, object]:
    """Return the best seconds of n runs, and the last result."""
    seconds = []
    for _ in range(n):
        begin = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), result


def peers(paths: list[Path], windows: pd.DataFrame, edges: np.ndarray, workers: int
          ) -> Iterator[tuple[str, float, int, np.ndarray | None]]:
    """Yield name, seconds, windows measured on, and result (None = not comparable) of each road."""
    if workers == 1:  # these have no workers of their own
        few, some = windows.iloc[:SLOW_STATS], windows.iloc[:SLOW_VALUES]
        seconds, got = best_of(1, lambda: each(by_stats, paths, few, edges))
        yield "pyBigWig.stats(exact=True)", seconds, len(few), got
        seconds, got = best_of(1, lambda: each(by_values, paths, some, edges))
        yield "pyBigWig.values a window", seconds, len(some), got
        seconds, got = best_of(2, lambda: each(by_pybigtools, paths, windows, edges))
        yield "pybigtools.values", seconds, len(windows), got
    seconds, got = best_of(2, lambda: by_figwig(paths, windows, edges, workers))
    yield "figwig, then binned", seconds, len(windows), got
    if deeptools():
        yield "deepTools multiBigwigSummary (1 mean)", by_deeptools(paths, windows, workers), len(windows), None


def report(layout: str, n_bins: int, paths: list[Path], windows: pd.DataFrame, workers: int) -> None:
    """Measure all roads on one layout and print the table; raise AssertionError where results differ."""
    edges = bin_edges(WINDOW_BP, n_bins)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda path: inflate_touched(path, windows.iloc[:2]), paths))  # compile, warm
    ours, got = best_of(5, lambda: binned_signals(paths, windows, n_bins, workers))
    limit, inflated = best_of(5, lambda: _limit(paths, windows, workers))
    values = np.stack([signal.values for signal in got])
    units = len(windows) * len(paths)
    print(f"\n{layout}: {len(paths)} tracks x {len(windows):,} windows x {n_bins} bins, {workers} workers, "
          f"{inflater()}; touched blocks hold {inflated / 1e6:,.0f} MB", flush=True)
    print(f"{'road':40} {'windows x tracks / s':>22} {'ours is faster by':>20}")
    print(f"{'chromacc':40} {units / ours:22,.0f}")
    print(f"{'limit: inflate each touched block once':40} {units / limit:22,.0f} {limit / ours:19.2f}x "
          f"(ours takes {ours / limit:.2f} of its time)")
    for name, seconds, measured, theirs in peers(paths, windows, edges, workers):
        per_unit = seconds / (measured * len(paths))
        print(f"{name:40} {1 / per_unit:22,.0f} {per_unit * units / ours:19.1f}x", flush=True)
        if theirs is not None and "stats" in name:  # its own bins; of covered bases: the maxima agree
            if WINDOW_BP % n_bins == 0:
                np.testing.assert_allclose(values[:, :measured, :, 2], theirs[..., 2], rtol=2e-5, atol=1e-5)
        elif theirs is not None:
            np.testing.assert_allclose(values[:, :measured], theirs, rtol=2e-5, atol=1e-5)
    if deeptools() is None:
        print("deepTools is not installed beside this Python: not measured")


def _limit(paths: list[Path], windows: pd.DataFrame, workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda path: inflate_touched(path, windows), paths))


if __name__ == "__main__":
    sys.exit(main())
