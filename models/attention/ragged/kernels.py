"""Torch's two kernels that know where each sequence begins: FlashAttention, and the memory-efficient one.

FlashAttention (Dao et al., 2022, arXiv:2205.14135) in float16 and bfloat16; the memory-efficient kernel (Rabe
and Staats, 2021, arXiv:2112.05682) in float32 too. The entries of both are private (`torch_private`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.attention.ragged.batch import Batch
from models.attention.torch_private import efficient, flash
from models.compiled.extents import AttentionResult

# (q [N, H, d], k [N, G, d], v [N, G, d], batch, scale=, causal=)
Kernel = Callable[..., AttentionResult]


def by_flash(q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool) -> AttentionResult:
    """Attend by FlashAttention, which reads grouped heads as they are."""
    z, lse_HN = flash(q, k, v, batch.cu_seqlens, longest=batch.longest, scale=scale, causal=causal)
    lse = list(torch.split(lse_HN, list(batch.lengths), dim=1))
    return AttentionResult(z, lse, [None] * len(lse), packed_lse=lse_HN)


def by_efficient(
    q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool
) -> AttentionResult:
    """Attend by the memory-efficient kernel, which has no grouped heads."""
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    z, lse_BHT = efficient(q, k, v, batch.cu_seqlens, longest=batch.longest, scale=scale, causal=causal)
    lse = [lse_BHT[place, :, :length] for place, length in enumerate(batch.lengths)]
    return AttentionResult(z, lse, [None] * len(lse))


NAMES: dict[Kernel, str] = {
    by_flash: "torch.flash_attention",
    by_efficient: "torch.memory_efficient_attention",
}
