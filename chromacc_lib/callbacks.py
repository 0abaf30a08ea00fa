"""What watches a training run: progress, history, checkpoints, early stopping. The loop knows only their hooks."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from chromacc_lib import ChromaccError
from chromacc_lib.model import ChromaccModel
from chromacc_lib.progress import progress

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "EpochLine", "History", "Progress", "TrainingState"]


@dataclass(eq=False)
class TrainingState:
    """Where a run stands: everything that a callback may read, and that a checkpoint keeps."""

    config: Any  # training.TrainingConfig
    model: ChromaccModel  # the raw weights
    average: nn.Module  # the averaged ones, which are validated and kept
    optimiser: Any
    is_first_process: bool = True
    epoch: int = 1  # the one that is running, from 1
    steps: list[dict[str, float]] = field(default_factory=list)  # figures of this epoch's steps so far
    steps_per_epoch: int = 0
    pretraining: list[dict[str, float]] = field(default_factory=list)  # one row an epoch of pretraining
    history: list[dict[str, float]] = field(default_factory=list)  # one row an epoch that ended
    best: float = float("inf")  # lowest validation MSE
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stop: str = ""  # a callback writes here why training should end after this epoch

    def end_epoch(self, row: dict[str, float]) -> None:
        """Add the epoch's row to the history, keep its weights if they are the best so far, go to the next."""
        self.history.append(row)
        if row["validation_mse"] < self.best:
            self.best, self.best_epoch = row["validation_mse"], self.epoch
            weights = self.average.module.state_dict()
            self.best_weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        self.epoch, self.steps = self.epoch + 1, []


class Callback:
    """Does nothing; subclasses override what they need. `on_epoch` comes after validation, the row is history[-1]."""

    def on_start(self, state: TrainingState) -> None:
        """Before the first step."""

    def on_pretraining_epoch(self, state: TrainingState) -> None:
        """After each epoch of pretraining, if there is any, all before the first step; its row is pretraining[-1]."""

    def on_step(self, state: TrainingState) -> None:
        """After each step; its figures are steps[-1]."""

    def on_epoch(self, state: TrainingState) -> None:
        """After each epoch's validation."""


class EpochLine(Callback):
    """Hand the row of each epoch to a function, such as one that prints a line; those of pretraining to another."""

    def __init__(
        self, tell: Callable[[dict[str, float]], object],
        tell_pretraining: Callable[[dict[str, float]], object] = lambda row: None,
    ) -> None:  # fmt: skip
        self.tell, self.tell_pretraining = tell, tell_pretraining

    def on_pretraining_epoch(self, state: TrainingState) -> None:
        """Tell of the epoch of pretraining that ended."""
        if state.is_first_process:
            self.tell_pretraining(state.pretraining[-1])

    def on_epoch(self, state: TrainingState) -> None:
        """Tell of the epoch that ended, once, whatever the number of processes."""
        if state.is_first_process:
            self.tell(state.history[-1])


