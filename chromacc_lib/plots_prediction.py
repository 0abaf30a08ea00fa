"""Figures of a prediction for a new cell type: its inputs, what hiding one costs, browser panels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from chromacc_lib.plots_style import PALETTE

__all__ = ["plot_average_density", "plot_browser", "plot_input_distance", "plot_knockouts"]


def plot_input_distance(tracks: dict[str, dict]) -> Figure:
    """Draw where each input track of a new cell type lies beside the training cell types.

    tracks: {name: entry of `tracks` in a prediction's summary.json}. Bar: mean and 3 sd of the training cell
    types; dot: the new cell type. Units: sd of the training data.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 1 + 0.34 * len(tracks)), sharey=True)
    panels = (
        ("mean_z", "mean of the scaled signal (sd)"),
        ("mean_abs_z", "mean size of the scaled signal (sd)"),
    )
    for ax, (what, label) in zip(axes, panels, strict=True):
        for y, row in enumerate(tracks.values()):
            mean, sd, here = row[f"training_{what}"], row[f"training_{what}_sd"], row[what]
            if mean is not None:
                ax.plot([mean - 3 * sd, mean + 3 * sd], [y, y], color=PALETTE["average"], lw=7, alpha=0.45)
                ax.plot(mean, y, "|", color=PALETTE["average"], ms=9)
            if here is not None:
                ax.plot(here, y, "o", color=PALETTE["model"])
        ax.set_xlabel(label)
    missing = [row["mean_z"] is None for row in tracks.values()]
    names = [f"{name} (not measured)" if gone else name for name, gone in zip(tracks, missing, strict=True)]
    axes[0].set_yticks(range(len(tracks)), names)
    for tick, gone in zip(axes[0].get_yticklabels(), missing, strict=True):
        tick.set_color("#777777" if gone else "black")
    axes[0].set_ylim(len(tracks) - 0.5, -0.5)
    new = plt.Line2D([], [], color=PALETTE["model"], marker="o", ls="")
    bar = plt.Line2D([], [], color=PALETTE["average"], lw=7, alpha=0.45)
    fig.legend(
        [new, bar],
        ["this cell type", "training cell types: mean and 3 sd"],
        ncol=2,
        loc="outside upper center",
    )
    return fig


def plot_average_density(density: dict) -> Figure:
    """Draw how many windows have which predicted score at which locus average, on a logarithmic colour scale.

    density: {"edges": bin edges, arcsinh fold, "windows": counts, average x score}; at least one window.
    """
    edges, counts = np.array(density["edges"]), np.array(density["windows"], dtype=float)
    fig, ax = plt.subplots(figsize=(5.2, 4.2))
    drawn = ax.pcolormesh(edges, edges, np.where(counts > 0, counts, np.nan).T, norm=LogNorm(1, max(counts.max(), 2)))
    used = np.flatnonzero(counts.any(axis=0) | counts.any(axis=1))
    top = edges[used[-1] + 1]
    ax.plot([0, top], [0, top], color=PALETTE["mean"], lw=1)
    ax.set(xlim=(0, top), ylim=(0, top), xlabel="locus average (arcsinh fold)", ylabel="predicted score (arcsinh fold)")
    fig.colorbar(drawn, ax=ax, label="windows")
    return fig


def plot_knockouts(table: pd.DataFrame, r: float, average_r: float) -> Figure:
    """Draw how well the prediction correlates with what was measured when an input is hidden, one line each.

    table: index = what is hidden, column r. r: nothing hidden; average_r: the locus average's.
    """
    fig, ax = plt.subplots(figsize=(7.5, 1 + 0.3 * len(table)))
    ax.hlines(range(len(table)), table["r"], r, color=PALETTE["model"], lw=2)
    ax.plot(table["r"], range(len(table)), "o", color=PALETTE["model"])
    for y, value in enumerate(table["r"]):
        ax.annotate(
            f"{value:.3f}",
            (value, y),
            xytext=(-7 if value <= r else 7, 0),
            textcoords="offset points",
            va="center",
            ha="right" if value <= r else "left",
            fontsize="small",
        )
    ax.axvline(r, color="black", lw=1, label=f"nothing hidden: {r:.3f}")
    ax.axvline(
        average_r, color=PALETTE["average"], lw=2, ls="--", label=f"locus average alone: {average_r:.3f}"
    )
    ax.set_yticks(range(len(table)), table.index)
    ax.set(
        ylim=(len(table) - 0.5, -0.5),
        xlabel="Pearson r of predicted and measured score",
        ylabel="hidden input",
    )
    low, high = min(table["r"].min(), average_r, r), max(table["r"].max(), average_r, r)
    margin = max(0.12 * (high - low), 0.02)
    ax.set_xlim(low - 1.5 * margin, high + margin)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2)
    return fig


def plot_browser(loci: dict[str, pd.DataFrame], title: str, spans: Sequence[tuple[int, int]] = ()) -> Figure:
    """Browser-like panel: average, prediction and measurement (rows) of some loci (columns), in genome
    coordinates.

    loci: {title: table with a bin a row: start, end (bp), average, predicted, measured (fold over the
    genome-wide mean, NaN = not known)}; a locus may have several windows with gaps between them. One scale a
    locus. spans: start and end (bp) of what is shaded in each locus.
    """
    rows = {"average": "average", "predicted": "model", "measured": "measured"}
    fig, axes = plt.subplots(
        len(rows), len(loci), figsize=(3.6 * len(loci) + 0.6, 3.9), sharex="col", sharey="col", squeeze=False
    )
    for column, (name, table) in enumerate(loci.items()):
        middle, width = (table["start"] + table["end"]) / 2000, (table["end"] - table["start"]) / 1000
        for ax, (what, shade) in zip(axes[:, column], rows.items(), strict=True):
            ax.bar(middle, table[what], width, color=PALETTE[shade], lw=0)
            if column == 0:
                ax.set_ylabel(what.replace("average", "locus average"), rotation=0, ha="right", va="center")
            if column < len(spans):
                left, right = (edge / 1000 for edge in spans[column])
                ax.axvspan(left, right, color=PALETTE["mean"], alpha=0.2, lw=0, zorder=0)
            ax.locator_params(nbins=3)
        axes[0, column].set_title(name, fontsize="small")
        axes[-1, column].set_xlabel("position (kb)")
        axes[0, column].set_ylim(0, 1.05 * table[list(rows)].max().max())
    fig.suptitle(title, fontsize="small")
    fig.supylabel("fold over the genome-wide mean", fontsize="small")
    return fig
