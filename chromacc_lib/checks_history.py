"""Checks of a training by its history: one row an epoch, as `training._epoch_row` writes them, or anybody's.

Needed are epoch, train_loss and validation_loss or validation_mse; every further column adds checks, and a check whose
columns are missing says so. None needs the dataset or the model, and only one looks at the predictions.
"""

import math

import numpy as np
import pandas as pd

from chromacc_lib import ChromaccError
from chromacc_lib.checks import Check, Table, judge, not_run, rule_text

__all__ = ["CHECKPOINT", "best_epoch", "history_checks", "loss_weights", "validation_ratio"]

HISTORY_NAMES = (
    "divergence", "early loss spike", "no warm-up", "updates too large", "updates too small", "exploding gradients",
    "vanishing gradients", "first loss", "still improving", "loss balance", "checkpoint matches history",
)  # fmt: skip
HEADS = ("score_head", "label_head", "profile_head")  # branches that the loss reaches first
TERMS = ("score", "profile", "label")
# (warn, fail), tuned on reduced pilots of two seeds, healthy and broken
SPIKE = (2, 3)               # healthy: 1.4
LARGE_UPDATE = (0.02, 0.03)  # healthy: 0.01; ten times its learning rate: 0.035
SMALL_UPDATE = (3e-4, 1e-4)
EXPLOSION = (20, 50)         # healthy: 4
GROWTH = (3, 10)             # healthy: 0.5
VANISHING = (0.01, 3e-3)     # healthy: 0.2
CUT_OFF = 1e-6               # of a single branch; healthy: 5e-3, a gate that begins closed
GONE, BEYOND_LOSS = 1e-3, 1000  # a gradient's norm over the loss; healthy: 0.5 to 10
BALANCE = (0.05, 0.02)       # healthy: 0.5
CHECKPOINT = (1.1, 1.2)      # healthy: 1.0


def history_checks(history: pd.DataFrame | None, table: Table) -> list[Check]:
    """Run the checks on history.csv, one row an epoch; `table`: the predictions of the model that came of it.

    Read where they are there: grad_norm, grad_norm_max and grad_<branch> (before clipping), update_<branch>,
    learning_rate (last step) and learning_rate_first, train_loss_first and train_loss_max, train_<term> and pull_<term>.
    Raises ChromaccError when there are no epochs or no losses.
    """
    if history is None:
        return [not_run(name, "optimisation", "no training history was given") for name in HISTORY_NAMES]
    if not isinstance(history, pd.DataFrame):
        raise ChromaccError(f"diagnose: the history is a {type(history).__name__}; needed: a pandas DataFrame of "
                            "history.csv, one row an epoch.")
    validation = [name for name in ("validation_loss", "validation_mse") if name in history]
    if history.empty or "train_loss" not in history or not validation:
        raise ChromaccError(f"diagnose: the history has {len(history)} epochs and the columns "
                            f"{', '.join(history.columns)}; needed: epochs with train_loss and validation_loss or "
                            "validation_mse. Give history.csv as training wrote it.")
    read = ("train_", "validation_", "grad_", "update_", "pull_", "learning_rate")
    for name in history.columns[history.columns.str.startswith(read)]:
        if not pd.api.types.is_numeric_dtype(history[name]):
            raise ChromaccError(f"diagnose: column {name} of the history holds {history[name].iloc[0]!r} in its first row "
                                "and is no column of numbers; needed: one number an epoch, NaN where there was none. Give "
                                "history.csv as training wrote it.")
    losses = history[validation[0]].to_numpy(float)
    return [_check_divergence(history["train_loss"].to_numpy(float), losses), _check_spike(history),
            _check_warmup(history), *_check_updates(history), _check_exploding(history), _check_vanishing(history),
            _check_first_loss(losses), _check_still_improving(losses, history), _check_balance(history),
            _check_checkpoint(history, table)]


# --- the losses ----------------------------------------------------------------------------------------------

