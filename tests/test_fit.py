"""What notebook 2 and `chromacc train` share: the model folder, going on after a kill, and taking a trained model."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_training import weights

from chromacc_lib import ChromaccError, cli, project_path
from chromacc_lib.cache import file_lock
from chromacc_lib.callbacks import Callback, Checkpoint
from chromacc_lib.fit import fit, training_progress, training_settings
from chromacc_lib.hub import open_model_folder
from chromacc_lib.parameters import declared_parameters
from chromacc_lib.streaming import open_training_data

SMALL = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "epochs": 2, "batch_windows": 15, "cells_per_window": 3,
         "dropout": 0.0, "precision": "32-true"}  # on any machine: two processes are compared with one  # fmt: skip
FILES = ["SHA256SUMS", "config.json", "history.csv", "locus_prior.npz", "model.safetensors", "model_card.md", "normalization.json"]


class _AtTheEnd(Callback):
    """The power goes out at the end of an epoch."""

    def on_epoch(self, state):
        raise KeyboardInterrupt


def settings(**changed):
    declared = declared_parameters(project_path("notebooks") / "02_training.ipynb")
    return training_settings({name: p.default for name, p in declared.items()} | SMALL | changed)


def trained(dataset, folder, said, **options):
    changed = options.pop("changed", {})
    config, sizes = settings(**changed)
    arrays, data = open_training_data(dataset, config.stream_windows)
    return fit(dataset, folder, arrays, data, config, sizes, device="cpu", say=said.append, **options)


@pytest.fixture(scope="module")
def straight(curated, tmp_path_factory):
    """A training that nothing interrupted: its folder, what came out, what was said."""
    folder, said = tmp_path_factory.mktemp("fit") / "model", []
    return folder, trained(curated[1], folder, said), said


def test_every_setting_of_training_is_a_parameter_of_the_notebook():
    declared = declared_parameters(project_path("notebooks") / "02_training.ipynb")
    config, sizes = training_settings({name: p.default for name, p in declared.items()})
    assert {name for name in vars(config) if name not in declared} == {"validation_windows", "pretrain_cell_type_weight"}
    assert config == type(config)() and sizes == {"sequence_layers": 4, "encoder_layers": 6, "d_model": 128, "dropout": 0.1}


def test_the_folder_is_whole_and_device_and_precision_are_said(straight):
    folder, fitted, said = straight
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert said[0] == "device: CPU (no GPU is used); precision: 32-true"
    opened = open_model_folder(folder)
    assert all(torch.equal(a, b) for a, b in zip(opened.model.parameters(), fitted.result.model.parameters()))


def test_a_killed_training_goes_on_says_so_and_leaves_no_checkpoint(curated, straight, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(curated[1], tmp_path / "model", [], callbacks=[_AtTheEnd()])
    assert (tmp_path / "model" / "checkpoint.pt").exists()
    said = []
    resumed = trained(curated[1], tmp_path / "model", said)
    assert "an interrupted training was found: it goes on at step 1 of epoch 2" in said
    assert torch.equal(weights(resumed.result), weights(straight[1].result))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == FILES
    with pytest.raises(KeyboardInterrupt):
        trained(curated[1], tmp_path / "model", [], callbacks=[_AtTheEnd()])
    with pytest.raises(ChromaccError, match="learning_rate 0.001, now 0.5"):
        trained(curated[1], tmp_path / "model", [], changed={"learning_rate": 0.5})


def test_a_resumed_training_keeps_the_batches_that_it_began_with(curated, tmp_path, monkeypatch):
    from chromacc_lib import memory

    automatic, said = {"changed": {"batch_windows": 0}}, []
    window = 3e6
    monkeypatch.setattr(memory, "available_memory", lambda device: (int(20 * window), "by this test"))
    with pytest.raises(KeyboardInterrupt):
        trained(curated[1], tmp_path / "model", said, callbacks=[_AtTheEnd()], **automatic)
    begun = Checkpoint(tmp_path / "model" / "checkpoint.pt", {}).settings()["batch_windows"]
    assert begun > 0 and f"batch_windows: {begun}. A window takes" in " ".join(said)
    monkeypatch.setattr(memory, "available_memory", lambda device: (0, "by this test"))
    assert trained(curated[1], tmp_path / "model", [], **automatic).config.batch_windows == begun


def test_patience_stops_early_and_it_is_said(curated, tmp_path):
    said = []
    fitted = trained(curated[1], tmp_path / "model", said, patience=1, changed={"epochs": 30, "learning_rate": 0.3})
    assert len(fitted.result.history) < 30 and any(line.startswith("stopped early: validation error") for line in said)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["stopped"] == fitted.result.stopped


def test_a_run_that_heads_for_collapse_is_warned_of_and_stopped_when_asked_to(curated, tmp_path):
    """A kill after the last epoch finds the training ended, and the folder says why."""
    said, changed = [], {"epochs": 4, "learning_rate": 1e-7}
    fitted = trained(curated[1], tmp_path / "model", said, stop_on_collapse=True, changed=changed)
    assert len(fitted.result.history) == 2 and sum("this run heads for collapse" in line for line in said) == 1
    assert "learning rate too low" in json.loads((tmp_path / "model" / "config.json").read_text())["stopped"]
    whole = trained(curated[1], tmp_path / "whole", said, changed=changed | {"epochs": 2})
    assert whole.result.stopped == "" and len(whole.result.history) == 2


def test_a_model_trained_elsewhere_is_taken_whole_or_refused(curated, straight, tmp_path):
    folder, fitted, _ = straight
    said, weights_file = [], str(folder / "model.safetensors")
    taken = trained(curated[1], tmp_path / "model", said, trained_model=weights_file)
    assert torch.equal(weights(taken.result), weights(fitted.result)) and taken.config == fitted.config
    assert taken.result.history.equals(fitted.result.history) and said[0].startswith("not trained here")
    for name in FILES:
        if name != "locus_prior.npz":  # a zip, with times
            assert (tmp_path / "model" / name).read_bytes() == (folder / name).read_bytes(), name
    with pytest.raises(ChromaccError, match="epochs: 2 there, 3 here; learning_rate: 0.001 there, 0.5 here"):
        trained(curated[1], tmp_path / "no", [], trained_model=weights_file, changed={"epochs": 3, "learning_rate": 0.5})
    with pytest.raises(ChromaccError, match="d_model: 32 there, 64 here"):
        trained(curated[1], tmp_path / "no", [], trained_model=weights_file, changed={"d_model": 64})


def test_streamed_and_in_memory_leave_the_same_folder(curated, straight, tmp_path):
    said = []
    trained(curated[1], tmp_path / "model", said, changed={"stream_windows": 10_000})
    assert any("streamed from disk in pools of 10,000 windows" in line for line in said)
    for name in ("model.safetensors", "normalization.json"):
        assert (tmp_path / "model" / name).read_bytes() == (straight[0] / name).read_bytes(), name
    ours, theirs = (np.load(folder / "locus_prior.npz") for folder in (tmp_path / "model", straight[0]))
    assert all(np.array_equal(ours[n], theirs[n], equal_nan=ours[n].dtype.kind == "f") for n in theirs.files)


# --- chromacc train ------------------------------------------------------------------------------------------------


def command(dataset, out, processes):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    given = [f"{name}={value}" for name, value in SMALL.items()]
    done = subprocess.run(
        [*launch, "chromacc_lib.cli", "train", str(dataset), "--out", str(out), "--set", *given, "device=cpu"],
        capture_output=True, text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout, pd.read_csv(out / "history.csv"), load_file(out / "model.safetensors")


def test_two_processes_leave_the_model_of_one_and_only_the_first_talks(curated, straight, tmp_path):
    said, two, together = command(curated[1], tmp_path / "two", 2)
    one, alone = pd.read_csv(straight[0] / "history.csv"), load_file(straight[0] / "model.safetensors")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == FILES
    assert said.count("device: ") == 1 and "2 processes share each batch" in said and said.count("epoch  1:") == 1
    for name in ("train_loss", "validation_mse", "validation_pearson"):
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-3), name
    apart = torch.cat([(alone[name].float() - together[name].float()).abs().flatten() for name in alone])
    assert apart.mean() < 1e-5 and apart.max() < 3e-3  # Adam makes a whole step of a gradient that is 0 but for rounding


def test_the_command_is_the_notebooks_training(curated, straight, tmp_path, capsys):
    given = [f"{name}={value}" for name, value in SMALL.items()]
    assert cli.main(["train", str(curated[1]), "--out", str(tmp_path / "m"), "--set", *given, "device=cpu"]) == 0
    assert "best epoch" in capsys.readouterr().out
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == (straight[0] / "model.safetensors").read_bytes()


def test_what_the_command_takes_otherwise_is_no_parameter_of_it(curated, tmp_path, capsys):
    for name in ("run_dir=x", "trained_model=x", "epoch=3"):
        assert cli.main(["train", str(curated[1]), "--out", str(tmp_path / "m"), "--set", name]) == 1
        assert "unknown parameter" in capsys.readouterr().err


# --- how far it is, as the files tell ------------------------------------------------------------------------


def test_a_finished_training_says_so(straight):
    now = training_progress(straight[0])
    assert (now.state, now.epochs, now.stopped, now.history["epoch"].tolist()) == ("finished", 2, "", [1, 2])
    assert 0 <= now.quiet_s < 3600


def test_where_there_is_none_it_says_so(tmp_path):
    assert training_progress(tmp_path / "model")[:1] == ("none",) and training_progress(tmp_path).history.empty


def test_a_training_is_under_way_while_it_writes_or_holds_its_lock(curated, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        trained(curated[1], folder, [], callbacks=[_AtTheEnd()])
    now = training_progress(folder)
    assert (now.state, now.epochs, len(now.history)) == ("training", 2, 1), "written a moment ago"
    hour_ago = os.path.getmtime(folder / "checkpoint.pt") - 3600
    for path in folder.iterdir():
        os.utime(path, (hour_ago, hour_ago))
    now = training_progress(folder)
    assert now.state == "interrupted" and 3500 < now.quiet_s < 3700
    with file_lock(tmp_path / ".model.training", "", "busy"):
        assert training_progress(folder).state == "training", "a long step"
    with file_lock(tmp_path / ".model.training", "", "busy"):
        pass  # asking left nothing locked


def test_the_history_of_an_earlier_training_is_not_shown_as_the_new_one(curated, tmp_path, straight):
    folder = tmp_path / "model"
    shutil.copytree(straight[0], folder)
    seen = []

    class Look(Callback):
        def on_step(self, state):
            seen.append(training_progress(folder))

    trained(curated[1], folder, [], callbacks=[Look()])
    assert {now.state for now in seen} == {"finished", "training"}, "until there is a checkpoint, the old model stands"
    under_way = [len(now.history) for now in seen if now.state == "training"]
    assert set(under_way) == {1} and training_progress(folder).state == "finished"


def test_the_monitor_is_heard(straight, tmp_path):
    shutil.copytree(straight[0], tmp_path / "model")
    history = pd.read_csv(tmp_path / "model" / "history.csv")
    assert training_progress(tmp_path / "model").warnings == []
    history.assign(train_loss_max=1e6).to_csv(tmp_path / "model" / "history.csv", index=False)
    assert [text[:8] for text in training_progress(tmp_path / "model").warnings] == ["epoch 1:", "epoch 2:"]
