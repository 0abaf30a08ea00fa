"""Contrastive pretraining: before training, the encoders learn to tell which locus and which signals belong together.

Each (window, cell type) has two sides: sequence, met by the cell type's metadata, and locus prior; and histone and TF
signals. Each side is embedded by the model's own encoders, the mean over tokens and a small head that is thrown away
afterwards. Symmetric InfoNCE (van den Oord et al. 2018; as in CLIP, Radford et al. 2021) with learned temperatures
pulls the two sides of a pair together, against two kinds of negatives, each in a loss of its own:

- across windows: other windows in the same cell type. What does this place look like in a cell type?
- across cell types: the same window in other cell types. What does this cell type make of the place?

One loss over all pairs would be the first alone: of the negatives only one in B is the same window, and the others are
easy. And the two need different care. Within a window, leave-one-out averages rank the cell types by what was left
out, so the second loss could learn accessibility backwards from them: it is not given the prior. And it would do to
recognise each cell type by the level of its tracks: so a cell type's mean over the batch is taken off both sides.
Accessibility is used nowhere else but in that leave-one-out prior, in the first loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from chromacc_lib import ChromaccError
from chromacc_lib.batches import Draws, RegionData, drop_inputs, region_batches
from chromacc_lib.model import MODALITIES, Batch, ChromaccModel

__all__ = ["CONTRASTS", "Matching", "Rows", "Sides", "contrast", "less_mean", "pretrain", "seed_torch"]

CONTRASTS = ("across_windows", "across_cell_types")
FIRST_TEMPERATURE = 0.07  # as in CLIP
LARGEST_SCALE = 100.0  # 1 / lowest temperature, as in CLIP
SHORTEST = 1e-4  # a vector below this length counts as zero: what rounding leaves of one less its mean has no direction
Rows = tuple[np.ndarray, np.ndarray]  # window indices and cell-type indices; all pairs of them


class Matching(NamedTuple):
    """How well partners were found among candidates; sums, so that they add up over batches."""

    loss: Tensor  # summed cross-entropy, in nats
    found: Tensor  # how often the nearest candidate was the partner
    by_chance: Tensor  # how often it would be if one were drawn at random
    n: Tensor  # partners looked for: twice the samples, once from either side


def contrast(left: Tensor, right: Tensor, compete: Tensor, scale: Tensor | float = 1.0) -> Matching:
    """Symmetric InfoNCE of n samples with two sides each: both look for their partner among the candidates.

    left, right: float (n, d), of any length. compete: bool (n, n), symmetric: j is a candidate of i; True at (i, i)
    where sample i takes part, all False where it does not. scale: 1 / temperature, of cosines. A sample without a
    second candidate has nothing to find, and is not counted.
    """
    with torch.autocast(left.device.type, enabled=False):
        left, right = (F.normalize(side.float(), dim=-1, eps=SHORTEST) for side in (left, right))
        cosines = left @ right.T
    candidates = compete.sum(1)
    looking = torch.nonzero(candidates > 1).squeeze(1)
    logits = torch.stack([cosines, cosines.T]).mul(scale).masked_fill(~compete, -math.inf)[:, looking].flatten(0, 1)
    partner = looking.repeat(2)
    return Matching(
        loss=F.cross_entropy(logits, partner, reduction="sum"),
        found=(logits.argmax(1) == partner).sum(),
        by_chance=(2 / candidates[looking]).sum(),
        n=logits.new_tensor(len(partner)),
    )


class Sides(nn.Module):
    """A model's encoders, with the heads that bring its two sides into one space; only the encoders outlive it.

    Raises `ChromaccError` for a model without histone marks and TFs, which has one side only.
    """

    def __init__(self, model: ChromaccModel) -> None:
        super().__init__()
        if model.histone_encoder is None and model.tf_encoder is None:
            raise ChromaccError(
                "pretraining: the model reads neither histone marks nor TF tracks, so sequence and locus have nothing "
                "to be matched with; set pretrain_epochs=0."
            )
        d, self.model = model.config.d_model, model
        self.locus_head, self.signal_head = (
            nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, d)) for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.full((len(CONTRASTS),), -math.log(FIRST_TEMPERATURE)))

    def trained(self) -> list[nn.Parameter]:
        """The parameters that either side rests on; fusion, Transformer and prediction heads are not touched."""
        model = self.model
        gate = model.cell_gate if self._has_gate() else None
        parts = (model.sequence_encoder, model.histone_encoder, model.tf_encoder, gate, model.prior_token,
                 self.locus_head, self.signal_head)  # fmt: skip
        return [p for part in parts if part is not None for p in part.parameters()] + [self.log_scale]

    def _has_gate(self) -> bool:
        """Does the gate follow expression? One that follows the tracks would show the sequence's side what it is to find."""
        return self.model.cell_gate is not None and self.model.cell_gate.knows_cells

    def forward(self, batch: Batch, cells: Tensor) -> dict[str, Matching]:
        """Match the samples of a batch under each of CONTRASTS; cells (B, C) says which cell types they are of.

        A sample takes part where something is known on both of its sides: for the first contrast sequence or prior,
        for the second sequence and metadata, and for both a histone or TF signal.
        """
        b, c = cells.shape
        batch = self.model.readable(batch)
        matches, sequence, _ = self.model.sequence_encoder(batch.sequence)
        tokens, observed = self.model.modality_tokens(batch, matches, sequence, gate_by_tracks=False)
        seen = dict(zip(MODALITIES, observed.flatten(0, 1).unbind(-1)))  # (B * C,) each
        pooled = {name: tokens[i].mean(2).flatten(0, 1) * seen[name][:, None] for i, name in enumerate(MODALITIES)}
        bare = torch.zeros_like(pooled["prior"])
        locus = self.locus_head(torch.cat([pooled["sequence"], pooled["prior"]], 1))  # (B * C, d)
        place = self.locus_head(torch.cat([pooled["sequence"], bare], 1))
        signal = self.signal_head(torch.cat([pooled["histone"], pooled["tf"]], 1))
        signals = seen["histone"] | seen["tf"]
        of_cell, of_window = cells.flatten(), torch.arange(b, device=cells.device).repeat_interleave(c)
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        same_cell = _both(signals & (seen["sequence"] | seen["prior"])) & (of_cell[:, None] == of_cell)
        described = signals & seen["sequence"] & seen["cell"] & self._has_gate()
        others = _both(described) & (of_cell[:, None] == of_cell)
        described = described & (others.sum(1) > 1)  # alone, a sample is the mean of its cell type
        same_window = _both(described) & (of_window[:, None] == of_window)
        return {
            "across_windows": contrast(locus, signal, same_cell, scale[0]),
            "across_cell_types": contrast(less_mean(place, others), less_mean(signal, others), same_window, scale[1]),
        }


