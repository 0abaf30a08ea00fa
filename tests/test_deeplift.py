"""What is handed out adds up; what is scored with cached tokens is what the model scores; signals, weights, contributions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from chromacc_lib import ChromaccError, attention, contributions, deeplift, faithfulness, signal_attribution
from chromacc_lib.attribution import shuffled_references
from chromacc_lib.batches import RegionData, without
from chromacc_lib.dataset import load_arrays
from chromacc_lib.inference import predict_batch
from chromacc_lib.model import ChromaccModel, Output
from chromacc_lib.scoring import ModelScorer, one_hot, score_all
from chromacc_lib.training import model_config

SMALL = {"d_model": 16, "sequence_layers": 1, "sequence_heads": 2, "encoder_layers": 2, "encoder_heads": 2,
         "histone_filters": 8, "histone_blocks": 1, "tf_hidden": 8, "score_hidden": 8}  # fmt: skip
PLACES = (np.array([0, 3, 5]), np.array([[0, 1], [2, 3], [4, 0]]))


@pytest.fixture(scope="module")
def world(curated):
    """A tiny dataset with a model that was never trained, whose head does not start at zero."""
    arrays = load_arrays(curated[1])
    torch.manual_seed(0)
    model = ChromaccModel(model_config(arrays, **SMALL)).eval()
    nn.init.normal_(model.score_head[-1].weight)
    return arrays, model


def codes_at(arrays, windows=PLACES[0]):
    return arrays.sequence[windows]


# --- scoring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), ("histone", "tf"), ("prior",), ("cell",)])
def test_cached_tokens_give_the_scores_of_the_whole_model(world, hidden):
    arrays, model = world
    data = RegionData(arrays)
    batch = data.batch(*PLACES)
    for name in hidden:
        batch = without(batch, name)
    expected = predict_batch(model, batch).score.numpy()
    scorer = ModelScorer(model, data, *PLACES, hidden, at_once=2)
    np.testing.assert_allclose(score_all(scorer.by_cell_type, codes_at(arrays), np.arange(3)), expected, atol=1e-5)
    np.testing.assert_allclose(score_all(scorer.by_cell_type, one_hot(codes_at(arrays)), np.arange(3), 2), expected, atol=1e-5)


def test_only_what_can_be_missing_can_be_hidden(world):
    arrays, model = world
    for name in ("sequence", "H3K27ac"):
        with pytest.raises(ChromaccError, match=f"cannot hide {name}; allowed: histone"):
            ModelScorer(model, RegionData(arrays), *PLACES, (name,))


# --- DeepLIFT ----------------------------------------------------------------------------------------------------


def test_deeplift_adds_up_and_is_the_same_in_any_batch(world):
    arrays, model = world
    scorer, codes = ModelScorer(model, RegionData(arrays), *PLACES), codes_at(arrays)
    found, usable = deeplift.deeplift(scorer, codes, n_references=3, seed=1, at_once=7)
    assert usable.all() and found.relative_delta.max() < 1e-4 and np.abs(found.difference).max() > 1e-4
    references = shuffled_references(codes, 3, 1)
    before = score_all(scorer, references.flatten(0, 1), np.repeat(np.arange(3), 3)).reshape(3, 3).mean(1)
    np.testing.assert_allclose(found.contribution.sum(1), score_all(scorer, codes, np.arange(3)) - before, atol=1e-5)
    again, _ = deeplift.deeplift(scorer, codes, n_references=3, seed=1, at_once=64)
    np.testing.assert_allclose(again.contribution, found.contribution, atol=1e-6)
    np.testing.assert_allclose(found.hypothetical.sum(-1), 0, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters()) and not model.training


def test_deeplift_gives_nothing_where_nothing_differs(world):
    arrays, model = world
    codes = codes_at(arrays).copy()
    codes[1], codes[2, 100:200] = 4, 4
    found, _ = deeplift.deeplift(ModelScorer(model, RegionData(arrays), *PLACES), codes, 2)
    assert (found.contribution[1] == 0).all() and (found.contribution[2, 100:200] == 0).all()
    assert (found.corrected(codes).contribution[2, 100:200] == 0).all() and np.abs(found.contribution[0]).max() > 0


def test_windows_that_do_not_add_up_are_refused(world, monkeypatch):
    """A layer without a rule: the square of the tokens, computed where no module is."""
    arrays, model = world
    scorer, codes = ModelScorer(model, RegionData(arrays), *PLACES), codes_at(arrays)
    heads = ChromaccModel.heads
    monkeypatch.setattr(ChromaccModel, "heads", lambda self, tokens, batch: heads(self, 20 * tokens**3, batch))
    found, usable = deeplift.deeplift(scorer, codes, 2, max_delta=float(np.inf))
    assert usable.all() and found.relative_delta.min() > 0.001
    with pytest.raises(ChromaccError, match="all 3 windows are refused"):
        deeplift.deeplift(scorer, codes, 2, max_delta=float(found.relative_delta.min()) / 2)
    _, some = deeplift.deeplift(scorer, codes, 2, max_delta=float(np.sort(found.relative_delta)[1]))
    assert some.sum() == 2 and not some[found.relative_delta.argmax()]


# --- signals -----------------------------------------------------------------------------------------------------


class MarkModel(nn.Module):
    """score = 2 x first statistic of the first mark in bin 3, plus the locus prior."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch, return_attention=False):
        middle = batch.histone[:, :, 0, :, 0]
        score = 2 * middle[..., 3] + batch.prior_score
        return Output(score, score, batch.accessibility)


