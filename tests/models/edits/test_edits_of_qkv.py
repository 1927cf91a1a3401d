"""Edits of attention on the caller's own queries, keys and values, against float64 written by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from models.edit import Edit
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import QKV, Answer, Item
from tests.edited_models import edit_heads, edit_scores, edit_weights
from tests.in_one import attend_qkv
from tests.reference import attend

RULES = {
    "open": AttentionSpec(),
    "causal, ahead": AttentionSpec(causal=True, causal_offset=3),
    "windows": AttentionSpec(left_window=2, right_window=3, softcap=1.0),
    "cosine": AttentionSpec(similarity="cosine"),
}
AT = ((0, 1), (0, 3))
MATRIX = np.random.default_rng(2).dirichlet(np.ones(9), (2, 4)).astype(np.float32)
EDITS: dict[str, list[Edit]] = {
    "add": [Edit(verb="add", at=AT, queries=((1, 4),), keys=((0, 2), (5, 9)), value=1.25)],
    "block": [Edit(verb="block", at=AT, keys=((2, 6),))],
    "pattern": [Edit(verb="pattern", at=AT, queries=((0, 2), (4, 6)), value=MATRIX)],
    "uniform": [Edit(verb="pattern", at=AT, value="uniform"), Edit(verb="block", at=AT[:1], keys=((0, 4),))],
    "scale": [Edit(verb="scale", at=AT, queries=((2, 6),), value=-3.0)],
}
EDITS["all"] = [edit for edits in EDITS.values() for edit in edits]


@pytest.mark.parametrize("masked", ["", "bool", "float"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", EDITS)
def test_it_is_the_written_formula(backend: str, name: str, rule: str, masked: str) -> None:
    chance = np.random.default_rng(1)
    query, key, value = (
        chance.standard_normal(shape, dtype=np.float32) for shape in ((4, 6, 4), (2, 9, 4), (2, 9, 3))
    )
    mask: Any = {"": None, "bool": chance.random((6, 9)) < 0.7, "float": chance.standard_normal((4, 6, 9))}[
        masked
    ]
    edits, names = EDITS[name], ("z", "weights", "scores", "entropy", "lse")
    given = QKV(query=query, key=key, value=value, rule=RULES[rule], mask=mask)
    made = attend_qkv(
        Item(card=None, input=given, selection=Selection(outputs=names), edits=tuple(edits)),
        torch.device("cpu"),
    )
    assert isinstance(made, Answer)
    full = attend(
        *(one.astype(np.float64) for one in (query, key, value)),
        spec=RULES[rule],
        mask=mask if masked != "float" else mask.astype(np.float32),
    )
    scores = torch.from_numpy(full.scores.copy())
    edit_scores(edits, 0, scores)
    weights = scores.softmax(-1).nan_to_num(0.0)
    edit_weights(edits, 0, weights, scores > -np.inf)
    z = weights @ torch.from_numpy(value).double().repeat_interleave(2, 0)
    edit_heads(edits, 0, z, [])
    for output, right in (("scores", scores), ("weights", weights), ("z", z), ("lse", scores.logsumexp(-1))):
        np.testing.assert_allclose(made.tensors[output], right, atol=2e-6, err_msg=output)
    entropy = -(weights * weights.clamp(min=1e-38).log()).sum(-1)
    np.testing.assert_allclose(made.tensors["entropy"], entropy, atol=3e-6)


@pytest.mark.parametrize("name", ["self", "previous", "first"])
def test_a_row_s_own_key_is_that_of_the_diagonal(backend: str, name: str) -> None:
    query, key, value = (np.ones((4, length, 2), np.float32) for length in (5, 7, 7))
    given = QKV(query=query, key=key, value=value, rule=AttentionSpec(causal=True, causal_offset=3))
    edit = Edit(verb="pattern", at=((0, 2),), value=name)
    item = Item(card=None, input=given, selection=Selection(outputs=("weights",)), edits=(edit,))
    made = attend_qkv(item, torch.device("cpu"))
    assert isinstance(made, Answer)
    expected = {"self": [3, 4, 5, 6, 6], "previous": [2, 3, 4, 5, 6], "first": [0] * 5}[name]
    assert made.tensors["weights"][2].argmax(-1).tolist() == expected
    assert (made.tensors["weights"][2].max(-1) == 1).all()
    assert (made.tensors["weights"][2].sum(-1) == 1).all()
