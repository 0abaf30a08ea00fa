"""A manifest of web addresses is curated like one of paths, from a local server that counts what it sends."""

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from conftest import PARAMETERS, TinyProject, write_fasta, write_lines, write_manifest
from range_server import serve

from chromacc_lib import ChromaccError, curation
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.cache import WASTE
from chromacc_lib.curation import curate
from chromacc_lib.dataset import open_dataset
from chromacc_lib.fetch import fetch
from chromacc_lib.manifest import check_manifest, read_manifest


@pytest.fixture
def remote_project(project, tmp_path, monkeypatch):
    """The tiny project, every file of its manifest behind an address; (project, remote manifest, server)."""
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    table = pd.read_csv(project.manifest, sep="\t", dtype=str, keep_default_na=False)
    with serve() as served:
        urls = []
        for entry in table["path_or_url"]:
            served.files["/" + entry] = (project.folder / entry).read_bytes()
            urls.append(served.url("/" + entry))
        md5 = [hashlib.md5(served.files["/" + entry]).hexdigest() for entry in table["path_or_url"]]
        manifest = tmp_path / "remote.tsv"
        table.assign(path_or_url=urls, md5=md5).to_csv(manifest, sep="\t", index=False)
        yield project, manifest, served


def test_tracks_stream_and_all_else_is_fetched_whole(remote_project):
    _, manifest, served = remote_project
    table = fetch(read_manifest(manifest))
    remote = table["path_or_url"].str.startswith("http")
    assert set(table.loc[remote, "kind"]) == {"accessibility_signal", "histone", "tf"}
    assert {"accessibility_peaks"} <= set(table.loc[~remote, "kind"]) and table["url"].str.startswith("http").all()
    asked = len(served.asked)
    assert fetch(read_manifest(manifest)).equals(table) and len(served.asked) == asked, "nothing is fetched twice"
    whole = fetch(read_manifest(manifest), "download")
    assert not whole["path_or_url"].str.startswith("http").any()
    with pytest.raises(ChromaccError, match="remote_tracks: got 'torrent', needed one of stream, download"):
        fetch(read_manifest(manifest), "torrent")


def test_downloads_say_their_size_before_the_first_track_is_asked_for(remote_project):
    _, manifest, served = remote_project
    table, said = read_manifest(manifest), []
    sizes = [len(served.files[url.removeprefix(served.address)]) for url in table["path_or_url"]]
    fetch(table.assign(bytes=sizes), "download", say=lambda line: said.append((line, len(served.asked))))
    assert said == [(f"downloads: {len(table)} file(s), {sum(sizes) / 1e9:,.2f} GB; 0.00 GB are there already", 0)]
    assert len(served.asked) == len(table)


def test_a_wrong_md5_is_refused_before_any_long_work(remote_project):
    _, manifest, _ = remote_project
    text = manifest.read_text()
    peaks = next(line for line in text.splitlines() if "accessibility_peaks" in line)
    md5 = next(field for field in peaks.split("\t") if len(field) == 32)
    manifest.write_text(text.replace(md5, "0" * 32))
    with pytest.raises(ChromaccError, match="correct the md5"):
        fetch(read_manifest(manifest))


def test_check_names_what_is_wrong_with_a_remote_track(remote_project):
    project, manifest, served = remote_project
    table = read_manifest(manifest)
    track = table.loc[table["kind"] == "histone", "path_or_url"].iloc[0]
    served.files[track.removeprefix(served.address)] = b"track type=wiggle_0 " * 10
    (found,) = [p for p in check_manifest(fetch(table), project.genome_fasta) if p.fatal]
    assert found.what == "not a bigWig" and "text that starts with" in found.got and track in found.file


