"""Prediction: a model folder, a manifest of whatever tracks a new cell type has, and regions give a track of
it.

Signals are read, binned and scaled by the code that curated the training data, so that a cell type predicted
from its manifest alone gets what the evaluation got. Windows stream in chunks: memory does not grow with the
regions. A chunk is kept on disk as soon as it is predicted, here or by a worker elsewhere, and the files are written
from the chunks in their order: they are the same, bit for bit, after a kill and with any number of workers. All
coordinates are 0-based half-open, in bp.
"""

import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import distributed
import numpy as np
import pandas as pd
import torch

from chromacc_lib import ChromaccError, __version__, project_path
from chromacc_lib.cache import file_lock
from chromacc_lib.cell_inputs import EXPRESSION, CellTypeInputs, read_inputs
from chromacc_lib.chunks import Chunks
from chromacc_lib.devices import choose_device, device_words
from chromacc_lib.expectation import Evaluated, read_evaluated
from chromacc_lib.hub import ModelFolder, TrainingReference, open_model_folder
from chromacc_lib.inference import evaluating, filled, predict_batch
from chromacc_lib.manifest import open_genome
from chromacc_lib.model import Batch
from chromacc_lib.normalization import normalise_metadata, normalise_tracks, track_constants
from chromacc_lib.places import Places, prior_windows, region_windows
from chromacc_lib.progress import progress
from chromacc_lib.quality import Quality
from chromacc_lib.signals import binned_signal
from chromacc_lib.summary import calibration_lines, summarise, told
from chromacc_lib.windows import N_CODE, Count, sequence_codes
from chromacc_lib.workers import ALONE, gpu_of_worker, side_by_side
from chromacc_lib.writers import PredictionWriters, file_stem

__all__ = ["LOCUS_PRIOR", "Prediction", "Predictions", "predict_manifest", "predict_windows", "window_batches"]

LOCUS_PRIOR = "locus prior"  # what can be hidden besides tracks and expression
MANY_N = "at most 5% of the bases may be N"
MAX_N_FRACTION = 0.05  # as in curation: the model never saw a window with more N
CHUNK_WINDOWS = 2048  # read, held and kept at once: 4 MB of signal for ten tracks of 15 bins, 12 s of a CPU core
AHEAD = 2  # chunks a worker that are handed out before the first comes back
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
    narrowpeak: Path
    windows: Path
    summary: dict
    folder: ModelFolder
    inputs: CellTypeInputs


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
    parts: Iterable[pd.DataFrame],
    workers: int | None,
) -> Iterator[_Chunk]:
    """Yield the parts of the windows in order, each without those that have too many N."""
    constants, n_bins = track_constants(folder.normalization, inputs.tracks), folder.model.config.n_bins
    for part, codes, signals in _read_signals(_readable(genome_fasta, parts), inputs, n_bins, workers):
        raw = np.full((len(part), 1, len(inputs.tracks), n_bins, 3), np.nan, dtype=np.float32)
        for track, signal in signals.items():
            raw[:, 0, track] = signal
        values, observed = normalise_tracks(raw, [inputs.files], constants)
        yield _Chunk(part, codes, values[:, 0], observed[:, 0], folder.reference.find(part))


def _readable(genome_fasta: str | Path, parts: Iterable[pd.DataFrame]) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    with open_genome(genome_fasta) as genome:
        for part in parts:
            codes = sequence_codes(genome, part)
            known = (codes == N_CODE).mean(axis=1) <= MAX_N_FRACTION
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
            there = paths if len(part) else {}
            jobs = {track: pool.submit(binned_signal, path, part, n_bins, inputs.aliases) for track, path in there.items()}
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
    chunks = (windows.iloc[first : first + CHUNK_WINDOWS] for first in range(0, len(windows), CHUNK_WINDOWS))
    with progress(len(windows), f"predicting {inputs.cell_type}", "windows") as bar:
        stream = _stream(folder, inputs, genome_fasta, chunks, hidden, workers, choose_device(device), bar.update)
        parts = [part for _, part in stream if len(part.windows)]
    if not parts:
        raise ChromaccError(f"none of {len(windows):,} windows can be predicted, because {MANY_N}")
    table = pd.concat([part.windows for part in parts], ignore_index=True)
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in Predictions._fields[1:])
    return Predictions(table, *arrays)


