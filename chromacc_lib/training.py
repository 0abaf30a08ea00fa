"""Train the model: masked-accessibility regression with auxiliary binary classification, region-major batches.

The loop is Lightning Fabric's and holds no figure, file or line of text: what watches it comes in as callbacks.
Every random number follows from (seed, epoch, step), so a run that was interrupted goes on exactly where it stopped,
and a batch that several processes share is altered as one process would alter it.
"""

from __future__ import annotations

import difflib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from chromacc_lib import ChromaccError
from chromacc_lib.batches import (
    Draws, RegionData, Target, drop_inputs, mask_accessibility, region_batches, shift_bins,
)  # fmt: skip
from chromacc_lib.cache import sync
from chromacc_lib.callbacks import Callback, TrainingState
from chromacc_lib.dataset import Arrays
from chromacc_lib.devices import PRECISIONS, start_fabric
from chromacc_lib.jaspar import matrices_of
from chromacc_lib.model import Batch, ChromaccModel, ModelConfig
from chromacc_lib.objectives import Objective
from chromacc_lib.pretraining import Rows, pretrain, seed_torch
from chromacc_lib.streaming import StreamedRegionData
from chromacc_lib.vitals import BRANCHES, Vitals, is_sampled, relative_updates, weights_by_branch

__all__ = ["NonFiniteLoss", "TrainingConfig", "TrainingResult", "averaged", "build_model", "model_config", "save_model",
           "train", "validation_rows"]  # fmt: skip

