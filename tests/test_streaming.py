"""Streaming from disk: the same training, windows once an epoch, and no more in memory than was promised."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_training import CONFIG, SIZES, TIMING, StopAfter, weights

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData
from chromacc_lib.callbacks import Checkpoint
from chromacc_lib.dataset import load_arrays, open_dataset
from chromacc_lib.hub import training_reference
from chromacc_lib.streaming import StreamedRegionData, array_parts, open_training_data
from chromacc_lib.training import train, validation_rows

CHUNK = 5  # windows: the tiny dataset would be a single chunk of the size that curation writes


@pytest.fixture(scope="module")
def path(curated, tmp_path_factory):
    """The tiny dataset, stored in chunks of CHUNK windows."""
    folder = tmp_path_factory.mktemp("chunked") / "dataset"
    shutil.copytree(curated[1], folder, ignore=shutil.ignore_patterns("dataset.zarr"))
    dataset = open_dataset(curated[1]).load()
    chunks = {}
    for name, variable in dataset.variables.items():
        variable.encoding = {}
        if "window" in variable.dims and 0 not in variable.shape:
            chunks[name] = {"chunks": [CHUNK if d == "window" else n for d, n in variable.sizes.items()]}
    dataset.to_zarr(folder / "dataset.zarr", encoding=chunks, zarr_format=2)
    return folder


@pytest.fixture(scope="module")
def arrays(path):
    return load_arrays(path)


def training_windows(arrays):
    return np.flatnonzero(arrays.windows["split"] == "train")


def fields(record):
    return vars(record).items()


def test_batches_are_those_of_the_dataset_in_memory(path, arrays):
    """Of windows in no pool, in this pool, across two pools, and kept ones; in the order asked for."""
    data, whole, rng = StreamedRegionData(path, 3 * CHUNK), RegionData(arrays), np.random.default_rng(0)
    order = data.epoch_order(training_windows(arrays), rng)
    kept = validation_rows(arrays, 7)[0]
    data.keep(kept)
    cells = rng.permuted(np.tile(np.arange(6), (12, 1)), axis=1)[:, :3]
    for windows in (order[:12], order[10:22], order[-12:], np.resize(kept[::-1], 12), np.arange(12)[::-1].copy()):
        for read in ("batch", "target"):
            got, wanted = getattr(data, read)(windows, cells), getattr(whole, read)(windows, cells)
            for name, tensor in fields(got):
                assert torch.equal(tensor.nan_to_num(-9), getattr(wanted, name).nan_to_num(-9)), (read, name)
    assert torch.equal(data.prior_score, whole.prior_score)
    one = data.batch(order[:4], np.array([1, 4]))
    assert torch.equal(one.histone, whole.batch(order[:4], np.array([1, 4])).histone)


def test_tables_are_those_of_the_dataset_in_memory(path, arrays):
    tables, _ = open_training_data(path, 10)
    assert tables.windows.equals(arrays.windows) and tables.cell_types.equals(arrays.cell_types)
    assert np.array_equal(tables.score, arrays.score, equal_nan=True) and np.array_equal(tables.label, arrays.label)
    assert tables.sequence.shape == (0, arrays.sequence.shape[1]) and tables.accessibility.nbytes == 0


@pytest.mark.parametrize("pool", [1, 12, 10**6])
def test_every_window_comes_once_an_epoch_and_pools_are_whole_stretches(path, arrays, pool):
    data, windows = StreamedRegionData(path, pool), training_windows(arrays)
    first, again, other = (data.epoch_order(windows, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(np.sort(first), windows) and np.array_equal(np.sort(other), windows)
    if pool == 12:  # two chunks of 5 at least: from more than one place, and not in the order of the genome
        assert len(set(first[:10] // CHUNK)) >= 2 and (np.diff(first[:10]) < 0).any()
        changes = 1 + np.count_nonzero(np.diff([data._pool_of[data._stretch[w]] for w in other]))
        assert changes == len(data._pools), "a pool is left and comes back"


def test_memory_is_bounded_by_two_pools_and_the_kept_windows(path, arrays):
    data, windows = StreamedRegionData(path, 2 * CHUNK), training_windows(arrays)
    each = data._window_bytes()
    kept = validation_rows(arrays, 1000)[0]
    data.keep(kept)
    keeping = data.held_bytes
    assert keeping >= len(kept) * (each - 100)
    for epoch in range(2):
        order = data.epoch_order(windows, np.random.default_rng(epoch))
        for first in range(0, len(order), CHUNK):
            data.batch(order[first : first + CHUNK], np.arange(3))
    assert keeping < data.most_bytes <= keeping + data.still_to_read()
    assert data.still_to_read() < 0.5 * len(windows) * each, "too few windows to show anything"
    held = sum(t.nbytes for part in data._held.values() for t in vars(part).values())
    assert data.held_bytes == held
    assert "two pools take" in data.memory()


def test_a_pool_as_large_as_the_dataset_gives_the_same_weights(path, arrays):
    whole = train(arrays, CONFIG, device="cpu", sizes=SIZES)
    tables, data = open_training_data(path, 10**6)
    streamed = train(tables, replace(CONFIG, stream_windows=10**6), device="cpu", sizes=SIZES, data=data)
    assert torch.equal(weights(whole), weights(streamed))
    assert whole.history.drop(columns=TIMING).equals(streamed.history.drop(columns=TIMING))


@pytest.mark.parametrize("steps", [2, 5])
def test_a_streamed_run_that_was_interrupted_ends_as_if_it_had_not_been(path, tmp_path, steps):
    config = replace(CONFIG, batch_windows=6, stream_windows=2 * 6)
    results = []
    for callbacks in ([], [Checkpoint(tmp_path / "c.pt", {}, every_steps=1), StopAfter(steps)], None):
        tables, data = open_training_data(path, config.stream_windows)
        if callbacks is None:
            callbacks = [Checkpoint(tmp_path / "c.pt", {}, every_steps=1)]
        try:
            results.append(train(tables, config, device="cpu", sizes=SIZES, callbacks=callbacks, data=data))
        except KeyboardInterrupt:
            continue
    straight, resumed = results
    assert callbacks[0].resumed and torch.equal(weights(straight), weights(resumed))
    assert straight.history.drop(columns=TIMING).equals(resumed.history.drop(columns=TIMING))


def test_the_reference_of_a_model_is_the_same_in_parts(path, arrays):
    parts, whole = training_reference(array_parts(path), "x"), training_reference([arrays], "x")
    assert parts.windows.equals(whole.windows) and parts.cell_types == whole.cell_types
    for name in ("profile", "score", "observed", "metadata"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name), equal_nan=True), name
    for name in ("track_mean", "track_spread"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_pools_that_are_too_small_are_refused(path):
    with pytest.raises(ChromaccError, match="stream_windows=-1"):
        StreamedRegionData(path, -1)
    with pytest.raises(ChromaccError, match="at least two batches"):
        replace(CONFIG, stream_windows=CONFIG.batch_windows)
