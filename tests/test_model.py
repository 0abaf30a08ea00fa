"""The model: what it must not depend on, what it must not see, and what its attention and gates do."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, Target
from chromacc_lib.dataset import load_arrays
from chromacc_lib.inference import load_model, predict_batch
from chromacc_lib.layers import Attention, ByteDropout
from chromacc_lib.model import MODALITIES, Batch, ChromaccModel, ModelConfig
from chromacc_lib.training import TrainingConfig, TrainingResult, save_model

CONFIG = ModelConfig(
    histone_marks=("H3K27ac", "H3K4me3"), tfs=("CTCF",), features=("CTCF", "GATA1"), window_bp=200, n_bins=10,
    d_model=32, sequence_layers=2, encoder_layers=2, encoder_heads=4, histone_filters=16, tf_hidden=16, score_hidden=8,
)  # fmt: skip

KMERS = replace(CONFIG, sequence_tokens="kmer", kmer=4)
ADDITIVE = replace(CONFIG, gate="additive")
ARCHITECTURES = pytest.mark.parametrize("config", [CONFIG, KMERS, ADDITIVE], ids=["default", "kmer", "additive"])


def random_batch(config=CONFIG, b=3, c=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    t, m, f, e = config.n_bins, len(config.histone_marks), len(config.tfs), len(config.features)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    yes = lambda *shape: torch.ones(*shape, dtype=torch.bool)
    return Batch(
        sequence=torch.randint(0, 4, (b, config.window_bp), generator=g, dtype=torch.uint8),
        histone=normal(b, c, m, t, 3), histone_observed=yes(b, c, m), tf=normal(b, c, f, t, 3), tf_observed=yes(b, c, f),
        metadata=normal(b, c, e), metadata_observed=yes(b, c), prior=normal(b, c, t, 3), prior_score=normal(b, c),
        prior_observed=yes(b, c), accessibility=normal(b, c, t), accessibility_observed=~yes(b, c, t),
    )  # fmt: skip


def make_model(config=CONFIG, seed=0):
    """A model in evaluation mode whose heads are not near zero, so that a change anywhere shows in its output."""
    torch.manual_seed(seed)
    model = ChromaccModel(config).eval()
    for head in (model.score_head[-1], model.label_head[-1], model.profile_head):
        torch.nn.init.normal_(head.weight, std=0.5)
    return model


def outputs(model, batch):
    with torch.no_grad():
        out = model(batch)
    return torch.cat([out.score[..., None], out.logit[..., None], out.profile], -1)


def random_target(b=3, c=4, t=10, seed=1, positive=0.5, mean=0.0):
    """Targets of unit spread about a mean; a share `positive` of the windows is open."""
    g = torch.Generator().manual_seed(seed)
    label = (torch.randperm(b * c, generator=g) < positive * b * c).to(torch.int8).view(b, c)
    return Target(mean + torch.randn(b, c, generator=g), label, mean + torch.randn(b, c, t, generator=g))


def fit(model, batch, target, steps, rate):
    """The loss before each step of Adam on one batch, and the gradient's norm at the first."""
    optimiser, objective, losses, norms = torch.optim.Adam(model.parameters(), lr=rate), TrainingConfig().objective(0.5), [], []
    for _ in range(steps):
        optimiser.zero_grad()
        loss, _ = objective(model(batch), batch, target)
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimiser.step()
        losses.append(loss.item())
    return losses, norms[0]


# --- shapes, sizes and draws -----------------------------------------------------------------------------------


@ARCHITECTURES
def test_shapes(config):
    out = make_model(config)(random_batch(config))
    assert out.score.shape == out.logit.shape == (3, 4) and out.profile.shape == (3, 4, 10) and out.attention is None


def test_defaults_are_the_designs_sizes():
    config = ModelConfig(("a",), ("b",), ("c",))
    assert (config.d_model, config.sequence_layers, config.sequence_heads) == (128, 4, 4)
    assert (config.histone_filters, config.histone_blocks, config.tf_hidden) == (64, 3, 128)
    assert (config.encoder_layers, config.encoder_heads, config.dropout, config.score_hidden) == (6, 8, 0.1, 64)


