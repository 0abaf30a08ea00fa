"""The diagnosis: each cause is planted in a synthetic dataset, and must be the one that is named.

The dataset is made so that its healthy predictor is known: score = shared by the locus + own to the cell type + noise.
"""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from chromacc_lib import ChromaccError, checks, checks_inputs, checks_labels, checks_model
from chromacc_lib.batches import RegionData
from chromacc_lib.causes import OF_THE_MODEL, WITHIN
from chromacc_lib.collapse import CAUSES, NO_SIGNAL, auc_half_width, diagnose, plant_predecessor_failure
from chromacc_lib.dataset import Arrays, locus_average
from chromacc_lib.inference import predict_scores
from chromacc_lib.model import ChromaccModel, ModelConfig
from chromacc_lib.tables import prepare

N_BINS, WINDOW_BP = 15, 1500


def make_arrays(seed: int = 1, n_windows: int = 700, n_cells: int = 9) -> tuple[Arrays, np.ndarray]:
    """A dataset whose marks and TF follow accessibility, and the noise-free score (W, C)."""
    rng = np.random.default_rng(seed)
    chrom = np.sort(rng.integers(1, 8, n_windows))
    split = np.where(chrom == 6, "validation", np.where(chrom == 7, "test", "train"))
    split[chrom == 5] = "test"
    signal = 1.5 + 0.5 * rng.normal(size=(n_windows, 1)) + 0.5 * rng.normal(size=(n_windows, n_cells))
    score = signal + 0.3 * rng.normal(size=signal.shape)
    centre = rng.integers(0, N_BINS, n_windows)
    shape = 0.2 + np.exp(-0.5 * ((np.arange(N_BINS) - centre[:, None]) / 1.5)**2)                  # (W, B)
    shape = shape / shape.mean(axis=1, keepdims=True)
    linear = np.sinh(score)[:, :, None] * shape[:, None]

    def tracks(signs: list[float]) -> np.ndarray:
        means = np.stack([sign * (signal - 1.5)[:, :, None] * shape[:, None] for sign in signs], axis=2)
        means = means + 0.7 * rng.normal(size=means.shape)
        return np.stack([means, means**2, means + 0.5], axis=-1).astype(np.float32)               # (W, C, M, B, 3)

    histone, tf = tracks([1.0, -0.8]), tracks([1.2])
    histone_observed, tf_observed = np.ones((n_windows, n_cells, 2), bool), np.ones((n_windows, n_cells, 1), bool)
    histone_observed[:, 0, 1] = False                                                             # a missing assay
    histone[:, 0, 1] = 0
    sequence = rng.integers(0, 4, (n_windows, 300)).astype(np.uint8)
    start = np.arange(n_windows) * 10 * WINDOW_BP
    cell_split = np.array(["train"] * (n_cells - 4) + ["validation"] + ["test"] * 3)
    return Arrays(
        sequence=sequence, histone=histone, histone_observed=histone_observed, tf=tf, tf_observed=tf_observed,
        metadata=rng.normal(size=(n_cells, 4)).astype(np.float32), metadata_observed=np.ones(n_cells, bool),
        accessibility=np.arcsinh(linear).astype(np.float32), score=np.arcsinh(linear.mean(axis=2)).astype(np.float32),
        label=(score > 2).astype(np.int8),
        windows=pd.DataFrame({"chrom": [f"chrTest{c}" for c in chrom], "start": start, "end": start + WINDOW_BP,
                              "gc": np.isin(sequence, (1, 2)).mean(axis=1), "kind": "peak", "split": split}),
        cell_types=pd.DataFrame({"cell_type": [f"cell_{i}" for i in range(n_cells)], "split": cell_split,
                                 "lineage": "", "donor": ""}),
        histone_marks=("H3K27ac", "H3K27me3"), tfs=("CTCF",), features=("G1", "G2", "G3", "G4"), simulated=True,
    ), signal


