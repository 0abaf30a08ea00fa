"""What a planted fault is, and what it is planted in: one reduced run, before or after its training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from chromacc_lib.callbacks import Callback
from chromacc_lib.dataset import Arrays
from chromacc_lib.training import TrainingConfig

__all__ = ["STAGES", "Fault", "Run"]

STAGES = ("training", "prediction", "diagnosis")  # before which a fault is planted: all that follows is done anew


@dataclass(frozen=True)
class Run:
    """A training as far as it has come; `model`, `history` and `predictions` are None before it.

    sizes: fields of `ModelConfig`. callbacks: functions that make one each, since a callback holds the state of one
    training. given: which of "arrays", "model" and "history" the diagnosis is given beside the predictions.
    """

    arrays: Arrays
    config: TrainingConfig
    sizes: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[Callable[[], Callback], ...] = ()
    model: nn.Module | None = None
    history: pd.DataFrame | None = None
    predictions: pd.DataFrame | None = None
    given: tuple[str, ...] = ("arrays", "model", "history")


@dataclass(frozen=True)
class Fault:
    """One way to break a healthy run.

    cause: the name that the diagnosis must give it. stage: of STAGES; "training" changes the dataset, the settings
    or the callbacks and has the run trained, "prediction" changes a trained model or what it is given to predict,
    "diagnosis" the finished predictions, or what the diagnosis is given. strengths: (in words, value) from the weakest
    to the strongest. plant: (run, value, rng) -> run, without changing what it was given.
    """

    name: str
    cause: str
    group: str
    stage: str
    strengths: tuple[tuple[str, Any], tuple[str, Any], tuple[str, Any]]
    plant: Callable[[Run, Any, np.random.Generator], Run]
