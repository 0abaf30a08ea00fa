"""Motif matrices from JASPAR, through pyjaspar, whose wheel carries the database: no network, one pinned release."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

import numpy as np
from pyjaspar import jaspardb

from chromacc_lib import ChromaccError

__all__ = ["JASPAR_RELEASE", "matrices_of", "matrix_by_id", "vertebrate_matrices"]

JASPAR_RELEASE = "JASPAR2026"


def matrix_by_id(identifier: str) -> np.ndarray:
    """Position probability matrix, shape=(length, 4: ACGT), of one matrix and version, such as MA0139.1.

    Raises `ChromaccError` for an identifier that JASPAR does not hold.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pyjaspar only warns of an unknown identifier; the error below says it
        motif = jaspardb(release=JASPAR_RELEASE).fetch_motif_by_id(identifier)
    if motif is None:
        raise ChromaccError(f"JASPAR holds no matrix {identifier!r}; give an identifier with its version, such as MA0139.1.")
    return _probabilities(motif.counts)


@cache
def vertebrate_matrices() -> dict[str, tuple[str, np.ndarray]]:
    """All CORE vertebrate matrices of the pinned release: {identifier: (TF name, probabilities (length, 4))}."""
    motifs = jaspardb(release=JASPAR_RELEASE).fetch_motifs(collection="CORE", tax_group=["vertebrates"])
    return {m.matrix_id: (m.name, _probabilities(m.counts)) for m in sorted(motifs, key=lambda m: m.matrix_id)}


def matrices_of(names: Iterable[str], most: int, longest: int) -> list[tuple[str, str, np.ndarray]]:
    """(TF, identifier, probabilities) of the matrices of these TFs, alone or as part of a dimer, without regard to case.

    Each TF's first `most` by identifier: FOS::JUN is a matrix of JUN, and the one that its peaks show. One longer
    than `longest` bp is taken only where it is the TF's first. Ordered by rank, then TF, so that a caller who can use
    but few gets one of each TF first. Names without a matrix are left out.
    """
    found: dict[str, list[tuple[str, np.ndarray]]] = {name: [] for name in names}
    for identifier, (name, matrix) in vertebrate_matrices().items():
        parts = {part.partition("(")[0].strip() for part in name.upper().split("::")}
        for tf, matrices in found.items():
            if tf.upper() in parts and len(matrices) < most and (len(matrix) <= longest or not matrices):
                matrices.append((identifier, matrix))
    return [(tf, *matrices[rank]) for rank in range(most) for tf, matrices in found.items() if rank < len(matrices)]


def _probabilities(counts: dict) -> np.ndarray:
    table = np.array([counts[base] for base in "ACGT"], float).T
    return table / table.sum(1, keepdims=True)
