"""Matching: background like the peaks in GC and, by choice, in repeats, mappability and distance to TSS.

Nearest neighbours without replacement, within a caliper of each covariate (Rosenbaum & Rubin 1985, The
American Statistician 39:33). All coordinates are 0-based half-open, in bp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.stats import ks_2samp

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.bigwig import NO_ALIASES, open_bigwig, read_bins
from chromacc_lib.genome import genome_aliases, genome_sizes, open_genome
from chromacc_lib.manifest import read_intervals
from chromacc_lib.problems import require_no_problems
from chromacc_lib.sources import is_url

__all__ = [
    "COVARIATES", "Covariate", "MatchChoice", "add_covariates", "bp_to_tss", "match_covariates", "match_gc",
    "match_summary", "mean_mappability", "repeat_share", "tss_distance",
]

NEIGHBOURS = 16  # looked at first; twice as many as long as all of them are taken
BINS = 50        # of the histograms


class Covariate(NamedTuple):
    """What background can be matched on. label: of an axis, with its unit; factor: our unit times it is the
    label's. caliper: how far a match may lie, highest: where the histogram ends, both in our unit.
    """

    label: str
    caliper: float
    highest: float
    factor: float


COVARIATES = {
    "gc": Covariate("GC content (%)", 0.02, 1.0, 100),
    "repeats": Covariate("soft-masked bases (%)", 0.05, 1.0, 100),
    "mappability": Covariate("mean mappability (%)", 0.05, 1.0, 100),
    "tss_distance": Covariate("log10(1 + bp to the nearest TSS)", 0.25, 9.0, 1),  # a factor of 1.8
}


@dataclass(frozen=True)
class MatchChoice:
    """What is matched on, and the files that two covariates need: a bigWig from 0 to 1, and a BED of TSS.

    A BED of TSS may be given without being matched on: the dataset tells promoters by it.
    """

    on: tuple[str, ...] = ("gc",)
    mappability: str | Path = ""
    tss: str | Path = ""
    rename_chromosomes: bool = False  # of these files, see `genome.genome_aliases`

    def __post_init__(self) -> None:
        unknown = [name for name in self.on if name not in COVARIATES]
        if isinstance(self.on, str) or unknown or not self.on or len(set(self.on)) < len(self.on):
            raise ChromaccError(f"match_on: got {self.on!r}; needed one or more of {', '.join(COVARIATES)}, "
                                "each once")
        if ("mappability" in self.on) != bool(self.mappability):
            raise ChromaccError(
                f"match_on={list(self.on)} with mappability={str(self.mappability)!r}: mappability needs a bigWig, and "
                'the file serves nothing else; give both, the file and "mappability" in match_on, or neither')
        if "tss_distance" in self.on and not self.tss:
            raise ChromaccError(f"match_on={list(self.on)} with tss='': tss_distance needs a BED file of TSS; give "
                                "one as tss, or leave tss_distance out of match_on")

    @property
    def names(self) -> list[str]:
        """Return the covariates that are looked at: GC always, since it alone predicts accessibility."""
        return list(dict.fromkeys(("gc", *self.on)))


# --- covariates ---------------------------------------------------------------------------------------------
def add_covariates(windows: pd.DataFrame, genome_fasta: str | Path, choice: MatchChoice) -> pd.DataFrame:
    """Return the windows with a float64 column for each chosen covariate; `gc` is there already.

    windows: chrom, start, end, gc, all of one length, in any order. Raises ChromaccError for a genome without
    soft-masking, or files that do not fit it.
    """
    added, sizes = {}, genome_sizes(genome_fasta)
    aliases = genome_aliases(sizes, choice.rename_chromosomes)
    if "repeats" in choice.on:
        added["repeats"] = repeat_share(genome_fasta, windows)
    if "mappability" in choice.on:
        added["mappability"] = mean_mappability(choice.mappability, windows, aliases)
    if "tss_distance" in choice.on:
        added["tss_distance"] = tss_distance(choice.tss, windows, sizes, aliases)
    return windows.assign(**added)


def repeat_share(genome_fasta: str | Path, windows: pd.DataFrame) -> np.ndarray:
    """Return the share of soft-masked bases of each window, float64, shape=(W,).

    Soft-masked is lower case in a FASTA, and a mask block in a .2bit: RepeatMasker and tandem repeats in UCSC's
    genomes. Raises ChromaccError where all windows, or none, are soft-masked altogether.
    """
    share = np.empty(len(windows))
    with open_genome(genome_fasta) as genome:
        for chrom, rows, starts, length in _by_chrom(windows):
            share[rows] = genome.masked_share(chrom, starts, length)
    if len(share) and (share == share[0]).all() and share[0] in (0, 1):
        raise ChromaccError(
            f"{genome_fasta}: no soft-masking: {share[0]:.0%} of the bases of all {len(share):,} windows are "
            "lower case; needed repeats in lower case, all else in upper case. Give UCSC's soft-masked genome "
            '(hg38.fa or hg38.2bit, also genome_fasta="hg38"), or leave "repeats" out of match_on')
    return share


def mean_mappability(entry: str | Path, windows: pd.DataFrame, aliases: Mapping[str, str] = NO_ALIASES) -> np.ndarray:
    """Return the mean of a bigWig over each window, float64, shape=(W,); bases without data count as 0.

    entry: path or URL of a mappability track, values from 0 to 1 (such as Umap's, Karimzadeh et al. 2018,
    Nucleic Acids Research 46:e120). Raises ChromaccError for a chromosome without data or of another size, and
    for other values.
    """
    entry = entry if is_url(str(entry)) else project_path(entry)
    values = np.full((len(windows), 1, 3), np.nan, dtype=np.float32)
    covered = np.zeros((len(windows), 1), dtype=np.float32)
    with open_bigwig(entry, aliases) as bigwig:
        present = set(bigwig.chroms_with_data())
        for chrom, rows, starts, length in _by_chrom(windows):
            if chrom not in present or starts[-1] + length > bigwig.chroms[chrom]:
                raise ChromaccError(
                    f"{entry}: no mappability for windows up to {starts[-1] + length:,} bp of {chrom}; got "
                    f"{bigwig.chroms.get(chrom, 0):,} bp, and data on {', '.join(sorted(present)) or 'none'}. "
                    "Give a bigWig of the genome's own assembly, with all its chromosomes")
            read_bins(bigwig, chrom, starts, np.array([0, length]), rows, values, covered)
    mean, highest = values[:, 0, 0].astype(np.float64), values[:, 0, 2].max(initial=0)
    if highest > 1 or mean.min(initial=0) < 0:
        raise ChromaccError(
            f"{entry}: got values from {mean.min():g} (a window's mean) to {highest:g}; needed a mappability "
            "from 0 to 1. Divide it by its maximum, or give another track")
    return mean


def tss_distance(path: str | Path, windows: pd.DataFrame, sizes: dict[str, int],
                 aliases: Mapping[str, str] = NO_ALIASES) -> np.ndarray:
    """Return log10(1 + bp between each window and the nearest TSS), float64, shape=(W,); 0 = one touches it.

    As `bp_to_tss`, but on a chromosome without a TSS the distance is its length.
    """
    longest = windows["chrom"].map(sizes).to_numpy(np.float64)
    return np.log10(1 + np.fmin(bp_to_tss(path, windows, sizes, aliases), longest))


def bp_to_tss(path: str | Path, windows: pd.DataFrame, sizes: dict[str, int],
              aliases: Mapping[str, str] = NO_ALIASES) -> np.ndarray:
    """Return the bp between each window and the nearest TSS, float64, shape=(W,); 0 = one touches it.

    path: a BED with one interval a TSS. sizes: {chromosome: bp}. NaN on a chromosome where the file has none.
    Raises ChromaccError that lists the file's faults, or where no window's chromosome has a TSS.
    """
    table, problems = read_intervals(project_path(path), sizes, aliases)
    require_no_problems(problems)
    distance = np.full(len(windows), np.nan)
    for chrom, rows, starts, length in _by_chrom(windows):
        here = table[table["chrom"] == chrom].sort_values("start")
        if here.empty:
            continue
        begins = here["start"].to_numpy(dtype=np.int64)
        ends = np.maximum.accumulate(np.append(-sizes[chrom], here["end"].to_numpy(dtype=np.int64)))
        begins = np.append(begins, 2 * sizes[chrom])  # so that there is one at either side, too far to matter
        after = np.searchsorted(begins, starts + length)  # the first that begins at the window's end or later
        right = begins[after] - (starts + length)
        left = np.maximum(starts - ends[after], 0)  # ends[i]: the farthest end of the first i
        distance[rows] = np.minimum(left, right)
    if len(windows) and np.isnan(distance).all():
        chroms = ", ".join(windows["chrom"].unique())
        raise ChromaccError(f"{path}: no TSS on any chromosome of the windows ({chroms}); give a BED of the "
                            "genome's own assembly")
    return distance


def _by_chrom(windows: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray, int]]:
    """Return (chromosome, row numbers, starts, length) of each chromosome, sorted by start."""
    starts = windows["start"].to_numpy(dtype=np.int64)
    numbers, chroms = pd.factorize(windows["chrom"])
    length = int(windows["end"].iloc[0] - starts[0]) if len(windows) else 0
    groups = []
    for number, chrom in enumerate(chroms):
        rows = np.flatnonzero(numbers == number)
        rows = rows[np.argsort(starts[rows], kind="stable")]
        groups.append((str(chrom), rows, starts[rows], length))
    return groups


# --- the match ----------------------------------------------------------------------------------------------
def match_covariates(target: np.ndarray, pool: np.ndarray, calipers: Sequence[float], seed: int) -> np.ndarray:
    """For each target take the nearest unused candidate of the pool, without replacement.

    target, pool: covariates, float64, shape=(T, K) and (P, K); calipers: K distances, in the covariates' units.
    A match lies within the caliper of every covariate; the nearest is that of the smallest Euclidean distance,
    each covariate divided by its sd over the targets (by its caliper where that is 0). Greedy: targets are
    served in random order. Returns indices into `pool`, int64, shape=(T,); -1 = none left within the calipers.
    With one covariate it is `match_gc`.
    """
    if target.shape[1] == 1:
        return match_gc(target[:, 0], pool[:, 0], seed, float(calipers[0]))
    chosen = np.full(len(target), -1, dtype=np.int64)
    if not len(target) or not len(pool):
        return chosen
    rng, box, sd = np.random.default_rng(seed), np.asarray(calipers, dtype=np.float64), target.std(axis=0)
    scale = np.where(sd > 0, sd, np.where(box > 0, box, 1))
    order = rng.permutation(len(pool))  # ties in random order, not by position
    values = pool[order]
    tree, free = cKDTree(values / scale), np.ones(len(pool), dtype=bool)
    reach = np.sqrt(((box / scale) ** 2).sum()) * (1 + 1e-9)  # to the corners of the box of calipers
    reach = max(float(reach), 1e-9)  # the tree looks for less than this
    for i in rng.permutation(len(target)):
        slot = _nearest_free(tree, values, target[i], scale, box, reach, free)
        if slot >= 0:
            chosen[i], free[slot] = order[slot], False
    return chosen


def _nearest_free(tree: cKDTree, values: np.ndarray, target: np.ndarray, scale: np.ndarray, box: np.ndarray,
                  reach: float, free: np.ndarray) -> int:
    """Return the nearest free slot within the box around a target, shape=(K,); -1 = none."""
    count = min(NEIGHBOURS, len(values))
    while True:
        _, near = tree.query(target / scale, k=np.arange(1, count + 1), distance_upper_bound=reach)
        found = near[near < len(values)]
        fits = free[found] & (np.abs(values[found] - target) <= box).all(axis=1)
        if fits.any():
            return int(found[fits.argmax()])
        if len(found) < count or count == len(values):
            return -1
        count = min(2 * count, len(values))


def match_gc(target: np.ndarray, pool: np.ndarray, seed: int, max_difference: float) -> np.ndarray:
    """For each target GC take the nearest unused pool GC, without replacement.

    target, pool: GC fractions, shape=(T,) and (P,). Targets are served in random order. Returns indices into
    `pool`, int64, shape=(T,); -1 where no unused candidate lies within `max_difference`. Nearest-neighbour
    matching with a caliper: Rosenbaum & Rubin 1985, The American Statistician 39:33.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(pool))
    order = shuffled[np.argsort(pool[shuffled], kind="stable")]  # ties in random order, not by position
    values = pool[order]
    right = np.arange(len(pool) + 1)  # right[i]: where to look for a free slot at or after i; P = none
    left = np.arange(len(pool) + 1)   # the same to the left, shifted by one: slot i is left[i + 1]; 0 = none
    chosen = np.full(len(target), -1, dtype=np.int64)
    for i in rng.permutation(len(target)):
        gc = target[i]
        at = int(np.searchsorted(values, gc))
        after, before = _free(right, at), _free(left, at) - 1
        distance_after = values[after] - gc if after < len(pool) else np.inf
        distance_before = gc - values[before] if before >= 0 else np.inf
        slot = after if distance_after < distance_before else before
        if min(distance_after, distance_before) <= max_difference:
            chosen[i] = order[slot]
            right[slot], left[slot + 1] = slot + 1, slot
    return chosen


