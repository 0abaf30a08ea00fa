"""Figures of the evaluation: predicted against measured, curves, intervals, calibration, loci."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sk

from chromacc_lib.plots_style import PALETTE

__all__ = [
    "plot_assay_worth", "plot_calibration", "plot_error_by_distance", "plot_error_by_spread", "plot_intervals",
    "plot_loci", "plot_predicted_measured", "plot_roc_pr",
]

_PREDICTORS = {"model": "model", "average": "average", "training_mean": "mean", "gc_content": "mean", "kmer": "mean",
               "nearest": "nearest", "ridge": "ridge", "like_cell_types": "nearest", "boosting": "boosting",
               "boosting_with_average": "boosting_with_average", "boosting_with_like_cell_types": "boosting_with_average"}
MAX_CELL_TYPES = 4  # drawn side by side; further ones are in the tables
_METRICS = {"pr_auc": "AUPRC", "mse": "MSE", "skill": "skill"}


def _predictor_colour(name: str) -> str:
    """Return the colour of a predictor; what is not one (a quadrant, a cell type) is drawn as the model."""
    return PALETTE[_PREDICTORS.get(name, "model")]


def _words(name: str) -> str:
    """Return a predictor or a quadrant in words; any other name, such as a cell type's, stays as it is."""
    return name.replace("_x_", " × ").replace("_", " ") if name in _PREDICTORS or "_x_" in name else name


def plot_predicted_measured(rows: pd.DataFrame) -> Figure:
    """Hexagons of predicted against measured score: the average above, the model below, one column a cell type.

    With a single cell type they stand side by side.

    rows: cell_type, score, average_score, predicted_score; the first `MAX_CELL_TYPES` cell types by name are drawn.
    """
    cells = sorted(rows["cell_type"].unique())[:MAX_CELL_TYPES]
    predictors = {"average": "average_score", "model": "predicted_score"}
    values = rows.loc[rows["cell_type"].isin(cells), ["score", *predictors.values()]].to_numpy()
    low, high = values.min(), values.max()
    n_rows, n_columns = (2, len(cells)) if len(cells) > 1 else (1, 2)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=(3.2 * n_columns + 1, 3.1 * n_rows), squeeze=False, sharex=True,
                             sharey=True)
    axes = axes.reshape(2, -1)  # (predictors, cell types)
    for (predictor, column), line in zip(predictors.items(), axes, strict=True):
        for cell, ax in zip(cells, line, strict=True):
            some = rows[rows["cell_type"] == cell]
            drawn = ax.hexbin(some["score"], some[column], gridsize=35, bins="log", mincnt=1,
                              extent=(low, high, low, high))
            ax.plot([low, high], [low, high], color=PALETTE["mean"], linewidth=1)
            mse = float(((some["score"] - some[column]) ** 2).mean())
            ax.set_title(f"{cell}: {predictor}\nMSE {mse:.3f}", color=_predictor_colour(predictor))
        line[0].set_ylabel(f"{predictor}\n(arcsinh fold)")
        fig.colorbar(drawn, ax=list(line), label="windows", shrink=0.8)
    for ax in axes[-1] if len(cells) > 1 else axes.ravel():
        ax.set_xlabel("measured score (arcsinh fold)")
    return fig


def plot_roc_pr(rows: pd.DataFrame) -> Figure:
    """ROC and precision-recall curves, pooled (thick) and for each cell type (thin), of the model and the average.

    rows: cell_type, label (-1 is left out), predicted_probability, average_score. The dotted line is the base rate.
    """
    rows = rows[rows["label"] >= 0]
    fig, (roc, pr) = plt.subplots(1, 2, figsize=(9.5, 4.2))
    for name, column in (("average", "average_score"), ("model", "predicted_probability")):
        for cell, some in [("", rows), *rows.groupby("cell_type")]:
            style = {"color": PALETTE[name], "linewidth": 0.8 if cell else 2.2, "alpha": 0.5 if cell else 1}
            fpr, tpr, _ = sk.roc_curve(some["label"], some[column])
            precision, recall, _ = sk.precision_recall_curve(some["label"], some[column])
            roc.plot(fpr, tpr, label=None if cell else f"{name}, AUROC {sk.auc(fpr, tpr):.3f}", **style)
            area = sk.average_precision_score(some["label"], some[column])
            pr.plot(recall, precision, label=None if cell else f"{name}, AUPRC {area:.3f}", **style)
    base = rows["label"].mean()
    roc.plot([0, 1], [0, 1], ":", color=PALETTE["mean"], label="chance")
    pr.axhline(base, linestyle=":", color=PALETTE["mean"], label=f"base rate {base:.3f}")
    roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    pr.set(title="Precision and recall", xlabel="recall", ylabel="precision", ylim=(0, 1.02))
    for ax in (roc, pr):
        ax.legend(loc="lower right" if ax is roc else "lower left", fontsize=9, frameon=True, edgecolor="none")
    return fig