MATRICES_PER_TF = 4  # JASPAR has several of some TFs: alone, in dimers, of two lengths
OPTIMISERS = {"adamw": partial(torch.optim.AdamW, fused=True), "adam": partial(torch.optim.Adam, fused=True)}
FROM_DATA = ("histone_marks", "tfs", "features", "window_bp", "n_bins", "score_mean", "positive_share")


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained; see `objectives.Objective` for the terms of the loss."""

    epochs: int = 5
    batch_windows: int = 32  # 0 = as many as fit in memory: `memory.fitting_batch` has to choose before training
    stream_windows: int = 0  # windows of a pool (see `streaming`), since the order follows from it; 0 = all in memory
    cells_per_window: int = 7
    optimiser: str = "adamw"  # or "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01  # AdamW's; with "adam" it is an L2 penalty, far stronger: 0 for Adam as it is known
    warmup_share: float = 0.05  # of all steps, linear; then cosine to zero
    clip_norm: float = 1.0
    ema_share: float = 0.1  # of all steps: over about so many, weights are averaged, validated and kept; 0 = the raw ones
    score_loss: str = "mse"
    profile_loss: str = "mse"
    label_loss: str = "bce"
    profile_weight: float = 0.2
    label_weight: float = 0.1
    class_balance: bool = False
    first_fully_masked: float = 0.6  # share of samples with every token masked at the start; all of them at the end
    partly_masked: float = 0.5  # share of tokens masked in the other samples
    drop_assay: float = 0.1
    drop_modality: float = 0.05
    metadata_noise: float = 0.2  # sd, in sd of the training cell types
    shift_bins: int = 0  # largest shift of a window's content, in bins
    pretrain_epochs: int = 0  # contrastive pretraining before training, see module `pretraining`; 0: none
    pretrain_cell_type_weight: float = 1.0  # of its loss across cell types; that across windows has 1
    reverse_complement: bool = True  # read half of the batches on the other strand
    motif_prior: bool = True  # start kernels and gates at the JASPAR motifs of the metadata's and tracks' TFs
    validation_windows: int = 1000  # at most so many, evenly spaced
    precision: str = "auto"  # "32-true", "bf16-mixed", or "auto": bf16 where the hardware multiplies it, else float32
    compile: bool = False  # torch.compile: made for GPUs; on CPUs it costs a minute and gains nothing
    seed: int = 1

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise ChromaccError(f"optimiser={self.optimiser!r} is not known; allowed: {', '.join(OPTIMISERS)}.")
        if self.precision not in PRECISIONS:
            raise ChromaccError(f"precision={self.precision!r} is not known; allowed: {', '.join(PRECISIONS)}.")
        if self.epochs < 1 or self.batch_windows < 0 or self.cells_per_window < 1:
            raise ChromaccError(
                f"epochs={self.epochs}, batch_windows={self.batch_windows}, cells_per_window={self.cells_per_window}: "
                "each has to be 1 or more (batch_windows=0: as many as fit)."
            )
        if self.stream_windows and self.stream_windows < max(1, 2 * self.batch_windows):
            raise ChromaccError(
                f"stream_windows={self.stream_windows}; needed: 0 (all in memory), or a pool of at least two batches "
                f"(2 x batch_windows = {2 * self.batch_windows}), better of thousands of windows."
            )
        if not 0 <= self.ema_share < 1:
            raise ChromaccError(f"ema_share={self.ema_share}; needed: 0 (the raw weights) or more, and less than 1.")
        if self.pretrain_epochs < 0 or not 0 <= self.pretrain_cell_type_weight < math.inf:
            raise ChromaccError(
                f"pretrain_epochs={self.pretrain_epochs}, pretrain_cell_type_weight={self.pretrain_cell_type_weight}: "
                "each has to be 0 or more, and finite."
            )
        self.objective(0.5)

    def objective(self, positive_share: float) -> Objective:
        """The loss that these settings describe."""
        return Objective(
            self.score_loss, self.profile_loss, self.label_loss, self.profile_weight, self.label_weight,
            self.class_balance, positive_share,
        )  # fmt: skip


class NonFiniteLoss(ChromaccError):
    """Raised at the step whose loss or gradient is not finite, before the weights change.

    batch, target: what this process was given, as it was read by the model; epoch, index: of the step, from 1 and 0.
    """

    def __init__(self, message: str, batch: Batch, target: Target, epoch: int, index: int) -> None:
        super().__init__(message)
        self.batch, self.target, self.epoch, self.index = batch, target, epoch, index

    def save(self, path: str | Path) -> None:
        """Write batch and target as safetensors, "batch.histone" and so on, with the step in the header."""
        tensors = {f"{part}.{name}": tensor.detach().cpu().contiguous() for part in ("batch", "target")
                   for name, tensor in vars(getattr(self, part)).items()}  # fmt: skip
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, {"epoch": str(self.epoch), "step": str(self.index + 1)})


@dataclass(frozen=True)
class TrainingResult:
    """The best model by validation, on the CPU and in evaluation mode, and what each epoch was like."""

    model: ChromaccModel
    history: pd.DataFrame  # one row an epoch; see `_epoch_row` for its columns
    best_epoch: int
    device: str
    validation: str  # on which rows the checkpoint was chosen, in words
    motifs: dict[str, str]  # {TF: JASPAR identifier} that the kernels started from
    stopped: str = ""  # why training ended before its last epoch, if it did
    pretraining: pd.DataFrame = field(default_factory=pd.DataFrame)  # one row an epoch of it; see `pretrain`


def _require_sizes(sizes: dict) -> None:
    """Raise `ChromaccError` that lists what is no field of `ModelConfig`, not free to choose, or of another type."""
    free = {f.name: f.default for f in fields(ModelConfig) if f.name not in FROM_DATA}
    problems = []
    for name, value in sizes.items():
        kinds = (int, float) if type(free.get(name)) is float else (type(free.get(name)),)
        if name in FROM_DATA:
            problems.append(f"{name} is the dataset's and cannot be set")
        elif name not in free:
            near = difflib.get_close_matches(str(name), free, n=1, cutoff=0.5)
            problems.append(f"{name!r} is not known" + (f"; did you mean {near[0]!r}?" if near else ""))
        elif type(value) not in kinds:
            problems.append(f"{name}={value!r}: needs {kinds[-1].__name__}, such as {free[name]!r}")
    if problems:
        raise ChromaccError(f"model: {'; '.join(problems)}\nfields that can be set: {', '.join(sorted(free))}")


def model_config(arrays: Arrays, **sizes) -> ModelConfig:
    """The model that fits a dataset; the heads start at the means of the training cell types x training chromosomes.

    `sizes`: fields of `ModelConfig` but for those of the dataset; raises `ChromaccError` for any other.
    """
    _require_sizes(sizes)
    rows = np.ix_(arrays.windows["split"].to_numpy() == "train", arrays.train_mask)
    score, label = arrays.score[rows], arrays.label[rows]
    if not np.isfinite(score).any() or not (label == 1).any() or not (label == 0).any():
        raise ChromaccError(
            "model_config: the training rows (training cell types x training chromosomes) need known scores and both "
            f"open and closed windows; got {np.isfinite(score).sum()} scores, {(label == 1).sum()} open, "
            f"{(label == 0).sum()} closed. Look at the split and at the peaks of the training cell types."
        )
    return ModelConfig(
        histone_marks=arrays.histone_marks, tfs=arrays.tfs, features=arrays.features,
        window_bp=arrays.sequence.shape[1], n_bins=arrays.accessibility.shape[2],
        score_mean=float(np.nanmean(score)), positive_share=float((label == 1).sum() / (label >= 0).sum()), **sizes,
    )  # fmt: skip


def build_model(arrays: Arrays, motif_prior: bool, sizes: dict | None = None) -> tuple[ChromaccModel, dict[str, str]]:
    """An untrained model for a dataset, and the motifs that it starts from, {TF: JASPAR identifiers}.

    There are none without a motif_prior, and with k-mer tokens, which have no kernels to start.
    """
    model = ChromaccModel(model_config(arrays, **(sizes or {})))
    has_kernels = model.config.sequence_tokens == "patch"
    # TFs with tracks first: expression may name a thousand more than there are kernels.
    tfs = dict.fromkeys((*arrays.tfs, *arrays.features)) if motif_prior and has_kernels else {}
    known = matrices_of(tfs, MATRICES_PER_TF, model.config.motif_kernel_bp)
    known = known[: model.config.d_model // 2]  # half of the kernels stay free to find their own
    if known:
        model.start_from_motifs([(tf, torch.from_numpy(matrix)) for tf, _, matrix in known])
    return model, {tf: ", ".join(i for name, i, _ in known if name == tf) for tf in dict.fromkeys(tf for tf, *_ in known)}


def train(
    arrays: Arrays, config: TrainingConfig, device: str = "auto", sizes: dict | None = None,
    callbacks: Sequence[Callback] = (), fabric: Fabric | None = None,
    data: RegionData | StreamedRegionData | None = None,
) -> TrainingResult:  # fmt: skip
    """Train on training cell types x training chromosomes; keep the epoch with the lowest validation score MSE.

    `sizes` overrides fields of `ModelConfig`; `callbacks` watch, save, resume and stop (module `callbacks`). The same
    seed on the same machine gives the same weights. Every process that torchrun started calls this alike and gets the
    same result; fabric is `start_fabric`'s when not given. `data` is where batches come from, `RegionData(arrays)` when
    not given; with streamed data, `arrays` are its tables. Raises `NonFiniteLoss` at the first loss that is not finite.
    """
    if config.batch_windows == 0:
        raise ChromaccError("train: batch_windows=0; give a number, or let `memory.fitting_batch` choose it first.")
    fabric = fabric or start_fabric(device, config.precision)
    _require_enough(arrays, config, fabric.world_size)
    seed_everything(config.seed, verbose=False)
    model, motifs = build_model(arrays, config.motif_prior, sizes)
    optimiser = OPTIMISERS[config.optimiser](
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    wrapped, optimiser = fabric.setup(torch.compile(model) if config.compile else model, optimiser)
    data = RegionData(arrays) if data is None else data
    windows, cells = np.flatnonzero(arrays.windows["split"].to_numpy() == "train"), np.flatnonzero(arrays.train_mask)
    average = averaged(model, config, len(windows))
    validation = _Validation(arrays, data, config, fabric)
    vitals = Vitals.of(data, validation.windows, validation.cells)
    step = _Step(fabric, model, wrapped, optimiser, config)
    state = TrainingState(config, model, average, optimiser, is_first_process=fabric.is_global_zero)
    for callback in callbacks:
        callback.on_start(state)
    _require_same_place(state, fabric)
    if len(state.pretraining) < config.pretrain_epochs:
        _pretrain(state, data, (windows, cells), (validation.windows, validation.cells), fabric, callbacks)
    while state.epoch <= config.epochs and not state.stop:
        rng = np.random.default_rng((config.seed, state.epoch))
        batches = list(
            region_batches(data.epoch_order(windows, rng), cells, config.batch_windows, config.cells_per_window, rng)
        )
        state.steps_per_epoch = len(batches)
        wrapped.train()
        jobs = [(i, *batches[i]) for i in range(len(state.steps), len(batches))]
        ready_batches = _ahead(
            lambda job: step.prepare(data, state.epoch, *job, len(batches)), jobs, in_thread=fabric.device.type == "cuda"
        )
        for (index, _, drawn), (ready, waited) in zip(jobs, ready_batches, strict=True):
            row = step(state.epoch, index, len(batches), *ready)
            state.steps.append(row | {"wait": waited, "samples": drawn.size})
            average.update_parameters(model)
            for callback in callbacks:
                callback.on_step(state)
        inside = vitals(average.module) if fabric.is_global_zero else {}
        row = _epoch_row(state, validation(average.module) | inside)
        state.end_epoch(fabric.broadcast(row))  # to the last digit the same everywhere: what stops a run reads it
        for callback in callbacks:
            callback.on_epoch(state)
    if not state.best_weights:
        raise ChromaccError("train: no epoch had a finite validation error; are the scores of the validation rows known?")
    model = model.to("cpu").eval()
    model.load_state_dict(state.best_weights)
    history = pd.DataFrame(state.history)
    return TrainingResult(
        model, history, state.best_epoch, str(fabric.device), validation.words, motifs, stopped=state.stop,
        pretraining=pd.DataFrame(state.pretraining),
    )  # fmt: skip


def averaged(model: nn.Module, config: TrainingConfig, n_windows: int) -> AveragedModel:
    """Return the exponential moving average of a model's weights, to be updated after each step of training.

    Its memory is a share of all steps, not a number of them: one that suits a long training would lag behind in a
    short one, when the learning rate has already fallen.
    """
    memory = config.ema_share * config.epochs * n_windows / config.batch_windows  # steps
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / max(memory, 1)))


def _require_enough(arrays: Arrays, config: TrainingConfig, processes: int) -> None:
    """Raise `ChromaccError` where some process would get no window of a batch, or a shift would leave none of it."""
    windows = len(validation_rows(arrays, config.validation_windows)[0])
    if processes > 1 and (config.batch_windows < 2 * processes or windows < processes):
        raise ChromaccError(
            f"train: {processes} processes share each batch of {config.batch_windows} windows and {windows} validation "
            f"windows; needed: batch_windows of {2 * processes} or more, since the last batch of an epoch may hold half "
            f"of it, and {processes} validation windows. Start fewer processes, or give larger batches."
        )
    n_bins = arrays.accessibility.shape[2]
    if not 0 <= config.shift_bins < n_bins:
        raise ChromaccError(f"train: shift_bins={config.shift_bins}; needed: 0 or more, and less than {n_bins}, the window.")


def _pretrain(
    state: TrainingState, data: RegionData, training: Rows, validation: Rows, fabric: Fabric,
    callbacks: Sequence[Callback],
) -> None:  # fmt: skip
    """Pretrain the model with the optimiser and the course of the learning rate that training has, but for its length.

    The average of the weights needs no change: it begins as a copy of them after the first step of training.
    """
    config = state.config
    rows = pretrain(
        state.model, data, training, validation, config, fabric,
        lambda parameters: OPTIMISERS[config.optimiser](parameters, weight_decay=config.weight_decay),
        lambda step, steps: config.learning_rate * _learning_rate(step, steps, config),
    )  # fmt: skip
    for row in rows:
        state.pretraining.append(row)
        for callback in callbacks:
            callback.on_pretraining_epoch(state)


def _require_same_place(state: TrainingState, fabric: Fabric) -> None:
    """Raise `ChromaccError` unless all processes go on from the same step: a checkpoint that only some of them see."""
    if fabric.world_size == 1:
        return
    places: list = [None] * fabric.world_size
    torch.distributed.all_gather_object(places, (len(state.pretraining), state.epoch, len(state.steps)))
    if len(set(places)) > 1:
        raise ChromaccError(
            "train: the processes would go on from different places, (epochs of pretraining done, epoch, steps done): "
            f"{sorted(set(places))}; the checkpoint has to lie where all of them can read it, on a file "
            "system that the machines share."
        )


def _ahead(prepare: Callable, jobs: Sequence, in_thread: bool) -> Iterator[tuple[object, float]]:
    """Yield prepare(job) and the seconds waited for it; with `in_thread`, a thread prepares the next one meanwhile.

    On CPUs that thread would take a core from the step, which then waits for it in every product: a step took a fifth
    longer than one that gathers its own batch.
    """
    if not in_thread:
        for job in jobs:
            start = time.perf_counter()
            ready = prepare(job)
            yield ready, time.perf_counter() - start
        return
    if not jobs:
        return
    with ThreadPoolExecutor(1) as executor:
        coming = executor.submit(prepare, jobs[0])
        for following in (*jobs[1:], None):
            start = time.perf_counter()
            ready = coming.result()
            waited = time.perf_counter() - start
            if following is not None:
                coming = executor.submit(prepare, following)
            yield ready, waited


def _learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


class _Step:
    """One step of the optimiser on one region-major batch, of which each process has every n-th window."""

    def __init__(
        self, fabric: Fabric, model: ChromaccModel, wrapped: nn.Module, optimiser: torch.optim.Optimizer,
        config: TrainingConfig,
    ) -> None:  # fmt: skip
        self.fabric, self.model, self.wrapped, self.optimiser, self.config = fabric, model, wrapped, optimiser, config
        self.objective = config.objective(model.config.positive_share)
        self.mine = slice(fabric.global_rank, None, fabric.world_size)

    def prepare(
        self, data: RegionData, epoch: int, index: int, windows: np.ndarray, cells: np.ndarray, n_steps: int
    ) -> tuple[Batch, Target]:
        """This process's share of a batch, augmented and masked, on the device."""
        config, draws = self.config, Draws((self.config.seed, epoch, index + 1), len(windows), self.mine)
        batch, target = (read(windows[self.mine], cells[self.mine]) for read in (data.batch, data.target))
        done = ((epoch - 1) * n_steps + index) / (config.epochs * n_steps)
        whole = config.first_fully_masked + (1 - config.first_fully_masked) * done
        batch = drop_inputs(batch, config.drop_assay, config.drop_modality, config.metadata_noise, draws)
        batch = mask_accessibility(batch, target, whole, config.partly_masked, draws)
        if config.shift_bins:
            by = math.floor(draws.coin() * (2 * config.shift_bins + 1)) - config.shift_bins
            batch, target = shift_bins(batch, target, by)
        if draws.coin() < 0.5 and config.reverse_complement:
            batch, target = batch.reverse_complement(), Target(target.score, target.label, target.profile.flip(2))
        device = self.fabric.device
        return batch.to(device), Target(*(t.to(device) for t in vars(target).values()))

    def __call__(self, epoch: int, index: int, n_steps: int, batch: Batch, target: Target) -> dict[str, float]:
        """Step; returns the loss, its terms, the gradient of each term where the heads begin, and that of each branch."""
        start, config = time.perf_counter(), self.config
        rate = config.learning_rate * _learning_rate((epoch - 1) * n_steps + index, config.epochs * n_steps, config)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        seed_torch(config.seed, epoch, index, self.fabric.global_rank)  # of dropout
        output = self.wrapped(batch)
        loss, terms = self.objective(output, batch, target, self._mean_count)
        pulls = self._pulls(output.tokens, batch, target)
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        norms = {f"grad_{name}": _grad_norm(getattr(self.model, name)) for name in BRANCHES}
        norms["grad_norm"] = self.fabric.clip_gradients(
            self.wrapped, self.optimiser, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        figures = {"train_loss": loss, **{f"train_{name}": term for name, term in terms.items()}, **pulls, **norms}
        device = self.fabric.device  # of all but a branch that is not there
        values = torch.stack([value.detach().float().reshape(()).to(device) for value in figures.values()])
        row = dict(zip(figures, self.fabric.all_reduce(values, reduce_op="mean").tolist()))
        if not (math.isfinite(row["train_loss"]) and math.isfinite(row["grad_norm"])):
            raise NonFiniteLoss(
                f"train: the loss became {row['train_loss']}, its gradient's norm {row['grad_norm']}, in step {index + 1} "
                f"of epoch {epoch} (terms: "
                + ", ".join(f"{name} {row['train_' + name]}" for name in terms)
                + f"); lower learning_rate (now {config.learning_rate}) or lengthen warmup_share, and look at the dataset "
                "for values that are not finite.", batch, target, epoch, index,
            )
        before = weights_by_branch(self.model) if is_sampled(index, n_steps) else {}
        self.optimiser.step()
        moved = relative_updates(self.model, before) if before else dict.fromkeys(BRANCHES, math.nan)
        row |= {f"update_{name}": float(value) for name, value in moved.items()}
        return row | {"learning_rate": rate, "step": time.perf_counter() - start}

    def _pulls(self, tokens: Tensor, batch: Batch, target: Target) -> dict[str, Tensor]:
        """Norm of the gradient of each term, unweighted, where the heads begin: at the tokens that all of them read."""
        tokens = tokens.detach().requires_grad_()
        with self.fabric.autocast():
            output = self.model.heads(tokens, self.model.readable(batch))
        _, terms = self.objective(output, batch, target, self._mean_count)
        gradients = [torch.autograd.grad(term, tokens, retain_graph=True)[0] for term in terms.values()]
        squares = torch.stack([gradient.float().square().sum() for gradient in gradients])
        # Each of n processes has n times the gradient of its rows: mean of squares / n is the sum of theirs / n^2.
        norms = (self.fabric.all_reduce(squares, reduce_op="mean") / self.fabric.world_size).sqrt()
        return {f"pull_{name}": norm for name, norm in zip(terms, norms)}

    def _mean_count(self, counts: Tensor) -> Tensor:
        return self.fabric.all_reduce(counts, reduce_op="mean")


def _grad_norm(branch: nn.Module | None) -> Tensor:
    """L2 norm of a branch's gradient; NaN for a branch that this dataset has no input for."""
    if branch is None:
        return torch.tensor(math.nan)
    return nn.utils.get_total_norm([p.grad for p in branch.parameters() if p.grad is not None])


def validation_rows(arrays: Arrays, most_windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the windows (evenly spaced where there are more than `most_windows`) and cell types that choose the epoch.

    They are validation cell types x validation chromosomes. Where there are no validation cell types, training cell
    types (with their leave-one-out prior) take their place. Raises `ChromaccError` without validation windows.
    """
    split = arrays.cell_types["split"].to_numpy()
    windows = np.flatnonzero(arrays.windows["split"].to_numpy() == "validation")
    if not len(windows):
        raise ChromaccError("train: no window lies on a validation chromosome; name some in validation_chromosomes.")
    cells = np.flatnonzero(split == ("validation" if (split == "validation").any() else "train"))
    return windows[:: max(1, math.ceil(len(windows) / most_windows))], cells


class _Validation:
    """Score the rows on which a checkpoint is chosen, in this process's share. Test rows are never looked at."""

    def __init__(self, arrays: Arrays, data: RegionData, config: TrainingConfig, fabric: Fabric) -> None:
        self.windows, self.cells = validation_rows(arrays, config.validation_windows)
        self.mine = self.windows[fabric.global_rank :: fabric.world_size]
        self.data, self.fabric = data, fabric
        data.keep(self.mine)
        unseen = (arrays.cell_types["split"].iloc[self.cells] == "validation").all()
        kind = "unseen (validation)" if unseen else "training"
        self.words = f"{len(self.cells)} {kind} cell types x {len(self.windows)} windows of validation chromosomes"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Validation figures of `model`, every accessibility token masked; its training mode is restored."""
        was_training, fabric = model.training, self.fabric
        model.eval()
        parts = []
        for chunk in np.array_split(self.mine, max(1, len(self.mine) // 32)):
            with fabric.autocast():
                output = model(self.data.batch(chunk, self.cells).to(fabric.device))
            average = self.data.prior_score[torch.as_tensor(chunk)[:, None], torch.as_tensor(self.cells)[None]]
            rows = [output.score.float().cpu(), self.data.target(chunk, self.cells).score, average]
            parts.append(torch.stack(rows, -1).flatten(0, 1))
        model.train(was_training)
        if fabric.world_size > 1:
            shares: list = [None] * fabric.world_size
            torch.distributed.all_gather_object(shares, torch.cat(parts))
            parts = shares
        predicted, measured, average = torch.cat(parts).double().numpy().T
        known = np.isfinite(measured)
        predicted, measured, average = predicted[known], measured[known], average[known]
        mse, base = np.mean((predicted - measured) ** 2), np.mean((average - measured) ** 2)
        spread = predicted.std() > 0 and measured.std() > 0
        return {
            "validation_mse": float(mse), "validation_skill": float(1 - mse / base),
            "validation_pearson": float(np.corrcoef(predicted, measured)[0, 1]) if spread else math.nan,
            "prediction_std": float(predicted.std()), "label_std": float(measured.std()),
            "variance_ratio": float(predicted.var() / measured.var()) if measured.std() > 0 else math.nan,
            **_departures(predicted - average, measured - average),
        }  # fmt: skip


def _departures(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """How far predictions depart from the locus average, beside how far measurements do, and whether alike."""
    spread = predicted.std() > 0 and measured.std() > 0
    return {
        "departure_ratio": float(predicted.var() / measured.var()) if measured.std() > 0 else math.nan,
        "departure_pearson": float(np.corrcoef(predicted, measured)[0, 1]) if spread else math.nan,
    }


def _epoch_row(state: TrainingState, figures: dict[str, float]) -> dict[str, float]:
    """Mean of every figure over the epoch's steps, the figures of its end, and speed in (window, cell type) samples.

    Columns: epoch; its steps; learning_rate (of the last step); train_loss and its terms train_<term>; pull_<term>, the
    gradient's norm where the heads begin; grad_<branch> and grad_norm, before clipping; update_<branch>, the relative
    change of the weights a step (of a sample of steps). Of the steps, too: train_loss_first and learning_rate_first (of
    the first), train_loss_max and grad_norm_max, clipped_share (of steps whose gradient was longer than clip_norm). On
    validation rows: validation_mse, validation_skill and validation_pearson, prediction_std and label_std, variance_ratio
    (of predictions over labels); departure_ratio and departure_pearson, the same and Pearson's r of what departs from the
    locus average; and, on a small part of them, the figures of `vitals.model_vitals`.
    """
    steps = pd.DataFrame(state.steps)
    seconds = float(steps["step"].sum() + steps["wait"].sum())
    samples, rate = float(steps["samples"].sum()), float(steps["learning_rate"].iloc[-1])
    means = steps.drop(columns=["step", "wait", "samples", "learning_rate"]).mean().to_dict()
    steady = {
        "train_loss_first": float(steps["train_loss"].iloc[0]), "train_loss_max": float(steps["train_loss"].max()),
        "learning_rate_first": float(steps["learning_rate"].iloc[0]), "grad_norm_max": float(steps["grad_norm"].max()),
        "clipped_share": float((steps["grad_norm"] > state.config.clip_norm).mean()),
    }  # fmt: skip
    return {
        "epoch": state.epoch, "steps": len(steps), "learning_rate": rate, **means, **steady, **figures, "seconds": seconds,
        "samples_per_second": samples / seconds, "share_waiting_for_data": float(steps["wait"].sum()) / seconds,
    }  # fmt: skip


def save_model(result: TrainingResult, config: TrainingConfig, out_dir: str | Path, extra: dict, card: str) -> None:
    """Write `model.safetensors`, `config.json`, `history.csv` and `model_card.md` to `out_dir`.

    A model that was pretrained has a `pretraining.csv`, too; without pretraining, one of an earlier run is removed.
    config.json goes first and comes last: a folder that was left half-written holds no model.
    `extra` (dataset, splits, versions) goes into config.json beside the two configs.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").unlink(missing_ok=True)
    save_file({k: v.contiguous() for k, v in result.model.state_dict().items()}, out / "model.safetensors")
    result.history.to_csv(out / ".history.part", index=False)
    (out / ".history.part").replace(out / "history.csv")  # whole at any moment: somebody may follow it
    (out / "pretraining.csv").unlink(missing_ok=True)
    if len(result.pretraining):
        result.pretraining.to_csv(out / "pretraining.csv", index=False)
    (out / "model_card.md").write_text(card)
    content = {
        "model": asdict(result.model.config), "training": asdict(config), "best_epoch": result.best_epoch,
        "device": result.device, "validation": result.validation, "started_from_motifs": result.motifs,
        "stopped": result.stopped, **extra,
    }  # fmt: skip
    sync(out / "model.safetensors")
    (out / ".config.part").write_text(json.dumps(content, indent=1))
    sync(out / ".config.part")
    (out / ".config.part").replace(out / "config.json")
