"""Normalisation: tracks whose files differ in depth, unit and background, put on one scale for the model.

A bin's statistics go through: fold over the genome-wide mean of the file; with "quantile" and "s3norm", a
rising map of the fold onto what training cell types have on average; arcsinh, or log1p; and a z-score over
training cell types x training chromosomes. What is taken of a file comes from this file alone: its genome-wide mean, over
all its chromosomes, and the rest under the reference windows (those of the training chromosomes). So an unseen cell type
is scaled from its own inputs. normalization.json holds every constant.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy.optimize import brentq

from chromacc_lib import ChromaccError
from chromacc_lib.problems import FileProblem, Problem, require_no_problems
from chromacc_lib.signals import STATISTICS

__all__ = [
    "BLOCK_WINDOWS", "KINDS", "LEVELS", "METHODS", "FileConstants", "TrackConstants", "TrackReference", "file_constants",
    "fit_file", "fit_normalization", "fit_track", "normalise_metadata", "normalise_tracks", "reads_windows", "require_method", "scale_file",
    "solve_s3norm", "track_constants", "track_problems", "try_track",
]

METHODS = {
    "arcsinh": "arcsinh(x), with x the fold over the genome-wide mean of the file",
    "log1p": "log(1 + |x|) with the sign of x, the fold over the genome-wide mean of the file",
    "quantile": "arcsinh(q(x)), with x the fold and q piecewise linear from the file's own quantiles under the "
                "reference windows to their mean over training cell types; the file's lowest value, and below, "
                "gets the lowest; above, x by the ratio of the highest",
    "s3norm": "arcsinh(alpha * x**beta), with x the fold; alpha and beta make the means under peak and under "
              "background reference windows those of the training cell types' average; alpha = beta = 1 for a "
              "track that has no such contrast in some training cell type",
}
# 65 levels, denser near the top, where few bins hold most of the signal. The highest bins of all are too few
# to tell their quantiles from noise
LEVELS = np.round(np.concatenate([np.linspace(0, 0.9, 37), 1 - np.geomspace(0.1, 0.001, 29)[1:]]), 6)
BLOCK_WINDOWS = 512   # windows that a streaming pass holds; sums run block by block, whoever wrote the blocks
HELD_BYTES = 256 << 20  # bin means that quantile and s3norm hold at once, of one track at least
MIN_CONTRAST = 1.25  # of a track's means under peak and background windows, either way, to tell beta by
MAX_BETA = 8.0  # beta is sought from 1/8 to 8: beyond, a file is another kind of signal, not another depth
_REMEDY = ("Leave the file out (its track is missing then, not zero), or curate with a normalization that needs only "
           'the genome-wide mean: "arcsinh" or "log1p"')
KINDS = {"histone": "histone_mark", "tf": "tf_name"}  # variables of the dataset, with their dimension
_TARGETS = ("accessibility, score: arcsinh of the mean over replicates of x, the mean of the bin or of the window as "
            "fold over the genome-wide mean of the replicate's file, in the manifest's order; score_replicate and "
            "truth: arcsinh(x) of the one file")


class FileConstants(NamedTuple):
    """What one file has of its own; None = the method does not need it.

    quantiles: of its bins' fold under the reference windows, at `LEVELS`. peak_mean, background_mean: mean
    fold under peak and background reference windows. alpha, beta: of alpha * fold**beta.
    """

    genome_mean: float
    quantiles: tuple[float, ...] | None = None
    peak_mean: float | None = None
    background_mean: float | None = None
    alpha: float | None = None
    beta: float | None = None


class TrackReference(NamedTuple):
    """What the training cell types' files of a track have on average; as in `FileConstants`.

    All None under "s3norm": the track has too little contrast to tell alpha and beta by; both are 1.
    """

    quantiles: tuple[float, ...] | None = None
    peak_mean: float | None = None
    background_mean: float | None = None


class TrackConstants(NamedTuple):
    """What M tracks are scaled by. mean, sd: of the scaled statistics, float64, shape=(M, 3)."""

    mean: np.ndarray
    sd: np.ndarray
    method: str
    references: tuple[TrackReference, ...]


Files = Sequence[Sequence[FileConstants | None]]  # by cell type, by track; None = missing


def require_method(method: str) -> None:
    """Raise ChromaccError unless `method` is one of `METHODS`."""
    if method not in METHODS:
        raise ChromaccError(f"normalization: got {method!r}, needed one of {', '.join(METHODS)}")


def reads_windows(method: str) -> bool:
    """Say whether a file's constants need its signal under the reference windows, beside its header."""
    return method in ("quantile", "s3norm")


