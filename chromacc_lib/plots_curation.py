"""Figures of the data: tracks, scaling, matched background, splits, windows."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from chromacc_lib.matching import COVARIATES
from chromacc_lib.plots_style import PALETTE

__all__ = [
    "plot_cell_type_correlation", "plot_match", "plot_normalizations", "plot_observed", "plot_openness",
    "plot_scale", "plot_splits", "plot_window_tracks",
]


def plot_observed(observed: pd.DataFrame, splits: pd.Series) -> Figure:
    """Draw which cell type has which track: share of chromosomes with data, 0 to 1, with cell types as rows.

    splits: train, validation or test, by cell type; it colours the row's name.
    """
    fig, ax = plt.subplots(figsize=(1.8 + 0.42 * observed.shape[1], 1.3 + 0.24 * max(len(observed), 8)))
    sns.heatmap(observed, ax=ax, cmap="cividis", vmin=0, vmax=1, linewidths=1, linecolor="white",
                cbar_kws={"label": "share of chromosomes with data"})
    ax.set(xlabel="track", ylabel="cell type")
    ax.set_yticks(np.arange(len(observed)) + 0.5, observed.index, rotation=0)
    for tick, name in zip(ax.get_yticklabels(), observed.index):
        tick.set_color(PALETTE[splits[name]])
    ax.set_title("measured tracks; names: train blue, validation orange, test red", fontsize="small")
    return fig


def plot_match(match: dict[str, dict]) -> Figure:
    """Draw each covariate (rows) of peaks, candidates and chosen background by chromosome split (columns).

    match: of curation.json, {split: {covariate: `match_summary`}}.
    """
    names = list(next(iter(match.values())))
    size = (3.6 * len(match), 2.9 * len(names))
    fig, axes = plt.subplots(len(names), len(match), figsize=size, squeeze=False, sharex="row")
    styles = {"peaks": ("measured", "-"), "candidates": ("mean", "--"), "background": ("model", "-")}
    for row, name in zip(axes, names):
        label, factor = COVARIATES[name].label, COVARIATES[name].factor
        for ax, (split, covariates) in zip(row, match.items()):
            one = covariates[name]
            edges = factor * np.asarray(one["edges"])
            for key, (shade, line) in styles.items():
                counts = np.asarray(one["histogram"][key], dtype=float)
                share = 100 * counts / max(counts.sum(), 1)
                ax.stairs(share, edges, color=PALETTE[shade], ls=line, lw=1.5, label=key)
            ks = [f"{one[key]:.2f}" if one[key] is not None else "–" for key in ("ks_before", "ks_matched")]
            ax.set(xlabel=label, title=f"{split}: KS {ks[0]}, matched {ks[1]}")
        row[0].set_ylabel("windows (%)")
        drawn = [covariates[name]["histogram"] for covariates in match.values()]
        filled = np.flatnonzero(sum(np.asarray(one["peaks"]) + one["candidates"] for one in drawn))
        if len(filled):
            margin = edges[1] - edges[0]
            row[0].set_xlim(edges[filled[0]] - margin, edges[filled[-1] + 1] + margin)
    axes[0, 0].legend(fontsize="small")
    return fig


def plot_splits(cell_types: pd.DataFrame, windows: pd.DataFrame) -> Figure:
    """Draw the two holdouts: cell types (rows) by chromosomes (columns, as wide as they have windows).

    cell_types: cell_type, split. windows: chrom, split. Blue is trained on; full red is unseen x unseen.
    """
    chroms = windows.groupby("chrom", sort=False)["split"].agg(["first", "size"]).reset_index()
    order = ["train", "validation", "test"]
    chroms = chroms.iloc[np.argsort([order.index(s) for s in chroms["first"]], kind="stable")]
    cells = cell_types.iloc[np.argsort([order.index(s) for s in cell_types["split"]], kind="stable")]
    edges = np.append(0, np.cumsum(chroms["size"]))
    fig, ax = plt.subplots(figsize=(8, 1.4 + 0.2 * len(cells)))
    for row, cell in enumerate(cells["split"]):
        for left, width, chrom in zip(edges, chroms["size"], chroms["first"]):
            split = max(cell, chrom, key=order.index)
            mixed = cell != chrom
            ax.add_patch(plt.Rectangle((left, row), width, 1, fc=PALETTE[split], ec="white", lw=1,
                                       alpha=0.45 if mixed else 1))
    ax.set(xlim=(0, edges[-1]), ylim=(len(cells), 0), ylabel="cell type",
           xlabel="windows, chromosome by chromosome")
    ax.set_yticks(np.arange(len(cells)) + 0.5, cells["cell_type"], fontsize="x-small")
    ax.set_xticks((edges[:-1] + edges[1:]) / 2, chroms["chrom"], rotation=90, fontsize="x-small")
    shown = [plt.Rectangle((0, 0), 1, 1, fc=PALETTE[name]) for name in order]
    ax.legend(shown, ["train", "validation", "test (unseen in both)"], ncol=3, loc="lower center",
              bbox_to_anchor=(0.5, 1), title="pale: unseen in one of the two only", title_fontsize="small")
    return fig


def plot_scale(before: dict[str, np.ndarray], after: dict[str, np.ndarray], splits: pd.Series, what: str,
               units: tuple[str, str]) -> Figure:
    """Draw one value a window, by cell type, before and after scaling; whiskers: 5th, 95th percentile.

    before, after: {cell type: values}; splits: by cell type, colours the boxes; what: what the values are;
    units: of the two panels.
    """
    names = list(before)
    fig, axes = plt.subplots(1, 2, figsize=(9, 1.2 + 0.22 * max(len(names), 4)), sharey=True)
    for ax, values, title in ((axes[0], before, "before scaling"), (axes[1], after, "after scaling")):
        _boxes(ax, values, splits)
        ax.set(title=title, xlabel=f"{what} ({units[ax is axes[1]]})")
    _name_rows(axes[0], names)
    return fig


def _boxes(ax: Axes, values: dict[str, np.ndarray], splits: pd.Series) -> None:
    """Draw a box for each cell type's known values; whiskers: 5th, 95th percentile."""
    known = [one[np.isfinite(one)] for one in values.values()]
    boxes = ax.boxplot(known, orientation="horizontal", whis=(5, 95), showfliers=False, patch_artist=True,
                       widths=0.7, medianprops={"color": "black"})
    for box, name in zip(boxes["boxes"], values):
        box.set(facecolor=PALETTE[splits[name]], alpha=0.6)


