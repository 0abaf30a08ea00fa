"""In-silico mutagenesis: the exact change of a score by every single-base change, the reference of all attributions."""

from __future__ import annotations

import numpy as np

from chromacc_lib import ChromaccError
from chromacc_lib.progress import progress
from chromacc_lib.scoring import Scorer, one_hot, score_all

__all__ = ["mutagenesis"]


def mutagenesis(scorer: Scorer, codes: np.ndarray, start: int, end: int, at_once: int = 64) -> np.ndarray:
    """Change of the score by every single-base change in positions start..end (0-based half-open) of K windows.

    codes: uint8 (K, L). Returns float32 (K, end - start, 4): 0 for the base that is there, and at an N. Three
    evaluations a position, `at_once` of them together: exact, and dear. Raises ChromaccError for positions outside
    the window.
    """
    codes = np.asarray(codes)
    if not 0 <= start < end <= codes.shape[1]:
        raise ChromaccError(f"mutagenesis: positions {start} to {end} do not lie within a window of {codes.shape[1]} bp.")
    effects = np.zeros((len(codes), end - start, 4), np.float32)
    wild = score_all(scorer, codes, np.arange(len(codes)))
    with progress(len(codes), "mutagenesis", "windows", leave=False) as bar:
        for k, window in enumerate(codes):
            position, base = np.nonzero((one_hot(window[None, start:end])[0].numpy() == 0) & (window[start:end, None] < 4))
            mutated = np.repeat(window[None], len(position), 0)
            mutated[np.arange(len(position)), start + position] = base
            if len(position):
                effects[k, position, base] = score_all(scorer, mutated, np.full(len(position), k), at_once) - wild[k]
            bar.update()
    return effects
