"""Variants are read as VCF or table, compared with the genome, and scored as the model scores the other allele."""

import gzip

import numpy as np
import pandas as pd
import pytest
import torch
from test_deeplift import SMALL
from test_prediction import trained  # noqa: F401
from torch import nn

from chromacc_lib import ChromaccError, cli
from chromacc_lib.batches import RegionData
from chromacc_lib.dataset import load_arrays
from chromacc_lib.inference import load_model
from chromacc_lib.model import ChromaccModel
from chromacc_lib.scoring import ModelScorer, one_hot
from chromacc_lib.training import model_config
from chromacc_lib.variants import read_variants, strongest_changes, variant_effects

HEAD = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


@pytest.fixture
def genome(tmp_path):
    path = tmp_path / "g.fa"
    path.write_text(">chr1\nACGTACGTAC\n>chr2\nTTTTT\n")
    return path


def quiet(line):
    """Say nothing."""


def test_vcf_and_table_give_the_same_variants(tmp_path, genome):
    rows = "chr1\t2\trs1\tC\tG,T\t.\tPASS\t.\nchr2\t5\t.\tt\ta\t.\t.\t.\nchr1\t3\tindel\tGT\tG\t.\t.\t.\n"
    plain, packed, table = tmp_path / "a.vcf", tmp_path / "a.vcf.gz", tmp_path / "a.csv"
    plain.write_text(HEAD + rows)
    packed.write_bytes(gzip.compress((HEAD + rows).encode()))
    table.write_text("Chrom,Pos,ID,REF,ALT\nchr1,2,rs1,C,G\nchr1,2,rs1,C,T\nchr2,5,.,T,A\n")
    said = []
    one = read_variants(plain, genome, said.append)
    assert said == ["a.vcf: kept 3 of 4 alleles, because the others are no single-base changes"]
    assert one.to_numpy().tolist() == [["chr1", 2, "rs1", "C", "G"], ["chr1", 2, "rs1", "C", "T"], ["chr2", 5, ".", "T", "A"]]
    for other in (packed, table):
        pd.testing.assert_frame_equal(read_variants(other, genome, quiet), one)


@pytest.mark.parametrize("text, message", [
    (HEAD + "chr1\t2\t.\tA\tG\nchr1\t11\t.\tA\tG\n", "2 of 2 reference alleles.*chr1:2 has REF A, the genome C; chr1:11 has REF A, the genome nothing"),
    (HEAD + "1\t2\t.\tC\tG\n", "chromosomes 1 are not in .*chr1, chr2"),
    (HEAD + "chr1\t0\t.\tC\tG\n", "positions are no whole numbers from 1, the first '0'"),
    (HEAD + "chr1\t2\t.\tC\n", "fewer than five columns"),
    ("##fileformat=VCFv4.2\nchr1\t2\t.\tC\tG\n", "no line '#CHROM"),
    ("chrom,position,ref,alt\nchr1,2,C,G\n", "columns pos are missing")])  # fmt: skip
def test_what_does_not_fit_is_refused_by_position(tmp_path, genome, text, message):
    path = tmp_path / "bad.vcf"
    path.write_text(text)
    with pytest.raises(ChromaccError, match=message):
        read_variants(path, genome, quiet)


@pytest.fixture(scope="module")
def world(curated):
    arrays = load_arrays(curated[1])
    torch.manual_seed(0)
    model = ChromaccModel(model_config(arrays, **SMALL)).eval()
    nn.init.normal_(model.score_head[-1].weight)
    return arrays, model, RegionData(arrays)


