"""One window closely: what is shown is what was measured and predicted, and a change changes what it says and no more."""

import numpy as np
import pytest
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import smoothed_gradients
from chromacc_lib.batches import RegionData, without
from chromacc_lib.dataset import load_arrays, read_normalization
from chromacc_lib.inference import predict_batch, predict_scores
from chromacc_lib.jaspar import matrix_by_id
from chromacc_lib.look import Change, WhatIf, best_match, break_motif, insert_motif, matrix_of, place_of, view_window
from chromacc_lib.scoring import ModelScorer
from chromacc_lib.training import build_model

SIZES = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 2, "encoder_heads": 4, "histone_filters": 8, "tf_hidden": 16}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture(scope="module")
def model(arrays):
    torch.manual_seed(0)
    return build_model(arrays, True, SIZES)[0].eval()


@pytest.fixture
def ask(model, curated):
    return WhatIf(model, curated[1])


# --- as it is ------------------------------------------------------------------------------------------------


def test_a_view_holds_what_the_dataset_and_the_model_say(model, arrays):
    data, window, cell = RegionData(arrays), 5, arrays.cell_types["cell_type"].tolist().index("C")
    view = view_window(model, data, arrays, window, "C")
    profiles = view.profiles
    assert (profiles["start"].iloc[0], profiles["end"].iloc[-1], len(profiles)) == (0, 1000, 10)
    assert np.array_equal(profiles["measured"], arrays.accessibility[window, cell])
    assert np.array_equal(profiles["average"], arrays.prior_profile[window, cell, :, 0])
    score, probability = predict_scores(model, data, np.array([window]), np.array([cell]))
    assert view.scores["predicted"] == pytest.approx(float(score[0, 0]), abs=1e-6)
    assert view.probability == pytest.approx(float(probability[0, 0]), abs=1e-6)
    assert (view.scores["measured"], view.scores["average"]) == (arrays.score[window, cell], arrays.prior_score[window, cell])
    scorer = ModelScorer(model, data, np.array([window]), np.array([[cell]]))
    assert np.array_equal(view.contribution, smoothed_gradients(scorer, arrays.sequence[[window]]).contribution[0])
    assert view.title.startswith(f"C, {arrays.windows['chrom'].iloc[window]}:")


def test_a_track_that_was_not_measured_is_missing_in_the_view(model, arrays):
    tracks = view_window(model, RegionData(arrays), arrays, 0, "B").tracks
    assert tracks.columns.tolist() == [*arrays.histone_marks, *arrays.tfs]
    assert tracks["H3K4me3"].isna().all() and tracks.drop(columns="H3K4me3").notna().all().all()


def test_what_is_not_there_is_refused_by_name(model, arrays):
    with pytest.raises(ChromaccError, match="no cell type 'Z'.*has A, B, C"):
        view_window(model, RegionData(arrays), arrays, 0, "Z")
    with pytest.raises(ChromaccError, match=f"windows 0 to {len(arrays.windows) - 1}"):
        view_window(model, RegionData(arrays), arrays, len(arrays.windows), "A")


def test_simulated_data_are_called_so(arrays):
    assert place_of(arrays.windows, 0, True) == place_of(arrays.windows, 0, False) + ", simulated"


# --- as it is not --------------------------------------------------------------------------------------------


def test_without_a_change_it_predicts_what_every_prediction_does(model, arrays, ask):
    for window in (0, 7):
        score, probability = predict_scores(model, RegionData(arrays), np.array([window]), np.arange(len(ask.cell_types)))
        now = ask.predict(window)
        assert now.score == pytest.approx(score[0], abs=1e-5) and now.probability == pytest.approx(probability[0], abs=1e-5)
        assert now.profile.shape == (6, 10)


def test_a_share_of_a_signal_is_taken_in_file_units_before_it_is_scaled(ask, curated):
    one = ask.window(3)
    changed = ask._changed(one, Change({"H3K27ac": 0.5}))
    before, after = (each["histone"].sel(histone_mark="H3K27ac") for each in (one, changed))
    for statistic, factor in (("mean", 0.5), ("variance", 0.25), ("max", 0.5)):
        assert np.allclose(after.sel(statistic=statistic), factor * before.sel(statistic=statistic), equal_nan=True)
    assert changed["histone"].dims == one["histone"].dims
    assert changed["histone"].sel(histone_mark="H3K4me3").equals(one["histone"].sel(histone_mark="H3K4me3"))
    assert changed["tf"] is one["tf"] or changed["tf"].equals(one["tf"])
    assert read_normalization(curated[1]) == ask.normalization


def test_a_signal_moves_the_cell_types_that_have_the_track_and_no_other(ask):
    before, after = ask.predict(3), ask.predict(3, Change({"H3K4me3": 0.0}))
    moved = (before.score != after.score).tolist()
    assert moved == [name != "B" for name in ask.cell_types], "B has no H3K4me3"
    assert np.array_equal(ask.predict(3, Change({"H3K4me3": 1.0})).score, before.score)