def _check_divergence(train: np.ndarray, validation: np.ndarray) -> Check:
    """Did the loss turn into NaN, or end above where it began? (Goodfellow et al. 2016, Deep Learning, 11.4.1)"""
    bad = int((~(np.isfinite(train) & np.isfinite(validation))).sum())
    ratio = float(train[-1] / train[0]) if bad == 0 and train[0] > 0 else math.nan
    sentence = (f"The loss is NaN or infinite in {bad} of {len(train)} epochs." if bad else
                f"The training loss went from {train[0]:.4g} in the first epoch to {train[-1]:.4g} in the last.")
    return Check("divergence", "optimisation", ratio, "last over first training loss: fail above 1.2, or when a loss "
                 "is not finite", "fail" if bad or ratio > 1.2 else "ok", sentence)


def _check_spike(history: pd.DataFrame) -> Check:
    """Did the loss jump in the first epoch, when Adam's estimate of the gradient's variance rests on a few steps?

    Liu et al. 2020, "On the variance of the adaptive learning rate and beyond" (ICLR): without warm-up the first steps
    throw the weights where they do not come back from. Largest training loss of a step in the first epoch, over that
    of the first step or of the median epoch's worst, whichever is larger.
    """
    name = "early loss spike"
    if not {"train_loss_first", "train_loss_max"} <= set(history.columns):
        return not_run(name, "optimisation", "the history has no columns train_loss_first and train_loss_max")
    first, highest = (float(history[column].iloc[0]) for column in ("train_loss_first", "train_loss_max"))
    if not (math.isfinite(first) and first > 0):
        return not_run(name, "optimisation", "the loss of the first step is not a positive number")
    usual = max(first, float(np.nanmedian(history["train_loss_max"])))  # one step's loss is that of a few windows
    value = highest / usual if math.isfinite(highest) else math.inf
    return Check(name, "optimisation", value, rule_text("largest loss of a step in the first epoch, over the usual",
                 *SPIKE), judge(value, *SPIKE),
                 f"In the first epoch the loss of a step began at {first:.3g} and reached {highest:.3g}; the worst step of the median epoch had "
                 f"{float(np.nanmedian(history['train_loss_max'])):.3g}.")


def _check_first_loss(losses: np.ndarray) -> Check:
    """Did training get anywhere? Share of the first epoch's validation loss that the best epoch took away."""
    losses = losses[np.isfinite(losses)]
    if len(losses) < 2:
        return not_run("first loss", "optimisation", "fewer than two epochs with a finite loss")
    value = float((losses[0] - losses.min()) / losses[0])
    return Check("first loss", "optimisation", value, rule_text("share of the first loss taken away", 0.05, 0.01),
                 judge(value, 0.05, 0.01),
                 f"The best validation loss ({losses.min():.4g}) is {100 * value:.1f}% below the first epoch's.")


def _check_still_improving(losses: np.ndarray, history: pd.DataFrame) -> Check:
    """Was training stopped while it still improved? Share of all improvement that the last epochs brought.

    After Prechelt 1998, "Early stopping - but when?": progress over a strip of epochs at the moment of stopping. The strip
    is two epochs, since one alone may fail to improve by chance. A learning rate that has decayed to its end ends the
    improvement by itself: then the strip is the last epoch, and what it brought is a warning only.
    """
    if len(losses) < 2 or not np.isfinite(losses).all() or not losses.min() < 0.99 * losses[0]:
        return not_run("still improving", "optimisation", "fewer than two epochs, or the loss never fell by 1%")
    decayed = "learning_rate" in history and bool(
        history["learning_rate"].iloc[-1] <= 0.1 * history["learning_rate"].max())
    strip = 1 if decayed else min(2, len(losses) - 1)
    value = float((losses[:-strip].min() - losses[-strip:].min()) / (losses[0] - losses.min()))
    verdict = "ok" if value <= 0.1 else "warn" if decayed else "fail"
    return Check("still improving", "optimisation", value, "share of the improvement that came in the last epoch (in the "
                 "last two, while the learning rate had not decayed to a tenth): warn above 0.1, fail above 0.1 while it "
                 "had not decayed", verdict,
                 f"{100 * max(value, 0):.0f}% of the fall in validation loss came in the last "
                 f"{'two ' if strip == 2 else ''}of {len(losses)} epochs, with the learning rate "
                 f"{'decayed' if decayed else 'not decayed'}.")


