"""Train on a dataset and leave a whole model folder: what the training notebook and `chromacc train` both do."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from lightning_fabric import Fabric

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.batches import RegionData
from chromacc_lib.cache import file_lock
from chromacc_lib.callbacks import Callback, Checkpoint, EarlyStopping, History, Progress
from chromacc_lib.dataset import Arrays
from chromacc_lib.devices import choose_precision, device_words, start_fabric
from chromacc_lib.hub import complete_model_folder, model_card
from chromacc_lib.inference import load_model, read_model_config
from chromacc_lib.memory import fitting_batch
from chromacc_lib.monitor import Monitor, watch
from chromacc_lib.streaming import StreamedRegionData
from chromacc_lib.training import (
    NonFiniteLoss, TrainingConfig, TrainingResult, model_config, save_model, train,
)  # fmt: skip
from chromacc_lib.windows import SPLITS

__all__ = [
    "EPOCH_LINE", "PRETRAINING_LINE", "Fitted", "TrainingProgress", "fit", "training_progress", "training_settings",
]  # fmt: skip

SIZES = ("sequence_layers", "encoder_layers", "d_model", "dropout")  # parameters that are fields of ModelConfig
CHECKPOINT, BAD_BATCH = "checkpoint.pt", "bad_batch.safetensors"
FRESH_S = 60  # s within which a checkpoint was written by a training that is still running, without asking further
EPOCH_LINE = (
    "epoch {epoch:2d}: training MSE {train_score:.4f}, validation MSE {validation_mse:.4f}, "
    "skill {validation_skill:+.3f}, {samples_per_second:.0f} samples/s, {seconds:.0f} s"
)  # of a row of the history
PRETRAINING_LINE = (
    "pretraining, epoch {epoch:2d}: partners found across windows {across_windows_accuracy:.1%} (guessing "
    "{across_windows_chance:.1%}), across cell types {across_cell_types_accuracy:.1%} (guessing "
    "{across_cell_types_chance:.1%}), {seconds:.0f} s"
)  # of a row of the pretraining


class Fitted(NamedTuple):
    """What came out, and the settings as they were used: batch_windows=0 is a number there."""

    result: TrainingResult
    config: TrainingConfig


def training_settings(parameters: Mapping[str, object]) -> tuple[TrainingConfig, dict[str, object]]:
    """Return the settings of training, and the sizes of the model, from the training notebook's parameters by name.

    `model` holds further fields of `ModelConfig`; one that is a parameter of its own is refused there.
    """
    further = dict(parameters.get("model", {}))
    if twice := sorted(set(further) & set(SIZES)):
        raise ChromaccError(f"model: {', '.join(twice)} is a parameter of its own; set it there, not in `model`.")
    named = {field.name: parameters[field.name] for field in fields(TrainingConfig) if field.name in parameters}
    return TrainingConfig(**named), {name: parameters[name] for name in SIZES} | further


def fit(
    dataset_dir: str | Path, model_dir: str | Path, arrays: Arrays, data: RegionData | StreamedRegionData,
    config: TrainingConfig, sizes: dict, *, device: str = "auto", patience: int = 0, stop_on_collapse: bool = False,
    trained_model: str = "", gpu: int | None = None, callbacks: Sequence[Callback] = (), say: Callable[[str], object] = print,
) -> Fitted:  # fmt: skip
    """Train, or take a model that was trained elsewhere, and write the model folder.

    arrays, data: of `streaming.open_training_data`. device: as in `choose_device`. patience: epochs without a better
    validation error after which training ends, 0 = never. stop_on_collapse: end a training that heads for collapse, of
    which `monitor.Monitor` warns in any case. trained_model: path of the model.safetensors of a
    folder that `chromacc train` wrote, "" = train here. gpu: index of the one to take, None = the first. A training
    that was interrupted goes on where it stopped: its state is in `checkpoint.pt` of the folder until the model is
    saved. Every process that torchrun started calls this alike; only the first one writes and talks. Raises
    `ChromaccError` for a checkpoint or a model of other settings, while another training writes to the folder, and at
    a loss that is not finite, whose batch is then in `bad_batch.safetensors`.
    """
    folder, identity = project_path(model_dir), {"dataset": _fingerprint(dataset_dir)}
    if trained_model:
        fitted = _read_trained(project_path(trained_model), arrays, config, sizes, identity)
        say(f"not trained here: read from {trained_model}, which was trained on {fitted.result.device}")
        _write(fitted, folder, dataset_dir, arrays, identity)
        return fitted
    fabric = start_fabric(device, config.precision, gpu)
    busy = (f"{folder}: another training is writing there. Wait until it is done, stop it, or give this one another "
            "folder")  # fmt: skip
    lock = file_lock(_lock_path(folder), "give a model folder", busy)
    with lock if fabric.is_global_zero else nullcontext():
        return _train_here(dataset_dir, folder, arrays, data, config, sizes, identity, patience, stop_on_collapse, callbacks,
                           fabric, say)  # fmt: skip


class TrainingProgress(NamedTuple):
    """How far the training of a model folder is, as its files tell, whichever process writes them."""

    state: str  # "none", "training", "interrupted" or "finished"
    history: pd.DataFrame  # a row an epoch that ended, of this training; empty before the first
    epochs: int  # that it shall have; 0 = not known yet
    quiet_s: float  # s since its files last changed; 0 without any
    warnings: list[str]  # what the monitor says of its epochs
    stopped: str  # why it ended before its last epoch; "" = it did not


def training_progress(model_dir: str | Path) -> TrainingProgress:
    """Read how far a training is from its folder, without disturbing it.

    A training is seen from its first checkpoint on (100 steps, or the first epoch); its history replaces that of an
    earlier one after the first epoch, and is not shown before. Raises ChromaccError for a checkpoint that cannot be read.
    """
    folder = project_path(model_dir)
    checkpoint, history, config = (folder / name for name in (CHECKPOINT, "history.csv", "config.json"))
    written = {path: at for path in (checkpoint, history, config) if (at := _changed_at(path))}
    quiet = time.time() - max(written.values()) if written else 0.0
    if checkpoint in written:
        running = time.time() - written[checkpoint] < FRESH_S or _is_locked(_lock_path(folder))
        state, settings, stopped = "training" if running else "interrupted", Checkpoint(checkpoint, {}).settings(), ""
        if not settings:  # it was there a moment ago: the training has just ended
            return training_progress(model_dir)
        mine = history in written and written[history] > written.get(config, 0.0)
    elif config in written:
        content = read_model_config(folder)
        state, settings, stopped, mine = "finished", content["training"], content["stopped"], history in written
    else:
        return TrainingProgress("none", pd.DataFrame(), 0, quiet, [], "")
    rows = pd.read_csv(history) if mine else pd.DataFrame()
    known = {field.name for field in fields(TrainingConfig)}
    found = watch(rows, TrainingConfig(**{name: value for name, value in settings.items() if name in known}))
    warnings = [f"epoch {row['epoch']}: {row['cause']}: {row['seen']}" for row in found.to_dict("records")]
    return TrainingProgress(state, rows, settings["epochs"], quiet, warnings, stopped)


def _changed_at(path: Path) -> float:
    """When a file was last changed, s since 1970; 0 = it is not there, or not any more."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _lock_path(folder: Path) -> Path:
    """The lock that a training holds while it writes to its folder."""
    return folder.with_name(f".{folder.name}.training")


