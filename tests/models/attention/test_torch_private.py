"""The fused kernel's public stand-in, and when the private one is refused."""

import math
import types

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from models.attention import torch_private
from models.attention.blocks import view_of
from models.attention.problem import prepare
from models.mechanism import AttentionSpec
from tests.in_one import contextualize
from tests.reference import attend

PLAIN = AttentionSpec()
RULES = (
    PLAIN,
    AttentionSpec(causal=True),
    AttentionSpec(causal=True, causal_offset=-2),
    AttentionSpec(left_window=2, right_window=1),
    AttentionSpec(exclude_self=True, add_self=True),
    AttentionSpec(softcap=1.5),
    AttentionSpec(similarity="cosine"),
)


@pytest.fixture
def public_kernel(monkeypatch):
    """Torch's public function alone, as on other devices and where the private kernel has changed."""
    monkeypatch.setattr(torch_private, "_cpu_kernel", lambda: None)


def qkv(*, group=1, queries=4, keys=5, d_v=8, dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    shapes = ((2 * group, queries, 8), (2, keys, 8), (2, keys, d_v))
    return tuple(torch.randn(shape, generator=source).to(dtype) for shape in shapes)


def wide(tensor):
    return None if tensor is None else (tensor if tensor.dtype == torch.bool else tensor.double()).numpy()


def solve(q, k, v, spec, **given_masks):
    return contextualize(prepare(q, k, v, spec=spec, **given_masks), want_lse=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_bias_beside_halves_is_not_rounded_to_them(public_kernel, dtype):
    bias = torch.tensor([[100.0, 100.2, 300.0, 300.06], [0.0, -1e-3, -1.0, -1.003]])
    v = torch.eye(4, dtype=dtype)[None, None]
    z, _ = torch_private.fused(torch.zeros_like(v[..., :2, :]), v, v, scale=1.0, mask=bias)
    assert z.dtype == dtype
    rounding = torch.finfo(dtype).eps / 2
    expected = bias.double().softmax(-1)
    torch.testing.assert_close(z[0, 0].double(), expected, rtol=rounding * 1.01, atol=1e-7)
    rounded = bias.to(dtype).double().softmax(-1)
    assert float((rounded - expected).abs().max()) > 0.01


def test_halves_stay_halves_under_masks_that_only_hide():
    """On tensors without numbers, as on a GPU: what is given to torch's function."""
    given = []

    class Noting(TorchFunctionMode):
        def __torch_function__(self, function, _types, args=(), kwargs=None):
            if function is torch.nn.functional.scaled_dot_product_attention:
                given.append([one.dtype for one in args])
            return function(*args, **(kwargs or {}))

    q, k, v = (torch.empty(1, 2, 4, 8, device="meta", dtype=torch.bfloat16) for _ in "qkv")
    hidden = torch.empty(1, 1, 4, 4, device="meta", dtype=torch.bool)
    with Noting():
        for mask in (None, hidden, hidden.float()):
            z, _ = torch_private.fused(q, k, v, scale=1.0, mask=mask)
            assert z.dtype == torch.bfloat16
    assert given == [[torch.bfloat16] * 3] * 2 + [[torch.float32] * 3]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("spec", RULES)
def test_the_public_kernel_gives_the_same_z_and_no_lse(public_kernel, dtype, tolerance, spec):
    q, k, v = qkv(group=2, queries=6, keys=7, d_v=5, dtype=dtype)
    added = torch.randn(6, 7).masked_fill_(torch.eye(6, 7) > 0, -math.inf)
    for mask in (None, torch.arange(7) != 3, added):
        z, lse = solve(q, k, v, spec, mask=mask)
        full = attend(wide(q), wide(k), wide(v), spec=spec, mask=wide(mask))
        np.testing.assert_allclose(z.double(), full.z, atol=tolerance, rtol=tolerance)
        assert (lse is None) == (spec.softcap is None)


def test_the_public_kernel_gives_sinks_their_share_and_empty_rows_nothing(public_kernel):
    q, k, v = qkv(keys=4)
    sinks = torch.tensor([0.5, -2.0])
    mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4, [True] * 4])
    z, lse = solve(q, k, v, PLAIN, mask=mask, sinks=sinks)
    full = attend(wide(q), wide(k), wide(v), spec=PLAIN, mask=wide(mask), sinks=wide(sinks))
    np.testing.assert_allclose(z, full.z, atol=1e-5)
    np.testing.assert_allclose(lse, full.lse, atol=1e-5)


def test_the_public_kernel_lets_no_bad_number_through(public_kernel):
    q, k, v = qkv()
    q[1, 2] = math.nan
    assert solve(q, k, v, PLAIN)[0][1, 2].isnan().all()


@pytest.mark.parametrize(
    "kernel",
    [
        lambda q, *_, **__: (torch.zeros_like(q), torch.zeros(q.shape[:3])),
        lambda q, *_, **__: (q, q),
        lambda q: q,
    ],
    ids=["wrong numbers", "wrong shapes", "another signature"],
)
def test_a_private_kernel_that_answers_otherwise_is_refused(monkeypatch, kernel):
    stand_in = types.SimpleNamespace(default=kernel)
    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", stand_in)
    assert torch_private._cpu_kernel.__wrapped__() is None


def test_the_private_kernel_of_this_torch_is_used():
    assert torch_private.kernel_name(torch.device("cpu")) == "torch.flash_attention_for_cpu"
    assert torch_private.kernel_name(torch.device("cuda")) == "torch.scaled_dot_product_attention"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_of_halves_are_products_of_halves_where_a_device_gives_them_in_float32(
    dtype: torch.dtype,
) -> None:
    """As torch describes it: tensor cores then do what float32 products would take ten times as long for."""
    meta = torch.device("meta")
    assert torch_private.halves_multiply(meta, dtype)
    assert not torch_private.halves_multiply(meta, torch.float32)
    assert not torch_private.halves_multiply(torch.device("cpu"), dtype)
    q, k = (torch.empty(heads, 7, 16, dtype=dtype, device=meta) for heads in (4, 2))
    view = view_of(prepare(q, k, k, spec=AttentionSpec(causal=True)), heads=None)
    assert view.q.dtype == view.k.dtype == dtype
    (block,) = view.blocks()
    assert view.scores(block).scores.dtype == torch.float32
    assert view.scores(block).scores.shape == (4, 7, 7)
