"""Calibration: parts that add up, ranking left alone, intervals that cover, and nothing fitted on test rows."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from chromacc_lib import ChromaccError
from chromacc_lib import calibration as cal
from chromacc_lib import intervals as iv
from chromacc_lib import wording


def rows_of(probability: np.ndarray, label: np.ndarray, cell_split: str = "validation") -> pd.DataFrame:
    """Return rows of one cell type on validation chromosomes."""
    return pd.DataFrame({
        "cell_type": cell_split, "cell_type_split": cell_split, "window_split": "validation", "chrom": "chr1",
        "start": np.arange(len(label)) * 10_000, "label": label, "predicted_probability": probability,
    })


def scored(n: int, rng: np.random.Generator, split: str = "validation", shift: float = 0.0) -> pd.DataFrame:
    """Return n rows of one cell type whose score is the prediction + noise that grows with it + shift."""
    predicted = rng.uniform(0, 3, n)
    return pd.DataFrame({
        "cell_type": split, "cell_type_split": split, "window_split": split, "chrom": "chr1",
        "start": np.arange(n) * 10_000, "predicted_score": predicted,
        "score": predicted + shift + rng.exponential(0.1 + 0.3 * predicted),
    })


def plan_of(rows: pd.DataFrame) -> iv.Resampling:
    return iv.resampling(rows["cell_type"].to_numpy(), (rows["start"] // 250_000).to_numpy(), 50, seed=1)


@pytest.fixture
def sure() -> pd.DataFrame:
    """4,000 windows whose logits are three times too large and 0.5 too low."""
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1.2, 4000)
    return rows_of(expit(3 * (true - 0.5)).astype(np.float32), rng.binomial(1, expit(true)))


# --- reliability ---------------------------------------------------------------------------------------------


def test_a_hand_worked_case():
    rows = pd.DataFrame({"label": [0, 1, 1, 1, -1], "predicted_probability": [0.25, 0.25, 0.75, 1.0, 0.5]})
    got = cal.reliability(rows, n_bins=2)
    assert got["brier"] == pytest.approx((0.0625 + 0.5625 + 0.0625 + 0) / 4)
    assert got["bins"] == [{"predicted": 0.25, "observed": 0.5, "n": 2}, {"predicted": 0.875, "observed": 1.0, "n": 2}]
    assert got["expected_calibration_error"] == pytest.approx((2 * 0.25 + 2 * 0.125) / 4)
    assert got["reliability"] == pytest.approx((0.25 ** 2 + 0.125 ** 2) / 2)
    assert got["resolution"] == pytest.approx(0.25 ** 2) and got["uncertainty"] == pytest.approx(3 / 16)
    assert got["within_bin_variance"] == pytest.approx(0.125 ** 2 / 2) and got["within_bin_covariance"] == 0


@pytest.mark.parametrize("n_bins", [1, 2, 7, 10, 400])
def test_the_parts_add_up_to_the_brier_score(sure, n_bins):
    got = cal.reliability(sure, n_bins)
    parts = got["reliability"] - got["resolution"] + got["uncertainty"]
    whole = parts + got["within_bin_variance"] - got["within_bin_covariance"]
    assert got["brier"] == pytest.approx(sk.brier_score_loss(sure["label"], sure["predicted_probability"]), rel=1e-6)
    assert whole == pytest.approx(got["brier"], abs=1e-12)
    assert n_bins > 10 or abs(parts - got["brier"]) > 1e-5  # without the parts of binning they do not


def test_labels_that_nobody_knows_are_refused():
    with pytest.raises(ChromaccError, match="no row has a known label"):
        cal.reliability(rows_of(np.array([0.5]), np.array([-1])))


# --- recalibration -------------------------------------------------------------------------------------------


def test_recalibration_finds_what_was_planted(sure):
    fitted = cal.fit_recalibration(sure)
    assert fitted.temperature == pytest.approx(3, rel=0.1) and fitted.offset == pytest.approx(0.5, abs=0.1)
    assert fitted.source == "maximum likelihood on validation cell types x validation chromosomes, 4,000 rows"
    after = sure.assign(predicted_probability=fitted.apply(sure["predicted_probability"]))
    before, after = cal.reliability(sure), cal.reliability(after)
    assert after["expected_calibration_error"] < 0.3 * before["expected_calibration_error"]
    assert after["brier"] < before["brier"]


def test_recalibration_is_the_maximum_of_the_likelihood(sure):
    x = logit(sure["predicted_probability"].to_numpy(np.float64))
    other = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], sure["label"])
    fitted = cal.fit_recalibration(sure)  # Platt's targets move it a little
    assert 1 / fitted.temperature == pytest.approx(other.coef_[0, 0], rel=0.01)
    assert fitted.offset == pytest.approx(other.intercept_[0], abs=0.01)


def test_recalibration_does_not_change_the_ranking(sure):
    probability = sure["predicted_probability"].to_numpy(copy=True)
    probability[:4] = [0, 1e-30, 1, np.nextafter(np.float32(1), np.float32(0))]
    for fitted in (cal.fit_recalibration(sure), cal.Recalibration(0.6, -2.0, "")):
        after = fitted.apply(probability)
        assert np.array_equal(np.argsort(after, kind="stable"), np.argsort(probability, kind="stable"))
        assert len(np.unique(after)) == len(np.unique(probability))
        for area in (sk.roc_auc_score, sk.average_precision_score):
            assert area(sure["label"], after) == area(sure["label"], probability)


def test_separable_labels_give_a_finite_line():
    fitted = cal.fit_recalibration(rows_of(np.linspace(0.1, 0.9, 50), np.arange(50) >= 25))
    assert 0 < fitted.temperature < 1
    assert np.isfinite(fitted.apply([0.0, 0.5, 1.0])).all() and 0.4 < fitted.apply(0.5) < 0.6


@pytest.mark.parametrize("probability, words", [
    (np.full(100, 0.2), "do not vary there: offset only"),
    (np.linspace(0.9, 0.1, 100), "rank the windows backwards there: offset only"),
])
def test_without_a_rising_line_only_the_offset_is_fitted_and_said(probability, words):
    label = np.arange(100) >= 30
    fitted = cal.fit_recalibration(rows_of(probability, label))
    assert fitted.temperature == 1 and words in fitted.source
    assert fitted.apply(probability).mean() == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(label):
    with pytest.raises(ChromaccError, match="recalibration needs both: hold out more or larger chromosomes"):
        cal.fit_recalibration(rows_of(np.array([0.2, 0.4, 0.6]), np.array([label, label, -1])))


def test_nothing_is_fitted_on_test_rows(sure):
    rng = np.random.default_rng(2)
    test = rows_of(rng.uniform(size=500), rng.integers(0, 2, 500)).assign(
        cell_type_split="test", window_split="test", score=1.0, predicted_score=9.0)
    both = pd.concat([sure.assign(score=0.1, predicted_score=0.0), test])
    assert cal.fit_recalibration(both) == cal.fit_recalibration(sure)
    assert set(cal.fit_score_intervals(both).low) == {0.1}


def test_without_validation_cell_types_the_source_says_so(sure):
    fitted = cal.fit_recalibration(sure.assign(cell_type_split="train"))
    assert "on training cell types (no validation cell types) x validation chromosomes" in fitted.source


def test_recalibration_goes_through_json(sure):
    fitted = cal.fit_recalibration(sure)
    assert cal.Recalibration(**json.loads(json.dumps(asdict(fitted)))) == fitted


def test_recalibration_is_measured_on_rows_that_it_has_not_seen(sure):
    unseen = pd.concat([sure.iloc[:2000].assign(cell_type="alike"),
                        sure.iloc[2000:].assign(cell_type="other", label=1 - sure["label"])], ignore_index=True)
    got = cal.measure_recalibration(sure, unseen, plan_of)
    fitted = cal.Recalibration(got["temperature"], got["offset"], got["source"])
    after = fitted.apply(unseen["predicted_probability"])
    change = ((after - unseen["label"]) ** 2 - (unseen["predicted_probability"] - unseen["label"]) ** 2).mean()
    assert got["brier_change"]["value"] == pytest.approx(change)
    ece = {name: [curves[w]["expected_calibration_error"] for w in ("before", "after")]
           for name, curves in got["per_cell_type"].items()}
    assert ece["alike"][1] < 0.5 * ece["alike"][0] and ece["other"][1] > 0.2
    assert {k: v for k, v in got["pooled"]["before"].items() if k != "ece"} == cal.reliability(unseen)
    assert f"{got['brier_change']['value']:+.4f} (95% interval" in got["sentence"]


def test_unknown_labels_of_unseen_cell_types_are_said(sure):
    got = cal.measure_recalibration(sure, sure.assign(label=-1), plan_of)
    assert "no unseen cell type has known peaks" in got["undefined"]


# --- score intervals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nominal", [0.5, 0.9])
def test_coverage_is_nominal_where_rows_are_exchangeable(nominal):
    """Mean over 60 draws of 450 validation rows (groups of about 112); its standard error is below 0.004."""
    rng, coverage = np.random.default_rng(3), []
    for _ in range(60):
        fitted = cal.fit_score_intervals(scored(450, rng), nominal)
        new = scored(500, rng)
        low, high = fitted.apply(new["predicted_score"])
        coverage.append(((new["score"] >= low) & (new["score"] <= high)).mean())
    assert nominal - 0.01 < np.mean(coverage) < nominal + 0.03  # the correction for finite n errs to the safe side


def test_widths_follow_the_noise_and_the_nominal_coverage():
    rows = scored(3000, np.random.default_rng(4))
    fitted, narrow = cal.fit_score_intervals(rows), cal.fit_score_intervals(rows, 0.5)
    width = np.subtract(fitted.high, fitted.low)
    assert len(width) == 10 and sum(fitted.n) == 3000 and np.ptp(fitted.n) <= 2
    assert width[-1] > 3 * width[0]
    assert (width > np.subtract(narrow.high, narrow.low)).all()
    assert (np.abs(fitted.high) > 3 * np.abs(fitted.low)).all()  # exponential noise: a long tail above, none below


def test_ends_are_the_order_statistics_of_the_theory():
    """39 residuals at 90%: k = floor(40 x 0.05) = 2, so the second lowest and second highest."""
    rows = scored(39, np.random.default_rng(5)).assign(predicted_score=1.0, score=1.0 + np.arange(39))
    fitted = cal.fit_score_intervals(rows)
    assert (fitted.low, fitted.high, fitted.n, fitted.edges) == ((1.0,), (37.0,), (39,), ())


def test_too_few_rows_give_infinite_intervals_and_none_are_refused():
    rows = scored(18, np.random.default_rng(5))
    fitted = cal.fit_score_intervals(rows)
    assert (fitted.low, fitted.high) == ((-np.inf,), (np.inf,))
    unseen = scored(50, np.random.default_rng(6), "test")
    got = cal.measure_coverage(rows, unseen, plan_of)["pooled"]
    assert got["coverage"]["value"] == 1 and got["mean_width"]["value"] == np.inf
    with pytest.raises(ChromaccError, match="no row has a measured score"):
        cal.fit_score_intervals(rows.assign(score=np.nan))
    assert "no measured score" in cal.measure_coverage(rows.assign(score=np.nan), unseen, plan_of)["undefined"]
    with pytest.raises(ChromaccError, match="nominal coverage 1.0"):
        cal.fit_score_intervals(rows, 1.0)


def test_predictions_that_are_alike_share_a_group():
    rows = scored(1000, np.random.default_rng(7)).assign(predicted_score=np.repeat([0.0, 2.0], [700, 300]))
    fitted = cal.fit_score_intervals(rows)
    assert fitted.edges == (2.0,) and fitted.n == (700, 300)
    low, _ = fitted.apply([-5.0, 1.9, 2.0, np.nan])
    assert low[:3] == pytest.approx([-5 + fitted.low[0], 1.9 + fitted.low[0], 2 + fitted.low[1]]) and np.isnan(low[3])


@pytest.mark.parametrize("n", [18, 500])
def test_score_intervals_go_through_strict_json(n):
    fitted = cal.fit_score_intervals(scored(n, np.random.default_rng(8)))
    again = cal.ScoreIntervals.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert again == fitted
    score = np.linspace(-1, 5, 40).reshape(4, 10)
    assert np.array_equal(again.apply(score), fitted.apply(score)) and again.apply(score)[0].shape == (4, 10)


def test_measured_coverage_shows_the_cell_type_that_is_not_exchangeable():
    rng = np.random.default_rng(9)
    validation = scored(1000, rng)
    unseen = pd.concat([scored(500, rng, "test").assign(cell_type="alike"),
                        scored(500, rng, "test", shift=1.0).assign(cell_type="shifted")], ignore_index=True)
    got = cal.measure_coverage(validation, unseen, plan_of)
    cells = {name: entry["coverage"] for name, entry in got["per_cell_type"].items()}
    assert cells["alike"]["value"] == pytest.approx(0.9, abs=0.05)
    assert cells["shifted"]["high"] < 0.8
    assert "least in shifted" in got["sentence"] and got["below"] == ["shifted"]
    assert "Too few, beyond chance of windows: shifted." in got["sentence"] and "stand on 1 cell type:" in got["sentence"]
    alike = cal.measure_coverage(validation, unseen[unseen["cell_type"] == "alike"], plan_of)
    assert alike["below"] == [] and "In no cell type too few" in alike["sentence"]
    low, high = cal.ScoreIntervals.from_dict(got["intervals"]).apply(unseen["predicted_score"])
    assert got["pooled"]["coverage"]["value"] == pytest.approx(unseen["score"].between(low, high).mean())
    assert got["pooled"]["mean_width"]["value"] == pytest.approx((high - low).mean())
    assert sum(g["rows"] for g in got["by_group"]) == 1000


def test_the_calibration_error_has_an_interval_around_it(sure):
    unseen = sure.assign(cell_type=np.resize(["a", "b", "c"], len(sure)))
    got = cal.measure_recalibration(sure, unseen, plan_of)
    for entry in (got["pooled"], *got["per_cell_type"].values()):
        for when in ("before", "after"):
            ece = entry[when]["ece"]
            assert ece["value"] == pytest.approx(entry[when]["expected_calibration_error"])
            assert 0 <= ece["low"] < ece["value"] < ece["high"] <= 1
    assert got["pooled"]["after"]["ece"]["high"] < got["pooled"]["before"]["ece"]["low"]  # mended, beyond doubt
    assert f"{got['pooled']['before']['ece']['low']:.3f}" in got["sentence"]


def test_validation_labels_of_one_class_leave_the_recalibration_undefined(sure):
    got = cal.measure_recalibration(sure.assign(label=1), sure, plan_of)
    assert list(got) == ["undefined"] and "labels of 1 class," in got["undefined"]


@pytest.mark.parametrize("scale, words, side", [
    (3.0, "and it is better for them", -1), (0.6, "and it is worse for them: leave the probabilities as they are", 1),
])
def test_what_recalibration_does_to_unseen_cell_types_is_said(sure, scale, words, side):
    """Validation rows are too sure by 3; unseen cell types are as sure as that, or not sure enough already."""
    rng = np.random.default_rng(3)
    true = rng.normal(0, 1.2, 3000)
    probability = expit(scale * (true - 0.5 * (scale == 3)))
    unseen = rows_of(probability, rng.binomial(1, expit(true)), "test").assign(cell_type=np.resize(["a", "b", "c"], 3000))
    got = cal.measure_recalibration(sure, unseen, plan_of)
    assert words in got["sentence"] and wording.side(got["brier_change"]) == side
    assert sum(text in got["sentence"] for text in cal.WORTH_IT.values()) == 1


def test_a_recalibration_that_changes_nothing_is_not_told_from_nothing():
    rng = np.random.default_rng(3)
    validation, unseen = (rows_of(expit(true), rng.binomial(1, expit(true)), split) for split, true in (
        ("validation", rng.normal(0, 1.2, 3000)), ("test", rng.normal(0, 1.2, 3000))))
    got = cal.measure_recalibration(validation, unseen.assign(cell_type=np.resize(["a", "b", "c"], 3000)), plan_of)
    assert "and this cannot be told from no change." in got["sentence"]


@pytest.mark.parametrize("low, high, side", [(-0.2, 0.1, 0), (0.0, 0.1, 0), (-0.2, -0.1, -1), (0.1, 0.2, 1),
                                             (np.nan, np.nan, None), (None, None, None)])
def test_the_side_of_an_effect(low, high, side):
    assert wording.side({"low": low, "high": high}) == side
    assert wording.may_be_none({"low": low, "high": high}) == (side == 0)
