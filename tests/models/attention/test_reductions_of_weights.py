"""Outputs made of whole weights are those that are derived from q, k and the logsumexp."""

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.attention.reductions import OF_WEIGHTS, reduce_weights
from models.mechanism import AttentionSpec
from models.outputs import Selection, expand
from tests.in_one import contextualize, derive

HEADS, TOKENS, WIDTH = 4, 11, 8


def problem(*, causal: bool, sharp: float = 1.0):
    chance = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(HEADS, TOKENS, WIDTH, generator=chance) for _ in range(3))
    return prepare(q * sharp, k, v, spec=AttentionSpec(causal=causal))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sharp", [1.0, 6.0])
@pytest.mark.parametrize("heads", [None, (2, 0)])
@pytest.mark.parametrize("rows", [None, (10, 3, 4)])
@pytest.mark.parametrize("k", [1, 3, 64])
def test_they_are_the_same(
    causal: bool, sharp: float, heads: tuple[int, ...] | None, rows: tuple[int, ...] | None, k: int
) -> None:
    given = problem(causal=causal, sharp=sharp)
    _, lse = contextualize(given, want_lse=True)
    chosen = Selection(outputs=tuple(sorted(OF_WEIGHTS)), heads=heads, rows=rows, top_k=k)
    expected = derive(given, lse, chosen)
    weights = derive(given, lse, Selection(outputs=("weights",)))["weights"]
    for axis, numbers in enumerate((heads, rows)):
        weights = weights if numbers is None else weights[(slice(None),) * axis + (list(numbers),)]
    before = weights.clone()
    found = reduce_weights(weights, chosen.outputs, k=k)
    assert torch.equal(weights, before)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        if name != "top_k_keys":  # of equal weights any may come first
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
    at = np.take_along_axis(found["weights"].numpy(), found["top_k_keys"].long().numpy(), -1)
    assert np.array_equal(at, found["top_k_weights"].numpy())
    assert all(len({*row}) == len(row) for row in found["top_k_keys"].flatten(0, 1).tolist())


def test_they_are_what_their_names_say() -> None:
    weights = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(5)).softmax(-1)
    exact = weights.double()
    found = reduce_weights(weights, OF_WEIGHTS, k=2)
    largest = exact.sort(-1, descending=True).values[..., :2]
    expected = {
        "weights": exact,
        "weights_mean": exact.sum(0) / 3,
        "weights_max": exact.max(0).values,
        "received": exact.sum(1),
        "entropy": -(exact * exact.log()).sum(-1),
        "top_k_weights": largest,
        "top_k_rest": 1 - largest.sum(-1),
    }
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor, rtol=0, atol=1e-6)


def test_only_what_is_asked_for_is_made() -> None:
    weights = torch.full((1, 2, 2), 0.5)
    for name in OF_WEIGHTS:
        assert reduce_weights(weights, [name], k=1).keys() == {name}
    assert {*expand(["weights", "top_k"])} <= OF_WEIGHTS
