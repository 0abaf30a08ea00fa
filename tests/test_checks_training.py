"""Checks of training and model: exact on histories written by hand, and on small networks that are broken on purpose."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_collapse import make_arrays, make_history, make_predictions

from chromacc_lib.batches import RegionData
from chromacc_lib.causes import CAUSES, GROUPS
from chromacc_lib.checks_history import history_checks, loss_weights
from chromacc_lib.checks_model import MODEL_NAMES, model_checks
from chromacc_lib.collapse import diagnose
from chromacc_lib.faults import STAGES, Run
from chromacc_lib.inference import predict_dataset
from chromacc_lib.model import Batch
from chromacc_lib.tables import prepare
from chromacc_lib.training import TrainingConfig, train
from chromacc_lib.zoo_training import MODEL_FAULTS, TRAINING_FAULTS

SIZES = {"d_model": 16, "sequence_layers": 1, "sequence_heads": 2, "encoder_layers": 2, "encoder_heads": 2,
         "histone_filters": 8, "histone_blocks": 1, "tf_hidden": 16, "score_hidden": 16}  # fmt: skip
FAULTS = {fault.name: fault for fault in (*TRAINING_FAULTS, *MODEL_FAULTS)}


def checked(history: pd.DataFrame, table: pd.DataFrame | None = None) -> dict:
    """The checks of a history by name; the table of predictions says nothing when not given."""
    empty = pd.DataFrame({"cell_type": "a", "window": range(4), "score": [0.0, 1, 2, 3], "predicted_score": 1.0})
    return {check.name: check for check in history_checks(history, prepare(empty if table is None else table, None))}


# --- the history, by hand ------------------------------------------------------------------------------------


def test_a_healthy_history_fails_nothing():
    steps = {"train_loss_first": [1.2, 0.7, 0.5, 0.4, 0.4, 0.4], "train_loss_max": [1.3, 0.9, 0.7, 0.6, 0.6, 0.6],
             "learning_rate_first": [1e-4, 1e-3, 9e-4, 7e-4, 4e-4, 1e-4], "grad_norm_max": [3.0, 2, 2, 2, 2, 2],
             "update_encoder": [0.01] * 6, "update_score_head": [0.3] * 6, "grad_encoder": [1.0] * 6,
             "grad_score_head": [2.0] * 6}  # fmt: skip
    found = checked(make_history(**steps))
    assert {check.verdict for check in found.values()} <= {"ok", "not run"}
    assert found["early loss spike"].value == pytest.approx(1.3 / 1.2)
    assert found["no warm-up"].value == pytest.approx(0.1)
    assert found["updates too large"].value == found["updates too small"].value == 0.01  # heads left out
    assert found["exploding gradients"].value == pytest.approx(3 / 0.9)
    assert found["vanishing gradients"].value == 0.5


@pytest.mark.parametrize("name, columns", [
    ("early loss spike", {"train_loss_first": [1.0] * 6, "train_loss_max": [9.0, 1, 1, 1, 1, 1]}),
    ("no warm-up", {"learning_rate_first": [1e-3] * 6}),
    ("updates too large", {"update_encoder": [0.1] + [0.001] * 5, "update_fusion": [0.05] + [0.001] * 5}),
    ("updates too small", {"update_encoder": [1e-6] * 6}),
    ("exploding gradients", {"grad_norm_max": [200.0, 2, 2, 2, 2, 2]}),
    ("exploding gradients", {"grad_encoder": [50.0] * 6, "grad_score_head": [1.0] * 6}),
    ("exploding gradients", {"grad_norm": [1.0, math.inf, 1, 1, 1, 1]}),
    ("vanishing gradients", {"grad_encoder": [1e-5] * 6, "grad_score_head": [1.0] * 6}),
    ("vanishing gradients", {"grad_norm": [1.0, 1e-4, 1e-5, 1e-6, 1e-6, 1e-6]}),
    ("vanishing gradients", {"grad_encoder": [0.5] * 6, "grad_sequence_encoder": [1e-12] * 6, "grad_score_head": [1.0] * 6}),
    ("divergence", {"train_loss": [1.0, 0.8, 0.9, 1.1, 1.2, 1.3]}),
])  # fmt: skip
def test_each_fault_of_a_history_fails_its_check(name, columns):
    assert checked(make_history())[name].verdict in ("ok", "not run")
    assert checked(make_history(**columns))[name].verdict == "fail"


def course(losses: list[float], rates: list[float]) -> pd.DataFrame:
    """A history of these validation losses and learning rates."""
    return pd.DataFrame({"epoch": range(1, len(losses) + 1), "train_loss": losses, "validation_mse": losses,
                         "learning_rate": rates})


@pytest.mark.parametrize("losses, rates, verdict", [
    ([1.0, 0.6, 0.5], [1e-3, 9e-4, 7e-4], "fail"),
    ([1.0, 0.6, 0.61], [1e-3, 9e-4, 7e-4], "fail"),        # the last epoch alone fell by nothing
    ([1.0, 0.6, 0.6, 0.61], [1e-3, 9e-4, 8e-4, 7e-4], "ok"),   # nothing came of two epochs
    ([1.0, 0.6, 0.5], [1e-3, 5e-4, 1e-5], "warn"),
    ([1.0, 0.6, 0.5, 0.5], [1e-3, 5e-4, 1e-4, 1e-5], "ok"),
])  # fmt: skip
def test_a_training_that_was_cut_off_is_told_from_one_that_ended(losses, rates, verdict):
    assert checked(course(losses, rates))["still improving"].verdict == verdict


def balanced(profile_weight: float, label_weight: float) -> pd.DataFrame:
    """A history whose loss is the weighted sum of three terms that fall each in its own way."""
    score, profile, label = np.array([1.0, 0.6, 0.5]), np.array([2.0, 1.9, 1.2]), np.array([0.7, 0.3, 0.25])
    return pd.DataFrame({
        "epoch": [1, 2, 3], "validation_mse": [1.0, 0.6, 0.5], "train_score": score, "train_profile": profile,
        "train_label": label, "train_loss": score + profile_weight * profile + label_weight * label,
        "pull_score": 0.01, "pull_profile": 0.02, "pull_label": 0.04})  # fmt: skip


@pytest.mark.parametrize("weights", [(0.2, 0.1), (0.0, 0.5), (0.2, 500.0)])
def test_weights_of_the_loss_are_read_from_the_history(weights):
    assert list(loss_weights(balanced(*weights)).values()) == pytest.approx([1.0, *weights], abs=1e-6)


def test_loss_balance_by_hand():
    check = checked(balanced(0.2, 0.1))["loss balance"]
    assert (check.value, check.verdict) == (pytest.approx(0.01 / (0.01 + 0.004 + 0.004)), "ok")
    assert checked(balanced(0.2, 500.0))["loss balance"].verdict == "fail"
    assert checked(balanced(0.2, 0.1).iloc[:1])["loss balance"].verdict == "not run"
    assert loss_weights(balanced(0.2, 0.1).assign(train_loss=[1.0, 9.0, 2.0])) == {}  # no weights make such a loss


def test_checkpoint_is_held_against_the_best_epoch():
    rows = pd.DataFrame({"cell_type": "a", "cell_type_split": "validation", "window": range(60),
                         "window_split": "validation", "score": np.arange(60.0)}).assign(
        predicted_score=lambda t: t["score"] + 2)  # squared error 4
    history = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [1.0, 0.9, 0.8], "validation_mse": [6.0, 2.0, 3.0]})
    check = checked(history, rows)["checkpoint matches history"]
    assert (check.value, check.verdict) == (2.0, "fail") and "best epoch (2 of 3)" in check.sentence
    assert checked(history.assign(validation_mse=4.0), rows)["checkpoint matches history"].verdict == "ok"
    broken = history.assign(validation_mse=[6.0, 2.0, math.nan])
    assert "broke off" in checked(broken, rows)["checkpoint matches history"].sentence


@pytest.mark.parametrize("shift", [0.0, 2.0, -3.0])
def test_positive_rate_is_the_shift_of_the_log_odds(shift):
    rng = np.random.default_rng(1)
    odds = rng.normal(-1, 1.5, 40_000)
    label = (rng.random(odds.size) < 1 / (1 + np.exp(-odds))).astype(int)
    table = pd.DataFrame({"cell_type": "a", "window": range(odds.size), "score": odds, "predicted_score": odds,
                          "label": label, "predicted_probability": 1 / (1 + np.exp(-odds - shift))})
    check = diagnose(table)["positive rate"]
    assert check.value == pytest.approx(shift, abs=0.05) and check.verdict == ("fail" if shift else "ok")


# --- the model, broken on purpose ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def healthy() -> Run:
    """A small model, trained for three epochs, and its predictions; marks follow the scores, and GC their mean."""
    arrays, signal = make_arrays(1, n_windows=420, n_cells=8)
    rng, gc = np.random.default_rng(1), 1 / (1 + np.exp(-2 * (signal.mean(axis=1, keepdims=True) - 1.5)))
    codes = np.where(rng.random((420, 1500)) < gc, rng.integers(1, 3, (420, 1500)), 3 * rng.integers(0, 2, (420, 1500)))
    codes = codes.astype(np.uint8)
    arrays = replace(arrays, sequence=codes)
    arrays.windows["tss_distance"] = np.float32(np.nan)
    config = TrainingConfig(epochs=3, batch_windows=16, cells_per_window=3, learning_rate=5e-3, precision="32-true",
                            motif_prior=False)
    result = train(arrays, config, "cpu", SIZES)
    return predicted(Run(arrays, config, SIZES, model=result.model, history=result.history))


def predicted(run: Run) -> Run:
    """The run with the predictions of its model."""
    return replace(run, predictions=predict_dataset(run.model, run.arrays, 32))


def broken(run: Run, name: str, strength: int = 3) -> Run:
    """The run with one of the zoo's model faults, planted in a copy of its model."""
    fault = FAULTS[name]
    copied = replace(run, model=copy.deepcopy(run.model))
    return predicted(fault.plant(copied, fault.strengths[strength - 1][1], np.random.default_rng(1)))


