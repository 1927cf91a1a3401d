"""z by torch's scaled dot-product attention, and when its answer may not be believed.

The kernel knows no windows, offsets, biases or boolean masks, takes one width for keys and values, and
mistakes some rows for empty ones. Row blocks with small masks of their own and only the keys in sight
make up for the first; what it gets wrong is noticed, and computed in row blocks of whole softmaxes.
"""

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from models.attention.blocks import grouped, row_blocks
from models.attention.masks import Band, Visibility
from models.attention.problem import Problem
from models.attention.torch_private import fused, tells_lse, told_at_once
from models.device.steps import Steps

# Elements of one mask block handed to the kernel: 4 MiB of float32; on a GPU, where calls are dear, 256.
MASK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
# Pairs of query and key in one call of the kernel: some tens of milliseconds of a core.
CALL_PAIRS = 1 << 24
# The fewest rows of a head in one call: fewer, and the kernel would cut them otherwise.
LEAST_ROWS = 1024
ROW_CALLS = 4  # a call of some of one head's rows takes a quarter of what a call may


def allows(problem: Problem) -> bool:
    """Whether the kernel can compute a problem; it does not survive empty axes, nor knows caps and sinks.

    Nor weights that are given. The share of sinks can be had afterwards from the logsumexp, where the kernel
    gives it.
    """
    if problem.patterns is not None:
        return False
    no_cap = problem.spec.softcap is None and (problem.sinks is None or tells_lse(problem.q.device))
    return no_cap and bool(problem.q.numel() and problem.v.numel())


def attend_by_sdpa(problem: Problem) -> Steps[tuple[Tensor, Tensor | None]]:
    """Return z and, where the kernel gives it, the logsumexp; `is_sound` says whether to believe them."""
    visibility = problem.visibility
    if visibility.open:
        return (yield from _in_calls(problem, causal=False))
    if _only_causal(visibility):
        return (yield from _in_calls(problem, causal=True))
    if _hides_keys_only(visibility) and told_at_once(problem.q.device):
        return _over_kept_keys(problem)
    return (yield from _in_row_blocks(problem))


def doubt(problem: Problem, z: Tensor) -> Tensor | None:
    """Return whether z of another device than a processor may be believed, a bool to be read; None: it may.

    A blocked key that is not finite poisons rows that may not attend it: −inf + NaN is NaN.
    """
    return None if problem.visibility.open else z.sum(dtype=torch.float32).isfinite()


def is_sound(problem: Problem, z: Tensor, lse: Tensor | None) -> bool:
    """Whether no row passed for empty that is not, and no blocked key has poisoned a row.

    The CPU kernel gives logsumexp 0 to rows whose scores are all NaN or −inf, as well as to the rare honest
    0; both are computed again, plainly. Without a logsumexp the input is looked at instead; kernels
    of other devices pass NaN on. A sum of z that merely overflows costs only time.
    """
    if lse is not None:
        attended = bool(lse.all())
    else:
        given = (problem.q, problem.k) if problem.q.device.type == "cpu" else ()
        attended = all(bool(one.sum(dtype=torch.float32).isfinite()) for one in given)
    visibility = problem.visibility
    left_out = _hides_keys_only(visibility) and told_at_once(problem.q.device)
    if not attended or visibility.open or left_out:
        return attended
    return bool(z.sum(dtype=torch.float32).isfinite())


def _only_causal(visibility: Visibility) -> bool:
    return replace(visibility, band=None).open and visibility.band == Band(high=0)


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
        q, k, v = q[None], k[None], v[None]
        mask = None if mask is None else mask[None]
    else:
        q, k, v = grouped(q, group), *(x[:, None].expand(-1, group, -1, -1) for x in (k, v))
        if mask is not None:
            mask = grouped(mask, group) if mask.shape[0] > 1 else mask[None]
    z, lse = fused(q, k, v, scale=problem.scale, mask=mask, causal=causal)
    z = z.reshape(heads, -1, z.shape[-1])[..., :d_v]
    return z, None if lse is None else lse.reshape(heads, -1)


