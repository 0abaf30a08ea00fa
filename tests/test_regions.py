"""Regions: the same dataset however it is cut, whoever fills it, and whatever stopped it on the way."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import distributed
import numpy as np
import pytest
from conftest import PARAMETERS
from range_server import serve
from test_fetch import remote_project  # noqa: F401

from chromacc_lib import ChromaccError, curation, normalization, regions
from chromacc_lib.cache import RemoteFile
from chromacc_lib.curation import curate
from chromacc_lib.dataset import open_dataset, read_normalization
from chromacc_lib.normalization import METHODS, file_constants, fit_normalization, scale_file
from chromacc_lib.regions import Plan, SignalFile, region_windows

CHUNK = 16  # windows; the tiny project has about a hundred


def silent(line: str) -> None:
    pass


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(curation, "CHUNK_WINDOWS", CHUNK)


def curate_to(project, name, manifest=None, parameters=PARAMETERS, **kwargs):
    kwargs = {"say": silent} | kwargs
    return curate(manifest or project.manifest, project.genome_fasta, project.folder / name, parameters, **kwargs).path


def assert_same(path, other):
    """Assert that two datasets agree in every variable, bit for bit, and in every constant."""
    one, two = open_dataset(path).load(), open_dataset(other).load()
    assert set(one.variables) == set(two.variables)
    for name in one.variables:
        assert one[name].dtype == two[name].dtype and one[name].values.tobytes() == two[name].values.tobytes(), name
    assert (path / "normalization.json").read_text() == (other / "normalization.json").read_text()


# --- however it is cut, whoever fills it --------------------------------------------------------------------
def test_one_region_or_many_one_thread_or_two(project, small_chunks):
    whole = curate_to(project, "whole", per_region=CHUNK * 100, workers=1)
    assert_same(whole, curate_to(project, "many", per_region=CHUNK, workers=2))
    assert_same(whole, curate_to(project, "some", per_region=CHUNK * 3, workers=3))
    assert open_dataset(whole)["histone"].encoding["chunks"][0] == CHUNK
    assert sorted(path.name for path in whole.iterdir()) == [
        "curation.json", "dataset.zarr", "manifest.lock.tsv", "normalization.json"]


def test_workers_by_address_fill_the_same_store_and_fetch_nothing_twice(remote_project, small_chunks,  # noqa: F811
                                                                       monkeypatch, tmp_path):
    project, manifest, served = remote_project
    serial = curate_to(project, "serial", manifest, workers=1, per_region=CHUNK * 100)
    sent, served.sent = served.sent, 0
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "other_cache"))
    with distributed.LocalCluster(processes=True, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0",
                                  memory_limit=0) as cluster:
        address = cluster.scheduler_address
        assert address.startswith("tcp://")
        assert_same(serial, curate_to(project, "by_address", manifest, dask_address=address, per_region=CHUNK))
        assert sent <= served.sent <= 1.5 * sent
        fetched = [json.loads((project.folder / name / "curation.json").read_text())["streamed"]["fetched_bytes"]
                   for name in ("serial", "by_address")]
        assert 0 < fetched[0] and fetched[0] / 1.2 <= fetched[1] <= 1.2 * fetched[0], "also by other processes"
        monkeypatch.setattr(regions, "code_hashes", lambda: ("another",))
        with pytest.raises(ChromaccError, match=f"worker tcp.* of {address} has another version of the project's"):
            curate_to(project, "refused", manifest, dask_address=address)


def test_a_scheduler_that_cannot_be_reached_or_has_no_worker_is_named(project, monkeypatch):
    monkeypatch.setattr(regions, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://127.0.0.1:9", "127.0.0.1"):
        with pytest.raises(ChromaccError, match=f"no dask scheduler can be reached at '{address}' within 1 s"):
            curate_to(project, "dataset", dask_address=address)
    with distributed.LocalCluster(processes=False, n_workers=0, dashboard_address="127.0.0.1:0",
                                  protocol="tcp://") as cluster:
        with pytest.raises(ChromaccError, match="has no worker; start some with `dask worker tcp://"):
            curate_to(project, "dataset", dask_address=cluster.scheduler_address)


def test_a_file_that_fails_under_way_is_named_and_what_is_done_stays(project, small_chunks, monkeypatch):
    """In a block that the check did not look at, as it looks at some of a large file."""
    monkeypatch.setattr("chromacc_lib.manifest.LOOKED_AT_BYTES", 10_000)
    path = project.folder / "F/CTCF.bw"
    data = bytearray(path.read_bytes())
    whole = curate_to(project, "whole")
    middle = len(data) // 2
    data[middle:middle + 2_000] = bytes(2_000)
    path.write_bytes(data)
    with pytest.raises(ChromaccError, match=r"F/CTCF.bw: corrupt data of chrT"):
        curate_to(project, "dataset", workers=1, per_region=CHUNK)
    done = len(list((project.folder / "dataset.partial/regions").glob("*.done")))
    assert done > 0 and whole.exists()


def test_regions_are_whole_chunks_of_bounded_size(project):
    sizes = {"cell_type": 7, "histone_mark": 5, "tf_name": 6, "track": 11, "statistic": 3, "position": 1500, "bin": 15,
             "replicate": 2}
    plan = Plan("", "", sizes, (SignalFile("accessibility", "x.bw", 0, 0, 1.0, ()),), 512)
    assert region_windows(plan, 400) == region_windows(plan, 8_000) == 512
    assert region_windows(plan, 20_000) == 1024 and region_windows(plan, 10**6) == 2048
    assert region_windows(replace(plan, sizes=sizes | {"cell_type": 100}), 10**6) == 512
    with pytest.raises(ChromaccError, match="per_region: got 500 windows, needed a multiple of 512"):
        curate_to(project, "dataset", per_region=500)


# --- a run that was killed ----------------------------------------------------------------------------------
SCRIPT = f"""
import sys
from chromacc_lib import curation
curation.CHUNK_WINDOWS = {CHUNK}
manifest, genome, folder = sys.argv[1:]
curation.curate(manifest, genome, folder, curation.CurationParameters(
    window_bp=1000, n_bins=10, test_cell_types=("D",), validation_cell_types=("E",)), workers=1, per_region={CHUNK})
