"""Contrastive pretraining: its loss by hand, what it may not learn from, and that it repeats and resumes exactly."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_model import CONFIG as MODEL_CONFIG
from test_model import make_model, random_batch
from test_training import (  # noqa: F401 (fixtures)
    CONFIG, SIZES, TIMING, StopAfter, arrays, result, weights, with_garbage_in_test_rows,
)

from chromacc_lib import ChromaccError, plots, training
from chromacc_lib.callbacks import Callback, Checkpoint, EpochLine, History
from chromacc_lib.pretraining import CONTRASTS, Sides, contrast, less_mean
from chromacc_lib.training import TrainingConfig, save_model, train

PRETRAINED = replace(CONFIG, epochs=1, pretrain_epochs=2)
PARTS = ("sequence_encoder", "histone_encoder", "tf_encoder", "cell_gate", "prior_token")


@pytest.fixture(scope="module")
def pretrained(arrays):  # noqa: F811
    return train(arrays, PRETRAINED, device="cpu", sizes=SIZES)


def every(n):
    return torch.ones(n, n, dtype=torch.bool)


def figures(matching):
    return [value.item() / matching.n.item() for value in matching[:3]]


# --- the loss --------------------------------------------------------------------------------------------------


def test_the_loss_by_hand():
    """Cosines [[0.6, 0], [0.8, 1]]: by rows both find their partner, by columns the first is nearer to the second."""
    left, right = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    loss, found, chance = figures(contrast(left, right, every(2), 2.0))
    rows = [math.log(1 + math.exp(2 * (0.0 - 0.6))), math.log(1 + math.exp(2 * (0.8 - 1.0)))]
    columns = [math.log(1 + math.exp(2 * (0.8 - 0.6))), math.log(1 + math.exp(2 * (0.0 - 1.0)))]
    assert loss == pytest.approx(sum(rows + columns) / 4)
    assert (found, chance) == (0.75, 0.5)


def test_perfect_alignment_costs_nothing_and_random_embeddings_log_n():
    torch.manual_seed(0)
    one = torch.eye(64)
    assert figures(contrast(one, one, every(64), 100.0))[:2] == pytest.approx([0, 1], abs=1e-6)
    left, right = torch.randn(2, 64, 4096).unbind(0)
    loss, found, chance = figures(contrast(left, right, every(64)))
    assert loss == pytest.approx(math.log(64), abs=0.01) and found < 0.1 and chance == pytest.approx(1 / 64)


def test_only_competitors_count_and_who_has_none_is_left_out():
    """Two groups of two, one alone, one that takes no part: as the two groups by themselves."""
    torch.manual_seed(0)
    left, right = torch.randn(2, 6, 8).unbind(0)
    compete = torch.block_diag(every(2), every(2), every(1), torch.zeros(1, 1)).bool()
    together = contrast(left, right, compete, 3.0)
    apart = [contrast(left[s], right[s], every(2), 3.0) for s in (slice(0, 2), slice(2, 4))]
    assert together.n == 8 and together.by_chance == 4
    assert together.loss.item() == pytest.approx(sum(part.loss.item() for part in apart), rel=1e-5)
    nobody = contrast(left.requires_grad_(), right, torch.zeros(6, 6, dtype=torch.bool))
    nobody.loss.backward()
    assert nobody.loss == nobody.n == 0 and (left.grad == 0).all()


def test_a_mean_is_taken_off_within_its_group():
    values = torch.tensor([[1.0], [3.0], [10.0]])
    assert less_mean(values, torch.block_diag(every(2), every(1)).bool()).flatten().tolist() == [-1.0, 1.0, 0.0]


# --- what takes part, and what is learned from -------------------------------------------------------------------


def losses(batch, cells=None, model=None):
    """The two losses of a model that is not trained, with the same heads each time."""
    model = model or make_model()
    torch.manual_seed(1)
    sides = Sides(model).eval()
    cells = torch.arange(batch.prior_score.shape[1]).expand_as(batch.prior_score) if cells is None else cells
    with torch.no_grad():
        return sides(batch, cells)


def test_across_cell_types_the_locus_prior_is_not_seen():
    """Leave-one-out averages of a window rank its cell types by what was left out: they would give accessibility away."""
    batch = random_batch(b=6)
    other = replace(batch, prior=batch.prior + torch.randn(6, 4, 1, 1), prior_score=batch.prior_score + torch.randn(6, 4))
    before, after = losses(batch), losses(other)
    assert before["across_cell_types"].loss == after["across_cell_types"].loss
    assert before["across_windows"].loss != after["across_windows"].loss


def test_a_cell_type_is_not_recognised_by_what_is_the_same_in_all_of_its_windows():
    """Metadata and signals that tell cell types apart perfectly, but are the same everywhere: nothing to find."""
    batch = random_batch(b=6)
    alike = {name: getattr(batch, name)[:1].expand_as(getattr(batch, name)) for name in ("sequence", "histone", "tf", "metadata")}
    loss = losses(replace(batch, **alike))["across_cell_types"]
    assert loss.n == 2 * 6 * 4 and loss.loss.item() / 48 == pytest.approx(math.log(4), abs=0.05)
    assert losses(batch)["across_cell_types"].loss != loss.loss


def test_samples_without_one_of_their_sides_are_left_out():
    """Hide a side of window 0 in cell type 0, in each way; garbage under the mask then changes nothing."""
    batch = random_batch(b=3)
    histone, tf = batch.histone_observed.clone(), batch.tf_observed.clone()
    histone[0, 0], tf[0, 0] = False, False
    unsignalled = replace(batch, histone_observed=histone, tf_observed=tf)
    found = losses(unsignalled)
    assert (found["across_windows"].n, found["across_cell_types"].n) == (2 * 11, 2 * 11)
    assert found["across_windows"].by_chance == pytest.approx(2 * (2 * 1 / 2 + 9 * 1 / 3), rel=1e-6)
    changed = batch.histone.clone()
    changed[0, 0] += 5
    again = losses(replace(unsignalled, histone=changed))
    assert all(again[name].loss == found[name].loss for name in CONTRASTS)
    metadata_observed = batch.metadata_observed.clone()
    metadata_observed[:, 0] = False
    found = losses(replace(batch, metadata_observed=metadata_observed))
    assert (found["across_windows"].n, found["across_cell_types"].n) == (2 * 12, 2 * 9)
    no_locus = replace(batch, sequence=torch.full_like(batch.sequence, 4), prior_observed=torch.zeros(3, 4, dtype=torch.bool))
    assert [losses(no_locus)[name].n for name in CONTRASTS] == [0, 0]


def test_a_cell_type_that_is_in_one_window_only_cannot_be_set_against_others():
    """Its mean over the batch is itself."""
    found = losses(random_batch(b=2, c=2), torch.tensor([[0, 1], [0, 2]]))
    assert found["across_windows"].n == 2 * 2 and found["across_cell_types"].n == 0


def test_without_metadata_there_are_windows_to_match_and_without_signals_nothing():
    config = replace(MODEL_CONFIG, features=())
    found = losses(random_batch(config), model=make_model(config))
    assert found["across_windows"].n == 2 * 12 and found["across_cell_types"].n == 0
    with pytest.raises(ChromaccError, match="neither histone marks nor TF tracks"):
        Sides(make_model(replace(MODEL_CONFIG, histone_marks=(), tfs=())))


# --- as a part of training ---------------------------------------------------------------------------------------


def test_off_by_default_and_then_never_called(arrays, result, monkeypatch):  # noqa: F811
    assert TrainingConfig().pretrain_epochs == 0 and result.pretraining.empty
    monkeypatch.setattr(training, "pretrain", None)
    assert torch.equal(weights(result), weights(train(arrays, CONFIG, device="cpu", sizes=SIZES)))
    with pytest.raises(ChromaccError, match="pretrain_epochs=-1"):
        TrainingConfig(pretrain_epochs=-1)


def test_partners_are_found_more_often_than_by_chance(arrays):  # noqa: F811
    config = replace(CONFIG, epochs=1, pretrain_epochs=20, learning_rate=3e-3)
    rows = train(arrays, config, device="cpu", sizes=SIZES).pretraining
    assert rows["epoch"].tolist() == list(range(1, 21))
    first, last = rows.iloc[0], rows.iloc[-9:].mean()  # of a few windows: one epoch says little
    for name, times in zip(CONTRASTS, (1.4, 1.05), strict=True):
        assert last[f"{name}_accuracy"] > times * last[f"{name}_chance"]
        assert last[f"{name}_loss"] < first[f"{name}_loss"]
    assert last["validation_across_windows_chance"] == pytest.approx(2 / 18)  # 18 windows of one cell type, 9 at a time
    assert last["validation_across_windows_accuracy"] > 1.2 * 2 / 18
    assert rows["validation_across_cell_types_accuracy"].isna().all(), "one validation cell type has no rival"


def test_only_the_encoders_of_the_two_sides_are_pretrained(arrays):  # noqa: F811
    kept = {}

    class Keep(Callback):
        def on_start(self, state):
            kept["before"] = {name: p.clone() for name, p in state.model.named_parameters()}

        def on_pretraining_epoch(self, state):
            kept["after"] = {name: p.clone() for name, p in state.model.named_parameters()}
            assert all(p.grad is None for p in state.model.parameters())

    train(arrays, replace(PRETRAINED, pretrain_epochs=1), device="cpu", sizes=SIZES, callbacks=[Keep()])
    changed = {name for name, value in kept["before"].items() if not torch.equal(value, kept["after"][name])}
    assert {name.split(".")[0] for name in changed} == set(PARTS)


def test_the_same_seed_gives_the_same_weights_and_pretraining_other_ones_than_none(arrays, pretrained):  # noqa: F811
    again = train(arrays, PRETRAINED, device="cpu", sizes=SIZES)
    assert torch.equal(weights(pretrained), weights(again))
    timing = ["seconds", "samples_per_second"]
    assert pretrained.pretraining.drop(columns=timing).equals(again.pretraining.drop(columns=timing))
    none = train(arrays, replace(PRETRAINED, pretrain_epochs=0), device="cpu", sizes=SIZES)
    assert not torch.equal(weights(pretrained), weights(none))


def test_test_rows_have_no_say(arrays, pretrained):  # noqa: F811
    """Garbage in all of them changes no weight and no figure."""
    again = train(with_garbage_in_test_rows(arrays), PRETRAINED, device="cpu", sizes=SIZES)
    timing = ["seconds", "samples_per_second"]
    assert torch.equal(weights(pretrained), weights(again))
    assert pretrained.pretraining.drop(columns=timing).equals(again.pretraining.drop(columns=timing))


def test_signals_that_are_missing_everywhere_are_refused(arrays):  # noqa: F811
    nothing = {name: np.zeros_like(getattr(arrays, name)) for name in ("histone", "tf", "histone_observed", "tf_observed")}
    with pytest.raises(ChromaccError, match="in no training cell type"):
        train(replace(arrays, **nothing), PRETRAINED, device="cpu", sizes=SIZES)


def test_values_that_are_not_finite_stop_it_at_once(arrays):  # noqa: F811
    with pytest.raises(ChromaccError, match="pretraining: the gradient's norm became nan in step 1"):
        train(replace(arrays, histone=np.full_like(arrays.histone, np.inf)), PRETRAINED, device="cpu", sizes=SIZES)


class StopInPretraining(Callback):
    """The power goes out after the first epoch of pretraining."""

    def on_pretraining_epoch(self, state):
        raise KeyboardInterrupt


def test_a_run_interrupted_in_or_after_pretraining_ends_as_if_it_had_not_been(arrays, pretrained, tmp_path, monkeypatch):  # noqa: F811
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(arrays, PRETRAINED, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {}), StopInPretraining()])
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        train(arrays, PRETRAINED, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {}), StopAfter(1)])
    monkeypatch.setattr(training, "pretrain", None)  # from here on it is read, not done again
    again = Checkpoint(path, {})
    resumed = train(arrays, PRETRAINED, device="cpu", sizes=SIZES, callbacks=[again])
    assert again.resumed == "goes on at step 1 of epoch 1"
    assert torch.equal(weights(pretrained), weights(resumed))
    assert pretrained.history.drop(columns=TIMING).equals(resumed.history.drop(columns=TIMING))
    assert len(resumed.pretraining) == PRETRAINED.pretrain_epochs


def test_its_table_is_written_told_of_and_drawn(arrays, pretrained, result, tmp_path):  # noqa: F811
    told = []
    watch = [History(tmp_path / "run" / "history.csv"), EpochLine(lambda row: None, told.append)]
    train(arrays, PRETRAINED, device="cpu", sizes=SIZES, callbacks=watch)
    assert [row["epoch"] for row in told] == [1, 2] == pd.read_csv(tmp_path / "run" / "pretraining.csv")["epoch"].tolist()
    save_model(pretrained, PRETRAINED, tmp_path / "model", {}, card="")
    rows = pd.read_csv(tmp_path / "model" / "pretraining.csv")
    assert list(rows) == list(pretrained.pretraining)
    left, right = plots.plot_pretraining(rows).axes
    assert (len(left.lines), len(right.lines)) == (4, 2)  # no validation curve where one cell type has no rival
    save_model(result, CONFIG, tmp_path / "model", {}, card="")
    assert not (tmp_path / "model" / "pretraining.csv").exists()
