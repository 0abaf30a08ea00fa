"""Which assay is worth adding? The model scored with every subset of what the unseen cell types have.

An input is hidden in the way that a missing one reaches the model, and no other model is fitted. Training hides assays
and whole modalities at random, but few of them at once, and the sequence never: what the model makes of a window with
hardly anything shown, and of one without its sequence, it has not been taught. So values are what an input is worth to
this model, and where little else is shown they hold its inexperience as well.

- Every subset of the modalities gives their Shapley values: the mean, over all orders in which modalities can be added,
  of what one adds (Shapley 1953; Lundberg & Lee 2017, NeurIPS 30). They add up to everything minus nothing.
- Each assay (a histone mark, a TF, the expression) added last, to all others that the cell type has, and added first,
  to sequence and locus average alone. Two assays that say the same look small last, and large first.

Everything is "with minus without": above 0 is better for AUPRC and skill, below 0 is better for MSE. All states are
scored on the same rows and under the same weightings, so every interval is paired. Many assays are asked at once:
beside each interval stands p_adjusted, by which the share of false ones among those called worth something is held at
5% (Benjamini & Hochberg 1995, J. R. Stat. Soc. B 57:289), over the assays of one cell type.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import torch
from scipy import stats

from chromacc_lib import ChromaccError
from chromacc_lib import intervals as iv
from chromacc_lib.batches import RegionData, measured, without
from chromacc_lib.dataset import Arrays
from chromacc_lib.evaluation import HEADLINE, chromosome_blocks, quadrant_rows
from chromacc_lib.inference import evaluating, predict_batch
from chromacc_lib.model import MODALITIES, ChromaccModel
from chromacc_lib.progress import progress
from chromacc_lib.wording import count, estimate, may_be_none

__all__ = ["EVERY", "EXPRESSION_ASSAY", "METRICS", "assay_worth", "shapley_values", "worth_summary", "worth_table"]

EVERY = "all unseen cell types"  # the pooled scope
EXPRESSION_ASSAY = "expression"
KINDS = {"histone": "histone mark", "tf": "TF", "cell": "expression"}  # modalities that are assays
METRICS = ("pr_auc", "mse", "skill")
NOTE = (
    "Everything is with minus without: above 0 is better for AUPRC and skill, below 0 for MSE. It is what an input is "
    "worth to this model, on cell types and chromosomes that it has not seen."
)
SAMPLES = 256  # (window, cell type, state) in a batch: what one layer makes of them fits a CPU's cache

Input = tuple[str, int | None]  # one of MODALITIES, and which of its tracks
State = frozenset[Input]  # what the model is shown
Statistics = dict[str, np.ndarray]  # metric -> its value under each of R weightings, shape=(R,)


def assay_worth(
    model: ChromaccModel, arrays: Arrays, predictions: pd.DataFrame, *, most_windows: int = 200,
    both_strands: bool = False, block_bp: int = 250_000, n_bootstrap: int = 1000, seed: int = 1, samples: int = SAMPLES,
) -> dict[str, object]:  # fmt: skip
    """Score every subset of modalities, and each assay added last and first, on unseen cell types x unseen chromosomes.

    predictions: of `inference.predict_dataset`, for what was measured and the locus average. most_windows: evenly
    spaced along the unseen chromosomes, all if there are fewer. both_strands: as the headline, in twice the time;
    False: forward strand only. block_bp: bp. samples: (window, cell type, state) in a batch.

    Returns a plain dict: basis (a sentence), note, `modalities`, `not_measured` {cell type: assays that it lacks},
    `subsets` {scope: [{"shown", *METRICS}]}, `shapley` {scope: {modality: {metric: interval}}} and `assays`, a list
    that `worth_table` makes a table of. A scope is a cell type or EVERY; an interval is {"value", "low", "high"}, 95%,
    NaN where it cannot be had; in `assays` with p, and p_adjusted over the assays of its scope. AUPRC is NaN where
    labels are of one class, or not known. What a cell type lacks has no entry there; in EVERY, an assay is scored in
    the cell types that have it, if there are two.

    Raises ChromaccError when no cell type or chromosome is unseen, and when a cell type has no measured score in the
    chosen windows.
    """
    rows = quadrant_rows(predictions, HEADLINE)
    windows, n_windows = _spread_windows(rows, most_windows)
    lost = sorted(set(rows["cell_type"]) - set(rows.loc[rows["window"].isin(windows), "cell_type"]))
    if lost:
        raise ChromaccError(
            f"assay_worth: cell types {lost} have no measured score in the {len(windows):,} of {n_windows:,} windows "
            f"that most_windows={most_windows} leaves; ask for more windows"
        )
    rows = rows[rows["window"].isin(windows)]
    game = _Game(arrays, rows, windows, model.config.locus_prior, (block_bp, n_bootstrap, seed))
    game.predict(model, both_strands, samples)
    basis = (
        f"{len(windows):,} of {n_windows:,} windows of unseen chromosomes, evenly spaced, in "
        f"{count(len(game.names), 'unseen cell type')}; {game.plan(game.names).n_blocks} chromosome blocks; "
        f"{'mean of both strands' if both_strands else 'forward strand only'}."
    )
    scopes = {EVERY: game.names, **{name: (name,) for name in game.names}}
    return {
        "basis": basis, "note": NOTE, "n_windows": len(windows), "strands": 2 if both_strands else 1,
        "block_bp": block_bp, "n_bootstrap": n_bootstrap, "seed": seed, "interval_method": iv.METHOD,
        "modalities": game.players(game.names), "not_measured": game.not_measured(arrays),
        "subsets": {scope: _subsets(game, cells) for scope, cells in scopes.items()},
        "shapley": {scope: _shapley(game, cells) for scope, cells in scopes.items()},
        "assays": _assays(game, arrays),
    }  # fmt: skip


def shapley_values(worth: Mapping[frozenset[str], np.ndarray]) -> dict[str, np.ndarray]:
    """Return the exact Shapley value of every player from the worth of every subset of them, arrays of one shape.

    The values add up to the worth of all minus the worth of none. Being linear in the worths, they are taken for all
    weightings of a resampling at once.
    """
    players = sorted(frozenset().union(*worth))
    n = len(players)
    result = {}
    for player in players:
        others = [subset for subset in worth if player not in subset]
        share = [factorial(len(s)) * factorial(n - len(s) - 1) / factorial(n) for s in others]
        result[player] = sum(p * (worth[s | {player}] - worth[s]) for p, s in zip(share, others, strict=True))
    return result


def worth_table(result: Mapping) -> pd.DataFrame:
    """Return `assays` of `assay_worth`, or of its JSON, as a table: one row a (cell type, assay), the worthiest first.

    Columns: cell_type (or EVERY, which comes first), assay, kind, then metric, _low, _high and _p_adjusted of METRICS
    for the assay added last, the same with first_ in front for the assay added first, and the sentence. float64, NaN =
    undefined.
    """
    rows = []
    for entry in result["assays"]:
        row = {name: entry[name] for name in ("cell_type", "assay", "kind")}
        for when, prefix in (("added_last", ""), ("added_first", "first_")):
            for metric in METRICS:
                for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"), ("p_adjusted", "_p_adjusted")):
                    value = entry[when][metric][end]
                    row[f"{prefix}{metric}{suffix}"] = np.nan if value is None else value
        rows.append(row | {"sentence": entry["sentence"]})
    return pd.DataFrame(rows)


def worth_summary(table: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, list[str]]:
    """Return what each assay adds last in each cell type, as a table of texts, and a sentence for each that stands.

    table: of `worth_table`. Texts: value [low, high], and p adjusted over the assays of the cell type; "" where it was
    not measured. An assay stands whose adjusted p is below 0.05; where none does in any cell type, a sentence says so.
    """
    ends = (metric, f"{metric}_low", f"{metric}_high", f"{metric}_p_adjusted")
    told = table.assign(text=[
        f"{value:+.3f}\u00a0[{low:+.3f},\u00a0{high:+.3f}] p\u00a0{p:.2g}" if np.isfinite([low, p]).all() else
        f"{value:+.3f}" if np.isfinite(value) else "undefined"
        for value, low, high, p in table[list(ends)].itertuples(index=False)])
    order = {name: list(dict.fromkeys(table[name])) for name in ("assay", "cell_type")}
    wide = told.pivot(index="assay", columns="cell_type", values="text").fillna("")
    stands = table[table[f"{metric}_p_adjusted"] < 1 - iv.LEVEL]
    n_assays = table.groupby("cell_type").size().max()
    sentences = stands["sentence"].tolist() or [
        f"No assay can be told from nothing in any cell type, with p adjusted for {count(int(n_assays), 'assay')} in each."]
    return wide.loc[order["assay"], order["cell_type"]], sentences


# --- what is scored ------------------------------------------------------------------------------------------


def _spread_windows(rows: pd.DataFrame, most: int) -> tuple[np.ndarray, int]:
    """Return at most `most` windows, evenly spaced along the genome, and of how many."""
    places = rows.drop_duplicates("window").sort_values(["chrom", "start", "end"])["window"].to_numpy()
    return places[np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)], len(places)


class _Game:
    """What the model scores in some of the unseen cell types when it is shown some of the inputs."""

    def __init__(
        self, arrays: Arrays, rows: pd.DataFrame, windows: np.ndarray, reads_prior: bool, draw: tuple[int, int, int]
    ) -> None:
        self.windows, self.names = windows, tuple(sorted(rows["cell_type"].unique()))
        order = arrays.cell_types["cell_type"].tolist()
        self.cells = {name: order.index(name) for name in self.names}
        self.rows = rows.assign(at=rows["window"].map({window: i for i, window in enumerate(windows)}))
        self.draw, self.data = draw, RegionData(arrays)
        self.inputs: tuple[Input, ...] = (
            ("sequence", None), *(("histone", i) for i in range(len(arrays.histone_marks))),
            *(("tf", i) for i in range(len(arrays.tfs))), ("cell", None), *[("prior", None)] * reads_prior,
        )  # fmt: skip
        batch = self.data.batch(windows, np.array(list(self.cells.values())))
        there = {one: measured(batch, *one).any(0) for one in self.inputs}
        self.has = {name: frozenset(one for one in self.inputs if there[one][i]) for i, name in enumerate(self.names)}
        self.everything: State = frozenset().union(*self.has.values())
        self.base: State = frozenset(one for one in self.everything if one[0] not in KINDS)
        self.predicted: dict[tuple[str, State], np.ndarray] = {}
        self._scopes: dict[tuple[str, ...], tuple[pd.DataFrame, iv.Resampling]] = {}
        self._values: dict[tuple, Statistics] = {}

    def players(self, cells: Sequence[str]) -> list[str]:
        """Modalities that at least one of the cell types has."""
        return [name for name in MODALITIES if any(one[0] == name for cell in cells for one in self.has[cell])]

    def subsets(self, cells: Sequence[str]) -> dict[frozenset[str], State]:
        """Every subset of the modalities, and what is shown with it."""
        names = self.players(cells)
        chosen = [frozenset(some) for size in range(len(names) + 1) for some in combinations(names, size)]
        return {some: frozenset(one for one in self.everything if one[0] in some) for some in chosen}

    def assays(self) -> list[Input]:
        """Assays that at least one of the cell types has."""
        return [one for one in self.inputs if one in self.everything and one[0] in KINDS]

    def not_measured(self, arrays: Arrays) -> dict[str, list[str]]:
        """Assays that the model reads and a cell type lacks."""
        known = [one for one in self.inputs if one[0] in KINDS and (one[0] != "cell" or arrays.features)]
        return {name: [_assay_name(arrays, one) for one in known if one not in self.has[name]] for name in self.names}

    # --- predictions ---

    def predict(self, model: ChromaccModel, both_strands: bool, samples: int) -> None:
        """Predict all that will be asked for: subsets, and assays added last and first, each state of a cell type once.

        States stand on the cell-type axis, where a window's sequence is encoded once for all of them.
        """
        states = set(self.subsets(self.names).values()) | {self.everything}
        for assay in self.assays():
            states |= {self.everything - {assay}, self.base | {assay}}
        columns = sorted({self._column(cell, state) for cell in self.names for state in states}, key=self._rank)
        groups: dict[tuple[bool, bool], list[tuple[str, State]]] = {}
        for cell, shown in columns:
            # What sees nothing of the window is predicted once: the same at every window, to the last bit.
            kind = ("sequence", None) in shown, shown <= {("cell", None)}
            groups.setdefault(kind, []).append((cell, shown))
        n_steps = sum(1 if constant else len(self.windows) for _, constant in groups)
        with evaluating(model), progress(n_steps, "scoring subsets of the inputs", "windows", leave=False) as bar:
            for (sequence, constant), some in groups.items():
                windows = self.windows[:1] if constant else self.windows
                step, parts = max(1, samples // len(some)), []
                for start in range(0, len(windows), step):
                    chunk = windows[start : start + step]
                    parts.append(self._predict_batch(model, chunk, some, sequence, both_strands))
                    bar.update(len(chunk))
                values = np.concatenate(parts, axis=1)  # (2, W or 1, K)
                values = np.broadcast_to(values, (2, len(self.windows), len(some)))
                self.predicted |= {column: values[:, :, k] for k, column in enumerate(some)}

    def _column(self, cell: str, state: State) -> tuple[str, State]:
        """Where a state of a cell type is predicted: shown nothing, all of them are alike, to the last bit."""
        shown = state & self.has[cell]
        return (cell if shown else self.names[0]), shown

    def _rank(self, column: tuple[str, State]) -> tuple:
        return column[0], sorted(self.inputs.index(one) for one in column[1])

    @torch.no_grad()
    def _predict_batch(
        self, model: ChromaccModel, windows: np.ndarray, columns: list[tuple[str, State]], sequence: bool, both: bool
    ) -> np.ndarray:
        """Return score and logit, float32 (2, windows, columns); sequence: is it shown, in all columns alike?"""
        batch = self.data.batch(windows, np.array([self.cells[cell] for cell, _ in columns]))
        for one in self.inputs:
            hidden = torch.tensor([one not in shown for _, shown in columns])
            if one[0] == "sequence":
                batch = batch if sequence else without(batch, "sequence")
            elif hidden.any():
                batch = without(batch, *one, cells=hidden)
        batch = batch.to(next(model.parameters()).device)
        output = predict_batch(model, batch) if both else model(batch)
        return torch.stack([output.score, output.logit]).float().cpu().numpy()

    # --- statistics ---

    def value(self, cells: tuple[str, ...], state: State) -> Statistics:
        """Return METRICS of these cell types under every weighting, with `state` shown as far as each has it."""
        key = cells, tuple(self._column(cell, state) for cell in cells)
        if key not in self._values:
            rows, plan = self._scope(cells)
            parts = [
                self.predicted[column][:, rows.loc[rows["cell_type"] == cell, "at"]]
                for cell, column in zip(*key, strict=True)
            ]
            self._values[key] = _statistics(rows, plan, *np.concatenate(parts, axis=1))
        return self._values[key]

    def _scope(self, cells: tuple[str, ...]) -> tuple[pd.DataFrame, iv.Resampling]:
        """Return the rows of these cell types, and their weightings."""
        if cells not in self._scopes:
            block_bp, n_bootstrap, seed = self.draw
            rows = self.rows[self.rows["cell_type"].isin(cells)].sort_values(["cell_type", "at"])
            blocks = chromosome_blocks(rows, block_bp)
            self._scopes[cells] = rows, iv.resampling(rows["cell_type"].to_numpy(), blocks, n_bootstrap, seed)
        return self._scopes[cells]

    def plan(self, cells: tuple[str, ...], metric: str = "mse") -> iv.Resampling:
        """Return the weightings of these cell types' rows; for "pr_auc", of those with a label."""
        rows, plan = self._scope(cells)
        return plan.take((rows["label"] >= 0).to_numpy()) if metric == "pr_auc" else plan


