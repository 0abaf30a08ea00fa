"""Prediction: a model folder, a manifest of whatever tracks a new cell type has, and regions give a track of it.

Signals are read, binned and scaled by the code that curated the training data, so that a cell type predicted from its
manifest alone gets what the evaluation got. Windows stream in chunks: memory does not grow with the regions.
All coordinates are 0-based half-open, in bp.
"""

import json
import os
import re
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyBigWig
import torch
from pyarrow import parquet
from tqdm import tqdm

from chromacc_lib import ChromaccError, __version__, project_path
from chromacc_lib.dataset import normalise_metadata, normalise_tracks, track_constants
from chromacc_lib.hub import ModelFolder, TrainingReference, open_model_folder, track_figures
from chromacc_lib.inference import predict_batch
from chromacc_lib.manifest import (
    COLUMNS, OPTIONAL_COLUMNS, check_manifest, genome_sizes, is_simulated, open_genome, read_expression, read_intervals,
    read_manifest, require_no_problems,
)
from chromacc_lib.model import Batch
from chromacc_lib.signals import POOL_FROM, bin_edges, binned_signal, genome_mean
from chromacc_lib.training import choose_device
from chromacc_lib.windows import N_CODE, Count, Selection, base_content, sequence_codes

__all__ = [
    "EXPRESSION", "LOCUS_PRIOR", "CellTypeInputs", "Prediction", "Predictions", "cut_manifest", "file_stem",
    "predict_manifest", "predict_windows", "prior_windows", "read_inputs", "region_windows",
]

EXPRESSION, LOCUS_PRIOR = "expression", "locus prior"  # what can be hidden besides tracks
MAX_N_FRACTION = 0.05  # as in curation: the model never saw a window with more N
CHUNK_WINDOWS = 8192   # read and held at once: some 30 MB of signal for ten tracks of 15 bins
BATCH_WINDOWS = 64
FAR_SD = 3             # sd between training cell types, from which a track is called far from training
GENOME_SAMPLE = 200    # windows whose GC must be that of the training genome
BED_COLUMNS = ("chrom, start, end of the window; name; score = 1000 x probability of being open; strand (none); thickStart, "
               "thickEnd = the bin of highest predicted accessibility; itemRgb")
BED_COLOUR = "0,114,178"


# --- results ------------------------------------------------------------------------------------------------
class Predictions(NamedTuple):
    """W windows, H sets of hidden inputs (one, empty, unless asked for otherwise), B bins.

    windows: chrom, start, end, average_score (NaN without a locus prior). score (W, H) and profile (W, H, B): float32,
    arcsinh fold over the genome-wide mean; probability (W, H): of being open.
    """

    windows: pd.DataFrame
    score: np.ndarray
    probability: np.ndarray
    profile: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What `predict_manifest` wrote, and summary.json's content."""

    bigwig: Path
    bed: Path
    windows: Path
    summary: dict


@dataclass(frozen=True)
class CellTypeInputs:
    """The inputs of one cell type, in the model's order. K tracks (histone marks, then TFs), E features.

    paths: bigWig by track, None = missing. scales: genome-wide mean of each, NaN = missing, float64 (K,). metadata:
    log2(TPM + 1), float32 (E,), NaN = missing. unused: rows of the manifest that the model does not read, in words.
    """

    cell_type: str
    tracks: tuple[str, ...]
    paths: tuple[str | None, ...]
    scales: np.ndarray
    metadata: np.ndarray
    unused: tuple[str, ...]
    simulated: bool
    assembly: str

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the inputs that are there: tracks, and `EXPRESSION`."""
        tracks = tuple(name for name, path in zip(self.tracks, self.paths) if path is not None)
        return tracks + ((EXPRESSION,) if np.isfinite(self.metadata).any() else ())

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the inputs that the model reads and that are not there."""
        wanted = self.tracks + ((EXPRESSION,) if len(self.metadata) else ())
        return tuple(name for name in wanted if name not in self.present)


