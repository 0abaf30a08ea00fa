"""Predictions of a dataset: which rows there are, and that leaving some out changes none of the others."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_assays import make_arrays, make_model

from chromacc_lib.batches import RegionData
from chromacc_lib.inference import filled, predict_dataset, predict_scores


@pytest.mark.parametrize("has_validation", [True, False])
def test_training_windows_can_be_a_sample_and_validation_windows_stay_with_the_cell_types_that_choose(has_validation):
    arrays = make_arrays()
    if not has_validation:
        splits = arrays.cell_types["split"].replace("validation", "train")
        arrays = replace(arrays, cell_types=arrays.cell_types.assign(split=splits))
    model = make_model(arrays)
    whole, part = predict_dataset(model, arrays), predict_dataset(model, arrays, seen_windows=2)
    windows = whole.loc[whole["window_split"] == "train", "window"].unique()
    kept = windows[np.linspace(0, len(windows) - 1, 2).round().astype(int)]
    choosing = whole["cell_type_split"] == ("validation" if has_validation else "train")
    expected = whole[(whole["window_split"] == "test") | whole["window"].isin(kept)
                     | (whole["window_split"] == "validation") & choosing].reset_index(drop=True)  # fmt: skip
    assert len(windows) > 2 and len(whole) == arrays.score.size and choosing.any()
    assert {"train", "validation", "test"} == set(expected["window_split"]) and len(expected) < len(whole)
    pd.testing.assert_frame_equal(part, expected, check_exact=True)


def test_without_a_number_all_windows_are_predicted_in_all_cell_types():
    arrays = make_arrays()
    table = predict_dataset(make_model(arrays), arrays, seen_windows=0)
    assert len(table) == arrays.score.size and table["predicted_score"].notna().all()


def test_more_windows_than_there_are_is_all_of_training():
    arrays = make_arrays()
    table = predict_dataset(make_model(arrays), arrays, seen_windows=10_000)
    n_training = (arrays.windows["split"] == "train").sum()
    assert (table["window_split"] == "train").sum() == n_training * len(arrays.cell_types)


def test_a_window_is_predicted_alike_to_the_last_bit_in_every_batch():
    arrays = make_arrays()
    model, data, every = make_model(arrays), RegionData(arrays), np.arange(len(arrays.windows))
    whole = predict_scores(model, data, every, np.arange(3))
    assert np.array_equal(filled(np.array([4, 2, 7])), [4, 2, 7, 7, 7, 7, 7, 7]) and len(filled(every[:8])) == 8
    for size in (1, 5, 7):
        assert all(map(np.array_equal, predict_scores(model, data, every, np.arange(3), size), whole))
    turned = predict_scores(model, data, every[::-1], np.array([2]))
    assert all(np.array_equal(a[::-1, 0], b[:, 2]) for a, b in zip(turned, whole))
