"""Weights summed over spans of tokens, against slices of the float64 matrix."""

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.outputs import Selection
from models.spec import AttentionSpec
from tests.in_one import derive
from tests.reference import attend

PLAIN = AttentionSpec()


@pytest.mark.parametrize("spans", [((0, 2), (2, 3), (3, 6)), ((3, 6), (0, 2)), ((0, 4), (2, 6), (1, 1)), ()])
@pytest.mark.parametrize("spec", [PLAIN, AttentionSpec(causal=True)])
def test_spans_sum_weights_over_the_queries_and_keys_of_each_pair(spans, spec):
    q, k, v = torch.randn(4, 6, 8), torch.randn(2, 6, 8), torch.randn(2, 6, 3)
    problem = prepare(q, k, v, spec=spec)
    full = attend(q.double().numpy(), k.double().numpy(), v.double().numpy(), spec=spec)
    for heads in (None, (3, 0)):
        selection = Selection(outputs=("weights", "entropy"), heads=heads, rows=(2,), spans=spans)
        made = derive(problem, None, selection)
        picked = full.weights if heads is None else full.weights[list(heads)]
        wanted = np.array(
            [[[h[a:b, c:d].sum() for c, d in spans] for a, b in spans] for h in picked]
        ).reshape(len(picked), len(spans), len(spans))
        np.testing.assert_allclose(made["weights"], wanted, atol=1e-5)
        assert made["entropy"].shape == (len(picked), 1)
