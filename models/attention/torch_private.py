"""Every function of torch that is private and called here, each used only if it is there and answers right.

Attention: on a CPU torch's FlashAttention (Dao et al., 2022, arXiv:2205.14135) also gives the logsumexp of
each row, from which any weight can be recomputed later; the public function takes its place if it is gone.
On a GPU FlashAttention and the memory-efficient kernel (Rabe and Staats, 2021, arXiv:2112.05682) take a
ragged batch; `ragged` probes both. Linears: oneDNN's, on weights laid out for it; `linear` probes it.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.errors import of_batch

TOP_LEFT = 1  # the efficient kernel's name of a causal mask

_Kernel = Callable[..., tuple[Tensor, Tensor]]


def fused(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    *,
    scale: float,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return z [B, H, T, D] and, where the kernel gives it, the rows' logsumexp float32 [B, H, T].

    All of one dtype and width, last axis contiguous, no axis empty (torch 2.13 divides by zero). `mask`:
    float32, broadcastable to [B, H, T, S], −inf blocks; on a GPU also bool, true may be attended. `causal`:
    query i sees keys up to i. Heads may be expanded views. Caution: a row that is blocked throughout, and a
    row whose scores are all NaN or −inf, both give z 0 and logsumexp 0.
    """
    kernel = _cpu_kernel() if q_BHTD.device.type == "cpu" else None
    if kernel is not None:
        return kernel(q_BHTD, k_BHSD, v_BHSD, 0.0, causal, attn_mask=mask, scale=scale)
    dtype = q_BHTD.dtype
    # On a GPU no kernel of torch adds float32 to scores of halves: the memory-efficient one refuses a mask of
    # another dtype than q's ("invalid dtype for bias"). Rounded to it, a bias of 100 would be off by 1/4 in
    # bfloat16 and 1/32 in float16 at the most, and a weight by a factor of 1.28 and 1.03, where scores are
    # promised to be added up in float32 (docs/precision.md). So q, k and v are widened, which is exact, and
    # slower. What comes here is what kernels in tiles leave, which take float32 biases beside halves: heads
    # over 256, biases too large to be held, and GPUs without Triton.
    if mask is not None and mask.dtype != torch.bool and dtype != torch.float32:
        q_BHTD, k_BHSD, v_BHSD = q_BHTD.float(), k_BHSD.float(), v_BHSD.float()
    z = functional.scaled_dot_product_attention(
        q_BHTD, k_BHSD, v_BHSD, attn_mask=mask, is_causal=causal, scale=scale
    )
    return z.to(dtype), None


def told_at_once(device: torch.device) -> bool:
    """Whether a number can be read without waiting for what was begun before: on a processor."""
    return device.type == "cpu"


def tells_lse(device: torch.device) -> bool:
    """Whether `fused` gives the logsumexp on a device."""
    return device.type == "cpu" and _cpu_kernel() is not None


def kernel_name(device: torch.device) -> str:
    """Return what runs the fused path on a device, one sequence at a time, for the model page."""
    told = device.type == "cpu" and _cpu_kernel() is not None
    return "torch.flash_attention_for_cpu" if told else "torch.scaled_dot_product_attention"


@cache
def _cpu_kernel() -> _Kernel | None:
    """Return torch's private CPU kernel if it is there and answers as this project relies on."""
    packet = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    kernel: _Kernel | None = getattr(packet, "default", None)
    if kernel is None:
        return None
    q, k = torch.eye(2)[None, None], torch.eye(2)[None, None, :, :]
    mask = torch.tensor([[0.0, -torch.inf], [0.5, 0.0]])
    scores = q[0, 0] @ k[0, 0].T + mask
    try:
        z, lse = kernel(q, k, k, attn_mask=mask, scale=1.0)
    except (RuntimeError, TypeError):  # its signature is another one
        return None
    sound = lse.shape == (1, 1, 2) and torch.allclose(lse[0, 0], scores.logsumexp(-1), atol=1e-5)
    return kernel if sound and torch.allclose(z[0, 0], scores.softmax(-1) @ k[0, 0], atol=1e-5) else None


def efficient(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    cu_seqlens: Tensor,
    *,
    longest: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Return z [N, H, D] of sequences one after another, and logsumexp [B, H, ≥ longest], filled up.

    `cu_seqlens` int32 [B + 1]: where each begins, and where the last one ends.
    """
    z, lse_BHT, *_ = torch.ops.aten._efficient_attention_forward(
        q_NHD[None],
        k_NHD[None],
        v_NHD[None],
        None,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        0.0,
        TOP_LEFT if causal else 0,
        True,  # noqa: FBT003 - with the logsumexp
        scale=scale,
    )
    return z[0], lse_BHT


def flash(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGD: Tensor,
    cu_seqlens: Tensor,
    *,
    longest: int,
    scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Return z [N, H, D] of sequences one after another, and logsumexp float32 [H, N].

    The public `torch.nn.attention.varlen` would launch a kernel more, and in torch 2.11 knows nothing of
    grouped heads, which this entry has always read. Where keys can be split among blocks of threads they are
    not: how many there are would depend on what else is in the batch.
    """
    z, lse_HN, *_ = torch.ops.aten._flash_attention_forward(
        q_NHD,
        k_NGD,
        v_NGD,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        0.0,
        causal,
        False,  # noqa: FBT003 - no mask for debugging
        scale=scale,
        window_size_left=-1,
        window_size_right=0 if causal else -1,
        **({"num_splits": 1} if "num_splits" in _taken_by_flash() else {}),
    )
    return z, lse_HN


@cache
def _taken_by_flash() -> frozenset[str]:
    """Return the names of the arguments that torch's entry takes: 2.11 has fewer than 2.13."""
    schema = torch.ops.aten._flash_attention_forward.default._schema
    return frozenset(one.name for one in schema.arguments)


def end_graph_pool(device: torch.device, pool: Any) -> None:
    """Let no more of a device's memory go to the pool of a CUDA graph whose recording could not be ended.

    Else, until torch 2.13, the allocator would take it that one is recorded for ever, and give nothing back.
    """
    end: Callable[[int, Any], None] | None = getattr(torch._C, "_cuda_endAllocateToPool", None)
    if end is not None:
        with suppress(RuntimeError):
            end(device.index or 0, pool)


def halves_multiply(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of halves can be had in float32: exact, summed in float32, by tensor cores."""
    if dtype not in (torch.float16, torch.bfloat16) or device.type not in ("cuda", "meta"):
        return False
    return _halves_multiply(device, dtype)


@cache
def _halves_multiply(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        ones = torch.ones(1, 8, 8, device=device, dtype=dtype)
        made = products_of_halves(ones, ones)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        if of_batch(error) is not None:
            raise
        return False
    return made.dtype == torch.float32


def products_of_halves(x_GRD: Tensor, y_GDK: Tensor) -> Tensor:
    """Return x·y float32 [G, R, K] of halves, their products summed in float32."""
    made: Tensor = torch.bmm(x_GRD, y_GDK, out_dtype=torch.float32)
    return made


def lays_out_linears() -> bool:
    """Whether oneDNN's linear and what lays weights out for it are there."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def lay_out_linear(weight: Tensor) -> Any:
    """Return a weight [out, in] laid out for `laid_out_linear`."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def laid_out_linear(x_ND: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    """Return x·Wᵀ + b by oneDNN."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x_ND, weight, bias, "none", [], "")
    return result
