"""Intake: what a curation begins with, and all that is wrong with it, found before any long work.

`parameters` are `curation.CurationParameters`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.bed import read_intervals, renaming_note
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.fetch import fetch
from chromacc_lib.genome import genome_aliases, genome_sizes
from chromacc_lib.manifest import check_files, check_manifest, keep_cell_types, lineages_of, read_manifest
from chromacc_lib.problems import FileProblem, Problem, problem_of
from chromacc_lib.sources import DownloadsFailed, is_url, require_file
from chromacc_lib.windows import observed_assays, split_cell_types

__all__ = ["Intake", "cell_type_table", "take_in"]


class Intake(NamedTuple):
    """The manifest's rows, of which what has to be whole is on disk; those of the truth, None = there is none; and
    every problem and note, fatal ones first.
    """

    table: pd.DataFrame
    truth: pd.DataFrame | None
    problems: list[Problem]


def take_in(manifest: str | Path, genome_fasta: str | Path, parameters: Any, *, blacklist: str | Path = "",
            truth_manifest: str | Path = "", remote_tracks: str = "stream", for_training: bool = True,
            split_later: bool = False, say: Callable[[str], None] = print) -> Intake:
    """Read a manifest, fetch what has to be whole, and look at every file and every parameter that names one of them.

    blacklist, truth_manifest: paths, "" = none. remote_tracks: see `fetch`. for_training: False asks for no
    accessibility, and no split. split_later: lists may still be given, so that cell types which cannot be split without
    are a note. Nothing of the data is read but what tells whether a file is sound. Raises
    ChromaccError only where there is no table to look at; all else is in the problems.
    """
    table = keep_cell_types(read_manifest(manifest), parameters.cell_types)
    problems: list[Problem] = []
    try:
        table = fetch(table, remote_tracks, say=say)
        problems += check_manifest(table, genome_fasta, blacklist or None, for_training, parameters.gene_names,
                                   parameters.rename_chromosomes)
    except DownloadsFailed as error:
        problems += [problem_of(one, url) for url, one in error.errors.items()]
        rest = table[~table["path_or_url"].isin(list(error.errors))]
        rest.attrs = table.attrs
        problems += check_files(rest, genome_fasta, blacklist or None, parameters.gene_names, parameters.rename_chromosomes)
    truth = read_manifest(truth_manifest) if truth_manifest else None
    if truth is not None:
        problems += check_files(truth, genome_fasta, rename_chromosomes=parameters.rename_chromosomes)
    problems += _check_parameters(table, genome_fasta, parameters)
    if for_training and not any(problem.fatal for problem in problems):
        try:
            cell_type_table(table, parameters)
        except ChromaccError as error:
            problems.append(problem_of(error, str(manifest), fatal=not split_later))
    return Intake(table, truth, sorted(problems, key=lambda problem: not problem.fatal))


def _check_parameters(table: pd.DataFrame, genome_fasta: str | Path, parameters: Any) -> list[Problem]:
    """Problems of what the parameters name: chromosomes, tracks, and files that are not in the manifest."""
    try:
        sizes = genome_sizes(genome_fasta)
    except FileProblem:  # is in the list already
        sizes = {}
    aliases, problems = genome_aliases(sizes, parameters.rename_chromosomes), []
    for name in ("chromosomes", "test_chromosomes", "validation_chromosomes"):
        problems += _unknown(name, getattr(parameters, name), sizes, "chromosomes of the genome") if sizes else []
    for name, kind in (("histone_marks", "histone"), ("tfs", "tf")):
        known = dict.fromkeys(table.loc[table["kind"] == kind, "target"], 0)
        problems += _unknown(name, getattr(parameters, name), known, f"{kind} tracks of the manifest")
    for name in ("mappability", "tss"):
        entry = getattr(parameters, name)
        if entry and not is_url(entry):
            try:
                require_file(project_path(entry))
                if name == "tss":
                    problems += read_intervals(project_path(entry), sizes or None, aliases)[1]
                else:
                    with open_bigwig(project_path(entry), aliases) as bigwig:
                        problems += renaming_note(entry, bigwig.renamed)
            except FileProblem as error:
                problems.append(error.problem)
    return problems


def _unknown(name: str, asked: tuple[str, ...], known: Mapping[str, int], of: str) -> list[Problem]:
    unknown = [one for one in asked if one not in known]
    if not unknown:
        return []
    return [Problem(f"parameter {name}", 0, f"{len(unknown)} of {len(asked)} unknown", ", ".join(unknown),
                    f"{of}: {', '.join(known) or 'none'}", "Correct the list.")]


def cell_type_table(table: pd.DataFrame, parameters: Any) -> pd.DataFrame:
    """Return cell_type, split, lineage (see `lineages_of`), donor; one row each, in the manifest's order.

    Raises ChromaccError for cell types that cannot be split as asked, or leave fewer than two to train on.
    """
    lineages = lineages_of(table)
    pairs = table[["cell_type", "donor", "lineage"]].drop_duplicates()
    split = split_cell_types(pairs, parameters.seed, parameters.test_cell_types,
                             parameters.validation_cell_types, observed_assays(table))
    rows = [{"cell_type": name, "split": split[name],
             "lineage": lineages[name],
             "donor": ";".join(sorted(set(group["donor"]) - {""}))}
            for name, group in pairs.groupby("cell_type", sort=False)]
    cells = pd.DataFrame(rows)
    n_train = int((cells["split"] == "train").sum())
    if n_train < 2:
        raise ChromaccError(
            f"{n_train} training cell type of {len(cells)}; at least 2 are needed, since each is "
            "compared with the average of the others. Hold out fewer, or add cell types")
    return cells
