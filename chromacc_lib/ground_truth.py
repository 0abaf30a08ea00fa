"""How far what was found bears the planted truth of simulated data: bases, TFs, cell types, false discoveries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import average_precision_score

from chromacc_lib import ChromaccError
from chromacc_lib.confirmation import Effect
from chromacc_lib.jaspar import matrix_by_id
from chromacc_lib.motifs import Pattern, jaspar_motifs
from chromacc_lib.simulate import LINEAGE_TFS, UBIQUITOUS

__all__ = ["false_discoveries", "per_base_auprc", "planted_activity", "planted_consensus", "planted_instances",
           "recovered_tfs", "shared_seqlets"]  # fmt: skip

LEVEL = 0.05  # p at which cell types count as told apart


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


def planted_activity(raw_dir: str | Path, cell_types: Sequence[str]) -> pd.DataFrame:
    """Activity, 0 to 1, of the simulated TFs (columns) in cell_types (rows, in this order).

    Raises ChromaccError when the simulation's truth is not in raw_dir.
    """
    path = Path(raw_dir) / "truth" / "tf_activity.tsv"
    if not path.is_file():
        raise ChromaccError(f"{path}: not there; for simulated data, raw_dir must be the folder of the simulation.")
    return pd.read_csv(path, sep="\t", index_col=0).loc[list(cell_types)]


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


def planted_consensus(tf: str) -> str:
    """The most probable sequence of the matrix that was planted for a TF."""
    return "".join("ACGT"[i] for i in matrix_by_id({**UBIQUITOUS, **LINEAGE_TFS}[tf]).argmax(1))


def recovered_tfs(
    matches: pd.DataFrame, instances: pd.DataFrame, contribution: np.ndarray, effects: Mapping[str, Effect],
    activity: pd.DataFrame, enough: int = 15,
) -> pd.DataFrame:  # fmt: skip
    """For each planted TF: how often it stands in the windows, which patterns bear its name, and in the right cell types?

    matches: of `match_jaspar`. effects: pattern -> what inserting it does, cell types in the order of activity's rows.
    activity: of the simulated TFs (columns), 0 to 1. enough: instances that a pattern needs, seqlets being as many.

    by name: the best match of a pattern bears the TF's name (a dimer bears two), or is the matrix, of any version, that
    was planted. as a relative: the best match is another TF of its JASPAR family, and the planted matrix matches that
    pattern as well (q <= 0.05): JASPAR's matrices cannot tell them apart there, and nor can any method. Columns: tf,
    instances, contribution (mean sum over an instance, arcsinh fold; near 0: the model does not read this motif here, so
    that no method can find it), patterns, called (their best matches), recovered ("by name", "as a relative", "no", or
    "too few instances"), active_in (cell types with more than half of its largest activity), auroc (that inserting its
    first pattern raises an active cell type more than another; NaN where it is active everywhere), right_cell_types: does
    it raise the active ones more (Mann-Whitney, p <= 0.05), or all of them, where all are active.
    """
    families = {motif.identifier.split(".")[0]: set(motif.families) for motif in jaspar_motifs()}
    worth = pd.Series(
        [contribution[i.window, i.start : i.end].sum() for i in instances.itertuples()], index=instances["tf"], dtype=float
    )
    rows = []
    for tf, identifier in {**UBIQUITOUS, **LINEAGE_TFS}.items():
        own = matches["tfs"].map(lambda tfs: tf in tfs) | (matches["identifier"].str.split(".").str[0] == identifier.split(".")[0])
        best = matches.drop_duplicates("pattern")
        exact = best[own.reindex(best.index).astype(bool)]
        family = families.get(identifier.split(".")[0], set())
        alike = best[best["families"].map(lambda names: bool(set(names) & family)) & best["pattern"].isin(matches.loc[own, "pattern"])]
        found, n = (exact if len(exact) else alike), int((instances["tf"] == tf).sum())
        how = "by name" if len(exact) else "as a relative" if len(alike) else "no" if n >= enough else "too few instances"
        on = (activity[tf] > activity[tf].max() / 2).to_numpy()
        row = {"tf": tf, "instances": n, "contribution": worth[worth.index == tf].mean(), "patterns": ", ".join(found["pattern"]),
               "called": ", ".join(found["name"]), "recovered": how, "active_in": f"{on.sum()} of {len(on)}"}  # fmt: skip
        rows.append(row | (_right_cell_types(effects[found["pattern"].iloc[0]], on) if len(found) else {}))
    columns = ["tf", "instances", "contribution", "patterns", "called", "recovered", "active_in", "auroc", "right_cell_types"]
    return pd.DataFrame(rows, columns=columns)


def _right_cell_types(effect: Effect, on: np.ndarray) -> dict[str, float | str]:
    """Is the effect (n, C) larger where the TF is active (C,), or above 0 everywhere, where it is active everywhere?"""
    by_cell_type = effect.by_cell_type.mean(0)
    if on.all():
        return {"auroc": np.nan, "right_cell_types": "yes" if (by_cell_type > 0).all() else "no"}
    test = stats.mannwhitneyu(by_cell_type[on], by_cell_type[~on], alternative="greater")
    return {"auroc": test.statistic / (on.sum() * (~on).sum()), "right_cell_types": "yes" if test.pvalue <= LEVEL else "no"}


def false_discoveries(matches: pd.DataFrame, patterns: Sequence[Pattern]) -> pd.DataFrame:
    """Patterns that are no planted motif: those whose best match is neither a planted TF nor a relative that JASPAR cannot
    tell from one, and those without a match. Columns: pattern, consensus, called, n_seqlets.
    """
    planted = {**UBIQUITOUS, **LINEAGE_TFS}
    families = {motif.identifier.split(".")[0]: set(motif.families) for motif in jaspar_motifs()}
    rows = []
    for pattern in patterns:
        here = matches[matches["pattern"] == pattern.name]
        best = here.iloc[0] if len(here) else None
        bases, names = set(here["identifier"].str.split(".").str[0]), {tf for tfs in here["tfs"] for tf in tfs}
        explained = best is not None and any(
            tf in best["tfs"] or best["identifier"].split(".")[0] == identifier.split(".")[0]
            or (set(best["families"]) & families.get(identifier.split(".")[0], set())
                and (tf in names or identifier.split(".")[0] in bases))
            for tf, identifier in planted.items()
        )  # fmt: skip
        if not explained:
            rows.append((pattern.name, pattern.consensus, "no match" if best is None else best["name"], len(pattern.seqlets)))
    return pd.DataFrame(rows, columns=["pattern", "consensus", "called", "n_seqlets"])


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