"""


def test_a_killed_curation_goes_on_where_it_stopped(remote_project, small_chunks, monkeypatch,  # noqa: F811
                                                    tmp_path):
    """A worker waits for a slow server when it is killed; what was done before stays as it is."""
    project, manifest, served = remote_project
    undisturbed = curate_to(project, "undisturbed", manifest, workers=1, per_region=CHUNK)
    n_asked = sum(path == "/F/CTCF.bw" for path, _ in served.asked)
    served.faults["/F/CTCF.bw"] = [("none",)] * (n_asked - 2) + [("slow", 60)] * 50
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "other_cache"))
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, manifest, project.genome_fasta, project.folder / "dataset"],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(served.faults["/F/CTCF.bw"]) >= 50 and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    errors = run.communicate()[1].decode()
    assert run.returncode == -signal.SIGKILL, errors
    served.faults.clear()
    partial = project.folder / "dataset.partial"
    done = sorted(int(path.stem) for path in (partial / "regions").glob("*.done"))
    n_regions = -(-open_dataset(undisturbed).sizes["window"] // CHUNK)
    assert 0 < len(done) < n_regions and not (project.folder / "dataset").exists()
    begun, final = open_dataset(partial), open_dataset(undisturbed)
    for number in done:  # a marker is never there without its data
        rows = slice(number * CHUNK, (number + 1) * CHUNK)
        for name in final.data_vars:
            if "window" in final[name].dims:
                assert np.array_equal(begun[name][rows].values, final[name][rows].values, equal_nan=True), name
    times = {path.name: path.stat().st_mtime_ns for path in (partial / "dataset.zarr/histone").glob(f"{done[0]}.*")}
    (partial / "dataset.zarr/histone/0.0.0.0.0123abcd.partial").touch()  # zarr was writing a chunk
    said = []
    path = curate_to(project, "dataset", manifest, per_region=CHUNK, say=said.append)
    assert not list(path.rglob("*.partial"))
    assert f"{len(done)} of {n_regions} regions were there already" in said
    assert_same(undisturbed, path)
    assert times == {name: (path / "dataset.zarr/histone" / name).stat().st_mtime_ns for name in times}


def test_only_other_input_begins_anew_and_says_so(project, monkeypatch):
    def stop(*_):
        raise ChromaccError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(curation, "fit_normalization", stop)
        with pytest.raises(ChromaccError, match="stopped"):
            curate_to(project, "dataset")
    (project.folder / "dataset.partial/mine").touch()
    said = []
    other = replace(PARAMETERS, normalization="log1p")  # fitted after the store is filled: nothing is read again
    with monkeypatch.context() as patch:
        patch.setattr(curation, "fit_normalization", stop)
        patch.setattr(regions, "_run", None)
        with pytest.raises(ChromaccError, match="stopped"):
            curate_to(project, "dataset", parameters=other, say=said.append)
    assert "1 of 1 regions were there already" in said
    assert any("Going on with" in line and "left by a run that was interrupted" in line for line in said)
    path = curate_to(project, "dataset", parameters=replace(PARAMETERS, seed=2), say=said.append)
    assert any("Removing" in line and "of other input, parameters or code" in line for line in said)
    assert not (path / "mine").exists()


# --- constants from a streaming pass ------------------------------------------------------------------------
def in_memory(data, constants, method):
    """Return {track: (mean, sd)} of the scaled statistics, computed on whole arrays."""
    train = data["cell_type_split"].values == "train"
    rows = data["window_split"].values == "train"
    moments = {}
    for kind, dim in (("histone", "histone_mark"), ("tf", "tf_name")):
        names = data[dim].values.tolist()
        files = file_constants(constants, data["cell_type"].values.tolist(), names)
        for i, name in enumerate(names):
            reference = normalization.track_constants(constants, [name]).references[0]
            scaled = [scale_file(data[kind].values[rows][:, c, i], files[c][i], reference, method)
                      for c in np.flatnonzero(train) if files[c][i] is not None]
            values = np.stack(scaled, axis=1).astype(np.float64)
            moments[name] = np.nanmean(values, axis=(0, 1, 2)), np.nanstd(values, axis=(0, 1, 2))
    return moments


@pytest.mark.parametrize("method", METHODS)
def test_streamed_constants_are_those_of_whole_arrays(curated, method, monkeypatch):
    data = open_dataset(curated[1]).load()
    whole = fit_normalization(data, method)
    for name, (mean, sd) in in_memory(data, whole, method).items():
        np.testing.assert_allclose(whole["tracks"][name]["mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(whole["tracks"][name]["sd"], sd, rtol=1e-12)
    monkeypatch.setattr(normalization, "BLOCK_WINDOWS", 7)
    monkeypatch.setattr(normalization, "HELD_BYTES", 1)
    streamed = fit_normalization(open_dataset(curated[1]), method)
    assert streamed["own"] == whole["own"] and streamed["fitted_on"] == whole["fitted_on"]
    for name, track in whole["tracks"].items():
        assert streamed["tracks"][name]["reference"] == track["reference"]
        np.testing.assert_allclose(streamed["tracks"][name]["mean"], track["mean"], rtol=1e-12)
        np.testing.assert_allclose(streamed["tracks"][name]["sd"], track["sd"], rtol=1e-12)


def test_a_constant_track_has_no_spread(curated):
    data = open_dataset(curated[1]).load()
    data["histone"] = data["histone"].copy(data=np.where(np.isnan(data["histone"]), np.nan, 0.1).astype(np.float32))
    data["genome_mean"] = data["genome_mean"].copy(data=np.full(data["genome_mean"].shape, 0.3))
    assert fit_normalization(data)["tracks"]["H3K27ac"]["sd"] == [1.0, 1.0, 1.0]


# --- remote files in several hands --------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [True, False])
def test_two_readers_fetch_a_range_once(tmp_path, shared):
    """shared: one RemoteFile in two threads; else two on one cache, as two processes have."""
    data = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    with serve() as served:
        served.files["/x.bin"] = data
        first = RemoteFile(served.url("/x.bin"), tmp_path)
        second = first if shared else RemoteFile(served.url("/x.bin"), tmp_path)
        before = served.sent
        served.faults["/x.bin"] = [("slow", 0.2)] * 2
        threads = [threading.Thread(target=one.prefetch, args=([(100_000, 5_000)],)) for one in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert served.sent == before + 5_000
        assert first.read(100_000, 5_000) == second.read(100_000, 5_000) == data[100_000:105_000]
        (journal,) = tmp_path.rglob("ranges.jsonl")
        assert [json.loads(line) for line in journal.read_text().splitlines()[1:]] == [
            [0, 16_384], [100_000, 105_000]]


# --- chromosomes --------------------------------------------------------------------------------------------
def test_windows_come_from_the_chromosomes_that_are_asked_for(project):
    said = []
    parameters = replace(PARAMETERS, chromosomes=("chrT2", "chrT4", "chrT6"))
    path = curate_to(project, "dataset", parameters=parameters, say=said.append)
    data = open_dataset(path)
    assert set(data["chrom"].values) == {"chrT2", "chrT4", "chrT6"} == set(data["chrom_name"].values)
    (line,) = [line for line in said if line.startswith("peaks of all cell types: kept")]
    (count,) = [one for one in json.loads((path / "curation.json").read_text())["counts"]
                if one["what"] == "peaks of all cell types"]
    kept, of = count["kept"], count["of"]
    assert 0 < kept < of and f"{of - kept:,} lie elsewhere" in line
    assert read_normalization(path)["fitted_on"]["chromosomes"]
    with pytest.raises(ChromaccError, match="parameter chromosomes: 1 of 2 unknown; got chr9; needed chromosomes of the genome: chrT1, chrT2"):
        curate_to(project, "dataset", parameters=replace(PARAMETERS, chromosomes=("chrT1", "chr9")))


def test_a_run_killed_at_its_last_step_loses_nothing(project, small_chunks, monkeypatch):
    """Killed before the renames, between them, and after them but before the markers went."""
    whole = curate_to(project, "whole")
    fail = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(curation, "replace_folder", fail)
        with pytest.raises(KeyboardInterrupt):
            curate_to(project, "one")
    said = []
    assert_same(whole, curate_to(project, "one", say=said.append))
    assert any("is whole" in line for line in said) and any("Nothing has changed" in line for line in said)
    (project.folder / "one").rename(project.folder / "one.old")
    said.clear()
    assert_same(whole, curate_to(project, "one", say=said.append))
    assert any("set aside" in line for line in said) and any("Nothing has changed" in line for line in said)
    with monkeypatch.context() as patch:
        patch.setattr(curation, "remove_markers", fail)
        with pytest.raises(KeyboardInterrupt):
            curate_to(project, "two")
    assert_same(whole, curate_to(project, "two"))
    assert not list(project.folder.glob("*.partial")) + list(project.folder.glob("*.old"))
