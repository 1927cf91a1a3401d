"""Chosen (layer, head) pairs: every output with heads has them, in their order, as one axis and no other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.attention.reductions import DERIVED
from models.compiled import native
from models.device.steps import finish
from models.encoder.block import Block
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec
from models.outputs import OUTPUTS, Selection, Share
from models.protocol import Answer, Item, Tokens
from models.shapes import nbytes, shape_of
from models.spec import ModelSpec
from tests.eager_attention import Family
from tests.eager_attention import family as family
from tests.eager_attention import itself as itself
from tests.fakes import fake_card
from tests.slow_stack import random_parameters

SCATTERED = ((2, 1), (0, 3), (2, 0), (1, 2), (0, 0))  # the pairs of a layer neither together nor in order
TOGETHER = ((1, 0), (1, 1), (2, 3))
ROWS = (17, 2, 9)


def of_pairs(family: Family) -> tuple[str, ...]:
    """The outputs of a model that have heads, or are made of several."""
    return tuple(name for name in family.card.outputs if OUTPUTS[name].of_heads)


@pytest.mark.parametrize("pairs", [SCATTERED, TOGETHER], ids=["scattered", "together"])
def test_weights_of_pairs_are_those_of_eager_attention(family: Family, pairs: tuple[tuple[int, int], ...]):
    tokens = family.given(20)
    exact = np.stack([family.weights(tokens)[pair] for pair in pairs])
    asked = Selection(outputs=("weights", "weights_mean", "weights_max", "received", "entropy"), pairs=pairs)
    (made,) = family.run(tokens, asked)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(exact * np.log(exact), -1)
    wanted = {
        "weights": exact,
        "weights_mean": exact.mean(0),
        "weights_max": exact.max(0),
        "received": exact.sum(1),
        "entropy": entropy,
    }
    for name, tensor in made.items():
        np.testing.assert_allclose(tensor, wanted[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
@pytest.mark.parametrize("pairs", [SCATTERED, TOGETHER], ids=["scattered", "together"])
def test_every_output_of_pairs_is_that_of_their_layers_and_heads(
    family: Family, pairs: tuple[tuple[int, int], ...], rows: tuple[int, ...] | None
) -> None:
    tokens, names = family.given(20), of_pairs(family)
    share = Share(of=((0, 3),), over=((0, 9), (12, 13)))
    asked = Selection(outputs=names, pairs=pairs, rows=rows, top_k=3, share=share)
    whole = replace(asked, pairs=None, layers=(0, 1, 2), layer_axis=True)
    made, every = family.run(tokens, asked, whole)
    group = family.card.heads // family.card.key_heads
    dims = family.card.dims(20, tokens.keys)
    for name, tensor in made.items():
        assert tensor.shape == shape_of(name, asked, dims), name
        if OUTPUTS[name].joined:
            continue  # compared with eager attention
        per = group if OUTPUTS[name].axes.startswith("G") else 1
        wanted = np.stack([every[name][layer, head // per] for layer, head in pairs])
        np.testing.assert_allclose(tensor, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
    assert nbytes(asked, dims) == sum(tensor.nbytes for tensor in made.values())


def test_layers_speak_of_what_has_no_heads_alone(family: Family) -> None:
    tokens = family.given(11)
    pairs = ((2, 1), (0, 3))
    plain = tuple(name for name in ("z", "hidden", "rollout") if name in family.card.outputs)
    both = Selection(outputs=(*plain, "weights", "lse"), layers=(1, 0), layer_axis=True, pairs=pairs)
    without = replace(both, outputs=plain, pairs=None)
    alone = replace(both, outputs=("weights", "lse"))
    made, of_layers, of_heads = family.run(tokens, both, without, alone)
    assert made["weights"].shape[0] == 2
    for name, tensor in (of_layers | of_heads).items():
        np.testing.assert_allclose(made[name], tensor, rtol=1e-6, atol=1e-6, err_msg=name)


def test_between_spans_weights_of_pairs_are_sums_of_theirs(itself: Family) -> None:
    tokens, spans = itself.given(20), ((0, 4), (3, 11), (19, 20))
    (made,) = itself.run(tokens, Selection(outputs=("weights",), pairs=SCATTERED, spans=spans))
    exact = np.stack([itself.weights(tokens)[pair] for pair in SCATTERED])
    for a, queries in enumerate(spans):
        for b, keys in enumerate(spans):
            wanted = exact[:, slice(*queries), slice(*keys)].sum((1, 2))
            np.testing.assert_allclose(made["weights"][:, a, b], wanted, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrower_numbers_are_rounded_once(family: Family, dtype: str) -> None:
    asked = Selection(outputs=("weights", "weights_mean", "weights_max", "queries"), pairs=SCATTERED)
    wide, narrow = family.run(family.given(9), asked, replace(asked, dtype=dtype))
    for name, tensor in narrow.items():
        rounded = torch.from_numpy(wide[name]).to(getattr(torch, dtype))
        found = torch.from_numpy(tensor.view(np.int16)).view(getattr(torch, dtype))
        away = (rounded.float() - found.float()).abs().max()  # what goes into it may be off by its last bit
        assert away <= (2**-10 if dtype == "float16" else 2**-7) * rounded.float().abs().max(), name


SPEC = ModelSpec(
    d_model=16, heads=4, kv_heads=2, layers=4, attention=AttentionSpec(causal=True), residual=True
)
CARD = fake_card(
    d_model=16, heads=4, key_heads=2, d_k=SPEC.key_width, d_v=SPEC.value_width, layers=SPEC.layers
)


def stack() -> Stack:
    parameters = {name: torch.from_numpy(array) for name, array in random_parameters(SPEC).items()}
    return Stack(SPEC, parameters, torch.device("cpu"))


def item(length: int, selection: Selection) -> Item:
    x = np.random.default_rng(length).standard_normal((length, SPEC.d_model), dtype=np.float32)
    return Item(card=CARD, input=Tokens(embeddings=x), selection=selection)


@pytest.mark.parametrize(
    ("outputs", "pairs", "layers", "blocks"),
    [
        (("weights",), ((1, 0), (0, 2)), (3,), 1),  # and of layer 1 no more than its scores
        (("weights",), ((0, 1),), (3,), 0),
        (("weights", "z"), ((1, 0),), (0,), 1),
        (("weights", "hidden"), ((1, 0),), (2,), 3),
        (("z_heads", "hidden"), ((3, 0),), (0,), 3),
    ],
)
def test_no_layer_runs_but_those_up_to_the_last_that_is_needed(
    outputs: tuple[str, ...],
    pairs: tuple[tuple[int, int], ...],
    layers: tuple[int, ...],
    blocks: int,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[int] = []
    through = Block.finish
    monkeypatch.setattr(
        Block, "finish", lambda self, x, *rest: computed.append(len(x)) or through(self, x, *rest)
    )
    (made,) = finish(stack().steps([item(6, Selection(outputs=outputs, pairs=pairs, layers=layers))]))
    assert isinstance(made, Answer)
    assert len(computed) == blocks


ALL = tuple(name for name in OUTPUTS if name in {*DERIVED, "z", "z_heads"} and OUTPUTS[name].of != "sums")
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6, unique=True).map(
    tuple
)
SELECTIONS = st.builds(
    Selection,
    outputs=st.lists(st.sampled_from(ALL), min_size=1, unique=True).map(tuple),
    layers=st.lists(st.integers(0, 3), min_size=1, unique=True).map(tuple),
    layer_axis=st.just(True),
    rows=st.none() | st.lists(st.integers(0, 4), min_size=1, unique=True).map(tuple),
    pairs=st.none() | PAIRS,
    top_k=st.integers(1, 20),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(st.tuples(st.integers(5, 40), SELECTIONS), min_size=1, max_size=4))
def test_whoever_is_beside_a_sequence_its_outputs_have_the_same_bits(
    batch: list[tuple[int, Selection]],
) -> None:
    if native.native() is None:
        pytest.skip("torch's own products may differ in a batch")
    one_stack = stack()
    items = [item(*one) for one in batch]
    for one, found in zip(items, one_stack.run(items), strict=True):
        (alone,) = one_stack.run([one])
        assert isinstance(found, Answer)
        assert isinstance(alone, Answer)
        for name, tensor in found.tensors.items():
            assert tensor.shape == shape_of(name, one.selection, one.dims)
            np.testing.assert_array_equal(tensor, alone.tensors[name], err_msg=name)