def test_signals_of_a_linear_model_are_exact(world):
    arrays = world[0]
    windows, cells = np.arange(4), np.arange(3)
    found = signal_attribution.attribute_signals(MarkModel(), RegionData(arrays), windows, cells, n_steps=2, at_once=3)
    z = arrays.histone[:4, :3, 0]  # (W, C, T, 3)
    expected = z[..., 3, 0]  # of bin 3 on one strand, and of the bin that lies there on the other
    other = arrays.histone[:4, :3, 0, ::-1][..., 3, 0]
    np.testing.assert_allclose(found.contribution[:, :, 0, 3], expected, atol=1e-5)
    np.testing.assert_allclose(found.contribution[:, :, 0, z.shape[2] - 4], other, atol=1e-5)
    assert found.relative_delta.max() < 1e-5
    second = arrays.histone_observed[:4, :3, 1]
    assert (np.isnan(found.contribution[:, :, 1, 0]) == ~second).all() and not second[:, 1].any(), "B lacks H3K4me3"
    occluded = signal_attribution.occlude_signals(MarkModel(), RegionData(arrays), windows, cells, at_once=3)
    np.testing.assert_allclose(occluded, found.contribution, atol=1e-5)


# --- contributions -----------------------------------------------------------------------------------------------


def test_shapley_values_add_up_and_go_to_what_is_used(world):
    arrays = world[0]
    windows = np.flatnonzero(np.isfinite(arrays.score).all(1))[:12]
    table = contributions.shapley_contributions(MarkModel(), arrays, windows, np.array([0, 2]), n_orders=4, at_once=5)
    sums = table.groupby("cell_type")[["contribution"]].sum()["contribution"]
    whole = table.drop_duplicates("cell_type").set_index("cell_type")
    np.testing.assert_allclose(sums, whole["explained"] - whole["explained_without"], atol=1e-4)
    worth = table.groupby("input")["contribution"].apply(lambda x: np.abs(x).max())
    assert set(worth[worth > 1e-6].index) == {arrays.histone_marks[0], "prior"}
    with pytest.raises(ChromaccError, match="even number of orders"):
        contributions.shapley_contributions(MarkModel(), arrays, windows, np.array([0]), n_orders=3)


def test_inputs_that_say_the_same_share_it(world):
    """Two marks of equal content: masking one of them alone costs little or nothing, and each has half of the Shapley value."""
    arrays = world[0]
    marks = np.repeat(arrays.score[:, :, None, None, None], 2, axis=2)  # the score itself, twice
    same = replace(arrays, histone=np.broadcast_to(marks, arrays.histone.shape).astype(np.float32).copy(),
                   histone_observed=np.ones_like(arrays.histone_observed))

    class Either(MarkModel):
        def forward(self, batch, return_attention=False):
            seen = batch.histone_observed.sum(-1).clamp(min=1)
            score = batch.histone[..., 0, 0].sum(-1) / seen
            return Output(score, score, batch.accessibility)

    windows = np.flatnonzero(np.isfinite(arrays.score).all(1))[:12]
    masked = contributions.modality_contributions(Either(), same, windows).set_index("input")["rise"]
    assert masked[list(arrays.histone_marks)].abs().max() < 1e-6
    shares = contributions.shapley_contributions(Either(), same, windows, np.arange(2), n_orders=2).groupby("input")["contribution"].mean()
    first, second = shares[list(arrays.histone_marks)]
    assert first == pytest.approx(second, abs=1e-4) and first > 0.3