def test_new_choices_leave_the_default_weights_of_a_seed_as_they_were():
    """The draws of the default architecture, in their order: the last weights drawn follow from all before them."""
    torch.manual_seed(0)
    model = ChromaccModel(CONFIG)
    first, last = model.sequence_encoder.scan.weight[0, 0, :3], model.profile_head.weight[0, :3]
    torch.testing.assert_close(first, torch.tensor([-0.0008588, 0.0615343, -0.0944098]), atol=1e-6, rtol=0)
    torch.testing.assert_close(last, torch.tensor([-0.0082800, -0.0119533, 0.0296509]), atol=1e-6, rtol=0)


def test_sizes_that_do_not_fit_together_are_refused_all_at_once():
    with pytest.raises(ChromaccError) as caught:
        ModelConfig((), (), (), sequence_tokens="word", gate="none", d_model=100, encoder_layers=0, dropout=1.0,
                    motif_kernel_bp=18, histone_filters=12)  # fmt: skip
    for wrong in ("sequence_tokens='word' is not known; allowed: patch, kmer", "gate='none'", "encoder_layers=0",
                  "d_model=100: needs a multiple of 8", "dropout=1.0", "motif_kernel_bp=18",
                  "histone_filters=12"):  # fmt: skip
        assert wrong in str(caught.value)
    for kmer in (1, 9):
        with pytest.raises(ChromaccError, match=f"kmer={kmer}: needs 2 to 8 bp"):
            ModelConfig((), (), (), sequence_tokens="kmer", kmer=kmer)


def test_bins_that_do_not_divide_the_window_are_refused_with_those_that_do():
    with pytest.raises(ChromaccError, match=r"n_bins=16 does not divide window_bp=1500.*\[5, 6, 10, 12, 15"):
        ModelConfig((), (), (), n_bins=16)


# --- attention -------------------------------------------------------------------------------------------------


@ARCHITECTURES
def test_asking_for_attention_changes_no_prediction(config):
    model, batch = make_model(config), random_batch(config)
    plain, asked = model(batch), model(batch, return_attention=True)
    for name in ("score", "logit", "profile"):
        torch.testing.assert_close(getattr(asked, name), getattr(plain, name), atol=1e-5, rtol=0)
    shapes = {name: tuple(weights.shape) for name, weights in asked.attention.items()}
    assert shapes == {"sequence": (3, 2, 4, 10, 10), "fusion": (3, 4, 10, 4, len(MODALITIES) + 1),
                      "encoder": (3, 4, 2, 4, 10, 10)}  # fmt: skip
    for weights in asked.attention.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_a_missing_modality_gets_no_attention_and_has_no_say():
    model, batch = make_model(), random_batch()
    without = replace(batch, histone=torch.zeros_like(batch.histone), histone_observed=torch.zeros(3, 4, 2, dtype=bool))
    assert not torch.allclose(outputs(model, batch), outputs(model, without))
    weights = model(without, return_attention=True).attention["fusion"]
    assert (weights[..., MODALITIES.index("histone")] == 0).all() and (weights[..., MODALITIES.index("tf")] > 0).all()


# --- what is not observed has no say ---------------------------------------------------------------------------


