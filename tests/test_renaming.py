"""1 against chr1: refused with an offer; on request read by the FASTA's names, said, and recorded."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import xarray as xr
from conftest import PARAMETERS, write_bigwig, write_lines
from test_prediction import CELL, predict, rows_of
from test_prediction import trained as model_folder  # noqa: F401

from chromacc_lib import ChromaccError, cli
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.curation import curate
from chromacc_lib.dataset import open_dataset
from chromacc_lib.genome import genome_aliases
from chromacc_lib.leakage import audit
from chromacc_lib.manifest import read_intervals
from chromacc_lib.problems import FileProblem


def rename_bigwig(path: Path) -> None:
    """Write a bigWig anew, chrT1 called T1."""
    with pyBigWig.open(str(path)) as old:
        sizes = {chrom.removeprefix("chr"): size for chrom, size in old.chroms().items()}
        rows = {chrom.removeprefix("chr"): old.intervals(chrom) or () for chrom in old.chroms()}
    path.unlink()
    write_bigwig(path, sizes, rows)


def rename_bed(path: Path) -> None:
    """The same of a BED file."""
    path.write_text("".join(line.removeprefix("chr") for line in path.read_text().splitlines(keepends=True)))


def test_what_a_chromosome_may_be_called():
    assert genome_aliases({"chr1": 9, "chrM": 9, "contig": 9}) == {
        "1": "chr1", "M": "chrM", "MT": "chrM", "chrMT": "chrM", "chrcontig": "contig"}  # fmt: skip
    assert genome_aliases({"1": 9, "MT": 9}) == {"chr1": "1", "M": "MT", "chrM": "MT", "chrMT": "MT"}
    assert genome_aliases({"1": 9, "chr1": 9}) == {} == genome_aliases({"chr1": 9}, wanted=False)


def test_a_dataset_of_files_in_another_style_is_the_same_and_says_what_was_renamed(project, curated, capsys, tried):
    """All peaks, the blacklist, and the bigWigs of three cell types: a mixture of both styles."""
    for path in [*project.folder.rglob("*.narrowPeak"), project.blacklist]:
        rename_bed(path)
    for cell in "ABD":
        for path in (project.folder / cell).glob("*.bw"):
            rename_bigwig(path)
    write_lines(project.folder / "tss.bed", *(f"T{i}\t3000\t3001" for i in range(1, 7)))
    given = {"blacklist": project.blacklist, "say": print}
    with pytest.raises(ChromaccError) as refused:
        curate(project.manifest, project.genome_fasta, project.folder / "dataset", PARAMETERS, **given)
    assert str(refused.value).count("named in another style") == 21 == str(refused.value).count("rename_chromosomes=true")
    check = ["check", str(project.manifest), "--genome-fasta", str(project.genome_fasta), "--blacklist", str(project.blacklist)]
    assert cli.main(check) == 1
    capsys.readouterr()
    assert cli.main([*check, "--rename-chromosomes"]) == 0
    told = capsys.readouterr().err
    assert told.count("T1 as chrT1, T2 as chrT2") == 20 and "blacklist.bed: chromosomes are read by other names than" in told
    chosen = replace(PARAMETERS, rename_chromosomes=True)
    made = curate(project.manifest, project.genome_fasta, project.folder / "dataset", chosen, **given)
    assert capsys.readouterr().out.count("chromosomes are read by other names than the file's; got T1 as chrT1") == 21
    mine, theirs = open_dataset(made.path), open_dataset(curated[1])
    assert mine.attrs["rename_chromosomes"] and not theirs.attrs["rename_chromosomes"]
    xr.testing.assert_equal(mine, theirs)
    renamed = json.loads((made.path / "curation.json").read_text())["renamed_chromosomes"]
    assert len(renamed) == 21 and any("A/peaks.narrowPeak" in name for name in renamed)
    assert all(words.startswith("T1 as chrT1") for words in renamed.values())
    assert json.loads((curated[1] / "curation.json").read_text())["renamed_chromosomes"] == {}
    assert (audit(made.path)["verdict"] != "fail").all()
    with_tss = replace(chosen, tss=str(project.folder / "tss.bed"), match_on=("gc", "tss_distance"))
    known = open_dataset(curate(project.manifest, project.genome_fasta, project.folder / "tss", with_tss, **given).path)
    assert np.isfinite(known["tss_distance"].values).all()
    tried("1 for chr1 in 21 files, unasked", str(refused.value).splitlines()[1])
    tried("1 for chr1 in 21 files, with rename_chromosomes", "the same dataset; each renaming said, and in curation.json")


def test_a_prediction_from_files_in_another_style_is_the_same(model_folder, tmp_path, tried):  # noqa: F811
    rows = rows_of(model_folder, CELL)
    (tmp_path / "plain").mkdir()
    plain = predict(model_folder, rows, tmp_path / "plain", regions="chrT1,chrT3")
    for row in rows:
        if row["path_or_url"].endswith(".bw"):
            path = tmp_path / Path(row["path_or_url"]).name
            path.write_bytes(Path(row["path_or_url"]).read_bytes())
            rename_bigwig(path)
            row["path_or_url"] = str(path)
    bed = write_lines(tmp_path / "regions.bed", "T1\t0\t60000", "T3\t0\t60000")
    with pytest.raises(ChromaccError, match="named in another style"):
        predict(model_folder, rows, tmp_path)
    other = predict(model_folder, rows, tmp_path, regions=bed, rename_chromosomes=True)
    pd.testing.assert_frame_equal(pd.read_parquet(plain.windows), pd.read_parquet(other.windows))
    assert all("T1 as chrT1" in words for words in other.summary["renamed_chromosomes"].values())
    assert len(other.summary["renamed_chromosomes"]) == len(other.inputs.present) - ("expression" in other.inputs.present)
    assert plain.summary["renamed_chromosomes"] == {}
    tried("1 for chr1 in the tracks of a prediction, with rename_chromosomes", "the same prediction; in summary.json")


def test_a_renaming_that_is_none_is_refused(tmp_path, tried):
    both = write_bigwig(tmp_path / "both.bw", {"1": 100, "chr1": 100}, {"1": [(0, 9, 1.0)]})
    with pytest.raises(FileProblem, match="both.bw: one chromosome under two names; got 1, chr1") as caught:
        open_bigwig(both, genome_aliases({"chr1": 100}))
    other = write_bigwig(tmp_path / "hg19.bw", {"1": 90}, {"1": [(0, 9, 1.0)]})
    with open_bigwig(other, genome_aliases({"chr1": 100})) as bigwig:
        assert bigwig.chroms == {"chr1": 90} and bigwig.renamed == {"1": "chr1"}
    past = write_lines(tmp_path / "p.bed", "1\t90\t110")
    problems = read_intervals(past, {"chr1": 100}, genome_aliases({"chr1": 100}))[1]
    assert [problem.fatal for problem in problems] == [False, True] and "past the chromosome's end" in problems[1].what
    tried("both 1 and chr1 in one bigWig, with rename_chromosomes", caught)
