"""Attention as one call gives the bits of the operators one after another, and knows its limits."""

import numpy as np
import pytest
import torch

from models.outputs import Selection
from models.packed import SHORT, short_tokens
from models.parts import Part
from models.plain import Plain
from models.protocol import Answer, Failure, Item, Tokens
from models.spec import AttentionSpec, ModelSpec, ProjectionSpec
from models.stack import Stack
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

LENGTHS = (5, 1, 33, SHORT)

pytestmark = pytest.mark.usefixtures("short_attention_by")

ALL = (
    "z",
    "weights",
    "top_k_keys",
    "top_k_weights",
    "top_k_rest",
    "entropy",
    "received",
    "queries",
    "values",
)
SPECS = {
    "bare": ModelSpec(d_model=12, heads=3),
    "wide enough to be packed": ModelSpec(d_model=128, heads=4),
    "causal": ModelSpec(d_model=12, heads=3, attention=AttentionSpec(causal=True)),
    "grouped": ModelSpec(d_model=16, heads=4, kv_heads=2),
    "one key head": ModelSpec(d_model=16, heads=4, kv_heads=1, layers=2),
    "no output, no bias": ModelSpec(
        d_model=12, heads=3, projection=ProjectionSpec(output="identity", bias=False), layers=2
    ),
}


def stack_and_card(spec: ModelSpec):
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(spec).items()}
    card = fake_card(
        d_model=spec.d_model,
        heads=spec.heads,
        key_heads=spec.key_heads,
        d_k=spec.key_width,
        d_v=spec.value_width,
        layers=spec.layers,
    )
    return Stack(spec, parameters, torch.device("cpu")), card


def items_of(card, spec: ModelSpec, outputs: tuple[str, ...], lengths=LENGTHS) -> list[Item]:
    chance = np.random.default_rng(0)
    last = spec.layers - 1
    return [
        Item(
            card=card,
            input=Tokens(embeddings=chance.standard_normal((length, spec.d_model), dtype=np.float32)),
            selection=Selection(outputs=outputs, layers=(last,), top_k=3),
        )
        for length in lengths
    ]


@pytest.mark.parametrize("outputs", [("z",), ("z", "weights"), ALL], ids=["z", "weights", "all"])
@pytest.mark.parametrize("name", SPECS)
def test_one_call_gives_the_same_bits(
    name: str, outputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    stack, card = stack_and_card(spec)
    items = items_of(card, spec, outputs)
    calls = []
    whole = Plain.__call__

    def noted(self, *given):
        found = whole(self, *given)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(Plain, "__call__", noted)
    in_one = stack.run(items)
    assert calls == [True] * spec.layers
    monkeypatch.setattr(Plain, "__call__", lambda *_: None)
    for ours, theirs in zip(in_one, stack.run(items), strict=True):
        assert isinstance(ours, Answer)
        assert isinstance(theirs, Answer)
        for output in outputs:
            np.testing.assert_array_equal(ours.tensors[output], theirs.tensors[output])


def test_a_poisoned_sequence_fails_alone() -> None:
    spec = SPECS["bare"]
    stack, card = stack_and_card(spec)
    items = items_of(card, spec, ("z", "weights"))
    expected = stack.run([items[0], items[2]])
    huge = np.full((4, spec.d_model), 3e38, dtype=np.float32)
    items[1] = Item(card=card, input=Tokens(embeddings=huge), selection=items[1].selection)
    first, poisoned, third, _ = stack.run(items)
    assert isinstance(poisoned, Failure)
    assert poisoned.code == "not_finite"
    for ours, theirs in zip((first, third), expected, strict=True):
        assert isinstance(ours, Answer)
        assert isinstance(theirs, Answer)
        np.testing.assert_allclose(ours.tensors["z"], theirs.tensors["z"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "length"),
    [
        (SPECS["bare"], None),
        (ModelSpec(d_model=12, heads=3, attention=AttentionSpec(causal=True, left_window=2)), 9),
        (ModelSpec(d_model=12, heads=3, attention=AttentionSpec(softcap=2.0)), 9),
        (ModelSpec(d_model=12, heads=3, attention=AttentionSpec(similarity="cosine", scale=3.0)), 9),
    ],
    ids=["long", "window", "softcap", "cosine"],
)
def test_what_is_not_plain_takes_the_steps(spec: ModelSpec, length: int | None) -> None:
    stack, _ = stack_and_card(spec)
    (plain,) = stack._plain
    assert plain is not None
    length = length or short_tokens() + 1
    assert plain(torch.randn(length, spec.d_model), [Part(slice(0, length))]) is None


def test_what_stands_between_projection_and_attention_forbids_one_call() -> None:
    for spec in (
        ModelSpec(d_model=12, heads=3, projection=ProjectionSpec(qk_norm="rms")),
        ModelSpec(d_model=12, heads=3, d_k=4, d_v=2),
        ModelSpec(d_model=12, heads=3, projection=ProjectionSpec(query="mlp", activation="relu")),
    ):
        assert stack_and_card(spec)[0]._plain == [None]
