"""Places: where to predict, as windows of the model's width in the FASTA's order, made chromosome by chromosome.

However many windows there are, those of one chromosome are in memory at a time, as starts alone. All coordinates are
0-based half-open, in bp.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.genome import genome_aliases
from chromacc_lib.hub import ModelFolder
from chromacc_lib.manifest import genome_sizes, read_intervals
from chromacc_lib.problems import require_no_problems
from chromacc_lib.windows import Count

__all__ = ["WHOLE_GENOME", "Places", "prior_windows", "region_windows"]

WHOLE_GENOME = "genome"


class _Found(NamedTuple):
    """Windows of all chromosomes: asked for, within their chromosome, each once; and a digest of the last."""

    asked: int
    inside: int
    once: int
    digest: str


@dataclass(frozen=True)
class Places:
    """Windows of `window_bp` in the order of sizes, the FASTA's.

    intervals: {chromosome: (start, end)}, each int64, shape=(n,).
    An interval up to a window wide gives one window, centred on its midpoint; a wider one gives one every `stride` bp
    from its start, the last drawn back to end with it. name: what they are, in words. before: counts of what was left
    out on the way to the intervals.
    """

    name: str
    sizes: Mapping[str, int]
    window_bp: int
    stride: int
    intervals: Mapping[str, tuple[np.ndarray, np.ndarray]]
    before: tuple[Count, ...] = ()
    what: str = "windows"

    @cached_property
    def _found(self) -> _Found:
        asked, inside, once, digest = 0, 0, 0, hashlib.sha256(str(self.window_bp).encode())
        for chrom in self.sizes:
            starts = self._starts(chrom)
            kept = starts[(starts >= 0) & (starts + self.window_bp <= self.sizes[chrom])]
            unique = np.unique(kept)
            asked, inside, once = asked + len(starts), inside + len(kept), once + len(unique)
            digest.update(f"{chrom} {len(unique)} ".encode() + unique.astype("<i8").tobytes())
        return _Found(asked, inside, once, digest.hexdigest())

    def _starts(self, chrom: str) -> np.ndarray:
        """First base of each window that is asked for on a chromosome."""
        start, end = self.intervals.get(chrom, (np.empty(0, np.int64),) * 2)
        n_tiles = 1 + np.maximum(0, -(-(end - start - self.window_bp) // self.stride))
        row = np.repeat(np.arange(len(start)), n_tiles)
        tile = np.arange(len(row)) - np.repeat(np.cumsum(n_tiles) - n_tiles, n_tiles)
        tiled = np.minimum(start[row] + tile * self.stride, end[row] - self.window_bp)
        return np.where(n_tiles[row] == 1, ((start + end) // 2 - self.window_bp // 2)[row], tiled)

    def __len__(self) -> int:
        """Number of windows."""
        return self._found.once

    @property
    def digest(self) -> str:
        """Which windows these are: SHA-256."""
        return self._found.digest

    @property
    def counts(self) -> list[Count]:
        """What was left out, and why."""
        asked, inside, once, _ = self._found
        return [
            *self.before,
            Count(self.what, inside, asked, "a window must lie within a chromosome of the FASTA"),
            Count(self.what, once, inside, "the same window is predicted once"),
        ]

    def chunks(self, size: int) -> Iterator[pd.DataFrame]:
        """Yield the windows (chrom, start, end) in order, `size` at a time; the last may be fewer."""
        held: list[tuple[str, np.ndarray]] = []
        for chrom, length in self.sizes.items():
            starts = self._starts(chrom)
            starts = np.unique(starts[(starts >= 0) & (starts + self.window_bp <= length)])
            while len(starts):
                room = size - sum(len(some) for _, some in held)
                held.append((chrom, starts[:room]))
                starts = starts[room:]
                if sum(len(some) for _, some in held) == size:
                    yield self._table(held)
                    held = []
        if held:
            yield self._table(held)

    def _table(self, held: list[tuple[str, np.ndarray]]) -> pd.DataFrame:
        start = np.concatenate([starts for _, starts in held])
        chrom = np.repeat([chrom for chrom, _ in held], [len(starts) for _, starts in held])
        return pd.DataFrame({"chrom": chrom, "start": start, "end": start + self.window_bp})

    @property
    def windows(self) -> pd.DataFrame:
        """All of them in one table (chrom, start, end): for few."""
        return pd.concat(self.chunks(1 << 20), ignore_index=True)


def _required(places: Places) -> Places:
    if not len(places):
        counts = "; ".join(map(str, places.counts))
        raise ChromaccError(f"no window is left to predict: {counts}. Check regions and FASTA")
    return places


def prior_windows(folder: ModelFolder, genome_fasta: str | Path) -> Places:
    """Return the windows of the locus prior that lie on the FASTA's chromosomes.

    Raises ChromaccError when there are none.
    """
    windows, sizes = folder.reference.windows, genome_sizes(genome_fasta)
    here = windows[windows["chrom"].isin(list(sizes))]
    what = "windows of the locus prior"
    counts = (Count(what, len(here), len(windows), "their chromosome must be in the FASTA"),)
    return _required(Places(what, sizes, folder.model.config.window_bp, 1, _by_chromosome(here), counts, what))


def region_windows(
    regions: str | Path, genome_fasta: str | Path, window_bp: int, say: Callable[[str], None] = print, stride: int = 0,
    rename_chromosomes: bool = False,
) -> Places:
    """Return the windows of the model's width that cover regions; see `Places` for the rule.

    regions: path of a BED file; or names of the FASTA's chromosomes, separated by commas; or "genome", all of them.
    stride: bp from one window to the next within a region, 0 = a window's width, side by side. say: gets notes.
    rename_chromosomes: of a BED file, see `genome_aliases`. Raises ChromaccError that lists every fault of the file, names an unknown chromosome, or says that no window is left.
    """
    if stride < 0:
        raise ChromaccError(f"stride={stride}: needed are 1 bp or more, or 0 for windows side by side")
    sizes, stride = genome_sizes(genome_fasta), stride or window_bp
    names = [name.strip() for name in str(regions).split(",")]
    if str(regions) == WHOLE_GENOME or all(name in sizes for name in names):
        chosen = list(sizes) if str(regions) == WHOLE_GENOME else names
        ends = {chrom: (np.zeros(1, np.int64), np.array([sizes[chrom]])) for chrom in chosen}
        name = "whole genome" if str(regions) == WHOLE_GENOME else ", ".join(names)
        return _required(Places(f"{name}, every {stride:,} bp", sizes, window_bp, stride, ends))
    path = project_path(regions)
    if not path.is_file():
        raise ChromaccError(
            f"regions {str(regions)!r}: no such file, and no chromosome of {genome_fasta}; needed a BED file, names of "
            f"chromosomes separated by commas ({', '.join(list(sizes)[:4])}, ...), or {WHOLE_GENOME!r}"
        )
    table, problems = read_intervals(path, sizes, genome_aliases(sizes, rename_chromosomes))
    for problem in problems:
        if not problem.fatal:
            say(str(problem))
    require_no_problems(problems)
    known = table[table["chrom"].isin(list(sizes))]
    counts = (Count("regions", len(known), len(table), "their chromosome must be in the FASTA"),)
    return _required(Places(path.name, sizes, window_bp, stride, _by_chromosome(known), counts))


def _by_chromosome(table: pd.DataFrame) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {str(chrom): (rows["start"].to_numpy(np.int64), rows["end"].to_numpy(np.int64))
            for chrom, rows in table.groupby("chrom", sort=False)}  # fmt: skip
