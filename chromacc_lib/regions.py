"""Regions: a store that is laid out first, then filled region by region, one dask task each, anywhere.

A region is a run of neighbouring windows in genome order, whole chunks of the store, so that no two tasks write
the same file, and a bigWig block is inflated about once. What a task holds is bounded by `REGION_BYTES`,
whatever the number of windows. A region's marker is written when its data are on the disk: a rerun fills only
those without one. All coordinates are 0-based half-open, in bp.
"""

import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import dask.array
import distributed
import numpy as np
import pandas as pd
import xarray as xr
from distributed.comm.addressing import parse_address, parse_host_port

import chromacc_lib
from chromacc_lib import ChromaccError, cores
from chromacc_lib.cache import fetched_here, sync
from chromacc_lib.genes import TF_TABLE
from chromacc_lib.genome import open_genome
from chromacc_lib.normalization import BLOCK_WINDOWS, reads_windows, track_problems
from chromacc_lib.problems import Problem, require_no_problems
from chromacc_lib.progress import progress
from chromacc_lib.signals import Signal, read_signal, window_mean
from chromacc_lib.windows import sequence_codes

__all__ = [
    "CHUNK_WINDOWS", "TRACK_KINDS", "Plan", "SignalFile", "code_hashes", "connect", "fill_regions", "is_begun", "lay_out",
    "region_windows", "regions_to_do", "remove_markers", "require_normalisable", "write_durably",
]

CHUNK_WINDOWS = BLOCK_WINDOWS  # windows a zarr chunk: some MB for the largest variable
REGION_BYTES = 64 << 20        # of one region's arrays, unless one chunk takes more
MOST_CHUNKS = 4                # of a region: tasks of a second or so
FEWEST_REGIONS = 16            # where the windows suffice for it: every core has something to do
CONNECT_S = 15                 # to reach a scheduler, and for it to have a worker
SAMPLE_WINDOWS = 8 * BLOCK_WINDOWS  # that a file is tried under before the store is filled
AHEAD = 3                      # tasks a thread that are handed out before the first comes back
FORMAT = {"zarr_format": 2}    # whose fixed-width text is part of the specification
TRACK_KINDS = ("histone", "tf")

_DIMS = {
    "sequence": ("window", "position"),
    "histone": ("window", "cell_type", "histone_mark", "bin", "statistic"),
    "tf": ("window", "cell_type", "tf_name", "bin", "statistic"),
    "covered": ("window", "cell_type", "track"),
    "accessibility": ("window", "cell_type", "bin"),
    "accessibility_raw": ("window", "cell_type", "replicate", "bin", "statistic"),
    "accessibility_covered": ("window", "cell_type", "replicate"),
    "score": ("window", "cell_type"),
    "score_replicate": ("window", "cell_type", "replicate"),
    "label": ("window", "cell_type"),
    "truth": ("window", "cell_type"),
}
_DTYPES = {"sequence": np.uint8, "label": np.int8}  # all others: float32


# --- what there is to do ------------------------------------------------------------------------------------
class SignalFile(NamedTuple):
    """One bigWig, and its place in the dataset.

    variable: "histone", "tf", "accessibility" or "truth"; path: or URL; cell, slot: numbers of its cell type,
    and of its mark, TF or replicate; genome_mean: in file units; chroms: those with data in it.
    """

    variable: str
    path: str
    cell: int
    slot: int
    genome_mean: float
    chroms: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What every region is filled from.

    store: the zarr folder; sizes: of every dimension but window; chunk_windows: windows a zarr chunk; aliases: of
    chromosomes, see `bigwig.open_bigwig`.
    """

    store: str
    genome_fasta: str
    sizes: Mapping[str, int]
    files: tuple[SignalFile, ...]
    chunk_windows: int
    aliases: Mapping[str, str] = field(default_factory=dict)

    def shapes(self, n_windows: int) -> dict[str, tuple[int, ...]]:
        """Return {variable: shape} of what regions write; truth only where a file of it is given."""
        sizes = {**self.sizes, "window": n_windows}
        return {name: tuple(sizes[dim] for dim in dims) for name, dims in _DIMS.items()
                if name != "truth" or any(file.variable == "truth" for file in self.files)}


class _Region(NamedTuple):
    """One task: the region's number, its first window, its windows, and their labels, int8, shape=(W, C)."""

    number: int
    first: int
    windows: pd.DataFrame
    label: np.ndarray


