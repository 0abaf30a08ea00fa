"""Training, batches and inference on a tiny curated dataset: what is fitted, what is not, and that it repeats."""

import json
import math
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, drop_inputs, mask_accessibility, region_batches, shift_bins
from chromacc_lib.callbacks import Callback, Checkpoint, EarlyStopping, EpochLine, History
from chromacc_lib.dataset import load_arrays
from chromacc_lib.devices import choose_device, choose_precision, device_words, start_fabric
from chromacc_lib.inference import complete_profiles, load_model, predict_dataset, predict_scores
from chromacc_lib.training import (
    _ahead, _learning_rate, _require_enough, _require_same_place, _Step, TrainingConfig, averaged, build_model,
    save_model, train,
)  # fmt: skip

SIZES = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "encoder_heads": 4, "histone_filters": 8, "tf_hidden": 16}
CONFIG = TrainingConfig(epochs=2, batch_windows=16, cells_per_window=3)


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture(scope="module")
def result(arrays):
    return train(arrays, CONFIG, device="cpu", sizes=SIZES)


def weights(result):
    return torch.cat([p.flatten() for p in result.model.parameters()])


# --- batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "sizes"), [(64, [32, 32]), (70, [32, 38]), (90, [32, 32, 26]), (5, [5])])
def test_an_epoch_holds_every_window_once(n, sizes):
    batches = list(region_batches(np.arange(100, 100 + n), np.array([2, 4, 5, 9]), 32, 3, np.random.default_rng(0)))
    assert [len(w) for w, _ in batches] == sizes
    assert sorted(np.concatenate([w for w, _ in batches])) == list(range(100, 100 + n))
    for _, cells in batches:
        assert cells.shape[1] == 3 and set(cells.ravel()) <= {2, 4, 5, 9}
        assert all(len(set(row)) == 3 for row in cells)


def test_a_batch_holds_what_the_arrays_hold(arrays):
    data = RegionData(arrays)
    batch, target = data.batch(np.array([3, 1]), np.array([[0, 2], [5, 1]])), data.target(np.array([3, 1]), np.array([[0, 2], [5, 1]]))
    assert np.array_equal(batch.sequence, arrays.sequence[[3, 1]])
    assert np.array_equal(batch.histone[1, 0], arrays.histone[1, 5]) and np.array_equal(batch.tf[0, 1], arrays.tf[3, 2])
    assert np.array_equal(target.score, arrays.score[[[3, 3], [1, 1]], [[0, 2], [5, 1]]])
    assert not batch.accessibility_observed.any() and (batch.accessibility == 0).all()


def test_masking_reveals_the_stated_shares(arrays):
    data, rng = RegionData(arrays), np.random.default_rng(0)
    windows, cells = np.arange(30), np.arange(6)
    batch, target = data.batch(windows, cells), data.target(windows, cells)
    assert not mask_accessibility(batch, target, 1.0, 0.5, rng).accessibility_observed.any()
    half = mask_accessibility(batch, target, 0.0, 0.5, rng)
    assert abs(half.accessibility_observed.float().mean() - 0.5) < 0.05
    assert torch.equal(half.accessibility, torch.where(half.accessibility_observed, target.profile, torch.zeros(())))


def test_dropped_inputs_are_zero_and_said_to_be_missing(arrays):
    batch = RegionData(arrays).batch(np.arange(40), np.arange(6))
    dropped = drop_inputs(batch, 0.3, 0.3, 0.0, np.random.default_rng(0))
    for values, seen, before in ((dropped.histone, dropped.histone_observed, batch.histone_observed),
                                 (dropped.tf, dropped.tf_observed, batch.tf_observed)):  # fmt: skip
        assert (seen <= before).all() and seen.sum() < before.sum()
        assert (values[~seen] == 0).all()
    assert (dropped.prior_score[~dropped.prior_observed] == 0).all() and (~dropped.metadata_observed).any()
    same = drop_inputs(batch, 0.0, 0.0, 0.0, np.random.default_rng(0))
    assert all(torch.equal(getattr(same, name), getattr(batch, name)) for name in vars(batch))


