"""Is a motif more than a fine logo? Inserted where there is none, taken out where it stands, turned, and moved.

Every effect is that of the motif against sequences of the same bases in another order, with an interval and a p-value
over backgrounds or instances. Effects are changes of the predicted score, arcsinh fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from torch import Tensor

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import shuffled_references
from chromacc_lib.motifs import Pattern
from chromacc_lib.scoring import score_all

__all__ = ["Effect", "ablate", "codes_of", "marginalise", "neighbours", "shuffled_backgrounds", "spacing_scan"]

BASES = "ACGT"
FURTHEST_BP = 60  # centres of two instances that count as neighbours, and the widest spacing of a scan


@dataclass(frozen=True)
class Effect:
    """What a change of the sequence does to the score, in n backgrounds or at n instances; unit arcsinh fold."""

    by_cell_type: np.ndarray  # float32 (n, C): each background in each cell type
    effect: float  # mean over backgrounds and cell types
    low: float  # 95% interval over backgrounds (Student's t)
    high: float
    p_value: float  # one-sided t-test over backgrounds: is the effect above 0?

    @classmethod
    def of(cls, by_cell_type: np.ndarray) -> Effect:
        """Test the mean over cell types of (n, C) effects; one background or instance is one unit."""
        each = by_cell_type.mean(1).astype(np.float64)
        if len(each) < 2 or np.ptp(each) == 0:
            mean = float(each.mean()) if len(each) else np.nan
            return cls(by_cell_type, mean, mean, mean, float(mean <= 0) if len(each) > 1 else np.nan)
        low, high = stats.ttest_1samp(each, 0).confidence_interval(0.95)
        p = stats.ttest_1samp(each, 0, alternative="greater").pvalue
        return cls(by_cell_type, float(each.mean()), float(low), float(high), float(p))

    def within(self, cells: np.ndarray) -> Effect:
        """The same effects in some of the cell types: bool or index (C,)."""
        return Effect.of(self.by_cell_type[:, cells])


def codes_of(insert: str, length: int) -> np.ndarray:
    """Letters of ACGT -> codes uint8. Raises ChromaccError for other letters, none, or more than `length`."""
    if not insert or set(insert) - set(BASES) or len(insert) > length:
        raise ChromaccError(f"insert {insert!r} must be 1 to {length} letters of ACGT.")
    return np.array([BASES.index(base) for base in insert], np.uint8)


def shuffled_backgrounds(codes: np.ndarray, seed: int) -> np.ndarray:
    """Shuffle windows (dinucleotides kept), so that no motif is left in them: codes uint8 (n, L) -> (n, L).

    Raises ChromaccError when fewer than two windows, or one that is all N, are given.
    """
    blank = int((np.asarray(codes) == 4).all(1).sum())
    if blank or len(codes) < 2:
        raise ChromaccError(
            f"{blank} of {len(codes)} backgrounds are all N; needed: two or more, with known bases."
        )
    shuffled = shuffled_references(codes, 1, seed)[:, 0].numpy()
    return np.where(shuffled.any(2), shuffled.argmax(2), 4).astype(np.uint8)


def marginalise(
    scorer: Callable[[Tensor, Tensor], Tensor], codes: np.ndarray, insert: str, seed: int, at_once: int = 32
) -> Effect:
    """Insert a sequence at the centre of n shuffled windows, against a shuffle of its own bases, another for each.

    scorer: has `by_cell_type` and one place a background (all with the same cell types), whose other inputs stay as they
    are: where these say that chromatin is closed, a motif may well do nothing. codes: uint8 (n, L), sequences that are
    shuffled once (dinucleotides kept), so that no motif is left in them. One background is one unit of the test, so that
    the spread between backgrounds and the luck of a shuffle are both in the interval. Raises ChromaccError for an insert
    that is longer than the window or has a letter other than ACGT, for fewer than two backgrounds, and one that is all N.
    """
    letters = codes_of(insert, np.shape(codes)[1])
    shuffled, rng = shuffled_backgrounds(codes, seed), np.random.default_rng(seed)
    here = slice(start := (shuffled.shape[1] - len(letters)) // 2, start + len(letters))
    with_insert, with_random = shuffled.copy(), shuffled.copy()
    with_insert[:, here] = letters
    with_random[:, here] = np.stack([rng.permutation(letters) for _ in shuffled])
    places = np.arange(len(shuffled))
    after, before = (score_all(scorer.by_cell_type, x, places, at_once) for x in (with_insert, with_random))
    return Effect.of(after - before)


def ablate(
    scorer: Callable[[Tensor, Tensor], Tensor], codes: np.ndarray, instances: pd.DataFrame, seed: int, at_once: int = 32
) -> Effect:
    """Destroy a motif where it stands, against the same done to another stretch of its window.

    scorer: has `by_cell_type` and one place a window, all with the same cell types. codes: uint8 (K, L). instances:
    window (row of codes), start, end (0-based half-open). The bases of an instance are put in another order; so are, for
    comparison, those of a stretch of the same width elsewhere in the window that overlaps no instance. The effect is what
    the motif was worth: the score with the other stretch destroyed minus that with the motif destroyed.
    """
    rng = np.random.default_rng(seed)
    without, control, places = [], [], []
    for row in instances.itertuples():
        window, width = codes[row.window], row.end - row.start
        taken = instances[instances["window"] == row.window]
        free = np.arange(len(window) - width + 1)
        for other in taken.itertuples():
            free = free[(free + width <= other.start) | (free >= other.end)]
        if not len(free):
            continue
        at = int(rng.choice(free))
        for changed, start in ((without, row.start), (control, at)):
            mutated = window.copy()
            mutated[start : start + width] = _another_order(mutated[start : start + width], rng)
            changed.append(mutated)
        places.append(row.window)
    if not places:
        return Effect.of(np.zeros((0, 1), np.float32))
    after, before = (score_all(scorer.by_cell_type, np.stack(x), places, at_once) for x in (without, control))
    return Effect.of(before - after)


def _another_order(bases: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The permutation, of twenty drawn, that leaves fewest bases in place."""
    drawn = [rng.permutation(bases) for _ in range(20)]
    return min(drawn, key=lambda order: int((order == bases).sum()))


