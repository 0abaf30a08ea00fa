"""Predictions of a dataset: which rows there are, and that leaving some out changes none of the others."""

import numpy as np
import pandas as pd
import pytest
from test_assays import make_arrays, make_model

from chromacc_lib.inference import predict_dataset


def test_training_windows_can_be_a_sample_but_in_test_cell_types():
    arrays = make_arrays()
    model = make_model(arrays)
    whole, part = predict_dataset(model, arrays), predict_dataset(model, arrays, seen_windows=2)
    seen = (whole["cell_type_split"] != "test") & (whole["window_split"] == "train")
    windows = whole.loc[seen, "window"].unique()
    kept = windows[np.linspace(0, len(windows) - 1, 2).round().astype(int)]
    expected = whole[~seen | whole["window"].isin(kept)].reset_index(drop=True)
    assert len(windows) > 2 and len(whole) == arrays.score.size and len(expected) < len(whole)
    pd.testing.assert_frame_equal(part, expected, atol=1e-5)


@pytest.mark.parametrize("n", [0, 10_000])
def test_no_number_or_more_than_there_are_is_all_windows(n):
    arrays = make_arrays()
    table = predict_dataset(make_model(arrays), arrays, seen_windows=n)
    assert len(table) == arrays.score.size and table["predicted_score"].notna().all()