# --- constants of one file ----------------------------------------------------------------------------------
def fit_file(bin_means: np.ndarray, genome_mean: float, is_peak: np.ndarray, method: str,
             reference: TrackReference, name: str) -> FileConstants:
    """Return a file's own constants, from its own signal and the training cell types' `reference`.

    bin_means: shape=(W, B), file units, under the W reference windows, NaN = missing; not looked at unless
    `reads_windows(method)`. is_peak: bool, shape=(W,), else background. name: of the file, for errors. Raises
    FileProblem when the file has no signal there, or no alpha and beta would do.
    """
    own = _measure(bin_means, genome_mean, is_peak, method, name)
    return _meet(own, bin_means, is_peak, method, reference, name)


def fit_track(bin_means: np.ndarray, genome_mean: np.ndarray, is_peak: np.ndarray, training: np.ndarray,
              method: str, names: Sequence[str]) -> tuple[list[FileConstants | None], TrackReference]:
    """Return the own constants of C files of one track, and the average of the training ones; as `fit_file`.

    bin_means: shape=(W, C, B). genome_mean: shape=(C,), NaN = missing. training: bool, shape=(C,). Raises
    ChromaccError that lists every file for which `fit_file` would raise.
    """
    files, reference, problems = try_track(bin_means, genome_mean, is_peak, training, method, names)
    require_no_problems(problems)
    return files, reference


def track_problems(bin_means: np.ndarray, genome_mean: np.ndarray, is_peak: np.ndarray, training: np.ndarray,
                   method: str, names: Sequence[str]) -> list[Problem]:
    """Return what keeps files of one track from being normalised; arguments as in `fit_track`."""
    return try_track(bin_means, genome_mean, is_peak, training, method, names)[2]


def try_track(bin_means: np.ndarray, genome_mean: np.ndarray, is_peak: np.ndarray, training: np.ndarray, method: str,
              names: Sequence[str]) -> tuple[list[FileConstants | None], TrackReference, list[Problem]]:
    """Do as `fit_track`, as if the files that are refused were not there; return them as problems."""
    own, files, problems = {}, [None] * len(names), []
    for c in np.flatnonzero(np.isfinite(genome_mean)):
        try:
            own[c] = _measure(bin_means[:, c], float(genome_mean[c]), is_peak, method, names[c])
        except FileProblem as error:
            problems.append(error.problem)
    reference = _average([one for c, one in own.items() if training[c]], method)
    for c, one in own.items():
        try:
            files[c] = _meet(one, bin_means[:, c], is_peak, method, reference, names[c])
        except FileProblem as error:
            problems.append(error.problem)
    return files, reference, problems


def _average(files: Sequence[FileConstants], method: str) -> TrackReference:
    """Return the average of training files; nothing where s3norm has no contrast to go by."""
    if method == "s3norm" and not _has_contrast(files):
        return TrackReference()
    average = {}
    for field in TrackReference._fields:
        values = [getattr(one, field) for one in files]
        if files and values[0] is not None:
            average[field] = np.mean(values, axis=0).tolist()
    return TrackReference(**_with_tuples(average))


def _measure(bin_means: np.ndarray, genome_mean: float, is_peak: np.ndarray, method: str,
             name: str) -> FileConstants:
    """Return what a file has of its own, without regard to any other."""
    if not reads_windows(method):
        return FileConstants(genome_mean)
    if method == "quantile":
        fold = _known_fold(bin_means, genome_mean)
        quantiles = np.quantile(fold, LEVELS) if len(fold) else np.zeros(len(LEVELS))
        _require_signal(quantiles[-1], bin_means, f"highest quantile ({LEVELS[-1]:g})", method, name)
        return FileConstants(genome_mean, quantiles=tuple(quantiles.tolist()))
    means = {}
    for kind, rows in (("peak", is_peak), ("background", ~is_peak)):
        fold = _known_fold(bin_means[rows], genome_mean)
        means[f"{kind}_mean"] = float(fold.mean()) if len(fold) else 0.0
        _require_signal(means[f"{kind}_mean"], bin_means[rows], f"mean under {kind} windows", method, name)
    return FileConstants(genome_mean, **means)


