"""BED and narrowPeak files, read whole: the rows that are sound, and every problem of the others.

All coordinates are 0-based half-open, in bp.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from chromacc_lib.problems import Problem
from chromacc_lib.sources import data_lines

__all__ = ["RENAMED", "chromosome_names", "read_intervals", "renaming_note"]

RENAMED = "chromosomes are read by other names than the file's"


def read_intervals(path: str | Path,
                   sizes: Mapping[str, int] | None = None,
                   aliases: Mapping[str, str] | None = None) -> tuple[pd.DataFrame, list[Problem]]:
    """Read BED3 to narrowPeak, plain or gzipped; return its good rows, in their order, and every problem.

    Columns: line, chrom, start, end, strength (narrowPeak and broadPeak: signalValue; BED: score, 0 where
    there is none), summit (narrowPeak's own, else the midpoint); a file of ten columns is narrowPeak. sizes:
    {chromosome: length} of the genome, checked if given. aliases: of chromosomes, see `genome.genome_aliases`; they are
    then called as the genome calls them, and a note says so. Raises FileProblem when the file cannot be read at all.
    """
    path = Path(path)
    lines = data_lines(path)
    problems: list[Problem] = []
    table = _interval_table(path, lines, problems)
    if aliases and len(table):
        renamed = {name: aliases[name] for name in dict.fromkeys(table["chrom"]) if name in aliases}
        problems += renaming_note(path, renamed)
        table["chrom"] = table["chrom"].replace(renamed)
    if sizes is not None and len(table):
        problems += chromosome_names(path, dict.fromkeys(table["chrom"]), sizes, "intervals")
        length = table["chrom"].map(sizes)
        table = _drop(table, path, problems, table["end"] > length, "intervals past the chromosome's end",
                      "an end within the FASTA's chromosome", "Use peaks of the FASTA's own assembly.")
    return table.reset_index(drop=True), problems + _interval_notes(path, table)


def _interval_notes(path: Path, table: pd.DataFrame) -> list[Problem]:
    """Notes of what is odd in a file of sound intervals, and harms nothing."""
    notes = []
    first_seen = {chrom: i for i, chrom in enumerate(dict.fromkeys(table["chrom"]))}
    order = [(first_seen[chrom], start) for chrom, start in zip(table["chrom"], table["start"])]
    unsorted = [i for i in range(1, len(order)) if order[i] < order[i - 1]]
    if unsorted:
        notes.append(Problem(str(path), int(table["line"].iloc[unsorted[0]]), "intervals are not sorted",
                             f"{len(unsorted)} step(s) back", "order by chromosome and start",
                             "They are sorted on reading; nothing is lost.", fatal=False))
    again = table[table.duplicated(["chrom", "start", "end", "summit"])]
    if len(again):
        notes.append(Problem(str(path), int(again["line"].iloc[0]), f"intervals given before, in {len(again)} row(s)",
                             " ".join(map(str, again.iloc[0][["chrom", "start", "end"]])), "each interval once",
                             "They count once.", fatal=False))
    if not _ends_its_last_line(path):
        notes.append(Problem(str(path), 0, "the last line has no end", "no newline", "a newline at the end of each line",
                             "The file may have been cut: compare its length or md5 with the source's.", fatal=False))
    return notes


def _ends_its_last_line(path: Path) -> bool:
    """Tell whether a plain file ends with a newline, as text that was not cut does; a gzipped one says it otherwise."""
    with open(path, "rb") as handle:
        zipped = handle.read(2) == b"\x1f\x8b"
        handle.seek(-1, os.SEEK_END)
        return zipped or handle.read(1) in (b"\n", b"\r")


def _interval_table(path: Path, lines: list[tuple[int, str]], problems: list[Problem]) -> pd.DataFrame:
    """Parse lines into typed columns; leave out, and append to `problems`, what is no valid interval."""
    rows = [text.split("\t") if "\t" in text else text.split() for _, text in lines]
    width = max((len(row) for row in rows), default=0)
    raw = pd.DataFrame([row + [None] * (width - len(row)) for row in rows], columns=range(width), dtype=str)
    raw["line"] = [number for number, _ in lines]
    if width < 3 or not len(raw):
        problems.append(
            Problem(str(path), 0, "no intervals", f"{len(raw)} rows of {width} column(s)",
                    "BED: chrom, start, end, separated by tabs", "Check that this is a BED or peak file."))
        return pd.DataFrame({"line": [], "chrom": [], "start": [], "end": [], "strength": [], "summit": []})
    raw = _drop(raw, path, problems, raw[width - 1].isna(), "rows with missing columns",
                f"{width} columns in each row", "The file may be cut; fetch it again.", got=width - 1)
    for column in (1, 2):
        whole = raw[column].str.fullmatch(r"\s*-?[0-9]{1,18}\s*")  # of 64 bits
        raw = _drop(raw, path, problems, ~whole, "positions that are no whole numbers", "integers of up to 18 digits",
                    "Correct the file.", got=column)
    table = pd.DataFrame({"line": raw["line"], "chrom": raw[0], "start": raw[1].astype("int64"),
                          "end": raw[2].astype("int64")})
    table["strength"] = _strength(raw, path, width)
    offset = pd.to_numeric(raw[9], errors="coerce") if width == 10 else pd.Series(-1, index=raw.index)
    middle = (table["start"] + table["end"]) // 2
    table["summit"] = middle.where(offset < 0, table["start"] + offset)
    return _drop_bad_intervals(table, path, problems).astype({"summit": "int64"})


def _strength(raw: pd.DataFrame, path: Path, width: int) -> pd.Series:
    """Strength, float64: column 7 of narrowPeak and broadPeak, else the BED score or 0; NaN = no number."""
    broad = width == 9 and "broadpeak" in path.name.lower()
    column = 6 if width == 10 or broad else 4
    if width <= column:
        return pd.Series(0.0, index=raw.index)
    return pd.to_numeric(raw[column].where(raw[column] != ".", "0"), errors="coerce").astype("float64")


def _drop_bad_intervals(table: pd.DataFrame, path: Path, problems: list[Problem]) -> pd.DataFrame:
    """Leave out what cannot be an interval on a chromosome; one problem for each kind of fault."""
    rules = [
        (lambda t: t["start"] < 0, "negative starts", "start of at least 0", "start", "Correct the file."),
        (lambda t: t["start"] > t["end"], "starts exceed ends", "start < end", "start",
         "Swap the two columns."),
        (lambda t: t["start"] == t["end"], "zero-length intervals", "start < end", "start",
         "Remove them, or give each its width."),
        (lambda t: ~np.isfinite(t["strength"]), "signalValue or score that is no finite number",
         "a finite number", "strength", "Call the peaks again, or remove these rows."),
        (lambda t: t["summit"].isna() | (t["summit"] < t["start"]) | (t["summit"] >= t["end"]),
         "summits outside their peak", "column 10 from 0 to the peak's length - 1, or -1", "summit",
         "Correct column 10, or give BED without it."),
    ]
    for rule, what, needed, got, remedy in rules:
        table = _drop(table, path, problems, rule(table), what, needed, remedy, got=got)
    return table


def _drop(table: pd.DataFrame, path: Path, problems: list[Problem], bad: pd.Series, what: str, needed: str,
          remedy: str, got: str | int = "end") -> pd.DataFrame:
    """Return the rows that are not `bad`, and append one problem that counts those and shows the first."""
    bad = bad.fillna(True).astype(bool)
    if not bad.any():
        return table
    first = table[bad].iloc[0]
    problems.append(Problem(str(path), int(first["line"]), f"{what} in {int(bad.sum())} of {len(bad)} row(s)",
                            f"{first[got]} in the first", needed, remedy))
    return table[~bad]


def chromosome_names(path: str | Path, names: Iterable[str], sizes: Mapping[str, int], what: str) -> list[Problem]:
    """Compare chromosome names with the genome's: none shared is a problem, some unknown is a note."""
    names = list(names)
    unknown = [name for name in names if name not in sizes]
    if not unknown:
        return []
    shown, known = ", ".join(unknown[:4]), ", ".join(list(sizes)[:4])
    if len(unknown) < len(names):
        return [Problem(str(path), 0, f"{what} on {len(unknown)} chromosome(s) that the FASTA does not have",
                        shown, f"chromosomes of the FASTA ({known})", "They are not used.", fatal=False)]
    renamed = {name.removeprefix("chr") for name in names} & {name.removeprefix("chr") for name in sizes}
    if renamed:
        return [Problem(
            str(path), 0, "chromosomes are named in another style than in the FASTA", shown, known,
            f"Rename them in the file ({unknown[0]} is probably the FASTA's {_other_style(unknown[0])}), use a FASTA of the "
            "same style, or have them read by the FASTA's names: rename_chromosomes=true, --rename-chromosomes.")]
    return [Problem(str(path), 0, "no chromosome shared with the FASTA", shown, known,
                    "Use files of the FASTA's own assembly.")]


def renaming_note(path: str | Path, renamed: Mapping[str, str]) -> list[Problem]:
    """Return the note of chromosomes that are read by the genome's names, all of them; [] where none is."""
    if not renamed:
        return []
    return [Problem(str(path), 0, RENAMED, ", ".join(f"{name} as {genome}" for name, genome in renamed.items()),
                    "the FASTA's names", "rename_chromosomes asked for it.", fatal=False)]


def _other_style(name: str) -> str:
    return name.removeprefix("chr") if name.startswith("chr") else f"chr{name}"
