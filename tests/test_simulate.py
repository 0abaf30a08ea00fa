"""The simulated pilot: deterministic, in real formats, its truth beside it, neither trivial nor hopeless."""

import filecmp
import json

import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
import pytest

from chromacc_lib import ChromaccError
from chromacc_lib.curation import CurationParameters, curate
from chromacc_lib.dataset import load_arrays
from chromacc_lib.jaspar import matrices_of, matrix_by_id
from chromacc_lib.manifest import check_manifest, is_simulated, read_manifest
from chromacc_lib.simulate import LINEAGE_TFS, TF_TRACKS, UBIQUITOUS, simulate

SMALL = {"genome_mb": 2.0, "n_cell_types": 8}
PLANTED = ["chrom", "start", "end", "tf", "affinity", "strand", "element"]


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("simulated") / "raw", **SMALL, seed=3)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(simulated, tmp_path):
    again, other = simulate(tmp_path / "a", **SMALL, seed=3), simulate(tmp_path / "b", **SMALL, seed=4)
    folder = simulated.manifest.parent
    names = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    equal, _, errors = filecmp.cmpfiles(folder, again.manifest.parent, names, shallow=False)
    assert sorted(equal) == sorted(names) and not errors
    assert not filecmp.cmp(simulated.genome_fasta, other.genome_fasta, shallow=False)


def test_a_finished_simulation_is_kept(simulated):
    before = simulated.genome_fasta.stat().st_mtime_ns
    simulate(simulated.manifest.parent, **SMALL, seed=3)
    assert simulated.genome_fasta.stat().st_mtime_ns == before


