"""Remote files against a local server that serves ranges, counts bytes, and misbehaves."""

import hashlib
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from range_server import serve

from chromacc_lib import ChromaccError, cache, network, sources
from chromacc_lib.cache import RemoteFile, split_budget
from chromacc_lib.signals import genome_mean, read_signal
from chromacc_lib.sources import download, download_all

DATA = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()


@pytest.fixture
def server():
    with serve() as served:
        served.files["/x.bin"] = DATA
        yield served


@pytest.fixture
def open_remote(tmp_path):
    """Open remote files through a cache in tmp_path, and close them all at the end."""
    opened = []

    def open_one(url):
        opened.append(RemoteFile(url, tmp_path / "cache"))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    """Waits between tries are real, but short."""
    monkeypatch.setattr(network, "BACKOFF_S", 0.01)


# --- ranges -------------------------------------------------------------------------------------------------
def test_ranges_are_joined_within_a_budget():
    # wanted 100 + 100 + 100; gaps of 10 and 60: a budget of 0.2 pays for the first, not for both
    assert split_budget([(0, 100), (110, 210), (270, 370)], 0.2, 10**6) == [(0, 210), (270, 100)]
    assert split_budget([(260, 360), (0, 100), (90, 210)], 0.2, 10**6) == [(0, 360)]
    assert split_budget([(0, 100), (200, 300)], 0.0, 10**6) == [(0, 100), (200, 100)]
    assert split_budget([(0, 250)], 0.2, 100) == [(0, 100), (100, 100), (200, 50)]
    assert split_budget([], 0.2, 100) == []


def test_budget_is_never_exceeded_and_all_is_covered():
    rng = np.random.default_rng(1)
    for _ in range(50):
        starts = np.sort(rng.choice(10_000, 40, replace=False))
        wanted = [(int(s), int(s + n)) for s, n in zip(starts, rng.integers(1, 200, 40))]
        needed = np.zeros(10_300, dtype=bool)
        got = np.zeros_like(needed)
        for first, last in wanted:
            needed[first:last] = True
        for offset, size in split_budget(wanted, 0.2, 500):
            assert size <= 500 and not got[offset:offset + size].any()
            got[offset:offset + size] = True
        assert (got >= needed).all() and got.sum() <= 1.2 * needed.sum()


# --- the block cache ----------------------------------------------------------------------------------------
def test_only_what_is_asked_for_is_fetched_and_only_once(server, open_remote):
    remote = open_remote(server.url("/x.bin"))
    assert remote.size == len(DATA) and remote.fetched == cache.HEAD_BYTES
    assert remote.read(100_000, 5_000) == DATA[100_000:105_000]
    assert remote.read(102_000, 4_000) == DATA[102_000:106_000]
    assert remote.fetched == cache.HEAD_BYTES + 6_000 == server.sent
    again = open_remote(server.url("/x.bin"))
    asked = len(server.asked)
    assert again.read(100_500, 5_500) == DATA[100_500:106_000] and again.size == len(DATA)
    assert len(server.asked) == asked and again.fetched == 0


def test_prefetch_joins_what_lies_near_and_reads_side_by_side(server, open_remote):
    remote = open_remote(server.url("/x.bin"))
    before = len(server.asked)
    wanted = [(50_000, 5_000), (55_100, 5_000), (200_000, 5_000), (299_000, 5_000)]
    assert remote.missing(wanted) == [(50_000, 10_100), (200_000, 5_000), (299_000, 1_000)]
    remote.prefetch(wanted)
    assert len(server.asked) == before + 3
    assert all(remote.read(o, min(n, len(DATA) - o)) == DATA[o:o + n] for o, n in wanted)
    assert len(server.asked) == before + 3


