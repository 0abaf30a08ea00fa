"""What is said of a prediction: summary.json, the lines that a user should read, and the BED's head."""

from collections.abc import Mapping

import numpy as np
import torch

from chromacc_lib import __version__, project_path
from chromacc_lib.cell_inputs import CellTypeInputs
from chromacc_lib.expectation import Evaluated, expected_accuracy
from chromacc_lib.hub import ModelFolder
from chromacc_lib.quality import FAR_SD, Quality, expression_distance
from chromacc_lib.writers import BED_COLUMNS, BIGWIG_UNIT, NARROWPEAK_COLUMNS

__all__ = ["calibration_lines", "summarise", "told"]

NOT_EVALUATED = "the model folder has no evaluation.json (03_evaluation writes it)"


def calibration_lines(evaluated: Evaluated) -> list[str]:
    """Return how probabilities and intervals were calibrated, or that they were not."""
    known, undefined = evaluated.content, {"undefined": NOT_EVALUATED}
    entries = (("probabilities", known.get("recalibration", undefined), "as the model gives them"),
               ("intervals of the fold", known.get("conformal", undefined), "none"))  # fmt: skip
    return [f"{what}: " + (f"{instead}, because {entry['undefined']}" if "undefined" in entry else entry["sentence"])
            for what, entry, instead in entries]  # fmt: skip


def summarise(folder: ModelFolder, inputs: CellTypeInputs, quality: Quality, evaluated: Evaluated) -> dict:
    """Return what summary.json says of the model, of the inputs, and of how far they lie from training."""
    table = quality.track_table(inputs.tracks)
    spread = [row["mean_abs_z"] for row in table.values() if row["mean_abs_z"] is not None]
    path, root = folder.path, project_path("")
    n, without = quality.n_windows, quality.n_windows - quality.n_with_prior
    prior = "all" if without == 0 else "none" if without == n else "some"
    return {
        "cell_type": inputs.cell_type,
        "simulated": inputs.simulated or folder.reference.simulated,
        "assembly": inputs.assembly,
        "model": path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name,
        "model_weights_sha256": folder.weights_sha256,
        "trained_on_this_cell_type": inputs.cell_type in folder.reference.cell_types,
        "n_windows": n,
        "windows_without_locus_prior": without,
        "inputs_present": list(inputs.present),
        "inputs_missing": list(inputs.missing),
        "inputs_unused": list(inputs.unused),
        "renamed_chromosomes": dict(inputs.renamed),
        "expected_accuracy": expected_accuracy(evaluated, folder.model.config, inputs.present, prior),
        "calibration": {name: evaluated.content.get(name) for name in ("recalibration", "conformal")},
        "model_verdict": evaluated.content.get("verdict"),
        "correlation_with_locus_average": quality.average_correlation,
        "average_against_prediction": quality.average_density,
        "mean_abs_z_of_inputs": float(np.mean(spread)) if spread else None,
        "tracks_far_from_training": [name for name, row in table.items() if row["far_from_training"]],
        "tracks_not_compared_with_training": [
            name
            for name in inputs.tracks
            if name in inputs.present and table[name]["far_from_training"] is None
        ],
        "tracks": table,
        "expression": expression_distance(folder, inputs.metadata),
        "bigwig_unit": BIGWIG_UNIT,
        "bed_columns": BED_COLUMNS,
        "narrowpeak_columns": NARROWPEAK_COLUMNS,
        "versions": {"chromacc": __version__, "torch": str(torch.__version__), "numpy": np.__version__},
    }


def told(summary: Mapping, seconds: float) -> list[str]:
    """The lines that a user should read."""
    n, without = summary["n_windows"], summary["windows_without_locus_prior"]
    present, missing = (", ".join(summary[f"inputs_{what}"]) for what in ("present", "missing"))
    speed = f"{n:,} windows in {seconds:.1f} s ({n / seconds:,.0f} a second)"
    lines = [f"{summary['cell_type']}: {speed}, {summary['n_open_windows']:,} called open"]
    lines.append(f"inputs present: {present}; missing: {missing or 'none'}")
    expected = summary["expected_accuracy"]
    lines.append("expected accuracy: " + (expected["sentence"] if expected else f"not known: {NOT_EVALUATED}"))
    if summary["trained_on_this_cell_type"]:
        lines.append(
            f"note: {summary['cell_type']} is one of the model's training cell types: its own accessibility "
            "is in the locus average, and this is no prediction of an unseen cell type"
        )
    if without:
        lines.append(
            f"no locus prior for {without:,} of {n:,} windows, because they are no windows of the training "
            "data: there the model does without"
        )
    if summary["tracks_not_compared_with_training"]:
        lines.append(
            "not compared with training (needs 3 training cell types with the track, and half of the "
            "training data's windows predicted): " + ", ".join(summary["tracks_not_compared_with_training"])
        )
    if summary["tracks_far_from_training"]:
        lines.append(
            f"far from the training cell types (more than {FAR_SD} sd from their mean): "
            + ", ".join(summary["tracks_far_from_training"])
        )
    return lines
