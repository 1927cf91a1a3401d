"""The backend that computes everything, a sequence at a time, by torch: what the others are held against.

    problem = prepare(q, k, v, spec=...)                        what is to be computed, checked, normalised
    z, lse = yield from contextualize(problem, want_lse=True)   the contextual vectors
    yield from reductions.derive(problem, lse, selection)       whatever else was asked for

z comes from torch's scaled dot-product attention where the rule allows it (`sdpa`) and its answer is sound,
else from whole softmaxes in row blocks; which of the two never depends on what else is asked for.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.attention.blocks import view_of, with_sink
from models.attention.problem import Problem
from models.attention.sdpa import allows, attend_by_sdpa, doubt, is_sound, nothing
from models.attention.torch_private import told_at_once
from models.compiled.extents import AttentionResult
from models.device.steps import Steps


def attend(problems: Iterable[Problem], want_lse: Sequence[bool]) -> Steps[AttentionResult]:
    """Return z [N, H, d_v] of sequences' rows, one after another, and the logsumexp of those that want it.

    A GPU is waited for once, to tell whose z is not to be believed.
    """
    found: list[tuple[Tensor, Tensor | None]] = []
    doubts: list[tuple[int, Problem, Tensor]] = []
    for one, lse in zip(problems, want_lse, strict=True):
        if told_at_once(one.q.device) or not allows(one):
            found.append((yield from contextualize(one, want_lse=lse)))
            continue
        z, _ = yield from attend_by_sdpa(one)
        if (sound := doubt(one, z)) is not None:
            doubts.append((len(found), one, sound))
        found.append(_finished(one, z, None, want_lse=lse))
    flags = _read([sound for _, _, sound in doubts])
    for (place, one, _), believed in zip(doubts, flags, strict=True):
        if not believed:
            z, made = yield from _in_row_blocks(one)
            found[place] = _finished(one, z, made, want_lse=want_lse[place])
    parts = [z_HTV.transpose(0, 1) for z_HTV, _ in found]
    z_NHV = parts[0] if len(parts) == 1 else torch.cat(parts)
    return AttentionResult(z_NHV, [lse for _, lse in found], [None] * len(found))


def contextualize(problem: Problem, *, want_lse: bool) -> Steps[tuple[Tensor, Tensor | None]]:
    """Return z [H, T, d_v] in the dtype of the values, and float32 logsumexp [H, T] when wanted.

    z is the same, bit for bit, whether or not the logsumexp is wanted. The logsumexp is None when it is
    not wanted, and where the device's kernel does not give it: `derive` then computes it for the rows it
    reads. [T, S] is never held beyond blocks of bounded size.
    """
    sound = False
    if allows(problem):
        z, lse = yield from attend_by_sdpa(problem)
        sound = is_sound(problem, z, lse)
    if not sound:
        z, lse = yield from _in_row_blocks(problem)
    elif problem.sinks is not None and lse is not None:
        z, lse = _with_sinks(problem.sinks[:, None], z, lse)
    return _finished(problem, z, lse, want_lse=want_lse)


def _read(flags: Sequence[Tensor]) -> list[bool]:
    """Return flags, which are waited for together."""
    return torch.stack(list(flags)).tolist() if flags else []


def _finished(
    problem: Problem, z: Tensor, lse: Tensor | None, *, want_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Return z in the dtype of the values, its own values added where they are to be."""
    z = z.to(problem.values.dtype)
    if problem.spec.add_self:
        z = _add_self(problem, z)
    return z, lse if want_lse else None


def _in_row_blocks(problem: Problem) -> Steps[tuple[Tensor, Tensor]]:
    """Compute z and logsumexp as they are written, a block of rows at a time."""
    z, _ = nothing(problem)
    view = view_of(problem)
    v = problem.v.float()
    if told_at_once(v.device):
        bad_GSV = None if bool(v.isfinite().all()) else (~v.isfinite()).float()
    else:  # a number a key is as good: the rows that may attend it are not finite
        bad_GSV = (~v.isfinite()).any(-1, keepdim=True).float()
    v = v if bad_GSV is None else v.nan_to_num(0.0, 0.0, 0.0)
    for block in view.blocks() if z.numel() else ():
        yield
        scored = view.scores(block)
        view.note_lse(block, scored)
        seen = None if bad_GSV is None else (scored.scores != -math.inf).float()
        weights = view.weights(block, scored)
        if problem.patterns is not None and seen is not None:
            seen = (weights != 0).float()
        some_z = _times(weights, v[block.groups, block.keys])
        if bad_GSV is not None and seen is not None:  # it spoils the rows that may attend it, and no other
            some_z.masked_fill_(_times(seen, bad_GSV[block.groups, block.keys]) > 0, math.nan)
        z[block.heads, block.rows] = some_z.to(z.dtype)
    return z, view.lse


def _times(weights: Tensor, v: Tensor) -> Tensor:
    """Return weights [h, R, W] times values [g, W, V] of the key heads they read: [h, R, V]."""
    heads, rows, keys = weights.shape
    return torch.bmm(weights.view(v.shape[0], -1, keys), v).view(heads, rows, -1)


def _with_sinks(sinks_H1: Tensor, z: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply every weight by σ(lse − sink): what each head's sink leaves."""
    return z * torch.sigmoid(lse - sinks_H1)[..., None].to(z.dtype), with_sink(lse, sinks_H1)


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
