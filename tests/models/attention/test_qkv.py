"""The caller's own queries, keys and values, without a model."""

import numpy as np
import pytest
import torch

from models.halves import widened
from models.mechanism import AttentionSpec
from models.outputs import OUTPUTS, Selection
from models.protocol import QKV, Answer, Item
from models.shapes import shape_of
from tests.halved import halved
from tests.in_one import attend_qkv
from tests.reference import attend

OFFERED = tuple(name for name, output in OUTPUTS.items() if not output.needs)
DEVICE = torch.device("cpu")


def problem(heads: int = 4, group: int = 2) -> QKV:
    chance = np.random.default_rng(0)
    shapes = ((heads, 3, 2), (heads // group, 5, 2), (heads // group, 5, 6))
    query, key, value = (chance.standard_normal(shape, dtype=np.float32) for shape in shapes)
    return QKV(query=query, key=key, value=value)


@pytest.mark.parametrize("heads", [None, (1, 3), (2,), (3, 0)])
@pytest.mark.parametrize("rows", [None, (2, 0)])
def test_every_output_has_the_shape_that_its_bytes_were_counted_by(heads, rows):
    chosen = Selection(outputs=OFFERED, heads=heads, rows=rows, top_k=2)
    item = Item(card=None, input=problem(), selection=chosen)
    made = attend_qkv(item, DEVICE)
    assert isinstance(made, Answer)
    assert {name: one.shape for name, one in made.tensors.items()} == {
        name: shape_of(name, chosen, item.dims) for name in OFFERED
    }


def test_chosen_heads_and_rows_of_z_are_those_of_the_whole():
    given = problem()
    item = Item(card=None, input=given, selection=Selection(outputs=("z",), heads=(3, 0), rows=(2, 1)))
    made = attend_qkv(item, DEVICE)
    assert isinstance(made, Answer)
    q, k, v = (array.astype(np.float64) for array in (given.query, given.key, given.value))
    whole = attend(q, k, v, spec=AttentionSpec()).z
    np.testing.assert_allclose(made.tensors["z"], whole[[3, 0]][:, [2, 1]], atol=1e-6)


@pytest.mark.parametrize("kinds", [("float16",) * 4, ("bfloat16",) * 4, ("float16", "bfloat16") * 2])
def test_halves_are_answered_bit_by_bit_as_their_float32(kinds) -> None:
    given = problem()
    bias = np.random.default_rng(2).standard_normal((4, 3, 5))
    bias[:, 1, 2:] = -np.inf
    arrays = (given.query, given.key, given.value, bias)
    narrow = [halved(one, kind) for one, kind in zip(arrays, kinds, strict=True)]

    def answered(query, key, value, mask) -> dict[str, bytes]:
        item = Item(
            card=None,
            input=QKV(query=query, key=key, value=value, mask=mask),
            selection=Selection(outputs=OFFERED, top_k=2),
        )
        made = attend_qkv(item, DEVICE)
        assert isinstance(made, Answer)
        return {name: one.tobytes() for name, one in made.tensors.items()}

    assert answered(*narrow) == answered(*map(widened, narrow))


def test_they_go_by_the_same_plan_as_models(backend: str, computed) -> None:
    chance = np.random.default_rng(1)
    query, key, value = (chance.standard_normal((h, 7, 6), dtype=np.float32) for h in (4, 2, 2))
    names = ("z", "weights", "lse", "entropy", "queries")
    mask = chance.random((7, 7)) < 0.8
    for given, expected in (
        (QKV(query=query, key=key, value=value), backend),
        (QKV(query=query, key=key, value=value, rule=AttentionSpec(causal=True)), backend),
        (QKV(query=query, key=key, value=value, mask=mask), backend),
        (QKV(query=query[:, :5], key=key, value=value), backend),
        (QKV(query=query, key=key, value=value, rule=AttentionSpec(similarity="cosine")), backend),
    ):
        made = attend_qkv(Item(card=None, input=given, selection=Selection(outputs=names)), DEVICE)
        assert computed() == [(0, expected, [0])]
        assert isinstance(made, Answer)
        q, k, v = (array.astype(np.float64) for array in (given.query, given.key, given.value))
        slow = attend(q, k, v, spec=given.rule, mask=given.mask)
        np.testing.assert_allclose(made.tensors["z"], slow.z, atol=1e-6)
        np.testing.assert_allclose(made.tensors["weights"], slow.weights, atol=1e-6)
        np.testing.assert_allclose(made.tensors["lse"], slow.lse, atol=1e-5)
