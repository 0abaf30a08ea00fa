"""The monitor: trainings that collapse are warned of and stopped, healthy ones are not, and what it says is one line."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from chromacc_lib.callbacks import Callback, Checkpoint
from chromacc_lib.dataset import load_arrays
from chromacc_lib.monitor import RULES, Monitor, signs, watch
from chromacc_lib.sweep import Sweep, run_sweep
from chromacc_lib.training import TrainingConfig, train

SIZES = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "encoder_heads": 4, "histone_filters": 8, "tf_hidden": 16}
CONFIG = TrainingConfig(epochs=4, batch_windows=16, cells_per_window=3)


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


def watched(arrays, stop=True, callbacks=(), **changed):
    """Train, and return the result and what was said."""
    said = []
    result = train(arrays, replace(CONFIG, **changed), device="cpu", sizes=SIZES,
                   callbacks=[*callbacks, Monitor(said.append, stop)])  # fmt: skip
    return result, said


def with_random_labels(arrays):
    """The predecessor's labels: noise around 0.5, independent of every input."""
    score = np.clip(np.random.default_rng(1).normal(0.5, 0.2, arrays.score.shape), 0, 1).astype(np.float32)
    profile = np.repeat(score[:, :, None], arrays.accessibility.shape[2], axis=2)
    return replace(arrays, score=score, label=(score > 0.5).astype(np.int8), accessibility=profile)


class Broken(Callback):
    """Breaks the model before its first step."""

    def __init__(self, how):
        self.how = how

    def on_start(self, state):
        with torch.no_grad():
            self.how(state.model)


def close_the_head(model):
    """No hidden unit of the score head is ever on: only its last bias can learn."""
    torch.nn.init.zeros_(model.score_head[0].weight)
    torch.nn.init.constant_(model.score_head[0].bias, -100.0)


def silence_histone_marks(model):
    model.histone_encoder.project.requires_grad_(False).weight.zero_()
    model.histone_encoder.project.bias.zero_()


def make_tokens_alike(model):
    """What a window's places have in common drowns what they differ in, and is not learned away."""
    model.encoder.position.requires_grad_(False)[:] = 1e4 * torch.randn(model.config.d_model)


def concentrate_attention(model):
    for block in model.encoder.blocks:
        block.attention.qkv.weight[: 2 * model.config.d_model] *= 100  # queries and keys


# --- healthy ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_healthy_training_has_no_warning_and_runs_to_its_end(arrays, seed):
    result, said = watched(arrays, seed=seed)
    assert said == [] and result.stopped == "" and len(result.history) == CONFIG.epochs
    assert watch(result.history, CONFIG).empty
    assert list(watch(result.history, CONFIG)) == ["epoch", "cause", "could also be", "seen"]


# --- collapsing, each planted for real ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_learning_rate_far_too_high_is_named_and_stopped_at_once(arrays, rate):
    result, said = watched(arrays, learning_rate=rate)
    assert len(said) == 1 and said[0].startswith("warning after epoch 1: ") and "\n" not in said[0]
    assert "likely cause: learning rate too high" in said[0]
    assert len(result.history) == 1 and "epoch 1, likely cause: learning rate too high" in result.stopped


def test_a_learning_rate_far_too_low_is_named_once_and_stopped_in_the_second_epoch(arrays):
    result, said = watched(arrays, learning_rate=1e-7)
    assert len(said) == 1 and "after epoch 1" in said[0] and "learning rate too low" in said[0]
    assert len(result.history) == 2 and "at epoch 2, likely cause: learning rate too low" in result.stopped


def test_without_being_asked_to_nothing_is_stopped(arrays):
    result, said = watched(arrays, stop=False, learning_rate=1e-7)
    assert len(said) == 1 and result.stopped == "" and len(result.history) == CONFIG.epochs


def test_labels_without_signal_are_named_beside_a_constant_output(arrays):
    result, said = watched(with_random_labels(arrays), epochs=6)
    assert "labels carry no signal about the inputs (or: constant output)" in said[0]
    assert "labels carry no signal" in result.stopped and len(result.history) < 6


@pytest.mark.parametrize("how, cause", [
    (close_the_head, "saturated head"), (silence_histone_marks, "a modality is dead"),
    (make_tokens_alike, "tokens made alike with depth"), (concentrate_attention, "attention entropy collapsed"),
])  # fmt: skip
def test_a_model_that_is_broken_inside_is_named(arrays, how, cause):
    result, said = watched(arrays, callbacks=[Broken(how)])
    assert f"likely cause: {cause}" in said[0] and cause in result.stopped


def test_loss_terms_out_of_balance_are_named(arrays):
    result, said = watched(arrays, profile_weight=100.0)
    assert "likely cause: loss terms out of balance: the score has" in said[0] and "the profile 9" in said[0]


# --- rules on rows written by hand -------------------------------------------------------------------------------


def rows(**changed):
    """Two healthy epochs; changed: values of the second."""
    healthy = {"epoch": 1, "steps": 100, "train_loss": 0.2, "train_loss_first": 0.3, "train_loss_max": 0.4, "grad_norm": 1.0,
               "grad_norm_max": 2.0, "grad_encoder": 0.5, "grad_histone_encoder": 0.1, "update_encoder": 2e-3,
               "update_histone_encoder": 2e-3, "pull_score": 1.0, "pull_profile": 2.0, "pull_label": 1.0,
               "validation_pearson": 0.8, "variance_ratio": 0.6, "departure_ratio": 0.3, "token_similarity": 0.95,
               "effective_rank": 8.0, "attention_entropy_sequence": 0.9, "attention_entropy_fusion": 0.5,
               "attention_entropy_encoder": 0.9}  # fmt: skip
    return [healthy, healthy | {"epoch": 2} | changed]


