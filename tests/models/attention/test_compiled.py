"""Attention with its projections as one call of compiled code gives the bits of one after another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.compiled import native
from models.compiled.native import Native
from models.encoder.block import Block
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, ProjectionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import card_of
from tests.slow_stack import random_parameters

LENGTHS = (5, 1, 33, 128)

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
    "two layers": ModelSpec(d_model=12, heads=3, layers=2),
    "no output, no bias": ModelSpec(
        d_model=12, heads=3, projection=ProjectionSpec(output="identity", bias=False), layers=2
    ),
}


def stack_and_card(spec: ModelSpec):
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(spec).items()}
    card = card_of(spec)
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
    backend: str, name: str, outputs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    calls: list[int] = []
    if backend == "compiled":
        one_call = Native.block
        monkeypatch.setattr(Native, "block", lambda *a, **n: calls.append(1) or one_call(*a, **n))
    stack, card = stack_and_card(spec)
    items = items_of(card, spec, outputs)
    in_one = stack.run(items)
    assert len(calls) == (spec.layers if backend == "compiled" else 0)
    monkeypatch.setattr(Block, "projected", lambda *_: None)
    apart, _ = stack_and_card(spec)
    calls.clear()
    for ours, theirs in zip(in_one, apart.run(items), strict=True):
        assert isinstance(ours, Answer)
        assert isinstance(theirs, Answer)
        for output in outputs:
            np.testing.assert_array_equal(ours.tensors[output], theirs.tensors[output])
    assert calls == []


def test_what_stands_between_projection_and_attention_forbids_one_call(
    backend: str, monkeypatch: pytest.MonkeyPatch, computed
) -> None:
    monkeypatch.setattr(Native, "block", None)
    for spec in (
        ModelSpec(d_model=12, heads=3, projection=ProjectionSpec(query="mlp", activation="relu")),
        ModelSpec(d_model=12, heads=3, projection=ProjectionSpec(value="identity")),
    ):
        stack, card = stack_and_card(spec)
        assert all(isinstance(one, Answer) for one in stack.run(items_of(card, spec, ("z",))))
        assert computed() == [(0, backend, [0, 1, 2, 3])]


def test_z_is_one_call_still_and_the_same_to_the_bit_where_heads_are_asked_of_another_layer(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["two layers"]
    calls: list[int] = []
    if backend == "compiled":
        one_call = Native.block
        monkeypatch.setattr(Native, "block", lambda *a, **n: calls.append(1) or one_call(*a, **n))
    stack, card = stack_and_card(spec)
    (item,) = items_of(card, spec, ("z",), lengths=(9,))
    (alone,) = stack.run([item])
    counts = [len(calls)]
    names = ("z", "z_heads", "output_norms", "embedded")
    (both,) = stack.run([replace(item, selection=replace(item.selection, outputs=names))])
    counts.append(len(calls) - counts[0])
    assert counts == ([2, 2] if backend == "compiled" else [0, 0])
    assert isinstance(alone, Answer)
    assert isinstance(both, Answer)
    np.testing.assert_array_equal(alone.tensors["z"], both.tensors["z"])


def test_compiled_code_is_asked_for_when_a_model_is_made_and_not_again(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS["two layers"]
    stack, card = stack_and_card(spec)
    asked: list[int] = []
    monkeypatch.setattr(native, "load_native", lambda: asked.append(1))
    for outputs in (("z",), ALL):
        assert all(isinstance(one, Answer) for one in stack.run(items_of(card, spec, outputs)))
    assert asked == []