def region_windows(plan: Plan, n_windows: int) -> int:
    """Return the number of windows a region: whole chunks, by the size of their arrays and the number of windows.

    The result of a curation does not depend on it.
    """
    shapes = plan.shapes(plan.chunk_windows)
    chunk_bytes = sum(int(np.prod(shape)) * np.dtype(_DTYPES.get(name, np.float32)).itemsize
                      for name, shape in shapes.items())
    n_chunks = -(-n_windows // plan.chunk_windows)
    return plan.chunk_windows * max(1, min(MOST_CHUNKS, REGION_BYTES // chunk_bytes, n_chunks // FEWEST_REGIONS))


# --- what the normalisation cannot take ---------------------------------------------------------------------
def require_normalisable(plan: Plan, dataset: xr.Dataset, method: str) -> None:
    """Raise ChromaccError that lists every file which the method cannot take, before the store is filled.

    dataset: the store's coordinates. Files are read under the windows of training chromosomes: evenly spaced
    `SAMPLE_WINDOWS` of them first, then, where a track has a file that is refused there, all. So no file is refused
    for where the sample fell; one that only all windows would refuse is left to `fit_normalization`. Methods that
    need no more than a file's header read nothing.
    """
    if not reads_windows(method):
        return
    rows = np.flatnonzero(dataset["window_split"].values == "train")
    sample = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLE_WINDOWS)).astype(int)]
    tracks: dict[tuple[str, int], list[SignalFile]] = {}
    for file in plan.files:
        if file.variable in TRACK_KINDS:
            tracks.setdefault((file.variable, file.slot), []).append(file)
    problems = []
    for files in tracks.values():
        found = _track_problems(plan, dataset, files, sample, method)
        problems += _track_problems(plan, dataset, files, rows, method) if found and len(rows) > len(sample) else found
    require_no_problems(problems)


def _track_problems(plan: Plan, dataset: xr.Dataset, files: list[SignalFile], rows: np.ndarray, method: str
                    ) -> list[Problem]:
    """Return what keeps the files of one track from being normalised, under some windows: rows, shape=(W,)."""
    windows = pd.DataFrame({name: dataset[name].values[rows] for name in ("chrom", "start", "end")})
    cells, n_bins = dataset["cell_type"].values, plan.sizes["bin"]
    means, scales = np.full((len(rows), len(cells), n_bins), np.nan, dtype=np.float32), np.full(len(cells), np.nan)
    names = [""] * len(cells)
    dim = "histone_mark" if files[0].variable == "histone" else "tf_name"
    for file in files:  # in this thread, so that what a remote file sends is counted
        means[:, file.cell] = read_signal(file.path, windows, n_bins, file.chroms, plan.aliases).values[..., 0]
        scales[file.cell] = file.genome_mean
        names[file.cell] = f"{cells[file.cell]}, {dataset[dim].values[file.slot]} ({file.path})"
    is_peak, training = dataset["kind"].values[rows] == "peak", dataset["cell_type_split"].values == "train"
    return track_problems(means, scales, is_peak, training, method, names)