def test_all_that_is_wrong_with_remote_files_is_listed_at_once(remote_project, tried):
    project, manifest, served = remote_project
    table = read_manifest(manifest)
    tracks = table.loc[table["kind"] == "histone", "path_or_url"].tolist()
    for url in tracks[:2]:
        del served.files[url.removeprefix(served.address)]
    fetched = fetch(table).assign(bytes="")
    fetched.loc[fetched["path_or_url"] == tracks[2], "bytes"] = "12345"
    found = [p for p in check_manifest(fetched, project.genome_fasta) if p.fatal]
    assert sorted(p.what for p in found) == ["another length than in the manifest", *["remote file that cannot be read"] * 2]
    assert all("404" in p.got for p in found if "cannot" in p.what)
    for url in table.loc[table["kind"] == "expression", "path_or_url"].iloc[:2]:
        served.faults[url.removeprefix(served.address)] = [("status", 404)]
    (project.folder.parent / "cache" / "files").rename(project.folder.parent / "gone")
    with pytest.raises(ChromaccError, match="2 of .* file.s. could not be fetched:\n  1. .*404.*\n  2. .*404") as caught:
        fetch(table)
    tried("two remote files that are not there", caught)


@pytest.mark.parametrize("how", ["stream", "download"])
def test_curation_over_the_network_equals_curation_from_disk(remote_project, tmp_path, how):
    project, manifest, served = remote_project
    said = []
    local = curate(project.manifest, project.genome_fasta, tmp_path / "local", PARAMETERS, say=said.append)
    remote = curate(manifest, project.genome_fasta, tmp_path / "remote", PARAMETERS, remote_tracks=how, say=said.append)
    streamed = [line for line in said if "remote tracks" in line]
    assert len(streamed) == 2 * (how == "stream") and bool(remote.summary["streamed"]) == (how == "stream")
    assert local.summary["streamed"] == {}
    one, other = open_dataset(local.path), open_dataset(remote.path)
    for name in one.data_vars:
        assert np.array_equal(one[name].values, other[name].values, equal_nan=True), name
    lock = pd.read_csv(remote.path / "manifest.lock.tsv", sep="\t", keep_default_na=False)
    tracks = lock[lock["kind"].isin(("accessibility_signal", "histone", "tf"))]
    assert set(tracks["read"]) == {"blocks" if how == "stream" else "whole"}
    assert tracks["url"].str.startswith("http").all() and (tracks["bytes"] > 0).all()
    assert (tracks["version"] == ('"1"' if how == "stream" else "")).all()
    asked = len(served.asked)
    again = curate(manifest, project.genome_fasta, tmp_path / "remote", PARAMETERS, remote_tracks=how, say=said.append)
    assert not again.fresh and len(served.asked) == asked, "a rerun asks the network for nothing"


# --- how many bytes -----------------------------------------------------------------------------------------
CHROM_BP, STEP = 1_000_000, 10
TRACKS = ("ATAC", "H3K27ac", "CTCF")