def _stream(
    folder: ModelFolder,
    inputs: CellTypeInputs,
    genome_fasta: str | Path,
    parts: Iterable[pd.DataFrame],
    hidden: Sequence[Collection[str]],
    workers: int | None,
    device: str,
    done: Callable[[int], object],
) -> Iterator[tuple[_Chunk, Predictions]]:
    """Yield part by part what was read, and what is predicted for it; done is told of windows as they are.

    device: "cpu", "cuda" or "cuda:1". Raises ChromaccError for an unknown name to hide.
    """
    shown = _shown(inputs, hidden)
    z, known = normalise_metadata(inputs.metadata[None], folder.normalization, folder.model.config.features)
    weights = folder.reference.state_weights(z[0], bool(known[0]))
    size, n_bins = BATCH_WINDOWS[torch.device(device).type], folder.model.config.n_bins
    model = folder.model.to(device)
    try:
        with evaluating(model):
            for chunk in _read_chunks(folder, inputs, genome_fasta, parts, workers):
                n = len(chunk.windows)
                outputs = [(torch.empty(0, len(hidden)),) * 2 + (torch.empty(0, len(hidden), n_bins),)]
                for rows in np.split(np.arange(n), range(size, n, size)) if n else ():
                    batch = _batch(folder, chunk, filled(rows), (z[0], known[0]), weights, shown)
                    outputs.append(tuple(values[: len(rows)] for values in _output(model, batch)))
                    done(len(rows))
                score, logit, profile = (torch.cat(tensors).numpy() for tensors in zip(*outputs, strict=True))
                table = chunk.windows.assign(average_score=_average_score(folder.reference, chunk.prior_row))
                yield chunk, Predictions(table, score, _sigmoid(logit), profile)
    finally:
        model.to("cpu")


def window_batches(
    folder: ModelFolder,
    inputs: CellTypeInputs,
    genome_fasta: str | Path,
    windows: pd.DataFrame,
    *,
    workers: int | None = 1,
) -> Iterator[tuple[pd.DataFrame, Batch]]:
    """Yield what the model reads of windows (chrom, start, end, of its width) in one cell type, batch by batch, with the
    rows of `windows` that a batch holds, their other columns too.

    Windows with more than 5% N are left out. workers: threads that read. Batches lie on the CPU, with one cell type.
    """
    shown, (z, known) = _shown(inputs, ((),)), normalise_metadata(
        inputs.metadata[None], folder.normalization, folder.model.config.features
    )
    weights, size = folder.reference.state_weights(z[0], bool(known[0])), BATCH_WINDOWS["cpu"]
    parts = (windows.iloc[first : first + CHUNK_WINDOWS] for first in range(0, len(windows), CHUNK_WINDOWS))
    for chunk in _read_chunks(folder, inputs, genome_fasta, parts, workers):
        for first in range(0, len(chunk.windows), size):
            rows = np.arange(first, min(first + size, len(chunk.windows)))
            yield chunk.windows.iloc[rows], _batch(folder, chunk, rows, (z[0], known[0]), weights, shown)


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


# --- chunk by chunk, here or elsewhere ------------------------------------------------------------------------
class _Job(NamedTuple):
    """What a chunk is predicted from, wherever that is."""

    model_dir: str
    weights_sha256: str
    inputs: CellTypeInputs
    genome_fasta: str
    chunks: Chunks
    device: str