def _hides_keys_only(visibility: Visibility) -> bool:
    """Whether all that is hidden are the same keys for every row: then they can be left out."""
    mask = visibility.mask
    return (
        visibility.band is None
        and visibility.bias is None
        and visibility.edits is None
        and mask is not None
        and mask.dtype == torch.bool
        and mask.shape[:2] == (1, 1)
    )


def _in_calls(problem: Problem, *, causal: bool) -> Steps[tuple[Tensor, Tensor | None]]:
    """Run the kernel on a few heads at a time where all are too long for one call.

    On some of one head's rows where that is too long as well, but for the causal rule: the kernel knows it
    from the first row on only.
    """
    heads, queries, _ = problem.q.shape
    group, keys = problem.group, problem.k.shape[1]
    if heads * queries * keys <= CALL_PAIRS or problem.q.device.type != "cpu":
        return _call(problem, problem.k, problem.v, causal=causal)
    groups_at_once = max(1, CALL_PAIRS // (queries * keys * group))
    rows_at_once = queries if causal else max(LEAST_ROWS, CALL_PAIRS // (ROW_CALLS * keys * group))
    z, lse = nothing(problem)
    for first, start in itertools.product(
        range(0, heads // group, groups_at_once), range(0, queries, rows_at_once)
    ):
        yield
        groups = slice(first, first + groups_at_once)
        own = slice(first * group, (first + groups_at_once) * group)
        rows = slice(start, start + rows_at_once)
        q = problem.q[own, rows]
        z[own, rows], some_lse = _call(problem, problem.k[groups], problem.v[groups], q=q, causal=causal)
        if some_lse is not None:
            lse[own, rows] = some_lse
    return z, lse if tells_lse(z.device) else None


def _over_kept_keys(problem: Problem) -> tuple[Tensor, Tensor | None]:
    assert problem.visibility.mask is not None
    kept = problem.visibility.mask[0, 0].nonzero()[:, 0]
    if not kept.numel():
        return nothing(problem)
    return _call(problem, problem.k.index_select(1, kept), problem.v.index_select(1, kept))


def _in_row_blocks(problem: Problem) -> Steps[tuple[Tensor, Tensor | None]]:
    """Run the kernel on blocks of rows, each with its own small mask and only the keys in sight."""
    heads, queries, _ = problem.q.shape
    keys = problem.k.shape[1]
    visibility = problem.visibility
    z, lse = nothing(problem)
    at_once = told_at_once(problem.q.device)
    most = MASK_ELEMENTS["cpu" if at_once else "cuda"] // (heads if visibility.per_head else 1)
    for rows, seen in row_blocks(range(queries), keys=keys, band=visibility.band, most=most):
        yield
        sight = visibility.sight(range(heads), range(queries)[rows], seen, device=problem.q.device)
        assert sight is not None
        k, v, q = problem.k[:, seen], problem.v[:, seen], problem.q[:, rows]
        shape = {"heads": heads, "rows": rows.stop - rows.start}
        mask = None if at_once else sight.seen(**shape)
        mask = sight.additive(**shape) if mask is None else mask
        some_z, some_lse = _call(problem, k, v, q=q, mask=mask)
        empty = sight.empty()
        z[:, rows] = some_z if empty is None else some_z.masked_fill_(empty[..., None], 0.0)
        if some_lse is not None:
            lse[:, rows] = some_lse if empty is None else some_lse.masked_fill_(empty, -math.inf)
    return z, lse if tells_lse(z.device) else None


def nothing(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return z and logsumexp of rows that attend nothing."""
    heads, queries, _ = problem.q.shape
    z = problem.v.new_zeros(heads, queries, problem.v.shape[-1])
    return z, torch.full((heads, queries), -math.inf, device=z.device)
