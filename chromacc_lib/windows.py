"""Windows: from peaks to non-overlapping windows, matched background, labels, and the two holdouts.

All coordinates are 0-based half-open, in bp. Every filter returns what it kept, of how many, and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from bioframe.core import arrops

from chromacc_lib import ChromaccError
from chromacc_lib.genome import N_CODE, Genome, genome_sizes, open_genome
from chromacc_lib.manifest import INPUT_KINDS, UNKNOWN_LINEAGE, lineages_of, read_intervals
from chromacc_lib.matching import COVARIATES, MatchChoice, add_covariates, match_covariates, match_summary
from chromacc_lib.problems import require_no_problems

__all__ = [
    "PLACEMENTS", "SPLITS", "Count", "Fold", "Selection", "background_windows", "base_content", "cap_windows",
    "label_windows", "leave_one_out_folds", "observed_assays", "peak_windows", "read_peaks",
    "require_placement", "sequence_codes", "split_cell_types", "split_chromosomes", "tiled_windows",
]

SPLITS = ("train", "validation", "test")
PLACEMENTS = ("summits", "tiled")  # windows centred on summits, or tiles of a fixed grid
FRACTIONS = (0.70, 0.15, 0.15)
WEIGHT_ALL = 4.0    # of a cell type in the total; in its lineage it weighs 1
WEIGHT_ASSAY = 0.5  # of a cell type among those that lack an assay
NO_VALIDATION = ("none",)  # what to give for validation cell types when there are too few to spare one
CHUNK_WINDOWS = 4096  # windows whose bases are read at once: some MB


@dataclass(frozen=True)
class Count:
    """One filter's outcome: kept n of N, because."""

    what: str
    kept: int
    of: int
    because: str

    def __str__(self) -> str:
        return f"{self.what}: kept {self.kept:,} of {self.of:,}, because {self.because}"


@dataclass(frozen=True)
class Selection:
    """Windows (chrom, start, end, gc, ...), the counts of every filter, and what the background's match came
    to: {split: {covariate: `match_summary`}}.
    """

    windows: pd.DataFrame
    counts: list[Count]
    match: dict[str, dict] = field(default_factory=dict)


