"""Every output against the float64 full matrix, and the identities that spare a [T, S]."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention.problem import prepare
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.shapes import Dims, shape_of
from tests.in_one import contextualize, derive
from tests.reference import attend, outputs

PLAIN = AttentionSpec()
RULES = (
    PLAIN,
    AttentionSpec(causal=True),
    AttentionSpec(causal=True, causal_offset=2),
    AttentionSpec(causal=True, causal_offset=-3),
    AttentionSpec(left_window=1, right_window=0),
    AttentionSpec(exclude_self=True, add_self=True),
    AttentionSpec(softcap=1.5),
    AttentionSpec(similarity="cosine", scale=3.0),
)
FROM_MATRIX = (
    "weights", "weights_mean", "weights_max", "top_k_weights", "top_k_rest",
    "received", "entropy", "lse", "scores", "value_norms",
)  # fmt: skip
ALL = (*FROM_MATRIX, "top_k_keys", "queries", "keys", "values")


def qkv(*, heads=2, group=1, queries=4, keys=5, d_k=8, d_v=6, seed=0, dtype=torch.float32):
    source = torch.Generator().manual_seed(seed)
    shapes = ((heads * group, queries, d_k), (heads, keys, d_k), (heads, keys, d_v))
    return tuple(torch.randn(shape, generator=source).to(dtype) for shape in shapes)


def wide(tensor):
    return None if tensor is None else (tensor if tensor.dtype == torch.bool else tensor.double()).numpy()


def chosen(name, tensor, heads, rows):
    """A reference output's chosen heads and rows."""
    for axis, which in zip(AXES[name], (heads, rows), strict=False):
        if which is not None and axis is not None:
            tensor = np.take(tensor, which, axis=axis)
    return tensor


# Which axis of each whole output counts heads, and which rows.
AXES = {
    **dict.fromkeys(("weights", "scores", "value_norms", "top_k_weights", "top_k_rest"), (0, 1)),
    **dict.fromkeys(("entropy", "lse", "queries"), (0, 1)),
    **dict.fromkeys(("weights_mean", "weights_max"), (None, 0)),
    "received": (0, None),
}


@st.composite
def requests(draw):
    heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    q, k, v = qkv(
        heads=heads,
        group=group,
        queries=queries,
        keys=keys,
        d_k=draw(st.integers(1, 8)),
        d_v=draw(st.integers(1, 8)),
        seed=draw(st.integers(0, 999)),
    )
    total = heads * group
    mask = draw(st.sampled_from((None, (keys,), (queries, keys), (total, queries, keys))))
    if mask is not None:
        mask = torch.rand(mask, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))) > 0.4
        if draw(st.booleans()):
            mask = torch.where(mask, 0.7, -math.inf)
    names = draw(st.lists(st.sampled_from(ALL), min_size=1, max_size=len(ALL), unique=True))
    selection = Selection(
        outputs=tuple(names),
        heads=draw(st.none() | st.lists(st.integers(0, total - 1), min_size=1, max_size=4).map(tuple)),
        rows=draw(st.none() | st.lists(st.integers(0, queries - 1), min_size=1, max_size=4).map(tuple)),
        top_k=draw(st.integers(1, 8)),
    )
    sinks = torch.randn(total) if draw(st.integers(0, 3)) == 0 else None
    return q, k, v, draw(st.sampled_from(RULES)), mask, sinks, selection, draw(st.booleans())


