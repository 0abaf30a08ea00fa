"""Shared fixtures: tiny genomes, bigWigs, peaks and manifests, written by hand into a temporary folder."""

import ctypes
import os
import platform
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core: none of them, nor what it starts, takes all cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from hypothesis import HealthCheck, settings
from tried import pytest_addoption, pytest_runtest_logreport, pytest_sessionfinish, tried  # noqa: F401

from chromacc_lib import project_path
from chromacc_lib.curation import CurationParameters, curate

# the same few examples at each run; `make fuzz` draws many, anew each time, and keeps what fails in .hypothesis
quiet = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("few", max_examples=25, derandomize=True, database=None, **quiet)
settings.register_profile("many", max_examples=int(os.environ.get("EXAMPLES", 20_000)), print_blob=True, **quiet)
settings.load_profile("few")

Intervals = Mapping[str, Sequence[tuple[int, int,
                                        float]]]  # {chrom: [(start, end, value)]}, 0-based half-open


def write_fasta(path: Path, sequences: Mapping[str, str]) -> Path:
    """Write sequences in lines of 60 bases."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        for name, bases in sequences.items():
            lines = [bases[i:i + 60] for i in range(0, len(bases), 60)]
            handle.write("\n".join([f">{name}", *lines]) + "\n")
    return path


def write_bigwig(path: Path, sizes: Mapping[str, int], intervals: Intervals) -> Path:
    """Write a bigWig with the given intervals, in the order of `sizes`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader(list(sizes.items()))
        for chrom in sizes:
            rows = intervals.get(chrom, ())
            if rows:
                starts, ends, values = zip(*rows)
                handle.addEntries([chrom] * len(rows),
                                  list(starts),
                                  ends=list(ends),
                                  values=list(map(float, values)))
    return path


def write_lines(path: Path, *lines: str) -> Path:
    """Write lines, each ended by a newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write manifest rows; whatever column a row does not name is empty, but for the assembly."""
    columns = [
        "cell_type", "assay", "target", "kind", "path_or_url", "md5", "accession", "biosample", "donor",
        "assembly", "output_type", "replicate", "lineage"
    ]
    pd.DataFrame([{
        "assembly": "tiny1",
        **row
    } for row in rows], columns=columns).to_csv(path, sep="\t", index=False)
    return path


@dataclass(frozen=True)
class TinyProject:
    """Paths of a tiny project that can be curated, and what it was made of."""

    folder: Path
    manifest: Path
    genome_fasta: Path
    blacklist: Path
    sizes: dict[str, int]
    cell_types: tuple[str, ...]


CELL_TYPES = ("A", "B", "C", "D", "E", "F")


def make_project(folder: Path) -> TinyProject:
    """Write a project of six cell types x six chromosomes of 60 kb: two marks, one TF, expression, two
    replicates.

    Every 6 kb lies an element of 600 bp; it is open in a cell type by the parity of its number and the cell
    type's. Cell type B lacks H3K4me3, and C's CTCF has nothing on chrT2: missing assays of both kinds.
    """
    rng = np.random.default_rng(0)
    sizes = {f"chrT{i}": 60_000 for i in range(1, 7)}
    genome = write_fasta(folder / "genome.fa", {
        chrom: "".join(rng.choice(list("ACGT"), size)) for chrom, size in sizes.items()})
    rows = []
    for number, cell in enumerate(CELL_TYPES):
        base = {"cell_type": cell, "donor": f"donor{cell}", "lineage": "even" if number % 2 == 0 else "odd"}
        openness = {
            chrom: [(3_000 + 6_000 * i, (i + number) % 2 or i % 3 == 0) for i in range(10)]
            for chrom in sizes
        }
        (folder / cell).mkdir(parents=True)
        for replicate in ("1", "2"):
            _noisy(folder / cell / f"ATAC{replicate}.bw", sizes, openness, rng, scale=1 + number)
            rows.append(
                base | {
                    "target": "accessibility",
                    "kind": "accessibility_signal",
                    "replicate": replicate,
                    "path_or_url": f"{cell}/ATAC{replicate}.bw"
                })
        peaks = [f"{chrom}\t{at - 300}\t{at + 300}\t{cell}\t0\t.\t{10 + i}\t-1\t-1\t300"
                 for chrom in sizes for i, (at, is_open) in enumerate(openness[chrom]) if is_open]
        write_lines(folder / cell / "peaks.narrowPeak", *peaks)
        rows.append(base | {"target": "accessibility", "kind": "accessibility_peaks",
                            "path_or_url": f"{cell}/peaks.narrowPeak"})
        for kind, target in (("histone", "H3K27ac"), ("histone", "H3K4me3"), ("tf", "CTCF")):
            if (cell, target) == ("B", "H3K4me3"):
                continue
            without = {"chrT2"} if (cell, target) == ("C", "CTCF") else set()
            _noisy(folder / cell / f"{target}.bw", sizes, openness, rng, scale=2 + number, without=without)
            rows.append(base | {"target": target, "kind": kind, "path_or_url": f"{cell}/{target}.bw"})
        write_lines(folder / cell / "expression.tsv", "gene\ttpm", f"CTCF\t{number + 1}",
                    f"GATA1\t{10 * number}")
        rows.append(base | {
            "target": "expression",
            "kind": "expression",
            "path_or_url": f"{cell}/expression.tsv"
        })
    manifest = write_manifest(folder / "tracks.tsv", rows)
    blacklist = write_lines(folder / "blacklist.bed", "chrT1\t2000\t4000")
    return TinyProject(folder, manifest, genome, blacklist, sizes, CELL_TYPES)