def _statistics(rows: pd.DataFrame, plan: iv.Resampling, score: np.ndarray, logit: np.ndarray) -> Statistics:
    """Return METRICS under every weighting. AUPRC is NaN where labels are of one class.

    It ranks by logit to 4 digits: what a state hardly moves differs by rounding, which would be ranked.
    """
    true, average = (rows[name].to_numpy(np.float64) for name in ("score", "average_score"))
    label = rows["label"].to_numpy()
    known = label >= 0
    pr_auc = np.full(len(plan), np.nan)
    if known.any():
        pr_auc = iv.ranking(plan.take(known), label[known], np.round(logit[known].astype(np.float64), 4))[1]
    return {"pr_auc": pr_auc, "mse": iv.mse(plan, true, score), "skill": iv.skill(plan, true, score, average)}


# --- what is told --------------------------------------------------------------------------------------------


def _subsets(game: _Game, cells: tuple[str, ...]) -> list[dict]:
    """Return METRICS with intervals of every subset of the modalities, none first and all last."""
    plan, result = game.plan(cells), []
    for some, state in game.subsets(cells).items():
        values = game.value(cells, state)
        result.append({
            "shown": [name for name in MODALITIES if name in some],
            "pr_auc": iv.interval(values["pr_auc"], game.plan(cells, "pr_auc"), iv.SHARE),
            "mse": iv.interval(values["mse"], plan, iv.POSITIVE),
            "skill": iv.skill_interval(values["skill"], plan),
        })  # fmt: skip
    return result