def _has_contrast(files: Sequence[FileConstants]) -> bool:
    """Say whether all files have more under peak windows than under background, or all less, by `MIN_CONTRAST`.

    A mark that has nothing to do with open chromatin has not: a power of it cannot be told from noise.
    """
    logs = np.log([one.peak_mean / one.background_mean for one in files])
    return bool(len(logs)) and bool(np.abs(logs).min() >= np.log(MIN_CONTRAST)) and len(set(np.sign(logs))) == 1


def _known_fold(bin_means: np.ndarray, genome_mean: float) -> np.ndarray:
    return bin_means[np.isfinite(bin_means)].astype(np.float64) / genome_mean


def _require_signal(value: float, bin_means: np.ndarray, what: str, method: str, name: str) -> None:
    if not value > 0:
        n_known = int(np.isfinite(bin_means).any(axis=1).sum())
        raise FileProblem(Problem(
            name, 0, f"too sparse for {method}",
            f"a {what} of {value:g}, with data in {n_known:,} of {len(bin_means):,} such windows of the training "
            "chromosomes", "above 0", _REMEDY))


def _meet(own: FileConstants, bin_means: np.ndarray, is_peak: np.ndarray, method: str,
          reference: TrackReference, name: str) -> FileConstants:
    """Add alpha and beta, which meet the reference, where the method has them."""
    if method != "s3norm":
        return own
    if reference.peak_mean is None:
        return own._replace(alpha=1.0, beta=1.0)
    peak, background = (_known_fold(bin_means[rows], own.genome_mean) for rows in (is_peak, ~is_peak))
    alpha, beta = solve_s3norm(peak, background, reference, name)
    return own._replace(alpha=alpha, beta=beta)


def solve_s3norm(peak: np.ndarray, background: np.ndarray, reference: TrackReference, name: str
                 ) -> tuple[float, float]:
    """Return alpha and beta, such that alpha * x**beta has the reference's means of peak and of background.

    After Xiang et al. (2020), S3norm, Nucleic Acids Research 48:e43; here peak and background are the
    dataset's windows rather than peaks called from the track itself. peak, background: fold, any length.
    Of several solutions, the one that the search outwards from beta = 1 finds first. Raises FileProblem when
    there is none with beta from 1/8 to 8.
    """
    def excess(beta: float) -> float:
        """How far the contrast at a power is from the wanted one, in log units."""
        means = [_power(fold, beta).mean() for fold in (peak, background)]
        return float(np.log(means[0] / means[1])) - wanted if min(means) > 0 else np.nan

    wanted = float(np.log(reference.peak_mean / reference.background_mean))
    at_one = excess(1.0)
    for bound in (MAX_BETA ** (step / 9 * sign) for step in range(1, 10) for sign in (1, -1)):
        if at_one * excess(bound) <= 0:
            beta = float(brentq(excess, *sorted((1.0, bound)), xtol=1e-13, rtol=1e-14))
            alpha = float(reference.peak_mean / _power(peak, beta).mean())
            if np.isclose(alpha * _power(background, beta).mean(), reference.background_mean, rtol=1e-6):
                return alpha, beta
    raise FileProblem(Problem(
        name, 0, f"s3norm finds no beta from {1 / MAX_BETA:g} to {MAX_BETA:g}",
        f"a mean fold of {peak.mean():.3g} under peak and {background.mean():.3g} under background windows",
        f"a power of it with {reference.peak_mean:.3g} and {reference.background_mean:.3g}, the average of the "
        "training cell types", f"Look at the file. {_REMEDY}"))


def _power(fold: np.ndarray, beta: float) -> np.ndarray:
    return np.sign(fold) * np.abs(fold) ** beta


