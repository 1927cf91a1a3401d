"""The backend of our own C on a processor, float32: every rule, and sequences of any length.

Sequences whose masks and biases are at hand are one call, from their packed rows. What only a Problem tells
(keys of another sequence, biases made of q and k, sinks, normalised vectors), and what is too long for one
call, is computed a sequence at a time: a long one in several calls, between which others may go on.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.attention.masks import mask_of
from models.attention.problem import Heads, Problem
from models.attention.sequence import InputSequence
from models.compiled.extents import AttentionResult, Extent
from models.compiled.native import Native
from models.compiled.rules import DistanceTable, ScoreRule
from models.device.steps import Steps
from models.edits.layer import LayerEdits
from models.edits.table import table_edits
from models.mechanism import AttentionSpec

CALL_PRODUCTS = 1 << 31  # multiplications of one call: some tens of milliseconds of a core
HELD_KEYS = 512  # up to here all weights of a sequence are held where outputs are made of them afterwards


def is_long(heads: Heads, queries: int, keys: int) -> bool:
    """Whether the attention of one sequence is more than a call is to be."""
    return heads.count * queries * keys * (heads.d_k + heads.d_v) > CALL_PRODUCTS


def fits(extent: Extent, keys: int) -> Extent:
    """Return an extent of which no more is held than may be: of many keys not all weights."""
    if not extent.weights or keys <= HELD_KEYS:
        return extent
    return replace(extent, lse=True, weights=False)


def with_own(extent: Extent, sequence: InputSequence, heads: int) -> Extent:
    """Return an extent with the mask and bias that a sequence has."""
    mask, bias, shape = sequence.mask, sequence.bias, (sequence.queries, sequence.keys)
    if mask is not None:
        mask = mask_of(mask, heads=heads, queries=shape[0], keys=shape[1])
    if isinstance(bias, Tensor):
        bias = mask_of(bias, heads=heads, queries=shape[0], keys=shape[1])
    assert bias is None or isinstance(bias, Tensor | DistanceTable)
    return replace(extent, mask=mask, bias=bias)


def edited(
    extent: Extent, sequence: InputSequence, edits: LayerEdits, heads: int, spec: AttentionSpec
) -> Extent:
    """Return an extent with what edits do to a sequence, but for z that is taken from another."""
    made = table_edits(
        edits, heads=heads, queries=sequence.queries, keys=sequence.keys, diagonal=spec.causal_offset
    )
    return replace(extent, edits=made)


def attend(ours: Native, problems: Iterable[Problem], extents: Sequence[Extent]) -> Steps[AttentionResult]:
    """Return z [N, H, d_v] of problems' rows, one after another, and what their extents ask for."""
    found = []
    for problem, extent in zip(problems, extents, strict=True):
        found.append((yield from _attend_one(ours, problem, extent)))
    outputs = [one for each in found for one in each.outputs or (None,)]
    return AttentionResult(
        found[0].z if len(found) == 1 else torch.cat([one.z for one in found]),
        [one.lse[0] for one in found],
        [one.weights[0] for one in found],
        all(one.finite for one in found),
        spoiled=[place for place, one in enumerate(found) if not one.finite],
        outputs=outputs if any(one is not None for one in outputs) else (),
    )


def _attend_one(ours: Native, problem: Problem, extent: Extent) -> Steps[AttentionResult]:
    """Attend one sequence, in calls that are short enough."""
    heads, queries, d_k = problem.q.shape
    keys, d_v = problem.v.shape[1:]
    q, k, v = (x_HTD.transpose(0, 1) for x_HTD in (problem.q, problem.k, problem.v))
    visibility, rule = problem.visibility, ScoreRule.of(problem.spec)
    sinks = None if problem.sinks is None else problem.sinks.contiguous()
    mask = visibility.mask
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    bias = visibility.bias
    if isinstance(bias, Tensor):
        bias = bias.float()
    own = replace(extent, rows=slice(0, queries), keys=slice(0, keys), mask=mask)
    most = CALL_PRODUCTS // (d_k + d_v)
    if bias is None or isinstance(bias, Tensor | DistanceTable):
        own = replace(own, bias=bias)
        calls = ours.attend_in_calls(
            q, k, v, own, most_pairs=most, scale=problem.scale, rule=rule, sinks_H=sinks
        )
        return (yield from calls)
    step = max(1, most // (heads * keys))
    if step < queries:
        own = replace(own, lse=own.reads_scores, weights=False, outputs=())
    made = []
    for rows in _row_ranges(queries, step):
        if rows.start:
            yield
        part = replace(
            own,
            rows=rows,
            first_row=rows.start,
            mask=mask if mask is None or mask.shape[1] == 1 else mask[:, rows],
            bias=bias(rows, None),
        )
        moved = rule.moved(rows.start)
        made.append(ours.attend(q, k, v, [part], scale=problem.scale, rule=moved, sinks_H=sinks))
    return made[0] if len(made) == 1 else _joined(made)


def _row_ranges(rows: int, step: int) -> Iterator[slice]:
    return (slice(row, min(row + step, rows)) for row in range(0, rows, step))


def _joined(parts: Sequence[AttentionResult]) -> AttentionResult:
    """Return what parts of one sequence's rows come to: of such, z and the logsumexp alone are made."""
    lse = [part.lse[0] for part in parts]
    whole = None if lse[0] is None else torch.cat([one for one in lse if one is not None], dim=1)
    finite = all(part.finite for part in parts)
    return AttentionResult(torch.cat([part.z for part in parts]), [whole], [None], finite)
