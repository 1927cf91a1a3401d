"""The forward that is trained equals the forward that is served."""

import math

import numpy as np
import pytest
import torch

from models.encoder.stack import Stack
from models.folders.parameters import optional_shapes, parameter_shapes
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.training import language
from models.training.plan import Plan
from tests.fakes import fake_card

VOCABULARY = 11
PLANS = {
    "bare": Plan(d_model=8, heads=2),
    "bare, two layers, learned positions": Plan(
        d_model=8, heads=2, layers=2, positions="learned", context=16
    ),
    "transformer": Plan(d_model=8, heads=2, layers=3, block="transformer"),
}
every_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def learned(plan: Plan) -> language.Parameters:
    """Parameters as training might leave them: no zeros or ones to hide behind."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: one + 0.3 * torch.randn(one.shape, generator=generator)
        for name, one in language.initial(plan.spec(VOCABULARY), seed=0).items()
    }


@every_plan
def test_training_and_serving_compute_the_same(plan: Plan) -> None:
    spec, parameters = plan.spec(VOCABULARY), learned(plan)
    card = fake_card(layers=spec.layers, heads=spec.heads, key_heads=2, d_model=8, d_k=4, d_v=4)
    chosen = Selection(outputs=("hidden",), layers=(spec.layers - 1,))
    ids = [np.array([1, 5, 5, 2, 9, 10]), np.array([3]), np.array([7, 0, 4])]
    items = [Item(card=card, input=Tokens(ids=one), selection=chosen) for one in ids]
    answers = Stack(spec, parameters, torch.device("cpu")).run(items)
    for one, answer in zip(ids, answers, strict=True):
        assert isinstance(answer, Answer)
        served = torch.from_numpy(answer.tensors["hidden"]) @ parameters["head.weight"].T
        trained = language.logits(spec, parameters, torch.from_numpy(one)[None])[0]
        torch.testing.assert_close(served, trained, rtol=1e-5, atol=1e-5)


@every_plan
def test_no_token_reads_a_later_one(plan: Plan) -> None:
    spec, parameters = plan.spec(VOCABULARY), learned(plan)
    ids = torch.tensor([[1, 5, 2, 9], [1, 5, 8, 0]])
    predicted = language.logits(spec, parameters, ids)
    torch.testing.assert_close(predicted[0, :2], predicted[1, :2])
    assert not torch.allclose(predicted[0, 2:], predicted[1, 2:])


@every_plan
def test_parameters_are_those_of_the_specification_and_the_head(plan: Plan) -> None:
    spec = plan.spec(VOCABULARY)
    shapes = {name: tuple(one.shape) for name, one in language.initial(spec, seed=0).items()}
    assert shapes == parameter_shapes(spec) | optional_shapes(spec)


def test_initial_predictions_are_near_uniform_and_follow_the_seed() -> None:
    spec = Plan(layers=2, block="transformer").spec(200)
    parameters = language.initial(spec, seed=4)
    ids = torch.arange(200).reshape(10, 20)
    chances = language.logits(spec, parameters, ids).log_softmax(-1)
    assert -chances.mean().item() == pytest.approx(math.log(200), rel=0.2)
    again, other = language.initial(spec, seed=4), language.initial(spec, seed=5)
    assert all(torch.equal(parameters[name], again[name]) for name in parameters)
    assert not torch.equal(parameters["head.weight"], other["head.weight"])
