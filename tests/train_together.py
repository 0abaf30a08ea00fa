"""Run by torchrun in tests: train with as many processes as it started, and the first one writes what came out."""

import sys
from pathlib import Path

import torch

from chromacc_lib.dataset import load_arrays
from chromacc_lib.training import TrainingConfig, start_fabric, train


def main(dataset: str, out: str) -> None:
    """Train without dropout, the one thing that differs between processes."""
    sizes = {"d_model": 32, "sequence_layers": 1, "encoder_layers": 1, "encoder_heads": 4, "histone_filters": 8,
             "tf_hidden": 16, "dropout": 0.0}  # fmt: skip
    fabric = start_fabric("cpu")
    result = train(load_arrays(dataset), TrainingConfig(epochs=2, batch_windows=15, cells_per_window=3), sizes=sizes, fabric=fabric)
    if fabric.is_global_zero:
        result.history.assign(processes=fabric.world_size).to_csv(Path(out) / "history.csv", index=False)
        torch.save(result.model.state_dict(), Path(out) / "weights.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
