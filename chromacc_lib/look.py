"""Look closely at one window: what was measured, predicted and attributed there, and what would be predicted otherwise.

What is changed goes through the same scaling as the data: a track is scaled in the units of its file, a motif is written
into the sequence, and an input is hidden as a missing one is. All cell types are predicted at once, both strands, so
that an answer takes a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from torch import nn

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import smoothed_gradients
from chromacc_lib.batches import RegionData, without
from chromacc_lib.dataset import Arrays, arrays_of, open_dataset, read_normalization, window_table
from chromacc_lib.inference import evaluating, predict_batch
from chromacc_lib.jaspar import matrices_of
from chromacc_lib.model import MODALITIES
from chromacc_lib.normalization import KINDS
from chromacc_lib.scoring import ModelScorer, one_hot

__all__ = [
    "Change", "Match", "Predicted", "View", "WhatIf", "best_match", "break_motif", "insert_motif", "matrix_of",
    "place_of", "view_window",
]  # fmt: skip

BASES = "ACGT"
SHORTEST_BP = 4  # of bases that are typed in the place of a TF's name


# --- as it is --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """One window of L bp and B bins in one cell type."""

    title: str  # the cell type and the place, 0-based half-open
    profiles: pd.DataFrame  # a bin a row: start, end (bp from the window's start), measured, average, predicted (arcsinh fold)
    scores: dict[str, float]  # measured, average, predicted and, where it is known, noise-free truth; arcsinh fold, NaN = not known
    probability: float  # of being open, not recalibrated
    contribution: np.ndarray  # float32 (L,): of each base to the score, arcsinh fold (`smoothed_gradients`)
    tracks: pd.DataFrame  # a bin a row, a track a column: z of the bin means, as the model reads them; NaN = not measured


def view_window(
    model: nn.Module, data: RegionData, arrays: Arrays, window: int, cell_type: str, seed: int = 1
) -> View:
    """Return all that is known and predicted of one window in one cell type; data: `RegionData(arrays)`.

    The average leaves the cell type out where it was trained on. Raises ChromaccError for a window or a cell type that
    the dataset does not have.
    """
    names, place = arrays.cell_types["cell_type"].tolist(), place_of(arrays.windows, window, arrays.simulated)
    if cell_type not in names:
        raise ChromaccError(f"view_window: no cell type {cell_type!r} in this dataset; it has {', '.join(names)}.")
    cell, (at, cells) = names.index(cell_type), (np.array([window]), np.array([names.index(cell_type)]))
    with evaluating(model):
        output = predict_batch(model, data.batch(at, cells).to(next(model.parameters()).device))
    scorer = ModelScorer(model, data, at, cells[None])
    average, known = arrays.prior_profile[window, cell, :, 0], arrays.prior_observed[window, cell]
    edges = np.arange(len(average) + 1) * arrays.sequence.shape[1] // len(average)
    scores = {
        "measured": arrays.score[window, cell], "average": arrays.prior_score[window, cell] if known else np.nan,
        "predicted": output.score.item(),
    }  # fmt: skip
    if arrays.truth is not None:
        scores["noise-free truth"] = arrays.truth[window, cell]
    return View(
        f"{cell_type}, {place}",
        pd.DataFrame({"start": edges[:-1], "end": edges[1:], "measured": arrays.accessibility[window, cell],
                      "average": average if known else np.nan, "predicted": output.profile[0, 0].cpu().numpy()}),
        {name: float(value) for name, value in scores.items()}, output.logit.sigmoid().item(),
        smoothed_gradients(scorer, arrays.sequence[at], seed=seed).contribution[0], _tracks(arrays, window, cell),
    )  # fmt: skip


def place_of(windows: pd.DataFrame, window: int, simulated: bool) -> str:
    """Return a window's place as a title: chromosome:start-end, 0-based half-open, and whether the data are simulated.

    Raises ChromaccError for a window that is not there.
    """
    if not 0 <= window < len(windows):
        raise ChromaccError(f"window {window}: the dataset has windows 0 to {len(windows) - 1}.")
    row = windows.iloc[window]
    return f"{row['chrom']}:{row['start']:,}-{row['end']:,}" + (", simulated" if simulated else "")


def _tracks(arrays: Arrays, window: int, cell: int) -> pd.DataFrame:
    columns = {}
    for names, values, observed in ((arrays.histone_marks, arrays.histone, arrays.histone_observed),
                                    (arrays.tfs, arrays.tf, arrays.tf_observed)):  # fmt: skip
        for i, name in enumerate(names):
            columns[name] = np.where(observed[window, cell, i], values[window, cell, i, :, 0], np.nan)
    return pd.DataFrame(columns)


# --- as it is not ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """What is changed of a window's inputs, in all cell types; by default nothing."""

    signal: Mapping[str, float] = field(default_factory=dict)  # track: share of its signal that is left, 1 = as measured
    hidden: tuple[str, ...] = ()  # tracks or modalities that are taken as never measured
    sequence: np.ndarray | None = None  # uint8 (L,), 0..3 = ACGT, 4 = N, in the place of the window's own