def _shapley(game: _Game, cells: tuple[str, ...]) -> dict[str, dict]:
    """Return the Shapley value of every modality, for each metric, with intervals."""
    worth = {some: game.value(cells, state) for some, state in game.subsets(cells).items()}
    by_metric = {metric: shapley_values({s: values[metric] for s, values in worth.items()}) for metric in METRICS}
    plans = {metric: game.plan(cells, metric) for metric in METRICS}
    return {
        name: {metric: iv.interval(by_metric[metric][name], plans[metric]) for metric in METRICS}
        for name in game.players(cells)
    }


def _assays(game: _Game, arrays: Arrays) -> list[dict]:
    """Return one entry a (cell type, assay): EVERY first, then the cell types; in each, the worthiest first."""
    result = []
    for scope in (EVERY, *game.names):
        entries = []
        for assay in game.assays():
            cells = tuple(name for name in game.names if assay in game.has[name] and scope in (EVERY, name))
            if len(cells) >= (2 if scope == EVERY else 1):
                entries.append(_entry(game, scope, cells, assay, _assay_name(arrays, assay)))
        _adjust(entries)
        alone = "sequence and locus average" if ("prior", None) in game.base else "sequence"
        entries = [entry | {"sentence": _sentence(entry, alone, len(entries))} for entry in entries]
        result += sorted(entries, key=_by_worth)
    return result