def _noisy(path: Path, sizes: Mapping[str, int], openness: Mapping[str, list], rng: np.random.Generator,
           scale: float, without: set[str] = frozenset()) -> None:
    """Write a 50-bp track: gamma noise, times 8 in open elements, times `scale`."""
    intervals = {}
    for chrom, size in sizes.items():
        if chrom in without:
            continue
        values = rng.gamma(2.0, 0.5, size // 50)
        for at, is_open in openness[chrom]:
            if is_open:
                values[(at - 300) // 50:(at + 300) // 50] *= 8
        intervals[chrom] = [(50 * i, 50 * (i + 1), round(scale * v, 3)) for i, v in enumerate(values)]
    write_bigwig(path, sizes, intervals)


# small enough for seconds: 1,000-bp windows, 10 bins; D is tested on, and nothing is left for validation
PARAMETERS = CurationParameters(window_bp=1000,
                                n_bins=10,
                                test_cell_types=("D", ),
                                validation_cell_types=("E", ))


@pytest.fixture(scope="session")
def _template(tmp_path_factory: pytest.TempPathFactory) -> TinyProject:
    return make_project(tmp_path_factory.mktemp("template") / "tiny")


@pytest.fixture
def project(tmp_path: Path, _template: TinyProject) -> TinyProject:
    """A tiny project of one's own, to be changed at will."""
    folder = tmp_path / "tiny"
    shutil.copytree(_template.folder, folder)
    moved = {
        name: folder / getattr(_template, name).name
        for name in ("manifest", "genome_fasta", "blacklist")
    }
    return replace(_template, folder=folder, **moved)


def _without_override() -> None:
    """Let the permissions of files count for this thread, also where it is root's (Linux: capset(2))."""
    if os.geteuid() != 0:
        return
    libc, header = ctypes.CDLL(None, use_errno=True), struct.pack("<Ii", 0x20080522, 0)
    numbers = {"x86_64": (125, 126), "aarch64": (90, 91)}[platform.machine()]  # of capget and capset
    data = ctypes.create_string_buffer(24)
    assert libc.syscall(numbers[0], header, data) == 0
    sets = list(struct.unpack("<6I", data.raw))
    sets[:3] = (held & ~0b110 for held in sets[:3])  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.syscall(numbers[1], header, struct.pack("<6I", *sets)) == 0


@pytest.fixture
def unprivileged() -> Callable:
    """A function that calls another one in a thread for which permissions count, and returns what it returned."""

    def call(function: Callable) -> object:
        with ThreadPoolExecutor(1, initializer=_without_override) as pool:
            return pool.submit(function).result()

    return call


@pytest.fixture
def read_only(unprivileged: Callable) -> Callable:
    """A function that calls another one while nothing below a folder can be written, and returns what it returned."""

    def call(folder: Path, function: Callable) -> object:
        paths = [folder, *folder.rglob("*")]
        modes = [path.stat().st_mode for path in paths]
        for path, mode in zip(paths, modes):
            path.chmod(mode & ~0o222)
        try:
            return unprivileged(function)
        finally:
            for path, mode in zip(paths, modes):
                path.chmod(mode)

    return call


@pytest.fixture(scope="session")
def curated(_template: TinyProject, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyProject, Path]:
    """A tiny project and its curated dataset's folder; shared, so not to be changed."""
    result = curate(_template.manifest,
                    _template.genome_fasta,
                    tmp_path_factory.mktemp("curated") / "dataset",
                    PARAMETERS,
                    blacklist=_template.blacklist,
                    say=lambda line: None)
    return _template, result.path


REAL = Path(os.environ.get("CHROMACC_REAL") or project_path("../shared/real"))
RECORDED = Path(os.environ.get("CHROMACC_ENCODE_API") or project_path("../shared/encode_api"))


@pytest.fixture(scope="session")
def real_folder() -> Path:
    """Folder of real tracks, from CHROMACC_REAL or beside the checkout; the test is skipped, saying so,
    without it.
    """
    if not (REAL / "tracks.tsv").is_file():
        pytest.skip(f"no real tracks at {REAL} (set CHROMACC_REAL to a folder with tracks.tsv)")
    return REAL


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of recorded answers, from CHROMACC_ENCODE_API or beside the checkout."""
    if not list(RECORDED.glob("experiment_*.json.gz")):
        pytest.skip(f"no recorded answers at {RECORDED} (set CHROMACC_ENCODE_API to a folder with "
                    "experiment_*.json.gz)")
    return RECORDED


NO_SKIPS = bool(os.environ.get("CHROMACC_NO_SKIPS"))  # as CI sets it: every test runs, but those that need a GPU


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Where no test may be skipped, one that is fails, saying why, unless it needs a GPU."""
    report = (yield).get_result()
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail") and "GPU" not in str(report.longrepr):
        report.outcome, report.longrepr = "failed", f"skipped, and CHROMACC_NO_SKIPS is set: {report.longrepr}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where no test may be skipped, leave out, as deselected, those that need data which are not here."""
    here = {"real_folder": REAL / "tracks.tsv", "recorded": next(RECORDED.glob("experiment_*.json.gz"), RECORDED / "none")}
    absent = {name for name, path in here.items() if not path.is_file()}
    left_out = [item for item in items if NO_SKIPS and absent & set(item.fixturenames)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def torch_is_as_it_was():
    """One thread for each test, whatever an import made of it: the workers share the cores, and sums keep their order.

    What a test leaves on in the process changes what the next ones compute: autocast above all.
    """
    torch.set_num_threads(1)
    yield
    assert not torch.is_autocast_enabled("cpu"), "a test left autocast on"
