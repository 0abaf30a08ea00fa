"""What each input is worth to a model: masked one at a time, alone, and shared out among all of them (Shapley)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, measured, without
from chromacc_lib.dataset import Arrays
from chromacc_lib.inference import evaluating
from chromacc_lib.model import MODALITIES

__all__ = ["modality_alone", "modality_contributions", "shapley_contributions"]


def modality_contributions(
    model: nn.Module, arrays: Arrays, windows: np.ndarray, at_once: int = 32
) -> pd.DataFrame:
    """Mask each modality, mark and TF track as if it had not been measured, and see how the predictions change.

    One row an input and cell type, over `windows`: input, group (modality, histone mark, TF track), cell_type,
    cell_type_split, n_windows, mse, mse_masked, rise (of the squared error, as a share of the scores' variance), rms
    (change of the prediction, arcsinh fold). Rise and rms are NaN where that input was never measured. Masking tells
    what the model loses without an input when all the others are there: two inputs that say the same look small.
    """
    data = RegionData(arrays)
    inputs = {(name, "modality"): (name, None) for name in MODALITIES}
    inputs |= {(name, "histone mark"): ("histone", i) for i, name in enumerate(arrays.histone_marks)}
    inputs |= {(name, "TF track"): ("tf", i) for i, name in enumerate(arrays.tfs)}
    cells, score = np.arange(arrays.score.shape[1]), arrays.score[windows]
    whole = _predict(model, data, windows, cells, at_once)
    known = np.isfinite(score)
    error = _mean_known((whole - score) ** 2, known)
    variance = np.array([np.var(score[known[:, c], c]) if known[:, c].any() else np.nan for c in cells])
    tables = []
    for (name, group), (modality, index) in inputs.items():
        masked = _predict(model, data, windows, cells, at_once, [(modality, index)])
        there = measured(data.batch(windows, cells), modality, index).any(0)
        error_masked = _mean_known((masked - score) ** 2, known)
        rise = np.where(there, (error_masked - error) / variance, np.nan)
        rms = np.where(there, np.sqrt(((masked - whole) ** 2).mean(0)), np.nan)
        tables.append(pd.DataFrame({
            "input": name, "group": group, "cell_type": arrays.cell_types["cell_type"].to_numpy(),
            "cell_type_split": arrays.cell_types["split"].to_numpy(), "n_windows": known.sum(0), "mse": error,
            "mse_masked": error_masked, "rise": rise, "rms": rms,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def modality_alone(model: nn.Module, arrays: Arrays, most_windows: int = 400, at_once: int = 32) -> pd.DataFrame:
    """Scores that the model predicts from one modality at a time, all others masked, where nothing was trained on.

    One row a test cell type and window of the test chromosomes (at most `most_windows`, evenly spaced): cell_type, window,
    and a column for each of MODALITIES, arcsinh fold. A lower bound of what a modality can do: the model was trained with
    all of them, and seldom with one. Compare them with `evaluation.compare`.
    """
    data, cells = RegionData(arrays), np.flatnonzero((arrays.cell_types["split"] == "test").to_numpy())
    windows = np.flatnonzero((arrays.windows["split"] == "test").to_numpy())
    windows = windows[:: max(1, -(-len(windows) // most_windows))]
    names = arrays.cell_types["cell_type"].to_numpy()[cells]
    columns = {"cell_type": np.tile(names, len(windows)), "window": np.repeat(windows, len(cells))}
    for name in MODALITIES:
        others = [(other, None) for other in MODALITIES if other != name]
        columns[f"{name} only"] = _predict(model, data, windows, cells, at_once, others).reshape(-1)
    return pd.DataFrame(columns)


def shapley_contributions(
    model: nn.Module, arrays: Arrays, windows: np.ndarray, cells: np.ndarray, n_orders: int = 8, seed: int = 1,
    at_once: int = 32,
) -> pd.DataFrame:  # fmt: skip
    """Share out what a model explains among its inputs: sequence, each mark, each TF track, metadata and locus prior.

    Inputs are added one after the other, in an order drawn at random, to a model that is shown none of them; an input's
    contribution is what the explained share of the variance gains when it comes, the mean over orders: its Shapley value
    (SAGE, Covert et al. 2020, NeurIPS 33:17212; missing inputs are masked, as the model knows it from training). What
    two inputs both say is so divided between them, where masking one of them at a time shows it of neither. Every order
    has its own part of the windows and is gone through forwards and backwards, which takes noise out of the mean.

    windows (W,) and cells (C,): indices. Returns one row an input and cell type: input, group, cell_type,
    cell_type_split, contribution (share of the scores' variance over `windows`; NaN where the input was never measured
    there), sd_error (of the mean over orders). Contributions of a cell type add up to explained - explained_without,
    two further columns, what is explained with all inputs and with none. Raises ChromaccError for an odd number of
    orders, or fewer than two windows an order.
    """
    if n_orders < 2 or n_orders % 2 or len(windows) < n_orders:
        raise ChromaccError(
            f"shapley_contributions: n_orders={n_orders} and {len(windows)} windows; needed: an even number of orders, "
            "and a window or more for each of them."
        )
    data, names = RegionData(arrays), _inputs(arrays)
    rng, score = np.random.default_rng(seed), arrays.score[:, cells]
    variance = np.nanvar(score[windows], axis=0)
    gains, whole = np.zeros((n_orders, len(names), len(cells))), np.zeros((2, n_orders, len(cells)))
    for pair, part in enumerate(np.array_split(rng.permutation(windows), n_orders // 2)):
        part, order = np.sort(part), rng.permutation(len(names))
        for o, one in ((2 * pair, order), (2 * pair + 1, order[::-1])):
            hidden = [list(names.values())[i] for i in one]
            known = []
            for shown in range(len(names) + 1):
                predicted = _predict(model, data, part, cells, at_once, hidden[shown:])
                measured_there = np.isfinite(score[part])
                known.append(1 - _mean_known((predicted - score[part]) ** 2, measured_there) / variance)
            gains[o, one] = np.diff(known, axis=0)
            whole[:, o] = known[-1], known[0]
    there = np.array([measured(data.batch(windows, cells), *where).any(0) for where in names.values()])  # (inputs, C)
    cell_types = arrays.cell_types.iloc[np.repeat(cells[None], len(names), 0).ravel()]
    pairs = (gains[::2] + gains[1::2]) / 2
    table = pd.DataFrame({
        "input": np.repeat([name for name, _ in names], len(cells)),
        "group": np.repeat([group for _, group in names], len(cells)),
        "cell_type": cell_types["cell_type"].to_numpy(), "cell_type_split": cell_types["split"].to_numpy(),
        "contribution": np.where(there, gains.mean(0), np.nan).ravel(),
        "sd_error": np.where(there, pairs.std(0, ddof=min(1, len(pairs) - 1)) / np.sqrt(len(pairs)), np.nan).ravel(),
    })  # fmt: skip
    explained, without_any = (np.tile(values.mean(0), len(names)) for values in whole)
    return table.assign(explained=explained, explained_without=without_any)


def _inputs(arrays: Arrays) -> dict[tuple[str, str], tuple[str, int | None]]:
    """(name, group) of the smallest inputs that can be missing -> which modality, and which track of it."""
    names = {("sequence", "modality"): ("sequence", None)}
    names |= {(name, "histone mark"): ("histone", i) for i, name in enumerate(arrays.histone_marks)}
    names |= {(name, "TF track"): ("tf", i) for i, name in enumerate(arrays.tfs)}
    names |= {("cell", "modality"): ("cell", None)} if arrays.features else {}
    return names | {("prior", "modality"): ("prior", None)}


def _mean_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean over windows where known, (W, C) -> (C,); NaN for a cell type without any."""
    count = known.sum(0)
    return np.divide(np.where(known, values, 0).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)


@torch.no_grad()
def _predict(
    model: nn.Module, data: RegionData, windows: np.ndarray, cells: np.ndarray, at_once: int,
    masked: Sequence[tuple[str, int | None]] = (),
) -> np.ndarray:  # fmt: skip
    """Scores (W, C), mean of both strands, with modalities (or single tracks of them) masked."""
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, len(windows), at_once):
            batch = data.batch(windows[start : start + at_once], cells)
            for modality, index in masked:
                batch = without(batch, modality, index)
            batch = batch.to(device)
            both = model(batch).score + model(batch.reverse_complement()).score
            parts.append((both / 2).float().cpu().numpy())
    return np.concatenate(parts)
