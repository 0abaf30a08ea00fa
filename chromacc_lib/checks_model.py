"""Checks that need the model: does it reproduce what was evaluated, use its inputs, and keep windows and tokens apart?

The model runs on a sample of the windows, so that diagnosing a finished run takes seconds. Each returns a
`checks.Check`. Scores are arcsinh-scaled.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from chromacc_lib.batches import RegionData, without
from chromacc_lib.checks import Check, Table, draw, judge, not_run, prefer_unseen, rule_text
from chromacc_lib.checks_history import CHECKPOINT, best_epoch, validation_ratio
from chromacc_lib.dataset import Arrays
from chromacc_lib.inference import evaluating
from chromacc_lib.model import Batch, ChromaccModel
from chromacc_lib.training import TrainingConfig, validation_rows
from chromacc_lib.vitals import Vitals, attention_entropy, effective_rank, token_similarity

__all__ = ["model_checks"]

MODEL_WINDOWS = 64      # the model is run a dozen times on these x MODEL_CELL_TYPES, on both strands
MODEL_CELL_TYPES = 6
OVERFIT_WINDOWS, OVERFIT_CELL_TYPES, OVERFIT_STEPS = 8, 4, 100
SAME = 0.01             # RMS change, over the scores' standard deviation, below which a modality says nothing
MODEL_NAMES = ("model reproduces predictions", "cell-type swap", "dead modality", "dominating modality",
               "saturated head", "effective rank", "tokens made alike", "attention collapsed", "attention uniform",
               "checkpoint of the best epoch", "model is of this history", "learned since initialisation", "loss at initialisation", "single-batch overfit")
GROUP = {"checkpoint of the best epoch": "optimisation", "model is of this history": "optimisation", "learned since initialisation": "optimisation", "loss at initialisation": "optimisation",
         "single-batch overfit": "optimisation"}  # all others: model
# (warn, fail), tuned on reduced pilots of two seeds, healthy and broken
DOMINANCE = (0.97, 0.985)
GELU_ASLEEP = -3.2  # its slope there is -0.007, and nearer to 0 below
NEARLY_ALONE, NOTHING = 0.9, 1e-6
DEAD_UNITS = (0.5, 0.9)
RANK = (3, 2)
ALIKE = (0.995, 0.9995)
PEAKED = (0.3, 0.15)
UNIFORM = (0.99, 0.996)
LEARNED = (0.15, 0.03)
OVERFIT = (0.2, 0.5)
VITAL_SIGNS = ("attention_entropy_sequence", "attention_entropy_fusion", "attention_entropy_encoder", "effective_rank",
               "token_similarity")
SAME_SIGNS = 0.01  # relative; the same weights differ by rounding, two epochs by more
VALIDATION_WINDOWS = TrainingConfig.validation_windows
# What a modality is, as fields of the batch.
FIELDS = {"sequence": ("sequence",), "histone": ("histone", "histone_observed"), "tf": ("tf", "tf_observed"),
          "metadata": ("metadata", "metadata_observed"), "prior": ("prior", "prior_score", "prior_observed")}


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


def model_checks(model: nn.Module | None, arrays: Arrays | None, table: Table, history: pd.DataFrame | None,
                 seed: int) -> list[Check]:
    """Run the checks of the model on a sample of the dataset; the model is left in the mode it was in.

    Of a model all that is asked is `model(batch).score`; what looks inside needs the parts of `model.ChromaccModel`, and
    says which one a model lacks.
    """
    if model is None or arrays is None:
        return _none_run("no model was given" if model is None else "a model needs the dataset, which was not given")
    rng = np.random.default_rng(seed)
    split = arrays.windows["split"].to_numpy()
    windows = draw(np.flatnonzero(split == "test") if (split == "test").any() else np.arange(len(split)),
                    MODEL_WINDOWS, rng)
    cells = prefer_unseen(arrays.cell_types["split"].to_numpy(), MODEL_CELL_TYPES, rng)
    data = RegionData(arrays)
    batch = data.batch(windows, cells)
    with _Captured(model) as captured:
        predicted = _predict(model, batch)
    probe = _Probe(model, batch, arrays.score[np.ix_(windows, cells)].astype(float), predicted, windows,
                   arrays.cell_types["cell_type"].iloc[cells].tolist())
    if not np.isfinite(predicted).all() or not probe.spread() > 0:
        return _none_run("scores do not vary" if np.isfinite(predicted).all() else "the model's output is not finite")
    return [_check_reproduces(probe, table), _check_cell_swap(probe), *_check_modalities(probe, rng),
            _check_head(captured), _check_rank(captured), _check_tokens(captured), *_check_attention(probe), *_check_epoch(model, data, arrays, table, history),
            *_check_initialisation(model, data, arrays, rng), _check_overfit(model, data, arrays, rng)]


def _none_run(why: str) -> list[Check]:
    return [not_run(name, GROUP.get(name, "model"), why) for name in MODEL_NAMES]


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
    """Context that records, while the model runs, what the head reads and how alike tokens are at each depth.

    A part that the model lacks is not recorded.
    """

    def __init__(self, model: nn.Module) -> None:
        self.embeddings: list[np.ndarray] = []
        self.hidden: list[np.ndarray] = []  # what goes into the head's first activation
        self.asleep_below = 0.0  # below which it gives next to nothing
        self.similarity: dict[str, list[float]] = {}
        self._stacks = {name: part(model, path) for name, path in (("sequence", "sequence_encoder.stack.blocks"),
                                                                   ("encoder", "encoder.blocks"))}
        self._head = part(model, "score_head")
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> "_Captured":
        if self._head is not None:
            self._handles.append(self._head.register_forward_pre_hook(
                lambda module, inputs: self.embeddings.append(_rows(inputs[0]))))
            activation = next((m for m in self._head.modules() if isinstance(m, nn.GELU | nn.ReLU)), None)
            if activation is not None:
                self.asleep_below = 0.0 if isinstance(activation, nn.ReLU) else GELU_ASLEEP
                self._handles.append(activation.register_forward_pre_hook(
                    lambda module, inputs: self.hidden.append(_rows(inputs[0]))))
        for stack, blocks in self._stacks.items():
            for depth, block in enumerate(blocks or (), 1):
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


def part(model: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule of that name, or None."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _rows(values: torch.Tensor) -> np.ndarray:
    return values.detach().flatten(0, -2).float().cpu().numpy()


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
    names = [name for modality in ("histone", "tf", "metadata") for name in FIELDS[modality]]
    moved = replace(probe.batch, **{name: getattr(probe.batch, name).roll(1, 1) for name in names})
    change = _rms(_predict(probe.model, moved) - probe.predicted)
    measured = float(np.sqrt(np.nanmean((np.roll(probe.score, 1, 1) - probe.score)**2)))
    if not measured > 0:
        return not_run("cell-type swap", "model", "the measured scores do not differ between cell types")
    value = change / measured
    return Check("cell-type swap", "model", value, rule_text("RMS change over measured difference", 0.2, 0.05),
                 judge(value, 0.2, 0.05), f"Given another cell type's marks, TFs and metadata, predictions move by "
                 f"{value:.3f} of the measured difference between the two.")


def _check_modalities(probe: _Probe, rng: np.random.Generator) -> list[Check]:
    """What does each modality contribute? RMS change of the prediction when it is shuffled, and when it is masked.

    Shuffled between windows (metadata between cell types), a modality keeps its distribution and loses what it says of
    the row: Breiman 2001, "Random forests", and model reliance, Fisher et al. 2019 (J. Mach. Learn. Res. 20:177). Masked,
    it is missing as an assay would be, which also shows a model that leans on its presence. Dead: shuffling moves
    nothing. Dominating: of the squared changes, nearly all are one modality's; or most, while more than half of the
    modalities are next to dead, and none of them moves nothing at all: those are not cut off, they are outweighed. Changes
    are in units of the measured scores' standard deviation, errors in units of their variance.
    """
    names = [name for name, there in _present(probe.batch).items() if there]
    if len(names) < 2:
        return [not_run(name, "model", "fewer than two modalities have data")
                for name in ("dead modality", "dominating modality")]
    before, rise, masked, shuffled = np.nanmean((probe.predicted - probe.score)**2), {}, {}, {}
    for name in names:
        after = _predict(probe.model, without(probe.batch, "cell" if name == "metadata" else name))
        rise[name] = float((np.nanmean((after - probe.score)**2) - before) / probe.spread()**2)
        masked[name] = _rms(after - probe.predicted) / probe.spread()
        shuffled[name] = _rms(_predict(probe.model, _shuffled(probe.batch, name, rng)) - probe.predicted) / probe.spread()
    dead = [name for name in names if shuffled[name] < SAME]
    harmful = [name for name in names if rise[name] < -0.01]
    detail = {"rise_in_squared_error": rise, "rms_change": masked, "rms_change_shuffled": shuffled}
    reading = f"{', '.join(dead)} {'is' if len(dead) == 1 else 'are'} dead" if dead else (
        f"without {', '.join(harmful)} the error would be lower" if harmful else "all are used")
    listed = ", ".join(f"{name} {shuffled[name]:.2f} ({100 * rise[name]:+.1f}%)" for name in names)
    first = Check("dead modality", "model", min(shuffled.values()), "smallest RMS change when a modality is shuffled, "
                  f"over the scores' standard deviation: fail below {SAME}; warn when masking one lowers the error by 1% "
                  "of the variance", "fail" if dead else "warn" if harmful else "ok",
                  f"Shuffling each modality moves predictions by {listed} of the scores' standard deviation (in brackets, "
                  f"how masking it changes the squared error, of their variance): {reading}.", detail)
    squares = {name: change**2 for name, change in shuffled.items()}
    total = sum(squares.values())
    if not total > 0:
        return [first, not_run("dominating modality", "model", "shuffling moves nothing at all")]
    top = max(squares, key=squares.__getitem__)
    value = squares[top] / total
    alone = value > NEARLY_ALONE and 2 * len(dead) > len(names) and min(shuffled.values()) > NOTHING
    return [first, Check("dominating modality", "model", value, rule_text("one modality's share of the squared changes",
                         *DOMINANCE) + f"; fail above {NEARLY_ALONE}, too, when more than half of the modalities "
                         "are next to dead, and none moves nothing at all",
                         "fail" if alone else judge(value, *DOMINANCE),
                         f"Of what shuffling moves, {100 * value:.1f}% is {top}'s.", {"largest": top} | detail)]


def _present(batch: Batch) -> dict[str, bool]:
    """Which modalities a batch has anything of."""
    return {"sequence": bool((batch.sequence < 4).any()), "histone": bool(batch.histone_observed.any()),
            "tf": bool(batch.tf_observed.any()), "metadata": bool(batch.metadata_observed.any()),
            "prior": bool(batch.prior_observed.any())}


def _shuffled(batch: Batch, modality: str, rng: np.random.Generator) -> Batch:
    """The batch with a modality of other windows, or, since metadata are the same in all windows, of other cell types."""
    if modality == "metadata":
        return replace(batch, **{name: getattr(batch, name).roll(1, 1) for name in FIELDS[modality]})
    order = torch.from_numpy(rng.permutation(len(batch.sequence)))
    return replace(batch, **{name: getattr(batch, name)[order] for name in FIELDS[modality]})


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


# --- what the model is like inside ---------------------------------------------------------------------------

def _check_head(captured: _Captured) -> Check:
    """Which hidden units of the score head give nothing, whatever they read? Share of units dead on 99% of the rows.

    A unit is dead where the slope of its activation is 0, or with GELU within 0.007 of it: Lu et al. 2020, "Dying ReLU and initialization"
    (Commun. Comput. Phys. 28:1671).
    """
    name = "saturated head"
    if not captured.hidden:
        return not_run(name, "model", "the model has no score_head with a GELU or ReLU")
    hidden = np.concatenate(captured.hidden)
    asleep = hidden < captured.asleep_below
    value = float((asleep.mean(axis=0) > 0.99).mean())
    return Check(name, "model", value, rule_text("share of the score head's hidden units that are dead", *DEAD_UNITS),
                 judge(value, *DEAD_UNITS), f"{100 * value:.0f}% of the {hidden.shape[1]} hidden units of the score head "
                 "are so far below zero that they give nothing on any row.")


def _check_rank(captured: _Captured) -> Check:
    """How many directions do the pooled embeddings use? See `vitals.effective_rank` (RankMe).

    Beside it the spectrum of their covariance: dimensional collapse shows as eigenvalues that fall to zero (Jing et al.
    2022, "Understanding dimensional collapse in contrastive self-supervised learning", ICLR).
    """
    if not captured.embeddings:
        return not_run("effective rank", "model", "the model has no score_head")
    embeddings = np.concatenate(captured.embeddings)
    value, singular = effective_rank(embeddings)
    spectrum = singular**2 / len(embeddings)
    top = float(spectrum[0] / spectrum.sum()) if spectrum.sum() > 0 else 1.0
    return Check("effective rank", "model", value, rule_text("effective rank of the pooled embeddings", *RANK),
                 judge(value, *RANK), f"The {len(embeddings)} pooled embeddings looked at (both strands) use "
                 f"{value:.1f} of {embeddings.shape[1]} directions; the first holds {100 * top:.0f}% of their variance.",
                 {"singular_values": singular, "covariance_spectrum": spectrum})


def _check_tokens(captured: _Captured) -> Check:
    """Are the tokens of a window still different after the last layer? See `vitals.token_similarity`.

    Healthy pilots lie between 0.93 and 0.99: tokens share what the whole window says, so only more is a warning.
    """
    by_depth = {name: float(np.mean(values)) for name, values in captured.similarity.items()}
    if not by_depth:
        return not_run("tokens made alike", "model", "the model has no encoder.blocks")
    value = max(values[-1] for values in (
        [v for name, v in by_depth.items() if name.startswith(stack)] for stack in ("sequence", "encoder")) if values)
    return Check("tokens made alike", "model", value, rule_text("cosine similarity of tokens after the last layer",
                 *ALIKE), judge(value, *ALIKE),
                 f"After the last layer the tokens of a window have a cosine similarity of {value:.4f}.",
                 {"by_depth": by_depth})


@torch.no_grad()
def _check_attention(probe: _Probe) -> list[Check]:
    """Does attention choose? Its entropy, 0 = one key only, 1 = all keys alike; see `vitals.attention_entropy`.

    Collapsed: Zhai et al. 2023 (ICML), as there. Uniform: attention is then an average that no query changes, and a stack
    of it makes tokens alike (Noci et al. 2022, "Signal propagation in transformers", NeurIPS).
    """
    names = ("attention collapsed", "attention uniform")
    if not isinstance(probe.model, ChromaccModel):
        return [not_run(name, "model", "the model does not show its attention") for name in names]
    model, device = probe.model, next(probe.model.parameters()).device
    batch = Batch(**{f.name: getattr(probe.batch, f.name)[:32] for f in fields(Batch)}).to(device)
    with evaluating(model):
        weights = model(batch, return_attention=True).attention
    keys = (model.observed(model.readable(batch)).sum(-1) + 1)[:, :, None, None]
    entropy = {name: attention_entropy(part, keys if name == "fusion" else None).cpu() for name, part in weights.items()}
    by_stack = {name: float(values.nanmean()) for name, values in entropy.items()}
    layers = {f"{name} {i + 1}": float(entropy[name].select(-3, i).nanmean()) for name in ("sequence", "encoder")
              for i in range(entropy[name].shape[-3])}
    listed = ", ".join(f"{name} {value:.3f}" for name, value in by_stack.items())
    sentence = f"Attention has {listed} of the largest possible entropy (1: all keys alike, 0: one key only)."
    low, least = min(by_stack["sequence"], by_stack["encoder"]), min(by_stack.values())
    detail = {"by_stack": by_stack, "by_layer": layers}
    return [Check(names[0], "model", low, rule_text("entropy of self-attention, the lower of the two stacks", *PEAKED),
                  judge(low, *PEAKED), sentence, detail),
            Check(names[1], "model", least, rule_text("entropy of attention, the lowest of the three", *UNIFORM),
                  judge(least, *UNIFORM), sentence, detail)]


# --- which checkpoint is it? ---------------------------------------------------------------------------------

def _check_epoch(model: nn.Module, data: RegionData, arrays: Arrays, table: Table, history: pd.DataFrame | None
                 ) -> list[Check]:  # fmt: skip
    """Which epoch's weights are these? The history's vital signs tell a checkpoint as a fingerprint does.

    They are taken once more, on the same validation rows (`vitals.model_vitals`). A model that was never trained has all
    its norms where they start. Signs of no epoch: a model of another training, or one that was altered since; its error on
    the validation rows must be another, too, since a history may have been written with other settings.
    """
    names = ("checkpoint of the best epoch", "model is of this history")
    columns = [] if history is None else [c for c in history if c in VITAL_SIGNS]
    if not isinstance(model, ChromaccModel) or len(columns) < len(VITAL_SIGNS):
        why = "the model is not a ChromaccModel" if columns else "no history with vital signs was given"
        return [not_run(name, "optimisation", why) for name in names]
    ratio, words = validation_ratio(history, table)
    if not math.isfinite(ratio):
        return [not_run(name, "optimisation", words) for name in names]
    best = best_epoch(history)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    if all(bool((m.weight == 1).all()) and bool((m.bias == 0).all()) for m in norms):
        return [Check(names[0], "optimisation", 0.0, "epoch that the weights are of: fail when not the best", "fail",
                      "Every norm of the model stands where it starts: it was never trained."),
                not_run(names[1], "optimisation", "the model was never trained")]
    with evaluating(model):
        vitals = Vitals.of(data, *validation_rows(arrays, VALIDATION_WINDOWS))(model)
    signs = history[columns].to_numpy(float)
    off = np.abs(signs / np.array([vitals[c] for c in columns]) - 1).max(axis=1)  # (epochs,)
    nearest = int(np.nanargmin(np.where(np.isfinite(off), off, np.inf))) + 1
    epoch = best if off[best - 1] < SAME_SIGNS else nearest if off[nearest - 1] < SAME_SIGNS else 0
    found = f"Its vital signs are those of epoch {epoch}" if epoch else "Its vital signs are those of no epoch"
    sentence = f"{found}; the best of {len(history)} was {best}. {words}"
    stranger = not epoch and judge(ratio, *CHECKPOINT) == "fail"
    return [Check(names[0], "optimisation", float(epoch), "epoch that the weights are of: fail when not the best, warn "
                  "when none", "ok" if epoch == best else "fail" if epoch else "warn" if stranger else "ok", sentence),
            Check(names[1], "optimisation", float(off[nearest - 1]), f"vital signs against the nearest epoch's: fail when "
                  f"all are off by {SAME_SIGNS:g} and so is the error, by {CHECKPOINT[1]:g}",
                  "fail" if stranger else "ok", sentence)]


# --- could it learn, and did it? -----------------------------------------------------------------------------

@torch.no_grad()
def _check_initialisation(model: nn.Module, data: RegionData, arrays: Arrays, rng: np.random.Generator) -> list[Check]:
    """Is a new model of the same sizes as good as a sensible guess, and is the trained one better than a new one?

    "Verify loss @ init" (Karpathy 2019, "A recipe for training neural networks"): the guess is the locus average where
    there is one, else the mean. What training gained over the new model is what it learned: a model that reads the locus
    average correlates with the scores before it is trained. On training rows.
    """
    names = ("learned since initialisation", "loss at initialisation")
    if not isinstance(model, ChromaccModel):
        return [not_run(name, "optimisation", "only a ChromaccModel can be started anew") for name in names]
    windows, cells = _training_rows(arrays, MODEL_WINDOWS, MODEL_CELL_TYPES, rng)
    if not windows.size or not cells.size:
        return [not_run(name, "optimisation", "there are no training rows") for name in names]
    batch, score = data.batch(windows, cells), arrays.score[np.ix_(windows, cells)].astype(float)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        new = type(model)(model.config)
    new = new.to(next(model.parameters()).device)
    trained, untrained = (float(np.nanmean((_predict(one, batch) - score)**2)) for one in (model, new))
    known = batch.prior_observed.numpy() & model.config.locus_prior
    guess = float(np.nanmean((np.where(known, batch.prior_score.numpy(), model.config.score_mean) - score)**2))
    if not guess > 0 or not untrained > 0:
        return [not_run(name, "optimisation", "the scores do not vary") for name in names]
    learned, ratio = 1 - trained / untrained, untrained / guess
    what = "the locus average" if known.any() else "the mean"
    return [Check(names[0], "optimisation", learned, rule_text("share of a new model's squared error that training took "
                  "away", *LEARNED), judge(learned, *LEARNED), f"On training rows the squared error is {trained:.4g}, that "
                  f"of an untrained model of the same sizes {untrained:.4g}: training took {100 * learned:.0f}% away."),
            Check(names[1], "optimisation", ratio, rule_text("squared error of a new model over that of a guess", 1.5, 3),
                  judge(ratio, 1.5, 3), f"An untrained model has {ratio:.2f} times the squared error of {what}.")]


def _check_overfit(model: nn.Module, data: RegionData, arrays: Arrays, rng: np.random.Generator) -> Check:
    """Can a copy of the model learn one small batch by heart? Squared error left, of what it was before.

    The single-batch overfit test (Karpathy 2019, "A recipe for training neural networks"); its targets are the scores of
    other windows, so that nothing learned before helps. A model that fails cannot be trained as it stands; one that passes
    was failed by its data or its training.
    """
    name = "single-batch overfit"
    windows, cells = _training_rows(arrays, OVERFIT_WINDOWS, OVERFIT_CELL_TYPES, rng)
    target = torch.from_numpy(np.roll(arrays.score[np.ix_(windows, cells)], 1, axis=0))
    known = target.isfinite()
    if known.sum() < 4 or not float(target[known].std()) > 0:
        return not_run(name, "optimisation", "too few training rows have a known score")
    copied = copy.deepcopy(model).eval()
    device = next(model.parameters()).device
    batch, target, known = data.batch(windows, cells).to(device), target.nan_to_num().to(device), known.to(device)
    optimiser, losses = torch.optim.Adam(copied.parameters(), lr=1e-3), []
    with torch.enable_grad():
        for _ in range(OVERFIT_STEPS):
            loss = ((copied(batch).score - target)[known]**2).mean()
            losses.append(float(loss.detach()))
            if losses[-1] < OVERFIT[0] * losses[0]:
                break
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    value = min(losses) / losses[0] if losses[0] > 0 and math.isfinite(losses[-1]) else math.nan
    if not math.isfinite(value):
        return not_run(name, "optimisation", "the loss of the batch is not a positive number")
    return Check(name, "optimisation", value, rule_text("squared error left after at "
                 f"most {OVERFIT_STEPS} steps on one batch", *OVERFIT), judge(value, *OVERFIT),
                 f"Trained on one batch of {int(known.sum())} rows with the scores of other windows, a copy of the model "
                 f"brings its squared error down to {100 * value:.0f}% in {len(losses) - 1} steps.")


def _training_rows(arrays: Arrays, n_windows: int, n_cells: int, rng: np.random.Generator
                   ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return at most so many training windows and training cell types."""
    return (draw(np.flatnonzero(arrays.windows["split"].to_numpy() == "train"), n_windows, rng),
            draw(np.flatnonzero(arrays.train_mask), n_cells, rng))
