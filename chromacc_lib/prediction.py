"""Prediction: a model folder, a manifest of whatever tracks a new cell type has, and regions give a track of
it.

Signals are read, binned and scaled by the code that curated the training data, so that a cell type predicted
from its manifest alone gets what the evaluation got. Windows stream in chunks: memory does not grow with the
regions. All coordinates are 0-based half-open, in bp.
"""

import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from chromacc_lib import ChromaccError, __version__, project_path
from chromacc_lib.cell_inputs import EXPRESSION, CellTypeInputs, read_inputs
from chromacc_lib.hub import ModelFolder, TrainingReference, open_model_folder
from chromacc_lib.inference import filled, predict_batch
from chromacc_lib.manifest import genome_sizes, open_genome, read_intervals
from chromacc_lib.model import Batch
from chromacc_lib.normalization import normalise_metadata, normalise_tracks, track_constants
from chromacc_lib.problems import require_no_problems
from chromacc_lib.progress import progress
from chromacc_lib.quality import FAR_SD, Quality, expression_distance
from chromacc_lib.signals import binned_signal
from chromacc_lib.training import choose_device
from chromacc_lib.windows import N_CODE, Count, Selection, sequence_codes
from chromacc_lib.writers import BED_COLUMNS, BIGWIG_UNIT, PredictionWriters, file_stem

__all__ = ["LOCUS_PRIOR", "Prediction", "Predictions", "predict_manifest", "predict_windows", "prior_windows",
           "region_windows"]  # fmt: skip

LOCUS_PRIOR = "locus prior"  # what can be hidden besides tracks and expression
MANY_N = "at most 5% of the bases may be N"
MAX_N_FRACTION = 0.05  # as in curation: the model never saw a window with more N
CHUNK_WINDOWS = 8192  # read and held at once: some 30 MB of signal for ten tracks of 15 bins
BATCH_WINDOWS = {"cpu": 16, "cuda": 256}  # on CPUs what the motif scan makes of a batch must fit the cache


# --- results ------------------------------------------------------------------------------------------------
class Predictions(NamedTuple):
    """W windows, H sets of hidden inputs (one, empty, unless asked for otherwise), B bins.

    windows: chrom, start, end, average_score (NaN without a locus prior). score (W, H) and profile (W, H, B):
    float32, arcsinh fold over the genome-wide mean; probability (W, H): of being open.
    """

    windows: pd.DataFrame
    score: np.ndarray
    probability: np.ndarray
    profile: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What `predict_manifest` wrote, summary.json's content, and what it was predicted by and from."""

    bigwig: Path
    bed: Path
    windows: Path
    summary: dict
    folder: ModelFolder
    inputs: CellTypeInputs


# --- where to predict ---------------------------------------------------------------------------------------
def prior_windows(folder: ModelFolder, genome_fasta: str | Path) -> Selection:
    """Return the windows of the locus prior that lie on the FASTA's chromosomes, in its order."""
    windows = folder.reference.windows[["chrom", "start", "end"]]
    return _tidy(windows, genome_sizes(genome_fasta), "windows of the locus prior", [])


