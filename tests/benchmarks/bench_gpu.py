"""Training and inference on one GPU: samples a second, memory, and share of the card's own matrix-product rate.

    python tests/benchmarks/bench_gpu.py [--batches 32 128 512] [--cells 14] [--seconds 4] [--skip-compile]

A sample is a (window, cell type). The training step is the project's own (gather in a thread, augment, forward,
backward, clip, AdamW, averaged weights), in float32 and bfloat16, compiled or not, at several batches; the arrays are
random, in the pilot's shape. The card's rate is its best matrix product of that precision, FLOPs are those that torch
counts in forward and backward. A row's last column is what an epoch of 100,000 windows x 14 cell types would take at its
rate. Then both directions of the same weights: predictions of CPU and GPU are compared, and timed. Needs a GPU.
"""

import argparse
import math
import sys
import time
from functools import partial

import numpy as np
import torch
from bench_training import TEST, TRAINING, VALIDATION, Ours, flops_of, learn

from chromacc_lib.inference import predict_scores

EPOCH = 100_000 * 14  # samples
PRECISIONS = ("32-true", "bf16-mixed")


def matmul_rate(dtype: torch.dtype, repeats: int = 10) -> float:
    """The card's best FLOP/s in a square matrix product, over sizes, on random data."""
    best = 0.0
    for n in (2048, 4096, 8192):
        a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
        a @ b
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            a @ b
        end.record()
        torch.cuda.synchronize()
        best = max(best, repeats * 2 * n**3 / (begin.elapsed_time(end) / 1e3))
    return best


def measure(road: Ours, seconds: float) -> tuple[float, float, float]:
    """Seconds a step, share of them spent waiting for data, and peak GiB allocated, over about `seconds`."""
    begin = time.perf_counter()
    road(2)  # warms up, and compiles
    torch.cuda.synchronize()
    warm = time.perf_counter() - begin
    torch.cuda.reset_peak_memory_stats()
    steps, spent, road.waited = 0, 0.0, 0.0
    while spent < seconds:
        start = time.perf_counter()
        road(10)
        torch.cuda.synchronize()
        spent, steps = spent + time.perf_counter() - start, steps + 10
    print(f"    first two steps {warm:.1f} s", flush=True)
    return spent / steps, road.waited / spent, torch.cuda.max_memory_allocated() / 2**30


def training_table(batches: list[int], cells: int, seconds: float, compiled: tuple[bool, ...]) -> None:
    """Print a row for each precision, compilation and batch."""
    rates = {"32-true": matmul_rate(torch.float32), "bf16-mixed": matmul_rate(torch.bfloat16)}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; best matrix product: "
          + ", ".join(f"{name} {rate / 1e12:,.0f} TFLOP/s" for name, rate in rates.items()))  # fmt: skip
    print(f"{'precision':11} {'compiled':8} {'windows':>7} {'samples/step':>12} {'ms/step':>8} {'samples/s':>10} "
          f"{'waiting':>8} {'TFLOP/s':>8} {'of rate':>8} {'GiB':>6} {'epoch':>8}")  # fmt: skip
    for precision in PRECISIONS:
        for is_compiled in compiled:
            for windows in batches:
                road = Ours(windows, cells, precision, device="cuda", compiled=is_compiled)
                flops = 0 if is_compiled else flops_of(partial(learn, road))  # the counter sees no compiled product
                road.optimiser.zero_grad()
                step, waiting, gib = measure(road, seconds)
                rate = road.samples / step
                done = f"{flops / step / 1e12:8.1f} {flops / step / rates[precision]:8.1%}" if flops else " " * 17
                print(f"{precision:11} {'yes' if is_compiled else 'no':8} {windows:7} {road.samples:12,} "
                      f"{1e3 * step:8.1f} {rate:10,.0f} {waiting:8.1%} {done} {gib:6.1f} {EPOCH / rate:6.0f} s",
                      flush=True)  # fmt: skip
                del road
                torch.cuda.empty_cache()


def inference_table(seconds: float) -> float:
    """Print samples a second of inference by batch, both strands; return CPU against GPU, as a share of the spread."""
    cells, road = np.arange(TRAINING + VALIDATION + TEST), Ours(64, 7, "bf16-mixed", device="cuda")
    road(20)
    model, windows = road.average.module, np.arange(512)
    for batch in (12, 64, 256):
        predict = partial(predict_scores, model, road.data, windows, cells, batch_windows=batch)
        predict()
        torch.cuda.reset_peak_memory_stats()
        start, runs = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            predict()
            runs += 1
        rate = runs * len(windows) * len(cells) / (time.perf_counter() - start)
        print(f"inference, float32, both strands, batches of {batch} windows x {len(cells)} cell types: {rate:,.0f} "
              f"samples/s, {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB", flush=True)  # fmt: skip
    on_gpu = predict_scores(model, road.data, windows[:64], cells)[0]
    on_cpu = predict_scores(model.cpu(), road.data, windows[:64], cells)[0]
    return float(np.abs(on_gpu - on_cpu).max() / on_cpu.std())


def main() -> int:
    """Measure and print; return 1 where CPU and GPU disagree by more than 1% of the predictions' spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512], help="windows a step")
    parser.add_argument("--cells", type=int, default=14, help="cell types a window")
    parser.add_argument("--seconds", type=float, default=4, help="a row")
    parser.add_argument("--skip-compile", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_gpu: PyTorch finds no usable GPU here; this benchmark is of one alone", file=sys.stderr)
        return 2
    training_table(options.batches, options.cells, options.seconds, (False,) if options.skip_compile else (False, True))
    off = inference_table(options.seconds)
    print(f"largest difference of CPU and GPU predictions: {off:.2e} of their standard deviation")
    return int(not (math.isfinite(off) and off < 0.01))


if __name__ == "__main__":
    sys.exit(main())
