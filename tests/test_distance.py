"""Distance of inputs from training: what was planted is far, what is alike is not, what is missing is not compared."""

import dataclasses
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from chromacc_lib import distance
from chromacc_lib.dataset import Arrays
from chromacc_lib.manifest import UNKNOWN_LINEAGE

CELLS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
N_WINDOWS, N_BINS = 120, 4


@pytest.fixture
def arrays() -> Arrays:
    """120 windows x 10 cell types (names c0 to c9) whose tracks are noise of each cell type's own mean."""
    rng = np.random.default_rng(1)
    shape = (N_WINDOWS, len(CELLS))
    histone, tf = (
        (rng.normal(size=(*shape, k, N_BINS, 3)) + rng.normal(0, 0.2, (1, len(CELLS), k, 1, 1))).astype(np.float32)
        for k in (2, 1)
    )
    windows = pd.DataFrame({
        "chrom": np.repeat(["chr1", "chr2"], 60), "start": np.arange(N_WINDOWS) * 2000,
        "end": np.arange(N_WINDOWS) * 2000 + 100, "gc": 0.5, "kind": "peak", "split": np.repeat(["train", "test"], 60),
    })
    names = [f"c{i}" for i in range(len(CELLS))]
    cells = pd.DataFrame({"cell_type": names, "split": CELLS, "lineage": "", "donor": ""})
    score = rng.normal(size=shape).astype(np.float32)
    return Arrays(
        sequence=np.zeros((N_WINDOWS, 100), np.uint8), histone=histone, histone_observed=np.ones((*shape, 2), bool),
        tf=tf, tf_observed=np.ones((*shape, 1), bool), metadata=rng.normal(size=(len(CELLS), 5)).astype(np.float32),
        metadata_observed=np.ones(len(CELLS), bool), accessibility=np.repeat(score[:, :, None], N_BINS, axis=2),
        score=score, label=(score > 0.5).astype(np.int8), windows=windows, cell_types=cells,
        histone_marks=("H3K27ac", "H3K4me3"), tfs=("CTCF",), features=tuple("abcde"), simulated=True,
    )


def predictions_of(arrays: Arrays, sd: np.ndarray | None = None) -> pd.DataFrame:
    """Return predictions whose error on test chromosomes is exactly `sd` in each cell type; the average's is 2."""
    sd = np.ones(len(CELLS)) if sd is None else sd
    windows = np.repeat(np.arange(N_WINDOWS), len(CELLS))
    score = arrays.score.ravel().astype(np.float64)
    return pd.DataFrame({
        "cell_type": np.tile(arrays.cell_types["cell_type"], N_WINDOWS), "score": score, "average_score": score + 2,
        "window_split": arrays.windows["split"].to_numpy()[windows], "predicted_score": score + np.tile(sd, N_WINDOWS),
    })


def table_of(arrays: Arrays, **change: np.ndarray) -> pd.DataFrame:
    arrays = dataclasses.replace(arrays, **change)
    return pd.DataFrame(distance.input_distance(arrays, predictions_of(arrays))["table"]).set_index("cell_type")


def test_a_scaled_track_is_far_and_named(arrays):
    """c9 has the inputs of c3, a training cell type, until one of its tracks is scaled."""
    alike = {name: getattr(arrays, name).copy() for name in ("histone", "tf")} | {"metadata": arrays.metadata.copy()}
    alike["metadata"][9] = arrays.metadata[3]
    for name in ("histone", "tf"):
        alike[name][:, 9] = alike[name][:, 3]
    plain = table_of(arrays, **alike)
    alike["histone"][:, 9, 1] *= 8
    table = table_of(arrays, **alike)
    assert table.loc["c9", "far"] and not plain.loc["c9", "far"]
    words = table.loc["c9", "most_unusual"]
    assert words.startswith("H3K4me3: mean |z|") and " above " in words
    assert table["distance"].drop("c9").tolist() == plain["distance"].drop("c9").tolist()


def test_strange_expression_is_far_and_named(arrays):
    metadata = arrays.metadata.copy()
    metadata[8] += 20
    table = table_of(arrays, metadata=metadata)
    assert table.loc["c8", "far"] and table.loc["c8", "most_unusual"].startswith("expression: ")


def test_a_hand_worked_distance(arrays):
    """One TF, no expression: means 0, 1 and 3 in training, 4 here; z never below 0, so both figures are the mean."""
    keep = np.array([0, 1, 2, 9])
    tf = np.zeros((N_WINDOWS, 4, 1, N_BINS, 3), np.float32) + np.array([0, 1, 3, 4])[:, None, None, None]
    small = dataclasses.replace(
        arrays, cell_types=arrays.cell_types.iloc[keep].reset_index(drop=True), tf=tf,
        histone=arrays.histone[:, keep, :0],
        histone_observed=arrays.histone_observed[:, keep, :0], tf_observed=np.ones((N_WINDOWS, 4, 1), bool),
        histone_marks=(), metadata=arrays.metadata[keep], metadata_observed=np.zeros(4, bool),
        score=arrays.score[:, keep],
    )
    predictions = predictions_of(arrays)
    got = distance.input_distance(small, predictions[predictions["cell_type"].isin(small.cell_types["cell_type"])])
    table, sd = pd.DataFrame(got["table"]), np.std([0, 1, 3], ddof=1)
    assert table["distance"].tolist() == pytest.approx([1 / sd, 1 / sd, 2 / sd, 1 / sd])
    assert table["nearest"].tolist() == ["c1", "c0", "c1", "c2"]
    assert got["threshold"] == pytest.approx(2 / sd) and not table["far"].any()


