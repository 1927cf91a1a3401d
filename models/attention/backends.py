"""Who computes attention: a table of backends, and the plan of a batch.

    compiled    our C on a processor, float32: every rule and length; one call for a group, which makes
                outputs and logsumexp on the way
    ragged      a GPU's kernels of torch: sequences that attend themselves, causal or not, of any length; one
                call for a group, with the logsumexp. What else is asked of it, kernels in tiles make beside z
    tiles       a GPU's kernels of our own: every rule, and what is asked beside z
    reference   torch, anywhere, a sequence at a time: every rule; what the others are held against

A sequence is computed by the first of the table that takes it. `plan` says so for all layers in which the
same is asked under the same rule: neighbours with the same backend and rule are a group, so that a long
sequence or one with a memory slows nobody else. A sequence with edits is of the group that it would be of
without them, so that nobody beside it is computed otherwise. Compiled code does what edits do on the way,
but for z that is taken from another sequence; kernels in tiles do what is done to scores; what is left, the
reference makes again.
"""

import logging
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.attention import compiled, reference
from models.attention.groups import Backend, Group, ProblemOf
from models.attention.masks import band_of
from models.attention.problem import Heads, Rule
from models.attention.ragged import choice as ragged
from models.attention.ragged.batch import BatchLayouts
from models.attention.sequence import InputSequence
from models.attention.tiles import backend as tiles
from models.attention.tiles.asking import made_beside
from models.attention.torch_private import kernel_name
from models.compiled.extents import AttentionResult
from models.compiled.rules import DistanceTable, ScoreRule
from models.device.steps import Steps
from models.edits.layer import LayerEdits

log = logging.getLogger(__name__)


def _compiled_takes(rule: Rule, heads: Heads, queries: int, keys: int, reads_z: bool) -> bool:  # noqa: ARG001, FBT001
    """Where z is not read, weights of long sequences are made without it."""
    if heads.device.type != "cpu" or heads.dtype != torch.float32 or heads.compiled is None:
        return False
    return bool(queries and keys) and (reads_z or not compiled.is_long(heads, queries, keys))


def _by_compiled(
    group: Group, q: Tensor, k: Tensor, v: Tensor, problem_of: ProblemOf
) -> Steps[AttentionResult]:
    ours = group.heads.compiled
    assert ours is not None
    if group.packed:
        return ours.attend(q, k, v, group.extents, scale=group.scale, rule=group.scoring)
    problems = (problem_of(sequence) for sequence in group.sequences)
    return (yield from compiled.attend(ours, problems, group.extents))


