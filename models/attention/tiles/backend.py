"""The backend of tiles: which sequences our own kernels take on a GPU, and how a group is given to them.

Sequences that attend their own packed rows are launched together. What only a Problem tells (keys of another
sequence, sinks, normalised vectors) is launched a sequence at a time. Edits of scores, and biases that are
made of q and k, are made before the launch; what is done to weights after the softmax, and what would take
too much memory as a bias, is the reference's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.attention import reference
from models.attention.problem import Heads, Problem
from models.attention.tiles.choice import WIDEST
from models.attention.tiles.launch import Launches
from models.attention.tiles.table import Once, SequenceTable
from models.attention.tiles.trial import runs_on
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import DistanceTable, ScoreRule
from models.device.steps import Steps
from models.edits.layer import LayerEdits

MOST_ADDED = 1 << 26  # biases of one sequence, H·T·S, that are made for a launch: 256 MiB in float32


def takes(heads: Heads, queries: int, keys: int) -> bool:
    """Whether kernels in tiles compute a sequence of so many queries and keys on this device."""
    if heads.device.type != "cuda" or not (queries and keys) or max(heads.d_k, heads.d_v) > WIDEST:
        return False
    return runs_on(heads.device, heads.dtype, heads.d_k, heads.d_v)


def leaves(edits: LayerEdits, *, heads: int, queries: int, keys: int) -> bool:
    """Whether what is done inside a sequence's attention is more than masks and biases can say."""
    return edits.patterns is not None or (edits.scores is not None and heads * queries * keys > MOST_ADDED)


def with_outputs(
    result: AttentionResult,
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGV: Tensor,
    extents: Sequence[Extent],
    *,
    scale: float,
    rule: ScoreRule,
    once: Once | None = None,
) -> AttentionResult:
    """Return a result of another kernel with what extents ask for beside z and its logsumexp."""
    others = [replace(one, lse=False) for one in extents]  # which the result has
    packed = result.packed_lse
    if packed is None:
        packed = torch.cat([one for one in result.lse if one is not None], dim=1)
    launches = Launches(q_NHD, k_NGD, v_NGV, scale, rule, reads_z=False, once=once)
    made = launches.attend(others, packed.contiguous())
    return replace(result, weights=made.weights, outputs=made.outputs, packed_lse=packed)


def attend_packed(
    q_NHD: Tensor,
    k_NGD: Tensor,
    v_NGV: Tensor,
    extents: Sequence[Extent],
    *,
    scale: float,
    rule: ScoreRule,
    reads_z: bool,
    once: Once | None = None,
) -> AttentionResult:
    """Return z of packed rows, and what extents ask for; nothing is waited for.

    `once`: of the batch, where masks and biases are the sequences' own (`lasts`).
    """
    return Launches(q_NHD, k_NGD, v_NGV, scale, rule, reads_z=reads_z, once=once).attend(extents)


def attend_table(
    q_NHD: Tensor, k_NGD: Tensor, v_NGV: Tensor, table: SequenceTable, *, scale: float, rule: ScoreRule
) -> Tensor:
    """Return z [N, H, V] of packed rows whose places are in a table; of rows of no sequence, anything.

    One kernel is launched. Nothing is laid out, and nothing brought to the device but, the first time for so
    many heads, their numbers.
    """
    return Launches(q_NHD, k_NGD, v_NGV, scale, rule).attend_table(table)


def lasts(mask: Tensor | None, bias: object) -> bool:
    """Whether kernels read a sequence's own mask and bias, the same in every layer, as `seeing` has them."""
    both = mask is not None and bias is not None and mask.dtype != torch.bool
    return not both and (not isinstance(bias, Tensor) or bias.dtype == torch.float32)


def attend_each(
    problems: Iterable[Problem], extents: Sequence[Extent], *, reads_z: bool
) -> Steps[AttentionResult]:
    """Return the same of problems, one by one; of those that are not for kernels, by the reference."""
    found: list[AttentionResult] = []
    for problem, extent in zip(problems, extents, strict=True):
        if found:
            yield
        own = replace(extent, rows=slice(0, problem.q.shape[1]), keys=slice(0, problem.k.shape[1]))
        seen = seeing(own, problem)
        if seen is None and not reads_z:
            nothing = problem.q.new_empty(0, problem.q.shape[0], problem.v.shape[2])
            found.append(AttentionResult(nothing, [None], [None]))
            continue
        if seen is None:
            found.append((yield from reference.attend([problem], [extent.reads_scores])))
            continue
        q, k, v = (x_HTD.transpose(0, 1).contiguous() for x_HTD in (problem.q, problem.k, problem.v))
        rule = ScoreRule.of(problem.spec)
        launches = Launches(q, k, v, problem.scale, rule, problem.sinks, reads_z=reads_z)
        made = launches.attend([seen])
        found.append(replace(made, z=made.z.to(problem.values.dtype)))
    lse = [one.lse[0] if one.packed_lse is None else one.packed_lse for one in found]
    known = [one for one in lse if one is not None]
    return AttentionResult(
        torch.cat([one.z for one in found]),
        lse,
        [one.weights[0] for one in found],
        outputs=[one.outputs[0] if one.outputs else None for one in found],
        packed_lse=torch.cat(known, dim=1) if len(known) == len(lse) else None,
    )


def seeing(extent: Extent, problem: Problem) -> Extent | None:
    """Return an extent with all that hides keys from a problem's rows and biases its scores, but the band.

    None where that is not for kernels.
    """
    sees = problem.visibility
    heads, queries, keys = problem.q.shape[0], problem.q.shape[1], problem.k.shape[1]
    apart = sees.edits is not None or not isinstance(sees.bias, Tensor | DistanceTable | None)
    if problem.patterns is not None or (apart and heads * queries * keys > MOST_ADDED):
        return None
    mask, bias = sees.mask, sees.bias
    if apart or (mask is not None and mask.dtype != torch.bool and bias is not None):
        sight = replace(sees, band=None).sight(
            range(heads), range(queries), slice(0, keys), device=problem.q.device
        )
        mask = None if sight is None or sight.blocked is None else ~sight.blocked
        bias = None if sight is None else sight.added
    elif mask is not None and mask.dtype != torch.bool:
        mask, bias = None, mask
    if isinstance(bias, Tensor):
        bias = bias.float()
    assert not callable(bias)
    return replace(extent, mask=mask, bias=bias)