def neighbours(patterns: Sequence[Pattern], most: int = 3) -> list[tuple[Pattern, Pattern, int]]:
    """Pairs of patterns whose seqlets stand in the same windows within `FURTHEST_BP`, and how often; the commonest first."""
    centres = [x.seqlets.assign(centre=(x.seqlets["start"] + x.seqlets["end"]) / 2)[["window", "centre"]] for x in patterns]
    found = []
    for i, first in enumerate(patterns):
        for j in range(i + 1, len(patterns)):
            both = centres[i].merge(centres[j], on="window")
            apart = (both["centre_x"] - both["centre_y"]).abs()
            n = int(((apart > (len(first.consensus) + len(patterns[j].consensus)) / 2) & (apart <= FURTHEST_BP)).sum())
            found.append((first, patterns[j], n))
    return sorted((pair for pair in found if pair[2]), key=lambda pair: -pair[2])[:most]


def spacing_scan(
    scorer: Callable[[Tensor, Tensor], Tensor], codes: np.ndarray, first: str, second: str, gaps: Sequence[int], seed: int,
    at_once: int = 32,
) -> pd.DataFrame:  # fmt: skip
    """Do two motifs add up, or do more together, and at which spacing and orientation?

    Both are inserted around the centre of n shuffled windows, `gaps` bp of background between them, the second as it is
    or turned. What they do together beyond the sum of what each does there alone, f(both) - f(first) - f(second) +
    f(none), is the mean over cell types. scorer, codes: as of `marginalise`. Returns one row a gap and orientation: gap_bp,
    second ("as is", "turned"), together, expected (the sum), beyond, with beyond_low, beyond_high (95%), p_value
    (two-sided t-test over backgrounds of `beyond`), p_adjusted (Benjamini-Hochberg over the rows). Raises ChromaccError
    as `marginalise`.
    """
    width = np.shape(codes)[1]
    a, b = codes_of(first, width), codes_of(second, width)
    if (longest := len(a) + max(gaps) + len(b)) > width:
        raise ChromaccError(f"spacing_scan: the two motifs and a gap of {max(gaps)} bp take {longest} bp of {width}.")
    shuffled = shuffled_backgrounds(codes, seed)
    places = np.arange(len(shuffled))

    def score(*inserts: tuple[np.ndarray, int]) -> np.ndarray:
        """Mean score over cell types of the backgrounds with some inserts (bases, start), (n,)."""
        sequences = shuffled.copy()
        for bases, start in inserts:
            sequences[:, start : start + len(bases)] = bases
        return score_all(scorer.by_cell_type, sequences, places, at_once).mean(1).astype(np.float64)

    none, rows = score(), []
    for gap in gaps:
        left = (width - len(a) - gap - len(b)) // 2
        one = score((a, left)) - none
        for name, bases in (("as is", b), ("turned", 3 - b[::-1])):
            there = (bases, left + len(a) + gap)
            two, both = score(there) - none, score((a, left), there) - none
            effect = Effect.of((both - one - two)[:, None])
            p = stats.ttest_1samp(both - one - two, 0).pvalue if np.ptp(both - one - two) else 1.0
            rows.append((gap, name, both.mean(), (one + two).mean(), effect.effect, effect.low, effect.high, p))
    table = pd.DataFrame(rows, columns=[
        "gap_bp", "second", "together", "expected", "beyond", "beyond_low", "beyond_high", "p_value"])  # fmt: skip
    return table.assign(p_adjusted=stats.false_discovery_control(table["p_value"]))
