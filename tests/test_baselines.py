"""Baselines: fitted on training rows alone, never on what they are judged by; missing inputs stay missing."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from chromacc_lib import ChromaccError, baselines
from chromacc_lib.dataset import Arrays, locus_average

CELLS = ["train"] * 4 + ["validation"] + ["test"] * 2
N_WINDOWS, N_BINS = 240, 5
BOOSTED = ["boosting", "boosting_with_average", "boosting_with_like_cell_types"]
PROBABILITIES = [f"{name}_probability" for name in BOOSTED]


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
        sequence=rng.integers(0, 4, (N_WINDOWS, 100)).astype(np.uint8), histone=histone,
        histone_observed=np.ones((*shape, 2), bool),
        tf=np.zeros((*shape, 1, N_BINS, 3), np.float32), tf_observed=np.ones((*shape, 1), bool),
        metadata=np.linspace(-1, 1, len(CELLS), dtype=np.float32)[:, None], metadata_observed=np.ones(len(CELLS), bool),
        accessibility=np.repeat(score[:, :, None], N_BINS, axis=2), score=score, label=(score > 0.5).astype(np.int8),
        windows=windows, cell_types=cells, histone_marks=("H3K27ac", "H3K4me3"), tfs=("CTCF",), features=("GATA1",),
        simulated=True,
    )


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """Return a column as (W, C)."""
    return table.pivot(index="window", columns="cell_type", values=name).to_numpy()


def test_one_row_a_window_and_cell_type(arrays):
    table = baselines.fit_predict(arrays)
    assert list(table.columns) == ["cell_type", "window", *baselines.BASELINES, *PROBABILITIES]
    assert len(table) == N_WINDOWS * len(CELLS) and not table.duplicated(["cell_type", "window"]).any()
    assert np.isfinite(table[[*baselines.BASELINES, *PROBABILITIES]]).all(axis=None)
    assert table[PROBABILITIES].min(axis=None) >= 0 and table[PROBABILITIES].max(axis=None) <= 1


def test_training_mean_is_that_of_training_rows(arrays):
    rows = np.ix_(arrays.windows["split"] == "train", arrays.train_mask)
    assert baselines.fit_predict(arrays)["training_mean"].unique() == pytest.approx([arrays.score[rows].mean()])


def test_signals_and_average_together_beat_either(arrays):
    table, held_out = baselines.fit_predict(arrays), np.ix_(arrays.windows["split"] == "test", [5, 6])
    mse = {n: ((column(table, n) - arrays.score)[held_out] ** 2).mean() for n in baselines.BASELINES}
    mse["average"] = ((locus_average(arrays.score, arrays.train_mask) - arrays.score)[held_out] ** 2).mean()
    assert mse["boosting_with_average"] < 0.8 * min(mse["boosting"], mse["average"])
    assert mse["ridge"] < 0.9 * mse["training_mean"]


def test_like_cell_types_follow_the_expression(arrays):
    """Scores that grow with the metadata's gene: then like cell types tell what the average cannot, with boosting, too.

    Without metadata both are undefined, and no other baseline changes.
    """
    rng, gene = np.random.default_rng(7), np.array([-1, 1, -0.4, 0.6, 0, 0.9, -0.9], np.float32)
    score = (arrays.score + 2 * rng.normal(size=(N_WINDOWS, 1)) * gene).astype(np.float32)
    profile = np.repeat(score[:, :, None], N_BINS, axis=2)
    arrays = dataclasses.replace(arrays, score=score, accessibility=profile, metadata=gene[:, None])
    table, held_out = baselines.fit_predict(arrays), np.ix_(arrays.windows["split"] == "test", [5, 6])
    mse = {n: ((column(table, n) - score)[held_out] ** 2).mean() for n in baselines.BASELINES}
    average = ((locus_average(score, arrays.train_mask) - score)[held_out] ** 2).mean()
    assert mse["like_cell_types"] < 0.9 * average
    assert mse["boosting_with_like_cell_types"] < 0.9 * mse["boosting_with_average"]
    none = baselines.fit_predict(dataclasses.replace(arrays, metadata_observed=np.zeros(len(CELLS), bool)))
    undefined = [n for n in table if n.startswith(("like", "boosting_with_like"))]
    assert none[undefined].isna().all(axis=None) and len(undefined) == 3
    pd.testing.assert_frame_equal(none.drop(columns=undefined), table.drop(columns=undefined))


def test_held_out_scores_change_no_prediction(arrays):
    """Scores of unseen cell types, and all scores on test chromosomes but the average's own, must play no part."""
    before = baselines.fit_predict(arrays)
    score, accessibility, label = arrays.score.copy(), arrays.accessibility.copy(), arrays.label.copy()
    score[:, 5:], accessibility[:, 5:], label[:, 5:] = 99, 99, 1 - label[:, 5:]
    changed = dataclasses.replace(arrays, score=score, accessibility=accessibility, label=label)
    pd.testing.assert_frame_equal(baselines.fit_predict(changed), before)
    score[arrays.windows["split"] == "test"] = 99
    on_test = baselines.fit_predict(dataclasses.replace(changed, score=score))
    for name in ("training_mean", "gc_content", "kmer", "ridge", "boosting", "boosting_probability"):
        assert np.array_equal(on_test[name], before[name]), name


