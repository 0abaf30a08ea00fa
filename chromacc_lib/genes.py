"""Genes: from Ensembl ids to symbols, by the shipped table of human transcription factors, or by your own.

An Ensembl id is compared without its version: ENSG00000102145.15 is ENSG00000102145, and so is the second copy
on chromosome Y, ENSG00000185960.14_PAR_Y.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import chromacc_lib
from chromacc_lib import project_path
from chromacc_lib.problems import FileProblem, Problem
from chromacc_lib.sources import text_lines

__all__ = ["TF_TABLE", "bare_id", "read_gene_names"]

TF_TABLE = Path(chromacc_lib.__file__).parent / "templates" / "tf_gene_ids.tsv"  # its head names its source
ANNOTATION = re.compile(r"\.(gtf|gff3?)(\.gz)?$", re.IGNORECASE)
GENE_ID = re.compile(r'(?:^|[;\s])gene_id[ =]"?([^";\s]+)')
GENE_NAME = re.compile(r'(?:^|[;\s])(?:gene_name|Name)[ =]"?([^";\s]+)')


def bare_id(gene_id: str) -> str:
    """Return an Ensembl id without version and without _PAR_Y; other text as it is, up to its first dot."""
    return gene_id.strip().split(".", 1)[0].removesuffix("_PAR_Y")


def read_gene_names(path: str | Path = "") -> dict[str, str]:
    """Return {Ensembl id without version: symbol} of the genes that can describe a cell type.

    path: "" = the shipped human transcription factors (Lambert et al. 2018, Cell 172:650); a TSV with columns
    gene_id and gene_name, all of whose genes are taken; or an annotation (.gtf, .gff3, also .gz), of which only
    genes called like a shipped transcription factor are taken, whatever their capitals, so that a mouse's Ctcf
    counts. Raises FileProblem for a file that cannot be read, or that names no such gene.
    """
    if not path:
        return dict(_shipped())
    path = project_path(path)
    if not ANNOTATION.search(path.name):
        return _table(path)
    wanted = {name.upper() for name in _shipped().values()}
    names = {gene: name for gene, name in _annotated(path) if name.upper() in wanted}
    if not names:
        raise FileProblem(Problem(str(path), 0, "annotation without a known transcription factor", "none",
                                  "rows of type gene with gene_id and gene_name (GTF), or with Name (GFF3)",
                                  "Give a GENCODE or Ensembl annotation, or a TSV with gene_id and gene_name."))
    return names


@functools.cache
def _shipped() -> dict[str, str]:
    return _table(TF_TABLE)


def _table(path: Path) -> dict[str, str]:
    """Read a TSV with the columns gene_id and gene_name; comments (#) and blank lines are skipped."""
    lines = [(i, line) for i, line in text_lines(path) if line.strip() and not line.startswith("#")]
    header = [name.strip().lower() for name in lines[0][1].split("\t")] if lines else []
    if not {"gene_id", "gene_name"} <= set(header):
        raise FileProblem(Problem(str(path), lines[0][0] if lines else 0, "not a table of gene names",
                                  str(header), "the columns gene_id and gene_name, separated by tabs",
                                  "Correct the header."))
    id_at, name_at = header.index("gene_id"), header.index("gene_name")
    names: dict[str, str] = {}
    for number, line in lines[1:]:
        fields = [field.strip() for field in line.split("\t")]
        fields += [""] * (len(header) - len(fields))
        gene, name = bare_id(fields[id_at]), fields[name_at]
        if not gene or not name or names.setdefault(gene, name) != name:
            raise FileProblem(Problem(str(path), number, "bad row in a table of gene names", repr(line),
                                      "an id and a name, and one name for each id", "Correct this row."))
    if not names:
        raise FileProblem(Problem(str(path), 0, "table of gene names without rows", "0", "at least one gene",
                                  "Give the genes that shall describe the cell types."))
    return names


def _annotated(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (Ensembl id without version, symbol) of each row of type gene of a GTF or GFF3 file."""
    for _, line in text_lines(path):
        fields = line.rstrip("\n").split("\t")
        if len(fields) == 9 and fields[2] == "gene":
            gene, name = GENE_ID.search(fields[8]), GENE_NAME.search(fields[8])
            if gene and name:
                yield bare_id(gene[1]), name[1]
