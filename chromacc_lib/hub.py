"""The model folder: all that prediction needs, completed after training, and read back whole or refused by
name.

Beside weights, config, history and card it holds `normalization.json` (the dataset's scaling, unchanged),
`locus_prior.npz` (what the training cell types show at each window, and what their inputs look like) and `SHA256SUMS`
of these files, which `sha256sum -c` reads: files of two models that look alike are told apart. What is known of the
model since, `expectation` keeps beside them.
Coordinates are 0-based half-open, in bp.
"""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from chromacc_lib import ChromaccError, __version__, project_path
from chromacc_lib.dataset import Arrays, expected_departure, open_dataset, read_normalization, state_weights
from chromacc_lib.inference import load_model, read_model_config
from chromacc_lib.model import ChromaccModel
from chromacc_lib.normalization import track_constants
from chromacc_lib.streaming import array_parts
from chromacc_lib.training import TrainingConfig, TrainingResult
from chromacc_lib.windows import SPLITS

__all__ = [
    "ModelFolder",
    "TrainingReference",
    "complete_model_folder",
    "model_card",
    "open_model_folder",
    "read_json",
    "track_figures",
    "training_reference",
]

PRIOR_FILE = "locus_prior.npz"
SUMS_FILE = "SHA256SUMS"
SUMMED = ("config.json", PRIOR_FILE, "model.safetensors", "normalization.json")
LATER = ("evaluation.json", "diagnosis.json")  # what `expectation` adds
RESULT_HEADING = "## Result on cell types and chromosomes never trained on"
NOT_EVALUATED = "Not evaluated yet (03_evaluation)."
WINDOW_COLUMNS = ["chrom", "start", "end", "gc", "kind", "split"]


