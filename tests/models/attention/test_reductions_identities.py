"""The identities that spare a [T, S], and rows that are empty, large or not finite."""

import math

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.outputs import Selection
from models.spec import AttentionSpec
from tests.in_one import contextualize, derive

PLAIN = AttentionSpec()
OF_EMPTY_ROWS = ("weights", "weights_mean", "top_k_weights", "top_k_rest", "received", "entropy")


def qkv(*, group=1, queries=4, keys=5):
    source = torch.Generator().manual_seed(0)
    shapes = ((2 * group, queries, 8), (2, keys, 8), (2, keys, 6))
    return tuple(torch.randn(shape, generator=source) for shape in shapes)


# Identities of exact attention


def test_entropy_is_lse_less_the_score_of_the_mean_key():
    q, k, v = qkv(queries=7, keys=9)
    problem = prepare(q, k, v, spec=PLAIN)
    _, lse = contextualize(problem, want_lse=True)
    made = derive(problem, lse, Selection(outputs=("entropy", "weights")))
    mean_key = made["weights"] @ k
    np.testing.assert_allclose(made["entropy"], lse - (q * mean_key).sum(-1) / math.sqrt(8), atol=1e-5)


def test_received_is_the_exponential_of_the_transposed_problems_lse():
    """Column sums: Σ_i exp(s_ij − lse_i) is exp of the logsumexp of keys attending queries biased by −lse."""
    q, k, v = qkv(queries=7, keys=9)
    problem = prepare(q, k, v, spec=PLAIN)
    _, lse = contextualize(problem, want_lse=True)
    received = derive(problem, lse, Selection(outputs=("received",)))["received"]
    transposed = prepare(k, q, q, spec=PLAIN, bias=-lse[:, None, :])
    _, columns = contextualize(transposed, want_lse=True)
    np.testing.assert_allclose(received, columns.exp(), atol=1e-5)


def test_a_weight_is_the_exponential_of_score_less_lse():
    problem = prepare(*qkv(), spec=AttentionSpec(causal=True))
    made = derive(problem, None, Selection(outputs=("weights", "scores", "lse")))
    np.testing.assert_allclose(made["weights"], (made["scores"] - made["lse"][..., None]).exp(), atol=1e-6)


# Sinks: a softmax over the keys and one more score, which gives nothing


@pytest.mark.parametrize("sink", [-30.0, 0.0, 6.0, 20.0])
@pytest.mark.parametrize("known", [False, True])
def test_with_a_sink_lse_has_it_and_entropy_is_of_the_keys(sink, known):
    """In float64, the slow way; a sink far above the scores leaves the keys little, and that is exact too."""
    q, k, v = qkv()
    sinks = torch.tensor([sink, sink + 2])
    problem = prepare(q, k, v, spec=PLAIN, sinks=sinks)
    lse = contextualize(problem, want_lse=True)[1] if known else None
    names = ("weights", "scores", "lse", "entropy", "top_k_rest", "received")
    made = derive(problem, lse, Selection(outputs=names, top_k=2))
    for h, i in np.ndindex(made["lse"].shape):
        scores = [float(q[h, i].double() @ key.double()) / math.sqrt(8) for key in k[h]]
        whole = math.fsum(math.exp(score) for score in [*scores, float(sinks[h])])
        weights = sorted((math.exp(score) / whole for score in scores), reverse=True)
        entropy = -math.fsum(w * math.log(w) for w in weights)
        assert float(made["lse"][h, i]) == pytest.approx(math.log(whole), rel=1e-6, abs=1e-6)
        assert sorted(made["weights"][h, i].tolist(), reverse=True) == pytest.approx(weights, rel=2e-6)
        assert float(made["entropy"][h, i]) == pytest.approx(entropy, rel=3e-6)
        assert float(made["top_k_rest"][h, i]) == pytest.approx(math.fsum(weights[2:]), rel=3e-6)


def test_entropy_of_keys_and_sink_is_had_from_what_is_told():
    q, k, v = qkv()
    sinks = torch.tensor([0.5, -1.0])
    made = derive(
        prepare(q, k, v, spec=PLAIN, sinks=sinks), None, Selection(outputs=("weights", "entropy", "scores"))
    )
    share = 1 - made["weights"].double().sum(-1)
    whole = (
        torch.cat((made["scores"], sinks[:, None, None].expand(-1, q.shape[1], 1)), -1).double().softmax(-1)
    )
    both = -(whole * whole.log()).sum(-1)
    np.testing.assert_allclose(made["entropy"] - share * share.log(), both, atol=1e-6)


# Rows with nothing to attend to


def test_empty_rows_have_no_weight_anywhere():
    q, k, v = qkv(group=2)
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[1] = False
    problem = prepare(q, k, v, spec=PLAIN, mask=mask)
    for lse in (None, contextualize(problem, want_lse=True)[1]):
        made = derive(
            problem,
            lse,
            Selection(outputs=(*OF_EMPTY_ROWS, "scores", "lse", "top_k_keys"), rows=(1,), top_k=2),
        )
        for name in OF_EMPTY_ROWS:
            assert not made[name].any(), name
        assert (made["scores"] == -math.inf).all()
        assert (made["lse"] == -math.inf).all()
        assert ((made["top_k_keys"] >= 0) & (made["top_k_keys"] < 5)).all()


def test_a_masked_value_that_is_not_a_number_has_a_norm_of_zero():
    q, k, v = qkv(keys=4)
    v[:, 2] = math.nan
    mask = torch.tensor([True, True, False, True])
    problem = prepare(q, k, v, spec=PLAIN, mask=mask)
    norms = derive(problem, None, Selection(outputs=("value_norms",)))["value_norms"]
    assert norms.isfinite().all()
    assert not norms[..., 2].any()


def test_a_value_norm_beyond_the_square_root_of_float32_does_not_overflow():
    q, k, v = qkv()
    norms = derive(prepare(q, k, v * 1e25, spec=PLAIN), None, Selection(outputs=("value_norms",)))
    small = derive(prepare(q, k, v, spec=PLAIN), None, Selection(outputs=("value_norms",)))
    np.testing.assert_allclose(norms["value_norms"] / 1e25, small["value_norms"], rtol=1e-5)


# Whole rows


@pytest.mark.parametrize("length", [1, 7, 16, 33, 500, 4099])
def test_torch_can_take_the_softmax_of_a_block_in_its_own_place(length):
    """Undocumented, and what every block of weights relies on."""
    scores = torch.randn(3, 5, length, generator=torch.Generator().manual_seed(length))
    expected = torch.softmax(scores, dim=-1)
    block = torch.full((3, 9, length + 4), 7.0)
    part = block[:, 2:7, 1 : length + 1].copy_(scores)
    torch.softmax(part, dim=-1, out=part)
    assert torch.equal(part, expected)
    assert torch.equal(torch.softmax(scores, dim=-1, out=scores), expected)
    assert (block[:, 7:] == 7).all()


def test_rows_of_weights_sum_to_one_however_large_the_scores():
    """Scores of real models reach hundreds, where another kernel's logsumexp is off by 1e-5 and more."""
    q, k, v = qkv(queries=64, keys=64)
    problem = prepare(60 * q, 60 * k, v, spec=PLAIN)
    _, lse = contextualize(problem, want_lse=True)
    weights = derive(problem, lse, Selection(outputs=("weights",)))["weights"]
    np.testing.assert_allclose(weights.sum(-1), torch.ones(2, 64), atol=1e-6)