# --- inputs -------------------------------------------------------------------------------------------------
def read_inputs(folder: ModelFolder, manifest: str | Path, genome_fasta: str | Path, cell_type: str = "",
                say: Callable[[str], None] = print) -> CellTypeInputs:
    """Read and check what a manifest has of one cell type; its accessibility, if there, is not even opened.

    cell_type: needed when the manifest has several. say: gets notes and what is not used. Raises ChromaccError that
    lists every problem of the files, or that says that the model knows none of the tracks, or another genome.
    """
    table = read_manifest(manifest)
    rows = _rows_of(table, cell_type)
    name = rows["cell_type"].iloc[0]
    inputs = rows[~rows["kind"].isin(("accessibility_signal", "accessibility_peaks"))]
    if not len(inputs):
        raise ChromaccError(f"{table.attrs['path']}: cell type {name} has accessibility rows only; needed at least one "
                            f"track of the model: {_known(folder)}")
    inputs.attrs["path"] = table.attrs["path"]
    problems = check_manifest(inputs, genome_fasta, for_training=False)
    for problem in problems:
        if not problem.fatal:
            say(str(problem))
    require_no_problems(problems)
    _require_same_genome(folder.reference, genome_fasta)
    return _known_inputs(folder, inputs, table.attrs["path"], say)


def _rows_of(table: pd.DataFrame, cell_type: str) -> pd.DataFrame:
    names = table["cell_type"].unique().tolist()
    if not cell_type and len(names) > 1:
        raise ChromaccError(f"{table.attrs['path']}: the manifest has {len(names)} cell types ({', '.join(names)}); name "
                            "the one to predict (cell_type, or --cell-type)")
    if cell_type and cell_type not in names:
        raise ChromaccError(f"{table.attrs['path']}: no row of cell type {cell_type!r}; it has {', '.join(names)}")
    return table[table["cell_type"] == (cell_type or names[0])]


def _known(folder: ModelFolder) -> str:
    config = folder.model.config
    parts = {"histone": config.histone_marks, "tf": config.tfs, "expression": config.features}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names)


def _known_inputs(folder: ModelFolder, rows: pd.DataFrame, place: str, say: Callable[[str], None]) -> CellTypeInputs:
    """Put the rows that the model reads in its order; say which are left out."""
    config = folder.model.config
    wanted = [("histone", name) for name in config.histone_marks] + [("tf", name) for name in config.tfs]
    files = {(row["kind"], row["target"]): row["path_or_url"] for _, row in rows.iterrows()}
    paths = tuple(files.get(pair) for pair in wanted)
    expression = rows.loc[rows["kind"] == "expression", "path_or_url"].tolist()
    metadata = np.full(len(config.features), np.nan, dtype=np.float32)
    if expression and config.features:
        metadata = np.log2(read_expression(expression[0]) + 1).reindex(list(config.features)).to_numpy(np.float32)
    unused = [f"{target} ({kind})" for kind, target in files
              if (kind, target) not in wanted and not (kind == "expression" and np.isfinite(metadata).any())]
    cell_type = rows["cell_type"].iloc[0]
    if len(unused) == len(files):
        raise ChromaccError(f"{place}: the model knows none of the inputs of {cell_type}: {', '.join(unused)}. It reads "
                            f"{_known(folder)}. Compare the columns kind and target (names count to the letter)")
    if unused:
        say(f"not used, because the model does not know them: {', '.join(unused)}")
    scales = np.array([np.nan if path is None else genome_mean(path) for path in paths], dtype=np.float64)
    return CellTypeInputs(cell_type, folder.tracks, paths, scales, metadata, tuple(unused), is_simulated(rows),
                          rows["assembly"].iloc[0])


def _require_same_genome(reference: TrainingReference, genome_fasta: str | Path) -> None:
    """Raise ChromaccError unless the FASTA is the genome that the model was trained on, by its sequence.

    Compares the GC content of windows of the locus prior; single corrected bases do not matter.
    """
    sizes = genome_sizes(genome_fasta)
    shared = reference.windows[reference.windows["chrom"].isin(list(sizes))]
    trained = reference.windows["chrom"].unique().tolist()
    if not len(shared):
        raise ChromaccError(f"{genome_fasta}: none of its chromosomes ({', '.join(list(sizes)[:4])}) is one of the model's "
                            f"({', '.join(trained[:4])}); give the FASTA of {reference.assembly}, with the same names")
    sample = shared.iloc[np.linspace(0, len(shared) - 1, min(len(shared), GENOME_SAMPLE)).astype(int)]
    inside = (sample["end"] <= sample["chrom"].map(sizes)).to_numpy()
    differs = np.ones(len(sample), dtype=bool)
    with open_genome(genome_fasta) as genome:
        gc = base_content(genome, sample[inside])["gc"].to_numpy()
    differs[inside] = ~(np.abs(gc - sample["gc"].to_numpy()[inside]) <= 0.002)
    if differs.mean() > 0.5:
        raise ChromaccError(f"{genome_fasta}: {differs.sum()} of {len(sample)} windows of the model have another GC content "
                            f"here: another genome. The model was trained on {reference.assembly}; give its FASTA, and "
                            "tracks aligned to it")


