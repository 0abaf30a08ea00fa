"""Tables of predictions, anybody's: what is refused, what cannot be told, and what a table alone gives away.

Scores are drawn: shared by the locus + own to the cell type, so that what a healthy predictor knows is known.
"""

import re

import numpy as np
import pandas as pd
import pytest

from chromacc_lib import ChromaccError
from chromacc_lib.causes import CAUSES, NO_SIGNAL, NO_UNSEEN, NOTHING_LEARNED, OF_THE_MODEL, TOO_FEW, WITHIN
from chromacc_lib.checks import r_half_width, variance_table
from chromacc_lib.checks_predictions import NAMES
from chromacc_lib.collapse import diagnose
from chromacc_lib.tables import prepare

NOT_NUMBERS = "predictions are not numbers"


def drawn(n_windows=200, n_cells=6, seed=1, shared=0.6, noise=0.2, splits=False):
    """A healthy table: r of score and prediction about 0.95; with `splits`, halves of windows and of cell types."""
    rng = np.random.default_rng(seed)
    score = 1 + shared * rng.normal(size=(n_windows, 1)) + 0.5 * rng.normal(size=(n_windows, n_cells))
    predicted = score + noise * rng.normal(size=score.shape)
    return tabled(score, predicted, splits)


def tabled(score, predicted, splits=False):
    """One row a window and cell type of scores and predictions (W, C)."""
    n_windows, n_cells = score.shape
    table = pd.DataFrame({"cell_type": np.repeat([f"c{i}" for i in range(n_cells)], n_windows),
                          "window": np.tile(np.arange(n_windows), n_cells), "score": score.T.ravel(),
                          "predicted_score": predicted.T.ravel()})
    if splits:
        seen = [f"c{i}" for i in range(n_cells // 2)]
        table["cell_type_split"] = np.where(table["cell_type"].isin(seen), "train", "test")
        table["window_split"] = np.where(table["window"] < n_windows // 2, "train", "test")
    return table


def matrix(table, column):
    """A column of a drawn table as (W, C)."""
    return table.pivot(index="window", columns="cell_type", values=column).to_numpy()


def named(table, **given):
    """Verdict and cause of a table."""
    found = diagnose(table, **given)
    return found.verdict, found.cause


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("splits", [False, True])
def test_a_healthy_table_is_healthy(seed, splits):
    found = diagnose(drawn(600, seed=seed, splits=splits))
    assert found.verdict == "healthy", found.sentence
    assert [c.name for c in found.checks if c.verdict in ("fail", "warn")] == []


# --- predictions and scores that hold nothing ----------------------------------------------------------------

def test_predictions_that_are_all_nan_are_named_so_and_nothing_else_is_asked():
    for table in (drawn(), drawn(400, splits=True)):
        found = diagnose(table.assign(predicted_score=np.nan))
        assert (found.verdict, found.cause) == ("collapsed", NOT_NUMBERS)
        assert {c.name for c in found.checks if c.verdict == "not run"} >= set(NAMES)
        assert "Also found" not in found.sentence


def test_checks_that_are_left_out_are_those_that_are_run():
    names = [c.name for c in diagnose(drawn()).checks]
    assert len(names) == len(set(names)) and set(NAMES) < set(names)
    assert sorted(names) == sorted(c.name for c in diagnose(drawn().assign(predicted_score=np.nan)).checks)


def test_unseen_predictions_that_are_nan_are_not_exchanged_for_seen_ones():
    table = drawn(400, splits=True)
    unseen = (table["cell_type_split"] == "test") & (table["window_split"] == "test")
    assert named(table.assign(predicted_score=table["predicted_score"].mask(unseen))) == ("collapsed", NOT_NUMBERS)


def test_one_nan_is_mentioned_and_a_tenth_is_a_cause():
    table = drawn(400)
    table.loc[17, "predicted_score"] = np.nan
    found = diagnose(table)
    assert found.verdict == "healthy" and "Worth a look: finite predictions" in found.sentence
    assert found["finite predictions"].sentence == "1 of 2400 predictions are NaN or infinite: c0 window 17."
    table.loc[::10, "predicted_score"] = np.inf
    found = diagnose(table)
    assert (found.verdict, found.cause) == ("underperforming", NOT_NUMBERS) and "c0 window 10" in found.sentence


@pytest.mark.parametrize("score", [0.0, 3.7])
def test_scores_that_are_all_the_same_are_a_fault_of_the_data(score):
    found = diagnose(drawn().assign(score=score))
    assert (found.verdict, found.cause) == ("cannot tell", "the scores are constant")
    assert f"6 of 6 cell types are the same at every window, such as {score:.3g}: c0, c1" in found.sentence


def test_one_cell_type_with_constant_scores_is_mentioned():
    table = drawn(400)
    table.loc[table["cell_type"] == "c2", "score"] = 0.0
    found = diagnose(table)
    assert found["scores vary"].verdict == "warn" and found["scores vary"].sentence.endswith(": c2.")


def test_the_variance_table_has_its_columns_without_rows():
    assert list(variance_table(drawn().iloc[:0]).columns) == list(variance_table(drawn()).columns)


# --- what is refused -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "message"), [
    ({"score": "high"}, "column score, 1200 of 1200 rows, first row 0 (counted from 0; cell_type c0, window 0): got "
                        "'high'; needed: a number"),
    ({"predicted_score": lambda t: t["predicted_score"].astype(str)}, "column predicted_score, 1200 of 1200 rows"),
    ({"label": "open"}, "column label"),
    ({"label": 2}, "got 2; needed: 0 (closed), 1 (open), -1 or NaN (unknown)"),
    ({"predicted_probability": 45.0}, "got 45.0; needed: a probability, 0 to 1. Divide percent by 100"),
    ({"cell_type": None}, "column cell_type, 1200 of 1200 rows"),
    ({"window": lambda t: t["window"].astype(float).mask(t.index == 3)}, "column window, 1 of 1200 rows, first row 3"),
    ({"window_split": "Test"}, "got 'Test'; needed: train, validation or test"),
    ({"cell_type_split": None}, "column cell_type_split"),
])  # fmt: skip
def test_columns_that_hold_something_else_are_refused_by_name(changes, message):
    with pytest.raises(ChromaccError, match=re.escape(message)):
        diagnose(drawn().assign(**changes))


def test_what_is_no_table_is_refused():
    with pytest.raises(ChromaccError, match="is a dict; needed: a pandas DataFrame"):
        diagnose({"score": [1.0]})
    with pytest.raises(ChromaccError, match="the columns score occur more than once"):
        diagnose(pd.concat([drawn(), drawn()[["score"]]], axis=1))
    with pytest.raises(ChromaccError, match="measured -> score, predicted -> predicted_score"):
        diagnose(drawn().rename(columns={"score": "measured"}))


@pytest.mark.parametrize("evaluation", [{}, {"headline": {}}, {"headline": {"skill": {"value": 1}}}, "path.json"])
def test_an_evaluation_without_skill_is_refused(evaluation):
    with pytest.raises(ChromaccError, match=r"needed: a dict with evaluation\['headline'\]\['skill'\]"):
        diagnose(drawn(), evaluation=evaluation)


def test_a_history_of_words_is_refused():
    with pytest.raises(ChromaccError, match="column train_loss of the history holds 'high'"):
        diagnose(drawn(), history=pd.DataFrame({"epoch": [1], "train_loss": ["high"], "validation_loss": [1.0]}))
    with pytest.raises(ChromaccError, match="the history is a dict"):
        diagnose(drawn(), history={"train_loss": [1.0]})


def test_unknown_labels_and_numbers_of_other_types_are_read():
    table = drawn(400).assign(label=lambda t: (t["score"] > 1).astype("Int64"), predicted_probability=0.5)
    table.loc[5, "label"] = pd.NA
    table["score"] = table["score"].astype(object)
    table.loc[6, "score"] = None
    rows = prepare(table.assign(cell_type=table["cell_type"].astype("category")), None)
    assert np.isnan(rows.rows.loc[5, "label"]) and len(rows.rows) == 2399 and rows.rows["score"].dtype == float


def test_probabilities_that_are_missing_are_left_out_and_counted():
    label = lambda t: (t["score"] > 1).astype(int)  # noqa: E731
    table = drawn(400).assign(label=label, predicted_probability=lambda t: np.where(t["predicted_score"] > 1, 0.9, 0.1))
    assert diagnose(table)["class prior"].verdict == "ok"
    table.loc[:9, "predicted_probability"] = np.nan
    found = diagnose(table)
    assert found.verdict == "healthy" and "10 labelled rows have no probability" in found["class prior"].sentence
    assert diagnose(table.assign(predicted_probability=np.nan))["class prior"].verdict == "not run"


# --- what a median, or seen rows, would hide -----------------------------------------------------------------

def test_labels_out_of_order_in_one_cell_type_are_named():
    table = drawn(400, 12)
    here = table["cell_type"] == "c7"
    table.loc[here, "score"] = np.random.default_rng(3).permutation(table.loc[here, "score"])
    found = diagnose(table)["association in each cell type"]
    assert (found.value, found.verdict) == (1, "warn") and "In 1 of 12 cell types" in found.sentence
    assert "c7 (r = " in found.sentence and "c6" not in found.sentence


def test_training_rows_alone_cannot_tell():
    table = drawn(400).assign(cell_type_split="train", window_split="train")
    found = diagnose(table)
    assert (found.verdict, found.cause) == ("cannot tell", NO_UNSEEN)
    start = "Cannot tell: no unseen rows. 2400 rows are judged: all rows that were given, which were trained on."
    assert found.sentence.startswith(start)
    assert "Also found" not in found.sentence


def test_validation_rows_are_judged_where_there_are_no_test_rows_and_said_to_be():
    words = {name: {"test": "validation"} for name in ("cell_type_split", "window_split")}
    table = drawn(400, splits=True).replace(words)
    found = diagnose(table)
    assert found.verdict == "healthy" and found["unseen rows"].verdict == "warn"
    assert len(prepare(table, None).headline) == 400 * 6 - 200 * 3


def test_one_split_column_is_enough_for_its_unseen_rows():
    table = drawn(400, splits=True)
    assert prepare(table.drop(columns="cell_type_split"), None).scope == "unseen chromosomes"
    assert prepare(table.drop(columns="window_split"), None).scope == "unseen cell types"


def test_one_cell_type_alone_has_none_to_compare_with():
    table = drawn(400)
    average = matrix(table, "score").mean(axis=1)
    alone = table[table["cell_type"] == "c0"].assign(predicted_score=average)
    found = diagnose(alone)
    assert (found.verdict, found.cause) == ("cannot tell", "no other cell type to compare with")
    assert named(alone.assign(average_score=average)) == ("collapsed", "collapse to the locus average")


def test_predictions_that_are_the_scores_are_not_healthy():
    table = drawn(400)
    found = diagnose(table.assign(predicted_score=table["score"]))
    assert (found.verdict, found.cause) == ("cannot tell", "the predictions are the scores")
    assert named(table.assign(predicted_score=3 - 2 * table["score"]))[1] == "the sign is turned round"


# --- power ---------------------------------------------------------------------------------------------------

def test_r_half_width_is_fishers():
    assert r_half_width(103) == pytest.approx(np.tanh(1.96 / 10)) and r_half_width(3) == 1


@pytest.mark.parametrize("n_windows", [20, 105, 125])
@pytest.mark.parametrize("splits", [False, True])
def test_noise_in_few_windows_is_no_verdict(n_windows, splits):
    rng = np.random.default_rng(1)
    noise = tabled(rng.normal(size=(n_windows, 6)), rng.normal(size=(n_windows, 6)), splits)
    assert named(noise) == ("cannot tell", TOO_FEW)
    constant = diagnose(noise.assign(predicted_score=1.0))
    assert (constant.verdict, constant.cause) == ("cannot tell", TOO_FEW) and "Also found" not in constant.sentence
    assert constant["constant output"].verdict == "warn"


def test_noise_in_enough_windows_is_one():
    rng = np.random.default_rng(1)
    table = tabled(rng.normal(size=(300, 6)), rng.normal(size=(300, 6)))
    found = diagnose(table)
    assert (found.verdict, found.cause, found.confidence) == ("collapsed", NO_SIGNAL, "low")
    assert found.alternatives == (WITHIN, OF_THE_MODEL)


@pytest.mark.parametrize(("threshold", "said"), [(0.99, "an AUC interval of ±0.1"), (1.1, "all labels are closed")])
def test_rare_labels_do_not_hide_a_correlation(threshold, said):
    table = drawn(1000).assign(label=lambda t: (t["score"].rank(pct=True) > threshold).astype(int))
    found = diagnose(table)
    assert found.verdict == "healthy" and said in found["power"].sentence
    assert found["power"].verdict == ("warn" if threshold < 1 else "ok")


# --- sign, and scores without the locus ------------------------------------------------------------------------

def test_a_sign_that_is_turned_round_is_named():
    for splits in (False, True):
        found = diagnose(drawn(400, splits=splits).assign(predicted_score=lambda t: -t["predicted_score"]))
        assert (found.verdict, found.cause) == ("underperforming", "the sign is turned round")
        assert "Also found" not in found.sentence
        assert re.search(r"r = -0\.9\d+.*turned round r would be 0\.9", found.sentence)


def test_scores_without_the_mean_of_the_locus_are_not_called_noise():
    table = drawn(400)
    score = matrix(table, "score")
    failed = tabled(score - score.mean(axis=1, keepdims=True), np.random.default_rng(2).normal(size=score.shape))
    found = diagnose(failed)
    assert found["labels agree between cell types"].verdict == "warn"
    assert "look centred by locus" in found["labels agree between cell types"].sentence
    assert found.cause == NOTHING_LEARNED and {NO_SIGNAL, OF_THE_MODEL, WITHIN} <= set(found.alternatives)


def test_every_cause_has_its_checks():
    names = {c.name for c in diagnose(drawn()).checks}
    assert all({*cause.needs, *cause.supports, *cause.unless, *cause.only_without} <= names for cause in CAUSES)


def test_a_level_is_said_in_words():
    found = diagnose(drawn(400).assign(predicted_score=lambda t: t["predicted_score"] - 100))["level"]
    assert re.search(r"predictions lie on average 1\d\d standard deviations of the scores below them", found.sentence)