class Predicted(NamedTuple):
    """Of one window in C cell types and B bins, the mean over both strands."""

    score: np.ndarray  # float32 (C,), arcsinh fold
    probability: np.ndarray  # float32 (C,), of being open, not recalibrated
    profile: np.ndarray  # float32 (C, B), arcsinh fold


class WhatIf:
    """Predict windows of a dataset with changed inputs; whoever asks twice for a window reads it once."""

    def __init__(self, model: nn.Module, dataset_dir: str) -> None:
        """model: one that was loaded for this dataset (`inference.load_model` with its arrays)."""
        self.model, self.dataset = model, open_dataset(dataset_dir)
        self.normalization = read_normalization(dataset_dir)
        self.windows, self.simulated = window_table(self.dataset), bool(self.dataset.attrs["simulated"])
        self.cell_types = self.dataset["cell_type"].values.tolist()
        self.tracks = self.dataset["track"].values.tolist()
        self._read: tuple[int, xr.Dataset] | None = None

    def window(self, window: int) -> xr.Dataset:
        """The window as it lies on disk, in memory, with a `window` dimension of 1."""
        if self._read is None or self._read[0] != window:
            place_of(self.windows, window, self.simulated)  # is it there?
            self._read = window, self.dataset.isel(window=slice(window, window + 1)).load()
        return self._read[1]

    def sequence(self, window: int) -> np.ndarray:
        """The window's bases, uint8 (L,), 0..3 = ACGT, 4 = N; a copy."""
        return self.window(window)["sequence"].values[0].copy()

    def measured(self, window: int, cell_type: str) -> pd.DataFrame:
        """A bin a row: start, end (bp from the window's start), measured (accessibility, arcsinh fold, NaN = not known)."""
        values = self.window(window)["accessibility"].sel(cell_type=cell_type).values[0]
        edges = np.arange(len(values) + 1) * int(self.dataset.attrs["window_bp"]) // len(values)
        return pd.DataFrame({"start": edges[:-1], "end": edges[1:], "measured": values})

    def title(self, window: int, cell_type: str) -> str:
        """Cell type and place, for a figure."""
        return f"{cell_type}, {place_of(self.windows, window, self.simulated)}"

    def predict(self, window: int, change: Change = Change()) -> Predicted:
        """Predict a window in every cell type of the dataset, with what `change` says.

        A share of a track's signal is taken of its bins' values in file units, before they are scaled; where it was not
        measured, there is nothing to change. Raises ChromaccError for a track or input that is not known, a share below
        0, or a sequence of another length.
        """
        self._require(change)
        arrays = arrays_of(self._changed(self.window(window), change), self.normalization)
        batch = RegionData(arrays).batch(np.array([0]), np.arange(len(self.cell_types)))
        for name in change.hidden:
            batch = without(batch, *self._input(name))
        with evaluating(self.model):
            output = predict_batch(self.model, batch.to(next(self.model.parameters()).device))
        return Predicted(*(value[0].cpu().numpy() for value in (output.score, output.logit.sigmoid(), output.profile)))

    def _input(self, name: str) -> tuple[str, int | None]:
        """How `batches.without` calls an input."""
        for kind, dim in KINDS.items():
            if name in (names := self.dataset[dim].values.tolist()):
                return kind, names.index(name)
        return name, None

    def _require(self, change: Change) -> None:
        length = int(self.dataset.attrs["window_bp"])
        known = {*self.tracks, *MODALITIES}
        wrong = [f"no track {name!r} (tracks: {', '.join(self.tracks)})" for name in change.signal if name not in self.tracks]
        wrong += [f"{name}: a share of {share:g} of its signal; needed: 0 or more"
                  for name, share in change.signal.items() if not share >= 0]  # fmt: skip
        wrong += [f"no input {name!r} to hide (inputs: {', '.join([*MODALITIES, *self.tracks])})"
                  for name in change.hidden if name not in known]  # fmt: skip
        if change.sequence is not None and (change.sequence.dtype != np.uint8 or change.sequence.shape != (length,)):
            wrong.append(f"a sequence {change.sequence.dtype} of shape {change.sequence.shape}; needed: uint8 ({length},)")
        if wrong:
            raise ChromaccError(f"WhatIf: {'; '.join(wrong)}.")

    def _changed(self, one: xr.Dataset, change: Change) -> xr.Dataset:
        """A window with other signals and another sequence, in file units; what is not changed is shared."""
        new = {}
        if change.sequence is not None:
            new["sequence"] = one["sequence"].copy(data=change.sequence[None])
        for kind, dim in KINDS.items():
            shares = [float(change.signal.get(name, 1.0)) for name in one[dim].values.tolist()]
            if any(share != 1 for share in shares):
                mean = xr.DataArray(np.array(shares, np.float32), dims=dim)
                by = xr.concat([mean, mean**2, mean], "statistic")  # mean, variance, max
                new[kind] = (one[kind] * by).transpose(*one[kind].dims).astype(np.float32)
        return one.assign(new)