# --- from file units to the model's -------------------------------------------------------------------------
def scale_file(raw: np.ndarray, own: FileConstants, reference: TrackReference, method: str) -> np.ndarray:
    """Scale statistics of one file, but for the z-score: raw, shape=(W, B, 3), file units -> float32, NaN kept.

    Mean and max go through the map f of `METHODS` as they are. Variance enters as its root: the sd as
    f's inner map carries it, map(mean + sd) - map(mean), which is the scaled sd where the map is linear.
    """
    values = raw.astype(np.float32, copy=True)
    values[..., 1] = np.sqrt(values[..., 1])
    values /= np.float32(own.genome_mean)
    if reads_windows(method):
        fold = values.astype(np.float64)
        fold[..., 1] += fold[..., 0]
        fold = _onto_quantiles(fold, own, reference) if method == "quantile" else (
            own.alpha * _power(fold, own.beta))
        fold[..., 1] -= fold[..., 0]
        values = fold.astype(np.float32)
    if method == "log1p":
        return np.copysign(np.log1p(np.abs(values)), values)
    return np.arcsinh(values, out=values)


def _onto_quantiles(fold: np.ndarray, own: FileConstants, reference: TrackReference) -> np.ndarray:
    """Map own quantiles onto the reference's; a value that fills several levels gets their mean, by width.

    But for the file's lowest value, which gets the reference's lowest: no signal stays no signal. Of sparse files,
    zero fills more levels in one than in another, and their means would tell the files apart.
    """
    width = np.gradient(LEVELS)
    values, level = np.unique(own.quantiles, return_inverse=True)
    onto = np.bincount(level, width * np.array(reference.quantiles)) / np.bincount(level, width)
    onto[0] = reference.quantiles[0]
    return np.where(fold > values[-1], fold * (onto[-1] / values[-1]), np.interp(fold, values, onto))


def normalise_tracks(raw: np.ndarray, files: Files, constants: TrackConstants
                     ) -> tuple[np.ndarray, np.ndarray]:
    """Scale raw statistics for the model; the same code serves training data and an unseen cell type.

    raw: shape=(W, C, M, B, 3), file units, NaN = missing. files: own constants, of C cell types x M tracks,
    None = missing. constants: of the same M tracks. Returns values, float32, same shape, 0 where missing; and
    observed, bool, shape=(W, C, M).
    """
    values = np.zeros(raw.shape, dtype=np.float32)
    observed = np.zeros(raw.shape[:3], dtype=bool)
    for c, m in np.ndindex(*raw.shape[1:3]):  # file by file, to bound memory
        own = files[c][m]
        if own is not None:
            one = scale_file(raw[:, c, m], own, constants.references[m], constants.method)  # (W, B, 3)
            one = (one - constants.mean[m].astype(np.float32)) / constants.sd[m].astype(np.float32)
            observed[:, c, m] = np.isfinite(one).all(axis=(1, 2))
            values[:, c, m] = np.where(observed[:, c, m, None, None], one, 0.0)
    return values, observed


def normalise_metadata(raw: np.ndarray, normalization: Mapping, features: Sequence[str]
                       ) -> tuple[np.ndarray, np.ndarray]:
    """Scale metadata: raw, shape=(C, E), log2(TPM + 1), NaN = missing.

    Returns z over training cell types, float32, same shape, 0 where missing; and observed, bool, shape=(C,).
    """
    constants = [normalization["metadata"][name] for name in features]
    mean = np.array([c["mean"] for c in constants], dtype=np.float64)
    sd = np.array([c["sd"] for c in constants], dtype=np.float64)
    z = (raw.astype(np.float64) - mean) / sd
    known = np.isfinite(z)
    return np.where(known, z, 0.0).astype(np.float32), known.any(axis=1)