def test_a_shift_moves_sequence_signals_and_profile_together(arrays):
    data = RegionData(arrays)
    batch, target = data.batch(np.arange(4), np.arange(6)), data.target(np.arange(4), np.arange(6))
    bp = arrays.sequence.shape[1] // arrays.accessibility.shape[2]
    for by in (2, -1):
        moved, aim = shift_bins(batch, target, by)
        here, there = (slice(by, None), slice(None, -by)) if by > 0 else (slice(None, by), slice(-by, None))
        out = slice(None, by) if by > 0 else slice(by, None)
        assert torch.equal(moved.histone[..., here, :], batch.histone[..., there, :]) and (moved.tf[..., out, :] == 0).all()
        assert torch.equal(aim.profile[..., here], target.profile[..., there]) and aim.profile[..., out].isnan().all()
        bases = (slice(by * bp, None), slice(None, -by * bp)) if by > 0 else (slice(None, by * bp), slice(-by * bp, None))
        assert torch.equal(moved.sequence[:, bases[0]], batch.sequence[:, bases[1]])
        assert torch.equal(moved.prior[:, :, here], batch.prior[:, :, there]) and torch.equal(aim.score, target.score)


# --- the objective and its schedule ----------------------------------------------------------------------------


def test_the_objective_by_hand(arrays):
    data = RegionData(arrays)
    batch, target = data.batch(np.arange(4), np.arange(6)), data.target(np.arange(4), np.arange(6))
    target = replace(target, score=target.score.clone(), label=target.label.clone())
    target.score[0, 0], target.label[1, 1] = torch.nan, -1
    model, _ = build_model(arrays, motif_prior=False, sizes=SIZES)
    output = model.eval()(batch)
    loss, parts = CONFIG.objective(0.5)(output, batch, target)
    score = np.nanmean((output.score.detach().numpy() - target.score.numpy()) ** 2)
    profile = np.mean((output.profile.detach().numpy() - target.profile.numpy()) ** 2)
    probability, label = output.logit.sigmoid().detach().numpy(), target.label.numpy()
    entropy = -np.where(label == 1, np.log(probability), np.log(1 - probability))[label >= 0].mean()
    assert parts["score"].item() == pytest.approx(score, rel=1e-4)
    assert parts["profile"].item() == pytest.approx(profile, rel=1e-4)
    assert parts["label"].item() == pytest.approx(entropy, rel=1e-4)
    assert loss.item() == pytest.approx(score + 0.2 * profile + 0.1 * entropy, rel=1e-4)


def test_the_learning_rate_warms_up_and_then_falls_as_a_cosine():
    rates = [_learning_rate(step, 1000, CONFIG) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 50) and max(rates) == rates[49] == 1.0
    assert rates[525] == pytest.approx(0.5, abs=0.01) and rates[-1] < 1e-4
    assert np.all(np.diff(rates[:50]) > 0) and np.all(np.diff(rates[51:]) < 0)


