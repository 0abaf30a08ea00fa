"""The audit passes a clean dataset, and catches a planted leak of each kind, in the files where it would be."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import PARAMETERS, write_manifest

from chromacc_lib import ChromaccError
from chromacc_lib.curation import curate
from chromacc_lib.dataset import open_dataset
from chromacc_lib.leakage import audit, find_copies, require_no_leaks, sketch
from chromacc_lib.normalization import fit_normalization

quiet = {"say": lambda line: None}


def verdicts(folder):
    return audit(folder).set_index("check")["verdict"]


@pytest.fixture
def planted(curated, tmp_path):
    """A copy of the tiny dataset, with a function that changes its store, and one that changes its lock."""
    folder = tmp_path / "dataset"
    shutil.copytree(curated[1], folder)

    def change(**values):
        """Give variables of the store other values."""
        dataset = open_dataset(folder).load()
        for name, value in values.items():
            dataset[name] = (dataset[name].dims, np.asarray(value))
        shutil.rmtree(folder / "dataset.zarr")
        dataset.to_zarr(folder / "dataset.zarr", zarr_format=2)

    def lock(cell_type, column, value, kind="histone"):
        """Give the rows of a cell type and kind another value in the lock."""
        path = folder / "manifest.lock.tsv"
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        table.loc[(table["cell_type"] == cell_type) & (table["kind"] == kind), column] = value
        table.to_csv(path, sep="\t", index=False)

    return folder, open_dataset(folder).load(), change, lock


def test_a_clean_dataset_passes_all_it_can_be_asked(curated):
    table = audit(curated[1]).set_index("check")
    assert table["verdict"].drop("biosample").eq("pass").all(), table
    assert table.loc["biosample", "verdict"] == "not known" and "6 of 6" in table.loc["biosample", "evidence"]
    assert np.isnan(table.loc["biosample", "value"]) and not table["evidence"].eq("").any()
    require_no_leaks(table.reset_index())


@pytest.mark.parametrize(("normalization", "placement"), [("s3norm", "tiled"), ("quantile", "summits")])
def test_other_normalisations_and_the_grid_pass(project, normalization, placement):
    parameters = replace(PARAMETERS, normalization=normalization, window_placement=placement)
    folder = curate(project.manifest, project.genome_fasta, project.folder / "dataset", parameters, **quiet).path
    assert not verdicts(folder).isin(["fail", "warn"]).any()
    path = folder / "normalization.json"
    content = json.loads(path.read_text())
    entry = next(track["reference"] for track in content["tracks"].values() if track["reference"])
    field = next(iter(entry))
    entry[field] = (1.5 * np.array(entry[field])).tolist()
    path.write_text(json.dumps(content))
    assert verdicts(folder)["constants of files"] == "fail"


def test_a_renamed_copy_of_a_held_out_cell_type_is_caught_after_curation(project):
    """Another name, another donor, other paths: the spelling and the files' content still tell."""
    table = pd.read_csv(project.manifest, sep="\t", dtype=str, keep_default_na=False)
    shutil.copytree(project.folder / "D", project.folder / "copy")
    copy = table[table["cell_type"] == "D"].assign(cell_type=" (d) ", donor="someone else")
    copy["path_or_url"] = copy["path_or_url"].str.replace("D/", "copy/")
    manifest = write_manifest(project.folder / "more.tsv", pd.concat([table, copy]).to_dict("records"))
    folder = curate(manifest, project.genome_fasta, project.folder / "dataset", PARAMETERS, **quiet).path
    found = audit(folder).set_index("check")
    assert found.loc["cell type under another name", "verdict"] == found.loc["file", "verdict"] == "fail"
    assert "(d) (train) and D (test)" in found.loc["cell type under another name", "evidence"]
    assert found.loc["file", "value"] == 7, "each of its files"
    with pytest.raises(ChromaccError, match="2 of 17 checks failed"):
        require_no_leaks(found.reset_index())


