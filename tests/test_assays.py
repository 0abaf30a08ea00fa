"""What an assay is worth: Shapley values of known games, states that equal the masks, inputs that cannot count."""

import json
from dataclasses import replace
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from chromacc_lib import ChromaccError, assays
from chromacc_lib.assays import EVERY, METRICS, assay_worth, shapley_values, worth_summary, worth_table
from chromacc_lib.batches import RegionData
from chromacc_lib.dataset import Arrays
from chromacc_lib.evaluation import write_metrics
from chromacc_lib.inference import predict_dataset
from chromacc_lib.model import MODALITIES, ChromaccModel, Output
from chromacc_lib.training import model_config

SMALL = {"d_model": 16, "sequence_layers": 1, "sequence_heads": 2, "encoder_layers": 1, "encoder_heads": 2,
         "histone_filters": 8, "histone_blocks": 1, "tf_hidden": 8, "score_hidden": 8}  # fmt: skip
FEW = {"n_bootstrap": 40, "block_bp": 1_000}
UNSEEN = ("K", "L", "M")


def make_arrays(seed=0) -> Arrays:
    """20 windows x 7 cell types, K, L and M unseen; two marks, two TFs, expression. L lacks mark H2, M both TFs."""
    rng = np.random.default_rng(seed)
    w, c, bins = 20, 7, 5
    cell_types = pd.DataFrame({"cell_type": [*"ABCD", *UNSEEN], "split": ["train"] * 3 + ["validation"] + ["test"] * 3})
    histone_observed, tf_observed = np.ones((w, c, 2), bool), np.ones((w, c, 2), bool)
    histone_observed[:, 5, 1], tf_observed[:, 6] = False, False
    score = rng.normal(1, 1, (w, c)).astype(np.float32)
    start = 500 * np.arange(w)
    windows = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 100, "gc": 0.5, "kind": "peak",
                            "split": ["train"] * 3 + ["validation"] * 2 + ["test"] * 15})  # fmt: skip
    return Arrays(
        sequence=rng.integers(0, 4, (w, 100)).astype(np.uint8),
        histone=rng.normal(size=(w, c, 2, bins, 3)).astype(np.float32) * histone_observed[..., None, None],
        histone_observed=histone_observed,
        tf=rng.normal(size=(w, c, 2, bins, 3)).astype(np.float32) * tf_observed[..., None, None],
        tf_observed=tf_observed,
        metadata=rng.normal(size=(c, 3)).astype(np.float32), metadata_observed=np.ones(c, bool),
        accessibility=rng.normal(1, 1, (w, c, bins)).astype(np.float32), score=score,
        label=(score > 1).astype(np.int8), windows=windows, cell_types=cell_types, histone_marks=("H1", "H2"),
        tfs=("T1", "T2"), features=("g1", "g2", "g3"), simulated=True,
    )  # fmt: skip


def make_model(arrays: Arrays) -> ChromaccModel:
    """A tiny model that was never trained, whose heads say something."""
    torch.manual_seed(0)
    model = ChromaccModel(model_config(arrays, **SMALL)).eval()
    for head in (model.score_head[-1], model.label_head[-1]):
        nn.init.normal_(head.weight)
    return model


@pytest.fixture(scope="module")
def world():
    arrays = make_arrays()
    model = make_model(arrays)
    predictions = predict_dataset(model, arrays)
    return arrays, model, predictions, assay_worth(model, arrays, predictions, **FEW)


class MarkModel(nn.Module):
    """score = mean of mark H1 plus the locus prior; nothing else is read."""

    config = SimpleNamespace(locus_prior=True)

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        score = (batch.histone[:, :, 0, :, 0] * batch.histone_observed[:, :, :1]).mean(-1)
        score = score + batch.prior_score * batch.prior_observed
        return Output(score, score, batch.accessibility)


def subset(result, scope, *shown):
    (found,) = [entry for entry in result["subsets"][scope] if set(entry["shown"]) == set(shown)]
    return found


def row(result, cell_type, assay):
    (found,) = [e for e in result["assays"] if (e["cell_type"], e["assay"]) == (cell_type, assay)]
    return found


