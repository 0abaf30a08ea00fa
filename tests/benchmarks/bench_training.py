"""Training and inference: samples a second against other ways to train, and where a step's time and FLOPs go.

    python tests/benchmarks/bench_training.py [--rounds 5] [--steps 8] [--threads 2] [--precision auto]

A sample is a (window, cell type). One process runs, in turn and round after round: the earlier system (a Transformer
over every base, then fusion, one sample a row, in plain torch), this project's model fed one cell type a window, and
this project's training step as it is: gather, augment, forward, backward, clip, AdamW, averaged weights. Arrays are
random, in the shape of the pilot's: what they hold changes no time. Of each road the best round counts. Our roads
compute in the precision that training chooses here, one of them in float32 besides; the earlier system in float32, as
it did. FLOPs are those that torch counts in a step; the machine's rate is its best matrix product, in the precision of
the road. A sample's FLOPs over its time is a share of that rate. Leaves with 1 when a goal is missed. Linux only: it
reads peak memory from /proc.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from chromacc_lib.batches import RegionData, region_batches
from chromacc_lib.dataset import Arrays
from chromacc_lib.devices import PRECISIONS, choose_precision, start_fabric
from chromacc_lib.inference import predict_scores
from chromacc_lib.layers import ByteDropout
from chromacc_lib.training import BRANCHES, OPTIMISERS, TrainingConfig, _ahead, _grad_norm, _Step, averaged, build_model

WINDOWS, TRAINING, VALIDATION, TEST = 1024, 14, 3, 3  # windows and cell types, as the pilot's
MARKS = ("H3K27ac", "H3K4me3", "H3K27me3")
TFS = ("CTCF", "GATA1", "SPI1", "HNF4A", "JUN")
FEATURES = (*TFS, "SP1", "NRF1", "RUNX1", "CEBPA", "FOXA1", "TEAD4", "NEUROD1", "MEF2C")
GOAL_EARLIER, GOAL_CELL_MAJOR, GOAL_SHARE = 3000, 4, 0.6
GIB = 2**30


def random_arrays(n_bins: int) -> Arrays:
    """A dataset of random numbers in the pilot's shape; nothing is missing."""
    rng, cells = np.random.default_rng(0), TRAINING + VALIDATION + TEST
    normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)
    accessibility = np.abs(normal(WINDOWS, cells, n_bins))
    score = accessibility.mean(2)
    return Arrays(
        sequence=rng.integers(0, 4, (WINDOWS, 1500), dtype=np.uint8),
        histone=normal(WINDOWS, cells, len(MARKS), n_bins, 3),
        histone_observed=np.ones((WINDOWS, cells, len(MARKS)), bool),
        tf=normal(WINDOWS, cells, len(TFS), n_bins, 3), tf_observed=np.ones((WINDOWS, cells, len(TFS)), bool),
        metadata=normal(cells, len(FEATURES)), metadata_observed=np.ones(cells, bool),
        accessibility=accessibility, score=score, label=(score > np.median(score)).astype(np.int8),
        windows=pd.DataFrame({"split": ["train"] * (WINDOWS - 128) + ["validation"] * 128}),
        cell_types=pd.DataFrame({"split": ["train"] * TRAINING + ["validation"] * VALIDATION + ["test"] * TEST}),
        histone_marks=MARKS, tfs=TFS, features=FEATURES, simulated=True,
    )  # fmt: skip