def test_a_killed_run_leaves_nothing_false(server, open_remote, tmp_path):
    remote = open_remote(server.url("/x.bin"))
    remote.read(100_000, 5_000)
    (journal,) = (tmp_path / "cache").rglob("ranges.jsonl")
    with open(journal, "a") as handle:
        handle.write("[200000, 2100")  # the line was being written
    again = open_remote(server.url("/x.bin"))
    assert again.read(200_000, 10_000) == DATA[200_000:210_000] and again.fetched == 10_000
    lines = journal.read_text().splitlines()
    assert json.loads(lines[-1]) == [200_000, 210_000]
    third = open_remote(server.url("/x.bin"))
    assert third.read(200_000, 10_000) == DATA[200_000:210_000] and third.fetched == 0


def test_a_power_cut_leaves_nothing_false(server, open_remote, tmp_path, monkeypatch):
    """On the worst of disks: the journal is there at once, the bytes only when they are synced, else zeros."""
    disk, states, sync = {}, [], cache.sync

    def cut():
        for journal in (tmp_path / "cache").rglob("ranges.jsonl"):
            copy = disk.get(journal.with_name("data"), b"")
            states.append((journal.read_text(), copy.ljust(len(DATA), b"\0")))

    def synced(path):
        cut()  # just before
        sync(path)
        if path.is_file():
            disk[path] = path.read_bytes()

    monkeypatch.setattr(cache, "sync", synced)
    remote = open_remote(server.url("/x.bin"))
    remote.prefetch([(50_000, 5_000), (200_000, 5_000)])
    remote.read(100_000, 5_000)
    cut()
    journaled = [[json.loads(line) for line in journal.splitlines()[1:]] for journal, _ in states]
    assert sum(map(len, journaled)) > 4 and len(journaled[-1]) == 4
    for ranges, (_, copy) in zip(journaled, states):
        assert all(copy[first:last] == DATA[first:last] for first, last in ranges)
    (journal,) = (tmp_path / "cache").rglob("ranges.jsonl")
    journal.with_name("data").write_bytes(states[-1][1])
    again = open_remote(server.url("/x.bin"))
    assert all(again.read(first, last - first) == DATA[first:last] for first, last in journaled[-1])
    assert again.fetched == 0 and again.read(0, len(DATA)) == DATA


def test_each_thread_counts_what_was_fetched_for_it(server, open_remote):
    before = cache.fetched_here()
    remote = open_remote(server.url("/x.bin"))
    remote.read(100_000, 5_000)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(remote.read, 200_000, 7_000).result()
        assert pool.submit(cache.fetched_here).result() == 7_000
    remote.read(200_000, 7_000)
    assert cache.fetched_here() - before == cache.HEAD_BYTES + 5_000


def test_a_dropped_connection_goes_on_where_it_stopped(server, open_remote, tried):
    remote = open_remote(server.url("/x.bin"))
    server.faults["/x.bin"] = [("drop", 1_000), ("drop", 0), ("drop", 2_500)]
    assert remote.read(150_000, 5_000) == DATA[150_000:155_000]
    assert remote.fetched == cache.HEAD_BYTES + 5_000
    server.faults["/x.bin"] = [("drop", 0)] * 50
    with pytest.raises(ChromaccError, match="did not come in 5 tries; try again later: what came is kept") as caught:
        remote.read(250_000, 10)
    tried("connections that drop, over and over", caught)


def test_a_busy_server_is_asked_again_as_it_wishes(server, open_remote, tried):
    server.faults["/x.bin"] = [("status", 503, {"Retry-After": "0"}), ("status", 429, {}), ("status", 500, {})]
    assert open_remote(server.url("/x.bin")).read(0, 10) == DATA[:10]
    server.faults["/x.bin"] = [("status", 503, {"Retry-After": "0"})] * 50
    with pytest.raises(ChromaccError, match="answered 503.*asked 5 times") as caught:
        open_remote(server.url("/x.bin") + "")._get(200_000, 10)
    tried("503, 429 and 500, once each", "asked again after Retry-After")
    tried("503 for ever", caught)