def by_hand(arrays, model, cells, **masks):
    """MSE and AUPRC on the unseen windows of some cell types, forward strand, with masks of the batch overwritten."""
    where = [arrays.cell_types["cell_type"].tolist().index(cell) for cell in cells]
    windows = np.flatnonzero(arrays.windows["split"] == "test")
    batch = RegionData(arrays).batch(windows, np.array(where))
    if masks.pop("sequence", True) is False:
        batch = replace(batch, sequence=torch.full_like(batch.sequence, 4))
    changed = {}
    for name, shown in masks.items():
        changed[name] = getattr(batch, name) & torch.tensor(shown)
    with torch.no_grad():
        output = model(replace(batch, **changed))
    true, label = arrays.score[np.ix_(windows, where)], arrays.label[np.ix_(windows, where)]
    mse = float(((output.score.numpy().astype(np.float64) - true) ** 2).mean())
    return {"mse": mse, "pr_auc": average_precision_score(label.ravel(), output.logit.numpy().ravel())}


NOTHING = {"histone_observed": False, "tf_observed": False, "metadata_observed": False, "prior_observed": False}


# --- Shapley values ------------------------------------------------------------------------------------------


def every_subset(players):
    return [frozenset(some) for size in range(len(players) + 1) for some in combinations(players, size)]


def test_shapley_of_the_glove_game():
    """One left glove, two right ones; a pair is worth 1: the left one is worth 2/3, each right one 1/6."""
    worth = {s: np.array([float("left" in s and len(s) > 1)]) for s in every_subset(["left", "right1", "right2"])}
    values = shapley_values(worth)
    assert values["left"] == pytest.approx(2 / 3)
    assert values["right1"] == pytest.approx(1 / 6) and values["right2"] == pytest.approx(1 / 6)


def test_shapley_is_the_mean_over_all_orders_and_adds_up():
    rng, players = np.random.default_rng(0), list("abcde")
    worth = {s: rng.normal(size=7) for s in every_subset(players)}
    values = shapley_values(worth)
    for player in players:
        steps = [
            worth[frozenset(order[: order.index(player) + 1])] - worth[frozenset(order[: order.index(player)])]
            for order in permutations(players)
        ]
        np.testing.assert_allclose(values[player], np.mean(steps, axis=0), atol=1e-12)
    np.testing.assert_allclose(sum(values.values()), worth[frozenset(players)] - worth[frozenset()], atol=1e-12)


def test_shapley_of_an_additive_game_with_a_player_that_adds_nothing():
    share = {"a": 3.0, "b": -1.0, "nothing": 0.0}
    values = shapley_values({s: np.array([sum(share[p] for p in s)]) for s in every_subset(list(share))})
    assert {name: float(v[0]) for name, v in values.items()} == pytest.approx(share)


@pytest.mark.parametrize("scope", [EVERY, *UNSEEN])
def test_shapley_values_of_modalities_add_up_to_everything_minus_nothing(world, scope):
    result = world[3]
    names = list(result["shapley"][scope])
    for metric in METRICS:
        total = sum(result["shapley"][scope][name][metric]["value"] for name in names)
        gained = subset(result, scope, *names)[metric]["value"] - subset(result, scope)[metric]["value"]
        assert total == pytest.approx(gained, abs=1e-12)


# --- states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [UNSEEN, ("K",), ("M",)])
def test_all_and_nothing_hidden_are_the_model_with_those_masks(world, cells):
    arrays, model, _, result = world
    scope = EVERY if len(cells) > 1 else cells[0]
    full, nothing = result["subsets"][scope][-1], result["subsets"][scope][0]
    assert nothing["shown"] == [] and full["shown"] == [m for m in MODALITIES if (m, cells) != ("tf", ("M",))]
    expected = by_hand(arrays, model, cells)
    assert {m: full[m]["value"] for m in expected} == pytest.approx(expected, rel=1e-5)
    expected = by_hand(arrays, model, cells, sequence=False, **NOTHING)
    assert nothing["mse"]["value"] == pytest.approx(expected["mse"], rel=1e-5)
    windows = np.flatnonzero(arrays.windows["split"] == "test")
    cell_rows = arrays.cell_types["cell_type"].isin(cells).to_numpy()
    share = arrays.label[np.ix_(windows, cell_rows)].mean()
    assert nothing["pr_auc"]["value"] == pytest.approx(share), "one constant: by ties alone, the base rate"


def test_every_subset_of_the_modalities_is_scored(world):
    arrays, model, _, result = world
    assert result["modalities"] == list(MODALITIES)
    assert {scope: len(some) for scope, some in result["subsets"].items()} == {EVERY: 32, "K": 32, "L": 32, "M": 16}
    some = subset(result, EVERY, "sequence", "tf")
    expected = by_hand(arrays, model, UNSEEN, **{**NOTHING, "tf_observed": True})
    assert {m: some[m]["value"] for m in expected} == pytest.approx(expected, rel=1e-5)