def make_predictions(arrays: Arrays, predicted: np.ndarray) -> pd.DataFrame:
    """The table of predictions (W, C), one row a window and cell type."""
    n_windows, n_cells = arrays.score.shape
    windows = arrays.windows.loc[np.tile(np.arange(n_windows), n_cells)].reset_index(drop=True)
    return pd.DataFrame({
        "cell_type": np.repeat(arrays.cell_types["cell_type"].to_numpy(), n_windows),
        "cell_type_split": np.repeat(arrays.cell_types["split"].to_numpy(), n_windows),
        "window": np.tile(np.arange(n_windows), n_cells), "window_split": windows["split"], "gc": windows["gc"],
        "score": arrays.score.T.ravel(), "label": arrays.label.T.ravel(), "predicted_score": predicted.T.ravel(),
        "predicted_probability": 1 / (1 + np.exp(-3 * (predicted.T.ravel() - 2))),
    })


def make_history(**columns: list[float]) -> pd.DataFrame:
    """A training history that converged, with some columns replaced."""
    healthy = {"epoch": range(1, 7), "train_loss": [1.0, 0.6, 0.45, 0.4, 0.38, 0.37],
               "validation_loss": [1.0, 0.65, 0.5, 0.46, 0.45, 0.449], "grad_norm": [2.0, 1.5, 1.2, 1.0, 0.9, 0.9],
               "learning_rate": [1e-3, 9e-4, 7e-4, 4e-4, 1e-4, 1e-5]}
    return pd.DataFrame(healthy | columns)


# --- the causes, planted one at a time -----------------------------------------------------------------------
# Each takes (arrays, signal, rng) and returns (arrays, predictions, history).

def healthy(arrays, signal, rng):
    return arrays, make_predictions(arrays, signal + 0.1 * rng.normal(size=signal.shape)), make_history()


def _learned_nothing(arrays, rng):
    return make_predictions(arrays, arrays.score.mean() + 0.02 * rng.normal(size=arrays.score.shape))


def noise_labels(arrays, signal, rng):
    score = np.clip(rng.normal(0.5, 0.2, signal.shape), 0, 1).astype(np.float32)
    arrays = replace(arrays, score=score, accessibility=np.repeat(score[:, :, None], N_BINS, axis=2))
    return arrays, _learned_nothing(arrays, rng), make_history()


def noise_labels_learned_by_heart(arrays, signal, rng):
    arrays, _, history = noise_labels(arrays, signal, rng)
    seen = np.outer(arrays.windows["split"] == "train", arrays.cell_types["split"] == "train")
    return arrays, make_predictions(arrays, np.where(seen, arrays.score, rng.permuted(arrays.score, axis=0))), history


def permuted_scores(arrays, signal, rng):
    arrays = replace(arrays, score=rng.permuted(arrays.score, axis=0))
    return arrays, _learned_nothing(arrays, rng), make_history()


def permuted_between_cell_types(arrays, signal, rng):
    order = np.argsort(rng.random(signal.shape), axis=1)      # another order of cell types in every window
    arrays = replace(arrays, score=np.take_along_axis(arrays.score, order, 1),
                     accessibility=np.take_along_axis(arrays.accessibility, order[:, :, None], 1))
    average = locus_average(arrays.score, arrays.train_mask)
    return arrays, make_predictions(arrays, average + 0.05 * rng.normal(size=signal.shape)), None


def shifted_labels(arrays, signal, rng):
    arrays = replace(arrays, accessibility=np.roll(arrays.accessibility, 2, axis=2))
    return healthy(arrays, signal, rng)


def mostly_n(arrays, signal, rng):
    sequence = arrays.sequence.copy()
    sequence[rng.random(len(sequence)) < 0.5] = 4
    return healthy(replace(arrays, sequence=sequence), signal, rng)


