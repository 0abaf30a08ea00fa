"""One look for all figures: a colour-blind-safe palette with fixed meanings, and alt text with every figure shown."""

import base64
import io
from copy import copy
from html import escape

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from chromacc_lib import ChromaccError

__all__ = ["PALETTE", "Markup", "colour", "png", "show", "table_html", "use_style"]

# Okabe & Ito (2008), "Color Universal Design": told apart under every common colour vision deficiency.
# Colours have fixed meanings across notebooks, so that a reader learns them once.
PALETTE: dict[str, str] = {
    "model": "#0072B2",          # blue: what our model predicts
    "average": "#E69F00",        # orange: the training-cell-type average at the same locus
    "measured": "#000000",       # black: what was measured
    "truth": "#009E73",          # green: noise-free truth, simulated data only
    "boosting": "#CC79A7",       # purple: gradient boosting
    "boosting_with_average": "#882255",  # dark red: gradient boosting that also sees the average (Paul Tol)
    "boosting_with_like_cell_types": "#332288",  # indigo: gradient boosting that also sees like cell types (Paul Tol)
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
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(Styler, table_html)


class Markup(str):
    """Text that is HTML already, and is shown as such in a table."""


class _AsText(Styler):
    """A styled table that escapes what it shows: pandas fills it into its template as it is."""

    def _translate(self, *options: object, **named: object) -> dict:
        content = super()._translate(*options, **named)
        for cell in (cell for row in (*content["head"], *content["body"]) for cell in row):
            if cell["display_value"] != "&nbsp;" and not isinstance(cell["value"], Markup):
                cell["display_value"] = escape(str(cell["display_value"]))
        if content.get("caption"):
            content["caption"] = escape(str(content["caption"]))
        return content


def table_html(table: Styler) -> str:
    """Return the HTML of a styled table, all that it shows as text: names of cell types come from the user.

    What is meant as HTML is `Markup`, in a column of objects.
    """
    shown = copy(table)
    shown.__class__ = _AsText
    return shown.to_html()


def show(fig: Figure, alt: str, width: int | None = None) -> None:
    """Display a figure as PNG with its alt text, then close it.

    alt: what a reader who cannot see the figure has to know, one or two sentences.
    width: display width in CSS pixels; None keeps the figure's own width.
    Raises ChromaccError when `alt` is empty.
    """
    if not alt.strip():
        raise ChromaccError("plots.show: alt text is empty; say in one or two sentences what the figure shows")
    image = png(fig)
    metadata: dict[str, str | int] = {"alt": alt} if width is None else {"alt": alt, "width": width}
    display({"image/png": image, "text/plain": alt}, raw=True, metadata={"image/png": metadata})


def png(fig: Figure) -> str:
    """Return a figure as PNG, in base64, and close it if it is one of pyplot's.

    A figure that was made without pyplot may be drawn in any thread: what pyplot shares is not touched.
    """
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=FIGURE_DPI, bbox_inches="tight", facecolor="white")
    if fig.canvas.manager is not None:
        plt.close(fig)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
