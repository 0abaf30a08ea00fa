"""What leaves the lab: an offline HTML page for each executed notebook, and index.html in front of them.

Everything on index.html is read from the files of the run's folder; a file that is not there is named as
missing.
"""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.pages import BANNERS, TEMPLATES, environment, label, number, read_json, signed, words
from chromacc_lib.progress import MARK
from chromacc_lib.provenance import write_atomically
from chromacc_lib.wording import count, estimate, side

__all__ = ["drop_progress", "export_page", "write_index", "headline", "is_simulated", "Figure"]

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # a "<" that would begin an HTML tag
_SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z])")
FIGURES = {"report-figure": 4, "report-calibration": 1, "report-motifs": 1}  # tag of a cell: how many are shown at most
MAX_MOTIFS = 10
MAX_NAMES = 6  # of held-out cell types and chromosomes, in the opening sentence
MOTIF_COLUMNS = ("pattern", "consensus", "matched_tf", "n_seqlets", "effect", "p_adjusted", "confirmed", "expressed_tf",
                 "follows_tf", "holds_in_place")  # fmt: skip
CHART_FLOOR = (
    -0.5
)  # skill at which the chart is cut: how hopeless a hopeless baseline is must not squeeze the rest
KEY_METRICS = ("skill", "pearson", "residual_pearson", "roc_auc", "pr_auc", "pr_auc_gain", "base_rate", "std_ratio")
SIDES = {1: ("won", "beaten"), 0: ("open", "not told apart"), -1: ("lost", "beats the model"), None: ("open", "no interval")}


class Figure(NamedTuple):
    """A figure that a notebook marked for the report."""

    png: str  # base64
    alt: str
    caption: str  # the heading under which it stands
    page: str  # the notebook's page, such as 03_evaluation.html


def is_simulated(run_dir: Path) -> bool | None:
    """Say whether a run's data is simulated, by the word of its dataset and its evaluation.

    None while neither says so, or when they differ, as after a change of source that was not evaluated yet.
    Raises ChromaccError when a file that says it is no JSON.
    """
    dataset_dir = (read_json(run_dir / "run.json") or {}).get("parameters", {}).get("dataset_dir")
    curation = read_json(project_path(dataset_dir) / "curation.json") if dataset_dir else None
    files = (curation, read_json(run_dir / "evaluation_metrics.json"))
    words = {content["simulated"] for content in files if content is not None}
    return words.pop() if len(words) == 1 else None


def headline(run_dir: Path) -> str:
    """Return the headline in one line: skill over the average with its interval, where, on what data, the diagnosis.

    A warning stands before it when the evaluation is from before the last change. Raises ChromaccError when a file of
    the run is damaged.
    """
    metrics = read_json(run_dir / "evaluation_metrics.json")
    if metrics is None:
        return "not known: the evaluation has not been run"
    stages = (read_json(run_dir / "run.json") or {"stages": {}})["stages"].values()
    writers = [s for s in stages if any(path.endswith("/evaluation_metrics.json") for path in s["outputs"])]
    current = bool(writers) and all(stage["state"] == "done" for stage in writers)
    diagnosis = read_json(run_dir / "collapse_diagnostics.json")
    parts = [
        f"skill {estimate(metrics['headline']['skill'], what='95% interval ')} over the training-cell-type average, "
        + words(metrics["headline"]["quadrant"]),
        "simulated data" if metrics["simulated"] else "real data",
        f"diagnosis: {words(diagnosis['verdict'])}" if diagnosis else "not diagnosed yet",
    ]
    return ("" if current else "(from before the last change) ") + "; ".join(parts)


def export_page(notebook: Path, page: Path, simulated: bool | None) -> None:
    """Write the page of an executed notebook: one HTML file that needs nothing from the web.

    A tag in text that a cell displays as Markdown is shown as text: names of cell types come from the user. Lines
    of progress are left out.
    """
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # without the widgets' state, nbconvert cannot read it
    content.metadata["title"] = _heading(content.cells, len(content.cells), first=True) or notebook.stem
    content.metadata["chromacc"] = {"banner": BANNERS[simulated]}
    drop_progress(content)
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _TAG.sub("&lt;", output.data["text/markdown"])
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(TEMPLATES)])
    text, _ = exporter.from_notebook_node(content, resources={"metadata": {"name": notebook.stem}})
    write_atomically(page, text)


