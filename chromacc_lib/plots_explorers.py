"""Figures that are drawn again and again while somebody explores: a locus, what if, attention, a training under way.

They are made without pyplot, so that a thread may draw one while the notebook draws another.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chromacc_lib.look import Predicted, View
from chromacc_lib.plots_style import PALETTE

__all__ = ["plot_attention", "plot_followed", "plot_locus", "plot_what_if"]


def plot_locus(view: View) -> Figure:
    """One window in one cell type: profiles, contribution of each base, input tracks; bp from the window's start."""
    n_tracks = view.tracks.shape[1]
    heights = (2.2, 1.2, max(0.9, 0.17 * n_tracks))
    fig = Figure(figsize=(9.5, sum(heights) + 1.2), layout="constrained")
    top, middle, low = fig.subplots(3, 1, sharex=True, height_ratios=heights)
    length = int(view.profiles["end"].max())
    _measured(top, view.profiles, "measured")
    _steps(top, view.profiles, "average", color=PALETTE["average"], label="locus average")
    _steps(top, view.profiles, "predicted", color=PALETTE["model"], linewidth=2, label="predicted")
    top.set(ylabel="arcsinh fold", xlim=(0, length))
    told = [f"{name} {value:.2f}" for name, value in view.scores.items() if np.isfinite(value)]
    top.set_title(f"{view.title}\nscore: {', '.join(told)}; probability of being open {view.probability:.2f}", loc="left")
    top.set_ylim(top=top.get_ylim()[1] * 1.15)  # room for the legend
    top.legend(loc="upper right", ncols=3, fontsize="small")
    middle.vlines(np.arange(len(view.contribution)) + 0.5, 0, view.contribution, color=PALETTE["model"], linewidth=0.8)
    middle.axhline(0, color=PALETTE["mean"], linewidth=0.6)
    middle.set_ylabel("contribution\nof each base\n(arcsinh fold)")
    image = low.imshow(view.tracks.T.to_numpy(float), aspect="auto", vmin=-3, vmax=3, cmap="PuOr_r", interpolation="nearest",
                       extent=(0, length, n_tracks - 0.5, -0.5))
    low.set_facecolor("#dddddd")  # shows through where an assay is missing
    low.set_yticks(range(n_tracks), view.tracks.columns, fontsize="small")
    low.set_xlabel("bp from the window's start")
    fig.colorbar(image, ax=low, label="input (z)\ngrey: missing", pad=0.01, fraction=0.05)
    return fig


def plot_what_if(profiles: pd.DataFrame, before: Predicted, after: Predicted, cell_types: Sequence[str], shown: int,
                 title: str, edited: tuple[int, int] | None = None) -> Figure:
    """What a change of the inputs does: the profile in one cell type at the left, the score in all of them at the right.

    profiles: a bin a row: start, end (bp from the window's start), measured (arcsinh fold). shown: index of the cell
    type at the left. edited: start and end (bp) of the bases that were changed.
    """
    n = len(cell_types)
    fig = Figure(figsize=(10.5, max(3.6, 1.1 + 0.19 * n)), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(1.5, 1))
    table = profiles.assign(before=before.profile[shown], after=after.profile[shown])
    _measured(left, table, "measured")
    _steps(left, table, "before", color=PALETTE["model"], linestyle=":", linewidth=1.5, label="predicted, inputs as measured")
    _steps(left, table, "after", color=PALETTE["model"], linewidth=2.2, label="predicted, inputs changed")
    if edited is not None:
        left.axvspan(*edited, color=PALETTE["truth"], alpha=0.3, linewidth=0, label="bases changed")
    left.set(xlabel="bp from the window's start", ylabel="arcsinh fold", xlim=(0, table["end"].max()))
    left.set_ylim(top=left.get_ylim()[1] * 1.3)  # room for the legend
    left.legend(loc="upper left", fontsize="small", ncols=2)
    left.set_title(f"{title}\nscore {before.score[shown]:.2f} → {after.score[shown]:.2f}, probability of being open "
                   f"{before.probability[shown]:.2f} → {after.probability[shown]:.2f}", loc="left")  # fmt: skip
    y = np.arange(n)
    right.hlines(y, before.score, after.score, color=PALETTE["model"], linewidth=1.5)
    right.plot(before.score, y, "o", color=PALETTE["model"], markerfacecolor="white", markersize=5, label="as measured")
    right.plot(after.score, y, "o", color=PALETTE["model"], markersize=5, label="changed")
    right.set_yticks(y, cell_types, fontsize="small")
    right.get_yticklabels()[shown].set_fontweight("bold")
    right.set(xlabel="predicted score, arcsinh fold", ylim=(n - 0.5, -0.5))
    right.grid(axis="x", color="#eeeeee")
    right.set_title("in every cell type", loc="left")
    right.legend(fontsize="small", loc="lower right")
    return fig


