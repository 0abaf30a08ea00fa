"""Results as text that people read."""

import math

import pytest

from chromacc_lib.pages import interval, label, limits, number, plain, signed, words


def estimate(value, low=None, high=None):
    return {"value": value, "low": low, "high": high}


@pytest.mark.parametrize("entry, text", [
    (estimate(0.57553, 0.02327, 0.81553), "0.576 [0.023, 0.816]"),
    (estimate(-0.985, -1.56, -0.542), "−0.98 [−1.56, −0.54]"),
    (estimate(12345.6, 1.0, 2e5), "12346 [1, 200000]"),
    (estimate(0.0, 0.0, 0.0), "0 [0, 0]"),
    (estimate(-1e-9, -0.4, 0.4), "0.000 [−0.400, 0.400]"),
    (estimate(4.9e-5, -1e-5, 9e-5), "4.90e-05 [−1.00e-05, 9.00e-05]"),
    (estimate(0.4, math.nan, math.nan), "0.400"),
    (estimate(None), "not known"),
    (estimate(math.nan, 0.1, 0.2), "not known"),
    ("text", "text"),
    (3, "3"),
])  # fmt: skip
def test_an_interval_has_one_number_of_decimals(entry, text):
    assert interval(entry) == text


def test_a_difference_has_its_sign():
    assert signed(estimate(0.5, -0.1, 0.9)) == "+0.500 [−0.100, +0.900]"
    assert signed(estimate(0.0, 0.0, 0.0)) == "0 [0, 0]"


def test_an_interval_in_words():
    assert limits(estimate(0.576, 0.0233, 0.816)) == "95% interval 0.023 to 0.816"
    assert limits(estimate(0.576)) == "no interval"


def test_numbers_and_names():
    assert [number(v) for v in (None, math.nan, 1234, -0.01234, True, "x")] == ["not known", "not known", "1,234", "−0.0123", "True", "x"]
    assert plain({"a_b": 1, "c": [2.5, None]}) == "a b 1, c 2.5, not known" and plain([]) == plain({}) == "none" and plain("") == "not set"
    assert words("unseen_cell_type_x_unseen_chromosome") == "unseen cell type × unseen chromosome"
    assert label("pr_auc") == "AUPRC" and label("odd_one") == "odd one"
