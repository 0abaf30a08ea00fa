"""Figures of runs side by side: how far each is ahead of the first, and where it stands in each cell type."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chromacc_lib.plots_style import PALETTE

__all__ = ["MAX_CELL_TYPES", "plot_ahead", "plot_runs_by_cell_type"]

MAX_CELL_TYPES = 12  # drawn; further ones are in the table
_COLOURS = ("model", "average", "truth", "boosting", "ridge", "nearest", "mean")
_MARKERS = "osD^v<>"


def plot_ahead(entries: Mapping[str, dict], first: str) -> Figure:
    """What each run is ahead of the first, with 95% intervals: error (skill) at the left, AUPRC at the right.

    entries: of `compare.Comparison`, without the first; a run without AUPRC has no point there.
    """
    panels = {f"skill over {first}\n(1 - MSE / its MSE)": [entry["skill_over_first"] for entry in entries.values()]}
    gains = [entry["pr_auc"]["difference"] if "pr_auc" in entry else None for entry in entries.values()]
    if any(gains):
        panels[f"AUPRC, minus that of {first}"] = gains
    fig, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 1.3 + 0.45 * len(entries)), squeeze=False, sharey=True)
    for (title, estimates), ax in zip(panels.items(), axes[0], strict=True):
        for y, estimate in enumerate(estimates):
            if estimate is not None:
                _point(ax, estimate, y, PALETTE["model"], "o")
        ax.axvline(0, color=PALETTE["mean"], linewidth=1, zorder=0)
        ax.set_xlabel(_text(title))
    axes[0, 0].set_yticks(range(len(entries)), [_text(name) for name in entries])
    axes[0, 0].set_ylim(len(entries) - 0.5, -0.5)
    return fig


def plot_runs_by_cell_type(per_cell_type: Mapping[str, Mapping[str, dict]]) -> Figure:
    """Skill over the average of every run in every cell type, with 95% intervals; the first `MAX_CELL_TYPES` by name.

    per_cell_type: {cell type: {run: {"skill": {"value", "low", "high"}}}}.
    """
    cells = list(per_cell_type)[:MAX_CELL_TYPES]
    names = list(per_cell_type[cells[0]])
    fig, ax = plt.subplots(figsize=(8, 1.4 + len(cells) * (0.3 + 0.16 * len(names))))
    for j, name in enumerate(names):
        style = {"colour": PALETTE[_COLOURS[j % len(_COLOURS)]], "marker": _MARKERS[j % len(_MARKERS)]}
        for y, cell in enumerate(cells):
            _point(ax, per_cell_type[cell][name]["skill"], y + 0.6 * ((j + 0.5) / len(names) - 0.5), **style,
                   label=_text(name) if y == 0 else None)  # fmt: skip
    ax.axvline(0, color=PALETTE["mean"], linewidth=1, zorder=0)
    ax.set_yticks(range(len(cells)), [_text(cell) for cell in cells])
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.set_xlabel("skill over the training-cell-type average (1 - MSE / its MSE)")
    fig.legend(loc="outside upper center", ncols=min(4, len(names)))
    return fig


def _point(ax: Axes, estimate: Mapping[str, float], y: float, colour: str, marker: str, label: str | None = None) -> None:
    """Draw a value and, where it has one, its interval."""
    if np.isfinite(estimate["low"]):
        ax.plot([estimate["low"], estimate["high"]], [y, y], color=colour, linewidth=2)
    ax.plot([estimate["value"]], [y], marker, color=colour, markersize=6, label=label)


def _text(name: str) -> str:
    """Return a name from outside as matplotlib draws it literally: a dollar sign begins no formula."""
    return name.replace("$", r"\$")
