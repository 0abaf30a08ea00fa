"""Which bases of a window move its predicted score, by gradients: smoothed, integrated, and by DeepLIFT's rules.

Every method takes a *scorer* (module `scoring`), any callable `(sequence, context) -> score`: one-hot float32
shape=(N, L, 4), an N being a row of zeros; context int64 shape=(N,), saying for each sequence in which place it is
scored; score shape=(N,). What they are judged by is in-silico mutagenesis, module `mutagenesis`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import IntegratedGradients
from tangermeme.ersatz import dinucleotide_shuffle
from torch import Tensor

from chromacc_lib.scoring import Scorer, one_hot, score_all

__all__ = ["Attribution", "CompleteAttribution", "contribution", "integrated_gradients", "relative_size",
           "shuffled_references", "smoothed_gradients"]  # fmt: skip


@dataclass(frozen=True)
class Attribution:
    """What the bases of K windows of L bp are worth, in the unit of the score (arcsinh fold); an N has zeros."""

    contribution: np.ndarray  # float32 (K, L): what the base that is there adds, against the mean of all four
    hypothetical: np.ndarray  # float32 (K, L, 4): what each of ACGT would add there; the four add up to 0


@dataclass(frozen=True)
class CompleteAttribution(Attribution):
    """An attribution whose contributions should add up to the score's difference from a reference."""

    difference: np.ndarray  # float32 (K,): score of the window minus (mean) score of its reference
    delta: np.ndarray  # float32 (K,): convergence delta, sum of the contributions minus `difference`; 0 is exact

    @property
    def relative_delta(self) -> np.ndarray:
        """float32, shape=(K,): size of the delta as a share of what was, or should have been, handed out in total."""
        return relative_size(self.delta, np.abs(self.contribution).sum(1), self.difference)

    def corrected(self, codes: np.ndarray) -> Attribution:
        """The contributions of `contribution`, of each base against a random one, without the luck of the references.

        They no longer add up to `difference`; what the reference has at a position is in it no more. codes: uint8 (K, L).
        """
        return Attribution(contribution(self.hypothetical, codes), self.hypothetical)


def relative_size(delta: np.ndarray, handed_out: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """Size of convergence deltas as a share of what was (the sum of absolute contributions), or should have been, handed out."""
    total = np.maximum(handed_out, np.abs(difference))
    return np.divide(np.abs(delta), total, out=np.zeros_like(total), where=total > 0)


def contribution(effects: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Take the base that is there: effects (K, L, 4) of each base, codes uint8 (K, L) -> float32 (K, L), 0 at an N.

    The mean over the four bases is subtracted first. On one-hot input a gradient also has a part that points off the
    simplex, where no sequence is; this removes it (Majdandzic et al. 2023, Genome Biol. 24:109). For the effects of
    mutagenesis it makes the unit the same: worth of the base against a random one.
    """
    centred = effects - effects.mean(-1, keepdims=True)
    return (centred * one_hot(codes).numpy()).sum(-1).astype(np.float32)


def shuffled_references(codes: np.ndarray, n: int, seed: int) -> Tensor:
    """n shuffles of each sequence that keep its dinucleotide counts: codes uint8 (K, L) -> one-hot (K, n, L, 4).

    A sequence that has but one order, such as a window of N, is its own shuffle.
    """
    x = one_hot(codes).transpose(1, 2)
    # one at a time: tangermeme refuses several that are all the same
    shuffled = [dinucleotide_shuffle(x, n=1, random_state=seed + r, allow_N=True)[:, 0] for r in range(n)]
    return torch.stack(shuffled, 1).transpose(2, 3).contiguous()  # (K, n, 4, L) -> (K, n, L, 4)


def smoothed_gradients(
    scorer: Scorer, codes: np.ndarray, n_copies: int = 8, rate: float = 0.15, seed: int = 1, at_once: int = 64
) -> Attribution:
    """Mean corrected gradient over mutated copies of each of K windows, window k in place k.

    codes: uint8 (K, L). In each of `n_copies` copies every known base is replaced by a random one with probability
    `rate`: SmoothGrad (Smilkov et al. 2017), with noise that leaves a sequence a sequence. A motif scan keeps only the
    best match of a place, so that one gradient says nothing of the second best; a few mutations bring those forward.
    Each window has its own random numbers, so that `at_once` (copies that go through the model together) changes the
    speed and not the result.
    """
    codes = np.asarray(codes)
    slope = torch.zeros(*codes.shape, 4)
    copy_of, copies = np.repeat(np.arange(len(codes)), n_copies), []
    for k, window in enumerate(codes):
        rng = np.random.default_rng([seed, k])
        mutate = (rng.random((n_copies, len(window))) < rate) & (window < 4)
        copies.append(np.where(mutate, rng.integers(0, 4, mutate.shape), window).astype(np.uint8))
    for rows in torch.arange(len(copy_of)).split(at_once):
        x = one_hot(np.stack([copies[r // n_copies][r % n_copies] for r in rows.tolist()])).requires_grad_()
        context = torch.from_numpy(copy_of[rows.numpy()])
        with torch.enable_grad():
            gradient = torch.autograd.grad(scorer(x, context).sum(), x)[0]
        slope.index_add_(0, context, gradient.float().cpu() / n_copies)
    return Attribution(contribution(slope.numpy(), codes), _hypothetical(slope, codes))


def integrated_gradients(
    scorer: Scorer, codes: np.ndarray, references: Tensor | None = None, n_steps: int = 16, at_once: int = 4
) -> CompleteAttribution:
    """Integrated gradients (Sundararajan et al. 2017) of K windows, window k in place k, by captum.

    codes: uint8 (K, L). references: one-hot (K, R, L, 4), averaged over R; None takes "any base, each with 1/4" at
    every known position. Against that reference (x - reference) . gradient is the corrected gradient of
    `contribution`, integrated, so that correction and completeness hold together, without a random draw.
    n_steps: points of Gauss-Legendre quadrature. at_once: windows that go through the model together; it changes the
    speed and not the result. The path from reference to window leads through mixtures of bases that no model was
    trained on: read the deltas.
    """
    x = one_hot(codes)
    if references is None:
        references = (0.25 * x.sum(-1, keepdim=True)).expand_as(x)[:, None]
    gradients = IntegratedGradients(scorer, multiply_by_inputs=False)
    contributions, slopes, before = torch.zeros(x.shape[:2]), torch.zeros_like(x), torch.zeros(len(x))
    n_references = references.shape[1]
    for rows in torch.arange(len(x)).split(at_once):
        for r in range(n_references):
            reference = references[rows, r]
            slope = gradients.attribute(x[rows], reference, additional_forward_args=(rows,), n_steps=n_steps).float()
            contributions[rows] += ((x[rows] - reference) * slope).sum(-1).cpu() / n_references
            slopes[rows] += slope.cpu() / n_references
            before[rows] += torch.from_numpy(score_all(scorer, reference, rows)) / n_references
    difference = torch.from_numpy(score_all(scorer, codes, np.arange(len(x)))) - before
    delta = contributions.sum(1) - difference
    return CompleteAttribution(contributions.numpy(), _hypothetical(slopes, codes), difference.numpy(), delta.numpy())


def _hypothetical(slope: Tensor, codes: np.ndarray) -> np.ndarray:
    """Corrected gradients (K, L, 4), zeros at an N."""
    known = torch.from_numpy(np.asarray(codes) < 4)[..., None]
    return ((slope - slope.mean(-1, keepdim=True)) * known).numpy()
