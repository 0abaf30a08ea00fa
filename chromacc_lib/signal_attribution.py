"""Which bin of which histone mark or TF track a predicted score rests on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

from chromacc_lib.attribution import relative_size
from chromacc_lib.batches import RegionData
from chromacc_lib.inference import evaluating
from chromacc_lib.model import Batch

__all__ = ["SignalAttribution", "attribute_signals", "occlude_signals"]


@dataclass(frozen=True)
class SignalAttribution:
    """What each track's signal in each bin adds to the score of W windows in C cell types, against the training mean.

    The unit is arcsinh fold. Tracks are the model's histone marks, then its TFs; NaN where a track was not measured.
    """

    contribution: np.ndarray  # float32 (W, C, K, T)
    difference: np.ndarray  # float32 (W, C): score minus that with every measured track at the training mean
    delta: np.ndarray  # float32 (W, C): sum of the contributions minus `difference`; 0 is exact

    @property
    def relative_delta(self) -> np.ndarray:
        """float32 (W, C): size of the delta as a share of what was, or should have been, handed out in total."""
        return relative_size(self.delta, np.nansum(np.abs(self.contribution), (2, 3)), self.difference)


def attribute_signals(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, n_steps: int = 16, at_once: int = 16
) -> SignalAttribution:
    """Integrated gradients of the score along histone and TF signals, from the training mean (z = 0) to what was measured.

    windows (W,), cell_types (C,) or (W, C). The three statistics of a bin (mean, variance, max) are added up; all other
    inputs stay as they are; both strands count alike. By captum, with `n_steps` points of Gauss-Legendre quadrature.
    """
    parts = []
    for start in range(0, len(windows), at_once):
        chunk = windows[start : start + at_once]
        cells = cell_types[start : start + at_once] if np.ndim(cell_types) == 2 else cell_types
        parts.append(_attribute(model, data, chunk, cells, n_steps))
    return SignalAttribution(*(np.concatenate(values).astype(np.float32) for values in zip(*parts)))


def _attribute(
    model: nn.Module, data: RegionData, windows: np.ndarray, cells: np.ndarray, n_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contribution (B, C, K, T), difference and delta (B, C) of some windows."""
    batch = data.batch(windows, cells).to(next(model.parameters()).device)
    shape = batch.prior_score.shape

    def score(signals: Tensor, at: Tensor) -> Tensor:
        """Signals (N, C, K, T, 3) of the windows `at` -> the sum of scores over cell types, none of which reads another's."""
        marks = batch.histone.shape[2]
        one = replace(batch, **{name: getattr(batch, name)[at] for name in vars(batch)})
        one = replace(one, histone=signals[:, :, :marks], tf=signals[:, :, marks:])
        return _both(model, one)

    signals = torch.cat([batch.histone, batch.tf], 2)  # (B, C, K, T, 3)
    observed, at = torch.cat([batch.histone_observed, batch.tf_observed], 2), torch.arange(len(windows))
    with evaluating(model):
        total = IntegratedGradients(lambda x, rows: score(x, rows).sum(1), multiply_by_inputs=True)
        found = total.attribute(signals, torch.zeros_like(signals), additional_forward_args=(at,), n_steps=n_steps).sum(-1)
        with torch.no_grad():
            difference = score(signals, at) - score(torch.zeros_like(signals), at)
    found = found.float()  # (B, C, K, T)
    delta = found.sum((2, 3)).view(shape) - difference
    kept = torch.where(observed[..., None], found, torch.nan)
    return kept.cpu().numpy(), difference.cpu().numpy(), delta.cpu().numpy()


@torch.no_grad()
def occlude_signals(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, at_once: int = 16
) -> np.ndarray:
    """What is lost when one track's signal in one bin is put at the training mean: float32 (W, C, K, T), exact.

    windows (W,), cell_types (C,) or (W, C). The reference for `attribute_signals`; K x T evaluations a window. NaN where a
    track was not measured.
    """
    parts = []
    with evaluating(model):
        for start in range(0, len(windows), at_once):
            cells = cell_types[start : start + at_once] if np.ndim(cell_types) == 2 else cell_types
            batch = data.batch(windows[start : start + at_once], cells).to(next(model.parameters()).device)
            whole = _both(model, batch)
            lost = []
            for name in ("histone", "tf"):
                values, observed = getattr(batch, name), getattr(batch, f"{name}_observed")
                of_name = torch.full((*values.shape[:4],), torch.nan)
                for track in range(values.shape[2]):
                    for place in range(values.shape[3]):
                        empty = values.clone()
                        empty[:, :, track, place] = 0
                        change = whole - _both(model, replace(batch, **{name: empty}))
                        of_name[:, :, track, place] = torch.where(observed[:, :, track], change, torch.nan).cpu()
                lost.append(of_name)
            parts.append(torch.cat(lost, 2))
    return torch.cat(parts).float().numpy()


def _both(model: nn.Module, batch: Batch) -> Tensor:
    """Score (B, C), the mean over both strands."""
    return (model(batch).score + model(batch.reverse_complement()).score) / 2
