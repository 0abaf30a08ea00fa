"""Figures of the diagnosis: checks as traffic lights, distributions, offsets, modalities, embeddings."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from chromacc_lib.plots_style import PALETTE

__all__ = [
    "VERDICT_COLOURS", "checks_table", "plot_checks", "plot_embeddings", "plot_label_signal",
    "plot_modality_drop", "plot_offset_scan", "plot_prediction_distributions", "plot_quadrants",
    "plot_training_health", "plot_variance_ratio",
]

VERDICT_COLOURS = {"ok": "#009E73", "warn": "#E69F00", "fail": "#D55E00", "not run": "#BBBBBB"}  # always with the word


def checks_table(checks: pd.DataFrame) -> Styler:
    """Return the checks of a diagnosis as an HTML table, verdicts coloured and in words; see `Diagnosis.table`."""
    shown = checks[["group", "name", "verdict", "value", "sentence", "rule"]]
    return (shown.style.hide(axis="index").format({"value": "{:.3g}"}, na_rep="").set_properties(
        **{"text-align": "left", "vertical-align": "top", "white-space": "normal"}).map(
        lambda verdict: f"background-color: {VERDICT_COLOURS[verdict]}; color: black", subset=["verdict"])
        .set_table_styles([{"selector": "th", "props": "text-align: left"}]))


def plot_checks(checks: pd.DataFrame, title: str) -> Figure:
    """Draw the checks of a diagnosis as traffic lights with words; columns group, name, verdict, value."""
    fig, ax = plt.subplots(figsize=(8, 0.26 * len(checks) + 0.6))
    previous = None
    for row, check in enumerate(checks.itertuples()):
        y = -row
        ax.add_patch(plt.Rectangle((3.9, y - 0.42), 0.75, 0.84, color=VERDICT_COLOURS[check.verdict], lw=0))
        ax.text(4.275, y, check.verdict, ha="center", va="center", color="black")
        ax.text(1.3, y, check.name, va="center")
        ax.text(4.85, y, f"{check.value:.3g}" if np.isfinite(check.value) else "", va="center")
        if check.group != previous:
            ax.axhline(y + 0.5, color=PALETTE["mean"], lw=0.7)
            ax.text(0, y, check.group, va="center", weight="bold")
        previous = check.group
    for x, head in ((0, "group"), (1.3, "check"), (3.9, "verdict"), (4.85, "value")):
        ax.text(x, 1, head, va="center", color="#555555")
    ax.set(xlim=(0, 5.5), ylim=(-len(checks) + 0.4, 1.5))
    ax.set_title(title, loc="left")
    ax.axis("off")
    return fig


def plot_prediction_distributions(rows: pd.DataFrame, scope: str) -> Figure:
    """Draw measured and predicted scores of the same rows over each other; columns score, predicted_score."""
    fig, ax = plt.subplots(figsize=(6.5, 3.2))
    both = rows[["score", "predicted_score"]].to_numpy(float)
    edges = np.linspace(both.min(), both.max(), 61)
    for column, name, label in ((0, "measured", "measured"), (1, "model", "predicted")):
        ax.hist(both[:, column], edges, density=True, histtype="stepfilled", alpha=0.35, color=PALETTE[name])
        ax.hist(both[:, column], edges, density=True, histtype="step", color=PALETTE[name],
                label=f"{label}: mean {both[:, column].mean():.2f}, std {both[:, column].std():.2f}")
    ax.set(xlabel="score (arcsinh of fold over the genome-wide mean)", ylabel="density", title=scope)
    ax.legend()
    return fig


def plot_variance_ratio(cells: pd.DataFrame) -> Figure:
    """Draw variance ratio against r squared by cell type; columns cell_type, r_squared, variance_ratio."""
    fig, ax = plt.subplots(figsize=(5, 4.2))
    top = 1.05 * max(1.0, float(cells["variance_ratio"].max()))
    ax.plot([0, 1], [0, 1], color=PALETTE["mean"], lw=1, label="smallest squared error: the two agree")
    ax.fill_between([0, 1], [0, 0.5], color=PALETTE["mean"], alpha=0.2, lw=0, label="shrunk: below half of r²")
    ax.scatter(cells["r_squared"], cells["variance_ratio"], color=PALETTE["model"], zorder=3)
    for cell in cells.itertuples():
        ax.annotate(cell.cell_type, (cell.r_squared, cell.variance_ratio), xytext=(5, 4), textcoords="offset points",
                    fontsize="small")
    ax.set(xlim=(0, 1.05), ylim=(0, top), xlabel="r² of prediction and measured score",
           ylabel="variance of predictions / variance of scores")
    ax.legend(loc="upper left", fontsize="small")
    return fig


def plot_quadrants(quadrants: pd.DataFrame) -> Figure:
    """Draw the correlation of model and locus average in the four quadrants; see `checks.quadrant_table`."""
    fig, ax = plt.subplots(figsize=(7, 3.2))
    at = np.arange(len(quadrants))
    for shift, column, name, label in ((-0.2, "r", "model", "model"), (0.2, "average_r", "average", "locus average")):
        bars = ax.bar(at + shift, quadrants[column].to_numpy(float), 0.38, color=PALETTE[name], label=label)
        ax.bar_label(bars, fmt="%.2f", fontsize="small")
    names = [f"{q.cell_types} cell types\n{q.chromosomes} chromosomes" for q in quadrants.itertuples()]
    ax.set_xticks(at, names, fontsize="small")
    ax.set(ylabel="Pearson's r with the score\n(median over cell types)", ylim=(min(0, ax.get_ylim()[0]), 1.15))
    ax.legend(ncols=2, loc="upper right", fontsize="small")
    return fig


def plot_label_signal(checks: dict[str, tuple[float, np.ndarray]]) -> Figure:
    """Draw, for each check name, the ridge's r against what permuted labels reach: name -> (r, null)."""
    fig, axes = plt.subplots(1, len(checks), figsize=(4.2 * len(checks), 2.9), squeeze=False)
    for ax, (name, (r, null)) in zip(axes[0], checks.items()):
        ax.hist(null, 25, color=PALETTE["mean"], label="permuted labels")
        ax.axvline(r, color=PALETTE["ridge"], lw=2, label=f"labels as they are: {r:.2f}")
        ax.set(title=name, xlabel="r on chromosomes not seen (ridge)", ylabel="permutations")
        ax.legend(fontsize="small")
    return fig


