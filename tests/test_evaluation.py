"""Evaluation: metrics against scikit-learn and scipy, skill against itself, invariances, verdicts, clear errors."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from chromacc_lib import ChromaccError
from chromacc_lib import evaluation as ev
from chromacc_lib import loci, strata, wording
from chromacc_lib.comparison import Ranking, rankings, ranks_by, residual

SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
SHORT = {"n_bootstrap": 60, "block_bp": 100_000}


def make_tables(strength: float = 0.7, seed: int = 1, splits: list[str] = SPLITS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return predictions and baselines of 400 windows whose truth is locus + cell-type-specific part + noise.

    The model sees `strength` of the specific part, the baselines `weak` and `strong` see 0.2 and 0.5 of it.
    """
    rng = np.random.default_rng(seed)
    n_windows, n_cells = 400, len(splits)
    windows = pd.DataFrame({"chrom": np.repeat([f"chr{i}" for i in range(1, 9)], 50)})
    windows["start"] = np.tile(np.arange(50) * 10_000, 8)
    windows["window_split"] = np.repeat(["train"] * 4 + ["validation"] * 2 + ["test"] * 2, 50)
    specific = rng.normal(0, 0.6, (n_windows, n_cells))
    truth = 1 + rng.normal(0, 1, (n_windows, 1)) + specific
    score = truth + rng.normal(0, 0.2, truth.shape)
    label = (score > 1.5).astype(int)
    train = np.array(splits) == "train"
    average, share_open = (
        (values[:, train].sum(axis=1, keepdims=True) - values * train) / (train.sum() - train) for values in (score, label)
    )
    predicted, weak, strong = (
        average + share * specific + rng.normal(0, 0.1, truth.shape) for share in (strength, 0.2, 0.5)
    )
    columns = {
        "score": score, "label": label, "predicted_score": predicted,
        "predicted_probability": 1 / (1 + np.exp(-3 * (predicted - 1.5))), "average_score": average,
        "average_label": share_open, "truth": truth, "weak": weak, "strong": strong,
    }
    table = windows.loc[np.repeat(np.arange(n_windows), n_cells)].reset_index(names="window")
    table["cell_type"] = np.tile([f"cell{i:02d}" for i in range(n_cells)], n_windows)
    table["cell_type_split"] = np.tile(splits, n_windows)
    table = table.assign(end=table["start"] + 1500, kind="peak", gc=0.5, **{k: v.ravel() for k, v in columns.items()})
    return table[list(ev.COLUMNS)], table[["cell_type", "window", "weak", "strong"]]


@pytest.fixture(scope="module")
def result() -> dict:
    return ev.evaluate(*make_tables(), simulated=True, **SHORT)


def headline_rows(predictions: pd.DataFrame) -> pd.DataFrame:
    return ev.quadrant_rows(predictions, ev.HEADLINE)


# --- metrics -------------------------------------------------------------------------------------------------


def test_metrics_equal_scikit_learn_and_scipy(result):
    rows = headline_rows(make_tables()[0])
    called = rows["predicted_probability"] >= result["threshold"]
    y, p, label = rows["score"], rows["predicted_score"], rows["label"]
    expected = {
        "mse": sk.mean_squared_error(y, p), "roc_auc": sk.roc_auc_score(label, rows["predicted_probability"]),
        "pr_auc": sk.average_precision_score(label, rows["predicted_probability"]),
        "pearson": stats.pearsonr(y, p)[0], "pearson_p": stats.pearsonr(y, p)[1],
        "spearman": stats.spearmanr(y, p)[0], "spearman_p": stats.spearmanr(y, p)[1],
        "accuracy": sk.accuracy_score(label, called), "precision": sk.precision_score(label, called),
        "recall": sk.recall_score(label, called), "f1": sk.f1_score(label, called), "base_rate": label.mean(),
        "prediction_std": np.std(p), "label_std": np.std(y), "std_ratio": np.std(p) / np.std(y),
        "skill": 1 - sk.mean_squared_error(y, p) / sk.mean_squared_error(y, rows["average_score"]),
    }
    got = {name: result["quadrants"][ev.HEADLINE][name]["value"] for name in expected}
    assert got == pytest.approx(expected)


def test_a_hand_worked_case():
    got = ev.metrics(
        measured=[0.0, 1.0, 2.0, 3.0], predicted=[0.0, 2.0, 2.0, 4.0], label=[0, 1, 0, 1],
        probability=[0.1, 0.4, 0.6, 0.9], threshold=0.5,
    )
    assert got["mse"] == pytest.approx(0.5)
    assert (got["accuracy"], got["precision"], got["recall"], got["f1"]) == (0.5, 0.5, 0.5, 0.5)
    assert got["roc_auc"] == pytest.approx(0.75)          # 3 of 4 pairs in order
    assert got["pr_auc"] == pytest.approx((1 + 2 / 3) / 2)  # precision at the two positives
    assert got["pearson"] == pytest.approx(6 / np.sqrt(5 * 8))
    assert got["base_rate"] == 0.5


def test_a_perfect_predictor():
    predictions, baselines = make_tables()
    predictions["predicted_score"] = predictions["score"]
    predictions["predicted_probability"] = predictions["label"].astype(float)
    got = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["quadrants"][ev.HEADLINE]
    names = ("skill", "pearson", "spearman", "roc_auc", "pr_auc", "accuracy", "f1", "residual_pearson", "std_ratio")
    for name in names:
        assert got[name]["value"] == pytest.approx(1), name
    assert got["mse"]["value"] == 0


def test_a_constant_predictor_is_evaluated_and_found_wanting():
    predictions, baselines = make_tables()
    predictions["predicted_score"], predictions["predicted_probability"] = 1.0, 0.3
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    got = result["quadrants"][ev.HEADLINE]
    assert got["skill"]["high"] < 0
    assert got["roc_auc"]["value"] == 0.5
    assert got["pr_auc"]["value"] == pytest.approx(got["base_rate"]["value"])
    assert got["prediction_std"]["value"] == 0 and np.isnan(got["pearson"]["value"])
    assert result["correlations"]["model"]["across_cell_types"]["value"] == 0
    assert "does worse than the training-cell-type average" in result["verdict"]


# --- blocks --------------------------------------------------------------------------------------------------