def plot_intervals(panels: dict[str, dict[str, dict]], xlabels: dict[str, str], reference: float = 0.0) -> Figure:
    """Points with 95% intervals, one panel an entry of `panels`, one line a name; a vertical line at `reference`.

    panels: {title: {name: {"value", "low", "high"}}}. xlabels: {title: label with unit}. A name whose value is
    undefined is written as such; without an interval the point stands alone.
    """
    names = list(dict.fromkeys(name for entries in panels.values() for name in entries))
    size = (4.4 * len(panels) + 1.6, 0.42 * len(names) + 1.3)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True)
    for ax, (title, entries) in zip(axes[0], panels.items(), strict=True):
        ax.axvline(reference, color=PALETTE["mean"], linewidth=1)
        for name, entry in entries.items():
            y = names.index(name)
            value, low, high = (entry.get(key) for key in ("value", "low", "high"))
            if value is None or not np.isfinite(value):
                ax.text(reference, y, " undefined", va="center", color=PALETTE["mean"], fontsize=9)
                continue
            ax.plot(value, y, "o", color=_predictor_colour(name))
            if low is not None and np.isfinite([low, high]).all():
                ax.plot([low, high], [y, y], color=_predictor_colour(name), linewidth=2)
        ax.set(title=title, xlabel=xlabels[title])
    axes[0, 0].set_yticks(range(len(names)), [_words(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    return fig


def plot_error_by_spread(table: pd.DataFrame) -> Figure:
    """Mean squared error of every predictor against how much a window varies between training cell types.

    table: index = mean standard deviation over training cell types in each group of windows, one column a predictor.
    """
    fig, ax = plt.subplots(figsize=(7.5, 4))
    for name in table:
        ax.plot(table.index, table[name], "o-", color=_predictor_colour(name), label=_words(name), markersize=4)
    ax.set(title="Where the error is", xlabel="spread between training cell types (sd of the score, arcsinh fold)",
           ylabel="mean squared error", ylim=(0, None))
    ax.legend(fontsize=9)
    return fig


def plot_assay_worth(table: pd.DataFrame, metric: str = "pr_auc") -> Figure:
    """What each assay adds, with 95% intervals: one panel a cell type, one line an assay, in the first panel's order.

    Filled: added to all others that are there; open: added first. table: `assays.worth_table`; metric: pr_auc, mse or
    skill. At most `MAX_CELL_TYPES` + 1 panels. An assay that a cell type lacks has no point; what is undefined is said.
    """
    panels = list(dict.fromkeys(table["cell_type"]))[: MAX_CELL_TYPES + 1]
    order = list(dict.fromkeys(table["assay"]))
    size = (2.9 * len(panels) + 1.6, 0.42 * len(order) + 1.7)
    fig, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, sharex=True)
    styles = {"": ("added to all others", PALETTE["model"], -0.12), "first_": ("added first", PALETTE["mean"], 0.12)}
    for ax, (cell, rows) in zip(axes[0], table.groupby("cell_type", sort=False), strict=False):
        ax.axvline(0, color="black", linewidth=0.8)
        for prefix, (_, shade, offset) in styles.items():
            for row in rows.to_dict("records"):
                y = order.index(row["assay"]) + offset
                value, low, high = (row[f"{prefix}{metric}{end}"] for end in ("", "_low", "_high"))
                if np.isfinite(value):
                    ax.plot(value, y, "o", color=shade, markerfacecolor="white" if prefix else shade)
                elif not prefix:
                    ax.text(0, y, " undefined", va="center", color=PALETTE["mean"], fontsize=9)
                ax.plot([low, high], [y, y], color=shade, linewidth=1.5, zorder=0)
        ax.set(title=cell, xlabel=f"{_METRICS[metric]}, with minus without")
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    handles = [plt.Line2D([], [], color=shade, marker="o", markerfacecolor="white" if prefix else shade, label=label)
               for prefix, (label, shade, _) in styles.items()]
    fig.legend(handles=handles, ncol=2, loc="outside upper center", fontsize=9)
    return fig


def plot_calibration(curves: dict[str, dict], after: dict[str, dict] | None = None) -> Figure:
    """Reliability curves: how often a window is open against the probability predicted for it, one curve a name.

    curves: {name: result of calibration.reliability}; after: the same, recalibrated, drawn in a second panel. The
    diagonal is perfect calibration; dots grow with windows.
    """
    panels = {"Calibration": curves} if after is None else {"As predicted": curves, "Recalibrated": after}
    fig, axes = plt.subplots(1, len(panels), figsize=(5.4 * len(panels), 5), squeeze=False, sharey=True)
    for ax, (title, entries) in zip(axes[0], panels.items(), strict=True):
        ax.plot([0, 1], [0, 1], ":", color=PALETTE["mean"], label="perfectly calibrated")
        for shade, (name, curve) in zip(sns.color_palette("colorblind", len(entries)), entries.items(), strict=True):
            bins = pd.DataFrame(curve["bins"])
            label = f"{name}, ECE {curve['expected_calibration_error']:.3f}, Brier {curve['brier']:.3f}"
            ax.plot(bins["predicted"], bins["observed"], color=shade, label=label)
            ax.scatter(bins["predicted"], bins["observed"], s=8 + 200 * bins["n"] / bins["n"].sum(), color=shade)
        ax.set(title=title, xlabel="predicted probability of being open", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=8)
    axes[0, 0].set_ylabel("share of windows that are open")
    return fig


def plot_error_by_distance(table: pd.DataFrame, threshold: float) -> Figure:
    """Error of the model against how far a cell type's inputs lie from training, a named dot a cell type.

    table: cell_type, split, distance, mse, skill (`table` of distance.input_distance); what is not known is not drawn.
    threshold: right of it, a cell type is called far.
    """
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharex=True)
    labels = {"mse": "mean squared error on unseen chromosomes", "skill": "skill over the average there"}
    for ax, (error, label) in zip(axes, labels.items(), strict=True):
        for split, some in table.groupby("split", sort=False):
            ax.scatter(some["distance"], some[error], color=PALETTE[split], label=split)
        for cell in table[table["split"] != "train"].dropna(subset=["distance", error]).itertuples():
            ax.annotate(cell.cell_type, (cell.distance, getattr(cell, error)), xytext=(5, 4),
                        textcoords="offset points", fontsize="small")
        if np.isfinite(threshold):
            ax.axvline(threshold, color=PALETTE["mean"], ls=":", label="far from here on")
        ax.set(xlabel="distance of the inputs from the nearest training cell type (sd)", ylabel=label)
    axes[0].legend(fontsize="small")
    return fig


def plot_loci(loci: dict[str, pd.DataFrame], tracks: dict[str, dict[str, np.ndarray]],
              track_names: Sequence[str]) -> Figure:
    """Browser-like panel: profiles of a few loci (columns) in a few cell types (rows), the input tracks under each.

    loci: {title: table with columns cell_type, bp (from the window's start), measured, average, model}, arcsinh fold.
    tracks: {title: {cell type: shape=(tracks, bins), z of the model's input, NaN = missing}}.
    """
    cells = list(next(iter(tracks.values())))[:MAX_CELL_TYPES]
    below_height = max(1.0, 0.14 * len(track_names))  # inches, so that every track's name can be read
    fig, axes = plt.subplots(
        2 * len(cells), len(loci), figsize=(4 * len(loci) + 1, (2.6 + below_height) * len(cells)), squeeze=False, sharex=True,
        height_ratios=[1.7, below_height] * len(cells),
    )
    for column, (title, table) in enumerate(loci.items()):
        for row, cell in enumerate(cells):
            above, below = axes[2 * row, column], axes[2 * row + 1, column]
            _locus_profile(above, table[table["cell_type"] == cell])
            above.set_ylim(0, 1.05 * table[["measured", "average", "model"]].to_numpy().max())
            above.set_title(f"{title}\n{cell}" if row == 0 else cell)
            ends = (0, table["bp"].max() + table["bp"].min(), len(track_names) - 0.5, -0.5)
            image = below.imshow(tracks[title][cell], aspect="auto", extent=ends, vmin=-3, vmax=3, cmap="PuOr_r",
                                 interpolation="nearest")
            below.set_facecolor("#dddddd")  # shows through where an assay is missing
            below.set_yticks(range(len(track_names)), track_names if column == 0 else [], fontsize=7)
            if column == 0:
                above.set_ylabel("arcsinh fold")
        axes[-1, column].set_xlabel("bp from the window's start")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    fig.colorbar(image, ax=list(axes[:, -1]), label="input signal (z; grey = missing)", shrink=0.5)
    return fig


def _locus_profile(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the measured profile as an area, the average and the model as lines."""
    ax.fill_between(table["bp"], table["measured"], step="mid", color="#bbbbbb", label="measured")
    for name in ("average", "model"):
        ax.plot(table["bp"], table[name], color=PALETTE[name], linewidth=2, label=name)
