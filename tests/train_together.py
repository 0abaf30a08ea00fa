"""Run by torchrun in tests: train with as many processes as it started; each writes its weights, the first one the history."""

import sys
from pathlib import Path

import torch

from chromacc_lib.dataset import load_arrays
from chromacc_lib.devices import start_fabric
from chromacc_lib.training import TrainingConfig, train


def main(dataset: str, out: str, pretrain_epochs: str) -> None:
    """Train without dropout, the one thing that differs between processes."""
    sizes = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "encoder_heads": 4, "histone_filters": 8,
             "tf_hidden": 16, "dropout": 0.0}  # fmt: skip
    fabric = start_fabric("cpu", "32-true")
    config = TrainingConfig(epochs=2, batch_windows=15, cells_per_window=3, pretrain_epochs=int(pretrain_epochs))
    result = train(load_arrays(dataset), config, sizes=sizes, fabric=fabric)
    torch.save(result.model.state_dict(), Path(out) / f"weights{fabric.global_rank}.pt")
    if fabric.is_global_zero:
        result.history.assign(processes=fabric.world_size).to_csv(Path(out) / "history.csv", index=False)
        result.pretraining.to_csv(Path(out) / "pretraining.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
