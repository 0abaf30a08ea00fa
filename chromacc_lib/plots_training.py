"""Figures of a training: learning curves, pretraining, gradients by branch."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chromacc_lib.plots_style import PALETTE

__all__ = ["plot_branch_gradients", "plot_learning", "plot_pretraining"]


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


def plot_branch_gradients(history: pd.DataFrame, branches: Sequence[str]) -> Figure:
    """Mean gradient norm of each branch by epoch (columns `grad_*` of history.csv), on a logarithmic axis."""
    fig, ax = plt.subplots(figsize=(7.5, 3.6))
    styles = ["-", "--", ":"]
    for i, name in enumerate(branches):
        ax.plot(history["epoch"], history[name], marker=".", linestyle=styles[i // 7], label=name.removeprefix("grad_").replace("_", " "))
    ax.set(xlabel="epoch", ylabel="gradient norm before clipping", yscale="log")
    _whole_epochs(ax, history)
    ax.legend(fontsize="small", ncols=1, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig
