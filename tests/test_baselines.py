"""Baselines: fitted on training rows alone, never on what they are judged by; missing inputs stay missing."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from chromacc_lib import ChromaccError, baselines
from chromacc_lib.dataset import Arrays, locus_average

CELLS = ["train"] * 4 + ["validation"] + ["test"] * 2
N_WINDOWS, N_BINS = 240, 5


@pytest.fixture
def arrays() -> Arrays:
    """Return 240 windows x 7 cell types; the score is locus + 0.8 x the mean of mark 0 in this cell type."""
    rng = np.random.default_rng(4)
    shape = (N_WINDOWS, len(CELLS))
    histone = rng.normal(size=(*shape, 2, N_BINS, 3)).astype(np.float32)
    score = rng.normal(size=(N_WINDOWS, 1)) + 0.8 * histone[:, :, 0, :, 0].mean(axis=-1) * np.sqrt(N_BINS)
    score = (score + rng.normal(0, 0.1, shape)).astype(np.float32)
    chrom = np.repeat(["chr1", "chr2", "chr3"], [140, 50, 50])
    windows = pd.DataFrame({
        "chrom": chrom, "start": np.arange(N_WINDOWS) * 2000, "end": np.arange(N_WINDOWS) * 2000 + 100, "gc": 0.5,
        "kind": "peak", "split": np.repeat(["train", "validation", "test"], [140, 50, 50]),
    })
    names = [f"c{i}" for i in range(len(CELLS))]
    cells = pd.DataFrame({"cell_type": names, "split": CELLS, "lineage": "", "donor": ""})
    return Arrays(
        sequence=np.zeros((N_WINDOWS, 100), np.uint8), histone=histone, histone_observed=np.ones((*shape, 2), bool),
        tf=np.zeros((*shape, 1, N_BINS, 3), np.float32), tf_observed=np.ones((*shape, 1), bool),
        metadata=np.zeros((len(CELLS), 1), np.float32), metadata_observed=np.ones(len(CELLS), bool),
        accessibility=np.repeat(score[:, :, None], N_BINS, axis=2), score=score, label=(score > 0.5).astype(np.int8),
        windows=windows, cell_types=cells, histone_marks=("H3K27ac", "H3K4me3"), tfs=("CTCF",), features=("GATA1",),
        simulated=True,
    )


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as (W, C)."""
    return table.pivot(index="window", columns="cell_type", values=name).to_numpy()


def test_one_row_a_window_and_cell_type(arrays):
    table = baselines.fit_predict(arrays)
    assert list(table.columns) == ["cell_type", "window", *baselines.BASELINES]
    assert len(table) == N_WINDOWS * len(CELLS) and not table.duplicated(["cell_type", "window"]).any()
    assert np.isfinite(table[list(baselines.BASELINES)]).all(axis=None)


def test_training_mean_is_that_of_training_rows(arrays):
    rows = np.ix_(arrays.windows["split"] == "train", arrays.train_mask)
    assert baselines.fit_predict(arrays)["training_mean"].unique() == pytest.approx([arrays.score[rows].mean()])


def test_signals_and_average_together_beat_either(arrays):
    table, held_out = baselines.fit_predict(arrays), np.ix_(arrays.windows["split"] == "test", [5, 6])
    mse = {n: ((column(table, n) - arrays.score)[held_out] ** 2).mean() for n in baselines.BASELINES}
    mse["average"] = ((locus_average(arrays.score, arrays.train_mask) - arrays.score)[held_out] ** 2).mean()
    assert mse["boosting_with_average"] < 0.8 * min(mse["boosting"], mse["average"])
    assert mse["ridge"] < 0.9 * mse["training_mean"]


def test_held_out_scores_change_no_prediction(arrays):
    """Scores of unseen cell types, and all scores on test chromosomes but the average's own, must play no part."""
    before = baselines.fit_predict(arrays)
    score, accessibility, label = arrays.score.copy(), arrays.accessibility.copy(), arrays.label.copy()
    score[:, 5:], accessibility[:, 5:], label[:, 5:] = 99, 99, 1 - label[:, 5:]
    changed = dataclasses.replace(arrays, score=score, accessibility=accessibility, label=label)
    pd.testing.assert_frame_equal(baselines.fit_predict(changed), before)
    score[arrays.windows["split"] == "test"] = 99
    on_test = baselines.fit_predict(dataclasses.replace(changed, score=score))
    for name in ("training_mean", "ridge", "boosting"):
        assert np.array_equal(on_test[name], before[name]), name


