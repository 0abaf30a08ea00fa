"""Several processes train as one: two of them, over gloo, started by torchrun as on a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

SCRIPT = Path(__file__).with_name("train_together.py")


def train(dataset, out, processes, pretrain_epochs=0):
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, SCRIPT, dataset, out, str(pretrain_epochs)], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[:6000]
    weights = [torch.load(out / f"weights{rank}.pt", weights_only=True) for rank in range(processes)]
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items()), "the processes differ"
    return pd.read_csv(out / "history.csv"), weights[0]


def test_two_processes_give_the_loss_and_the_weights_of_one(curated, tmp_path):
    """Batches of 15 windows: eight for one process, seven for the other, so that unequal shares are weighed rightly."""
    one, alone = train(curated[1], tmp_path / "one", 1)
    two, together = train(curated[1], tmp_path / "two", 2)
    assert (one["processes"] == 1).all() and (two["processes"] == 2).all()
    for name in ("train_loss", "train_score", "train_profile", "train_label", "pull_score", "pull_profile", "pull_label",
                 "validation_mse", "validation_pearson"):
        assert two[name].tolist() == pytest.approx(one[name].tolist(), rel=1e-3), name
    apart = torch.cat([(alone[name].float() - together[name].float()).abs().flatten() for name in alone])
    assert apart.mean() < 1e-5 and apart.max() < 3e-3  # Adam makes a whole step of a gradient that is 0 but for rounding


def test_two_processes_pretrain_as_one_with_fewer_negatives(curated, tmp_path):
    """Both end with the same weights (asserted in `train`). A process has 7 or 8 windows, each with 3 of 4 cell types."""
    train(curated[1], tmp_path / "two", 2, pretrain_epochs=2)
    rows = pd.read_csv(tmp_path / "two" / "pretraining.csv")
    assert (rows["across_windows_chance"] > 1 / 8).all() and (rows["across_windows_chance"] < 1 / 4).all()
    assert rows["across_cell_types_chance"].between(1 / 3, 0.5).all()
    assert rows["across_windows_loss"].iloc[1] < rows["across_windows_loss"].iloc[0]
