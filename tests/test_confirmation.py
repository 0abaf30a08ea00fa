"""A motif that does something is confirmed, one that does nothing is not; spacing that matters is seen."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from chromacc_lib import ChromaccError
from chromacc_lib.confirmation import (
    Effect,
    ablate,
    codes_of,
    marginalise,
    neighbours,
    shuffled_backgrounds,
    spacing_scan,
)
from chromacc_lib.motifs import Pattern
from chromacc_lib.scoring import one_hot

FIRST, SECOND = "TGATAAGGCA", "CCATTCAAGT"


def kernels(*motifs):
    both = [one_hot(codes_of(motif, 99)[None])[0].T for motif in motifs]
    return torch.stack([kernel for k in both for kernel in (k, k.flip(0, 1))])


class Pair:
    """Best match of each motif on either strand, and more where the two stand 5 bp apart, the second as it is."""

    def by_cell_type(self, x, context):
        found = torch.sigmoid(4 * (nn.functional.conv1d(x.transpose(1, 2), kernels(FIRST, SECOND)) - 8.5))  # (N, 4, L)
        single = found.amax(2)
        together = (found[:, 0, : -len(FIRST) - 5] * found[:, 2, len(FIRST) + 5 :]).amax(1)
        score = single[:, :2].amax(1) + single[:, 2:].amax(1) + 0.5 * together
        return torch.stack([score, 0.2 * score], 1)


def backgrounds(n=12, length=120, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (n, length)).astype(np.uint8)


def test_effects_by_hand():
    effect = Effect.of(np.array([[1.0, 3.0], [2.0, 4.0]], np.float32))
    assert effect.effect == 2.5 and effect.low < 2.5 < effect.high
    assert effect.within(np.array([False, True])).effect == 3.5
    assert Effect.of(np.ones((3, 2))).p_value == 0 and Effect.of(-np.ones((3, 2))).p_value == 1
    assert np.isnan(Effect.of(np.ones((1, 2))).p_value) and np.isnan(Effect.of(np.zeros((0, 1))).effect)


def test_both_orientations_of_a_strandless_model_are_worth_the_same():
    turned = "".join("ACGT"[i] for i in 3 - codes_of(FIRST, 99)[::-1])
    forward, backward = (marginalise(Pair(), backgrounds(), insert, seed=1) for insert in (FIRST, turned))
    assert forward.low > 0.5 and backward.effect == pytest.approx(forward.effect, rel=0.1)
    assert (forward.by_cell_type[:, 0] > forward.by_cell_type[:, 1]).all()


def test_a_motif_is_worth_what_its_loss_costs():
    codes = backgrounds()
    rows = []
    for window in range(len(codes)):
        codes[window, 30 : 30 + len(FIRST)] = codes_of(FIRST, 99)
        rows.append((window, 30, 30 + len(FIRST)))
    instances = pd.DataFrame(rows, columns=["window", "start", "end"])
    real = ablate(Pair(), codes, instances, seed=1)
    assert real.low > 0.5 and real.p_value < 1e-4 and len(real.by_cell_type) == len(codes)
    elsewhere = ablate(Pair(), codes, instances.assign(start=70, end=80), seed=1)
    assert elsewhere.p_value > 0.01
    assert len(ablate(Pair(), codes, instances.head(0), seed=1).by_cell_type) == 0


def test_spacing_that_matters_is_seen_at_its_gap_and_orientation():
    table = spacing_scan(Pair(), backgrounds(), FIRST, SECOND, (2, 5, 30), seed=1)
    found = table[table["p_adjusted"] < 0.01]
    assert found[["gap_bp", "second"]].to_numpy().tolist() == [[5, "as is"]]
    assert found["beyond"].iloc[0] == pytest.approx(0.3, rel=0.2)  # 0.5 in one cell type, 0.1 in the other
    np.testing.assert_allclose(table["beyond"], table["together"] - table["expected"], atol=1e-6)
    with pytest.raises(ChromaccError, match="take 320 bp of 120"):
        spacing_scan(Pair(), backgrounds(), FIRST, SECOND, (300,), seed=1)


def test_neighbours_are_counted_in_shared_windows():
    def pattern(name, starts):
        seqlets = pd.DataFrame({"window": range(len(starts)), "start": starts, "end": np.array(starts) + 8, "strand": "+", "attribution": 1.0})
        return Pattern(name, np.tile(np.eye(4)[0], (8, 1)), np.zeros((8, 4)), seqlets)

    a, b, c = pattern("a", [10, 10, 10]), pattern("b", [30, 30, 300]), pattern("c", [12, 300, 30])
    assert [(x.name, y.name, n) for x, y, n in neighbours([a, b, c])] == [("a", "b", 2), ("b", "c", 1), ("a", "c", 1)] or [
        (x.name, y.name, n) for x, y, n in neighbours([a, b, c])
    ] == [("a", "b", 2), ("a", "c", 1), ("b", "c", 1)]


def test_backgrounds_keep_their_dinucleotides_and_ns():
    codes = backgrounds(2, 40)
    codes[0, 10:13] = 4
    for window, shuffled in zip(codes, shuffled_backgrounds(codes, 1)):
        assert sorted(zip(window, window[1:])) == sorted(zip(shuffled, shuffled[1:]))
