"""Attribution, motifs and their confirmation, on scorers whose answer is known by construction."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.attention import rollout
from chromacc_lib.attribution import Attribution, integrated_gradients, smoothed_gradients
from chromacc_lib.confirmation import marginalise
from chromacc_lib.ground_truth import per_base_auprc
from chromacc_lib.interpretation import require_interpretable
from chromacc_lib.jaspar import matrix_by_id
from chromacc_lib.motifs import Pattern, call_seqlets, find_patterns, match_jaspar, read_patterns, write_patterns
from chromacc_lib.mutagenesis import mutagenesis
from chromacc_lib.scoring import one_hot

LENGTH, RNG = 120, np.random.default_rng(0)
WEIGHTS = torch.from_numpy(RNG.normal(size=(LENGTH, 4)).astype(np.float32))
CODES = RNG.integers(0, 4, (5, LENGTH)).astype(np.uint8)
CENTRED = (WEIGHTS - WEIGHTS.mean(1, keepdim=True)).numpy()


def linear(sequence, context):
    """A scorer that adds one weight a base: every method has to give exactly the centred weights."""
    return (sequence * WEIGHTS).sum((1, 2))


def expected(codes):
    return np.take_along_axis(CENTRED[None].repeat(len(codes), 0), codes[..., None].astype(int), 2)[..., 0]


class MotifScorer:
    """Scores the best match of GATA1's matrix, on the strand that is given; the second cell type does not have the TF."""

    matrix = torch.from_numpy(np.log2((matrix_by_id("MA0035.3") + 0.01) / 0.26)).float()

    def by_cell_type(self, sequence, context):
        best = torch.nn.functional.conv1d(sequence.transpose(1, 2), self.matrix.T[None]).amax((1, 2))
        return torch.stack([best, 0 * best], 1)


def test_gradients_of_a_linear_scorer_are_exact():
    assert np.allclose(smoothed_gradients(linear, CODES, n_copies=3).contribution, expected(CODES), atol=1e-5)
    integrated = integrated_gradients(linear, CODES)
    assert np.allclose(integrated.contribution, expected(CODES), atol=1e-5)
    assert np.abs(integrated.delta).max() < 1e-3 and np.abs(integrated.relative_delta).max() < 1e-4


def test_mutagenesis_of_a_linear_scorer_is_exact_and_bounded_to_the_window():
    effects = mutagenesis(linear, CODES, 20, 50)
    there = np.take_along_axis(WEIGHTS.numpy()[None, 20:50].repeat(5, 0), CODES[:, 20:50, None].astype(int), 2)
    assert np.allclose(effects, WEIGHTS.numpy()[None, 20:50] - there, atol=1e-4)
    with pytest.raises(ChromaccError, match="positions 100 to 121"):
        mutagenesis(linear, CODES, 100, 121)


def test_the_batch_size_changes_no_attribution():
    curved = lambda sequence, context: torch.tanh(linear(sequence, context) / 10)
    one, many = (smoothed_gradients(curved, CODES, n_copies=4, at_once=n).contribution for n in (1, 64))
    assert np.allclose(one, many, atol=1e-6)
    one, many = (integrated_gradients(curved, CODES, at_once=n).contribution for n in (1, 5))
    assert np.allclose(one, many, atol=1e-6)


def test_a_window_of_n_gets_zeros():
    unknown = np.full((2, LENGTH), 4, np.uint8)
    assert not smoothed_gradients(linear, unknown, n_copies=2).contribution.any()
    assert not integrated_gradients(linear, unknown).contribution.any()
    assert not mutagenesis(linear, unknown, 0, LENGTH).any()
    assert len(call_seqlets(np.zeros((2, LENGTH), np.float32))) == 0


