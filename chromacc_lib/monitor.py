"""Watch a training while it runs: say in one line, as soon as it heads for collapse, what the likely cause is.

The rules read nothing but the rows of the history (`training._epoch_row`), so that they say the same of a run that is
resumed, and in every process. They are few, and wide of what healthy runs do: a pilot that trains well gets no warning.
What they name is a suspicion: the diagnosis (`collapse.diagnose`) has the dataset and the model to confirm it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from chromacc_lib.callbacks import Callback, TrainingState
from chromacc_lib.vitals import BRANCHES

__all__ = ["Monitor", "Sign", "signs", "watch"]

Row = dict[str, float]

# What healthy trainings do stands behind each: pilots, and small models of few windows, which are the wilder ones.
LOSS_PEAK = 2.5  # a step's loss over the epoch's mean, or the first step's where that is larger; healthy: below 2
LOSS_RISE = 3.0  # an epoch's mean loss over the first step's; healthy: below 1.5
HOPELESS_LOSS = 10.0  # the same: it will not come back
LARGE_UPDATE = 0.03  # of the weights, a step, median over branches; healthy: 0.01
EXPLODED = 1000.0  # a gradient's norm over the first step's loss; healthy: 10
GROWN, SHRUNK = 5.0, 0.02  # gradient's norm behind the heads over that at the heads; healthy: 0.1 to 1
SHORT_WARMUP = 10  # steps
LEAST_MOVE = 0.005  # of the weights, in the whole training
VANISHED = 0.01  # a branch's share of the gradient, over that in the first epoch
CUT_OFF = 1e-6  # a branch's gradient over the largest head's; healthy: 5e-3
FLAT, UNRELATED, FALLEN = 0.01, 0.1, 0.2  # variance ratio; Pearson's r; variance ratio over its highest
ALIKE, LOW_RANK = 0.9995, 1.5  # token similarity; effective rank
ONE_KEY, ANY_KEY = 0.05, 0.999  # attention entropy
CLOSED = 1e-3  # pull of the score over the strongest one, without weights: its head lets no gradient pass
LEAST_PULL = 0.05  # of the score, the term that is evaluated, in the pull of all terms
HEADS = ("score_head", "label_head", "profile_head")  # which the loss reaches first
MODALITY_BRANCHES = {"sequence_encoder": "sequence", "histone_encoder": "histone", "tf_encoder": "tf",
                     "cell_token": "metadata", "prior_token": "prior"}  # fmt: skip


@dataclass(frozen=True)
class Sign:
    """What looks like the way into a collapse: its likely cause, what was seen, and what else it could be."""

    cause: str  # by the names of `causes.CAUSES`
    seen: str
    alternatives: tuple[str, ...] = ()
    of_training: bool = False  # of the training, whose faults bring about those of the model
    hopeless: bool = False  # one such epoch is enough to stop

    def line(self) -> str:
        """The sign in one line."""
        other = f" (or: {', '.join(self.alternatives)})" if self.alternatives else ""
        return f"{self.cause}{other}: {self.seen}"


class Monitor(Callback):
    """Warn, in one line an epoch at most, of a run that heads for collapse; with `stop`, end it.

    A cause is told when it comes up, once; what a fault of the training, once told, does to the model is not told as a
    cause of its own. A run is stopped when there are signs in two epochs in a row, or one that is hopeless. Give it before
    `Checkpoint`, so that what it decides is saved.
    """

    def __init__(self, tell: Callable[[str], object] = print, stop: bool = False) -> None:
        self.tell, self.stop = tell, stop

    def on_epoch(self, state: TrainingState) -> None:
        """Look at the epoch that ended, beside the one before it."""
        *before, now = [signs(state.history[:n], state.config)[:1] for n in range(1, len(state.history) + 1)]
        if not now:
            return
        epoch, told = int(state.history[-1]["epoch"]), [sign for found in before for sign in found]
        follows = any(sign.of_training for sign in told) and not now[0].of_training
        if state.is_first_process and not follows and now[0].cause not in [sign.cause for sign in told]:
            self.tell(f"warning after epoch {epoch}: this run heads for collapse; likely cause: {now[0].line()}")
        if self.stop and (now[0].hopeless or (before and before[-1])):
            first = told[0] if follows else (before[-1][0] if before and before[-1] else now[0])
            state.stop = f"heading for collapse at epoch {epoch}, likely cause: {first.line()}"


def signs(history: Sequence[Row], config: Any) -> list[Sign]:
    """Return what the last epoch of a history shows, the likely cause first: faults of the training before the model's.

    history: rows as dicts; config: `training.TrainingConfig`. A rule whose columns a row lacks says nothing, as in a run
    that an earlier version began.
    """
    if not history:
        return []
    seen = [rule(history, config) for rule in RULES]
    return [sign for sign in seen if sign is not None]


def watch(history: pd.DataFrame, config: Any) -> pd.DataFrame:
    """Return what the monitor says of each epoch of a finished history; one row a sign."""
    rows = history.to_dict("records")
    found = [(rows[n]["epoch"], sign) for n in range(len(rows)) for sign in signs(rows[: n + 1], config)]
    return pd.DataFrame([{"epoch": int(epoch), "cause": sign.cause, "could also be": ", ".join(sign.alternatives),
                          "seen": sign.seen} for epoch, sign in found],
                        columns=["epoch", "cause", "could also be", "seen"])  # fmt: skip


def _value(row: Row, name: str) -> float:
    return float(row.get(name, math.nan))


def _updates(row: Row) -> float:
    """Median over the branches of the relative change of the weights a step; NaN where it was not measured."""
    known = [value for name in BRANCHES if math.isfinite(value := _value(row, f"update_{name}"))]
    return median(known) if known else math.nan


def _way_back(row: Row) -> float:
    """Largest gradient of a branch behind the heads over the largest of a head."""
    heads = [value for name in HEADS if math.isfinite(value := _value(row, f"grad_{name}"))]
    behind = [value for name in BRANCHES if name not in HEADS and math.isfinite(value := _value(row, f"grad_{name}"))]
    return max(behind) / max(heads) if behind and max(heads, default=0) > 0 else math.nan


def _diverging(history: Sequence[Row], config: Any) -> Sign | None:
    """Did the loss rise above where it began, and did the epoch get nowhere because of it?

    Steps that are too large (updates), gradients that explode while the steps do not (Pascanu et al. 2013, "On the
    difficulty of training recurrent neural networks"), or Adam's first steps without warm-up, when its averages rest on
    a few gradients only (Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond", ICLR).
    """
    row, began = history[-1], _value(history[0], "train_loss_first")
    mean, peak = _value(row, "train_loss"), _value(row, "train_loss_max")
    spike = peak > LOSS_PEAK * max(began, mean) and mean > 0.9 * began  # and the epoch got nowhere because of it
    exploded = _value(row, "grad_norm_max") > EXPLODED * began or _way_back(row) > GROWN
    updates = _updates(row)
    if not (spike or mean > LOSS_RISE * began or exploded or updates > LARGE_UPDATE):
        return None
    thrown = any(_updates(earlier) > LARGE_UPDATE for earlier in history)  # and may not have come back since
    warmup = config.warmup_share * config.epochs * _value(row, "steps")
    high, early, explode = "learning rate too high", "early divergence without warm-up", "exploding gradients"
    if len(history) == 1 and warmup < 1:
        cause, others = early, (high,)
    elif thrown:
        cause, others = high, (early,) if len(history) == 1 and warmup < SHORT_WARMUP else ()
    elif exploded:
        cause, others = explode, (high,)
    elif len(history) == 1 and warmup < SHORT_WARMUP:
        cause, others = early, (high,)
    else:
        cause, others = high, (early, explode)
    seen = (
        f"the loss was {mean / began:.2g} times that of the first step, in one step {peak / began:.2g} times; a step "
        f"changed the weights by {updates:.1%}, the longest gradient was {_value(row, 'grad_norm_max'):.2g}, warm-up "
        f"{warmup:.0f} steps"
    )
    return Sign(cause, seen, others, of_training=True, hopeless=mean > HOPELESS_LOSS * began)


def _standing_still(history: Sequence[Row], config: Any) -> Sign | None:
    """Will the weights have moved at all when training ends? See `vitals.relative_updates`; all steps are one way here."""
    moved = sum(_updates(row) * _value(row, "steps") for row in history) / len(history) * config.epochs
    if not moved < LEAST_MOVE:
        return None
    seen = f"at this rate the weights will have moved by {moved:.2%} of their size when training ends, at most"
    return Sign("learning rate too low", seen, ("vanishing gradients",), of_training=True)


def _vanishing(history: Sequence[Row], config: Any) -> Sign | None:
    """Does the gradient reach what lies behind the heads, and every branch as it did in the first epoch?

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS). A gradient
    of exactly 0 is no matter of depth: `_dead`.
    """
    way_back, shares = _way_back(history[-1]), {}
    if way_back < SHRUNK:
        return Sign("vanishing gradients", f"the gradient behind the heads is {way_back:.2g} of theirs", of_training=True)
    for name in BRANCHES:
        now, first = (_value(row, f"grad_{name}") / _value(row, "grad_norm") for row in (history[-1], history[0]))
        if first > 0 and now > 0:
            shares[name] = now / first
    name = min(shares, key=shares.get, default="")
    if not shares or not shares[name] < VANISHED:
        return None
    seen = f"the {name.replace('_', ' ')}'s share of the gradient is {shares[name]:.2%} of what it was in the first epoch"
    return Sign("vanishing gradients", seen, ("tokens made alike with depth",))


def _dead(history: Sequence[Row], config: Any) -> Sign | None:
    """Is there a branch that gets no gradient, or a score head that lets none pass to what it reads?

    Units that saturate stop learning, and so does all that lies before them: Glorot & Bengio 2010, "Understanding the
    difficulty of training deep feedforward neural networks" (AISTATS).
    """
    row, words = history[-1], {name: name.replace("_", " ") for name in BRANCHES}
    pulls = [_value(row, f"pull_{name}") for name in ("score", "profile", "label")]
    if pulls[0] < CLOSED * max(pulls):
        return Sign("saturated head", f"the score head lets {pulls[0] / max(pulls):.2%} of the gradient pass that the "
                    "strongest head does", ("constant output",))  # fmt: skip
    dead = [name for name in BRANCHES if _value(row, f"grad_{name}") == 0]
    modalities = [MODALITY_BRANCHES[name] for name in dead if name in MODALITY_BRANCHES]
    if modalities:
        return Sign("a modality is dead", f"no gradient reached the {', '.join(words[name] for name in dead)} in this epoch "
                    f"({', '.join(modalities)})")  # fmt: skip
    if dead:
        return Sign("vanishing gradients", f"no gradient reached the {', '.join(words[name] for name in dead)} in this epoch")
    return None


def _unbalanced(history: Sequence[Row], config: Any) -> Sign | None:
    """Does another term of the loss outweigh the score? Shares of the pull where the heads begin, as in GradNorm.

    Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing" (ICML).
    """
    weights = {"score": 1.0, "profile": config.profile_weight, "label": config.label_weight}
    pulls = {name: weight * _value(history[-1], f"pull_{name}") for name, weight in weights.items()}
    share = pulls["score"] / total if (total := sum(pulls.values())) > 0 else math.nan
    if not share < LEAST_PULL:
        return None
    strongest = max(pulls, key=pulls.get)
    return Sign("loss terms out of balance", f"the score has {share:.1%} of the loss's pull, the {strongest} "
                f"{pulls[strongest] / total:.0%}", of_training=True)  # fmt: skip


def _nothing_learned(history: Sequence[Row], config: Any) -> Sign | None:
    """Do predictions of validation rows vary, and with the labels? From the second epoch on.

    For predictions that minimise the squared error, the variance ratio equals r squared; both near 0 is what labels
    without signal leave. A ratio that falls is an output that collapses.
    """
    if len(history) < 2:
        return None
    ratios = [_value(row, "variance_ratio") for row in history]
    r = _value(history[-1], "validation_pearson")
    seen = f"predictions of validation rows hold {ratios[-1]:.2%} of the scores' variance, with r = {r:.2f}"
    if ratios[-1] < FLAT or abs(r) < UNRELATED:
        return Sign("labels carry no signal about the inputs", f"{seen}; `diagnose` with the dataset tells the two apart",
                    ("constant output",))  # fmt: skip
    if ratios[-1] < FALLEN * max(ratios):
        return Sign("constant output", f"{seen}, down from {max(ratios):.1%}", ("learning rate too high",))
    return None


def _locus_average(history: Sequence[Row], config: Any) -> Sign | None:
    """Does the model say anything of a cell type that the locus average does not? From the second epoch on."""
    ratio = _value(history[-1], "departure_ratio")
    if len(history) < 2 or not ratio < FLAT:
        return None
    seen = f"what predictions add to the locus average holds {ratio:.2%} of the variance that scores add to it"
    return Sign("collapse to the locus average", seen)


def _inside(history: Sequence[Row], config: Any) -> Sign | None:
    """Are tokens, embeddings and attention still told apart? From the second epoch on; see `vitals.model_vitals`."""
    row, encoder = history[-1], "attention_entropy_encoder"
    if len(history) < 2:
        return None
    uniform = _value(row, encoder) > ANY_KEY
    if _value(row, "token_similarity") > ALIKE:
        seen = f"the tokens of a window leave the encoder with a cosine similarity of {_value(row, 'token_similarity'):.5f}"
        return Sign("tokens made alike with depth", seen, ("attention uniform",) if uniform else ())
    if _value(row, "effective_rank") < LOW_RANK:
        seen = f"the embeddings that the score head reads use {_value(row, 'effective_rank'):.1f} directions"
        return Sign("embeddings of low effective rank", seen)
    for name in ("sequence", "fusion", "encoder"):
        if _value(row, f"attention_entropy_{name}") < ONE_KEY:
            seen = f"attention of the {name} has {_value(row, f'attention_entropy_{name}'):.1%} of the entropy that it may have"
            return Sign("attention entropy collapsed", seen)
    if uniform:
        return Sign("attention uniform", f"attention of the encoder has {_value(row, encoder):.2%} of the entropy that it may have")
    return None


def _cut_off(history: Sequence[Row], config: Any) -> Sign | None:
    """Does next to no gradient reach one of the branches? From the second epoch on, after what would bring it about."""
    heads = max((_value(history[-1], f"grad_{name}") for name in HEADS), default=math.nan)
    for name in (name for name in BRANCHES if name not in HEADS and len(history) > 1):
        if 0 < _value(history[-1], f"grad_{name}") < CUT_OFF * heads:
            share = _value(history[-1], f"grad_{name}") / heads
            return Sign("vanishing gradients", f"the gradient in the {name.replace('_', ' ')} is {share:.1g} of the heads'")
    return None


# Training before model, since a training that went wrong leaves any of the model's signs behind; and of the model, what
# explains more of the others first.
RULES = (_diverging, _standing_still, _dead, _unbalanced, _vanishing, _nothing_learned, _inside, _cut_off,
         _locus_average)
