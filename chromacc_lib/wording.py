"""The evaluation in words and in tables that people read: whether the model beats the average and every baseline."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

__all__ = ["cluster_note", "count", "count_table", "estimate", "interval_table", "may_be_none", "side", "verdict"]

LARGE = 0.2          # skill over an opponent: not told from none, it asks for a reason
FEW_CELL_TYPES = 10  # fewer unseen ones: the verdict says what its intervals rest on


def verdict(result: dict) -> str:
    """Return in plain words whether the model beats the average and every baseline on the headline quadrant."""
    skill, size, quadrant = (result["headline"][key] for key in ("skill", "size", "quadrant"))
    against = {name: values[quadrant] for name, values in result["baselines"].items() if name != "average"}
    defined = {name: v["model_skill"] for name, v in against.items() if "undefined" not in v}
    won = [name for name, d in defined.items() if d["low"] > 0]
    lost = [name for name, d in defined.items() if d["high"] < 0]
    open_ = [name for name in defined if name not in won + lost]
    on = "simulated data" if result["simulated"] else "real data"
    text = f"On {on}, {count(size['cell_types'], 'unseen cell type')} x unseen chromosomes: the model {_beats(skill)} "
    text += "the training-cell-type average, "
    text += f"skill {estimate(skill, what='95% interval ')}."
    text += _ranking_verdict(result["headline"].get("pr_auc_gain"), skill)
    if won and len(won) == len(defined):
        text += " It beats every other baseline"
    elif won:
        text += f" It beats {_list([_words(name) for name in won])}"
    if won:
        near = min(won, key=lambda name: defined[name]["value"])
        text += f" (the closest is {_words(near)}: skill over it {_range(defined[near])})."
    for names, what in ((open_, "It cannot be told from"), (lost, "It is worse than")):
        if names:
            text += f" {what} " + _list([f"{_words(n)} (skill over it {_range(defined[n])})" for n in names]) + "."
    text += _why_not_told(open_, defined, against, size) + _opponents_ranking(against) + _adjusted(against, won)
    partly = [f"{v['rows']:,} of {v['of_rows']:,} rows with {_words(name)}, which has no prediction in the others "
              f"({', '.join(v['cell_types_without'])})" for name, v in against.items() if "partly" in v]
    text += f" Compared on a part alone: {_list(partly)}." if partly else ""
    undefined = [name for name in against if name not in defined]
    if undefined:
        text += f" Not compared, because undefined here: {_list([_words(name) for name in undefined])}."
    return text + (" " + cluster_note(size) if size["cell_types"] < FEW_CELL_TYPES else "")


def _why_not_told(names: Sequence[str], defined: Mapping[str, dict], against: Mapping[str, dict], size: Mapping) -> str:
    """Say what a large skill lacks that cannot be told from none: cell types that agree, and enough of them."""
    large = [name for name in names if defined[name]["value"] >= LARGE and np.isfinite(defined[name]["low"])]
    if not large:
        return ""
    clusters = count(size["cell_types"], "cell type") if size["cell_types"] > 1 else count(size["blocks"], "chromosome block")
    freedom = _list([f"{against[name]['model_skill_freedom']:.1f}" for name in large])
    return (f" That so large a skill as over {_list([_words(name) for name in large])} is not told from none is because "
            f"the {clusters} disagree about it: Student's t with {freedom} degrees of freedom.")


def _opponents_ranking(against: Mapping[str, dict]) -> str:
    """Say whom the model ranks open windows better than, by AUPRC, whom not, and what cannot be told."""
    gains = {name: entry["pr_auc_difference"] for name, entry in against.items() if "pr_auc_difference" in entry}
    by_side = {at: [name for name, gain in gains.items() if side(gain) == at] for at in (1, 0, -1)}
    parts = []
    for at, words in ((1, "better than"), (0, "not tellably better or worse than"), (-1, "worse than")):
        names = by_side[at]
        if names and len(names) == len(gains) > 1:
            parts.append(f"{words} every other baseline")
        elif names:
            parts.append(f"{words} {_list([_words(name) for name in names])}")
    if not parts:
        return ""
    near = min(gains, key=lambda name: gains[name]["value"])
    return f" By AUPRC it ranks {'; '.join(parts)} (least against {_words(near)}: {_range(gains[near])})."


def _adjusted(against: Mapping[str, dict], won: Sequence[str]) -> str:
    """Say which of the opponents called beaten stay so when p is adjusted over all of them."""
    p = {name: entry["model_skill_p_adjusted"] for name, entry in against.items() if "model_skill_p_adjusted" in entry}
    if len(p) < 2 or not won:
        return ""
    lost = [name for name in won if not p.get(name, 1.0) < 0.05]
    text = f" Each interval stands for itself; with p adjusted for {len(p)} opponents (Benjamini and Hochberg), "
    if not lost:
        return text + "all that it beats in error stay beaten at 0.05."
    if len(lost) == len(won) > 1:
        return text + f"none of them stays beaten in error at 0.05 (lowest p = {min(p[name] for name in lost if name in p):.2g})."
    return text + (f"{_list([f'{_words(n)} (p = {p[n]:.2g})' for n in lost if n in p])} no longer "
                   f"count{'s' if len(lost) == 1 else ''} as beaten at 0.05.")


def _ranking_verdict(gain: dict[str, float] | None, skill: dict[str, float]) -> str:
    """Say whether the model ranks open windows better than the average, and where that is not what the skill says."""
    if gain is None or not np.isfinite(gain["low"]):
        return " Whether it ranks open windows better is not known here."
    words = {"beats": "better", "does worse than": "worse", "cannot be told from": "not tellably better or worse"}
    text = f" It ranks open windows {words[_beats(gain)]}: AUPRC {estimate(gain)} against the average's."
    return text + (" Error and ranking do not say the same." if _beats(gain) != _beats(skill) else "")


def _beats(skill: dict[str, float]) -> str:
    if skill["low"] > 0:
        return "beats"
    return "does worse than" if skill["high"] < 0 else "cannot be told from"


def _range(entry: dict[str, float]) -> str:
    return f"{entry['value']:+.3f}, {entry['low']:+.3f} to {entry['high']:+.3f}"


def _words(name: str) -> str:
    return name.replace("_x_", " x ").replace("_", " ")


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def cluster_note(size: dict) -> str:
    """Return in words what the headline's intervals speak about."""
    if size["cell_types"] == 1:
        return (
            f"There is one unseen cell type, so only the {size['blocks']} chromosome blocks are resampled: the "
            "intervals say how sure the result is for this cell type, and nothing about other cell types."
        )
    basis = f"{size['cell_types']} unseen cell types and {size['blocks']} chromosome blocks"
    few = "; with so few cell types, Student's t for their number widens them."
    return f"The headline's intervals rest on {basis}" + (few if size["cell_types"] < FEW_CELL_TYPES else ".")