def _is_locked(path: Path) -> bool:
    """Say whether another process holds a lock; one that asks for it in the same instant is told that it is busy."""
    if not path.is_file():
        return False
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _train_here(
    dataset_dir: str | Path, folder: Path, arrays: Arrays, data: RegionData | StreamedRegionData, config: TrainingConfig,
    sizes: dict, identity: dict, patience: int, stop_on_collapse: bool, callbacks: Sequence[Callback], fabric: Fabric,
    say: Callable[[str], object],
) -> Fitted:  # fmt: skip
    """Train, or go on with it, in all processes of `fabric`, and write the folder, which is locked."""
    tell = say if fabric.is_global_zero else (lambda text: None)
    tell(_where(fabric, config.precision))
    if isinstance(data, StreamedRegionData):
        tell(data.memory())
    checkpoint = Checkpoint(folder / CHECKPOINT, identity, say=tell)
    if config.batch_windows == 0:
        config = replace(config, batch_windows=_batch_windows(checkpoint, arrays, data, config, sizes, fabric, tell))
    watching = [Progress(), Monitor(tell, stop_on_collapse), *([EarlyStopping(patience)] if patience else [])]
    watching += [checkpoint, History(folder / "history.csv"), *callbacks]
    try:
        with checkpoint.at_signals() if fabric.world_size == 1 else nullcontext():
            result = train(arrays, config, sizes=sizes, callbacks=watching, fabric=fabric, data=data)
    except NonFiniteLoss as error:
        bad = folder / (BAD_BATCH if fabric.world_size == 1 else f"{fabric.global_rank}.{BAD_BATCH}")
        error.save(bad)
        raise ChromaccError(f"{error} The batch of that step is in {bad}, as the model read it.") from error
    if result.stopped:
        tell(f"stopped early: {result.stopped}")
    fitted = Fitted(result, config)
    if fabric.is_global_zero:
        tell(f"best epoch: {result.best_epoch} of {len(result.history)}, chosen on {result.validation}")
        _write(fitted, folder, dataset_dir, arrays, identity)
        checkpoint.path.unlink()
    fabric.barrier()
    return fitted


