"""The page of runs side by side, comparison.html, and the table of its numbers, comparison.csv: nothing from the web."""

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from chromacc_lib.compare import FOLDERS, METRICS, Comparison, Run, comparison_table, differing
from chromacc_lib.intervals import METHOD
from chromacc_lib.pages import BANNERS, environment, interval, label, signed, words
from chromacc_lib.plots_compare import MAX_CELL_TYPES, plot_ahead, plot_runs_by_cell_type
from chromacc_lib.plots_style import png, use_style
from chromacc_lib.provenance import write_atomically

__all__ = ["write_comparison"]

PAGE, TABLE = "comparison.html", "comparison.csv"


class Picture(NamedTuple):
    """A figure: base64 PNG, its alt text, and a sentence below."""

    png: str
    alt: str
    caption: str


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write comparison.html and comparison.csv into a folder, which is made where it is not there; return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TABLE, comparison_table(comparison).to_csv(index=False))
    runs, simulated = comparison.runs, bool(comparison.first.metrics["simulated"])
    checks = {run.name: {words(c["name"]): c["verdict"] for c in (run.diagnosis or {"checks": []})["checks"]} for run in runs}
    given = {run.name: {n: v for n, v in run.record.get("parameters", {}).items() if n not in FOLDERS} for run in runs}
    text = environment().get_template("comparison.html.j2").render(
        banner=BANNERS[simulated],
        simulated=simulated,
        first=comparison.first.name,
        others=[run.name for run in runs[1:]],
        runs=[_shown(run, comparison, folder) for run in runs],
        sizes=comparison.sizes,
        draw=comparison.draw,
        method=METHOD,
        notes=comparison.notes,
        verdicts=list(comparison.verdicts.values()),
        metrics=[name for name in METRICS if any(name in entry for entry in comparison.entries.values())],
        per_cell_type=comparison.per_cell_type,
        parameters=differing(given),
        facts=_facts(comparison),
        versions=differing({run.name: run.record.get("versions", {}) for run in runs}),
        inputs=differing({run.name: {path: entry["sha256"] for path, entry in run.record["inputs"].items()} for run in runs}),
        checks=differing(checks),
        **_figures(comparison),
    )
    return write_atomically(folder / PAGE, text)


def _shown(run: Run, comparison: Comparison, folder: Path) -> dict[str, object]:
    """Return what the page shows of one run; link: its report, relative to the page."""
    report = run.folder / "index.html"
    diagnosis = run.diagnosis or {"verdict": "not diagnosed", "sentence": "Not diagnosed: collapse_diagnostics.json is missing."}
    next_step = diagnosis.get("next_step")
    return {
        "name": run.name, "entry": comparison.entries[run.name], "n_rows": len(run.rows),
        "headline": run.metrics["headline"]["skill"], "verdict": words(diagnosis["verdict"]),
        "healthy": diagnosis["verdict"] == "healthy",
        "diagnosis": diagnosis["sentence"] + (f" Next step: {next_step}" if next_step else ""),
        "link": quote(os.path.relpath(report, folder.resolve())) if report.is_file() else None,
    }  # fmt: skip


def _facts(comparison: Comparison) -> dict[str, list]:
    """Return what each run was, side by side."""
    runs = comparison.runs
    datasets = [(run.curation or {}).get("fingerprint") for run in runs]
    return {
        "profile": [run.record.get("profile") for run in runs],
        "first run": [run.record.get("created") for run in runs],
        "git commit": [run.record.get("git_commit") for run in runs],
        "dataset": [run.record.get("parameters", {}).get("dataset_dir") for run in runs],
        "dataset's fingerprint": [fingerprint and fingerprint[:12] for fingerprint in datasets],
        "training cell types": [len(run.training_cell_types) for run in runs],
        "rows held out": [len(run.rows) for run in runs],
        "seconds of training": [run.record["stages"].get("02_training", {}).get("seconds") for run in runs],
    }


def _figures(comparison: Comparison) -> dict[str, Picture]:
    """Return the two figures of the page."""
    use_style()
    first, entries = comparison.first.name, comparison.entries
    others = {name: entry for name, entry in entries.items() if name != first}
    told = "; ".join(f"{name} {signed(entry['skill_over_first'])}" for name, entry in others.items())
    cells = comparison.per_cell_type
    by_cell = "; ".join(
        f"{cell}: " + ", ".join(f"{name} {interval(entry['skill'])}" for name, entry in of.items())
        for cell, of in list(cells.items())[:MAX_CELL_TYPES]
    )  # fmt: skip
    more = f" The first {MAX_CELL_TYPES} of {len(cells)} cell types." if len(cells) > MAX_CELL_TYPES else ""
    return {
        "ahead": Picture(
            png(plot_ahead(others, first)),
            f"What each run is ahead of {first}, with 95% intervals; skill over it: {told}.",
            f"What each run is ahead of {first}: right of the line it is better. Lines are 95% intervals, paired.",
        ),
        "by_cell_type": Picture(
            png(plot_runs_by_cell_type(cells)),
            f"{label('skill').capitalize()} of each run in each cell type, with 95% intervals: {by_cell}.",
            f"Skill over the average in each cell type; intervals are over chromosome blocks.{more}",
        ),
    }
