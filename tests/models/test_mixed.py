"""`mixed` and `share` against float64: sums of eager attention's weights over heads, rows and columns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.compiled import native
from models.edit import Edit
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import Mix, Selection, Share, Spans
from models.protocol import Answer, Failure, Item, Tokens
from models.shapes import shape_of
from models.spec import ModelSpec
from tests.eager_attention import Family
from tests.eager_attention import family as family
from tests.eager_attention import itself as itself
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

Array = np.ndarray[Any, np.dtype[np.float64]]
PAIRS = ((2, 1), (0, 3), (2, 0), (1, 2), (0, 0))
WEIGHTS = (0.7, -1.5, 0.25, 3.0, 1.0)
MIX = Mix(pairs=PAIRS, weights=WEIGHTS)
COLUMNS = ((0, 5), (3, 16), (15, 16), (2, 2))
ROWS = (17, 2, 9)


def mixture_of(weights_LHTS: Array, mix: Mix, rows: tuple[int, ...] | None = None) -> Array:
    """What is mixed, by the words of the contract."""
    mixed = sum(times * weights_LHTS[pair] for pair, times in zip(mix.pairs, mix.weights, strict=True))
    assert isinstance(mixed, np.ndarray)
    mixed = mixed if rows is None else mixed[list(rows)]
    if mix.columns is not None:
        mixed = np.stack([mixed[:, start:stop].sum(1) for start, stop in mix.columns], 1)
    if mix.reduce:
        mixed = mixed.sum(0) if mix.reduce == "sum" else mixed.mean(0)
    mixed = mixed + mix.bias
    return 1 / (1 + np.exp(-mixed)) if mix.sigmoid else mixed


def contacts_of(weights_LHTS: Array, mix: Mix) -> Array:
    """Maps of contacts, as Rao et al., 2020, make them: one head's after another."""
    total = np.full((1, 1), mix.bias)
    for pair, times in zip(mix.pairs, mix.weights, strict=True):
        a = weights_LHTS[pair]
        a = a[mix.skip[0] : len(a) - mix.skip[1], mix.skip[0] : len(a) - mix.skip[1]]
        a = a + a.T if mix.symmetric else a
        if mix.apc:
            a = a - a.sum(1, keepdims=True) * a.sum(0, keepdims=True) / a.sum()
        total = total + times * a
    return 1 / (1 + np.exp(-total)) if mix.sigmoid else total


def share_of(weights: Array, of: Spans, over: Spans) -> Array:
    """A share [..., T], each key counted once."""
    masses = []
    for spans in (of, over):
        keys = sorted({key for start, stop in spans for key in range(start, stop)})
        masses.append(weights[..., keys].sum(-1))
    return np.divide(masses[0], masses[1], out=np.zeros_like(masses[0]), where=masses[1] > 0)


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
@pytest.mark.parametrize("reduce", [None, "mean", "sum"])
@pytest.mark.parametrize("columns", [None, COLUMNS], ids=["keys", "columns"])
def test_a_mixture_is_the_weighted_sum_of_its_heads(
    family: Family, rows: tuple[int, ...] | None, reduce: Any, columns: Spans | None
) -> None:
    tokens = family.given(20)
    mix = replace(MIX, columns=columns, reduce=reduce)
    (made,) = family.run(tokens, Selection(outputs=("mixed",), mix=mix, rows=rows))
    wanted = mixture_of(family.weights(tokens), mix, rows)
    assert made["mixed"].shape == wanted.shape
    np.testing.assert_allclose(made["mixed"], wanted, atol=1e-5)


def test_a_bias_and_the_logistic_function_come_last(family: Family) -> None:
    tokens = family.given(20)
    for mix in (replace(MIX, bias=-0.4, sigmoid=True), replace(MIX, columns=COLUMNS, reduce="sum", bias=2.0)):
        (made,) = family.run(tokens, Selection(outputs=("mixed",), mix=mix))
        np.testing.assert_allclose(made["mixed"], mixture_of(family.weights(tokens), mix), atol=1e-5)