def repeated_windows(arrays, signal, rng):
    sequence = arrays.sequence.copy()
    sequence[:len(sequence) // 2] = sequence[0]
    return healthy(replace(arrays, sequence=sequence), signal, rng)


def constant_track(arrays, signal, rng):
    histone = arrays.histone.copy()
    histone[:, 3, 0] = 0
    return healthy(replace(arrays, histone=histone), signal, rng)


def duplicated_track(arrays, signal, rng):
    histone = arrays.histone.copy()
    histone[:, 2, 0] = histone[:, 5, 0]
    return healthy(replace(arrays, histone=histone), signal, rng)


def swapped_track(arrays, signal, rng):
    histone = arrays.histone.copy()
    histone[:, [2, 4], 1] = histone[:, [4, 2], 1]
    return healthy(replace(arrays, histone=histone), signal, rng)


def swapped_labels(arrays, signal, rng):
    order = [0, 1, 4, 3, 2, *range(5, signal.shape[1])]
    return healthy(replace(arrays, score=arrays.score[:, order], accessibility=arrays.accessibility[:, order]),
                   signal, rng)


def scale_mismatch(arrays, signal, rng):
    factor = np.where(np.arange(signal.shape[1]) == 1, 10, 1)
    return healthy(replace(arrays, score=arrays.score * factor), signal * factor, rng)


def track_scale_mismatch(arrays, signal, rng):
    tf = arrays.tf.copy()
    tf[:, 1] *= 20
    return healthy(replace(arrays, tf=tf), signal, rng)


def leak(arrays, signal, rng):
    histone = arrays.histone.copy()
    profile = arrays.accessibility / arrays.accessibility.mean(2, keepdims=True)
    histone[:, :, 0, :, 0] = profile * arrays.score[..., None]
    return healthy(replace(arrays, histone=histone), arrays.score, rng)


def constant_output(arrays, signal, rng):
    return arrays, make_predictions(arrays, np.full(signal.shape, 1.4)), make_history()


def diverged(arrays, signal, rng):
    history = make_history(train_loss=[1.0, 0.8, 5.0, math.nan, math.nan, math.nan])
    return arrays, make_predictions(arrays, np.full(signal.shape, math.nan)).assign(
        predicted_score=lambda t: t["predicted_score"].where(t.index > 0, 1.0)), history


def never_left_first_loss(arrays, signal, rng):
    flat_loss = {"train_loss": [1.0] * 6, "validation_loss": [1.0, 1.001, 1.0, 0.999, 1.0, 1.0]}
    return arrays, _learned_nothing(arrays, rng), make_history(**flat_loss)


def vanishing_gradients(arrays, signal, rng):
    return arrays, _learned_nothing(arrays, rng), make_history(grad_norm=[1.0, 1e-3, 1e-7, 1e-8, 1e-8, 1e-8])


def exploding_gradients(arrays, signal, rng):
    return arrays, _learned_nothing(arrays, rng), make_history(grad_norm=[1.0, 1.2, 1.0, 1e5, 1.0, 1.0])


def locus_average_only(arrays, signal, rng):
    return arrays, make_predictions(arrays, locus_average(arrays.score, arrays.train_mask)), make_history()


def one_value_a_locus(arrays, signal, rng):
    shared = np.repeat(signal.mean(1, keepdims=True), signal.shape[1], 1)
    return arrays, make_predictions(arrays, shared), make_history()


def gc_shortcut(arrays, signal, rng):
    gc = arrays.windows["gc"].to_numpy()[:, None]
    predicted = 1.5 + 0.7 * (gc - gc.mean()) / gc.std() + 0.1 * rng.normal(size=signal.shape)
    return arrays, make_predictions(arrays, predicted), make_history()


def seen_loci_only(arrays, signal, rng):
    seen = (arrays.windows["split"] == "train").to_numpy()[:, None]
    predicted = np.where(seen, signal, signal + 1.2 * rng.normal(size=signal.shape))
    return arrays, make_predictions(arrays, predicted), make_history()


def seen_cell_types_only(arrays, signal, rng):
    predicted = np.where(arrays.train_mask, signal, signal + rng.normal(size=signal.shape))
    return arrays, make_predictions(arrays, predicted), make_history()


def called_open_everywhere(arrays, signal, rng):
    arrays, predictions, history = healthy(arrays, signal, rng)
    return arrays, predictions.assign(predicted_probability=0.9), history


def stopped_early(arrays, signal, rng):
    arrays, predictions, _ = healthy(arrays, signal, rng)
    return arrays, predictions, make_history(validation_loss=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5], learning_rate=[1e-3] * 6)


def shrunk(arrays, signal, rng):
    return arrays, make_predictions(arrays, 1.5 + 0.3 * (signal - 1.5)), make_history()


def right_order_wrong_level(arrays, signal, rng):
    return arrays, make_predictions(arrays, signal + 3), make_history()


def behind_ridge(arrays, signal, rng):
    """Predictions that know as much as a third of what the tracks tell."""
    own = signal + 1.5 * signal.std() * rng.normal(size=signal.shape)
    return arrays, make_predictions(arrays, signal.mean() + 0.3 * (own - signal.mean())), make_history()