def test_what_cannot_be_served_is_said(server, open_remote, tried):
    with pytest.raises(ChromaccError, match="answered 404.*archived or the address mistyped") as caught:
        open_remote(server.url("/none.bin"))
    tried("404", caught)
    server.faults["/x.bin"] = [("wrong range",)]
    with pytest.raises(ChromaccError, match="does not serve ranges .it answered 200, needed 206.") as caught:
        open_remote(server.url("/x.bin"))
    tried("a server without ranges, for tracks by their blocks", caught)
    for bad in ("ftp://example.org/x.bw", "s3://bucket/x.bw", "file:///etc/passwd", "https:///x.bw"):
        with pytest.raises(ChromaccError, match="needed http or https with a host") as caught:
            open_remote(bad)
        tried(f"the address {bad}", str(caught.value))
    with pytest.raises(ChromaccError, match="cannot be reached"):
        open_remote("http://127.0.0.1:9/x.bw")


def test_a_file_that_changes_under_way_is_noticed(server, open_remote, tried):
    remote = open_remote(server.url("/x.bin"))
    server.etags["/x.bin"] = '"2"'
    with pytest.raises(ChromaccError, match="has changed on the server.*delete .*start again") as caught:
        remote.read(200_000, 10)
    tried("a remote file that changes while it is read", caught)


