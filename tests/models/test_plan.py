"""A plan refuses numbers that cannot be trained with, and sets the learning rate of every step."""

import math

import pytest

from models.errors import SpecError
from models.spec import ModelSpec
from models.training.plan import Plan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("layers", 0),
        ("context", -1),
        ("batch", 0),
        ("vocabulary", 1),
        ("seed", -1),
        ("seed", 2**31),
        ("evaluate_every", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SpecError, match=name):
        Plan(**{name: value})


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SpecError, match="multiple of heads"):
        Plan(d_model=10, heads=4).spec(9)


@pytest.mark.parametrize("block", ["bare", "transformer"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_the_specification_reads_back_from_its_configuration(block: str, positions: str) -> None:
    spec = Plan(layers=2, block=block, positions=positions).spec(50)
    assert ModelSpec.from_config(spec.to_config()) == spec
    assert spec.attention.causal
    assert spec.blocks == (block == "transformer")


def test_the_rate_warms_up_then_falls_to_nearly_nothing() -> None:
    plan = Plan(steps=1000, learning_rate=0.5)
    rates = [plan.rate(step) for step in range(plan.steps)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 50 < top < 150
    assert 0.45 < rates[top] <= 0.5
    assert 0 < rates[-1] < 1e-4
