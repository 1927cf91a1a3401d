"""Kernels in tiles in the interpreter, as a whole batch goes through them: tables, layers, answers."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from models.attention import backends
from models.attention.groups import Backend
from models.attention.tiles import backend as tiles
from models.attention.tiles.table import table_of
from models.compiled import native
from models.compiled.extents import Extent
from models.compiled.rules import ScoreRule
from models.edit import Edit
from models.encoder.stack import Stack
from models.mechanism import AttentionSpec, PositionSpec
from models.outputs import Selection
from models.protocol import Answer, Item, Tokens
from models.spec import ModelSpec
from tests.fakes import fake_card
from tests.slow_stack import random_parameters
from tests.triton.test_interpreted import LENGTHS, OURS, numbers, same, written


def test_the_table_of_a_batch_is_never_that_of_a_layer_with_other_masks_and_edits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four layers of a stack, in one of which a sequence is edited, and another of a mask of its own."""
    monkeypatch.setattr(native, "load_native", lambda: None)
    monkeypatch.setattr(tiles, "takes", lambda heads, queries, keys: True)
    spec = ModelSpec(
        d_model=32,
        heads=2,
        layers=4,
        residual=True,
        attention=AttentionSpec(softcap=20.0),
        positions=PositionSpec(kind="alibi"),
    )
    parameters = {name: torch.from_numpy(one) for name, one in random_parameters(spec).items()}
    block = Edit(verb="block", at=((1, 0), (1, 1)), keys=((2, 3),))
    add = Edit(verb="add", at=((2, 0),), value=2.0)
    batch = []
    for length, mask, edits in ((5, None, ()), (7, np.arange(7) != 3, ()), (4, None, (block, add))):
        x = numbers(length, 32, seed=length).numpy()
        batch.append(
            Item(
                card=fake_card(layers=4, heads=2, key_heads=2, d_model=32, d_k=16, d_v=16),
                input=Tokens(embeddings=x, mask=mask),
                selection=Selection(outputs=("z",), layers=(3,)),
                edits=edits,
            )
        )

    def z(table: tuple[Backend, ...]) -> list[Any]:
        monkeypatch.setattr(backends, "BACKENDS", table)
        made = Stack(spec, dict(parameters), torch.device("cpu")).run(batch)
        return [one.tensors["z"] for one in made if isinstance(one, Answer)]

    for made, expected in zip(z(OURS), z(OURS[1:]), strict=True):
        same(torch.from_numpy(made), torch.from_numpy(expected).double(), 2e-5, "z")


def test_z_alone_of_rows_in_a_given_table() -> None:
    q, k, v = (numbers(sum(LENGTHS) + 9, heads, 16, seed=heads) for heads in (4, 2, 2))
    ends = [sum(LENGTHS[:place]) for place in range(len(LENGTHS) + 1)]
    extents = [Extent(slice(first, last)) for first, last in pairwise(ends)]
    table = table_of(extents, heads=4, total=len(q), device=q.device)
    table.rows[2, 1] = table.rows[2, 3] = 0  # a place in which there is no sequence this time
    rule = ScoreRule(high=0)
    z = tiles.attend_table(q, k, v, table, scale=0.25, rule=rule)
    for place, extent in enumerate(extents):
        if place != 2:
            own = (x[extent.rows] for x in (q, k, v))
            same(z[extent.rows], written(*own, extent, rule, None, 0.25)["z"], 2e-6, "z")
