"""Checks of what keeps a model from new cell types and loci, beyond the gaps that the table shows: shape, distance."""

import math

import numpy as np

from chromacc_lib.checks import FEW_WINDOWS, Check, Table, judge, not_run, pearson, rule_text
from chromacc_lib.dataset import Arrays
from chromacc_lib.distance import input_distance

__all__ = ["GENERALISATION_NAMES", "generalisation_checks", "peak_shape"]

GENERALISATION_NAMES = ("shape shortcut", "distance of unseen cell types")
MAX_ROWS = 20_000  # headline rows whose profiles are read


def generalisation_checks(arrays: Arrays | None, table: Table) -> list[Check]:
    """Run the checks; without a dataset, say of each that it was not run."""
    if arrays is None:
        return [not_run(name, "generalisation", "no dataset was given") for name in GENERALISATION_NAMES]
    return [_check_shape(arrays, table), _check_distance(arrays, table)]


def peak_shape(arrays: Arrays, windows: np.ndarray, cells: np.ndarray) -> dict[str, np.ndarray]:
    """Return how the tracks of rows (windows[i], cells[i]) lie in the window, whatever their amount: float (n,) each.

    pointedness: highest bin over the mean bin, of the mean of all tracks (z); off centre: how far from the window's
    middle that bin is, as a share of half the window. Called peaks are centred and pointed, tiled windows are not.
    """
    total, count = 0.0, 0
    for values, observed in ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed)):
        total = total + np.where(observed[windows, cells][..., None], values[windows, cells][..., 0], 0).sum(1)  # (n, B)
        count = count + observed[windows, cells].sum(1)
    profile = total / np.maximum(count, 1)[:, None]
    n_bins = profile.shape[1]
    return {"pointedness": profile.max(1) - profile.mean(1),
            "off centre": np.abs(profile.argmax(1) - (n_bins - 1) / 2) / (n_bins / 2)}


def _check_shape(arrays: Arrays, table: Table) -> Check:
    """Does the prediction lean on the shape of the tracks in the window more than the score does?

    As `GC shortcut`: an unbiased prediction has r(prediction, shape) = r(score, shape) / r(score, prediction). See
    Geirhos et al. 2020, "Shortcut learning in deep neural networks", Nat. Mach. Intell. 2:665.
    """
    name, rows = "shape shortcut", table.headline
    rows = rows.iloc[:: max(1, len(rows) // MAX_ROWS)]
    if rows["window"].nunique() < FEW_WINDOWS:
        return not_run(name, "generalisation", f"fewer than {FEW_WINDOWS} windows")
    code = {cell: i for i, cell in enumerate(arrays.cell_types["cell_type"])}
    at = rows["window"].to_numpy(int), rows["cell_type"].map(code).to_numpy(int)
    found = {}
    for shape, values in peak_shape(arrays, *at).items():
        kinds = []
        for cell in np.unique(at[1]):
            here = at[1] == cell
            y, p = (rows[column].to_numpy(float)[here] for column in ("score", "predicted_score"))
            kinds.append((pearson(p, values[here]), pearson(y, values[here]), pearson(y, p)))
        kinds = np.array([kind for kind in kinds if all(map(math.isfinite, kind))])
        if len(kinds):
            predicted, measured, r = np.median(kinds, axis=0)
            found[shape] = (abs(predicted) - min(1.0, abs(measured) / r if r > 0.05 else abs(measured)), predicted, measured)
    if not found:
        return not_run(name, "generalisation", "predictions, scores or profiles do not vary")
    worst = max(found, key=lambda shape: found[shape][0])
    value, predicted, measured = map(float, found[worst])
    return Check(name, "generalisation", value, rule_text("|r| of prediction and track shape beyond that of an unbiased "
                 "prediction", 0.15, 0.3), judge(value, 0.15, 0.3), f"Predictions correlate with the tracks' {worst} in "
                 f"the window at {predicted:.3f}, the scores at {measured:.3f}.",
                 {"excess": {shape: float(kind[0]) for shape, kind in found.items()}})


def _check_distance(arrays: Arrays, table: Table) -> Check:
    """Do the inputs of unseen cell types lie among those of the training cell types? See `distance.input_distance`.

    Largest distance of a test cell type of the table from its nearest training cell type, over the largest of a
    training cell type from its nearest other one.
    """
    name, needed = "distance of unseen cell types", {"cell_type_split", "window_split", "average_score"}
    if not needed <= set(table.rows.columns) or arrays.train_mask.sum() < 3:
        return not_run(name, "generalisation", "no split columns or locus average, or fewer than three training cell types")
    found = input_distance(arrays, table.rows)
    test = [row for row in found["table"] if row["split"] == "test" and math.isfinite(row["distance"])]
    if not test or not found["threshold"] > 0:
        return not_run(name, "generalisation", "no test cell type shares an input with training cell types")
    far = max(test, key=lambda row: row["distance"])
    value = far["distance"] / found["threshold"]
    return Check(name, "generalisation", value, rule_text("distance from the nearest training cell type, over the largest "
                 "between those", 1.5, 2.5), judge(value, 1.5, 2.5), f"{far['cell_type']} lies {value:.2f} times as far "
                 f"from its nearest training cell type as any training cell type from another; most unusual: "
                 f"{far['most_unusual']}.", {"distance": {row["cell_type"]: row["distance"] for row in test}})