def test_a_change_is_noticed_by_its_date_where_there_is_no_etag(server, open_remote):
    server.headers = {"ETag": "", "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    remote = open_remote(server.url("/x.bin"))
    server.headers = server.headers | {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
    with pytest.raises(ChromaccError, match="has changed on the server.*01 Jan 2024.*02 Jan 2024"):
        remote.read(200_000, 10)


def test_a_range_that_is_not_the_one_asked_for_is_refused(server, open_remote, tmp_path, tried):
    remote = open_remote(server.url("/x.bin"))
    server.faults["/x.bin"] = [("late", 5_000)]
    with pytest.raises(ChromaccError, match="asked for bytes from 100000, the server answered Content-Range 'bytes 105000-"):
        remote.read(100_000, 1_000)
    server.faults["/x.bin"] = [("drop", 131_072), ("late", 10)]
    with pytest.raises(ChromaccError, match="asked for bytes from 131072") as caught:
        download(server.url("/x.bin"), tmp_path / "whole", MD5)
    tried("another range than was asked for", caught)


def test_without_a_checksum_the_length_decides_whether_a_file_is_there(server, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"garbage")
    assert download(server.url("/x.bin"), tmp_path, size=len(DATA)).read_bytes() == DATA


def test_a_signed_address_that_expires_is_asked_for_again(server, open_remote):
    server.files["/signed"] = DATA
    server.faults["/x.bin"] = [("redirect", "/signed"), ("redirect", "/signed")]
    remote = open_remote(server.url("/x.bin"))
    assert remote.read(100_000, 10) == DATA[100_000:100_010]
    assert [path for path, _ in server.asked] == ["/x.bin", "/signed", "/signed"]
    server.faults["/signed"] = [("status", 403)]
    assert remote.read(200_000, 10) == DATA[200_000:200_010]
    assert [path for path, _ in server.asked][3:] == ["/signed", "/x.bin", "/signed"]


# --- bigWigs over the network -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def big_track(tmp_path_factory):
    """A bigWig of some 7 MB on two chromosomes, and windows on one of them."""
    path = tmp_path_factory.mktemp("remote") / "signal.bw"
    rng = np.random.default_rng(2)
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader([("chr1", 20_000_000), ("chr2", 20_000_000)])
        for chrom in ("chr1", "chr2"):
            starts = np.sort(rng.choice(10_000_000 - 1, 500_000, replace=False)) * 2
            bigwig.addEntries([chrom] * len(starts), starts.tolist(), ends=(starts + 2).tolist(),
                              values=rng.gamma(1, 2, len(starts)).tolist())
    windows = pd.DataFrame({"chrom": "chr2", "start": np.sort(rng.choice(12_000, 60, replace=False)) * 1_600})
    return path, windows.assign(end=windows["start"] + 1500)


def test_a_remote_bigwig_reads_like_a_local_one_at_little_more_than_its_blocks(server, big_track, tmp_path,
                                                                             monkeypatch):
    path, windows = big_track
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    server.files["/signal.bw"] = path.read_bytes()
    url = server.url("/signal.bw")
    local = read_signal(path, windows, 15)
    remote = read_signal(url, windows, 15)
    assert np.array_equal(remote.values, local.values) and np.array_equal(remote.covered, local.covered)
    from chromacc_lib.bigwig import open_bigwig
    with open_bigwig(path) as bigwig:
        starts = windows["start"].to_numpy()
        needed = int(bigwig.blocks("chr2", starts, starts + 1500)["size"].sum())
    assert needed < server.sent < 1.5 * needed < 0.9 * path.stat().st_size
    sent, asked = server.sent, len(server.asked)
    assert np.array_equal(read_signal(url, windows, 15).values, local.values)
    assert genome_mean(url) == genome_mean(path)
    assert (server.sent, len(server.asked)) == (sent, asked), "a rerun is free"


# --- whole files --------------------------------------------------------------------------------------------
MD5 = hashlib.md5(DATA).hexdigest()


def test_download_verifies_and_does_not_fetch_twice(server, tmp_path):
    seen = []
    path = download(server.url("/x.bin"), tmp_path, MD5, len(DATA), advance=seen.append)
    assert path == tmp_path / "x.bin" and path.read_bytes() == DATA and sum(seen) == len(DATA)
    asked = len(server.asked)
    assert download(server.url("/x.bin"), tmp_path, MD5) == path and len(server.asked) == asked
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.bin"]


def test_download_resumes_where_it_stopped(server, tmp_path, tried):
    server.faults["/x.bin"] = [("drop", 131_072), ("drop", 65_536)]
    download(server.url("/x.bin"), tmp_path, MD5)
    assert [asked for _, asked in server.asked] == ["", "bytes=131072-", "bytes=196608-"]
    assert server.sent == len(DATA)
    tried("a download that drops twice", "goes on from the byte where it stopped")


def test_a_download_that_failed_leaves_no_file_under_its_name_and_the_next_run_goes_on(server, tmp_path, tried):
    server.faults["/x.bin"] = [("drop", 131_072)] + [("drop", 0)] * 50
    with pytest.raises(ChromaccError, match="dropped 5 times; run again: what came is kept") as caught:
        download(server.url("/x.bin"), tmp_path, MD5)
    assert not (tmp_path / "x.bin").exists()
    server.faults["/x.bin"] = []
    server.sent = 0
    download(server.url("/x.bin"), tmp_path, MD5)
    assert server.sent == len(DATA) - 131_072 and (tmp_path / "x.bin").read_bytes() == DATA
    tried("a download that drops for good", caught)


def test_a_wrong_checksum_or_length_is_refused(server, tmp_path, tried):
    with pytest.raises(ChromaccError, match="correct the md5 in the manifest") as caught:
        download(server.url("/x.bin"), tmp_path, "0" * 32)
    assert list(tmp_path.iterdir()) == []
    tried("a download with a wrong checksum", str(caught.value).split("(")[0])
    with pytest.raises(ChromaccError, match="server has 300,000 bytes, and the manifest says 5") as caught:
        download(server.url("/x.bin"), tmp_path, MD5, size=5)
    tried("a download of a wrong length", caught)


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path, tried):
    server.ranges = False
    server.faults["/x.bin"] = [("drop", 1_000)]
    assert download(server.url("/x.bin"), tmp_path, MD5).read_bytes() == DATA
    tried("a server without ranges that drops once", "read from the start, whole")


def download_whole(server, tmp_path):
    return download(server.url("/x.bin"), tmp_path / "files").read_bytes()


def stream_all(server, tmp_path):
    return RemoteFile(server.url("/x.bin"), tmp_path / "cache").read(0, len(DATA))


BOTH = pytest.mark.parametrize("fetch", [download_whole, stream_all])


@BOTH
def test_a_server_that_stalls_is_given_up_after_a_while_and_what_came_is_kept(server, tmp_path, monkeypatch, fetch, tried):
    monkeypatch.setattr(network, "TIMEOUT_S", (0.2, 0.2))
    server.faults["/x.bin"] = [("stall", 140_000, 1)] * 2 + [("slow", 1)]
    assert fetch(server, tmp_path) == DATA
    server.files["/y.bin"], server.faults["/y.bin"] = DATA, [("slow", 1)] * 50
    with pytest.raises(ChromaccError, match="y.bin: cannot be reached .*[Rr]ead timed out.*try again"):
        download(server.url("/y.bin"), tmp_path)
    tried(f"a server that stalls, or answers late ({fetch.__name__})", "time-out, asked again, whole")


@BOTH
def test_no_wait_is_longer_than_a_minute_whatever_the_server_asks_for(server, tmp_path, monkeypatch, fetch, tried):
    waits = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    server.faults["/x.bin"] = [("status", 503, {"Retry-After": "86400"}), ("status", 429, {"Retry-After": "2"})]
    assert fetch(server, tmp_path) == DATA and waits == [60, 2]
    tried(f"Retry-After: 86400 ({fetch.__name__})", f"waits of {waits} s")


@BOTH
@pytest.mark.parametrize("where, message", [
    ("/x.bin", "redirects"), ("ftp://127.0.0.1/x.bin", "No connection adapters"), ("file:///etc/passwd", "No connection")])
def test_a_redirection_in_a_circle_or_out_of_the_web_is_refused(server, tmp_path, fetch, where, message, tried):
    server.faults["/x.bin"] = [("redirect", where)] * 50
    with pytest.raises(ChromaccError, match=f"x.bin: cannot be reached .*{message}") as refused:
        fetch(server, tmp_path)
    assert not list((tmp_path / "files").glob("x*"))
    server.files["/here.bin"], server.faults["/x.bin"] = DATA, [("redirect", "/here.bin")]
    assert fetch(server, tmp_path) == DATA
    tried(f"a redirection to {where} ({fetch.__name__})", refused.value)


@BOTH
def test_what_a_server_calls_encoded_is_kept_as_it_came(server, tmp_path, fetch, tried):
    """Servers say so of .gz files, which are wanted as they are; ranges and checksums are of the bytes that come."""
    server.headers = {"Content-Encoding": "gzip"}
    assert fetch(server, tmp_path) == DATA
    tried(f"Content-Encoding: gzip of plain bytes ({fetch.__name__})", "kept as they came")


def test_a_server_without_ranges_that_always_drops_is_not_asked_for_ever(server, tmp_path, tried):
    server.ranges = False
    server.faults["/x.bin"] = [("drop", 200_000)] * 1_000
    with pytest.raises(ChromaccError, match="dropped 5 times") as caught:
        download(server.url("/x.bin"), tmp_path, MD5)
    assert len(server.asked) == 6 and not (tmp_path / "x.bin").exists()
    tried("a server without ranges that always drops", caught)


@pytest.mark.parametrize("answer, md5, message", [
    (b"SSH-2.0-OpenSSH\r\n", "", "cannot be reached"), (b"", "", "cannot be reached"),
    (b"HTTP/1.1 200 OK\r\n\r\n" + DATA[:500], MD5, "md5"),  # without a length, its end may be a drop
    (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + DATA[:500], MD5, "md5"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + DATA, MD5, "md5"),  # more than it said
])
def test_an_answer_that_is_none_leaves_no_file(tmp_path, answer, md5, message, tried):
    def reply():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=reply)
        thread.start()
        try:
            with pytest.raises(ChromaccError, match=message):
                download(f"http://127.0.0.1:{listener.getsockname()[1]}/x.bin", tmp_path, md5)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert not (tmp_path / "x.bin").exists()
    tried(f"the answer {answer[:60]!r}", "refused; no file under its name")