def cut_manifest(manifest: str | Path, cell_type: str, path: str | Path) -> pd.DataFrame:
    """Write a manifest of one cell type without its accessibility, as of a cell type that nobody has assayed.

    Paths are written relative to the new file's folder. Returns the rows. Raises ChromaccError when there are none.
    """
    target = project_path(path)
    rows = _rows_of(read_manifest(manifest), cell_type)
    rows = rows[~rows["kind"].isin(("accessibility_signal", "accessibility_peaks"))][[*COLUMNS, *OPTIONAL_COLUMNS]]
    if not len(rows):
        raise ChromaccError(f"{manifest}: cell type {cell_type} has no row besides accessibility")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent.resolve()
    rows = rows.assign(path_or_url=[os.path.relpath(Path(p).resolve(), folder) for p in rows["path_or_url"]])
    part = target.with_name(f".{target.name}.part")
    rows.to_csv(part, sep="\t", index=False)
    os.replace(part, target)
    return rows


# --- where to predict ---------------------------------------------------------------------------------------
def prior_windows(folder: ModelFolder, genome_fasta: str | Path) -> Selection:
    """Return the windows of the locus prior that lie on the FASTA's chromosomes, in its order."""
    windows = folder.reference.windows[["chrom", "start", "end"]]
    return _tidy(windows, genome_sizes(genome_fasta), "windows of the locus prior", [])


def region_windows(regions: str | Path, genome_fasta: str | Path, window_bp: int,
                   say: Callable[[str], None] = print) -> Selection:
    """Turn the intervals of a BED file into windows of the model's width.

    An interval up to a window wide gets one window, centred on its midpoint. A wider one is tiled side by side from
    its start; the last tile is drawn back to end with it. Windows come in the FASTA's order, each once. Raises
    ChromaccError that lists every fault of the file, or when no window is left.
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
    return _tidy(pd.DataFrame({"chrom": chroms, "start": first, "end": first + window_bp}), sizes, "windows", counts)


def _tidy(windows: pd.DataFrame, sizes: Mapping[str, int], what: str, counts: list[Count]) -> Selection:
    """Keep windows within their chromosome, each once, in the FASTA's order; raise ChromaccError if none is left."""
    inside = (windows["start"] >= 0) & (windows["end"] <= windows["chrom"].map(sizes))
    once = windows[inside].drop_duplicates()
    counts = [*counts, Count(what, int(inside.sum()), len(windows), "a window must lie within a chromosome of the FASTA"),
              Count(what, len(once), int(inside.sum()), "the same window is predicted once")]
    if not len(once):
        raise ChromaccError(f"no window is left to predict: {'; '.join(map(str, counts))}. Check regions and FASTA")
    rank = once["chrom"].map({chrom: i for i, chrom in enumerate(sizes)})
    return Selection(once.iloc[np.lexsort((once["start"], rank))].reset_index(drop=True), counts)


# --- from files to batches ----------------------------------------------------------------------------------
@dataclass
class _Chunk:
    """Some windows with all that the model reads: codes (W, L), z (W, K, B, 3), observed (W, K), prior row (W,)."""

    windows: pd.DataFrame
    codes: np.ndarray
    values: np.ndarray
    observed: np.ndarray
    prior_row: np.ndarray


