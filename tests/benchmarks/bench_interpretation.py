"""Windows a second of each attribution method, and what the cached tokens of the other inputs save.

    python tests/benchmarks/bench_interpretation.py --threads 2      # or --device cuda --windows 64

A random dataset and an untrained model of the pilot's shape (`bench_training`); one cell type a window, both strands.
"""

import argparse
import time

import numpy as np
import torch
from bench_training import random_arrays
from torch import nn

from chromacc_lib.attribution import integrated_gradients, smoothed_gradients
from chromacc_lib.batches import RegionData
from chromacc_lib.deeplift import deeplift
from chromacc_lib.inference import predict_batch
from chromacc_lib.mutagenesis import mutagenesis
from chromacc_lib.scoring import ModelScorer, score_all
from chromacc_lib.signal_attribution import attribute_signals
from chromacc_lib.training import build_model


def seconds(work) -> float:
    """Of the faster of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print a line a method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    arrays, n = random_arrays(15), options.windows
    model = build_model(arrays, motif_prior=False)[0].eval().to(options.device)
    nn.init.normal_(model.score_head[-1].weight)
    data, windows, cells = RegionData(arrays), np.arange(n), np.zeros((n, 1), int)
    scorer, codes = ModelScorer(model, data, windows, cells), arrays.sequence[windows]
    bp = 100  # of mutagenesis, scaled up to the whole window below
    methods = {
        "DeepLIFT/SHAP, 2 references": (lambda: deeplift(scorer, codes, 2), 1),
        "smoothed gradients, 8 copies": (lambda: smoothed_gradients(scorer, codes), 1),
        "integrated gradients, 16 steps": (lambda: integrated_gradients(scorer, codes), 1),
        "mutagenesis, every base": (lambda: mutagenesis(scorer, codes, 0, bp), codes.shape[1] / bp),
        "signals, 16 steps": (lambda: attribute_signals(model, data, windows, cells), 1),
    }
    print(f"{options.device}, {options.threads} threads, {n} windows of {codes.shape[1]} bp, one cell type each")
    for name, (work, scale) in methods.items():
        print(f"{name:32s} {n / (seconds(work) * scale):8.2f} windows/s")
    mutants = np.repeat(codes, 32, 0)
    place = np.repeat(windows, 32)
    cached = seconds(lambda: score_all(scorer, mutants, place))
    whole = seconds(lambda: [predict_batch(model, data.batch(place[i : i + 64], cells[place[i : i + 64]]).to(options.device))
                             for i in range(0, len(place), 64)])
    print(f"sequences scored: {len(mutants) / cached:,.0f}/s with the tokens of a place kept, {len(mutants) / whole:,.0f}/s without")


if __name__ == "__main__":
    main()