def region_windows(
    regions: str | Path, genome_fasta: str | Path, window_bp: int, say: Callable[[str], None] = print
) -> Selection:
    """Turn the intervals of a BED file into windows of the model's width.

    An interval up to a window wide gets one window, centred on its midpoint. A wider one is tiled side by
    side from its start; the last tile is drawn back to end with it. Windows come in the FASTA's order, each
    once. Raises ChromaccError that lists every fault of the file, or when no window is left.
    """
    path, sizes = project_path(regions), genome_sizes(genome_fasta)
    table, problems = read_intervals(path, sizes)
    for problem in problems:
        if not problem.fatal:
            say(str(problem))
    require_no_problems(problems)
    known = table[table["chrom"].isin(list(sizes))]
    counts = [Count("regions", len(known), len(table), "their chromosome must be in the FASTA")]
    start, end = known["start"].to_numpy(np.int64), known["end"].to_numpy(np.int64)
    n_tiles = np.maximum(1, -(-(end - start) // window_bp))
    row = np.repeat(np.arange(len(known)), n_tiles)
    tile = np.arange(len(row)) - np.repeat(np.cumsum(n_tiles) - n_tiles, n_tiles)
    centred = (start + end) // 2 - window_bp // 2
    tiled = np.minimum(start[row] + tile * window_bp, end[row] - window_bp)
    first = np.where(n_tiles[row] == 1, centred[row], tiled)
    chroms = known["chrom"].to_numpy(dtype=str)[row]
    return _tidy(
        pd.DataFrame({"chrom": chroms, "start": first, "end": first + window_bp}), sizes, "windows", counts
    )


def _tidy(windows: pd.DataFrame, sizes: Mapping[str, int], what: str, counts: list[Count]) -> Selection:
    """Keep windows within their chromosome, each once, in the FASTA's order; raise ChromaccError if none
    is left.
    """
    inside = (windows["start"] >= 0) & (windows["end"] <= windows["chrom"].map(sizes))
    once = windows[inside].drop_duplicates()
    counts = [
        *counts,
        Count(what, int(inside.sum()), len(windows), "a window must lie within a chromosome of the FASTA"),
        Count(what, len(once), int(inside.sum()), "the same window is predicted once"),
    ]
    if not len(once):
        raise ChromaccError(
            f"no window is left to predict: {'; '.join(map(str, counts))}. Check regions and FASTA"
        )
    rank = once["chrom"].map({chrom: i for i, chrom in enumerate(sizes)})
    return Selection(once.iloc[np.lexsort((once["start"], rank))].reset_index(drop=True), counts)


# --- from files to batches ----------------------------------------------------------------------------------
@dataclass
class _Chunk:
    """Some windows with all that the model reads: codes (W, L), z (W, K, B, 3), observed (W, K), prior row
    (W,).
    """

    windows: pd.DataFrame
    codes: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    prior_row: np.ndarray


def _read_chunks(
    folder: ModelFolder,
    inputs: CellTypeInputs,
    genome_fasta: str | Path,
    windows: pd.DataFrame,
    workers: int | None,
) -> Iterator[_Chunk]:
    """Yield the windows chunk by chunk, in order, without those that have too many N."""
    constants = track_constants(folder.normalization, inputs.tracks)
    for part, codes, signals in _read_signals(
        _readable(genome_fasta, windows), inputs, folder.model.config.n_bins, workers
    ):
        raw = np.full(
            (len(part), 1, len(inputs.tracks), folder.model.config.n_bins, 3), np.nan, dtype=np.float32
        )
        for track, signal in signals.items():
            raw[:, 0, track] = signal
        values, observed = normalise_tracks(raw, [inputs.files], constants)
        yield _Chunk(part, codes, values[:, 0], observed[:, 0], folder.reference.find(part))


def _readable(genome_fasta: str | Path, windows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    with open_genome(genome_fasta) as genome:
        for first in range(0, len(windows), CHUNK_WINDOWS):
            part = windows.iloc[first : first + CHUNK_WINDOWS]
            codes = sequence_codes(genome, part)
            known = (codes == N_CODE).mean(axis=1) <= MAX_N_FRACTION
            if known.any():
                yield part[known].reset_index(drop=True), codes[known]


def _read_signals(
    parts: Iterator[tuple[pd.DataFrame, np.ndarray]],
    inputs: CellTypeInputs,
    n_bins: int,
    workers: int | None,
) -> Iterator[tuple[pd.DataFrame, np.ndarray, dict]]:
    """Add {track number: (W, B, 3) raw statistics}; the next chunk is read while one is predicted."""
    paths = {track: path for track, path in enumerate(inputs.paths) if path is not None}
    if not paths:
        yield from ((part, codes, {}) for part, codes in parts)
        return
    with ThreadPoolExecutor(min(workers or os.cpu_count() or 1, len(paths))) as pool:
        waiting: deque = deque()
        for part, codes in parts:
            jobs = {track: pool.submit(binned_signal, path, part, n_bins) for track, path in paths.items()}
            waiting.append((part, codes, jobs))
            if len(waiting) > 1:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())


def _arrived(part: pd.DataFrame, codes: np.ndarray, jobs: dict) -> tuple[pd.DataFrame, np.ndarray, dict]:
    return part, codes, {track: job.result() for track, job in jobs.items()}


def _batch(
    folder: ModelFolder,
    chunk: _Chunk,
    rows: np.ndarray,
    metadata: tuple[np.ndarray, np.ndarray],
    weights: np.ndarray,
    shown: Mapping[str, np.ndarray],
) -> Batch:
    """One batch: the same windows once for each set of hidden inputs, every accessibility token masked.

    metadata: z (E,) and whether it is known. weights: of the training cell types (C,). shown: bool masks of what is
    not hidden: tracks (H, K), expression (H,), prior (H,).
    """
    n_marks, config = len(folder.model.config.histone_marks), folder.model.config
    n, h = len(rows), len(shown["tracks"])
    observed = chunk.observed[rows][:, None] & shown["tracks"]  # (B, H, K)
    values = chunk.values[rows][:, None] * observed[..., None, None]  # (B, H, K, T, 3)
    z, known = metadata
    described = np.broadcast_to(known & shown["expression"], (n, h))
    at, reference = chunk.prior_row[rows], folder.reference
    prior_known = ((at >= 0) & reference.observed[at])[:, None] & shown["prior"]  # (B, H)
    masked = torch.zeros(n, h, config.n_bins)
    return Batch(
        sequence=torch.from_numpy(chunk.codes[rows]),
        histone=torch.from_numpy(values[:, :, :n_marks]),
        histone_observed=torch.from_numpy(observed[..., :n_marks]),
        tf=torch.from_numpy(values[:, :, n_marks:]),
        tf_observed=torch.from_numpy(observed[..., n_marks:]),
        metadata=torch.from_numpy(z * described[..., None]),
        metadata_observed=torch.from_numpy(described.copy()),
        prior=torch.from_numpy(reference.prior(at, weights)[:, None] * prior_known[..., None, None]),
        prior_score=torch.from_numpy(reference.score[at][:, None] * prior_known),
        prior_observed=torch.from_numpy(prior_known),
        accessibility=masked,
        accessibility_observed=masked.bool(),
    )


def _shown(inputs: CellTypeInputs, hidden: Sequence[Collection[str]]) -> dict[str, np.ndarray]:
    """Return the masks of `_batch`. Raises ChromaccError for a name that is no input of the model."""
    allowed = (*inputs.tracks, EXPRESSION, LOCUS_PRIOR)
    unknown = sorted({name for names in hidden for name in names} - set(allowed))
    if unknown:
        raise ChromaccError(f"cannot hide {', '.join(unknown)}: the model's inputs are {', '.join(allowed)}")
    tracks = np.array([[name not in names for name in inputs.tracks] for names in hidden], dtype=bool)
    return {
        "tracks": tracks.reshape(len(hidden), len(inputs.tracks)),
        "expression": np.array([EXPRESSION not in names for names in hidden]),
        "prior": np.array([LOCUS_PRIOR not in names for names in hidden]),
    }


# --- prediction ---------------------------------------------------------------------------------------------
def predict_windows(
    folder: ModelFolder,
    inputs: CellTypeInputs,
    genome_fasta: str | Path,
    windows: pd.DataFrame,
    hidden: Sequence[Collection[str]] = ((),),
    *,
    workers: int | None = 1,
    device: str = "cpu",
) -> Predictions:
    """Predict windows (chrom, start, end, of the model's width) in memory, once for each set of hidden
    inputs.

    hidden: names of tracks, `EXPRESSION` and `LOCUS_PRIOR` that the model is not shown, as if they were
    missing. Windows with more than 5% N are left out. workers: threads that read. Raises ChromaccError for
    an unknown name.
    """
    parts = [part for _, part in _stream(folder, inputs, genome_fasta, windows, hidden, workers, device)]
    table = pd.concat([part.windows for part in parts], ignore_index=True)
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in Predictions._fields[1:])
    return Predictions(table, *arrays)


def _stream(
    folder: ModelFolder,
    inputs: CellTypeInputs,
    genome_fasta: str | Path,
    windows: pd.DataFrame,
    hidden: Sequence[Collection[str]],
    workers: int | None,
    device: str,
) -> Iterator[tuple[_Chunk, Predictions]]:
    """Yield chunk by chunk what was read, and what is predicted for it.

    Raises ChromaccError for an unknown name to hide, and when no window has few enough N.
    """
    shown = _shown(inputs, hidden)
    z, known = normalise_metadata(inputs.metadata[None], folder.normalization, folder.model.config.features)
    weights = folder.reference.state_weights(z[0], bool(known[0]))
    chosen = choose_device(device)
    model, title = folder.model.to(chosen).eval(), f"predicting {inputs.cell_type}"
    chunks = _read_chunks(folder, inputs, genome_fasta, windows, workers)
    nothing = True
    try:
        with progress(len(windows), title, "windows") as bar:
            for chunk in chunks:
                n, nothing = len(chunk.windows), False
                outputs = []
                size = BATCH_WINDOWS[chosen]
                for rows in np.split(np.arange(n), range(size, n, size)):
                    batch = _batch(folder, chunk, filled(rows), (z[0], known[0]), weights, shown)
                    outputs.append(tuple(values[: len(rows)] for values in _output(model, batch)))
                    bar.update(len(rows))
                score, logit, profile = (torch.cat(tensors).numpy() for tensors in zip(*outputs, strict=True))
                table = chunk.windows.assign(average_score=_average_score(folder.reference, chunk.prior_row))
                yield chunk, Predictions(table, score, _sigmoid(logit), profile)
    finally:
        model.to("cpu")
    if nothing:
        raise ChromaccError(f"none of {len(windows):,} windows can be predicted, because {MANY_N}")


def _output(model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return score, logit and profile of a batch, on the CPU."""
    # TF32 would round what a GPU multiplies to 10 bits, and part it from the evaluation
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        output = predict_batch(model, batch.to(next(model.parameters()).device))
    return output.score.cpu(), output.logit.cpu(), output.profile.cpu()


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logit).sigmoid().numpy()


def _average_score(reference: TrainingReference, prior_row: np.ndarray) -> np.ndarray:
    known = (prior_row >= 0) & reference.observed[prior_row]
    return np.where(known, reference.score[prior_row], np.nan).astype(np.float32)


def predict_manifest(
    model_dir: str | Path,
    manifest: str | Path,
    genome_fasta: str | Path,
    regions: str | Path = "",
    out_dir: str | Path = "prediction",
    *,
    cell_type: str = "",
    threshold: float | None = None,
    workers: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    gene_names: str | Path = "",
    say: Callable[[str], None] = print,
) -> Prediction:
    """Predict a cell type that nobody has assayed, and write a bigWig, a BED, a table of windows and
    summary.json.

    model_dir: a finished run's `model/`. manifest: any subset of the model's tracks, expression or not;
    accessibility is not needed, and not looked at. regions: BED (see `region_windows`), or "" = the windows
    of the locus prior. cell_type: needed when the manifest has several. threshold: probability from which a
    window is called open; None = the evaluation's, beside the model folder, else 0.5. workers: threads that
    read bigWigs, None = one a core where it pays. device: "auto", "cpu" or "cuda". overwrite: replace another
    cell type's prediction in out_dir. gene_names: as in training, see `read_gene_names`.

    The bigWig holds fold over the genome-wide mean by bin: sinh of the predicted profile, at least 0; where
    windows overlap, profiles are averaged on the arcsinh scale first. Files appear only when they are whole,
    summary.json last. Raises ChromaccError that says what is wrong with model, manifest, genome or regions.
    """
    folder = open_model_folder(model_dir)
    inputs = read_inputs(folder, manifest, genome_fasta, cell_type, say, gene_names)
    out, stem = project_path(out_dir), file_stem(inputs.cell_type, say)
    stale = _stale_files(out, inputs.cell_type, overwrite)
    chosen = _chosen_windows(folder, regions, genome_fasta, say)
    cut, source = _threshold(folder.path, threshold)
    names = {"bigwig": f"{stem}.bw", "bed": f"{stem}.bed", "windows": f"{stem}.windows.parquet"}
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as partial:
        writers = PredictionWriters(
            {kind: Path(partial) / name for kind, name in names.items()}, genome_sizes(genome_fasta), cut
        )
        quality = Quality(folder.reference)
        with writers:
            for chunk, made in _stream(folder, inputs, genome_fasta, chosen.windows, ((),), workers, device):
                table = _table(made)
                average, score = table["average_score"].to_numpy(), table["predicted_score"].to_numpy()
                quality.add(chunk.values, chunk.observed, chunk.prior_row, average, score)
                writers.add(table, made.profile[:, 0])
        counts = [*chosen.counts, Count("windows", quality.n_windows, len(chosen.windows), MANY_N)]
        summary = _summary(folder, inputs, quality) | {
            "regions": Path(regions).name if regions else "windows of the locus prior",
            "counts": [str(count) for count in counts],
            "threshold": cut,
            "threshold_source": source,
            "n_open_windows": writers.n_open,
            "files": names,
        }
        (Path(partial) / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
        for path in stale:
            path.unlink(missing_ok=True)
        for name in (*names.values(), "summary.json"):
            os.replace(Path(partial) / name, out / name)
    for line in _told(summary, time.perf_counter() - began):
        say(line)
    paths = (out / names[kind] for kind in ("bigwig", "bed", "windows"))
    return Prediction(*paths, summary, folder, inputs)


def _chosen_windows(
    folder: ModelFolder, regions: str | Path, genome_fasta: str | Path, say: Callable[[str], None]
) -> Selection:
    """Return where to predict, having said what was left out."""
    if regions:
        chosen = region_windows(regions, genome_fasta, folder.model.config.window_bp, say)
    else:
        chosen = prior_windows(folder, genome_fasta)
    for count in chosen.counts:
        if count.kept < count.of:
            say(str(count))
    return chosen


def _table(predictions: Predictions) -> pd.DataFrame:
    """Return the windows with what is predicted for them, nothing being hidden."""
    columns = {
        "predicted_score": predictions.score[:, 0],
        "predicted_probability": predictions.probability[:, 0],
    }
    return predictions.windows.assign(**columns)


def _stale_files(out: Path, cell_type: str, overwrite: bool) -> list[Path]:
    """Files of an earlier prediction of another cell type in the same folder; refused unless `overwrite`."""
    path = out / "summary.json"
    if not path.is_file():
        return []
    try:
        earlier = json.loads(path.read_text())
        before, files = earlier["cell_type"], list(earlier["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChromaccError(
            f"{path}: not the summary of a prediction ({error}); give another folder"
        ) from error
    if before == cell_type:
        return []
    if not overwrite:
        raise ChromaccError(
            f"{out}: holds the prediction of {before}; give {cell_type} a folder of its own, or let it be "
            "replaced (overwrite=True, or --overwrite)"
        )
    return [out / Path(name).name for name in files]


def _threshold(model_dir: Path, given: float | None) -> tuple[float, str]:
    """Return the threshold of the probability, and where it comes from."""
    if given is not None:
        if not 0 <= given <= 1:
            raise ChromaccError(f"threshold={given}: a probability is needed, from 0 to 1")
        return float(given), "given"
    path = model_dir.parent / "evaluation_metrics.json"
    if path.is_file():
        metrics = json.loads(path.read_text())
        source = metrics.get("threshold_source", path.name)
        if metrics["threshold"] is None:
            return 0.5, f"default: the evaluation's is {source}"
        return float(metrics["threshold"]), f"evaluation of the model: {source}"
    return 0.5, "default: no evaluation_metrics.json beside the model folder"


def _summary(folder: ModelFolder, inputs: CellTypeInputs, quality: Quality) -> dict:
    """Return what summary.json says of the model, of the inputs, and of how far they lie from training."""
    table = quality.track_table(inputs.tracks)
    spread = [row["mean_abs_z"] for row in table.values() if row["mean_abs_z"] is not None]
    path, root = folder.path, project_path("")
    return {
        "cell_type": inputs.cell_type,
        "simulated": inputs.simulated or folder.reference.simulated,
        "assembly": inputs.assembly,
        "model": path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
        "model_weights_sha256": folder.weights_sha256,
        "trained_on_this_cell_type": inputs.cell_type in folder.reference.cell_types,
        "n_windows": quality.n_windows,
        "windows_without_locus_prior": quality.n_windows - quality.n_with_prior,
        "inputs_present": list(inputs.present),
        "inputs_missing": list(inputs.missing),
        "inputs_unused": list(inputs.unused),
        "correlation_with_locus_average": quality.average_correlation,
        "mean_abs_z_of_inputs": float(np.mean(spread)) if spread else None,
        "tracks_far_from_training": [name for name, row in table.items() if row["far_from_training"]],
        "tracks_not_compared_with_training": [
            name
            for name in inputs.tracks
            if name in inputs.present and table[name]["far_from_training"] is None
        ],
        "tracks": table,
        "expression": expression_distance(folder, inputs.metadata),
        "bigwig_unit": BIGWIG_UNIT,
        "bed_columns": BED_COLUMNS,
        "versions": {"chromacc": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _told(summary: Mapping, seconds: float) -> list[str]:
    """The lines that a user should read."""
    n, without = summary["n_windows"], summary["windows_without_locus_prior"]
    present, missing = (", ".join(summary[f"inputs_{what}"]) for what in ("present", "missing"))
    speed = f"{n:,} windows in {seconds:.1f} s ({n / seconds:,.0f} a second)"
    lines = [f"{summary['cell_type']}: {speed}, {summary['n_open_windows']:,} called open"]
    lines.append(f"inputs present: {present}; missing: {missing or 'none'}")
    if summary["trained_on_this_cell_type"]:
        lines.append(
            f"note: {summary['cell_type']} is one of the model's training cell types: its own accessibility "
            "is in the locus average, and this is no prediction of an unseen cell type"
        )
    if without:
        lines.append(
            f"no locus prior for {without:,} of {n:,} windows, because they are no windows of the training "
            "data: there the model does without"
        )
    if summary["tracks_not_compared_with_training"]:
        lines.append(
            "not compared with training (needs 3 training cell types with the track, and half of the "
            "training data's windows predicted): " + ", ".join(summary["tracks_not_compared_with_training"])
        )
    if summary["tracks_far_from_training"]:
        lines.append(
            f"far from the training cell types (more than {FAR_SD} sd from their mean): "
            + ", ".join(summary["tracks_far_from_training"])
        )
    return lines