# --- normalization.json -------------------------------------------------------------------------------------
def fit_normalization(dataset: xr.Dataset, method: str = "arcsinh",
                      paths: Mapping[tuple[str, str], str] | None = None) -> dict:
    """Fit all constants of a dataset; return normalization.json's content.

    Under "tracks" and "metadata": fitted on training cell types x training chromosomes. Under "own": of each
    cell type's file by itself. Under "accessibility" and "truth": the genome-wide mean, in file units, of each file
    that the targets are made from, by cell type; accessibility has a list, one entry a replicate.

    paths: file by (cell type, track), named in errors. The dataset is streamed, in blocks of `BLOCK_WINDOWS`;
    "quantile" and "s3norm" hold the bin means of as many tracks as fit into `HELD_BYTES` besides, one at least (4 bytes a
    bin, for all cell types under the reference windows). Raises ChromaccError that lists every file which cannot be normalised.
    """
    require_method(method)
    cells, training = dataset["cell_type"].values.tolist(), dataset["cell_type_split"].values == "train"
    reference_rows = np.flatnonzero(dataset["window_split"].values == "train")
    fitted = _fit_tracks(dataset, method, training, paths or {})
    moments = _fit_moments(dataset, method, training, fitted)
    tracks, own = {}, {cell: {} for cell in cells}
    for name, (kind, files, reference) in fitted.items():
        mean, sd = moments[name].mean_and_sd()
        tracks[name] = {"kind": kind, "mean": mean.tolist(), "sd": np.where(sd > 0, sd, 1.0).tolist(),
                        "reference": _without_none(reference)}
        if method == "s3norm" and reference.peak_mean is None:
            tracks[name]["note"] = (
                "scaled by depth alone (alpha = beta = 1): in some training cell type, the means under peak and "
                f"background windows differ by less than {MIN_CONTRAST:g} times, or the other way than in others")
        for cell, file in zip(cells, files):
            own[cell] |= {} if file is None else {name: _without_none(file)}
    return {
        "normalization": method, "transform": f"z of {METHODS[method]}; variance enters as its root; "
                                              "metadata: z of log2(TPM + 1)",
        "statistics": list(STATISTICS),
        "window_bp": dataset.attrs["window_bp"], "n_bins": dataset.attrs["n_bins"],
        "fitted_on": {"cell_types": dataset["cell_type"].values[training].tolist(),
                      "chromosomes": list(dict.fromkeys(dataset["chrom"].values[reference_rows].tolist()))},
        "quantile_levels": LEVELS.tolist() if method == "quantile" else [],
        "tracks": tracks, "metadata": _fit_metadata(dataset, training), "own": own,
        "accessibility_transform": _TARGETS, **_target_constants(dataset),
    }


def _target_constants(dataset: xr.Dataset) -> dict[str, dict]:
    """Return {"accessibility": {cell type: [genome-wide mean of each file]}, "truth": {cell type: that of its own}}."""
    cells, means = dataset["cell_type"].values.tolist(), dataset["accessibility_genome_mean"].values
    truth = dataset["truth_genome_mean"].values.tolist() if "truth_genome_mean" in dataset else []
    return {"accessibility": {cell: here[np.isfinite(here)].tolist() for cell, here in zip(cells, means)},
            "truth": {cell: mean for cell, mean in zip(cells, truth) if np.isfinite(mean)}}


def _reference_blocks(dataset: xr.Dataset) -> Iterator[tuple[xr.Dataset, np.ndarray]]:
    """Yield the blocks of windows that hold training chromosomes' windows, and which of theirs these are."""
    is_reference = dataset["window_split"].values == "train"
    for first in range(0, len(is_reference), BLOCK_WINDOWS):
        rows = np.flatnonzero(is_reference[first:first + BLOCK_WINDOWS])
        if len(rows):
            yield dataset.isel(window=slice(first, first + BLOCK_WINDOWS)), rows


class _Fitted(NamedTuple):
    """One track: its kind, the files' own constants (C of them, None = missing), and their training average."""

    kind: str
    files: list[FileConstants | None]
    reference: TrackReference