# --- the store ----------------------------------------------------------------------------------------------
def lay_out(dataset: xr.Dataset, plan: Plan, fingerprint: str, per_region: int) -> None:
    """Write the store with everything but what regions fill, which gets its shape, its chunks and no data.

    dataset: coordinates, attributes, and the variables without a window dimension. fingerprint: of all input;
    it is written beside the store, last of all, and `is_begun` compares it. Raises ChromaccError unless
    per_region is whole chunks, since no two tasks may write the same one.
    """
    if per_region < 1 or per_region % plan.chunk_windows:
        raise ChromaccError(f"per_region: got {per_region} windows, needed a multiple of {plan.chunk_windows}, the "
                            "windows of a chunk")
    store = Path(plan.store)
    encoding = {}
    for name, shape in plan.shapes(dataset.sizes["window"]).items():
        dtype = _DTYPES.get(name, np.float32)
        if 0 in shape:  # no such track in this dataset
            dataset[name] = (_DIMS[name], np.zeros(shape, dtype=dtype))
        else:
            dataset[name] = (_DIMS[name], dask.array.zeros(shape, dtype=dtype, chunks=shape))
            encoding[name] = {"chunks": (min(plan.chunk_windows, shape[0]), *shape[1:])}
    # compute=False: the zeros are a promise of shape and dtype, and nothing of them is written
    dataset.to_zarr(store, mode="w", encoding=encoding, consolidated=True, compute=False, **FORMAT)
    for path in store.rglob("*"):
        sync(path)
    _markers(store).mkdir()
    write_durably(_beginning(store), json.dumps({"fingerprint": fingerprint, "region_windows": per_region}))


def is_begun(store: str | Path, fingerprint: str, per_region: int) -> bool:
    """Say whether `store` was laid out for the very same input and regions, so that filling it can go on."""
    path = _beginning(Path(store))
    return path.is_file() and json.loads(path.read_text()) == {
        "fingerprint": fingerprint, "region_windows": per_region}


def _beginning(store: Path) -> Path:
    return store.with_name("begun.json")


def _markers(store: Path) -> Path:
    return store.with_name("regions")