def test_names_that_differ_by_a_plus_are_two(planted):
    folder, _, change, _ = planted
    change(cell_type=["CD4+", "B", "C", "CD4-", "E", "F"])
    path = folder / "normalization.json"
    path.write_text(path.read_text().replace('"A"', '"CD4+"').replace('"D"', '"CD4-"'))
    assert verdicts(folder)["cell type under another name"] == "pass"


def test_a_donor_on_both_sides_is_caught_and_between_validation_and_test_it_is_a_warning(planted):
    folder, dataset, change, _ = planted
    donors = dataset["donor"].values.astype("U20")
    change(donor=np.where(dataset["cell_type"].values == "D", "x1; Donor A", donors))
    assert verdicts(folder)["donor"] == "fail"
    change(donor=np.where(dataset["cell_type"].values == "D", "donorE", donors))
    assert verdicts(folder)["donor"] == "warn"
    change(donor=np.where(dataset["cell_type"].values == "D", "", donors))
    assert verdicts(folder)["donor"] == "not known"


def test_a_biosample_on_both_sides_is_caught_unless_donors_are_known_to_differ(planted):
    folder, _, _, lock = planted
    lock("A", "biosample", "liver tissue")
    lock("D", "biosample", "Liver-tissue")
    found = audit(folder).set_index("check").loc["biosample"]
    assert found["verdict"] == "warn" and "of different donors" in found["evidence"]
    for kind in ("accessibility_signal", "accessibility_peaks", "histone", "tf", "expression"):
        lock("D", "donor", "", kind)
    found = audit(folder).set_index("check").loc["biosample"]
    assert found["verdict"] == "fail" and "A (train) and D (test): livertissue, of unknown donors" in found["evidence"]


@pytest.mark.parametrize("column", ["md5", "accession", "path_or_url"])
def test_one_file_in_two_splits_is_caught(planted, column):
    folder, _, _, lock = planted
    lock("A", column, "the same")
    lock("E", column, "the same")
    found = audit(folder).set_index("check").loc["file"]
    assert found["verdict"] == "fail" and f"A (train) and E (validation): H3K27ac, H3K4me3, {column} the same" in found["evidence"]


def test_a_file_shared_within_training_hides_no_file_shared_with_what_is_held_out(planted):
    folder, _, _, lock = planted
    for cell in "AB":  # both train
        lock(cell, "path_or_url", "one address")
    for cell in "AE":
        lock(cell, "md5", "one content")
    found = audit(folder).set_index("check").loc["file"]
    assert found["verdict"] == "fail" and "A (train) and E (validation)" in found["evidence"]


def test_without_a_lock_what_needs_it_is_not_known(planted):
    folder = planted[0]
    (folder / "manifest.lock.tsv").unlink()
    found = verdicts(folder)
    assert set(found.index[found == "not known"]) == {"file", "biosample", "places of peak windows"}


def test_a_chromosome_in_two_splits_and_overlaps_across_them_are_caught(planted):
    folder, dataset, change, _ = planted
    split = dataset["window_split"].values.astype("U10")
    chrom = dataset["chrom"].values[split == "train"][0]
    here = np.flatnonzero(dataset["chrom"].values == chrom)
    split[here[0]] = "test"
    change(window_split=split)
    found = verdicts(folder)
    assert found["chromosome in two splits"] == "fail" and found["overlap across splits"] == "pass"
    assert found["what was fitted on is recorded"] == "fail", "curation.json says otherwise"
    start, end = (dataset[name].values.copy() for name in ("start", "end"))
    start[here[0]], end[here[0]] = start[here[1]] - 10, end[here[1]] - 10
    change(start=start, end=end)
    found = verdicts(folder)
    assert found["overlap across splits"] == "fail" and found["overlap within a split"] == "pass"
    split[here[0]] = "train"
    change(window_split=split)
    found = verdicts(folder)
    assert found["overlap across splits"] == "pass" and found["overlap within a split"] == "fail"


