"""What a trained model reads: its modalities, its attention, its motifs, and how far the planted truth bears it out.

The methods stand in `attribution` (bases) and `motifs` (patterns, JASPAR, insertion); here they meet a run: which
windows in which cell types, whether a motif's TF is expressed there, tables, and the files that are written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from chromacc_lib import ChromaccError
from chromacc_lib.attribution import Attribution
from chromacc_lib.batches import RegionData, measured, without
from chromacc_lib.dataset import Arrays
from chromacc_lib.inference import evaluating
from chromacc_lib.model import MODALITIES
from chromacc_lib.motifs import Marginal, Pattern, jaspar_motifs, write_patterns
from chromacc_lib.simulate import LINEAGE_TFS, UBIQUITOUS

__all__ = ["AttentionSummary", "Places", "attention_agreement", "attention_maps", "attention_summary", "choose_places",
           "expression_of", "modality_alone", "modality_contributions", "motif_table", "per_base_auprc", "planted_instances",
           "recovered_tfs", "require_interpretable", "rollout", "save_interpretation", "shared_seqlets"]  # fmt: skip

MATCH_Q = 0.05  # a TF is named when TOMTOM's q is this or less
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
    return Places(drawn, cells, f"{len(drawn)} of {len(there)} peak windows that are predicted in all cell types, on "
                  f"chromosomes that the model was not trained on, each in the {cells.shape[1]} cell types in which its predicted score is highest")  # fmt: skip


# --- modalities ----------------------------------------------------------------------------------------------


def modality_contributions(
    model: nn.Module, arrays: Arrays, windows: np.ndarray, at_once: int = 32
) -> pd.DataFrame:
    """Mask each modality, mark and TF track as if it had not been measured, and see how the predictions change.

    One row an input and cell type, over `windows`: input, group (modality, histone mark, TF track), cell_type,
    cell_type_split, n_windows, mse, mse_masked, rise (of the squared error, as a share of the scores' variance), rms
    (change of the prediction, arcsinh fold). Rise and rms are NaN where that input was never measured. Masking tells
    what the model loses without an input when all the others are there: two inputs that say the same look small.
    """
    data = RegionData(arrays)
    inputs = {(name, "modality"): (name, None) for name in MODALITIES}
    inputs |= {(name, "histone mark"): ("histone", i) for i, name in enumerate(arrays.histone_marks)}
    inputs |= {(name, "TF track"): ("tf", i) for i, name in enumerate(arrays.tfs)}
    cells, score = np.arange(arrays.score.shape[1]), arrays.score[windows]
    whole = _predict(model, data, windows, cells, at_once)
    known = np.isfinite(score)
    error = _mean_known((whole - score) ** 2, known)
    variance = np.array([np.var(score[known[:, c], c]) if known[:, c].any() else np.nan for c in cells])
    tables = []
    for (name, group), (modality, index) in inputs.items():
        masked = _predict(model, data, windows, cells, at_once, [(modality, index)])
        there = measured(data.batch(windows, cells), modality, index).any(0)
        error_masked = _mean_known((masked - score) ** 2, known)
        rise = np.where(there, (error_masked - error) / variance, np.nan)
        rms = np.where(there, np.sqrt(((masked - whole) ** 2).mean(0)), np.nan)
        tables.append(pd.DataFrame({
            "input": name, "group": group, "cell_type": arrays.cell_types["cell_type"].to_numpy(),
            "cell_type_split": arrays.cell_types["split"].to_numpy(), "n_windows": known.sum(0), "mse": error,
            "mse_masked": error_masked, "rise": rise, "rms": rms,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def modality_alone(model: nn.Module, arrays: Arrays, most_windows: int = 400, at_once: int = 32) -> pd.DataFrame:
    """Scores that the model predicts from one modality at a time, all others masked, where nothing was trained on.

    One row a test cell type and window of the test chromosomes (at most `most_windows`, evenly spaced): cell_type, window,
    and a column for each of MODALITIES, arcsinh fold. A lower bound of what a modality can do: the model was trained with
    all of them, and seldom with one. Compare them with `evaluation.compare`.
    """
    data, cells = RegionData(arrays), np.flatnonzero((arrays.cell_types["split"] == "test").to_numpy())
    windows = np.flatnonzero((arrays.windows["split"] == "test").to_numpy())
    windows = windows[:: max(1, -(-len(windows) // most_windows))]
    names = arrays.cell_types["cell_type"].to_numpy()[cells]
    columns = {"cell_type": np.tile(names, len(windows)), "window": np.repeat(windows, len(cells))}
    for name in MODALITIES:
        others = [(other, None) for other in MODALITIES if other != name]
        columns[f"{name} only"] = _predict(model, data, windows, cells, at_once, others).reshape(-1)
    return pd.DataFrame(columns)


def _mean_known(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean over windows where known, (W, C) -> (C,); NaN for a cell type without any."""
    count = known.sum(0)
    return np.divide(np.where(known, values, 0).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)


@torch.no_grad()
def _predict(
    model: nn.Module, data: RegionData, windows: np.ndarray, cells: np.ndarray, at_once: int,
    masked: Sequence[tuple[str, int | None]] = (),
) -> np.ndarray:  # fmt: skip
    """Scores (W, C), mean of both strands, with modalities (or single tracks of them) masked."""
    device, parts = next(model.parameters()).device, []
    with evaluating(model):
        for start in range(0, len(windows), at_once):
            batch = data.batch(windows[start : start + at_once], cells)
            for modality, index in masked:
                batch = without(batch, modality, index)
            batch = batch.to(device)
            both = model(batch).score + model(batch.reverse_complement()).score
            parts.append((both / 2).float().cpu().numpy())
    return np.concatenate(parts)


# --- attention -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttentionSummary:
    """Attention averaged over windows (and cell types). Rows of a map are queries, and add up to 1.

    Entropies are shares of the largest possible: 1 = looks at all places alike, 0 = at one.
    """

    sequence: np.ndarray  # (layer, head, T, T)
    encoder: np.ndarray  # (layer, head, T, T)
    fusion: np.ndarray  # (C, T, 6): by cell type, bin, and MODALITIES with the null key last; mean over heads
    fusion_heads: np.ndarray  # (head, 6)
    sequence_entropy: np.ndarray  # (layer, head)
    encoder_entropy: np.ndarray  # (layer, head)


@torch.no_grad()
def attention_maps(model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray) -> dict[str, Tensor]:
    """Attention of single places, on the CPU: sequence (W, layer, head, T, T), fusion (W, C, T, head, 6), encoder
    (W, C, layer, head, T, T). Forward strand. cell_types: (C,) or (W, C).
    """
    with evaluating(model):
        output = model(data.batch(windows, cell_types).to(next(model.parameters()).device), return_attention=True)
    return {name: weights.float().cpu() for name, weights in output.attention.items()}


def attention_summary(
    model: nn.Module, data: RegionData, windows: np.ndarray, cell_types: np.ndarray, at_once: int = 8
) -> AttentionSummary:
    """Average the attention of W windows in the cell types (C,); entropies are taken before averaging."""
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(windows), at_once):
        chunk = windows[start : start + at_once]
        maps = attention_maps(model, data, chunk, cell_types)
        encoder, share = maps["encoder"].flatten(0, 1), len(chunk) / len(windows)
        sums = {
            "sequence": maps["sequence"].mean(0), "encoder": encoder.mean(0), "fusion": maps["fusion"].mean((0, 3)),
            "fusion_heads": maps["fusion"].mean((0, 1, 2)), "sequence_entropy": _entropy(maps["sequence"]),
            "encoder_entropy": _entropy(encoder),
        }  # fmt: skip
        parts.append({name: share * value for name, value in sums.items()})
    return AttentionSummary(**{f.name: sum(part[f.name] for part in parts).numpy() for f in fields(AttentionSummary)})


