"""Gather region-major batches: B windows, each in C cell types, by one indexed read from arrays held as tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from chromacc_lib.dataset import Arrays
from chromacc_lib.model import Batch

__all__ = [
    "Draws", "RegionData", "Target", "drop_inputs", "mask_accessibility", "measured", "region_batches", "shift_bins",
    "without",
]  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a batch is trained on; NaN score or profile and label -1 mean unknown."""

    score: Tensor  # (B, C) arcsinh fold
    label: Tensor  # (B, C) 1 open, 0 closed, -1 unknown
    profile: Tensor  # (B, C, T) arcsinh fold


class RegionData:
    """The arrays of a dataset as tensors, indexed by (window, cell type)."""

    def __init__(self, arrays: Arrays) -> None:
        self.sequence = torch.from_numpy(arrays.sequence)
        self.histone, self.histone_observed = _tensor(arrays.histone), _tensor(arrays.histone_observed)
        self.tf, self.tf_observed = _tensor(arrays.tf), _tensor(arrays.tf_observed)
        self.metadata, self.metadata_observed = _tensor(arrays.metadata), _tensor(arrays.metadata_observed)
        self.prior, self.prior_score = _tensor(arrays.prior_profile), _tensor(arrays.prior_score)
        self.prior_observed = _tensor(arrays.prior_observed)
        self.accessibility, self.score = _tensor(arrays.accessibility), _tensor(arrays.score)
        self.label = _tensor(arrays.label)

    def batch(self, windows: np.ndarray, cell_types: np.ndarray) -> Batch:
        """The inputs of `windows` (B,) in `cell_types` (C,) or (B, C), every accessibility token masked."""
        w, c = self._index(windows, cell_types)
        accessibility = self.accessibility[w, c]
        return Batch(
            sequence=self.sequence[w[:, 0]],
            histone=self.histone[w, c], histone_observed=self.histone_observed[w, c],
            tf=self.tf[w, c], tf_observed=self.tf_observed[w, c],
            metadata=self.metadata[c], metadata_observed=self.metadata_observed[c],
            prior=self.prior[w, c], prior_score=self.prior_score[w, c], prior_observed=self.prior_observed[w, c],
            accessibility=torch.zeros_like(accessibility),
            accessibility_observed=torch.zeros_like(accessibility, dtype=torch.bool),
        )  # fmt: skip

    def target(self, windows: np.ndarray, cell_types: np.ndarray) -> Target:
        """What was measured in the same windows and cell types."""
        w, c = self._index(windows, cell_types)
        return Target(self.score[w, c], self.label[w, c], self.accessibility[w, c])

    def epoch_order(self, windows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The order in which an epoch goes through `windows`: at random."""
        return rng.permutation(windows)

    def keep(self, windows: np.ndarray) -> None:
        """Hold `windows` in memory for good: here all are."""

    def still_to_read(self) -> int:
        """Bytes that this will take beyond what it holds now: none."""
        return 0

    @staticmethod
    def _index(windows: np.ndarray, cell_types: np.ndarray) -> tuple[Tensor, Tensor]:
        w, c = torch.as_tensor(windows)[:, None], torch.as_tensor(cell_types)
        return w, (c if c.ndim == 2 else c[None].expand(len(w), -1))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


class Draws:
    """Random numbers for one batch of `total` windows, of which this process holds the rows `mine`.

    Every process draws for all rows and keeps its own: a batch is altered alike whatever number of them shares it.
    `random` and `normal` are those of a numpy generator, for shapes whose first axis is the rows held here.
    """

    def __init__(self, seed: Sequence[int], total: int, mine: slice = slice(None)) -> None:
        self.rng, self.total, self.mine = np.random.default_rng(seed), total, mine

    def random(self, shape: Sequence[int]) -> np.ndarray:
        """Uniform in [0, 1), float64."""
        return self.rng.random((self.total, *shape[1:]))[self.mine]

    def normal(self, mean: float, sd: float, shape: Sequence[int]) -> np.ndarray:
        """Gaussian, float64."""
        return self.rng.normal(mean, sd, (self.total, *shape[1:]))[self.mine]

    def coin(self) -> float:
        """One uniform number in [0, 1) for the whole batch."""
        return self.rng.random()


def region_batches(
    order: np.ndarray, cell_types: np.ndarray, batch_windows: int, cells_per_window: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch: every window once, in the given order, each with its own random draw of cell types.

    Yields window indices (B,) and cell-type indices (B, C). A last batch under half the size is merged into the one
    before it, so that no window is left out and no step rests on a handful of windows.
    """
    cuts = list(range(batch_windows, len(order), batch_windows))
    if cuts and len(order) - cuts[-1] < batch_windows / 2:
        cuts.pop()
    for chunk in np.split(order, cuts):
        drawn = rng.permuted(np.tile(cell_types, (len(chunk), 1)), axis=1)[:, :cells_per_window]
        yield chunk, drawn


def mask_accessibility(
    batch: Batch, target: Target, fully_masked: float, partly_masked: float, rng: np.random.Generator | Draws
) -> Batch:
    """Reveal some accessibility tokens: a share `fully_masked` of the samples keeps all of them masked, in the others
    each token stays masked with probability `partly_masked`. At prediction every token is masked.
    """
    b, c, t = target.profile.shape
    whole = rng.random((b, c, 1)) < fully_masked
    return reveal(batch, target.profile, torch.from_numpy(~whole & (rng.random((b, c, t)) >= partly_masked)))


def reveal(batch: Batch, profile: Tensor, shown: Tensor) -> Batch:
    """Show the model what was measured, profile (B, C, T), where `shown`, bool (B, C, T), and where it is known."""
    shown = shown & profile.isfinite()
    return replace(batch, accessibility=torch.where(shown, profile, torch.zeros(())), accessibility_observed=shown)


def shift_bins(batch: Batch, target: Target, bins: int) -> tuple[Batch, Target]:
    """Move the window's content by whole bins (right where positive): sequence, signals, prior and profile together.

    What moves in from outside is unknown: N, a signal of 0 (the training mean), a prior of 0 (closed), an unknown
    profile. Score and label stay those of the window.
    """
    if bins == 0:
        return batch, target
    bp = batch.sequence.shape[1] // batch.accessibility.shape[2]

    def moved(values: Tensor, axis: int, by: int, empty: float | int | bool) -> Tensor:
        """Move values along an axis; what comes in is empty."""
        out = values.roll(by, axis)
        out.narrow(axis, 0 if by > 0 else values.shape[axis] + by, abs(by)).fill_(empty)
        return out

    return replace(
        batch,
        sequence=moved(batch.sequence, 1, bins * bp, 4), histone=moved(batch.histone, 3, bins, 0.0),
        tf=moved(batch.tf, 3, bins, 0.0), prior=moved(batch.prior, 2, bins, 0.0),
        accessibility=moved(batch.accessibility, 2, bins, 0.0),
        accessibility_observed=moved(batch.accessibility_observed, 2, bins, False),
    ), replace(target, profile=moved(target.profile, 2, bins, torch.nan))  # fmt: skip


def drop_inputs(
    batch: Batch, assay: float, modality: float, noise: float, rng: np.random.Generator | Draws
) -> Batch:
    """Hide single assays and whole modalities at random, and jitter metadata by `noise` sd, in training only.

    So any subset of assays works at prediction, and no single one is leant on alone.
    """
    b, c = batch.prior_score.shape
    keep_any = [torch.from_numpy(rng.random((b, c)) >= modality) for _ in range(4)]
    histone = batch.histone_observed & keep_any[0][..., None] & _coin(batch.histone_observed.shape, assay, rng)
    tf = batch.tf_observed & keep_any[1][..., None] & _coin(batch.tf_observed.shape, assay, rng)
    metadata, prior = batch.metadata_observed & keep_any[2], batch.prior_observed & keep_any[3]
    jitter = torch.from_numpy(rng.normal(0, noise, tuple(batch.metadata.shape)).astype(np.float32))
    return replace(
        batch,
        histone=batch.histone * histone[..., None, None], histone_observed=histone,
        tf=batch.tf * tf[..., None, None], tf_observed=tf,
        metadata=(batch.metadata + jitter) * metadata[..., None], metadata_observed=metadata,
        prior=batch.prior * prior[..., None, None], prior_score=batch.prior_score * prior, prior_observed=prior,
    )  # fmt: skip


def _coin(shape: tuple[int, ...], drop: float, rng: np.random.Generator | Draws) -> Tensor:
    return torch.from_numpy(rng.random(shape) >= drop)


def without(
    batch: Batch, modality: str, index: int | None = None, cells: slice | Tensor = slice(None)
) -> Batch:
    """The batch with one of MODALITIES missing, or one track of it, in the way that missing data reaches the model.

    cells: where on the cell-type axis it is missing, a slice or bool (C,). The sequence, which all share, goes for all.
    """
    if modality == "sequence":
        return replace(batch, sequence=torch.full_like(batch.sequence, 4))
    names = {"cell": ("metadata",), "prior": ("prior", "prior_score")}.get(modality, (modality,))
    mask = f"{'metadata' if modality == 'cell' else modality}_observed"
    place = (slice(None), cells) if index is None else (slice(None), cells, index)
    empty = {name: getattr(batch, name).clone() for name in (*names, mask)}
    for values in empty.values():
        values[place] = 0
    return replace(batch, **empty)


def measured(batch: Batch, modality: str, index: int | None = None) -> np.ndarray:
    """Is there anything of a modality, or of one track of it, that could be hidden? bool (B, C)."""
    if modality == "sequence":
        return (batch.sequence < 4).any(1)[:, None].expand_as(batch.prior_observed).numpy()
    observed = {"cell": batch.metadata_observed, "prior": batch.prior_observed, "tf": batch.tf_observed,
                "histone": batch.histone_observed}[modality]  # fmt: skip
    if observed.ndim == 3:
        observed = observed.any(2) if index is None else observed[:, :, index]
    return observed.numpy()