def less_mean(values: Tensor, together: Tensor) -> Tensor:
    """Take from each sample, float (n, d), the mean of those that it stands together with, bool (n, n)."""
    with torch.autocast(values.device.type, enabled=False):
        values, share = values.float(), together.float()
        return values - share @ values / share.sum(1, keepdim=True).clamp(min=1)


def _both(known: Tensor) -> Tensor:
    return known[:, None] & known


def pretrain(
    model: ChromaccModel, data: RegionData, training: Rows, validation: Rows, config: Any, fabric: Fabric,
    optimiser: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer], rate: Callable[[int, int], float],
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Pretrain a model's encoders in place, and yield one row after each of `config.pretrain_epochs` epochs.

    training, validation: the rows that are fitted and those that are only matched; no others are looked at. config is
    the `TrainingConfig`; optimiser makes one for some parameters, and rate(step, steps) is its learning rate. Several
    processes share each batch and average their gradients, but a sample's negatives are those of its own process.
    A row has epoch, learning_rate, seconds, samples_per_second, and for each of CONTRASTS, in training and on
    validation rows (`validation_*`), loss (nats), accuracy (top 1) and chance (what guessing finds); NaN where nothing
    competes.
    Raises `ChromaccError` where there is nothing to match, or at a loss that is not finite.
    """
    seed_torch(config.seed, 0, 0)
    sides = Sides(model).to(fabric.device)
    step = _Step(sides, data, config, fabric, optimiser(sides.trained()))
    was_training = model.training
    for epoch in range(1, config.pretrain_epochs + 1):
        start = time.perf_counter()
        rng = np.random.default_rng((config.seed, 0, epoch))
        order = data.epoch_order(training[0], rng)
        batches = list(region_batches(order, training[1], config.batch_windows, config.cells_per_window, rng))
        sides.train()
        sums = torch.zeros(len(CONTRASTS), len(Matching._fields))
        for index, (windows, cells) in enumerate(batches):
            now = rate((epoch - 1) * len(batches) + index, config.pretrain_epochs * len(batches))
            sums += step(epoch, index, windows, cells, now)
        seconds = time.perf_counter() - start
        sums = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum").cpu()
        figures = _figures(sums)
        if not figures["across_windows_accuracy"] >= 0:
            raise ChromaccError(
                "pretraining: in no training cell type have two windows of a batch both a signal and a sequence or "
                "prior; look at which tracks the training cell types have, or set pretrain_epochs=0."
            )
        matched = _figures(_match(sides, data, *validation, config.batch_windows, fabric))
        model.train(was_training)
        yield {
            "epoch": epoch, "learning_rate": now, **figures, **{f"validation_{k}": v for k, v in matched.items()},
            "seconds": seconds, "samples_per_second": sum(cells.size for _, cells in batches) / seconds,
        }  # fmt: skip


class _Step:
    """One step of pretraining on one region-major batch, of which each process has every n-th window."""

    def __init__(
        self, sides: Sides, data: RegionData, config: Any, fabric: Fabric, optimiser: torch.optim.Optimizer
    ) -> None:
        self.sides, self.data, self.config, self.fabric, self.optimiser = sides, data, config, fabric, optimiser
        self.mine = slice(fabric.global_rank, None, fabric.world_size)

    def __call__(self, epoch: int, index: int, windows: np.ndarray, cells: np.ndarray, rate: float) -> Tensor:
        """Step at a learning rate; returns the sums of each contrast (2, 4), on the CPU."""
        config, fabric, mine = self.config, self.fabric, self.mine
        draws = Draws((config.seed, 0, epoch, index + 1), len(windows), mine)
        batch = self.data.batch(windows[mine], cells[mine])
        batch = drop_inputs(batch, config.drop_assay, config.drop_modality, config.metadata_noise, draws)
        batch = batch.reverse_complement() if draws.coin() < 0.5 and config.reverse_complement else batch
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        seed_torch(config.seed, 0, epoch, index + 1, fabric.global_rank + 1)  # of dropout
        with fabric.autocast():
            found = self.sides(batch.to(fabric.device), torch.as_tensor(cells[mine], device=fabric.device))
        windows_loss, cells_loss = (found[name].loss / found[name].n.clamp(min=1) for name in CONTRASTS)
        self.optimiser.zero_grad()
        (windows_loss + config.pretrain_cell_type_weight * cells_loss).backward()
        trained = self.optimiser.param_groups[0]["params"]
        for parameter in trained if fabric.world_size > 1 else ():
            parameter.grad = fabric.all_reduce(parameter.grad, reduce_op="mean")
        norm = nn.utils.clip_grad_norm_(trained, config.clip_norm)
        if not math.isfinite(norm):
            raise ChromaccError(
                f"pretraining: the gradient's norm became {norm} in step {index + 1} of epoch {epoch} (losses: across "
                f"windows {windows_loss}, across cell types {cells_loss}); lower learning_rate (now "
                f"{config.learning_rate}), and look at the dataset for values that are not finite."
            )
        self.optimiser.step()
        self.optimiser.zero_grad()
        return _sums(found)


@torch.no_grad()
def _match(
    sides: Sides, data: RegionData, windows: np.ndarray, cells: np.ndarray, batch_windows: int, fabric: Fabric
) -> Tensor:
    """Sums (2, 4) over all windows in all cell types, with candidates from about as many windows as in training."""
    sides.eval()
    sums = torch.zeros(len(CONTRASTS), len(Matching._fields))
    for chunk in np.array_split(windows, math.ceil(len(windows) / batch_windows)):
        drawn = torch.as_tensor(cells, device=fabric.device).expand(len(chunk), -1)
        with fabric.autocast():
            sums += _sums(sides(data.batch(chunk, cells).to(fabric.device), drawn))
    return sums


def _sums(found: dict[str, Matching]) -> Tensor:
    return torch.stack([torch.stack([x.detach().float() for x in found[name]]) for name in CONTRASTS]).cpu()


def _figures(sums: Tensor) -> dict[str, float]:
    """Mean loss, accuracy and chance of each contrast from its sums (2, 4); NaN where nothing was looked for."""
    means = (sums[:, :3].double() / sums[:, 3:].double()).tolist()
    return {f"{name}_{figure}": value for name, row in zip(CONTRASTS, means)
            for figure, value in zip(("loss", "accuracy", "chance"), row)}  # fmt: skip


def seed_torch(*numbers: int) -> None:
    """Seed torch's generators by a place in a run, such as (seed, epoch, step, process)."""
    torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
