"""A model's attributions keep what they must, planted motifs are found where they stand, and false claims fail."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from torch import nn

from chromacc_lib import ChromaccError, attention, contributions, ground_truth, interpretation
from chromacc_lib.attribution import (
    Attribution,
    contribution,
    integrated_gradients,
    shuffled_references,
    smoothed_gradients,
)
from chromacc_lib.batches import RegionData, without
from chromacc_lib.confirmation import Effect, marginalise
from chromacc_lib.dataset import load_arrays
from chromacc_lib.inference import predict_scores
from chromacc_lib.model import MODALITIES, ChromaccModel, Output
from chromacc_lib.motifs import Pattern, call_seqlets, find_patterns, jaspar_motifs, match_jaspar, orient
from chromacc_lib.mutagenesis import mutagenesis
from chromacc_lib.scoring import ModelScorer, one_hot
from chromacc_lib.training import model_config

BASES = "ACGT"
MOTIF = "TGATAAGGCA"
SMALL = {"d_model": 16, "sequence_layers": 1, "sequence_heads": 2, "encoder_layers": 2, "encoder_heads": 2,
         "histone_filters": 8, "histone_blocks": 1, "tf_hidden": 8, "score_hidden": 8}


def codes_of(*sequences):
    return np.array([["ACGTN".index(base) for base in sequence] for sequence in sequences], np.uint8)


def random_codes(n, length, seed=0):
    return np.random.default_rng(seed).integers(0, 4, (n, length)).astype(np.uint8)


class Linear:
    """score = sum of weights of the bases that are there, times a factor of the place."""

    def __init__(self, length, seed=3):
        self.weights = torch.from_numpy(np.random.default_rng(seed).normal(size=(length, 4)).astype(np.float32))
        self.factor = torch.tensor([1.0, -2.0, 0.5])

    def __call__(self, x, context):
        return (x * self.weights).sum((1, 2)) * self.factor[context]


class MotifScorer:
    """A soft count of MOTIF on both strands; in cell types 3, 4 and 5 its TF is off."""

    def __init__(self):
        kernel = one_hot(codes_of(MOTIF))[0].T  # (4, m)
        self.kernels = torch.stack([kernel, kernel.flip(0, 1)])
        self.active = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])

    def by_cell_type(self, x, context):
        matched = nn.functional.conv1d(x.transpose(1, 2), self.kernels)  # number of bases that fit
        return torch.sigmoid(3 * (matched - 8.5)).sum((1, 2))[:, None] * self.active

    def __call__(self, x, context):
        return self.by_cell_type(x, context).mean(1)


@pytest.fixture(scope="module")
def planted():
    """60 random windows of 300 bp with three instances of MOTIF each: codes, and the instances as a table."""
    rng, codes, rows = np.random.default_rng(1), random_codes(60, 300), []
    for window in range(len(codes)):
        for start in (40 + int(rng.integers(30)), 120 + int(rng.integers(30)), 220 + int(rng.integers(30))):
            strand = "+-"[int(rng.integers(2))]
            site = codes_of(MOTIF)[0]
            codes[window, start : start + len(site)] = site if strand == "+" else 3 - site[::-1]
            rows.append((window, start, start + len(site), "GATA1", strand))
    return codes, pd.DataFrame(rows, columns=["window", "start", "end", "tf", "strand"])


@pytest.fixture(scope="module")
def found(planted):
    """Attribution of the planted windows, and their patterns."""
    attribution = smoothed_gradients(MotifScorer(), planted[0], n_copies=4)
    return attribution, find_patterns(attribution, planted[0], call_seqlets(attribution.contribution))


@pytest.fixture(scope="module")
def world(curated):
    """A tiny dataset with a model that was never trained, in evaluation mode."""
    arrays = load_arrays(curated[1])
    torch.manual_seed(0)
    model = ChromaccModel(model_config(arrays, **SMALL)).eval()
    nn.init.normal_(model.score_head[-1].weight)  # the head starts at zero, where every attribution would be zero
    return arrays, model


@pytest.fixture
def scorer(world):
    arrays, model = world
    return ModelScorer(model, RegionData(arrays), np.array([0, 3, 5]), np.array([[0, 1], [2, 3], [4, 0]]))


def places_of(arrays, windows=(0, 3, 5)):
    return interpretation.Places(np.array(windows), np.zeros((len(windows), 1), int), "")


# --- attribution -------------------------------------------------------------------------------------------------


def test_every_place_has_its_own_score():
    codes, scorer = random_codes(3, 40), Linear(40)
    centred = (scorer.weights - scorer.weights.mean(1, keepdim=True)).numpy()
    expected = (one_hot(codes).numpy() * centred).sum(2) * scorer.factor.numpy()[:, None]
    for values in (smoothed_gradients(scorer, codes, 3, at_once=2).contribution,
                   integrated_gradients(scorer, codes, n_steps=3, at_once=2).contribution,
                   contribution(mutagenesis(scorer, codes, 0, 40, at_once=7), codes)):
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_mutagenesis_leaves_an_n_alone():
    codes, scorer = codes_of("ACGTN", "TTTTT"), Linear(5)
    effects = mutagenesis(scorer, codes, 1, 5)
    np.testing.assert_allclose(effects[0, 0], (scorer.weights[1] - scorer.weights[1, 1]).numpy(), atol=1e-6)
    np.testing.assert_allclose(effects[1, 3], -2 * (scorer.weights[4] - scorer.weights[4, 3]).numpy(), atol=1e-5)
    assert (effects[0, 3] == 0).all()


def test_integrated_gradients_add_up_on_a_smooth_score():
    codes, linear = random_codes(3, 40), Linear(40)
    smooth = lambda x, context: torch.tanh(linear(x, context) / 10)  # noqa: E731
    complete = integrated_gradients(smooth, codes, n_steps=24)
    np.testing.assert_allclose(complete.contribution.sum(1), complete.difference, atol=1e-4)
    uniform = smooth(torch.full((3, 40, 4), 0.25), torch.arange(3))
    np.testing.assert_allclose(complete.difference, smooth(one_hot(codes), torch.arange(3)) - uniform, atol=1e-6)


def test_integrated_gradients_say_when_they_do_not_add_up():
    """A step between reference and window is missed by a few points on the path: nothing is handed out, all is missing."""
    codes, linear = random_codes(3, 40), Linear(40)
    step = lambda x, context: (200 * ((x * linear.weights).sum((1, 2)) - 1)).sigmoid()  # noqa: E731
    complete = integrated_gradients(step, codes, n_steps=2)
    moved = np.abs(complete.difference) > 0.5
    assert moved.any() and (complete.relative_delta[moved] > 0.9).all()


def test_integrated_gradients_against_shuffled_references():
    codes, scorer = random_codes(2, 40), Linear(40)
    references = shuffled_references(codes, 5, seed=1)
    assert references.shape == (2, 5, 40, 4)
    complete = integrated_gradients(scorer, codes, references, n_steps=2)
    assert np.abs(complete.delta).max() < 1e-4
    expected = (one_hot(codes) - references.mean(1)) * scorer.weights * scorer.factor[:2, None, None]
    np.testing.assert_allclose(complete.contribution, expected.sum(-1), atol=1e-5)


def test_shuffled_references_keep_dinucleotides():
    codes = codes_of("ACGTACCGTTGCAACGTGCANNACGGT")
    for shuffled in shuffled_references(codes, 3, seed=2)[0]:
        again = np.where(shuffled.sum(1) > 0, shuffled.argmax(1), 4)
        assert sorted(zip(again, again[1:])) == sorted(zip(codes[0], codes[0][1:]))


def test_batch_size_does_not_matter_to_a_model(scorer):
    codes = scorer.data.sequence[scorer.windows].numpy()
    pairs = [
        (smoothed_gradients(scorer, codes, 3, at_once=n).hypothetical for n in (1, 64)),
        (integrated_gradients(scorer, codes, n_steps=4, at_once=n).contribution for n in (1, 3)),
        (mutagenesis(scorer, codes, 500, 504, at_once=n) for n in (1, 64)),
    ]
    for one, other in pairs:
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(one).max()))


def test_the_other_strand_gives_the_same_attribution(scorer):
    class OtherStrand:
        def batch(self, windows, cell_types):
            return scorer.data.batch(windows, cell_types).reverse_complement()

    codes = scorer.data.sequence[scorer.windows].numpy()
    flipped = np.where(codes < 4, 3 - codes, codes)[:, ::-1].copy()
    other = ModelScorer(scorer.model, OtherStrand(), scorer.windows, scorer.cell_types)
    one, two = integrated_gradients(scorer, codes, n_steps=4), integrated_gradients(other, flipped, n_steps=4)
    scale = np.abs(one.contribution).max()
    np.testing.assert_allclose(two.contribution[:, ::-1], one.contribution, atol=1e-4 * scale)
    np.testing.assert_allclose(two.hypothetical[:, ::-1, ::-1], one.hypothetical, atol=1e-4 * np.abs(one.hypothetical).max())
    effects = mutagenesis(other, flipped, 400, 404)[:, ::-1, ::-1]
    np.testing.assert_allclose(effects, mutagenesis(scorer, codes, 596, 600), atol=1e-5)


def test_the_score_is_the_one_that_is_predicted(scorer, world):
    arrays, model = world
    scores, _ = predict_scores(model, RegionData(arrays), scorer.windows, np.arange(6))
    expected = scores[np.arange(3)[:, None], scorer.cell_types].mean(1)
    codes = arrays.sequence[scorer.windows]
    with torch.no_grad():
        np.testing.assert_allclose(scorer(one_hot(codes), torch.arange(3)), expected, atol=1e-5)


def test_ns_have_zeros_beside_windows_that_have_bases(scorer):
    codes = scorer.data.sequence[scorer.windows].numpy().copy()
    codes[1], codes[2, 100:200] = 4, 4
    for values in (smoothed_gradients(scorer, codes, 2).contribution, integrated_gradients(scorer, codes, n_steps=2).contribution):
        assert (values[1] == 0).all() and (values[2, 100:200] == 0).all() and np.isfinite(values).all()
        assert np.abs(values[0]).max() > 0
    assert (mutagenesis(scorer, codes, 100, 110)[1:] == 0).all()
    assert find_patterns(Attribution(np.zeros((3, 1000)), np.zeros((3, 1000, 4))), codes, call_seqlets(np.zeros((3, 1000)))) == []


def test_the_model_is_left_as_it_was(scorer, world):
    model = world[1]
    model.train()
    model.fusion.eval()  # a mode of its own is kept as well
    before = {name: module.training for name, module in model.named_modules()}
    codes = scorer.data.sequence[scorer.windows].numpy()
    smoothed_gradients(scorer, codes, 2)
    integrated_gradients(scorer, codes, n_steps=2)
    mutagenesis(scorer, codes, 0, 2)
    attention.attention_summary(model, scorer.data, scorer.windows, np.arange(2))
    after = {name: module.training for name, module in model.named_modules()}
    model.eval()
    assert after == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_scorer_refuses_cell_types_that_do_not_fit():
    with pytest.raises(ChromaccError, match="2 windows and cell types of shape"):
        ModelScorer(nn.Identity(), None, np.array([0, 1]), np.array([0, 1]))


# --- motifs ------------------------------------------------------------------------------------------------------


def test_a_planted_motif_is_found_where_it_stands(planted, found):
    codes, instances = planted
    _, patterns = found
    assert len(patterns) == 1
    pattern = patterns[0]
    forward = pattern.consensus if pattern.consensus in MOTIF else pattern.reverse_complement().consensus
    assert forward in MOTIF and len(forward) >= len(MOTIF) - 2
    np.testing.assert_allclose(pattern.probabilities.sum(1), 1)
    shared = ground_truth.shared_seqlets(patterns, instances)
    assert shared.loc[0, "on_planted"] > 0.8 and shared.loc[0, "most_common_tf"] == "GATA1"  # the others are near misses
    letters = []
    for seqlet in pattern.seqlets.itertuples():
        site = codes[seqlet.window, seqlet.start : seqlet.end]
        letters.append("".join(BASES[c] for c in (site if seqlet.strand == "+" else 3 - site[::-1])))
    assert letters.count(pattern.consensus) >= 0.9 * len(instances)


def test_attribution_ranks_planted_bases_first(planted, found):
    result = ground_truth.per_base_auprc(found[0].contribution, planted[1])
    assert result["base_rate"] == pytest.approx(0.1) and result["auprc"] > 0.9
    shuffled = np.random.default_rng(0).permuted(found[0].contribution, axis=1)
    assert ground_truth.per_base_auprc(shuffled, planted[1])["times"] < 1.5


def test_noise_gives_no_pattern(planted):
    hypothetical = np.random.default_rng(2).normal(size=(60, 300, 4)).astype(np.float32)
    noise = contribution(hypothetical, planted[0])
    seqlets = call_seqlets(noise)
    assert len(seqlets) > 15 and find_patterns(Attribution(noise, hypothetical), planted[0], seqlets) == []


def pattern_of(name, probabilities):
    seqlets = pd.DataFrame({"window": [0], "start": [0], "end": [len(probabilities)], "strand": "+", "attribution": 1.0})
    return Pattern(name, probabilities, probabilities / len(probabilities), seqlets)


def test_jaspar_names_dimers_and_families():
    by_id = {motif.identifier.split(".")[0]: motif for motif in jaspar_motifs()}
    assert by_id["MA0099"].tfs == ("FOS", "JUN") and by_id["MA0139"].tfs == ("CTCF",)
    assert by_id["MA0035"].families and set(by_id["MA0035"].families) & set(by_id["MA0482"].families)  # GATA1, GATA4
    for motif in jaspar_motifs():
        np.testing.assert_allclose(motif.probabilities.sum(1), 1)


def test_jaspar_matrices_match_themselves_on_their_strand():
    known = {motif.identifier.split(".")[0]: motif for motif in jaspar_motifs()}
    patterns = [pattern_of("P1", known["MA0139"].probabilities), pattern_of("P2", known["MA0035"].probabilities[::-1, ::-1])]
    matches = match_jaspar(patterns)
    best = matches.drop_duplicates("pattern").set_index("pattern")
    assert best.loc["P1", "name"] == "CTCF" and best.loc["P2", "identifier"] == known["MA0035"].identifier
    assert (best["q_value"] < 1e-3).all() and set(match_jaspar(patterns, max_q=1e-30)["pattern"]) == {"P1"}
    np.testing.assert_array_equal(orient(patterns, matches)[1].probabilities, known["MA0035"].probabilities)
    np.testing.assert_array_equal(orient(patterns, matches)[0].probabilities, known["MA0139"].probabilities)


# --- confirmation ------------------------------------------------------------------------------------------------


def test_insertion_is_told_apart_by_cell_type():
    codes, scorer = random_codes(20, 200, seed=5), MotifScorer()
    real, other = (marginalise(scorer, codes, insert, seed=1) for insert in (MOTIF, "CCTTGCAATC"))
    assert real.low > 0.2 and real.p_value < 1e-6 and real.by_cell_type.shape == (20, 6)
    assert (real.by_cell_type[:, 3:] == 0).all() and real.effect == pytest.approx(real.by_cell_type.mean())
    assert other.p_value > 0.05 and abs(other.effect) < 0.05


@pytest.mark.parametrize("insert, codes, message", [
    ("", random_codes(3, 20), "ACGT"), ("A" * 21, random_codes(3, 20), "1 to 20"), ("ACG", random_codes(1, 20), "two or more"),
    ("ACG", codes_of("N" * 20, "ACGTACGTACGTACGTACGT"), "1 of 2 backgrounds are all N")])  # fmt: skip
def test_insertion_refuses_what_cannot_be_inserted(insert, codes, message):
    with pytest.raises(ChromaccError, match=message):
        marginalise(MotifScorer(), codes, insert, seed=1)


def effect_of(by_cell_type, spread=0.01):
    """Effects in four backgrounds that lie `spread` apart."""
    values = np.tile(np.asarray(by_cell_type, np.float32), (4, 1)) + spread * np.array([[-1.5], [-0.5], [0.5], [1.5]])
    return Effect.of(values.astype(np.float32))


def test_motif_table_tells_confirmed_from_failed():
    cells = list("abcdefgh")
    expression = pd.DataFrame({"Gata1": [5, 5, 5, 5, 0, 0, 0, 0.0], "CTCF": 6.0}, index=cells)
    patterns = [pattern_of(name, np.eye(4) * 0.96 + 0.01) for name in ("P1", "P2", "P3")]
    matches = pd.DataFrame({
        "pattern": ["P1", "P1", "P2"], "name": ["Gata2", "GATA1", "CTCF"], "tfs": [("GATA2",), ("GATA1",), ("CTCF",)],
        "families": [(), (), ()], "q_value": [1e-4, 1e-3, 0.01], "identifier": "", "p_value": 0.0, "strand": "+"})  # fmt: skip
    inserted = {"P1": effect_of([1, 1.1, 1.2, 1.3, 0, 0.1, 0, 0.1]), "P2": effect_of([0.1] * 8, 0.06), "P3": effect_of([-0.1] * 8)}
    effects = {"inserted": inserted, "closed": {name: effect_of([0.5] * 8) for name in inserted},
               "ablated": {"P1": effect_of([0.2] * 4 + [0] * 4), "P2": effect_of([-0.2] * 8), "P3": Effect.of(np.zeros((0, 8)))}}
    table = interpretation.motif_table(patterns, matches, effects, expression, cells).set_index("pattern")
    assert table["confirmed"].tolist() == ["yes", "no", "no"]
    assert inserted["P2"].p_value < 0.05 < table.loc["P2", "p_adjusted"], "one of three that would pass alone"
    assert table.loc["P1", ["matched_tf", "expressed_tf", "on_in", "follows_tf"]].tolist() == ["Gata2", "GATA1", "4 of 8", "yes"]
    assert table["claimed_in"].tolist() == ["a, b, c, d", "all", "all"]
    assert table.loc["P1", "effect"] == pytest.approx(1.15) and table.loc["P1", "effect_off"] == pytest.approx(0.05)
    assert table.loc["P1", "effect_low"] < 1.15 < table.loc["P1", "effect_high"]
    assert table["effect_closed"].tolist() == pytest.approx([0.5] * 3) and table["effect_turned"].isna().all()
    assert table.loc["P2", ["on_in", "follows_tf"]].tolist() == ["no contrast", "cannot be compared"]
    assert table["holds_in_place"].tolist() == ["yes", "no", "too few instances"]
    assert table.loc["P1", "ablated"] == pytest.approx(0.2)
    assert table.loc["P3", ["matched_tf", "expressed_tf", "on_in"]].tolist() == ["no match", "not known", "not known"]
    wrong = expression.assign(Gata1=expression["Gata1"].to_numpy()[::-1])
    other = interpretation.motif_table(patterns, matches, effects, wrong, cells).loc[0]
    assert other["follows_tf"] == "no" and other["claimed_in"] == "e, f, g, h" and other["effect"] == pytest.approx(0.05)


def test_a_tf_is_bound_where_its_track_is_raised_at_the_seqlets(world):
    arrays = world[0]
    seqlets = pd.DataFrame({"window": range(6), "start": 480, "end": 490, "strand": "+", "attribution": 1.0})  # bin 4 of 10
    patterns = [replace(pattern_of(name, np.eye(4)), seqlets=seqlets) for name in ("P1", "P2")]
    matches = pd.DataFrame({"pattern": ["P1", "P2"], "tfs": [(arrays.tfs[0].upper(),), ("NANOG",)]})
    raised = replace(arrays, tf=np.random.default_rng(0).normal(0, 0.1, arrays.tf.shape).astype(np.float32))
    assert interpretation.bound_at(patterns, matches, raised, np.arange(6)).to_dict() == {"P1": "no", "P2": "no track"}
    raised.tf[:, :, 0, 4] += 1
    assert interpretation.bound_at(patterns, matches, raised, np.arange(6))["P1"] == "yes"
    raised.tf[:, :, 0, 4] -= 2
    assert interpretation.bound_at(patterns, matches, raised, np.arange(6))["P1"] == "no"


def test_contributions_go_to_a_bigwig_base_by_base(tmp_path):
    windows = pd.DataFrame({"chrom": ["c2", "c1", "c2"], "start": [0, 5, 2], "end": [4, 9, 6]})
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 0, 9, 9]], float)
    path = interpretation.write_contributions(tmp_path / "x.bw", {"c1": 20, "c2": 10}, windows, values)
    with pyBigWig.open(str(path)) as handle:
        assert handle.values("c1", 5, 9) == [5, 6, 7, 8] and handle.values("c2", 0, 6) == [1, 2, 2, 2, 9, 9]
        assert np.isnan(handle.values("c2", 6, 10)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["x.bw"]


def test_motif_table_without_patterns_or_expression():
    table = interpretation.motif_table([], match_jaspar([]), {"inserted": {}}, pd.DataFrame(index=["a"]), ["a"])
    assert len(table) == 0 and {"pattern", "matched_tf", "confirmed"} <= set(table)
    one = interpretation.motif_table([pattern_of("P1", np.eye(4))], match_jaspar([]), {"inserted": {"P1": effect_of([1.0])}},
                                     pd.DataFrame(index=["a"]), ["a"])
    assert one.loc[0, ["confirmed", "expressed_tf", "follows_tf"]].tolist() == ["yes", "not known", "cannot be compared"]


# --- modalities and attention ------------------------------------------------------------------------------------


class MarkModel(nn.Module):
    """score = mean of the first statistic of the first histone mark, plus the locus prior."""

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, batch, return_attention=False):
        score = batch.histone[:, :, 0, :, 0].mean(-1) + batch.prior_score
        return Output(score, score, batch.accessibility)


def test_contributions_name_the_inputs_that_are_used(world):
    arrays = world[0]
    windows = np.arange(12)
    table = contributions.modality_contributions(MarkModel(), arrays, windows, at_once=5)
    rms = table.groupby("input")["rms"].max()
    first, second = arrays.histone_marks
    assert set(rms.index) == {*MODALITIES, *arrays.histone_marks, *arrays.tfs}
    assert rms[rms > 0].index.tolist() == sorted([first, "histone", "prior"])
    at = table[(table["input"] == first) & (table["cell_type"] == "A")].iloc[0]
    score = arrays.histone[windows, 0, 0, :, 0].mean(-1) + arrays.prior_score[windows, 0]
    assert at["rms"] == pytest.approx(np.sqrt(((score - arrays.prior_score[windows, 0]) ** 2).mean()), rel=1e-5)
    assert at["mse"] == pytest.approx(((score - arrays.score[windows, 0]) ** 2).mean(), rel=1e-5)
    missing = table[(table["input"] == second) & (table["cell_type"] == "B")].iloc[0]  # B lacks H3K4me3
    assert np.isnan(missing["rise"]) and np.isnan(missing["rms"])


def test_one_modality_at_a_time(world):
    arrays = world[0]
    table = contributions.modality_alone(MarkModel(), arrays, at_once=5)
    windows, cells = (np.flatnonzero(t["split"] == "test") for t in (arrays.windows, arrays.cell_types))
    assert table["window"].tolist() == np.repeat(windows, len(cells)).tolist()
    assert set(table["cell_type"]) == set(arrays.cell_types["cell_type"].iloc[cells])
    np.testing.assert_allclose(table["prior only"], arrays.prior_score[np.ix_(windows, cells)].ravel(), rtol=1e-6)
    mark = arrays.histone[np.ix_(windows, cells)][:, :, 0, :, 0].mean(-1)
    np.testing.assert_allclose(table["histone only"], mark.ravel(), rtol=1e-5)
    assert (table[["sequence only", "tf only", "cell only"]].to_numpy() == 0).all(), "the model does not use them"
    few = contributions.modality_alone(MarkModel(), arrays, most_windows=3)
    assert few["window"].nunique() <= 3 and set(few["window"]) <= set(windows)


@pytest.mark.parametrize("modality", MODALITIES)
def test_masking_leaves_the_other_inputs_alone(world, modality):
    batch = RegionData(world[0]).batch(np.arange(3), np.arange(2))
    masked = without(batch, modality)
    changed = {name for name in vars(batch) if not torch.equal(getattr(batch, name), getattr(masked, name))}
    expected = {"sequence": {"sequence"}, "cell": {"metadata", "metadata_observed"},
                "prior": {"prior", "prior_score", "prior_observed"}}  # fmt: skip
    assert changed == expected.get(modality, {modality, f"{modality}_observed"})
    if modality == "sequence":
        assert (masked.sequence == 4).all()


def test_attention_adds_up_to_one(scorer, world):
    summary = attention.attention_summary(world[1], scorer.data, np.arange(5), np.arange(4), at_once=2)
    for maps in (summary.sequence, summary.encoder, summary.fusion, summary.fusion_heads):
        np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    assert summary.fusion.shape == (4, 10, len(MODALITIES) + 1)
    assert ((summary.encoder_entropy > 0) & (summary.encoder_entropy <= 1 + 1e-6)).all()
    whole = attention.attention_summary(world[1], scorer.data, np.arange(5), np.arange(4), at_once=5)
    np.testing.assert_allclose(whole.encoder, summary.encoder, atol=1e-6)
    np.testing.assert_allclose(whole.sequence_entropy, summary.sequence_entropy, atol=1e-6)


def test_rollout_by_hand():
    here = np.tile(np.eye(5), (3, 2, 1, 1))
    np.testing.assert_allclose(attention.rollout(here), np.eye(5))
    np.testing.assert_allclose(attention.rollout(np.full((1, 2, 5, 5), 0.2)), 0.5 * np.eye(5) + 0.1)


def test_attention_that_follows_the_contributions_agrees_with_them(world):
    arrays = world[0]
    carried = np.random.default_rng(0).random((len(arrays.windows), 10)).astype(np.float32)

    class Attentive(MarkModel):
        def forward(self, batch, return_attention=False):
            profile = torch.from_numpy(carried[Attentive.at])[:, None, None, None, None]
            return Output(None, None, None, {"encoder": profile.expand(-1, 1, 2, 2, 10, -1)})

    class Data:
        def batch(self, windows, cell_types):
            Attentive.at = windows
            return RegionData(arrays).batch(windows, cell_types)

    agreement = attention.attention_agreement(
        Attentive(), Data(), np.arange(40), np.zeros((40, 1), int), np.repeat(carried[:40], 100, 1), seed=1)
    assert agreement["value"] == pytest.approx(1) and abs(agreement["chance"]) < 0.3


# --- places, truth and files -------------------------------------------------------------------------------------


def test_places_are_unseen_peaks_where_the_prediction_is_highest(world):
    arrays = world[0]
    predicted = np.random.default_rng(0).random(arrays.score.shape)
    places = interpretation.choose_places(arrays, predicted, 1000, 2, seed=1)
    chosen = arrays.windows.iloc[places.windows]
    assert (chosen["split"] != "train").all() and (chosen["kind"] == "peak").all()
    assert len(chosen) == ((arrays.windows["split"] != "train") & (arrays.windows["kind"] == "peak")).sum()
    np.testing.assert_array_equal(places.cell_types[:, 0], predicted[places.windows].argmax(1))
    seen = replace(arrays, windows=arrays.windows.assign(split="train"))
    with pytest.raises(ChromaccError, match="no peak window"):
        interpretation.choose_places(seen, predicted, 10, 2, seed=1)


@pytest.fixture
def truth(tmp_path):
    (tmp_path / "truth").mkdir()
    rows = ["chr1\t95\t105\tGATA1\t0.8\t+\t0", "chr1\t150\t160\tJUN\t0.8\t-\t1", "chr2\t150\t160\tCTCF\t0.8\t-\t-1",
            "chr1\t300\t310\tSP1\t0.8\t+\t2"]
    (tmp_path / "truth" / "planted_motifs.bed").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_planted_instances_are_cut_to_their_window(truth):
    windows = pd.DataFrame({"chrom": ["chr2", "chr1"], "start": [100, 100], "end": [200, 200]})
    planted = ground_truth.planted_instances(truth, windows)
    assert planted[["window", "start", "end", "tf"]].to_numpy().tolist() == [
        [0, 50, 60, "CTCF"], [1, 0, 5, "GATA1"], [1, 50, 60, "JUN"]]  # fmt: skip
    with pytest.raises(ChromaccError, match="raw_dir"):
        ground_truth.planted_instances(truth / "truth", windows)


def test_a_seqlet_shorter_than_the_instance_still_lies_on_it():
    instances = pd.DataFrame({"window": [0, 0], "start": [10, 50], "end": [30, 60], "tf": ["FOXA1", "JUN"]})
    seqlets = pd.DataFrame({"window": [0, 0, 0, 1], "start": [15, 58, 55, 15], "end": [20, 68, 65, 20], "strand": "+", "attribution": 1.0})
    shared = ground_truth.shared_seqlets([replace(pattern_of("P1", np.eye(4)), seqlets=seqlets)], instances)
    assert shared.loc[0, "on_planted"] == 0.5 and shared.loc[0, "its_share"] == 0.25  # the second overlaps by 2 of 10 bp


def test_recovery_by_name_as_a_relative_and_not_at_all():
    families = {motif.identifier.split(".")[0]: motif.families for motif in jaspar_motifs()}
    matches = pd.DataFrame({
        "pattern": ["P1", "P2", "P2", "P2", "P3", "P4"],
        "identifier": ["MA0099.9", "MA0482.2", "MA0035.4", "MA0139.2", "MA0687.1", "MA0002.1"],
        "name": ["FOS::JUN", "GATA4", "GATA1", "CTCF", "SPIC", "RUNX1"],
        "tfs": [("FOS", "JUN"), ("GATA4",), ("GATA1",), ("CTCF",), ("SPIC",), ("RUNX1",)],
        "families": [families[i] for i in ("MA0099", "MA0482", "MA0035", "MA0139", "MA0687", "MA0002")]})  # fmt: skip
    planted = pd.DataFrame({"window": [0, 0] + [0] * 20, "start": 2, "end": 4, "tf": ["JUN", "JUN"] + ["SPI1"] * 20})
    planted.loc[1, ["start", "end"]] = [6, 8]
    activity = pd.DataFrame(1.0, index=list("abcdef"), columns=list(ground_truth.UBIQUITOUS) + list(ground_truth.LINEAGE_TFS))
    activity.loc[list("def"), ["JUN", "GATA1", "RUNX1"]] = 0.1
    follows, against = effect_of([3, 2.5, 2, 0.1, 0.2, 0]), effect_of([0, 0.2, 0.1, 2, 2.5, 3])
    effects = {"P1": follows, "P2": against, "P3": follows, "P4": follows}
    table = ground_truth.recovered_tfs(matches, planted, np.arange(10.0)[None], effects, activity).set_index("tf")
    assert table.loc[["JUN", "GATA1", "CTCF", "SPI1"], "recovered"].tolist() == ["by name", "as a relative", "too few instances", "no"]
    assert table.loc["GATA1", "called"] == "GATA4", "said so"
    assert table.loc["JUN", "instances"] == 2 and table.loc["JUN", "contribution"] == pytest.approx((5 + 13) / 2)
    assert table.loc[["JUN", "GATA1"], "right_cell_types"].tolist() == ["yes", "no"] and table.loc["JUN", "auroc"] == 1
    assert table.loc["JUN", "active_in"] == "3 of 6" and np.isnan(table.loc["CTCF", "contribution"])
    patterns = [pattern_of(name, np.eye(4)) for name in ("P1", "P2", "P3", "P4", "P5")]
    false = ground_truth.false_discoveries(matches, patterns)
    assert false[["pattern", "called"]].to_numpy().tolist() == [["P3", "SPIC"], ["P5", "no match"]]  # SPI1's does not match P3


def test_what_is_saved_can_be_read_without_pickle(tmp_path, scorer, world):
    arrays = world[0]
    codes = arrays.sequence[scorer.windows]
    attribution = smoothed_gradients(scorer, codes, 1)
    written = interpretation.save_interpretation(
        tmp_path, arrays, places_of(arrays), attribution, [], {"motifs": pd.DataFrame({"pattern": []})})  # fmt: skip
    names = ["attributions.npz", "motifs.csv", "patterns.meme"]
    assert sorted(path.name for path in (tmp_path / "interpretation").iterdir()) == names
    assert sorted(path.name for path in written) == names
    with np.load(written[0], allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["contribution"], attribution.contribution)
        assert saved["chrom"].tolist() == arrays.windows["chrom"].iloc[scorer.windows].tolist()
        assert saved["cell_types"].tolist() == [["A"]] * 3