def inside(run: Run) -> dict:
    """The checks of the run's model by name."""
    found = model_checks(run.model, run.arrays, prepare(run.predictions, run.arrays), run.history, 1)
    return {check.name: check for check in found}


@pytest.fixture(scope="module")
def sound(healthy) -> dict:
    """The checks of the healthy model."""
    return inside(healthy)


def test_every_check_of_the_model_runs_and_the_healthy_one_is_the_best_epochs(healthy):
    healthy.model.zero_grad(set_to_none=True)
    before = [p.clone() for p in healthy.model.parameters()]
    found = inside(healthy)
    assert tuple(sorted(found)) == tuple(sorted(MODEL_NAMES)) and "not run" not in {c.verdict for c in found.values()}
    assert found["checkpoint of the best epoch"].verdict == found["model is of this history"].verdict == "ok"
    assert found["learned since initialisation"].value > 0.03
    assert found["single-batch overfit"].verdict == "ok"
    assert not healthy.model.training and all(p.grad is None for p in healthy.model.parameters())
    assert all(torch.equal(p, q) for p, q in zip(before, healthy.model.parameters()))  # a copy was overfitted


@pytest.mark.parametrize("fault, check", [
    ("constant output", "dead modality"), ("dead modality", "dead modality"), ("dominating modality", "dominating modality"),
    ("locus average only", "cell-type swap"), ("few directions", "effective rank"), ("tokens mixed", "tokens made alike"),
    ("large queries", "attention collapsed"), ("small queries", "attention uniform"),
    ("units of the heads below zero", "saturated head"),
])  # fmt: skip
def test_each_fault_of_the_model_fails_its_check(healthy, sound, fault, check):
    if "modality" not in check:  # which of them a model so small needs is its own affair
        assert sound[check].verdict in ("ok", "warn")
    found = inside(broken(healthy, fault))
    assert found[check].verdict == "fail", found[check].sentence
    assert found["model reproduces predictions"].verdict == "ok"  # the predictions are its own