def write_track(path, sizes, seed, items_per_block):
    """Write an interval every 10 bp, with pyBigWig's blocks (0), or so many items a block.

    A block ends where intervals of another kind follow: so starts with a span, and starts with ends, take turns.
    """
    rng, starts = np.random.default_rng(seed), np.arange(0, CHROM_BP, STEP)
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader(list(sizes.items()))
        for chrom in sizes:
            values = rng.gamma(1, 2, len(starts))
            for number, first in enumerate(range(0, len(starts), items_per_block or len(starts))):
                here = slice(first, first + (items_per_block or len(starts)))
                at, signal = starts[here].tolist(), values[here].tolist()
                if number % 2:
                    bigwig.addEntries([chrom] * len(at), at, ends=(starts[here] + STEP - 1).tolist(), values=signal)
                else:
                    bigwig.addEntries(chrom, at, values=signal, span=STEP - 1)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Four cell types x three tracks of some 2 MB, of two block layouts, and few windows; paths, nothing served."""
    folder = tmp_path_factory.mktemp("large")
    rng, sizes, rows = np.random.default_rng(3), {f"chrL{i}": CHROM_BP for i in range(1, 4)}, []
    genome = write_fasta(folder / "genome.fa", {chrom: "".join(rng.choice(list("ACGT"), CHROM_BP)) for chrom in sizes})
    spots = [(chrom, int(at)) for chrom in sizes for at in rng.choice(np.arange(10_000, 990_000, 5_000), 12, False)]
    for number, cell in enumerate("ABCD"):
        peaks = [f"{chrom}\t{at - 200}\t{at + 200}\tp\t0\t.\t{5 + i % 7}\t-1\t-1\t200"
                 for i, (chrom, at) in enumerate(spots) if (i + number) % 3]
        write_lines(folder / f"{cell}.narrowPeak", *peaks)
        rows.append({"cell_type": cell, "target": "accessibility", "kind": "accessibility_peaks",
                     "path_or_url": f"{cell}.narrowPeak"})
        for i, (target, kind) in enumerate(zip(TRACKS, ("accessibility_signal", "histone", "tf"))):
            write_track(folder / f"{cell}_{target}.bw", sizes, 10 * number + i, 1_024 * ((number + i) % 2))
            rows.append({"cell_type": cell, "target": target if kind != "accessibility_signal" else "accessibility",
                         "kind": kind, "path_or_url": f"{cell}_{target}.bw"})
    manifest = write_manifest(folder / "tracks.tsv", rows)
    return TinyProject(folder, manifest, genome, folder / "none.bed", sizes, tuple("ABCD"))


@pytest.fixture
def stream(large, tmp_path, monkeypatch):
    """Return a function that curates the large project over the network, and the server; chunks are small."""
    monkeypatch.setattr(curation, "CHUNK_WINDOWS", 8)
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    table = pd.read_csv(large.manifest, sep="\t", dtype=str, keep_default_na=False)
    parameters = replace(PARAMETERS, validation_cell_types=("none",))
    with serve() as served:
        for entry in table["path_or_url"]:
            served.files["/" + entry] = (large.folder / entry).read_bytes()
        manifest = tmp_path / "remote.tsv"
        table.assign(path_or_url=[served.url("/" + entry) for entry in table["path_or_url"]]).to_csv(
            manifest, sep="\t", index=False)

        def run(name, say=lambda line: None, **changes):
            fetch(read_manifest(manifest))  # peaks, whole: not what is counted here
            served.sent = 0
            return curate(manifest, large.genome_fasta, tmp_path / name, replace(parameters, **changes), workers=2,
                          say=say)

        yield run, served


def held_by_blocks(large, windows):
    """Return the bytes that the blocks under some windows hold, over all tracks, from the local files."""
    total = 0
    for path in sorted(large.folder.glob("*.bw")):
        with open_bigwig(path) as bigwig:
            blocks = bigwig.blocks()
        chroms = np.array(list(large.sizes))[blocks["start_chrom"]]
        touched = np.zeros(len(blocks), dtype=bool)
        for chrom, start, end in windows:
            touched |= (chroms == chrom) & (blocks["start"] < end) & (blocks["end"] > start)
        total += int(blocks["size"][touched].sum())
    return total


def heard(served, said):
    """Return what hears lines of a curation, and keeps with each what the server had sent by then."""
    return lambda line: said.append((line, served.sent))


def windows_of(path):
    data = open_dataset(path)
    return list(zip(data["chrom"].values, data["start"].values, data["end"].values))


def test_block_layouts_are_the_two_in_use(large):
    items = {}
    for name in ("A_ATAC", "A_H3K27ac"):
        with open_bigwig(large.folder / f"{name}.bw") as bigwig:
            blocks = bigwig.blocks()
        items[name] = int(np.median((blocks["end"] - blocks["start"])[blocks["end"] > blocks["start"]])) // STEP
    assert items["A_H3K27ac"] in (1_023, 1_024) and items["A_ATAC"] > 2_000


def test_what_is_fetched_is_near_what_was_expected_and_what_the_blocks_hold(large, stream):
    run, served = stream
    said = []
    result = run("first", said.append)
    streamed, sent = result.summary["streamed"], served.sent
    assert streamed == json.loads((result.path / "curation.json").read_text())["streamed"]
    assert streamed["files"] == 12
    assert streamed["file_bytes"] == sum(path.stat().st_size for path in large.folder.glob("*.bw"))
    windows = windows_of(result.path)
    assert streamed["windows"] == len(windows) > 40
    assert streamed["block_bytes"] == held_by_blocks(large, windows)
    assert streamed["fetched_bytes"] + streamed["index_bytes"] == sent, "counted at the source"
    assert streamed["block_bytes"] < 0.8 * streamed["file_bytes"], "else nothing is shown"
    assert 0.9 * streamed["block_bytes"] < streamed["fetched_bytes"] <= (1 + WASTE) * streamed["block_bytes"]
    assert sent <= 1.5 * streamed["block_bytes"]
    assert abs(streamed["fetched_bytes"] - streamed["expected_bytes"]) <= WASTE * streamed["expected_bytes"]
    (line,) = [line for line in said if "bytes of remote tracks were fetched" in line]
    assert all(f"{streamed[f'{what}_bytes']:,}" in line for what in ("fetched", "expected", "block", "index"))

    said.clear()
    again = run("first", said.append)
    assert not again.fresh and served.sent == 0 and "0 bytes of remote tracks were fetched." in said[-1]
    assert again.summary["streamed"] == streamed, "of the run that made it"
    said.clear()
    other = run("other", said.append)
    assert other.fresh and served.sent == 0
    assert other.summary["streamed"] == streamed | {"expected_bytes": 0, "fetched_bytes": 0, "index_bytes": 0}
    assert any(line.startswith("0 bytes of remote tracks were fetched, 0 were expected") for line in said)


def test_a_run_that_goes_on_expects_only_what_is_left(large, stream, tmp_path, monkeypatch):
    run, served = stream

    def stop(*_):
        raise ChromaccError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(curation, "fit_normalization", stop)
        with pytest.raises(ChromaccError, match="stopped"):
            run("dataset")
    markers = sorted((tmp_path / "dataset.partial/regions").glob("*.done"))
    assert len(markers) > 4
    windows = windows_of(tmp_path / "dataset.partial")
    for marker in markers[1:3]:
        marker.unlink()
    left = windows[8:24]
    for copy in (tmp_path / "cache").glob("*/ranges.jsonl"):  # the cache of blocks is emptied meanwhile
        shutil.rmtree(copy.parent)
    streamed = run("dataset").summary["streamed"]
    assert streamed["windows"] == 16 and streamed["block_bytes"] == held_by_blocks(large, left)
    assert streamed["block_bytes"] <= streamed["expected_bytes"] <= (1 + WASTE) * streamed["block_bytes"]
    assert abs(streamed["fetched_bytes"] - streamed["expected_bytes"]) <= WASTE * streamed["expected_bytes"]
    assert streamed["fetched_bytes"] + streamed["index_bytes"] == served.sent
    assert streamed["block_bytes"] < 0.5 * held_by_blocks(large, windows)


def test_the_estimate_comes_before_the_first_block(stream):
    run, served = stream
    said = []
    streamed = run("dataset", heard(served, said)).summary["streamed"]
    (sent,) = [sent for line, sent in said if "are to be fetched now" in line]
    assert sent == streamed["index_bytes"] and served.sent - sent == streamed["fetched_bytes"]


def test_a_remote_mappability_is_estimated_and_counted_apart(large, stream, tmp_path):
    run, served = stream
    write_track(tmp_path / "map.bw", large.sizes, 99, 1_024)
    with pyBigWig.open(str(tmp_path / "map.bw")) as track, pyBigWig.open(str(tmp_path / "low.bw"), "w") as low:
        low.addHeader(list(track.chroms().items()))
        for chrom in track.chroms():
            starts, ends, values = zip(*track.intervals(chrom))
            low.addEntries([chrom] * len(starts), list(starts), ends=list(ends), values=[v / 100 for v in values])
    served.files["/map.bw"] = (tmp_path / "low.bw").read_bytes()
    on = {"match_on": ("gc", "mappability"), "mappability": served.url("/map.bw")}
    said = []
    streamed = run("dataset", heard(served, said), **on).summary["streamed"]
    ((line, before),) = [pair for pair in said if pair[0].startswith("mappability: ")]
    assert f"at most {streamed['mappability_expected_bytes'] / 1e6:,.1f} MB" in line
    track = len(served.files["/map.bw"])
    assert 0.5 * track < streamed["mappability_bytes"] <= streamed["mappability_expected_bytes"] < track
    assert before < streamed["index_bytes"] < 0.2 * track, "only headers and indexes had come"
    assert sum(streamed[f"{what}_bytes"] for what in ("fetched", "index", "mappability")) == served.sent
    assert f"mappability {streamed['mappability_bytes']:,}" in said[-1][0]