def _entropy(maps: Tensor) -> Tensor:
    """(N, layer, head, T, T) -> mean entropy of a query's weights (layer, head), as a share of log T."""
    return (-(maps * maps.clamp(min=1e-12).log()).sum(-1) / np.log(maps.shape[-1])).mean((0, 3))


def rollout(maps: np.ndarray) -> np.ndarray:
    """Attention rollout (Abnar & Zuidema 2020): (layer, head, T, T) -> (T, T), how much of each place reaches each one.

    Heads are averaged, the residual path counts as half, and layers are multiplied; rows add up to 1.
    """
    steps = 0.5 * maps.mean(1) + 0.5 * np.eye(maps.shape[-1])
    through = steps[0]
    for step in steps[1:]:
        through = step @ through
    return through


def attention_agreement(
    model: nn.Module, data: RegionData, places: Places, attribution: Attribution, seed: int
) -> dict[str, float]:
    """Does the encoder attend to the bins that carry the contributions?

    Spearman's correlation over the bins of a window between attention received (mean over layers, heads and queries)
    and the sum of absolute contributions; `value` is its mean over windows, `chance` the same with the attention of
    another window drawn at random.
    """
    received = []
    for start in range(0, len(places.windows), 16):
        some = slice(start, start + 16)
        maps = attention_maps(model, data, places.windows[some], places.cell_types[some])
        received.append(maps["encoder"].mean((1, 2, 3, 4)).numpy())  # (W, C, layer, head, T, T) -> (W, T)
    received = np.concatenate(received)
    carried = np.abs(attribution.contribution).reshape(len(received), received.shape[1], -1).sum(2)
    varies = (np.ptp(carried, axis=1) > 0) & (np.ptp(received, axis=1) > 0)
    received, carried = received[varies], carried[varies]
    if len(received) < 2:
        return {"value": np.nan, "chance": np.nan}
    other = np.roll(np.random.default_rng(seed).permutation(len(received)), 1)
    both = {"value": received, "chance": received[other]}
    return {name: float(np.mean([stats.spearmanr(a, b).statistic for a, b in zip(x, carried)])) for name, x in both.items()}