def expected(name, q, k, v, full, selection):
    """One output's chosen part, derived from the float64 full matrices."""
    heads, rows = selection.heads, selection.rows
    group = q.shape[0] // k.shape[0]
    if name == "queries":
        return chosen(name, wide(q), heads, rows)
    if name in ("keys", "values"):
        read = list(dict.fromkeys(head // group for head in (heads or range(q.shape[0]))))
        return wide(k if name == "keys" else v)[read]
    weights = full.weights
    if name in ("weights_mean", "weights_max") and heads is not None:
        weights = weights[list(heads)]
    if name == "received" and rows is not None:
        weights = weights[:, list(rows)]
    values = wide(v) if name == "value_norms" else wide(v)[:1]  # only norms read them, and want all heads
    whole = outputs(replace(full, weights=weights), values, k=selection.top_k)
    return chosen(name, whole[name], heads, rows)


@settings(deadline=None, max_examples=200)
@given(requests())
def test_every_output_equals_the_one_derived_from_the_float64_matrix(request):
    q, k, v, spec, mask, sinks, selection, with_lse = request
    problem = prepare(q, k, v, spec=spec, mask=mask, sinks=sinks)
    lse = contextualize(problem, want_lse=True)[1] if with_lse else None
    made = derive(problem, lse, selection)
    full = attend(wide(q), wide(k), wide(v), spec=spec, mask=wide(mask), sinks=wide(sinks))
    dims = Dims(
        T=q.shape[1], S=k.shape[1], heads=q.shape[0], key_heads=k.shape[0],
        d_z=v.shape[2], d_k=q.shape[2], d_v=v.shape[2],
    )  # fmt: skip
    assert tuple(made) == selection.outputs
    for name, tensor in made.items():
        assert tensor.shape == shape_of(name, selection, dims)
        if name == "top_k_keys":
            assert tensor.dtype == torch.int32
            assert all(len(set(row)) == len(row) for row in tensor.flatten(0, -2).tolist())
            picked = chosen("weights", full.weights, selection.heads, selection.rows)
            got = np.take_along_axis(picked, tensor.long().numpy(), axis=-1)
            wanted = -np.sort(-picked, axis=-1)[..., : tensor.shape[-1]]
            np.testing.assert_allclose(got, wanted, atol=1e-6)
            continue
        assert tensor.dtype == torch.float32
        wanted = expected(name, q, k, v, full, selection)
        np.testing.assert_allclose(tensor, wanted, atol=1e-5, rtol=1e-5, err_msg=name)


@settings(deadline=None, max_examples=40)
@given(requests())
def test_asking_for_everything_leaves_every_bit_of_z_as_it_is(request):
    q, k, v, spec, mask, sinks, _, _ = request
    problem = prepare(q, k, v, spec=spec, mask=mask, sinks=sinks)
    alone, _ = contextualize(problem, want_lse=False)
    z, lse = contextualize(problem, want_lse=True)
    weights = derive(problem, lse, Selection(outputs=ALL))["weights"]
    assert torch.equal(alone, z)
    own = torch.zeros_like(z)
    if spec.add_self:
        met = min(q.shape[1], k.shape[1])
        own[:, :met] = v[:, :met].repeat_interleave(problem.group, 0)
    values = v.repeat_interleave(problem.group, 0)
    np.testing.assert_allclose(z, weights @ values + own, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_low_precision_storage_are_exact_for_the_stored_numbers(dtype):
    q, k, v = qkv(group=2, queries=6, keys=9, dtype=dtype)
    problem = prepare(q, k, v, spec=PLAIN)
    _, lse = contextualize(problem, want_lse=True)
    made = derive(problem, lse, Selection(outputs=FROM_MATRIX))
    wanted = outputs(attend(wide(q), wide(k), wide(v), spec=PLAIN), wide(v))
    for name in FROM_MATRIX:
        np.testing.assert_allclose(made[name], wanted[name], atol=1e-5, rtol=1e-5, err_msg=name)


# Blocks


@pytest.fixture
def short_blocks(monkeypatch):
    """Blocks of a few rows, so that small problems take many."""
    monkeypatch.setattr("models.attention.blocks.BLOCK_ELEMENTS", {"cpu": 64, "cuda": 64})


@pytest.mark.parametrize("spec", RULES)
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("known", [True, False])
def test_many_blocks_give_what_one_gives(short_blocks, spec, group, known):
    q, k, v = qkv(heads=3, group=group, queries=23, keys=19)
    problem = prepare(q, k, v, spec=spec)
    lse = contextualize(problem, want_lse=True)[1] if known else None
    made = derive(problem, lse, Selection(outputs=FROM_MATRIX))
    wanted = outputs(attend(wide(q), wide(k), wide(v), spec=spec), wide(v))
    for name in FROM_MATRIX:
        np.testing.assert_allclose(made[name], wanted[name], atol=1e-5, rtol=1e-5, err_msg=name)
    spans = ((0, 1), (1, 4), (4, 19))
    summed = derive(problem, lse, Selection(outputs=("weights",), spans=spans))["weights"]
    for a, (start, stop) in enumerate(spans):
        for b, (left, right) in enumerate(spans):
            wanted_sum = made["weights"][:, start:stop, left:right].sum((1, 2))
            np.testing.assert_allclose(summed[:, a, b], wanted_sum, atol=1e-5)


def test_a_window_looks_only_at_keys_near_it(monkeypatch):
    """Time is by the window, not by the square: blocks never hold more than a few windows of keys."""
    q, k, v = qkv(queries=2000, keys=2000)
    problem = prepare(q, k, v, spec=AttentionSpec(left_window=40, right_window=0))
    seen = []
    original = torch.baddbmm

    def counting(added, a, b, **rest):
        seen.append(a.shape[1] * b.shape[2])
        return original(added, a, b, **rest)

    monkeypatch.setattr(torch, "baddbmm", counting)
    derive(problem, None, Selection(outputs=("received",)))
    assert sum(seen) < 2000 * 2000 / 10


def test_bias_is_made_only_for_the_rows_and_heads_that_are_read():
    q, k, v = qkv(heads=4, queries=30, keys=30)
    whole = torch.randn(4, 30, 30)
    calls = []

    def bias(rows, heads):
        calls.append((rows, heads))
        return (whole if heads is None else whole[heads])[:, rows]

    problem = prepare(q, k, v, spec=PLAIN, bias=bias)
    selection = Selection(outputs=("weights",), heads=(2, 0), rows=(29, 3, 4, 5))
    made = derive(problem, None, selection)["weights"]
    full = attend(wide(q), wide(k), wide(v), spec=PLAIN, bias=wide(whole))
    np.testing.assert_allclose(made, full.weights[[2, 0]][:, [29, 3, 4, 5]], atol=1e-5)
    assert calls == [(slice(29, 30), [2, 0]), (slice(3, 6), [2, 0])]


@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_top_k_and_entropy_are_as_exact_as_the_weights_however_large_the_scores(size: float) -> None:
    """A weight is never the exponential of a difference of two large numbers."""
    chance = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 300, 16, generator=chance) for _ in range(3))
    problem = prepare(size * q, k, v, spec=AttentionSpec())
    _, lse = contextualize(problem, want_lse=True)
    outputs = ("weights", "top_k_keys", "top_k_weights", "top_k_rest", "entropy")
    made = derive(problem, lse, Selection(outputs=outputs, top_k=300))
    weights = made["weights"]
    assert torch.equal(made["top_k_weights"], weights.gather(-1, made["top_k_keys"].long()))
    assert float(made["top_k_weights"].max()) <= 1
    assert float(made["top_k_rest"].max()) <= 1e-6  # nothing is left out
    exact = weights.double()
    entropy = -(exact * exact.clamp_min(1e-300).log()).sum(-1)
    assert float(made["entropy"].min()) >= 0
    assert not torch.signbit(made["entropy"]).any()
    torch.testing.assert_close(made["entropy"].double(), entropy, rtol=0, atol=2e-6)
