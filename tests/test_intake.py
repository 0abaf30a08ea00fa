"""Intake: everything that is wrong with a curation's input is told at once, before anything is written or hashed."""

import time
from dataclasses import replace

import pytest
from conftest import PARAMETERS, write_lines
from range_server import serve
from test_manifest import change

from chromacc_lib import ChromaccError, cli, curation
from chromacc_lib.curation import curate
from chromacc_lib.intake import take_in


def test_files_addresses_and_parameters_are_all_told_at_once_and_nothing_is_written(project, monkeypatch, tmp_path, tried):
    """Of a manifest that says so much, too: before a single file is hashed whole."""
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(curation, "lock_table", None)
    (project.folder / "A/H3K27ac.bw").unlink()
    (project.folder / "B/CTCF.bw").write_text("track type=bedGraph\n")
    write_lines(project.folder / "C/peaks.narrowPeak", "chrT1\t500\t400")
    write_lines(project.folder / "tss.bed", "chrT1\t5")
    change(project.manifest, "\ttf\tD/CTCF.bw", "\ttranscription\tD/CTCF.bw")
    with serve() as served:  # which has none of the files
        change(project.manifest, "E/peaks.narrowPeak", served.url("/E/peaks.narrowPeak"))
        change(project.manifest, "F/CTCF.bw", served.url("/F/CTCF.bw"))
        change(project.manifest, "F/expression.tsv", "ftp://127.0.0.1/F/expression.tsv")
        parameters = replace(PARAMETERS, chromosomes=("chrT1", "chr9"), histone_marks=("H3K9me3",), tfs=("CTCF",),
                             tss=str(project.folder / "tss.bed"), mappability=str(project.folder / "no.bw"), match_on=("gc", "mappability"))
        began = time.monotonic()
        with pytest.raises(ChromaccError) as caught:
            curate(project.manifest, project.genome_fasta, project.folder / "dataset", parameters, say=lambda line: None)
        assert time.monotonic() - began < 10
    found = str(caught.value).splitlines()
    assert found[0] == "11 problem(s) in the input; nothing was written:" and len(found) == 12
    for words in ("A/H3K27ac.bw", "B/CTCF.bw", "starts exceed ends", "unknown kind; got transcription", "E/peaks.narrowPeak: the server",
                  "remote file that cannot be read", "ftp://127.0.0.1/F/expression.tsv: got an address of scheme 'ftp'",
                  "parameter chromosomes: 1 of 2 unknown; got chr9", "parameter histone_marks", "tss.bed: no intervals",
                  "no.bw: missing file"):  # fmt: skip
        assert sum(words in line for line in found) == 1, words
    assert sorted(path.name for path in project.folder.iterdir() if "dataset" in path.name) == [".dataset.curating"]
    tried("eleven faults of files, addresses and parameters at once, before a curation", f"{found[0]} ({len(found) - 1} listed, before any file was hashed)")


def test_too_few_cell_types_are_refused_for_curation_and_noted_by_check(project, capsys, tried):
    lines = project.manifest.read_text().splitlines()
    write_lines(project.manifest, *[line for line in lines if line.startswith(("cell_type\t", "A\t", "B\t"))])
    parameters = replace(PARAMETERS, test_cell_types=(), validation_cell_types=())
    (problem,) = take_in(project.manifest, project.genome_fasta, parameters).problems
    assert problem.fatal and "2 independent cell types" in str(problem) and "test_cell_types=[...]" in str(problem)
    assert cli.main(["check", str(project.manifest), "--genome-fasta", str(project.genome_fasta)]) == 0
    said = capsys.readouterr()
    assert "note: " in said.err and "needed at least 3" in said.err and "0 problem(s), 1 note(s)" in said.out
    tried("too few cell types for the split", problem)


def test_check_lists_what_cannot_be_fetched_beside_all_else(project, monkeypatch, tmp_path, capsys, tried):
    monkeypatch.setenv("CHROMACC_CACHE", str(tmp_path / "cache"))
    (project.folder / "A/H3K27ac.bw").unlink()
    with serve() as served:
        change(project.manifest, "E/peaks.narrowPeak", served.url("/E/peaks.narrowPeak"))
        assert cli.main(["check", str(project.manifest), "--genome-fasta", str(project.genome_fasta)]) == 1
    said = capsys.readouterr()
    assert "404" in said.err and "A/H3K27ac.bw" in said.err and "2 problem(s)" in said.out
    tried("a remote file that is not there, beside other faults", said.out)