# --- the steps -----------------------------------------------------------------------------------------------

def _check_warmup(history: pd.DataFrame) -> Check:
    """Did the learning rate start at its peak? Rate of the very first step over the largest of any epoch's end."""
    name = "no warm-up"
    if not {"learning_rate_first", "learning_rate"} <= set(history.columns):
        return not_run(name, "optimisation", "the history has no columns learning_rate_first and learning_rate")
    first = float(history["learning_rate_first"].iloc[0])
    peak = float(np.nanmax(history[["learning_rate_first", "learning_rate"]].to_numpy(float)))
    value = first / peak if peak > 0 else math.nan
    return Check(name, "optimisation", value, "first over largest learning rate: fail above 0.5 (of itself no fault: "
                 "read with the early loss spike)", "fail" if value > 0.5 else "ok",
                 f"The first step had a learning rate of {first:.3g}, {value:.2f} of the largest.")


def _check_updates(history: pd.DataFrame) -> list[Check]:
    """How far did a step move the weights? |change| / |weights| a step, median over branches, in its largest epoch.

    About 1e-3 is the usual rule of thumb (Karpathy, CS231n, "Ratio of weights:updates"); small models train well at ten
    times as much. Branches count alike, and the heads, which start near zero, are left out of the large ones' median.
    """
    columns = [name for name in history if name.startswith("update_")]
    known = history[columns].dropna(how="all", axis=0).dropna(how="all", axis=1)
    if known.empty:
        return [not_run(name, "optimisation", "the history has no columns update_<branch>")
                for name in ("updates too large", "updates too small")]
    body = [name for name in known if name.removeprefix("update_") not in HEADS] or list(known)
    value = float(known[body].median(axis=1).max())
    sentence = f"A step changed a branch's weights by {value:.2g} of their size (median branch, in the epoch of the largest)."
    return [Check("updates too large", "optimisation", value, rule_text("change of the weights a step", *LARGE_UPDATE),
                  judge(value, *LARGE_UPDATE), sentence),
            Check("updates too small", "optimisation", value, rule_text("change of the weights a step", *SMALL_UPDATE),
                  judge(value, *SMALL_UPDATE), sentence)]


