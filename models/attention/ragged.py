"""The backend of a GPU: attention of many sequences that stand one after another, as one call of a kernel.

Two of torch's kernels know where each sequence begins: FlashAttention (Dao et al., 2022, arXiv:2205.14135),
public as `torch.nn.attention.varlen`, in float16 and bfloat16; and the memory-efficient one, whose entry is
private (`torch_private`), in float32 too. What a kernel is believed to do it is asked for once, on a small
ragged batch, and it is used only if it answers as the formula is written.
"""

import importlib
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from models.attention.torch_private import efficient
from models.compiled.extents import AttentionResult

log = logging.getLogger(__name__)

PROBED = (3, 40, 1)  # lengths
# Of z, whose numbers are about 1 there: a rounding of each dtype, and what a sum of forty rounds to.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequence i has rows `cu_seqlens[i]` to `cu_seqlens[i + 1]`, int32 [B + 1] on the device."""

    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Batch":
        """Lay out sequences of these lengths, one after another."""
        cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
        cu_seqlens[1:] = torch.tensor(lengths).cumsum(0)
        if device.type == "cuda":
            cu_seqlens = cu_seqlens.pin_memory()
        return cls(cu_seqlens.to(device, non_blocking=True), tuple(lengths))


# (q [N, H, d], k [N, G, d], v [N, G, d], batch, scale=, causal=)
Kernel = Callable[..., AttentionResult]


def attend(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, lengths: Sequence[int], *, scale: float, causal: bool
) -> AttentionResult:
    """Return z [N, H, D] of sequences' rows, one after another, and logsumexps; nothing is waited for.

    So nobody has looked at z: whoever keeps numbers of it looks at those. What is not finite in one sequence
    does not reach another.
    """
    kernel = ragged_kernel(q_NHD.device, q_NHD.dtype, q_NHD.shape[2], q_NHD.shape[1] // k_NGD.shape[1])
    assert kernel is not None
    return kernel(q_NHD, k_NGD, v_NGD, Batch.of(lengths, q_NHD.device), scale=scale, causal=causal)


@cache
def ragged_kernel(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Kernel | None:
    """Return the kernel for heads of a width, `group` query heads to a key head; None where there is none."""
    if device.type != "cuda":
        return None
    for kernel in (_efficient,) if dtype == torch.float32 else (_flash, _efficient):
        if _agrees(kernel, device, dtype, width, group):
            return kernel
    return None


def ragged_name(device: torch.device, dtype: torch.dtype, width: int, group: int) -> str | None:
    """Return what `ragged_kernel` is called, for the model page; None where there is none."""
    kernel = ragged_kernel(device, dtype, width, group)
    return None if kernel is None else NAMES[kernel]


def _flash(q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool) -> AttentionResult:
    function, more, aux = _varlen()
    longest = max(batch.lengths)
    z, lse = function(
        q,
        k,
        v,
        batch.cu_seqlens,
        batch.cu_seqlens,
        longest,
        longest,
        return_aux=aux(lse=True),
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
        **more,
    )
    return _result(z, list(torch.split(lse, list(batch.lengths), dim=1)))


def _efficient(
    q: Tensor, k: Tensor, v: Tensor, batch: Batch, *, scale: float, causal: bool
) -> AttentionResult:
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    z, lse_BHT = efficient(q, k, v, batch.cu_seqlens, longest=max(batch.lengths), scale=scale, causal=causal)
    return _result(z, [lse_BHT[place, :, :length] for place, length in enumerate(batch.lengths)])


def _result(z: Tensor, lse: list[Tensor]) -> AttentionResult:
    return AttentionResult(z, lse, [None] * len(lse))


NAMES: dict[Kernel, str] = {
    _flash: "torch.nn.attention.varlen",
    _efficient: "torch.memory_efficient_attention",
}


@cache
def _varlen() -> tuple[Callable[..., Any], dict[str, Any], Callable[..., Any]]:
    """Return torch's function, what makes a row independent of the batch, and what asks for the logsumexp."""
    module = importlib.import_module("torch.nn.attention.varlen")
    known = inspect.signature(module.varlen_attn).parameters
    return module.varlen_attn, {"num_splits": 1} if "num_splits" in known else {}, module.AuxRequest


def _agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, group: int) -> bool:
    """Whether a kernel gives z and logsumexp of a ragged batch as softmax(scale·QKᵀ)·V has them."""
    chance = torch.Generator().manual_seed(0)
    rows, heads = sum(PROBED), 2 * group
    # Side by side, as a fused projection leaves them: rows of each are not next to each other.
    qkv = torch.randn(rows, heads + 4, width, generator=chance).to(device, dtype)
    q, k, v = torch.split(qkv, [heads, 2, 2], dim=1)
    scale = width**-0.5
    tolerance = TOLERANCES[dtype]
    try:
        batch = Batch.of(PROBED, device)
        for causal in (False, True):
            made = kernel(q, k, v, batch, scale=scale, causal=causal)
            z, lse = as_written(q, k, v, PROBED, scale=scale, causal=causal)
            for found, expected in ((made.z, z), *zip(made.lse, lse, strict=True)):
                if found is None or found.shape != expected.shape:
                    return False
                if not torch.allclose(found.float(), expected, rtol=tolerance, atol=tolerance):
                    return False
    except Exception as error:  # noqa: BLE001 - a private entry may refuse in any way it likes
        log.info("%s does not run on %s in %s: %s", kernel.__name__, device, dtype, str(error)[:200])
        return False
    return True


def as_written(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], *, scale: float, causal: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return what a kernel is to give, float32, computed a sequence at a time as it is written."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    found, logsums = [], []
    for q_THD, k_THD, v_THD in zip(*(torch.split(x.float(), list(lengths)) for x in (q, k, v)), strict=True):
        scores = scale * torch.einsum("thd,shd->hts", q_THD, k_THD)
        if causal:
            causal_mask = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(causal_mask, -torch.inf)
        found.append(torch.einsum("hts,shd->thd", scores.softmax(-1), v_THD))
        logsums.append(scores.logsumexp(-1))
    return torch.cat(found), logsums