def test_a_dead_modality_moves_nothing_and_the_others_do(healthy, sound):
    check = inside(broken(healthy, "dead modality", 1))["dead modality"]  # TF tracks
    before, after = (c.detail["rms_change_shuffled"] for c in (sound["dead modality"], check))
    assert after["tf"] == 0 < before["tf"] and "tf" in check.sentence.split(": ")[-1]
    assert min(value for name, value in after.items() if name != "tf") > 0


def test_a_constant_output_is_the_mean(healthy):
    values = broken(healthy, "constant output").predictions["predicted_score"]
    assert values.std() < 1e-5


def test_only_the_average_is_left_of_the_score(healthy):
    table = broken(healthy, "locus average only").predictions
    np.testing.assert_allclose(table["predicted_score"], table["average_score"], atol=1e-4)


def test_an_untrained_checkpoint_and_one_of_another_epoch_are_told(healthy):
    fault = FAULTS["early checkpoint"]
    rng = np.random.default_rng(1)
    untrained = inside(predicted(fault.plant(healthy, 0, rng)))["checkpoint of the best epoch"]
    assert untrained.verdict == "fail" and "never trained" in untrained.sentence
    first = inside(predicted(fault.plant(healthy, 1, rng)))["checkpoint of the best epoch"]
    assert healthy.history["validation_mse"].argmin() > 0
    assert (first.value, first.verdict) == (1.0, "fail") and "those of epoch 1" in first.sentence


