"""Load: 200 tracks curated, and a chromosome of 250 Mbp predicted, in memory that does not grow with either.

    python tests/benchmarks/bench_load.py [--folder DIR] [--tracks 200] [--mbp 250] [--windows 4000]

Writes a made-up genome (a chromosome of so many Mbp, and three of 10) and bigWigs of five tracks (200-bp steps) for as many
cell types as the tracks need, where they are not there yet. Curates all tracks under a quarter of the windows and under
all of them; trains a very small model on the former, whose size has no part in what is asked here; predicts, with all tracks
of a cell type, a quarter of the chromosome and the whole, side by side. Each in a process of its own, and all of them on one
thread. Ends with status 1 where four times the windows, or four times the chromosome, took more than a quarter more memory.
Memory is anonymous resident memory, sampled (Linux), beside what the imports took. What a curation holds grows with the
tracks, not with the windows: a region of 512 windows at least, in all of them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from bench_curation import TRACKS, memory_mib, sample, write_files

GROWTH = 1.25
SMALL = ("d_model=32", "sequence_layers=1", "encoder_layers=1", "epochs=1", "cells_per_window=3", "precision=32-true")


def measured(what: Callable[[], dict]) -> None:
    """Do something; print, as JSON, what it returns with seconds and the peak of memory."""
    peaks, imported, over = [0.0], memory_mib(), threading.Event()
    sampler = threading.Thread(target=sample, args=(peaks, over))
    sampler.start()
    began = time.perf_counter()
    try:
        found = what()
    finally:
        over.set()
        sampler.join()
    print(json.dumps(found | {"seconds": time.perf_counter() - began, "imported": imported, "peak": max(peaks)}))


def curate_some(folder: Path, tracks: int, windows: int) -> dict:
    """Curate the cell types that so many tracks belong to into dataset-WINDOWS."""
    from chromacc_lib.curation import CurationParameters, curate

    cells = tuple(f"C{i}" for i in range(tracks // len(TRACKS)))
    parameters = CurationParameters(max_positive_windows=windows // 2, cell_types=cells, test_cell_types=cells[-1:],
                                    validation_cell_types=("none",), test_chromosomes=("chr3",), validation_chromosomes=("chr2",))
    made = curate(folder / "tracks.tsv", folder / "genome.fa", folder / f"dataset-{windows}", parameters, workers=1, say=lambda line: None)
    return {"windows": sum(made.summary["windows"].values())}


def predict_some(folder: Path, model: Path, regions: Path, out: Path) -> dict:
    """Predict a BED file's regions for a cell type of whose tracks the accessibility is left out."""
    from chromacc_lib.prediction import predict_manifest

    made = predict_manifest(model, folder / "new.tsv", folder / "genome.fa", regions, out, device="cpu", workers=1, say=lambda line: None)
    return {"windows": made.summary["n_windows"]}


def here(*arguments: object) -> dict:
    """Run one of the two above in a process of its own; return what it measured."""
    done = subprocess.run([sys.executable, __file__, "--one", *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Write, curate, train, predict; print a table."""
    if sys.argv[1:2] == ["--one"]:
        what, folder, *rest = sys.argv[2:]
        if what == "curate":
            measured(lambda: curate_some(Path(folder), *map(int, rest)))
        else:
            measured(lambda: predict_some(Path(folder), *map(Path, rest)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tracks", type=int, default=200)
    parser.add_argument("--mbp", type=int, default=250)
    parser.add_argument("--windows", type=int, default=4_000, help="to curate")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.gettempdir()) / f"chromacc-bench-load-{options.tracks}-{options.mbp}"
    size = options.mbp * 1_000_000
    write_files(folder, [f"C{i}" for i in range(options.tracks // len(TRACKS))],
                {"chr1": size, "chr2": 10_000_000, "chr3": 10_000_000, "chr4": 10_000_000})
    rows = {}
    for windows in (options.windows // 4, options.windows):
        rows[f"{options.tracks} tracks, curation {len(rows) + 1}"] = here("curate", folder, options.tracks, windows)
        print(rows, file=sys.stderr, flush=True)
    model = folder / "model"
    subprocess.run([sys.executable, "-m", "chromacc_lib.cli", "train", folder / f"dataset-{options.windows // 4}", "--out", model,
                    "--set", *SMALL, "device=cpu"], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    table = pd.read_csv(folder / "tracks.tsv", sep="\t", dtype=str)
    new = table[(table["cell_type"] == table["cell_type"].iloc[0]) & ~table["kind"].str.startswith("accessibility")]
    new.assign(cell_type="new").to_csv(folder / "new.tsv", sep="\t", index=False)
    for share in (4, 1):
        regions = folder / f"regions-{share}.bed"
        regions.write_text(f"chr1\t0\t{size // share}\n")
        with tempfile.TemporaryDirectory(dir=folder) as out:
            rows[f"{options.mbp / share:g} Mbp predicted"] = here("predict", folder, model, regions, Path(out) / "out")
        print(rows, file=sys.stderr, flush=True)
    print(f"{'':24} {'windows':>9} {'s':>8} {'imported':>9} {'peak MiB':>9}")
    for label, row in rows.items():
        print(f"{label:24} {row['windows']:9,} {row['seconds']:8.1f} {row['imported']:9,.0f} {row['peak']:9,.0f}")
    few, many, part, whole = (row["peak"] for row in rows.values())
    growths = {"four times the windows": many / few, "four times the chromosome": whole / part}
    for name, growth in growths.items():
        print(f"{'met' if growth <= GROWTH else 'MISSED':7} {name}: {growth:.2f} times the memory")
    return int(max(growths.values()) > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
