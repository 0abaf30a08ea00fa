"""Vital signs of a model, in training and after it: attention, embeddings, tokens, and how far its weights move.

Each is one number whose healthy range hardly depends on the data, so that a run can be watched by them and a finished
model be judged by the same ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from chromacc_lib.batches import RegionData
from chromacc_lib.layers import TransformerStack
from chromacc_lib.model import ChromaccModel
from chromacc_lib.streaming import StreamedRegionData

__all__ = ["BRANCHES", "UPDATES_AN_EPOCH", "Vitals", "attention_entropy", "effective_rank", "is_sampled", "model_vitals",
           "relative_updates", "token_similarity", "weights_by_branch"]  # fmt: skip

BRANCHES = ("sequence_encoder", "histone_encoder", "tf_encoder", "cell_gate", "cell_token", "prior_token", "fusion",
            "encoder", "score_head", "label_head", "profile_head")  # fmt: skip
UPDATES_AN_EPOCH = 8  # steps whose change of the weights is measured: a copy of all weights each
VITAL_WINDOWS, VITAL_CELL_TYPES = 32, 4  # one batch of 128 samples, more than the embeddings of a pilot have directions


def attention_entropy(weights: Tensor, keys: Tensor | int | None = None) -> Tensor:
    """Return the entropy of each query's attention, as a share of the largest possible: 0 one key only, 1 all alike.

    weights: (..., K), rows add up to 1. keys: how many of the K a query may attend to, broadcast over weights.shape[:-1];
    None = all. A query with a single key has nothing to choose from, NaN. Attention whose entropy collapses goes with
    training that diverges: Zhai et al. 2023, "Stabilizing Transformer Training by Preventing Attention Entropy Collapse"
    (ICML).
    """
    weights = weights.float()
    entropy = -torch.special.xlogy(weights, weights).sum(-1)
    largest = torch.as_tensor(weights.shape[-1] if keys is None else keys, device=weights.device).float().log()
    return torch.where(largest > 0, entropy / largest, math.nan)


def effective_rank(embeddings: np.ndarray) -> tuple[float, np.ndarray]:
    """Return exp(entropy) of the normalised singular values of centred embeddings (n, d), and the singular values.

    RankMe, Garrido et al. 2023 (ICML), here after centring, so that a common offset does not count as a direction.
    """
    singular = np.linalg.svd(embeddings - embeddings.mean(axis=0), compute_uv=False)
    if not singular.sum() > 1e-12:
        return 0.0, singular
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum())), singular


def token_similarity(tokens: Tensor) -> float:
    """Return the mean cosine similarity between different tokens of one window; tokens (N, T, d).

    Tokens made alike with depth: Dong et al. 2021, "Attention is not all you need" (ICML), rank collapse.
    """
    unit = nn.functional.normalize(tokens.float(), dim=-1)
    n_tokens = tokens.shape[1]
    return float(((unit.sum(1) ** 2).sum(-1) - n_tokens).mean() / (n_tokens * (n_tokens - 1)))


# --- how far a step moves the weights ------------------------------------------------------------------------


def is_sampled(index: int, n_steps: int) -> bool:
    """Say whether step `index` (from 0) of an epoch of n_steps is one whose change of the weights is measured."""
    return index % max(1, n_steps // UPDATES_AN_EPOCH) == 0


def weights_by_branch(model: ChromaccModel) -> dict[str, list[Tensor]]:
    """Return a copy of the weights of each of BRANCHES; [] for a branch that this dataset has no input for."""
    return {name: [p.detach().clone() for p in _parameters(model, name)] for name in BRANCHES}


def relative_updates(model: ChromaccModel, before: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """Return |change of the weights| / |weights before| (L2 norms) of each of BRANCHES; NaN for one that is not there.

    About 1e-3 a step is healthy; far less and a branch stands still, far more and it is thrown about: the rule of
    thumb of Karpathy's CS231n notes, "Ratio of weights:updates".
    """
    updates = {}
    for name, old in before.items():
        if not old:
            updates[name] = torch.tensor(math.nan)
            continue
        moved = nn.utils.get_total_norm([p.detach() - q for p, q in zip(_parameters(model, name), old, strict=True)])
        updates[name] = torch.where(moved > 0, moved / nn.utils.get_total_norm(old), 0.0)  # frozen zeros stand still
    return updates


def _parameters(model: ChromaccModel, branch: str) -> list[nn.Parameter]:
    part = getattr(model, branch)
    return [] if part is None else list(part.parameters())


# --- what a model is like inside -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Vitals:
    """A small batch of validation rows, the same in every epoch, on which a model's inside is looked at."""

    data: RegionData | StreamedRegionData
    windows: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, data: RegionData | StreamedRegionData, windows: np.ndarray, cells: np.ndarray) -> Vitals:
        """Choose at most VITAL_WINDOWS x VITAL_CELL_TYPES, evenly spaced; streamed data hold them in memory from now."""
        chosen = cls(data, _evenly(windows, VITAL_WINDOWS), _evenly(cells, VITAL_CELL_TYPES))
        data.keep(chosen.windows)
        return chosen

    def __call__(self, model: ChromaccModel) -> dict[str, float]:
        """See `model_vitals`; the model's training mode is restored."""
        was_training = model.training
        model.eval()
        figures = model_vitals(model, self.data, self.windows, self.cells)
        model.train(was_training)
        return figures


def _evenly(items: np.ndarray, most: int) -> np.ndarray:
    return items[np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


@torch.no_grad()
def model_vitals(
    model: ChromaccModel, data: RegionData | StreamedRegionData, windows: np.ndarray, cells: np.ndarray
) -> dict[str, float]:
    """Look inside a model in evaluation mode, on windows (W,) x cell types (C,), every accessibility token masked.

    Returns attention_entropy_<sequence, fusion, encoder>, the mean over layers, heads and queries (`attention_entropy`;
    of the fusion over the modalities that a row has); effective_rank of the embeddings that the score head reads
    (`effective_rank`), at most W x C - 1; token_similarity of what leaves the encoder's last layer, before its norm
    (`token_similarity`).
    """
    last: list[Tensor] = []
    encoder: TransformerStack = model.encoder
    handle = encoder.blocks[-1].register_forward_hook(lambda module, inputs, output: last.append(output[0]))
    try:
        batch = data.batch(windows, cells).to(next(model.parameters()).device)
        output = model(batch, return_attention=True)
    finally:
        handle.remove()
    keys = model.observed(model.readable(batch)).sum(-1) + 1  # (W, C): modalities and the null key
    entropy = {
        name: attention_entropy(weights, keys[:, :, None, None] if name == "fusion" else None)
        for name, weights in output.attention.items()
    }
    embeddings = output.tokens.mean(2).flatten(0, 1).float().cpu().numpy()  # (W, C, T, d) -> (W * C, d)
    return {
        **{f"attention_entropy_{name}": float(values.nanmean()) for name, values in entropy.items()},
        "effective_rank": effective_rank(embeddings)[0],
        "token_similarity": token_similarity(last[0]),
    }
