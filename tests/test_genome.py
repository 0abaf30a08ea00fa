"""The genome: plain FASTA, bgzipped FASTA and .2bit give the same bases, codes and sizes."""

import os
import struct
import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from Bio import bgzf
from conftest import PARAMETERS, write_fasta

from chromacc_lib.curation import curate
from chromacc_lib.dataset import open_dataset
from chromacc_lib.genome import _stretches, genome_sizes, open_genome
from chromacc_lib.problems import FileProblem
from chromacc_lib.windows import base_content, sequence_codes

TWO_BITS = np.zeros(256, np.uint8)  # T, and N, are 0
TWO_BITS[[ord(letter) for letter in "CAG"]] = 1, 2, 3
FORMS = ["genome.fa", "genome.fa.gz", "genome.2bit"]


def runs(letters: np.ndarray, wanted: np.ndarray) -> list[tuple[int, int]]:
    """Return (start, length) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted.astype(np.int8), [0]])))
    return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]


def write_two_bit(path, sequences: dict[str, str]):
    """Write UCSC's .2bit: T, C, A, G are 0 to 3, four bases a byte; runs of N and of lower case apart."""
    records = []
    for text in sequences.values():
        letters = np.frombuffer(text.encode(), np.uint8)
        upper = np.frombuffer(text.upper().encode(), np.uint8)
        parts = [struct.pack("<I", len(text))]
        for found in (runs(letters, upper == ord("N")), runs(letters, letters != upper)):
            starts, lengths = ([pair[k] for pair in found] for k in (0, 1))
            parts.append(struct.pack(f"<I{2 * len(found)}I", len(found), *starts, *lengths))
        codes = np.zeros(-(-len(text) // 4) * 4, np.uint8)
        codes[: len(text)] = TWO_BITS[upper]
        packed = (codes.reshape(-1, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(axis=1, dtype=np.uint8)
        records.append(b"".join(parts) + struct.pack("<I", 0) + packed.tobytes())
    at = 16 + sum(5 + len(name) for name in sequences)
    index = b""
    for name, record in zip(sequences, records):
        index += struct.pack("<B", len(name)) + name.encode() + struct.pack("<I", at)
        at += len(record)
    path.write_bytes(struct.pack("<4I", 0x1A412743, 0, len(sequences), 0) + index + b"".join(records))
    return path


@pytest.fixture(scope="module")
def sequences():
    rng = np.random.default_rng(4)
    made = {}
    for name, size in (("chr2", 20_011), ("chr1", 50_003), ("chrM", 61)):
        text = rng.choice(list("ACGT"), size)
        for start, length in zip(rng.integers(0, size, 6), rng.integers(1, size // 8, 6)):
            text[start : start + length] = "N"
        soft = rng.random(size // 50 + 1).repeat(50)[:size] < 0.5
        made[name] = "".join(np.where(soft, np.char.lower(text), text))
    return made


@pytest.fixture(scope="module")
def genomes(sequences, tmp_path_factory):
    """The same genome in three formats, {file name: path}."""
    folder = tmp_path_factory.mktemp("genomes")
    fasta = write_fasta(folder / "genome.fa", sequences)
    with bgzf.open(str(folder / "genome.fa.gz"), "wb") as handle:
        handle.write(fasta.read_bytes())
    write_two_bit(folder / "genome.2bit", sequences)
    return {name: folder / name for name in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_text_and_sizes(genomes, sequences, form):
    assert list(genome_sizes(genomes[form]).items()) == [(name, len(text)) for name, text in sequences.items()]
    with open_genome(genomes[form]) as genome:
        assert genome.keys() == list(sequences) and "chr1" in genome and "chr9" not in genome
        for name, text in sequences.items():
            assert len(genome[name]) == len(text)
            n = len(text)
            for start, end in ((0, n), (0, 1), (7, 7), (n - 1, n), (3, 61), (59, 10**9)):
                assert genome[name][start:end] == text[start:end].upper()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 60, 997])
def test_codes_in_any_order_overlapping_and_at_the_edges(genomes, sequences, form, length):
    rng = np.random.default_rng(length)
    rows = [(name, int(start)) for name, text in sequences.items() if len(text) >= length
            for start in [0, len(text) - length, *rng.integers(0, len(text) - length + 1, 40)]]
    windows = pd.DataFrame(rows, columns=["chrom", "start"]).sample(frac=1, random_state=1)
    windows["end"] = windows["start"] + length
    with open_genome(genomes[form]) as genome:
        codes, content = sequence_codes(genome, windows), base_content(genome, windows)
    by_hand = [["ACGTN".index(letter) for letter in sequences[chrom][start : start + length].upper()]
               for chrom, start in zip(windows["chrom"], windows["start"])]
    assert codes.dtype == np.uint8 and codes.tolist() == by_hand
    assert content["n_fraction"].tolist() == pytest.approx((np.array(by_hand) == 4).mean(axis=1))


def test_a_fasta_with_windows_line_ends(tmp_path):
    (tmp_path / "g.fa").write_bytes(b">chr1\r\nACGT\r\nacgt\r\nNN\r\n")
    windows = pd.DataFrame({"chrom": "chr1", "start": [0, 3, 6], "end": [4, 7, 10]})
    with open_genome(tmp_path / "g.fa") as genome:
        assert sequence_codes(genome, windows).tolist() == [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 4, 4]]


def test_what_lies_far_from_the_windows_is_not_read(genomes, monkeypatch):
    with open_genome(genomes["genome.2bit"]) as genome:
        asked, read = [], genome.text
        monkeypatch.setattr(genome, "text", lambda *place: asked.append(place) or read(*place))
        windows = pd.DataFrame({"chrom": "chr1", "start": [49_000, 100, 150], "end": [49_100, 200, 250]})
        sequence_codes(genome, windows)
    assert asked == [("chr1", 100, 250), ("chr1", 49_000, 49_100)]


def test_a_long_stretch_is_read_in_parts():
    starts = np.arange(0, 5 << 20, 1000)
    parts = list(_stretches(starts, 1500))
    assert [rows.start for rows, *_ in parts][1:] == [rows.stop for rows, *_ in parts][:-1]
    assert max(end - start for _, start, end in parts) <= (1 << 20) + 1500
    for rows, start, end in parts:
        assert (start, end) == (starts[rows][0], starts[rows][-1] + 1500)


def test_a_cut_or_foreign_two_bit_is_refused(genomes, tmp_path, tried):
    data = genomes["genome.2bit"].read_bytes()
    for size in (12, 20, 60, len(data) - 1):
        (tmp_path / "cut.2bit").write_bytes(data[:size])
        with pytest.raises(FileProblem, match="truncated or corrupt .2bit.*Fetch the file again") as caught:
            open_genome(tmp_path / "cut.2bit")
    (tmp_path / "big.2bit").write_bytes(struct.pack(">4I", 0x1A412743, 0, 1, 0) + data[16:])
    with pytest.raises(FileProblem, match="byte order"):
        genome_sizes(tmp_path / "big.2bit")
    tried("a .2bit file cut at 4 places", caught)


def test_an_index_that_does_not_fit_is_refused(tmp_path):
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": "ACGT" * 50})
    for index in ("chr1\t400\t6\t60\t61\n", "chr1\t100\t6\t60\t61\n"):
        (tmp_path / "g.fa.fai").write_text(index)
        with pytest.raises(FileProblem, match="does not fit its index.*Remove .*g.fa.fai"):
            open_genome(fasta)


def read_whole(path, windows):
    """Sizes and the codes under some windows."""
    with open_genome(path) as genome:
        return genome.sizes, sequence_codes(genome, windows).tolist()


@pytest.fixture(scope="module")
def windows(sequences):
    rows = [(name, start) for name, text in sequences.items() for start in range(0, len(text) - 60, 1_000)]
    return pd.DataFrame(rows, columns=["chrom", "start"]).eval("end = start + 60")


@pytest.mark.parametrize("indexed", [False, True])
def test_a_bgzipped_fasta_cut_or_flipped_anywhere_is_refused(genomes, windows, tmp_path, indexed, tried):
    """Each block has a checksum: whatever is read is right, or refused by name."""
    whole, rng = genomes["genome.fa.gz"], np.random.default_rng(5)
    good, data = read_whole(whole, windows), whole.read_bytes()
    refused = 0
    for number in range(30):
        damaged = bytearray(data)
        if number % 2:
            damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        else:
            damaged = damaged[: rng.integers(1, len(data) - 40)]  # the last 28 bytes are an empty block
        path = tmp_path / f"{number}.fa.gz"
        path.write_bytes(damaged)
        for end in (".fai", ".gzi") if indexed else ():
            path.with_name(path.name + end).write_bytes(whole.with_name(whole.name + end).read_bytes())
        try:
            assert read_whole(path, windows) == good
        except FileProblem as problem:
            assert path.name in str(problem)
            refused += 1
    assert refused > 20
    tried(f"a bgzipped FASTA cut or flipped at 30 places{', already indexed' if indexed else ''}", "refused by name, or the bases read are right")


def test_a_fasta_that_was_cut_after_it_was_indexed_is_refused(genomes, tmp_path, tried):
    genome_sizes(genomes["genome.fa"])
    data, index = genomes["genome.fa"].read_bytes(), genomes["genome.fa"].with_name("genome.fa.fai").read_bytes()
    path, fai = tmp_path / "cut.fa", tmp_path / "cut.fa.fai"
    for size in np.linspace(1, len(data) - 2, 25).astype(int):
        path.write_bytes(data[:size])
        fai.write_bytes(index)
        with pytest.raises(FileProblem, match="cut.fa: FASTA does not fit its index.*got .*needed") as caught:
            genome_sizes(path)
    tried("a FASTA cut at 25 places after it was indexed", caught)
    path.write_bytes(data)
    for size in np.linspace(1, len(index) - 2, 12).astype(int):  # the disk was full when the index was written
        fai.write_bytes(index[:size])
        with pytest.raises(FileProblem, match="cut.fa: FASTA"):
            genome_sizes(path)


@pytest.mark.parametrize("text, got", [
    (">chr1\nACGT\n\n\nACGT\n>chr2\nAC\n", "chr1"), (">chr1\nACGT\nACGTAC\nAC\n", "not consistent"),
    (">chr1\nACGT\n>chr1\nACGT\n", "Duplicate key"), (">chr1\nAC\udc81GT\n", "can't decode byte 0x81"),
])
def test_a_fasta_of_another_form_is_refused(tmp_path, text, got, tried):
    (tmp_path / "g.fa").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FileProblem, match=f"(?s)g.fa: FASTA cannot be indexed; got .*{got}.*needed a whole plain") as caught:
        open_genome(tmp_path / "g.fa")
    tried(f"a FASTA {text!r}", caught)


@pytest.mark.parametrize("form", FORMS[:2])
def test_what_is_no_letter_of_a_sequence_is_refused_by_place(tmp_path, form, tried):
    text = b">chr1\nACGTacgtNRYKMSWBDHVX-*.U\nACG7ACGTACGTACGTACGTACGT\n"
    with (bgzf.open if form.endswith("gz") else open)(str(tmp_path / form), "wb") as handle:
        handle.write(text)
    windows = pd.DataFrame({"chrom": "chr1", "start": [0, 24, 38], "end": [10, 34, 48]})
    with open_genome(tmp_path / form) as genome:
        assert sequence_codes(genome, windows.iloc[[0, 2]]).tolist()[0] == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4]
        with pytest.raises(FileProblem, match=r"no letter of a sequence in 1 window.* of chr1; got '7' at chr1:27 ") as caught:
            sequence_codes(genome, windows)
    tried("a digit in the FASTA", caught)


@pytest.mark.parametrize("form", FORMS[:2])
def test_an_index_lies_in_the_cache_where_the_folder_is_read_only(genomes, tmp_path, monkeypatch, read_only, form, tried):
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / form).write_bytes(genomes[form].read_bytes())
    (folder / f"{form}.fai").write_text("older than the FASTA")
    os.utime(folder / f"{form}.fai", (0, 0))
    for _ in range(2):
        assert read_only(folder, lambda: genome_sizes(folder / form)) == genome_sizes(genomes[form])
    assert len(list((tmp_path / "cache" / "indexes").glob("*.fai"))) == 1
    tried("a FASTA without index in a read-only folder", "its index is made once, in the cache folder")


def test_a_fasta_dated_in_the_future_is_indexed_once(genomes, tmp_path, tried):
    path, later = tmp_path / "g.fa", time.time() + 86_400
    path.write_bytes(genomes["genome.fa"].read_bytes())
    os.utime(path, (later, later))
    assert genome_sizes(path) == genome_sizes(genomes["genome.fa"])
    inode = (tmp_path / "g.fa.fai").stat().st_mtime_ns
    genome_sizes(path)
    assert (tmp_path / "g.fa.fai").stat().st_mtime_ns == inode == path.stat().st_mtime_ns
    tried("a FASTA dated a day ahead", "indexed once; its index gets the same date")


def test_a_dataset_is_the_same_from_a_two_bit_file(project, curated):
    with open_genome(project.genome_fasta) as genome:
        texts = {name: genome[name][:] for name in genome.keys()}
    two_bit = write_two_bit(project.folder / "genome.2bit", texts)
    made = curate(project.manifest, two_bit, project.folder / "dataset", PARAMETERS, blacklist=project.blacklist,
                  say=lambda line: None)
    from_two_bit, from_fasta = open_dataset(made.path), open_dataset(curated[1])
    xr.testing.assert_equal(from_two_bit, from_fasta)
    assert from_two_bit.attrs["genome_fasta"].endswith("genome.2bit")
