"""From attributions to motifs: seqlets, patterns, and their match in JASPAR.

A seqlet is a stretch of a window whose bases add much to the score; a pattern is a group of seqlets that look alike.
A pattern with a fine logo is still only a claim, which module `confirmation` puts to the test.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from memelite import tomtom
from memelite.io import read_meme, write_meme
from pyjaspar import jaspardb
from scipy import stats
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from tangermeme.seqlet import tfmodisco_seqlets

from chromacc_lib.attribution import Attribution
from chromacc_lib.jaspar import JASPAR_RELEASE
from chromacc_lib.scoring import one_hot

__all__ = ["JasparMotif", "Pattern", "call_seqlets", "find_patterns", "jaspar_motifs", "match_jaspar", "orient", "read_patterns", "write_patterns"]  # fmt: skip

CORE_BP, FLANK_BP = 11, 4  # a seqlet is 11 bp found by their sum, and 4 bp on either side: one motif, not its neighbour
SEQLET_BP = CORE_BP + 2 * FLANK_BP
SLIDE_BP = 5  # how far two seqlets may be shifted against each other
MAX_SEQLETS = 1500  # the strongest are clustered; the pairwise comparison grows with the square
MERGE_SIMILARITY = 0.85  # groups whose means are so alike are one pattern
SAME_MOTIF = 1e-3  # TOMTOM's p of two patterns that are one motif, seen in different company
MIN_BITS, MIN_WORTH = 0.5, 0.15  # a pattern ends where information, or its share of the largest contribution, is less
BASES = "ACGT"


@dataclass(frozen=True)
class Pattern:
    """Seqlets that look alike, aligned."""

    name: str
    probabilities: np.ndarray  # float64 (m, 4), ACGT; every row adds up to 1
    contribution: np.ndarray  # float64 (m, 4): mean contribution of the base that is there, arcsinh fold
    seqlets: pd.DataFrame  # window (row of the attributions), start, end (0-based half-open), strand, attribution

    @property
    def consensus(self) -> str:
        """The most frequent base at each position."""
        return "".join(BASES[i] for i in self.probabilities.argmax(1))

    def reverse_complement(self) -> Pattern:
        """The same pattern read from the other strand."""
        strand = self.seqlets["strand"].map({"+": "-", "-": "+"})
        return replace(self, probabilities=self.probabilities[::-1, ::-1], contribution=self.contribution[::-1, ::-1],
                       seqlets=self.seqlets.assign(strand=strand))  # fmt: skip


@dataclass(frozen=True)
class JasparMotif:
    """A matrix of JASPAR. `tfs`: the names in upper case that it stands for, two of them for a dimer."""

    identifier: str
    name: str
    tfs: tuple[str, ...]
    families: tuple[str, ...]
    probabilities: np.ndarray  # float64 (m, 4)


# --- seqlets and patterns ------------------------------------------------------------------------------------


def call_seqlets(contribution: np.ndarray, fdr: float = 0.1) -> pd.DataFrame:
    """Call the stretches that raise the score, by the null of TF-MoDISco (Shrikumar et al. 2018) in tangermeme.

    contribution: float32 (K, L). Returns window, start, end (0-based half-open, 19 bp), attribution (sum), the
    strongest first. Stretches that lower the score are not called. All-zero contributions have no seqlet.
    """
    columns = ["window", "start", "end", "attribution"]
    if not np.any(contribution):
        return pd.DataFrame(columns=columns)
    with warnings.catch_warnings():  # tangermeme hands torch tensors to numpy, which will want another signature one day
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        found = tfmodisco_seqlets(
            torch.from_numpy(np.ascontiguousarray(contribution)), window_size=CORE_BP, flank=FLANK_BP, target_fdr=fdr,
            min_passing_frac=0.003,
        )  # fmt: skip
    found = found.rename(columns={"example_idx": "window"})
    found = found[found["attribution"] > 0].sort_values("attribution", ascending=False, kind="stable")
    return found[columns].reset_index(drop=True)


def find_patterns(
    attribution: Attribution, codes: np.ndarray, seqlets: pd.DataFrame, min_seqlets: int = 15, similarity: float = 0.6
) -> list[Pattern]:
    """Group seqlets into patterns, the one with most seqlets first.

    Two seqlets are compared by the cosine of their hypothetical contributions, best over both strands and shifts of up
    to 5 bp. Average linkage puts together what is `similarity` or more alike, then groups whose means are nearly the
    same; groups under `min_seqlets` are left out, and patterns that TOMTOM cannot tell apart are joined. It stands in for
    TF-MoDISco, which on two cores compiles for minutes before its first result.
    """
    seqlets = seqlets.head(MAX_SEQLETS).reset_index(drop=True)
    if len(seqlets) < max(2, min_seqlets):
        return []
    rows = zip(seqlets["window"], seqlets["start"], seqlets["end"])
    values = np.stack([attribution.hypothetical[window, start:end] for window, start, end in rows])  # (n, 19, 4)
    alike = _compare(values)
    group = _merge(values, _group(alike, similarity), alike, min_seqlets)
    patterns = []
    for label, size in pd.Series(group[group > 0]).value_counts().items():
        members = np.flatnonzero(group == label)
        if size < min_seqlets:
            break
        _, shift, flipped = alike.to(_centre(alike, members), members)
        patterns += _align(attribution, codes, seqlets.loc[members], shift, flipped)
    return [replace(pattern, name=f"P{i}") for i, pattern in enumerate(_absorb(patterns), 1)]


def _absorb(patterns: list[Pattern]) -> list[Pattern]:
    """Give the seqlets of a pattern that TOMTOM takes for a larger one (p <= `SAME_MOTIF`) to that one, whose logo stays."""
    if len(patterns) < 2:
        return patterns
    matrices = [np.ascontiguousarray(x.probabilities.T) for x in patterns]
    background = [np.ascontiguousarray(motif.probabilities.T) for motif in jaspar_motifs()]  # of its p-values
    p, _, _, _, strand = tomtom(matrices, [*matrices, *background], n_jobs=1)
    kept: dict[int, Pattern] = {}
    for i, pattern in enumerate(patterns):
        same = min(kept, key=lambda j: p[i, j], default=None)
        if same is None or p[i, same] > SAME_MOTIF:
            kept[i] = pattern
            continue
        turned = pattern.reverse_complement() if strand[i, same] else pattern
        kept[same] = replace(kept[same], seqlets=pd.concat([kept[same].seqlets, turned.seqlets], ignore_index=True))
    return sorted(kept.values(), key=lambda x: -len(x.seqlets))


class _Alike(NamedTuple):
    """Every pair of n: cosine, and the shift (bp) and strand at which the second lies best on the first; (n, n)."""

    cosine: np.ndarray
    shift: np.ndarray
    flipped: np.ndarray

    def to(self, first: int, others: np.ndarray) -> _Alike:
        """How the others lie on one of them, (len(others),)."""
        return _Alike(self.cosine[first, others], self.shift[first, others], self.flipped[first, others])


def _compare(values: np.ndarray) -> _Alike:
    """Compare hypothetical contributions (n, width, 4) at every shift and strand."""
    n, width = values.shape[:2]
    flat = values.reshape(n, -1)
    unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    padded = np.pad(unit.reshape(values.shape), ((0, 0), (SLIDE_BP, SLIDE_BP), (0, 0)))
    cosine, shift, flipped = np.full((n, n), -1.0, np.float32), np.zeros((n, n), np.int8), np.zeros((n, n), bool)
    for strand, other in ((False, padded), (True, padded[:, ::-1, ::-1])):
        for offset in range(2 * SLIDE_BP + 1):
            now = unit @ other[:, offset : offset + width].reshape(n, -1).T
            better = now > cosine
            cosine[better], shift[better], flipped[better] = now[better], offset - SLIDE_BP, strand
    return _Alike(cosine, shift, flipped)


def _group(alike: _Alike, similarity: float) -> np.ndarray:
    """Labels 1.. by average linkage, int (n,)."""
    distance = 1 - (alike.cosine + alike.cosine.T) / 2
    np.fill_diagonal(distance, 0)
    return fcluster(linkage(squareform(distance, checks=False).clip(0), "average"), 1 - similarity, "distance")


def _centre(alike: _Alike, members: np.ndarray) -> int:
    """The member that is most like the others."""
    return members[alike.cosine[np.ix_(members, members)].sum(1).argmax()]


def _merge(values: np.ndarray, group: np.ndarray, alike: _Alike, min_seqlets: int) -> np.ndarray:
    """Give groups whose mean contributions are alike one label; 0 for groups under a third of `min_seqlets`."""
    sizes = pd.Series(group).value_counts()
    labels = sizes.index[sizes >= max(2, min_seqlets / 3)].to_numpy()
    merged = np.zeros_like(group)
    if len(labels) < 2:
        merged[np.isin(group, labels)] = 1
        return merged
    means = []
    for label in labels:
        members = np.flatnonzero(group == label)
        _, shift, flipped = alike.to(_centre(alike, members), members)
        laid = np.pad(values[members], ((0, 0), (SLIDE_BP, SLIDE_BP), (0, 0)))
        laid[flipped] = laid[flipped][:, ::-1, ::-1]
        at = SLIDE_BP + shift[:, None].astype(int) + np.arange(values.shape[1])
        means.append(laid[np.arange(len(members))[:, None], at].mean(0))
    for label, new in zip(labels, _group(_compare(np.stack(means)), MERGE_SIMILARITY)):
        merged[group == label] = new
    return merged


def _align(
    attribution: Attribution, codes: np.ndarray, members: pd.DataFrame, shift: np.ndarray, flipped: np.ndarray
) -> list[Pattern]:
    """Lay members over each other, `SLIDE_BP` wider than a seqlet, and cut where there is no information; [] if none is."""
    start = members["start"].to_numpy() + np.where(flipped, -shift, shift) - SLIDE_BP
    width = SEQLET_BP + 2 * SLIDE_BP
    position = start[:, None] + np.arange(width)
    inside = (position >= 0) & (position < codes.shape[1])
    window, position = members["window"].to_numpy()[:, None], position.clip(0, codes.shape[1] - 1)
    bases = one_hot(codes[window, position]).numpy() * inside[..., None]  # (n, width, 4)
    shares = bases * attribution.contribution[window, position][..., None]
    bases[flipped], shares[flipped] = bases[flipped][:, ::-1, ::-1], shares[flipped][:, ::-1, ::-1]
    probabilities = (bases.sum(0) + 0.25) / (bases.sum((0, 2))[:, None] + 1)
    bits = 2 + (probabilities * np.log2(probabilities)).sum(1)
    worth = shares.mean(0).sum(1)
    informative = np.flatnonzero((bits >= MIN_BITS) & (worth >= MIN_WORTH * worth.max()))
    if len(informative) == 0 or informative[-1] - informative[0] < 4:
        return []
    first, last = informative[0], informative[-1] + 1
    begin = np.where(flipped, start + width - last, start + first)
    seqlets = pd.DataFrame({
        "window": members["window"].to_numpy(), "start": begin, "end": begin + last - first,
        "strand": np.where(flipped, "-", "+"), "attribution": members["attribution"].to_numpy(),
    })  # fmt: skip
    return [Pattern("", probabilities[first:last], shares.mean(0)[first:last].astype(np.float64), seqlets)]


# --- JASPAR --------------------------------------------------------------------------------------------------


@cache
def jaspar_motifs() -> tuple[JasparMotif, ...]:
    """Every vertebrate CORE matrix of the pinned JASPAR release, newest versions, with its TFs and families.

    A dimer such as FOS::JUN stands for both its names; variants are named after their TF, "RORA(var.2)" after RORA.
    """
    database = jaspardb(release=JASPAR_RELEASE)
    motifs = []
    for motif in database.fetch_motifs(collection="CORE", tax_group=["vertebrates"]):
        counts = np.array([motif.counts[base] for base in BASES], float).T + 0.25
        tfs = tuple(part.split("(")[0].upper() for part in motif.name.split("::"))
        families = tuple(str(family) for family in motif.tf_family or ())
        motifs.append(JasparMotif(motif.matrix_id, motif.name, tfs, families, counts / counts.sum(1, keepdims=True)))
    return tuple(motifs)


def match_jaspar(patterns: Sequence[Pattern], max_q: float = 0.05) -> pd.DataFrame:
    """Match patterns with JASPAR by TOMTOM (Gupta et al. 2007; memelite), every match of q <= max_q, best first.

    q: Benjamini-Hochberg over all pairs of pattern and matrix. Columns: pattern, identifier, name, tfs, families,
    p_value, q_value, strand (of the matrix that the pattern lies on). A pattern without a match has no row.
    """
    columns = ["pattern", "identifier", "name", "tfs", "families", "p_value", "q_value", "strand"]
    if not patterns:
        return pd.DataFrame(columns=columns)
    motifs = jaspar_motifs()
    # one memory layout for all: numba compiles for a minute for each new one
    queries, targets = ([np.ascontiguousarray(x.probabilities.T) for x in group] for group in (patterns, motifs))
    p, _, _, _, strand = tomtom(queries, targets, n_jobs=1)
    q = stats.false_discovery_control(p.clip(0, 1), axis=None).reshape(p.shape)
    rows = [
        (patterns[i].name, motifs[j].identifier, motifs[j].name, motifs[j].tfs, motifs[j].families, float(p[i, j]),
         float(q[i, j]), "-" if strand[i, j] else "+")
        for i in range(len(patterns)) for j in np.argsort(p[i], kind="stable") if q[i, j] <= max_q
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def orient(patterns: Sequence[Pattern], matches: pd.DataFrame) -> list[Pattern]:
    """Turn each pattern to the strand of its best match, so that logos look as they do in JASPAR."""
    strand = matches.drop_duplicates("pattern").set_index("pattern")["strand"]
    return [x.reverse_complement() if strand.get(x.name, "+") == "-" else x for x in patterns]


def write_patterns(path: str | Path, patterns: Sequence[Pattern]) -> None:
    """Write a MEME file, whole or not at all; a name is pattern and consensus."""
    partial = Path(f"{path}.partial")
    write_meme(str(partial), {f"{x.name} {x.consensus}": x.probabilities.T for x in patterns})
    os.replace(partial, path)


def read_patterns(path: str | Path) -> dict[str, np.ndarray]:
    """Read a MEME file: name -> probabilities (m, 4)."""
    return {name: matrix.T for name, matrix in read_meme(str(path)).items()}
