"""A small collapse zoo: faults are planted in a run whose healthy predictor is known, and each must be named first."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_collapse import make_arrays, make_predictions

from chromacc_lib import ChromaccError, zoo
from chromacc_lib.causes import CAUSES, GROUPS
from chromacc_lib.checks_generalisation import peak_shape
from chromacc_lib.checks_labels import agreement, displacement, scanned
from chromacc_lib.cli import main
from chromacc_lib.collapse import diagnose
from chromacc_lib.faults import Fault, Run
from chromacc_lib.zoo_data import DATA_FAULTS, GENERALISATION_FAULTS

TRAINED = ("noise for labels", "windows out of order", "labels permuted between", "the label as an input")


def neighbours(seed=1, n_windows=900, n_cells=9):
    """The dataset of `make_arrays`, with windows side by side, so that what lies next to a window is known, and with
    sequences whose GC content says something of how open the locus is, so that every input has its use.
    """
    arrays, signal = make_arrays(seed, n_windows, n_cells)
    shared = signal.mean(axis=1) - signal.mean()
    strong = np.random.default_rng(11).random(arrays.sequence.shape) < (0.5 + 0.1 * shared / shared.std())[:, None]
    base = np.random.default_rng(12).integers(0, 2, arrays.sequence.shape)
    sequence = np.where(strong, 1 + base, 3 * base).astype(np.uint8)  # C or G, A or T
    start = arrays.windows.groupby("chrom").cumcount() * 1500
    windows = arrays.windows.assign(start=start, end=start + 1500, gc=strong.mean(axis=1))
    lineage = [f"lineage{i % 3}" for i in range(n_cells)]
    return replace(arrays, sequence=sequence, windows=windows, cell_types=arrays.cell_types.assign(lineage=lineage)), signal


@pytest.fixture(scope="module")
def known():
    """A run that is finished by construction: what is predicted is the noise-free score."""
    arrays, signal = neighbours()
    run = Run(arrays, None)
    return replace(run, predictions=make_predictions(arrays, signal + 0.1 * np.random.default_rng(1).normal(size=signal.shape)),
                   given=("arrays",)), signal


@pytest.fixture(scope="module")
def healthy():
    """A run that is trained, in a few seconds."""
    run = zoo.healthy_run(neighbours(n_cells=11)[0], seed=1, epochs=4)  # 7 of them to train on
    return zoo.finish(run)


def planted_in(known, fault, strength, seed=101):  # not the seed of the dataset, whose draws it would repeat
    """Plant a fault of the data without training: the predictions stay, the measured scores are the changed ones."""
    run, signal = known
    changed = fault.plant(run, fault.strengths[strength - 1][1], np.random.default_rng(seed))
    if changed.predictions is not run.predictions:
        return changed
    predicted = run.predictions["predicted_score"].to_numpy().reshape(signal.shape[1], -1).T
    return replace(changed, predictions=make_predictions(changed.arrays, predicted))


# --- the data ----------------------------------------------------------------------------------------------------
# Of the three tracks here, three exchanged are all of them: then it is the labels that stand in the wrong cell type.
CASES = [(f, s) for f in DATA_FAULTS for s in (1, 3) if f.stage == "training" and (f.name, s) != ("tracks exchanged", 3)
         and f.name != "noise with the shape of peaks"]  # which cannot be told from labels out of order: see below


@pytest.mark.parametrize(("fault", "strength"), CASES, ids=lambda value: getattr(value, "name", str(value)))
def test_a_fault_of_the_data_is_named_first_without_a_model(known, fault, strength):
    run = planted_in(known, fault, strength)
    assert diagnose(run.predictions, arrays=run.arrays).cause == fault.cause


def test_nothing_is_named_where_nothing_is_planted(known):
    found = diagnose(known[0].predictions, arrays=known[0].arrays)
    assert found.verdict == "healthy" and [c.name for c in found.checks if c.verdict == "fail"] == []


@pytest.mark.parametrize("bp", [-4500, 3000])
def test_a_shift_over_windows_is_named_in_bp(known, bp):
    fault = next(f for f in DATA_FAULTS if f.name == "labels shifted")
    shifted = fault.plant(known[0], bp, np.random.default_rng(1)).arrays
    check = diagnose(make_predictions(shifted, known[1]), arrays=shifted)["window offset"]
    assert check.verdict == "fail" and check.value == -bp and f"{-bp:+d} bp" in check.sentence


def test_displacement_by_hand():
    rng = np.random.default_rng(1)
    windows = pd.DataFrame({"chrom": "chr1", "start": np.arange(300) * 100, "end": np.arange(1, 301) * 100})
    tracks = rng.normal(size=(300, 3, 2))
    assert [scan.peak() for scan in displacement(windows, tracks, tracks[..., 0])] == [0]
    assert [scan.peak() for scan in displacement(windows, tracks, -np.roll(tracks[..., 0], 7, axis=0))] == [7]
    assert [scan.peak() for scan in displacement(windows, tracks, rng.normal(size=(300, 3)))] == [None]


def test_a_shift_beyond_the_first_scan_is_found():
    rng = np.random.default_rng(1)
    windows = pd.DataFrame({"chrom": np.repeat(["chr1", "chr2", "chr3"], 400), "start": np.tile(np.arange(400) * 100, 3)})
    windows["end"] = windows["start"] + 100
    tracks = rng.normal(size=(1200, 3, 2))
    score = tracks[..., 0].reshape(3, 400, 3)
    score = np.stack([np.roll(score[0], 150, axis=0), np.roll(score[1], -90, axis=0), score[2]]).reshape(1200, 3)
    near, far = ({scan.chrom: scan.peak() for scan in scan_by(windows, tracks, score)} for scan_by in (displacement, scanned))
    assert near == {"chr1": None, "chr2": None, "chr3": 0} and far == {"chr1": 150, "chr2": -90, "chr3": 0}


def test_noise_that_looks_measured_is_named_beside_labels_out_of_order(known):
    """Nothing in the dataset tells the two apart, so both are named, and what would."""
    fault = next(f for f in DATA_FAULTS if f.name == "noise with the shape of peaks")
    run = planted_in(known, fault, 3)
    found = diagnose(run.predictions, arrays=run.arrays)
    assert {found.cause, *found.alternatives} >= {"labels permuted within cell types", fault.cause,
                                                  "wrong assembly or chromosome naming"}
    assert found.confidence == "low" and "Join the labels to the windows again" in found.sentence
    assert not any(line.startswith("Not 'wrong assembly") for line in found.evidence_against)


def test_a_leak_into_one_cell_type_is_found(known):
    arrays = known[0].arrays
    histone = arrays.histone.copy()
    histone[:, 4, 0] = arrays.accessibility[:, 4, :, None]
    run = replace(known[0], arrays=replace(arrays, histone=histone))
    found = diagnose(run.predictions, arrays=run.arrays)
    assert found.cause == "an input is the label (leak)" and "in cell_4" in found["label leak"].sentence
    assert found["label leak"].detail["leaks"] == [f"{arrays.histone_marks[0]} in cell_4"]


def test_a_cell_type_without_tracks_is_named_where_nothing_of_its_own_is_predicted(known):
    arrays, signal = known[0].arrays, known[1]
    test = int(np.flatnonzero(arrays.cell_types["split"] == "test")[0])
    changed = {}
    for name in ("histone", "tf"):
        changed[f"{name}_observed"] = getattr(arrays, f"{name}_observed").copy()
        changed[f"{name}_observed"][:, test] = False
    arrays, name = replace(arrays, **changed), arrays.cell_types["cell_type"].iloc[test]
    well = diagnose(known[0].predictions, arrays=arrays)
    assert well.verdict == "healthy" and well["missing tracks"].verdict == "warn"
    average = signal.copy()
    average[:, test] = signal[:, arrays.train_mask].mean(axis=1)
    found = diagnose(make_predictions(arrays, average), arrays=arrays)
    assert found.cause == "constant, empty or missing tracks" and f"no track at all in {name}" in found.sentence


def test_agreement_counts_repressive_tracks_and_skips_unknown_ones():
    score = np.array([[0.0], [1.0], [2.0], [3.0]])
    tracks = np.stack([score, -score], axis=2)
    assert agreement(tracks, score) == pytest.approx(1)
    tracks[:, :, 1] = np.nan
    assert agreement(tracks, score) == pytest.approx(1) and np.isnan(agreement(tracks * np.nan, score))


def test_cell_types_whose_labels_are_out_of_order_are_listed(known):
    arrays, rng = known[0].arrays, np.random.default_rng(2)
    order = rng.permutation(len(arrays.score))
    score, profile = arrays.score.copy(), arrays.accessibility.copy()
    score[:, 3], profile[:, 3] = score[order, 3], profile[order, 3]
    arrays = replace(arrays, score=score, accessibility=profile)
    found = diagnose(make_predictions(arrays, known[1]), arrays=arrays)
    assert found.cause == "labels permuted within cell types" and "1 of 9" in found["labels of each cell type"].sentence
    assert found["labels of each cell type"].sentence.endswith(": cell_3.")


def test_labels_of_a_circle_of_cell_types_are_followed(known):
    arrays = known[0].arrays
    order = np.array([0, 2, 3, 1, 4, 5, 6, 7, 8])  # 1 has the labels of 2, 2 those of 3, 3 those of 1
    arrays = replace(arrays, score=arrays.score[:, order], accessibility=arrays.accessibility[:, order])
    check = diagnose(make_predictions(arrays, known[1]), arrays=arrays)["labels in their cell type"]
    assert check.value == 3 and "inputs of cell_1 fit the labels of cell_3" in check.sentence


# --- from the table alone ----------------------------------------------------------------------------------------
def test_noise_and_permuted_labels_are_both_named_from_a_table_alone(known):
    """Without the dataset they look alike; with it they do not."""
    run = planted_in(known, next(f for f in DATA_FAULTS if f.name == "noise for labels"), 1)
    found = diagnose(run.predictions)
    assert found.cause == "labels carry no signal about the inputs" and found.confidence == "low"
    assert found.alternatives == ("labels permuted within cell types", "a fault of the model or its training")
    assert "The dataset tells them apart" in found.sentence
    with_dataset = diagnose(run.predictions, arrays=run.arrays)
    assert with_dataset.cause == found.cause and with_dataset.alternatives == ()


def test_labels_that_agree_between_cell_types_are_no_noise(known):
    table = known[0].predictions.assign(predicted_score=np.random.default_rng(1).normal(size=len(known[0].predictions)))
    found = diagnose(table)
    assert found.cause == "the model learned nothing"
    assert "a fault of the model or its training" in found.alternatives
    assert "labels carry no signal about the inputs" not in found.alternatives


@pytest.mark.parametrize("n_windows", [30, 90])
def test_few_windows_are_no_verdict(known, n_windows):
    table = known[0].predictions
    kept = np.random.default_rng(1).permutation(table.loc[table["window_split"] == "test", "window"].unique())[:n_windows]
    found = diagnose(table[(table["window_split"] == "train") | table["window"].isin(kept)])
    assert found.verdict == "cannot tell" and found.sentence.startswith(f"Cannot tell: {n_windows} windows")
    assert f"give an AUC interval of ±{found['power'].value:.3f}" in found.sentence


def test_scores_in_counts_beside_scores_in_fold_are_found_in_a_table():
    arrays, signal = neighbours()
    table = make_predictions(arrays, signal)
    counts = table["cell_type"] == "cell_2"
    table.loc[counts, "score"] = np.arcsinh(20 * np.sinh(table.loc[counts, "score"]))
    assert diagnose(table).cause == "scale mismatch between cell types"
    assert "scores of cell_2" in diagnose(table)["score scale"].sentence


# --- generalisation ----------------------------------------------------------------------------------------------
def test_peak_shape_by_hand():
    arrays, _ = neighbours(n_windows=20)
    arrays.histone[:], arrays.tf[:] = 0, 0
    arrays.tf[3, 2, 0, 7, 0], arrays.tf[4, 2, 0, 14, 0] = 15, 15  # in the middle of 15 bins, and at the end
    shape = peak_shape(arrays, np.array([3, 4]), np.array([2, 2]))
    assert shape["off centre"] == pytest.approx([0, 14 / 15])
    assert shape["pointedness"] == pytest.approx([5 - 1 / 3] * 2)     # of three tracks, one is 15 in one of 15 bins


@pytest.mark.parametrize("fault", GENERALISATION_FAULTS, ids=lambda f: f.name)
def test_a_fault_of_generalisation_is_named_first(healthy, fault):
    run = zoo.plant(replace(healthy, model=None, history=None, predictions=None), fault, 3, 1, lambda: healthy)
    assert diagnose(run.predictions, arrays=run.arrays).cause == fault.cause


# --- the whole way -----------------------------------------------------------------------------------------------
def test_a_healthy_run_reads_healthy(healthy):
    found = zoo.diagnosed(healthy, 1)
    assert found.verdict == "healthy", found.sentence


@pytest.mark.parametrize("name", TRAINED)
def test_a_fault_is_named_first_after_training_with_it(name):
    run = zoo.plant(zoo.healthy_run(neighbours()[0], seed=1, epochs=2), zoo.FAULTS[name], 3, 1)
    assert zoo.diagnosed(run, 1).cause == zoo.FAULTS[name].cause


def test_what_is_planted_leaves_the_run_as_it_was(healthy):
    weights = {name: value.clone() for name, value in healthy.model.state_dict().items()}
    before = [array.copy() for array in (healthy.arrays.score, healthy.arrays.histone, healthy.arrays.sequence)]
    for fault in (*DATA_FAULTS, *GENERALISATION_FAULTS):
        if fault.stage == "training":
            fault.plant(healthy, fault.strengths[2][1], np.random.default_rng(1))
    zoo.plant(healthy, zoo.FAULTS["reads GC"], 3, 1, lambda: healthy)
    assert all(torch.equal(weights[name], value) for name, value in healthy.model.state_dict().items())
    after = (healthy.arrays.score, healthy.arrays.histone, healthy.arrays.sequence)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after))
    assert not healthy.model._forward_hooks


def test_a_training_that_breaks_off_can_be_looked_at():
    run = zoo.healthy_run(neighbours()[0], seed=1, learning_rate=1e30, clip_norm=1e30, epochs=2)
    broken = zoo.trained(run)
    assert len(broken.history) == 1 and np.isnan(broken.history["validation_mse"].iloc[-1])
    assert "lower learning_rate" in broken.history["error"].iloc[-1] and broken.model is not None


def test_a_reduced_run_is_stretches_of_chromosomes_and_the_same_each_time():
    arrays, _ = neighbours()
    few = {"train": 100, "validation": 20, "test": 30}
    part = zoo.reduced(arrays, 3, few, {"train": 3, "validation": 1, "test": 2})
    assert part.cell_types["split"].value_counts().to_dict() == {"train": 3, "validation": 1, "test": 2}
    assert abs(len(part.windows) - 150) <= 4 and part.score.shape == (len(part.windows), 6)
    assert set(part.windows.groupby("chrom")["start"].diff().dropna()) == {1500}
    again = zoo.reduced(arrays, 3, few, {"train": 3, "validation": 1, "test": 2})
    other = zoo.reduced(arrays, 4, few, {"train": 3, "validation": 1, "test": 2})
    assert again.windows.equals(part.windows) and not other.windows.equals(part.windows)


def test_confusion_is_a_diagonal_where_all_are_named():
    table = pd.DataFrame({"planted": ["a", "a", "b", "b"], "named": ["a", "a", "b", "c"], "named_first": [True] * 3 + [False],
                          "fault": ["f", "f", "g", "g"], "group": "data", "warned_epoch": [0, 2, 0, 0], "seconds": 1.0})
    counts = zoo.confusion(table)
    assert list(counts.columns) == ["a", "b", "c"] and counts.to_numpy().tolist() == [[2, 0, 0], [0, 1, 1]]
    summary = zoo.summarise_zoo(table)
    assert summary["named_otherwise"].tolist() == ["", "1 x c"] and summary["warned"].tolist() == [1, 0]


def test_the_list_of_faults_is_whole():
    for fault in zoo.FAULTS.values():
        assert isinstance(fault, Fault) and len(fault.strengths) == 3 and fault.stage in ("training", "prediction", "diagnosis")
    assert len(zoo.FAULTS) == 43 and {fault.group for fault in zoo.FAULTS.values()} == set(GROUPS)
    named = {cause.name for cause in CAUSES}
    assert {fault.cause for fault in zoo.FAULTS.values()} <= named


def test_the_command_goes_on_where_it_stopped(curated, tmp_path, capsys):
    command = ["zoo", str(curated[1]), "--out", str(tmp_path), "--seeds", "1", "--strengths", "3", "--workers", "1"]
    main([*command, "--healthy", "1", "--faults", "few windows"])
    first = pd.read_csv(tmp_path / "zoo.csv")
    assert list(first["fault"]) == ["healthy", "few windows"] and list(first["warned_epoch"]) == [0, 0]
    assert "2 cases, 0 done before" in capsys.readouterr().out
    main([*command, "--healthy", "1", "--faults", "few windows", "reads GC"])
    second = pd.read_csv(tmp_path / "zoo.csv")
    assert "3 cases, 2 done before" in capsys.readouterr().out and len(second) == 3
    assert list(second["seconds"][:2]) == list(first["seconds"]) and list(second["key"][:2]) == list(first["key"])
    assert pd.read_csv(tmp_path / "confusion.csv")["planted"].tolist() == list(dict.fromkeys(second["planted"]))


def test_an_unknown_fault_is_refused(curated, tmp_path):
    with pytest.raises(ChromaccError, match="no fault is called 'reads minds'; there are: noise for labels"):
        zoo.run_zoo(curated[1], tmp_path, faults=("reads minds",))
