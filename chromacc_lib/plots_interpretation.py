"""Figures of what the model reads: contributions, attention, motifs."""

from collections.abc import Sequence

import logomaker
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from chromacc_lib.plots_style import PALETTE

__all__ = [
    "plot_attention_flow", "plot_attention_summary", "plot_contribution_track", "plot_deletion_insertion", "plot_input_rise",
    "plot_marginals", "plot_motif_logos", "plot_shapley", "plot_signal_contributions", "plot_spacing",
]


def plot_input_rise(table: pd.DataFrame) -> Figure:
    """Rise of the squared error when an input is masked, one dot a cell type, seen and unseen apart.

    table: rows of `interpretation.modality_contributions`.
    """
    return _dots_by_input(table, "rise", "rise of the squared error without this input, % of the scores' variance")


def _dots_by_input(table: pd.DataFrame, column: str, xlabel: str) -> Figure:
    """A line an input and a dot a cell type, training and test ones apart; column: a share, drawn in %."""
    known = table.dropna(subset=[column])
    order = list(dict.fromkeys(known["input"]))
    fig, ax = plt.subplots(figsize=(7.5, 0.34 * len(order) + 1.2))
    for split, marker, offset, label in (("train", "o", 0.14, "seen"), ("test", "D", -0.14, "unseen")):
        rows = known[known["cell_type_split"] == split]
        ax.scatter(100 * rows[column], [len(order) - 1 - order.index(name) + offset for name in rows["input"]], s=22,
                   marker=marker, color=PALETTE[split], alpha=0.75, label=f"{label} cell types")
    ax.set_yticks(range(len(order)), order[::-1])
    ax.axvline(0, color=PALETTE["mean"], linewidth=0.8)
    ax.set(xlabel=xlabel)
    ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return fig


def plot_attention_summary(fusion: np.ndarray, sources: Sequence[str], entropy: dict[str, np.ndarray]) -> Figure:
    """Fusion attention by bin and modality at the left, entropy of every head by layer of both stacks at the right.

    fusion: (T, len(sources)), rows add up to 1. entropy: stack name -> (layer, head), share of the largest possible.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1.6, 1))
    sns.heatmap(pd.DataFrame(fusion.T, index=list(sources), columns=range(1, len(fusion) + 1)), ax=left, vmin=0,
                cmap="cividis", cbar_kws={"label": "attention weight"})
    left.set(xlabel="bin of the window", ylabel="")
    for (name, values), colour_name in zip(entropy.items(), ("model", "average")):
        layers = np.repeat(np.arange(1, len(values) + 1), values.shape[1])
        right.scatter(layers + (0.1 if colour_name == "average" else -0.1), values.ravel(), s=16, alpha=0.8,
                      color=PALETTE[colour_name], label=name)
    right.set(xlabel="layer", ylabel="entropy, share of the largest", ylim=(0, 1.05))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize="small")
    return fig


def plot_contribution_track(tracks: dict[str, np.ndarray], sequence: str, start: int, planted: pd.DataFrame, title: str) -> Figure:
    """Contribution logos of one stretch by several methods, planted motif instances (start, end, tf, in bp) below.

    tracks: method -> contributions (n,), arcsinh fold. start: position of the first base in the window, bp.
    """
    fig, axes = plt.subplots(len(tracks), 1, figsize=(10, 1.5 * len(tracks) + 0.8), sharex=True, squeeze=False)
    colours = {base: PALETTE[base] for base in "ACGT"}
    for ax, (name, values) in zip(axes[:, 0], tracks.items()):
        frame = pd.DataFrame([[v * (b == base) for base in "ACGT"] for b, v in zip(sequence, values)], columns=list("ACGT"))
        logomaker.Logo(frame, ax=ax, color_scheme=colours, baseline_width=0.5)
        low = min(0.0, float(values.min()))
        for row in planted.itertuples():
            ax.axvspan(row.start - start - 0.5, row.end - start - 0.5, color=PALETTE["truth"], alpha=0.15, linewidth=0)
            if ax is axes[0, 0]:
                ax.text((row.start + row.end) / 2 - start, float(values.max()) * 1.05, row.tf, ha="center", fontsize="small")
        ax.set(ylabel="arcsinh fold", ylim=(low * 1.1 - 1e-9, float(values.max()) * 1.3 + 1e-9))
        ax.set_title(name, loc="left", fontsize="small")
    ticks = np.arange(0, len(sequence), 20)
    axes[-1, 0].set_xticks(ticks, [str(start + t) for t in ticks])
    axes[-1, 0].set(xlabel=f"position in the window, bp ({title})")
    return fig


def plot_motif_logos(motifs: Sequence[tuple[str, np.ndarray]]) -> Figure:
    """Sequence logos in bits; motifs: (title, probabilities (m, 4: ACGT)), at most twelve are drawn."""
    motifs = list(motifs)[:12]
    columns = 3
    rows = -(-len(motifs) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(10, 1.55 * rows), squeeze=False)
    for ax in axes.ravel()[len(motifs):]:
        ax.set_visible(False)
    for ax, (title, probabilities) in zip(axes.ravel(), motifs):
        bits = 2 + (probabilities * np.log2(probabilities)).sum(1, keepdims=True)
        logomaker.Logo(pd.DataFrame(probabilities * bits, columns=list("ACGT")), ax=ax,
                       color_scheme={base: PALETTE[base] for base in "ACGT"})
        ax.set(ylim=(0, 2), yticks=(0, 1, 2), xticks=(), ylabel="bits")
        ax.set_title(title, fontsize="small")
    return fig


def plot_marginals(table: pd.DataFrame) -> Figure:
    """Effect of inserting each pattern where its TF is on, with its 95% interval, of destroying it, and where the TF is off.

    table: rows of `interpretation.motif_table`.
    """
    fig, ax = plt.subplots(figsize=(8, 0.42 * len(table) + 1.2))
    y = np.arange(len(table))[::-1]
    for name, low, high, label, colour, marker, offset in (
        ("effect", "effect_low", "effect_high", "inserted", PALETTE["model"], "o", 0.0),
        ("ablated", "ablated_low", "ablated_high", "destroyed where it stands", PALETTE["truth"], "s", 0.25),
    ):
        mean, low, high = (table[column].astype(float) for column in (name, low, high))
        ax.errorbar(mean, y + offset, xerr=[mean - low, high - mean], fmt=marker, color=colour, markersize=4, label=label)
    ax.scatter(table["effect_off"].astype(float), y - 0.22, marker="v", s=24, color=PALETTE["mean"], label="inserted, TF off")
    ax.axvline(0, color=PALETTE["mean"], linewidth=0.8)
    ax.set_yticks(y, [f"{name} ({tf})" for name, tf in zip(table["pattern"], table["matched_tf"])])
    ax.set(xlabel="change of the predicted score against bases in another order, arcsinh fold")
    ax.legend(fontsize="small")
    return fig


def plot_shapley(table: pd.DataFrame) -> Figure:
    """Share of the scores' variance that each input explains, one dot a cell type, seen and unseen apart.

    table: rows of `contributions.shapley_contributions`.
    """
    return _dots_by_input(table, "contribution", "Shapley value: explained share of the scores' variance, %")


def plot_attention_flow(by_bin: np.ndarray, sequence: np.ndarray, sources: Sequence[str]) -> Figure:
    """Attention that reaches the score, by bin and modality (T, 6), and the sequence's share by bin through its stack (T,)."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1.6, 1))
    bins = range(1, len(by_bin) + 1)
    sns.heatmap(pd.DataFrame(100 * by_bin.T, index=list(sources), columns=bins), ax=left, vmin=0, cmap="cividis",
                cbar_kws={"label": "share of the attention, %"})
    left.set(xlabel="bin of the window", ylabel="")
    right.bar(bins, 100 * sequence, color=PALETTE["model"])
    right.set(xlabel="bin of the window", ylabel="sequence: share of the attention, %")
    return fig