@pytest.mark.parametrize("name, modality, index", [("CTCF", "tf", 0), ("H3K4me3", "histone", 1), ("cell", "cell", None),
                                                   ("prior", "prior", None), ("sequence", "sequence", None)])
def test_what_is_hidden_is_as_if_it_had_not_been_measured(model, arrays, ask, name, modality, index):
    batch = without(RegionData(arrays).batch(np.array([4]), np.arange(6)), modality, index)
    expected = predict_batch(model, batch).score[0].numpy()
    assert ask.predict(4, Change(hidden=(name,))).score == pytest.approx(expected, abs=1e-5)
    assert not np.allclose(ask.predict(4).score, expected, atol=1e-7)


def test_another_sequence_is_read_in_its_place(ask, arrays):
    assert np.array_equal(ask.sequence(2), arrays.sequence[2])
    own, other = ask.predict(2), ask.predict(2, Change(sequence=ask.sequence(9)))
    assert not np.allclose(own.score, other.score, atol=1e-7)
    assert np.array_equal(ask.predict(2, Change(sequence=ask.sequence(2))).score, own.score)
    ask.sequence(2)[:] = 4  # a copy: what is kept of the window is not changed
    assert np.array_equal(ask.predict(2).score, own.score)


@pytest.mark.parametrize("change, words", [
    (Change({"H3K9ac": 0.5}), "no track 'H3K9ac' .tracks: H3K27ac, H3K4me3, CTCF"),
    (Change({"CTCF": -0.1}), "CTCF: a share of -0.1"), (Change({"CTCF": float("nan")}), "a share of nan"),
    (Change(hidden=("luck",)), "no input 'luck' to hide"),
    (Change(sequence=np.zeros(999, np.uint8)), r"\(999,\); needed: uint8 \(1000,\)"),
])  # fmt: skip
def test_a_change_that_cannot_be_made_is_refused(ask, change, words):
    with pytest.raises(ChromaccError, match=words):
        ask.predict(0, change)


def test_a_window_that_is_not_there_is_refused(ask):
    with pytest.raises(ChromaccError, match="window -1: the dataset has windows"):
        ask.predict(-1)


def test_the_model_is_left_in_its_mode(ask, model):
    model.train()
    first = ask.predict(1).score
    assert model.training and np.array_equal(first, ask.predict(1).score), "no dropout while it is asked"
    model.eval()


# --- motifs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_motif_is_found_where_it_was_put_and_gone_when_it_was_broken(strand):
    matrix, codes = matrix_by_id("MA0139.1"), RNG.integers(0, 4, 600).astype(np.uint8)
    new, put = insert_motif(codes, matrix, 300, strand)
    assert (put.start, put.end, put.strand) == (291, 310, strand)
    assert np.array_equal(new[:291], codes[:291]) and np.array_equal(new[310:], codes[310:])
    found = best_match(new, matrix)
    assert found[:3] == put[:3] and found.bits == pytest.approx(put.bits)
    broken, where = break_motif(new, matrix)
    assert where == found and np.array_equal(np.flatnonzero(broken != new), np.arange(291, 310))
    assert best_match(broken, matrix).bits < found.bits - 10


@pytest.mark.parametrize("centre, start", [(0, 0), (3, 0), (597, 594), (600, 594)])
def test_near_an_end_a_motif_is_moved_inwards(centre, start):
    assert insert_motif(np.zeros(600, np.uint8), matrix_of("GATAAG"), centre)[1][:2] == (start, start + 6)


def test_the_other_strand_is_the_reverse_complement():
    forward, backward = (insert_motif(np.full(10, 4, np.uint8), matrix_of("GATAAG"), 5, s)[0][2:8] for s in "+-")
    assert "".join("ACGT"[b] for b in forward) == "GATAAG" and "".join("ACGT"[b] for b in backward) == "CTTATC"


def test_unknown_bases_match_nothing():
    codes = np.full(50, 4, np.uint8)
    codes[20:26] = [2, 0, 3, 0, 0, 2]
    assert best_match(codes, matrix_of("GATAAG"))[:3] == (20, 26, "+")


def test_a_motif_is_a_tf_or_bases():
    assert np.array_equal(matrix_of("ctcf"), matrix_of("CTCF")) and matrix_of("CTCF").shape[1] == 4
    assert np.array_equal(matrix_of(" acgt "), np.eye(4))
    for wrong in ("NOSUCHTF", "ACG", ""):
        with pytest.raises(ChromaccError, match="neither a TF of JASPAR"):
            matrix_of(wrong)
    with pytest.raises(ChromaccError, match="6 bp does not fit into a sequence of 5 bp"):
        best_match(np.zeros(5, np.uint8), matrix_of("GATAAG"))