def _free(links: np.ndarray, at: int) -> int:
    """Follow links to a slot that points to itself, halving the path on the way."""
    while links[at] != at:
        links[at] = links[links[at]]
        at = int(links[at])
    return at


def match_summary(wanted: np.ndarray, matched: np.ndarray, pool: np.ndarray, drawn: np.ndarray,
                  names: Sequence[str], on: Sequence[str]) -> dict[str, dict]:
    """Return, for each covariate, counts, Kolmogorov-Smirnov distances (None without data) and histograms.

    wanted, pool, drawn: covariates of all peaks, all candidates and the background drawn, float64,
    shape=(., K), columns as in `names`; matched: bool, the peaks with a match. matched_on: it is one of `on`.
    ks_before: all peaks against all candidates; ks_after: all peaks against the background drawn; ks_matched:
    only those peaks that found a match. A large ks_after beside a small ks_matched: some peaks have no like
    off peaks.
    """
    summary = {}
    for column, name in enumerate(names):
        peaks, candidates, background = (table[:, column] for table in (wanted, pool, drawn))
        edges = np.linspace(0, COVARIATES[name].highest, BINS + 1)
        pairs = {"ks_before": (peaks, candidates), "ks_after": (peaks, background),
                 "ks_matched": (peaks[matched], background)}
        summary[name] = {
            "wanted": len(peaks), "candidates": len(candidates), "matched": len(background),
            "unmatched": len(peaks) - len(background), "matched_on": name in on,
            **{key: _ks(first, second) for key, (first, second) in pairs.items()}, "edges": edges.tolist(),
            "histogram": {key: np.histogram(values, bins=edges)[0].tolist() for key, values in
                          (("peaks", peaks), ("candidates", candidates), ("background", background))},
        }
    return summary


def _ks(first: np.ndarray, second: np.ndarray) -> float | None:
    if not len(first) or not len(second):
        return None
    method = "asymp" if len(first) + len(second) > 2 else "exact"  # whose p-value, not used here, is defined for two values
    return float(ks_2samp(first, second, method=method).statistic)
