"""The page that goes with a prediction: what was missing, how far it lies from training, what accuracy to expect.

One HTML file, qc.html, beside the tracks, that needs nothing from the web.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jinja2

from chromacc_lib.plots_prediction import plot_average_density, plot_input_distance
from chromacc_lib.plots_style import png, use_style
from chromacc_lib.prediction import Prediction
from chromacc_lib.provenance import write_atomically

__all__ = ["write_qc_page"]

PAGE = "qc.html"
METRICS = {"skill": "skill over the locus average", "pr_auc": "AUPRC",
           "mse": "mean squared error (arcsinh fold squared)"}  # fmt: skip
FACTS = {"assembly": "assembly", "regions": "regions", "n_windows": "windows predicted",
         "windows_without_locus_prior": "of these, without a locus average", "n_open_windows": "called open",
         "threshold": "from a probability of", "threshold_source": "threshold from", "model": "model",
         "model_weights_sha256": "weights (SHA-256)"}  # fmt: skip


class Picture(NamedTuple):
    """A figure: base64 PNG, its alt text, and a sentence below."""

    png: str
    alt: str
    caption: str


def write_qc_page(prediction: Prediction) -> Path:
    """Write qc.html beside a prediction's files from its summary, and return its path."""
    summary = prediction.summary
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    text = environment.get_template("prediction.html.j2").render(
        summary=summary,
        inputs=_inputs(summary),
        warnings=_warnings(summary),
        expected=_expected(summary["expected_accuracy"]),
        calibration=[entry.get("sentence") or f"Not known: {entry['undefined']}."
                     for entry in summary["calibration"].values() if entry],
        figures=_figures(summary),
        facts={label: summary[name] for name, label in FACTS.items()},
    )  # fmt: skip
    return write_atomically(prediction.bigwig.parent / PAGE, text)


def _inputs(summary: Mapping) -> list[tuple[str, str, str]]:
    """Of each input that the model reads: name, whether it is there, and where it lies beside training."""
    rows = []
    for name, row in summary["tracks"].items():
        there = name in summary["inputs_present"]
        far = {True: "far from training", False: "like training", None: "not compared with training"}
        share = f"present, in {row['observed_share']:.0%} of the windows" if there else "missing"
        rows.append((name, share, far[row["far_from_training"]] if there else ""))
    expression, known = summary["expression"], ""
    if expression:
        usual = expression["training_median_to_nearest"]
        known = f"nearest training cell type {expression['nearest_training_cell_type']}, "
        known += f"{expression['distance']:.2f} sd a gene away"
        known += f" (theirs to their own nearest: {usual:.2f})" if usual is not None else ""
    if "expression" in (*summary["inputs_present"], *summary["inputs_missing"]):
        rows.append(("expression", "present" if "expression" in summary["inputs_present"] else "missing", known))
    return rows


def _warnings(summary: Mapping) -> list[str]:
    """What a reader has to know before the figures."""
    found = []
    if summary["trained_on_this_cell_type"]:
        found.append("The model was trained on this cell type: its own accessibility is in the locus average, and this "
                     "is no prediction of an unseen cell type.")  # fmt: skip
    if summary["tracks_far_from_training"]:
        found.append(f"Far from the training cell types: {', '.join(summary['tracks_far_from_training'])}. Look at "
                     "these files before believing the prediction.")  # fmt: skip
    without, n = summary["windows_without_locus_prior"], summary["n_windows"]
    if without:
        found.append(f"{without:,} of {n:,} windows are no windows of the training data: there the model has no locus "
                     "average to start from.")  # fmt: skip
    if summary["inputs_unused"]:
        found.append(f"Not read, because the model does not know it: {', '.join(summary['inputs_unused'])}.")
    return found


def _expected(expected: Mapping | None) -> list[tuple[str, list[str]]] | None:
    """Rows of the table of expected accuracy: metric, and its values as text; None = the model was not evaluated."""
    if expected is None:
        return None
    columns = [expected["with"]] if expected["exact"] else [expected["without"], expected["with"]]
    return [(label, [_interval(column[name]) for column in columns]) for name, label in METRICS.items()]


def _interval(entry: Mapping) -> str:
    if entry["value"] is None:
        return "not known"
    if entry["low"] is None:
        return f"{entry['value']:.3f}"
    return f"{entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _figures(summary: Mapping) -> list[Picture]:
    use_style()
    far = ", ".join(summary["tracks_far_from_training"]) or "none"
    pictures = []
    if summary["tracks"]:
        pictures.append(Picture(
            png(plot_input_distance(summary["tracks"])),
            "Mean and mean size of each scaled input track beside the training cell types; "
            f"more than 3 sd away: {far}; missing: {', '.join(summary['inputs_missing']) or 'none'}.",
            "Where each input lies beside the training cell types. A dot outside its bar is a reason to look at "
            "that file.",
        ))  # fmt: skip
    r, density = summary["correlation_with_locus_average"], summary["average_against_prediction"]
    if any(map(any, density["windows"])):
        words = "not defined" if r is None else f"{r:.3f}"
        pictures.append(Picture(
            png(plot_average_density(density)),
            f"Number of windows by locus average and predicted score; Pearson r {words}.",
            "The prediction beside the locus average, which is what one would have without any data of this cell "
            f"type (Pearson r {words}). What lies off the line is what the model says of this cell type; on the line "
            "it repeats the average.",
        ))  # fmt: skip
    return pictures