# --- motifs and the cell types that express them -------------------------------------------------------------


def expression_of(tfs: Sequence[str], expression: pd.DataFrame) -> pd.Series | None:
    """Expression, log2(TPM + 1) by cell type, of the first of `tfs` (upper case) that the table knows; None if none.

    expression: cell types as rows, genes as columns.
    """
    genes = {gene.upper(): gene for gene in expression.columns}
    known = [genes[tf] for tf in tfs if tf in genes]
    return expression[known[0]].dropna() if known else None


def motif_table(
    patterns: Sequence[Pattern], matches: pd.DataFrame, marginals: Mapping[str, Marginal], closed: Mapping[str, Marginal],
    expression: pd.DataFrame, cell_types: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """One row a pattern: its TF, its seqlets, and whether inserting it raises the score, where its TF is on and off.

    marginals and closed: pattern name -> what inserting it does in peak windows, and in windows that are closed.
    expression: log2(TPM + 1), cell types as rows, genes as columns. cell_types: of the marginals' columns.

    Columns: pattern, consensus, matched_tf (best match in JASPAR, q <= 0.05), q_value, n_seqlets, effect (arcsinh
    fold, mean over cell types, against shuffles of its own bases) with effect_low, effect_high (95%), p_adjusted
    (Benjamini-Hochberg), confirmed; expressed_tf (the best match among the genes that are known), on_in (cell types in
    which it is on: above the middle of its range, if that spans four-fold), effect_on, effect_off, p_on_off
    (Mann-Whitney over cell types, one-sided, adjusted), follows_tf; effect_closed. What cannot be compared says so.
    """
    rows = [
        _motif_row(x, matches[matches["pattern"] == x.name], marginals[x.name], expression, cell_types)
        | {"effect_closed": closed[x.name].effect}
        for x in patterns
    ]
    table = pd.DataFrame(rows, columns=[
        "pattern", "consensus", "matched_tf", "q_value", "n_seqlets", "effect", "effect_low", "effect_high",
        "p_adjusted", "confirmed", "expressed_tf", "on_in", "effect_on", "effect_off", "p_on_off", "follows_tf",
        "effect_closed",
    ])  # fmt: skip
    for column, verdict, unknown in (("p_adjusted", "confirmed", "no"), ("p_on_off", "follows_tf", "cannot be compared")):
        known = table[column].notna()
        table[column] = table[column].astype(float)
        if known.any():
            table.loc[known, column] = stats.false_discovery_control(table.loc[known, column])
        table[verdict] = np.where(~known, unknown, np.where(table[column] <= LEVEL, "yes", "no"))
    return table


def _motif_row(
    pattern: Pattern, matches: pd.DataFrame, marginal: Marginal, expression: pd.DataFrame, cell_types: Sequence[str]
) -> dict:
    """A row of `motif_table` with p-values that are not adjusted yet."""
    row = {
        "pattern": pattern.name, "consensus": pattern.consensus, "n_seqlets": len(pattern.seqlets),
        "matched_tf": "no match", "effect": marginal.effect, "effect_low": marginal.low, "effect_high": marginal.high,
        "p_adjusted": marginal.p_value, "expressed_tf": "not known", "on_in": "not known",
    }  # fmt: skip
    if len(matches):
        row |= {"matched_tf": matches["name"].iloc[0], "q_value": matches["q_value"].iloc[0]}
    by_tf = [(tf, expression_of([tf], expression)) for tfs in matches["tfs"] for tf in tfs]
    known = next(((tf, values) for tf, values in by_tf if values is not None and len(values)), None)
    if known is None:
        return row
    tf, level = known
    row["expressed_tf"], row["on_in"] = tf, "no contrast"
    if np.ptp(level) >= EXPRESSION_RANGE:
        effects = pd.Series(marginal.by_cell_type.mean(0), index=list(cell_types))[level.index]
        on = level > (level.min() + level.max()) / 2
        p = stats.mannwhitneyu(effects[on], effects[~on], alternative="greater").pvalue
        row |= {"on_in": f"{on.sum()} of {len(level)}", "effect_on": effects[on].mean(),
                "effect_off": effects[~on].mean(), "p_on_off": p}  # fmt: skip
    return row


# --- the planted truth of simulated data ---------------------------------------------------------------------


def planted_instances(raw_dir: str | Path, windows: pd.DataFrame) -> pd.DataFrame:
    """Instances that the simulator planted in `windows` (columns chrom, start, end; one row a window, 0-based).

    Returns window (row of `windows`), start, end (bp from the window's start, cut to it), tf, strand. Raises
    ChromaccError when the simulation's truth is not in raw_dir.
    """
    path = Path(raw_dir) / "truth" / "planted_motifs.bed"
    if not path.is_file():
        raise ChromaccError(f"{path}: not there; for simulated data, raw_dir must be the folder of the simulation.")
    names = ["chrom", "start", "end", "tf", "affinity", "strand", "element"]
    planted = pd.read_csv(path, sep="\t", names=names)
    frames = []
    for i, (chrom, start, end) in enumerate(zip(windows["chrom"], windows["start"], windows["end"])):
        here = planted[(planted["chrom"] == chrom) & (planted["end"] > start) & (planted["start"] < end)]
        frames.append(pd.DataFrame({
            "window": i, "start": (here["start"] - start).clip(lower=0), "end": (here["end"] - start).clip(upper=end - start),
            "tf": here["tf"], "strand": here["strand"],
        }))  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def per_base_auprc(values: np.ndarray, instances: pd.DataFrame, start: int = 0) -> dict[str, float]:
    """How well absolute attributions (K, P) rank planted bases above others: auprc, base_rate, and their ratio `times`.

    Column p of `values` is position start + p of the window.
    """
    planted = np.zeros((len(values), start + values.shape[1]), bool)
    for window, first, last in zip(instances["window"], instances["start"], instances["end"]):
        planted[window, first:last] = True
    planted = planted[:, start:]
    rate = float(planted.mean())
    if rate in (0.0, 1.0):
        return {"auprc": np.nan, "base_rate": rate, "times": np.nan}
    auprc = float(average_precision_score(planted.ravel(), np.abs(values).ravel()))
    return {"auprc": auprc, "base_rate": rate, "times": auprc / rate}


def recovered_tfs(matches: pd.DataFrame, instances: pd.DataFrame, contribution: np.ndarray) -> pd.DataFrame:
    """For each planted TF: how often it stands in the windows, and which patterns have it as their best match.

    Exact: the best match of a pattern bears the TF's name (a dimer bears two), or is the matrix, of any version, that
    was planted. Family: it shares a JASPAR family with the planted matrix. Columns: tf, instances, contribution (mean
    sum over an instance, arcsinh fold; near 0: the model does not read this motif here, so that no method can find
    it), exact, family (patterns, separated by commas), recovered ("by name", "by family", "no").
    """
    best = matches.drop_duplicates("pattern")
    families = {motif.identifier.split(".")[0]: set(motif.families) for motif in jaspar_motifs()}
    places = zip(instances["window"], instances["start"], instances["end"])
    worth = pd.Series([contribution[window, start:end].sum() for window, start, end in places], index=instances["tf"])
    rows = []
    for tf, identifier in {**UBIQUITOUS, **LINEAGE_TFS}.items():
        base = identifier.split(".")[0]
        exact = [m.pattern for m in best.itertuples() if tf in m.tfs or m.identifier.split(".")[0] == base]
        family = [m.pattern for m in best.itertuples() if set(m.families) & families.get(base, set())]
        rows.append({
            "tf": tf, "instances": int((instances["tf"] == tf).sum()),
            "contribution": worth[worth.index == tf].mean(), "exact": ", ".join(exact),
            "family": ", ".join(family), "recovered": "by name" if exact else "by family" if family else "no",
        })  # fmt: skip
    return pd.DataFrame(rows)


def shared_seqlets(patterns: Sequence[Pattern], instances: pd.DataFrame) -> pd.DataFrame:
    """For each pattern: the share of its seqlets that overlap a planted instance, by half of the shorter, and of which TF.

    Columns: pattern, n_seqlets, on_planted (share), most_common_tf, its_share (of all seqlets). What overlaps none may
    be a chance occurrence of the motif in the background, which the model cannot tell from a planted one.
    """
    rows = []
    for pattern in patterns:
        names = []
        for seqlet in pattern.seqlets.itertuples():
            here = instances[instances["window"] == seqlet.window]
            overlap = np.minimum(here["end"], seqlet.end) - np.maximum(here["start"], seqlet.start)
            half = overlap >= np.minimum(here["end"] - here["start"], seqlet.end - seqlet.start) / 2
            names.append(here["tf"][overlap[half].idxmax()] if half.any() else "")
        found = pd.Series([name for name in names if name], dtype=str).value_counts()
        rows.append({
            "pattern": pattern.name, "n_seqlets": len(names), "on_planted": found.sum() / len(names),
            "most_common_tf": found.index[0] if len(found) else "none",
            "its_share": found.iloc[0] / len(names) if len(found) else 0.0,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["pattern", "n_seqlets", "on_planted", "most_common_tf", "its_share"])


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