def test_boosting_of_labels_finds_what_scores_do_not_tell(arrays):
    """Open or closed by mark 1, which has no part in the score: the classifier ranks, the regression cannot."""
    label = (arrays.histone[:, :, 1, :, 0].mean(axis=-1) > 0).astype(np.int8)
    table = baselines.fit_predict(dataclasses.replace(arrays, label=label))
    held_out = np.ix_(arrays.windows["split"] == "test", [5, 6])
    auprc = {name: average_precision_score(label[held_out].ravel(), column(table, name)[held_out].ravel())
             for name in ("boosting", *PROBABILITIES)}
    assert auprc["boosting_probability"] > 0.9 > 0.7 > auprc["boosting"]
    assert auprc["boosting_with_average_probability"] > 0.9


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_without_labels_of_both_kinds_boosting_has_no_classifier(arrays, label, capsys):
    one_class = arrays.label.copy()
    one_class[140:190, 4] = label  # the rows on which it would stop
    table = baselines.fit_predict(dataclasses.replace(arrays, label=one_class))
    assert table[PROBABILITIES].isna().all(axis=None) and np.isfinite(table["boosting"]).all()
    assert "boosting has no classifier" in capsys.readouterr().out


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


# --- from the sequence alone ---------------------------------------------------------------------------------


def codes(*texts: str) -> np.ndarray:
    return np.array([["ACGTN".index(base) for base in text] for text in texts], np.uint8)


def test_kmers_by_hand_on_both_strands_and_around_n():
    got = baselines.kmer_frequencies(codes("AAAAAAT", "ATTTTTT", "AAAAAAN", "ACGTNNN", "GAATTCC"))
    assert got.shape == (5, 2080)  # (4^6 + 64 that are their own reverse complement) / 2
    assert got[0, [0, 3]].tolist() == [0.5, 0.5] and got[0].sum() == 1  # AAAAAA, and AAAAAT after AAAAAC and AAAAAG
    np.testing.assert_array_equal(got[1], got[0])  # the reverse complement
    assert got[2, 0] == 1 and got[2, 1:].sum() == 0
    assert np.isnan(got[3]).all()
    assert np.sort(got[4])[-2:].tolist() == [0.5, 0.5]  # GAATTC, its own reverse complement, and AATTCC


def test_kmers_against_counting_text():
    rng = np.random.default_rng(3)
    texts = ["".join(rng.choice(list("ACGTN"), 80, p=[0.3, 0.2, 0.2, 0.28, 0.02])) for _ in range(300)]
    swap = str.maketrans("ACGT", "TGCA")
    every = sorted({min(k, k[::-1].translate(swap)) for k in map("".join, itertools.product("ACGT", repeat=6))})
    got = baselines.kmer_frequencies(codes(*texts))
    for row in (0, 255, 256, 299):  # on either side of a chunk's end
        found = [texts[row][i:i + 6] for i in range(75)]
        found = [min(k, k[::-1].translate(swap)) for k in found if "N" not in k]
        expected = np.array([found.count(k) for k in every]) / len(found)
        np.testing.assert_allclose(got[row], expected, rtol=1e-6)


def planted(arrays: Arrays) -> Arrays:
    """Return the dataset with GGAACC in windows that are open everywhere, and in no other."""
    rng = np.random.default_rng(7)
    is_open = rng.random(N_WINDOWS) < 0.5
    sequence = arrays.sequence.copy()
    for window in np.flatnonzero(is_open):
        for start in (10, 40, 70):
            sequence[window, start:start + 6] = codes("GGAACC")[0]
    label = np.repeat(is_open[:, None], len(CELLS), axis=1).astype(np.int8)
    score = (0.5 + 2 * label + rng.normal(0, 0.05, label.shape)).astype(np.float32)
    return dataclasses.replace(arrays, sequence=sequence, label=label, score=score)


def test_kmer_finds_what_is_planted_and_speaks_in_scores(arrays):
    data = planted(arrays)
    table = baselines.fit_predict(data)
    held_out = (data.windows["split"] == "test").to_numpy()
    kmer, mean, score = column(table, "kmer"), column(table, "training_mean"), data.score
    assert (kmer == kmer[:, :1]).all()  # the same in every cell type
    opened = data.label[:, 0] == 1
    assert kmer[held_out & opened].min() > kmer[held_out & ~opened].max()
    assert ((kmer - score)[held_out] ** 2).mean() < 0.4 * ((mean - score)[held_out] ** 2).mean()


def test_windows_full_of_n_are_given_a_score(arrays):
    data = planted(arrays)
    sequence, gc = data.sequence.copy(), data.windows["gc"].to_numpy().copy()
    sequence[[0, 239]], gc[[0, 239]] = 4, np.nan
    table = baselines.fit_predict(dataclasses.replace(data, sequence=sequence, windows=data.windows.assign(gc=gc)))
    assert np.isfinite(table[["gc_content", "kmer"]]).all(axis=None)
    low, high = np.quantile(column(table, "kmer")[1:-1, 0], [0, 1])
    assert low < column(table, "kmer")[239, 0] < high  # as good as knowing nothing
    blind = dataclasses.replace(data, sequence=np.full_like(sequence, 4), windows=data.windows.assign(gc=np.nan))
    table = baselines.fit_predict(blind)
    assert table["kmer"].isna().all()
    np.testing.assert_allclose(table["gc_content"], table["training_mean"], rtol=1e-6)


