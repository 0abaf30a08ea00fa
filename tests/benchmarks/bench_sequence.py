"""Windows to codes from a plain FASTA, a bgzipped FASTA and a .2bit file, warm, beside pyfaidx alone.

    python tests/benchmarks/bench_sequence.py [--folder DIR] [--windows 100000] [--mb 240]

Writes a made-up genome of `mb` million bases in four chromosomes, where it is not there yet, in the three
formats. All roads give the same codes of the same windows of 1,500 bp; slow ones are measured on fewer.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyfaidx
from Bio import bgzf

from chromacc_lib.genome import CODES, Genome, open_genome
from chromacc_lib.windows import sequence_codes

sys.path.append(str(Path(__file__).resolve().parents[1]))
from test_genome import write_two_bit  # noqa: E402

CHROMS, WINDOW_BP, SLOW = 4, 1500, 5_000
NAMES = {"plain FASTA": "genome.fa", ".2bit": "genome.2bit", "bgzipped FASTA": "genome.fa.gz"}


def main() -> None:
    """Write the files where they are not there, measure every road, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "chromacc-bench-sequence")
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--mb", type=int, default=240)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    write_genome(options.folder, options.mb)
    windows = random_windows(options.windows, options.mb)
    few = windows.iloc[np.linspace(0, len(windows) - 1, min(SLOW, len(windows))).astype(int)]
    expected = None
    print(f"{len(windows):,} windows of {WINDOW_BP:,} bp on {options.mb} Mb; second pass, one thread")
    for label, name in NAMES.items():
        with open_genome(options.folder / name) as genome:
            seconds, codes = timed(lambda: sequence_codes(genome, windows))
        expected = codes if expected is None else expected
        assert (codes == expected).all(), label
        print(f"{label:16} {seconds:7.2f} s {len(windows) / seconds:12,.0f} windows/s")
    with pyfaidx.Fasta(str(options.folder / NAMES["plain FASTA"]), as_raw=True) as fasta:
        seconds, _ = timed(lambda: one_by_one(fasta, few))
    rate = len(few) / seconds
    print(f"{'pyfaidx, one each':17} {len(windows) / rate:6.2f} s {rate:12,.0f} windows/s")


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the seconds of the second of two passes, and the result."""
    work()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def one_by_one(fasta: pyfaidx.Fasta | Genome, windows: pd.DataFrame) -> np.ndarray:
    """Return codes, one fetch a window."""
    texts = [fasta[row.chrom][row.start:row.end] for row in windows.itertuples()]
    return CODES[np.frombuffer("".join(texts).encode(), np.uint8)].reshape(len(windows), -1)


def random_windows(n: int, mb: int) -> pd.DataFrame:
    """Return n windows that do not overlap where there is room for it, in genome order."""
    per_chrom = mb * 1_000_000 // CHROMS // WINDOW_BP - 1
    at = np.sort(np.random.default_rng(0).choice(per_chrom * CHROMS, n, replace=n > per_chrom * CHROMS))
    starts = at % per_chrom * WINDOW_BP
    chroms = [f"chr{i + 1}" for i in at // per_chrom]
    return pd.DataFrame({"chrom": chroms, "start": starts, "end": starts + WINDOW_BP})


def write_genome(folder: Path, mb: int) -> None:
    """Write the three files of one genome, 60 bases a line."""
    marker = folder / f"{mb}.done"
    if marker.exists():
        return
    rng = np.random.default_rng(1)
    size = mb * 1_000_000 // CHROMS
    texts = {f"chr{i + 1}": rng.choice(np.frombuffer(b"ACGTacgt", np.uint8), size) for i in range(CHROMS)}
    with open(folder / "genome.fa", "wb") as handle:
        for name, letters in texts.items():
            letters[size // 3:size // 3 + 10_000] = ord("N")
            whole = letters[:size // 60 * 60].reshape(-1, 60)
            lines = np.hstack([whole, np.full((len(whole), 1), ord("\n"), np.uint8)]).tobytes()
            handle.write(f">{name}\n".encode() + lines + letters[whole.size:].tobytes() + b"\n")
    upper = {name: letters.tobytes().decode().upper() for name, letters in texts.items()}
    write_two_bit(folder / "genome.2bit", upper)
    with open(folder / "genome.fa", "rb") as plain, bgzf.open(str(folder / "genome.fa.gz"), "wb") as packed:
        while data := plain.read(1 << 20):
            packed.write(data)
    for old in folder.glob("*.fai"):
        old.unlink()
    marker.touch()


if __name__ == "__main__":
    main()
