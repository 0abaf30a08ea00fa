"""Where a model reads from: its attention by layer, head, bin and modality, followed through its layers.

A weight says where information is read from, not what it does; whether it agrees with attributions is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from chromacc_lib.batches import RegionData
from chromacc_lib.inference import evaluating

__all__ = ["AttentionSummary", "attention_agreement", "attention_flow", "attention_maps", "attention_summary",
           "rollout"]  # fmt: skip


@dataclass(frozen=True)
class AttentionSummary:
    """Attention averaged over windows (and cell types). Rows of a map are queries, and add up to 1.

    Entropies are shares of the largest possible: 1 = looks at all places alike, 0 = at one.
    """

    sequence: np.ndarray  # (layer, head, T, T)
    encoder: np.ndarray  # (layer, head, T, T)
    fusion: np.ndarray  # (C, T, 6): by cell type, bin, and MODALITIES with the null key last; mean over heads
    fusion_heads: np.ndarray  # (head, 6)
    sequence_entropy: np.ndarray  # (layer, head)
    encoder_entropy: np.ndarray  # (layer, head)


@torch.no_grad()
def attention_maps(model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray) -> dict[str, Tensor]:
    """Attention of single places, on the CPU: sequence (W, layer, head, T, T), fusion (W, C, T, head, 6), encoder
    (W, C, layer, head, T, T). Forward strand. cell_types: (C,) or (W, C).
    """
    with evaluating(model):
        output = model(data.batch(windows, cell_types).to(next(model.parameters()).device), return_attention=True)
    return {name: weights.float().cpu() for name, weights in output.attention.items()}


def attention_summary(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, at_once: int = 8
) -> AttentionSummary:
    """Average the attention of W windows in the cell types (C,); entropies are taken before averaging."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(windows), at_once):
        chunk = windows[start : start + at_once]
        maps = attention_maps(model, data, chunk, cell_types)
        encoder, share = maps["encoder"].flatten(0, 1), len(chunk) / len(windows)
        sums = {
            "sequence": maps["sequence"].mean(0), "encoder": encoder.mean(0), "fusion": maps["fusion"].mean((0, 3)),
            "fusion_heads": maps["fusion"].mean((0, 1, 2)), "sequence_entropy": _entropy(maps["sequence"]),
            "encoder_entropy": _entropy(encoder),
        }  # fmt: skip
        parts.append({name: share * value for name, value in sums.items()})
    return AttentionSummary(**{f.name: sum(part[f.name] for part in parts).numpy() for f in fields(AttentionSummary)})


def _entropy(maps: Tensor) -> Tensor:
    """(N, layer, head, T, T) -> mean entropy of a query's weights (layer, head), as a share of log T."""
    return (-(maps * maps.clamp(min=1e-12).log()).sum(-1) / np.log(maps.shape[-1])).mean((0, 3))


def rollout(maps: np.ndarray) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020): (layer, head, T, T) -> (T, T), how much of each place reaches each one.

    Heads are averaged, the residual path counts as half, and layers are multiplied; rows add up to 1.
    """
    steps = 0.5 * maps.mean(1) + 0.5 * np.eye(maps.shape[-1])
    through = steps[0]
    for step in steps[1:]:
        through = step @ through
    return through


@dataclass(frozen=True)
class AttentionFlow:
    """Attention followed from the pooled score back to what is read, the mean over places; all of it adds up to 1."""

    by_bin: np.ndarray  # (T, 6): share of each bin and of MODALITIES with the null key last
    sequence: np.ndarray  # (T,): the sequence's share by the bin that it was read in, through its own stack


def attention_flow(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, at_once: int = 8
) -> AttentionFlow:
    """Follow the attention of W windows in cell types (C,) or (W, C): rollout of the encoder, fusion, rollout of the
    sequence stack. The score pools all tokens alike, so that queries of the last layer count alike.
    """
    by_bin, sequence, n = 0.0, 0.0, 0
    for start in range(0, len(windows), at_once):
        chunk = windows[start : start + at_once]
        cells = cell_types[start : start + at_once] if np.ndim(cell_types) == 2 else cell_types
        maps = {name: values.numpy() for name, values in attention_maps(model, data, chunk, cells).items()}
        fusion = maps["fusion"].mean(3)  # (W, C, T, 6)
        for w in range(len(chunk)):
            through = rollout(maps["sequence"][w])
            for c in range(fusion.shape[1]):
                share = rollout(maps["encoder"][w, c]).mean(0)[:, None] * fusion[w, c]  # (T, 6)
                by_bin, sequence, n = by_bin + share, sequence + share[:, 0] @ through, n + 1
    return AttentionFlow(by_bin / n, sequence / n)


def attention_agreement(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, contribution: np.ndarray, seed: int
) -> dict[str, float]:
    """Does the encoder attend to the bins that carry the contributions?

    windows (W,) in cell types (W, C), contribution (W, L). Spearman's correlation over the bins of a window between
    attention received (mean over layers, heads and queries) and the sum of absolute contributions; `value` is its mean
    over windows, `chance` the same with the attention of another window drawn at random, `sd_error` that of `value`.
    """
    received = []
    for start in range(0, len(windows), 16):
        some = slice(start, start + 16)
        maps = attention_maps(model, data, windows[some], cell_types[some])
        received.append(maps["encoder"].mean((1, 2, 3, 4)).numpy())  # (W, C, layer, head, T, T) -> (W, T)
    received = np.concatenate(received)
    carried = np.abs(contribution).reshape(len(received), received.shape[1], -1).sum(2)
    varies = (np.ptp(carried, axis=1) > 0) & (np.ptp(received, axis=1) > 0)
    received, carried = received[varies], carried[varies]
    if len(received) < 2:
        return {"value": np.nan, "chance": np.nan, "sd_error": np.nan}
    other = np.roll(np.random.default_rng(seed).permutation(len(received)), 1)
    value, chance = (
        np.array([stats.spearmanr(a, b).statistic for a, b in zip(x, carried)]) for x in (received, received[other])
    )
    return {"value": float(value.mean()), "chance": float(chance.mean()), "sd_error": float(stats.sem(value))}
