"""Figures of a training: learning curves, pretraining, gradients by branch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chromacc_lib.plots_style import PALETTE

__all__ = ["plot_branches", "plot_learning", "plot_pretraining", "plot_vitals"]


def plot_learning(history: pd.DataFrame, average_mse: float, best_epoch: int) -> Figure:
    """Training and validation MSE by epoch beside the locus average's, and the spread of predictions beside the labels'.

    history: rows of history.csv; average_mse: validation MSE of the locus average, (arcsinh fold) squared.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    left.plot(history["epoch"], history["train_score"], marker=".", color=PALETTE["mean"], label="training")
    left.plot(history["epoch"], history["validation_mse"], marker="o", color=PALETTE["model"], label="validation")
    left.axhline(average_mse, color=PALETTE["average"], linestyle="--", label="locus average, validation")
    left.axvline(best_epoch, color=PALETTE["mean"], linewidth=0.8, linestyle=":", label="best epoch")
    left.set(xlabel="epoch", ylabel="score MSE, (arcsinh fold)²", ylim=(0, None))
    right.plot(history["epoch"], history["prediction_std"], marker="o", color=PALETTE["model"], label="predicted")
    right.plot(history["epoch"], history["label_std"], color=PALETTE["measured"], linestyle="--", label="measured")
    right.set(xlabel="epoch", ylabel="sd of validation scores, arcsinh fold", ylim=(0, None))
    for ax in (left, right):
        _whole_epochs(ax, history)
        ax.set_ylim(0, 1.1 * ax.get_ylim()[1])
        ax.legend(fontsize="small", loc="lower left")
    return fig


def plot_pretraining(rows: pd.DataFrame) -> Figure:
    """How often partners are found in contrastive pretraining, beside guessing: across windows, and across cell types.

    rows: rows of pretraining.csv. Where nothing competes, as with one validation cell type, there is no curve.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for ax, name in zip(axes, ("across_windows", "across_cell_types")):
        for prefix, colour, marker, label in (("", "mean", ".", "training"), ("validation_", "model", "o", "validation")):
            accuracy, chance = rows[f"{prefix}{name}_accuracy"], rows[f"{prefix}{name}_chance"]
            if accuracy.notna().any():
                ax.plot(rows["epoch"], accuracy, marker=marker, color=PALETTE[colour], label=label)
                ax.plot(rows["epoch"], chance, linestyle="--", color=PALETTE[colour], label=f"{label}, guessing")
        ax.set(xlabel="epoch of pretraining", ylabel="partners found", ylim=(0, None), title=name.replace("_", " "))
        _whole_epochs(ax, rows)
        if ax.lines:
            ax.legend(fontsize="small")
    return fig


def _whole_epochs(ax: Axes, history: pd.DataFrame) -> None:
    """Show epochs as whole numbers, a single one in the middle."""
    ax.set_xlim(history["epoch"].min() - 0.5, history["epoch"].max() + 0.5)
    ax.xaxis.get_major_locator().set_params(integer=True)


def plot_branches(history: pd.DataFrame, branches: Sequence[str]) -> Figure:
    """Each branch's gradient norm over the whole model's, and how far a step moves its weights, by epoch (log axes).

    history: columns `grad_<branch>`, `grad_norm` and, unless an earlier version wrote it, `update_<branch>`.
    """
    values = {"gradient norm / whole model's": {b: history[f"grad_{b}"] / history["grad_norm"] for b in branches}}
    if f"update_{branches[0]}" in history:
        values["relative change of the weights a step"] = {b: history[f"update_{b}"] for b in branches}
    fig, axes = plt.subplots(1, len(values), figsize=(1.8 + 4.2 * len(values), 3.6), squeeze=False)
    for ax, (title, lines) in zip(axes[0], values.items()):
        for i, (name, line) in enumerate(lines.items()):
            style = ("-", "--", ":")[i // 7]
            ax.plot(history["epoch"], line.where(line > 0), marker=".", linestyle=style, label=name.replace("_", " "))
        ax.set(xlabel="epoch", ylabel=title, yscale="log")
        _whole_epochs(ax, history)
    axes[0, -1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def plot_vitals(history: pd.DataFrame) -> Figure:
    """What the monitor watches, by epoch: variance ratios, attention entropy, rank of the embeddings, tokens' likeness.

    history: columns of `vitals.model_vitals`, variance_ratio and departure_ratio.
    """
    entropies = {f"attention_entropy_{name}": name for name in ("sequence", "fusion", "encoder")}
    departures = {"variance_ratio": "of the score", "departure_ratio": "of what departs from the locus average"}
    panels = (
        ("variance, predicted / measured", "ratio", departures),
        ("attention entropy", "share of the largest", entropies),
        ("effective rank of the embeddings", "directions", {"effective_rank": ""}),
        ("likeness of a window's tokens", "cosine similarity", {"token_similarity": ""}),
    )
    fig, axes = plt.subplots(2, 2, figsize=(8.4, 5.2), sharex=True)
    for ax, (title, label, columns) in zip(axes.flat, panels):
        for column, name in columns.items():
            ax.plot(history["epoch"], history[column], marker="o", label=name)
        values = history[list(columns)].to_numpy(float)
        low, high = np.nanmin(values, initial=0), np.nanmax(values, initial=1)
        ax.set(title=title, ylabel=label, ylim=(low, 1.08 * high))
        _whole_epochs(ax, history)
        if len(columns) > 1:
            ax.legend(fontsize="small", loc="lower right")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    return fig