def test_a_training_cell_type_never_sees_its_own_score(arrays):
    before = baselines.average_features(arrays)
    score, accessibility, label = arrays.score.copy(), arrays.accessibility.copy(), arrays.label.copy()
    score[:, 2], accessibility[:, 2], label[:, 2] = 50, 50, 1 - label[:, 2]
    changed = dataclasses.replace(arrays, score=score, accessibility=accessibility, label=label)
    after = baselines.average_features(changed)
    assert np.array_equal(after[2], before[2])
    assert not np.allclose(after[1], before[1]) and not np.allclose(after[5], before[5])


def test_average_features_by_hand(arrays):
    got = baselines.average_features(arrays)
    others = arrays.score[:, [0, 1, 3]].astype(np.float64)
    assert got.shape == (len(CELLS), N_WINDOWS, 3 + N_BINS)
    np.testing.assert_allclose(got[2, :, 0], others.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[2, :, 1], others.std(axis=1), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got[2, :, 2], (others > 0.5).mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(got[5, :, 0], arrays.score[:, :4].mean(axis=1), rtol=1e-5, atol=1e-6)


def test_signal_features_by_hand_with_a_missing_track(arrays):
    observed = arrays.histone_observed.copy()
    observed[:7, 3, 1] = False
    got = baselines.signal_features(dataclasses.replace(arrays, histone_observed=observed), 3)
    mark = arrays.histone[:, 3, 0]  # (W, B, 3)
    expected = np.column_stack([mark[..., 0], mark[..., 2].max(axis=1), mark[..., 0].std(axis=1)])
    np.testing.assert_allclose(got[:, :7], expected, rtol=1e-5)
    assert np.isnan(got[:7, 7:14]).all() and np.isfinite(got[7:, 7:14]).all()
    assert got.shape == (N_WINDOWS, 3 * 7)


def test_nearest_is_the_training_cell_type_with_the_same_marks(arrays):
    histone = arrays.histone.copy()
    histone[:, 5] = histone[:, 1] + 0.1 * histone[:, 5]
    histone[:, 0] = histone[:, 3]
    changed = dataclasses.replace(arrays, histone=histone)
    nearest = baselines.nearest_cell_types(changed)
    assert nearest[5] == 1 and nearest[0] == 3 and nearest[3] == 0  # another, never itself
    table = baselines.fit_predict(changed)
    np.testing.assert_array_equal(column(table, "nearest")[:, 5], arrays.score[:, 1])


def test_nearest_is_undefined_without_a_shared_mark(arrays):
    observed = arrays.histone_observed.copy()
    observed[:, 6] = False
    table = baselines.fit_predict(dataclasses.replace(arrays, histone_observed=observed))
    nearest = column(table, "nearest")
    assert np.isnan(nearest[:, 6]).all() and np.isfinite(nearest[:, :6]).all()
    assert np.isfinite(table["boosting"]).all()


def test_same_seed_same_baselines_and_fewer_rows_are_announced(arrays, capsys):
    first, again = (baselines.fit_predict(arrays, seed=3, max_training_rows=200) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert "fitted on 200 of 560 training rows" in capsys.readouterr().out


def test_without_validation_cell_types_boosting_stops_on_validation_chromosomes(arrays):
    cells = arrays.cell_types.assign(split=["train"] * 5 + ["test"] * 2)
    table = baselines.fit_predict(dataclasses.replace(arrays, cell_types=cells))
    assert np.isfinite(table["boosting"]).all()


def test_no_known_training_score_is_an_error(arrays):
    score = arrays.score.copy()
    score[:, :4] = np.nan
    with pytest.raises(ChromaccError, match="no training rows with a known score .560 rows in the split"):
        baselines.fit_predict(dataclasses.replace(arrays, score=score))
