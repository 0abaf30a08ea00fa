"""What the pages share: templates that need nothing from the web, and results as text that people read."""

import json
import math
from pathlib import Path

import jinja2

from chromacc_lib import ChromaccError

__all__ = ["BANNERS", "environment", "interval", "label", "limits", "number", "plain", "read_json", "signed", "words"]

TEMPLATES = Path(__file__).resolve().parent / "templates"
BANNERS = {
    True: "SIMULATED DATA: a made-up genome with a known answer. It says nothing about biology.",
    False: "REAL DATA: measured tracks.",
    None: "SIMULATED OR REAL IS NOT KNOWN: the run is unfinished, or its parts do not agree.",
}
LABELS = {
    "skill": "skill over the average", "mse": "mean squared error", "pearson": "Pearson's r", "spearman": "Spearman's ρ",
    "residual_pearson": "Pearson's r, average removed", "roc_auc": "AUROC", "pr_auc": "AUPRC",
    "pr_auc_gain": "AUPRC above the average's", "base_rate": "share of open windows",
    "std_ratio": "spread, predicted / measured", "f1": "F1", "average": "training-cell-type average",
    "gc_content": "GC content", "kmer": "k-mers", "nearest": "nearest training cell type", "matched_tf": "matched TF",
    "n_seqlets": "seqlets", "p_adjusted": "p, adjusted", "expressed_tf": "expressed TF", "follows_tf": "follows its TF",
}  # fmt: skip
SMALL = 1e-4  # numbers below it are written with an exponent


def environment() -> jinja2.Environment:
    """Return the templates: what they insert is escaped, and what is not given is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {f.__name__: f for f in (interval, label, limits, number, plain, signed, words)}
    return made


def words(name: object) -> str:
    """Return an identifier as words: unseen_cell_type_x_unseen_chromosome -> unseen cell type × unseen chromosome."""
    return str(name).replace("_x_", " × ").replace("_", " ")


def label(name: object) -> str:
    """Return what a metric, a baseline or a column is called in a table."""
    return LABELS.get(str(name), words(name))


def number(value: object) -> str:
    """Return a number with three significant digits, anything else as text; None and NaN are "not known"."""
    if value is None or value != value:
        return "not known"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return (f"{value:,}" if isinstance(value, int) else f"{value:.3g}").replace("-", "−", value < 0)


def interval(entry: object, sign: str = "") -> str:
    """Return "value [low, high]" of an estimate, all three to the same decimal place, or the number alone without them.

    sign: "+" = also before what is above 0. What is no estimate is given as `plain` does.
    """
    if not isinstance(entry, dict) or "value" not in entry:
        return plain(entry)
    value, *limits = _rounded(entry, sign)
    return f"{value} [{', '.join(limits)}]" if limits else value


def signed(entry: object) -> str:
    """Return an estimate of a difference as `interval` does, with its sign."""
    return interval(entry, "+")


def limits(entry: dict) -> str:
    """Return the interval of an estimate in words: "95% interval 0.023 to 0.816"."""
    _, *ends = _rounded(entry, "")
    return f"95% interval {' to '.join(ends)}" if ends else "no interval"


def _rounded(entry: dict, sign: str) -> list[str]:
    """Return value, low and high of an estimate as texts; the value alone where there is no interval."""
    ends = [entry["value"], entry.get("low"), entry.get("high")]
    known = [float(v) for v in ends if v is not None and math.isfinite(v)]
    if not known or entry["value"] is None or not math.isfinite(entry["value"]):
        return ["not known"]
    largest = max(map(abs, known))
    places = max(0, 2 - math.floor(math.log10(largest))) if largest >= SMALL else 0
    form = f"{sign}z.{places}f" if largest >= SMALL else f"{sign}.2e"
    texts = [f"{v:{form}}".replace("-", "−", v < 0) if v else "0" for v in known]
    return texts if len(texts) == 3 else texts[:1]


def plain(value: object) -> str:
    """Return a value of a JSON file as readable text."""
    if isinstance(value, dict):
        return ", ".join(f"{words(k)} {interval(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "none"
    return "not set" if value == "" else number(value)


def read_json(path: Path) -> dict | None:
    """Return the object in a JSON file, or None where there is no file; raise ChromaccError when it is damaged."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChromaccError(f"{path}: no readable JSON ({error}); run the stage that writes it again") from error