def test_the_farthest_training_cell_type_sets_the_threshold(arrays):
    got = distance.input_distance(arrays, predictions_of(arrays))
    table = pd.DataFrame(got["table"])
    train = table[table["split"] == "train"]
    assert got["threshold"] == train["distance"].max() and not train["far"].any()
    assert (train["nearest"] != train["cell_type"]).all()
    assert set(table["nearest"]) <= set(train["cell_type"])
    assert "any of 6 training cell types" in got["rule"]


def test_identical_cell_types_have_distance_zero(arrays):
    same = {name: np.repeat(getattr(arrays, name)[:, :1], len(CELLS), axis=1) for name in ("histone", "tf")}
    table = table_of(arrays, metadata=np.zeros_like(arrays.metadata), **same)
    assert (table["distance"] == 0).all() and not table["far"].any()


def test_a_copy_of_a_training_cell_type_has_it_for_nearest(arrays):
    histone, tf, metadata = (getattr(arrays, name).copy() for name in ("histone", "tf", "metadata"))
    histone[:, 9], tf[:, 9], metadata[9] = histone[:, 3], tf[:, 3], metadata[3]
    table = table_of(arrays, histone=histone, tf=tf, metadata=metadata)
    assert (table.loc["c9", "nearest"], table.loc["c9", "distance"]) == ("c3", 0)


def test_missing_inputs_are_left_out_not_taken_for_zero(arrays):
    """What lies in a missing track's place does not matter, and a cell type without inputs has no distance."""
    observed = arrays.histone_observed.copy()
    observed[:, 9, 0] = False
    histone = arrays.histone.copy()
    histone[:, 9, 0] = 1e3
    gone = {"histone_observed": observed}
    assert table_of(arrays, histone=histone, **gone).equals(table_of(arrays, **gone))
    nothing = {name: getattr(arrays, name).copy() for name in ("histone_observed", "tf_observed", "metadata_observed")}
    for name, mask in nothing.items():
        mask[(slice(None), 9) if mask.ndim > 1 else 9] = False
    row = table_of(arrays, **nothing).loc["c9"]
    assert np.isnan(row["distance"]) and row["far"] is None and "no input shared" in row["most_unusual"]


def test_a_training_cell_type_with_one_track_is_not_everybodys_neighbour(arrays):
    """c0 shares only CTCF with c9, where both are the same; that alone does not make it the nearest."""
    observed, tf, described = arrays.histone_observed.copy(), arrays.tf.copy(), arrays.metadata_observed.copy()
    observed[:, 0], described[0] = False, False
    tf[:, 9] = tf[:, 0]
    row = table_of(arrays, histone_observed=observed, tf=tf, metadata_observed=described).loc["c9"]
    assert row["nearest"] != "c0" and row["distance"] > 0


def test_one_training_cell_type_gives_no_yardstick(arrays):
    cells = arrays.cell_types.assign(split=["train"] + ["test"] * 9)
    got = distance.input_distance(dataclasses.replace(arrays, cell_types=cells), predictions_of(arrays))
    assert "no two training cell types share an input" in got["rule"] and np.isnan(got["threshold"])


def test_only_training_chromosomes_take_part(arrays):
    histone = arrays.histone.copy()
    histone[60:] = 50
    assert table_of(arrays, histone=histone)["distance"].tolist() == table_of(arrays)["distance"].tolist()


def test_errors_are_those_of_unseen_chromosomes(arrays):
    sd = np.linspace(0.5, 1.4, 10)
    predictions = predictions_of(arrays, sd)
    predictions.loc[predictions["window_split"] == "train", "predicted_score"] = 99
    table = pd.DataFrame(distance.input_distance(arrays, predictions)["table"])
    assert table["mse"].tolist() == pytest.approx(sd ** 2) and table["skill"].tolist() == pytest.approx(1 - sd ** 2 / 4)


def test_distance_that_tells_the_error_is_found_with_the_exact_p(arrays):
    """Error in the order of distance, over 6 held-out cell types: rho 1, and 2 of 720 orders are as extreme."""
    cells = arrays.cell_types.assign(split=["train"] * 4 + ["test"] * 6)
    moved = dataclasses.replace(arrays, cell_types=cells)
    away = pd.DataFrame(distance.input_distance(moved, predictions_of(arrays))["table"])["distance"]
    got = distance.input_distance(moved, predictions_of(arrays, away.to_numpy()))
    assert got["predicts_error"]["test"]["mse"] == pytest.approx({"rho": 1.0, "p": 2 / 720, "n": 6})
    assert got["predicts_error"]["test"]["skill"]["rho"] == pytest.approx(-1)
    assert got["predicts_error"]["validation"]["mse"]["n"] == 0
    assert got["predicts_error"]["all"]["mse"]["n"] == 10
    assert got["sentence"].startswith(
        "Over 6 test cell types: the farther the inputs, the larger the error and the lower the skill (Spearman +1.00")
    assert "validation" not in got["sentence"]
    assert "So few cell types" in got["sentence"]


