"""Faults of the training and of the model, planted in a reduced run: what the collapse zoo breaks on purpose."""

from dataclasses import replace

import numpy as np
import torch

from chromacc_lib.faults import Fault, Run

__all__ = ["TRAINING_FAULTS"]


def _few_epochs(run: Run, epochs: int, rng: np.random.Generator) -> Run:
    """Train for so many epochs of a course that was meant to be ten times as long."""
    return replace(run, config=replace(run.config, epochs=epochs))


def _constant_head(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Scale the last layer's weights of the score head."""
    with torch.no_grad():
        list(run.model.score_head.parameters())[-2].mul_(factor)
    return run


def _shuffled_rows(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Give `share` of the rows another row's prediction."""
    table = run.predictions.copy()
    rows = rng.permutation(len(table))[:round(share * len(table))]
    for name in ("predicted_score", "predicted_probability"):
        values = table[name].to_numpy(copy=True)
        values[rows] = values[rng.permutation(rows)]
        table[name] = values
    return replace(run, predictions=table)


TRAINING_FAULTS: tuple[Fault, ...] = (
    Fault("few epochs", "training stopped too early", "optimisation", "training",
          (("3 of 6 epochs", 3), ("2", 2), ("1", 1)), _few_epochs),
    Fault("flat head", "constant output", "model", "prediction",
          (("weights x 0.03", 0.03), ("x 0.01", 0.01), ("x 0", 0.0)), _constant_head),
    Fault("rows out of order", "wrong checkpoint evaluated", "optimisation", "diagnosis",
          (("30% of rows", 0.3), ("60%", 0.6), ("all", 1.0)), _shuffled_rows),
)