# --- motifs ----------------------------------------------------------------------------------------------------


class Match(NamedTuple):
    """Where a motif lies best in a sequence."""

    start: int  # 0-based half-open, bp from the sequence's start
    end: int
    strand: str
    bits: float  # log2 odds of the match against random bases, summed over the motif


def matrix_of(motif: str) -> np.ndarray:
    """Probabilities (m, 4: ACGT) of a TF's first matrix in JASPAR, or of bases that are typed (4 bp or more).

    Raises ChromaccError for what is neither.
    """
    wanted = motif.strip().upper()
    found = matrices_of([wanted], 1, 0)
    if found:
        return found[0][2]
    if len(wanted) >= SHORTEST_BP and set(wanted) <= set(BASES):
        return np.eye(4)[[BASES.index(base) for base in wanted]]
    raise ChromaccError(f"motif {motif!r}: neither a TF of JASPAR's vertebrate matrices, such as CTCF, nor {SHORTEST_BP} bases "
                        "(ACGT) or more.")  # fmt: skip


def best_match(codes: np.ndarray, matrix: np.ndarray) -> Match:
    """Return the best match of a matrix (m, 4) in a sequence, uint8 (L,), on either strand; an N counts as any base.

    Raises ChromaccError where the motif is longer than the sequence.
    """
    _require_fits(codes, matrix)
    odds = _odds(matrix)
    x = one_hot(codes[None])[0].numpy()
    places = np.lib.stride_tricks.sliding_window_view(x, len(matrix), axis=0)  # (L - m + 1, 4, m)
    bits = np.stack([np.einsum("pbm,mb->p", places, each) for each in (odds, odds[::-1, ::-1])])
    strand, start = np.unravel_index(bits.argmax(), bits.shape)
    return Match(int(start), int(start) + len(matrix), "+-"[strand], float(bits[strand, start]))


def insert_motif(codes: np.ndarray, matrix: np.ndarray, centre: int, strand: str = "+") -> tuple[np.ndarray, Match]:
    """Write a motif's most frequent bases over a sequence, uint8 (L,): a copy, and where they stand.

    centre: bp from the sequence's start; near an end, the motif is moved inwards as far as it has to.
    """
    _require_fits(codes, matrix)
    if strand not in ("+", "-"):
        raise ChromaccError(f"insert_motif: strand {strand!r}; needed: + or -.")
    odds = _odds(matrix)
    bases = (odds if strand == "+" else odds[::-1, ::-1]).argmax(1).astype(np.uint8)
    start = int(np.clip(centre - len(bases) // 2, 0, len(codes) - len(bases)))
    new = codes.copy()
    new[start : start + len(bases)] = bases
    return new, Match(start, start + len(bases), strand, float(odds.max(1).sum()))


def break_motif(codes: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, Match]:
    """Replace the best match of a motif, base by base, by the base that fits it least: a copy, and where it was."""
    match = best_match(codes, matrix)
    odds = _odds(matrix)
    new = codes.copy()
    new[match.start : match.end] = (odds if match.strand == "+" else odds[::-1, ::-1]).argmin(1)
    return new, match


def _odds(matrix: np.ndarray) -> np.ndarray:
    """log2 odds against random bases (m, 4), with a pseudocount of 0.01."""
    return np.log2((matrix + 0.01) / 0.26)


def _require_fits(codes: np.ndarray, matrix: np.ndarray) -> None:
    if len(matrix) > len(codes):
        raise ChromaccError(f"a motif of {len(matrix)} bp does not fit into a sequence of {len(codes)} bp.")