def test_effects_are_those_of_the_exchanged_base_in_the_window_nearest_to_it(world):
    arrays, model, data = world
    cells = arrays.cell_types["cell_type"].tolist()
    window = arrays.windows.iloc[7]
    at = int(window["start"]) + 400
    base = "ACGT"[arrays.sequence[7, 400]]
    alt = "ACGT"[(arrays.sequence[7, 400] + 1) % 4]
    table = pd.DataFrame([(window["chrom"], at + 1, "v", base, alt), (window["chrom"], 1, "none", "A", "C")],
                         columns=["chrom", "pos", "id", "ref", "alt"])  # fmt: skip
    said = []
    got = variant_effects(model, data, arrays.windows, cells, table, say=said.append)
    assert said == ["kept 1 of 2 variants, because a variant must lie in a window of the dataset"]
    assert got["window_start"].iloc[0] == window["start"] and got.columns[-len(cells) :].tolist() == cells
    changed = arrays.sequence[[7]].copy()
    changed[0, 400] = (changed[0, 400] + 1) % 4
    scorer = ModelScorer(model, data, np.array([7]), np.arange(len(cells))[None])
    with torch.no_grad():
        expected = scorer.by_cell_type(one_hot(changed), torch.zeros(1).long()) - scorer.by_cell_type(one_hot(arrays.sequence[[7]]), torch.zeros(1).long())
    np.testing.assert_allclose(got[cells].to_numpy()[0], expected[0], atol=1e-5)
    assert got["largest"].abs().iloc[0] == pytest.approx(np.abs(expected).max().item(), abs=1e-5)
    back = variant_effects(model, data, arrays.windows, cells, table.head(1).assign(alt=base), say=quiet)
    np.testing.assert_allclose(back[cells].to_numpy(), 0, atol=1e-6)


def test_no_variant_gives_an_empty_table(world):
    arrays, model, data = world
    cells = arrays.cell_types["cell_type"].tolist()
    none = pd.DataFrame({"chrom": ["chrT1"], "pos": [1], "id": ".", "ref": "A", "alt": "C"})
    assert len(variant_effects(model, data, arrays.windows, cells, none, say=quiet)) == 0


def test_the_strongest_change_is_the_largest_loss():
    codes = np.array([[0, 1, 4, 2], [4, 4, 4, 4]], np.uint8)
    hypothetical = np.zeros((2, 4, 4), np.float32)
    hypothetical[0, 1, 1], hypothetical[0, 1, 3] = 2.0, -1.0
    made = strongest_changes(pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [100, 0]}), codes, hypothetical, seed=1)
    assert made["chrom"].tolist() == ["chr1"] * 2 and made.iloc[0].tolist() == ["chr1", 102, "strongest", "C", "T"]
    assert made["pos"].iloc[1] != 103, "an N has no variants"


def test_the_command_gives_what_the_dataset_gives(trained, tmp_path, capsys):  # noqa: F811
    """Cell type D, from its manifest; and a variant outside all windows, which gets one around it."""
    arrays, at = trained.arrays, 400
    rows = [(w.chrom, w.start + at + 1, "v", "ACGT"[arrays.sequence[i, at]], "ACGT"[(arrays.sequence[i, at] + 1) % 4])
            for i, w in enumerate(arrays.windows.head(6).itertuples())]  # fmt: skip
    table = pd.DataFrame(rows, columns=["chrom", "pos", "id", "ref", "alt"])
    table.to_csv(tmp_path / "v.tsv", sep="\t", index=False)
    status = cli.main(["variants", str(tmp_path / "v.tsv"), "--model", str(trained.model_dir), "--manifest", str(trained.manifest),
                       "--genome-fasta", str(trained.genome_fasta), "--cell-types", "D", "--out", str(tmp_path / "out.csv")])
    assert status == 0 and "6 variants" in capsys.readouterr().out
    got = pd.read_csv(tmp_path / "out.csv")
    model, cells = load_model(trained.model_dir), arrays.cell_types["cell_type"].tolist()
    expected = variant_effects(model, RegionData(arrays), arrays.windows, cells, table, say=quiet)
    assert got["window_start"].tolist() == expected["window_start"].tolist() and expected["D"].abs().max() > 1e-3
    np.testing.assert_allclose(got["D"], expected["D"], atol=1e-5)