def _where(fabric: Fabric, precision: str) -> str:
    """Device, precision and number of processes, in words."""
    together = f"; {fabric.world_size} processes share each batch" if fabric.world_size > 1 else ""
    return f"{device_words(fabric.device)}; precision: {choose_precision(precision, fabric.device.type)}{together}"


def _batch_windows(
    checkpoint: Checkpoint, arrays: Arrays, data: RegionData | StreamedRegionData, config: TrainingConfig, sizes: dict,
    fabric: Fabric, tell: Callable[[str], object],
) -> int:  # fmt: skip
    """As many windows as fit, or as the interrupted training had: it goes on with the batches that it began with."""
    begun = fabric.broadcast(checkpoint.settings().get("batch_windows"))  # the first process's: all measure, or none
    if begun is None:
        begun, words = fitting_batch(arrays, data, config, sizes, fabric)
        tell(words)
    return begun


def _fingerprint(dataset_dir: str | Path) -> str:
    path = project_path(dataset_dir) / "curation.json"
    if not path.is_file():
        raise ChromaccError(f"{path}: not there; curate the dataset (01_data_curation), or correct dataset_dir.")
    return json.loads(path.read_text())["fingerprint"]


def _write(fitted: Fitted, folder: Path, dataset_dir: str | Path, arrays: Arrays, identity: dict) -> None:
    """Write the whole model folder."""
    cells, windows = arrays.cell_types, arrays.windows
    origin = {
        "dataset_dir": str(dataset_dir), **identity, "simulated": arrays.simulated,
        "cell_types": {s: cells["cell_type"][cells["split"] == s].tolist() for s in SPLITS},
        "chromosomes": {s: windows["chrom"][windows["split"] == s].unique().tolist() for s in SPLITS},
    }  # fmt: skip
    card = model_card(arrays, fitted.result, fitted.config)
    save_model(fitted.result, fitted.config, folder, origin, card)
    complete_model_folder(folder, dataset_dir, arrays)


def _read_trained(path: Path, arrays: Arrays, config: TrainingConfig, sizes: dict, identity: dict) -> Fitted:
    """Read a training back from its folder; refuse one of other settings, sizes or data, naming what differs."""
    content = read_model_config(path.parent)
    asked = {**asdict(config), **asdict(model_config(arrays, **sizes)), **identity}
    found = {**content["training"], **content["model"], "dataset": content.get("dataset")}
    if config.batch_windows == 0:
        asked["batch_windows"] = found["batch_windows"]
    asked = json.loads(json.dumps(asked))
    differ = [f"{n}: {found.get(n)!r} there, {asked[n]!r} here" for n in asked if found.get(n) != asked[n]]
    if differ:
        raise ChromaccError(
            f"{path}: this model was trained otherwise ({'; '.join(differ)}); give the same settings and dataset here, "
            "or set trained_model to '' to train anew."
        )
    history = pd.read_csv(path.parent / "history.csv")
    pretraining = path.parent / "pretraining.csv"
    result = TrainingResult(
        load_model(path.parent, arrays), history, content["best_epoch"], content["device"], content["validation"],
        content["started_from_motifs"], content["stopped"],
        pd.read_csv(pretraining) if pretraining.is_file() else pd.DataFrame(),
    )  # fmt: skip
    return Fitted(result, replace(config, batch_windows=content["training"]["batch_windows"]))