def plot_attention(weights: np.ndarray, keys: Sequence[str] | None, bin_bp: int, title: str) -> Figure:
    """Attention of the T places of a window: a query a column, a key a row; at the right what each key receives.

    weights: (T, K), rows add up to 1. keys: names of the K keys; None: they are the T places themselves, of bin_bp each.
    """
    n_queries, n_keys = weights.shape
    length = n_queries * bin_bp
    fig = Figure(figsize=(9, 4.6 if keys is None else 3.4), layout="constrained")
    left, right = fig.subplots(1, 2, width_ratios=(3, 1), sharey=True)
    below = (length, 0) if keys is None else (n_keys - 0.5, -0.5)
    image = left.imshow(weights.T, aspect="auto", vmin=0, cmap="cividis", interpolation="nearest",
                        extent=(0, length, *below))
    left.set(xlabel="place that asks (bp from the window's start)", ylabel="place that is read (bp)" if keys is None else "")
    left.set_title(title, loc="left")
    fig.colorbar(image, ax=left, label="attention weight", location="bottom", shrink=0.6, aspect=40)
    received = weights.mean(0)
    if keys is None:
        right.barh((np.arange(n_keys) + 0.5) * bin_bp, received, bin_bp * 0.9, color=PALETTE["model"])
    else:
        right.barh(np.arange(n_keys), received, 0.8, color=PALETTE["model"])
        left.set_yticks(range(n_keys), keys)
    right.axvline(1 / n_keys, color="black", linestyle=":")
    right.set(xlabel="mean weight received\n(dotted: if spread evenly)", xlim=(0, None))
    right.locator_params(axis="x", nbins=3)
    return fig


def plot_followed(history: pd.DataFrame, epochs: int) -> Figure:
    """A training under way: error, skill, spread of the predictions and gradient norm, by epoch so far.

    history: rows of history.csv, one or more. epochs: that the training shall have; 0 = not known.
    """
    fig = Figure(figsize=(9.5, 5.2), layout="constrained")
    (error, skill), (spread, gradient) = fig.subplots(2, 2, sharex=True)
    x = history["epoch"]
    average = history["validation_mse"] / (1 - history["validation_skill"])  # the skill is over the locus average
    error.plot(x, history["train_score"], marker=".", color=PALETTE["mean"], label="training")
    error.plot(x, history["validation_mse"], marker="o", color=PALETTE["model"], label="validation")
    error.plot(x, average, linestyle="--", color=PALETTE["average"], label="locus average, validation")
    error.set(title="error of the score", ylabel="MSE, (arcsinh fold)²", ylim=(0, None))
    skill.plot(x, history["validation_skill"], marker="o", color=PALETTE["model"])
    skill.axhline(0, color=PALETTE["average"], linestyle="--", label="locus average")
    skill.set(title="skill on validation rows", ylabel="skill over the average")
    spread.plot(x, history["prediction_std"], marker="o", color=PALETTE["model"], label="predicted")
    spread.plot(x, history["label_std"], linestyle="--", color=PALETTE["measured"], label="measured")
    spread.set(title="spread of validation scores", ylabel="sd, arcsinh fold", xlabel="epoch", ylim=(0, None))
    gradient.plot(x, history["grad_norm"], marker="o", color=PALETTE["model"])
    gradient.set(title="gradient norm, mean of the epoch", ylabel="before clipping", xlabel="epoch", ylim=(0, None))
    for ax in (error, skill, spread, gradient):
        ax.set_xlim(0.5, max(epochs, x.max()) + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize="small", loc="best")
    return fig


def _measured(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw what was measured as an area, or say that it was not."""
    if table[column].notna().any():
        ax.stairs(table[column], [*table["start"], table["end"].iloc[-1]], fill=True, color="#bbbbbb", label="measured")
    else:
        ax.plot([], [], color="#bbbbbb", linewidth=6, label="not measured")


def _steps(ax: Axes, table: pd.DataFrame, column: str, **style: object) -> None:
    """Draw bins as a line at the middle of each, where it is known."""
    ax.plot((table["start"] + table["end"]) / 2, table[column], **style)