@pytest.mark.parametrize("strand", [1, -1])
def test_a_copied_sequence_is_caught_on_either_strand_exact_or_with_2_percent_changed(planted, strand):
    folder, dataset, change, _ = planted
    split, codes = dataset["window_split"].values, dataset["sequence"].values.copy()
    train, held = np.flatnonzero(split == "train")[3], np.flatnonzero(split == "test")[5]
    copy = codes[train] if strand == 1 else 3 - codes[train][::-1]
    codes[held] = copy
    change(sequence=codes)
    found = audit(folder).set_index("check")
    assert found.loc["same sequence", "verdict"] == "fail" and found.loc["nearly the same sequence", "value"] == 0
    assert found.loc["same sequence", "value"] == pytest.approx(1 / (split != "train").sum())
    rng = np.random.default_rng(1)
    at = rng.choice(len(copy), len(copy) // 50, replace=False)
    codes[held, at] = (codes[held, at] + rng.integers(1, 4, len(at))) % 4
    change(sequence=codes)
    found = audit(folder).set_index("check")
    assert found.loc["nearly the same sequence", "verdict"] == "fail" and found.loc["same sequence", "value"] == 0
    place = f"{dataset['chrom'].values[train]}:{dataset['start'].values[train]:,}-"
    assert f"(test) and {place}" in found.loc["nearly the same sequence", "evidence"]


def test_sketches_estimate_the_jaccard_index_of_canonical_kmers():
    """Against sets of k-mers, spelled out; N in a window ends its k-mers."""
    rng = np.random.default_rng(2)
    one = rng.integers(0, 4, 1500, dtype=np.uint8)
    other = np.concatenate([one[:900], rng.integers(0, 4, 600, dtype=np.uint8)])
    one[100], other[300:310] = 4, 4

    def kmers(codes):
        """The canonical 21-mers, as text."""
        text = "".join("ACGTN"[code] for code in codes)
        words = {text[i:i + 21] for i in range(len(text) - 20)}
        return {min(word, word[::-1].translate(str.maketrans("ACGT", "TGCA"))) for word in words if "N" not in word}

    exact = len(kmers(one) & kmers(other)) / len(kmers(one) | kmers(other))
    sketches = sketch(np.stack([one, other, 3 - other[::-1] % 4]))
    estimate = find_copies(sketches[:1], sketches[1:2], bound=0.05).jaccard[0]
    assert 0.3 < exact < 0.5 and abs(estimate - exact) < 3 * np.sqrt(exact * (1 - exact) / 128)
    plain = np.where(other == 4, 0, other).astype(np.uint8)
    assert (sketch(plain[None]) == sketch((3 - plain[::-1])[None])).all(), "both strands"


def test_copies_are_found_among_many_and_no_others():
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 4, (4_000, 1_000), dtype=np.uint8)
    copies = codes[:100].copy()
    mutate = rng.random(copies.shape) < 0.02
    copies[mutate] = (copies[mutate] + rng.integers(1, 4, mutate.sum())) % 4
    codes[3_000:3_100] = copies
    found = find_copies(sketch(codes[:3_000]), sketch(codes[3_000:]))
    hit = found.partner[:100] == np.arange(100)
    assert hit.sum() >= 97 and (found.partner[100:] == -1).all() and found.left_out == 0
    assert found.jaccard[:100][hit].mean() == pytest.approx(0.49, abs=0.04), "1 / (2 exp(21 * 0.02) - 1), as in Mash"


def test_windows_of_one_repeat_are_found_without_comparing_all_pairs():
    rng = np.random.default_rng(4)
    unit = rng.integers(0, 4, 171, dtype=np.uint8)
    codes = np.stack([np.tile(np.roll(unit, i), 9)[:1500] for i in range(400)])
    found = find_copies(sketch(codes[:300]), sketch(codes[300:]))
    assert (found.partner >= 0).all() and found.left_out == 0
    unknown = sketch(np.full((2, 1500), 4, dtype=np.uint8))
    assert (find_copies(unknown, unknown).partner == -1).all(), "N is no sequence to share"