def estimate(entry: Mapping[str, float], form: str = "+.3f", what: str = "") -> str:
    """Return "value (low to high)" in a number format, with a word before the interval; it says where there is none."""
    value, low, high = (entry[end] for end in ("value", "low", "high"))
    if low is None or not np.isfinite(low):
        return f"{value:{form}} (no interval: too few cell types and blocks)"
    return f"{value:{form}} ({what}{low:{form}} to {high:{form}})"


def may_be_none(entry: Mapping[str, float]) -> bool:
    """Return whether the interval of an effect holds 0; False where there is none."""
    return side(entry) == 0


def side(entry: Mapping[str, float]) -> int | None:
    """Return on which side of 0 the whole interval of an effect lies: 1 above, -1 below, 0 it holds 0; None: it has none."""
    low, high = entry["low"], entry["high"]
    if low is None or high is None or not np.isfinite([low, high]).all():
        return None
    return 1 if low > 0 else -1 if high < 0 else 0


def count(n: int, noun: str) -> str:
    """Return "1 cell type", "3 cell types"."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def count_table(sizes: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    """Return a table of texts: one row a count, one column a set of rows; sizes: {set: {count: n}}."""
    table = pd.DataFrame(sizes).map(lambda n: f"{n:,}")
    return table.rename(index=_words, columns=_words)


def interval_table(
    entries: Mapping[str, Mapping[str, dict]], names: Sequence[str] | None = None, as_is: bool = False
) -> pd.DataFrame:
    """Return a table of texts "value [low, high]", in 3 decimals and on one line: one row an entry, one column a metric.

    entries: {row: {metric: {"value", "low", "high"}}}; what is no interval is passed over. names: the columns, all that
    occur if None. as_is: rows are names from outside, such as cell types, and stay as they are. "" where an entry lacks
    a metric, "undefined" where its value is NaN.
    """
    known = {row: {n: v for n, v in values.items() if isinstance(v, Mapping) and "value" in v}
             for row, values in entries.items()}
    columns = names or list(dict.fromkeys(name for values in known.values() for name in values))
    return pd.DataFrame(
        [[_cell(values.get(name)) for name in columns] for values in known.values()],
        index=[row if as_is else _words(row) for row in known], columns=[_words(name) for name in columns],
    )


def _cell(entry: Mapping[str, float] | None) -> str:
    """Return the text of a table's cell: 3 decimals throughout, and spaces that do not break."""
    if entry is None:
        return ""
    if not np.isfinite(entry["value"]):
        return "undefined"
    value, low, high = (f"{entry[end]:.3f}" for end in ("value", "low", "high"))
    return f"{value}\u00a0[{low},\u00a0{high}]" if np.isfinite(entry["low"]) else value
