"""The model: what it must not depend on, what it must not see, and what its attention and gates do."""

from dataclasses import replace

import pytest
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.model import MODALITIES, Attention, Batch, ByteDropout, ChromaccModel, ModelConfig

CONFIG = ModelConfig(
    histone_marks=("H3K27ac", "H3K4me3"), tfs=("CTCF",), features=("CTCF", "GATA1"), window_bp=200, n_bins=10,
    d_model=32, sequence_layers=2, encoder_layers=2, encoder_heads=4, histone_filters=16, tf_hidden=16, score_hidden=8,
)  # fmt: skip


def random_batch(config=CONFIG, b=3, c=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    t, m, f, e = config.n_bins, len(config.histone_marks), len(config.tfs), len(config.features)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    yes = lambda *shape: torch.ones(*shape, dtype=torch.bool)
    return Batch(
        sequence=torch.randint(0, 4, (b, config.window_bp), generator=g, dtype=torch.uint8),
        histone=normal(b, c, m, t, 3), histone_observed=yes(b, c, m), tf=normal(b, c, f, t, 3), tf_observed=yes(b, c, f),
        metadata=normal(b, c, e), metadata_observed=yes(b, c), prior=normal(b, c, t, 2), prior_score=normal(b, c),
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


def test_shapes():
    out = make_model()(random_batch())
    assert out.score.shape == out.logit.shape == (3, 4) and out.profile.shape == (3, 4, 10) and out.attention is None


def test_defaults_are_the_designs_sizes():
    config = ModelConfig(("a",), ("b",), ("c",))
    assert (config.d_model, config.sequence_layers, config.sequence_heads) == (128, 4, 4)
    assert (config.histone_filters, config.histone_blocks, config.tf_hidden) == (64, 3, 128)
    assert (config.encoder_layers, config.encoder_heads, config.dropout, config.score_hidden) == (6, 8, 0.1, 64)


def test_bins_that_do_not_divide_the_window_are_refused_with_those_that_do():
    with pytest.raises(ChromaccError, match=r"n_bins=16 does not divide window_bp=1500.*\[5, 6, 10, 12, 15"):
        ModelConfig((), (), (), n_bins=16)


def test_asking_for_attention_changes_no_prediction():
    model, batch = make_model(), random_batch()
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


def test_predictions_do_not_depend_on_the_company_in_the_batch():
    model, batch = make_model(), random_batch()
    alone = Batch(**{name: value[1:2] if name == "sequence" else value[1:2, 2:3] for name, value in vars(batch).items()})
    torch.testing.assert_close(outputs(model, alone)[0, 0], outputs(model, batch)[1, 2], atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = Batch(**{n: v if n == "sequence" else v[:, order] for n, v in vars(batch).items()})
    torch.testing.assert_close(outputs(model, shuffled), outputs(model, batch)[:, order], atol=1e-5, rtol=0)


def test_codes_and_one_hot_are_the_same_sequence():
    model, batch = make_model(), random_batch()
    one_hot = torch.nn.functional.one_hot(batch.sequence.long(), 4).float()
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


def test_a_window_of_n_is_masked_as_sequence_and_predicted():
    model, batch = make_model(), random_batch()
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


def test_the_gate_lets_a_motif_count_as_much_as_its_tf_is_expressed():
    """Two cell types that differ in expression alone are told apart through the sequence, not without it."""
    model, batch = make_model(), random_batch()
    same = {n: v if n in ("sequence", "metadata") else v[:, :1].expand_as(v) for n, v in vars(batch).items()}
    one = Batch(**same)
    gated = model.cell_gate(torch.ones(1, 10, 32), batch.metadata[:1], batch.metadata_observed[:1])
    assert not torch.allclose(gated[0, 0], gated[0, 1])
    no_matches = model.cell_gate(torch.zeros(1, 10, 32), batch.metadata[:1], batch.metadata_observed[:1])
    torch.testing.assert_close(no_matches[0, 0], no_matches[0, 1])
    assert not torch.allclose(outputs(model, one)[:, 0], outputs(model, one)[:, 1])


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
    encoder, codes = make_model().sequence_encoder, random_batch().sequence
    torch.nn.init.normal_(encoder.scan.bias)
    found, expected = [], []
    for scores in (found, expected):
        x = torch.nn.functional.one_hot(codes.long(), 4).float().requires_grad_()
        if scores is found:
            best = encoder._best_matches(x)
        else:
            strands = [encoder.scan(y.transpose(1, 2)) for y in (x, x.flip(1, 2))]
            best = torch.maximum(strands[0], strands[1].flip(2)).unflatten(2, (10, 20)).amax(3)
        encoder.zero_grad()
        (best**2).sum().backward()
        scores += [best, x.grad, encoder.scan.weight.grad, encoder.scan.bias.grad]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(encoder._best_matches(x), expected[0])


@pytest.mark.parametrize("tokens", [10, 16, 17])
def test_attention_is_that_of_torch(tokens):
    attention, x = Attention(32, 4), torch.randn(5, tokens, 32)
    q, k, v = attention.qkv(x).view(5, tokens, 3, 4, 8).permute(2, 0, 3, 1, 4)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(5, tokens, 32)
    torch.testing.assert_close(attention(x)[0], attention.out(expected), atol=1e-5, rtol=1e-5)
    weights = attention(x, return_weights=True)[1]
    assert weights.shape == (5, 4, tokens, tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4, tokens))


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