# --- faithfulness ------------------------------------------------------------------------------------------------


def test_deletion_and_insertion_know_the_right_order():
    rng = np.random.default_rng(0)
    codes, weights = rng.integers(0, 4, (8, 300)).astype(np.uint8), rng.normal(size=(300, 4)) ** 3
    weights = torch.from_numpy((weights - weights.mean(1, keepdims=True)).astype(np.float32))
    linear = lambda x, context: (x * weights).sum((1, 2))  # noqa: E731
    right = (one_hot(codes) * weights).sum(-1).numpy()
    table = faithfulness.deletion_insertion(linear, codes, right, seed=1).table().set_index("curve")
    assert (table["low"] > 0).all() and (table["p_value"] < 1e-4).all()
    wrong = faithfulness.deletion_insertion(linear, codes, rng.permuted(right, axis=1), seed=1).table()
    assert (wrong["p_value"] > 0.01).all()
    reversed_ = faithfulness.deletion_insertion(linear, codes, -right, seed=1).table()
    assert (reversed_["value"] < 0).all()


def test_a_scrambled_model_fails_the_sanity_check(world):
    arrays, model = world
    before = {name: weights.clone() for name, weights in model.named_parameters()}
    scrambled = faithfulness.weights_randomised(model, seed=1)
    assert all(torch.equal(before[name], weights) for name, weights in model.named_parameters())
    for name, weights in scrambled.named_parameters():
        assert torch.equal(weights.flatten().sort().values, before[name].flatten().sort().values)
    codes, windows = arrays.sequence[:12], (np.arange(12), np.zeros((12, 1), int))
    of = {name: deeplift.deeplift(ModelScorer(one, RegionData(arrays), *windows), codes, 2, seed)[0].corrected(codes).contribution
          for name, one, seed in (("own", model, 1), ("again", model, 5), ("scrambled", scrambled, 1))}
    same, other = (faithfulness.agreement(of["own"], of[name], seed=1) for name in ("again", "scrambled"))
    assert same["value"] > 0.3 > abs(other["value"]) and abs(same["chance"]) < 0.2


def test_agreement_by_hand():
    one = np.arange(12.0).reshape(3, 4) ** 2
    one[1] = one[1, ::-1]
    assert faithfulness.agreement(one, one, seed=0)["value"] == 1 and faithfulness.agreement(one, one, seed=0)["chance"] < 1
    assert np.isnan(faithfulness.agreement(one, np.zeros((3, 4)), seed=0)["value"])


# --- attention ---------------------------------------------------------------------------------------------------


def test_attention_that_flows_adds_up(world):
    arrays, model = world
    flow = attention.attention_flow(model, RegionData(arrays), *PLACES, at_once=2)
    assert flow.by_bin.shape == (10, 6) and flow.by_bin.sum() == pytest.approx(1)
    assert flow.sequence.sum() == pytest.approx(flow.by_bin[:, 0].sum())


def test_asking_for_weights_changes_no_output(world):
    arrays, model = world
    batch = RegionData(arrays).batch(np.arange(4), np.arange(3))
    with torch.no_grad():
        plain, asked = model(batch), model(batch, return_attention=True)
    for name in ("score", "logit", "profile"):
        torch.testing.assert_close(getattr(plain, name), getattr(asked, name), atol=1e-6, rtol=0)
    assert plain.attention is None and set(asked.attention) == {"sequence", "fusion", "encoder"}


def test_the_table_of_curves_is_in_the_unit_of_the_score():
    shares = np.array(faithfulness.SHARES)
    flat = np.tile(np.linspace(1, 0, len(shares)), (3, 1)) + np.array([[0.0], [0.1], [0.2]])
    curves = faithfulness.Curves(shares, flat - 0.5 + np.array([[0.0], [0.01], [0.02]]), flat, flat, flat)
    table = curves.table().set_index("curve")
    assert table.loc["deletion", "value"] == pytest.approx(0.49) and isinstance(table, pd.DataFrame)
