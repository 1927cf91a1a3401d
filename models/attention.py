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
from torch.nn import functional

from models.errors import SpecError
from models.kernels import fused
from models.masks import Band, Bias, Visibility, band_of, mask_of
from models.scores import Problem, grouped, row_blocks, view_of, with_sink
from models.spec import AttentionSpec

__all__ = ["Problem", "contextualize", "prepare"]

# Elements of one mask block handed to the fused kernel: 4 MiB of float32.
MASK_ELEMENTS = 1 << 20


def prepare(
    q_HTD: Tensor,
    k_GSD: Tensor,
    v_GSV: Tensor,
    *,
    spec: AttentionSpec,
    mask: Tensor | None = None,
    bias: Bias | None = None,
    sinks: Tensor | None = None,
) -> Problem:
    """Return one sequence's attention as a Problem: query heads H a multiple of key heads G.

    All of one dtype: float32, float16 or bfloat16. `mask`: bool, true may attend, or float, added; [S],
    [T, S], [H or 1, T, S] or [1, H, T, S]. `bias` [H, T, S] float32, or a function that makes any rows of it.
    `sinks` [H]: a score per head that takes its share of the softmax and gives nothing.
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
    )


def contextualize(problem: Problem, *, want_lse: bool) -> tuple[Tensor, Tensor | None]:
    """Return z [H, T, d_v] in the dtype of the values, and float32 logsumexp [H, T] when wanted.

    z is the same, bit for bit, whether or not the logsumexp is wanted. The logsumexp is None when it is
    not wanted, and where the device's kernel does not give it: `derive` then computes it for the rows it
    reads. [T, S] is never held beyond blocks of bounded size.
    """
    found = None
    if problem.q.numel() and problem.v.numel():  # the kernels do not survive empty axes
        found = _fused(problem)
    if found is not None and problem.sinks is not None:
        found = _with_sinks(problem, *found)
    z, lse = found if found is not None else _streamed(problem)
    z = z.to(problem.values.dtype)
    if problem.spec.add_self:
        z = _add_self(problem, z)
    return z, lse if want_lse else None


def _fused(problem: Problem) -> tuple[Tensor, Tensor | None] | None:
    """Return z and logsumexp by the fused kernel; None where it cannot or where its answer is not sound."""
    if problem.spec.softcap is not None:
        return None
    visibility = problem.visibility
    if visibility.open:
        z, lse = _call(problem, problem.k, problem.v)
        return (z, lse) if _attended(problem, lse) else None
    if visibility.band == Band(high=0) and visibility.mask is None and visibility.bias is None:
        z, lse = _call(problem, problem.k, problem.v, causal=True)
    elif _hides_keys_only(visibility):
        return _fused_over_kept_keys(problem)
    else:
        z, lse = _fused_in_blocks(problem)
    # A number that is not finite, in a key or value that is blocked for some row, has poisoned that row; a
    # sum that merely overflows costs only time.
    return (z, lse) if _attended(problem, lse) and bool(z.sum(dtype=torch.float32).isfinite()) else None


def _call(
    problem: Problem,
    k: Tensor,
    v: Tensor,
    *,
    q: Tensor | None = None,
    mask: Tensor | None = None,
    causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Run the kernel on [H, T, D], [G, S, D], [G, S, V]; grouped queries read expanded, not copied, keys."""
    q = problem.q if q is None else q
    heads, group = q.shape[0], problem.group
    d_k, d_v = q.shape[-1], v.shape[-1]
    if d_k != d_v:  # the kernel knows one width: zeros change neither q·k nor the columns of z that are kept
        q, k, v = (functional.pad(x, (0, max(d_k, d_v) - x.shape[-1])) for x in (q, k, v))
    if group == 1:
        mask = None if mask is None else mask[None]
        z, lse = fused(q[None], k[None], v[None], scale=problem.scale, mask=mask, causal=causal)
    else:
        if mask is not None:
            mask = grouped(mask, group) if mask.shape[0] > 1 else mask[None]
        q = grouped(q, group)
        k, v = (x[:, None].expand(-1, group, -1, -1) for x in (k, v))
        z, lse = fused(q, k, v, scale=problem.scale, mask=mask, causal=causal)
    z = z.reshape(heads, -1, z.shape[-1]) if group > 1 else z[0]
    if d_v < d_k:
        z = z[..., :d_v]
    return z, None if lse is None else lse.reshape(heads, -1)


def _attended(problem: Problem, lse: Tensor | None) -> bool:
    """Whether no row passed for empty that is not.

    The CPU kernel gives logsumexp 0 to rows whose scores are all NaN or −inf, as well as to the rare honest
    0; both are computed again, plainly. Kernels without a logsumexp are asked about their input instead.
    """
    if lse is not None:
        return bool(lse.all())
    return bool((problem.q.sum(dtype=torch.float32) + problem.k.sum(dtype=torch.float32)).isfinite())


def _hides_keys_only(visibility: Visibility) -> bool:
    """Whether all that is hidden are the same keys for every row: then they can be left out."""
    mask = visibility.mask
    return (
        visibility.band is None
        and visibility.bias is None
        and mask is not None
        and mask.dtype == torch.bool
        and mask.shape[:2] == (1, 1)
    )


def _fused_over_kept_keys(problem: Problem) -> tuple[Tensor, Tensor | None] | None:
    assert problem.visibility.mask is not None
    kept = problem.visibility.mask[0, 0].nonzero()[:, 0]
    if not kept.numel():
        return _nothing(problem)
    z, lse = _call(problem, problem.k.index_select(1, kept), problem.v.index_select(1, kept))
    return (z, lse) if _attended(problem, lse) else None


def _fused_in_blocks(problem: Problem) -> tuple[Tensor, Tensor | None]:
    """Run the kernel on blocks of rows, each with its own small mask and only the keys in sight."""
    heads, queries, _ = problem.q.shape
    keys = problem.k.shape[1]
    visibility = problem.visibility
    z, lse = _nothing(problem)
    told = True
    most = MASK_ELEMENTS // (heads if visibility.per_head else 1)
    for rows, seen in row_blocks(range(queries), keys=keys, band=visibility.band, most=most):
        sight = visibility.sight(range(heads), range(queries)[rows], seen, device=problem.q.device)
        assert sight is not None
        part, part_lse = _call(
            problem,
            problem.k[:, seen],
            problem.v[:, seen],
            q=problem.q[:, rows],
            mask=sight.additive(heads=heads, rows=rows.stop - rows.start),
        )
        empty = sight.empty()
        z[:, rows] = part if empty is None else part.masked_fill_(empty[..., None], 0.0)
        if part_lse is None:
            told = False
        else:
            lse[:, rows] = part_lse if empty is None else part_lse.masked_fill_(empty, -math.inf)
    return z, lse if told else None


def _streamed(problem: Problem) -> tuple[Tensor, Tensor]:
    """Compute z and logsumexp in row blocks, plainly: for softcap, and for rows the kernel gets wrong."""
    z, _ = _nothing(problem)
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


def _nothing(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return z and logsumexp of rows that attend nothing."""
    heads, queries, _ = problem.q.shape
    z = problem.v.new_zeros(heads, queries, problem.v.shape[-1])
    return z, torch.full((heads, queries), -math.inf, device=z.device)


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