@dataclass(frozen=True)
class TrainingReference:
    """What a new cell type is given, and compared with. W windows, B bins, C training cell types, K tracks.

    windows: chrom, start, end, gc, kind, split; a new file is normalised by its own signal under those of split
    "train". profile float32 (W, B, 2): mean and sd of the training cell types'
    accessibility, arcsinh fold; score float32 (W,): mean of their scores; observed bool (W,): known at all,
    else 0. accessibility float32 (W, C, B): that of each training cell type, NaN = unknown; C = 0 for a model that
    reads no metadata. cell_types: the C names. track_mean, track_spread float64 (C, K): mean of z, and of |z|, of a
    track's bin means over all windows, histone marks first, NaN = missing. metadata float32 (C, E): z, NaN =
    missing.
    """

    windows: pd.DataFrame
    profile: np.ndarray
    score: np.ndarray
    observed: np.ndarray
    accessibility: np.ndarray
    cell_types: tuple[str, ...]
    track_mean: np.ndarray
    track_spread: np.ndarray
    metadata: np.ndarray
    assembly: str
    simulated: bool

    @cached_property
    def _index(self) -> pd.MultiIndex:
        return pd.MultiIndex.from_frame(self.windows[["chrom", "start", "end"]])

    def find(self, windows: pd.DataFrame) -> np.ndarray:
        """Return the row of each window (chrom, start, end), int64, shape=(len(windows),); -1 = not among
        them.
        """
        return self._index.get_indexer(pd.MultiIndex.from_frame(windows[["chrom", "start", "end"]]))

    def state_weights(self, z: np.ndarray, known: bool) -> np.ndarray:
        """How much each training cell type counts for a new one of metadata z (E,): float64, shape=(C,)."""
        n = self.accessibility.shape[1]
        observed = np.append(np.isfinite(self.metadata).all(axis=1), known)
        metadata = np.nan_to_num(np.concatenate([self.metadata, z[None]]))
        return state_weights(metadata, observed, np.arange(len(metadata)) < len(metadata) - 1)[-1, :n]

    def prior(self, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The locus prior of `rows` for a new cell type, as `Arrays.prior_profile`: float32, shape=(len(rows), B, 3).

        weights: of `state_weights`.
        """
        profile = self.profile[rows]
        departure = expected_departure(self.accessibility[rows], weights[None], profile[:, None, :, 0])
        return np.concatenate([profile, departure[:, 0, :, None]], axis=2)


@dataclass(frozen=True)
class ModelFolder:
    """A trained model with all that prediction needs. weights_sha256: which weights exactly."""

    path: Path
    model: ChromaccModel
    normalization: dict
    reference: TrainingReference
    weights_sha256: str

    @property
    def tracks(self) -> tuple[str, ...]:
        """Names of the tracks that the model reads, in its order: histone marks, then TFs."""
        return self.model.config.histone_marks + self.model.config.tfs


def complete_model_folder(model_dir: str | Path, dataset_dir: str | Path, arrays: Arrays) -> None:
    """Add to a saved model what prediction needs: `normalization.json`, `locus_prior.npz` and `SHA256SUMS`.

    dataset_dir, arrays: the dataset that the model was trained on, which is read in parts; the arrays may be the
    tables of streamed data. Each file appears only when it is whole. What was known of other weights is removed.
    Raises ChromaccError when model_dir holds no model, or one that was trained on another dataset.
    """
    folder, dataset = project_path(model_dir), project_path(dataset_dir)
    load_model(folder, arrays)
    read_normalization(dataset)
    assembly = str(open_dataset(dataset).attrs["assembly"])
    reference = training_reference(array_parts(dataset), assembly)
    shutil.copyfile(dataset / "normalization.json", folder / ".normalization.part")
    os.replace(folder / ".normalization.part", folder / "normalization.json")
    with open(folder / ".locus_prior.part", "wb") as handle:
        _write_reference(reference, handle)
    os.replace(folder / ".locus_prior.part", folder / PRIOR_FILE)
    sums = {name: _sha256(folder / name) for name in SUMMED}
    (folder / ".sums.part").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    os.replace(folder / ".sums.part", folder / SUMS_FILE)
    for path in (folder / name for name in LATER):
        if path.is_file() and read_json(path).get("weights_sha256") != sums["model.safetensors"]:
            path.unlink()


def model_card(arrays: Arrays, result: TrainingResult, config: TrainingConfig) -> str:
    """Return the Markdown text of `model_card.md` (after Mitchell et al. 2019): what the model was made of,
    and for.

    Its figures are those of the validation rows, which chose the checkpoint; `expectation.update_card` adds the result.
    """
    cells, windows = arrays.cell_types, arrays.windows
    named = {split: ", ".join(cells.loc[cells["split"] == split, "cell_type"]) or "none" for split in SPLITS}
    chroms = {split: ", ".join(windows.loc[windows["split"] == split, "chrom"].unique()) for split in SPLITS}
    motifs = ", ".join(f"{tf} {name}" for tf, name in result.motifs.items())
    best = result.history.set_index("epoch").loc[result.best_epoch]
    data = (
        "**SIMULATED DATA**: a made-up genome; this model says nothing about biology."
        if arrays.simulated
        else "Real data: measured tracks."
    )
    return f"""# Model card

{data}

## What it does

Predicts chromatin accessibility (arcsinh of the fold over the genome-wide mean) in windows of
{arrays.sequence.shape[1]:,} bp, {arrays.accessibility.shape[2]} bins each, for a cell type of which no
accessibility is known.

| | |
|---|---|
| histone marks read | {", ".join(arrays.histone_marks) or "none"} |
| TF tracks read | {", ".join(arrays.tfs) or "none"} |
| expression read | {", ".join(arrays.features) or "none"} |
| windows | {len(windows):,} |
| training cell types | {named["train"]} |
| validation cell types | {named["validation"]} |
| cell types never trained on | {named["test"]} |
| chromosomes trained on | {chroms["train"]} |
| chromosomes of validation | {chroms["validation"]} |
| chromosomes never trained on | {chroms["test"]} |
| kernels started from the motifs of | {motifs or "none"} |
| contrastive pretraining | {f"{config.pretrain_epochs} epochs" if config.pretrain_epochs else "none"} |
| checkpoint | epoch {result.best_epoch} of {config.epochs}, chosen on {result.validation} |
| skill over the locus average, on those validation rows | {best["validation_skill"]:+.3f} |
| Pearson, on those validation rows | {best["validation_pearson"]:.3f} |
| versions | chromacc {__version__}, torch {torch.__version__} |

{RESULT_HEADING}

{NOT_EVALUATED}

## Intended use

Cell types of the same genome, with any subset of these tracks, each as a signal of at least 0, scaled by its
own constants as `normalization.json` says. Missing assays may be left out.

## Limits

The validation rows chose the checkpoint, so the figures in the table above are a little too good. Away from the
windows of `locus_prior.npz` the locus average is not known, and the model does without. Probabilities and
intervals are calibrated on the validation cell types, and hold for a new one as far as it is like them. An element that
is open in no training cell type is not among those windows, and was hardly ever shown to the model. Not for clinical use.
"""


def training_reference(parts: Iterable[Arrays], assembly: str) -> TrainingReference:
    """Take from a dataset what a cell type that is not among the training ones is given at each window.

    parts: the dataset's windows in their order, some at a time.
    """
    unseen, sums = [], 0
    for arrays in parts:
        training = np.flatnonzero(arrays.train_mask)
        unknown = _with_unknown_cell_type(arrays, training)
        profile, own = unknown.prior_profile[:, -1, :, :2], arrays.accessibility[:, training]
        unseen.append((unknown.windows[WINDOW_COLUMNS], profile, unknown.prior_score[:, -1],
                       unknown.prior_observed[:, -1], own if arrays.features else own[:, :0]))  # fmt: skip
        kinds = ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed))
        tracks = [_track_sums(z[:, training, k], seen[:, training, k]) for z, seen in kinds for k in range(z.shape[2])]
        sums = sums + np.array(tracks).reshape(-1, 3, len(training))  # (K, 3, C)
    count, total, absolute = sums.transpose(1, 2, 0)  # (K, 3, C) -> 3 x (C, K)
    windows, *known = zip(*unseen)
    profile, score, observed, accessibility = map(np.concatenate, known)
    metadata = np.where(arrays.metadata_observed[training, None], arrays.metadata[training], np.nan)
    return TrainingReference(
        windows=pd.concat(windows, ignore_index=True),
        profile=profile,
        score=score,
        observed=observed,
        accessibility=accessibility,
        cell_types=tuple(arrays.cell_types["cell_type"].iloc[training]),
        track_mean=_ratio(total, count),
        track_spread=_ratio(absolute, count),
        metadata=metadata.astype(np.float32),
        assembly=assembly,
        simulated=arrays.simulated,
    )


def track_figures(values: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of z and of |z| of one track's bin means over windows, float64, shape=(C,); NaN =
    missing.

    values: shape=(W, C, B, 3), z; observed: bool, shape=(W, C).
    """
    count, total, absolute = _track_sums(values, observed)
    return _ratio(total, count), _ratio(absolute, count)


def _track_sums(values: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of known bins, sum of z and of |z| of one track, float64, each shape=(C,)."""
    z = np.where(observed[:, :, None], values[..., 0].astype(np.float64), 0)
    count = (observed.sum(axis=0) * values.shape[2]).astype(np.float64)
    return count, z.sum(axis=(0, 2)), np.abs(z).sum(axis=(0, 2))


def _ratio(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _with_unknown_cell_type(arrays: Arrays, training: np.ndarray) -> Arrays:
    """The training cell types' accessibility and score, and last a cell type of which nothing is known."""

    def padded(values: np.ndarray) -> np.ndarray:
        """Known training values with a column of NaN behind them."""
        known = values[:, training]
        return np.concatenate([known, np.full_like(known[:, :1], np.nan)], axis=1)

    n, cells = len(training) + 1, pd.DataFrame({"split": ["train"] * len(training) + ["new"]})
    nothing = {"metadata": np.zeros((n, 0), np.float32), "metadata_observed": np.zeros(n, bool)}
    return replace(
        arrays, accessibility=padded(arrays.accessibility), score=padded(arrays.score), cell_types=cells, **nothing
    )


def _write_reference(reference: TrainingReference, handle) -> None:
    content = {name: value for name, value in vars(reference).items() if isinstance(value, np.ndarray)}
    windows = {f"window_{name}": reference.windows[name].to_numpy() for name in ("start", "end", "gc")}
    text = ("chrom", "kind", "split")
    windows |= {f"window_{name}": reference.windows[name].to_numpy(dtype=str) for name in text}
    names = {
        "cell_types": np.array(reference.cell_types, dtype=str),
        "assembly": np.array(reference.assembly),
        "simulated": np.array(reference.simulated),
    }
    np.savez_compressed(handle, **content, **windows, **names)


def open_model_folder(model_dir: str | Path) -> ModelFolder:
    """Open a finished run's model folder. Raises ChromaccError that names what is missing or does not
    match.
    """
    folder = project_path(model_dir)
    read_model_config(folder)
    missing = [name for name in ("normalization.json", PRIOR_FILE) if not (folder / name).is_file()]
    if missing:
        raise ChromaccError(
            f"{folder}: a trained model, but {' and '.join(missing)} not there, so it cannot serve a new "
            "cell type; run the training notebook (02_training) to its end, or copy the whole folder"
        )
    model, reference = load_model(folder), _read_reference(folder / PRIOR_FILE)
    read_json(folder / "normalization.json")
    normalization = read_normalization(folder)
    _require_match(folder, model, normalization, reference)
    sums = {name: _sha256(folder / name) for name in SUMMED}
    _require_sums(folder, sums)
    return ModelFolder(folder, model, normalization, reference, sums["model.safetensors"])


def read_json(path: Path) -> dict:
    """Return the object in a JSON file of a model folder. Raises ChromaccError when it is none."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ChromaccError(f"{path}: no readable JSON ({error}); copy the model folder again") from error
    if not isinstance(content, dict):
        raise ChromaccError(f"{path}: got a JSON {type(content).__name__}, needed an object; copy the model folder again")
    return content


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _require_sums(folder: Path, sums: dict[str, str]) -> None:
    """Raise ChromaccError that names the files which are not those that were written together.

    A folder without `SHA256SUMS` is of an older version, and all that can be asked of it has been asked.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        return
    written = dict(reversed(line.split(maxsplit=1)) for line in path.read_text().splitlines() if line.strip())
    wrong = [name for name, digest in sums.items() if written.get(name) != digest]
    if wrong:
        raise ChromaccError(
            f"{folder}: {', '.join(wrong)} not as written by the training (compared with {SUMS_FILE}): changed since, or of "
            "another run; copy the whole folder of one run, or train again"
        )


def _read_reference(path: Path) -> TrainingReference:
    try:
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        columns = {name: content.pop(f"window_{name}") for name in WINDOW_COLUMNS}
        return TrainingReference(
            pd.DataFrame(columns),
            cell_types=tuple(content.pop("cell_types").tolist()),
            assembly=str(content.pop("assembly")),
            simulated=bool(content.pop("simulated")),
            **content,
        )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise ChromaccError(
            f"{path}: no readable locus prior ({error}); run the training notebook (02_training) again, "
            "or copy the model folder again"
        ) from error


def _require_match(
    folder: Path, model: ChromaccModel, normalization: dict, reference: TrainingReference
) -> None:
    """Raise ChromaccError unless the three files were made of the same bins, tracks and features."""
    config = model.config
    wrong = [
        f"{name}: model {getattr(config, name)}, normalization.json {normalization[name]}"
        for name in ("window_bp", "n_bins")
        if normalization[name] != getattr(config, name)
    ]
    unknown = [name for name in config.features if name not in normalization["metadata"]]
    if unknown:
        wrong.append(f"features of the model without constants in normalization.json: {', '.join(unknown)}")
    n_windows, n_cells = len(reference.windows), len(reference.cell_types) if config.features else 0
    shapes = {"profile": (n_windows, config.n_bins, 2), "accessibility": (n_windows, n_cells, config.n_bins)}
    for name, shape in shapes.items():
        if getattr(reference, name).shape != shape:
            wrong.append(f"{PRIOR_FILE}: {name} of shape {getattr(reference, name).shape}, needed {shape}")
    n_tracks = len(config.histone_marks) + len(config.tfs)
    if reference.track_mean.shape[1] != n_tracks:
        wrong.append(f"{PRIOR_FILE}: {reference.track_mean.shape[1]} tracks, the model reads {n_tracks}")
    if wrong:
        raise ChromaccError(
            f"{folder}: its files do not belong together ({'; '.join(wrong)}); copy the whole folder of "
            "one run, or train again"
        )
    track_constants(normalization, config.histone_marks + config.tfs)
