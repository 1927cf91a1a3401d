"""`head_profile` against float64: six means of eager attention's weights, as HeadVis' scripts define them."""

from typing import Any

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.attention.reductions import derive
from models.device.steps import finish
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.protocol import Tokens
from tests.eager_attention import Family
from tests.eager_attention import itself as itself

Array = np.ndarray[Any, np.dtype[np.float64]]
PAIRS = ((2, 1), (0, 3), (2, 0))
ROWS = (17, 2, 0, 9)


def profile_of(a: Array, ids: Array, rows: tuple[int, ...] | None = None) -> list[float]:
    """The six numbers of one head's map [T, T], a row at a time."""
    chosen = range(len(a)) if rows is None else rows
    own = np.mean([a[i, i] for i in chosen])
    previous = np.mean([a[i, i - 1] for i in chosen if i > 0])
    entropy = np.mean([-sum(w * np.log(w) for w in a[i] if w > 0) for i in chosen])
    distance = np.mean([sum(a[i, j] * abs(i - j) for j in range(len(a))) for i in chosen])
    squared = np.mean([sum(a[i, j] * abs(i - j) ** 2 for j in range(len(a))) for i in chosen])
    before = {i: [p for p in range(i) if ids[p] == ids[i]] for i in chosen}
    induced = [sum(a[i, p + 1] for p in before[i]) for i in chosen if before[i]]
    return [own, previous, entropy, distance, squared - distance**2, np.mean(induced) if induced else 0.0]


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
def test_profiles_of_all_heads_are_means_of_their_weights(
    itself: Family, rows: tuple[int, ...] | None
) -> None:
    tokens = itself.given(20)
    chosen = Selection(outputs=("head_profile",), layers=(0, 1, 2), layer_axis=True, rows=rows)
    (made,) = itself.run(tokens, chosen)
    assert tokens.ids is not None
    weights = itself.weights(tokens)
    wanted = [[profile_of(a, tokens.ids, rows) for a in layer] for layer in weights]
    np.testing.assert_allclose(made["head_profile"], wanted, rtol=1e-5, atol=1e-5)


def test_profiles_of_pairs_are_in_their_order(itself: Family) -> None:
    tokens = itself.given(13)
    (made,) = itself.run(tokens, Selection(outputs=("head_profile",), pairs=PAIRS))
    assert tokens.ids is not None
    weights = itself.weights(tokens)
    wanted = [profile_of(weights[pair], tokens.ids) for pair in PAIRS]
    np.testing.assert_allclose(made["head_profile"], wanted, rtol=1e-5, atol=1e-5)


def test_where_no_token_occurs_twice_there_is_no_induction(itself: Family) -> None:
    tokens = Tokens(ids=np.arange(3, 12))
    (made,) = itself.run(tokens, Selection(outputs=("head_profile",)))
    assert not made["head_profile"][:, 5].any()


def test_a_single_token_attends_itself_and_nothing_before_it() -> None:
    q = torch.ones(1, 1, 4)
    problem = prepare(q, q, q, spec=AttentionSpec(causal=True))
    made = finish(derive(problem, None, Selection(outputs=("head_profile",)), ids=torch.tensor([7])))
    assert made["head_profile"].tolist() == [[1, 0, 0, 0, 0, 0]]
