"""The caller's own queries, keys and values, without a model."""

import numpy as np
import pytest
import torch

from models.attention.direct import attend_direct
from models.outputs import OUTPUTS, Selection, shape_of
from models.protocol import QKV, Answer, Item
from models.spec import AttentionSpec
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
    made = attend_direct(item, DEVICE)
    assert isinstance(made, Answer)
    assert {name: one.shape for name, one in made.tensors.items()} == {
        name: shape_of(name, chosen, item.dims) for name in OFFERED
    }


def test_chosen_heads_and_rows_of_z_are_those_of_the_whole():
    given = problem()
    item = Item(card=None, input=given, selection=Selection(outputs=("z",), heads=(3, 0), rows=(2, 1)))
    made = attend_direct(item, DEVICE)
    assert isinstance(made, Answer)
    q, k, v = (array.astype(np.float64) for array in (given.query, given.key, given.value))
    whole = attend(q, k, v, spec=AttentionSpec()).z
    np.testing.assert_allclose(made.tensors["z"], whole[[3, 0]][:, [2, 1]], atol=1e-6)
