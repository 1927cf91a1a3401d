"""The mathematics of attention: softmax(scale·QKᵀ + masks)·V for one sequence, as pure functions on tensors.

    problem = prepare(q, k, v, spec=...)             what is to be computed, checked and normalised
    z, lse = contextualize(problem, want_lse=True)   the contextual vectors, by the fused kernel
    reductions.derive(problem, lse, selection)       whatever else was asked for, from q, k and lse

The written specification is the ONNX `Attention` operator (opset 23 to 25): scale, softcap, mask and bias,
softmax in float32 whatever the storage dtype, times V. The formula is equation 1 of Vaswani et al., 2017
(arXiv:1706.03762). A row that may attend nothing gives z 0 and logsumexp −inf, never NaN, and whether it
is such a row is read from the masks, never from the kernel.
"""

import math

import torch
from torch import Tensor

from models.errors import SpecError
from models.fused import fused_attention, nothing
from models.masks import Bias, Visibility, band_of, mask_of
from models.scores import Pause, Problem, go_on, view_of, with_sink
from models.spec import AttentionSpec

__all__ = ["Problem", "contextualize", "prepare"]


def prepare(
    q_HTD: Tensor,
    k_GSD: Tensor,
    v_GSV: Tensor,
    *,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Bias | None = None,
    sinks: Tensor | None = None,
    pause: Pause = go_on,
) -> Problem:
    """Return one sequence's attention as a Problem: query heads H a multiple of key heads G.

    All of one dtype: float32, float16 or bfloat16. `mask`: bool, true may attend, or float, added; [S],
    [T, S], [H or 1, T, S] or [1, H, T, S]. `bias` [H, T, S] float32, or a function that makes any rows of it.
    `sinks` [H]: a score per head that takes its share of the softmax and gives nothing. `pause` is called
    between parts of long work; what it computes meanwhile changes nothing here.
    Raises SpecError where shapes do not fit.
    """
    heads, queries, width = q_HTD.shape
    key_heads, keys, key_width = k_GSD.shape
    fits = key_heads and heads % key_heads == 0 and width == key_width and v_GSV.shape[:2] == k_GSD.shape[:2]
    if not fits or not width:
        raise SpecError(
            f"query {list(q_HTD.shape)}, key {list(k_GSD.shape)} and value {list(v_GSV.shape)} do not fit: "
            "query heads must be a multiple of key heads, query and key equally wide, keys as many as values"
        )
    q, k, v = q_HTD, k_GSD, v_GSV
    if spec.similarity == "cosine":
        q, k, v = _unit(q), _unit(k), v.float()
    if mask is not None:
        mask = mask_of(mask, heads=heads, queries=queries, keys=keys)
    if isinstance(bias, Tensor):
        bias = mask_of(bias, heads=heads, queries=queries, keys=keys)
    return Problem(
        q=_rows(q),
        k=_rows(k),
        v=_rows(v),
        queries=q_HTD,
        keys=k_GSD,
        values=v_GSV,
        scale=spec.scale_for(width),
        spec=spec,
        visibility=Visibility(heads, band_of(spec, queries=queries, keys=keys), mask, bias),
        sinks=None if sinks is None else sinks.float(),
        pause=pause,
    )


def contextualize(problem: Problem, *, want_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Return z [H, T, d_v] in the dtype of the values, and float32 logsumexp [H, T] when wanted.

    z is the same, bit for bit, whether or not the logsumexp is wanted. The logsumexp is None when it is
    not wanted, and where the device's kernel does not give it: `derive` then computes it for the rows it
    reads. [T, S] is never held beyond blocks of bounded size.
    """
    found = None
    if problem.q.numel() and problem.v.numel():  # the kernels do not survive empty axes
        found = fused_attention(problem)
    if found is not None and problem.sinks is not None:
        found = _with_sinks(problem, *found)
    z, lse = found if found is not None else _streamed(problem)
    z = z.to(problem.values.dtype)
    if problem.spec.add_self:
        z = _add_self(problem, z)
    return z, lse if want_lse else None


def _streamed(problem: Problem) -> tuple[Tensor, Tensor]:
    """Compute z and logsumexp in row blocks, plainly: for softcap, and for rows the kernel gets wrong."""
    z, _ = nothing(problem)
    view = view_of(problem)
    v = problem.v.float()
    bad_GSV = None if bool(v.isfinite().all()) else (~v.isfinite()).float()
    v = v if bad_GSV is None else v.nan_to_num(0.0, 0.0, 0.0)
    for block in view.blocks() if z.numel() else ():
        scored = view.scores(block)
        view.note_lse(block, scored)
        seen = None if bad_GSV is None else (scored.scores != -math.inf).float()
        part = _times(view.weights(block, scored), v[block.groups, block.keys])
        if bad_GSV is not None and seen is not None:  # it spoils the rows that may attend it, and no other
            part.masked_fill_(_times(seen, bad_GSV[block.groups, block.keys]) > 0, math.nan)
        z[block.heads, block.rows] = part.to(z.dtype)
    return z, view.lse


def _times(weights: Tensor, v: Tensor) -> Tensor:
    """Return weights [h, R, W] times values [g, W, V] of the key heads they read: [h, R, V]."""
    heads, rows, keys = weights.shape
    return torch.bmm(weights.view(v.shape[0], -1, keys), v).view(heads, rows, -1)


def _with_sinks(problem: Problem, z: Tensor, lse: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Give each head's sink its share, every weight times σ(lse − sink); None without a logsumexp."""
    if lse is None:
        return None
    assert problem.sinks is not None
    sinks = problem.sinks[:, None]
    z = z * torch.sigmoid(lse - sinks)[..., None].to(z.dtype)
    return z, with_sink(lse, sinks)


def _add_self(problem: Problem, z: Tensor) -> Tensor:
    """Add each query's own value, the one on its diagonal, as it is (SEEDS row 6)."""
    queries, keys = z.shape[1], problem.v.shape[1]
    at = problem.spec.causal_offset
    first, last = max(0, -at), min(queries, keys - at)
    if last > first:
        own = problem.values[:, first + at : last + at].repeat_interleave(problem.group, dim=0)
        z = z.clone()
        z[:, first:last] += own
    return z


def _unit(x: Tensor) -> Tensor:
    """Return float32 vectors of length 1; a zero vector stays zero. Exact for any finite length."""
    x = x.float()
    peak = x.abs().amax(-1, keepdim=True)
    x = x / peak.masked_fill(peak == 0, 1.0)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.masked_fill(peak == 0, 1.0)


def _rows(x: Tensor) -> Tensor:
    """Return a tensor whose vectors are contiguous: the kernels read nothing else right."""
    return x if x.stride(-1) == 1 else x.contiguous()