def test_a_model_altered_after_training_is_of_no_epoch(healthy):
    altered = replace(healthy, model=copy.deepcopy(healthy.model))
    with torch.no_grad():
        for weights in altered.model.encoder.parameters():
            weights.add_(0.3 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    found = inside(predicted(altered))
    assert found["checkpoint of the best epoch"].verdict == "warn" and found["model is of this history"].verdict == "fail"


class Foreign(torch.nn.Module):
    """Somebody else's model: it gives a score from the marks, and has none of our parts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([0.2]))

    def forward(self, batch: Batch) -> object:
        output = type("Output", (), {})()
        output.score = batch.prior_score + self.weight * batch.histone[..., 0].mean(3).sum(2)
        return output


def test_a_foreign_model_says_what_it_lacks(healthy):
    found = inside(predicted_by(Foreign(), healthy))
    lacking = {name for name, check in found.items() if check.verdict == "not run"}
    assert lacking == {"saturated head", "effective rank", "tokens made alike", "attention collapsed",
                       "attention uniform", "checkpoint of the best epoch", "model is of this history",
                       "learned since initialisation", "loss at initialisation"}
    assert all(len(found[name].sentence) > len("Not run: .") for name in lacking)
    assert found["dead modality"].detail["rms_change_shuffled"]["tf"] == 0


class Weighted(torch.nn.Module):
    """A model that adds up marks, TFs, metadata, locus prior and GC content, in units of their spread, by known weights."""

    def __init__(self, run: Run, **weights: float) -> None:
        super().__init__()
        self.weights, self.unused = weights, torch.nn.Parameter(torch.zeros(1))
        parts = self.parts(RegionData(run.arrays).batch(np.arange(len(run.arrays.windows)), np.arange(4)))
        self.spread = {name: float(part[part.isfinite()].std()) for name, part in parts.items()}

    def parts(self, batch: Batch) -> dict[str, torch.Tensor]:
        """What each modality comes to, (B, C) or (B, 1)."""
        return {"histone": batch.histone[..., 0].mean((2, 3)), "tf": batch.tf[..., 0].mean((2, 3)),
                "metadata": batch.metadata.mean(2), "prior": batch.prior_score,
                "sequence": ((batch.sequence == 1) | (batch.sequence == 2)).float().mean(1)[:, None]}

    def forward(self, batch: Batch) -> object:
        parts, output = self.parts(batch), type("Output", (), {})()
        output.score = self.unused + sum(weight * parts[name] / self.spread[name]
                                         for name, weight in self.weights.items())
        return output


def test_a_modality_that_outweighs_the_others_is_told_from_others_that_are_cut_off(healthy):
    small = dict.fromkeys(("tf", "metadata", "sequence"), 0.003)
    outweighed = diagnose_model(Weighted(healthy, histone=1.0, prior=0.15, **small), healthy)
    cut_off = diagnose_model(Weighted(healthy, histone=1.0, prior=0.15, **small | {"tf": 0.0}), healthy)
    for found in (outweighed, cut_off):
        assert 0.9 < found["dominating modality"].value < 0.97 and found["dead modality"].verdict == "fail"
    assert (outweighed["dominating modality"].verdict, cut_off["dominating modality"].verdict) == ("fail", "ok")


def diagnose_model(model: torch.nn.Module, run: Run) -> dict:
    """The checks of the model alone, by name."""
    return inside(predicted_by(model, run))


def predicted_by(model: torch.nn.Module, run: Run) -> Run:
    """The run with another model and its scores."""
    windows, cells = (np.arange(n) for n in run.arrays.score.shape)
    with torch.no_grad():
        score = model(RegionData(run.arrays).batch(windows, cells)).score.numpy()
    return replace(run, model=model, predictions=make_predictions(run.arrays, score))


# --- the faults of training ----------------------------------------------------------------------------------


def test_faults_leave_what_they_were_given(healthy):
    start = replace(healthy, model=None, history=None, predictions=None)
    for fault in TRAINING_FAULTS:
        label = start.arrays.label.copy()
        if fault.stage == "training":
            planted = fault.plant(start, fault.strengths[2][1], np.random.default_rng(1))
            assert planted is not start and np.array_equal(start.arrays.label, label)


@pytest.mark.parametrize("name, check", [
    ("gradients held back", "vanishing gradients"), ("rate too low", "updates too small"),
    ("weights start too large", "exploding gradients"), ("label outweighs the score", "loss balance"),
])  # fmt: skip
def test_each_fault_of_training_shows_in_its_history(healthy, name, check):
    fault = FAULTS[name]
    run = fault.plant(replace(healthy, model=None, history=None, predictions=None), fault.strengths[2][1],
                      np.random.default_rng(1))
    history = train(run.arrays, run.config, "cpu", dict(run.sizes), [make() for make in run.callbacks]).history
    assert checked(healthy.history)[check].verdict != "fail"
    assert checked(history)[check].verdict == "fail", checked(history)[check].sentence


def test_a_training_is_stopped_in_its_course(healthy):
    fault = FAULTS["stopped early"]
    run = fault.plant(replace(healthy, model=None, history=None, predictions=None), 1, np.random.default_rng(1))
    result = train(run.arrays, run.config, "cpu", dict(run.sizes), [make() for make in run.callbacks])
    assert len(result.history) == 1 and result.stopped == "stopped after 1 epochs"
    assert result.history["learning_rate"].iloc[0] > 0.1 * run.config.learning_rate


# --- the list ------------------------------------------------------------------------------------------------


def test_causes_and_faults_use_the_same_names(healthy):
    names = {cause.name for cause in CAUSES}
    known = {check.name for check in diagnose(healthy.predictions, arrays=healthy.arrays, model=healthy.model,
                                              history=healthy.history).checks}
    for cause in CAUSES:
        assert cause.group in GROUPS
        assert {*cause.needs, *cause.supports, *cause.unless, *cause.only_without} <= known, cause.name
    for fault in FAULTS.values():
        assert fault.cause in names and fault.stage in STAGES and len({word for word, _ in fault.strengths}) == 3
        group = next(cause.group for cause in CAUSES if cause.name == fault.cause)
        assert fault.group == group
