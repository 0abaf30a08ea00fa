"""The manifest: one row a file, whoever wrote it; read, checked whole before any long work, and locked.

All coordinates are 0-based half-open, in bp. Nothing here repairs a file: what is wrong is listed, all at
once, each with its remedy; what is merely worth knowing is listed as a note.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.bed import chromosome_names, read_intervals, renaming_note
from chromacc_lib.bigwig import BigWig, open_bigwig
from chromacc_lib.genes import bare_id, read_gene_names
from chromacc_lib.genome import genome_aliases, genome_sizes, open_genome
from chromacc_lib.problems import FileProblem, Problem, require_no_problems
from chromacc_lib.reference import pinned_url
from chromacc_lib.sources import data_lines, file_md5, is_url, open_source, require_file

__all__ = [
    "COLUMNS", "KINDS", "OPTIONAL_COLUMNS", "UNKNOWN_LINEAGE", "check_files", "check_manifest", "genome_sizes",
    "is_simulated", "keep_cell_types", "lineages_of", "lock_table", "open_genome", "read_expression",
    "read_intervals", "read_manifest", "require_no_problems",
]

COLUMNS = (
    "cell_type", "assay", "target", "kind", "path_or_url", "md5", "accession", "biosample", "donor",
    "assembly", "output_type",
)
OPTIONAL_COLUMNS = ("replicate", "lineage")
UNKNOWN_LINEAGE = "unknown"  # of a cell type none of whose rows gives one; no lineage that cell types share
REQUIRED_COLUMNS = ("cell_type", "target", "kind", "path_or_url", "assembly")  # the others may be left out
KINDS = ("accessibility_signal", "accessibility_peaks", "histone", "tf", "expression")
BIGWIG_KINDS = ("accessibility_signal", "histone", "tf")
INPUT_KINDS = ("histone", "tf", "expression")
LOOKED_AT_BYTES = 2 << 20  # of each bigWig's blocks, from all over it, when it is checked: some 0.1 s


# --- the manifest itself ------------------------------------------------------------------------------------
def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a tab-separated manifest; return its rows as text, "" where nothing was given.

    All of `COLUMNS` and `OPTIONAL_COLUMNS` are there, in whatever order; further columns are kept.
    `path_or_url` becomes an absolute path (relative ones are taken from the manifest's folder), or stays a
    web address; the index, `line`, is the line of each row in the file. Raises ChromaccError for a missing
    file or column, or a row with too many fields.
    """
    path = project_path(path)
    lines = data_lines(path)
    if len(lines) < 2:
        raise ChromaccError(f"{path}: the manifest has no rows; it needs a header and one row a file")
    header = [name.strip() for name in lines[0][1].split("\t")]
    _require_columns(path, header)
    rows, numbers = [], []
    for number, text in lines[1:]:
        fields = [field.strip() for field in text.split("\t")]
        fields += [""] * (len(header) - len(fields))  # editors strip trailing tabs
        if len(fields) > len(header):
            raise ChromaccError(f"{path}, line {number}: got {len(fields)} tab-separated fields, needed "
                                f"{len(header)} as in the header; remove the extra tabs")
        rows.append(fields)
        numbers.append(number)
    manifest = pd.DataFrame(rows, columns=header, index=pd.Index(numbers, name="line"), dtype=str)
    for column in (*COLUMNS, *OPTIONAL_COLUMNS):
        if column not in manifest:
            manifest[column] = ""
    manifest.attrs["path"] = str(path)
    manifest["path_or_url"] = [_resolve(path.parent, entry) for entry in manifest["path_or_url"]]
    return manifest