def plot_offset_scan(curves: dict[str, dict[float, float]]) -> Figure:
    """Draw the agreement of each track with accessibility at each shift; track -> {shift in bp: r}."""
    fig, ax = plt.subplots(figsize=(6.5, 3.2))
    for i, (name, curve) in enumerate(curves.items()):
        shifts = sorted(curve)      # a dash a round of the colours, so that no two tracks look alike
        ax.plot(shifts, [curve[s] for s in shifts], ("-", "--", ":")[i // 7 % 3], marker=".", label=name)
    ax.axvline(0, color=PALETTE["mean"], lw=0.8)
    ax.set(xlabel="shift of accessibility against the track (bp)", ylabel="r of profiles within windows")
    ax.legend(fontsize="small", bbox_to_anchor=(1, 1), loc="upper left")
    return fig


def plot_modality_drop(rise: dict[str, float], change: dict[str, float]) -> Figure:
    """Draw what masking each modality does: rise in squared error, share of variance, and RMS change, share of std."""
    fig, axes = plt.subplots(1, 2, figsize=(8, 0.4 * len(rise) + 1.2), sharey=True)
    titles = ("rise in squared error\n(share of the scores' variance)", "RMS change of the prediction\n"
              "(share of the scores' std)")
    for ax, values, title in zip(axes, (rise, change), titles):
        bars = ax.barh(list(values), list(values.values()), color=PALETTE["model"])
        ax.bar_label(bars, fmt="%.3f", padding=2, fontsize="small")
        ax.axvline(0, color="black", lw=0.8)
        ax.margins(x=0.2)
        ax.set_xlabel(title)
    axes[0].set_ylabel("masked modality")
    axes[0].invert_yaxis()
    return fig


def plot_embeddings(by_depth: dict[str, float], singular_values: np.ndarray) -> Figure:
    """Draw token similarity by depth ('<stack> <layer>' -> cosine) and the spectrum of the pooled embeddings."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2))
    deepest = max(int(key.split()[-1]) for key in by_depth)
    for stack, name in (("sequence", "average"), ("encoder", "model")):
        layers = {int(key.split()[-1]): value for key, value in by_depth.items() if key.startswith(stack)}
        left.plot(list(layers), list(layers.values()), marker="o", color=PALETTE[name], label=f"{stack} layers")
    left.set(xlabel="layer", ylabel="cosine similarity of tokens", xticks=range(1, 1 + deepest),
             ylim=(min(0, *by_depth.values()), 1.02))
    left.legend()
    variance = np.asarray(singular_values, float)**2
    right.semilogy(np.arange(1, len(variance) + 1), np.maximum(variance / variance.sum(), 1e-12), marker=".",
                   color=PALETTE["model"])
    right.set(xlabel="direction of the pooled embedding", ylabel="share of variance")
    return fig


def plot_training_health(history: pd.DataFrame) -> Figure:
    """Draw losses, spread of the predictions and gradient norm by epoch, as far as history.csv has them."""
    panels = (("train_score", "validation_mse"), ("train_loss", "validation_loss"), ("prediction_std", "label_std"),
              ("grad_norm",))
    has = [columns for columns in panels if set(columns) <= set(history.columns)]
    fig, axes = plt.subplots(1, len(has), figsize=(3.6 * len(has), 3), squeeze=False)
    colours = {"train_loss": "train", "validation_loss": "validation", "train_score": "train",
               "validation_mse": "validation", "prediction_std": "model", "label_std": "measured",
               "grad_norm": "boosting"}
    titles = {"train_score": "squared error of the score", "train_loss": "loss",
              "prediction_std": "std of scores (arcsinh fold)", "grad_norm": "gradient norm before clipping"}
    for ax, columns in zip(axes[0], has):
        for column in columns:
            ax.plot(history["epoch"], history[column], marker=".", color=PALETTE[colours[column]],
                    label=column.replace("_", " "))
        ax.set(xlabel="epoch", ylabel=titles[columns[0]], xticks=history["epoch"])
        ax.set_ylim(bottom=0)
        ax.legend(fontsize="small")
    return fig