@pytest.mark.parametrize("url", ["http://[::/x.bw", "http://h:99999/x.bw", "http:///x.bw", "gopher://h/x.bw"])
def test_an_address_that_is_none_is_refused(tmp_path, url, tried):
    with pytest.raises(ChromaccError, match=f"{re.escape(url)}: ") as caught:
        download(url, tmp_path)
    tried(f"the address {url}", str(caught.value))


def test_names_from_addresses_stay_in_their_folder(server, tmp_path, tried):
    for path in ("/a/..%2F..%2Fescape.bin", "/.hidden", "/a%20b"):
        server.files[path] = DATA
        assert download(server.url(path), tmp_path / "in", MD5).parent == tmp_path / "in"
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    tried("addresses that end in ..%2F..%2Fescape.bin, or in .hidden", "their files stay in the cache folder, under plain names")


def test_several_files_side_by_side_in_their_order(server, tmp_path):
    server.files |= {f"/{i}/same.bin": DATA[:1000 * (i + 1)] for i in range(5)}
    files = [(server.url(f"/{i}/same.bin"), "", 1000 * (i + 1)) for i in range(5)]
    paths = download_all(files, tmp_path, workers=3)
    assert [p.stat().st_size for p in paths] == [1000 * (i + 1) for i in range(5)]