def drop_progress(notebook: nbformat.NotebookNode) -> None:
    """Drop the lines of progress from a notebook's outputs, and outputs that held nothing else: they told of a moment."""
    for cell in notebook.cells:
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not line.startswith(MARK))
                if not output.text:
                    continue
            kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept


def write_index(run_dir: Path) -> Path:
    """Write index.html of a run's folder from what lies there, and return its path.

    Raises ChromaccError when the folder holds no run.json, or when one of its files is damaged.
    """
    record = read_json(run_dir / "run.json")
    if record is None:
        raise ChromaccError(
            f"{run_dir}: no run.json there, so it is no run's folder. Give one such as reports/pilot"
        )
    metrics, diagnosis = (
        read_json(run_dir / f"{n}.json") for n in ("evaluation_metrics", "collapse_diagnostics")
    )
    simulated, prediction = is_simulated(run_dir), read_json(run_dir / "prediction" / "summary.json")
    tracks = _tracks(record)
    held_out, facts = _held_out(run_dir), _data_facts(run_dir, record, tracks)
    text = environment().get_template("index.html.j2").render(
        banner=BANNERS[simulated],
        simulated=simulated,
        record=record,
        metrics=metrics,
        lead=_SENTENCE.split(metrics["verdict"])[:2] if metrics else [],
        diagnosis=diagnosis,
        held_out={what: _some(names) for what, names in held_out.items()},
        data=facts,
        tracks=tracks,
        stages=_stages(run_dir, record),
        figures=_figures(run_dir),
        motifs=_motifs(run_dir),
        prediction=prediction,
        qc_page=(run_dir / "prediction" / "qc.html").is_file(),
        prediction_facts=_prediction_facts(prediction or {}),
        forest=_forest(metrics),
        against=_against(metrics),
        max_motifs=MAX_MOTIFS,
        key_metrics=KEY_METRICS,
        quadrants=_quadrants(metrics),
        quadrant_metrics=_quadrant_metrics(metrics),
    )
    return write_atomically(run_dir / "index.html", text)


def _stages(run_dir: Path, record: dict) -> list[dict]:
    """Return name, state, seconds, page and error of each stage, in order."""
    stages = []
    for name, entry in sorted(record["stages"].items()):
        page = f"{name}.html" if (run_dir / f"{name}.html").exists() else None
        failed = f"{name}.failed.ipynb" if (run_dir / f"{name}.failed.ipynb").exists() else None
        stages.append(
            {
                "name": name,
                "title": words(name[3:]).capitalize(),
                "page": page,
                "failed": failed,
                "state": entry["state"],
                "seconds": entry["seconds"],
                "error": entry["error"],
            }
        )
    return stages


def _tracks(record: dict) -> list[dict[str, str]]:
    """Return the rows of manifest.lock.tsv, which is what curation read; none where it is not there."""
    dataset_dir = record.get("parameters", {}).get("dataset_dir")
    lock = project_path(dataset_dir) / "manifest.lock.tsv" if dataset_dir else None
    if lock is None or not lock.is_file():
        return []
    with open(lock, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle, delimiter="\t"))


def _held_out(run_dir: Path) -> dict[str, list[str]]:
    """Return the cell types and chromosomes that the model never saw: {"cell_types", "chromosomes"}, empty if not known."""
    if not (run_dir / "predictions.parquet").is_file():
        return {"cell_types": [], "chromosomes": []}
    table = pd.read_parquet(
        run_dir / "predictions.parquet", columns=["cell_type", "cell_type_split", "window_split", "chrom"]
    )
    cells = table.loc[table["cell_type_split"] == "test", "cell_type"].unique()
    chromosomes = table.loc[table["window_split"] == "test", "chrom"].unique()
    return {"cell_types": sorted(map(str, cells)), "chromosomes": sorted(map(str, chromosomes))}


def _some(names: list[str]) -> str:
    """Return names as one text, the first few of many."""
    rest = len(names) - MAX_NAMES
    return ", ".join(names) if rest < 2 else f"{', '.join(names[:MAX_NAMES])} and {rest} more"