def test_the_exact_p_is_that_of_all_orders(arrays):
    sd = np.array([1.0] * 6 + [0.7, 0.5, 0.6, 0.9])
    cells = arrays.cell_types.assign(split=["train"] * 6 + ["test"] * 4)
    got = distance.input_distance(dataclasses.replace(arrays, cell_types=cells), predictions_of(arrays, sd))
    away = pd.DataFrame(got["table"])["distance"][6:]
    rho = [stats.spearmanr(away, order)[0] for order in permutations(sd[6:])]
    observed = stats.spearmanr(away, sd[6:])[0]
    tails = [np.mean(np.array(rho) >= observed - 1e-9), np.mean(np.array(rho) <= observed + 1e-9)]
    assert got["predicts_error"]["test"]["mse"] == pytest.approx(
        {"rho": observed, "p": min(1, 2 * min(tails)), "n": 4})
    assert got["sentence"].startswith("Whether distance tells the error cannot be known from 4 test cell types: even a "
                                      f"perfect order has p = 0.083 (Spearman {observed:+.2f} with MSE")


@pytest.mark.parametrize("n_test, words", [
    (3, "cannot be known from 3 test cell types: even a perfect order has p = 0.33 (Spearman +1.00 with MSE"),
    (5, "Over 5 test cell types: the farther the inputs, the larger the error and the lower the skill"),
])
def test_a_perfect_order_of_few_cell_types_proves_nothing_and_that_is_said(arrays, n_test, words):
    cells = arrays.cell_types.assign(split=["train"] * (10 - n_test) + ["test"] * n_test)
    moved = dataclasses.replace(arrays, cell_types=cells)
    away = pd.DataFrame(distance.input_distance(moved, predictions_of(arrays))["table"])["distance"]
    assert words in distance.input_distance(moved, predictions_of(arrays, away.to_numpy()))["sentence"]


def test_an_order_by_chance_of_enough_cell_types_tells_nothing(arrays):
    cells = arrays.cell_types.assign(split=["train"] * 5 + ["test"] * 5)
    moved = dataclasses.replace(arrays, cell_types=cells)
    away = pd.DataFrame(distance.input_distance(moved, predictions_of(arrays))["table"])["distance"].to_numpy()
    sd = np.ones(10)
    sd[5 + np.argsort(away[5:])] = [0.6, 0.8, 0.5, 0.9, 0.7]
    got = distance.input_distance(moved, predictions_of(arrays, sd))
    assert got["sentence"].startswith("Over 5 test cell types, distance tells neither error nor skill beyond chance (")


def test_two_held_out_cell_types_tell_nothing(arrays):
    cells = arrays.cell_types.assign(split=["train"] * 8 + ["test"] * 2)
    got = distance.input_distance(dataclasses.replace(arrays, cell_types=cells), predictions_of(arrays))
    assert got["sentence"].startswith("Whether distance tells the error cannot be said from 2 test cell types")


def test_without_expression_features_only_tracks_count(arrays):
    none = {"metadata": np.zeros((len(CELLS), 0), np.float32), "metadata_observed": np.zeros(len(CELLS), bool)}
    table = table_of(arrays, features=(), **none)
    assert table.equals(table_of(arrays, metadata_observed=np.zeros(len(CELLS), bool)))
    assert np.isfinite(table["distance"]).all()


def test_whether_the_nearest_is_of_the_same_lineage_is_said_where_lineages_are_known(arrays):
    """c9 is a copy of c3; c8's lineage is nobody's in training; c7's is not known."""
    histone, tf, metadata = (getattr(arrays, name).copy() for name in ("histone", "tf", "metadata"))
    histone[:, 9], tf[:, 9], metadata[9] = histone[:, 3], tf[:, 3], metadata[3]
    lineage = ["blood", "blood", "brain", "liver", "brain", "blood", "gut", UNKNOWN_LINEAGE, "skin", "liver"]
    cells = arrays.cell_types.assign(lineage=lineage, split=["train"] * 7 + ["test"] * 3)
    changed = dataclasses.replace(arrays, histone=histone, tf=tf, metadata=metadata, cell_types=cells)
    got = distance.input_distance(changed, predictions_of(arrays))
    table = pd.DataFrame(got["table"]).set_index("cell_type")["same_lineage"]
    assert table["c9"] is True and table["c8"] is False and table["c7"] is None
    assert got["lineages"] == "Of 1 held-out cell type whose lineage is among the training cell types, 1 has the nearest one in it."
    none = distance.input_distance(arrays, predictions_of(arrays))["lineages"]
    assert none == "No held-out cell type has a lineage that a training cell type is known to have."
