"""DeepLIFT/SHAP of a trained model, by tangermeme, against shuffled sequences.

DeepLIFT (Shrikumar et al. 2017; with many references, Lundberg & Lee 2017) hands out the difference of two scores by a
rule for each kind of layer. tangermeme has rules for pooling, norms, activations, softmax, and for the product of two
things that both depend on the sequence, where that stands in a module of its own. In this model's attention it does not,
for speed, so a twin with the same weights is attributed. The rules are complete: what is handed out adds up.
"""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import torch
from tangermeme.deep_lift_shap import BilinearOp, deep_lift_shap
from tangermeme.utils import TangermemeWarning
from torch import Tensor, nn

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import CompleteAttribution, shuffled_references
from chromacc_lib.layers import Attention
from chromacc_lib.model import Fusion
from chromacc_lib.scoring import ModelScorer, one_hot, score_all

__all__ = ["deeplift"]

MASKED = -1e4  # logit of a missing modality: no weight in float32, and finite, as the rule of softmax takes differences


class _Attention(nn.Module):
    """`Attention` with its two products as modules."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = attention.heads, attention.qkv, attention.out
        self.compare, self.softmax, self.gather = BilinearOp(), nn.Softmax(-1), BilinearOp()

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, None]:
        """x (N, T, d) -> (N, T, d), no weights."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (N, H, T, d/H)
        weights = self.softmax(self.compare(q, k.transpose(-2, -1)) / math.sqrt(d // self.heads))
        return self.out(self.gather(weights, v).transpose(1, 2).reshape(n, t, d)), None


class _Fusion(nn.Module):
    """`Fusion` with samples as the first axis throughout, and its product of two changing things as a module.

    The queries are the same whatever the sequence is, so that their product with the keys is linear.
    """

    def __init__(self, fusion: Fusion) -> None:
        super().__init__()
        self.heads, self.kind, self.query, self.norm_query = fusion.heads, fusion.kind, fusion.query, fusion.norm_query
        self.norm_key, self.key_value, self.out = fusion.norm_key, fusion.key_value, fusion.out
        self.softmax, self.gather = nn.Softmax(1), BilinearOp("nkth,nkthd->nthd")

    def forward(self, query: Tensor, modalities: list[Tensor], observed: Tensor) -> tuple[Tensor, Tensor]:
        """As `Fusion`; the weights (N, T, heads, 6) have no gradient."""
        n, t, d = query.shape
        q = self.query(self.norm_query(query)) / math.sqrt(d // self.heads)
        tokens = torch.stack([part.expand(n, t, d) for part in (*modalities, query.new_zeros(1, 1, d))], 1)
        k, v = self.key_value(self.norm_key(tokens) + self.kind[:, None]).unflatten(-1, (2, self.heads, -1)).unbind(3)
        logits = (q.unflatten(-1, (self.heads, -1))[:, None] * k).sum(-1)  # (N, 6, T, H, d/H) -> (N, 6, T, H)
        present = torch.cat([observed, observed.new_ones(n, 1)], 1)[:, :, None, None]
        weights = self.softmax(logits.masked_fill(~present, MASKED))
        return query + self.out(self.gather(weights, v).flatten(2)), weights.detach().permute(0, 2, 3, 1)


class _ScorerModule(nn.Module):
    """A scorer's model as tangermeme calls it: one-hot (N, 4, L) and places (N, 1) -> score (N, 1)."""

    def __init__(self, scorer: ModelScorer) -> None:
        super().__init__()
        self.twin = _twin(scorer.model)
        self.scorer = scorer

    def forward(self, sequence: Tensor, place: Tensor) -> Tensor:
        """Score by the twin."""
        return self.scorer.score_by(self.twin, sequence.transpose(1, 2), place[:, 0].long()).mean(1, keepdim=True)


def _twin(model: nn.Module) -> nn.Module:
    """A copy of the model whose attention has its products in modules."""
    twin = copy.deepcopy(model).eval()
    for block in (*twin.sequence_encoder.stack.blocks, *twin.encoder.blocks):
        block.attention = _Attention(block.attention)
    twin.fusion = _Fusion(twin.fusion)
    return twin


def deeplift(
    scorer: ModelScorer, codes: np.ndarray, n_references: int = 4, seed: int = 1, max_delta: float = 0.05, at_once: int = 16
) -> tuple[CompleteAttribution, np.ndarray]:
    """DeepLIFT/SHAP of K windows, window k in place k, against `n_references` shuffles that keep dinucleotide counts.

    codes: uint8 (K, L). Returns the attribution, and which windows may be read, bool (K,): a window whose contributions
    miss the difference of scores by more than `max_delta` of what was handed out (`relative_delta`) is refused. The
    base that is there is compared with that of the reference, so that what a gradient has off the simplex of one-hot
    input has no part in it. Raises ChromaccError when all windows are refused.
    """
    codes = np.asarray(codes)
    x = one_hot(codes)  # (K, L, 4)
    known = x.sum(-1, keepdim=True) > 0
    references = shuffled_references(codes, n_references, seed) * known[:, None]  # (K, R, L, 4); an N stays one
    with warnings.catch_warnings():  # its deltas are measured below, window by window
        warnings.filterwarnings("ignore", message="Convergence deltas", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="X must be one-hot", category=TangermemeWarning)  # an N is zeros
        multipliers = deep_lift_shap(
            _ScorerModule(scorer), x.transpose(1, 2), args=(torch.arange(len(x))[:, None],), raw_outputs=True,
            references=references.transpose(2, 3), batch_size=at_once, only_warn=True, device=scorer.device,
        ).transpose(2, 3)  # (K, R, 4, L) -> (K, R, L, 4)  # fmt: skip
    there, away = (multipliers * x[:, None]).sum(-1), (multipliers * references).sum(-1)
    hypothetical = (multipliers - multipliers.mean(-1, keepdim=True)).mean(1) * known
    contribution = (there - away).mean(1)
    places = np.repeat(np.arange(len(codes)), n_references)
    before = score_all(scorer, references.flatten(0, 1), places).reshape(len(codes), -1).mean(1)
    difference = score_all(scorer, codes, np.arange(len(codes))) - before
    found = CompleteAttribution(
        contribution.numpy(), hypothetical.numpy(), difference, contribution.sum(1).numpy() - difference
    )
    usable = found.relative_delta <= max_delta
    if not usable.any():
        raise ChromaccError(
            f"deeplift: all {len(codes)} windows are refused, because their contributions miss the difference of scores by "
            f"more than {max_delta:.0%} of what was handed out (smallest {found.relative_delta.min():.1%}); a layer of this "
            "model has no rule of DeepLIFT. Use integrated gradients or mutagenesis."
        )
    return found, usable
