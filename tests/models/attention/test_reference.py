"""z and the logsumexp against float64 written the slow way, and the traps others fell into."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.attention.problem import prepare
from models.errors import SpecError
from models.spec import AttentionSpec
from tests.in_one import contextualize
from tests.reference import attend

PLAIN = AttentionSpec()
EVERY_RULE = (
    PLAIN,
    AttentionSpec(scale=0.3),
    AttentionSpec(causal=True),
    AttentionSpec(causal=True, causal_offset=2),
    AttentionSpec(causal=True, causal_offset=-2),
    AttentionSpec(left_window=1),
    AttentionSpec(right_window=1, causal_offset=1),
    AttentionSpec(left_window=2, right_window=1),
    AttentionSpec(causal=True, left_window=2, causal_offset=3),
    AttentionSpec(exclude_self=True),
    AttentionSpec(exclude_self=True, add_self=True),
    AttentionSpec(exclude_self=True, causal=True, causal_offset=1),
    AttentionSpec(softcap=1.5),
    AttentionSpec(softcap=1.5, causal=True),
    AttentionSpec(similarity="cosine"),
    AttentionSpec(similarity="cosine", scale=4.0, left_window=1),
)


def qkv(*, heads=2, group=1, queries=4, keys=5, d_k=8, d_v=8, seed=0, dtype=torch.float32):
    source = torch.Generator().manual_seed(seed)
    shapes = ((heads * group, queries, d_k), (heads, keys, d_k), (heads, keys, d_v))
    return tuple(torch.randn(shape, generator=source).to(dtype) for shape in shapes)


def wide(tensor):
    """The same numbers in float64 (bool stays bool)."""
    return None if tensor is None else (tensor if tensor.dtype == torch.bool else tensor.double()).numpy()


def solve(q, k, v, spec, **given_masks):
    return contextualize(prepare(q, k, v, spec=spec, **given_masks), want_lse=True)


@st.composite
def masks(draw, heads, queries, keys):
    kind = draw(st.sampled_from(("none", "bool", "float", "float with −inf")))
    if kind == "none":
        return None
    shape = draw(
        st.sampled_from(
            ((keys,), (queries, keys), (1, queries, keys), (heads, queries, keys), (1, heads, queries, keys))
        )
    )
    source = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    hidden = torch.rand(shape, generator=source) < draw(st.sampled_from((0.0, 0.3, 0.8, 1.0)))
    if kind == "bool":
        return ~hidden
    mask = torch.randn(shape, generator=source)
    return mask.masked_fill(hidden, -math.inf) if kind == "float with −inf" else mask


@st.composite
def problems(draw):
    """Any small problem: T≠S, d_v≠d_k, grouped queries, every rule, every mask, with and without sinks."""
    sizes = {
        "heads": draw(st.integers(1, 3)),
        "group": draw(st.integers(1, 3)),
        "queries": draw(st.integers(1, 7)),
        "keys": draw(st.integers(1, 7)),
        "d_k": draw(st.integers(1, 9)),
        "d_v": draw(st.integers(1, 9)),
    }
    q, k, v = qkv(**sizes, seed=draw(st.integers(0, 999)))
    heads = q.shape[0]
    mask = draw(masks(heads, sizes["queries"], sizes["keys"]))
    sinks = torch.randn(heads) if draw(st.integers(0, 3)) == 0 else None
    return q, k, v, draw(st.sampled_from(EVERY_RULE)), mask, sinks


@settings(deadline=None, max_examples=150)
@given(problems())
def test_z_and_lse_equal_the_float64_reference(problem):
    q, k, v, spec, mask, sinks = problem
    z, lse = solve(q, k, v, spec, mask=mask, sinks=sinks)
    full = attend(wide(q), wide(k), wide(v), spec=spec, mask=wide(mask), sinks=wide(sinks))
    np.testing.assert_allclose(z, full.z, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(lse, full.lse, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("spec", EVERY_RULE)
def test_low_precision_storage_keeps_a_float32_softmax(dtype, tolerance, spec):
    q, k, v = qkv(group=2, queries=6, keys=7, d_v=5, dtype=dtype)
    mask = torch.ones(6, 7, dtype=torch.bool).tril(3)
    z, lse = solve(q, k, v, spec, mask=mask)
    full = attend(wide(q), wide(k), wide(v), spec=spec, mask=wide(mask))
    assert z.dtype == dtype
    assert lse.dtype == torch.float32
    np.testing.assert_allclose(z.double(), full.z, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(lse, full.lse, atol=1e-4, rtol=1e-4)


def test_float16_scores_beyond_its_range_do_not_overflow():
    q, k, v = (60 * x for x in qkv(d_k=64, dtype=torch.float16))  # q·k reaches 10⁵, float16 ends at 65504
    z, _ = solve(q, k, v, PLAIN)
    full = attend(wide(q), wide(k), wide(v), spec=PLAIN)
    np.testing.assert_allclose(z.double(), full.z, rtol=3e-3, atol=3e-3 * 60)


@pytest.mark.parametrize("queries", [1, 5, 300, 700])
def test_blocks_of_rows_join_without_a_seam(queries):
    """Long enough that masks, windows and offsets take several blocks; against torch in float64."""
    q, k, v = qkv(queries=queries, keys=1100, d_k=4, d_v=4)
    spec = AttentionSpec(causal=True, causal_offset=400, left_window=130)
    i, j = torch.arange(queries)[:, None], torch.arange(1100)
    seen = (j <= i + 400) & (j >= i + 270)
    weights = ((q.double() @ k.double().mT) / 2).masked_fill(~seen, -math.inf).softmax(-1)
    z, _ = solve(q, k, v, spec)
    np.testing.assert_allclose(z, weights @ v.double(), atol=1e-5)
    capped, _ = solve(q, k, v, AttentionSpec(causal=True, causal_offset=400, left_window=130, softcap=1e4))
    np.testing.assert_allclose(capped, weights @ v.double(), atol=1e-4)


def test_z_is_the_same_bits_whether_or_not_the_lse_is_wanted():
    for spec in EVERY_RULE:
        problem = prepare(*qkv(group=2), spec=spec)
        alone, nothing = contextualize(problem, want_lse=False)
        both, _ = contextualize(problem, want_lse=True)
        assert nothing is None
        assert torch.equal(alone, both)


def test_a_projection_that_is_a_transposed_view_is_read_right():
    q, k, v = qkv()
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v)]
    scattered = [x.mT.contiguous().mT for x in (q, k, v)]
    expected, _ = solve(q, k, v, PLAIN)
    assert torch.equal(solve(*strided, PLAIN)[0], expected)
    assert torch.equal(solve(*scattered, PLAIN)[0], expected)


def test_bias_may_be_a_tensor_or_made_block_by_block():
    q, k, v = qkv(queries=300, keys=300)
    whole = torch.randn(2, 300, 300)
    calls = []

    def bias(rows, heads):
        calls.append((rows, heads))
        return (whole if heads is None else whole[heads])[:, rows]

    expected = torch.softmax(q.double() @ k.double().mT / math.sqrt(8) + whole, -1) @ v.double()
    np.testing.assert_allclose(solve(q, k, v, PLAIN, bias=whole)[0], expected, atol=1e-5)
    np.testing.assert_allclose(solve(q, k, v, PLAIN, bias=bias)[0], expected, atol=1e-5)
    assert all(isinstance(rows, slice) for rows, _ in calls)


# Rows with nothing to attend to, and numbers that are not finite where nobody may look.


@pytest.mark.parametrize(
    ("spec", "mask"),
    [
        (PLAIN, torch.zeros(4, dtype=torch.bool)),
        (PLAIN, torch.tensor([[True] * 4, [False] * 4, [True] * 4, [True] * 4])),
        (PLAIN, torch.tensor([[0.0] * 4, [-math.inf] * 4, [0.0] * 4, [0.0] * 4])),
        (AttentionSpec(softcap=2.0), torch.tensor([[True] * 4, [False] * 4, [True] * 4, [True] * 4])),
        (AttentionSpec(causal=True, causal_offset=-2), None),
        (AttentionSpec(left_window=0, right_window=0, causal_offset=3), None),
    ],
)
def test_a_row_with_nothing_to_attend_to_is_zeros(spec, mask):
    q, k, v = qkv(keys=4)
    z, lse = solve(q, k, v, spec, mask=mask)
    assert torch.equal(z[:, 1], torch.zeros(2, 8))
    assert torch.equal(lse[:, 1], torch.full((2,), -math.inf))
    assert not z.isnan().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("spec", "mask", "touched"),
    [
        (PLAIN, torch.tensor([True, True, False, True]), []),
        (PLAIN, torch.tensor([0.0, 0.0, -math.inf, 0.0]), []),
        (AttentionSpec(causal=True), None, [2, 3]),
        (AttentionSpec(causal=True, softcap=9.0), None, [2, 3]),
        (AttentionSpec(left_window=0, right_window=0), None, [2]),
        (AttentionSpec(exclude_self=True), None, [0, 1, 3]),
    ],
)
def test_a_value_that_is_not_finite_spoils_only_rows_that_may_attend_it(spec, mask, touched, bad):
    q, k, v = qkv(keys=4)
    clean, _ = solve(q, k, v, spec, mask=mask)
    spoilt = v.clone()
    spoilt[:, 2, 0] = bad
    z, _ = solve(q, k, spoilt, spec, mask=mask)
    untouched = [row for row in range(4) if row not in touched]
    np.testing.assert_allclose(z[:, untouched], clean[:, untouched], atol=1e-6)
    assert not z[:, touched, 0].isfinite().any()
    assert z[:, :, 1:].isfinite().all()


def test_a_key_that_is_not_a_number_spoils_only_rows_that_may_attend_it():
    q, k, v = qkv(keys=4)
    for spec, mask, clean_rows in (
        (AttentionSpec(causal=True), None, [0, 1]),
        (PLAIN, torch.tensor([True, True, False, True]), [0, 1, 2, 3]),
        (PLAIN, torch.tensor([0.0, 0.0, -math.inf, 0.0]), [0, 1, 2, 3]),
    ):
        spoilt = k.clone()
        spoilt[:, 2] = math.nan
        clean, _ = solve(q, k, v, spec, mask=mask)
        z, _ = solve(q, spoilt, v, spec, mask=mask)
        np.testing.assert_allclose(z[:, clean_rows], clean[:, clean_rows], atol=1e-6)


@pytest.mark.parametrize("spec", [PLAIN, AttentionSpec(causal=True), AttentionSpec(left_window=3)])
@pytest.mark.parametrize("keys", [5, 700])
def test_a_query_that_is_not_a_number_never_passes_for_an_empty_row(spec, keys):
    """Torch's CPU kernel gives z 0 and logsumexp 0 to such a row when it is short."""
    q, k, v = qkv(keys=keys)
    q[1, 2] = math.nan
    z, lse = solve(q, k, v, spec)
    assert z[1, 2].isnan().all()
    assert lse[1, 2].isnan()
    assert z[0].isfinite().all()


