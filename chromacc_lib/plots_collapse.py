"""Figures of the diagnosis: one table, checks as traffic lights, what stands behind them, and the collapse zoo."""

from collections.abc import Sequence
from html import escape

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from chromacc_lib.collapse import Diagnosis
from chromacc_lib.plots_style import PALETTE, Markup

__all__ = [
    "VERDICT_COLOURS", "checks_table", "diagnosis_table", "plot_checks", "plot_confusion", "plot_gallery",
    "plot_inside", "plot_label_signal", "plot_modality_drop", "plot_offset_scan", "plot_prediction_distributions",
    "plot_quadrants", "plot_training_health", "plot_variance_ratio",
]

VERDICT_COLOURS = {"ok": "#009E73", "warn": "#E69F00", "fail": "#D55E00", "not run": "#BBBBBB"}  # always with the word


def checks_table(checks: pd.DataFrame) -> Styler:
    """Return the checks of a diagnosis as an HTML table, verdicts coloured and in words; see `Diagnosis.table`."""
    shown = checks[["group", "name", "verdict", "value", "sentence", "rule"]]
    return (shown.style.hide(axis="index").format({"value": "{:.3g}"}, na_rep="").set_properties(
        **{"text-align": "left", "vertical-align": "top", "white-space": "normal"}).map(
        lambda verdict: f"background-color: {VERDICT_COLOURS[verdict]}; color: black", subset=["verdict"])
        .set_table_styles([{"selector": "th", "props": "text-align: left"}]))


def diagnosis_table(diagnosis: Diagnosis) -> Styler:
    """Return a diagnosis as one HTML table: verdict, cause, what speaks for it and against the others, what to do next."""

    def listed(sentences: Sequence[str]) -> str:
        """Sentences as HTML, one a line."""
        return "<br>".join(f"• {escape(sentence)}" for sentence in sentences) or "–"

    against = diagnosis.evidence_against
    folded = f"<details><summary>{len(against)} other causes ruled out (click)</summary>{listed(against)}</details>"
    rows = {
        "verdict": escape(diagnosis.verdict), "most likely cause": escape(diagnosis.cause or "none"),
        "confidence": escape(diagnosis.confidence), "what speaks for it": listed(diagnosis.evidence),
        "what speaks against others": folded if against else "–",
    }
    if diagnosis.alternatives:
        rows["could also be"] = listed(diagnosis.alternatives)
    rows["what to do next"] = escape(diagnosis.next_step)
    colour = {"healthy": "ok", "collapsed": "fail", "underperforming": "warn"}.get(diagnosis.verdict, "not run")
    table = pd.DataFrame({"": list(rows), "diagnosis": pd.Series(list(map(Markup, rows.values())), dtype=object)})
    styles = [{"selector": "th", "props": "text-align: left"}]
    return (table.style.hide(axis="index").set_table_styles(styles)
            .set_properties(**{"text-align": "left", "vertical-align": "top", "white-space": "normal"})
            .set_properties(subset=([0], ["diagnosis"]), **{"background-color": VERDICT_COLOURS[colour], "color": "black"}))