def partly_observed(b=2, c=3):
    """A batch in which each modality is missing somewhere: single assays, whole modalities, one window of N."""
    batch = random_batch(b=b, c=c)
    one_hot = nn.functional.one_hot(batch.sequence.long(), 4).float()
    one_hot[1] = 0
    names = ("histone", "tf", "metadata", "prior")
    histone, tf, metadata, prior = (getattr(batch, f"{name}_observed").clone() for name in names)
    histone[0, 0, 1], histone[0, 1], histone[1, 2] = False, False, False
    tf[0, 1], metadata[0, 1], prior[0, 2] = False, False, False
    tf[1, 0], metadata[1, 2], prior[1, 0] = False, False, False
    shown = torch.rand(batch.accessibility.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    return replace(batch, sequence=one_hot, histone_observed=histone, tf_observed=tf, metadata_observed=metadata,
                   prior_observed=prior, accessibility_observed=shown)  # fmt: skip


def hidden_parts(batch):
    """{input: bool of its own shape, True where the model may not see it}."""
    masks = {name: f"{name}_observed" for name in ("histone", "tf", "metadata", "prior", "accessibility")}
    masks["prior_score"] = "prior_observed"
    hidden = {"sequence": batch.sequence.sum((1, 2), keepdim=True).expand_as(batch.sequence) == 0}
    for name, mask in masks.items():
        values, seen = getattr(batch, name), getattr(batch, mask)
        hidden[name] = ~seen.view(*seen.shape, *[1] * (values.ndim - seen.ndim)).expand_as(values).clone()
    hidden["prior"][..., 2] |= ~batch.metadata_observed[..., None]  # how cell types of like metadata depart
    return hidden


@ARCHITECTURES
def test_no_output_has_a_gradient_at_a_masked_input(config):
    """Exactly zero for each single output and each value behind a mask, and not for those in sight."""
    model, batch = make_model(config), partly_observed()
    hidden = hidden_parts(batch)
    inputs = {name: getattr(batch, name).requires_grad_() for name in hidden}
    out = model(batch)
    total = {name: torch.zeros_like(value) for name, value in inputs.items()}
    for output in torch.cat([out.score.flatten(), out.logit.flatten(), out.profile.flatten()]):
        for name, gradient in zip(inputs, torch.autograd.grad(output, list(inputs.values()), retain_graph=True)):
            total[name] += gradient.abs()
    for name, mask in hidden.items():
        assert mask.any() and not mask.all() and (total[name][mask] == 0).all(), name
        assert (total[name][~mask].view(-1) > 0).float().mean() > 0.9 or name == "sequence", name
    assert total["sequence"][0].sum() > 0


@ARCHITECTURES
@pytest.mark.parametrize("filling", [1e4, math.nan])
def test_what_stands_in_for_a_missing_value_never_matters(config, filling):
    model, batch = make_model(config), partly_observed()
    hidden = hidden_parts(batch)
    del hidden["sequence"]
    filled = {name: getattr(batch, name).masked_fill(mask, filling) for name, mask in hidden.items()}
    assert torch.equal(outputs(model, replace(batch, **filled)), outputs(model, batch))


def test_the_prior_of_a_cell_type_never_holds_its_own_accessibility(curated):
    """Change one training cell type: bit for bit its own prior stays, and that of every other cell type changes."""
    arrays = load_arrays(curated[1])
    data, windows, cells = RegionData(arrays), np.arange(len(arrays.windows)), np.arange(len(arrays.train_mask))
    before, names = data.batch(windows, cells), ("prior", "prior_score", "prior_observed")
    for cell in cells:
        accessibility, score = arrays.accessibility.copy(), arrays.score.copy()
        accessibility[:, cell] = 3 * accessibility[:, cell] + 1
        score[:, cell] = 3 * score[:, cell] + 1
        after = RegionData(replace(arrays, accessibility=accessibility, score=score)).batch(windows, cells)
        assert all(torch.equal(getattr(after, name)[:, cell], getattr(before, name)[:, cell]) for name in names)
        for other in cells[cells != cell]:
            differs = not torch.equal(after.prior[:, other], before.prior[:, other])
            assert differs == (not torch.equal(after.prior_score[:, other], before.prior_score[:, other]))
            assert differs == (not torch.equal(after.prior[:, other, :, 2], before.prior[:, other, :, 2]))
            assert differs == bool(arrays.train_mask[cell])


def test_masked_accessibility_is_not_seen_and_revealed_accessibility_is():
    model, batch = make_model(), random_batch()
    changed = replace(batch, accessibility=batch.accessibility + 5)
    assert torch.equal(outputs(model, batch), outputs(model, changed))
    shown = torch.ones_like(batch.accessibility_observed)
    revealed = [outputs(model, replace(b, accessibility_observed=shown)) for b in (batch, changed)]
    assert not torch.allclose(*revealed)


def test_unknown_accessibility_never_reaches_the_output():
    model, batch = make_model(), random_batch()
    unknown = replace(batch, accessibility=torch.full_like(batch.accessibility, torch.nan))
    assert outputs(model, unknown).isfinite().all()


# --- what predictions do not depend on -------------------------------------------------------------------------


@ARCHITECTURES
def test_predictions_do_not_depend_on_the_company_in_the_batch(config):
    model, batch = make_model(config), random_batch(config)
    alone = Batch(**{name: value[1:2] if name == "sequence" else value[1:2, 2:3] for name, value in vars(batch).items()})
    torch.testing.assert_close(outputs(model, alone)[0, 0], outputs(model, batch)[1, 2], atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Batch(**{n: v if n == "sequence" else v[:, order] for n, v in vars(batch).items()})
    torch.testing.assert_close(outputs(model, shuffled), outputs(model, batch)[:, order], atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 1])
    shuffled = Batch(**{n: v[order] for n, v in vars(batch).items()})
    torch.testing.assert_close(outputs(model, shuffled), outputs(model, batch)[order], atol=1e-5, rtol=0)


@ARCHITECTURES
def test_codes_and_one_hot_are_the_same_sequence(config):
    model, batch = make_model(config), random_batch(config)
    batch.sequence[0, 30:95] = 4  # N over the ends of bins, and over a whole one
    one_hot = nn.functional.embedding(batch.sequence.int(), torch.eye(5, 4))
    torch.testing.assert_close(outputs(model, replace(batch, sequence=one_hot)), outputs(model, batch))


def test_reverse_complement_twice_is_the_same_batch_and_once_is_not():
    batch = random_batch()
    batch.sequence[0, 5] = 4
    once, twice = batch.reverse_complement(), batch.reverse_complement().reverse_complement()
    assert all(torch.equal(getattr(batch, name), getattr(twice, name)) for name in vars(batch))
    assert once.sequence[0, -6] == 4 and once.sequence[0, -1] == 3 - batch.sequence[0, 0]
    assert torch.equal(once.histone[..., 0, :], batch.histone[..., -1, :])
    one_hot = replace(batch, sequence=torch.nn.functional.one_hot(random_batch().sequence.long(), 4).float())
    assert torch.equal(one_hot.reverse_complement().sequence.argmax(-1), random_batch().reverse_complement().sequence.long())


@ARCHITECTURES
def test_both_strands_find_the_same_in_a_bin_and_give_the_same_prediction(config):
    """Where the strand cannot matter: what a bin holds before positions are added, and the mean of both strands."""
    model, batch = make_model(config), random_batch(config)
    batch.sequence[0, 30:35] = 4
    turned = batch.reverse_complement()
    with torch.no_grad():
        found, found_turned = (model.sequence_encoder(b.sequence)[0] for b in (batch, turned))
    torch.testing.assert_close(found_turned.flip(1), found, atol=1e-5, rtol=0)
    assert not torch.allclose(found_turned, found, atol=1e-2)
    here, there = predict_batch(model, batch), predict_batch(model, turned)
    assert torch.equal(here.score, there.score) and torch.equal(here.logit, there.logit)
    assert torch.equal(here.profile, there.profile.flip(2))


@ARCHITECTURES
def test_a_window_of_n_is_masked_as_sequence_and_predicted(config):
    model, batch = make_model(config), random_batch(config)
    unknown = replace(batch, sequence=torch.full_like(batch.sequence, 4))
    weights = model(unknown, return_attention=True).attention["fusion"]
    assert (weights[..., MODALITIES.index("sequence")] == 0).all()
    assert outputs(model, unknown).isfinite().all()


@pytest.mark.parametrize("without", [{"histone_marks": ()}, {"tfs": ()}, {"features": ()},
                                     {"histone_marks": (), "tfs": (), "features": ()}])  # fmt: skip
def test_datasets_without_a_modality(without):
    config = replace(CONFIG, **without)
    batch = random_batch(config)
    batch = replace(batch, metadata_observed=batch.metadata_observed & bool(config.features))
    out = make_model(config)(batch)
    assert out.score.isfinite().all()
    out.score.sum().backward()


# --- gates, motifs and k-mers ----------------------------------------------------------------------------------


def test_the_gate_lets_a_motif_count_as_much_as_its_tf_is_expressed():
    """Two cell types that differ in expression alone are told apart through the sequence, not without it."""
    model, batch = make_model(), random_batch()
    same = {n: v if n in ("sequence", "metadata") else v[:, :1].expand_as(v) for n, v in vars(batch).items()}
    one = Batch(**same)
    gated = model.cell_gate(torch.ones(1, 10, 32), batch.metadata[:1], batch.metadata_observed[:1])
    assert not torch.allclose(gated[0, 0], gated[0, 1])
    unknown = model.cell_gate(torch.ones(1, 10, 32), batch.metadata[:1], torch.zeros(1, 4, dtype=torch.bool))
    torch.testing.assert_close(unknown, model.cell_gate.out(torch.ones(1, 4, 10, 32)))  # without metadata the gate is 1
    no_matches = model.cell_gate(torch.zeros(1, 10, 32), batch.metadata[:1], batch.metadata_observed[:1])
    torch.testing.assert_close(no_matches[0, 0], no_matches[0, 1])
    assert not torch.allclose(outputs(model, one)[:, 0], outputs(model, one)[:, 1])


def test_an_additive_gate_is_one_more_token_and_no_product():
    """Without a product, two cell types' metadata change what the sequence token says by nothing at all."""
    model, batch = make_model(ADDITIVE), random_batch(ADDITIVE)
    assert model.cell_gate is None and model.cell_token is not None
    with torch.no_grad():
        matches, sequence, _ = model.sequence_encoder(batch.sequence)
        tokens, _ = model.modality_tokens(batch, matches, sequence)
    assert all(torch.equal(tokens[0][:, cell], sequence) for cell in range(4))
    changed = replace(batch, metadata=batch.metadata + 1)
    assert not torch.allclose(outputs(model, changed), outputs(model, batch))
    model.start_from_motifs([("GATA1", torch.full((9, 4), 0.25))])


def test_kmers_by_hand():
    """The mean of the rows of a bin's k-mers, one row for both strands, none for a k-mer with an N."""
    content = make_model(KMERS).sequence_encoder.kmers
    codes = random_batch(KMERS).sequence
    codes[0, 25], codes[1, 40:60] = 4, 4
    with torch.no_grad():
        found = content(nn.functional.embedding(codes.int(), torch.eye(5, 4)))  # (3, 32, 10)
    names = sorted({min(word, tuple(3 - b for b in word[::-1])) for word in itertools.product(range(4), repeat=4)})
    assert content.table.weight.shape == (len(names), 32) and len(names) == 136  # (4^4 + 16 palindromes) / 2
    table = dict(zip(names, content.table.weight.detach()))
    for window, bin_ in itertools.product(range(3), range(10)):
        bases = codes[window, 20 * bin_ : 20 * bin_ + 20].tolist()
        words = [tuple(bases[i : i + 4]) for i in range(17)]
        rows = [table[min(word, tuple(3 - b for b in word[::-1]))] for word in words if 4 not in word]
        expected = torch.stack(rows).mean(0) if rows else torch.zeros(32)
        torch.testing.assert_close(found[window, :, bin_], expected, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_kmers_is_what_a_mutation_does():
    """Attribution needs no table of indices: the slope between two bases is the exact effect of exchanging them."""
    content = make_model(replace(KMERS, kmer=5)).sequence_encoder.kmers
    codes, weights = random_batch(KMERS).sequence[:1], torch.randn(32, 10, generator=torch.Generator().manual_seed(2))
    value = lambda x: (content(x)[0] * weights).sum()
    x = nn.functional.one_hot(codes.long(), 4).float().requires_grad_()
    gradient = torch.autograd.grad(value(x), x)[0][0]
    for position, base in itertools.product((0, 19, 20, 107), range(4)):
        mutated = codes.clone()
        mutated[0, position] = base
        with torch.no_grad():
            effect = value(nn.functional.one_hot(mutated.long(), 4).float()) - value(x)
        slope = gradient[position, base] - gradient[position, int(codes[0, position])]
        torch.testing.assert_close(effect, slope, atol=1e-5, rtol=1e-4)


def test_kmers_have_no_kernels_to_start_from_motifs():
    with pytest.raises(ChromaccError, match='needs sequence_tokens="patch"'):
        make_model(KMERS).start_from_motifs([("GATA1", torch.full((9, 4), 0.25))])


def test_kernels_started_from_a_motif_find_it_on_both_strands():
    model = make_model()
    site = torch.tensor([0, 2, 0, 3, 0, 0, 2, 1, 1])
    model.start_from_motifs([("GATA1", torch.nn.functional.one_hot(site, 4).double())])
    codes = torch.randint(0, 4, (2, 200), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    codes[0, 84:93] = site
    codes[1, 84:93] = 3 - site.flip(0)
    with torch.no_grad():
        matches, _, _ = model.sequence_encoder(codes)  # (2, 10 patches of 20 bp, 32)
    assert (matches[:, :, 0].argmax(1) == 4).all()
    assert model.cell_gate.of_cell.weight[0].argmax() == 1  # the gate of that channel follows GATA1's expression
    with pytest.raises(ChromaccError, match="33 motifs"):
        model.start_from_motifs([(str(i), torch.full((5, 4), 0.25)) for i in range(33)])


def test_the_scan_is_a_convolution_on_both_strands_and_a_maximum_over_each_patch():
    """In its values and in its gradients, and without a gradient too."""
    encoder, codes = make_model().sequence_encoder, random_batch().sequence.clone()
    torch.nn.init.normal_(encoder.scan.bias)
    codes[0, :25] = 4  # a patch of N alone, and one that begins with it

    def with_gradients(best):
        """What was found, and the gradients of kernels and biases."""
        encoder.zero_grad()
        (best**2).sum().backward()
        return best, encoder.scan.weight.grad, encoder.scan.bias.grad

    x = torch.eye(5, 4)[codes.long()]
    strands = [encoder.scan(y.transpose(1, 2)) for y in (x, x.flip(1, 2))]
    expected = with_gradients(torch.maximum(strands[0], strands[1].flip(2)).unflatten(2, (10, 20)).amax(3))
    for best in (encoder._best_matches(codes), encoder._pooled_scan(x)):
        torch.testing.assert_close(with_gradients(best), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder._best_matches(codes), expected[0])


@pytest.mark.parametrize("width", [51, 53, 61])
def test_the_scan_takes_kernels_of_any_length(width):
    config = ModelConfig(("a",), ("b",), ("c",), d_model=32, motif_kernel_bp=width, sequence_layers=1, encoder_layers=1)
    encoder, codes = make_model(config).sequence_encoder, random_batch(config).sequence
    expected = encoder._pooled_scan(torch.eye(5, 4)[codes.long()])
    torch.testing.assert_close(encoder._best_matches(codes), expected, atol=1e-5, rtol=1e-5)


def test_without_the_state_prior_how_like_cell_types_depart_has_no_say():
    batch = random_batch()
    other = replace(batch, prior=torch.cat([batch.prior[..., :2], batch.prior[..., 2:] + 1], -1))
    for state_prior in (True, False):
        model = make_model(replace(CONFIG, state_prior=state_prior))
        assert torch.equal(outputs(model, batch), outputs(model, other)) != state_prior


@pytest.mark.parametrize("tokens", [10, 16, 17])
def test_attention_is_that_of_torch(tokens):
    attention, x = Attention(32, 4), torch.randn(5, tokens, 32)
    q, k, v = attention.qkv(x).view(5, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(5, tokens, 32)
    got, none = attention(x)
    torch.testing.assert_close(got, attention.out(expected), atol=1e-5, rtol=1e-5)
    asked, weights = attention(x, return_weights=True)
    assert none is None and torch.equal(asked, got)
    assert weights.shape == (5, 4, tokens, tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4, tokens))


# --- training: the start, depth, and whether it can fit --------------------------------------------------------


def test_dropout_from_bytes_drops_its_share_keeps_the_mean_and_is_off_in_evaluation():
    dropout, x = ByteDropout(0.1), torch.ones(200_001)
    torch.manual_seed(0)
    y = dropout(x)
    assert abs((y == 0).float().mean() - 26 / 256) < 0.005 and abs(y.mean() - 1) < 0.01
    assert torch.equal(dropout.eval()(x), x)


def test_twice_the_depth_starts_at_the_same_scale():
    """Residual branches shrink with depth, so a deep stack's tokens do not grow at the start."""
    batch = random_batch()
    scales = []
    for layers in (6, 24):
        model = make_model(replace(CONFIG, encoder_layers=layers))
        caught = []
        model.encoder.norm.register_forward_pre_hook(lambda module, args: caught.append(args[0].std()))
        outputs(model, batch)
        scales.append(float(caught[0]))
    assert 0.5 < scales[1] / scales[0] < 2


class NonlinearOps(TorchDispatchMode):
    """Notes each non-linear operation, and the innermost module that it runs in."""

    NAMES = ("gelu", "softmax", "max_pool", "maximum", "relu", "sigmoid", "tanh", "amax", "exp", "abs")

    def __init__(self):
        super().__init__()
        self.inside, self.met = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if any(part in name for part in self.NAMES) and args[0].is_floating_point() and "expand" not in name:
            self.met.append((name, self.inside[-1]))
        return func(*args, **(kwargs or {}))


@ARCHITECTURES
def test_every_nonlinearity_is_a_module_that_is_called_once(config):
    """DeepLIFT and hooks need it, in a forward pass of one-hot DNA, which they are given."""
    model, batch, ops = make_model(config), random_batch(config), NonlinearOps()
    for module in model.modules():
        module.register_forward_pre_hook(lambda m, args: ops.inside.append(m))
        module.register_forward_hook(lambda m, args, out: ops.inside.pop() and None)
    kinds = nn.GELU | nn.Softmax | nn.MaxPool1d | nn.MaxPool2d
    with torch.no_grad(), ops:
        model(replace(batch, sequence=torch.eye(5, 4)[batch.sequence.long()]))
    # whether a window has any base, which masks it, is asked of the sequence outside of every module that learns
    met = [(name, module) for name, module in ops.met if not (name == "amax" and module is model)]
    assert met and all(isinstance(module, kinds) for _, module in met), [(n, type(m)) for n, m in met]
    callers = [id(module) for _, module in met]
    blocks, pools = config.sequence_layers + config.encoder_layers, 3 if config.sequence_tokens == "patch" else 0
    heads_and_encoders = 2 + config.histone_blocks + 1 + 1  # score and label; histone, TF and sequence encoders
    assert len(callers) == len(set(callers)) == 2 * blocks + pools + heads_and_encoders + 1  # and the fusion's softmax


def test_the_loss_starts_where_theory_puts_it():
    """With a prior the score starts as the prior and its departure (the MSE within 2%, of the profile 10%); without one at the training
    mean (within 2% of the spread about it), and the label at the base rate, whose entropy is its loss (within 2%)."""
    config = ModelConfig(("a", "b"), ("c",), ("d", "e"), score_mean=1.5, positive_share=0.2)
    torch.manual_seed(0)
    model, batch = ChromaccModel(config).eval(), random_batch(config, b=5, c=8)
    batch = replace(batch, prior=batch.prior + torch.tensor([1.5, 1.5, 0]), prior_score=batch.prior_score + 1.5)
    target = random_target(b=5, c=8, t=15, positive=0.2, mean=1.5)
    terms = lambda batch: {name: term.item() for name, term in TrainingConfig().objective(0.5)(model(batch), batch, target)[1].items()}
    with torch.no_grad():
        known, unknown = terms(batch), terms(replace(batch, prior_observed=torch.zeros_like(batch.prior_observed)))
    mse = lambda answer, truth: ((answer - truth) ** 2).mean().item()
    departure = batch.prior[..., 2]
    assert known["score"] == pytest.approx(mse(batch.prior_score + departure.mean(2), target.score), rel=0.02)
    assert known["profile"] == pytest.approx(mse(batch.prior[..., 0] + departure, target.profile), rel=0.1)
    assert unknown["score"] == pytest.approx(mse(1.5, target.score), rel=0.02)
    assert unknown["label"] == pytest.approx(-0.2 * math.log(0.2) - 0.8 * math.log(0.8), rel=0.02)


@ARCHITECTURES
def test_one_batch_is_learned_by_heart(config):
    config = replace(config, dropout=0.0)
    torch.manual_seed(0)
    losses, _ = fit(ChromaccModel(config), random_batch(config), random_target(), steps=140, rate=6e-3)
    assert losses[-1] < 0.01 * losses[0], losses[::20]


def test_twice_the_depth_trains_as_steadily():
    """The gradient's norm at the start stays within a factor of 1.5 of the default depth's, and the loss falls."""
    norms = []
    for times in (1, 2):
        config = replace(CONFIG, sequence_layers=4 * times, encoder_layers=6 * times)
        torch.manual_seed(0)
        losses, norm = fit(ChromaccModel(config), random_batch(config), random_target(), steps=30, rate=1e-3)
        norms.append(norm)
        assert np.isfinite(losses).all() and losses[-1] < 0.8 * losses[0], losses
    assert 1 / 1.5 < norms[1] / norms[0] < 1.5, norms


@ARCHITECTURES
def test_a_saved_model_is_the_same_when_it_is_loaded(config, tmp_path):
    model, batch = make_model(config), random_batch(config)
    fit(model.train(), batch, random_target(), steps=2, rate=1e-2)  # the statistics of its normalisation move, too
    result = TrainingResult(model.eval(), pd.DataFrame({"epoch": [1]}), 1, "cpu", "nothing", {})
    save_model(result, TrainingConfig(), tmp_path, {}, card="")
    loaded = load_model(tmp_path)
    assert loaded.config == config and not loaded.training
    assert torch.equal(outputs(loaded, batch), outputs(model, batch))