def write_durably(path: Path, text: str) -> None:
    """Write a small file under a temporary name, bring it to the disk, and rename it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text + "\n")
    sync(new)
    os.replace(new, path)
    sync(path.parent)


# --- filling ------------------------------------------------------------------------------------------------
def fill_regions(plan: Plan, windows: pd.DataFrame, label: np.ndarray, per_region: int, address: str = "",
                 workers: int | None = None, say: Callable[[str], None] = print) -> int:
    """Fill a store that was laid out, but for the regions that are there already; return the bytes fetched for it.

    These came over the network, to whichever worker; what the cache had counts as nothing.
    windows: chrom, start, end, in genome order; label: int8, shape=(W, C), -1 = unknown. per_region: windows
    a region. address: of a dask scheduler, "" = a local cluster of `workers` threads (None = one a core).
    Raises the first region's ChromaccError, or one that names the scheduler; what is there stays there.
    """
    numbers, todo = range(-(-len(windows) // per_region)), regions_to_do(plan, len(windows), per_region)
    if len(todo) < len(numbers):
        say(f"{len(numbers) - len(todo)} of {len(numbers)} regions were there already")
    regions = (_Region(number, first, windows.iloc[first:first + per_region][["chrom", "start", "end"]],
                       label[first:first + per_region])
               for number, first in ((number, number * per_region) for number in todo))
    with progress(len(numbers), "curation", "regions", len(numbers) - len(todo)) as bar:
        fetched = 0
        for here in _run(plan, regions, address, workers) if todo else ():
            fetched += here
            bar.update()
    return fetched


def regions_to_do(plan: Plan, n_windows: int, per_region: int) -> list[int]:
    """Return the numbers of the regions of a store that no run has filled yet; region i begins at i * per_region."""
    markers = _markers(Path(plan.store))
    return [number for number in range(-(-n_windows // per_region))
            if not (markers / f"{number:06d}.done").exists()]


def remove_markers(store: str | Path) -> None:
    """Remove what tells finished regions, and what killed writers left, when nothing is left to be interrupted."""
    for path in Path(store).rglob("*.partial"):  # zarr's temporary names
        path.unlink()
    _beginning(Path(store)).unlink(missing_ok=True)
    if _markers(Path(store)).is_dir():
        shutil.rmtree(_markers(Path(store)))


def _run(plan: Plan, regions: Iterator[_Region], address: str, workers: int | None) -> Iterator[int]:
    """Hand out regions in genome order, a few ahead; yield the bytes that each fetched when it is done."""
    with _open_client(address, workers, plan) as client:
        jobs = distributed.as_completed(loop=client.loop)
        ahead = AHEAD * sum(client.nthreads().values())
        for _, region in zip(range(ahead), regions):
            jobs.add(client.submit(_fill, plan, region, pure=False))
        for job in jobs:
            try:
                yield job.result()
            except distributed.KilledWorker as error:
                raise ChromaccError(
                    f"workers of {address or 'the local cluster'} died at the same region several times ({error}); "
                    "most often memory runs out: give them more, or fewer threads each. Run again: what is done is "
                    "kept") from error
            region = next(regions, None)
            if region is not None:
                jobs.add(client.submit(_fill, plan, region, pure=False))


def _fill(plan: Plan, region: _Region) -> int:
    """Read all files under a region, write its slice of every variable, mark it as done; return the bytes fetched."""
    before = fetched_here()
    last = region.first + len(region.windows)
    arrays = _region_arrays(plan, region)
    part = xr.Dataset({name: (_DIMS[name], array) for name, array in arrays.items() if array.size})
    part.to_zarr(plan.store, region={"window": slice(region.first, last)}, mode="r+", consolidated=True, **FORMAT)
    store = Path(plan.store)
    for name in part.data_vars:
        for chunk in range(region.first // plan.chunk_windows, -(-last // plan.chunk_windows)):
            path = store / name / ".".join([str(chunk)] + ["0"] * (part[name].ndim - 1))
            if path.exists():  # a chunk of nothing but the fill value, NaN, is not written
                sync(path)
        sync(store / name)
    write_durably(_markers(store) / f"{region.number:06d}.done", f"windows {region.first} to {last}")
    return fetched_here() - before


def _region_arrays(plan: Plan, region: _Region) -> dict[str, np.ndarray]:
    """Return every variable of a region, (W, ...); NaN = missing, and -1 in label."""
    windows, length, n_bins = region.windows, plan.sizes["position"], plan.sizes["bin"]
    out = {name: np.full(shape, np.nan, dtype=np.float32) for name, shape in plan.shapes(len(windows)).items()
           if name not in ("sequence", "label")}
    profile = np.full((*out["accessibility"].shape, plan.sizes["replicate"]), np.nan, dtype=np.float32)
    for file in plan.files:
        signal = read_signal(file.path, windows, n_bins, file.chroms, plan.aliases)
        if file.variable in TRACK_KINDS:
            out[file.variable][:, file.cell, file.slot] = signal.values
            track = file.slot + (plan.sizes["histone_mark"] if file.variable == "tf" else 0)
            out["covered"][:, file.cell, track] = _covered(signal, length)
        elif file.variable == "accessibility":
            out["accessibility_raw"][:, file.cell, file.slot] = signal.values
            out["accessibility_covered"][:, file.cell, file.slot] = _covered(signal, length)
            profile[:, file.cell, :, file.slot] = signal.values[:, :, 0] / file.genome_mean
        else:
            out["truth"][:, file.cell] = np.arcsinh(
                window_mean(signal.values[:, :, 0], length) / file.genome_mean)
    pooled = _mean_of_known(profile)
    out["accessibility"] = np.arcsinh(pooled)
    out["score"] = np.arcsinh(window_mean(pooled, length)).astype(np.float32)
    out["score_replicate"] = np.arcsinh(window_mean(np.moveaxis(profile, 3, 2), length)).astype(np.float32)
    out["label"] = np.where(np.isfinite(profile).any(axis=(2, 3)), region.label, -1).astype(np.int8)
    with open_genome(plan.genome_fasta) as genome:
        out["sequence"] = sequence_codes(genome, windows)
    return out


def _covered(signal: Signal, window_bp: int) -> np.ndarray:
    """Return the share of each window's bases that have data, shape=(W,); NaN on a chromosome without any."""
    return np.where(np.isnan(signal.values[:, 0, 0]), np.nan, window_mean(signal.covered, window_bp))