@pytest.mark.parametrize("changed, cause", [
    ({}, None),
    ({"train_loss_max": 3.0}, None),  # one bad batch, from which the epoch recovered
    ({"train_loss_max": 3.0, "train_loss": 0.5}, "learning rate too high"),
    ({"grad_norm_max": 1e4}, "exploding gradients"),
    ({"grad_histone_encoder": 1e-5}, "vanishing gradients"),
    ({"grad_histone_encoder": 0.0}, "a modality is dead"),
    ({"variance_ratio": 0.005}, "labels carry no signal about the inputs"),
    ({"variance_ratio": 0.1}, "constant output"),
    ({"departure_ratio": 0.001}, "collapse to the locus average"),
    ({"effective_rank": 1.2}, "embeddings of low effective rank"),
    ({"attention_entropy_fusion": 0.01}, "attention entropy collapsed"),
    ({"attention_entropy_encoder": 0.9999}, "attention uniform"),
])  # fmt: skip
def test_each_rule_by_hand(changed, cause):
    found = signs(rows(**changed), CONFIG)
    assert [sign.cause for sign in found] == ([] if cause is None else [cause])
    assert watch(pd.DataFrame(rows(**changed)), CONFIG)["cause"].tolist() == [sign.cause for sign in found]


def test_what_a_fault_of_the_training_does_to_the_model_is_no_cause_of_its_own():
    """Told once, although the loss comes back and the tokens stay alike; the reason to stop is what came first."""
    first = rows()[0] | {"train_loss_max": 3.0, "train_loss": 0.5, "update_encoder": 0.1, "update_histone_encoder": 0.1}
    alike = rows()[1] | {"token_similarity": 1.0}
    said, state = [], SimpleNamespace(history=[], config=CONFIG, is_first_process=True, stop="")
    for epoch, row in enumerate([first, alike, alike], 1):
        state.history.append(row | {"epoch": epoch})
        Monitor(said.append, stop=epoch == 3).on_epoch(state)
    assert len(said) == 1 and "learning rate too high" in said[0]
    assert "epoch 3, likely cause: learning rate too high" in state.stop


def test_early_divergence_is_told_from_a_rate_too_high_by_its_warm_up():
    first = rows()[0] | {"train_loss_max": 3.0, "train_loss": 0.5}
    assert signs([first], replace(CONFIG, warmup_share=0.0))[0].cause == "early divergence without warm-up"
    assert signs([first], CONFIG)[0].cause == "learning rate too high"
    thrown = first | {"update_encoder": 0.1, "update_histone_encoder": 0.1}
    assert signs([thrown], replace(CONFIG, warmup_share=0.0))[0].cause == "early divergence without warm-up"
    assert signs([thrown], replace(CONFIG, warmup_share=0.01))[0].cause == "learning rate too high"  # 4 steps


def test_a_history_without_the_vitals_is_read_and_says_nothing():
    old = [{"epoch": 1, "train_loss": 0.3, "grad_norm": 1.0, "validation_mse": 0.2, "validation_pearson": 0.5}] * 2
    assert signs(old, CONFIG) == [] and signs([], CONFIG) == []
    assert watch(pd.DataFrame(old), CONFIG).empty


def test_every_rule_names_its_source_or_what_it_asks():
    assert all("?" in rule.__doc__.splitlines()[0] for rule in RULES)


# --- resuming, sweeping ------------------------------------------------------------------------------------------


def test_a_resumed_run_warns_and_stops_where_the_whole_one_does(arrays, tmp_path):
    class PowerCut(Callback):
        def on_epoch(self, state):
            raise KeyboardInterrupt

    config, said = replace(CONFIG, learning_rate=1e-7), []
    checkpoint = Checkpoint(tmp_path / "c.pt", {})
    with pytest.raises(KeyboardInterrupt):
        train(arrays, config, device="cpu", sizes=SIZES, callbacks=[Monitor(said.append, True), checkpoint, PowerCut()])
    resumed = train(arrays, config, device="cpu", sizes=SIZES, callbacks=[Monitor(said.append, True), checkpoint])
    assert len(said) == 1 and "at epoch 2" in resumed.stopped


def test_a_sweep_has_the_warning_in_its_table_and_stops_when_asked_to(curated, tmp_path):
    base = SIZES | {"epochs": 3, "batch_windows": 16, "cells_per_window": 3}
    settings, said = {"as it is": {}, "wild": {"learning_rate": 0.3}}, []
    table = run_sweep(curated[1], Sweep(settings, (1,), base, stop_on_collapse=True), tmp_path, 1, device="cpu", say=said.append)
    table = table.set_index("setting")
    assert table.loc["as it is", ["warning", "stopped", "epochs"]].tolist() == ["", "", 3]
    assert "learning rate too high" in table["warning"]["wild"] and "collapse" in table["stopped"]["wild"]
    assert table["epochs"]["wild"] == 1 and any("heads for collapse" in line for line in said)