PLANTED = {
    noise_labels: NO_SIGNAL, noise_labels_learned_by_heart: NO_SIGNAL,
    permuted_scores: "labels permuted within cell types",
    permuted_between_cell_types: "labels permuted between cell types",
    shifted_labels: "labels and inputs are shifted against each other",
    mostly_n: "sequences are mostly N or repeated", repeated_windows: "sequences are mostly N or repeated",
    constant_track: "constant, empty or missing tracks", duplicated_track: "a track of another cell type swapped in",
    swapped_track: "a track of another cell type swapped in",
    swapped_labels: "labels permuted between cell types",
    scale_mismatch: "scale mismatch between cell types", track_scale_mismatch: "scale mismatch between cell types",
    leak: "an input is the label (leak)", constant_output: "constant output", diverged: "learning rate too high",
    never_left_first_loss: "learning rate too low",
    vanishing_gradients: "vanishing gradients", exploding_gradients: "exploding gradients",
    locus_average_only: "collapse to the locus average", gc_shortcut: "shortcut through GC content",
    seen_loci_only: "works on seen loci only", seen_cell_types_only: "learned on training cell types only",
    called_open_everywhere: "class-prior bias", stopped_early: "training stopped too early",
    behind_ridge: "behind simpler models", shrunk: "predictions shrunk or stretched", right_order_wrong_level: "predictions off in level",
    one_value_a_locus: "collapse to the locus average",
}


def run_planted(plant, seed: int):
    """Plant one cause in the dataset of `seed`, and diagnose it."""
    arrays, signal = make_arrays(seed)
    arrays, predictions, history = plant(arrays, signal, np.random.default_rng(seed))
    return diagnose(predictions, arrays=arrays, history=history, seed=seed)


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_cause_is_named(plant, seed):
    found = run_planted(plant, seed)
    assert found.cause == PLANTED[plant], found.sentence
    assert found.verdict in {cause.verdict for cause in CAUSES if cause.name == found.cause}
    assert found.evidence and found.next_step


@pytest.mark.parametrize("seed", range(1, 7))
def test_healthy_gives_no_false_alarm(seed):
    found = run_planted(healthy, seed)
    assert found.verdict == "healthy" and found.cause == "", found.sentence
    assert not [check.name for check in found.checks if check.verdict == "fail"]


def test_a_failed_check_that_makes_no_cause_is_mentioned():
    arrays, signal = make_arrays(2)
    _, predictions, _ = healthy(arrays, signal, np.random.default_rng(2))
    found = diagnose(predictions, arrays=arrays, history=make_history(validation_loss=[0.5] * 6))
    assert found["first loss"].verdict == "fail" and found["training fit"].verdict == "ok"
    assert (found.verdict, found.confidence) == ("healthy", "medium")
    assert "first loss failed, but not what would make it a cause" in found.sentence


def test_healthy_keeps_its_word_on_other_terms():
    arrays, signal = make_arrays(3)
    _, predictions, history = healthy(arrays, signal, np.random.default_rng(3))
    shuffled = predictions.sample(frac=1, random_state=3)
    for table in (predictions, shuffled):
        assert diagnose(table, arrays=arrays, history=history).verdict == "healthy"
    same = [c.value for c in diagnose(predictions).checks], [c.value for c in diagnose(shuffled).checks]
    np.testing.assert_allclose(*same)                                                  # row order does not matter
    bare = predictions[["cell_type", "window", "score", "predicted_score"]]
    found = diagnose(bare)
    assert found.verdict == "healthy" and found.confidence == "medium"                 # the data was not examined
    assert found.simulated is None and diagnose(bare, arrays=arrays).simulated is True


# --- the predecessor's failure -------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", [1, 2, 3])
def test_predecessor_failure_is_named(seed):
    predictions, arrays = plant_predecessor_failure(make_arrays(seed)[0], seed)
    assert arrays.windows["split"].value_counts().to_dict() == {"train": 318, "validation": 68, "test": 69}
    assert arrays.score.min() >= 0 and arrays.score.max() <= 1
    assert abs(predictions["predicted_score"].std() - 0.02) < 0.002
    found = diagnose(predictions, arrays=arrays)
    assert (found.verdict, found.cause) == ("collapsed", "labels carry no signal about the inputs")
    assert found["ambiguous bases"].value == 364 / 455
    assert any("364 of 455 windows are mostly N" in sentence for sentence in found.evidence)
    without_data = diagnose(predictions)  # scores that no two cell types share are noise, or stand at other windows
    assert (without_data.verdict, without_data.cause, without_data.confidence) == ("collapsed", NO_SIGNAL, "low")
    assert without_data.alternatives == (WITHIN, OF_THE_MODEL)