def _read_chunks(folder: ModelFolder, inputs: CellTypeInputs, genome_fasta: str | Path, windows: pd.DataFrame,
                 workers: int | None) -> Iterator[_Chunk]:
    """Yield the windows chunk by chunk, in order, without those that have too many N."""
    constants = track_constants(folder.normalization, inputs.tracks)
    for part, codes, signals in _read_signals(_readable(genome_fasta, windows), inputs, folder.model.config.n_bins,
                                              workers, len(windows)):
        raw = np.full((len(part), 1, len(inputs.tracks), folder.model.config.n_bins, 3), np.nan, dtype=np.float32)
        for track, signal in signals.items():
            raw[:, 0, track] = signal
        values, observed = normalise_tracks(raw, inputs.scales[None], constants)
        yield _Chunk(part, codes, values[:, 0], observed[:, 0], folder.reference.find(part))


def _readable(genome_fasta: str | Path, windows: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    with open_genome(genome_fasta) as genome:
        for first in range(0, len(windows), CHUNK_WINDOWS):
            part = windows.iloc[first:first + CHUNK_WINDOWS]
            codes = sequence_codes(genome, part)
            known = (codes == N_CODE).mean(axis=1) <= MAX_N_FRACTION
            yield part[known].reset_index(drop=True), codes[known]


def _read_signals(parts: Iterator[tuple[pd.DataFrame, np.ndarray]], inputs: CellTypeInputs, n_bins: int,
                  workers: int | None, n_windows: int) -> Iterator[tuple[pd.DataFrame, np.ndarray, dict]]:
    """Add {track number: (W, B, 3) raw statistics}; with workers, the next chunk is read while one is predicted."""
    paths = {track: path for track, path in enumerate(inputs.paths) if path is not None}
    if workers is None:
        workers = min(os.cpu_count() or 1, len(paths)) if n_windows * len(paths) >= POOL_FROM else 1
    if workers <= 1:
        for part, codes in parts:
            yield part, codes, {track: binned_signal(path, part, n_bins) for track, path in paths.items()}
        return
    # spawn, not fork: notebooks and torch run threads, and a forked child may deadlock on their locks
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
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


def _batch(folder: ModelFolder, chunk: _Chunk, rows: np.ndarray, metadata: tuple[np.ndarray, np.ndarray],
           shown: Mapping[str, np.ndarray]) -> Batch:
    """One batch: the same windows once for each set of hidden inputs, every accessibility token masked.

    metadata: z (E,) and whether it is known. shown: bool masks of what is not hidden: tracks (H, K), expression (H,),
    prior (H,).
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
        histone=torch.from_numpy(values[:, :, :n_marks]), histone_observed=torch.from_numpy(observed[..., :n_marks]),
        tf=torch.from_numpy(values[:, :, n_marks:]), tf_observed=torch.from_numpy(observed[..., n_marks:]),
        metadata=torch.from_numpy(z * described[..., None]), metadata_observed=torch.from_numpy(described.copy()),
        prior=torch.from_numpy(reference.profile[at][:, None] * prior_known[..., None, None]),
        prior_score=torch.from_numpy(reference.score[at][:, None] * prior_known),
        prior_observed=torch.from_numpy(prior_known), accessibility=masked, accessibility_observed=masked.bool())


def _shown(inputs: CellTypeInputs, hidden: Sequence[Collection[str]]) -> dict[str, np.ndarray]:
    """Return the masks of `_batch`. Raises ChromaccError for a name that is no input of the model."""
    allowed = (*inputs.tracks, EXPRESSION, LOCUS_PRIOR)
    unknown = sorted({name for names in hidden for name in names} - set(allowed))
    if unknown:
        raise ChromaccError(f"cannot hide {', '.join(unknown)}: the model's inputs are {', '.join(allowed)}")
    tracks = np.array([[name not in names for name in inputs.tracks] for names in hidden], dtype=bool)
    return {"tracks": tracks.reshape(len(hidden), len(inputs.tracks)),
            "expression": np.array([EXPRESSION not in names for names in hidden]),
            "prior": np.array([LOCUS_PRIOR not in names for names in hidden])}


# --- prediction ---------------------------------------------------------------------------------------------
def predict_windows(folder: ModelFolder, inputs: CellTypeInputs, genome_fasta: str | Path, windows: pd.DataFrame,
                    hidden: Sequence[Collection[str]] = ((),), *, workers: int | None = 1, device: str = "cpu") -> Predictions:
    """Predict windows (chrom, start, end, of the model's width) in memory, once for each set of hidden inputs.

    hidden: names of tracks, `EXPRESSION` and `LOCUS_PRIOR` that the model is not shown, as if they were missing. Windows
    with more than 5% N are left out. workers: processes that read. Raises ChromaccError for an unknown name.
    """
    parts = [part for _, part in _stream(folder, inputs, genome_fasta, windows, hidden, workers, device)]
    table = pd.concat([part.windows for part in parts], ignore_index=True)
    arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in Predictions._fields[1:])
    return Predictions(table, *arrays)


def _stream(folder: ModelFolder, inputs: CellTypeInputs, genome_fasta: str | Path, windows: pd.DataFrame,
            hidden: Sequence[Collection[str]], workers: int | None, device: str) -> Iterator[tuple[_Chunk, Predictions]]:
    """Yield chunk by chunk what was read, and what is predicted for it."""
    shown = _shown(inputs, hidden)
    z, known = normalise_metadata(inputs.metadata[None], folder.normalization, folder.model.config.features)
    model = folder.model.to(choose_device(device)).eval()
    try:
        with tqdm(total=len(windows), desc=f"predicting {inputs.cell_type}", unit="window", disable=None) as progress:
            for chunk in _read_chunks(folder, inputs, genome_fasta, windows, workers):
                batches = np.array_split(np.arange(len(chunk.windows)), max(1, -(-len(chunk.windows) // BATCH_WINDOWS)))
                outputs = [_output(model, _batch(folder, chunk, rows, (z[0], known[0]), shown), progress)
                           for rows in batches]
                score, logit, profile = (torch.cat(tensors) for tensors in zip(*outputs))
                table = chunk.windows.assign(average_score=_average_score(folder.reference, chunk.prior_row))
                yield chunk, Predictions(table, score.numpy(), logit.sigmoid().numpy(), profile.numpy())
    finally:
        model.to("cpu")


def _output(model: torch.nn.Module, batch: Batch, progress: tqdm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # TF32 would round what a GPU multiplies to 10 bits, and part it from the evaluation
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        output = predict_batch(model, batch.to(next(model.parameters()).device))
    progress.update(len(batch.sequence))
    return output.score.cpu(), output.logit.cpu(), output.profile.cpu()


def _average_score(reference: TrainingReference, prior_row: np.ndarray) -> np.ndarray:
    known = (prior_row >= 0) & reference.observed[prior_row]
    return np.where(known, reference.score[prior_row], np.nan).astype(np.float32)


def predict_manifest(
    model_dir: str | Path, manifest: str | Path, genome_fasta: str | Path, regions: str | Path = "",
    out_dir: str | Path = "prediction", *, cell_type: str = "", threshold: float | None = None, workers: int | None = None,
    device: str = "auto", overwrite: bool = False, say: Callable[[str], None] = print,
) -> Prediction:
    """Predict a cell type that nobody has assayed, and write a bigWig, a BED, a table of windows and summary.json.

    model_dir: a finished run's `model/`. manifest: any subset of the model's tracks, expression or not; accessibility is
    not needed, and not looked at. regions: BED (see `region_windows`), or "" = the windows of the locus prior. cell_type:
    needed when the manifest has several. threshold: probability from which a window is called open; None = the
    evaluation's, beside the model folder, else 0.5. workers: processes that read bigWigs, None = one a core where it
    pays. device: "auto", "cpu" or "cuda". overwrite: replace another cell type's prediction in out_dir.

    The bigWig holds fold over the genome-wide mean by bin: sinh of the predicted profile, at least 0; where windows
    overlap, profiles are averaged on the arcsinh scale first. Files appear only when they are whole, summary.json last.
    Raises ChromaccError that says what is wrong with model, manifest, genome or regions.
    """
    folder = open_model_folder(model_dir)
    inputs = read_inputs(folder, manifest, genome_fasta, cell_type, say)
    out, stem = project_path(out_dir), file_stem(inputs.cell_type, say)
    stale = _stale_files(out, inputs.cell_type, overwrite)
    window_bp = folder.model.config.window_bp
    chosen = region_windows(regions, genome_fasta, window_bp, say) if regions else prior_windows(folder, genome_fasta)
    for count in chosen.counts:
        if count.kept < count.of:
            say(str(count))
    cut, source = _threshold(folder.path, threshold)
    out.mkdir(parents=True, exist_ok=True)
    names = {"bigwig": f"{stem}.bw", "bed": f"{stem}.bed", "windows": f"{stem}.windows.parquet"}
    began, seen = time.perf_counter(), _Seen(folder.reference, len(chosen.windows))
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out) as partial:
        files = {kind: Path(partial) / name for kind, name in names.items()}
        with _Writers(files, genome_sizes(genome_fasta), cut) as writers:
            for chunk, predictions in _stream(folder, inputs, genome_fasta, chosen.windows, ((),), workers, device):
                seen.add(chunk, predictions)
                writers.add(predictions)
        summary = _summary(folder, inputs, regions, [*chosen.counts, seen.count()], seen, writers.n_open, cut, source, names)
        (Path(partial) / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n")
        for path in stale:
            path.unlink(missing_ok=True)
        for name in (*names.values(), "summary.json"):
            os.replace(Path(partial) / name, out / name)
    for line in _told(summary, time.perf_counter() - began):
        say(line)
    return Prediction(out / names["bigwig"], out / names["bed"], out / names["windows"], summary)


def file_stem(cell_type: str, say: Callable[[str], None] = print) -> str:
    """Return a cell type's name as a safe name of files; say so when it had to change.

    Raises ChromaccError when nothing is left of it.
    """
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", cell_type).strip("._-")
    if not re.search("[A-Za-z0-9]", stem):
        raise ChromaccError(f"cell type {cell_type!r}: no letter or digit (A-Z, a-z, 0-9) that could name its files; rename it "
                            "in the manifest")
    if stem != cell_type:
        say(f"files of cell type {cell_type!r} are named {stem!r}: only letters, digits and . _ + - are safe in names of files")
    return stem


def _stale_files(out: Path, cell_type: str, overwrite: bool) -> list[Path]:
    """Files of an earlier prediction of another cell type in the same folder; refused unless `overwrite`."""
    path = out / "summary.json"
    if not path.is_file():
        return []
    try:
        earlier = json.loads(path.read_text())
        before, files = earlier["cell_type"], list(earlier["files"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ChromaccError(f"{path}: not the summary of a prediction ({error}); give another folder") from error
    if before == cell_type:
        return []
    if not overwrite:
        raise ChromaccError(f"{out}: holds the prediction of {before}; give {cell_type} a folder of its own, or let it be "
                            "replaced (overwrite=True, or --overwrite)")
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
        return float(metrics["threshold"]), f"evaluation of the model: {metrics.get('threshold_source', path.name)}"
    return 0.5, "default: no evaluation_metrics.json beside the model folder"


# --- files --------------------------------------------------------------------------------------------------
class _Writers:
    """Append predictions to the bigWig, the BED and the table of windows. files: {"bigwig", "bed", "windows"}."""

    def __init__(self, files: Mapping[str, Path], sizes: Mapping[str, int], threshold: float) -> None:
        self.files, self.sizes, self.threshold = files, sizes, threshold
        self.n_open, self.table = 0, None

    def __enter__(self) -> "_Writers":
        self.bigwig = _BigWigWriter(self.files["bigwig"], self.sizes)
        self.bed = open(self.files["bed"], "w", encoding="utf-8")
        self.bed.write(f"# windows with a predicted probability of being open of {self.threshold:.3f} or more\n# {BED_COLUMNS}\n")
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.bed.close()
        if self.table is not None:
            self.table.close()
        self.bigwig.close(whole=kind is None)

    def add(self, predictions: Predictions) -> None:
        """Append one chunk; windows come in the FASTA's order."""
        columns = {"predicted_score": predictions.score[:, 0], "predicted_probability": predictions.probability[:, 0]}
        table = pa.Table.from_pandas(predictions.windows.assign(**columns), preserve_index=False)
        if self.table is None:
            self.table = parquet.ParquetWriter(self.files["windows"], table.schema)
        self.table.write_table(table)
        self.bigwig.add(predictions.windows, predictions.profile[:, 0])
        self._add_bed(predictions)

    def _add_bed(self, predictions: Predictions) -> None:
        rows = np.flatnonzero(predictions.probability[:, 0] >= self.threshold)
        some = predictions.windows.iloc[rows]
        if not len(some):
            return
        edges = bin_edges(int(some["end"].iloc[0] - some["start"].iloc[0]), predictions.profile.shape[2])
        top, start = predictions.profile[rows, 0].argmax(axis=1), some["start"].to_numpy()
        bed = pd.DataFrame({
            "chrom": some["chrom"], "start": start, "end": some["end"],
            "name": [f"open_{self.n_open + i + 1}" for i in range(len(rows))],
            "score": np.rint(1000 * predictions.probability[rows, 0]).astype(int), "strand": ".",
            "thick_start": start + edges[top], "thick_end": start + edges[top + 1], "colour": BED_COLOUR})
        bed.to_csv(self.bed, sep="\t", header=False, index=False)
        self.n_open += len(rows)


@dataclass
class _BigWigWriter:
    """Write bins of windows that come in the FASTA's order; where they overlap, the mean of what was predicted.

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
            self.handle.addEntries([self.chrom] * len(starts), starts.tolist(), ends=ends.tolist(), values=fold.tolist())

    def close(self, whole: bool = True) -> None:
        """Write what is held, unless something failed, and close the file."""
        if whole:
            self._flush(None)
        self.handle.close()


def _mean_of_overlaps(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut intervals (start, end, value), shape=(n, 3), where they begin and end; return disjoint ones, with mean values."""
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


# --- quality ------------------------------------------------------------------------------------------------
class _Seen:
    """What went through: windows, which inputs were there, how far they lie from training, and the locus average."""

    def __init__(self, reference: TrainingReference, n_windows: int) -> None:
        self.reference, self.n_asked = reference, n_windows
        self.n_windows = self.n_with_prior = 0
        self.n_observed = np.zeros(reference.track_mean.shape[1], dtype=np.int64)
        self.weights, self.sums = np.zeros((2, len(self.n_observed))), np.zeros((2, len(self.n_observed)))
        self.pairs: list[np.ndarray] = []

    def add(self, chunk: _Chunk, predictions: Predictions) -> None:
        """Take in one chunk. Distance from training is taken over windows of the locus prior, where it is known."""
        self.n_windows += len(chunk.windows)
        self.n_observed += chunk.observed.sum(axis=0)
        at = np.flatnonzero(chunk.prior_row >= 0)
        for track in range(chunk.observed.shape[1]):
            weight = chunk.observed[at, track].sum()
            if weight:
                figures = track_figures(chunk.values[at][:, None, track], chunk.observed[at][:, None, track])
                self.sums[:, track] += weight * np.array(figures)[:, 0]
                self.weights[:, track] += weight
        average = predictions.windows["average_score"].to_numpy()
        known = np.isfinite(average)
        self.n_with_prior += int(known.sum())
        self.pairs.append(np.stack([average[known], predictions.score[known, 0]]))

    def count(self) -> Count:
        """Windows that were predicted, of those asked for."""
        return Count("windows", self.n_windows, self.n_asked, f"at most {MAX_N_FRACTION:.0%} of the bases may be N")

    @property
    def average_correlation(self) -> float | None:
        """Pearson's r of predicted score and locus average; None where it is not defined."""
        average, score = np.concatenate(self.pairs, axis=1).astype(np.float64)
        if len(score) < 3 or average.std() == 0 or score.std() == 0:
            return None
        return float(np.corrcoef(average, score)[0, 1])

    def track_table(self, tracks: Sequence[str]) -> dict[str, dict]:
        """Of each track: share of windows observed; mean z and mean |z|, beside mean and sd of the training cell types'.

        None = not known. far_from_training: a figure more than `FAR_SD` of these sd from that mean; needs three training
        cell types with the track.
        """
        figures = np.divide(self.sums, self.weights, out=np.full_like(self.sums, np.nan), where=self.weights > 0)
        table = {}
        for i, name in enumerate(tracks):
            row: dict = {"observed_share": float(self.n_observed[i] / max(self.n_windows, 1))}
            far = []
            for what, here, training in (("mean_z", figures[0, i], self.reference.track_mean[:, i]),
                                         ("mean_abs_z", figures[1, i], self.reference.track_spread[:, i])):
                known = training[np.isfinite(training)]
                mean, sd = (float(known.mean()), float(known.std(ddof=1))) if len(known) > 2 else (None, None)
                row |= {what: float(here) if np.isfinite(here) else None, f"training_{what}": mean, f"training_{what}_sd": sd}
                far.append(None if row[what] is None or mean is None else abs(row[what] - mean) > FAR_SD * sd)
            table[name] = row | {"far_from_training": None if None in far else any(far)}
        return table


def _expression_distance(folder: ModelFolder, inputs: CellTypeInputs) -> dict | None:
    """Root mean square z difference to the nearest training cell type, beside theirs to their nearest; None = unknown."""
    z, known = normalise_metadata(inputs.metadata[None], folder.normalization, folder.model.config.features)
    training = folder.reference.metadata
    described = np.isfinite(training).any(axis=1)
    if not (known[0] and described.any()):
        return None
    z = np.where(np.isfinite(inputs.metadata), z[0], np.nan)
    names = np.array(folder.reference.cell_types)[described]
    training = training[described].astype(np.float64)
    away = np.sqrt(np.nanmean((training - z) ** 2, axis=1))
    between = np.sqrt(np.nanmean((training[:, None] - training) ** 2, axis=2))
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    return {"nearest_training_cell_type": str(names[away.argmin()]), "distance": float(away.min()),
            "training_median_to_nearest": float(np.median(nearest)) if len(names) > 1 else None}


def _summary(folder: ModelFolder, inputs: CellTypeInputs, regions: str | Path, counts: list[Count], seen: _Seen,
             n_open: int, threshold: float, source: str, names: Mapping[str, str]) -> dict:
    table = seen.track_table(inputs.tracks)
    far = [name for name, row in table.items() if row["far_from_training"]]
    spread = [row["mean_abs_z"] for row in table.values() if row["mean_abs_z"] is not None]
    root = project_path("")
    return {
        "cell_type": inputs.cell_type, "simulated": inputs.simulated or folder.reference.simulated,
        "assembly": inputs.assembly,
        "model": str(folder.path.relative_to(root) if folder.path.is_relative_to(root) else folder.path.name),
        "model_weights_sha256": folder.weights_sha256,
        "trained_on_this_cell_type": inputs.cell_type in folder.reference.cell_types,
        "regions": Path(regions).name if regions else "windows of the locus prior", "n_windows": seen.n_windows,
        "counts": [str(count) for count in counts],
        "windows_without_locus_prior": seen.n_windows - seen.n_with_prior,
        "inputs_present": list(inputs.present), "inputs_missing": list(inputs.missing), "inputs_unused": list(inputs.unused),
        "mean_abs_z_of_inputs": float(np.mean(spread)) if spread else None,
        "tracks_far_from_training": far, "tracks": table,
        "expression": _expression_distance(folder, inputs), "correlation_with_locus_average": seen.average_correlation,
        "threshold": threshold, "threshold_source": source, "n_open_windows": n_open, "files": dict(names),
        "bigwig_unit": "fold over the genome-wide mean, by bin, at least 0; overlapping windows averaged on the arcsinh scale",
        "bed_columns": BED_COLUMNS,
        "versions": {"chromacc": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }


def _told(summary: Mapping, seconds: float) -> list[str]:
    """The lines that a user should read."""
    n, without = summary["n_windows"], summary["windows_without_locus_prior"]
    lines = [f"{summary['cell_type']}: {n:,} windows in {seconds:.1f} s ({n / seconds:,.0f} a second), "
             f"{summary['n_open_windows']:,} called open",
             f"inputs present: {', '.join(summary['inputs_present'])}; missing: {', '.join(summary['inputs_missing']) or 'none'}"]
    if summary["trained_on_this_cell_type"]:
        lines.append(f"note: {summary['cell_type']} is one of the model's training cell types: its own accessibility is in the "
                     "locus average, and this is no prediction of an unseen cell type")
    if without:
        lines.append(f"no locus prior for {without:,} of {n:,} windows, because they are no windows of the training data: "
                     "there the model does without")
    if summary["tracks_far_from_training"]:
        lines.append(f"far from the training cell types (more than {FAR_SD} sd from their mean): "
                     + ", ".join(summary["tracks_far_from_training"]))
    return lines