# --- training --------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_reports_each_epoch(arrays):
    seen = []
    result = train(arrays, replace(CONFIG, epochs=6), device="cpu", sizes=SIZES, callbacks=[EpochLine(seen.append)])
    history = result.history
    assert [row["epoch"] for row in seen] == list(history["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    best = history.set_index("epoch")["validation_mse"]
    assert best[result.best_epoch] == best.min()
    branches = [name for name in history if name.startswith("grad_")]
    assert (history[branches].iloc[0] > 0).all(), "a branch gets no gradient"
    assert "1 unseen (validation) cell types" in result.validation and not result.model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(arrays, result, tried):
    assert torch.equal(weights(result), weights(train(arrays, CONFIG, device="cpu", sizes=SIZES)))
    other = train(arrays, replace(CONFIG, seed=2), device="cpu", sizes=SIZES)
    assert not torch.equal(weights(result), weights(other))
    tried("the same seed twice", "the same weights, bit for bit")


def with_garbage_in_test_rows(arrays):
    """The same arrays, wrong in all that concerns test cell types or test chromosomes."""
    cells = (arrays.cell_types["split"] == "test").to_numpy()
    windows = (arrays.windows["split"] == "test").to_numpy()
    changed = {}
    for name in ("score", "accessibility", "histone", "tf", "label"):
        values = getattr(arrays, name).copy()
        values[:, cells] = 1
        values[windows] = 1
        changed[name] = values
    sequence, metadata = arrays.sequence.copy(), arrays.metadata.copy()
    sequence[windows], metadata[cells] = 0, 9
    return replace(arrays, **changed, sequence=sequence, metadata=metadata)


def test_test_cell_types_and_test_chromosomes_have_no_say(arrays, result):
    """Garbage in every test row changes no weight and no figure of the history."""
    again = train(with_garbage_in_test_rows(arrays), CONFIG, device="cpu", sizes=SIZES)
    assert torch.equal(weights(result), weights(again))
    assert result.history.drop(columns=TIMING).equals(again.history.drop(columns=TIMING))


def test_without_validation_cell_types_training_ones_choose_and_it_is_said(arrays):
    cells = arrays.cell_types.assign(split=arrays.cell_types["split"].replace("validation", "train"))
    result = train(replace(arrays, cell_types=cells), replace(CONFIG, epochs=1), device="cpu", sizes=SIZES)
    assert "training cell types" in result.validation


def test_a_loss_that_is_not_finite_stops_at_once_and_says_what_to_do(arrays):
    histone = arrays.histone.copy()
    histone[:] = np.inf
    with pytest.raises(ChromaccError, match="lower learning_rate"):
        train(replace(arrays, histone=histone), CONFIG, device="cpu", sizes=SIZES)


def test_rows_that_cannot_be_trained_on_are_refused(arrays):
    with pytest.raises(ChromaccError, match="open and closed"):
        train(replace(arrays, label=np.zeros_like(arrays.label)), CONFIG, device="cpu", sizes=SIZES)
    windows = arrays.windows.assign(split=arrays.windows["split"].replace("validation", "train"))
    with pytest.raises(ChromaccError, match="validation_chromosomes"):
        train(replace(arrays, windows=windows), CONFIG, device="cpu", sizes=SIZES)
    with pytest.raises(ChromaccError, match="batch_windows=0"):
        train(arrays, replace(CONFIG, batch_windows=0), device="cpu", sizes=SIZES)


def test_a_device_that_is_not_there_is_never_replaced_silently(tried):
    assert choose_device("cpu") == "cpu"
    with pytest.raises(ChromaccError, match="'auto', 'cpu', 'cuda'") as caught:
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ChromaccError, match="no usable GPU"):
            choose_device("cuda")
    tried("device=gpu, which is none", caught)


def test_a_gpu_that_cannot_be_used_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_words(choose_device("auto"), tmp_path) == "device: CPU (no GPU is used)"
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").touch()
    for cuda, why in ((None, "is built without CUDA"), ("12.8", "sees none: look at its driver, and at CUDA_VISIBLE_DEVICES")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        words = device_words(choose_device("auto"), tmp_path)
        assert words.startswith("device: CPU (no GPU is used). NOTE: this machine has an NVIDIA GPU, but PyTorch ") and why in words


def test_kernels_start_from_the_motifs_of_the_datasets_tfs(arrays):
    model, motifs = build_model(arrays, motif_prior=True, sizes=SIZES)
    assert list(motifs) == ["CTCF", "GATA1"] and motifs["CTCF"].startswith("MA0139.")
    assert model.cell_gate.of_cell.weight[1].argmax() == arrays.features.index("GATA1")
    assert build_model(arrays, motif_prior=False, sizes=SIZES)[1] == {}
    kmers, none = build_model(arrays, motif_prior=True, sizes=SIZES | {"sequence_tokens": "kmer"})
    assert none == {} and kmers.sequence_encoder.scan is None


def test_a_size_that_is_none_is_refused_with_the_nearest_name(arrays):
    with pytest.raises(ChromaccError) as caught:
        build_model(arrays, False, {"gates": "additive", "n_bins": 5, "d_model": "64", "kmer": True, "dropout": 0})
    for wrong in ("'gates' is not known; did you mean 'gate'?", "n_bins is the dataset's", "d_model='64': needs int",
                  "kmer=True", "fields that can be set: d_model, dropout"):  # fmt: skip
        assert wrong in str(caught.value)
    assert "dropout=" not in str(caught.value)  # a whole number will do for a float


# --- callbacks: resuming, stopping, history --------------------------------------------------------------------


class StopAfter(Callback):
    """The power goes out after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def on_step(self, state):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


TIMING = ["seconds", "samples_per_second", "share_waiting_for_data"]


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_a_run_interrupted_anywhere_ends_as_if_it_had_not_been(arrays, result, tmp_path, steps, tried):
    """In the middle of the first epoch, and of the second; saved after every second step, so some are run twice."""
    first = Checkpoint(tmp_path / "checkpoint.pt", {"data": 1}, every_steps=2)
    per_epoch = len(list(region_batches(np.arange((arrays.windows["split"] == "train").sum()), np.arange(4), 16, 3, np.random.default_rng(0))))
    assert per_epoch > 2, "too few steps to interrupt"
    with pytest.raises(KeyboardInterrupt):
        train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[first, StopAfter(min(steps, 2 * per_epoch - 1))])
    again = Checkpoint(tmp_path / "checkpoint.pt", {"data": 1}, every_steps=2)
    resumed = train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[again])
    assert again.resumed.startswith("goes on at step") == (steps > 1)
    assert torch.equal(weights(result), weights(resumed))
    assert result.history.drop(columns=TIMING).equals(resumed.history.drop(columns=TIMING))
    tried(f"a training that is interrupted after {steps} step(s), within an epoch", "weights as undisturbed, bit for bit")


def test_a_checkpoint_that_only_some_processes_see_is_refused(monkeypatch):
    """What each of two processes says of its place comes from the test."""
    places = []
    gathered = lambda out, mine: out.__setitem__(slice(None), [mine, places[0]])  # noqa: E731
    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    state, two = SimpleNamespace(pretraining=[], epoch=3, steps=[{}, {}]), SimpleNamespace(world_size=2)
    places[:] = [(0, 3, 2)]
    _require_same_place(state, two)
    places[:] = [(0, 1, 0)]
    with pytest.raises(ChromaccError, match=r"\[\(0, 1, 0\), \(0, 3, 2\)\]; the checkpoint has to lie where all"):
        _require_same_place(state, two)


def test_a_finished_checkpoint_trains_no_further(arrays, result, tmp_path):
    for _ in range(2):
        checkpoint = Checkpoint(tmp_path / "c.pt", {})
        again = train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[checkpoint])
    assert checkpoint.resumed == "had ended" and torch.equal(weights(result), weights(again))


def test_a_checkpoint_of_other_settings_or_a_broken_one_is_refused(arrays, tmp_path):
    path = tmp_path / "c.pt"
    short = replace(CONFIG, epochs=1)
    train(arrays, short, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {"data": 1})])
    for config, identity in ((replace(short, learning_rate=1e-4), {"data": 1}), (short, {"data": 2})):
        with pytest.raises(ChromaccError, match="belongs to another training"):
            train(arrays, config, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, identity)])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ChromaccError, match="cannot be read"):
        train(arrays, short, device="cpu", sizes=SIZES, callbacks=[Checkpoint(path, {"data": 1})])


def test_a_run_killed_after_it_stopped_early_trains_no_further(arrays, tmp_path):
    config, kept = replace(CONFIG, epochs=5), []
    for _ in range(2):
        checkpoint = Checkpoint(tmp_path / "c.pt", {})
        kept.append(train(arrays, config, device="cpu", sizes=SIZES,
                          callbacks=[EarlyStopping(2), checkpoint, Unbeatable()]))  # fmt: skip
    assert checkpoint.resumed == "had ended" and kept[1].stopped == kept[0].stopped != ""
    assert len(kept[1].history) == len(kept[0].history) < 5 and torch.equal(weights(kept[0]), weights(kept[1]))


@pytest.mark.parametrize("shift", [-1, 10])
def test_a_shift_that_leaves_nothing_of_the_window_is_refused(arrays, shift):
    with pytest.raises(ChromaccError, match="shift_bins"):
        train(arrays, replace(CONFIG, shift_bins=shift), device="cpu", sizes=SIZES)


def test_more_processes_than_a_batch_can_serve_are_refused(arrays):
    _require_enough(arrays, replace(CONFIG, batch_windows=4), 2)
    with pytest.raises(ChromaccError, match="batch_windows of 4 or more"):
        _require_enough(arrays, replace(CONFIG, batch_windows=3), 2)


class Unbeatable(Callback):
    """After the first epoch no other can be better."""

    def on_epoch(self, state):
        state.best = -1.0


def test_training_stops_early_and_says_why(arrays):
    result = train(arrays, replace(CONFIG, epochs=5), device="cpu", sizes=SIZES, callbacks=[EarlyStopping(2), Unbeatable()])
    assert len(result.history) == 3 and result.best_epoch == 1
    assert result.stopped == "validation error has not fallen for 2 epochs (best: epoch 1)"
    with pytest.raises(ChromaccError, match="patience=0"):
        EarlyStopping(0)


def test_the_history_is_on_disk_after_every_epoch(arrays, tmp_path):
    seen = []
    look = EpochLine(lambda row: seen.append(len(pd.read_csv(tmp_path / "run" / "history.csv"))))
    train(arrays, CONFIG, device="cpu", sizes=SIZES, callbacks=[History(tmp_path / "run" / "history.csv"), look])
    assert seen == [1, 2]


# --- saving, loading, predicting -------------------------------------------------------------------------------


# --- what a step is made of ------------------------------------------------------------------------------------


def prepared(arrays, **settings):
    """A function (epoch, index) -> batch and target of 40 windows x 6 cell types, as a step of three epochs of ten reads them."""
    config = replace(CONFIG, epochs=3, drop_assay=0.0, drop_modality=0.0, metadata_noise=0.0, **settings)
    model, _ = build_model(arrays, motif_prior=False, sizes=SIZES)
    step, data = _Step(start_fabric("cpu", "32-true"), model, model, None, config), RegionData(arrays)
    cells = np.tile(np.arange(6), (40, 1))
    return lambda epoch, index: step.prepare(data, epoch, index, np.arange(40), cells, 10)


def test_ever_more_samples_are_fully_masked_from_the_first_step_to_the_last(arrays):
    read = prepared(arrays, first_fully_masked=0.2, partly_masked=0.0)
    shares = [
        np.mean([1 - read(epoch, i)[0].accessibility_observed.any(2).float().mean() for i in steps])
        for epoch, steps in ((1, range(3)), (2, range(4, 7)), (3, range(7, 10)))
    ]
    unknown = 1 - RegionData(arrays).target(np.arange(40), np.arange(6)).profile.isfinite().any(2).float().mean()
    expected = [1 - (1 - unknown) * (1 - whole) for whole in (0.2 + 0.8 / 30, 0.2 + 0.8 / 2, 0.2 + 0.8 * 28 / 30)]
    assert np.allclose(shares, expected, atol=0.06) and shares[0] < shares[1] < shares[2]


def test_half_of_the_batches_are_read_on_the_other_strand_unless_told_otherwise(arrays):
    plain = RegionData(arrays).batch(np.arange(40), np.arange(6)).sequence
    flipped = lambda read: [not torch.equal(read(1, i)[0].sequence, plain) for i in range(60)]
    assert 0.3 < np.mean(flipped(prepared(arrays))) < 0.7
    assert not any(flipped(prepared(arrays, reverse_complement=False)))


def test_windows_are_shifted_by_as_much_as_is_asked_and_no_more(arrays):
    read = prepared(arrays, reverse_complement=False, shift_bins=2)
    plain, bp = RegionData(arrays).batch(np.arange(40), np.arange(6)).sequence, arrays.sequence.shape[1] // arrays.accessibility.shape[2]
    found = set()
    for i in range(60):
        sequence = read(1, i)[0].sequence
        by = [n for n in range(-2, 3) if torch.equal(sequence[:, max(0, n * bp) : sequence.shape[1] + min(0, n * bp)],
                                                     plain[:, max(0, -n * bp) : plain.shape[1] + min(0, -n * bp)])]  # fmt: skip
        assert len(by) == 1
        found |= set(by)
    assert found == {-2, -1, 0, 1, 2}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the compiler looks for it
def test_training_is_the_same_through_the_compiler(arrays, monkeypatch):
    """As the graph that torch.compile takes of the model, run as it is: what its kernels make of it is for GPUs."""
    compile_, compiled = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or compile_(model, backend="eager"))
    config = replace(CONFIG, epochs=1, precision="32-true")
    plain, graph = (train(arrays, replace(config, compile=c), device="cpu", sizes=SIZES) for c in (False, True))
    assert compiled
    torch.testing.assert_close(weights(graph), weights(plain), atol=1e-5, rtol=1e-4)


# --- a cell type that is measured in part ----------------------------------------------------------------------


def test_what_is_known_of_a_cell_type_stays_and_moves_the_rest(arrays, result):
    test = np.flatnonzero(arrays.cell_types["split"] == "test")[0]
    data, windows, cells = RegionData(arrays), np.arange(8), np.array([0, test])
    none = np.zeros((8, 2, arrays.accessibility.shape[2]), bool)
    half = none.copy()
    half[:, :, ::2] = True
    hidden, shown = (complete_profiles(result.model, data, windows, cells, known, batch_windows=3) for known in (none, half))
    measured = arrays.accessibility[np.ix_(windows, cells)]
    kept = half & np.isfinite(measured)
    assert kept.any() and np.array_equal(shown[kept], measured[kept]) and np.isfinite(shown).all()
    assert np.abs(shown - hidden)[:, :, 1::2].max() > 1e-6
    other = replace(arrays, accessibility=arrays.accessibility.copy())
    other.accessibility[:8, test, 1::2] = 9.0  # what is hidden of it has no say
    again = complete_profiles(result.model, RegionData(other), windows, cells, half)
    assert np.array_equal(again[:, 1, 1::2], shown[:, 1, 1::2])
    with pytest.raises(ChromaccError, match="needed: bool of shape"):
        complete_profiles(result.model, data, windows, cells, half[:4])


def test_a_saved_model_predicts_the_same(arrays, result, tmp_path):
    save_model(result, CONFIG, tmp_path, {"simulated": False}, card="# Card\n")
    loaded, data = load_model(tmp_path, arrays), RegionData(arrays)
    windows, cells = np.arange(10), np.arange(6)
    assert all(map(np.array_equal, predict_scores(loaded, data, windows, cells), predict_scores(result.model, data, windows, cells)))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["best_epoch"] == result.best_epoch and config["started_from_motifs"] == result.motifs
    with pytest.raises(ChromaccError, match="histone_marks: model"):
        load_model(tmp_path, replace(arrays, histone_marks=arrays.histone_marks[::-1]))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ChromaccError, match="holds no trained model"):
        load_model(tmp_path)


@pytest.mark.parametrize("name, message", [("model.safetensors", "no readable weights"), ("config.json", "no readable configuration")])
def test_a_model_folder_cut_anywhere_is_refused_by_name(result, tmp_path, name, message):
    save_model(result, CONFIG, tmp_path, {}, card="# Card\n")
    whole = (tmp_path / name).read_bytes()
    for size in np.linspace(0, len(whole) - 1, 9).astype(int):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(ChromaccError, match=f"{name}.*{message}"):
            load_model(tmp_path)


def test_a_model_that_was_left_half_written_is_none(result, tmp_path, monkeypatch):
    """Killed between the weights of a second training and its config.json: the first one's is gone."""
    save_model(result, CONFIG, tmp_path, {}, card="# Card\n")
    with monkeypatch.context() as patch:
        patch.setattr("chromacc_lib.training.asdict", None)
        with pytest.raises(TypeError):
            save_model(result, CONFIG, tmp_path, {}, card="# Card\n")
    with pytest.raises(ChromaccError, match="holds no trained model"):
        load_model(tmp_path)


def test_predictions_are_strand_symmetric_and_do_not_depend_on_batch_size(arrays, result):
    data, cells = RegionData(arrays), np.arange(6)
    one, many = (predict_scores(result.model, data, np.arange(20), cells, size) for size in (1, 64))
    np.testing.assert_allclose(one[0], many[0], atol=1e-5)
    batch = data.batch(np.arange(5), cells)
    with torch.no_grad():
        both = (result.model(batch).score + result.model(batch.reverse_complement()).score) / 2
    np.testing.assert_allclose(both, many[0][:5], atol=1e-5)


def test_the_table_of_predictions_holds_every_pair_once(arrays, result):
    table = predict_dataset(result.model, arrays)
    n_windows, n_cells = arrays.score.shape
    assert len(table) == n_windows * n_cells and not table.duplicated(["cell_type", "window"]).any()
    row = table[(table.cell_type == "D") & (table.window == 7)].iloc[0]
    d = list(arrays.cell_types.cell_type).index("D")
    assert row.score == arrays.score[7, d] and row.cell_type_split == "test" and row.start == arrays.windows.start[7]
    others = arrays.train_mask & (np.arange(n_cells) != d)
    assert row.average_score == pytest.approx(arrays.score[7, others].mean(), rel=1e-5)
    a = table[(table.cell_type == "A") & (table.window == 7)].iloc[0]
    assert a.average_score == pytest.approx(arrays.score[7, others][1:].mean(), rel=1e-5)  # leave-one-out: A trains
    assert table.predicted_probability.between(0, 1).all() and math.isnan(row.truth)
    tracks = table.assign(chrT2=table.chrom == "chrT2").groupby(["cell_type", "chrT2"])["observed_tracks"].unique()
    assert tracks["A", False].tolist() == [3] and tracks["B", False].tolist() == [2]  # B lacks H3K4me3
    assert tracks["C", False].tolist() == [3] and tracks["C", True].tolist() == [2]   # and C has no CTCF on chrT2
    assert table.tss_distance.isna().all()


@pytest.mark.parametrize("share, steps_remembered", [(0.1, 50), (0.0, 1), (0.5, 250)])
def test_the_memory_of_the_averaged_weights_is_a_share_of_all_steps(share, steps_remembered):
    model = torch.nn.Linear(1, 1, bias=False)
    average = averaged(model, TrainingConfig(ema_share=share, epochs=5, batch_windows=32), 3200)
    for weight in (1.0, 0.0):
        torch.nn.init.constant_(model.weight, weight)
        average.update_parameters(model)  # the first one is a copy
    assert average.module.weight.item() == pytest.approx(1 - 1 / steps_remembered)


def test_a_share_of_all_steps_or_more_is_refused():
    with pytest.raises(ChromaccError, match="ema_share=1.0; needed: 0"):
        TrainingConfig(ema_share=1.0)


def test_a_step_in_bfloat16_learns_too(arrays):
    """Lower precision changes the loss a little, and breaks nothing."""
    short = replace(CONFIG, epochs=1, precision="32-true")
    low = train(arrays, replace(short, precision="bf16-mixed"), device="cpu", sizes=SIZES).history.iloc[0]
    full = train(arrays, short, device="cpu", sizes=SIZES).history.iloc[0]
    assert low["train_loss"] == pytest.approx(full["train_loss"], rel=0.02) and low["train_loss"] != full["train_loss"]
    assert low[["pull_score", "pull_profile", "pull_label"]].gt(0).all()


@pytest.mark.parametrize("has, precision", [
    ({"avx512_f": True, "avx512_bf16": False}, "32-true"), ({"avx512_bf16": True}, "bf16-mixed"),
    ({"amx_bf16": True}, "bf16-mixed"), ({}, "32-true"),
])  # fmt: skip
def test_bfloat16_is_the_choice_where_a_cpu_multiplies_it(monkeypatch, has, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert choose_precision("auto", "cpu") == precision
    assert choose_precision("32-true", "cpu") == "32-true" and choose_precision("bf16-mixed", "cpu") == "bf16-mixed"


def test_batches_come_in_order_prepared_here_or_in_a_thread():
    where = {}
    for in_thread in (False, True):
        names = []
        made = list(_ahead(lambda job: names.append(threading.current_thread().name) or job * 2, [3, 1, 2], in_thread))
        assert [ready for ready, _ in made] == [6, 2, 4] and all(waited >= 0 for _, waited in made)
        where[in_thread] = set(names)
    assert where[False] == {threading.current_thread().name} and where[False].isdisjoint(where[True])
    assert list(_ahead(lambda job: job, [], True)) == []
