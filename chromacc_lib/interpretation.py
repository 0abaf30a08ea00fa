"""Where a trained model is looked at, what became of each motif, and the files that are written.

The methods stand in modules of their own: `attribution`, `deeplift` and `mutagenesis` (bases), `motifs` (patterns, JASPAR),
`confirmation` (insertion, ablation, spacing), `contributions` (inputs), `attention`; here they meet a run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
from scipy import stats

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import Attribution
from chromacc_lib.bigwig import require_written
from chromacc_lib.confirmation import Effect
from chromacc_lib.dataset import Arrays
from chromacc_lib.motifs import Pattern, write_patterns

__all__ = ["Places", "bound_at", "choose_places", "expression_of", "motif_table", "require_interpretable",
           "save_interpretation", "write_contributions"]  # fmt: skip

LEVEL = 0.05  # adjusted p at which a claim counts as confirmed
EXPRESSION_RANGE = 2.0  # log2(TPM + 1): a TF is on here and off there only if cell types differ four-fold or more


def require_interpretable(run: str | Path, interpret_collapsed: bool = False) -> str:
    """Return what the collapse diagnosis says of this run's model, as one sentence for the banner.

    Raises ChromaccError when there is no diagnosis, or when the model has collapsed and `interpret_collapsed` is not
    set: attributions of a model that learned nothing explain nothing.
    """
    path = Path(run) / "collapse_diagnostics.json"
    if not path.is_file():
        raise ChromaccError(f"{path}: not there; run notebook 04_collapse_diagnostics first.")
    diagnosis = json.loads(path.read_text())
    if diagnosis["verdict"] == "collapsed" and not interpret_collapsed:
        raise ChromaccError(
            f"{path}: the model of this run has collapsed ({diagnosis['cause']}), so what it attends to explains "
            f"nothing. {diagnosis['next_step']} To interpret it nevertheless, set interpret_collapsed=True."
        )
    return diagnosis["sentence"]


# --- where to look -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """K windows, each with the C cell types in which it is looked at (indices into the dataset)."""

    windows: np.ndarray  # int (K,)
    cell_types: np.ndarray  # int (K, C)
    sentence: str  # how many of how many, and by which rule


def choose_places(arrays: Arrays, predicted: np.ndarray, n_windows: int, n_cell_types: int, seed: int) -> Places:
    """Draw peak windows on chromosomes that were not trained on, each in the cell types where it is predicted highest.

    predicted: float (W, C), predicted score, NaN where nothing was predicted; windows are drawn from those that have all
    cell types. Raises ChromaccError when no such window is there.
    """
    windows = arrays.windows
    whole = np.isfinite(predicted).all(axis=1)
    there = np.flatnonzero((windows["split"] != "train") & (windows["kind"] == "peak") & whole)
    if not len(there):
        raise ChromaccError("choose_places: no peak window on a validation or test chromosome is predicted in all cell types; "
                            "curate with some, or evaluate with seen_windows=0.")  # fmt: skip
    drawn = np.sort(np.random.default_rng(seed).choice(there, min(n_windows, len(there)), replace=False))
    cells = np.argsort(-predicted[drawn], axis=1, kind="stable")[:, :n_cell_types]
    each = "the cell type" if cells.shape[1] == 1 else f"the {cells.shape[1]} cell types"
    return Places(drawn, cells, f"{len(drawn)} of {len(there)} peak windows that are predicted in all cell types, on "
                  f"chromosomes that the model was not trained on, each in {each} in which its predicted score is highest")  # fmt: skip


# --- motifs and the cell types that express them -------------------------------------------------------------


def expression_of(tfs: Sequence[str], expression: pd.DataFrame) -> pd.Series | None:
    """Expression, log2(TPM + 1) by cell type, of the first of `tfs` (upper case) that the table knows; None if none.

    expression: cell types as rows, genes as columns.
    """
    genes = {gene.upper(): gene for gene in expression.columns}
    known = [genes[tf] for tf in tfs if tf in genes]
    return expression[known[0]].dropna() if known else None


def bound_at(patterns: Sequence[Pattern], matches: pd.DataFrame, arrays: Arrays, windows: np.ndarray) -> pd.Series:
    """Is a pattern's TF bound where its seqlets stand? "yes", "no", or "no track", by pattern.

    windows: index in the dataset of the rows that seqlets name. The TF is the best match that has a track. Its mean signal
    in the bins of the seqlets is compared with that of the same windows' other bins, each the mean over the cell types in
    which the track was measured: yes, where it is higher, by a paired t-test over seqlets (one-sided, p <= 0.05).
    """
    known, verdicts = [tf.upper() for tf in arrays.tfs], {}
    for pattern in patterns:
        here = matches[matches["pattern"] == pattern.name]
        track = next((known.index(tf) for tfs in here["tfs"] for tf in tfs if tf in known), None)
        if track is None or len(pattern.seqlets) < 2:
            verdicts[pattern.name] = "no track"
            continue
        rows, n_bins = windows[pattern.seqlets["window"].to_numpy()], arrays.tf.shape[3]
        centre = (pattern.seqlets["start"] + pattern.seqlets["end"]).to_numpy() / 2
        at = (centre * n_bins // arrays.sequence.shape[1]).astype(int).clip(0, n_bins - 1)
        seen = arrays.tf_observed[rows, :, track]  # (n, C)
        signal = np.where(seen[..., None], arrays.tf[rows, :, track, :, 0], 0).sum(1) / seen.sum(1).clip(min=1)[:, None]  # (n, T)
        there = signal[np.arange(len(rows)), at]
        elsewhere = (signal.sum(1) - there) / (n_bins - 1)
        raised = np.ptp(there - elsewhere) > 0 and stats.ttest_rel(there, elsewhere, alternative="greater").pvalue <= LEVEL
        verdicts[pattern.name] = "yes" if raised else "no"
    return pd.Series(verdicts, dtype=object)


def motif_table(
    patterns: Sequence[Pattern], matches: pd.DataFrame, effects: Mapping[str, Mapping[str, Effect]],
    expression: pd.DataFrame, cell_types: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """One row a pattern: its TF, its seqlets, and what became of the claim that it opens chromatin where that TF is on.

    effects: kind -> pattern name -> what was done to it, in the columns of cell_types: "inserted" (in shuffled peaks) is
    needed; "closed" (in shuffled background windows), "turned" (inserted on the other strand), "given tracks" (inserted
    with all other inputs shown) and "ablated" (destroyed where it stands) where they were tried. expression: log2(TPM + 1),
    cell types as rows, genes as columns.

    Columns: pattern, consensus, matched_tf (best match in JASPAR, q <= 0.05), q_value, n_seqlets; expressed_tf (the best
    match among the genes that are known), on_in (cell types in which it is on: above the middle of its range, if that spans
    four-fold), claimed_in (these cell types, or all where it is not known); effect (arcsinh fold, mean over the claimed
    cell types, against shuffles of its own bases) with effect_low, effect_high (95%), p_adjusted (Benjamini-Hochberg over
    patterns), confirmed; effect_off (in the other cell types), p_on_off (Mann-Whitney over cell types, one-sided,
    adjusted), follows_tf; ablated with ablated_low, ablated_high, p_ablated (adjusted), holds_in_place; and effect_closed,
    effect_turned, effect_given_tracks. All but the last are in the claimed cell types, and what cannot be said says so.
    """
    rows = [
        _motif_row(x, matches[matches["pattern"] == x.name], {kind: by[x.name] for kind, by in effects.items()},
                   expression, cell_types)
        for x in patterns
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=[
        "pattern", "consensus", "matched_tf", "q_value", "n_seqlets", "expressed_tf", "on_in", "claimed_in", "effect",
        "effect_low", "effect_high", "p_adjusted", "confirmed", "effect_off", "p_on_off", "follows_tf", "ablated",
        "ablated_low", "ablated_high", "p_ablated", "holds_in_place", "effect_closed", "effect_turned",
        "effect_given_tracks",
    ])  # fmt: skip
    for column, verdict, unknown in (("p_adjusted", "confirmed", "no"), ("p_on_off", "follows_tf", "cannot be compared"),
                                     ("p_ablated", "holds_in_place", "too few instances")):  # fmt: skip
        table[column] = table[column].astype(float)
        known = table[column].notna()
        if known.any():
            table.loc[known, column] = stats.false_discovery_control(table.loc[known, column])
        table[verdict] = np.where(~known, unknown, np.where(table[column] <= LEVEL, "yes", "no"))
    return table


def _motif_row(
    pattern: Pattern, matches: pd.DataFrame, effects: Mapping[str, Effect], expression: pd.DataFrame,
    cell_types: Sequence[str],
) -> dict:  # fmt: skip
    """A row of `motif_table` with p-values that are not adjusted yet."""
    row = {"pattern": pattern.name, "consensus": pattern.consensus, "n_seqlets": len(pattern.seqlets),
           "matched_tf": "no match", "expressed_tf": "not known", "on_in": "not known"}  # fmt: skip
    if len(matches):
        row |= {"matched_tf": matches["name"].iloc[0], "q_value": matches["q_value"].iloc[0]}
    by_tf = [(tf, expression_of([tf], expression)) for tfs in matches["tfs"] for tf in tfs]
    known = next(((tf, values) for tf, values in by_tf if values is not None and len(values)), None)
    claimed = np.ones(len(cell_types), bool)
    if known is not None:
        row["expressed_tf"], level = known
        row["on_in"] = "no contrast"
        if np.ptp(level) >= EXPRESSION_RANGE:
            on = level > (level.min() + level.max()) / 2
            claimed = np.isin(cell_types, level.index[on])
            off = np.isin(cell_types, level.index[~on])
            by_cell_type = effects["inserted"].by_cell_type.mean(0)
            p = stats.mannwhitneyu(by_cell_type[claimed], by_cell_type[off], alternative="greater").pvalue
            row |= {"on_in": f"{on.sum()} of {len(level)}", "effect_off": by_cell_type[off].mean(), "p_on_off": p}
    inserted = effects["inserted"].within(claimed)
    row |= {"claimed_in": "all" if claimed.all() else ", ".join(np.asarray(cell_types)[claimed]),
            "effect": inserted.effect, "effect_low": inserted.low, "effect_high": inserted.high,
            "p_adjusted": inserted.p_value}  # fmt: skip
    row |= {f"effect_{kind.replace(' ', '_')}": effects[kind].within(claimed).effect
            for kind in ("closed", "turned", "given tracks") if kind in effects}  # fmt: skip
    if "ablated" in effects and len(effects["ablated"].by_cell_type):
        there = effects["ablated"].within(claimed)
        row |= {"ablated": there.effect, "ablated_low": there.low, "ablated_high": there.high, "p_ablated": there.p_value}
    return row


# --- files ---------------------------------------------------------------------------------------------------


def save_interpretation(
    run: str | Path, arrays: Arrays, places: Places, attribution: Attribution, patterns: Sequence[Pattern],
    tables: Mapping[str, pd.DataFrame],
) -> list[Path]:  # fmt: skip
    """Write run/interpretation: attributions.npz, patterns.meme and each table as CSV; every file whole or not at all.

    attributions.npz holds chrom, start, end (0-based half-open), cell_types (K, C), contribution float32 (K, L),
    hypothetical float16 (K, L, 4). It has no pickled objects.
    """
    folder = Path(run) / "interpretation"
    folder.mkdir(parents=True, exist_ok=True)
    windows, path = arrays.windows.iloc[places.windows], folder / "attributions.npz"
    with open(f"{path}.partial", "wb") as handle:
        np.savez_compressed(
            handle, chrom=windows["chrom"].to_numpy(dtype=str), start=windows["start"].to_numpy(),
            end=windows["end"].to_numpy(), contribution=attribution.contribution,
            cell_types=arrays.cell_types["cell_type"].to_numpy(dtype=str)[places.cell_types],
            hypothetical=attribution.hypothetical.astype(np.float16),
        )  # fmt: skip
    os.replace(f"{path}.partial", path)
    write_patterns(folder / "patterns.meme", patterns)
    written = [path, folder / "patterns.meme"]
    for name, table in tables.items():
        written.append(folder / f"{name}.csv")
        table.to_csv(f"{written[-1]}.partial", index=False)
        os.replace(f"{written[-1]}.partial", written[-1])
    return written


def write_contributions(
    path: str | Path, sizes: Mapping[str, int], windows: pd.DataFrame, contribution: np.ndarray
) -> Path:
    """Write contributions (K, L) of windows (chrom, start, end, 0-based half-open) as a bigWig, one value a base.

    sizes: bp of each chromosome, in the file's order. Where windows overlap, a base has the mean of their contributions.
    Bases outside the windows have none. The file is whole or not there.
    """
    partial, width = Path(f"{path}.partial"), contribution.shape[1]
    with pyBigWig.open(str(partial), "w") as handle:
        handle.addHeader(list(sizes.items()))
        for chrom in sizes:
            rows = np.flatnonzero((windows["chrom"] == chrom).to_numpy())
            if len(rows):
                position = windows["start"].to_numpy()[rows, None] + np.arange(width)
                at, back = np.unique(position, return_inverse=True)
                mean = np.bincount(back.ravel(), contribution[rows].ravel().astype(float)) / np.bincount(back.ravel())
                handle.addEntries([chrom] * len(at), at, ends=at + 1, values=mean)
    require_written(partial)
    os.replace(partial, path)
    return Path(path)