def keep_cell_types(manifest: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of these cell types; all rows where no name is given. Raises ChromaccError if one is unknown."""
    known = list(dict.fromkeys(manifest["cell_type"]))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ChromaccError(f"{manifest.attrs.get('path', 'manifest')}: no cell type called {', '.join(unknown)}; "
                            f"it has: {', '.join(known)}")
    kept = manifest[manifest["cell_type"].isin(list(names))] if names else manifest
    kept.attrs = dict(manifest.attrs)
    return kept


def lineages_of(manifest: pd.DataFrame) -> dict[str, str]:
    """Return {cell type: lineage}, in the manifest's order; `UNKNOWN_LINEAGE` where no row gives one.

    manifest: cell_type and lineage, text; a cell type's empty rows follow those that give one. Several names in
    one field, parted by commas or semicolons, are together one lineage, in whatever order they stand: it is
    another one than each of its parts. Raises ChromaccError for cell types whose rows differ.
    """
    given = _given_lineages(manifest)
    differ = [f"{name} ({' / '.join(labels)})" for name, labels in given.items() if len(labels) > 1]
    if differ:
        raise ChromaccError(f"rows of one cell type give several lineages: {'; '.join(differ)}; needed one for each "
                            "cell type. Correct the column lineage, or leave it empty")
    return {name: next(iter(labels), UNKNOWN_LINEAGE) for name, labels in given.items()}


def _given_lineages(manifest: pd.DataFrame) -> dict[str, list[str]]:
    """Return {cell type: its different lineages}, [] where none is given."""
    found: dict[str, list[str]] = {}
    for name, text in zip(manifest["cell_type"], manifest["lineage"]):
        labels, label = found.setdefault(name, []), _lineage(text)
        if label and label not in labels:
            labels.append(label)
    return found


def _lineage(text: str) -> str:
    parts = {part.strip() for part in re.split("[,;]", text)} - {""}
    return ", ".join(sorted(parts)) if parts != {UNKNOWN_LINEAGE} else ""


def is_simulated(manifest: pd.DataFrame) -> bool:
    """Tell simulated from real data: the simulator's assembly is called `simulated-...`."""
    return bool(manifest["assembly"].str.lower().str.startswith("simulated").any())


def _require_columns(path: Path, header: list[str]) -> None:
    missing = [name for name in REQUIRED_COLUMNS if name not in header]
    if missing:
        hint = "" if len(header) > 1 else " The header has no tab: columns must be separated by tabs."
        raise ChromaccError(
            f"{path}: the manifest lacks the column(s) {', '.join(missing)}; got {header}.{hint} "
            f"The columns are: {', '.join(COLUMNS)}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ChromaccError(
            f"{path}: the column(s) {', '.join(twice)} stand twice in the header; keep one of each")


def _resolve(folder: Path, entry: str) -> str:
    if is_url(entry):
        return entry
    return os.path.normpath(folder / Path(entry).expanduser()) if entry else ""


def lock_table(manifest: pd.DataFrame, references: Mapping[str, str | Path]) -> pd.DataFrame:
    """Return the manifest with what was really read: `md5` and `bytes` of each file, hashed now.

    A remote file that is read by its blocks cannot be hashed: it keeps the manifest's md5, and `read` says
    "blocks" instead of "whole", and `version` is what the server calls it (ETag or date). references: further
    files by kind, such as {"genome_fasta": path, "blacklist": path}; they become rows. `url`: where a file on disk
    was fetched from, by `fetch` or by the name of a reference; "" = it is the user's own.
    """
    extra = pd.DataFrame([{"kind": kind, "path_or_url": str(path), "url": pinned_url(path)}
                          for kind, path in references.items()])
    columns = [*COLUMNS, *OPTIONAL_COLUMNS, *(["url"] if "url" in manifest else [])]
    table = pd.concat([manifest[columns], extra], ignore_index=True).fillna("")
    remote = table["path_or_url"].map(is_url)
    table["md5"] = [md5 if is_url(path) else file_md5(path) for md5, path in zip(table["md5"], table["path_or_url"])]
    table["bytes"] = [_size(path) for path in table["path_or_url"]]
    table["version"] = [_version(path) for path in table["path_or_url"]]
    table["read"] = remote.map({True: "blocks", False: "whole"})
    return table


def _size(entry: str) -> int:
    source = open_source(entry)
    source.close()
    return source.size


def _version(entry: str) -> str:
    if not is_url(entry):
        return ""
    source = open_source(entry)
    source.close()
    return source.version


# --- expression ---------------------------------------------------------------------------------------------
def read_expression(path: str | Path, gene_names: Mapping[str, str] | None = None) -> pd.Series:
    """Return TPM (float64, at least 0) by gene symbol, of a plain or gzipped TSV of one of two forms.

    With the columns `gene` and `tpm` every row is taken as it is. With `gene_id` and `TPM`, as in ENCODE's gene
    quantifications (RSEM; Li & Dewey 2011, BMC Bioinformatics 12:323), the rows of `gene_names` are taken,
    {Ensembl id without version: symbol}, None = the shipped transcription factors; rows of one symbol (the two
    copies of a pseudoautosomal gene) are summed. Raises FileProblem for all else.
    """
    return _expression(Path(path), read_gene_names() if gene_names is None else gene_names)[0]


def _expression(path: Path, gene_names: Mapping[str, str]) -> tuple[pd.Series, list[Problem]]:
    """Return `read_expression`, and a note of what a gene quantification has besides."""
    lines = data_lines(path)
    header = [name.strip().lower() for name in lines[0][1].split("\t")] if lines else []
    column = next((name for name in ("gene", "gene_id") if name in header), "")
    if not column or "tpm" not in header:
        raise FileProblem(
            Problem(str(path), 1, "not an expression table", str(header),
                    "the columns gene and tpm, or gene_id and TPM as in ENCODE's gene quantifications",
                    "Give a tab-separated file with that header."))
    rows = [text.split("\t") for _, text in lines[1:]]
    whole = np.array([len(row) == len(header) for row in rows], dtype=bool)
    cells = {name: [row[header.index(name)] if good else "" for row, good in zip(rows, whole)]
             for name in (column, "tpm")}
    gene = pd.Series(cells[column], dtype=str).str.strip()
    tpm = pd.to_numeric(pd.Series(cells["tpm"], dtype=str), errors="coerce").astype("float64")
    bad = np.flatnonzero(~(np.isfinite(tpm) & (tpm >= 0)) | gene.duplicated() | (gene == ""))
    if len(bad) or not len(rows):
        first = bad[0] if len(bad) else 0
        raise FileProblem(
            Problem(str(path), lines[first + 1][0] if len(bad) else 0,
                    f"{len(bad)} bad row(s) of {len(rows)}",
                    repr(lines[first + 1][1]) if len(bad) else "no rows",
                    "each gene once, with a finite TPM of at least 0", "Correct these rows."))
    if column == "gene":
        return pd.Series(tpm.to_numpy(), index=gene.to_numpy(), name="tpm"), []
    return _translate(path, gene, tpm, gene_names)


def _translate(path: Path, gene: pd.Series, tpm: pd.Series,
               gene_names: Mapping[str, str]) -> tuple[pd.Series, list[Problem]]:
    """Return TPM by symbol of the rows whose Ensembl id is known, summed by symbol, and a note of how many."""
    symbol = gene.map(bare_id).map(gene_names)
    known = symbol.notna()
    if not known.any():
        example = next(iter(gene_names), "ENSG00000102974")
        raise FileProblem(
            Problem(str(path), 0, "gene quantification without a known Ensembl id",
                    f"{len(gene):,} ids, the first {', '.join(gene[:3])}",
                    f"ids of the {len(gene_names):,} genes of gene_names, such as {example}",
                    "Give gene_names (a TSV with gene_id and gene_name, or the annotation) of this file's "
                    "species; if it names genes by symbol, call its columns gene and tpm."))
    series = tpm[known].groupby(symbol[known].to_numpy(), sort=False).sum().rename("tpm")
    note = Problem(str(path), 0, "genes of a quantification are left out",
                   f"kept {int(known.sum()):,} of {len(gene):,} rows, because the others are not in gene_names "
                   f"(rows of one symbol are summed: {len(series):,} symbols)",
                   "the transcription factors, or the genes of your gene_names", "That is as it should be.",
                   fatal=False)
    return series, [note]


# --- everything at once -------------------------------------------------------------------------------------
def check_manifest(manifest: pd.DataFrame, genome_fasta: str | Path, blacklist: str | Path | None = None,
                   for_training: bool = True, gene_names: str | Path = "",
                   rename_chromosomes: bool = False) -> list[Problem]:
    """Open every file that the manifest names; return ALL problems, fatal ones first, [] if there are none.

    manifest: from `read_manifest`. for_training: accessibility is needed in each cell type. gene_names: path,
    see `read_gene_names`. rename_chromosomes: 1 is read as chr1, or the other way round, by the FASTA's names
    (`genome_aliases`); a note for each file says which. Of a local bigWig's data blocks, `LOOKED_AT_BYTES` are inflated: a byte that was flipped in
    another one is found by the file's md5, or when it is read. No format but gzip and bgzip says whether the rest
    of a file is as it was written; the md5 does.
    """
    name = manifest.attrs.get("path", "manifest")
    problems = _check_cell_types(name, manifest, for_training)
    problems += check_files(manifest, genome_fasta, blacklist, gene_names, rename_chromosomes)
    return sorted(problems, key=lambda problem: not problem.fatal)


def check_files(manifest: pd.DataFrame, genome_fasta: str | Path,
                blacklist: str | Path | None = None, gene_names: str | Path = "",
                rename_chromosomes: bool = False) -> list[Problem]:
    """Do all of `check_manifest` but what concerns whole cell types; a manifest of truth needs no more."""
    name = manifest.attrs.get("path", "manifest")
    problems = _check_rows(name, manifest)
    sizes: dict[str, int] | None = None
    try:
        sizes = genome_sizes(genome_fasta)
    except FileProblem as error:
        problems.append(error.problem)
    aliases = genome_aliases(sizes or {}, rename_chromosomes)
    names: dict[str, str] | None = None
    try:
        names = read_gene_names(gene_names)
    except FileProblem as error:
        problems.append(error.problem)
    chroms: dict[int, frozenset[str]] = {}
    for line, row in manifest.iterrows():
        if row["kind"] in KINDS and row["path_or_url"]:
            problems += _check_file(name, int(line), row, sizes, names, chroms, aliases)
    problems += _check_peak_chromosomes(name, manifest, sizes or {}, chroms)
    if blacklist:
        try:
            problems += read_intervals(project_path(blacklist), sizes, aliases)[1]
        except FileProblem as error:
            problems.append(error.problem)
    return problems


def _check_rows(name: str, manifest: pd.DataFrame) -> list[Problem]:
    """Problems of the table itself: empty fields, unknown kinds, rows or files given twice."""
    problems = []
    for column in REQUIRED_COLUMNS:
        for line in manifest.index[manifest[column] == ""]:
            problems.append(
                Problem(name, int(line), f"empty {column}", "nothing", f"a {column}", "Fill it in."))
    for line, kind in manifest["kind"][~manifest["kind"].isin((*KINDS, ""))].items():
        problems.append(
            Problem(name, int(line), "unknown kind", kind, f"one of {', '.join(KINDS)}", "Correct it."))
    given = manifest[manifest["path_or_url"] != ""]
    for line, path in given["path_or_url"][given["path_or_url"].duplicated()].items():
        problems.append(Problem(name, int(line), "the same file is given twice", path, "each file in one row",
                                "Remove the row, or give the file that was meant."))
    # Replicates are told apart for accessibility only; of all else there is one track for each cell type.
    tracks = manifest[manifest["kind"].isin(("histone", "tf", "expression"))]
    for line, row in tracks[tracks.duplicated(["cell_type", "target", "kind"])].iterrows():
        problems.append(Problem(name, int(line), f"second {row['kind']} row for one cell type and target",
                                f"{row['cell_type']}, {row['target']}", "one row",
                                "Give the file of pooled replicates."))
    assemblies = sorted(set(manifest["assembly"]) - {""})
    if len(assemblies) > 1:
        problems.append(Problem(name, 0, "more than one assembly", ", ".join(assemblies), "one",
                                "Keep the files of one assembly, the FASTA's."))
    return problems


def _check_cell_types(name: str, manifest: pd.DataFrame, for_training: bool) -> list[Problem]:
    """Problems of whole cell types: without accessibility (refused for training), or without any input."""
    problems = []
    for cell_type, rows in manifest.groupby("cell_type", sort=False):
        kinds, line = set(rows["kind"]), int(rows.index[0])
        if not kinds & set(INPUT_KINDS):
            problems.append(
                Problem(name, line, f"cell type {cell_type} has no input track", ", ".join(sorted(kinds)),
                        "at least one histone, tf or expression row", "Add one, or remove it."))
        if for_training and "accessibility_signal" not in kinds:
            problems.append(
                Problem(name, line, f"cell type {cell_type} has no accessibility signal",
                        ", ".join(sorted(kinds)), "an accessibility_signal row, to train or to evaluate",
                        "Add it; or keep the cell type for `chromacc predict`."))
        elif for_training and "accessibility_peaks" not in kinds:
            problems.append(
                Problem(name, line, f"cell type {cell_type} has no accessibility peaks", "signal only",
                        "accessibility_peaks for labels", "Its labels are left unknown.", fatal=False))
    return problems + (_check_lineages(name, manifest) if for_training else [])


def _check_lineages(name: str, manifest: pd.DataFrame) -> list[Problem]:
    """Cell types whose rows differ in the lineage, and a note of those without one beside others that have one."""
    given = _given_lineages(manifest)
    problems = [
        Problem(name, int(manifest.index[manifest["cell_type"] == cell_type][0]),
                f"rows of cell type {cell_type} give several lineages", " / ".join(labels), "one lineage, or none",
                "Correct the column lineage, or leave it empty.")
        for cell_type, labels in given.items() if len(labels) > 1]
    unknown = [cell_type for cell_type, labels in given.items() if not labels]
    if 0 < len(unknown) < len(given):
        problems.append(Problem(name, 0, f"{len(unknown)} of {len(given)} cell type(s) without a lineage",
                                ", ".join(unknown), "the column lineage, where it is known",
                                "The split does not balance them by lineage.", fatal=False))
    return problems


def _check_file(name: str, line: int, row: pd.Series, sizes: Mapping[str, int] | None,
                gene_names: Mapping[str, str] | None, chroms: dict[int, frozenset[str]],
                aliases: Mapping[str, str]) -> list[Problem]:
    """Problems of one file, by its kind; the manifest's line is named in the file's place.

    sizes, gene_names: None where they could not be read; then what depends on them is not checked. chroms: gets the
    chromosomes that a bigWig or a peak file on disk has something on, by the manifest's line.
    """
    entry = row["path_or_url"]
    path = Path(entry)
    try:
        if is_url(entry) and row["kind"] in BIGWIG_KINDS:
            return _named(_check_remote(entry, row.get("bytes", ""), sizes, aliases), name, line, row)
        require_file(path)
        problems = _check_md5(path, row["md5"])
        if row["kind"] in BIGWIG_KINDS:
            problems += _check_bigwig(entry, sizes, aliases)
            with open_bigwig(entry, aliases) as bigwig:
                chroms[line] = frozenset(bigwig.chroms_with_data())
        elif row["kind"] == "accessibility_peaks":
            table, found = read_intervals(path, sizes, aliases)
            problems += found
            chroms[line] = frozenset(table["chrom"])
        elif gene_names is not None:
            problems += _expression(path, gene_names)[1]
    except FileProblem as error:
        problems = [error.problem]
    return _named(problems, name, line, row)


def _check_peak_chromosomes(name: str, manifest: pd.DataFrame, sizes: Mapping[str, int],
                            chroms: Mapping[int, frozenset[str]]) -> list[Problem]:
    """Notes of peak files without a peak on chromosomes where the cell type has signal, and another one peaks: a file
    that was cut at the end of a line looks like that, and all is closed there.
    """
    notes = []
    read = manifest[manifest.index.isin(list(chroms))]
    peaks = {cell: frozenset().union(*(chroms[line] for line in rows.index))
             for cell, rows in read[read["kind"] == "accessibility_peaks"].groupby("cell_type", sort=False)}
    for cell, mine in peaks.items():
        rows = read[read["cell_type"] == cell]
        signal = frozenset().union(*(chroms[line] for line in rows.index[rows["kind"] == "accessibility_signal"]))
        others = frozenset().union(*(theirs for other, theirs in peaks.items() if other != cell))
        without = [chrom for chrom in sizes if chrom in (signal & others) - mine]
        if without:
            line = rows.index[rows["kind"] == "accessibility_peaks"][0]
            notes += _named([Problem(
                manifest.loc[line, "path_or_url"], 0, f"no peak on {len(without)} chromosome(s) that have signal",
                ", ".join(without[:4]), "peaks there, as in other cell types",
                "All of them counts as closed. If the file was cut, fetch it again.", fatal=False)],
                name, int(line), manifest.loc[line])
    return notes


def _named(problems: Sequence[Problem], name: str, line: int, row: pd.Series) -> list[Problem]:
    where = f" ({name} line {line}: {row['cell_type']}, {row['target']})"
    return [Problem(p.file + where, p.row, p.what, p.got, p.needed, p.remedy, p.fatal) for p in problems]


def _check_md5(path: Path, expected: str) -> list[Problem]:
    if not expected or file_md5(path) == expected.lower():
        return []
    return [Problem(str(path), 0, "md5 differs from the manifest's", file_md5(path), expected,
                    "Fetch the file again, or correct the manifest.")]


def _check_bigwig(entry: str, sizes: Mapping[str, int] | None, aliases: Mapping[str, str]) -> list[Problem]:
    """Problems of a bigWig, by path or URL: of one on disk the whole index is followed to its last block."""
    with open_bigwig(entry, aliases) as bigwig:
        problems = [] if sizes is None else _check_chromosomes(entry, bigwig, sizes)
        problems += renaming_note(entry, bigwig.renamed)
        if not is_url(entry):
            bigwig.require_whole()
        present = bigwig.chroms_with_data()
        if not is_url(entry):
            bigwig.require_sound(LOOKED_AT_BYTES)
    if not present:
        problems.append(Problem(entry, 0, "bigWig without any interval", "no data", "a signal",
                                "Leave the row out: a missing track is missing, not zero."))
    elif not np.isfinite(bigwig.total):
        problems.append(Problem(entry, 0, "bigWig with NaN or infinite values", f"sum {bigwig.total}",
                                "finite values", "Write it again without them."))
    elif bigwig.minimum < 0 or bigwig.total <= 0:
        problems.append(Problem(
            entry, 0, "bigWig with negative or only zero signal",
            f"minimum {bigwig.minimum:g}, sum {bigwig.total:g}",
            "a signal of at least 0 (fold change over control, or read-depth normalised)",
            "Do not give log ratios; they cannot be scaled by depth."))
    return problems


def _check_remote(entry: str, n_bytes: str, sizes: Mapping[str, int] | None,
                  aliases: Mapping[str, str]) -> list[Problem]:
    """Problems of a remote bigWig; one that cannot be reached is one of them, so that all are listed at once."""
    try:
        found, problems = _size(entry), _check_bigwig(entry, sizes, aliases)
    except FileProblem as error:
        return [error.problem]
    except ChromaccError as error:
        return [Problem(entry, 0, "remote file that cannot be read", str(error).removeprefix(f"{entry}: "),
                        "a bigWig that the server serves by ranges", "Correct the address, or try again later.")]
    if n_bytes.isdigit() and int(n_bytes) and int(n_bytes) != found:
        problems.append(Problem(entry, 0, "another length than in the manifest", f"{found:,} bytes",
                                f"{int(n_bytes):,} bytes", "The file may have been replaced: make the manifest again."))
    return problems


def _check_chromosomes(path: str, bigwig: BigWig, sizes: Mapping[str, int]) -> list[Problem]:
    differ = [c for c, length in bigwig.chroms.items() if c in sizes and sizes[c] != length]
    if differ:
        chrom = differ[0]
        return [Problem(path, 0, f"{len(differ)} chromosome(s) have another size than in the FASTA: "
                        "another assembly", f"{chrom} of {bigwig.chroms[chrom]:,} bp", f"{sizes[chrom]:,} bp",
                        "Use files of the FASTA's own assembly (or the FASTA of theirs).")]
    return chromosome_names(path, bigwig.chroms, sizes, "signal")
