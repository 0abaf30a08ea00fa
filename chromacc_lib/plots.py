"""Figures of the notebooks: one style, one colour-blind-safe palette, and alt text with every figure.

Every `plot_*` function takes tables or arrays, draws, and returns a matplotlib Figure; `show` displays it.
This is the only module that imports matplotlib or seaborn.
"""

import base64
import io
from collections.abc import Sequence

import logomaker
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler
from sklearn import metrics as sk
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from chromacc_lib import ChromaccError
from chromacc_lib.matching import COVARIATES

__all__ = [
    "checks_table", "colour", "PALETTE", "plot_assay_worth", "plot_attention_summary", "plot_branch_gradients",
    "plot_browser", "plot_calibration", "plot_cell_type_correlation", "plot_checks", "plot_contribution_track",
    "plot_embeddings", "plot_error_by_distance", "plot_error_by_spread", "plot_input_distance",
    "plot_input_rise", "plot_intervals", "plot_knockouts", "plot_label_signal", "plot_learning", "plot_loci",
    "plot_marginals", "plot_match", "plot_modality_drop", "plot_motif_logos", "plot_normalizations",
    "plot_observed", "plot_offset_scan", "plot_openness", "plot_predicted_measured",
    "plot_prediction_distributions", "plot_pretraining", "plot_quadrants", "plot_roc_pr", "plot_scale",
    "plot_splits", "plot_training_health", "plot_variance_ratio", "plot_window_tracks", "show", "use_style",
]

# Okabe & Ito (2008), "Color Universal Design": told apart under every common colour vision deficiency.
# Colours have fixed meanings across notebooks, so that a reader learns them once.
PALETTE: dict[str, str] = {
    "model": "#0072B2",          # blue: what our model predicts
    "average": "#E69F00",        # orange: the training-cell-type average at the same locus
    "measured": "#000000",       # black: what was measured
    "truth": "#009E73",          # green: noise-free truth, simulated data only
    "boosting": "#CC79A7",       # purple: gradient boosting
    "boosting_with_average": "#882255",  # dark red: gradient boosting that also sees the average (Paul Tol)
    "ridge": "#D55E00",          # vermilion: ridge regression
    "nearest": "#56B4E9",        # sky blue: nearest training cell type
    "mean": "#999999",           # grey: what knows nothing of the cell type, base rates, reference lines
    "train": "#0072B2",
    "validation": "#E69F00",
    "test": "#D55E00",
    "A": "#009E73", "C": "#0072B2", "G": "#E69F00", "T": "#D55E00",
}
FIGURE_DPI = 110  # sharp at the width of a notebook's text, and still small in a shared HTML file


def colour(name: str) -> str:
    """Return the shared colour for `name`, a key of `PALETTE`; raise ChromaccError for an unknown name."""
    if name not in PALETTE:
        raise ChromaccError(f"plots: no colour is called {name!r}; known names: {', '.join(PALETTE)}")
    return PALETTE[name]


def use_style() -> None:
    """Set the look of all figures of a notebook; call it once, in the cell after the parameters."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    cycle = [PALETTE[name] for name in ("model", "average", "truth", "boosting", "ridge", "nearest", "mean")]
    plt.rcParams.update({
        "axes.prop_cycle": plt.cycler(color=cycle), "axes.spines.top": False, "axes.spines.right": False,
        "axes.titleweight": "bold", "axes.titlesize": "medium", "legend.frameon": False, "image.cmap": "cividis",
        "figure.dpi": FIGURE_DPI, "figure.constrained_layout.use": True,
    })


def show(fig: Figure, alt: str, width: int | None = None) -> None:
    """Display a figure as PNG with its alt text, then close it.

    alt: what a reader who cannot see the figure has to know, one or two sentences.
    width: display width in CSS pixels; None keeps the figure's own width.
    Raises ChromaccError when `alt` is empty.
    """
    if not alt.strip():
        raise ChromaccError("plots.show: alt text is empty; say in one or two sentences what the figure shows")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=FIGURE_DPI, bbox_inches="tight", facecolor="white")
    plt.close(fig)
    metadata: dict[str, str | int] = {"alt": alt} if width is None else {"alt": alt, "width": width}
    bundle = {"image/png": base64.b64encode(buffer.getvalue()).decode("ascii"), "text/plain": alt}
    display(bundle, raw=True, metadata={"image/png": metadata})


# --- figures of one notebook each; every builder appends below -----------------------------------------------


# --- 01_data_curation ----------------------------------------------------------------------------------------


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


# --- 04_collapse_diagnostics ---------------------------------------------------------------------------------

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


# --- 03_evaluation -------------------------------------------------------------------------------------------
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


# --- 02_training ---------------------------------------------------------------------------------------------
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


# --- 06_prediction ------------------------------------------------------------------------------------------
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


# --- 05_interpretation ---------------------------------------------------------------------------------------
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