def test_skill_is_over_the_average_of_the_same_rows(world):
    arrays, _, predictions, result = world
    rows = predictions[(predictions["cell_type_split"] == "test") & (predictions["window_split"] == "test")]
    reference = ((rows["average_score"] - rows["score"]) ** 2).mean()
    for entry in result["subsets"][EVERY]:
        assert entry["skill"]["value"] == pytest.approx(1 - entry["mse"]["value"] / reference, abs=1e-6)


@pytest.mark.parametrize("metric", ["mse", "pr_auc"])
def test_an_assay_added_last_and_first(world, metric):
    arrays, model, _, result = world
    entry = row(result, "K", "H2")
    full = by_hand(arrays, model, ["K"])[metric]
    less = by_hand(arrays, model, ["K"], histone_observed=[True, False])[metric]
    assert entry["added_last"][metric]["value"] == pytest.approx(full - less, abs=1e-5)
    alone = {**NOTHING, "prior_observed": True}
    bare = by_hand(arrays, model, ["K"], **alone)[metric]
    first = by_hand(arrays, model, ["K"], **{**alone, "histone_observed": [False, True]})[metric]
    assert entry["added_first"][metric]["value"] == pytest.approx(first - bare, abs=1e-5)


def test_what_the_model_ignores_is_worth_exactly_nothing():
    arrays, model = make_arrays(), MarkModel()
    result = assay_worth(model, arrays, predict_dataset(model, arrays), **FEW)
    for entry in result["assays"]:
        values = [interval[end] for when in ("added_last", "added_first") for interval in entry[when].values()
                  for end in ("value", "low", "high")]  # fmt: skip
        assert (np.array(values) == 0).all() == (entry["assay"] != "H1"), entry
    shapley = result["shapley"][EVERY]
    assert {n for n in shapley if shapley[n]["mse"]["value"] != 0} == {"histone", "prior"}


def test_a_track_without_weights_is_worth_nothing(world):
    arrays, predictions = world[0], world[2]
    model = make_model(arrays)
    with torch.no_grad():  # T2: three statistics, and whether it was assayed
        model.tf_encoder.hidden.weight[:, [3, 4, 5, 7]] = 0
    result = assay_worth(model, arrays, predictions, **FEW)
    for metric in METRICS:
        assert row(result, "K", "T2")["added_last"][metric]["value"] == pytest.approx(0, abs=1e-6)
        assert abs(row(result, "K", "T1")["added_last"]["mse"]["value"]) > 1e-4


# --- what has no say -----------------------------------------------------------------------------------------


def shuffled(arrays: Arrays) -> Arrays:
    """The same dataset with windows and cell types in another order."""
    rng = np.random.default_rng(5)
    w, c = rng.permutation(len(arrays.windows)), rng.permutation(len(arrays.cell_types))
    both = ("histone", "histone_observed", "tf", "tf_observed", "accessibility", "score", "label")
    return replace(
        arrays, **{name: getattr(arrays, name)[w][:, c] for name in both}, sequence=arrays.sequence[w],
        metadata=arrays.metadata[c], metadata_observed=arrays.metadata_observed[c],
        windows=arrays.windows.iloc[w].reset_index(drop=True),
        cell_types=arrays.cell_types.iloc[c].reset_index(drop=True),
    )  # fmt: skip


@pytest.mark.parametrize("other", ["order", "batch"])
def test_row_order_and_batch_size_have_no_say(world, other):
    arrays, model, predictions, result = world
    settings = {**FEW, "most_windows": 9}
    expected = worth_table(assay_worth(model, arrays, predictions, **settings))
    if other == "order":
        arrays = shuffled(arrays)
        found = assay_worth(model, arrays, predict_dataset(model, arrays), **settings)
    else:
        found = assay_worth(model, arrays, predictions.sample(frac=1, random_state=1), samples=3, **settings)
    tables = [table.drop(columns=["sentence", "kind"]).set_index(["cell_type", "assay"]).sort_index()
              for table in (worth_table(found), expected)]  # fmt: skip
    pd.testing.assert_frame_equal(*tables, atol=1e-5, rtol=1e-5)


def test_the_mode_of_the_model_has_no_say_and_is_kept(world):
    arrays, _, predictions, result = world
    model = make_model(arrays).train()
    again = assay_worth(model, arrays, predictions, **FEW)
    assert model.training and model.encoder.training
    pd.testing.assert_frame_equal(worth_table(again), worth_table(result))


# --- what is not there ---------------------------------------------------------------------------------------


