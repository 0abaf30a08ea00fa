"""Curation of many windows: seconds, and peak memory, which is not to grow with the windows.

    python tests/benchmarks/bench_curation.py [--folder DIR] [--windows 20000 80000] [--threads 2] [--method arcsinh]

Writes a made-up genome of 250 Mb with 20 bigWigs (4 cell types x accessibility, 3 marks, 1 TF; 200-bp steps),
where it is not there yet. Each number of windows is curated in a process of its own, which says what it took.
Memory is anonymous resident memory, sampled (Linux): the mapped pages of a FASTA belong to the system's cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyBigWig

STEP, PEAK_EVERY = 200, 5_000
SIZES = {f"chr{i}": 50_000_000 for i in range(1, 6)}
CELLS = ("A", "B", "C", "D")
TRACKS = (("accessibility_signal", "accessibility"), ("histone", "H3K27ac"), ("histone", "H3K4me1"),
          ("histone", "H3K4me3"), ("tf", "CTCF"))


def main() -> None:
    """Write the files where they are not there, curate each number of windows, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "chromacc-bench-curation")
    parser.add_argument("--windows", type=int, nargs="+", default=[20_000, 80_000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--method", default="arcsinh")
    parser.add_argument("--one", action="store_true", help="curate in this process, for one number of windows")
    options = parser.parse_args()
    if options.one:
        curate_one(options.folder, options.windows[0], options.threads, options.method)
        return
    write_files(options.folder)
    print(f"{len(CELLS) * len(TRACKS)} bigWigs, {options.threads} threads, {options.method}")
    for n_windows in options.windows:
        subprocess.run([sys.executable, __file__, "--one", "--folder", options.folder, "--windows", str(n_windows),
                        "--threads", str(options.threads), "--method", options.method], check=True)


def curate_one(folder: Path, n_windows: int, threads: int, method: str) -> None:
    """Curate, and print seconds and the peak of memory, until windows are chosen and from then on."""
    from chromacc_lib.curation import CurationParameters, curate
    parameters = CurationParameters(max_positive_windows=n_windows // 2, test_cell_types=("D",),
                                    validation_cell_types=("none",), normalization=method)
    peaks, imported = [0.0], memory_mib()
    over = threading.Event()
    sampler = threading.Thread(target=sample, args=(peaks, over))
    sampler.start()
    with tempfile.TemporaryDirectory(dir=folder) as out:
        start = time.perf_counter()
        made = curate(folder / "tracks.tsv", folder / "genome.fa", Path(out) / "dataset", parameters, workers=threads,
                      say=lambda line: peaks.append(0.0))  # the last line stands before the regions are filled
        seconds = time.perf_counter() - start
    over.set()
    sampler.join()
    n = sum(made.summary["windows"].values())
    print(f"{n:7,} windows {seconds:7.1f} s {n * len(CELLS) * len(TRACKS) / seconds:10,.0f} windows x tracks/s   "
          f"imported {imported:4,.0f} MiB, peak while choosing windows {max(peaks[:-1]):6,.0f}, from then on "
          f"{peaks[-1]:6,.0f}", flush=True)


def sample(peaks: list[float], over: threading.Event) -> None:
    """Keep the last entry of `peaks` the highest memory seen since it was added."""
    while not over.wait(0.01):
        peaks[-1] = max(peaks[-1], memory_mib())


def memory_mib() -> float:
    """Return this process's anonymous resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def write_files(folder: Path, cells: Sequence[str] = CELLS, sizes: Mapping[str, int] = SIZES) -> None:
    """Write a genome of these {chromosome: bp}, five bigWigs under a name for each cell type, peaks and manifest."""
    if (folder / "tracks.tsv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    with open(folder / "genome.fa", "wb") as handle:
        for chrom, size in sizes.items():
            letters = rng.choice(np.frombuffer(b"ACGT", np.uint8), (size // 50, 50))
            lines = np.hstack([letters, np.full((len(letters), 1), ord("\n"), np.uint8)])
            handle.write(f">{chrom}\n".encode() + lines.tobytes())
    rows = ["cell_type\tassay\ttarget\tkind\tpath_or_url\tassembly"]
    for kind, target in TRACKS:
        first = folder / f"{cells[0]}_{target}.bw"
        with pyBigWig.open(str(first), "w") as bigwig:
            bigwig.addHeader(list(sizes.items()))
            for chrom, size in sizes.items():
                starts = np.arange(0, size, STEP, dtype=np.int64)
                values = np.round(rng.gamma(2, 0.5, len(starts)) * np.where(starts % PEAK_EVERY < 600, 8, 1), 2)
                bigwig.addEntries([chrom] * len(starts), starts, ends=starts + STEP, values=values)
        for cell in cells:
            path = folder / f"{cell}_{target}.bw"
            if path != first and not path.exists():
                os.link(first, path)
            rows.append(f"{cell}\tmade up\t{target}\t{kind}\t{path.name}\tmade1")
    for cell in cells:
        at = {chrom: np.arange(0, size - PEAK_EVERY, PEAK_EVERY) for chrom, size in sizes.items()}
        kept = {chrom: starts[rng.random(len(starts)) < 0.8] for chrom, starts in at.items()}
        lines = [f"{chrom}\t{start}\t{start + 600}" for chrom, starts in kept.items() for start in starts + 1_000]
        (folder / f"{cell}.bed").write_text("\n".join(lines) + "\n")
        rows.append(f"{cell}\tmade up\taccessibility\taccessibility_peaks\t{cell}.bed\tmade1")
    (folder / "tracks.tsv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
