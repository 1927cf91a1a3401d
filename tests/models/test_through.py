"""Several blocks as one call: the same bits as one after another, and no further than z is finite."""

import numpy as np
import pytest
import torch

from models.compiled.native import native
from models.compiled.through import Through
from models.device.steps import finish
from models.encoder.stack import Stack
from models.outputs import Selection
from models.protocol import Answer, Failure, Item, Tokens
from models.spec import FeedForwardSpec, ModelSpec, NormSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

pytestmark = pytest.mark.skipif(native() is None, reason="Heed was installed without a C compiler")

LENGTHS = (1, 17, 5, 40)
SPECS = {
    placement: ModelSpec(
        d_model=24,
        heads=3,
        layers=4,
        residual=True,
        norm=NormSpec(kind="layer", placement=placement),
        feed_forward=FeedForwardSpec(d_ff=40, kind="gated" if placement == "pre" else "mlp"),
    )
    for placement in ("pre", "post", "sandwich")
}


def stack_of(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, *, spoil: int | None = None) -> Stack:
    """The stack of a specification by compiled code alone; in layer `spoil` numbers overflow."""
    monkeypatch.setattr("models.encoder.linear._fastest", {})
    monkeypatch.setattr("models.encoder.linear._measured", lambda *_, preferred: preferred)
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    if spoil is not None:
        parameters[f"layers.{spoil}.attention.value.weight"] *= 1e38
        parameters[f"layers.{spoil}.attention.value.weight"] *= 1e38
    return Stack(spec, parameters, torch.device("cpu"))


def items_of(spec: ModelSpec, *layers: int, outputs: tuple[str, ...] = ("hidden",)) -> list[Item]:
    chance = np.random.default_rng(0)
    card = fake_card(d_model=spec.d_model, heads=spec.heads, layers=spec.layers)
    rows = [chance.standard_normal((length, spec.d_model), dtype=np.float32) for length in LENGTHS]
    asked = [layers[at % len(layers)] for at in range(len(LENGTHS))]
    return [
        Item(card=card, input=Tokens(embeddings=x), selection=Selection(outputs=outputs, layers=(layer,)))
        for x, layer in zip(rows, asked, strict=True)
    ]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blocks each call did."""
    counts: list[int] = []
    run = Through.run

    def counted(self: Through) -> int:
        counts.append(run(self))
        return counts[-1]

    monkeypatch.setattr(Through, "run", counted)
    return counts


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(
    ("layers", "before"), [((3,), 3), ((3, 2), 2), ((1,), 1)], ids=["last", "two", "one"]
)
def test_blocks_of_which_nothing_is_asked_are_one_call_and_the_same_bits(
    name: str, layers: tuple[int, ...], before: int, done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, items = stack_of(SPECS[name], monkeypatch), items_of(SPECS[name], *layers)
    one_by_one = finish(stack.steps(items))
    assert done == []
    for found, expected in zip(stack.run(items), one_by_one, strict=True):
        assert isinstance(found, Answer)
        assert isinstance(expected, Answer)
        np.testing.assert_array_equal(found.tensors["hidden"], expected.tensors["hidden"])
    assert done == [before]


def test_the_first_block_is_not_noted_where_something_is_asked_of_it(
    done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["pre"]
    assert all(isinstance(one, Answer) for one in stack_of(spec, monkeypatch).run(items_of(spec, 0, 3)))
    assert done == []


def test_what_overflows_ends_the_call_and_only_what_it_spoils_fails(
    done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["pre"]
    stack, items = stack_of(spec, monkeypatch, spoil=2), items_of(spec, 3)
    one_by_one = finish(stack.steps(items))
    found = stack.run(items)
    assert done == [2]
    assert any(isinstance(one, Failure) for one in found)
    assert [type(one) for one in found] == [type(one) for one in one_by_one]


def test_a_long_batch_goes_block_by_block(done: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS["pre"]
    monkeypatch.setattr("models.encoder.layers.plans.STEP_ROWS", sum(LENGTHS) // 2 - 1)
    assert all(isinstance(one, Answer) for one in stack_of(spec, monkeypatch).run(items_of(spec, 3)))
    assert done == []
