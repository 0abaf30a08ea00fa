"""Faults of training and of the model, planted in a reduced run: what the collapse zoo breaks on purpose.

A fault of training is trained with. A fault of the model is surgery on the healthy one: weights are altered, or what a
module gives is altered by a hook that stays with the model, so that it predicts and is diagnosed with its fault.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chromacc_lib.batches import RegionData
from chromacc_lib.callbacks import Callback, TrainingState
from chromacc_lib.faults import Fault, Run
from chromacc_lib.inference import evaluating
from chromacc_lib.model import MODALITIES, ChromaccModel
from chromacc_lib.training import build_model, train

__all__ = ["MODEL_FAULTS", "TRAINING_FAULTS"]

UNCLIPPED = 1e9  # a clip_norm that no gradient reaches


# --- training ------------------------------------------------------------------------------------------------

class _AtStart(Callback):
    """Alter the model before its first step."""

    def __init__(self, alter: Callable[[ChromaccModel], None]) -> None:
        self.alter = alter

    def on_start(self, state: TrainingState) -> None:
        """Alter the raw weights and their average alike."""
        for model in (state.model, state.average.module):
            with torch.no_grad():
                self.alter(model)


class _StopAfter(Callback):
    """End training after so many epochs of its course, whatever the learning rate is then."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch(self, state: TrainingState) -> None:
        """Stop when it is time."""
        if state.epoch > self.epochs:
            state.stop = f"stopped after {self.epochs} epochs"


