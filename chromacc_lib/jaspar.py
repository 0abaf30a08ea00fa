"""Motif matrices from JASPAR, through pyjaspar, whose wheel carries the database: no network, one pinned release."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cache

import numpy as np
from pyjaspar import jaspardb

from chromacc_lib import ChromaccError

__all__ = ["JASPAR_RELEASE", "matrices_by_name", "matrix_by_id", "vertebrate_matrices"]

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


def matrices_by_name(names: Iterable[str]) -> dict[str, tuple[str, np.ndarray]]:
    """{name: (identifier, probabilities)} of the names that JASPAR knows, without regard to case.

    Of several matrices of one name the one with the lowest identifier is taken, the TF's first published profile.
    Names without a matrix are left out: the caller sees which by comparing.
    """
    first: dict[str, tuple[str, np.ndarray]] = {}
    for identifier, (name, matrix) in vertebrate_matrices().items():
        first.setdefault(name.upper(), (identifier, matrix))
    return {name: first[name.upper()] for name in names if name.upper() in first}


def _probabilities(counts: dict) -> np.ndarray:
    table = np.array([counts[base] for base in "ACGT"], float).T
    return table / table.sum(1, keepdims=True)