def _adjust(entries: list[dict]) -> None:
    """Add p_adjusted to every effect: over all assays of the scope that have a p, for each metric, last and first."""
    for when in ("added_last", "added_first"):
        for metric in METRICS:
            effects = [entry[when][metric] for entry in entries]
            known = [effect for effect in effects if np.isfinite(effect["p"])]
            adjusted = iter(stats.false_discovery_control([effect["p"] for effect in known]) if known else ())
            for effect in effects:
                effect["p_adjusted"] = float(next(adjusted)) if np.isfinite(effect["p"]) else np.nan


def _entry(game: _Game, scope: str, cells: tuple[str, ...], assay: Input, name: str) -> dict[str, object]:
    """Return what one assay adds in some cell types, last and first."""
    everything, base = game.everything, game.base
    steps = {"added_last": (everything, everything - {assay}), "added_first": (base | {assay}, base)}
    entry = {"cell_type": scope, "assay": name, "kind": KINDS[assay[0]], "cell_types": list(cells)}
    for when, states in steps.items():
        more, less = (game.value(cells, state) for state in states)
        entry[when] = {}
        for metric in METRICS:
            effect, plan = more[metric] - less[metric], game.plan(cells, metric)
            entry[when][metric] = iv.interval(effect, plan) | {"p": iv.p_value(effect, plan)}
    return entry