def _check_exploding(history: pd.DataFrame) -> Check:
    """Did gradients explode? Largest norm of a step over the usual one, and growth on the way back through the network.

    Pascanu et al. 2013, "On the difficulty of training recurrent neural networks" (norms and clipping). The usual norm is
    the median epoch of the second half: a network that starts with exploding gradients has left them by then, or their
    growth shows: the norm behind the heads over that at the heads, median epoch (Glorot & Bengio 2010, AISTATS).
    """
    name = "exploding gradients"
    if "grad_norm" not in history:
        return not_run(name, "optimisation", "the history has no column grad_norm")
    means = history["grad_norm"].to_numpy(float)
    largest = history["grad_norm_max"].to_numpy(float) if "grad_norm_max" in history else means
    bad = ~(np.isfinite(means) & np.isfinite(largest))
    if bad.any():
        return Check(name, "optimisation", math.inf, "fail when a norm is not finite", "fail",
                     f"The gradient norm is NaN or infinite in {int(bad.sum())} epochs.")
    usual = float(np.median(means[len(means) // 2:]))
    value = float(largest.max() / usual) if usual > 0 else math.inf if largest.max() > 0 else 0.0
    growth = _behind_heads(history)
    # Where gradients have vanished, anything is large beside them: then the largest is held against the loss.
    gone = usual < GONE * float(np.median(history["train_loss"].to_numpy(float)[len(means) // 2:]))
    falls = gone and largest.max() < BEYOND_LOSS * float(history["train_loss"].iloc[0])
    verdicts = ("ok" if falls else judge(value, *EXPLOSION), judge(growth, *GROWTH) if math.isfinite(growth) else "ok")
    clipped = f"; {100 * float(history['clipped_share'].max()):.0f}% of the steps were clipped in the epoch with most" \
        if "clipped_share" in history else ""
    return Check(name, "optimisation", value, rule_text("largest over usual norm of the gradient", *EXPLOSION) + " (where the usual "
                 f"one is next to nothing: over {BEYOND_LOSS} times the loss); or "
                 + rule_text("norm behind the heads over theirs", *GROWTH),
                 "fail" if "fail" in verdicts else "warn" if "warn" in verdicts else "ok",
                 f"The largest norm of a gradient was {largest.max():.3g}, usual in the second half of training were "
                 f"{usual:.3g}{clipped}" + (f"; behind the heads it was {growth:.2g} times theirs." if math.isfinite(growth)
                                            else "."), {"growth": growth})


def _behind_heads(history: pd.DataFrame) -> float:
    """Norm of the gradient in the branch with the largest behind the heads, over the largest head's; median epoch."""
    branches = [c for c in history if c.startswith("grad_") and not c.startswith("grad_norm")]
    heads = [c for c in branches if c.removeprefix("grad_") in HEADS]
    behind = [c for c in branches if c not in heads and history[c].notna().any()]
    if not heads or not behind:
        return math.nan
    at_heads = history[heads].max(axis=1)
    return float((history[behind].max(axis=1) / at_heads.where(at_heads > 0)).median())


def _each_behind_heads(history: pd.DataFrame) -> dict[str, float]:
    """Norm of the gradient in each branch behind the heads, over the largest head's; median epoch."""
    branches = [c for c in history if c.startswith("grad_") and not c.startswith("grad_norm")]
    at_heads = history[[c for c in branches if c.removeprefix("grad_") in HEADS]].max(axis=1)
    shares = {c.removeprefix("grad_"): (history[c] / at_heads.where(at_heads > 0)).median() for c in branches}
    return {name: float(share) for name, share in shares.items() if name not in HEADS}


def _check_vanishing(history: pd.DataFrame) -> Check:
    """Does the gradient reach what lies behind the heads? Its norm there over that at the heads: largest, and each branch.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS). A branch
    that gets next to nothing is cut off by itself; exactly nothing is a branch without data, and only told. Without
    branches in the history: the last epochs' norm over the first's.
    """
    name, starved = "vanishing gradients", {}
    value = _behind_heads(history)
    if math.isfinite(value):
        starved = {branch: share for branch, share in _each_behind_heads(history).items() if 0 < share < CUT_OFF}
        still = [c.removeprefix("grad_") for c in history
                 if c.startswith("grad_") and not c.startswith("grad_norm") and (history[c] == 0).all()]
        words = (f"The gradient behind the heads was at most {value:.2g} of theirs (largest branch, median epoch)"
                 + "".join(f"; {branch} got {share:.2g} of theirs" for branch, share in starved.items())
                 + (f"; {', '.join(still)} never got a gradient." if still else "."))
    elif "grad_norm" in history:
        norms = history["grad_norm"].to_numpy(float)
        first, late = norms[0], float(np.median(norms[len(norms) // 2:]))
        value = late / first if first > 0 else 0.0
        words = f"The norm of the gradient went from {first:.3g} in the first epoch to {late:.3g} in the later half."
    else:
        return not_run(name, "optimisation", "the history has neither grad_<branch> nor grad_norm")
    if not math.isfinite(value):
        return not_run(name, "optimisation", "the gradient norms are not finite")
    return Check(name, "optimisation", value, rule_text("norm of the gradient behind the heads over theirs", *VANISHING)
                 + f"; or fail below {CUT_OFF:g} in any branch", "fail" if starved else judge(value, *VANISHING), words,
                 {"cut_off": starved})


# --- the terms of the loss -----------------------------------------------------------------------------------

def loss_weights(history: pd.DataFrame) -> dict[str, float]:
    """Return the weight of each of TERMS in train_loss, that of the score being 1; {} where it cannot be told.

    The loss is a weighted sum of its terms, and so are its epochs' means: least squares finds the weights from the
    history alone. They cannot be told from fewer epochs than weights, or from terms that fall in step.
    """
    columns = [f"train_{term}" for term in TERMS]
    if not {"train_loss", *columns} <= set(history.columns):
        return {}
    rows = history[["train_loss", *columns]].to_numpy(float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 2:
        return {}
    terms, rest = rows[:, 2:], rows[:, 0] - rows[:, 1]
    found, *_ = np.linalg.lstsq(terms / terms.mean(axis=0), rest, rcond=1e-6)
    found = found / terms.mean(axis=0)
    wrong = np.abs(terms @ found - rest).max() > 1e-3 * np.abs(rows[:, 0]).max()
    return {} if wrong or (found < -1e-6).any() else dict(zip(TERMS, (1.0, *np.maximum(found, 0.0).tolist())))


def _check_balance(history: pd.DataFrame) -> Check:
    """What share of the pull on the shared tokens is the score's? Norms of the terms' gradients there, weighted.

    Chen et al. 2018, "GradNorm: gradient normalization for adaptive loss balancing in deep multitask networks" (ICML).
    """
    name = "loss balance"
    if not {f"pull_{term}" for term in TERMS} <= set(history.columns):
        return not_run(name, "optimisation", "the history has no columns pull_<term>")
    weights = loss_weights(history)
    if not weights:
        return not_run(name, "optimisation", "the weights of the terms cannot be told from fewer than two epochs, or "
                       "from losses that are not finite")
    pulls = {term: weights[term] * float(history[f"pull_{term}"].median()) for term in TERMS}
    total = sum(pulls.values())
    if not (math.isfinite(total) and total > 0):
        return not_run(name, "optimisation", "no term has a finite gradient")
    shares = {term: pull / total for term, pull in pulls.items()}
    listed = ", ".join(f"{term} {100 * share:.1f}% (weight {weights[term]:.3g})" for term, share in shares.items())
    return Check(name, "optimisation", shares["score"], rule_text("share of the score in the pull on the tokens",
                 *BALANCE), judge(shares["score"], *BALANCE),
                 f"Of what pulls at the tokens that all heads read, in the median epoch: {listed}.", {"shares": shares})


# --- the checkpoint ------------------------------------------------------------------------------------------

def validation_ratio(history: pd.DataFrame, table: Table) -> tuple[float, str]:
    """Return the predictions' squared error on the validation rows over the best epoch's, and a sentence on it.

    The history's error is of one strand and of some of the rows; the table's may be of both strands, and a little lower.
    NaN, and why, where they cannot be compared.
    """
    if "validation_mse" not in history or not np.isfinite(history["validation_mse"]).any():
        return math.nan, "the history has no column validation_mse with a finite value"
    if not np.isfinite(history["validation_mse"].iloc[-1]):
        return math.nan, "the training broke off"
    if not {"cell_type_split", "window_split"} <= set(table.rows.columns):
        return math.nan, "the table has no split columns"
    rows = table.rows[table.rows["window_split"] == "validation"]
    unseen = rows["cell_type_split"] == "validation"
    rows = rows[unseen if unseen.any() else rows["cell_type_split"] == "train"]
    if len(rows) < 50:
        return math.nan, f"the table has {len(rows)} validation rows, fewer than 50"
    mse, best = float(((rows["score"] - rows["predicted_score"])**2).mean()), float(history["validation_mse"].min())
    return (mse / best if best > 0 else math.nan,
            f"On the validation rows the predictions have a squared error of {mse:.4g}; the best epoch "
            f"({best_epoch(history)} of {len(history)}) had {best:.4g}.")


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch with the lowest validation error, from 1."""
    return int(np.nanargmin(history["validation_mse"].to_numpy(float))) + 1


def _check_checkpoint(history: pd.DataFrame, table: Table) -> Check:
    """Are the predictions as good on the validation rows as the best epoch was? If not, another checkpoint made them."""
    value, words = validation_ratio(history, table)
    if not math.isfinite(value):
        return not_run("checkpoint matches history", "optimisation", words)
    return Check("checkpoint matches history", "optimisation", value, rule_text("squared error on validation rows over "
                 "the best epoch's", *CHECKPOINT), judge(value, *CHECKPOINT), words)