def test_blocks_of_few_windows_join_their_neighbours():
    """chr1: 10, 10, 10 windows and a rest of 2; chr2: 3, 4, 10; chr3: 2 alone. Half of the median is 3.5 windows."""
    starts = [10 * [b * 100] for b in range(3)] + [2 * [300], 3 * [0], 4 * [100], 10 * [200], 2 * [0]]
    chrom = np.repeat(["chr1"] * 4 + ["chr2"] * 3 + ["chr3"], [len(some) for some in starts])
    place = [start + i for some in starts for i, start in enumerate(some)]
    rows = pd.DataFrame({"chrom": np.tile(chrom, 2), "start": np.tile(place, 2)})  # two cell types: windows count once
    blocks = pd.Series(ev.chromosome_blocks(rows, 100)).value_counts().to_dict()
    assert blocks == {"chr1:0": 20, "chr1:1": 20, "chr1:2": 24, "chr2:0": 14, "chr2:1": 20, "chr3:0": 4}
    shuffled = rows.sample(frac=1, random_state=1)
    assert pd.Series(ev.chromosome_blocks(shuffled, 100)).value_counts().to_dict() == blocks
    even = rows.assign(start=np.arange(len(rows)) % 40 * 10, chrom="chr1")
    assert set(ev.chromosome_blocks(even, 100)) == {f"chr1:{i}" for i in range(4)}


def test_the_headline_has_intervals_from_longer_blocks_too(result):
    by_length = result["headline"]["by_block_bp"]
    assert [(entry["block_bp"], entry["blocks"]) for entry in by_length] == [(100_000, 10), (200_000, 6), (400_000, 2)]
    assert by_length[0]["skill"] == result["headline"]["skill"]
    assert all(entry["skill"]["low"] < entry["skill"]["value"] < entry["skill"]["high"] for entry in by_length)


def test_what_varies_in_long_blocks_widens_the_interval_with_their_length():
    """The model's error on the last two chromosomes is constant over 200 kb: blocks of 100 kb are no draws of their own."""
    predictions, baselines = make_tables(splits=["train"] * 3 + ["test"])
    stretch = predictions["start"] // 200_000 + 3 * predictions["chrom"].str.removeprefix("chr").astype(int)
    error = np.random.default_rng(5).lognormal(-1, 0.8, 99)[stretch]
    result = ev.evaluate(predictions.assign(predicted_score=predictions["score"] + error), baselines, simulated=True, **SHORT)
    short, long, _ = (entry["skill"] for entry in result["headline"]["by_block_bp"])
    assert long["high"] - long["low"] > 1.3 * (short["high"] - short["low"])


# --- skill and baselines -------------------------------------------------------------------------------------