def _ragged_takes(rule: Rule, heads: Heads, queries: int, keys: int, reads_z: bool) -> bool:  # noqa: ARG001, FBT001
    """Where z is not read, weights are made without it, which these kernels cannot."""
    if not reads_z or heads.d_k != heads.d_v or not rule.simple(queries):
        return False
    kernel = ragged.ragged_kernel(heads.device, heads.dtype, heads.d_k, heads.count // heads.key_heads)
    return kernel is not None


def _by_ragged(group: Group, q: Tensor, k: Tensor, v: Tensor, _: ProblemOf) -> Steps[AttentionResult]:
    yield from ()  # one step
    batch = group.batches.of(tuple(extent.length for extent in group.extents), q.device)
    band = band_of(group.rule.spec, queries=batch.longest, keys=batch.longest)
    result = ragged.attend(q, k, v, batch, scale=group.scale, causal=band is not None)
    if not made_beside(group.extents) or not tiles.takes(group.heads, batch.longest, batch.longest):
        return result
    # z as it is without: what else is asked for never changes it.
    return tiles.with_outputs(
        result, q, k, v, group.extents, scale=group.scale, rule=group.scoring, once=group.batches.once
    )


def _tiles_takes(rule: Rule, heads: Heads, queries: int, keys: int, reads_z: bool) -> bool:  # noqa: ARG001, FBT001
    return tiles.takes(heads, queries, keys)


def _by_tiles(group: Group, q: Tensor, k: Tensor, v: Tensor, problem_of: ProblemOf) -> Steps[AttentionResult]:
    if not group.packed:
        problems = (problem_of(sequence) for sequence in group.sequences)
        return (yield from tiles.attend_each(problems, group.extents, reads_z=group.reads_z))
    yield from ()  # one step
    seen = [
        (tiles.seeing(extent, problem_of(one)) if one.own_rule or place in group.edits else None) or extent
        for place, (one, extent) in enumerate(zip(group.sequences, group.extents, strict=True))
    ]
    own = not group.edits and all(tiles.lasts(one.mask, one.bias) for one in group.sequences if one.own_rule)
    return tiles.attend_packed(
        q,
        k,
        v,
        seen,
        scale=group.scale,
        rule=group.scoring,
        reads_z=group.reads_z,
        once=group.batches.once if own else None,
    )


def _left_by_tiles(group: Group, place: int, edits: LayerEdits) -> bool:
    sequence = group.sequences[place]
    return tiles.leaves(edits, heads=group.heads.count, queries=sequence.queries, keys=sequence.keys)


def _by_reference(
    group: Group, q: Tensor, _k: Tensor, v: Tensor, problem_of: ProblemOf
) -> Steps[AttentionResult]:
    if not group.reads_z:
        nothing: list[Tensor | None] = [None] * len(group.sequences)
        return AttentionResult(q.new_empty(0, q.shape[1], v.shape[2]), nothing, nothing)
    problems = (problem_of(sequence) for sequence in group.sequences)
    return (yield from reference.attend(problems, [extent.reads_scores for extent in group.extents]))


COMPILED = Backend("compiled", _compiled_takes, _by_compiled, on_the_way=True)
RAGGED = Backend("ragged", _ragged_takes, _by_ragged, lambda group, place, edits: edits.inside)  # noqa: ARG005
TILES = Backend("tiles", _tiles_takes, _by_tiles, _left_by_tiles)
REFERENCE = Backend("reference", lambda *_: True, _by_reference)
BACKENDS = (COMPILED, RAGGED, TILES, REFERENCE)


def backend_of(
    rule: Rule, heads: Heads, queries: int, keys: int | None = None, *, reads_z: bool = True
) -> Backend:
    """Return the first of the table that takes a sequence of so many queries and keys under a rule."""
    keys = queries if keys is None else keys
    for backend in BACKENDS:
        if backend.takes(rule, heads, queries, keys, reads_z):
            break
    return backend


def way_of(
    rule: Rule, heads: Heads, sequence: InputSequence, *, reads_z: bool = True
) -> tuple[Backend, bool]:
    """Return who computes a sequence, and whether together with its neighbours, from packed rows."""
    key = id(rule) if reads_z else -id(rule)
    known: tuple[tuple[Backend, bool], Heads, Rule] | None = sequence.ways.get(key)
    if known is None or known[1] is not heads:  # with the rule, so that no other one has its place
        known = sequence.ways[key] = _way_of(rule, heads, sequence, reads_z=reads_z), heads, rule
    return known[0]


def _way_of(rule: Rule, heads: Heads, sequence: InputSequence, *, reads_z: bool) -> tuple[Backend, bool]:
    backend = backend_of(rule, heads, sequence.queries, sequence.keys, reads_z=reads_z)
    if backend in (RAGGED, REFERENCE):
        return backend, backend is RAGGED
    apart = rule.apart or sequence.crosses or rule.spec.similarity != "dot"
    if backend is TILES:
        return backend, not apart
    if rule.own and not isinstance(sequence.bias, Tensor | DistanceTable | None):
        apart = True
    return backend, not apart and not compiled.is_long(heads, sequence.queries, sequence.keys)


def plan(
    sequences: Sequence[InputSequence],
    rules: Sequence[Rule],
    heads: Heads,
    layer: int | None,
    batches: BatchLayouts | None = None,
) -> list[Group]:
    """Return the groups of a batch in a layer, in the order of their rows; `rules`: each sequence's.

    They hold until the next plan. `batches`: of plans before. The debug log has the groups, sequences by
    their places in the batch.
    """
    groups: list[Group] = []
    key, batches = None, batches or BatchLayouts()
    for sequence, rule in zip(sequences, rules, strict=True):
        reads_z = layer is None or sequence.reads_z(layer)
        backend, packed = way_of(rule, heads, sequence, reads_z=reads_z)
        # Compiled code and kernels in tiles have masks and biases of each: they part nobody.
        parts = rule if backend is RAGGED or not packed else rule.spec
        own = backend, packed, parts, reads_z
        full = backend is COMPILED and packed and bool(groups) and groups[-1].full
        if own != key or full:
            key, spec = own, rule.spec
            rows = slice(sequence.start, sequence.start)
            scale, scoring = spec.scale_for(heads.d_k), ScoreRule.of(spec)
            made = Group(backend, rule, heads, scale, rows, reads_z, packed, scoring, batches=batches)
            groups.append(made)
        groups[-1].add(sequence, rule, layer)
    if log.isEnabledFor(logging.DEBUG):
        for group in groups:
            places = [sequence.place for sequence in group.sequences]
            log.debug("attention from layer %s on: %s computes %s", layer, group.backend.name, places)
    return groups


def attention_names(heads: Heads, rules: Iterable[Rule]) -> str:
    """Return who computes attention under some rules, and by which function of torch, for the model page."""
    used = {REFERENCE, *(backend_of(rule, heads, 1) for rule in rules)}
    group = heads.count // heads.key_heads
    by = {
        RAGGED: f":{ragged.ragged_name(heads.device, heads.dtype, heads.d_k, group)}",
        REFERENCE: f":{kernel_name(heads.device)}",
    }
    return "+".join(one.name + by.get(one, "") for one in BACKENDS if one in used)