def _assay_name(arrays: Arrays, assay: Input) -> str:
    modality, index = assay
    return EXPRESSION_ASSAY if index is None else {"histone": arrays.histone_marks, "tf": arrays.tfs}[modality][index]


def _by_worth(entry: Mapping) -> float:
    """The worthiest first: by AUPRC where it is defined, else by MSE, of the assay added last."""
    last = entry["added_last"]
    return -last["pr_auc"]["value"] if np.isfinite(last["pr_auc"]["value"]) else last["mse"]["value"]


def _sentence(entry: Mapping, alone: str, n_assays: int) -> str:
    """Return what an assay is worth, in words; alone: what it is added to when it is added first."""
    cells, last, first = entry["cell_types"], entry["added_last"], entry["added_first"]
    every = f"Over the {count(len(cells), 'unseen cell type')} that have it"
    where = every if entry["cell_type"] == EVERY else f"For {cells[0]}"
    defined = np.isfinite(last["pr_auc"]["value"])
    metric, unit = ("pr_auc", "AUPRC") if defined else ("mse", "MSE (below 0 is better; AUPRC is undefined)")
    text = f"{where}, adding {entry['assay']} to what is there is worth {estimate(last[metric])} {unit}"
    if may_be_none(last[metric]):
        text += ", which cannot be told from nothing"
    elif last[metric]["p_adjusted"] >= 1 - iv.LEVEL:
        text += f", which cannot be told from nothing when {count(n_assays, 'assay')} are asked at once"
    return f"{text}; added first, to {alone} alone, {estimate(first[metric])}."
