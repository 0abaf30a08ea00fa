"""What leaves the lab: an offline HTML page for each executed notebook, and index.html in front of them.

Everything on index.html is read from the files of the run's folder; a file that is not there is named as
missing.
"""

import base64
import csv
import json
import re
import struct
from pathlib import Path
from typing import NamedTuple

import jinja2
import nbformat
import pandas as pd
from nbconvert import HTMLExporter

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.progress import MARK
from chromacc_lib.provenance import write_atomically

__all__ = ["export_page", "write_index", "headline", "is_simulated", "Figure"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # a "<" that would begin an HTML tag
MAX_FIGURES = 8  # one page is understood in a minute
MAX_MOTIFS = 10
MOTIF_COLUMNS = ("pattern", "consensus", "matched_tf", "n_seqlets", "effect", "effect_low", "effect_high", "p_adjusted",
                 "confirmed", "expressed_tf", "follows_tf", "started_from")  # fmt: skip
CHART_FLOOR = (
    -0.5
)  # skill at which the chart is cut: how hopeless a hopeless baseline is must not squeeze the rest
KEY_METRICS = ("skill", "pearson", "residual_pearson", "roc_auc", "pr_auc", "pr_auc_gain", "base_rate", "std_ratio")
_BANNERS = {
    True: "SIMULATED DATA: a made-up genome with a known answer. It says nothing about biology.",
    False: "REAL DATA: measured tracks.",
    None: "SIMULATED OR REAL IS NOT KNOWN: the run is unfinished, or its parts do not agree.",
}


class Figure(NamedTuple):
    """A figure that a notebook marked for the report."""

    png: str  # base64
    alt: str
    caption: str  # the heading under which it stands
    page: str  # the notebook's page, such as 03_evaluation.html

    @property
    def wide(self) -> bool:
        """Whether it needs the page's whole width: more than twice as wide as high (PNG header, bytes 16 to
        24).
        """
        width, height = struct.unpack(">II", base64.b64decode(self.png[:32])[16:24])
        return width > 2 * height


def is_simulated(run_dir: Path) -> bool | None:
    """Say whether a run's data is simulated, by the word of its dataset and its evaluation.

    None while neither says so, or when they differ, as after a change of source that was not evaluated yet.
    Raises ChromaccError when a file that says it is no JSON.
    """
    dataset_dir = (_read_json(run_dir / "run.json") or {}).get("parameters", {}).get("dataset_dir")
    curation = _read_json(project_path(dataset_dir) / "curation.json") if dataset_dir else None
    files = (curation, _read_json(run_dir / "evaluation_metrics.json"))
    words = {content["simulated"] for content in files if content is not None}
    return words.pop() if len(words) == 1 else None


def headline(run_dir: Path) -> str:
    """Return the evaluation's verdict in one line, with a warning before it when it is from before the last
    change.
    """
    metrics = _read_json(run_dir / "evaluation_metrics.json")
    if metrics is None:
        return "not known: the evaluation has not been run"
    stages = (_read_json(run_dir / "run.json") or {"stages": {}})["stages"].values()
    writers = [s for s in stages if any(path.endswith("/evaluation_metrics.json") for path in s["outputs"])]
    current = bool(writers) and all(stage["state"] == "done" for stage in writers)
    return metrics["verdict"] if current else f"(from before the last change) {metrics['verdict']}"


def export_page(notebook: Path, page: Path, simulated: bool | None) -> None:
    """Write the page of an executed notebook: one HTML file that needs nothing from the web.

    A tag in text that a cell displays as Markdown is shown as text: names of cell types come from the user. Lines
    of progress are left out.
    """
    content = nbformat.read(notebook, as_version=4)
    content.metadata.pop("widgets", None)  # without the widgets' state, nbconvert cannot read it
    content.metadata["title"] = _heading(content.cells, len(content.cells), first=True) or notebook.stem
    content.metadata["chromacc"] = {"banner": _BANNERS[simulated]}
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = _without_progress(cell.outputs)
        for output in cell.get("outputs", []):
            if "text/markdown" in output.get("data", {}):
                output.data["text/markdown"] = _TAG.sub("&lt;", output.data["text/markdown"])
    exporter = HTMLExporter(template_name="page", extra_template_basedirs=[str(_TEMPLATES)])
    text, _ = exporter.from_notebook_node(content, resources={"metadata": {"name": notebook.stem}})
    write_atomically(page, text)


def _without_progress(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Return a cell's outputs without the lines of progress, and without what held nothing else."""
    kept = []
    for output in outputs:
        if output.output_type == "stream" and output.name == "stderr":
            lines = output.text.splitlines(keepends=True)
            output.text = "".join(line for line in lines if not line.startswith(MARK))
            if not output.text:
                continue
        kept.append(output)
    return kept


def write_index(run_dir: Path) -> Path:
    """Write index.html of a run's folder from what lies there, and return its path.

    Raises ChromaccError when the folder holds no run.json, or when one of its files is damaged.
    """
    record = _read_json(run_dir / "run.json")
    if record is None:
        raise ChromaccError(
            f"{run_dir}: no run.json there, so it is no run's folder. Give one such as reports/pilot"
        )
    metrics, diagnosis = (
        _read_json(run_dir / f"{n}.json") for n in ("evaluation_metrics", "collapse_diagnostics")
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"interval": _interval, "number": _number, "words": _words, "plain": _plain}
    simulated = is_simulated(run_dir)
    text = environment.get_template("index.html.j2").render(
        banner=_BANNERS[simulated],
        simulated=simulated,
        record=record,
        metrics=metrics,
        diagnosis=diagnosis,
        data=_data_facts(run_dir, record),
        stages=_stages(run_dir, record),
        figures=_figures(run_dir),
        motifs=_motifs(run_dir),
        prediction=_read_json(run_dir / "prediction" / "summary.json"),
        qc_page=(run_dir / "prediction" / "qc.html").is_file(),
        prediction_facts=_prediction_facts(_read_json(run_dir / "prediction" / "summary.json") or {}),
        forest=_forest(metrics),
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
                "title": _words(name[3:]).capitalize(),
                "page": page,
                "failed": failed,
                "state": entry["state"],
                "seconds": entry["seconds"],
                "error": entry["error"],
            }
        )
    return stages


def _data_facts(run_dir: Path, record: dict) -> list[tuple[str, str]]:
    """Return (what, how much) about the data: the manifest as it was read, what was curated, the table of predictions.

    Without the dataset, windows are those that were predicted, and are called so.
    """
    facts = []
    dataset_dir = record.get("parameters", {}).get("dataset_dir")
    lock = project_path(dataset_dir) / "manifest.lock.tsv" if dataset_dir else None
    curation = project_path(dataset_dir) / "curation.json" if dataset_dir else None
    if lock is not None and lock.is_file():
        with open(lock, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        facts.append(("files read", f"{len(rows)}"))
        facts.append(("assembly", ", ".join(sorted({row["assembly"] for row in rows if row["assembly"]}))))
        for kind, label in (("histone", "histone marks"), ("tf", "transcription factors")):
            facts.append(
                (label, ", ".join(sorted({row["target"] for row in rows if row["kind"] == kind})) or "none")
            )
    if (run_dir / "predictions.parquet").is_file():
        columns = ["cell_type", "cell_type_split", "window", "window_split", "chrom"]
        table = pd.read_parquet(run_dir / "predictions.parquet", columns=columns)
        cells = table.drop_duplicates("cell_type")["cell_type_split"].value_counts()
        what, windows = "windows predicted", table.drop_duplicates("window")["window_split"].value_counts()
        if curation is not None and curation.is_file():
            curated = pd.Series(json.loads(curation.read_text(encoding="utf-8"))["windows"])  # "train, peak": how many
            what, windows = "windows", curated.groupby(curated.index.str.partition(", ").get_level_values(0)).sum()
        facts += [("cell types", _split_counts(cells)), (what, _split_counts(windows))]
        held_out = table.loc[table["window_split"] == "test", "chrom"].unique()
        facts.append(("chromosomes never trained on", ", ".join(sorted(map(str, held_out)))))
        unseen = table.loc[table["cell_type_split"] == "test", "cell_type"].unique()
        facts.append(("cell types never trained on", ", ".join(sorted(map(str, unseen)))))
    return facts


def _split_counts(counts: pd.Series) -> str:
    """Return counts by split as text, such as "20: 14 train, 3 validation, 3 test"."""
    parts = [
        f"{counts[split]:,} {split}" for split in ("train", "validation", "test") if split in counts.index
    ]
    return f"{int(counts.sum()):,}: {', '.join(parts)}"


def _figures(run_dir: Path) -> list[Figure]:
    """Return the figures of cells tagged `report-figure` in the executed notebooks, in order, at most
    MAX_FIGURES.
    """
    figures = []
    for path in sorted(run_dir.glob("[0-9][0-9]_*.ipynb")):
        if path.stem.endswith(".failed"):
            continue
        cells = nbformat.read(path, as_version=4).cells
        for index, cell in enumerate(cells):
            if "report-figure" not in cell.metadata.get("tags", []):
                continue
            for output in cell.get("outputs", []):
                if "image/png" in output.get("data", {}):
                    alt = output.metadata.get("image/png", {}).get("alt", "")
                    png = output.data["image/png"].replace("\n", "")
                    figures.append(Figure(png, alt, _heading(cells, index) or path.stem, f"{path.stem}.html"))
    return figures[:MAX_FIGURES]


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
    """Return what the page shows of the motifs that the interpretation wrote, or None where there are none."""
    path = run_dir / "interpretation" / "motifs.csv"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
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
        facts["correlation with the locus average"] = _number(summary["correlation_with_locus_average"])
    return facts


def _forest(metrics: dict | None) -> list[dict]:
    """Return the rows of the skill chart: label, skill, and where zero, value and interval stand, in percent
    of its width.

    The first row is the model; the others are the baselines, all in the headline's quadrant. A baseline that
    is undefined there has no places but a sentence, `undefined`; cut: the value lies left of the chart.
    """
    if metrics is None:
        return []
    quadrant = metrics["headline"]["quadrant"]
    entries = {name: entry.get(quadrant, {}) for name, entry in metrics["baselines"].items()}
    labels = {
        n: _words(n) + (f" ({e['rows']:,} of {e['of_rows']:,} rows)" if "partly" in e else "")
        for n, e in entries.items()
    }
    skills = {"this model": metrics["headline"]["skill"]} | {
        labels[n]: e.get("skill") for n, e in entries.items()
    }
    known = {label: s for label, s in skills.items() if s and None not in (s["value"], s["low"], s["high"])}
    numbers = [v for s in known.values() for v in (s["value"], s["low"], s["high"])]
    low, high = max(min([*numbers, 0.0]), CHART_FLOOR), max([*numbers, 0.1])
    undefined = {
        labels[n]: e.get("undefined", "no skill in evaluation_metrics.json") for n, e in entries.items()
    }

    def place(value: float) -> float:
        """Percent of the chart's width at which a value stands."""
        return round(2 + 96 * (min(max(value, low), high) - low) / (high - low), 2)

    return [
        (
            {
                "label": label,
                "skill": skill,
                "zero": place(0.0),
                "at": place(skill["value"]),
                "cut": skill["value"] < low,
                "low": place(skill["low"]),
                "high": place(skill["high"]),
            }
            if label in known
            else {"label": label, "undefined": undefined.get(label, "not known")}
        )
        for label, skill in skills.items()
    ]


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


def _number(value: object) -> str:
    """Return a number with three significant digits, anything else as text; None is "not known"."""
    if value is None or value != value:
        return "not known"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def _interval(entry: object) -> str:
    """Return "value [low, high]" of an estimate, or the number alone where it has no interval."""
    if not isinstance(entry, dict) or "value" not in entry:
        return _plain(entry)
    if entry.get("low") is None or entry.get("high") is None:
        return _number(entry["value"])
    return f"{_number(entry['value'])} [{_number(entry['low'])}, {_number(entry['high'])}]"


def _plain(value: object) -> str:
    """Return a value of a JSON file as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{_words(k)} {_interval(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return "not set" if value == "" else _number(value)


def _words(name: str) -> str:
    """Return an identifier as words: unseen_cell_type_x_unseen_chromosome -> unseen cell type × unseen
    chromosome.
    """
    return str(name).replace("_x_", " × ").replace("_", " ")


def _read_json(path: Path) -> dict | None:
    """Return the object in a JSON file, or None where there is no file; raise ChromaccError when it is
    damaged.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChromaccError(
            f"{path}: no readable JSON ({error}); run the stage that writes it again"
        ) from error
