"""Which kernel there is for heads of a width, tried before it is believed.

What a kernel is believed to do it is asked for once, on a few small ragged batches, and it is used only if it
answers as the formula is written.
"""

import logging
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention.ragged.batch import Batch
from models.attention.ragged.kernels import NAMES, Kernel, by_efficient, by_flash
from models.compiled.extents import AttentionResult
from models.device.gpu import ends_trial

log = logging.getLogger(__name__)

# Lengths. Those of one token each some kernels take by another path.
PROBED = ((3, 40, 1), (1, 1, 1))
# Of z, whose numbers are about 1 there: a rounding of each dtype, and what a sum of forty rounds to.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}

_Key = tuple[torch.device, torch.dtype, int, int]
_chosen: dict[_Key, Kernel | None] = {}
_choosing = threading.RLock()


def attend(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, batch: Batch, *, scale: float, causal: bool
) -> AttentionResult:
    """Return z [N, H, D] of sequences' rows, one after another, and logsumexps; nothing is waited for.

    So nobody has looked at z: whoever keeps numbers of it looks at those. What is not finite in one sequence
    does not reach another.
    """
    kernel = ragged_kernel(q_NHD.device, q_NHD.dtype, q_NHD.shape[2], q_NHD.shape[1] // k_NGD.shape[1])
    assert kernel is not None
    return kernel(q_NHD, k_NGD, v_NGD, batch, scale=scale, causal=causal)


def ragged_kernel(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Kernel | None:
    """Return the kernel for heads of a width, `group` query heads to a key head; None where there is none.

    What the device had no memory to try is tried again the next time.
    """
    if device.type != "cuda":
        return None
    key = (device, dtype, width, group)
    if key not in _chosen:
        with _choosing:
            if key not in _chosen:
                _chosen[key] = _choose(*key)
    return _chosen[key]


def _choose(device: torch.device, dtype: torch.dtype, width: int, group: int) -> Kernel | None:
    for kernel in (by_efficient,) if dtype == torch.float32 else (by_flash, by_efficient):
        if agrees(kernel, device, dtype, width, group):
            return kernel
    return None


def ragged_name(device: torch.device, dtype: torch.dtype, width: int, group: int) -> str | None:
    """Return what `ragged_kernel` is called, for the model page; None where there is none."""
    kernel = ragged_kernel(device, dtype, width, group)
    return None if kernel is None else NAMES[kernel]


def agrees(kernel: Kernel, device: torch.device, dtype: torch.dtype, width: int, group: int) -> bool:
    """Whether a kernel gives z and logsumexp of ragged batches as softmax(scale·QKᵀ)·V has them.

    Raises what the device says when it has no memory, or has failed.
    """
    try:
        wrong = next((one for one in PROBED if not _right(kernel, device, dtype, width, group, one)), None)
    except Exception as error:  # a private entry may refuse in any way it likes
        if ends_trial(error, device):
            raise
        log.warning("%s does not run on %s in %s: %s", NAMES.get(kernel), device, dtype, str(error)[:200])
        return False
    if wrong is not None:
        log.warning("%s is wrong on %s in %s, lengths %s", NAMES.get(kernel), device, dtype, wrong)
    return wrong is None


def _right(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    width: int,
    group: int,
    lengths: Sequence[int],
) -> bool:
    chance = torch.Generator().manual_seed(0)
    rows, heads = sum(lengths), 2 * group
    # Side by side, as a fused projection leaves them: rows of each are not next to each other.
    qkv = torch.randn(rows, heads + 4, width, generator=chance).to(device, dtype)
    q, k, v = torch.split(qkv, [heads, 2, 2], dim=1)
    scale, tolerance = width**-0.5, TOLERANCES[dtype]
    batch = Batch.of(lengths, device)
    for causal in (False, True):
        made = kernel(q, k, v, batch, scale=scale, causal=causal)
        z, lse = as_written(q, k, v, lengths, scale=scale, causal=causal)
        packed = () if made.packed_lse is None else ((made.packed_lse, torch.cat(lse, dim=1)),)
        for found, expected in ((made.z, z), *zip(made.lse, lse, strict=True), *packed):
            if found is None or found.shape != expected.shape:
                return False
            if not torch.allclose(found.float(), expected, rtol=tolerance, atol=tolerance):
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