def test_the_average_has_exactly_no_skill_over_itself(result):
    for quadrant in ev.QUADRANTS:
        assert result["baselines"]["average"][quadrant]["skill"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_further_predictors_are_compared_on_the_rows_that_they_have():
    predictions, _ = make_tables()
    rows = headline_rows(predictions)
    half = rows[rows["window"].isin(rows["window"].unique()[::2])]
    others = half[["cell_type", "window"]].assign(average=half["average_score"], perfect=half["score"])
    table = ev.compare(predictions, others, n_bootstrap=20)
    assert list(table) == ["all inputs", "average", "perfect"]
    assert table["average"]["skill"] == {"value": 0.0, "low": 0.0, "high": 0.0} and table["perfect"]["skill"]["value"] == 1
    mse = ((half["predicted_score"] - half["score"]) ** 2).mean()
    assert table["all inputs"]["mse"]["value"] == pytest.approx(mse)
    assert table["all inputs"]["model_skill"]["value"] == 0


def test_a_model_that_copies_the_average_has_exactly_no_skill():
    predictions, baselines = make_tables()
    predictions["predicted_score"] = predictions["average_score"]
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    assert result["headline"]["skill"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert result["headline"]["pearson"]["value"] > 0.5
    assert np.isnan(result["correlations"]["model"]["residual"]["value"])
    assert "cannot be told from the training-cell-type average" in result["verdict"]


def test_the_skill_over_a_baseline_has_it_for_reference(result):
    predictions, baselines = make_tables()
    rows = headline_rows(predictions).merge(baselines, on=["cell_type", "window"])
    for name in ("weak", "strong"):
        expected = 1 - sk.mean_squared_error(rows["score"], rows["predicted_score"]) / sk.mean_squared_error(
            rows["score"], rows[name])
        assert result["baselines"][name][ev.HEADLINE]["model_skill"]["value"] == pytest.approx(expected)
    assert result["baselines"]["average"][ev.HEADLINE]["model_skill"] == result["headline"]["skill"]


def test_comparisons_are_paired():
    """A baseline whose every error is 1.1 times the model's: its MSE is 1.21 times, in every draw, so for sure."""
    predictions, baselines = make_tables()
    error = predictions["predicted_score"] - predictions["score"]
    baselines["near"] = predictions["score"] + 1.1 * error  # rows of both tables are in the same order
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    model, near = result["quadrants"][ev.HEADLINE]["mse"], result["baselines"]["near"][ev.HEADLINE]
    assert near["mse"]["low"] < model["high"]  # apart, their intervals overlap
    assert [near["model_skill"][k] for k in ("value", "low", "high")] == pytest.approx([1 - 1 / 1.21] * 3)


def test_the_model_as_its_own_baseline_is_ahead_by_nothing_and_correlations_are_scipys():
    predictions, baselines = make_tables()
    baselines["itself"] = predictions["predicted_score"]  # rows of both tables are in the same order
    against = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["baselines"]
    for kind in ("pearson", "spearman"):
        assert against["itself"][ev.HEADLINE][f"{kind}_difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    rows = headline_rows(predictions)
    rho = [stats.spearmanr(rows["score"], rows[c])[0] for c in ("predicted_score", "average_score")]
    average = against["average"][ev.HEADLINE]
    assert average["spearman"]["value"] == pytest.approx(rho[1])
    assert average["spearman_difference"]["value"] == pytest.approx(rho[0] - rho[1])


def validation_auprc(table: pd.DataFrame, columns: list[str]) -> dict[str, float]:
    rows = table[(table["cell_type_split"] == "validation") & (table["window_split"] == "validation")]
    return {c: sk.average_precision_score(rows["label"], rows[c]) for c in columns}


def test_the_average_ranks_by_what_is_better_on_validation_rows(result):
    predictions, _ = make_tables()
    reached = validation_auprc(predictions, ["average_score", "average_label"])
    column = max(reached, key=reached.get)
    rows = headline_rows(predictions)
    average, model = (sk.average_precision_score(rows["label"], rows[c]) for c in (column, "predicted_probability"))
    assert result["headline"]["pr_auc_gain"]["value"] == pytest.approx(model - average)
    entry = result["baselines"]["average"][ev.HEADLINE]
    assert entry["ranked_by"] == column and entry["pr_auc"]["value"] == pytest.approx(average)
    assert entry["pr_auc_difference"] == pytest.approx(result["headline"]["pr_auc_gain"])


@pytest.mark.parametrize("better", [True, False])
def test_a_baseline_ranks_by_its_classifier_where_that_is_better_on_validation_rows(better):
    """On test rows it is the other way round: that has no say."""
    predictions, baselines = make_tables()
    held_out = predictions["cell_type_split"] == "test"
    right = predictions["label"] + 0.0
    baselines["weak_probability"] = np.where(held_out == better, 1 - right, right)
    table = predictions.merge(baselines, on=["cell_type", "window"])
    expected = "weak_probability" if better else "weak"
    chosen = rankings(table, ["weak", "strong"])
    assert {name: by.column for name, by in chosen.items()} == {"weak": expected, "strong": "strong"}
    assert chosen["weak"].why.startswith("highest AUPRC on validation cell types x validation chromosomes: weak 0.")
    assert chosen["strong"].why == "it has no other"
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    assert list(result["baselines"]) == ["average", "weak", "strong"]  # a classifier is no baseline of its own
    rows = headline_rows(table)
    entry = result["baselines"]["weak"][ev.HEADLINE]
    assert entry["ranked_by"] == expected
    assert entry["pr_auc"]["value"] == pytest.approx(sk.average_precision_score(rows["label"], rows[expected]))
    model = sk.average_precision_score(rows["label"], rows["predicted_probability"])
    assert entry["pr_auc_difference"]["value"] == pytest.approx(model - entry["pr_auc"]["value"])
    expected_mse = sk.mean_squared_error(rows["score"], rows["weak"])  # its scores stay as they are
    assert entry["mse"]["value"] == pytest.approx(expected_mse)


def test_what_ranks_is_the_score_where_validation_rows_cannot_tell():
    predictions, baselines = make_tables()
    validation = predictions["window_split"] == "validation"
    baselines["weak_probability"] = 0.5
    table = predictions.merge(baselines, on=["cell_type", "window"])
    one_class = table.assign(label=np.where(validation, 1, table["label"]))
    chosen = rankings(one_class, ["average", "weak"])
    assert {name: by.column for name, by in chosen.items()} == {"average": "average_score", "weak": "weak"}
    assert all("are of 1 class, so that nothing could be chosen there" in by.why for by in chosen.values())
    gaps = table.assign(weak_probability=np.where(validation, np.nan, 1.0))
    (by,) = rankings(gaps, ["weak"]).values()
    assert by.column == "weak" and by.why.startswith("weak_probability has gaps on validation cell types")
    here = gaps[gaps["window_split"] == "validation"]
    fallen = ranks_by(here, "weak", {"weak": Ranking("weak_probability", "")})
    assert fallen == ("weak", "weak_probability has gaps in these rows: its score")


@pytest.mark.parametrize("strength, words", [
    (0.9, ["beats the training-cell-type average", "beats every other baseline", "the closest is strong"]),
    (0.5, ["beats the training-cell-type average", "It beats weak", "cannot be told from strong"]),
    (0.2, ["cannot be told from weak", "worse than strong"]),
])
def test_the_verdict_says_so_in_either_direction(strength, words):
    verdict = ev.evaluate(*make_tables(strength), simulated=True, **SHORT)["verdict"]
    assert verdict.startswith("On simulated data, 3 unseen cell types")
    assert "It ranks open windows" in verdict and "AUPRC" in verdict
    for word in words:
        assert word in verdict


def test_p_of_many_opponents_is_adjusted(result):
    entries = {name: values[ev.HEADLINE] for name, values in result["baselines"].items()}
    for figure in ("model_skill_p", "pr_auc_difference_p"):
        p = [entries[name][figure] for name in ("weak", "strong")]
        adjusted = [entries[name][f"{figure}_adjusted"] for name in ("weak", "strong")]
        assert adjusted == pytest.approx(stats.false_discovery_control(p)) and max(p) <= max(adjusted)
        assert f"{figure}_adjusted" not in entries["average"]
    for entry in entries.values():
        side = entry["model_skill"]["low"] > 0 or entry["model_skill"]["high"] < 0
        assert abs(entry["model_skill_p"] - 0.05) < 0.01 or side == (entry["model_skill_p"] < 0.05)
        assert 1 <= entry["model_skill_freedom"] <= 2 + 9


def test_real_data_is_called_real():
    assert ev.evaluate(*make_tables(), simulated=False, **SHORT)["verdict"].startswith("On real data")


def test_a_baseline_with_gaps_is_compared_where_it_is_defined():
    predictions, baselines = make_tables()
    baselines.loc[baselines["cell_type"] == "cell10", "weak"] = np.nan
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    entry = result["baselines"]["weak"][ev.HEADLINE]
    rows = headline_rows(predictions).merge(baselines, on=["cell_type", "window"])
    rows = rows[rows["cell_type"] != "cell10"]
    mse = {c: sk.mean_squared_error(rows["score"], rows[c]) for c in ("predicted_score", "weak", "average_score")}
    assert (entry["rows"], entry["of_rows"], entry["cell_types_without"]) == (200, 300, ["cell10"])
    assert entry["partly"] == (
        "weak is compared on 200 of 300 rows, because it has no prediction in the others (cell10)")
    assert entry["skill"]["value"] == pytest.approx(1 - mse["weak"] / mse["average_score"])
    assert entry["model_skill"]["value"] == pytest.approx(1 - mse["predicted_score"] / mse["weak"])
    same = entry["same_rows"]
    assert same["model"]["skill"]["value"] == pytest.approx(1 - mse["predicted_score"] / mse["average_score"])
    auprc = sk.average_precision_score(rows["label"], rows["predicted_probability"])
    assert same["model"]["pr_auc"]["value"] == pytest.approx(auprc)
    assert same["average"]["pr_auc"]["value"] == pytest.approx(
        sk.average_precision_score(rows["label"], rows[result["baselines"]["average"][ev.HEADLINE]["ranked_by"]]))
    assert entry["model_skill"]["low"] < entry["model_skill"]["value"] < entry["model_skill"]["high"]
    within = np.mean([np.corrcoef(g["score"], g["weak"])[0, 1] for _, g in rows.groupby("cell_type")])
    assert result["correlations"]["weak"]["within_cell_type"]["value"] == pytest.approx(within)
    assert "partly" not in result["baselines"]["weak"]["seen_cell_type_x_unseen_chromosome"]
    assert "200 of 300 rows with weak" in result["verdict"] and "(cell10)" in result["verdict"]
    assert "Not compared" not in result["verdict"]


def test_a_baseline_that_is_defined_nowhere_is_named_and_not_compared():
    predictions, baselines = make_tables()
    baselines["weak"] = np.nan
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    assert result["baselines"]["weak"][ev.HEADLINE] == {"undefined": "weak has no prediction in any of 300 rows"}
    assert "weak" not in result["correlations"]
    assert "Not compared, because undefined here: weak." in result["verdict"]


# --- what may not matter -------------------------------------------------------------------------------------


def test_row_order_does_not_matter(result):
    predictions, baselines = make_tables()
    shuffled = ev.evaluate(
        predictions.sample(frac=1, random_state=3), baselines.sample(frac=1, random_state=4), simulated=True, **SHORT
    )
    for quadrant, values in result["quadrants"].items():
        for name, entry in values.items():
            assert shuffled["quadrants"][quadrant][name] == pytest.approx(entry, nan_ok=True), (quadrant, name)
    assert shuffled["correlations"]["model"]["residual"] == pytest.approx(result["correlations"]["model"]["residual"])
    assert shuffled["verdict"] == result["verdict"]


def test_same_seed_same_result(result):
    again = ev.evaluate(*make_tables(), simulated=True, **SHORT)
    assert json.dumps(again, default=str) == json.dumps(result, default=str)


def test_test_labels_do_not_move_the_threshold():
    predictions, _ = make_tables()
    threshold, source = ev.choose_threshold(predictions)
    held_out = predictions["cell_type_split"] == "test"
    predictions.loc[held_out, "label"] = 1 - predictions.loc[held_out, "label"]
    assert ev.choose_threshold(predictions) == (threshold, source)
    assert "validation cell types x validation chromosomes" in source


def test_the_threshold_has_the_highest_f1_on_validation_rows():
    predictions, _ = make_tables()
    threshold, _ = ev.choose_threshold(predictions)
    rows = predictions[(predictions["cell_type_split"] == "validation") & (predictions["window_split"] == "validation")]
    best = sk.f1_score(rows["label"], rows["predicted_probability"] >= threshold)
    others = [sk.f1_score(rows["label"], rows["predicted_probability"] >= t) for t in rows["predicted_probability"]]
    assert best == pytest.approx(max(others))


def test_without_validation_cell_types_the_threshold_says_where_it_is_from():
    splits = ["train"] * 8 + ["test"] * 3
    _, source = ev.choose_threshold(make_tables(splits=splits)[0])
    assert "training cell types (no validation cell types) x validation chromosomes" in source


def test_validation_rows_of_one_class_leave_only_the_threshold_undefined(tmp_path):
    predictions, baselines = make_tables()
    validation = (predictions["cell_type_split"] == "validation") & (predictions["window_split"] == "validation")
    predictions.loc[validation, "label"] = 0
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    assert np.isnan(result["threshold"])
    assert result["threshold_source"].startswith("undefined, because validation cell types x validation chromosomes")
    got = result["quadrants"][ev.HEADLINE]
    undefined = [name for name, entry in got.items() if np.isnan(entry["value"])]
    assert undefined == ["accuracy", "precision", "recall", "f1"]
    assert "all labelled 0" in result["threshold_source"] and "undefined" in result["recalibration"]
    ev.write_metrics(result, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["threshold"] is None


def test_labels_of_one_class_in_one_cell_type_leave_the_rest():
    predictions, baselines = make_tables()
    predictions.loc[predictions["cell_type"] == "cell09", "label"] = 1
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    entry = result["per_cell_type"]["cell09"]["unseen_chromosome"]
    assert entry["labels"].startswith("all 100 rows with a label are open") and np.isnan(entry["roc_auc"]["value"])
    assert "labels" not in result["per_cell_type"]["cell10"]["unseen_chromosome"]
    assert np.isfinite(result["headline"]["pr_auc_gain"]["low"])


def test_one_training_cell_type_leaves_only_what_varies_undefined():
    predictions, baselines = make_tables()
    alone = (predictions["cell_type_split"] != "train") | (predictions["cell_type"] == "cell00")
    result = ev.evaluate(predictions[alone], baselines, simulated=True, **SHORT)
    assert result["strata"]["varying"]["undefined"] == "needs 2 training cell types with a score, got 1"
    assert result["correlations"]["model"]["across_cell_types"]["n_windows"] == 0
    assert np.isfinite(result["headline"]["skill"]["low"])


# --- correlations, strata, ceiling, calibration --------------------------------------------------------------


def test_within_cell_type_correlation_is_the_mean_over_cell_types(result):
    rows = headline_rows(make_tables()[0])
    expected = np.mean([np.corrcoef(g["score"], g["predicted_score"])[0, 1] for _, g in rows.groupby("cell_type")])
    assert result["correlations"]["model"]["within_cell_type"]["value"] == pytest.approx(expected)


def test_across_cell_types_correlation_is_the_mean_over_varying_windows(result):
    predictions, _ = make_tables()
    windows, _ = ev.specific_windows(predictions)
    rows = headline_rows(predictions)
    rows = rows[rows["window"].isin(windows)]
    each = [np.corrcoef(g["score"], g["predicted_score"])[0, 1] for _, g in rows.groupby("window")]
    entry = result["correlations"]["model"]["across_cell_types"]
    assert entry["n_windows"] == len(each)
    assert entry["value"] == pytest.approx(np.mean(each))
    assert result["correlations"]["average"]["across_cell_types"]["value"] == 0


def test_two_unseen_cell_types_have_no_correlation_across_cell_types():
    splits = ["train"] * 7 + ["validation"] * 2 + ["test"] * 2
    entry = ev.evaluate(*make_tables(splits=splits), simulated=True, **SHORT)["correlations"]["model"]
    assert np.isnan(entry["across_cell_types"]["value"]) and entry["across_cell_types"]["n_windows"] == 0


def test_residual_correlation_cannot_be_had_from_the_average_alone():
    """Subtracting an average twice the right size from both sides would give a correlation near 1."""
    rng = np.random.default_rng(2)
    locus, cell = rng.normal(size=3000), np.repeat(["a", "b", "c"], 1000)
    score, average, knows_nothing = locus + rng.normal(size=3000), 2 * locus, rng.normal(size=3000)
    assert abs(np.corrcoef(score - average, knows_nothing - average)[0, 1]) > 0.5
    left = [residual(v, average, cell) for v in (score, knows_nothing)]
    assert abs(np.corrcoef(*left)[0, 1]) < 0.1
    assert (residual(3 * average + 1, average, cell) == 0).all()


def test_specific_windows_come_from_training_cell_types_alone():
    predictions, _ = make_tables()
    windows, rule = ev.specific_windows(predictions)
    spread = predictions[predictions["cell_type_split"] == "train"].groupby("window")["score"].std()
    assert set(windows) == set(spread.nlargest(len(windows)).index)
    assert len(windows) == pytest.approx(400 / 3, abs=1.5)
    assert "6 training cell types" in rule
    predictions.loc[predictions["cell_type_split"] != "train", "score"] = 7.0
    assert np.array_equal(ev.specific_windows(predictions)[0], windows)


def test_the_stratum_is_where_the_average_fails(result):
    rows = headline_rows(make_tables()[0])
    rows = rows[rows["window"].isin(ev.specific_windows(make_tables()[0])[0])]
    expected = 1 - sk.mean_squared_error(rows["score"], rows["predicted_score"]) / sk.mean_squared_error(
        rows["score"], rows["average_score"])
    assert result["strata"]["varying"]["model"]["skill"]["value"] == pytest.approx(expected)
    assert result["strata"]["varying"]["sizes"]["rows"] == len(rows)


def with_strata(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every fourth window a promoter, and two numbers of observed tracks."""
    near = predictions["window"] % 4 == 0
    return predictions.assign(tss_distance=np.where(near, 1_000.0, 1_001.0),
                              observed_tracks=np.where(predictions["cell_type"] == "cell10", 2, 5))


def test_strata_have_the_metrics_of_their_rows_and_paired_intervals():
    predictions, baselines = make_tables()
    predictions = with_strata(predictions)
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    rows, parts = headline_rows(predictions).merge(baselines, on=["cell_type", "window"]), result["strata"]
    assert list(parts) == ["all_windows", "varying", "specific_by_entropy", "promoters", "distal", "observed_tracks_2",
                            "observed_tracks_5"]
    masks = {"all_windows": rows["window"] >= 0, "promoters": rows["tss_distance"] == 1_000,
             "distal": rows["tss_distance"] > 1_000, "observed_tracks_2": rows["cell_type"] == "cell10"}
    for name, mask in masks.items():
        some, entry = rows[mask], parts[name]
        mse = {c: sk.mean_squared_error(some["score"], some[c]) for c in ("predicted_score", "average_score", "strong")}
        assert entry["sizes"]["rows"] == len(some) and entry["rule"]
        assert entry["model"]["skill"]["value"] == pytest.approx(1 - mse["predicted_score"] / mse["average_score"])
        ahead = entry["baselines"]["strong"]["model_skill"]
        assert ahead["value"] == pytest.approx(1 - mse["predicted_score"] / mse["strong"])
        assert ahead["low"] < ahead["value"] < ahead["high"]
        assert entry["baselines"]["average"]["skill"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert parts["all_windows"]["model"] is result["quadrants"][ev.HEADLINE]


def test_a_stratum_of_one_class_has_all_but_the_label_metrics(tmp_path):
    predictions, baselines = make_tables()
    predictions = with_strata(predictions)
    predictions.loc[predictions["tss_distance"] == 1_000, "label"] = 1
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    promoters, distal = result["strata"]["promoters"], result["strata"]["distal"]
    assert promoters["labels"].startswith("all 75 rows with a label are open") and "labels" not in distal
    assert promoters["sizes"]["open_rows"] == 75
    assert np.isnan(promoters["model"]["roc_auc"]["value"]) and "pr_auc" not in promoters["baselines"]["weak"]
    assert np.isfinite(promoters["model"]["skill"]["low"]) and np.isfinite(distal["model"]["roc_auc"]["low"])
    ev.write_metrics(result, tmp_path / "metrics.json")


def test_strata_that_cannot_be_told_say_so(result):
    for name, words in (("promoters", "no transcription start sites are known"), ("distal", "no transcription start"),
                        ("observed_tracks", "no column observed_tracks")):
        assert set(result["strata"][name]) == {"rule", "undefined"} and words in result["strata"][name]["undefined"]


def test_the_ceiling_is_the_truth_on_the_scale_of_each_file(result):
    rows = headline_rows(make_tables()[0])
    fits = {name: np.polynomial.Polynomial.fit(g["truth"], g["score"], 1) for name, g in rows.groupby("cell_type")}
    on_scale = [fits[name](truth) for name, truth in zip(rows["cell_type"], rows["truth"], strict=True)]
    top, reached = (np.corrcoef(rows["score"], v)[0, 1] for v in (on_scale, rows["predicted_score"]))
    ceiling = result["ceiling"]
    assert (ceiling["kind"], ceiling["rows"]) == ("noise-free truth of the simulation", 300)
    assert ceiling["pearson"]["value"] == pytest.approx(top)
    assert ceiling["fraction_of_pearson"]["value"] == pytest.approx(reached / top)


def test_no_scaling_of_the_truth_passes_its_ceiling():
    """Files of other depth: the truth itself, and any line a cell type through it, stay below the pooled ceiling."""
    predictions, baselines = make_tables()
    cell = predictions["cell_type"].str[-2:].astype(int)
    predictions["score"] = predictions["score"] * (1 + cell / 5) - cell
    rng = np.random.default_rng(4)
    top = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["ceiling"]["pearson"]["value"]
    rows = headline_rows(predictions)
    assert np.corrcoef(rows["score"], rows["truth"])[0, 1] < top - 0.01
    for _ in range(20):
        line = {name: rng.normal([1, 0], [1, 5]) for name in rows["cell_type"].unique()}
        moved = [line[c][0] * t + line[c][1] for c, t in zip(rows["cell_type"], rows["truth"], strict=True)]
        assert np.corrcoef(rows["score"], moved)[0, 1] <= top


def test_the_ceiling_of_skill_does_not_depend_on_the_scale_of_a_file():
    """Truth in another unit is still all that can be known: the same ceiling as the truth itself, nearly 1 here."""
    predictions, baselines = make_tables()
    plain = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["ceiling"]
    cell = predictions["cell_type"].str[-2:].astype(int)
    other = ev.evaluate(predictions.assign(truth=predictions["truth"] * (1 + cell) - cell), baselines, simulated=True,
                        **SHORT)["ceiling"]
    assert other["skill"] == pytest.approx(plain["skill"])
    assert 0.8 < plain["skill"]["value"] < 1


def with_replicates(n: int, sd: float = 0.6) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Return predictions whose score is the mean of n replicates, baselines, replicates, and rows with the truth."""
    predictions, baselines = make_tables()
    order = predictions.sort_values(["window", "cell_type"])
    truth = order["truth"].to_numpy().reshape(400, len(SPLITS))
    replicates = truth[:, :, None] + np.random.default_rng(5).normal(0, sd, (*truth.shape, n))
    order = order.assign(score=replicates.mean(axis=2).ravel())
    return order.assign(truth=np.nan), baselines, replicates, headline_rows(order)


NAMES = [f"cell{i:02d}" for i in range(len(SPLITS))]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_ceiling_from_replicates_finds_the_truth(n):
    """Replicates of known noise: what the noise-free value itself reaches."""
    predictions, baselines, replicates, rows = with_replicates(n)
    table = ev.replicate_table(replicates, NAMES)
    got = ev.evaluate(predictions, baselines, simulated=True, replicates=table, **SHORT)["ceiling"]
    assert (got["kind"], got["rows"], got["of_rows"]) == ("replicate concordance (Spearman-Brown)", 300, 300)
    assert got["pearson"]["value"] == pytest.approx(np.corrcoef(rows["score"], rows["truth"])[0, 1], abs=0.02)
    mse = [sk.mean_squared_error(rows["score"], rows[c]) for c in ("truth", "average_score")]
    assert got["skill"]["value"] == pytest.approx(1 - mse[0] / mse[1], abs=0.03)
    r = got["concordance"]["value"]
    assert got["pearson"]["value"] == pytest.approx(np.sqrt(n * r / (1 + (n - 1) * r)), abs=0.02)  # Spearman-Brown


def test_the_ceiling_stands_on_the_rows_with_replicates_and_level_is_no_noise():
    predictions, baselines, replicates, rows = with_replicates(3)
    replicates[:, NAMES.index("cell10")] += np.array([0, 3, 6.0])  # a deeper file
    replicates[:, NAMES.index("cell09"), 2] = np.nan               # two are left
    replicates[:, NAMES.index("cell08"), 1:] = np.nan              # one is left: no concordance
    table = ev.replicate_table(replicates, NAMES)
    assert list(table) == ["cell_type", "window", "replicate_1", "replicate_2", "replicate_3"]
    assert set(table["cell_type"]) == set(NAMES) - {"cell08"}
    got = ev.evaluate(predictions, baselines, simulated=True, replicates=table, **SHORT)["ceiling"]
    assert (got["rows"], got["of_rows"]) == (200, 300) and "200 of 300 rows with two replicates" in got["sentence"]
    some = rows[rows["cell_type"] != "cell08"]
    noise = 0.6 ** 2 * np.mean([1 / 2, 1 / 3])
    assert got["pearson"]["value"] == pytest.approx(np.sqrt(1 - noise / some["score"].var(ddof=0)), abs=0.02)


def test_a_ceiling_stands_on_the_rows_whose_truth_is_known():
    predictions, baselines = make_tables()
    gap = (predictions["cell_type"] == "cell09") & (predictions["chrom"] == "chr8")
    predictions.loc[gap, "truth"] = np.nan
    got = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["ceiling"]
    assert (got["rows"], got["of_rows"]) == (250, 300) and got["kind"] == "noise-free truth of the simulation"
    assert "on the 250 of 300 rows whose truth is known" in got["sentence"]


@pytest.mark.parametrize("replicates", [None, np.ones((400, 11, 1))])
def test_no_ceiling_is_said_plainly_and_why(replicates):
    predictions, baselines = make_tables()
    table = None if replicates is None else ev.replicate_table(replicates, NAMES)
    unknown = predictions.assign(truth=np.nan)
    got = ev.evaluate(unknown, baselines, simulated=False, replicates=table, **SHORT)["ceiling"]
    assert got["kind"] == "none" and got["sentence"].startswith("No ceiling known")
    assert "reads cannot be thinned" in got["sentence"]


def test_probabilities_and_intervals_are_judged_on_unseen_cell_types(result):
    unseen = {"cell08", "cell09", "cell10"}
    for key, measure in (("recalibration", "brier_change"), ("conformal", "pooled")):
        assert set(result[key]["per_cell_type"]) == unseen
        assert "validation cell types x validation chromosomes" in result[key]["source"] and measure in result[key]
    coverage = result["conformal"]["pooled"]["coverage"]
    assert coverage["low"] <= 0.9 <= coverage["high"]  # validation and test cell types are drawn alike here


def test_example_windows_are_those_of_the_rule():
    rows = pd.DataFrame({
        "window": [1, 1, 2, 2, 3], "score": 0.0, "average_score": [1, 1, 1, 1, 1.0],
        "predicted_score": [0, 0, 2, 1, 1.0],
    })
    got = loci.example_windows(rows, np.array([1, 2, 3]), seed=1)
    assert loci.gains(rows).to_dict() == {1: 2.0, 2: -3.0, 3: 0.0}
    assert (got["best"], got["worst"]) == (1, 2) and got["random"] in (1, 2, 3)
    assert loci.example_windows(rows, np.array([3]), seed=1) == {"best": 3, "random": 3, "worst": 3}


def test_error_by_spread_is_mse_by_group():
    predictions, _ = make_tables()
    rows = headline_rows(predictions)
    table = loci.error_by_spread(rows, predictions, {"model": "predicted_score"}, n_groups=1)
    assert table["model"].tolist() == pytest.approx([sk.mean_squared_error(rows["score"], rows["predicted_score"])])
    parts = loci.error_by_spread(rows, predictions, {"model": "predicted_score"}, n_groups=4)
    assert parts.index.is_monotonic_increasing and parts["model"].mean() == pytest.approx(table["model"].iloc[0])


# --- one unseen cell type, missing measurements --------------------------------------------------------------


def test_one_unseen_cell_type_says_that_only_blocks_are_resampled():
    splits = ["train"] * 3 + ["test"]
    result = ev.evaluate(*make_tables(0.9, splits=splits), simulated=False, **SHORT)
    assert result["sizes"][ev.HEADLINE]["cell_types"] == 1
    assert "nothing about other cell types" in result["verdict"]
    assert "no validation cell types" in result["threshold_source"]
    skill = result["headline"]["skill"]
    assert skill["low"] < skill["value"] < skill["high"]


def test_rows_without_a_measured_score_are_left_out_and_counted():
    predictions, baselines = make_tables()
    gap = (predictions["cell_type"] == "cell09") & (predictions["chrom"] == "chr8")
    predictions.loc[gap, "score"] = np.nan
    size = ev.evaluate(predictions, baselines, simulated=True, **SHORT)["sizes"][ev.HEADLINE]
    assert (size["rows"], size["rows_without_score"]) == (250, 50)


def test_windows_that_were_not_predicted_in_training_cell_types_are_counted():
    predictions, baselines = make_tables()
    left_out = (predictions["cell_type_split"] == "train") & (predictions["window_split"] == "train")
    left_out &= predictions["window"] % 4 != 0
    result = ev.evaluate(predictions[~left_out], baselines, simulated=True, **SHORT)
    size = result["sizes"]["seen_cell_type_x_seen_chromosome"]
    assert (size["windows"], size["of_windows"]) == (50, 200)
    sample = predictions[(predictions["window_split"] == "test") | (predictions["window"] % 4 == 0)]
    sizes = ev.evaluate(sample, baselines, simulated=True, **SHORT, of_windows={"train": 200, "test": 100})["sizes"]
    assert [(size["windows"], size["of_windows"]) for size in sizes.values()] == [(50, 200), (100, 100)] * 2
    assert result["sizes"][ev.HEADLINE]["windows"] == result["sizes"][ev.HEADLINE]["of_windows"] == 100
    whole = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    assert result["headline"] == whole["headline"]
    windows, _ = strata.entropy_windows(predictions[~left_out])
    assert set(windows) <= set(predictions["window"]) - set(predictions.loc[left_out, "window"])


def test_a_cell_type_without_peaks_has_no_label_metrics_but_all_others():
    predictions, baselines = make_tables()
    predictions.loc[predictions["cell_type"] == "cell09", "label"] = -1
    result = ev.evaluate(predictions, baselines, simulated=True, **SHORT)
    entry = result["per_cell_type"]["cell09"]["unseen_chromosome"]
    assert np.isnan(entry["roc_auc"]["value"]) and np.isfinite(entry["skill"]["low"])
    assert result["sizes"][ev.HEADLINE]["labelled_rows"] == 200


def test_written_file_is_strict_json_with_null_for_undefined(tmp_path, result):
    path = tmp_path / "evaluation_metrics.json"
    ev.write_metrics(result, path)
    read = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in the file"))
    assert read["quadrants"][ev.HEADLINE]["pearson_p"]["low"] is None
    assert read["headline"]["skill"] == pytest.approx(result["headline"]["skill"])
    assert set(read["quadrants"]) == set(ev.QUADRANTS)
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation_metrics.json"]


def test_every_cell_type_and_every_metric_is_there(result):
    seed_metrics = {"mse", "roc_auc", "pr_auc", "pearson", "pearson_p", "spearman", "spearman_p", "accuracy",
                    "precision", "recall", "f1"}
    assert len(result["per_cell_type"]) == 9  # training and test; validation rows serve the threshold alone
    for entry in [*result["quadrants"].values(), *[e for c in result["per_cell_type"].values() for e in c.values()]]:
        assert seed_metrics <= set(entry)
        for name in seed_metrics - {"pearson_p", "spearman_p"}:
            assert entry[name]["low"] <= entry[name]["value"] <= entry[name]["high"]


def test_unseen_cell_types_have_their_baselines_beside_them(result):
    predictions, baselines = make_tables()
    rows = headline_rows(predictions).merge(baselines, on=["cell_type", "window"])
    assert set(result["baselines_per_cell_type"]) == set(rows["cell_type"])
    for name, some in rows.groupby("cell_type"):
        entry = result["baselines_per_cell_type"][name]["strong"]
        mse = {c: sk.mean_squared_error(some["score"], some[c]) for c in ("strong", "average_score")}
        assert entry["skill"]["value"] == pytest.approx(1 - mse["strong"] / mse["average_score"])
        assert entry["pr_auc"]["value"] == pytest.approx(sk.average_precision_score(some["label"], some["strong"]))


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change, message", [
    (lambda t: t.drop(columns="average_score"), r"columns \['average_score'\] are missing"),
    (lambda t: pd.concat([t, t.iloc[:1]]), "1 rows repeat a window x cell type"),
    (lambda t: t.assign(predicted_score=np.nan), "predicted_score is NaN or infinite in 4400 of 4400 rows"),
    (lambda t: t.assign(label=2), "label must be 1, 0, or -1"),
    (lambda t: t.assign(label=1), "all labelled 1"),
    (lambda t: t.assign(label=t["label"].where(t["cell_type_split"] != "test", 0)), "all labelled 0"),
    (lambda t: t.assign(score=t["score"].where(t["cell_type"] != "cell09")), r"\['cell09'\] have no window"),
    (lambda t: t[~((t["cell_type"] == "cell09") & (t["window_split"] == "test"))], r"\['cell09'\] have no window"),
    (lambda t: t.assign(cell_type_split=t["cell_type_split"].replace("test", "validation")), "no rows in unseen"),
    (lambda t: t.assign(window_split=t["window_split"].replace("test", "validation")), "no rows in seen_cell_type_x_un"),
])  # fmt: skip
def test_bad_predictions_are_refused(change, message):
    predictions, baselines = make_tables()
    with pytest.raises(ChromaccError, match=message):
        ev.evaluate(change(predictions), baselines, simulated=True, **SHORT)


def test_baselines_of_another_dataset_are_refused():
    predictions, baselines = make_tables()
    with pytest.raises(ChromaccError, match="the baselines lack 11 of 4,400 rows"):
        ev.evaluate(predictions, baselines[baselines["window"] != 7], simulated=True, **SHORT)
    with pytest.raises(ChromaccError, match=r"baselines \['average'\] have the name"):
        ev.evaluate(predictions, baselines.rename(columns={"weak": "average"}), simulated=True, **SHORT)


@pytest.mark.parametrize("measured, predicted, label, message", [
    ([np.nan, 1.0], [0.0, 1.0], [0, 1], "1 of 2 measured scores are NaN"),
    ([0.0, 1.0], [0.0, np.inf], [0, 1], "1 of 2 predicted scores are NaN"),
    ([], [], [], "0 of 0 measured scores"),
    ([0.0, 1.0], [0.0, 1.0], [1, 1], "2 windows, all labelled 1"),
])
def test_metrics_refuse_what_they_cannot_measure(measured, predicted, label, message):
    with pytest.raises(ChromaccError, match=message):
        ev.metrics(measured, predicted, label, np.full(len(label), 0.5), 0.5)


@pytest.mark.parametrize("gain, words", [
    ((0.1, 0.05, 0.2), "ranks open windows better: AUPRC +0.100"), ((-0.1, -0.2, -0.05), "worse: AUPRC -0.100"),
    ((0.0, -0.1, 0.1), "not tellably better or worse"),
])  # fmt: skip
def test_the_verdict_says_where_error_and_ranking_differ(gain, words):
    gain, skill = (dict(zip(("value", "low", "high"), v)) for v in (gain, (0.3, 0.1, 0.5)))
    text = wording._ranking_verdict(gain, skill)
    assert words in text and ("do not say the same" in text) == (gain["low"] <= 0)
    assert "not known" in wording._ranking_verdict(None, skill)


def opponents(**change: dict) -> dict:
    """Return a result of a model that is ahead of `near`, level with `far` and behind `best`."""
    def entry(value, half, gain, p, freedom=2.3):
        return {"model_skill": {"value": value, "low": value - half, "high": value + half}, "model_skill_p_adjusted": p,
                "model_skill_freedom": freedom, "pr_auc_difference": {"value": gain, "low": gain - 0.05, "high": gain + 0.05}}
    names = {"near": entry(0.2, 0.1, 0.1, 0.07), "far": entry(0.6, 0.9, 0.02, 0.3), "best": entry(-0.3, 0.1, -0.1, 0.01)}
    skill = {"value": 0.5, "low": 0.2, "high": 0.7}
    size = {"cell_types": 3, "blocks": 9}
    return {"headline": {"skill": skill, "size": size, "quadrant": "q", "pr_auc_gain": skill}, "simulated": True,
            "baselines": {name: {"q": values | change.get(name, {})} for name, values in names.items()}}


def test_the_verdict_says_why_a_large_skill_is_not_told_whom_it_ranks_better_and_what_adjustment_leaves():
    text = wording.verdict(opponents())
    assert "That so large a skill as over far is not told from none is because the 3 cell types disagree" in text
    assert "Student's t with 2.3 degrees of freedom." in text
    assert ("By AUPRC it ranks better than near; not tellably better or worse than far; worse than best "
            "(least against best: -0.100, -0.150 to -0.050).") in text
    assert "adjusted for 3 opponents (Benjamini and Hochberg), near (p = 0.07) no longer counts as beaten" in text
    small = wording.verdict(opponents(far={"model_skill": {"value": 0.1, "low": -0.1, "high": 0.3}},
                                      near={"model_skill_p_adjusted": 0.03}))
    assert "so large a skill" not in small and "all that it beats in error stay beaten at 0.05." in small
    both = {"model_skill": {"value": 0.2, "low": 0.1, "high": 0.3}, "model_skill_p_adjusted": 0.06}
    assert "none of them stays beaten in error at 0.05 (lowest p = 0.06)." in wording.verdict(opponents(near=both, far=both))
    ahead = {"pr_auc_difference": {"value": 0.1, "low": 0.05, "high": 0.2}}
    assert "By AUPRC it ranks better than every other baseline (" in wording.verdict(
        opponents(near=ahead, far=ahead, best=ahead))


def test_tables_for_people_keep_the_names_of_cell_types():
    entries = {"unseen_cell_type_x_seen_chromosome": {"pr_auc": {"value": 0.5, "low": 0.25, "high": 0.75}, "rows": 3}}
    table = wording.interval_table(entries)
    assert (table.index.tolist(), table.columns.tolist()) == (["unseen cell type x seen chromosome"], ["pr auc"])
    assert table.iloc[0, 0] == "0.500\u00a0[0.250,\u00a00.750]"
    assert wording.interval_table({"CD4_T": {"ece": {"value": np.nan}}}, as_is=True).loc["CD4_T", "ece"] == "undefined"
    counts = wording.count_table({"a_x_b": {"open_rows": 1_234}, "c": {"open_rows": 5}})
    assert counts.loc["open rows"].to_dict() == {"a x b": "1,234", "c": "5"}


def test_estimates_are_told_with_their_interval_or_without_and_numbers_with_their_noun():
    entry = {"value": 0.1234, "low": -0.5, "high": 0.75}
    assert wording.estimate(entry) == "+0.123 (-0.500 to +0.750)"
    assert wording.estimate(entry, ".1%", "95% interval ") == "12.3% (95% interval -50.0% to 75.0%)"
    for none in (None, np.nan):
        assert wording.estimate(entry | {"low": none}) == "+0.123 (no interval: too few cell types and blocks)"
    assert [wording.count(n, "cell type") for n in (0, 1, 1_000)] == ["0 cell types", "1 cell type", "1,000 cell types"]
