"""On a GPU: training and attributions are those of the CPU, a seed gives its weights again, and full memory is said.

Skipped where torch sees no GPU.
"""

import numpy as np
import pytest
import torch

from chromacc_lib.attribution import integrated_gradients
from chromacc_lib.batches import RegionData
from chromacc_lib.cli import main
from chromacc_lib.dataset import load_arrays
from chromacc_lib.inference import predict_scores
from chromacc_lib.scoring import ModelScorer
from chromacc_lib.training import TrainingConfig, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU: torch sees none")

SIZES = {"d_model": 16, "sequence_layers": 1, "sequence_heads": 2, "encoder_layers": 1, "encoder_heads": 2,
         "histone_filters": 8, "histone_blocks": 1, "tf_hidden": 16, "score_hidden": 16}  # fmt: skip


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture(scope="module")
def trained(arrays):
    """A model trained on the GPU, on the CPU again."""
    return train(arrays, TrainingConfig(epochs=1, seed=1, precision="32-true"), "cuda", SIZES).model.cpu()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_same_seed_gives_the_same_weights(arrays, precision):
    first, again = (train(arrays, TrainingConfig(epochs=2, seed=1, precision=precision), "cuda", SIZES).model.cpu()
                    for _ in range(2))
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name


def test_predictions_are_those_of_the_cpu(arrays, trained):
    data, windows, cells = RegionData(arrays), np.arange(8), np.arange(2)
    on_cpu, _ = predict_scores(trained.cpu(), data, windows, cells)
    on_gpu, _ = predict_scores(trained.cuda(), data, windows, cells)
    assert np.abs(on_cpu - on_gpu).max() < 1e-3 * on_cpu.std()


def test_attributions_are_those_of_the_cpu(arrays, trained):
    data = RegionData(arrays)
    windows, cells = np.arange(4), np.zeros((4, 1), int)
    on_cpu, on_gpu = (
        integrated_gradients(ModelScorer(trained.to(device), data, windows, cells), arrays.sequence[:4]).contribution
        for device in ("cpu", "cuda")
    )
    assert np.abs(on_cpu).max() > 0 and np.abs(on_cpu - on_gpu).max() < 1e-2 * np.abs(on_cpu).max()


def test_full_memory_is_said_with_its_remedy(curated, tmp_path, capsys):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        status = main(["train", str(curated[1]), "--out", str(tmp_path / "model"), "--set", "device=cuda", "batch_windows=64"])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    told = capsys.readouterr().err
    assert status == 1 and "out of memory" in told and "lower batch_windows" in told