def test_scores_that_overflow_to_minus_infinity_are_not_an_empty_row():
    q, k, v = qkv(keys=3)
    z, lse = solve(torch.full_like(q, 1e30), torch.full_like(k, -1e30), v, PLAIN)
    assert z.isnan().all()
    assert lse.isnan().all()


@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_empty_axes_give_empty_or_zero_results(queries, keys):
    q, k, v = qkv(queries=queries, keys=keys)
    for spec in (PLAIN, AttentionSpec(causal=True), AttentionSpec(softcap=2.0)):
        z, lse = solve(q, k, v, spec)
        assert z.shape == (2, queries, 8)
        assert not z.any()
        assert torch.equal(lse, torch.full((2, queries), -math.inf))


def test_an_honest_logsumexp_of_zero_is_kept():
    z, lse = solve(torch.zeros(2, 1, 8), *qkv(keys=1)[1:], PLAIN)
    assert torch.equal(lse, torch.zeros(2, 1))
    assert z.all()


# Cosine similarity


def test_cosine_of_zero_tiny_and_huge_vectors_is_safe():
    q, k, v = qkv()
    z, _ = solve(q * 1e30, k * 1e-30, v, AttentionSpec(similarity="cosine"))
    expected, _ = solve(q, k, v, AttentionSpec(similarity="cosine"))
    np.testing.assert_allclose(z, expected, atol=1e-6)
    uniform, _ = solve(torch.zeros_like(q), k, v, AttentionSpec(similarity="cosine"))
    np.testing.assert_allclose(uniform, v.mean(1, keepdim=True).expand(-1, 4, -1), atol=1e-6)


# What does not fit is refused


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(4, dtype=torch.bool),  # 5 keys
        torch.ones(3, 5, dtype=torch.bool),  # 4 queries
        torch.ones(3, 4, 5, dtype=torch.bool),  # 2 heads
        torch.ones(2, 1, 4, 5, dtype=torch.bool),  # a batch
        torch.ones(5, dtype=torch.int64),  # neither bool nor float
        torch.ones((), dtype=torch.bool),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(SpecError, match="mask"):
        prepare(*qkv(), spec=PLAIN, mask=mask)


def test_shapes_that_do_not_fit_are_refused():
    q, k, v = qkv()
    for query, key, value in ((q[..., :4], k, v), (q, k, v[:, :3]), (q[:1], k, v), (q, k[:0], v[:0])):
        with pytest.raises(SpecError, match="do not fit"):
            prepare(query, key, value, spec=PLAIN)
