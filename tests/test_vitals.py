"""Vital signs: exact on what is written by hand, the same for a model and its history, and they change nothing."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from chromacc_lib import vitals
from chromacc_lib.batches import RegionData
from chromacc_lib.callbacks import Callback, Checkpoint
from chromacc_lib.dataset import load_arrays
from chromacc_lib.training import TrainingConfig, build_model, train, validation_rows

SIZES = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 2, "encoder_heads": 4, "histone_filters": 8, "tf_hidden": 16}
CONFIG = TrainingConfig(epochs=2, batch_windows=16, cells_per_window=3)
EVERY_EPOCH = [
    "variance_ratio", *(f"update_{name}" for name in vitals.BRANCHES), "attention_entropy_sequence",
    "attention_entropy_fusion", "attention_entropy_encoder", "effective_rank", "token_similarity", "train_loss_first",
    "train_loss_max", "grad_norm_max", "clipped_share", "departure_ratio", "departure_pearson",
]  # fmt: skip


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture
def model(arrays):
    torch.manual_seed(0)
    return build_model(arrays, False, SIZES)[0].eval()


def look(model, arrays):
    return vitals.model_vitals(model, RegionData(arrays), np.arange(12), np.arange(4))


# --- by hand ---------------------------------------------------------------------------------------------------


def test_effective_rank_and_token_similarity_by_hand():
    axes = np.concatenate([np.eye(4), -np.eye(4)])
    assert vitals.effective_rank(axes)[0] == pytest.approx(4)
    assert vitals.effective_rank(np.outer(np.arange(5.0), [1, 2]) + 7)[0] == pytest.approx(1)
    assert vitals.effective_rank(np.ones((5, 3)))[0] == 0
    assert vitals.token_similarity(torch.eye(3)[None]) == pytest.approx(0)
    assert vitals.token_similarity(torch.ones(2, 3, 4)) == pytest.approx(1)


def test_attention_entropy_by_hand():
    weights = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert vitals.attention_entropy(weights).tolist() == pytest.approx([1, 0, 0.5])
    counts = vitals.attention_entropy(weights, torch.tensor([4, 1, 2]))  # a single key leaves no choice
    assert counts[[0, 2]].tolist() == pytest.approx([1, 1]) and counts[1].isnan()


def test_relative_updates_by_hand(model):
    before = vitals.weights_by_branch(model)
    with torch.no_grad():
        for parameter in model.fusion.parameters():
            parameter *= 1.01
    moved = vitals.relative_updates(model, before)
    assert float(moved["fusion"]) == pytest.approx(0.01, rel=1e-4)
    assert all(float(moved[name]) == 0 for name in vitals.BRANCHES if name != "fusion")
    torch.nn.init.zeros_(model.prior_token.weight)
    torch.nn.init.zeros_(model.prior_token.bias)
    assert float(vitals.relative_updates(model, vitals.weights_by_branch(model))["prior_token"]) == 0
    model.tf_encoder = None
    assert math.isnan(vitals.relative_updates(model, vitals.weights_by_branch(model))["tf_encoder"])


@pytest.mark.parametrize("n_steps, sampled", [(3, 3), (8, 8), (80, 8), (87, 9)])
def test_about_eight_steps_of_an_epoch_are_measured(n_steps, sampled):
    assert sum(vitals.is_sampled(index, n_steps) for index in range(n_steps)) == sampled and vitals.is_sampled(0, n_steps)


# --- of a model whose fault was planted --------------------------------------------------------------------------


def test_attention_of_one_key_and_of_all_alike_is_seen(model, arrays):
    attention = model.encoder.blocks[0].attention
    healthy = look(model, arrays)
    assert 0.5 < healthy["attention_entropy_encoder"] <= 1
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.attention.qkv.weight[: 2 * attention.out.in_features] *= 100  # queries and keys
    assert look(model, arrays)["attention_entropy_encoder"] < 0.25
    with torch.no_grad():
        model.fusion.query.weight.zero_()
        model.fusion.query.bias.zero_()
    assert look(model, arrays)["attention_entropy_fusion"] == pytest.approx(1, abs=1e-6)


def test_modalities_that_a_row_lacks_do_not_count(model, arrays):
    """Only what a row has counts: hiding three of five modalities leaves an even choice among the others even."""
    with torch.no_grad():
        model.fusion.query.weight.zero_()
        model.fusion.query.bias.zero_()
    hidden = replace(arrays, histone_observed=np.zeros_like(arrays.histone_observed),
                     tf_observed=np.zeros_like(arrays.tf_observed))  # fmt: skip
    assert look(model, hidden)["attention_entropy_fusion"] == pytest.approx(1, abs=1e-6)


def test_embeddings_of_one_direction_and_tokens_made_alike_are_seen(model, arrays):
    healthy = look(model, arrays)
    assert healthy["effective_rank"] > 3 and healthy["token_similarity"] < 0.999
    with torch.no_grad():
        model.encoder.norm.weight[1:] = 0
    assert look(model, arrays)["effective_rank"] == pytest.approx(1, abs=0.01)
    model.encoder.blocks[-1].register_forward_hook(lambda m, i, output: (output[0].mean(1, True).expand_as(output[0]), output[1]))
    assert look(model, arrays)["token_similarity"] == pytest.approx(1, abs=1e-5)


# --- in training -------------------------------------------------------------------------------------------------


class Kept(Callback):
    """Keeps the figures of the steps."""

    def __init__(self):
        self.steps = []

    def on_step(self, state):
        self.steps.append({"epoch": state.epoch} | state.steps[-1])


def test_each_epoch_has_its_vitals_and_they_are_those_of_the_kept_model(arrays):
    kept = Kept()
    result = train(arrays, replace(CONFIG, epochs=1), device="cpu", sizes=SIZES, callbacks=[kept])
    row, steps = result.history.iloc[0], pd.DataFrame(kept.steps)
    assert np.isfinite(row[EVERY_EPOCH].astype(float)).all()
    chosen = vitals.Vitals.of(RegionData(arrays), *validation_rows(arrays, CONFIG.validation_windows))
    again = chosen(result.model)
    assert {name: row[name] for name in again} == pytest.approx(again, rel=1e-5)
    assert row["train_loss_first"] == steps["train_loss"].iloc[0] and row["train_loss_max"] == steps["train_loss"].max()
    assert row["grad_norm_max"] == steps["grad_norm"].max()
    assert row["clipped_share"] == (steps["grad_norm"] > CONFIG.clip_norm).mean()
    assert row["update_fusion"] == pytest.approx(np.nanmean(steps["update_fusion"]))
    assert row["variance_ratio"] == pytest.approx((row["prediction_std"] / row["label_std"]) ** 2)


def test_a_higher_learning_rate_shows_in_the_updates(arrays):
    slow, fast = (train(arrays, replace(CONFIG, epochs=1, learning_rate=rate), device="cpu", sizes=SIZES).history.iloc[0]
                  for rate in (1e-5, 1e-3))  # fmt: skip
    assert 30 < fast["update_encoder"] / slow["update_encoder"] < 300


def test_a_checkpoint_from_before_the_vitals_goes_on(arrays, tmp_path):
    """What an earlier version saved: rows of steps and epochs without the columns."""
    path = tmp_path / "checkpoint.pt"

    class PowerCut(Callback):
        def on_step(self, state):
            if state.epoch == 2 and len(state.steps) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {}, every_steps=1), PowerCut()])
    saved = torch.load(path, weights_only=True)
    assert saved["epoch"] == 2 and saved["steps"]
    later = {"variance_ratio", "effective_rank", "token_similarity", "train_loss_first"}
    later |= {name for row in saved["history"] for name in row if name.startswith(("update_", "attention_", "departure_"))}
    for name in ("history", "steps"):
        saved[name] = [{key: value for key, value in row.items() if key not in later} for row in saved[name]]
    torch.save(saved, path)
    history = train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {})]).history
    assert history["epoch"].tolist() == [1, 2]
    assert np.isnan(history["effective_rank"].iloc[0]) and np.isfinite(history[EVERY_EPOCH].iloc[1].astype(float)).all()
