"""The files of a prediction, written chunk by chunk: a bigWig, a BED and a table of windows, for any genome
browser.

Windows come in the order of the FASTA's chromosomes. All coordinates are 0-based half-open, in bp.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyBigWig
from pyarrow import parquet

from chromacc_lib import ChromaccError
from chromacc_lib.bigwig import require_written
from chromacc_lib.signals import bin_edges

__all__ = ["BED_COLUMNS", "BIGWIG_UNIT", "NARROWPEAK_COLUMNS", "BigWigWriter", "PredictionWriters", "file_stem"]

BED_COLUMNS = (
    "chrom, start, end of the window; name = number, probability of being open, fold of the window with its interval; "
    "score = 1000 x that probability; strand (none); thickStart, thickEnd = the bin of highest predicted "
    "accessibility; itemRgb"
)
NARROWPEAK_COLUMNS = (
    "as BED, then signalValue = predicted fold over the genome-wide mean in the highest bin; pValue and qValue are not "
    "known (-1); peak = the middle of that bin, from the window's start"
)
BIGWIG_UNIT = (
    "fold over the genome-wide mean, by bin, at least 0; where windows overlap, the mean of their profiles "
    "on the arcsinh scale"
)
BED_COLOUR = "0,114,178"


def file_stem(cell_type: str, say: Callable[[str], None] = print) -> str:
    """Return a cell type's name as a safe name of files; say so when it had to change.

    Raises ChromaccError when nothing is left of it.
    """
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", cell_type).strip("._-")
    if not re.search("[A-Za-z0-9]", stem):
        raise ChromaccError(
            f"cell type {cell_type!r}: no letter or digit (A-Z, a-z, 0-9) that could name its files; "
            "rename it in the manifest"
        )
    if stem != cell_type:
        say(f"files of cell type {cell_type!r} are named {stem!r}: only letters, digits and . _ + - are safe")
    return stem


class PredictionWriters:
    """Append predictions to the bigWig, the BED, the narrowPeak and the table of windows. files: {"bigwig", "bed",
    "narrowpeak", "windows"}; told: lines for the BED's head.
    """

    def __init__(
        self, files: Mapping[str, Path], sizes: Mapping[str, int], threshold: float, told: Sequence[str] = ()
    ) -> None:
        self.files, self.sizes, self.threshold, self.told = files, sizes, threshold, told
        self.n_open, self.table = 0, None

    def __enter__(self) -> Self:
        self.bigwig = BigWigWriter(self.files["bigwig"], self.sizes)
        self.bed = open(self.files["bed"], "w", encoding="utf-8")
        self.narrowpeak = open(self.files["narrowpeak"], "w", encoding="utf-8")
        head = (f"windows with a predicted probability of being open of {self.threshold:.3f} or more", BED_COLUMNS)
        self.bed.writelines(f"# {line}\n" for line in (*head, *self.told))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bed.close()
        self.narrowpeak.close()
        if self.table is not None:
            self.table.close()
        self.bigwig.close(whole=kind is None)

    def add(self, windows: pd.DataFrame, profile: np.ndarray) -> None:
        """Append one chunk, in the FASTA's order.

        windows: chrom, start, end, predicted_score, predicted_probability, calibrated_probability, score_low and
        score_high (NaN = not known), and whatever else the table shall hold. profile: arcsinh fold by bin,
        shape=(W, B).
        """
        table = pa.Table.from_pandas(windows, preserve_index=False)
        if self.table is None:
            self.table = parquet.ParquetWriter(self.files["windows"], table.schema)
        self.table.write_table(table)
        self.bigwig.add(windows, profile)
        self._add_bed(windows, profile)

    def _add_bed(self, windows: pd.DataFrame, profile: np.ndarray) -> None:
        probability = windows["predicted_probability"].to_numpy()
        rows = np.flatnonzero(probability >= self.threshold)
        some = windows.iloc[rows]
        if not len(some):
            return
        edges = bin_edges(int(some["end"].iloc[0] - some["start"].iloc[0]), profile.shape[1])
        top, start = profile[rows].argmax(axis=1), some["start"].to_numpy()
        calibrated = some["calibrated_probability"].to_numpy()
        shown = np.where(np.isnan(calibrated), probability[rows], calibrated)
        score = np.rint(1000 * shown).astype(int)
        names = self._names(some, shown)
        bed = pd.DataFrame(
            {
                "chrom": some["chrom"],
                "start": start,
                "end": some["end"],
                "name": names,
                "score": score,
                "strand": ".",
                "thick_start": start + edges[top],
                "thick_end": start + edges[top + 1],
                "colour": BED_COLOUR,
            }
        )
        bed.to_csv(self.bed, sep="\t", header=False, index=False)
        highest = np.sinh(np.maximum(profile[rows, top].astype(np.float64), 0))
        peaks = bed.iloc[:, :6].assign(signal=[f"{fold:.4f}" for fold in highest], p=-1, q=-1,
                                       peak=(edges[top] + edges[top + 1]) // 2)  # fmt: skip
        peaks.to_csv(self.narrowpeak, sep="\t", header=False, index=False)
        self.n_open += len(rows)

    def _names(self, some: pd.DataFrame, probability: np.ndarray) -> list[str]:
        """Such as open_7;p=0.93;fold=2.10(1.40..3.00), what a browser shows; no ( ) where no interval is known."""
        fold, low, high = (np.sinh(np.maximum(some[name].to_numpy(np.float64), 0))
                           for name in ("predicted_score", "score_low", "score_high"))  # fmt: skip
        ends = ["" if np.isnan(a) else f"({a:.2f}..{b:.2f})" for a, b in zip(low, high, strict=True)]
        return [f"open_{self.n_open + i + 1};p={p:.3f};fold={f:.2f}{end}"
                for i, (p, f, end) in enumerate(zip(probability, fold, ends, strict=True))]  # fmt: skip


@dataclass
class BigWigWriter:
    """Write bins of windows that come in the FASTA's order; where they overlap, the mean of what was
    predicted.

    Only the bins that a later window may still overlap are held.
    """

    path: Path
    sizes: Mapping[str, int]
    chrom: str = ""
    held: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))  # start, end, arcsinh fold

    def __post_init__(self) -> None:
        self.handle = pyBigWig.open(str(self.path), "w")
        self.handle.addHeader(list(self.sizes.items()))

    def add(self, windows: pd.DataFrame, profile: np.ndarray) -> None:
        """Append windows (chrom, start, end) with their profile, arcsinh fold, shape=(W, B)."""
        chroms, starts = windows["chrom"].to_numpy(dtype=str), windows["start"].to_numpy(np.int64)
        for chrom in dict.fromkeys(chroms.tolist()):
            rows = np.flatnonzero(chroms == chrom)
            if chrom != self.chrom:
                self._flush(None)
                self.chrom = chrom
            self._flush(int(starts[rows[0]]))
            edges = bin_edges(int(windows["end"].iloc[rows[0]] - starts[rows[0]]), profile.shape[1])
            at = starts[rows][:, None] + edges  # (W, B + 1)
            bins = np.stack([at[:, :-1], at[:, 1:], profile[rows]], axis=2)  # float64: positions stay exact
            self.held = np.concatenate([self.held, bins.reshape(-1, 3)])

    def _flush(self, before: int | None) -> None:
        """Write all that lies before a position (None: all), and keep the rest."""
        done = self.held if before is None else self.held[self.held[:, 0] < before]
        if before is None:
            self.held = self.held[:0]
        else:
            self.held = self.held[self.held[:, 1] > before]
            self.held[:, 0] = np.maximum(self.held[:, 0], before)
            done = np.column_stack([done[:, 0], np.minimum(done[:, 1], before), done[:, 2]])
        if len(done):
            starts, ends, values = _mean_of_overlaps(done)
            fold = np.maximum(np.sinh(values), 0)
            self.handle.addEntries(
                [self.chrom] * len(starts), starts.tolist(), ends=ends.tolist(), values=fold.tolist()
            )

    def close(self, whole: bool = True) -> None:
        """Write what is held, unless something failed, and close the file."""
        if whole:
            self._flush(None)
        self.handle.close()
        if whole:
            require_written(self.path)


def _mean_of_overlaps(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut intervals (start, end, value), shape=(n, 3), where they begin and end; return disjoint ones,
    with mean values.
    """
    edges = np.unique(bins[:, :2])
    first, last = np.searchsorted(edges, bins[:, 0]), np.searchsorted(edges, bins[:, 1])
    n_pieces = last - first
    row = np.repeat(np.arange(len(bins)), n_pieces)
    piece = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    count = np.bincount(piece, minlength=len(edges) - 1)
    total = np.bincount(piece, weights=bins[row, 2], minlength=len(edges) - 1)
    covered = np.flatnonzero(count)
    starts, ends = edges[:-1][covered].astype(np.int64), edges[1:][covered].astype(np.int64)
    return starts, ends, total[covered] / count[covered]
