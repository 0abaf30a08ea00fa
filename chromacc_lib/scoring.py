"""Score sequences in places: a window's sequence is exchanged, all its other inputs stay as they are, or are hidden.

What a base is worth is conditional on the other inputs of its place: histone marks, TF tracks and the locus prior that
say the same leave nothing for the sequence to explain. `hidden` takes them away, in the way of a missing assay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, without
from chromacc_lib.inference import evaluating
from chromacc_lib.model import MODALITIES, Batch, ChromaccModel

__all__ = ["ModelScorer", "Scorer", "one_hot", "score_all"]

Scorer = Callable[[Tensor, Tensor], Tensor]  # (one-hot (N, L, 4), place of each (N,)) -> score (N,)


class ModelScorer:
    """Scores sequences in K places: place k is a window in C cell types, with all its other inputs as measured there.

    The score is the mean over the place's cell types and, as in every prediction of the project, over both strands. The
    tokens of the other inputs are computed once a place and serve every sequence that is scored there. The model keeps
    its mode, its device and its gradients.
    """

    reads_codes = True  # `score_all` hands it codes, which are scanned faster than one-hot

    def __init__(
        self, model: ChromaccModel, data: RegionData, windows: np.ndarray, cell_types: np.ndarray,
        hidden: Sequence[str] = (), at_once: int = 32,
    ) -> None:  # fmt: skip
        """windows: index shape=(K,). cell_types: index shape=(K, C). hidden: of MODALITIES, what is taken away.

        at_once: places whose tokens are computed together; it changes the speed and not the score.
        """
        if len(windows) != len(cell_types) or np.ndim(cell_types) != 2:
            raise ChromaccError(
                f"ModelScorer: {len(windows)} windows and cell types of shape {np.shape(cell_types)}; needed: one row "
                "of cell types for each window, shape=(windows, cell types)."
            )
        if wrong := set(hidden) - set(MODALITIES) | set(hidden) & {"sequence"}:
            raise ChromaccError(
                f"ModelScorer: cannot hide {', '.join(sorted(wrong))}; allowed: {', '.join(MODALITIES[1:])}."
            )
        self.model, self.data, self.hidden = model, data, tuple(hidden)
        self.windows, self.cell_types = np.asarray(windows), np.asarray(cell_types)
        self.device = next(model.parameters()).device
        self._strands = self._prepare(at_once)

    @torch.no_grad()
    def _prepare(self, at_once: int) -> list[tuple[Batch, list[Tensor]]]:
        """Of each strand: the inputs of all places, and the tokens of all modalities but the sequence."""
        parts: tuple[list, list] = ([], [])
        with evaluating(self.model):
            for rows in np.split(np.arange(len(self.windows)), range(at_once, len(self.windows), at_once)):
                batch = self.data.batch(self.windows[rows], self.cell_types[rows])
                for name in self.hidden:
                    batch = without(batch, name)
                batch = self.model.readable(batch.to(self.device))
                for part, strand in zip(parts, (batch, batch.reverse_complement())):
                    part.append((strand, self.model.other_tokens(strand)))
        return [
            (
                Batch(**{f.name: torch.cat([getattr(batch, f.name) for batch, _ in part]) for f in fields(Batch)}),
                [torch.cat(tokens) for tokens in zip(*[others for _, others in part])],
            )
            for part in parts
        ]

    def __call__(self, sequence: Tensor, context: Tensor) -> Tensor:
        """Sequences in places (N,) -> score (N,), arcsinh fold."""
        return self.by_cell_type(sequence, context).mean(1)

    def by_cell_type(self, sequence: Tensor, context: Tensor) -> Tensor:
        """Sequences in places (N,) -> score in each of the place's cell types (N, C), arcsinh fold.

        sequence: one-hot float32 (N, L, 4), an N being a row of zeros; or codes uint8 (N, L), 0..3 = ACGT, 4 = N, which
        are faster and have no gradient.
        """
        with evaluating(self.model):
            return self.score_by(self.model, sequence, context)

    def score_by(self, model: ChromaccModel, sequence: Tensor, context: Tensor) -> Tensor:
        """The same by another model of the same weights, in whatever mode it is."""
        at, x, total = context.to(self.device), sequence.to(self.device), 0.0
        for strand, (places, others) in enumerate(self._strands):
            rest = {f.name: getattr(places, f.name)[at] for f in fields(Batch) if f.name != "sequence"}
            batch = Batch(sequence=_other_strand(x) if strand else x, **rest)
            total = total + model(batch, others=[tokens[at] for tokens in others]).score
        return (total / 2).to(sequence.device)


def _other_strand(sequence: Tensor) -> Tensor:
    if sequence.dtype == torch.uint8:
        return torch.where(sequence < 4, 3 - sequence, sequence).flip(1)
    return sequence.flip(1, 2)


def one_hot(codes: np.ndarray | Tensor) -> Tensor:
    """Codes uint8 (N, L), 0..3 = ACGT, 4 = N -> one-hot float32 (N, L, 4); an N is a row of zeros."""
    return F.embedding(torch.as_tensor(codes).int(), torch.eye(5, 4))


@torch.no_grad()
def score_all(
    score: Callable[[Tensor, Tensor], Tensor], sequences: np.ndarray | Tensor, context: np.ndarray | Tensor,
    at_once: int = 64,
) -> np.ndarray:  # fmt: skip
    """Score any number of sequences, `at_once` of them together: float32, (N,) or, of `by_cell_type`, (N, C).

    sequences: codes uint8 (N, L) or one-hot (N, L, 4); context: place of each (N,).
    """
    x, at = torch.as_tensor(sequences), torch.as_tensor(context)
    to_one_hot = x.ndim == 2 and not getattr(getattr(score, "__self__", score), "reads_codes", False)
    parts = [score(one_hot(x[rows]) if to_one_hot else x[rows], at[rows]) for rows in torch.arange(len(x)).split(at_once)]
    return torch.cat(parts).float().cpu().numpy()