def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ChromaccError, match="no simulation wrote"):
        simulate(tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("size", [{"genome_mb": 1.0}, {"n_cell_types": 5}])
def test_sizes_that_cannot_be_split_are_refused(tmp_path, size):
    with pytest.raises(ChromaccError, match="too small to be split"):
        simulate(tmp_path / "raw", **(SMALL | size))


def test_the_manifest_is_valid_and_says_that_it_is_simulated(simulated):
    manifest = read_manifest(simulated.manifest)
    assert is_simulated(manifest)
    assert [p for p in check_manifest(manifest, simulated.genome_fasta, simulated.blacklist) if p.fatal] == []
    kinds = manifest.groupby("cell_type")["kind"].value_counts().unstack()
    assert (kinds["accessibility_signal"] == 2).all() and (kinds["expression"] == 1).all()
    assert set(manifest.loc[manifest.kind == "tf", "target"]) == set(TF_TRACKS)
    assert kinds[["histone", "tf"]].fillna(0).to_numpy().sum() < 8 * 8  # some assays were never made


def test_planted_instances_stand_in_the_genome(simulated):
    """Every planted site, read from the FASTA, has the affinity that the truth gives it; none lies over another."""
    planted = pd.read_csv(simulated.planted_motifs, sep="\t", names=PLANTED)
    assert {*UBIQUITOUS, *LINEAGE_TFS} == set(planted.tf)
    genome = pyfaidx.Fasta(str(simulated.genome_fasta))
    for tf, identifier in {**UBIQUITOUS, **LINEAGE_TFS}.items():
        matrix = matrix_by_id(identifier)
        odds = np.log2((matrix + 0.01) / 0.26)
        best, mean = odds.max(1).sum(), (matrix * odds).sum()
        rows = planted[planted.tf == tf]
        assert (rows.end - rows.start == len(odds)).all()
        for row in rows.itertuples():
            site = genome[row.chrom][row.start : row.end]
            text = str(site if row.strand == "+" else -site)
            assert set(text) <= set("ACGT"), f"{tf} at {row.chrom}:{row.start} stands in a gap"
            score = sum(odds[i, "ACGT".index(base)] for i, base in enumerate(text))
            assert row.affinity == pytest.approx(np.clip(0.75 + 0.25 * (score - mean) / (best - mean), 0.4, 1), abs=1e-3)
    for _, rows in planted.sort_values("start").groupby("chrom"):
        assert (rows.start.to_numpy()[1:] >= rows.end.to_numpy()[:-1]).all()
    assert planted.affinity.between(0.4, 1).all()


def test_tss_are_the_promoters(simulated):
    columns = ["chrom", "start", "end", "name", "score", "strand"]
    tss = pd.read_csv(simulated.tss, sep="\t", names=columns)
    elements = pd.read_csv(simulated.manifest.parent / "truth/elements.tsv", sep="\t")
    promoters = elements[elements.kind == "promoter"]
    assert len(tss) > 20 and list(zip(tss.chrom, tss.start)) == list(zip(promoters.chrom, promoters.centre))
    assert (tss.end == tss.start + 1).all() and set(tss.strand) == {"+"} and tss.name.is_unique
    planted = pd.read_csv(simulated.planted_motifs, sep="\t", names=PLANTED).query("element >= 0").set_index("element")
    middle = (planted.start + planted.end) / 2
    before, behind = (middle[planted.tf == tf].reindex(promoters.element).to_numpy() for tf in ("SP1", "NRF1"))
    assert (before < tss.start).all() and (behind > tss.start).all()  # what "+" says


def test_counts_follow_the_truth_and_replicates_agree(simulated):
    truth = read_manifest(simulated.truth_manifest)
    manifest = read_manifest(simulated.manifest)
    name = truth.cell_type.iloc[0]
    rows = manifest[(manifest.cell_type == name) & (manifest.kind == "accessibility_signal")]
    def means(path):
        with pyBigWig.open(str(path)) as handle:
            values = np.nan_to_num(handle.values("chrSim1", 0, 225_000, numpy=True))
        return np.arcsinh(values.reshape(-1, 1500).mean(1) / values.mean())
    blacklist = pd.read_csv(simulated.blacklist, sep="\t", header=None)
    clean = np.ones(150, bool)
    for _, chrom, start, end, *_ in blacklist.itertuples():
        if chrom == "chrSim1" and start < 225_000:
            clean[start // 1500 : end // 1500 + 1] = False
    expected = means(truth.path_or_url.iloc[0])[clean]
    first, second = (means(path)[clean] for path in rows.path_or_url)
    assert np.corrcoef(first, second)[0, 1] > 0.8
    assert np.corrcoef(expected, first + second)[0, 1] > 0.9


def test_the_truth_depends_on_cell_type_and_on_sequence(simulated):
    openness = pd.read_csv(simulated.manifest.parent / "truth/openness.tsv", sep="\t", index_col=0)
    assert ((openness > 0.5).any(axis=1) & (openness < 0.2).any(axis=1)).mean() > 0.3  # most vary between cell types
    stamp = json.loads((simulated.manifest.parent / "simulation.json").read_text())
    assert stamp["simulated"] is True and stamp["seed"] == 3


def test_jaspar_by_identifier_and_by_name():
    assert matrix_by_id("MA0139.1").shape == (19, 4)
    assert np.allclose(matrix_by_id("MA0139.1").sum(1), 1)
    named = matrices_of(["ctcf", "JUN", "GATA1", "no such factor"], most=2, longest=19)
    assert [tf for tf, *_ in named] == ["ctcf", "JUN", "GATA1", "JUN", "GATA1"], "one of each TF first"
    assert [i.split(".")[0] for _, i, _ in named[:3]] == ["MA0139", "MA0099", "MA0035"]  # MA0099 is FOS::JUN
    assert all(matrix.shape[1] == 4 and np.allclose(matrix.sum(1), 1) for *_, matrix in named)
    with pytest.raises(ChromaccError, match="no matrix"):
        matrix_by_id("MA9999.9")


def test_the_pilot_is_neither_trivial_nor_hopeless(tmp_path):
    """At full size, unseen cell types x unseen chromosomes: the truth explains the score, the average leaves room."""
    made = simulate(tmp_path / "raw")
    curation = curate(made.manifest, made.genome_fasta, tmp_path / "dataset", CurationParameters(),
                      blacklist=made.blacklist, truth_manifest=made.truth_manifest, say=lambda line: None)  # fmt: skip
    arrays = load_arrays(curation.path)
    rows = np.ix_((arrays.windows["split"] == "test").to_numpy(), (arrays.cell_types["split"] == "test").to_numpy())
    score = arrays.score[rows].ravel()
    assert np.corrcoef(arrays.truth[rows].ravel(), score)[0, 1] >= 0.95
    assert np.corrcoef(arrays.prior_score[rows].ravel(), score)[0, 1] <= 0.8
