"""A manifest of web addresses is curated like one of paths, from a local server that counts what it sends."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from conftest import PARAMETERS
from range_server import serve

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import curate, open_dataset
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


def test_all_that_is_wrong_with_remote_files_is_listed_at_once(remote_project):
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
    with pytest.raises(ChromaccError, match="2 of .* file.s. could not be fetched:\n  1. .*404.*\n  2. .*404"):
        fetch(table)


@pytest.mark.parametrize("how", ["stream", "download"])
def test_curation_over_the_network_equals_curation_from_disk(remote_project, tmp_path, how):
    project, manifest, served = remote_project
    said = []
    local = curate(project.manifest, project.genome_fasta, tmp_path / "local", PARAMETERS, say=said.append)
    remote = curate(manifest, project.genome_fasta, tmp_path / "remote", PARAMETERS, remote_tracks=how, say=said.append)
    streamed = [line for line in said if "remote tracks" in line]
    assert len(streamed) == (how == "stream")
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
