"""Strata: rules by hand, planted windows that must be found, and what cannot be told said in words."""

import numpy as np
import pandas as pd
import pytest

from chromacc_lib import ChromaccError
from chromacc_lib.strata import PROMOTER_BP, entropy_windows, observed_levels, specific_windows, strata

SPLITS = ["train", "train", "validation", "test"]


def table_of(fold: np.ndarray, splits: list[str] = SPLITS, **columns: np.ndarray) -> pd.DataFrame:
    """Return predictions of windows x cell types whose score is arcsinh(fold)."""
    n_windows, n_cells = fold.shape
    return pd.DataFrame({
        "window": np.repeat(np.arange(n_windows), n_cells), "cell_type": np.tile(list("ABCD")[:n_cells], n_windows),
        "cell_type_split": np.tile(splits, n_windows), "score": np.arcsinh(fold).ravel(), "chrom": "chr1",
    }).assign(**columns)


def test_entropy_by_hand():
    fold = np.array([
        [1, 1, 1, 1],       # 2 bits: alike in all
        [4, 0, 0, 0],       # 0 bits: one cell type alone
        [1, 1, 0, 0],       # 1 bit
        [2, 1, 1, 0],       # 1.5 bits
        [3, 3, 3, 3],       # 2 bits
        [0, 0, 0, 0],       # undefined: open nowhere
        [9, 9, 9, 9],
    ], float)
    windows, rule = entropy_windows(table_of(fold))
    assert windows.tolist() == [1, 2]  # the third of six that lies farthest below: 2, 1, 0.5, 0, 0, 0 bits
    assert "all 4 measured cell types" in rule and "held-out cell types take part" in rule and "2 of 7 windows" in rule


def test_entropy_compares_windows_measured_in_fewer_cell_types_and_cuts_noise_below_zero():
    fold = np.array([[1, 1, np.nan, np.nan], [1, 1, 1, 1], [5, -1, 0, 0], [1, np.nan, np.nan, np.nan]])
    assert entropy_windows(table_of(fold))[0].tolist() == [2]  # window 0 is alike in all that are measured
    dark = np.concatenate([fold, np.full((1, 4), np.nan)])
    assert entropy_windows(table_of(dark))[0].tolist() == [2]


def test_a_window_that_only_a_held_out_cell_type_opens_is_specific_by_entropy_alone():
    rng = np.random.default_rng(1)
    fold = 1 + rng.uniform(0, 0.05, (60, 4))
    fold[7, 3] = 40      # in the test cell type
    fold[11, :2] = 40, 1  # in a training one
    table = table_of(fold)
    by_entropy, by_spread = entropy_windows(table)[0], specific_windows(table)[0]
    assert {7, 11} <= set(by_entropy) and len(by_entropy) == 20
    fold[7, 3] = 1
    np.testing.assert_array_equal(specific_windows(table_of(fold))[0], by_spread)
    assert 11 in by_spread


def test_windows_alike_everywhere_are_specific_nowhere():
    table = table_of(np.ones((30, 4)))
    assert len(entropy_windows(table)[0]) == 0 and len(specific_windows(table)[0]) == 0
    found = strata(table, table)
    assert found["varying"].rows is None and "0 of the 30 windows" in found["varying"].undefined


def test_promoters_are_within_1000_bp_and_unknown_distances_are_in_neither():
    fold = np.random.default_rng(2).uniform(0, 5, (40, 4))
    distance = np.repeat([0.0, PROMOTER_BP, PROMOTER_BP + 1, np.nan], 10)
    table = table_of(fold, tss_distance=np.repeat(distance, 4))
    rows = table[table["cell_type_split"] == "test"]
    found = strata(table, rows)
    assert found["promoters"].rows.tolist() == [True] * 20 + [False] * 20
    assert found["distal"].rows.tolist() == [False] * 20 + [True] * 10 + [False] * 10
    assert "1,000 bp" in found["promoters"].rule


@pytest.mark.parametrize("change", [lambda t: t, lambda t: t.assign(tss_distance=np.nan)])
def test_without_tss_promoters_are_undefined_in_words(change):
    table = change(table_of(np.random.default_rng(2).uniform(0, 5, (40, 4))))
    for name in ("promoters", "distal"):
        stratum = strata(table, table)[name]
        assert stratum.rows is None and "give a BED of them as tss" in stratum.undefined


def test_a_few_promoters_are_too_few():
    table = table_of(np.random.default_rng(2).uniform(0, 5, (40, 4)), tss_distance=np.repeat([0.0] * 4 + [5e4] * 36, 4))
    found = strata(table, table)
    assert "4 of the 40 windows here are such; at least 5" in found["promoters"].undefined
    assert found["distal"].rows.sum() == 36 * 4


@pytest.mark.parametrize("sizes, levels", [
    ({8: 100}, [(8, 8)]),
    ({3: 50, 8: 50}, [(3, 3), (8, 8)]),
    ({3: 5, 5: 30, 8: 65}, [(3, 5), (8, 8)]),            # 5% of the rows are too few
    ({0: 2, 8: 98}, [(0, 8)]),
    ({3: 20, 4: 20, 5: 10, 6: 25, 7: 25}, [(3, 3), (4, 5), (6, 6), (7, 7)]),  # four at most
])
def test_levels_of_observed_tracks_by_hand(sizes, levels):
    count = np.random.default_rng(0).permutation(np.repeat(list(sizes), list(sizes.values())))
    assert observed_levels(count) == levels


def test_levels_hold_every_row_once_and_enough_of_them():
    rng = np.random.default_rng(3)
    for _ in range(50):
        count = rng.poisson(rng.uniform(1, 20), 300)
        levels = observed_levels(count)
        sizes = [((count >= low) & (count <= high)).sum() for low, high in levels]
        assert sum(sizes) == 300 and len(levels) <= 4 and (len(levels) == 1 or min(sizes) >= 30)


def test_strata_by_observed_tracks():
    fold = np.random.default_rng(2).uniform(0, 5, (40, 4))
    table = table_of(fold, observed_tracks=np.tile([8, 8, 3, 4], 40))
    found = strata(table, table[table["cell_type_split"] != "train"])
    assert found["observed_tracks_3"].rows.sum() == found["observed_tracks_4"].rows.sum() == 40
    same = strata(table, table[table["cell_type_split"] == "train"])["observed_tracks"]
    assert same.rows is None and "all rows have 8 tracks" in same.undefined
    older = strata(table.drop(columns="observed_tracks"), table.drop(columns="observed_tracks"))["observed_tracks"]
    assert "older version" in older.undefined


def test_a_level_of_tracks_that_is_a_chromosome_is_undefined():
    """As with one cell type whose TF tracks lack a chromosome: what looks like an effect of tracks may be its loci."""
    fold = np.random.default_rng(2).uniform(0, 5, (40, 4))
    chrom = np.repeat(["chr17", "chr20"], 80)
    coinciding = table_of(fold, chrom=chrom, observed_tracks=np.repeat([16, 15], 80))
    found = strata(coinciding, coinciding)
    assert found["observed_tracks"].rows is None and "observed_tracks_15" not in found
    assert "coincide" in found["observed_tracks"].undefined and "chr17 16, chr20 15" in found["observed_tracks"].undefined
    apart = table_of(fold, chrom=chrom, observed_tracks=np.tile([16, 15], 80))
    assert strata(apart, apart)["observed_tracks_15"].rows.sum() == 80


def test_one_training_cell_type_is_refused():
    with pytest.raises(ChromaccError, match="at least 2 training cell types, got 1"):
        specific_windows(table_of(np.ones((3, 4)), ["train", "test", "test", "test"]))