def _name_rows(ax: Axes, names: list[str]) -> None:
    ax.set_yticks(np.arange(len(names)) + 1, names, fontsize="small")
    ax.invert_yaxis()
    ax.set_ylabel("cell type")


def plot_normalizations(values: dict[str, np.ndarray], cell_types: Sequence[str], splits: pd.Series, what: str,
                        chosen: str) -> Figure:
    """Draw bin values of one track by cell type, raw and under each normalisation; whiskers as in `plot_scale`.

    values: {"raw" or method: shape=(W, C, B)}, NaN = missing; splits: by cell type, colours the boxes; what:
    what the values are; chosen: the method that the dataset is made with.
    """
    size = (1 + 2.5 * len(values), 1.4 + 0.22 * max(len(cell_types), 4))
    fig, axes = plt.subplots(1, len(values), figsize=size, sharey=True, squeeze=False)
    for ax, (method, array) in zip(axes[0], values.items()):
        _boxes(ax, {name: array[:, i].ravel() for i, name in enumerate(cell_types)}, splits)
        unit = "raw, file units" if method == "raw" else "scaled, no unit"
        ax.set(title=f"{method} (chosen)" if method == chosen else method, xlabel=f"{what}\n({unit})")
    _name_rows(axes[0, 0], list(cell_types))
    return fig


def plot_cell_type_correlation(correlation: pd.DataFrame) -> Figure:
    """Draw Pearson correlation between cell types, alike ones beside each other (average linkage)."""
    order = list(range(len(correlation)))
    if len(order) > 2:
        distance = squareform(1 - correlation.to_numpy(), checks=False)
        order = leaves_list(linkage(distance, "average", optimal_ordering=True)).tolist()
    side = 2.2 + 0.24 * len(order)
    fig, ax = plt.subplots(figsize=(side + 1, side))
    sns.heatmap(correlation.iloc[order, order], ax=ax, cmap="cividis", vmax=1, square=True, xticklabels=True,
                yticklabels=True, cbar_kws={"label": "Pearson r", "shrink": 0.6})
    ax.set(xlabel="cell type", ylabel="cell type")
    ax.tick_params(axis="y", rotation=0)
    return fig


def plot_openness(shares: np.ndarray, n_cell_types: int) -> Figure:
    """Draw in how many training cell types windows are open. shares: open count by window, shape=(W,)."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    counts = np.bincount(shares, minlength=n_cell_types + 1)
    ax.bar(np.arange(n_cell_types + 1), counts, color=PALETTE["model"])
    ax.set(xlabel=f"training cell types in which the window is open (of {n_cell_types})", ylabel="windows")
    ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


def plot_window_tracks(tracks: dict[str, pd.DataFrame], window_bp: int, title: str) -> Figure:
    """Draw the binned tracks of one window, a column for each cell type and a row for each track.

    tracks: {cell type: table with bins as rows and tracks as columns}, fold over the genome-wide mean, NaN =
    missing.
    """
    names, first = list(tracks), next(iter(tracks.values()))
    n_tracks = first.shape[1]
    fig, axes = plt.subplots(n_tracks, len(names), figsize=(3.1 * len(names), 0.62 * n_tracks + 0.9),
                             sharex=True, sharey="row", squeeze=False)
    edges = np.arange(len(first) + 1) * window_bp // len(first)
    for column, name in enumerate(names):
        for row, track in enumerate(first.columns):
            ax, values = axes[row, column], tracks[name][track].to_numpy(dtype=float)
            if np.isfinite(values).all():
                ax.stairs(values, edges, fill=True, color=PALETTE["measured" if row == 0 else "model"])
                ax.set_ylim(bottom=0)
            else:
                ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", va="center",
                        fontsize="small", color="#555555")
            ax.locator_params(axis="y", nbins=2)
        axes[0, column].set_title(name, fontsize="small")
        axes[-1, column].set_xlabel("position in window (bp)")
    for row, track in enumerate(first.columns):
        axes[row, 0].set_ylabel(track, rotation=0, ha="right", va="center", fontsize="small")
    fig.suptitle(title, fontsize="small")
    fig.supylabel("fold over the genome-wide mean", fontsize="small")
    return fig