def _identity(job: _Job, places: Places) -> list:
    """All that decides about the chunks, for JSON."""
    files = [job.genome_fasta, *(path for path in job.inputs.paths if path is not None)]
    inputs = job.inputs
    return [
        [__version__, str(torch.__version__), np.__version__, choose_device(job.device), CHUNK_WINDOWS],
        [job.weights_sha256, *_model_sums(Path(job.model_dir))], places.digest,
        [inputs.cell_type, inputs.tracks, inputs.paths, repr(inputs.files), inputs.metadata.tobytes().hex(), inputs.aliases],
        [[str(file), *_stamp(Path(file))] for file in files],
    ]  # fmt: skip


def _model_sums(folder: Path) -> list:
    return [_stamp(folder / name) for name in ("config.json", "normalization.json", "locus_prior.npz")]


def _stamp(path: Path) -> list[int]:
    """Size and time of a file; [] for what is none, such as a web address."""
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else []


def _predict_chunks(
    job: _Job, folder: ModelFolder, todo: Iterable[tuple[int, pd.DataFrame]], workers: int | None, device: str,
    done: Callable[[int], object],
) -> None:  # fmt: skip
    """Predict numbered chunks and keep each as soon as it is there."""
    numbers: deque[int] = deque()

    def parts() -> Iterator[pd.DataFrame]:
        """The chunks' windows; their numbers queue up for what comes back in the same order."""
        for number, windows in todo:
            numbers.append(number)
            yield windows

    stream = _stream(folder, job.inputs, job.genome_fasta, parts(), ((),), workers, device, done)
    for chunk, made in stream:
        quality = Quality(folder.reference)
        average = made.windows["average_score"].to_numpy()
        quality.add(chunk.values, chunk.observed, chunk.prior_row, average, made.score[:, 0])
        job.chunks.write(numbers.popleft(), quality.state() | {
            "chrom": made.windows["chrom"].to_numpy(dtype=str), "start": made.windows["start"].to_numpy(np.int64),
            "average_score": average, "predicted_score": made.score[:, 0],
            "predicted_probability": made.probability[:, 0], "profile": made.profile[:, 0],
        })  # fmt: skip


@lru_cache(maxsize=1)
def _opened(model_dir: str, weights_sha256: str) -> ModelFolder:
    """A worker's model, opened once. Raises ChromaccError when it sees another one under this path."""
    folder = open_model_folder(model_dir)
    if folder.weights_sha256 != weights_sha256:
        raise ChromaccError(f"{model_dir}: a worker sees other weights there than the process that asks it")
    return folder


def _predict_elsewhere(job: _Job, number: int, windows: pd.DataFrame, threads: int) -> int:
    """Predict a chunk in a dask worker; return its windows."""
    if not job.chunks.folder.is_dir():
        raise ChromaccError(f"{job.chunks.folder}: not seen by a worker; needed: the same paths, a shared folder")
    gpu = gpu_of_worker(job.device)
    with ALONE:
        torch.set_num_threads(threads)
        device = choose_device(job.device) if gpu is None else f"cuda:{gpu}"
        folder = _opened(job.model_dir, job.weights_sha256)
        _predict_chunks(job, folder, [(number, windows)], 1, device, lambda n: None)
    return len(windows)


def _side_by_side(
    job: _Job, todo: Iterator[tuple[int, pd.DataFrame]], n_todo: int, processes: int, address: str,
    done: Callable[[int], object],
) -> None:  # fmt: skip
    """Predict chunks in processes of this machine, or on the workers of a scheduler; few are on the way at a time."""
    with side_by_side(address, processes or None, job.device, n_todo) as (client, threads):
        def submit(number: int, windows: pd.DataFrame) -> distributed.Future:
            """Hand out a chunk."""
            return client.submit(_predict_elsewhere, job, number, windows, threads, pure=False)

        ahead = AHEAD * max(1, len(client.nthreads()))
        flying = distributed.as_completed([submit(*one) for one in islice(todo, ahead)], loop=client.loop)
        for future in flying:
            done(future.result())
            for one in islice(todo, 1):
                flying.add(submit(*one))