def test_how_many_bytes_come_is_said_before_they_are_asked_for(server, tmp_path):
    files, said = [(server.url("/x.bin"), MD5, len(DATA)), (server.url("/y.bin"), "", len(DATA))], []
    server.files["/y.bin"] = DATA
    server.faults["/y.bin"] = [("drop", 131_072)] + [("drop", 0)] * 50
    say = lambda line: said.append((line, len(server.asked)))  # noqa: E731
    with pytest.raises(ChromaccError, match="1 of 2 file.s. could not be fetched"):
        download_all(files, tmp_path, say=say)
    assert said == [("downloads: 2 file(s), 0.00 GB; 0.00 GB are there already", 0)]
    asked, server.faults["/y.bin"] = len(server.asked), []
    assert sources._bytes_there(files[1][0], sources.place_of(files[1][0], tmp_path)) == 131_072
    assert [path.read_bytes() for path in download_all(files, tmp_path, say=say)] == [DATA, DATA]
    assert said[1:] == [("downloads: 2 file(s), 0.00 GB; 0.00 GB are there already", asked)]
    download_all(files, tmp_path, say=say)
    assert len(said) == 2, "nothing is left to fetch, so nothing is said"
    large = [("https://example.org/a/hg38.2bit", MD5, 835_393_456)]
    line = sources._what_comes(large, 400_000_000)
    assert line == "downloads: 1 file(s) (hg38.2bit), 0.84 GB; 0.40 GB are there already"
    unknown = sources._what_comes([*large, ("https://example.org/b", "", 0)], 0)
    assert "0.84 GB, and 1 of a size that is not known" in unknown


@pytest.mark.parametrize("kind", ["etag", "date"])
def test_a_file_replaced_under_way_by_one_of_its_length_is_not_mixed_with_it(server, tmp_path, kind, tried):
    other, came = DATA[::-1], []

    def replace(n):
        came.append(n)
        server.files["/x.bin"] = other
        server.etags["/x.bin"], server.headers = '"2"', dates[1]

    dated = kind == "date"
    dates = [{"ETag": "", "Last-Modified": f"Mon, 0{day} Jan 2024 00:00:00 GMT"} if dated else {} for day in (1, 8)]
    server.headers = dates[0]
    server.faults["/x.bin"] = [("drop", 131_072)]
    path = download(server.url("/x.bin"), tmp_path, size=len(DATA), advance=replace)
    assert path.read_bytes() == other and sum(came) == len(DATA)
    assert [asked for _, asked in server.asked] == ["", "bytes=131072-"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]
    tried(f"a file that is replaced in the middle of its download (told by {kind})", "fetched anew, not mixed")


def test_a_file_replaced_between_two_runs_is_fetched_anew(server, tmp_path):
    server.faults["/x.bin"] = [("drop", 131_072)] + [("drop", 0)] * 50
    with pytest.raises(ChromaccError, match="what came is kept"):
        download(server.url("/x.bin"), tmp_path)
    server.files["/x.bin"], server.etags["/x.bin"], server.faults["/x.bin"] = DATA[::-1], '"2"', []
    assert download(server.url("/x.bin"), tmp_path).read_bytes() == DATA[::-1]