def _data_facts(run_dir: Path, record: dict, tracks: list[dict]) -> list[tuple[str, str]]:
    """Return (what, how much) about the data: the manifest as it was read, what was curated, the table of predictions.

    Without the dataset, windows are those that were predicted, and are called so.
    """
    facts = []
    dataset_dir = record.get("parameters", {}).get("dataset_dir")
    curation = read_json(project_path(dataset_dir) / "curation.json") if dataset_dir else None
    if (run_dir / "predictions.parquet").is_file():
        columns = ["cell_type", "cell_type_split", "window", "window_split"]
        table = pd.read_parquet(run_dir / "predictions.parquet", columns=columns)
        cells = table.drop_duplicates("cell_type")["cell_type_split"].value_counts()
        what, windows = "windows predicted", table.drop_duplicates("window")["window_split"].value_counts()
        if curation is not None and "windows" in curation:
            curated = pd.Series(curation["windows"])  # "train, peak": how many
            what, windows = "windows", curated.groupby(curated.index.str.partition(", ").get_level_values(0)).sum()
        facts += [("cell types", _split_counts(cells)), (what, _split_counts(windows))]
    for kind, of_kind in (("histone", "histone marks"), ("tf", "TF tracks"), ("expression", "TF expression")):
        named = sorted({row["target"] for row in tracks if row["kind"] == kind})
        of = len({row["cell_type"] for row in tracks if row["kind"] == kind})
        if tracks:
            facts.append((of_kind, f"of {count(of, 'cell type')}" if named and kind == "expression" else ", ".join(named) or "none"))
    if tracks:
        facts += [("files read", f"{len(tracks):,}"),
                  ("assembly", ", ".join(sorted({row["assembly"] for row in tracks if row["assembly"]})))]  # fmt: skip
    return facts


def _split_counts(counts: pd.Series) -> str:
    """Return counts by split as text, such as "20: 14 train, 3 validation, 3 test"."""
    parts = [
        f"{counts[split]:,} {split}" for split in ("train", "validation", "test") if split in counts.index
    ]
    return f"{int(counts.sum()):,}: {', '.join(parts)}"


def _figures(run_dir: Path) -> dict[str, list[Figure]]:
    """Return the figures of cells with a tag of `FIGURES` in the executed notebooks, in order: {tag: figures}."""
    figures = {tag: [] for tag in FIGURES}
    for path in sorted(run_dir.glob("[0-9][0-9]_*.ipynb")):
        if path.stem.endswith(".failed"):
            continue
        cells = nbformat.read(path, as_version=4).cells
        for index, cell in enumerate(cells):
            for tag in figures.keys() & cell.metadata.get("tags", []):
                for output in cell.get("outputs", []):
                    if "image/png" in output.get("data", {}):
                        alt = output.metadata.get("image/png", {}).get("alt", "")
                        png = output.data["image/png"].replace("\n", "")
                        heading = _heading(cells, index) or path.stem
                        figures[tag].append(Figure(png, alt, heading, f"{path.stem}.html"))
    return {tag: found[: FIGURES[tag]] for tag, found in figures.items()}


def _heading(cells: list, before: int, first: bool = False) -> str | None:
    """Return the first, or else the last, Markdown heading among the cells that stand before an index."""
    headings = [
        line.lstrip("#").strip()
        for cell in cells[:before]
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("#")
    ]
    return (headings[0] if first else headings[-1]) if headings else None


def _motifs(run_dir: Path) -> pd.DataFrame | None:
    """Return what the page shows of the motifs that the interpretation wrote, or None where there are none.

    effect becomes a text with its interval, where there is one.
    """
    path = run_dir / "interpretation" / "motifs.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    if {"effect", "effect_low", "effect_high"} <= set(table):
        ends = table[["effect", "effect_low", "effect_high"]].astype(object).to_numpy()
        table["effect"] = [signed(dict(zip(("value", "low", "high"), row, strict=True))) for row in ends]
    return table[[name for name in MOTIF_COLUMNS if name in table] or list(table)]