# --- peaks and sequence -------------------------------------------------------------------------------------
def read_peaks(path: str | Path, sizes: Mapping[str, int] | None = None,
               aliases: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read peaks or regions (BED3 to narrowPeak, plain or gzipped), sorted by chromosome and start.

    Returns chrom, start, end, strength (float), summit (bp). sizes: the genome's {chromosome: length}; peaks
    on other chromosomes are left out. aliases: see `read_intervals`. Raises ChromaccError that lists every fault of
    the file.
    """
    table, problems = read_intervals(path, sizes, aliases)
    require_no_problems(problems)
    if sizes is not None:
        table = table[table["chrom"].isin(list(sizes))]
    table = table.sort_values(["chrom", "start", "end", "summit"], kind="stable", ignore_index=True)
    return table[["chrom", "start", "end", "strength", "summit"]]


def sequence_codes(genome: Genome, windows: pd.DataFrame) -> np.ndarray:
    """Return the windows' bases, uint8, shape=(W, L): 0..3 = ACGT, 4 = N or any other letter.

    genome: from `open_genome`. windows: chrom, start, end, all of one length L, in any order; what lies far
    from them is not read. Raises ChromaccError for a window past its chromosome's end.
    """
    length = _one_length(windows)
    codes = np.empty((len(windows), length), dtype=np.uint8)
    numbers, chroms = pd.factorize(windows["chrom"])
    starts = windows["start"].to_numpy(dtype=np.int64)
    for number, chrom in enumerate(chroms):
        rows = np.flatnonzero(numbers == number)
        rows = rows[np.argsort(starts[rows], kind="stable")]
        first, last = starts[rows[0]], starts[rows[-1]]
        if chrom not in genome or first < 0 or last + length > len(genome[chrom]):
            raise ChromaccError(
                f"windows on {chrom} reach outside the FASTA: got starts from {first} to "
                f"{last} with {length} bp; use windows of the FASTA's own assembly")
        for at in range(0, len(rows), CHUNK_WINDOWS):
            part = rows[at:at + CHUNK_WINDOWS]
            codes[part] = genome.codes(chrom, starts[part], length)
    return codes


def _one_length(windows: pd.DataFrame) -> int:
    lengths = (windows["end"] - windows["start"]).unique()
    if len(lengths) > 1 or (len(lengths) == 1 and lengths[0] <= 0):
        raise ChromaccError(
            f"windows: got lengths {sorted(lengths.tolist())[:5]} bp; all need one length above 0")
    return int(lengths[0]) if len(lengths) else 0


def base_content(genome: Genome, windows: pd.DataFrame, chunk: int = 20_000) -> pd.DataFrame:
    """Return `gc` (GC of the known bases; NaN where all are N) and `n_fraction` of each window, float64."""
    gc, unknown = np.empty(len(windows)), np.empty(len(windows))
    for first in range(0, len(windows), chunk):
        codes = sequence_codes(genome, windows.iloc[first:first + chunk])
        n = (codes == N_CODE).sum(axis=1)
        known = codes.shape[1] - n
        strong = ((codes == 1) | (codes == 2)).sum(axis=1)
        rows = slice(first, first + len(codes))
        gc[rows] = np.divide(strong, known, out=np.full(len(codes), np.nan), where=known > 0)
        unknown[rows] = n / codes.shape[1]
    return pd.DataFrame({"gc": gc, "n_fraction": unknown}, index=windows.index)


# --- windows ------------------------------------------------------------------------------------------------
def peak_windows(peaks: Mapping[str, pd.DataFrame], genome_fasta: str | Path,
                 blacklist: pd.DataFrame | None = None, window_bp: int = 1500,
                 max_n_fraction: float = 0.05) -> Selection:
    """Turn the peaks of TRAINING cell types into non-overlapping windows centred on summits.

    peaks: {cell type: table of `read_peaks`}; give training cell types only. The strongest summit comes
    first, and takes its window; weaker ones that would overlap it are left out. Strength is the rank within
    the cell type, since cell types differ in scale. blacklist: chrom, start, end; one shared bp excludes a
    window. Raises ChromaccError when no window is left.
    """
    ranked = [table.assign(rank=table["strength"].rank(pct=True)) for table in peaks.values()]
    nothing = pd.DataFrame(columns=["chrom", "summit", "rank"])
    summits = pd.concat(ranked, ignore_index=True) if ranked else nothing
    starts = summits["summit"] - window_bp // 2
    windows = pd.DataFrame({"chrom": summits["chrom"], "start": starts, "end": starts + window_bp,
                            "rank": summits["rank"]})
    counts: list[Count] = []
    windows = _filter_windows(windows, genome_fasta, blacklist, max_n_fraction, "peak summits", counts)
    order = windows.sort_values(["rank", "chrom", "start"], ascending=[False, True, True], kind="stable")
    taken = order[_first_come(order, window_bp)]
    counts.append(Count("peak summits", len(taken), len(windows),
                        "no window may overlap a stronger summit's"))
    if not len(taken):
        raise ChromaccError(
            f"no window is left of {len(summits)} peak summits of {len(peaks)} training cell type(s): " +
            "; ".join(map(str, counts)) + ". Check the peaks, the FASTA and the blacklist")
    return Selection(_genome_order(taken.drop(columns="rank"), genome_fasta), counts)


def require_placement(placement: str) -> None:
    """Raise ChromaccError unless `placement` is one of `PLACEMENTS`."""
    if placement not in PLACEMENTS:
        raise ChromaccError(f"window_placement: got {placement!r}; needed one of {', '.join(PLACEMENTS)}")


def tiled_windows(peaks: Mapping[str, pd.DataFrame], genome_fasta: str | Path,
                  blacklist: pd.DataFrame | None = None, window_bp: int = 1500, max_n_fraction: float = 0.05,
                  min_overlap_bp: int = 100) -> Selection:
    """Return the tiles of a fixed grid that the peaks of TRAINING cell types overlap, in genome order.

    Tile i of a chromosome is i * window_bp to (i + 1) * window_bp. A tile is taken when a peak overlaps it by
    `min_overlap_bp`, or with all of its own length. Arguments and errors as for `peak_windows`.
    """
    pooled = pd.concat([table[["chrom", "start", "end"]] for table in peaks.values()], ignore_index=True) \
        if peaks else pd.DataFrame(columns=["chrom", "start", "end"])
    tiles = _grid(genome_sizes(genome_fasta), window_bp)
    i, j = _enough_overlaps(tiles, pooled, min_overlap_bp)
    tiles = tiles.assign(taken=np.isin(np.arange(len(tiles)), i))
    enough = f"{min_overlap_bp} bp of a peak, or all of it"
    counts = [Count("training peaks", len(np.unique(j)), len(pooled), f"a tile is taken for {enough}"),
              Count("tiles", int(tiles["taken"].sum()), len(tiles), f"a peak window needs {enough}")]
    windows = tiles.loc[tiles["taken"], ["chrom", "start", "end"]]
    if len(windows):
        windows = _filter_windows(windows, genome_fasta, blacklist, max_n_fraction, "peak tiles", counts)
    if not len(windows):
        raise ChromaccError(
            f"no tile is left of {len(pooled)} peaks of {len(peaks)} training cell type(s): " +
            "; ".join(map(str, counts)) + ". Check the peaks, the FASTA and the blacklist")
    return Selection(windows.reset_index(drop=True), counts)


def _grid(sizes: Mapping[str, int], window_bp: int) -> pd.DataFrame:
    """Return the tiles of every chromosome, in order: chrom, start, end; the last may reach past its end."""
    starts = [np.arange(0, size, window_bp, dtype=np.int64) for size in sizes.values()]
    chrom = np.repeat(list(sizes), [len(here) for here in starts])
    start = np.concatenate(starts)
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + window_bp})


def _first_come(windows: pd.DataFrame, window_bp: int) -> np.ndarray:
    """Return a bool mask, shape=(W,): in this order, keep a window unless it overlaps one kept before."""
    # (chrom, start // window_bp) -> start; one kept window at most begins in such a cell
    kept_at: dict[tuple[str, int], int] = {}
    keep = np.zeros(len(windows), dtype=bool)
    for i, (chrom, start) in enumerate(zip(windows["chrom"], windows["start"])):
        cell = start // window_bp
        near = (kept_at.get((chrom, cell + step)) for step in (-1, 0, 1))
        if all(other is None or abs(other - start) >= window_bp for other in near):
            kept_at[chrom, cell] = start
            keep[i] = True
    return keep


def _filter_windows(windows: pd.DataFrame, genome_fasta: str | Path, blacklist: pd.DataFrame | None,
                    max_n_fraction: float, what: str, counts: list[Count]) -> pd.DataFrame:
    """Leave out windows past an edge, in the blacklist or with many N; append a count for each; add `gc`."""
    sizes = genome_sizes(genome_fasta)
    inside = (windows["start"] >= 0) & (windows["end"] <= windows["chrom"].map(sizes).astype(float))
    counts.append(Count(what, int(inside.sum()), len(windows), "a window must lie within its chromosome"))
    windows = windows[inside]
    if blacklist is not None:
        clear = ~_touches(windows, blacklist)
        counts.append(Count(what, int(clear.sum()), len(windows), "no base may lie in the blacklist"))
        windows = windows[clear]
    with open_genome(genome_fasta) as genome:
        content = base_content(genome, windows)
    known = (content["n_fraction"] <= max_n_fraction) & content["gc"].notna()
    counts.append(
        Count(what, int(known.sum()), len(windows), f"at most {max_n_fraction:.0%} of the bases may be N"))
    return windows[known].assign(gc=content["gc"][known])


def _touches(windows: pd.DataFrame, regions: pd.DataFrame) -> np.ndarray:
    """Return a bool mask, shape=(W,): the window shares at least 1 bp with a region."""
    touched = np.zeros(len(windows), dtype=bool)
    touched[_overlaps(windows, regions)[0]] = True
    return touched


def _overlaps(first: pd.DataFrame, second: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers (i in `first`, j in `second`) of every pair that shares at least 1 bp."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    chroms_1, chroms_2 = first["chrom"].to_numpy(dtype=str), second["chrom"].to_numpy(dtype=str)
    for chrom in np.unique(chroms_1):
        rows_1, rows_2 = np.flatnonzero(chroms_1 == chrom), np.flatnonzero(chroms_2 == chrom)
        if len(rows_2):
            i, j = arrops.overlap_intervals(*_bounds(first, rows_1), *_bounds(second, rows_2))
            pairs.append(np.stack([rows_1[i], rows_2[j]], axis=1))
    i, j = np.concatenate(pairs).T
    return i, j


def _bounds(table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return table["start"].to_numpy(dtype=np.int64)[rows], table["end"].to_numpy(dtype=np.int64)[rows]


def _genome_order(windows: pd.DataFrame, genome_fasta: str | Path) -> pd.DataFrame:
    rank = {chrom: i for i, chrom in enumerate(genome_sizes(genome_fasta))}
    order = np.lexsort((windows["start"], windows["chrom"].map(rank)))
    return windows.iloc[order].reset_index(drop=True)


def cap_windows(windows: pd.DataFrame, maximum: int, seed: int) -> Selection:
    """Keep at most `maximum` windows, drawn at random by the seed, in their order; 0 keeps all."""
    if maximum <= 0 or len(windows) <= maximum:
        return Selection(windows, [])
    chosen = np.sort(np.random.default_rng(seed).choice(len(windows), maximum, replace=False))
    count = Count("peak windows", maximum, len(windows), "max_positive_windows caps them (drawn by the seed)")
    return Selection(windows.iloc[chosen].reset_index(drop=True), [count])


def background_windows(positives: pd.DataFrame, peaks: Mapping[str, pd.DataFrame], genome_fasta: str | Path,
                       blacklist: pd.DataFrame | None = None, per_positive: float = 1.0, seed: int = 1,
                       max_n_fraction: float = 0.05, max_gc_difference: float = COVARIATES["gc"].caliper, *,
                       placement: str = "summits", choice: MatchChoice = MatchChoice()) -> Selection:
    """Draw windows off every training peak, matched to the positives, within each chromosome split.

    positives: chrom, start, end, gc, split. peaks: as for `peak_windows`. Candidates tile what lies between
    peaks and chosen windows (placement "summits"), or are tiles of `tiled_windows`' grid ("tiled"); each is
    used once. choice: what is matched on, GC alone by default; a positive without a candidate within the
    caliper of each covariate (`COVARIATES`; for GC `max_gc_difference`) goes unmatched, and is counted. `match[split]`
    holds, for each covariate, n, and the Kolmogorov-Smirnov distances before and after (`match_summary`).
    """
    require_placement(placement)
    positives, counts = _genome_order(positives, genome_fasta), []
    pool = _candidates(positives, peaks, genome_fasta, blacklist, max_n_fraction, placement, counts)
    both = add_covariates(pd.concat([positives, pool], ignore_index=True), genome_fasta, choice)
    positives, pool = both.iloc[:len(positives)], both.iloc[len(positives):]
    caliper = {name: COVARIATES[name].caliper for name in choice.on}
    caliper |= {"gc": max_gc_difference} if "gc" in caliper else {}
    within = ", ".join(f"{value} in {'GC' if name == 'gc' else name}" for name, value in caliper.items())
    columns = [choice.names.index(name) for name in choice.on]
    drawn, match = [], {}
    for number, split in enumerate(s for s in SPLITS if (positives["split"] == s).any()):
        here = positives.loc[positives["split"] == split, choice.names].to_numpy(dtype=np.float64)
        wanted = here[_repeat(len(here), per_positive, seed + number)]
        candidates = pool[pool["split"] == split]
        values = candidates[choice.names].to_numpy(dtype=np.float64)
        chosen = match_covariates(wanted[:, columns], values[:, columns], list(caliper.values()), seed + number)
        matched = chosen >= 0
        drawn.append(candidates.iloc[np.sort(chosen[matched])])
        counts.append(Count(f"background windows ({split})", int(matched.sum()), len(wanted),
                            f"a match needs an unused candidate within {within}"))
        match[split] = match_summary(wanted, matched, values, values[chosen[matched]], choice.names, choice.on)
    windows = pd.concat(drawn)[["chrom", "start", "end", "gc", "split"]]
    return Selection(_genome_order(windows, genome_fasta), counts, match)


def _candidates(positives: pd.DataFrame, peaks: Mapping[str, pd.DataFrame], genome_fasta: str | Path,
                blacklist: pd.DataFrame | None, max_n_fraction: float, placement: str,
                counts: list[Count]) -> pd.DataFrame:
    """Return what background is drawn from: chrom, start, end, gc, split; append a count for each filter.

    With placement "summits" the gaps that are tiled end at the blacklist; it is counted by how many tiles fit without.
    """
    window_bp = _one_length(positives)
    busy = pd.concat([table[["chrom", "start", "end"]] for table in (positives, *peaks.values())])
    sizes = {c: s for c, s in genome_sizes(genome_fasta).items() if c in set(positives["chrom"])}
    if placement == "tiled":
        tiles = _grid(sizes, window_bp)
        off = ~_touches(tiles, busy)
        counts.append(Count("background candidates", int(off.sum()), len(tiles),
                            "a tile may touch no training peak or peak window"))
        tiles = tiles[off]
    else:
        tiles = _tile_gaps(busy, sizes, window_bp)
        if blacklist is not None:
            n_free, tiles = len(tiles), _tile_gaps(pd.concat([busy, blacklist]), sizes, window_bp)
            counts.append(Count("background candidates", len(tiles), n_free, "no base may lie in the blacklist"))
            blacklist = None  # done
    pool = _filter_windows(tiles, genome_fasta, blacklist, max_n_fraction, "background candidates", counts)
    return pool.assign(split=pool["chrom"].map(dict(zip(positives["chrom"], positives["split"]))))


def _tile_gaps(busy: pd.DataFrame, sizes: Mapping[str, int], window_bp: int) -> pd.DataFrame:
    """Tile every gap between `busy` intervals, from the gap's start, with windows that do not overlap."""
    tiles = []
    for chrom, size in sizes.items():
        here = busy[busy["chrom"] == chrom].sort_values("start")
        starts = np.append(here["start"].to_numpy(dtype=np.int64), size)  # where a gap ends
        ends = np.maximum.accumulate(np.append(0, here["end"].to_numpy(dtype=np.int64)))  # where a gap begins
        count = np.maximum(starts - ends, 0) // window_bp
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        start = np.repeat(ends, count) + within * window_bp
        tiles.append(pd.DataFrame({"chrom": chrom, "start": start, "end": start + window_bp}))
    return pd.concat(tiles, ignore_index=True)


def _repeat(n: int, times: float, seed: int) -> np.ndarray:
    """Return each number below n `times` times, int64; the fraction of a time is drawn at random."""
    whole, rest = divmod(times * n, n) if n else (0, 0)
    extra = np.random.default_rng(seed).choice(n, round(rest), replace=False) if n else np.arange(0)
    return np.concatenate([np.tile(np.arange(n), int(whole)), extra])


def label_windows(windows: pd.DataFrame, peaks: pd.DataFrame, min_overlap_bp: int = 100) -> np.ndarray:
    """Return int8, shape=(W,): 1 where a peak overlaps the window enough, else 0.

    Enough is `min_overlap_bp`, or the whole peak where that is shorter. windows, peaks: chrom, start, end;
    the peaks of one cell type.
    """
    label = np.zeros(len(windows), dtype=np.int8)
    label[_enough_overlaps(windows, peaks, min_overlap_bp)[0]] = 1
    return label


def _enough_overlaps(windows: pd.DataFrame, peaks: pd.DataFrame,
                     min_overlap_bp: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the row numbers (i in `windows`, j in `peaks`) of pairs that share enough, or all of the peak."""
    i, j = _overlaps(windows, peaks)
    start, end = _bounds(windows, i)
    peak_start, peak_end = _bounds(peaks, j)
    shared = np.minimum(end, peak_end) - np.maximum(start, peak_start)
    enough = shared >= np.minimum(peak_end - peak_start, min_overlap_bp)
    return i[enough], j[enough]


# --- the two holdouts ---------------------------------------------------------------------------------------
def split_chromosomes(n_windows: Mapping[str, int], seed: int, test: Sequence[str] = (),
                      validation: Sequence[str] = ()) -> dict[str, str]:
    """Assign whole chromosomes to train, validation and test, near 70/15/15 of the windows.

    n_windows: {chromosome: number of windows}, those with windows only. test, validation: explicit
    chromosomes. Raises ChromaccError for an unknown name, or too few chromosomes.
    """
    units = [(chrom,) for chrom in n_windows]
    weights = np.array([[n] for n in n_windows.values()], dtype=float).reshape(-1, 1)
    return _split("chromosomes", units, weights, seed, tuple(test), tuple(validation), allow_none=False)


def observed_assays(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return which inputs each cell type has: bool, cell types as rows, (kind, target) as columns.

    manifest: from `read_manifest`; histone, TF and expression rows count. An input that all have is there too.
    """
    cells = list(dict.fromkeys(manifest["cell_type"]))
    rows = manifest[manifest["kind"].isin(INPUT_KINDS)]
    pairs = set(zip(rows["cell_type"], rows["kind"], rows["target"]))
    inputs = sorted({pair[1:] for pair in pairs})
    has = np.array([[(cell, *pair) in pairs for pair in inputs] for cell in cells], dtype=bool)
    columns = pd.MultiIndex.from_tuples(inputs, names=["kind", "target"]) if inputs else []
    return pd.DataFrame(has.reshape(len(cells), len(inputs)), index=cells, columns=columns)


def split_cell_types(cell_types: pd.DataFrame, seed: int, test: Sequence[str] = (),
                     validation: Sequence[str] = (), observed: pd.DataFrame | None = None) -> dict[str, str]:
    """Assign whole cell types to train, validation and test, near 70/15/15, spread over lineages and assays.

    cell_types: one row for each pair of cell_type and donor, and its lineage (see `lineages_of`; cell types of
    unknown lineage are balanced without it). Cell types that share a donor stay together. observed: from
    `observed_assays`; cell types that lack an assay are then spread as well, so that no split is the one
    without it. Of 4,096 random draws that is taken whose counts deviate least from 70/15/15: a deviation of one
    cell type weighs 4, within a known lineage 1 more, within those that lack a given assay 0.5 more. test,
    validation: explicit names; validation ("none",) = no validation cell types. Raises ChromaccError for an
    unknown name, an explicit list that parts one donor, several lineages of one cell type, or too few cell
    types.
    """
    lineage = pd.Series(lineages_of(cell_types), dtype=object)
    units = _donor_groups(cell_types)
    strata = pd.get_dummies(lineage.mask(lineage == UNKNOWN_LINEAGE)).astype(float)
    strata.insert(0, "all", WEIGHT_ALL)
    weights = np.array([strata.loc[list(unit)].sum(axis=0).to_numpy() for unit in units])
    if observed is not None:
        lacking = ~observed.loc[:, ~observed.all(axis=0)]
        lacks = [WEIGHT_ASSAY * lacking.loc[list(unit)].sum(axis=0).to_numpy(dtype=float) for unit in units]
        weights = np.hstack([weights, np.array(lacks).reshape(len(units), -1)])
    return _split("cell types", units, weights, seed, tuple(test), tuple(validation), allow_none=True)


@dataclass(frozen=True)
class Fold:
    """One fold's explicit lists, named as the parameters of curation: `replace(parameters, **vars(fold))`."""

    test_cell_types: tuple[str, ...]
    validation_cell_types: tuple[str, ...]


def leave_one_out_folds(cell_types: pd.DataFrame, seed: int,
                        observed: pd.DataFrame | None = None) -> list[Fold]:
    """Return a fold for each cell type: it alone is tested, with those that share its donor.

    cell_types, observed: as for `split_cell_types`, which draws each fold's validation cell types from the
    others; where that would leave fewer than two to train on, ("none",) stands there, and training cell types
    validate. Raises ChromaccError where a fold has fewer than two training cell types even so.
    """
    folds = []
    for unit in _donor_groups(cell_types):
        others = [name for name in dict.fromkeys(cell_types["cell_type"]) if name not in unit]
        if len(others) < 2:
            raise ChromaccError(
                f"leave-one-out: without {', '.join(unit)} {len(others)} cell type(s) are left to train on, "
                "and at least 2 are needed; add cell types of other donors")
        validation = _validation_of(cell_types, seed, unit, observed)
        folds.append(Fold(unit, validation if len(others) - len(validation) >= 2 else NO_VALIDATION))
    return folds


def _validation_of(cell_types: pd.DataFrame, seed: int, test: tuple[str, ...],
                   observed: pd.DataFrame | None) -> tuple[str, ...]:
    """Draw validation cell types beside given test ones; all others where they are one donor's."""
    others = cell_types[~cell_types["cell_type"].isin(test)]
    if len(_donor_groups(others)) < 2:
        return tuple(dict.fromkeys(others["cell_type"]))
    split = split_cell_types(cell_types, seed, test, observed=observed)
    return tuple(name for name, where in split.items() if where == "validation")


def _donor_groups(cell_types: pd.DataFrame) -> list[tuple[str, ...]]:
    """Join cell types that share a donor, directly or through others; an empty donor joins nothing.

    A field may name several donors, parted by commas or semicolons: a file pooled from them shares each.
    """
    groups: list[set[str]] = [{name} for name in dict.fromkeys(cell_types["cell_type"])]
    donors = cell_types.assign(donor=cell_types["donor"].str.split(r"[,;]")).explode("donor")
    donors["donor"] = donors["donor"].str.strip()
    for _, rows in donors[donors["donor"].fillna("") != ""].groupby("donor", sort=False):
        members = set(rows["cell_type"])
        joined = set().union(*(group for group in groups if group & members))
        groups = [group for group in groups if not group & members] + [joined]
    rank = {name: i for i, name in enumerate(dict.fromkeys(cell_types["cell_type"]))}
    return sorted((tuple(sorted(group, key=rank.__getitem__)) for group in groups), key=lambda g: rank[g[0]])


def _split(what: str, units: list[tuple[str, ...]], weights: np.ndarray, seed: int, test: tuple[str, ...],
           validation: tuple[str, ...], allow_none: bool) -> dict[str, str]:
    """Split units (members that stay together) by the explicit lists, or by the seed where one is empty."""
    skip_validation = allow_none and validation == NO_VALIDATION
    given = {"test": test, "validation": () if skip_validation else validation}
    fixed = _explicit(what, units, given)
    to_draw = [
        s for s in ("validation", "test") if not given[s] and not (s == "validation" and skip_validation)
    ]
    free = [i for i in range(len(units)) if i not in fixed]
    if len(free) < 1 + len(to_draw):
        name = what.replace(" ", "_")
        none = f', or validation_{name}=["none"]: training {what} then validate' if allow_none else ""
        raise ChromaccError(
            f"{what} cannot be split: {len(units)} independent {what} (those that share a donor count once), "
            f"of which {len(free)} are free for {', '.join(['train', *to_draw])}; needed at least "
            f"{1 + len(to_draw)}. Add data, or give explicit lists: test_{name}=[...], "
            f"validation_{name}=[...]{none}")
    drawn = _draw(weights, free, to_draw, seed)
    chosen = {**fixed, **drawn}
    return {member: chosen[i] for i, unit in enumerate(units) for member in unit}


def _explicit(what: str, units: list[tuple[str, ...]],
              given: Mapping[str, tuple[str, ...]]) -> dict[int, str]:
    """Return {unit index: split} of the explicit lists, checked."""
    where = {member: i for i, unit in enumerate(units) for member in unit}
    unknown = [name for names in given.values() for name in names if name not in where]
    if unknown:
        raise ChromaccError(f"{what}: {', '.join(unknown)} named for a split, but not in the data; "
                            f"known {what}: {', '.join(where)}")
    twice = set(given["test"]) & set(given["validation"])
    if twice:
        raise ChromaccError(
            f"{what}: {', '.join(sorted(twice))} named for both test and validation; keep one")
    fixed = {where[name]: split for split, names in given.items() for name in names}
    for i, split in fixed.items():
        apart = [member for member in units[i] if member not in given[split]]
        if apart:
            raise ChromaccError(f"{what}: {', '.join(units[i])} share a donor and must stay in one split; "
                                f"add {', '.join(apart)} to the {split} list")
    return fixed


def _draw(weights: np.ndarray, free: list[int], to_draw: list[str], seed: int,
          tries: int = 4096) -> dict[int, str]:
    """Draw `tries` random assignments of the free units, and take the first that comes nearest to 70/15/15.

    weights: shape=(U, K), a unit's weight in each of K strata (all, each lineage, and who lacks which assay).
    No split is left empty.
    """
    if not to_draw:
        return dict.fromkeys(free, "train")
    names = ["train", *to_draw]
    share = np.array([FRACTIONS[SPLITS.index(name)] for name in names])
    target = share * weights.sum(axis=0)[:, None]  # (K, S): shares of all units, the fixed ones included
    target[:, 0] = weights[free].sum(axis=0) - target[:, 1:].sum(axis=1)
    rng = np.random.default_rng(seed)
    pick = rng.choice(len(names), size=(tries, len(free)), p=share / share.sum())  # (tries, U)
    rows = np.arange(tries)[:, None]
    pick[rows, rng.permuted(np.tile(np.arange(len(free)), (tries, 1)), axis=1)[:, :len(names)]] = \
        np.arange(len(names))  # one random unit for each split, so that none is empty
    onehot = np.eye(len(names))[pick]  # (tries, U, S)
    sums = np.einsum("tus,uk->tks", onehot, weights[free])
    best = int(np.abs(sums - target).sum(axis=(1, 2)).argmin())
    return {unit: names[choice] for unit, choice in zip(free, pick[best])}
