"""What a new cell type brings: the rows of its manifest that a model reads, checked, in the model's order.

Its accessibility, where the manifest has some, is not even opened.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.bed import RENAMED
from chromacc_lib.fetch import fetch
from chromacc_lib.genes import read_gene_names
from chromacc_lib.genome import genome_aliases
from chromacc_lib.hub import ModelFolder, TrainingReference
from chromacc_lib.manifest import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    check_manifest,
    genome_sizes,
    is_simulated,
    open_genome,
    read_expression,
    read_manifest,
)
from chromacc_lib.normalization import FileConstants, fit_file, reads_windows, track_constants
from chromacc_lib.problems import FileProblem, require_no_problems
from chromacc_lib.signals import binned_signals, genome_mean
from chromacc_lib.windows import base_content

__all__ = ["EXPRESSION", "CellTypeInputs", "cut_manifest", "read_inputs"]

EXPRESSION = "expression"  # what can be missing besides tracks
GENOME_SAMPLE = 200  # windows whose GC must be that of the training genome


@dataclass(frozen=True)
class CellTypeInputs:
    """The inputs of one cell type, in the model's order. K tracks (histone marks, then TFs), E features.

    paths: bigWig by track, None = missing. files: what each is normalised by, of its own, None = missing.
    metadata: log2(TPM + 1), float32 (E,), NaN = missing. unused: rows of the manifest that the model does not
    read, in words. aliases: of chromosomes, see `genome_aliases`; renamed: {file: which, in words}.
    """

    cell_type: str
    tracks: tuple[str, ...]
    paths: tuple[str | None, ...]
    files: tuple[FileConstants | None, ...]
    metadata: np.ndarray
    unused: tuple[str, ...]
    simulated: bool
    assembly: str
    aliases: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the inputs that are there: tracks, and `EXPRESSION`."""
        tracks = tuple(name for name, path in zip(self.tracks, self.paths, strict=True) if path is not None)
        return tracks + ((EXPRESSION,) if np.isfinite(self.metadata).any() else ())

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the inputs that the model reads and that are not there."""
        wanted = self.tracks + ((EXPRESSION,) if len(self.metadata) else ())
        return tuple(name for name in wanted if name not in self.present)


def read_inputs(
    folder: ModelFolder,
    manifest: str | Path,
    genome_fasta: str | Path,
    cell_type: str = "",
    say: Callable[[str], None] = print,
    gene_names: str | Path = "",
    rename_chromosomes: bool = False,
) -> CellTypeInputs:
    """Read and check what a manifest has of one cell type; its accessibility, if there, is not even opened.

    cell_type: needed when the manifest has several. say: gets notes and what is not used. gene_names: as in
    training, see `read_gene_names`. rename_chromosomes: see `check_manifest`. Raises ChromaccError that lists every problem of the files, or that says
    that the model knows none of the tracks, or another genome.
    """
    table = fetch(read_manifest(manifest))
    rows = _rows_of(table, cell_type)
    name = rows["cell_type"].iloc[0]
    inputs = rows[~rows["kind"].isin(("accessibility_signal", "accessibility_peaks"))]
    if not len(inputs):
        raise ChromaccError(
            f"{table.attrs['path']}: cell type {name} has accessibility rows only; needed at least one "
            f"track of the model: {_known(folder)}"
        )
    inputs.attrs["path"] = table.attrs["path"]
    problems = check_manifest(inputs, genome_fasta, for_training=False, gene_names=gene_names,
                              rename_chromosomes=rename_chromosomes)
    for problem in problems:
        if not problem.fatal:
            say(str(problem))
    require_no_problems(problems)
    _require_same_genome(folder.reference, genome_fasta)
    aliases = genome_aliases(genome_sizes(genome_fasta), rename_chromosomes)
    found = _known_inputs(folder, inputs, table.attrs["path"], say, read_gene_names(gene_names), aliases)
    return replace(found, renamed={note.file: note.got for note in problems if note.what == RENAMED})


def _rows_of(table: pd.DataFrame, cell_type: str) -> pd.DataFrame:
    names = table["cell_type"].unique().tolist()
    if not cell_type and len(names) > 1:
        raise ChromaccError(
            f"{table.attrs['path']}: the manifest has {len(names)} cell types ({', '.join(names)}); name "
            "the one to predict (cell_type, or --cell-type)"
        )
    if cell_type and cell_type not in names:
        raise ChromaccError(
            f"{table.attrs['path']}: no row of cell type {cell_type!r}; it has {', '.join(names)}"
        )
    return table[table["cell_type"] == (cell_type or names[0])]


def _known(folder: ModelFolder) -> str:
    config = folder.model.config
    parts = {"histone": config.histone_marks, "tf": config.tfs, "expression": config.features}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names)


def _known_inputs(
    folder: ModelFolder,
    rows: pd.DataFrame,
    place: str,
    say: Callable[[str], None],
    gene_names: Mapping[str, str],
    aliases: Mapping[str, str],
) -> CellTypeInputs:
    """Put the rows that the model reads in its order; say which are left out."""
    config = folder.model.config
    wanted = [("histone", name) for name in config.histone_marks] + [("tf", name) for name in config.tfs]
    files = {(row["kind"], row["target"]): row["path_or_url"] for _, row in rows.iterrows()}
    paths = tuple(files.get(pair) for pair in wanted)
    expression = rows.loc[rows["kind"] == "expression", "path_or_url"].tolist()
    metadata = np.full(len(config.features), np.nan, dtype=np.float32)
    if expression and config.features:
        values = np.log2(read_expression(expression[0], gene_names) + 1)
        metadata = values.reindex(list(config.features)).to_numpy(np.float32)
    unused = [
        f"{target} ({kind})"
        for kind, target in files
        if (kind, target) not in wanted and not (kind == "expression" and np.isfinite(metadata).any())
    ]
    cell_type = rows["cell_type"].iloc[0]
    if len(unused) == len(files):
        raise ChromaccError(
            f"{place}: the model knows none of the inputs of {cell_type}: {', '.join(unused)}. It reads "
            f"{_known(folder)}. Compare the columns kind and target (names count to the letter)"
        )
    if unused:
        say(f"not used, because the model does not know them: {', '.join(unused)}")
    return CellTypeInputs(
        cell_type,
        folder.tracks,
        paths,
        _own_constants(folder, cell_type, paths, aliases),
        metadata,
        tuple(unused),
        is_simulated(rows),
        rows["assembly"].iloc[0],
        aliases,
    )


def _own_constants(
    folder: ModelFolder, cell_type: str, paths: Sequence[str | None], aliases: Mapping[str, str]
) -> tuple[FileConstants | None, ...]:
    """Return what each file is normalised by, from its own signal alone.

    "quantile" and "s3norm" read it under the windows that the training files were read under. Raises
    ChromaccError that lists every file which the model's normalisation cannot take.
    """
    constants = track_constants(folder.normalization, folder.tracks)
    windows, present = folder.reference.windows, [path for path in paths if path is not None]
    windows = windows[windows["split"] == "train"]
    signals: dict[str, np.ndarray | None] = dict.fromkeys(present)
    if reads_windows(constants.method) and present:
        read = binned_signals(present, windows, folder.model.config.n_bins, aliases=aliases)
        signals = {path: signal.values[..., 0] for path, signal in zip(present, read, strict=True)}
    is_peak = (windows["kind"] == "peak").to_numpy()
    files, problems = [None] * len(paths), []
    for i, (path, track) in enumerate(zip(paths, folder.tracks, strict=True)):
        if path is not None:
            name, reference = f"{cell_type}, {track} ({path})", constants.references[i]
            try:
                files[i] = fit_file(signals[path], genome_mean(path), is_peak, constants.method, reference, name)
            except FileProblem as error:
                problems.append(error.problem)
    require_no_problems(problems)
    return tuple(files)


def _require_same_genome(reference: TrainingReference, genome_fasta: str | Path) -> None:
    """Raise ChromaccError unless the FASTA is the genome that the model was trained on, by its sequence.

    Compares the GC content of windows of the locus prior; single corrected bases do not matter.
    """
    sizes = genome_sizes(genome_fasta)
    shared = reference.windows[reference.windows["chrom"].isin(list(sizes))]
    trained = reference.windows["chrom"].unique().tolist()
    if not len(shared):
        raise ChromaccError(
            f"{genome_fasta}: none of its chromosomes ({', '.join(list(sizes)[:4])}) is one of the model's "
            f"({', '.join(trained[:4])}); give the FASTA of {reference.assembly}, with the same names"
        )
    sample = shared.iloc[np.linspace(0, len(shared) - 1, min(len(shared), GENOME_SAMPLE)).astype(int)]
    inside = (sample["end"] <= sample["chrom"].map(sizes)).to_numpy()
    differs = np.ones(len(sample), dtype=bool)
    with open_genome(genome_fasta) as genome:
        gc = base_content(genome, sample[inside])["gc"].to_numpy()
    differs[inside] = ~(np.abs(gc - sample["gc"].to_numpy()[inside]) <= 0.002)
    if differs.mean() > 0.5:
        raise ChromaccError(
            f"{genome_fasta}: {differs.sum()} of {len(sample)} windows of the model have another GC content "
            f"here: another genome. The model was trained on {reference.assembly}; give its FASTA, and "
            "tracks aligned to it"
        )


def cut_manifest(manifest: str | Path, cell_type: str, path: str | Path) -> pd.DataFrame:
    """Write a manifest of one cell type without its accessibility, as of a cell type that nobody has assayed.

    Paths are written relative to the new file's folder. Returns the rows. Raises ChromaccError when there are
    none.
    """
    target = project_path(path)
    rows = fetch(_rows_of(read_manifest(manifest), cell_type))
    rows = rows[~rows["kind"].isin(("accessibility_signal", "accessibility_peaks"))][
        [*COLUMNS, *OPTIONAL_COLUMNS]
    ]
    if not len(rows):
        raise ChromaccError(f"{manifest}: cell type {cell_type} has no row besides accessibility")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent.resolve()
    rows = rows.assign(path_or_url=[os.path.relpath(Path(p).resolve(), folder) for p in rows["path_or_url"]])
    part = target.with_name(f".{target.name}.part")
    rows.to_csv(part, sep="\t", index=False)
    os.replace(part, target)
    return rows
