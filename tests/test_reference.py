"""References by name: pinned addresses and checksums, from a local server that stands for UCSC and ENCODE."""

import gzip
import hashlib
import re

import pytest
from conftest import write_manifest
from range_server import serve
from test_genome import write_two_bit

from chromacc_lib import ChromaccError, cli
from chromacc_lib.manifest import lock_table, read_manifest
from chromacc_lib.reference import REFERENCES, PinnedFile, blacklist_path, fetch_reference, genome_path


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A reference called "tiny" at a local server; (server, its pinned files)."""
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    genome = write_two_bit(tmp_path / "tiny.2bit", {"chr1": "ACGTNNacgt" * 5, "chr2": "TTTT"}).read_bytes()
    blacklist = gzip.compress(b"chr1\t3\t9\n")
    with serve() as served:
        served.files |= {"/tiny.2bit": genome, "/black.bed.gz": blacklist}
        served.files["/tiny.sizes"] = b"chr1\t50\nchr2\t4\n"
        pinned = {"genome": PinnedFile(served.url("/tiny.2bit"), hashlib.md5(genome).hexdigest(), len(genome)),
                  "sizes": PinnedFile(served.url("/tiny.sizes")),
                  "blacklist": PinnedFile(served.url("/black.bed.gz"), hashlib.md5(blacklist).hexdigest())}
        monkeypatch.setitem(REFERENCES, "tiny", pinned)
        yield served, pinned


def test_what_is_pinned():
    for kind, pinned in REFERENCES["hg38"].items():
        assert pinned.url.startswith("https://")
        assert re.fullmatch("[0-9a-f]{32}", pinned.md5) or kind == "sizes", "checked against the genome instead"
    assert REFERENCES["hg38"]["genome"].md5 == "dcc3ea27079aa6dc3f9deccd7275e0f8"


def test_fetched_once_and_checked(tiny):
    served, _ = tiny
    found = fetch_reference("tiny")
    assert found.sizes == {"chr1": 50, "chr2": 4} and found.genome_fasta.name == "tiny.2bit"
    asked = len(served.asked)
    assert fetch_reference("tiny") == found and len(served.asked) == asked
    assert genome_path("tiny") == found.genome_fasta and blacklist_path("tiny") == found.blacklist


def test_a_run_fetches_genome_and_blacklist_alone(tiny):
    served, _ = tiny
    assert genome_path("tiny").name == "tiny.2bit" and blacklist_path("tiny").name == "black.bed.gz"
    assert "/tiny.sizes" not in str(served.asked) and "/tiny.2bit" in str(served.asked)
    assert fetch_reference("tiny").chrom_sizes.read_text() == "chr1\t50\nchr2\t4\n"


def test_a_path_is_returned_as_it_is_and_fetches_nothing(tiny, tmp_path):
    served, _ = tiny
    assert genome_path("mine/hg19.fa") == "mine/hg19.fa" and genome_path(tmp_path) == tmp_path
    assert blacklist_path("") == "" and served.asked == []
    with pytest.raises(ChromaccError, match="'hg19': no such reference; known: hg38, tiny"):
        fetch_reference("hg19")


def test_another_checksum_than_pinned_is_refused(tiny):
    served, _ = tiny
    served.files["/black.bed.gz"] = gzip.compress(b"chr1\t3\t10\n")
    with pytest.raises(ChromaccError, match="black.bed.gz.*md5"):
        blacklist_path("tiny")


def test_a_checksum_that_nobody_published_is_recorded_and_kept(tiny):
    served, _ = tiny
    fetch_reference("tiny").chrom_sizes.unlink()
    served.files["/tiny.sizes"] = b"chr2\t4\nchr1\t50\n"  # the same sizes, in another order
    with pytest.raises(ChromaccError, match="recorded when it was first.*remove its line from .*checksums.json"):
        fetch_reference("tiny")


@pytest.mark.parametrize("text, message", [
    (b"chr1\t51\nchr2\t4\n", "1 chromosome.*differ.*chr1; got 51 bp, needed 50"),
    (b"chr1\t50\n", "chr2; got None bp, needed 4"),
    (b"chr1 50\nchr2\t4\n", "line 1: got .*needed a chromosome and its size"),
])
def test_sizes_have_to_agree_with_the_genome(tiny, text, message):
    served, _ = tiny
    served.files["/tiny.sizes"] = text
    with pytest.raises(ChromaccError, match=message):
        fetch_reference("tiny")


def test_check_takes_the_name(tiny, tmp_path, capsys):
    (tmp_path / "m.tsv").write_text("cell_type\ttarget\tkind\tpath_or_url\tassembly\nA\tx\ttf\tno.bw\ttiny\n")
    status = cli.main(["check", str(tmp_path / "m.tsv"), "--genome-fasta", "tiny", "--blacklist", "tiny"])
    said = capsys.readouterr()
    assert status == 1 and "no.bw" in said.err and "2bit" not in said.err and "black" not in said.err


def test_the_size_is_said_first_and_the_lock_knows_the_address(tiny, tmp_path, capsys):
    served, pinned = tiny
    genome, blacklist = genome_path("tiny"), blacklist_path("tiny")
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said] == [
        "downloads: 1 file(s) (tiny.2bit)", "downloads: 1 file(s) (black.bed.gz)"]
    row = {"cell_type": "A", "target": "CTCF", "kind": "tf", "path_or_url": "tiny.2bit"}
    write_manifest(tmp_path / "tracks.tsv", [row])
    lock = lock_table(read_manifest(tmp_path / "tracks.tsv"), {
        "genome_fasta": genome, "blacklist": blacklist, "manifest": tmp_path / "tracks.tsv"}).set_index("kind")
    lock = lock.drop(index="tf")
    assert lock["url"].to_dict() == {"genome_fasta": served.url("/tiny.2bit"), "blacklist": served.url("/black.bed.gz"),
                                     "manifest": ""}