def test_a_planted_motif_is_found_named_and_written(tmp_path):
    """GATA1 sites on both strands, with their information as contributions: one pattern, matched to GATA."""
    matrix = matrix_by_id("MA0035.3")
    bits = (2 + (matrix * np.log2(matrix + 1e-9)).sum(1)).astype(np.float32)
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (60, 200)).astype(np.uint8)
    contribution = rng.normal(0, 0.02, codes.shape).astype(np.float32)
    for i, start in enumerate(rng.integers(40, 140, 60)):
        site, worth = matrix.argmax(1), bits
        if i % 2:
            site, worth = 3 - site[::-1], bits[::-1]
        codes[i, start : start + len(site)] = site
        contribution[i, start : start + len(site)] += worth
    hypothetical = one_hot(codes).numpy() * contribution[..., None]
    attribution = Attribution(contribution, hypothetical - hypothetical.mean(-1, keepdims=True))
    patterns = find_patterns(attribution, codes, call_seqlets(contribution))
    assert patterns and len(patterns[0].seqlets) >= 40
    assert {"+", "-"} == set(patterns[0].seqlets["strand"])
    assert "GATA" in match_jaspar(patterns[:1])["name"].iloc[0].upper()
    write_patterns(tmp_path / "patterns.meme", patterns)
    read = read_patterns(tmp_path / "patterns.meme")
    assert len(read) == len(patterns) and np.allclose(list(read.values())[0], patterns[0].probabilities, atol=1e-4)


def test_inserting_the_motif_raises_the_score_and_another_sequence_does_not():
    codes = np.random.default_rng(2).integers(0, 4, (24, LENGTH)).astype(np.uint8)
    site = "".join("ACGT"[i] for i in matrix_by_id("MA0035.3").argmax(1))
    real = marginalise(MotifScorer(), codes, site, seed=1)
    assert real.low > 0 and real.p_value < 1e-4
    assert real.by_cell_type[:, 0].mean() > 1 and not real.by_cell_type[:, 1].any()
    none = marginalise(MotifScorer(), codes, "ACACACACACA", seed=1)
    assert none.p_value > 0.01 and none.effect < real.effect / 4
    with pytest.raises(ChromaccError, match="letters of ACGT"):
        marginalise(MotifScorer(), codes, "ACGN", seed=1)


def test_a_pattern_turned_twice_is_itself():
    seqlets = pd.DataFrame({"window": [0], "start": [1], "end": [5], "strand": ["+"], "attribution": [1.0]})
    pattern = Pattern("P1", np.eye(4)[[0, 1, 1, 3]], np.ones((4, 4)), seqlets)
    assert pattern.consensus == "ACCT" and pattern.reverse_complement().consensus == "AGGT"
    assert pattern.reverse_complement().reverse_complement().consensus == "ACCT"


def test_ranking_of_planted_bases_by_hand():
    instances = pd.DataFrame({"window": [0], "start": [2], "end": [4]})
    perfect = per_base_auprc(np.array([[0.1, 0.0, -3.0, 2.0, 0.2]]), instances)
    assert perfect == {"auprc": 1.0, "base_rate": 0.4, "times": 2.5}
    assert np.isnan(per_base_auprc(np.ones((1, 2)), instances, start=2)["auprc"])  # every base is planted


def test_rollout_rows_add_up_to_one():
    maps = np.random.default_rng(0).dirichlet(np.ones(6), (3, 2, 6))
    assert np.allclose(rollout(maps).sum(1), 1)


def test_a_collapsed_model_is_not_interpreted_unless_asked_for(tmp_path):
    with pytest.raises(ChromaccError, match="run notebook 04"):
        require_interpretable(tmp_path)
    diagnosis = {"verdict": "collapsed", "cause": "constant output", "next_step": "Retrain.", "sentence": "Collapsed."}
    (tmp_path / "collapse_diagnostics.json").write_text(json.dumps(diagnosis))
    with pytest.raises(ChromaccError, match="constant output.*interpret_collapsed=True"):
        require_interpretable(tmp_path)
    assert require_interpretable(tmp_path, interpret_collapsed=True) == "Collapsed."