@pytest.mark.parametrize(("what", "sentence"), [
    ("cell_type_split", "all cell types on training chromosomes"),
    ("window_split", "training cell types on all chromosomes"),
])
def test_constants_of_held_out_data_are_caught_and_named(planted, what, sentence):
    folder, dataset, _, _ = planted
    everything = dataset.assign_coords({what: (dataset[what].dims, np.full(dataset[what].shape, "train"))})
    content = json.loads((folder / "normalization.json").read_text())
    content["tracks"] = fit_normalization(everything, "arcsinh")["tracks"]
    (folder / "normalization.json").write_text(json.dumps(content))
    found = audit(folder).set_index("check").loc["constants of tracks"]
    assert found["verdict"] == "fail" and found["value"] == 3 and sentence in found["evidence"]


def test_metadata_and_records_of_held_out_cell_types_are_caught(planted):
    folder, dataset, _, _ = planted
    everything = dataset.assign_coords(cell_type_split=("cell_type", np.full(6, "train")))
    whole = fit_normalization(everything, "arcsinh")
    content = json.loads((folder / "normalization.json").read_text())
    content |= {"metadata": whole["metadata"], "fitted_on": whole["fitted_on"]}
    content["own"]["D"]["CTCF"]["genome_mean"] *= 2
    (folder / "normalization.json").write_text(json.dumps(content))
    found = audit(folder).set_index("check")
    for name in ("constants of metadata", "what was fitted on is recorded", "constants of files"):
        assert found.loc[name, "verdict"] == "fail", name
    assert "normalization.json and dataset.zarr differ in the train cell types: D, E" in \
        found.loc["what was fitted on is recorded", "evidence"]


def test_what_only_held_out_cell_types_have_is_caught(planted):
    """A track, and a feature, that no training cell type knows."""
    folder, dataset, change, _ = planted
    held = dataset["cell_type_split"].values != "train"
    change(observed=dataset["observed"].values & (held[:, None, None] | (dataset["track"].values != "CTCF")[None, :, None]),
           metadata=np.where(held[:, None] | (dataset["feature"].values != "GATA1"), dataset["metadata"].values, np.nan))
    found = audit(folder).set_index("check")
    assert found.loc["tracks", "verdict"] == "fail" and found.loc["tracks", "evidence"] == "CTCF."
    assert "GATA1 is known in no training cell type" in found.loc["constants of metadata", "evidence"]


def test_a_window_of_a_held_out_peak_is_caught_by_labels_and_by_its_place(planted):
    folder, dataset, change, _ = planted
    label, kind = dataset["label"].values.copy(), dataset["kind"].values
    train = dataset["cell_type_split"].values == "train"
    window = np.flatnonzero(kind == "peak")[4]
    label[window] = np.where(train, 0, 1)
    change(label=label)
    found = audit(folder).set_index("check").loc["peak windows are training peaks"]
    assert found["verdict"] == "fail" and found["value"] == 1 and "(open in a held-out cell type)" in found["evidence"]
    label[window] = np.where(np.cumsum(train) == 1, -1, label[window])
    change(label=label)
    assert verdicts(folder)["peak windows are training peaks"] == "not known"
    start, end = (dataset[name].values.copy() for name in ("start", "end"))
    start[window], end[window] = start[window] + 30, end[window] + 30  # still open in training cell types
    change(label=dataset["label"].values, start=start, end=end)
    found = audit(folder).set_index("check")
    assert found.loc["peak windows are training peaks", "verdict"] == "pass"
    assert found.loc["places of peak windows", "verdict"] == "fail" and found.loc["places of peak windows", "value"] == 1