def test_predecessor_failure_in_a_small_dataset_keeps_its_proportions():
    predictions, arrays = plant_predecessor_failure(make_arrays(1, n_windows=200)[0])
    assert arrays.windows["split"].value_counts().to_dict() == {"train": 139, "validation": 29, "test": 30}
    assert diagnose(predictions, arrays=arrays).cause == NO_SIGNAL


# --- too little to tell --------------------------------------------------------------------------------------

def test_few_windows_cannot_tell():
    arrays, signal = make_arrays(4)
    few = make_predictions(arrays, signal).query("window < 40")
    found = diagnose(few, arrays=arrays)
    assert (found.verdict, found.cause) == ("cannot tell", "too few windows to tell")
    assert f"{few['window'].nunique()} windows in 9 cell types (all rows that were given)" in diagnose(
        few.drop(columns=["cell_type_split", "window_split"])).sentence
    noise = few.assign(predicted_score=np.random.default_rng(1).normal(size=len(few)))
    assert diagnose(noise).verdict == "cannot tell"


def test_small_null_is_not_taken_for_no_signal():
    arrays, signal = make_arrays(5, n_windows=15, n_cells=4)
    arrays, _, _ = noise_labels(arrays, signal, np.random.default_rng(5))
    found = diagnose(make_predictions(arrays, signal), arrays=arrays)
    assert found["label signal"].verdict == "not run" and "chance alone" in found["label signal"].sentence
    assert found.verdict == "cannot tell"


# --- a table that holds too little of the dataset ------------------------------------------------------------

def test_predictions_that_are_all_nan_belong_to_the_dataset_all_the_same():
    arrays, signal = make_arrays(1)
    found = diagnose(make_predictions(arrays, np.full(signal.shape, math.nan)), arrays=arrays)
    assert (found.verdict, found.cause) == ("collapsed", "predictions are not numbers")
    assert found["scores are the dataset's"].verdict == "ok" and "6300 of 6300 predictions" in found.sentence


def test_the_dataset_knows_the_locus_average_of_one_cell_type():
    arrays, _ = make_arrays(1)
    predictions = make_predictions(arrays, locus_average(arrays.score, arrays.train_mask))
    alone = predictions.loc[predictions["cell_type"] == "cell_8", ["cell_type", "window", "score", "predicted_score"]]
    assert diagnose(alone).cause == "no other cell type to compare with"
    assert diagnose(alone, arrays=arrays).cause == "collapse to the locus average"


# --- exact values --------------------------------------------------------------------------------------------

def small_table(**columns) -> pd.DataFrame:
    """Two cell types x four windows with hand-made values."""
    return pd.DataFrame({"cell_type": ["a"] * 4 + ["b"] * 4, "window": [0, 1, 2, 3] * 2,
                         "score": [0.0, 1, 2, 3, 1, 1, 3, 3], "predicted_score": [0.0, 0.5, 1, 1.5, 2, 2, 2, 2]}
                        | columns)


def test_auc_half_width_is_hanley_and_mcneil():
    # AUC 0.5, 50 + 50: variance = (0.25 + 98 * (1/3 - 1/4)) / 2500
    assert auc_half_width(50, 50) == pytest.approx(1.96 * math.sqrt((0.25 + 98 / 12) / 2500))
    assert auc_half_width(0, 10) == 0.5
    assert auc_half_width(5, 5, auc=1.0) == 0


def test_variance_table_by_hand():
    table = checks.variance_table(small_table()).set_index("cell_type")
    assert table.loc["a", "variance_ratio"] == pytest.approx(0.25)      # half the amplitude
    assert table.loc["a", "r_squared"] == pytest.approx(1)
    assert table.loc["a", "level"] == pytest.approx(-0.75 / math.sqrt(1.25))
    assert (table.loc["b", "r"], table.loc["b", "variance_ratio"]) == (0, 0)     # constant prediction
    assert math.isnan(checks.variance_table(small_table(score=1.0))["r"].iloc[0])  # constant score