def plot_signal_contributions(contribution: np.ndarray, tracks: Sequence[str]) -> Figure:
    """What each bin of each track adds to the score, mean over places (K, T), arcsinh fold."""
    fig, ax = plt.subplots(figsize=(7.5, 0.34 * len(tracks) + 1.3))
    bins = range(1, contribution.shape[1] + 1)
    sns.heatmap(pd.DataFrame(contribution, index=list(tracks), columns=bins), ax=ax, center=0, cmap="PuOr_r",
                cbar_kws={"label": "contribution, arcsinh fold"})
    ax.set(xlabel="bin of the window", ylabel="")
    return fig


def plot_deletion_insertion(shares: np.ndarray, curves: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Mean score while bases are deleted or inserted, the most important first, and in random order.

    shares: (S,). curves: name -> (by contribution, in random order), each (K, S), arcsinh fold.
    """
    fig, axes = plt.subplots(1, len(curves), figsize=(4.6 * len(curves), 3.2), sharey=True, squeeze=False)
    place = np.arange(len(shares))
    for ax, (name, (by_order, by_chance)) in zip(axes[0], curves.items()):
        ax.plot(place, by_order.mean(0), marker="o", color=PALETTE["model"], label="most important first")
        ax.plot(place, by_chance.mean(0), marker="v", color=PALETTE["mean"], label="random order")
        ax.set_xticks(place, [f"{100 * share:g}" for share in shares])
        ax.set(xlabel=f"bases {name}, %", title=name)
    axes[0, 0].set(ylabel="mean predicted score, arcsinh fold")
    axes[0, 0].legend(fontsize="small")
    return fig


def plot_spacing(scans: dict[str, pd.DataFrame]) -> Figure:
    """What two motifs do together beyond their sum, by the gap between them and the second one's orientation.

    scans: title -> rows of `confirmation.spacing_scan`.
    """
    fig, axes = plt.subplots(1, len(scans), figsize=(4.6 * len(scans), 3.2), squeeze=False)
    for ax, (title, table) in zip(axes[0], scans.items()):
        for (name, rows), colour, marker in zip(table.groupby("second"), (PALETTE["model"], PALETTE["average"]), "os"):
            error = [rows["beyond"] - rows["beyond_low"], rows["beyond_high"] - rows["beyond"]]
            ax.errorbar(rows["gap_bp"], rows["beyond"], yerr=error, color=colour, marker=marker, markersize=4, label=f"second {name}")
        ax.axhline(0, color=PALETTE["mean"], linewidth=0.8)
        ax.set(xlabel="gap between the two, bp", title=title)
    axes[0, 0].set(ylabel="beyond the sum, arcsinh fold")
    axes[0, 0].legend(fontsize="small")
    return fig