def _prediction_facts(summary: dict) -> dict[str, str]:
    """Return what a reader needs first of prediction/summary.json: {name: text}, of what it holds."""
    listed = {"inputs present": "inputs_present", "inputs missing": "inputs_missing",
              "inputs that the model does not know": "inputs_unused",
              "tracks far from training": "tracks_far_from_training",
              "tracks too rare in training to compare": "tracks_not_compared_with_training"}  # fmt: skip
    facts = {}
    if "cell_type" in summary:
        seen = summary.get("trained_on_this_cell_type")
        facts["cell type"] = str(summary["cell_type"]) + (", which the model was trained on" if seen else "")
    if "n_open_windows" in summary:
        facts["windows"] = (f"{summary['n_windows']:,} predicted ({summary['regions']}), {summary['n_open_windows']:,} called "
                            f"open (probability of {summary['threshold']:.3f} or more)")
    if summary.get("expected_accuracy"):
        facts["accuracy to expect"] = summary["expected_accuracy"]["sentence"]
    for name, key in listed.items():
        if key in summary:
            facts[name] = f"{len(summary[key])}: {', '.join(summary[key])}" if summary[key] else "none"
    if "correlation_with_locus_average" in summary:
        facts["correlation with the locus average"] = number(summary["correlation_with_locus_average"])
    return facts


def _forest(metrics: dict | None) -> list[dict]:
    """Return the rows of the skill chart: label, skill, and where zero, value and interval stand, in percent
    of its width; of a baseline also `ahead`, the model's skill over it, with `side` and `word` for it.

    The first row is the model; the others are the baselines, all in the headline's quadrant. A baseline that
    is undefined there has no places but a sentence, `undefined`; cut: the value lies left of the chart.
    """
    if metrics is None:
        return []
    quadrant = metrics["headline"]["quadrant"]
    entries = {name: entry.get(quadrant, {}) for name, entry in metrics["baselines"].items()}
    skills = [metrics["headline"]["skill"], *(entry.get("skill") for entry in entries.values())]
    known = [s for s in skills if s and None not in (s["value"], s["low"], s["high"])]
    numbers = [v for s in known for v in (s["value"], s["low"], s["high"])]
    low, high = max(min([*numbers, 0.0]), CHART_FLOOR), max([*numbers, 0.1])

    def place(value: float) -> float:
        """Percent of the chart's width at which a value stands."""
        return round(2 + 96 * (min(max(value, low), high) - low) / (high - low), 2)

    rows = [{"label": "this model", "skill": skills[0]}]
    for (name, entry), skill in zip(entries.items(), skills[1:], strict=True):
        partly = f" ({entry['rows']:,} of {entry['of_rows']:,} rows)" if "partly" in entry else ""
        row = {"label": label(name) + partly, "skill": skill}
        if "model_skill" in entry:
            row["ahead"] = entry["model_skill"]
            row["side"], row["word"] = SIDES[side(entry["model_skill"])]
        rows.append(row | ({"undefined": entry["undefined"]} if "undefined" in entry else {}))
    for row in rows:
        if row["skill"] not in known:
            value = (row["skill"] or {}).get("value")
            row.setdefault("undefined", "not known" if value is None else f"{number(value)}, without an interval")
        else:
            value = row["skill"]["value"]
            row |= {"zero": place(0.0), "at": place(value), "cut": value < low}
            row |= {end: place(row["skill"][end]) for end in ("low", "high")}
    return rows


def _against(metrics: dict | None) -> list[dict]:
    """Return for each baseline that is defined in the headline's quadrant its error, its ranking, and the model's lead."""
    if metrics is None:
        return []
    entries = {name: entry.get(metrics["headline"]["quadrant"], {}) for name, entry in metrics["baselines"].items()}
    return [{"name": name} | entry for name, entry in entries.items() if "model_skill" in entry]


def _quadrants(metrics: dict | None) -> dict[str, dict]:
    """Return the metrics of each quadrant, the headline's first: on a phone it is the one in sight."""
    if metrics is None:
        return {}
    first = metrics["headline"]["quadrant"]
    return {first: metrics["quadrants"][first]} | metrics["quadrants"]


def _quadrant_metrics(metrics: dict | None) -> list[str]:
    """Return the names of the metrics in all quadrants together, the key ones first."""
    names = dict.fromkeys(
        name for entry in (metrics or {"quadrants": {}})["quadrants"].values() for name in entry
    )
    return [name for name in KEY_METRICS if name in names] + [
        name for name in names if name not in KEY_METRICS
    ]
