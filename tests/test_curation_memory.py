"""Curation's memory: it holds a few regions, however many windows there are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chromacc_lib import project_path

PER_REGION = 64  # windows
SCRIPT = f"""
import json, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import bench_curation as bench
from chromacc_lib import curation, dataset, normalization
bench.MB = 6
curation.CHUNK_WINDOWS = normalization.BLOCK_WINDOWS = {PER_REGION}
folder, per_region, made = Path(sys.argv[2]), int(sys.argv[3]), []
bench.write_files(folder)
for n_windows in (100, 400, 1600):  # the first loads libraries, and is not looked at
    peaks, over = [0.0], threading.Event()
    sampler = threading.Thread(target=bench.sample, args=(peaks, over))
    sampler.start()
    parameters = curation.CurationParameters(max_positive_windows=n_windows // 2, n_bins=300, test_cell_types=("D",),
                                            validation_cell_types=("none",))
    done = curation.curate(folder / "tracks.tsv", folder / "genome.fa", folder / str(len(made)), parameters, workers=1,
                          per_region=per_region, say=lambda line: None)
    over.set()
    sampler.join()
    store = dataset.open_dataset(done.path)
    held = sum(store[name].nbytes for name in store.data_vars if "window" in store[name].dims)
    made.append({{"windows": store.sizes["window"], "MiB": held / 2**20, "peak": peaks[-1]}})
print(json.dumps(made))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc")
def test_four_times_the_windows_take_the_memory_of_a_few_regions_more(tmp_path):
    """Anonymous resident memory of a process that curates 400 windows, and then 1,600."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, project_path("tests/benchmarks"), tmp_path, str(PER_REGION)],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    _, few, many = json.loads(run.stdout)
    assert many["windows"] == 4 * few["windows"] == 1600
    region = many["MiB"] / many["windows"] * PER_REGION
    grown = many["peak"] - few["peak"]
    assert grown < 6 * region < (many["MiB"] - few["MiB"]) / 2, (few, many, region)