def test_what_a_cell_type_lacks_has_no_row_and_is_named(world):
    arrays, model, _, result = world
    assert result["not_measured"] == {"K": [], "L": ["H2"], "M": ["T1", "T2"]}
    rows = {(e["cell_type"], e["assay"]) for e in result["assays"]}
    assert {assay for cell, assay in rows if cell == "L"} == {"H1", "T1", "T2", "expression"}
    assert {assay for cell, assay in rows if cell == "M"} == {"H1", "H2", "expression"}
    assert "tf" not in result["shapley"]["M"] and "tf" in result["shapley"]["L"]
    pooled = row(result, EVERY, "T1")
    assert pooled["cell_types"] == ["K", "L"]
    assert pooled["sentence"].startswith("Over the 2 unseen cell types that have it, adding T1")
    full, less = by_hand(arrays, model, "KL"), by_hand(arrays, model, "KL", tf_observed=[False, True])
    assert pooled["added_last"]["mse"]["value"] == pytest.approx(full["mse"] - less["mse"], abs=1e-5)


def test_an_assay_of_a_single_unseen_cell_type_has_no_pooled_row(world):
    _, model, _, _ = world
    arrays = make_arrays()
    tf_observed = arrays.tf_observed.copy()
    tf_observed[:, 5, 0] = False  # L lacks T1 as well
    arrays = replace(arrays, tf_observed=tf_observed)
    result = assay_worth(model, arrays, predict_dataset(model, arrays), **FEW)
    rows = {(e["cell_type"], e["assay"]) for e in result["assays"]}
    assert ("K", "T1") in rows and (EVERY, "T1") not in rows and (EVERY, "T2") in rows


def test_a_model_that_never_reads_the_locus_average(world):
    arrays, _, predictions, _ = world
    torch.manual_seed(0)
    model = ChromaccModel(model_config(arrays, **SMALL, locus_prior=False)).eval()
    result = assay_worth(model, arrays, predictions, **FEW)
    assert "prior" not in result["modalities"] and len(result["subsets"]["K"]) == 16
    assert "added first, to sequence alone" in row(result, "K", "H1")["sentence"]


@pytest.mark.parametrize("label", [0, 1, -1])
def test_labels_of_one_class_leave_auprc_undefined_and_mse_stands(world, label):
    arrays, model, predictions, _ = world
    predictions = predictions.assign(label=np.where(predictions["cell_type"] == "K", label, predictions["label"]))
    result = assay_worth(model, arrays, predictions, **FEW)
    entries = [e for e in result["assays"] if e["cell_type"] == "K"]
    assert all(np.isnan(e["added_last"]["pr_auc"]["value"]) for e in entries)
    falls = [e["added_last"]["mse"]["value"] for e in entries]
    assert np.isfinite(falls).all() and falls == sorted(falls), "the largest fall of the MSE first"
    assert "MSE (below 0 is better; AUPRC is undefined)" in entries[0]["sentence"]
    tf = result["shapley"]["K"]["tf"]
    assert np.isnan(tf["pr_auc"]["value"]) and np.isfinite(tf["mse"]["low"])
    assert np.isfinite(result["shapley"]["L"]["tf"]["pr_auc"]["value"])


# --- what is told --------------------------------------------------------------------------------------------


def test_the_table_puts_the_worthiest_first_and_survives_json(world, tmp_path):
    result = world[3]
    table = worth_table(result)
    assert table["cell_type"].drop_duplicates().tolist() == [EVERY, *UNSEEN]
    assert all(rows["pr_auc"].is_monotonic_decreasing for _, rows in table.groupby("cell_type"))
    assert ((table["mse_low"] <= table["mse"]) & (table["mse"] <= table["mse_high"])).all()
    assert (table["mse_low"] < table["mse_high"]).any()
    write_metrics(result, tmp_path / "assays.json")
    pd.testing.assert_frame_equal(worth_table(json.loads((tmp_path / "assays.json").read_text())), table)


def test_p_values_are_those_of_the_effects_and_adjusted_within_a_cell_type(world):
    result = world[3]
    for scope in (EVERY, *UNSEEN):
        for when in ("added_last", "added_first"):
            for metric in METRICS:
                effects = [entry[when][metric] for entry in result["assays"] if entry["cell_type"] == scope]
                p = np.array([effect["p"] for effect in effects])
                for effect in effects:  # p counts draws, of which there are few here, so that it is the larger one
                    assert effect["p"] >= 0.05 or not effect["low"] <= 0 <= effect["high"]
                order = np.argsort(p)  # Benjamini and Hochberg by hand
                by_rank = p[order] * len(p) / np.arange(1, len(p) + 1)
                expected = np.minimum.accumulate(by_rank[::-1])[::-1].clip(max=1)
                assert [effects[i]["p_adjusted"] for i in order] == pytest.approx(list(expected))