# --- roads --------------------------------------------------------------------------------------------------
class Ours:
    """This project's training step, fed `windows` a step and `cells` cell types for each of them."""

    def __init__(
        self, windows: int, cells: int, precision: str, n_bins: int = 15, device: str = "cpu", compiled: bool = False
    ) -> None:
        arrays, fabric = random_arrays(n_bins), start_fabric(device, precision)
        self.config = TrainingConfig(batch_windows=windows, cells_per_window=cells, epochs=1000)
        torch.manual_seed(0)
        self.model, _ = build_model(arrays, motif_prior=False)
        optimiser = OPTIMISERS[self.config.optimiser](
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.wrapped, self.optimiser = fabric.setup(torch.compile(self.model) if compiled else self.model, optimiser)
        self.in_thread, self.waited = fabric.device.type == "cuda", 0.0
        self.average = averaged(self.model, self.config, WINDOWS)
        self.step, self.data = _Step(fabric, self.model, self.wrapped, self.optimiser, self.config), RegionData(arrays)
        self.samples, self.done = windows * cells, 0
        self.windows = np.flatnonzero(arrays.windows["split"] == "train")
        self.wrapped.train()

    def jobs(self, n: int) -> list[tuple]:
        """What n steps are made of: index, windows, cell types."""
        rng, jobs = np.random.default_rng(self.done), []
        while len(jobs) < n:
            epoch = region_batches(self.windows, np.arange(TRAINING), self.config.batch_windows,
                                   self.config.cells_per_window, rng)  # fmt: skip
            jobs += [job for job in epoch if job[1].size == self.samples]  # the last of an epoch may differ
        return [(self.done + i, *job) for i, job in enumerate(jobs[:n])]

    def prepare(self, job: tuple) -> tuple:
        """The batch and the target of a job."""
        return self.step.prepare(self.data, 1, *job, 1000)

    def __call__(self, n: int) -> None:
        """n steps, as `training.train` makes them; `waited` grows by the seconds spent waiting for data."""
        for ready, waited in _ahead(self.prepare, self.jobs(n), self.in_thread):
            self.waited += waited
            self.step(1, self.done, 1000, *ready)
            self.average.update_parameters(self.model)
            self.done += 1


class EarlierModel(nn.Module):
    """Every base a token of a four-layer Transformer; a CNN of histone marks; an MLP of TFs; concatenated; a head."""

    def __init__(self, d: int = 256, heads: int = 8, layers: int = 4) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(4, d), nn.Parameter(0.02 * torch.randn(1500, d))
        layer = nn.TransformerEncoderLayer(d, heads, 4 * d, dropout=0.1, activation="gelu", batch_first=True)
        self.sequence = nn.TransformerEncoder(layer, layers)
        sizes = [3 * len(MARKS), 64, 64, 64]
        block = lambda a, b: nn.Sequential(nn.Conv1d(a, b, 3, padding=1), nn.BatchNorm1d(b), nn.ReLU())
        self.histone = nn.Sequential(*map(block, sizes[:-1], sizes[1:]))
        self.tf = nn.Sequential(nn.Linear(3 * len(TFS), 128), nn.ReLU(), nn.Linear(128, 128))
        self.fusion = nn.Sequential(nn.Linear(d + 64 + 128, d), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Sequential(nn.Linear(d, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, one_hot: Tensor, histone: Tensor, tf: Tensor) -> Tensor:
        """one_hot (N, 1500, 4), histone (N, M, T, 3), tf (N, F, T, 3) -> score (N,)."""
        bases = self.sequence(self.embed(one_hot) + self.position).mean(1)
        marks = self.histone(histone.transpose(2, 3).flatten(1, 2)).mean(2)
        return self.head(self.fusion(torch.cat([bases, marks, self.tf(tf.mean(2).flatten(1))], 1))).squeeze(1)


class Earlier:
    """The earlier system's step: MSE, backward, clip, Adam; a sample is one window in one cell type."""

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        self.samples, self.model = batch, EarlierModel()
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.one_hot = F.one_hot(torch.randint(4, (batch, 1500)), 4).float()
        self.histone, self.tf = torch.randn(batch, len(MARKS), 15, 3), torch.randn(batch, len(TFS), 15, 3)
        self.score = torch.randn(batch)

    def __call__(self, n: int) -> None:
        """n steps."""
        for _ in range(n):
            loss = F.mse_loss(self.model(self.one_hot, self.histone, self.tf), self.score)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()


def affordable_batch(wanted: int, limit_gib: float) -> tuple[int, float]:
    """The earlier system's batch that stays below limit_gib by what one sample takes, and the GiB of that one."""
    one = Earlier(1)
    one(1)
    each = peak_bytes(lambda: one(1)) / GIB
    return max(1, min(wanted, math.floor(limit_gib / each))), each


# --- measures -----------------------------------------------------------------------------------------------
def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def best_of(n: int, work: Callable[[], object]) -> float:
    """Best seconds of n runs, after one to warm up."""
    work()
    return min(seconds_of(work) for _ in range(n))


def peak_bytes(work: Callable[[], object]) -> int:
    """By how much the process's memory rose above where it stood, at most, while work ran."""
    Path("/proc/self/clear_refs").write_text("5")  # peak := now
    before = _memory("VmRSS")
    work()
    return _memory("VmHWM") - before


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def matmul_rate(precision: str, repeats: int = 3) -> float:
    """The machine's best FLOP/s in a matrix product of that precision, over sizes."""
    rates, dtype = [], torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    for n in (512, 1024, 2048, 3072):
        a, b = torch.randn(n, n, dtype=dtype), torch.randn(n, n, dtype=dtype)
        rates.append(2 * n**3 / best_of(repeats, lambda: a @ b))
    return max(rates)


def flops_of(work: Callable[[], object]) -> int:
    """FLOPs that torch counts in one run: matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


# --- parts of the step --------------------------------------------------------------------------------------
def forward_and_back(module: nn.Module, inputs: Iterable) -> None:
    """One forward and backward of a module on inputs met in a step, with a gradient where there was one."""
    def fresh(value):
        if isinstance(value, (list, tuple)):
            return [fresh(v) for v in value]
        return value.detach().requires_grad_(value.requires_grad) if torch.is_tensor(value) else value

    output = module(*(fresh(value) for value in inputs))  # in the precision of the caller's autocast
    outputs = output if isinstance(output, tuple) else (output,)
    tensors = [o for o in outputs if torch.is_tensor(o) and o.requires_grad]
    torch.autograd.backward(tensors, [torch.ones_like(o) for o in tensors])


def met_inputs(road: Ours) -> dict[str, tuple]:
    """What every module of the model gets as input in a step."""
    inputs = {}
    hooks = [module.register_forward_pre_hook(lambda m, args, name=name: inputs.__setitem__(name, args))
             for name, module in road.model.named_modules()]  # fmt: skip
    with road.step.fabric.autocast():
        road.model(road.prepare(road.jobs(1)[0])[0])
    for hook in hooks:
        hook.remove()
    return inputs


def learn(road: Ours) -> None:
    """Forward, loss and backward of one batch."""
    batch, target = road.prepare(road.jobs(1)[0])
    with road.step.fabric.autocast():
        output = road.model(batch)
    road.step.objective(output, batch, target)[0].backward()


def parts_of(road: Ours) -> dict[str, Callable[[], object]]:
    """The work of each part of a step, alone; those in parentheses are contained in others, or negligible."""
    inputs, model = met_inputs(road), road.model
    learn(road)

    def run(*names):
        with road.step.fabric.autocast():
            for name in names:
                forward_and_back(model.get_submodule(name), inputs[name])

    dropout = [name for name, module in model.named_modules() if isinstance(module, ByteDropout)]
    return {
        "sequence encoder": lambda: run("sequence_encoder"),
        "(its stack)": lambda: run("sequence_encoder.stack"),
        "histone CNN": lambda: run("histone_encoder"),
        "TF MLP": lambda: run("tf_encoder"),
        "gate": lambda: run("cell_gate"),
        "fusion": lambda: run("fusion"),
        "encoder": lambda: run("encoder"),
        "heads": lambda: run("score_head", "label_head", "profile_head"),
        "(dropout, in the stacks)": lambda: run(*dropout, *dropout),  # a block calls its one module twice
        "gradient norms": lambda: _norms(road),
        "optimiser": road.optimiser.step,
        "averaged weights": lambda: road.average.update_parameters(model),
        "(gather and augment)": lambda: road.prepare(road.jobs(1)[0]),
    }


def _norms(road: Ours) -> None:
    for name in BRANCHES:
        _grad_norm(getattr(road.model, name))
    road.step.fabric.clip_gradients(road.wrapped, road.optimiser, max_norm=1.0, error_if_nonfinite=False)


# --- report -------------------------------------------------------------------------------------------------
def report_parts(road: Ours, step_seconds: float, rate: float, repeats: int) -> float:
    """Print FLOPs, seconds and share of the machine's rate by part; return the whole step's share."""
    parts = parts_of(road)
    seconds = {name: best_of(repeats, work) for name, work in parts.items()}
    flops = {name: flops_of(work) for name, work in parts.items()}
    for table in (seconds, flops):
        table["(before it: scan, pooling)"] = table["sequence encoder"] - table["(its stack)"]
    road.optimiser.zero_grad()
    flops["whole step"] = flops_of(lambda: learn(road))
    road.optimiser.zero_grad()
    seconds["the rest: loss, tokens, copies"] = step_seconds - sum(
        part for name, part in seconds.items() if not name.startswith("(")
    )
    seconds["whole step"] = step_seconds
    header = f"{'ms':>8} {'of step':>8} {'MFLOP/sample':>13} {'GFLOP/s':>8} {'of rate':>8}"
    print(f"\n{'part, forward and backward':34} {header}")
    for name, part in seconds.items():
        done = flops.get(name, 0)
        line = f"{name:34} {1e3 * part:8.1f} {part / step_seconds:8.1%}"
        if done:
            line += f" {done / road.samples / 1e6:13.2f} {done / part / 1e9:8.1f} {done / part / rate:8.1%}"
        print(line)
    return flops["whole step"] / step_seconds / rate


def report_inference(road: Ours, rounds: int, windows: int = 128) -> None:
    """Print samples a second and peak memory of inference, which reads both strands."""
    cells = np.arange(TRAINING + VALIDATION + TEST)
    predict = lambda: predict_scores(road.average.module, road.data, np.arange(windows), cells)
    seconds = best_of(rounds, predict)
    print(f"\ninference, both strands: {windows * len(cells) / seconds:,.0f} samples/s in batches of 12 windows x "
          f"{len(cells)} cell types; memory rises by {peak_bytes(predict) / 2**20:,.0f} MiB at most "
          f"(process: {_memory('VmHWM') / 2**20:,.0f} MiB)")  # fmt: skip


def report_goal(what: str, value: float, goal: float, shown: str) -> bool:
    """Print one line, met or missed; return whether it is met."""
    print(f"{'met   ' if value >= goal else 'MISSED'} {what}: {value:{shown}}, goal {goal:{shown}}")
    return value >= goal


def main() -> int:
    """Measure all roads in turn, print the tables and the goals; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="a round, of each of our roads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=32, help="a step")
    parser.add_argument("--cells", type=int, default=7, help="cell types a window")
    parser.add_argument("--earlier-batch", type=int, default=8, help="0: leave the earlier system out, and its goal")
    parser.add_argument("--earlier-rounds", type=int, default=2, help="of one step each")
    parser.add_argument("--earlier-gib", type=float, default=12, help="largest memory that the earlier system may take")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of our roads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    precision = choose_precision(options.precision, "cpu")
    region = Ours(options.windows, options.cells, precision)
    roads = {
        "region-major": region,
        "cell-type-major": Ours(options.windows, 1, precision),
        "cell-type-major, samples a step alike": Ours(options.windows * options.cells, 1, precision),
        "cell-type-major, patches of 50 bp": Ours(options.windows, 1, precision, n_bins=30),
    }
    if precision != "32-true":
        roads["region-major, float32"] = Ours(options.windows, options.cells, "32-true")
    report_inference(region, options.rounds)
    if options.earlier_batch:
        batch, each = affordable_batch(options.earlier_batch, options.earlier_gib)
        print(f"earlier system: {each:.2f} GiB a sample, so batches of {batch}", flush=True)
        roads["earlier system"] = Earlier(batch)
    best, rate = dict.fromkeys(roads, math.inf), 0.0
    for round_ in range(options.rounds + 1):  # the first one warms up
        rate = max(rate, matmul_rate(precision))
        for name, road in roads.items():
            steps = 1 if name == "earlier system" else options.steps if round_ else 1
            if name == "earlier system" and not 0 < round_ <= options.earlier_rounds:
                continue
            seconds = seconds_of(lambda: road(steps)) / steps
            best[name] = min(best[name], seconds) if round_ else best[name]
    print(f"\n{options.threads} threads; {precision}, matrix product {rate / 1e9:,.0f} GFLOP/s, in float32 "
          f"{matmul_rate('32-true') / 1e9:,.0f}; best of {options.rounds}")  # fmt: skip
    speeds = {name: road.samples / best[name] for name, road in roads.items()}
    print(f"{'road':40} {'samples a step':>15} {'samples/s':>12} {'region-major is faster by':>27}")
    for name, speed in speeds.items():
        print(f"{name:40} {roads[name].samples:15,} {speed:12,.1f} {speeds['region-major'] / speed:26,.1f}x")
    share = report_parts(region, best["region-major"], rate, options.rounds)
    one = roads["cell-type-major"]
    ratio = flops_of(lambda: learn(one)) / one.samples / (flops_of(lambda: learn(region)) / region.samples)
    print(f"\ncell-type-major needs {ratio:.2f} times the FLOPs a sample: at one rate, it would be so much slower")
    ours = speeds["region-major"]
    met = [report_goal("samples/s against cell-type-major", ours / speeds["cell-type-major"], GOAL_CELL_MAJOR, ".2f"),
           report_goal("share of the matrix-product rate, whole step", share, GOAL_SHARE, ".1%")]  # fmt: skip
    if options.earlier_batch:
        times = ours / speeds["earlier system"]
        met.append(report_goal("samples/s against the earlier system", times, GOAL_EARLIER, ",.0f"))
    return int(not all(met))


if __name__ == "__main__":
    sys.exit(main())
