"""Every term of the loss against a hand-worked value, and what it does with what is unknown."""

import math

import pytest
import torch

from chromacc_lib import ChromaccError
from chromacc_lib.batches import Target
from chromacc_lib.model import Batch, Output
from chromacc_lib.training import TrainingConfig

NAN = math.nan


def terms(score=((1.0, NAN),), predicted=((3.0, 9.0),), label=((1, -1),), logit=((0.0, 5.0),),
          profile=(((0.0, 1.0), (NAN, NAN)),), out=(((0.5, 0.5), (7.0, 7.0)),), shown=None, positive_share=0.5,
          **settings):  # fmt: skip
    """One window, two cell types, two bins: (loss, terms) as plain numbers."""
    target = Target(torch.tensor(score), torch.tensor(label), torch.tensor(profile))
    observed = torch.tensor(shown) if shown else torch.zeros(target.profile.shape, dtype=torch.bool)
    empty = dict.fromkeys(Batch.__dataclass_fields__)
    batch = Batch(**(empty | {"accessibility_observed": observed}))
    loss, parts = TrainingConfig(**settings).objective(positive_share)(Output(*map(torch.tensor, (predicted, logit, out))), batch, target)
    return loss.item(), {name: value.item() for name, value in parts.items()}


def test_defaults_by_hand():
    loss, parts = terms()
    assert parts == pytest.approx({"score": 4.0, "profile": 0.25, "label": math.log(2)})
    assert loss == pytest.approx(4.0 + 0.2 * 0.25 + 0.1 * math.log(2))


def test_huber_counts_large_errors_linearly():
    assert terms(score_loss="huber")[1]["score"] == pytest.approx(2 - 0.5)
    assert terms(score_loss="huber", predicted=((1.5, 0.0),))[1]["score"] == pytest.approx(0.5 * 0.5 ** 2)


def test_revealed_tokens_have_no_say():
    parts = terms(shown=[[[True, False], [False, False]]])[1]
    assert parts["profile"] == pytest.approx(0.25)
    assert terms(out=(((99.0, 1.0), (0.0, 0.0)),), shown=[[[True, False], [False, False]]])[1]["profile"] == 0


def test_poisson_is_lowest_at_the_measured_fold():
    def at(x):
        return terms(profile_loss="poisson", profile=(((2.0, 2.0), (NAN, NAN)),), out=(((x, x), (0.0, 0.0)),))[1]["profile"]

    assert at(2.0) == pytest.approx(math.sinh(2) - math.sinh(2) * math.log(math.sinh(2)), rel=1e-3)
    assert at(2.0) < at(1.9) and at(2.0) < at(2.1)


def test_multinomial_sees_the_shape_and_not_the_amount():
    def at(a, b, scale=1.0):
        fold = (((math.asinh(1.0), math.asinh(3.0)), (NAN, NAN)),)
        out = (((math.asinh(scale * a), math.asinh(scale * b)), (0.0, 0.0)),)
        return terms(profile_loss="multinomial", profile=fold, out=out)[1]["profile"]

    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 2  # over two hidden tokens
    assert at(10.0, 30.0) == pytest.approx(entropy, rel=1e-3) and at(20.0, 60.0) == pytest.approx(entropy, rel=1e-3)
    assert at(30.0, 10.0) > at(20.0, 20.0) > entropy


def test_focal_and_balance_by_hand():
    p = 1 / (1 + math.exp(-1.0))
    sure = terms(logit=((1.0, 0.0),), label_loss="focal")[1]["label"]
    assert sure == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-5)
    rare = terms(logit=((1.0, 0.0),), class_balance=True, positive_share=0.1)[1]["label"]
    assert rare == pytest.approx(-5 * math.log(p), rel=1e-5)
    common = terms(label=((0, -1),), logit=((-1.0, 0.0),), class_balance=True, positive_share=0.1)[1]["label"]
    assert common == pytest.approx(-0.5 / 0.9 * math.log(p), rel=1e-5)


def test_a_choice_that_is_not_known_is_refused_with_those_that_are():
    for name in ("score_loss", "profile_loss", "label_loss"):
        with pytest.raises(ChromaccError, match=f"{name}='mae' is not known; allowed: "):
            TrainingConfig(**{name: "mae"})
