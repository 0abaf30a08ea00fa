"""What training minimises: the error of the score, of the masked profile, and of the open/closed label.

Every term is a mean over what is known of the whole batch, so that several processes, each with a share of it, step
as one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from chromacc_lib import ChromaccError
from chromacc_lib.batches import Target
from chromacc_lib.model import Batch, Output

__all__ = ["CHOICES", "Objective", "TERMS"]

TERMS = ("score", "profile", "label")
CHOICES = {
    "score_loss": ("mse", "huber"),
    "profile_loss": ("mse", "poisson", "multinomial"),
    "label_loss": ("bce", "focal"),
}  # what each setting may be
HUBER_DELTA = 1.0  # arcsinh fold: beyond it the error counts linearly
FOCAL_GAMMA = 2.0  # Lin et al. 2017


@dataclass(frozen=True)
class Objective:
    """The loss: score + profile_weight x profile + label_weight x label. Unknown values have no say.

    score_loss: "mse" or "huber" (delta 1) of the score, arcsinh fold. profile_loss, at masked tokens only: "mse" in
    arcsinh fold; "poisson", the deviance-like loss of fold as a rate; "multinomial", the shape alone, as the share of
    the window's fold in each bin (after BPNet, Avsec et al. 2021). label_loss: "bce" or "focal" (gamma 2, Lin et al.
    2017). class_balance gives open and closed windows the same total weight, at positive_share, the share of open ones
    in the training rows. Raises `ChromaccError` for a choice that is not known.
    """

    score_loss: str
    profile_loss: str
    label_loss: str
    profile_weight: float
    label_weight: float
    class_balance: bool
    positive_share: float

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ChromaccError(f"{name}={getattr(self, name)!r} is not known; allowed: {', '.join(allowed)}.")

    def __call__(
        self, output: Output, batch: Batch, target: Target, mean_count: Callable[[Tensor], Tensor] = lambda n: n
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) and its three terms, unweighted, under the names of TERMS.

        mean_count turns the numbers of known values, float (3,), into their mean over all processes.
        """
        known, labelled = target.score.isfinite(), target.label >= 0
        hidden = ~batch.accessibility_observed & target.profile.isfinite()
        counts = mean_count(torch.stack([known.sum(), hidden.sum(), labelled.sum()]).float()).clamp(min=1)
        values = (
            self._score(output.score, target.score.nan_to_num()) * known,
            self._profile(output.profile, target.profile.nan_to_num(), hidden),
            self._label(output.logit, target.label.clamp(0).float()) * labelled,
        )
        terms = {name: value.sum() / n for name, value, n in zip(TERMS, values, counts)}
        return terms["score"] + self.profile_weight * terms["profile"] + self.label_weight * terms["label"], terms

    def _score(self, predicted: Tensor, measured: Tensor) -> Tensor:
        if self.score_loss == "huber":
            return F.huber_loss(predicted, measured, reduction="none", delta=HUBER_DELTA)
        return (predicted - measured) ** 2

    def _profile(self, predicted: Tensor, measured: Tensor, hidden: Tensor) -> Tensor:
        """(B, C, T) in arcsinh fold -> loss of every hidden token (B, C, T), 0 elsewhere."""
        if self.profile_loss == "mse":
            return (predicted - measured) ** 2 * hidden
        fold = measured.clamp(min=0).sinh()
        rate = F.softplus(predicted.float(), beta=4).sinh()  # positive, and the fold itself where that is above one
        if self.profile_loss == "poisson":
            return F.poisson_nll_loss(rate, fold, log_input=False, full=False, reduction="none", eps=1e-6) * hidden
        fold = fold * hidden
        shares = rate.clamp(min=1e-6).log().masked_fill(~hidden, -1e4).log_softmax(-1)
        return -fold / fold.sum(-1, keepdim=True).clamp(min=1e-6) * shares * hidden

    def _label(self, logit: Tensor, label: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
        if self.label_loss == "focal":
            loss = loss * (1 - torch.exp(-loss)) ** FOCAL_GAMMA
        if self.class_balance:
            share = self.positive_share
            loss = loss * torch.where(label > 0, 0.5 / share, 0.5 / (1 - share))
        return loss
