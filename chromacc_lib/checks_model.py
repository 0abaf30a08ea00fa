"""Checks that need the model: does it reproduce what was evaluated, use its inputs, and keep windows and tokens apart?

The model runs on a sample of the windows, so that diagnosing a finished run takes seconds. Each returns a
`checks.Check`. Scores are arcsinh-scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import nn

from chromacc_lib.batches import RegionData, without
from chromacc_lib.checks import Check, Table, draw, judge, not_run, prefer_unseen, rule_text
from chromacc_lib.dataset import Arrays
from chromacc_lib.inference import evaluating
from chromacc_lib.model import Batch
from chromacc_lib.vitals import effective_rank, token_similarity

__all__ = ["model_checks"]

MODEL_WINDOWS = 96      # the model is run seven times on these x MODEL_CELL_TYPES, on both strands
MODEL_CELL_TYPES = 6
MODEL_NAMES = ("model reproduces predictions", "cell-type swap", "modality drop", "effective rank",
               "tokens made alike")


@dataclass(frozen=True)
class _Probe:
    """A model, a sample of the dataset as one batch, and what the model predicts for it as it is."""

    model: nn.Module
    batch: Batch
    score: np.ndarray       # (W, C) measured, NaN = unknown
    predicted: np.ndarray   # (W, C)
    windows: np.ndarray     # (W,) index in the dataset
    cells: list[str]

    def spread(self) -> float:
        """Standard deviation of the measured scores."""
        return float(np.nanstd(self.score))


def model_checks(model: nn.Module | None, arrays: Arrays | None, table: Table, seed: int) -> list[Check]:
    """Run the checks of the model on a sample of the dataset; the model is left in the mode it was in."""
    if model is None or arrays is None:
        why = "no model was given" if model is None else "a model needs the dataset, which was not given"
        return [not_run(name, "model", why) for name in MODEL_NAMES]
    rng = np.random.default_rng(seed)
    split = arrays.windows["split"].to_numpy()
    windows = draw(np.flatnonzero(split == "test") if (split == "test").any() else np.arange(len(split)),
                    MODEL_WINDOWS, rng)
    cells = prefer_unseen(arrays.cell_types["split"].to_numpy(), MODEL_CELL_TYPES, rng)
    batch = RegionData(arrays).batch(windows, cells)
    captured = _Captured(model)
    with captured:
        predicted = _predict(model, batch)
    probe = _Probe(model, batch, arrays.score[np.ix_(windows, cells)].astype(float), predicted, windows,
                   arrays.cell_types["cell_type"].iloc[cells].tolist())
    if not np.isfinite(predicted).all() or not probe.spread() > 0:
        why = "scores do not vary" if np.isfinite(predicted).all() else "the model's output is not finite"
        return [not_run(name, "model", why) for name in MODEL_NAMES]
    return [_check_reproduces(probe, table), _check_cell_swap(probe), _check_modality_drop(probe),
            _check_rank(captured), _check_tokens(captured)]


@torch.no_grad()
def _predict(model: nn.Module, batch: Batch, at_once: int = 32) -> np.ndarray:
    """Return predicted scores (W, C), the mean of both strands; `at_once`: windows that go through the model together.

    The model is left in the mode it was in.
    """
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, len(batch.sequence), at_once):
            rows = slice(start, start + at_once)
            part = Batch(**{f.name: getattr(batch, f.name)[rows] for f in fields(Batch)}).to(device)
            both = model(part).score + model(part.reverse_complement()).score  # all that is asked of a model: a score
            parts.append(both.float().cpu().numpy() / 2)
    return np.concatenate(parts)


class _Captured:
    """Context that records, while the model runs, the pooled embeddings and how alike tokens are at each depth."""

    def __init__(self, model: nn.Module) -> None:
        self.embeddings: list[np.ndarray] = []
        self.similarity: dict[str, list[float]] = {}
        self._stacks = {"sequence": model.get_submodule("sequence_encoder.stack.blocks"),
                        "encoder": model.get_submodule("encoder.blocks")}
        self._head = model.get_submodule("score_head")
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "_Captured":
        self._handles.append(self._head.register_forward_pre_hook(
            lambda module, inputs: self.embeddings.append(inputs[0].detach().flatten(0, -2).float().cpu().numpy())))
        for stack, blocks in self._stacks.items():
            for depth, block in enumerate(blocks, 1):
                self._handles.append(block.register_forward_hook(self._recorder(f"{stack} {depth}")))
        return self

    def _recorder(self, name: str) -> Callable[[nn.Module, object, tuple[torch.Tensor, object]], None]:
        def record(module: nn.Module, inputs: object, output: tuple[torch.Tensor, object]) -> None:
            """A forward hook: keep how alike the tokens are that leave the block."""
            self.similarity.setdefault(name, []).append(token_similarity(output[0].detach()))
        return record

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def _check_reproduces(probe: _Probe, table: Table) -> Check:
    """Does the model give the predictions of the table? If not, another checkpoint was evaluated."""
    given = table.rows.pivot(index="window", columns="cell_type", values="predicted_score")
    given = given.reindex(index=probe.windows, columns=probe.cells).to_numpy(float)
    known = np.isfinite(given)
    if known.sum() < 3:
        return not_run("model reproduces predictions", "model", "the table holds none of the windows that were tried")
    value = float(np.sqrt(np.mean((given - probe.predicted)[known]**2))) / probe.spread()
    return Check("model reproduces predictions", "model", value,
                 rule_text("RMS difference over the scores' standard deviation", 0.01, 0.1), judge(value, 0.01, 0.1),
                 f"The model's predictions differ from the table's by {value:.4f} of the scores' standard deviation "
                 f"(RMS over {int(known.sum())} rows).")


def _check_cell_swap(probe: _Probe) -> Check:
    """Do predictions move when a cell type is given the marks, TFs and metadata of another?

    RMS change of the prediction over the RMS difference of the two cell types' measured scores; the locus prior
    stays. A permutation of inputs in the manner of Breiman (2001), "Random forests", done by whole cell types.
    """
    if len(probe.cells) < 2:
        return not_run("cell-type swap", "model", "fewer than two cell types")
    names = ("histone", "histone_observed", "tf", "tf_observed", "metadata", "metadata_observed")
    moved = replace(probe.batch, **{name: getattr(probe.batch, name).roll(1, 1) for name in names})
    change = float(np.sqrt(np.mean((_predict(probe.model, moved) - probe.predicted)**2)))
    measured = float(np.sqrt(np.nanmean((np.roll(probe.score, 1, 1) - probe.score)**2)))
    if not measured > 0:
        return not_run("cell-type swap", "model", "the measured scores do not differ between cell types")
    value = change / measured
    return Check("cell-type swap", "model", value, rule_text("RMS change over measured difference", 0.2, 0.05),
                 judge(value, 0.2, 0.05), f"Given another cell type's marks, TFs and metadata, predictions move by "
                 f"{value:.3f} of the measured difference between the two.")


def _check_modality_drop(probe: _Probe) -> Check:
    """What does each modality contribute? Rise in squared error, and RMS change, when it is masked for all rows.

    Both in units of the measured scores' variance and standard deviation. A modality that moves nothing is dead;
    when all but one are dead, that one dominates.
    """
    present = {"sequence": (probe.batch.sequence < 4).any(), "histone": probe.batch.histone_observed.any(),
               "tf": probe.batch.tf_observed.any(), "metadata": probe.batch.metadata_observed.any(),
               "prior": probe.batch.prior_observed.any()}
    names = [name for name, there in present.items() if bool(there)]
    if len(names) < 2:
        return not_run("modality drop", "model", "fewer than two modalities have data")
    before, rise, change = np.nanmean((probe.predicted - probe.score)**2), {}, {}
    for name in names:
        after = _predict(probe.model, without(probe.batch, "cell" if name == "metadata" else name))
        rise[name] = float((np.nanmean((after - probe.score)**2) - before) / probe.spread()**2)
        change[name] = float(np.sqrt(np.mean((after - probe.predicted)**2)) / probe.spread())
    dead = [name for name in names if change[name] < 0.01]
    harmful = [name for name in names if rise[name] < -0.01]
    value = min(change.values())
    reading = f"{', '.join(dead)} {'is' if len(dead) == 1 else 'are'} dead" if dead else (
        f"without {', '.join(harmful)} the error would be lower" if harmful else "all are used")
    if dead and len(dead) == len(names) - 1:
        reading += f", and {next(n for n in names if n not in dead)} dominates"
    listed = ", ".join(f"{name} {100 * rise[name]:+.1f}%" for name in names)
    return Check("modality drop", "model", value, "smallest RMS change when a modality is masked, over the scores' "
                 "standard deviation: fail below 0.01; warn when masking lowers the error by 1% of the variance",
                 "fail" if dead else "warn" if harmful else "ok",
                 f"Masking each modality changes the squared error by {listed} of the scores' variance: {reading}.",
                 {"rise_in_squared_error": rise, "rms_change": change})


def _check_rank(captured: _Captured) -> Check:
    """How many directions do the pooled embeddings use? See `effective_rank`."""
    embeddings = np.concatenate(captured.embeddings)
    value, singular = effective_rank(embeddings)
    return Check("effective rank", "model", value, rule_text("effective rank of the pooled embeddings", 3, 1.5),
                 judge(value, 3, 1.5), f"The {len(embeddings)} pooled embeddings looked at (both strands) use "
                 f"{value:.1f} of {embeddings.shape[1]} directions.", {"singular_values": singular})


def _check_tokens(captured: _Captured) -> Check:
    """Are the tokens of a window still different after the last layer? See `token_similarity`.

    Healthy pilots lie between 0.93 and 0.99: tokens share what the whole window says, so only more is a warning.
    """
    by_depth = {name: float(np.mean(values)) for name, values in captured.similarity.items()}
    value = max(list(by_depth.values())[-1], by_depth[[n for n in by_depth if n.startswith("sequence")][-1]])
    return Check("tokens made alike", "model", value, rule_text("cosine similarity of tokens after the last layer",
                 0.995, 0.9995), judge(value, 0.995, 0.9995),
                 f"After the last layer the tokens of a window have a cosine similarity of {value:.3f}.",
                 {"by_depth": by_depth})