def _fill(
    job: _Job, folder: ModelFolder, places: Places, workers: int | None, processes: int, dask_address: str,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Predict the chunks that are not there yet."""
    todo = job.chunks.open()
    if not todo:
        say(f"all {job.chunks.n:,} chunks were predicted before")
        return
    wanted, last = set(todo), job.chunks.n - 1
    n_windows = sum(CHUNK_WINDOWS if n < last else len(places) - last * CHUNK_WINDOWS for n in todo)
    if len(todo) < job.chunks.n:
        say(f"going on: {job.chunks.n - len(todo):,} of {job.chunks.n:,} chunks were predicted before")
    rest = ((n, windows) for n, windows in enumerate(places.chunks(CHUNK_WINDOWS)) if n in wanted)
    apart = processes > 1 or dask_address or (processes == 0 and choose_device(job.device) == "cuda"
                                              and torch.cuda.device_count() > 1)  # fmt: skip
    title = f"predicting {job.inputs.cell_type}"
    with progress(len(places), title, "windows", done=len(places) - n_windows) as bar:
        if apart:
            _side_by_side(job, rest, len(todo), processes, dask_address, bar.update)
        else:
            _predict_chunks(job, folder, rest, workers, choose_device(job.device), bar.update)


# --- from chunks to files -------------------------------------------------------------------------------------
def predict_manifest(
    model_dir: str | Path,
    manifest: str | Path,
    genome_fasta: str | Path,
    regions: str | Path = "",
    out_dir: str | Path = "prediction",
    *,
    stride: int = 0,
    cell_type: str = "",
    threshold: float | None = None,
    workers: int | None = None,
    processes: int = 0,
    dask_address: str = "",
    device: str = "auto",
    overwrite: bool = False,
    gene_names: str | Path = "",
    rename_chromosomes: bool = False,
    say: Callable[[str], None] = print,
) -> Prediction:
    """Predict a cell type that nobody has assayed, and write a bigWig, a BED, a narrowPeak, a table of windows and
    summary.json.

    model_dir: a finished run's `model/`. manifest: any subset of the model's tracks, expression or not;
    accessibility is not needed, and not looked at. regions: BED, chromosomes or "genome" (see `region_windows`), or ""
    = the windows of the locus prior; stride: bp between windows within a region, 0 = side by side. cell_type: needed
    when the manifest has several. threshold: probability from which a window is called open; None = the
    evaluation's, of the model folder, else 0.5. workers: threads that read bigWigs, None = one a core where it pays.
    processes: of this machine that predict, 0 = one, or one a GPU; dask_address: of a scheduler whose workers predict
    instead, "" = none. device: "auto", "cpu" or "cuda". overwrite: replace another cell type's prediction in out_dir.
    gene_names: as in training, see `read_gene_names`. rename_chromosomes: see `check_manifest`; summary.json has what was
    renamed.

    The bigWig holds fold over the genome-wide mean by bin: sinh of the predicted profile, at least 0; where
    windows overlap, profiles are averaged on the arcsinh scale first. Probabilities are recalibrated, and scores have
    conformal intervals, where the model folder has them. Files appear only when they are whole, summary.json last. A
    prediction that was interrupted goes on where it stopped, when it is asked for again with the same inputs. Raises
    ChromaccError that says what is wrong with model, manifest, genome or regions.
    """
    folder = open_model_folder(model_dir)
    say(device_words(choose_device(device)))
    evaluated = read_evaluated(folder)
    inputs = read_inputs(folder, manifest, genome_fasta, cell_type, say, gene_names, rename_chromosomes)
    out, stem = project_path(out_dir), file_stem(inputs.cell_type, say)
    stale = _stale_files(out, inputs.cell_type, overwrite)
    places = _places(folder, regions, genome_fasta, stride, say, rename_chromosomes)
    cut = dict(zip(("threshold", "threshold_source"), _threshold(evaluated, threshold)))
    chunks_of = -(-len(places) // CHUNK_WINDOWS)
    job = _Job(str(folder.path), folder.weights_sha256, inputs, str(genome_fasta), None, device)
    job = job._replace(chunks=Chunks(out, _identity(job, places), chunks_of))
    began = time.perf_counter()
    busy = f"{out}: another prediction is writing there; wait for it, or give this one a folder of its own"
    with file_lock(out / ".lock", "put the prediction", busy):
        for left in out.glob(".partial-*"):  # of a run that was killed
            shutil.rmtree(left)
        _fill(job, folder, places, workers, processes, dask_address, say)
        summary = _write_files(job, folder, evaluated, places, stem, stale, cut)
        job.chunks.remove()
    for line in told(summary, time.perf_counter() - began):
        say(line)
    paths = (out / summary["files"][kind] for kind in ("bigwig", "bed", "narrowpeak", "windows"))
    return Prediction(*paths, summary, folder, inputs)


def _write_files(
    job: _Job, folder: ModelFolder, evaluated: Evaluated, places: Places, stem: str, stale: Sequence[Path], cut: dict
) -> dict:
    """Write all files from the chunks, in their order, and return what summary.json says."""
    out, quality = job.chunks.folder.parent, Quality(folder.reference)
    names = {"bigwig": f"{stem}.bw", "bed": f"{stem}.bed", "narrowpeak": f"{stem}.narrowPeak",
             "windows": f"{stem}.windows.parquet"}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as partial:
        files = {kind: Path(partial) / name for kind, name in names.items()}
        with PredictionWriters(files, places.sizes, cut["threshold"], calibration_lines(evaluated)) as writers:
            for number in range(job.chunks.n):
                chunk = job.chunks.read(number)
                quality.merge(chunk)
                if len(chunk["start"]):
                    writers.add(_table(chunk, places.window_bp, evaluated), chunk["profile"])
            if not quality.n_windows:
                raise ChromaccError(f"none of {len(places):,} windows can be predicted, because {MANY_N}")
        counts = [*places.counts, Count("windows", quality.n_windows, len(places), MANY_N)]
        summary = summarise(folder, job.inputs, quality, evaluated) | {
            "regions": places.name, "counts": [str(count) for count in counts], **cut,
            "n_open_windows": writers.n_open, "files": names,
        }  # fmt: skip
        (Path(partial) / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
        for path in stale:
            path.unlink(missing_ok=True)
        for name in (*names.values(), "summary.json"):
            os.replace(Path(partial) / name, out / name)
    return summary


def _places(
    folder: ModelFolder, regions: str | Path, genome_fasta: str | Path, stride: int, say: Callable[[str], None],
    rename_chromosomes: bool,
) -> Places:
    """Return where to predict, having said what was left out."""
    if regions:
        chosen = region_windows(regions, genome_fasta, folder.model.config.window_bp, say, stride, rename_chromosomes)
    elif stride:
        raise ChromaccError(f"stride={stride} is of regions; give some (a BED file, chromosomes, or 'genome')")
    else:
        chosen = prior_windows(folder, genome_fasta)
    for count in chosen.counts:
        if count.kept < count.of:
            say(str(count))
    return chosen


def _table(chunk: Mapping[str, np.ndarray], window_bp: int, evaluated: Evaluated) -> pd.DataFrame:
    """Return a chunk's windows with what is predicted for them, calibrated."""
    low, high = evaluated.interval(chunk["predicted_score"])
    columns = {name: chunk[name] for name in ("average_score", "predicted_score", "predicted_probability")}
    calibrated = evaluated.calibrated(chunk["predicted_probability"])
    return pd.DataFrame({"chrom": chunk["chrom"], "start": chunk["start"], "end": chunk["start"] + window_bp}).assign(
        **columns, calibrated_probability=calibrated, score_low=low, score_high=high
    )


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


def _threshold(evaluated: Evaluated, given: float | None) -> tuple[float, str]:
    """Return the threshold of the probability, and where it comes from."""
    if given is None:
        return evaluated.threshold
    if not 0 <= given <= 1:
        raise ChromaccError(f"threshold={given}: a probability is needed, from 0 to 1")
    return float(given), "given"
