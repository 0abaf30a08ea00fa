"""Run a trained model: load it from its folder, and predict every window in every cell type of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, reveal
from chromacc_lib.dataset import Arrays, locus_average
from chromacc_lib.model import Batch, ChromaccModel, ModelConfig, Output
from chromacc_lib.progress import progress

__all__ = [
    "complete_profiles", "evaluating", "filled", "load_model", "predict_batch", "predict_dataset", "predict_scores", "read_model_config",
]  # fmt: skip

# The last rows of a matrix product go through other kernels, which round otherwise, unless there are a multiple of so
# many; measured with MKL: 4. Batches are filled up to it: a window's prediction is then the same to the last bit
# wherever it stands in whatever batch, on one thread; with more, it depends in the last bit (1e-7) on how a product is
# shared out among them.
WHOLE_WINDOWS = 8


def read_model_config(model_dir: str | Path) -> dict:
    """The content of `config.json`; raises `ChromaccError` when the folder holds no finished model."""
    path = Path(model_dir) / "config.json"
    if not path.exists() or not (path.parent / "model.safetensors").exists():
        raise ChromaccError(
            f"{model_dir} holds no trained model (config.json and model.safetensors are needed); run notebook 02_training "
            "first, or name the model folder of a finished run."
        )
    try:
        content = json.loads(path.read_text())
        content["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ChromaccError(
            f"{path}: no readable configuration of a model ({error!r}); copy the model folder again, or train again."
        ) from error
    return content


def _read_model_config(model_dir: str | Path) -> ModelConfig:
    """The `ModelConfig` of config.json; raises `ChromaccError` that names the fields which do not fit this version."""
    raw = read_model_config(model_dir)["model"]
    known = {field.name: field.default is MISSING for field in fields(ModelConfig)}
    wrong = [f"unknown: {name}" for name in raw if name not in known]
    wrong += [f"missing: {name}" for name, needed in known.items() if needed and name not in raw]
    if wrong:
        raise ChromaccError(
            f"{Path(model_dir) / 'config.json'}: fields of the model that do not fit this version of chromacc "
            f"({'; '.join(wrong)}); use the version that trained it, or train again."
        )
    return ModelConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()})


def load_model(model_dir: str | Path, arrays: Arrays | None = None) -> ChromaccModel:
    """Load weights (safetensors only) into evaluation mode on the CPU.

    With `arrays`, raises `ChromaccError` when the dataset's tracks, features or bins are not those of the model, in
    its order, by name.
    """
    config = _read_model_config(model_dir)
    if arrays is not None:
        _require_match(config, arrays, model_dir)
    model = ChromaccModel(config)
    try:
        model.load_state_dict(load_file(Path(model_dir) / "model.safetensors"))
    except SafetensorError as error:
        raise ChromaccError(
            f"{Path(model_dir) / 'model.safetensors'}: no readable weights ({error}); copy the model folder again, or "
            "train again."
        ) from error
    except RuntimeError as error:
        raise ChromaccError(
            f"{model_dir}: model.safetensors does not fit the model that config.json describes ({error}); it was trained "
            "with other code or copied from another run: train again, or use the version of chromacc that trained it."
        ) from error
    return model.eval()


def _require_match(config: ModelConfig, arrays: Arrays, model_dir: str | Path) -> None:
    found = {
        "histone_marks": arrays.histone_marks, "tfs": arrays.tfs, "features": arrays.features,
        "window_bp": arrays.sequence.shape[1], "n_bins": arrays.accessibility.shape[2],
    }  # fmt: skip
    wrong = {name: value for name, value in found.items() if getattr(config, name) != value}
    if wrong:
        lines = "; ".join(f"{name}: model {getattr(config, name)}, dataset {value}" for name, value in wrong.items())
        raise ChromaccError(f"The model in {model_dir} does not fit this dataset ({lines}); train on it, or curate alike.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every one of its modules back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def predict_batch(model: ChromaccModel, batch: Batch) -> Output:
    """Score, logit and profile of a batch, each the mean over both strands (the profile in the window's direction)."""
    forward, backward = model(batch), model(batch.reverse_complement())
    return Output(
        score=(forward.score + backward.score) / 2, logit=(forward.logit + backward.logit) / 2,
        profile=(forward.profile + backward.profile.flip(2)) / 2,
    )  # fmt: skip


def filled(windows: np.ndarray) -> np.ndarray:
    """A batch's windows, the last one repeated until there are a multiple of `WHOLE_WINDOWS`."""
    return np.pad(windows, (0, -len(windows) % WHOLE_WINDOWS), mode="edge")


@torch.no_grad()
def predict_scores(
    model: ChromaccModel, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, batch_windows: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted score (arcsinh fold) and probability of being open, both float32 (len(windows), len(cell_types)).

    Each is the mean over both strands (logits are averaged, then made a probability). Every accessibility token is
    masked. The model's training mode is restored. Batches are `filled`: on one thread, how many windows share one changes no bit.
    """
    device = next(model.parameters()).device
    scores, logits = [], []
    chunks = np.split(windows, range(batch_windows, len(windows), batch_windows))
    with evaluating(model), progress(len(chunks), "predicting", "batches", leave=False) as bar:
        for chunk in chunks:
            output = predict_batch(model, data.batch(filled(chunk), cell_types).to(device))
            scores.append(output.score[: len(chunk)].cpu())
            logits.append(output.logit[: len(chunk)].cpu())
            bar.update()
    return torch.cat(scores).numpy(), torch.cat(logits).sigmoid().numpy()


@torch.no_grad()
def complete_profiles(
    model: ChromaccModel, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, known: np.ndarray,
    batch_windows: int = 16,
) -> np.ndarray:
    """Accessibility of cell types of which part is measured: float32 (len(windows), len(cell_types), T), arcsinh fold.

    known: bool, the same shape, which bins the model is shown; those that were not measured stay hidden. What is shown
    comes back as it was measured, the rest as predicted from it and from all other inputs, the mean over both strands.
    Raises ChromaccError for another shape.
    """
    wanted = (len(windows), len(cell_types), data.accessibility.shape[2])
    if known.shape != wanted or known.dtype != bool:
        raise ChromaccError(
            f"complete_profiles: known is {known.dtype} of shape {known.shape}; needed: bool of shape {wanted}, (windows, "
            "cell types, bins)."
        )
    device, profiles = next(model.parameters()).device, []
    chunks = np.array_split(np.arange(len(windows)), max(1, -(-len(windows) // batch_windows)))
    with evaluating(model):
        for chunk in chunks:
            rows = filled(chunk)
            profile = data.target(windows[rows], cell_types).profile
            batch = reveal(data.batch(windows[rows], cell_types), profile, torch.from_numpy(known[rows]))
            predicted = predict_batch(model, batch.to(device)).profile.cpu()
            profiles.append(torch.where(batch.accessibility_observed, profile, predicted)[: len(chunk)])
    return torch.cat(profiles).numpy()


def predict_dataset(
    model: ChromaccModel, arrays: Arrays, batch_windows: int = 8, seen_windows: int = 0
) -> pd.DataFrame:
    """One row a (window, cell type): what was measured, what is predicted, the locus average, the truth.

    seen_windows: of training chromosomes, evenly spaced, that are predicted; 0 = every window in every cell type. Else
    windows of validation chromosomes are predicted in validation cell types alone (in training cell types where there
    are none): what is chosen on them is chosen there. Test chromosomes are always whole.

    Columns as in the project's run contract: cell_type, cell_type_split, window, chrom, start, end (0-based half-open),
    window_split, kind, gc, tss_distance (bp, NaN = unknown), score, label, predicted_score, predicted_probability,
    average_score, average_label, truth, observed_tracks (int: histone and TF tracks that the model was given).
    """
    data = RegionData(arrays)
    n_windows, n_cells = arrays.score.shape
    wanted = _wanted(arrays, seen_windows)  # (W, C)
    score, probability = np.full((2, n_windows, n_cells), np.nan, np.float32)
    for cells in np.unique(wanted, axis=0):
        windows, columns = np.flatnonzero((wanted == cells).all(axis=1)), np.flatnonzero(cells)
        if len(columns):
            at = np.ix_(windows, columns)
            score[at], probability[at] = predict_scores(model, data, windows, columns, batch_windows)
    label = np.where(arrays.label >= 0, arrays.label, np.nan).astype(np.float32)
    windows = arrays.windows.reset_index(drop=True).rename(columns={"split": "window_split"})
    table = windows.loc[np.repeat(np.arange(n_windows), n_cells)].reset_index(drop=True)
    cells = arrays.cell_types.loc[np.tile(np.arange(n_cells), n_windows)].reset_index(drop=True)
    table.insert(0, "cell_type", cells["cell_type"])
    table.insert(1, "cell_type_split", cells["split"])
    table.insert(2, "window", np.repeat(np.arange(n_windows), n_cells))
    columns = {
        "score": arrays.score, "label": arrays.label, "predicted_score": score, "predicted_probability": probability,
        "average_score": locus_average(arrays.score, arrays.train_mask),
        "average_label": locus_average(label, arrays.train_mask),
        "truth": arrays.truth if arrays.truth is not None else np.full(arrays.score.shape, np.nan, np.float32),
        "observed_tracks": arrays.histone_observed.sum(axis=2) + arrays.tf_observed.sum(axis=2),
    }  # fmt: skip
    table = table.assign(**{name: values.reshape(-1) for name, values in columns.items()})
    return table[wanted.reshape(-1)].reset_index(drop=True)


def _wanted(arrays: Arrays, seen_windows: int) -> np.ndarray:
    """Return which windows are predicted in which cell types: bool (W, C)."""
    wanted = np.ones(arrays.score.shape, dtype=bool)
    if seen_windows == 0:
        return wanted
    places = arrays.windows.reset_index(drop=True).sort_values(["chrom", "start"])
    seen = places.index[places["split"] == "train"].to_numpy()
    kept = seen[np.linspace(0, len(seen) - 1, min(seen_windows, len(seen))).round().astype(int)]
    wanted[np.setdiff1d(seen, kept)] = False
    split = arrays.cell_types["split"].to_numpy()
    choosing = split == ("validation" if (split == "validation").any() else "train")
    wanted[np.ix_((arrays.windows["split"] == "validation").to_numpy(), ~choosing)] = False
    return wanted