def test_z_and_a_mixture_of_other_heads_than_are_chosen_are_made_beside_each_other(family: Family) -> None:
    tokens = family.given(20)
    alone = Selection(outputs=("z", "weights", "received"), layers=(1,), heads=(3, 1), rows=ROWS)
    beside = replace(alone, outputs=("mixed", *alone.outputs), mix=replace(MIX, columns=COLUMNS))
    of_one, of_both = family.run(tokens, alone, beside)
    for name, tensor in of_one.items():
        np.testing.assert_allclose(of_both[name], tensor, atol=1e-6)
    wanted = mixture_of(family.weights(tokens), replace(MIX, columns=COLUMNS), ROWS)
    np.testing.assert_allclose(of_both["mixed"], wanted, atol=1e-5)


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
def test_shares_of_pairs_and_of_heads_are_mass_over_mass(
    family: Family, rows: tuple[int, ...] | None
) -> None:
    tokens = family.given(20)
    share = Share(of=((0, 3), (9, 10)), over=((8, 10), (0, 3), (10, 11), (2, 7)))
    of_pairs = Selection(outputs=("share",), pairs=PAIRS, rows=rows, share=share)
    of_heads = replace(of_pairs, pairs=None, heads=(2, 0), layers=(2, 1), layer_axis=True)
    paired, headed = family.run(tokens, of_pairs, of_heads)
    weights = family.weights(tokens)
    wanted = share_of(weights, share.of, share.over)[..., list(rows) if rows else slice(None)]
    np.testing.assert_allclose(paired["share"], np.stack([wanted[pair] for pair in PAIRS]), atol=1e-5)
    np.testing.assert_allclose(headed["share"], wanted[[2, 1]][:, [2, 0]], atol=1e-5)


def test_a_share_of_nothing_is_0(family: Family) -> None:
    tokens = family.given(20)
    share = Share(of=((5, 6),), over=((19, 20),)) if not family.card.part else Share(of=((5, 6),), over=())
    (made,) = family.run(tokens, Selection(outputs=("share",), layers=(0,), share=share))
    causal = family.card.family not in ("bert", "bart")
    nothing = made["share"][:, :19] if causal else made["share"][:, :0]
    assert not nothing.any()
    assert np.isfinite(made["share"]).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"symmetric": True, "apc": True, "skip": (1, 1), "bias": -0.4, "sigmoid": True},
        {"symmetric": True, "skip": (0, 2)},
        {"apc": True},
        {"skip": (3, 0), "bias": 1.0},
        {"symmetric": True, "apc": True},
    ],
    ids=["as ESM", "symmetric", "corrected", "cut", "whole"],
)
def test_maps_of_contacts_are_those_of_the_paper(itself: Family, changes: dict[str, Any]) -> None:
    tokens, mix = itself.given(20), replace(MIX, **changes)
    (made,) = itself.run(tokens, Selection(outputs=("mixed",), mix=mix))
    wanted = contacts_of(itself.weights(tokens), mix)
    assert made["mixed"].shape == wanted.shape
    np.testing.assert_allclose(made["mixed"], wanted, atol=1e-5)


@pytest.mark.parametrize("outputs", [("mixed", "share"), ("z", "mixed", "share", "head_profile")])
def test_what_is_summed_is_what_is_there_after_edits(family: Family, outputs: tuple[str, ...]) -> None:
    """Whether it is made on the way to z or of weights, and of the profile's columns where it is square."""
    if family.card.part:
        outputs = outputs[:-1] if "head_profile" in outputs else outputs
    edits = (
        Edit(verb="add", at=((0, 0), (1, 2)), keys=((2, 9),), value=1.5),
        Edit(verb="block", at=((2, 1), (0, 3)), queries=((8, 20),), keys=((0, 3), (5, 6))),
        Edit(verb="pattern", at=((2, 0),), value="first"),
    )
    pairs = replace(MIX, columns=COLUMNS)
    share = Share(of=((0, 3),), over=((0, 3), (5, 11)))
    asked = Selection(outputs=outputs, layers=(2,), pairs=PAIRS, mix=pairs, share=share)
    whole = Selection(outputs=("weights",), layers=(0, 1, 2), layer_axis=True)
    tokens = family.given(20)
    plain = Item(card=family.card, input=tokens, selection=asked)
    edited = replace(plain, edits=edits)
    made, every, before = family.answers([edited, replace(edited, selection=whole), plain])
    weights = every["weights"].astype(np.float64)
    np.testing.assert_allclose(made["mixed"], mixture_of(weights, pairs), atol=1e-5)
    of_pairs = np.stack([weights[pair] for pair in PAIRS])
    np.testing.assert_allclose(made["share"], share_of(of_pairs, share.of, share.over), atol=1e-5)
    assert np.abs(made["mixed"] - before["mixed"]).max() > 0.1
    if "head_profile" in outputs:
        own = of_pairs.diagonal(axis1=1, axis2=2).mean(1)
        np.testing.assert_allclose(made["head_profile"][:, 0], own, atol=1e-5)