def test_gc_content_follows_a_curve_and_stays_where_it_ends(arrays):
    rng = np.random.default_rng(2)
    gc = rng.uniform(0.3, 0.7, N_WINDOWS)
    gc[-2:] = 0.7, 0.95
    score = np.repeat((4 * (gc - 0.5) ** 2 + gc)[:, None], len(CELLS), axis=1).astype(np.float32)
    data = dataclasses.replace(arrays, score=score, windows=arrays.windows.assign(gc=gc))
    got = column(baselines.fit_predict(data), "gc_content")[:, 0]
    np.testing.assert_allclose(got[:-2], score[:-2, 0], atol=0.01)
    assert got[-1] == pytest.approx(got[-2], abs=0.02)


@pytest.mark.parametrize("label", [-1, 0, 1])
def test_kmer_is_undefined_without_windows_of_both_kinds(arrays, label, capsys):
    one_class = arrays.label.copy()
    one_class[:140, :4] = label  # training windows in training cell types
    table = baselines.fit_predict(dataclasses.replace(arrays, label=one_class))
    assert table["kmer"].isna().all() and np.isfinite(table["gc_content"]).all()
    assert "kmer is undefined" in capsys.readouterr().out


def test_kmer_does_not_depend_on_how_windows_are_labelled_elsewhere(arrays):
    before = baselines.fit_predict(arrays)["kmer"]
    label = arrays.label.copy()
    label[:, 4:], label[140:] = 1, 0  # validation and test cell types, then validation and test chromosomes
    np.testing.assert_array_equal(baselines.fit_predict(dataclasses.replace(arrays, label=label))["kmer"], before)


# --- kept for the next time ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "curation.json").write_text(json.dumps({"fingerprint": "one"}))
    return tmp_path


def run_cached(arrays: Arrays, folder: Path, seed: int = 1) -> tuple[pd.DataFrame, str]:
    said = []
    table = baselines.cached(arrays, folder / "baselines.parquet", folder / "dataset", seed=seed, say=said.append)
    assert len(said) == 1
    return table, said[0]


def test_the_second_call_fits_nothing(arrays, folder, monkeypatch):
    first, said = run_cached(arrays, folder)
    assert "fitted now, since there is no baselines.parquet yet" in said
    monkeypatch.setattr(baselines, "fit_predict", lambda *_: pytest.fail("fitted again"))
    again, said = run_cached(arrays, folder)
    assert "nothing is fitted" in said
    pd.testing.assert_frame_equal(again, first)
    assert sorted(p.name for p in folder.iterdir()) == ["baselines.parquet", "dataset"]


def test_another_seed_dataset_split_or_source_fits_again(arrays, folder, monkeypatch):
    run_cached(arrays, folder)
    why = "baselines.parquet was made from another dataset, seed or code"
    assert why in run_cached(arrays, folder, seed=2)[1] and why in run_cached(arrays, folder, seed=1)[1]
    (folder / "dataset" / "curation.json").write_text(json.dumps({"fingerprint": "two"}))
    assert why in run_cached(arrays, folder)[1]
    other = arrays.cell_types.assign(split=["test"] * 2 + ["train"] * 4 + ["validation"])
    assert why in run_cached(dataclasses.replace(arrays, cell_types=other), folder)[1]
    assert why in run_cached(arrays, folder)[1]
    changed = folder / "dataset" / "changed.py"
    changed.write_text(Path(baselines.__file__).read_text() + "# changed\n")
    monkeypatch.setattr(baselines, "__file__", str(changed))
    assert why in run_cached(arrays, folder)[1] and "nothing is fitted" in run_cached(arrays, folder)[1]


def test_a_table_of_an_older_version_is_fitted_again(arrays, folder):
    pd.DataFrame({"cell_type": ["c0"], "window": [0]}).to_parquet(folder / "baselines.parquet")
    table, said = run_cached(arrays, folder)
    assert "made from another" in said and len(table) == arrays.score.size


def test_a_dataset_without_its_record_is_an_error(arrays, folder):
    (folder / "dataset" / "curation.json").unlink()
    with pytest.raises(ChromaccError, match="curation.json: not there"):
        run_cached(arrays, folder)


def test_ridge_takes_a_missing_track_for_the_training_mean_of_each_column():
    features = np.array([[1.0, 10.0], [3.0, np.nan], [np.nan, np.nan]], np.float32)
    mean = baselines._column_means(features[:2])
    assert mean.tolist() == [2.0, 10.0] and baselines._column_means(features[2:]).tolist() == [0.0, 0.0]
    assert baselines._without_gaps(features, mean).tolist() == [[1, 10, 0], [3, 10, 0.5], [2, 10, 1]]