def test_variation_across_cell_types_by_hand():
    # differences a - b: score -1, 0, -1, 0 -> variances 0.25, 0, 0.25, 0; predicted -2, -1.5, -1, -0.5
    expected = np.mean(np.square([-2, -1.5, -1, -0.5]) / 4) / np.mean(np.square([-1, 0, -1, 0]) / 4)
    assert diagnose(small_table())["variation across cell types"].value == pytest.approx(expected)


def test_skill_by_hand_and_from_the_evaluation():
    table = small_table(average_score=[1.0, 1, 1, 1, 2, 2, 2, 2])
    # squared errors: model 0 + .25 + 1 + 2.25 + 1 + 1 + 1 + 1 = 7.5; average 1 + 0 + 1 + 4 + 1 + 1 + 1 + 1 = 10
    assert diagnose(table)["skill over the locus average"].value == pytest.approx(0.25)
    skill = {"value": -0.2, "low": -0.3, "high": -0.1}
    assert diagnose(table, evaluation={"headline": {"skill": skill}})["skill over the locus average"].verdict == "fail"


def test_class_prior_by_hand():
    table = small_table(label=[0, 0, 1, 1, 0, 0, 1, -1], predicted_probability=[0.9, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.9])
    check = diagnose(table)["class prior"]
    assert check.value == pytest.approx(1)                              # 3 called of 7, 3 open of 7
    assert check.detail["precision"] == pytest.approx(2 / 3) and check.detail["recall"] == pytest.approx(2 / 3)


def test_average_is_leave_one_out_when_it_is_computed():
    rows = pd.DataFrame({"cell_type": list("abc"), "window": 0, "score": [1.0, 2, 6], "predicted_score": 0.0})
    assert prepare(rows, None).rows["average_score"].tolist() == [4, 3.5, 1.5]


@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_offset_curve_finds_the_shift(shift):
    track = np.random.default_rng(1).normal(size=(400, N_BINS))
    curve = checks_inputs.offset_curve(track, np.roll(track, shift, axis=1))
    assert max(curve, key=curve.get) == shift and curve[shift] > 0.9


@pytest.mark.parametrize("bins", [-3, -1, 1])
def test_offset_is_named_in_bp(bins):
    arrays, signal = make_arrays(1)
    arrays = replace(arrays, accessibility=np.roll(arrays.accessibility, bins, axis=2))
    check = diagnose(make_predictions(arrays, signal), arrays=arrays)["track offset"]
    assert check.value == 100 * bins and f"CTCF {100 * bins:+d} bp" in check.sentence      # bins of 100 bp


def test_constant_and_duplicated_tracks_are_named():
    assert run_planted(constant_track, 1)["constant tracks"].detail["constant"] == ["H3K27ac in cell_3"]
    assert run_planted(duplicated_track, 1)["duplicated tracks"].detail["pairs"] == ["H3K27ac of cell_2 and of cell_5"]
    assert "H3K27me3 of cell_2 and cell_4" in run_planted(swapped_track, 1).sentence
    assert "The inputs of cell_2 fit the labels of cell_4" in run_planted(swapped_labels, 1).sentence


def test_ridge_signal_tells_signal_from_none():
    rng = np.random.default_rng(1)
    features, groups = rng.normal(size=(300, 2, 3)), np.repeat(np.arange(6), 50)
    r, null = checks_labels.ridge_signal(features, features[..., 0], groups, seed=1, n_permutations=50)
    assert r > 0.99 and null.shape == (50,) and np.abs(null).max() < 0.25
    r, null = checks_labels.ridge_signal(features, rng.normal(size=(300, 2)), groups, seed=1, n_permutations=50)
    assert null.min() <= r <= null.max()


# --- the boundary --------------------------------------------------------------------------------------------