def _rate(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Train at `factor` times the learning rate."""
    return replace(run, config=replace(run.config, learning_rate=factor * run.config.learning_rate))


def _no_warmup(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Train without warm-up and clipping, at a peak rate that needs both."""
    rate = factor * run.config.learning_rate
    return replace(run, config=replace(run.config, learning_rate=rate, warmup_share=0.0, clip_norm=UNCLIPPED))


def _large_start(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Start from weights `factor` times too large, without clipping: gradients grow from layer to layer."""
    return replace(run, config=replace(run.config, clip_norm=UNCLIPPED),
                   callbacks=(*run.callbacks, partial(_AtStart, partial(_scale_weights, factor=factor))))


def _scale_weights(model: ChromaccModel, factor: float) -> None:
    for name, weights in model.named_parameters():
        if weights.ndim > 1 and "position" not in name:
            weights.mul_(factor)


def _underflow(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Let only `share` of the gradient pass from the heads to what lies behind them.

    As where small gradients underflow (Micikevicius et al. 2018, "Mixed precision training", ICLR) or units on the way
    are saturated. Adam makes up for it until gradients are below its epsilon.
    """
    return replace(run, callbacks=(*run.callbacks, partial(_AtStart, partial(_hold_back, share=share))))


def _hold_back(model: ChromaccModel, share: float) -> None:
    model.encoder.register_forward_hook(partial(_less_gradient, share=share))


def _underflow_of_branch(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Let only `share` of the gradient pass into the sequence encoder, and all of it everywhere else."""
    return replace(run, callbacks=(*run.callbacks, partial(_AtStart, partial(_hold_back_sequence, share=share))))


def _hold_back_sequence(model: ChromaccModel, share: float) -> None:
    for weights in filter(attrgetter("requires_grad"), model.sequence_encoder.parameters()):
        weights.register_hook(partial(torch.mul, torch.tensor(share)))


def _less_gradient(module: nn.Module, inputs: tuple, output: tuple[Tensor, Any], share: float) -> None:
    if output[0].requires_grad:
        output[0].register_hook(partial(torch.mul, torch.tensor(share)))


def _stopped(run: Run, epochs: int, rng: np.random.Generator) -> Run:
    """Stop after so many epochs of the course, whose learning rate was to fall to zero."""
    return replace(run, callbacks=(*run.callbacks, partial(_StopAfter, epochs)))


def _another_checkpoint(run: Run, epochs: int, rng: np.random.Generator) -> Run:
    """Take the checkpoint of an early epoch (0: the weights that training began with) for the one to be judged."""
    if epochs == 0:
        torch.manual_seed(run.config.seed)
        model, _ = build_model(run.arrays, run.config.motif_prior, dict(run.sizes))
    else:
        model = train(run.arrays, run.config, "cpu", dict(run.sizes), [_StopAfter(epochs)]).model
    return replace(run, model=model.eval())


def _closed_left_out(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Leave `share` of the closed windows out of what the label is trained on, and do not correct for it."""
    label = run.arrays.label.copy()
    rows = np.ix_(run.arrays.windows["split"].to_numpy() == "train", run.arrays.train_mask)
    part = label[rows]
    part[(part == 0) & (rng.random(part.shape) < share)] = -1
    label[rows] = part
    return replace(run, arrays=replace(run.arrays, label=label))


def _weight(run: Run, weights: dict[str, float], rng: np.random.Generator) -> Run:
    """Train with other weights of the loss's terms."""
    return replace(run, config=replace(run.config, **weights))


TRAINING_FAULTS: tuple[Fault, ...] = (
    Fault("rate too high", "learning rate too high", "optimisation", "training",
          (("10 times", 10.0), ("20 times", 20.0), ("100 times", 100.0)), _rate),
    Fault("rate too low", "learning rate too low", "optimisation", "training",
          (("a 300th", 1 / 300), ("a 1,000th", 1 / 1000), ("a 10,000th", 1e-4)), _rate),
    Fault("no warm-up", "early divergence without warm-up", "optimisation", "training",
          (("peak rate 10 times", 10.0), ("20 times", 20.0), ("40 times", 40.0)), _no_warmup),
    Fault("weights start too large", "exploding gradients", "optimisation", "training",
          (("10 times", 10.0), ("16 times", 16.0), ("32 times", 32.0)), _large_start),
    Fault("gradients held back", "vanishing gradients", "optimisation", "training",
          (("1e-5 of them pass", 1e-5), ("1e-6", 1e-6), ("1e-8", 1e-8)), _underflow),
    Fault("gradients held back in a branch", "vanishing gradients", "optimisation", "training",
          (("1e-7 of them pass into the sequence encoder", 1e-7), ("1e-9", 1e-9), ("1e-12", 1e-12)), _underflow_of_branch),
    Fault("stopped early", "training stopped too early", "optimisation", "training",
          (("after 4 of 6 epochs", 4), ("3 of 6", 3), ("2 of 6", 2)), _stopped),
    Fault("early checkpoint", "wrong checkpoint evaluated", "optimisation", "prediction",
          (("of epoch 2 of 6", 2), ("of epoch 1", 1), ("from before training", 0)), _another_checkpoint),
    Fault("closed windows left out", "class-prior bias", "optimisation", "training",
          (("80% of them", 0.8), ("95%", 0.95), ("99%", 0.99)), _closed_left_out),
    Fault("label outweighs the score", "loss terms out of balance", "optimisation", "training",
          (("weight 50", {"label_weight": 50.0}), ("500", {"label_weight": 500.0}),
           ("5,000", {"label_weight": 5000.0})), _weight),
)


# --- the model -----------------------------------------------------------------------------------------------

def _operated(operate: Callable[[ChromaccModel, Any, np.random.Generator, Run], None]
              ) -> Callable[[Run, Any, np.random.Generator], Run]:
    """Make a plant of an operation on the model's weights or hooks; the model is a copy that the zoo made."""

    def plant(run: Run, value: Any, rng: np.random.Generator) -> Run:
        """Operate on the run's model, without a gradient."""
        with torch.no_grad():
            operate(run.model, value, rng, run)
        return run

    return plant


def _shrink_output(model: ChromaccModel, factor: float, rng: np.random.Generator, run: Run) -> None:
    """Scale all that the score is made of, but for its mean: the head, and what it adds of the locus prior."""
    model.score_head[-1].weight.mul_(factor)
    for slopes in (model.prior_slope, model.departure_slope):
        slopes[0] *= factor


def _only_average(model: ChromaccModel, factor: float, rng: np.random.Generator, run: Run) -> None:
    """Scale all that the score is made of, but for its mean and the locus average, which is given as it is."""
    model.score_head[-1].weight.mul_(factor)
    model.score_head[-1].bias.mul_(factor)
    model.departure_slope[0] *= factor
    model.prior_slope[0] = 1.0


def _cut(model: ChromaccModel, value: tuple[tuple[str, ...], float], rng: np.random.Generator, run: Run) -> None:
    """Let the fusion see only (1 - share) of the named modalities' tokens, and a fixed vector for the rest of them.

    What the locus prior gives straight to the score is cut by the same share when `prior` is among them.
    """
    names, share = value
    fixed = torch.from_numpy(rng.normal(size=(len(MODALITIES), model.config.d_model)).astype(np.float32))
    model.fusion.register_forward_pre_hook(partial(_mixed_tokens, names=names, share=share, fixed=fixed))
    if "prior" in names:
        model.prior_slope[0] *= 1 - share
        model.departure_slope[0] *= 1 - share


def _mixed_tokens(module: nn.Module, inputs: tuple, names: tuple[str, ...], share: float, fixed: Tensor) -> tuple:
    query, modalities, observed = inputs
    mixed = [(1 - share) * tokens + share * vector if name in names else tokens
             for name, tokens, vector in zip(MODALITIES, modalities, fixed, strict=True)]
    return query, mixed, observed


def _low_rank(model: ChromaccModel, directions: int, rng: np.random.Generator, run: Run) -> None:
    """Leave of what the heads read only its first principal directions, those of the training rows."""
    windows = np.flatnonzero(run.arrays.windows["split"].to_numpy() == "train")[:128]
    with evaluating(model):
        tokens = model(RegionData(run.arrays).batch(windows, np.flatnonzero(run.arrays.train_mask))).tokens
    pooled = tokens.mean(2).flatten(0, 1)  # (B, C, T, d) -> (B * C, d)
    axes = torch.linalg.svd(pooled - pooled.mean(0), full_matrices=False).Vh[:directions]
    model.encoder.register_forward_hook(partial(_projected, centre=pooled.mean(0), axes=axes))


def _projected(module: nn.Module, inputs: tuple, output: tuple[Tensor, Any], centre: Tensor, axes: Tensor
               ) -> tuple[Tensor, Any]:  # fmt: skip
    return centre + (output[0] - centre) @ axes.T @ axes, output[1]


def _alike(model: ChromaccModel, share: float, rng: np.random.Generator, run: Run) -> None:
    """Let every block of both stacks mix each token with its window's mean token."""
    for stack in (model.sequence_encoder.stack, model.encoder):
        for block in stack.blocks:
            block.register_forward_hook(partial(_towards_mean, share=share))


def _towards_mean(module: nn.Module, inputs: tuple, output: tuple[Tensor, Any], share: float) -> tuple[Tensor, Any]:
    tokens = output[0]
    return torch.lerp(tokens, tokens.mean(1, keepdim=True).expand_as(tokens), share), output[1]


def _scale_queries(model: ChromaccModel, factor: float, rng: np.random.Generator, run: Run) -> None:
    """Scale the queries of every attention: large ones look at one key only, small ones at all keys alike."""
    for stack in (model.sequence_encoder.stack, model.encoder):
        for block in stack.blocks:
            n = block.attention.qkv.out_features // 3
            block.attention.qkv.weight[:n] *= factor
            block.attention.qkv.bias[:n] *= factor
    model.fusion.query.weight.mul_(factor)
    model.fusion.query.bias.mul_(factor)


def _dead_units(model: ChromaccModel, by: float, rng: np.random.Generator, run: Run) -> None:
    """Move the hidden units of the score and label heads so far down that they give nothing, whatever they read."""
    for head in (model.score_head, model.label_head):
        head[0].bias.sub_(by)


_OWN = ("sequence", "histone", "tf", "cell", "prior")
MODEL_FAULTS: tuple[Fault, ...] = (
    Fault("constant output", "constant output", "model", "prediction",
          (("4% of its range", 0.04), ("1%", 0.01), ("none", 0.0)), _operated(_shrink_output)),
    Fault("dead modality", "a modality is dead", "model", "prediction",
          (("TF tracks", (("tf",), 1.0)), ("histone marks", (("histone",), 1.0)),
           ("both", (("histone", "tf"), 1.0))), _operated(_cut)),
    Fault("dominating modality", "a modality dominates", "model", "prediction",
          tuple((f"all but histone marks cut by {words}", (tuple(n for n in _OWN if n != "histone"), share))
                for words, share in (("95%", 0.95), ("99%", 0.99), ("100%", 1.0))), _operated(_cut)),
    Fault("locus average only", "collapse to the locus average", "model", "prediction",
          (("10% of the rest", 0.1), ("3%", 0.03), ("none", 0.0)), _operated(_only_average)),
    Fault("few directions", "embeddings of low effective rank", "model", "prediction",
          (("2", 2), ("1", 1), ("none", 0)), _operated(_low_rank)),
    Fault("tokens mixed", "tokens made alike with depth", "model", "prediction",
          (("80% a layer", 0.8), ("95%", 0.95), ("all", 1.0)), _operated(_alike)),
    Fault("large queries", "attention entropy collapsed", "model", "prediction",
          (("30 times", 30.0), ("100 times", 100.0), ("1,000 times", 1000.0)), _operated(_scale_queries)),
    Fault("small queries", "attention uniform", "model", "prediction",
          (("a 30th", 1 / 30), ("a 100th", 0.01), ("none", 0.0)), _operated(_scale_queries)),
    Fault("units of the heads below zero", "saturated head", "model", "prediction",
          (("by 6", 6.0), ("by 12", 12.0), ("by 50", 50.0)), _operated(_dead_units)),
)
