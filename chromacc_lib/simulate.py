"""Simulate the pilot: a small genome with a known answer, written in the formats of real data.

Motif instances are drawn from JASPAR matrices and planted in regulatory elements. Accessibility is the thresholded sum
of (affinity x TF activity in the cell type), silenced where a polycomb domain of that cell type lies. Histone and TF
tracks follow it imperfectly, and counts are drawn around all of it. So what a new cell type looks like takes sequence
(which motifs), metadata (which TFs) and marks (which domains) together.

Everything is written as FASTA, bigWig, narrowPeak, TSV and a manifest; the truth lies beside it. Nothing here is a
model of a real genome, and every file, chromosome and assembly name says that it is simulated.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx

from chromacc_lib import ChromaccError
from chromacc_lib.bigwig import require_written
from chromacc_lib.jaspar import matrix_by_id
from chromacc_lib.manifest import COLUMNS

__all__ = ["SimulatedData", "SimulationConfig", "simulate"]

BIN = 50  # bp, the resolution of every simulated track
ASSEMBLY = "simulated-pilot-v1"
UBIQUITOUS = {"CTCF": "MA0139.1", "SP1": "MA0079.3", "NRF1": "MA0506.1"}
LINEAGE_TFS = {
    "GATA1": "MA0035.3", "SPI1": "MA0080.4", "RUNX1": "MA0002.2", "CEBPA": "MA0102.3", "HNF4A": "MA0114.3",
    "FOXA1": "MA0148.3", "JUN": "MA0099.3", "TEAD4": "MA0809.1", "NEUROD1": "MA1109.1", "MEF2C": "MA0497.1",
}  # fmt: skip
TFS = (*UBIQUITOUS, *LINEAGE_TFS)
TF_TRACKS = ("CTCF", "GATA1", "SPI1", "HNF4A", "JUN")
HISTONE_MARKS = ("H3K27ac", "H3K4me3", "H3K27me3")
COOPERATIVE = {("GATA1", "RUNX1"): 18, ("SPI1", "CEBPA"): 24, ("HNF4A", "FOXA1"): 18, ("NEUROD1", "MEF2C"): 20,
               ("JUN", "TEAD4"): 16}  # fmt: skip  # preferred distance between the two centres, bp
LINEAGES = {
    "erythroid": ("GATA1", "RUNX1"), "myeloid": ("SPI1", "CEBPA", "JUN"), "lymphoid": ("SPI1", "RUNX1"),
    "hepatic": ("HNF4A", "FOXA1", "CEBPA"), "epithelial": ("TEAD4", "JUN", "FOXA1"),
    "muscle": ("MEF2C", "TEAD4"), "neural": ("NEUROD1", "MEF2C"),
}  # fmt: skip
COMPLEMENT = np.array([3, 2, 1, 0], np.uint8)


@dataclass(frozen=True)
class SimulationConfig:
    """What the simulation is made of. Sizes scale with `genome_mb`; everything else is a property of its biology."""

    genome_mb: float = 12.0
    n_cell_types: int = 20
    seed: int = 1
    element_spacing_bp: int = 4200  # mean distance between regulatory elements
    n_chromosomes: int = 10
    gain: float = 5.0  # steepness of the opening: about two active instances open an element
    threshold: float = 1.35  # sum of affinity x activity at which an element is half open
    polycomb_share: float = 0.15  # share of domains silenced in a given cell type
    polycomb_residue: float = 0.12  # accessibility left in a silenced domain
    mark_noise: float = 1.3  # sd of the log-normal noise of histone marks around accessibility
    binding_noise: float = 1.3  # the same of TF tracks
    reads_per_bin: float = 1.0  # mean background reads in a 50-bp bin of one replicate, before a cell type's depth
    fold: float = 22.0  # accessibility of a fully open summit over background
    missing_share: float = 0.12  # share of (cell type, mark or TF) assays that were never made


@dataclass(frozen=True)
class SimulatedData:
    """Paths of what `simulate` wrote."""

    manifest: Path
    genome_fasta: Path
    blacklist: Path
    truth_manifest: Path
    planted_motifs: Path
    tss: Path


@dataclass
class _World:
    """The simulated genome and its cell types, in memory. Positions are 0-based; tracks have one value a 50-bp bin."""

    config: SimulationConfig
    chrom_sizes: dict[str, int]
    sequence: dict[str, np.ndarray]  # uint8 codes 0..3 = ACGT, 4 = N
    elements: pd.DataFrame  # chrom, centre, kind, amplitude, width, domain
    instances: pd.DataFrame  # element, tf, chrom, start, end, strand, affinity
    cell_types: pd.DataFrame  # cell_type, lineage, depth, background
    activity: np.ndarray  # (cell_type, tf), 0..1
    expression: np.ndarray  # (cell_type, tf), TPM as measured
    openness: np.ndarray = field(default_factory=lambda: np.empty(0))  # (element, cell_type), 0..1
    silenced: np.ndarray = field(default_factory=lambda: np.empty(0))  # (domain, cell_type) bool
    domains: pd.DataFrame = field(default_factory=pd.DataFrame)  # chrom, start, end
    blacklist: pd.DataFrame = field(default_factory=pd.DataFrame)  # chrom, start, end


def simulate(
    out_dir: str | Path, genome_mb: float = 12.0, n_cell_types: int = 20, seed: int = 1, workers: int = 2
) -> SimulatedData:
    """Write the simulated pilot to `out_dir`; the same arguments give the same bytes in every data file.

    A folder that already holds this very simulation (by `simulation.json`) is left as it is. Raises `ChromaccError`
    for sizes that cannot be split later (under 2 Mb or 8 cell types), or a folder holding something else.
    """
    config = SimulationConfig(genome_mb=genome_mb, n_cell_types=n_cell_types, seed=seed)
    if genome_mb < 2 or n_cell_types < 8:
        raise ChromaccError(
            f"simulate: genome_mb={genome_mb} and n_cell_types={n_cell_types} are too small to be split into train, "
            "validation and test; needed: genome_mb >= 2 and n_cell_types >= 8."
        )
    out = Path(out_dir)
    paths = SimulatedData(
        out / "tracks.tsv", out / "genome.fa", out / "blacklist.bed", out / "truth.tsv",
        out / "truth/planted_motifs.bed", out / "tss.bed",
    )
    stamp = json.dumps({"simulated": True, "code": _source_hash(), **asdict(config)}, indent=1)
    if (out / "simulation.json").exists() and (out / "simulation.json").read_text() == stamp:
        return paths
    if out.exists() and any(out.iterdir()) and not (out / "simulation.json").exists():
        raise ChromaccError(f"simulate: {out} holds files that no simulation wrote; give an empty folder (raw_dir).")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_world(_make_world(config), partial, workers)
    (partial / "simulation.json").write_text(stamp)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return paths


def _source_hash() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


# ---- the world: sequence, elements, cell types ----------------------------------------------------------------------


def _make_world(config: SimulationConfig) -> _World:
    rng = np.random.default_rng(config.seed)
    sizes = _chromosome_sizes(config)
    gaps = _place_gaps(sizes, rng)
    elements = _place_elements(sizes, gaps, config, rng)
    sequence = {chrom: _background_sequence(size, elements[elements.chrom == chrom], rng) for chrom, size in sizes.items()}
    instances = _plant_motifs(elements, sequence, gaps, rng)
    for row in gaps.itertuples():
        sequence[row.chrom][row.start : row.end] = 4
    cell_types, activity, expression = _make_cell_types(config, rng)
    world = _World(config, sizes, sequence, elements, instances, cell_types, activity, expression)
    world.domains = pd.DataFrame(
        [(c, s, min(s + 40_000, n)) for c, n in sizes.items() for s in range(0, n, 40_000)],
        columns=["chrom", "start", "end"],
    )
    world.silenced = _silenced_domains(len(world.domains), cell_types, config, rng)
    world.openness = _open_elements(world)
    world.blacklist = _place_artefacts(sizes, rng)
    return world


def _chromosome_sizes(config: SimulationConfig) -> dict[str, int]:
    share = np.linspace(1.6, 0.6, config.n_chromosomes)
    sizes = np.round(share / share.sum() * config.genome_mb * 1e6 / 1000).astype(int) * 1000
    return {f"chrSim{i + 1}": int(size) for i, size in enumerate(sizes)}


def _place_gaps(sizes: dict[str, int], rng: np.random.Generator) -> pd.DataFrame:
    """Assembly gaps (runs of N), two at each chromosome's ends and one inside: chrom, start, end."""
    rows = []
    for chrom, size in sizes.items():
        inside = int(rng.integers(size // 4, size // 2))
        rows += [(chrom, 0, 10_000), (chrom, inside, inside + 6_000), (chrom, size - 10_000, size)]
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


def _clear_of(gaps: pd.DataFrame, chrom: str, positions: np.ndarray, reach: int) -> np.ndarray:
    """Which positions lie more than `reach` bp off every gap of the chromosome."""
    here = gaps[gaps.chrom == chrom]
    return ((positions[:, None] < here.start.to_numpy() - reach) | (positions[:, None] > here.end.to_numpy() + reach)).all(1)


def _place_elements(
    sizes: dict[str, int], gaps: pd.DataFrame, config: SimulationConfig, rng: np.random.Generator
) -> pd.DataFrame:
    """Centres at least 1,700 bp apart, off the gaps; promoters stand in CpG islands, the rest are enhancers and CTCF sites."""
    frames = []
    for chrom, size in sizes.items():
        n = int((size - 40_000) / config.element_spacing_bp)
        centre = (20_000 + np.cumsum(1700 + rng.exponential(config.element_spacing_bp - 1700, n))).astype(int)
        centre = centre[(centre < size - 20_000) & _clear_of(gaps, chrom, centre, 700)]
        frames.append(pd.DataFrame({"chrom": chrom, "centre": centre}))
    elements = pd.concat(frames, ignore_index=True)
    n = len(elements)
    elements["kind"] = rng.choice(["promoter", "insulator", "enhancer"], n, p=[0.14, 0.07, 0.79])
    elements["amplitude"] = rng.lognormal(0.0, 0.3, n) * np.where(elements.kind == "promoter", 1.3, 1.0)
    elements["width"] = rng.uniform(80, 140, n)  # sd of the accessible profile, bp
    return elements


def _background_sequence(size: int, elements: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Isochores of different GC, CpG depleted as methylated genomes are, except in the islands of promoters."""
    gc = np.empty(size)
    start = 0
    while start < size:
        end = min(size, start + 40_000 + int(rng.exponential(120_000)))
        gc[start:end] = rng.choice([0.37, 0.41, 0.46, 0.52], p=[0.3, 0.35, 0.2, 0.15])
        start = end
    island = np.zeros(size, bool)
    promoters = elements.centre[elements.kind == "promoter"].to_numpy()
    orphans = rng.integers(20_000, size - 20_000, 2 * len(promoters))  # islands without a promoter, closed everywhere
    orphans = orphans[np.abs(orphans[:, None] - elements.centre.to_numpy()).min(1) > 1700]
    for centre in (*promoters, *orphans):
        half = int(rng.uniform(300, 600))
        island[centre - half : centre + half] = True
    gc[island] = 0.66
    is_gc = rng.random(size) < gc
    codes = np.where(is_gc, 1 + (rng.random(size) < 0.5), 3 * (rng.random(size) < 0.5)).astype(np.uint8)
    cpg = np.flatnonzero((codes[:-1] == 1) & (codes[1:] == 2) & ~island[:-1])
    decayed = cpg[rng.random(len(cpg)) < 0.75]
    to_tg = rng.random(len(decayed)) < 0.5
    codes[decayed[to_tg]] = 3  # CG -> TG
    codes[decayed[~to_tg] + 1] = 0  # CG -> CA
    return codes


def _matrices() -> dict[str, np.ndarray]:
    """JASPAR position probability matrices, shape=(length, 4), of every simulated TF (release and version pinned)."""
    return {tf: matrix_by_id(identifier) for tf, identifier in {**UBIQUITOUS, **LINEAGE_TFS}.items()}


def _plan_element(kind: str, rng: np.random.Generator) -> list[tuple[str, int]]:
    """The TFs of one element with their offsets from its centre in bp; cooperative pairs stand at their own spacing."""
    lineage = list(LINEAGE_TFS)
    if kind == "insulator":
        return [("CTCF", int(rng.integers(-20, 20)))] + ([(str(rng.choice(lineage)), 60)] if rng.random() < 0.3 else [])
    plan: list[tuple[str, int]] = []
    if kind == "promoter":
        plan = [("SP1", int(rng.integers(-60, -30))), ("NRF1", int(rng.integers(10, 40)))]
        return plan + [(str(rng.choice(lineage)), 80)] if rng.random() < 0.4 else plan
    position = -90 + int(rng.integers(0, 30))
    for _ in range(int(rng.choice([1, 2, 3], p=[0.4, 0.45, 0.15]))):
        if rng.random() < 0.6:
            pair = list(COOPERATIVE)[rng.integers(len(COOPERATIVE))]
            plan += [(pair[0], position), (pair[1], position + COOPERATIVE[pair] + int(rng.integers(-1, 2)))]
            position += COOPERATIVE[pair]
        else:
            plan.append((str(rng.choice(lineage)), position))
        position += int(rng.integers(32, 60))
    return plan


def _plant_motifs(
    elements: pd.DataFrame, sequence: dict[str, np.ndarray], gaps: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    """Write motif instances into `sequence` (in place), none over another. Lone decoys in the background belong to element -1."""
    matrices = _matrices()
    rows = []
    for index, (chrom, centre, kind) in enumerate(zip(elements.chrom, elements.centre, elements.kind)):
        for tf, offset in _plan_element(kind, rng):
            rows.append((index, tf, chrom, *_plant(sequence[chrom], matrices[tf], centre + offset, rng)))
    for chrom, codes in sequence.items():
        centres = elements.centre[elements.chrom == chrom].to_numpy()
        drawn = np.unique(rng.integers(20_000, len(codes) - 20_000, int(len(codes) / 6000)))
        drawn = drawn[np.diff(drawn, prepend=0) > 40]
        for position in drawn[_clear_of(gaps, chrom, drawn, 40)]:
            if np.abs(centres - position).min() > 700:
                tf = str(rng.choice(TFS))
                rows.append((-1, tf, chrom, *_plant(sequence[chrom], matrices[tf], int(position), rng)))
    return pd.DataFrame(rows, columns=["element", "tf", "chrom", "start", "end", "strand", "affinity"])


def _plant(codes: np.ndarray, matrix: np.ndarray, centre: int, rng: np.random.Generator) -> tuple[int, int, str, float]:
    """Sample one instance from `matrix`, write it at `centre`, and return start, end, strand and affinity (0.4..1).

    Affinity grows with the log-odds score between the matrix's mean instance and its consensus.
    """
    site = (rng.random(len(matrix))[:, None] > np.cumsum(matrix, 1)).sum(1).clip(0, 3).astype(np.uint8)
    odds = np.log2((matrix + 0.01) / 0.26)
    best, mean = odds.max(1).sum(), (matrix * odds).sum()
    score = odds[np.arange(len(matrix)), site].sum()
    affinity = float(np.clip(0.75 + 0.25 * (score - mean) / (best - mean + 1e-9), 0.4, 1.0))
    forward = rng.random() < 0.5
    start = int(centre) - len(matrix) // 2
    codes[start : start + len(matrix)] = site if forward else COMPLEMENT[site[::-1]]
    return start, start + len(matrix), "+" if forward else "-", affinity


def _make_cell_types(config: SimulationConfig, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Cell types as leaves of a lineage tree: a lineage's TFs are on, and each leaf switches some on or off."""
    lineage = np.resize(np.array(list(LINEAGES)), config.n_cell_types)
    latent = np.zeros((config.n_cell_types, len(TFS)))
    drift = {name: rng.normal(0, 0.5, len(TFS)) for name in LINEAGES}
    for c, name in enumerate(lineage):
        on = np.array([tf in LINEAGES[name] for tf in TFS])
        latent[c] = np.where(on, 0.9, -0.9) + drift[name] + rng.normal(0, 1.3, len(TFS))
        latent[c, : len(UBIQUITOUS)] = rng.normal(2.2, 0.3, len(UBIQUITOUS))
    activity = 1 / (1 + np.exp(-2.0 * latent))
    tpm = np.maximum(0.0, 2.0 ** (1.0 + 5.5 * activity + rng.normal(0, 0.35, activity.shape)) - 1.0)
    number = {name: 0 for name in LINEAGES}
    names = []
    for name in lineage:
        number[name] += 1
        names.append(f"{name}_{number[name]}")
    cells = pd.DataFrame({
        "cell_type": names, "lineage": lineage,
        "depth": rng.lognormal(0.0, 0.25, config.n_cell_types),
        "background": rng.lognormal(0.0, 0.12, config.n_cell_types),
    })  # fmt: skip
    return cells, activity, tpm


def _silenced_domains(n: int, cells: pd.DataFrame, config: SimulationConfig, rng: np.random.Generator) -> np.ndarray:
    """Polycomb state, shape=(domain, cell_type): half of it belongs to the lineage, half to the cell type alone."""
    lineages, index = np.unique(cells.lineage, return_inverse=True)
    of_lineage = rng.random((n, len(lineages))) < config.polycomb_share / 2
    return of_lineage[:, index] | (rng.random((n, len(cells))) < config.polycomb_share / 2)


def _open_elements(world: _World) -> np.ndarray:
    """Accessibility of every element in every cell type, shape=(element, cell_type), 0..1, without noise."""
    config, inst = world.config, world.instances[world.instances.element >= 0]
    column = inst.tf.map({tf: i for i, tf in enumerate(TFS)}).to_numpy()
    drive = inst.affinity.to_numpy()[:, None] * world.activity[:, column].T  # (instance, cell_type)
    strength = np.where(inst.tf == "CTCF", 2.2, 1.0)[:, None]
    total = np.zeros((len(world.elements), len(world.cell_types)))
    np.add.at(total, inst.element.to_numpy(), drive * strength)
    centre = (inst.start.to_numpy() + inst.end.to_numpy()) / 2
    left, right = np.arange(len(inst) - 1), np.arange(1, len(inst))
    names = inst.tf.to_numpy()
    pair = np.array([(names[a], names[b]) in COOPERATIVE for a, b in zip(left, right)])
    pair &= (inst.element.to_numpy()[left] == inst.element.to_numpy()[right]) & (np.abs(centre[right] - centre[left]) < 30)
    np.add.at(total, inst.element.to_numpy()[left[pair]], 0.8 * np.sqrt(drive[left[pair]] * drive[right[pair]]))
    opened = 1 / (1 + np.exp(-config.gain * (total - config.threshold)))
    key = {(c, s // 40_000): i for i, (c, s) in enumerate(zip(world.domains.chrom, world.domains.start))}
    domain = np.array([key[c, p // 40_000] for c, p in zip(world.elements.chrom, world.elements.centre)])
    world.elements["domain"] = domain
    return opened * np.where(world.silenced[domain], config.polycomb_residue, 1.0)


def _place_artefacts(sizes: dict[str, int], rng: np.random.Generator) -> pd.DataFrame:
    """Regions where every assay shows reads that are none: they become the blacklist."""
    rows = []
    for chrom, size in sizes.items():
        for start in rng.integers(30_000, size - 40_000, max(1, size // 600_000)):
            start = int(start) // BIN * BIN
            rows.append((chrom, start, start + 4_000))
    return pd.DataFrame(rows, columns=["chrom", "start", "end"]).sort_values(["chrom", "start"], ignore_index=True)


# ---- tracks: what each assay would show, one value a 50-bp bin ------------------------------------------------------


def _profile(world: _World, chrom: str, height: np.ndarray, width: np.ndarray, hollow: float = 0.0) -> np.ndarray:
    """Sum of Gaussian bumps, one an element of `chrom` with the given height and sd (bp); `hollow` removes the middle."""
    here = (world.elements.chrom == chrom).to_numpy()
    centre, height, width = world.elements.centre.to_numpy()[here], height[here], width[here]
    n = world.chrom_sizes[chrom] // BIN
    reach = np.arange(-40, 41)
    bins = centre[:, None] // BIN + reach
    distance = bins * BIN + BIN / 2 - centre[:, None]
    bump = np.exp(-0.5 * (distance / width[:, None]) ** 2)
    if hollow:
        bump -= hollow * np.exp(-0.5 * (distance / 120.0) ** 2)
    track = np.zeros(n)
    np.add.at(track, bins.clip(0, n - 1), (height[:, None] * bump).clip(0))
    return track


def _domain_track(world: _World, chrom: str, values: np.ndarray) -> np.ndarray:
    here = (world.domains.chrom == chrom).to_numpy()
    return np.repeat(values[here], 40_000 // BIN)[: world.chrom_sizes[chrom] // BIN]


def _expected_tracks(world: _World, cell: int, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Expected coverage relative to background, {track: {chrom: (bins,)}}, of every assay in one cell type."""
    config, elements = world.config, world.elements
    opened = world.openness[:, cell]
    access = opened * elements.amplitude.to_numpy()
    width = elements.width.to_numpy()
    n = len(elements)
    promoter = (elements.kind == "promoter").to_numpy()
    wide = np.full(n, 330.0)
    noise = rng.lognormal(-config.mark_noise**2 / 2, config.mark_noise, (2, n))
    heights = {
        "accessibility": config.fold * access,
        "H3K27ac": 4.0 * noise[0] * (0.25 * access + 0.12 + 0.25 * promoter),
        "H3K4me3": 9.0 * noise[1] * np.where(promoter, 0.4 + 0.6 * opened, 0.06 + 0.05 * opened),
    }
    for tf in TF_TRACKS:
        heights[tf] = _binding(world, tf, cell, rng)
    silenced = world.silenced[:, cell] * 1.6 * rng.lognormal(-0.1, 0.45, len(world.domains))
    tracks: dict[str, dict[str, np.ndarray]] = {name: {} for name in (*heights, "H3K27me3")}
    for chrom in world.chrom_sizes:
        for name, height in heights.items():
            mark = name in HISTONE_MARKS
            tracks[name][chrom] = 1 + _profile(world, chrom, height, wide if mark else width, 0.6 if mark else 0.0)
        tracks["H3K27me3"][chrom] = 1 + _domain_track(world, chrom, silenced)
    return tracks


def _binding(world: _World, tf: str, cell: int, rng: np.random.Generator) -> np.ndarray:
    """Occupancy of `tf` at every element: its instances x activity, more where open, plus sticky open chromatin."""
    inst = world.instances[(world.instances.tf == tf) & (world.instances.element >= 0)]
    sites = np.zeros(len(world.elements))
    np.add.at(sites, inst.element.to_numpy(), inst.affinity.to_numpy() * world.activity[cell, TFS.index(tf)])
    opened = world.openness[:, cell]
    noise = rng.lognormal(-world.config.binding_noise**2 / 2, world.config.binding_noise, len(sites))
    return 7.0 * noise * (sites * (0.25 + 0.75 * opened) + 0.06 * opened)


def _count(expected: dict[str, np.ndarray], mean_reads: float, blacklist: pd.DataFrame, rng: np.random.Generator):
    """Over-dispersed read counts around `expected`, {chrom: int (bins,)}; artefact regions pile up reads."""
    counts = {}
    for chrom, values in expected.items():
        rate = values * mean_reads * rng.gamma(25.0, 1 / 25.0, len(values))
        for start, end in blacklist.loc[blacklist.chrom == chrom, ["start", "end"]].to_numpy() // BIN:
            rate[start:end] += 60 * mean_reads
        counts[chrom] = rng.poisson(rate)
    return counts


# ---- writing --------------------------------------------------------------------------------------------------------


def _write_world(world: _World, out: Path, workers: int) -> None:
    (out / "truth").mkdir()
    (out / "expression").mkdir()
    _write_fasta(world, out / "genome.fa")
    world.blacklist.assign(name="simulated_artefact").to_csv(out / "blacklist.bed", sep="\t", header=False, index=False)
    _write_tss(world, out / "tss.bed")
    _write_truth_tables(world, out / "truth")
    rng = np.random.default_rng([world.config.seed, 7])
    made = rng.random((len(world.cell_types), len(HISTONE_MARKS) + len(TF_TRACKS))) >= world.config.missing_share
    made[:, 0] |= ~made.any(1)  # no cell type without any track
    jobs = [(world, out, cell, made[cell]) for cell in range(len(world.cell_types))]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        written = list(pool.map(_write_cell_type, *zip(*jobs)))
    for name, index in (("tracks.tsv", 0), ("truth.tsv", 1)):
        rows = [row for both in written for row in both[index]]
        pd.DataFrame(rows)[[*COLUMNS, "replicate", "lineage"]].to_csv(out / name, sep="\t", index=False)
    sizes = "".join(f"{chrom}\t{size}\n" for chrom, size in world.chrom_sizes.items())
    (out / "chrom.sizes").write_text(sizes)
    (out / "README.md").write_text(
        "# Simulated data\n\nEverything in this folder was made by `chromacc_lib.simulate`; none of it was measured. "
        "`truth/` holds what was planted.\n"
    )


def _write_fasta(world: _World, path: Path) -> None:
    letters = np.frombuffer(b"ACGTN", np.uint8)
    with open(path, "wb") as handle:
        for chrom, codes in world.sequence.items():
            handle.write(f">{chrom}\n".encode())
            text = letters[codes]
            whole = len(text) // 60 * 60
            lines = np.column_stack([text[:whole].reshape(-1, 60), np.full(whole // 60, ord("\n"), np.uint8)])
            handle.write(lines.tobytes() + (text[whole:].tobytes() + b"\n" if whole < len(text) else b""))
    pyfaidx.Faidx(str(path))  # writes the index now, before any reader starts


def _write_tss(world: _World, path: Path) -> None:
    """Write the promoters' centres as TSS, BED6, 1 bp each. All read forwards: SP1 before, NRF1 behind (`_plan_element`)."""
    tss = world.elements.loc[world.elements.kind == "promoter", ["chrom", "centre"]].reset_index(drop=True)
    tss = tss.assign(end=tss.centre + 1, name=[f"simulated_tss_{i + 1}" for i in range(len(tss))], score=0, strand="+")
    tss.to_csv(path, sep="\t", header=False, index=False)


def _write_truth_tables(world: _World, out: Path) -> None:
    bed = world.instances.sort_values(["chrom", "start"])
    bed.assign(affinity=bed.affinity.round(4))[["chrom", "start", "end", "tf", "affinity", "strand", "element"]].to_csv(
        out / "planted_motifs.bed", sep="\t", header=False, index=False
    )
    elements = world.elements.round({"amplitude": 4, "width": 2})
    elements.to_csv(out / "elements.tsv", sep="\t", index_label="element")
    names = list(world.cell_types.cell_type)
    pd.DataFrame(world.openness.round(5), columns=names).to_csv(out / "openness.tsv", sep="\t", index_label="element")
    pd.DataFrame(world.activity.round(5), index=names, columns=list(TFS)).to_csv(out / "tf_activity.tsv", sep="\t")


def _write_cell_type(world: _World, out: Path, cell: int, made: np.ndarray) -> tuple[list[dict], list[dict]]:
    """Write every file of one cell type; return its rows of the manifest and of the truth manifest."""
    config, row = world.config, world.cell_types.iloc[cell]
    rng = np.random.default_rng([config.seed, 100 + cell])
    folder = out / row.cell_type
    folder.mkdir()
    expected = _expected_tracks(world, cell, rng)
    rows, reads = [], config.reads_per_bin * row.depth
    access = {c: v - 1 + row.background for c, v in expected["accessibility"].items()}
    replicates = [_count(access, reads, world.blacklist, rng) for _ in range(2)]
    for number, counts in enumerate(replicates, 1):
        path = folder / f"ATAC-seq.rep{number}.bw"
        _write_counts(path, counts, world.chrom_sizes)
        rows.append(_row(row, "ATAC-seq", "accessibility", "accessibility_signal", path, out, str(number)))
    path = folder / "ATAC-seq.narrowPeak"
    _write_peaks(path, world, cell, [c for c in replicates], reads)
    rows.append(_row(row, "ATAC-seq", "accessibility", "accessibility_peaks", path, out))
    for name, exists in zip((*HISTONE_MARKS, *TF_TRACKS), made):
        depth = 0.8 * rng.lognormal(0, 0.3)
        if exists:
            path = folder / f"{name}.bw"
            _write_counts(path, _count(expected[name], depth, world.blacklist, rng), world.chrom_sizes)
            rows.append(_row(row, "ChIP-seq", name, "histone" if name in HISTONE_MARKS else "tf", path, out))
    path = out / "expression" / f"{row.cell_type}.tsv"
    pd.DataFrame({"gene": TFS, "tpm": world.expression[cell].round(3)}).to_csv(path, sep="\t", index=False)
    rows.append(_row(row, "RNA-seq", "expression", "expression", path, out))
    path = out / "truth" / f"{row.cell_type}.bw"
    _write_bigwig(path, {c: v.astype(np.float32) for c, v in access.items()}, world.chrom_sizes)
    return rows, [_row(row, "noise-free", "accessibility", "accessibility_signal", path, out)]


def _row(cell: pd.Series, assay: str, target: str, kind: str, path: Path, out: Path, replicate: str = "") -> dict:
    return {
        "cell_type": cell.cell_type, "assay": assay, "target": target, "kind": kind,
        "path_or_url": str(path.relative_to(out)), "md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "accession": "", "biosample": f"simulated {cell.cell_type}", "donor": f"simulated_{cell.cell_type}",
        "assembly": ASSEMBLY, "replicate": replicate, "lineage": cell.lineage,
        "output_type": "peaks" if kind == "accessibility_peaks" else
        "gene quantifications" if kind == "expression" else "read-depth normalized signal",
    }  # fmt: skip


def _write_counts(path: Path, counts: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """Counts as reads per million, the unit of a read-depth normalised signal."""
    scale = 1e6 / sum(int(c.sum()) for c in counts.values())
    _write_bigwig(path, {chrom: (c * scale).astype(np.float32) for chrom, c in counts.items()}, sizes)


def _write_bigwig(path: Path, tracks: dict[str, np.ndarray], sizes: dict[str, int]) -> None:
    """Write one value a 50-bp bin; zeros are left out and equal neighbours joined, as bedGraph tools do."""
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader(list(sizes.items()), maxZooms=4)
        for chrom, values in tracks.items():
            edges = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1], [True]]))
            starts, ends = edges[:-1], edges[1:]
            keep = values[starts] != 0
            starts, ends = starts[keep] * BIN, ends[keep] * BIN
            if len(starts):
                handle.addEntries([chrom] * len(starts), starts, ends=ends, values=values[starts // BIN].astype(float))
    require_written(path)


def _write_peaks(path: Path, world: _World, cell: int, replicates: list[dict[str, np.ndarray]], reads: float) -> None:
    """Call peaks on the pooled replicates: runs of 50-bp bins over a threshold, 100 bp or more, as narrowPeak.

    The threshold is where a smoothed Poisson background is exceeded with p < 1e-5, per bin.
    """
    background = world.cell_types.background.iloc[cell] * reads * len(replicates)
    rows = []
    for chrom in world.chrom_sizes:
        pooled = sum(r[chrom] for r in replicates)
        smooth = np.convolve(pooled, np.ones(4), "same")
        threshold = 4 * background + 4.8 * np.sqrt(4 * background)
        above = np.concatenate([[False], smooth > threshold, [False]])
        starts, ends = np.flatnonzero(~above[:-1] & above[1:]), np.flatnonzero(above[:-1] & ~above[1:])
        for start, end in zip(starts, ends):
            if end - start >= 3:
                summit = start + int(np.argmax(smooth[start:end]))
                fold = smooth[summit] / (4 * background)
                rows.append((chrom, start * BIN, end * BIN, fold, (summit - start) * BIN + BIN // 2))
    peaks = pd.DataFrame(rows, columns=["chrom", "start", "end", "fold", "summit"])
    peaks["name"] = [f"simulated_peak_{i + 1}" for i in range(len(peaks))]
    peaks["score"] = (peaks.fold * 20).clip(0, 1000).astype(int)
    peaks["fold"] = peaks.fold.round(4)
    peaks = peaks.assign(strand=".", p=-1, q=-1)
    columns = ["chrom", "start", "end", "name", "score", "strand", "fold", "p", "q", "summit"]
    peaks[columns].to_csv(path, sep="\t", header=False, index=False)