def test_bad_tables_are_refused():
    table = small_table()
    with pytest.raises(ChromaccError, match="lacks the columns predicted_score"):
        diagnose(table.drop(columns="predicted_score"))
    with pytest.raises(ChromaccError, match="1 of 9 rows repeat"):
        diagnose(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(ChromaccError, match="none of 8 rows has a known score"):
        diagnose(table.assign(score=math.nan))
    arrays, _ = make_arrays(1, n_windows=50, n_cells=5)
    with pytest.raises(ChromaccError, match="cell types a, b of the predictions are not in the dataset"):
        diagnose(table, arrays=arrays)
    windows = make_predictions(*make_arrays(1, n_windows=60, n_cells=5))
    with pytest.raises(ChromaccError, match="50 rows name windows such as 50; the dataset has 50 windows"):
        diagnose(windows, arrays=arrays)
    with pytest.raises(ChromaccError, match="needed: epochs with train_loss"):
        diagnose(table, history=pd.DataFrame({"epoch": [1]}))


def test_json_is_whole_and_finite(tmp_path):
    found = run_planted(diverged, 1)
    path = tmp_path / "collapse_diagnostics.json"
    assert found.to_json(path) == path.read_text().rstrip("\n")
    stored = json.loads(path.read_text())
    assert {"verdict", "cause", "confidence", "sentence", "next_step", "checks", "simulated"} <= set(stored)
    assert {"name", "group", "value", "rule", "verdict", "sentence"} <= set(stored["checks"][0])
    assert [p.name for p in tmp_path.iterdir()] == ["collapse_diagnostics.json"]     # no temporary file is left
    assert any(check["value"] is None for check in stored["checks"])


def test_unknown_scores_are_counted_not_hidden():
    arrays, signal = make_arrays(6)
    predictions = make_predictions(arrays, signal)
    predictions.loc[predictions.index[:500], "score"] = math.nan
    assert "because 500 have no known score" in diagnose(predictions)["power"].sentence


# --- checks of the model -------------------------------------------------------------------------------------

class PassingBlock(nn.Module):
    """A transformer block that changes nothing; returns tokens and no attention, as `model.Block` does."""

    def forward(self, x):
        return x, None


class KnownModel(nn.Module):
    """Predicts prior + 0.2 x (GC share + histone + TF + metadata) and leaves out what `ignores` names."""

    def __init__(self, ignores: tuple[str, ...] = (), alike: bool = False, directions: int = 8):
        super().__init__()
        self.ignores, self.alike, self.directions = ignores, alike, directions
        self.sequence_encoder, self.sequence_encoder.stack = nn.Module(), nn.Module()
        self.sequence_encoder.stack.blocks = nn.ModuleList([PassingBlock()])
        self.encoder = nn.Module()
        self.encoder.blocks = nn.ModuleList([PassingBlock(), PassingBlock()])
        self.score_head = nn.Linear(8, 1, bias=False)
        nn.init.constant_(self.score_head.weight, 0.0)
        nn.init.constant_(self.score_head.weight[:, :1], 1.0)

    def parts(self, batch):
        """Each modality's contribution to the score, (B, C)."""
        gc = ((batch.sequence == 1) | (batch.sequence == 2)).float().mean(1, keepdim=True)
        return {"sequence": gc.expand(-1, batch.metadata.shape[1]),
                "histone": 0.2 * batch.histone[..., 0].mean(3).sum(2), "tf": 0.2 * batch.tf[..., 0].mean(3).sum(2),
                "metadata": 0.2 * batch.metadata.sum(-1), "prior": batch.prior_score}

    def forward(self, batch):
        score = sum(part for name, part in self.parts(batch).items() if name not in self.ignores)
        noise = torch.randn((*score.shape, 7), generator=torch.Generator().manual_seed(1))
        noise[..., self.directions - 1:] = 0
        pooled = torch.cat([score[..., None], noise], -1)                                # (B, C, 8)
        steps = torch.zeros(N_BINS, 8) if self.alike else torch.eye(N_BINS, 8) - 1 / N_BINS
        tokens = (pooled[:, :, None] + 5 * steps).flatten(0, 1)                           # (B * C, T, 8)
        self.sequence_encoder.stack.blocks[0](tokens[:len(batch.sequence)])
        for block in self.encoder.blocks:
            tokens, _ = block(tokens)
        return SimpleNamespace(score=self.score_head(pooled).squeeze(-1))


def run_model(model: nn.Module, **changes):
    """Diagnose a model whose predictions are its own, on the dataset of seed 1."""
    arrays, _ = make_arrays(1)
    arrays = replace(arrays, **changes)
    windows, cells = (np.arange(n) for n in arrays.score.shape)
    with torch.no_grad():
        predicted = model(RegionData(arrays).batch(windows, cells)).score.numpy()
    return diagnose(make_predictions(arrays, predicted), arrays=arrays, model=model), predicted, arrays


def test_healthy_model_passes_every_check():
    found, _, _ = run_model(KnownModel())
    assert {c.name for c in found.checks if c.verdict == "fail"} <= {
        "level", "skill over the locus average", "positive rate", "single-batch overfit", "information left",
    }  # a sum of given parts: nothing to train, and it weighs them as nobody fitted
    assert found["model reproduces predictions"].value < 1e-6
    assert found["effective rank"].value > 5


@pytest.mark.parametrize("modality", ["sequence", "histone", "tf", "metadata", "prior"])
def test_dead_modality_is_named(modality):
    found, _, _ = run_model(KnownModel(ignores=(modality,)))
    check = found["dead modality"]
    assert check.verdict == "fail" and f"{modality} is dead" in check.sentence
    assert check.detail["rms_change"][modality] == 0 == check.detail["rise_in_squared_error"][modality]
    assert check.detail["rms_change_shuffled"][modality] == 0
    assert min(v for k, v in check.detail["rms_change_shuffled"].items() if k != modality) > 0.01


def test_dominating_modality_is_named():
    found, _, _ = run_model(KnownModel(ignores=("sequence", "histone", "tf", "metadata")))
    assert found["dominating modality"].value == 1 and "100.0% is prior's" in found["dominating modality"].sentence
    assert found["cell-type swap"].value == 0 and found["cell-type swap"].verdict == "fail"
    assert found.cause == "collapse to the locus average"


def test_modality_drop_is_exact():
    arrays, _ = make_arrays(1)
    found, predicted, _ = run_model(KnownModel())
    rng = np.random.default_rng(1)     # the probe's own draw, repeated
    windows = checks.draw(np.flatnonzero(arrays.windows["split"] == "test"), checks_model.MODEL_WINDOWS, rng)
    cells = checks.prefer_unseen(arrays.cell_types["split"].to_numpy(), checks_model.MODEL_CELL_TYPES, rng)
    at = np.ix_(windows, cells)
    change = 0.2 * arrays.tf[..., 0].mean(3).sum(2)[at] / arrays.score[at].std()
    assert found["dead modality"].detail["rms_change"]["tf"] == pytest.approx(np.sqrt((change**2).mean()), rel=1e-4)


def test_another_checkpoint_is_noticed():
    arrays, _ = make_arrays(1)
    found, predicted, _ = run_model(KnownModel())
    other = diagnose(make_predictions(arrays, predicted + 1), arrays=arrays, model=KnownModel())
    assert other.cause == "wrong checkpoint evaluated" and other.verdict == "cannot tell"
    assert other["model reproduces predictions"].value == pytest.approx(1 / 0.8, rel=0.1)


def test_another_dataset_is_noticed():
    arrays, signal = make_arrays(1)
    found = diagnose(make_predictions(arrays, signal), arrays=make_arrays(2)[0])
    assert found.cause == "the predictions belong to another dataset"
    assert found["scores are the dataset's"].value > 0.9


def test_low_rank_and_alike_tokens_are_noticed():
    assert run_model(KnownModel(directions=1))[0]["effective rank"].value == pytest.approx(1, abs=0.01)
    assert run_model(KnownModel(directions=1))[0]["effective rank"].verdict == "fail"
    assert run_model(KnownModel(alike=True))[0]["tokens made alike"].verdict == "fail"


def test_real_network_is_read_and_left_as_it_was():
    arrays, _ = make_arrays(1, n_windows=120, n_cells=5)
    arrays = replace(arrays, sequence=np.random.default_rng(1).integers(0, 4, (120, WINDOW_BP)).astype(np.uint8))
    torch.manual_seed(1)
    model = ChromaccModel(ModelConfig(histone_marks=arrays.histone_marks, tfs=arrays.tfs, features=arrays.features,
                                      d_model=16, sequence_layers=1, sequence_heads=2, encoder_layers=2,
                                      encoder_heads=2, histone_filters=8)).train()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    predicted, _ = predict_scores(model, RegionData(arrays), np.arange(120), np.arange(5))
    found = diagnose(make_predictions(arrays, predicted), arrays=arrays, model=model)
    assert found["model reproduces predictions"].value < 1e-4
    assert set(found["tokens made alike"].detail["by_depth"]) == {"sequence 1", "encoder 1", "encoder 2"}
    assert set(found["dead modality"].detail["rms_change"]) == {"sequence", "histone", "tf", "metadata", "prior"}
    assert model.training and all(p.grad is None for p in model.parameters())
    assert hooks == sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