def plot_checks(checks: pd.DataFrame, title: str) -> Figure:
    """Draw the checks of a diagnosis as traffic lights with words, in two columns; columns group, name, verdict, value."""
    half = -(-len(checks) // 2)
    fig, axes = plt.subplots(1, 2, figsize=(11, 0.25 * half + 0.7))
    for ax, part in zip(axes, (checks.iloc[:half], checks.iloc[half:])):
        _traffic_lights(ax, part)
        ax.set(xlim=(0, 5.5), ylim=(-half + 0.4, 1.5))
        ax.axis("off")
    axes[0].set_title(title, loc="left")
    return fig


def _traffic_lights(ax: Axes, checks: pd.DataFrame) -> None:
    """Draw one line a check; a rule and the group's name where a group begins."""
    previous = None
    for row, check in enumerate(checks.itertuples()):
        y = -row
        ax.add_patch(plt.Rectangle((3.9, y - 0.42), 0.75, 0.84, color=VERDICT_COLOURS[check.verdict], lw=0))
        ax.text(4.275, y, check.verdict, ha="center", va="center", color="black", fontsize="small")
        ax.text(1.35, y, check.name, va="center", fontsize="small")
        ax.text(4.75, y, f"{check.value:.3g}" if np.isfinite(check.value) else "", va="center", fontsize="small")
        if check.group != previous:
            ax.axhline(y + 0.5, color=PALETTE["mean"], lw=0.7)
            ax.text(0, y, check.group, va="center", weight="bold", fontsize="small")
        previous = check.group
    for x, head in ((0, "group"), (1.35, "check"), (3.9, "verdict"), (4.75, "value")):
        ax.text(x, 1, head, va="center", color="#555555", fontsize="small")


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


def plot_label_signal(checks: dict[str, tuple[float, np.ndarray]], floor: dict[str, float] | None = None) -> Figure:
    """Draw, for each check name, the ridge's r against what permuted labels reach: name -> (r, null).

    floor: r of ridge, boosting and the model on the headline rows, in a panel of its own.
    """
    fig, axes = plt.subplots(1, len(checks) + bool(floor), figsize=(3.9 * (len(checks) + bool(floor)), 2.9), squeeze=False)
    for ax, (name, (r, null)) in zip(axes[0], checks.items()):
        ax.hist(null, 25, color=PALETTE["mean"], label="permuted labels")
        ax.axvline(r, color=PALETTE["ridge"], lw=2, label=f"labels as they are: {r:.2f}")
        ax.set(title=name, xlabel="r on chromosomes not seen (ridge)", ylabel="permutations")
        ax.legend(fontsize="small")
    if floor:
        names = ("ridge", "boosting", "model")
        bars = axes[0, -1].bar(names, [floor[name] for name in names], color=[PALETTE[name] for name in names])
        axes[0, -1].bar_label(bars, fmt="%.2f", fontsize="small")
        axes[0, -1].set(title="floor", ylabel="r on the headline rows", ylim=(min(0, *floor.values()), 1.1))
    return fig


def plot_offset_scan(tracks: dict[str, dict[float, float]], chromosomes: dict[str, dict[float, float]] | None = None) -> Figure:
    """Draw how tracks agree with accessibility at each shift, {name: {shift in bp: agreement}}.

    tracks: r of profiles within windows, by track. chromosomes: of window means with those of windows further on, by
    chromosome, in a second panel.
    """
    panels = [(tracks, "within windows", "r of profiles")]
    if chromosomes:
        panels.append((chromosomes, "from window to window", "agreement of window means (r)"))
    fig, axes = plt.subplots(1, len(panels), figsize=(1.4 + 4.6 * len(panels), 3.2), squeeze=False)
    for ax, (curves, title, label) in zip(axes[0], panels):
        for i, (name, curve) in enumerate(curves.items()):
            shifts = sorted(curve)      # a dash a round of the colours, so that no two curves look alike
            style = ("-", "--", ":")[i // 7 % 3]
            ax.plot(shifts, [curve[s] for s in shifts], style, marker="." if len(shifts) < 40 else "", label=name)
        ax.axvline(0, color=PALETTE["mean"], lw=0.8)
        ax.set(title=title, xlabel="shift of labels against inputs (bp)", ylabel=label)
        ax.legend(fontsize="x-small", bbox_to_anchor=(1, 1), loc="upper left", ncols=1 + len(curves) // 14)
    return fig


def plot_modality_drop(rise: dict[str, float], masked: dict[str, float], shuffled: dict[str, float]) -> Figure:
    """Draw what masking and shuffling each modality does: rise in squared error (share of the scores' variance) when it
    is masked, and RMS change of the prediction (share of their std) when it is masked, and when it is shuffled.
    """
    panels = {"squared error rises, masked\n(share of the scores' variance)": rise,
              "prediction changes, masked\n(RMS, share of the scores' std)": masked,
              "prediction changes, shuffled\n(RMS, share of the scores' std)": shuffled}
    fig, axes = plt.subplots(1, len(panels), figsize=(10.5, 0.4 * len(rise) + 1.2), sharey=True)
    for ax, (title, values) in zip(axes, panels.items()):
        bars = ax.barh(list(values), list(values.values()), color=PALETTE["model"])
        ax.bar_label(bars, fmt="%.3f", padding=2, fontsize="small")
        ax.axvline(0, color="black", lw=0.8)
        ax.margins(x=0.2)
        ax.set_xlabel(title)
    axes[0].set_ylabel("modality")
    axes[0].invert_yaxis()
    return fig


def plot_inside(similarity: dict[str, float], entropy: dict[str, float], spectrum: np.ndarray) -> Figure:
    """Draw token similarity and attention entropy by layer ('<stack> <layer>' -> value), and the embeddings' spectrum.

    spectrum: eigenvalues of the covariance of the pooled embeddings, the largest first.
    """
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    for ax, values, label in ((axes[0], similarity, "cosine similarity of tokens"),
                              (axes[1], entropy, "attention entropy (share of largest)")):
        for stack, name in (("sequence", "average"), ("encoder", "model")):
            layers = {int(key.split()[-1]): value for key, value in values.items() if key.startswith(stack)}
            ax.plot(list(layers), list(layers.values()), marker="o", color=PALETTE[name], label=f"{stack} layers")
        deepest = max((int(key.split()[-1]) for key in values), default=1)
        ax.set(xlabel="layer", ylabel=label, xticks=range(1, 1 + deepest), ylim=(min(0, *values.values()), 1.02))
        ax.legend(fontsize="small")
    share = np.asarray(spectrum, float) / max(float(np.sum(spectrum)), 1e-30)
    axes[2].semilogy(np.arange(1, len(share) + 1), np.maximum(share, 1e-12), marker=".", color=PALETTE["model"])
    axes[2].set(xlabel="direction of the pooled embedding", ylabel="share of variance")
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


# --- the collapse zoo ------------------------------------------------------------------------------------------
NAMED_COLOURS = {"named first": "#009E73", "named beside others": "#E69F00", "missed": "#D55E00"}  # and other marks


def plot_confusion(counts: pd.DataFrame) -> Figure:
    """Draw the number of cases by planted cause (rows) and named cause (columns); see `zoo.confusion`."""
    size = (3.4 + 0.3 * counts.shape[1], 2.6 + 0.25 * counts.shape[0])
    fig, ax = plt.subplots(figsize=size)
    share = counts.div(counts.sum(axis=1), axis=0)
    words = counts.astype(str).where(counts > 0, "")
    sns.heatmap(share, annot=words, fmt="", cmap="cividis", vmin=0, vmax=1, ax=ax, linewidths=0.5, linecolor="white",
                annot_kws={"fontsize": "x-small"}, cbar_kws={"label": "share of the planted cases", "shrink": 0.5},
                xticklabels=True, yticklabels=True)
    ax.set(xlabel="named cause", ylabel="planted cause")
    ax.tick_params(labelsize="x-small")
    return fig


def plot_gallery(table: pd.DataFrame) -> Figure:
    """Draw every case of the zoo: a line a fault, a square a strength and seed, coloured by whether its cause was named.

    table: rows of zoo.csv. Named beside others: among `alternatives`.
    """
    faults = list(dict.fromkeys(table["fault"]))
    columns = sorted(set(zip(table["strength"], table["seed"])))
    fig, ax = plt.subplots(figsize=(4.4 + 0.22 * len(columns), 1.4 + 0.24 * len(faults)))
    marks = {"named first": "s", "named beside others": "D", "missed": "X"}
    beside = [planted in str(others).split("; ") for planted, others in zip(table["planted"], table["alternatives"])]
    outcome = np.where(table["named_first"].astype(bool), "named first", np.where(beside, "named beside others", "missed"))
    for name, shade in NAMED_COLOURS.items():
        rows = table[outcome == name]
        x = [columns.index(case) for case in zip(rows["strength"], rows["seed"])]
        ax.scatter(x, [faults.index(fault) for fault in rows["fault"]], marker=marks[name], s=46, color=shade,
                   label=f"{name} ({len(rows)})")
    ax.set_yticks(range(len(faults)), faults, fontsize="small")
    ax.set_xticks(range(len(columns)), [f"{strength}·{seed}" for strength, seed in columns], fontsize="x-small", rotation=90)
    ax.set(ylim=(len(faults) - 0.5, -0.5), xlabel="strength · seed (strength 0: nothing planted)")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize="small")
    return fig
