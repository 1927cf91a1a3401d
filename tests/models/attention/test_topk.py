"""The k largest of long rows, against a sort."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention.problem import prepare
from models.attention.reductions import largest
from models.mechanism import AttentionSpec
from models.outputs import Selection
from tests.in_one import derive


@settings(deadline=None, max_examples=30)
@given(st.integers(4000, 9000), st.integers(1, 24), st.integers(0, 9))
def test_the_largest_of_a_long_row_are_those_a_sort_finds(length, k, seed):
    rows = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(seed))
    rows[0, 0, :200] = -math.inf
    rows[1, 1] = -math.inf
    rows[1, 2, : k + 1] = 9.0  # ties
    values, places = largest(rows, k)
    assert torch.equal(values, rows.sort(-1, descending=True).values[..., :k])
    assert torch.equal(rows.gather(-1, places), values)
    assert all(len(set(row.tolist())) == k for row in places.flatten(0, 1))


def test_top_k_of_a_long_sequence_in_float32_equals_a_sort():
    q, k, v = torch.randn(1, 5, 8), torch.randn(1, 5000, 8), torch.randn(1, 5000, 4)
    problem = prepare(q, k, v, spec=AttentionSpec(causal=True, causal_offset=4900))
    made = derive(problem, None, Selection(outputs=("top_k_keys", "top_k_weights", "top_k_rest", "weights")))
    best = made["weights"].sort(-1, descending=True).values[..., :8]
    np.testing.assert_allclose(made["top_k_weights"], best, rtol=1e-5)
    at_keys = made["weights"].gather(-1, made["top_k_keys"].long())
    np.testing.assert_allclose(at_keys, made["top_k_weights"], rtol=1e-5)
    np.testing.assert_allclose(made["top_k_rest"], 1 - made["top_k_weights"].sum(-1), atol=1e-6)