def test_sentences_say_what_the_numbers_say():
    effect = {"value": 0.03, "low": 0.01, "high": 0.05, "p_adjusted": 0.01}
    nothing = {"value": 0.002, "low": -0.01, "high": 0.01, "p_adjusted": 0.6}
    entry = {"cell_type": "K562", "cell_types": ["K562"], "assay": "H3K27ac", "added_last": {"pr_auc": effect},
             "added_first": {"pr_auc": nothing}}  # fmt: skip
    assert assays._sentence(entry, "sequence", 9) == (
        "For K562, adding H3K27ac to what is there is worth +0.030 (+0.010 to +0.050) AUPRC; added first, to sequence "
        "alone, +0.002 (-0.010 to +0.010)."
    )
    among_many = entry | {"added_last": {"pr_auc": effect | {"p_adjusted": 0.06}}}
    assert "AUPRC, which cannot be told from nothing when 9 assays are asked at once;" in (
        assays._sentence(among_many, "sequence", 9)
    )
    alone = {"pr_auc": {"value": 0.1, "low": np.nan, "high": np.nan, "p_adjusted": np.nan}}
    entry |= {"added_last": entry["added_first"], "added_first": alone}
    assert assays._sentence(entry, "sequence", 9).endswith(
        "AUPRC, which cannot be told from nothing; added first, to sequence alone, +0.100 (no interval: too few cell "
        "types and blocks)."
    )


def test_windows_are_evenly_spaced_and_counted(world):
    arrays, model, predictions, result = world
    assert result["n_windows"] == 15 and result["basis"].startswith("15 of 15 windows of unseen chromosomes")
    few = assay_worth(model, arrays, predictions, most_windows=8, both_strands=True, **FEW)
    assert few["basis"] == (
        "8 of 15 windows of unseen chromosomes, evenly spaced, in 3 unseen cell types; 8 chromosome blocks; "
        "mean of both strands."
    )
    rows = predictions[predictions["window"].isin(range(5, 20, 2)) & (predictions["cell_type_split"] == "test")]
    mse = float(((rows["predicted_score"] - rows["score"]).astype(float) ** 2).mean())
    assert few["subsets"][EVERY][-1]["mse"]["value"] == pytest.approx(mse, rel=1e-5), "every second one, both strands"


def test_a_cell_type_without_a_score_in_the_chosen_windows_is_an_error(world):
    arrays, model, predictions, _ = world
    gone = (predictions["cell_type"] == "K") & (predictions["window"] != 6)
    predictions = predictions.assign(score=predictions["score"].mask(gone))
    with pytest.raises(ChromaccError, match=r"\['K'\] have no measured score in the 2 of 15 windows that most_w"):
        assay_worth(model, arrays, predictions, most_windows=2, **FEW)


def test_no_unseen_cell_type_is_an_error(world):
    arrays, model, predictions, _ = world
    with pytest.raises(ChromaccError, match="no rows in unseen_cell_type_x_unseen_chromosome"):
        assay_worth(model, arrays, predictions[predictions["cell_type_split"] != "test"], **FEW)


def test_the_summary_of_worth_has_a_cell_an_assay_and_cell_type_and_says_what_stands():
    def row(cell_type, assay, value, p):
        """One line of `worth_table`."""
        return {"cell_type": cell_type, "assay": assay, "pr_auc": value, "pr_auc_low": value - 0.1, "pr_auc_high": value + 0.1,
                "pr_auc_p_adjusted": p, "sentence": f"{assay} in {cell_type}"}

    rows = [row(EVERY, "CTCF", 0.2, 0.01), row(EVERY, "H3K27ac", 0.05, 0.5), row("a", "H3K27ac", 0.01, 0.9)]
    table, sentences = worth_summary(pd.DataFrame(rows), "pr_auc")
    assert table.index.tolist() == ["CTCF", "H3K27ac"] and table.columns.tolist() == [EVERY, "a"]
    assert table.loc["CTCF"].tolist() == ["+0.200\u00a0[+0.100,\u00a0+0.300] p\u00a00.01", ""]
    assert sentences == [f"CTCF in {EVERY}"]
    assert worth_summary(pd.DataFrame(rows[1:]), "pr_auc")[1] == [
        "No assay can be told from nothing in any cell type, with p adjusted for 1 assay in each."]