SPEC = ModelSpec(
    d_model=16, heads=4, kv_heads=2, layers=3, attention=AttentionSpec(causal=True), residual=True
)
CARD = fake_card(
    d_model=16, heads=4, key_heads=2, d_k=SPEC.key_width, d_v=SPEC.value_width, layers=SPEC.layers
)


def stack() -> Stack:
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(SPEC).items()}
    return Stack(SPEC, parameters, torch.device("cpu"))


def item(length: int, selection: Selection, scale: float = 1.0) -> Item:
    x = np.random.default_rng(length).standard_normal((length, SPEC.d_model), dtype=np.float32)
    return Item(card=CARD, input=Tokens(embeddings=x * np.float32(scale)), selection=selection)


def spans(most: int) -> st.SearchStrategy[Spans]:
    ends = st.tuples(st.integers(0, most), st.integers(0, most)).map(lambda ends: (min(ends), max(ends)))
    return st.lists(ends, min_size=1, max_size=4).map(tuple)


MIXES = st.builds(
    lambda weighted, columns, reduce: Mix(
        pairs=tuple(weighted), weights=tuple(weighted.values()), columns=columns, reduce=reduce
    ),
    st.dictionaries(
        st.tuples(st.integers(0, 2), st.integers(0, 3)), st.floats(-3, 3, width=32), min_size=1, max_size=6
    ),
    st.none() | spans(5),
    st.sampled_from([None, "mean", "sum"]),
)
SELECTIONS = st.builds(
    Selection,
    outputs=st.lists(
        st.sampled_from(["mixed", "share", "head_profile", "z", "weights", "received", "hidden"]),
        min_size=1,
        unique=True,
    ).map(tuple),
    layers=st.lists(st.integers(0, 2), min_size=1, unique=True).map(tuple),
    layer_axis=st.just(True),
    rows=st.none() | st.lists(st.integers(0, 4), min_size=1, unique=True).map(tuple),
    pairs=st.none() | st.just(PAIRS[1:4]),
    mix=MIXES,
    share=st.builds(Share, of=spans(5), over=spans(5)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.tuples(st.integers(5, 40), SELECTIONS), min_size=1, max_size=4))
def test_whoever_is_beside_a_sequence_its_mixture_has_the_same_bits(
    batch: list[tuple[int, Selection]],
) -> None:
    if native.native() is None:
        pytest.skip("torch's own products may differ in a batch")
    one_stack = stack()
    items = [item(*one) for one in batch]
    for one, found in zip(items, one_stack.run(items), strict=True):
        every = Selection(outputs=("weights",), layers=(0, 1, 2), layer_axis=True)
        alone, whole = (
            answer.tensors
            for asked in (one, replace(one, selection=every))
            for answer in one_stack.run([asked])
            if isinstance(answer, Answer)
        )
        assert isinstance(found, Answer)
        for name, tensor in found.tensors.items():
            assert tensor.shape == shape_of(name, one.selection, one.dims)
            np.testing.assert_array_equal(tensor, alone[name], err_msg=name)
        if "mixed" in found.tensors:
            assert one.selection.mix is not None
            wanted = mixture_of(whole["weights"].astype(float), one.selection.mix, one.selection.rows)
            np.testing.assert_allclose(found.tensors["mixed"], wanted, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_mixture_that_overflows_its_dtype_fails_and_its_neighbour_does_not(dtype: str) -> None:
    huge = 3e38 if dtype != "float16" else 6e4
    mix = Mix(pairs=((0, 0), (1, 1), (2, 3)), weights=(huge, huge, -huge), reduce="sum", columns=((0, 9),))
    cancels = replace(mix, pairs=mix.pairs[:2], weights=(huge / 20, huge / 20))
    asked = [Selection(outputs=("mixed",), mix=one, dtype=dtype) for one in (mix, cancels)]  # type: ignore[arg-type]
    too_much, fits = stack().run([item(9, one) for one in asked])
    assert isinstance(too_much, Failure)
    assert too_much.code == "not_finite"
    assert isinstance(fits, Answer)
