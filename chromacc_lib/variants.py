"""What a variant does to predicted accessibility: the alternative allele against the reference, in each cell type.

Everything but the sequence stays as it was measured with whatever alleles the cell type has; the effect is that of the
sequence alone, as this model reads it. Positions in files are 1-based, as in VCF; windows are 0-based half-open.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData
from chromacc_lib.cell_inputs import read_inputs
from chromacc_lib.genome import open_genome
from chromacc_lib.hub import ModelFolder, open_model_folder
from chromacc_lib.inference import evaluating
from chromacc_lib.manifest import read_manifest
from chromacc_lib.model import ChromaccModel
from chromacc_lib.prediction import window_batches
from chromacc_lib.scoring import ModelScorer, one_hot, score_all

__all__ = ["predict_variants", "read_variants", "strongest_changes", "variant_effects"]

COLUMNS = ["chrom", "pos", "id", "ref", "alt"]
LISTED = 10  # positions that an error names
COMPRESSED = b"\x1f\x8b"


def read_variants(
    path: str | Path, genome_fasta: str | Path, say: Callable[[str], None] = print
) -> pd.DataFrame:  # fmt: skip
    """Read single-nucleotide variants, and compare each REF with the genome.

    path: a VCF, plain, gzipped or bgzipped; or a table, tab- or comma-separated, with columns chrom, pos (1-based), ref,
    alt, and id or not. A line with several alternative alleles is as many variants. Insertions, deletions and other alleles
    that are no single base are left out; say gets how many of how many. Returns chrom, pos, id ("." = none), ref, alt, in
    the file's order. Raises ChromaccError for a file that cannot be read so, for chromosomes and positions that the genome
    does not have, and for every REF that is not the genome's base, by position: the variants were called on another
    assembly, or on the other strand.
    """
    path = Path(path)
    if not path.is_file():
        raise ChromaccError(f"{path}: no such file; needed: a VCF, or a table with columns chrom, pos, ref, alt.")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == COMPRESSED else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ChromaccError(f"{path}: not readable as text or gzipped text ({error}); copy it again.") from error
    table = _vcf(path, text) if text.startswith("##fileformat=VCF") else _table(path, text)
    table = table.assign(alt=table["alt"].str.split(",")).explode("alt", ignore_index=True)
    table = table.assign(ref=table["ref"].str.upper(), alt=table["alt"].str.upper())
    single = table["ref"].isin(list("ACGT")) & table["alt"].isin(list("ACGT")) & (table["ref"] != table["alt"])
    say(f"{path.name}: kept {single.sum():,} of {len(table):,} alleles, because the others are no single-base changes")
    kept = table[single].reset_index(drop=True)
    _require_reference(path, kept, genome_fasta)
    return kept


def _vcf(path: Path, text: str) -> pd.DataFrame:
    lines = [line for line in text.splitlines() if line and not line.startswith("##")]
    if not lines or lines[0].split("\t")[:5] != ["#CHROM", "POS", "ID", "REF", "ALT"]:
        raise ChromaccError(f"{path}: no line '#CHROM POS ID REF ALT ...' separated by tabs; is it a whole VCF?")
    rows = [line.split("\t", 5)[:5] for line in lines[1:]]
    short = [i for i, row in enumerate(rows) if len(row) < 5]
    if short:
        raise ChromaccError(f"{path}: {len(short)} lines have fewer than five columns, the first {lines[1 + short[0]]!r}.")
    return _positions(path, pd.DataFrame(rows, columns=COLUMNS))


def _table(path: Path, text: str) -> pd.DataFrame:
    first = text.split("\n", 1)[0]
    table = pd.read_csv(io.StringIO(text), sep="\t" if "\t" in first else ",", dtype=str, keep_default_na=False)
    table.columns = [name.lower().lstrip("#") for name in table.columns]
    missing = [name for name in ("chrom", "pos", "ref", "alt") if name not in table]
    if missing:
        raise ChromaccError(
            f"{path}: columns {', '.join(missing)} are missing; got {', '.join(table.columns)}. Needed: a VCF, or a table, "
            "tab- or comma-separated, with columns chrom, pos (1-based), ref, alt."
        )
    return _positions(path, table.assign(id=table.get("id", "."))[COLUMNS])


def _positions(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    wrong = ~table["pos"].str.fullmatch(r"[1-9]\d*")
    if wrong.any():
        raise ChromaccError(f"{path}: {wrong.sum()} positions are no whole numbers from 1, the first {table['pos'][wrong].iloc[0]!r}.")
    return table.assign(pos=table["pos"].astype(int))


def _require_reference(path: Path, variants: pd.DataFrame, genome_fasta: str | Path) -> None:
    """Raise ChromaccError unless every variant's REF is the genome's base."""
    wrong = []
    with open_genome(genome_fasta) as genome:
        unknown = sorted(set(variants["chrom"]) - set(genome.sizes))
        if unknown:
            raise ChromaccError(
                f"{path}: chromosomes {', '.join(unknown[:LISTED])} are not in {genome_fasta}, whose first are "
                f"{', '.join(list(genome.sizes)[:LISTED])}; name them as the genome does."
            )
        for row in variants.itertuples():
            inside = row.pos <= genome.sizes[row.chrom]
            base = genome.text(row.chrom, row.pos - 1, row.pos) if inside else "nothing"
            if base != row.ref:
                wrong.append(f"{row.chrom}:{row.pos} has REF {row.ref}, the genome {base}")
    if wrong:
        more = f", and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
        raise ChromaccError(
            f"{path}: {len(wrong):,} of {len(variants):,} reference alleles are not those of {genome_fasta}: "
            f"{'; '.join(wrong[:LISTED])}{more}. The variants belong to another assembly, or lie on the other strand."
        )


def _window_of(variants: pd.DataFrame, windows: pd.DataFrame) -> np.ndarray:
    """Row of the window that holds each variant nearest to its middle; -1 where none does."""
    found = np.full(len(variants), -1)
    for chrom, rows in variants.groupby("chrom"):
        here = np.flatnonzero((windows["chrom"] == chrom).to_numpy())
        if not len(here):
            continue
        start, end = windows["start"].to_numpy()[here], windows["end"].to_numpy()[here]
        at = rows["pos"].to_numpy()[:, None] - 1
        distance = np.where((at >= start) & (at < end), np.abs(at - (start + end) / 2), np.inf)
        nearest = distance.argmin(1)
        known = np.isfinite(distance[np.arange(len(rows)), nearest])
        found[rows.index[known]] = here[nearest[known]]
    return found


def _alternative(codes: np.ndarray, position: np.ndarray, alt: Sequence[str]) -> np.ndarray:
    """Windows (N, L) with one base exchanged in each."""
    changed = codes.copy()
    changed[np.arange(len(codes)), position] = ["ACGT".index(base) for base in alt]
    return changed


def _named(variants: pd.DataFrame, window: pd.DataFrame, cell_types: Sequence[str], effects: np.ndarray) -> pd.DataFrame:
    """Variants, their windows, the largest effect and all of them, (N, C), a column a cell type."""
    largest = np.abs(effects).argmax(1) if len(effects) else np.zeros(0, int)
    table = variants[COLUMNS].reset_index(drop=True)
    table = table.assign(window_start=window["start"].to_numpy(), window_end=window["end"].to_numpy(),
                         largest=effects[np.arange(len(effects)), largest], largest_in=np.array(cell_types)[largest])  # fmt: skip
    return pd.concat([table, pd.DataFrame(effects, columns=list(cell_types))], axis=1)


def variant_effects(
    model: ChromaccModel, data: RegionData, windows: pd.DataFrame, cell_types: Sequence[str], variants: pd.DataFrame,
    hidden: Sequence[str] = (), say: Callable[[str], None] = print, at_once: int = 16,
) -> pd.DataFrame:  # fmt: skip
    """Effects of variants that lie in the windows of a dataset, in all of its cell types.

    windows: chrom, start, end of the dataset's windows, in its order. variants: of `read_variants`; those in no window are
    left out, and say gets how many. Of several windows, that counts which has the variant nearest to its middle. hidden: as
    of `ModelScorer`. Returns chrom, pos (1-based), id, ref, alt, window_start, window_end (0-based half-open), largest and
    largest_in (which cell type), and a column a cell type: score of the alternative minus that of the reference, arcsinh
    fold, the mean over both strands.
    """
    rows = _window_of(variants.reset_index(drop=True), windows.reset_index(drop=True))
    say(f"kept {(rows >= 0).sum():,} of {len(rows):,} variants, because a variant must lie in a window of the dataset")
    kept, rows = variants.reset_index(drop=True)[rows >= 0], rows[rows >= 0]
    used, place = np.unique(rows, return_inverse=True)
    names, there = list(cell_types), windows.iloc[rows]
    if not len(kept):
        return _named(kept, there, names, np.zeros((0, len(names))))
    scorer = ModelScorer(model, data, used, np.tile(np.arange(len(names)), (len(used), 1)), hidden)
    codes = data.sequence[rows].numpy()
    changed = _alternative(codes, kept["pos"].to_numpy() - 1 - there["start"].to_numpy(), kept["alt"])
    reference = score_all(scorer.by_cell_type, data.sequence[used].numpy(), np.arange(len(used)), at_once)
    effects = score_all(scorer.by_cell_type, changed, place, at_once) - reference[place]
    return _named(kept, there, names, effects)


def strongest_changes(windows: pd.DataFrame, codes: np.ndarray, hypothetical: np.ndarray, seed: int) -> pd.DataFrame:
    """Make up two variants a window: the base change that an attribution expects to lower the score most, and one at random.

    windows: chrom, start. codes: uint8 (K, L). hypothetical: (K, L, 4), of an `Attribution`. Returns chrom, pos (1-based),
    id ("strongest" or "random"), ref, alt; windows of N alone have none.
    """
    rng, rows = np.random.default_rng(seed), []
    there = one_hot(codes).numpy()
    loss = (hypothetical * there).sum(-1, keepdims=True) - hypothetical
    loss[(there > 0) | (there.sum(-1, keepdims=True) == 0)] = -np.inf
    for chrom, start, window, lost in zip(windows["chrom"], windows["start"], codes, loss):
        possible = np.flatnonzero(np.isfinite(lost))
        if len(possible):
            for name, at in (("strongest", lost.argmax()), ("random", rng.choice(possible))):
                position, base = divmod(int(at), 4)
                rows.append((chrom, start + position + 1, name, "ACGT"[window[position]], "ACGT"[base]))
    return pd.DataFrame(rows, columns=COLUMNS)


def predict_variants(
    model_dir: str | Path, manifest: str | Path, genome_fasta: str | Path, path: str | Path, cell_types: Sequence[str] = (),
    gene_names: str | Path = "", workers: int | None = None, say: Callable[[str], None] = print,
) -> pd.DataFrame:  # fmt: skip
    """Effects of the variants of a file in cell types of a manifest, whether a dataset was made of them or not.

    model_dir: a finished run's `model/`. cell_types: of the manifest; () = all that have an input of the model. A variant is
    scored in the window of the training data that holds it nearest to its middle, where the locus average is known, or
    else in a window around it. Windows with too many N, or past a chromosome's end, have NaN, and say gets how many. Returns
    the table of `variant_effects`. Raises ChromaccError as `read_variants` and `read_inputs`.
    """
    folder, variants = open_model_folder(model_dir), read_variants(path, genome_fasta, say)
    names = list(cell_types) or list(dict.fromkeys(read_manifest(manifest)["cell_type"]))
    windows, inside = _windows_for(folder, variants, genome_fasta)
    position = variants["pos"].to_numpy() - 1 - windows["start"].to_numpy()
    effects = np.full((len(variants), len(names)), np.nan, np.float32)
    for column, name in enumerate(names):
        inputs = read_inputs(folder, manifest, genome_fasta, name, say, gene_names)
        asked = windows[inside].assign(variant=np.flatnonzero(inside))
        with evaluating(folder.model), torch.no_grad():
            for part, batch in window_batches(folder, inputs, genome_fasta, asked, workers=workers):
                rows = part["variant"].to_numpy()
                scores = []
                for codes in (batch.sequence.numpy(), _alternative(batch.sequence.numpy(), position[rows], variants["alt"].iloc[rows])):
                    one = replace(batch, sequence=torch.from_numpy(codes))
                    scores.append((folder.model(one).score + folder.model(one.reverse_complement()).score) / 2)
                effects[rows, column] = (scores[1] - scores[0])[:, 0].numpy()
    known = np.isfinite(effects).all(1)
    say(f"kept {known.sum():,} of {len(known):,} variants, because a window around one must lie on its chromosome, with few N")
    return _named(variants[known], windows[known], names, effects[known])


def _windows_for(folder: ModelFolder, variants: pd.DataFrame, genome_fasta: str | Path) -> tuple[pd.DataFrame, np.ndarray]:
    """The window (chrom, start, end) that each variant is scored in, and whether it lies on its chromosome, bool (N,)."""
    width, known = folder.model.config.window_bp, folder.reference.windows
    rows = _window_of(variants, known)
    start = np.where(rows >= 0, known["start"].to_numpy()[rows.clip(0)], variants["pos"].to_numpy() - 1 - width // 2)
    with open_genome(genome_fasta) as genome:
        length = np.array([genome.sizes[chrom] for chrom in variants["chrom"]], int)
    windows = pd.DataFrame({"chrom": variants["chrom"], "start": start, "end": start + width})
    return windows, (start >= 0) & (start + width <= length)
