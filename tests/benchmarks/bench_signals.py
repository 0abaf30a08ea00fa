"""Binned signals under windows: this project's reader against its peers, and against the physical limit.

    python tests/benchmarks/bench_signals.py [--folder DIR] [--tracks 8] [--windows 20000]

Writes synthetic bigWigs (one chromosome of 145 Mbp, some 3.7 million intervals a track), once with pyBigWig's
blocks and once with 1,024 items a block, and reads mean, variance and max of 16 and of 30 bins under windows of
1,500 bp. The limit is reading and inflating each touched block once, with the same inflater and as many threads;
it takes turns with ours, and the best of as many runs counts. All roads run on one worker; those with workers of
their own run on two as well. All results are compared with ours. Prints which of the demands are met, with the
worst ratio of all rows; ends with status 1 where one is missed, or a peer is not installed.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pandas as pd
import pyBigWig

from chromacc_lib.bigwig import READ_BYTES, _Reducer, inflater, merge_ranges, open_bigwig
from chromacc_lib.signals import STATISTICS, Signal, bin_edges, binned_signals

CHROM, LENGTH, INTERVALS, WINDOW_BP = "chr1", 145_000_000, 3_700_000, 1500
SLOW_STATS, SLOW_VALUES = 300, 3_000  # windows that a slow road is measured on
TURNS = 7                             # runs of ours and of the limit, in turns
RELATIVE, ABSOLUTE = 1e-6, 1e-6       # results differ by no more than ABSOLUTE + RELATIVE * theirs
DEEPTOOLS_WINDOWS, DEEPTOOLS_EXACT_BP = 2_000, 600  # windows too short for a zoom level: it reads the data there
LIMIT = "limit: inflate each touched block once"
STATS, VALUES = "pyBigWig.stats(exact=True)", "pyBigWig.values a window"
PYBIGTOOLS, FIGWIG, DEEPTOOLS = "pybigtools.values", "figwig, then binned", "deepTools multiBigwigSummary (1 mean)"
DEMANDS = {STATS: 250.0, VALUES: 10.0, PYBIGTOOLS: 1.0, FIGWIG: 1.0, DEEPTOOLS: 1.0, LIMIT: 1 / 1.25}


def main() -> int:
    """Write the files where they are not there, measure every road, print tables and demands; return the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "chromacc-bench-signals")
    parser.add_argument("--tracks", type=int, default=8)
    parser.add_argument("--windows", type=int, default=20_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    windows = random_windows(options.windows)
    binned_signals(write_tracks(options.folder, "pybigwig", 1), windows.iloc[:2], 16, 1)  # compile
    ratios: dict[str, list[float]] = defaultdict(list)
    for layout in ("pybigwig", "1024 items"):
        paths = write_tracks(options.folder, layout, options.tracks)
        for n_bins in (16, 30):
            for workers in (1, 2):
                for name, ratio in report(layout, n_bins, paths, windows, workers):
                    ratios[name].append(ratio)
        if deeptools():
            check_deeptools(paths, windows.iloc[:DEEPTOOLS_WINDOWS])
    return verdict(ratios)


def verdict(ratios: dict[str, list[float]]) -> int:
    """Print a line a demand, with the worst of its rows' ratios; return 0 if all are met, else 1."""
    print()
    failed = 0
    for name, needed in DEMANDS.items():
        got = ratios[name]
        met = bool(got) and min(got) >= needed
        failed += not met
        if name == LIMIT:
            demand, worst = f"at most {1 / needed:.2f} times the limit's time", f"{1 / min(got):.2f}"
        else:
            demand, worst = f"at least {needed:g} times {name}", f"{min(got):.1f}" if got else ""
        print(f"{'met' if met else 'missed':7} {demand}: "
              + (f"{worst} at worst of {len(got)} rows" if got else "not installed, not measured"))
    return int(failed > 0)


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
    """pyBigWig.stats(exact=True), one call a window and statistic: mean, std and max of the covered bases."""
    with pyBigWig.open(str(path)) as bigwig:
        return np.stack([_stats(bigwig, windows, edges, name) for name in ("mean", "std", "max")], axis=2)


def _stats(bigwig: "pyBigWig.bigWigFile", windows: pd.DataFrame, edges: np.ndarray, name: str) -> np.ndarray:
    n_bins = len(edges) - 1
    return np.array([bigwig.stats(CHROM, start, start + WINDOW_BP, type=name, nBins=n_bins, exact=True)
                     for start in windows["start"].tolist()], dtype=np.float64)  # None, nothing covered, becomes NaN


def of_all_bases(path: Path, windows: pd.DataFrame, edges: np.ndarray, stats: np.ndarray) -> np.ndarray:
    """Return mean, variance and max where bases without data are zero, from what `by_stats` gave of the others.

    Its std is that of a sample (n - 1). How many bases are covered is asked of pyBigWig as well.
    """
    widths = np.diff(edges)
    with pyBigWig.open(str(path)) as bigwig:
        covered = np.rint(np.nan_to_num(_stats(bigwig, windows, edges, "coverage")) * widths)
    mean, std, top = np.moveaxis(np.nan_to_num(stats), 2, 0)
    squares = std ** 2 * np.maximum(covered - 1, 0) + mean ** 2 * covered  # their sum
    mean = mean * covered / widths
    return np.stack([mean, squares / widths - mean ** 2, np.where(covered < widths, np.maximum(top, 0), top)], axis=2)


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


def deeptools() -> str | None:
    """Return multiBigwigSummary's path, or None where it is not on PATH."""
    return shutil.which("multiBigwigSummary")


def by_deeptools(paths: list[Path], windows: pd.DataFrame, workers: int) -> np.ndarray:
    """deepTools' multiBigwigSummary: one mean a window, of its covered bases -> (tracks, n)."""
    with tempfile.TemporaryDirectory() as folder:
        bed, out = Path(folder) / "windows.bed", Path(folder) / "out.npz"
        windows.to_csv(bed, sep="\t", header=False, index=False)
        subprocess.run([deeptools(), "BED-file", "--BED", str(bed), "-b", *map(str, paths), "-o", str(out),
                        "-p", str(workers)], check=True, capture_output=True)
        with np.load(out) as saved:
            return saved["matrix"].T


def check_deeptools(paths: list[Path], windows: pd.DataFrame) -> None:
    """Compare deepTools' means with ours of one bin; raise AssertionError where they differ on short windows.

    It asks pyBigWig for stats that are not exact: from zoom levels, where a window is long enough for one.
    """
    short = windows.assign(end=windows["start"] + DEEPTOOLS_EXACT_BP)
    largest = []
    for asked in (short, windows):
        signals = binned_signals(paths, asked, 1, 1)
        with np.errstate(invalid="ignore"):  # NaN where nothing is covered, as there
            ours = np.stack([signal.values[:, 0, 0] / signal.covered[:, 0].astype(np.float64) for signal in signals])
        theirs = by_deeptools(paths, asked, 1)
        if asked is short:
            np.testing.assert_allclose(ours, theirs, rtol=RELATIVE, atol=ABSOLUTE)
        largest.append(np.nanmax(np.abs(ours - theirs)))
    print(f"\ndeepTools' means of covered bases and ours, {len(windows):,} windows x {len(paths)} tracks: equal under "
          f"windows of {DEEPTOOLS_EXACT_BP} bp (differ by {largest[0]:.1g} at most); under {WINDOW_BP:,} bp, where it "
          f"reads a zoom level, it is off by up to {largest[1]:.2g}")


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
    total, starts = 0, windows["start"].to_numpy()
    with open_bigwig(path) as bigwig, _Reducer(bigwig) as ours:  # the same inflater, whichever there is
        blocks = bigwig.blocks(CHROM, starts, starts + WINDOW_BP)
        offsets, sizes = blocks["offset"].astype(np.int64), blocks["size"].astype(np.int64)
        for first, last in merge_ranges(offsets, sizes, bigwig.source.gap, READ_BYTES):
            begin = int(offsets[first])
            raw = np.frombuffer(bigwig.source.read(begin, int(offsets[last - 1] + sizes[last - 1]) - begin), np.uint8)
            here = offsets[first:last] - begin, sizes[first:last]
            if ours.functions:
                total += _inflate_only(ours.functions.inflate, ours.state, raw, *here, ours.buffer)
            else:
                total += sum(block.nbytes for block in ours._inflated(raw, *here))
    return total


def each(road: Callable, paths: list[Path], windows: pd.DataFrame, edges: np.ndarray) -> np.ndarray:
    """Run a one-file road over all files."""
    return np.stack([road(path, windows, edges) for path in paths])


# --- report -------------------------------------------------------------------------------------------------
def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds that it took, and the result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def in_turns(*works: Callable[[], object]) -> list[tuple[float, object]]:
    """Run each in turn, TURNS times; return the best seconds and the last result of each."""
    runs = [[timed(work) for work in works] for _ in range(TURNS)]
    return [(min(seconds for seconds, _ in each_run), each_run[-1][1]) for each_run in zip(*runs)]


def peers(paths: list[Path], windows: pd.DataFrame, edges: np.ndarray, workers: int
          ) -> Iterator[tuple[str, int, int, Callable[[], object]]]:
    """Yield name, runs, windows measured on, and the work of each road that is installed."""
    if workers == 1:  # these have no workers of their own
        few, some = windows.iloc[:SLOW_STATS], windows.iloc[:SLOW_VALUES]
        yield STATS, 1, len(few), lambda: each(by_stats, paths, few, edges)
        yield VALUES, 1, len(some), lambda: each(by_values, paths, some, edges)
        if importlib.util.find_spec("pybigtools"):
            yield PYBIGTOOLS, 2, len(windows), lambda: each(by_pybigtools, paths, windows, edges)
    if importlib.util.find_spec("figwig"):
        yield FIGWIG, 2, len(windows), lambda: by_figwig(paths, windows, edges, workers)
    if deeptools():
        yield DEEPTOOLS, 1, len(windows), lambda: by_deeptools(paths, windows, workers)


def report(layout: str, n_bins: int, paths: list[Path], windows: pd.DataFrame, workers: int
           ) -> Iterator[tuple[str, float]]:
    """Measure all roads on one layout, print the table, and yield each road's name and how many times faster ours is.

    Raises AssertionError where a result differs from ours.
    """
    edges, units = bin_edges(WINDOW_BP, n_bins), len(windows) * len(paths)
    _limit(paths, windows.iloc[:2], workers)  # compile
    (ours, got), (limit, inflated) = in_turns(lambda: binned_signals(paths, windows, n_bins, workers),
                                              lambda: _limit(paths, windows, workers))
    print(f"\n{layout}: {len(paths)} tracks x {len(windows):,} windows x {n_bins} bins, {workers} workers, "
          f"{inflater()}; touched blocks hold {inflated / 1e6:,.0f} MB", flush=True)
    print(f"{'road':40} {'best of':>7} {'windows x tracks / s':>20} {'ours is faster by':>17}  differs by at most")
    print(f"{'chromacc':40} {TURNS:7} {units / ours:20,.0f}")
    print(f"{LIMIT:40} {TURNS:7} {units / limit:20,.0f} {limit / ours:16.2f}x  "
          f"(ours takes {ours / limit:.2f} of its time)")
    yield LIMIT, limit / ours
    for name, runs, measured, work in peers(paths, windows, edges, workers):
        results = [timed(work) for _ in range(runs)]
        rate = measured * len(paths) / min(seconds for seconds, _ in results)
        theirs = results[-1][1]
        if name == STATS:
            theirs = np.stack([of_all_bases(path, windows.iloc[:measured], edges, stats)
                               for path, stats in zip(paths, theirs)])
        note = "see below" if name == DEEPTOOLS else differences(got, theirs)
        print(f"{name:40} {runs:7} {rate:20,.0f} {units / ours / rate:16.1f}x  {note}", flush=True)
        yield name, units / ours / rate


def differences(ours: list[Signal], theirs: np.ndarray) -> str:
    """Return the largest difference a statistic; raise AssertionError where one is too large."""
    values = np.stack([signal.values[:theirs.shape[1]] for signal in ours])
    np.testing.assert_allclose(values, theirs, rtol=RELATIVE, atol=ABSOLUTE)
    return ", ".join(f"{name} {np.abs(values[..., i] - theirs[..., i]).max():.1g}" for i, name in enumerate(STATISTICS))


def _limit(paths: list[Path], windows: pd.DataFrame, workers: int) -> int:
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda path: inflate_touched(path, windows), paths))


if __name__ == "__main__":
    sys.exit(main())
