"""Windows a second from a model folder and a manifest to finished files, and memory that does not grow with them.

    python tests/benchmarks/bench_prediction.py reports/pilot/model reports/pilot/prediction/manifest.tsv \
        data/pilot/raw/genome.fa [--windows 2000] [--processes 2] [--device cpu]

Predicts the first chromosomes at strides that give about `windows` and four times as many, each in a process of its
own, then the larger with many processes, whose files have to be the same bytes. Ends with status 1 where they are not,
or where the peak memory of four times the windows is more than a quarter above.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from chromacc_lib.manifest import genome_sizes
from chromacc_lib.places import region_windows

ONE = """
import json, resource, sys, time
from chromacc_lib.prediction import predict_manifest
model, manifest, genome, regions, out, stride, processes, device = sys.argv[1:]
began = time.perf_counter()
made = predict_manifest(model, manifest, genome, regions, out, stride=int(stride), processes=int(processes),
                        device=device, say=lambda line: None)
seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"windows": made.summary["n_windows"], "seconds": seconds, "mib": peak / 1024}))
"""
GROWTH = 1.25


def main() -> int:
    """Measure, print a table, and return the status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "manifest", "genome"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    window_bp = json.loads((options.model / "config.json").read_text())["model"]["window_bp"]
    sizes, chosen = genome_sizes(options.genome), []
    while sum(sizes[chrom] for chrom in chosen) < options.windows * window_bp and len(chosen) < len(sizes):
        chosen.append(list(sizes)[len(chosen)])
    regions, total = ",".join(chosen), sum(sizes[chrom] for chrom in chosen)
    rows, digests = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for label, share, processes in (("one process", 1, 1), ("four times as many", 4, 1),
                                        (f"these, {options.processes} processes", 4, options.processes)):  # fmt: skip
            stride = max(1, total // (share * options.windows))
            n = len(region_windows(regions, options.genome, window_bp, stride=stride))
            print(f"{label}: {n:,} windows, every {stride:,} bp of {regions}", file=sys.stderr, flush=True)
            out = Path(folder) / label
            paths = (path.absolute() for path in (options.model, options.manifest, options.genome))
            arguments = map(str, (*paths, regions, out, stride, processes, options.device))
            command = [sys.executable, "-c", ONE, *arguments]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows[label] = json.loads(done.stdout.splitlines()[-1])
            digests[label] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("[!.]*"))]
    print(f"{'':28} {'windows':>9} {'s':>8} {'windows/s':>10} {'peak MiB':>9}")
    for label, row in rows.items():
        rate = row["windows"] / row["seconds"]
        print(f"{label:28} {row['windows']:9,} {row['seconds']:8.1f} {rate:10,.0f} {row['mib']:9,.0f}")
    small, large, many = rows
    same, growth = digests[large] == digests[many], rows[large]["mib"] / rows[small]["mib"]
    print(f"{'met' if same else 'missed':7} the same bytes from {options.processes} processes")
    print(f"{'met' if growth <= GROWTH else 'missed':7} peak memory of four times the windows: {growth:.2f} times")
    return 0 if same and growth <= GROWTH else 1


if __name__ == "__main__":
    sys.exit(main())