def _mean_of_known(profile: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where all are. (W, C, B, R) -> (W, C, B), float32."""
    known = np.isfinite(profile)
    total = np.where(known, profile, 0).sum(axis=-1, dtype=np.float64)
    count = known.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).astype(np.float32)


# --- dask ---------------------------------------------------------------------------------------------------
@contextmanager
def _open_client(address: str, workers: int | None, plan: Plan) -> Iterator[distributed.Client]:
    """Connect to a scheduler, or start a local cluster of threads in this process; both are left at the end.

    Threads suffice, as bigWigs are read without Python's lock; such a cluster starts within 0.1 s, and shares
    open files and compiled code. Its status page takes a free port of this machine alone.
    """
    if address:
        with connect(address) as client:
            _require_same_project(client, address, plan)
            yield client
        return
    threads = workers or cores()
    with distributed.LocalCluster(processes=False, n_workers=1, threads_per_worker=threads, memory_limit=0,
                                  dashboard_address="127.0.0.1:0", silence_logs=logging.ERROR) as cluster:
        with distributed.Client(cluster, set_as_default=False) as client:
            yield client


def connect(address: str) -> distributed.Client:
    """Return a client of the scheduler at an address, which has a worker. Raises ChromaccError that names it."""
    try:
        scheme, place = parse_address(address)
        host, port = parse_host_port(place)
        if scheme in ("tcp", "tls"):  # a client that cannot connect complains long after
            socket.create_connection((host, port), CONNECT_S).close()
        client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ChromaccError(
            f"dask_address: no dask scheduler can be reached at {address!r} within {CONNECT_S} s ({error}); needed "
            "an address such as tcp://host:8786, as `dask scheduler` prints it, or \"\" for a local cluster"
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        client.close()
        raise ChromaccError(f"dask_address: the scheduler at {address} has no worker; start some with `dask worker "
                            f"{address}`, where this project is installed and has the same paths") from error
    return client


def _require_same_project(client: distributed.Client, address: str, plan: Plan) -> None:
    """Raise ChromaccError unless every worker has this project's code, and sees the store under its path."""
    remedy = ("every worker needs the project installed, in this version, and the same paths (a shared file "
              "system)")
    try:
        found = client.run(_seen, plan.store)
    except ImportError as error:
        raise ChromaccError(f"dask_address: a worker of {address} cannot import the project ({error}); {remedy}"
                            ) from error
    for worker, seen in found.items():
        for what, same in zip(("another version of the project's code", f"no {plan.store}"),
                              (a == b for a, b in zip(seen, _seen(plan.store)))):
            if not same:
                raise ChromaccError(f"dask_address: worker {worker} of {address} has {what}; {remedy}")


def _seen(store: str) -> tuple[tuple[str, ...], bool]:
    return code_hashes(), Path(store).is_dir()


@lru_cache(1)
def code_hashes() -> tuple[str, ...]:
    """Return the md5 of each module, and of the table of TFs, whose change curates again, in their order."""
    folder = Path(chromacc_lib.__file__).parent
    files = [*(folder / f"{name}.py" for name in _SOURCES), TF_TABLE]
    return tuple(hashlib.md5(file.read_bytes()).hexdigest() for file in files)


_SOURCES = ("__init__", "network", "cache", "sources", "genome", "bigwig", "genes", "bed", "manifest", "fetch",
            "matching", "windows", "intake", "signals", "normalization", "regions", "dataset", "curation")
