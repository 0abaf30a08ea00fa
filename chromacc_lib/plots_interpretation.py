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
    "plot_attention_summary", "plot_contribution_track", "plot_input_rise", "plot_marginals",
    "plot_motif_logos",
]


def plot_input_rise(table: pd.DataFrame) -> Figure:
    """Rise of the squared error when an input is masked, one dot a cell type, seen and unseen apart.

    table: rows of `interpretation.modality_contributions`.
    """
    known = table.dropna(subset=["rise"])
    fig, ax = plt.subplots(figsize=(7.5, 0.32 * known["input"].nunique() + 1.2))
    order = list(dict.fromkeys(known["input"]))
    for split, marker in (("train", "o"), ("test", "D")):
        rows = known[known["cell_type_split"] == split]
        offset = 0.14 if split == "train" else -0.14
        ax.scatter(100 * rows["rise"], [len(order) - 1 - order.index(name) + offset for name in rows["input"]], s=22,
                   marker=marker, color=PALETTE[split], alpha=0.75, label=f"{'seen' if split == 'train' else 'unseen'} cell types")
    ax.set_yticks(range(len(order)), order[::-1])
    ax.axvline(0, color=PALETTE["mean"], linewidth=0.8)
    ax.set(xlabel="rise of the squared error without this input, % of the scores' variance")
    ax.legend(fontsize="small", loc="lower right")
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
    """Effect of inserting each pattern, with its 95% interval, and its mean where the TF is on and where it is off.

    table: rows of `interpretation.motif_table`.
    """
    fig, ax = plt.subplots(figsize=(8, 0.36 * len(table) + 1.2))
    y = np.arange(len(table))[::-1]
    ax.errorbar(table["effect"], y, xerr=[table["effect"] - table["effect_low"], table["effect_high"] - table["effect"]],
                fmt="o", color=PALETTE["model"], markersize=4, label="all cell types, 95% interval")
    ax.scatter(table["effect_on"].astype(float), y + 0.22, marker="^", s=24, color=PALETTE["truth"], label="TF on")
    ax.scatter(table["effect_off"].astype(float), y - 0.22, marker="v", s=24, color=PALETTE["mean"], label="TF off")
    ax.axvline(0, color=PALETTE["mean"], linewidth=0.8)
    ax.set_yticks(y, [f"{name} ({tf})" for name, tf in zip(table["pattern"], table["matched_tf"])])
    ax.set(xlabel="change of the predicted score against a shuffled insert, arcsinh fold")
    ax.legend(fontsize="small")
    return fig