class Progress(Callback):
    """Show how far each epoch is, in the first process."""

    def __init__(self) -> None:
        self.bar: Any = None  # what `progress` returns

    def on_step(self, state: TrainingState) -> None:
        """Move on by one batch."""
        if not state.is_first_process:
            return
        if self.bar is None:
            title = f"epoch {state.epoch} of {state.config.epochs}"
            self.bar = progress(state.steps_per_epoch, title, "batches", len(state.steps) - 1, leave=False)
        self.bar.update()

    def on_epoch(self, state: TrainingState) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class History(Callback):
    """Write `history.csv`, one row an epoch, after every epoch, so that a run can be watched from outside.

    Epochs of pretraining have a table of their own beside it, `pretraining.csv`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_pretraining_epoch(self, state: TrainingState) -> None:
        """Replace the table of pretraining by one with the new row."""
        self._write(state, state.pretraining, self.path.with_name("pretraining.csv"))

    def on_epoch(self, state: TrainingState) -> None:
        """Replace the file by one with the new row."""
        self._write(state, state.history, self.path)

    @staticmethod
    def _write(state: TrainingState, rows: list[dict[str, float]], path: Path) -> None:
        if state.is_first_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(path.name + ".new")
            pd.DataFrame(rows).to_csv(new, index=False)
            new.replace(path)


class EarlyStopping(Callback):
    """End training when the validation MSE has not fallen for `patience` epochs. Give it before `Checkpoint`.

    So what it decides is saved, and a run that is interrupted after its last epoch trains no further.
    """

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise ChromaccError(f"EarlyStopping: patience={patience}; needed: 1 epoch or more.")
        self.patience = patience

    def on_epoch(self, state: TrainingState) -> None:
        """Look how long ago the best epoch was."""
        since = state.history[-1]["epoch"] - state.best_epoch
        if since >= self.patience:
            state.stop = f"validation error has not fallen for {since} epochs (best: epoch {state.best_epoch})"


class Checkpoint(Callback):
    """Keep all that an interrupted run needs to go on as if nothing had happened, and go on from it.

    Saved after every epoch and every `every_steps` steps: weights, their average, the optimiser's state, the place in
    the epoch, the history and the best weights; random numbers follow from the place (see `training`). Pretraining is
    saved once, at its end: a run interrupted in it begins it again. The file is written under another name, synced and
    renamed, so a kill at any moment leaves the last whole one. It is read as tensors and plain values only. A
    checkpoint of another configuration, model or dataset is refused by name.

    `at_signals` is for the time of training in one process: Ctrl-C and SIGTERM then wait for the step that is running,
    which is saved; a second one does not wait. A file that cannot be written leaves the last whole one.

    `identity` is anything plain that tells datasets apart. `resumed` says, after the start, what was found, and `say`
    is told of it.
    """

    NAMES = ("epoch", "steps", "history", "pretraining", "best", "best_epoch", "best_weights", "stop")

    def __init__(
        self, path: str | Path, identity: dict, every_steps: int = 100, say: Callable[[str], object] = lambda text: None
    ) -> None:
        self.path, self.identity, self.every_steps, self.say, self.resumed = Path(path), identity, every_steps, say, ""
        self._asked = 0  # the signal that asked to stop

    @contextmanager
    def at_signals(self) -> Iterator[None]:
        """While this lasts, let a step end, and save it, before a signal does what it does otherwise."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            asked, self._asked = self._asked, 0
            if asked:
                signal.raise_signal(asked)

    def _ask(self, number: int, _: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = number

    def settings(self) -> dict:
        """The settings that the file's training was begun with; {} without a file."""
        return self._read()["config"] if self.path.is_file() else {}

    def on_start(self, state: TrainingState) -> None:
        """Restore the state from the file, where there is one."""
        if not self.path.is_file():
            return
        saved = self._read()
        if saved["fingerprint"] != self._fingerprint(state):
            now = asdict(state.config)
            differ = [f"{name} {saved['config'].get(name)}, now {now[name]}" for name in now
                      if saved["config"].get(name) != now[name]]  # fmt: skip
            raise ChromaccError(
                f"{self.path}: this checkpoint belongs to another training "
                f"({'; '.join(differ) or 'its model or its dataset is another one'}); delete it to train from the "
                "start, or give back the settings that it was begun with."
            )
        state.model.load_state_dict(saved["model"])
        state.average.load_state_dict(saved["average"])
        state.optimiser.load_state_dict(saved["optimiser"])
        for name in self.NAMES:
            setattr(state, name, saved[name])
        ended = state.stop or state.epoch > state.config.epochs
        self.resumed = "had ended" if ended else f"goes on at step {len(state.steps) + 1} of epoch {state.epoch}"
        self.say(f"an interrupted training was found: it {self.resumed}")

    def _read(self) -> dict:
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ChromaccError(
                f"{self.path}: this checkpoint cannot be read ({error}); delete it to train from the start."
            ) from error

    def on_pretraining_epoch(self, state: TrainingState) -> None:
        """Save when the last one has ended."""
        if len(state.pretraining) == state.config.pretrain_epochs:
            self._save(state)

    def on_step(self, state: TrainingState) -> None:
        """Save every so many steps, and where a signal asks to stop."""
        if len(state.steps) % self.every_steps == 0 or self._asked:
            self._save(state)
        self._stop_if_asked(state)

    def on_epoch(self, state: TrainingState) -> None:
        """Save."""
        self._save(state)
        self._stop_if_asked(state)

    def _stop_if_asked(self, state: TrainingState) -> None:
        if self._asked:
            self.say(f"stopped by {signal.Signals(self._asked).name} after step {len(state.steps)} of epoch {state.epoch}; "
                     "the same command goes on from there")  # fmt: skip
            raise KeyboardInterrupt

    def _save(self, state: TrainingState) -> None:
        if not state.is_first_process:
            return
        content = {name: getattr(state, name) for name in self.NAMES} | {
            "fingerprint": self._fingerprint(state), "model": state.model.state_dict(),
            "average": state.average.state_dict(), "optimiser": state.optimiser.state_dict(),
            "config": asdict(state.config),
        }  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(self.path.name + ".new")
        try:
            with new.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # RuntimeError: how torch tells of a write that failed
            new.unlink(missing_ok=True)
            raise ChromaccError(
                f"{self.path}: the checkpoint cannot be written ({error}); most often the disk is full: free some, and "
                "start again. The last whole checkpoint is kept."
            ) from error
        new.replace(self.path)

    def _fingerprint(self, state: TrainingState) -> str:
        content = [asdict(state.config), asdict(state.model.config), self.identity]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