def _fit_tracks(dataset: xr.Dataset, method: str, training: np.ndarray, paths: Mapping[tuple[str, str], str]
                ) -> dict[str, _Fitted]:
    """Fit each track's files, as many tracks at a time as `HELD_BYTES` allows for their bin means."""
    cells, is_reference = dataset["cell_type"].values.tolist(), dataset["window_split"].values == "train"
    is_peak = dataset["kind"].values[is_reference] == "peak"
    tracks = [(kind, i, name) for kind, dim in KINDS.items() for i, name in enumerate(dataset[dim].values.tolist())]
    shape = (len(is_peak) if reads_windows(method) else 0, len(cells), dataset.sizes["bin"])
    at_once = max(1, HELD_BYTES // max(4 * int(np.prod(shape)), 1))
    fitted, problems = {}, []
    for first in range(0, len(tracks), at_once):
        here = tracks[first:first + at_once]
        means = {name: np.empty(shape, dtype=np.float32) for _, _, name in here}
        if reads_windows(method):
            _read_means(dataset, here, means)
        for kind, _, name in here:
            places = [f"{cell}, {name}" + (f" ({paths[cell, name]})" if (cell, name) in paths else "")
                      for cell in cells]
            scales = dataset["genome_mean"].sel(track=name).values
            *fit, found = try_track(means[name], scales, is_peak, training, method, places)
            fitted[name] = _Fitted(kind, *fit)
            problems += found
    require_no_problems(problems)
    return fitted


def _read_means(dataset: xr.Dataset, tracks: Sequence[tuple[str, int, str]], means: Mapping[str, np.ndarray]) -> None:
    """Fill `means`, float32, shape=(W, C, B), of some tracks, in one pass over the reference windows."""
    at = 0
    for block, rows in _reference_blocks(dataset):
        raw = {kind: block[kind].values for kind in {kind for kind, _, _ in tracks}}
        for kind, i, name in tracks:
            means[name][at:at + len(rows)] = raw[kind][rows, :, i, :, 0]
        at += len(rows)


def _fit_moments(dataset: xr.Dataset, method: str, training: np.ndarray, fitted: Mapping[str, _Fitted]
                 ) -> dict[str, "_Moments"]:
    """Return the moments of the scaled statistics of the training cell types' files, in one pass, by track."""
    moments = {name: _Moments() for name in fitted}
    for block, rows in _reference_blocks(dataset):
        for kind, dim in KINDS.items():
            raw = block[kind].values[rows]  # (W, C, M, B, 3)
            for i, name in enumerate(dataset[dim].values.tolist()):
                _, files, reference = fitted[name]
                for c in np.flatnonzero(training):
                    if files[c] is not None:
                        moments[name].add(scale_file(raw[:, c, i], files[c], reference, method))
    return moments


class _Moments:
    """Mean and sd of the three statistics, added block by block: float64 sums about the first known value."""

    def __init__(self) -> None:
        self.origin: np.ndarray | None = None
        self.count, self.total, self.square = 0, np.zeros(len(STATISTICS)), np.zeros(len(STATISTICS))

    def add(self, scaled: np.ndarray) -> None:
        """Add values, shape=(W, B, 3); bins that are NaN are left out."""
        values = scaled.reshape(-1, len(STATISTICS)).astype(np.float64).T
        values = values[:, ~np.isnan(values).any(axis=0)]
        if not values.shape[1]:
            return
        if self.origin is None:
            self.origin = values[:, :1].copy()
        distance = np.ascontiguousarray(values - self.origin)
        self.count += values.shape[1]
        self.total += distance.sum(axis=1)
        self.square += (distance ** 2).sum(axis=1)

    def mean_and_sd(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and population sd, float64, shape=(3,)."""
        shift = self.total / self.count
        return self.origin[:, 0] + shift, np.sqrt(np.maximum(self.square / self.count - shift ** 2, 0))


def _fit_metadata(dataset: xr.Dataset, training: np.ndarray) -> dict[str, dict]:
    metadata = {}
    for name, values in zip(dataset["feature"].values.tolist(), dataset["metadata"].values[training].T):
        known = values[np.isfinite(values)].astype(np.float64)
        metadata[name] = {"mean": float(known.mean()), "sd": float(known.std()) or 1.0}
    return metadata


def _without_none(record: NamedTuple) -> dict:
    return {name: value for name, value in record._asdict().items() if value is not None}


def _with_tuples(content: Mapping) -> dict:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def track_constants(normalization: Mapping, names: Sequence[str]) -> TrackConstants:
    """Take the constants of `names`, in that order, from normalization.json's content.

    Raises ChromaccError for a track that the normalisation does not know.
    """
    known = normalization["tracks"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ChromaccError(f"normalisation has no constants for {', '.join(unknown)}; it was fitted for "
                            f"{', '.join(known) or 'no track'}; leave these tracks out")
    shape = (len(names), len(STATISTICS))
    return TrackConstants(np.array([known[name]["mean"] for name in names], dtype=np.float64).reshape(shape),
                          np.array([known[name]["sd"] for name in names], dtype=np.float64).reshape(shape),
                          normalization["normalization"],
                          tuple(TrackReference(**_with_tuples(known[name]["reference"])) for name in names))


def file_constants(normalization: Mapping, cell_types: Sequence[str], tracks: Sequence[str]) -> Files:
    """Take each file's own constants from normalization.json's content; None = missing."""
    own = [[normalization["own"][cell].get(track) for track in tracks] for cell in cell_types]
    return [[None if file is None else FileConstants(**_with_tuples(file)) for file in files] for files in own]
