"""The manifest: what is read, and every fault of the input planted for real."""

import gzip
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from conftest import TinyProject, write_bigwig, write_fasta, write_lines

from chromacc_lib import ChromaccError
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.manifest import (
    COLUMNS, check_manifest, genome_sizes, is_simulated, keep_cell_types, lineages_of, open_genome, read_expression,
    lock_table, read_intervals, read_manifest,
)
from chromacc_lib.problems import FileProblem, require_no_problems
from chromacc_lib.sources import file_md5

SIZES = {"chr1": 10_000, "chr2": 5_000}


def change(path: Path, old: str, new: str) -> None:
    """Replace text in a file that must contain it."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def problems_of(project: TinyProject, **kwargs: object) -> list[str]:
    """All problems of a project, as text, fatal ones first."""
    return [
        str(p) for p in check_manifest(read_manifest(project.manifest), project.genome_fasta,
                                       project.blacklist, **kwargs)
    ]


def peak_problems(tmp_path: Path, *lines: str, name: str = "p.narrowPeak") -> list:
    """Problems of a peak file with the given lines on a genome of `SIZES`."""
    return read_intervals(write_lines(tmp_path / name, *lines), SIZES)[1]


# --- reading the manifest -----------------------------------------------------------------------------------
def test_a_sound_project_has_no_problem(project):
    assert problems_of(project) == []


def test_paths_are_resolved_and_optional_columns_filled(project):
    table = read_manifest(project.manifest)
    assert set(COLUMNS) <= set(table.columns)
    assert table["path_or_url"].iloc[0] == str(project.folder / "A/ATAC1.bw")
    assert table.index[0] == 2 and table["accession"].iloc[0] == "" and table["replicate"].iloc[1] == "2"
    assert not is_simulated(table) and is_simulated(table.assign(assembly="simulated-pilot-v1"))


def test_bom_crlf_comments_and_blank_lines_are_tolerated(project, tried):
    plain = read_manifest(project.manifest)
    text = "# my tracks\n\n" + project.manifest.read_text()
    project.manifest.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    table = read_manifest(project.manifest)
    assert table.reset_index(drop=True).equals(plain.reset_index(drop=True))
    assert table.index[0] == plain.index[0] + 2  # the line in the file is still right
    tried("a manifest with byte-order mark, CRLF, comments and blank lines", "read as without them; messages name the right lines")


def test_a_path_with_spaces_and_umlauts_or_that_climbs_is_fine(project, tried):
    folder = project.folder.parent / "Zellen für alle"
    folder.mkdir()
    shutil.move(project.folder / "A" / "H3K27ac.bw", folder / "H3K27ac.bw")
    change(project.manifest, "A/H3K27ac.bw", "../Zellen für alle/H3K27ac.bw")
    assert problems_of(project) == []
    tried("a path with spaces and umlauts that climbs out of the manifest's folder, to be read", "read")


def test_web_addresses_stay_as_they_are(project):
    change(project.manifest, "A/H3K27ac.bw", "https://example.org/files/x.bw")
    assert "https://example.org/files/x.bw" in set(read_manifest(project.manifest)["path_or_url"])


def test_some_cell_types_of_a_manifest_can_be_kept(project):
    table = read_manifest(project.manifest)
    assert keep_cell_types(table, []) is table
    kept = keep_cell_types(table, ["B", "A"])
    assert set(kept["cell_type"]) == {"A", "B"} and kept.attrs["path"] == str(project.manifest)
    with pytest.raises(ChromaccError, match="no cell type called Z; it has: A, B"):
        keep_cell_types(table, ["A", "Z"])


@pytest.mark.parametrize("header, message", [
    ("cell_type\ttarget\tkind\tassembly", "lacks the column.s. path_or_url"),
    ("cell_type,target,kind,path_or_url,assembly", "separated by tabs"),
    ("cell_type\tcell_type\ttarget\tkind\tpath_or_url\tassembly", "cell_type stand twice"),
])
def test_bad_headers(tmp_path, header, message):
    with pytest.raises(ChromaccError, match=message):
        read_manifest(write_lines(tmp_path / "m.tsv", header, "x"))


def test_rows_with_too_many_fields_and_empty_manifests(tmp_path, tried):
    header = "cell_type\ttarget\tkind\tpath_or_url\tassembly"
    with pytest.raises(ChromaccError, match="line 2: got 6 tab-separated fields, needed 5") as caught:
        read_manifest(write_lines(tmp_path / "m.tsv", header, "a\tb\tc\td\te\tf"))
    tried("a manifest's row with too many fields", caught)
    with pytest.raises(ChromaccError, match="no rows") as caught:
        read_manifest(write_lines(tmp_path / "m.tsv", header))
    tried("a manifest without rows", caught)
    with pytest.raises(ChromaccError, match="missing file"):
        read_manifest(tmp_path / "nowhere.tsv")


# --- the table as a whole -----------------------------------------------------------------------------------
def test_all_problems_are_listed_at_once(project, tried):
    (project.folder / "A" / "H3K27ac.bw").unlink()
    (project.folder / "B" / "CTCF.bw").write_text("track type=bedGraph\nchrT1 0 10 1\n")
    (project.folder / "C" / "ATAC1.bw").write_bytes(b"")
    change(project.manifest, "\ttf\tD/CTCF.bw", "\ttranscription\tD/CTCF.bw")
    line = next(
        i for i, text in enumerate(project.manifest.read_text().splitlines(), 1) if "transcription" in text)
    found = problems_of(project)
    assert len(found) == 4
    assert any("A/H3K27ac.bw" in p and "missing file" in p for p in found)
    assert any(
        "B/CTCF.bw" in p and "not a bigWig" in p and "text that starts with 'trac'" in p for p in found)
    assert any("C/ATAC1.bw" in p and "empty file" in p for p in found)
    assert any("unknown kind" in p and "transcription" in p and f"line {line}:" in p for p in found)
    with pytest.raises(ChromaccError, match="4 problem.s. in the input; nothing was written"):
        require_no_problems(check_manifest(read_manifest(project.manifest), project.genome_fasta))
    for fault, words in (("a file that is not there", "missing file"), ("text named .bw", "not a bigWig"), ("an empty file", "empty file"),
                         ("an unknown kind", "unknown kind")):
        tried(fault, next(problem for problem in found if words in problem))


def test_paths_that_cannot_be_read_say_why(project, unprivileged, tried):
    (project.folder / "A/CTCF.bw").chmod(0)
    (project.folder / "B/CTCF.bw").unlink()
    (project.folder / "B/CTCF.bw").symlink_to("CTCF.bw")
    (project.folder / "C/CTCF.bw").unlink()
    (project.folder / "C/CTCF.bw").mkdir()
    (project.folder / "D/CTCF.bw").unlink()
    os.mkfifo(project.folder / "D/CTCF.bw")
    change(project.manifest, "E/CTCF.bw", "E/" + "x" * 300)
    change(project.manifest, "F/CTCF.bw", "../../../../../../../../../../etc/passwd")
    found = unprivileged(lambda: problems_of(project))
    told = dict(zip("ABCDEF", ("unreadable file; got no permission", "missing file; got nothing there", "got a folder",
                               "got something else", "got File name too long", "not a bigWig")))  # fmt: skip
    assert len(found) == 6
    for cell, words in told.items():
        assert any(f": {cell}, CTCF)" in line and words in line for line in found), (cell, found)
    faults = ("a file without read permission", "a link in a circle", "a folder in a file's place", "a FIFO in a file's place",
              "a name of 300 letters", "a path that climbs out of the data folder, to no track")
    for cell, fault in zip("ABCDEF", faults):
        tried(fault, next(line for line in found if f": {cell}, CTCF)" in line))


def test_duplicate_rows_second_tracks_and_mixed_assemblies(project, tried):
    line = next(x for x in project.manifest.read_text().splitlines() if "A/CTCF.bw" in x)
    shutil.copy(project.folder / "A/CTCF.bw", project.folder / "A/CTCF_again.bw")
    second = line.replace("A/CTCF.bw", "A/CTCF_again.bw").replace("tiny1", "tiny2")
    project.manifest.write_text(project.manifest.read_text() + line + "\n" + second + "\n")
    found = problems_of(project)
    assert sum("the same file is given twice" in p for p in found) == 1
    assert sum("second tf row for one cell type and target" in p for p in found) == 2
    assert sum("more than one assembly" in p and "tiny1, tiny2" in p for p in found) == 1
    for fault, words in (("a row given twice", "given twice"), ("a second file of one track", "second tf row"), ("two assemblies", "more than one")):
        tried(fault, next(problem for problem in found if words in problem))


def test_cell_types_without_accessibility_or_without_input(project, tried):
    lines = project.manifest.read_text().splitlines()
    kept = [x for x in lines if not (x.startswith("A\t") and "ATAC" in x)
            and not (x.startswith("B\t") and ("\thistone\t" in x or "\ttf\t" in x or "\texpression\t" in x))]
    write_lines(project.manifest, *kept)
    training = problems_of(project)
    assert any("cell type A has no accessibility signal" in p for p in training)
    assert any("cell type B has no input track" in p for p in training)
    prediction = problems_of(project, for_training=False)
    assert not any("accessibility signal" in p for p in prediction)
    assert any("cell type B has no input track" in p for p in prediction)
    tried("a cell type without accessibility, for training", next(problem for problem in training if "no accessibility" in problem))
    tried("a cell type without accessibility, for prediction", "allowed")
    tried("a cell type without any input", next(problem for problem in prediction if "no input" in problem))


def test_a_cell_type_without_peaks_is_a_note(project):
    lines = [x for x in project.manifest.read_text().splitlines() if "F/peaks" not in x]
    write_lines(project.manifest, *lines)
    (note,) = check_manifest(read_manifest(project.manifest), project.genome_fasta)
    assert not note.fatal and "cell type F has no accessibility peaks" in str(note) and str(note).startswith(
        "note: ")
    require_no_problems([note])  # does not raise


def test_lineages_have_one_rule():
    rows = [("a", ""), ("b", "liver"), ("a", "blood; bodily fluid"), ("c", ""), ("a", "bodily fluid, blood"),
            ("d", "unknown"), ("e", "blood")]
    table = pd.DataFrame(rows, columns=["cell_type", "lineage"])
    assert lineages_of(table) == {"a": "blood, bodily fluid", "b": "liver", "c": "unknown", "d": "unknown",
                                  "e": "blood"}
    table.loc[len(table)] = ("e", "liver")
    with pytest.raises(ChromaccError, match=r"several lineages: e \(blood / liver\); needed one"):
        lineages_of(table)


def test_rows_that_differ_in_the_lineage_are_a_problem_and_unknown_ones_a_note(project):
    table = read_manifest(project.manifest)
    (first, second) = table.index[table["cell_type"] == "B"][:2]
    table.loc[second, "lineage"] = "even"
    table.loc[table["cell_type"] == "C", "lineage"] = ""
    problem, note = check_manifest(table, project.genome_fasta)
    assert problem.fatal and (problem.row, problem.got) == (first, "odd / even")
    assert problem.what == "rows of cell type B give several lineages"
    assert not note.fatal and "1 of 6 cell type(s) without a lineage" in note.what and note.got == "C"
    assert check_manifest(table, project.genome_fasta, for_training=False) == []


def test_md5_is_compared_when_given(project, tried):
    target = project.folder / "A/CTCF.bw"
    rows = project.manifest.read_text()
    right = hashlib.md5(target.read_bytes()).hexdigest()
    assert file_md5(target) == right
    project.manifest.write_text(rows.replace("A/CTCF.bw\t", f"A/CTCF.bw\t{right.upper()}"))
    assert problems_of(project) == []
    project.manifest.write_text(rows.replace("A/CTCF.bw\t", "A/CTCF.bw\t" + "0" * 32))
    (found,) = problems_of(project)
    assert "md5 differs" in found and right in found
    tried("a wrong md5", found)


def test_the_lock_names_what_was_read(project, tmp_path):
    table = lock_table(read_manifest(project.manifest), {"genome_fasta": project.genome_fasta})
    table.to_csv(tmp_path / "lock.tsv", sep="\t", index=False)
    lines = (tmp_path / "lock.tsv").read_text().splitlines()
    assert len(lines) == 1 + len(table) == 1 + len(read_manifest(project.manifest)) + 1
    last = dict(zip(lines[0].split("\t"), lines[-1].split("\t")))
    assert last["kind"] == "genome_fasta" and last["md5"] == hashlib.md5(
        project.genome_fasta.read_bytes()).hexdigest()
    assert int(last["bytes"]) == project.genome_fasta.stat().st_size


# --- genome -------------------------------------------------------------------------------------------------
def test_genome_sizes_soft_masking_and_iupac(tmp_path, tried):
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": "acgtNRYacgt", "chr2": "TT"})
    assert genome_sizes(fasta) == {"chr1": 11, "chr2": 2}
    with open_genome(fasta) as genome:
        assert genome["chr1"][0:11] == "ACGTNRYACGT"
    tried("soft-masked and IUPAC letters in the FASTA", "read in upper case; what is not A, C, G or T counts as N")


def test_genome_that_is_missing_empty_gzipped_or_no_fasta(tmp_path, tried):
    with pytest.raises(FileProblem, match="missing file"):
        genome_sizes(tmp_path / "no.fa")
    (tmp_path / "empty.fa").write_bytes(b"")
    with pytest.raises(FileProblem, match="empty file"):
        genome_sizes(tmp_path / "empty.fa")
    (tmp_path / "g.fa.gz").write_bytes(gzip.compress(b">chr1\nACGT\n"))
    with pytest.raises(FileProblem, match="bgzip") as caught:
        genome_sizes(tmp_path / "g.fa.gz")
    tried("a FASTA that is gzipped, not bgzipped", caught)
    with pytest.raises(FileProblem, match="g.txt") as caught:
        genome_sizes(write_lines(tmp_path / "g.txt", "no sequence here"))
    tried("text in the FASTA's place", caught)


# --- bigWig -------------------------------------------------------------------------------------------------
def test_layout_agrees_with_pybigwig(tmp_path):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr2": [(10, 20, 1.5), (100, 200, 0.25)]})
    with open_bigwig(path) as bigwig:
        assert bigwig.chroms == SIZES and bigwig.chroms_with_data() == ("chr2",)
        assert bigwig.covered == 110 and bigwig.total == 10 * 1.5 + 100 * 0.25
        assert bigwig.minimum == 0.25


def test_a_bigwig_cut_anywhere_is_found(tmp_path, tried):
    rows = [(10 * i, 10 * i + 5, float(i % 7 + 1)) for i in range(900)]
    whole = write_bigwig(tmp_path / "whole.bw", SIZES, {"chr1": rows}).read_bytes()
    with open_bigwig(tmp_path / "whole.bw") as bigwig:
        bigwig.require_whole()
        assert len(bigwig.blocks())
    cut = tmp_path / "cut.bw"
    for length in np.linspace(1, len(whole) - 5, 60).astype(int):  # the last 4 bytes repeat the magic number
        cut.write_bytes(whole[:length])
        with pytest.raises(FileProblem, match="cut.bw") as caught, open_bigwig(cut) as bigwig:
            bigwig.require_whole()
    tried("a bigWig cut at 60 places", caught)


def test_flipped_bytes_are_found_before_any_signal_is_read(project, tried):
    """Of each data block, and of the index; what has no checksum in the format is left to the md5."""
    path, rng = project.folder / "A/CTCF.bw", np.random.default_rng(0)
    data = path.read_bytes()
    with open_bigwig(path) as bigwig:
        blocks, index = bigwig.blocks(), bigwig.index_offset
    leaf = index + 48 + 4  # the root is a leaf: entries of chromosome, start, chromosome, end, offset, size
    places = [int(b["offset"] + rng.integers(2, b["size"])) for b in blocks] + [leaf, leaf + 5, leaf + 13, leaf + 17]
    assert len(blocks) >= 6
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        (found,) = [problem for problem in problems_of(project) if not problem.startswith("note")]
        assert "A/CTCF.bw" in found and ("corrupt data of chrT" in found or "truncated or corrupt bigWig" in found)
    tried(f"a bigWig with a byte flipped in each of {len(blocks)} data blocks, and in its index", found)


def test_bigwigs_of_another_kind_assembly_or_naming(project, tried):
    target = project.folder / "A/CTCF.bw"
    for data, message in ((gzip.compress(
            b"x" * 100), "a gzip file"), (bytes.fromhex("ebf28987") + b"\0" * 60, "bigBed"),
                          (b"\x00\x01\x02\x03", "bytes 00010203")):
        target.write_bytes(data)
        (found,) = problems_of(project)
        assert "not a bigWig" in found and message in found
        tried(f"{message} named .bw", found)
    longer = {chrom: size + 1 for chrom, size in project.sizes.items()}
    write_bigwig(target, longer, {"chrT1": [(0, 10, 1.0)]})
    (found,) = problems_of(project)
    assert "another assembly" in found and "60,001 bp" in found and "60,000 bp" in found
    tried("a bigWig of another assembly (sizes of chromosomes differ)", found)
    write_bigwig(target, {"T1": 60_000, "T2": 60_000}, {"T1": [(0, 10, 1.0)]})
    (found,) = problems_of(project)
    tried("a bigWig with T1 for the FASTA's chrT1", found)
    assert "another style" in found and "T1 is probably the FASTA's chrT1" in found
    write_bigwig(target, {"contig": 60_000}, {"contig": [(0, 10, 1.0)]})
    (found,) = problems_of(project)
    assert "no chromosome shared" in found
    tried("a bigWig that shares no chromosome with the FASTA", found)


@pytest.mark.parametrize("values, message", [
    ([np.nan, 1.0], "NaN or infinite"), ([np.inf, 1.0], "NaN or infinite"), ([-1.0, 2.0], "negative"),
    ([0.0, 0.0], "only zero"),
])
def test_bigwigs_with_values_that_no_signal_has(project, values, message, tried):
    write_bigwig(project.folder / "A/CTCF.bw", project.sizes,
                 {"chrT1": [(0, 10, values[0]), (10, 20, values[1])]})
    (found,) = problems_of(project)
    assert message in found
    tried(f"a bigWig with the values {values}", found)


def test_a_bigwig_without_intervals_is_refused(project, tried):
    with pyBigWig.open(str(project.folder / "A/CTCF.bw"), "w") as handle:
        handle.addHeader(list(project.sizes.items()))
    (found,) = problems_of(project)
    assert "A/CTCF.bw" in found
    tried("a bigWig without any interval", found)


# --- peaks --------------------------------------------------------------------------------------------------
def test_bed3_to_narrowpeak(tmp_path):
    bed3, _ = read_intervals(write_lines(tmp_path / "a.bed", "chr1\t100\t200"))
    assert bed3.loc[0, ["start", "end", "strength", "summit"]].tolist() == [100, 200, 0.0, 150]
    bed6, _ = read_intervals(write_lines(tmp_path / "b.bed", "chr1 100 200 name 7 +"))
    assert bed6.loc[0, ["strength", "summit"]].tolist() == [7.0, 150]
    narrow, _ = read_intervals(write_lines(tmp_path / "c.bed", "chr1\t100\t200\tn\t7\t.\t3.5\t-1\t-1\t20",
                                           "chr1\t300\t401\tn\t7\t.\t4.5\t-1\t-1\t-1"))
    assert narrow["strength"].tolist() == [3.5, 4.5] and narrow["summit"].tolist() == [120, 350]
    broad, _ = read_intervals(write_lines(tmp_path / "d.broadPeak", "chr1\t100\t200\tn\t7\t.\t3.5\t-1\t-1"))
    assert broad.loc[0, ["strength", "summit"]].tolist() == [3.5, 150]


def test_gzip_bom_crlf_comments_and_track_lines(tmp_path):
    text = "# c\r\ntrack name=x\r\nbrowser hide all\r\nchr1\t100\t200\r\n\r\nchr2\t5\t9\r\n"
    path = tmp_path / "p.bed.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode()))
    table, problems = read_intervals(path, SIZES)
    assert problems == [] and table["chrom"].tolist() == ["chr1", "chr2"] and table["line"].tolist() == [4, 6]


@pytest.mark.parametrize("line, message, got", [
    ("chr1\t300\t200", "starts exceed ends", "300"), ("chr1\t-5\t200", "negative starts", "-5"),
    ("chr1\t9000\t10001", "past the chromosome's end", "10001"), ("chr1\t200\t200", "zero-length", "200"),
    ("chr1\t1.5\t200", "no whole numbers", "1.5"), ("chr1\t1e2\t200", "no whole numbers", "1e2"),
    ("chr1\t100", "missing columns", "nan"),
])
def test_impossible_intervals_name_file_line_and_value(tmp_path, line, message, got, tried):
    (problem,) = peak_problems(tmp_path, "chr1\t10\t20", line)
    assert problem.fatal and message in problem.what and "1 of 2" in problem.what
    assert problem.row == 2 and got in problem.got and problem.file.endswith("p.narrowPeak")
    tried(f"an interval {line.split()}", problem)


@pytest.mark.parametrize("value", ["nan", "NA", "inf", "-inf", "high"])
def test_signal_values_must_be_finite(tmp_path, value, tried):
    (problem,) = peak_problems(tmp_path, f"chr1\t100\t200\tn\t7\t.\t{value}\t-1\t-1\t20")
    assert "no finite number" in problem.what
    tried(f"a peak with the signalValue {value}", problem)


def test_summit_outside_its_peak(tmp_path, tried):
    (problem,) = peak_problems(tmp_path, "chr1\t100\t200\tn\t7\t.\t1\t-1\t-1\t100")
    assert "summits outside" in problem.what
    tried("a summit outside its peak", problem)


def test_unsorted_peaks_are_noted_and_lose_nothing(tmp_path, tried):
    table, (note,) = read_intervals(write_lines(tmp_path / "p.bed", "chr1\t500\t600", "chr1\t10\t20"), SIZES)
    assert not note.fatal and "not sorted" in note.what and note.row == 2 and len(table) == 2
    tried("unsorted peaks", note)


def test_peaks_in_another_naming_style_or_partly_unknown(tmp_path, tried):
    (problem,) = peak_problems(tmp_path, "1\t10\t20")
    assert problem.fatal and "another style" in problem.what and "chr1" in problem.remedy
    (note,) = peak_problems(tmp_path, "chr1\t10\t20", "chrUn_7\t10\t20")
    assert not note.fatal and "chrUn_7" in note.got
    tried("peaks on 1 for the FASTA's chr1", problem)
    tried("some peaks on a chromosome that the FASTA does not have", note)


def test_empty_and_cut_peak_files(tmp_path, tried):
    (problem,) = peak_problems(tmp_path, "# nothing")
    assert "no intervals" in problem.what
    tried("a peak file without peaks", problem)
    whole = gzip.compress("".join(f"chr1\t{i}\t{i + 5}\n" for i in range(0, 9000, 7)).encode())
    cut = tmp_path / "cut.bed.gz"
    for length in np.linspace(11, len(whole) - 1, 20).astype(int):
        cut.write_bytes(whole[:length])
        with pytest.raises(FileProblem, match="truncated or corrupt gzip") as caught:
            read_intervals(cut)
    tried("a gzipped BED cut at 20 places", caught)
    (tmp_path / "binary.bed").write_bytes(b"\x80\x81\x82")
    with pytest.raises(FileProblem, match="not a text file") as caught:
        read_intervals(tmp_path / "binary.bed")
    tried("a BED of bytes that are no text", caught)


def test_blacklist_faults_are_found(project, tried):
    write_lines(project.blacklist, "chrT1\t400\t300")
    (found,) = problems_of(project)
    assert "blacklist.bed" in found and "starts exceed ends" in found
    tried("a reversed interval in the blacklist", found)


BED12 = ["chr1", "100", "200", "n", "7", "+", "120", "180", "0", "2", "10,20,", "0,80,"]


@pytest.mark.parametrize("width", range(1, 13))
def test_bed_of_any_number_of_columns(tmp_path, width, tried):
    """Only ten columns are narrowPeak: the tenth of BED12 is a number of blocks, and no summit."""
    fields = [*BED12[:6], "3.5", "-1", "-1", "20"] if width == 10 else BED12[:width]
    table, problems = read_intervals(write_lines(tmp_path / "p.bed", "\t".join(fields)), SIZES)
    if width < 3:
        assert [problem.what for problem in problems] == ["no intervals"] and table.empty
        tried(f"a BED of {width} columns", problems[0])
        return
    strength, summit = {10: (3.5, 120)}.get(width, (7.0 if width > 4 else 0.0, 150))
    assert problems == [] and table.loc[0, ["start", "end", "strength", "summit"]].tolist() == [100, 200, strength, summit]
    tried(f"a BED of {width} columns", f"read; strength {strength:g}, summit {summit}")


def test_intervals_given_twice_and_a_last_line_without_an_end_are_noted(tmp_path, tried):
    (note,) = peak_problems(tmp_path, "chr1\t10\t20", "chr1\t10\t20", "chr1\t15\t30", "chr1\t15\t40")
    assert not note.fatal and note.row == 2 and note.what == "intervals given before, in 1 row(s)"
    assert note.got == "chr1 10 20"
    tried("intervals given twice, and overlapping ones", note)
    (tmp_path / "cut.bed").write_text("chr1\t10\t20\nchr1\t30\t4")
    (note, problem) = sorted(read_intervals(tmp_path / "cut.bed", SIZES)[1], key=lambda found: found.fatal)
    assert not note.fatal and "last line has no end" in note.what and "starts exceed ends" in problem.what
    tried("a BED cut in its last line", f"{note} {problem}")


def test_peaks_that_end_at_a_chromosome_where_the_signal_goes_on_are_noted(project, tried):
    path = project.folder / "A/peaks.narrowPeak"
    kept = [line for line in path.read_text().splitlines() if not line.startswith(("chrT5", "chrT6"))]
    write_lines(path, *kept)
    (note,) = check_manifest(read_manifest(project.manifest), project.genome_fasta)
    assert not note.fatal and note.what == "no peak on 2 chromosome(s) that have signal" and note.got == "chrT5, chrT6"
    assert "A/peaks.narrowPeak" in note.file
    tried("a peak file cut at the end of a line (chromosomes missing on one side)", note)


# --- expression ---------------------------------------------------------------------------------------------
def test_expression_is_read_by_header(tmp_path):
    series = read_expression(write_lines(tmp_path / "e.tsv", "TPM\tgene", "1.5\tCTCF", "0\tGATA1"))
    assert series.to_dict() == {"CTCF": 1.5, "GATA1": 0.0}


@pytest.mark.parametrize("lines, message", [
    (("CTCF\t1.5",), "columns gene and tpm"), (("gene\ttpm", "CTCF\t-1"), "line 2"),
    (("gene\ttpm", "CTCF\t1", "CTCF\t2"), "line 3"), (("gene\ttpm", "CTCF\tnan"), "finite TPM"),
    (("gene\ttpm",), "no rows"),
])
def test_bad_expression_tables(tmp_path, lines, message, tried):
    with pytest.raises(FileProblem, match=message) as caught:
        read_expression(write_lines(tmp_path / "e.tsv", *lines))
    tried(f"an expression table {list(lines)}", caught)
