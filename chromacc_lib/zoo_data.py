"""Faults of the data and of generalisation, planted in a reduced run: what the collapse zoo breaks on purpose."""

from dataclasses import replace

import numpy as np

from chromacc_lib.collapse import NO_SIGNAL
from chromacc_lib.faults import Fault, Run

__all__ = ["DATA_FAULTS"]


def _noise_labels(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Draw scores from N(0.5, 0.2), clipped to [0, 1], one value a window; `share` of the sequences become all N."""
    arrays = run.arrays
    score = np.clip(rng.normal(0.5, 0.2, arrays.score.shape), 0, 1).astype(np.float32)
    sequence = arrays.sequence.copy()
    sequence[rng.permutation(len(sequence))[:round(share * len(sequence))]] = 4
    profile = np.repeat(score[:, :, None], arrays.accessibility.shape[2], axis=2)
    return replace(run, arrays=replace(
        arrays, score=score, accessibility=profile, label=(score > 0.5).astype(np.int8), sequence=sequence,
        truth=None, score_replicate=None))


def _masked_sequences(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Make `share` of the windows all N."""
    sequence = run.arrays.sequence.copy()
    sequence[rng.permutation(len(sequence))[:round(share * len(sequence))]] = 4
    return replace(run, arrays=replace(run.arrays, sequence=sequence))


DATA_FAULTS: tuple[Fault, ...] = (
    Fault("noise for labels", NO_SIGNAL, "data", "training",
          (("sequences whole", 0.0), ("40% all N", 0.4), ("80% all N", 0.8)), _noise_labels),
    Fault("all-N sequences", "sequences are mostly N or repeated", "data", "training",
          (("20% of windows", 0.2), ("50%", 0.5), ("80%", 0.8)), _masked_sequences),
)
