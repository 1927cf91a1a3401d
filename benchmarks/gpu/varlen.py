"""FlashAttention of torch on sequences one after another: a second floor, which computes no padding either.

In float16 and bfloat16, on a GPU. By torch's public function, with those arguments that its version knows;
where a version has none, by the entry beneath it.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.attention.torch_private import flash

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

Attend = Callable[..., Tensor]  # of q [N, H, d], k and v [N, G, d] and Packed, `causal` or not: z [N, H, d]


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Where sequences begin, int32 [B + 1] on the device, and how many rows each has."""

    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: str) -> "Packed":
        """Lay out sequences of these lengths, one after another."""
        starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return cls(starts.to(device), tuple(lengths))


def attend(q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, packed: Packed, *, causal: bool) -> Tensor:
    """Return z [N, H, d] by FlashAttention."""
    longest, starts = max(packed.lengths), packed.cu_seqlens
    if varlen_attn is None:
        scale = q_NHD.shape[2] ** -0.5
        return flash(q_NHD, k_NGD, v_NGD, starts, longest=longest, scale=scale, causal=causal)[0]
    more = said(
        inspect.signature(varlen_attn).parameters, causal=causal, grouped=q_NHD.shape[1] != k_NGD.shape[1]
    )
    z: Tensor = varlen_attn(q_NHD, k_NGD, v_NGD, starts, starts, longest, longest, **more)
    return z


def said(known: Collection[str], *, causal: bool, grouped: bool) -> dict[str, Any]:
    """Return what is said to a version of torch's function, which knows these arguments.

    A window is how 2.11 and later are told of causal; grouped heads 2.11 takes without being told.
    """
    more: dict[str, Any] = {}
    if causal:
        more |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if grouped and "enable_gqa" in known:
        more["enable_gqa"] = True
    return more


def refusal(device: str, dtype: torch.dtype, *, heads: int, key_heads: int, width: int) -> str | None:
    """Say why there is no such kernel for heads like these, by trying it; None where there is."""
    if not device.startswith("cuda"):
        return "FlashAttention is for GPUs"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention is for halves, not for {dtype}"
    rows = torch.zeros(3, heads + 2 * key_heads, width, device=device, dtype=dtype)
    q, k, v = torch.split(rows, [heads, key_heads, key_heads], dim=1)
    try:
        attend(q, k, v, Packed.of((2, 1), device), causal=True)
        torch.cuda.synchronize()
    except (RuntimeError, TypeError, ValueError) as error:  # of a GPU, a build or a version without it
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None
