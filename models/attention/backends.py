"""Who computes attention: a table of backends, and the plan of a batch.

    compiled    our C on a processor, float32: every rule and length; one call for a group, which makes
                outputs and logsumexp on the way
    ragged      a GPU's kernels: sequences that attend themselves, causal or not, of any length; one call for
                a group, with the logsumexp
    reference   torch, anywhere, a sequence at a time: every rule; what the others are held against

A sequence is computed by the first of the table that takes it. `plan` says so for all layers in which the
same is asked under the same rule: neighbours with the same backend and rule are a group, so that a long
sequence or one with a memory slows nobody else. A sequence with edits is of the group that it would be of
without them, so that nobody beside it is computed otherwise. Compiled code does what edits do on the way,
but for z that is taken from another sequence; what `ragged` has made, the reference makes again.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from models.attention import compiled, reference
from models.attention.lengths import OutputLengths
from models.attention.masks import band_of
from models.attention.problem import Heads, Problem, Rule
from models.attention.ragged import choice as ragged
from models.attention.ragged.batch import BatchLayouts
from models.attention.sequence import InputSequence, chosen_part, tell_rows
from models.attention.torch_private import kernel_name
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import DistanceTable, ScoreRule
from models.device.steps import Steps
from models.edits.heads import HeadEdits
from models.edits.layer import LayerEdits

log = logging.getLogger(__name__)

GROUP_ROWS = 4096  # of one call, which nothing goes between: d_model 768 → 2304 → 768 on two cores, 50 ms

# Makes one sequence's attention a problem, from its group's q, k and v.
ProblemOf = Callable[[InputSequence], Problem]
ThroughOutput = Callable[[Tensor], Steps[Tensor]]  # W_O: z [N, H, d_v] → [N, d_model]


@dataclass(slots=True, eq=False)
class Group:
    """Neighbours in a batch that one backend computes under one rule: `rows` of the packed matrix.

    `packed`: whether they are computed together, from packed rows; else one by one, from their problems.
    `extents`: where each one's rows stand, from the group's first row on, what is made on the way to z, and
    masks and biases. `edits`: what is done to sequences, by their places in the group.
    """

    backend: "Backend"
    rule: Rule
    heads: Heads
    scale: float
    rows: slice
    reads_z: bool
    packed: bool
    scoring: ScoreRule
    reads_heads: bool = False  # z before W_O
    reads_scores: bool = False
    sequences: list[InputSequence] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    edits: dict[int, LayerEdits] = field(default_factory=dict)
    batches: BatchLayouts = field(default_factory=BatchLayouts)

    @property
    def full(self) -> bool:
        """Whether its one call is long enough, so that who comes next is to be of another."""
        return bool(self.rows.stop - self.rows.start >= GROUP_ROWS)

    def add(self, sequence: InputSequence, rule: Rule, layer: int | None) -> None:
        """Let a neighbour be of the group, under a rule of its own or the same."""
        extent = compiled.fits(sequence.extent(sequence.start - self.rows.start, layer), sequence.keys)
        if self.packed and rule.own:
            extent = compiled.with_own(extent, sequence, self.heads.count)
        edits = sequence.edits_in(layer)
        if edits is not None:
            self.edits[len(self.sequences)] = edits
            if self.backend is COMPILED:
                extent = compiled.edited(extent, sequence, edits, self.heads.count, rule.spec)
        self.sequences.append(sequence)
        self.extents.append(extent)
        self.rows = slice(self.rows.start, sequence.start + sequence.queries)
        self.reads_heads |= sequence.asks("z_heads", layer)
        self.reads_scores |= sequence.reads_scores(layer)

    def attend(
        self, q_NHD: Tensor, k_NGD: Tensor, v_NGV: Tensor, problem_of: ProblemOf
    ) -> Steps[AttentionResult]:
        """Return z [N, H, d_v] of the group's rows, not edited yet, and what was made on the way to it.

        What comes out infinite or NaN, the reference has the last word on: a key that is not finite spoils
        only rows that may attend it.
        """
        result = yield from self.backend.attend(self, q_NHD, k_NGD, v_NGV, problem_of)
        if result.finite is False or self.edited:
            result = yield from self.mended(result, problem_of)
        return result

    @property
    def edited(self) -> list[int]:
        """The places of sequences whose scores or weights are edited, which its backend does not do."""
        if self.backend is not RAGGED:
            return []
        return [place for place, edits in self.edits.items() if edits.inside]

    @property
    def head_edits(self) -> dict[int, HeadEdits]:
        """What is left to be done to z of sequences, by their places: by the backend it is done already."""
        if not self.reads_z:
            return {}
        edits = {place: one.heads for place, one in self.edits.items() if one.heads is not None}
        done = self.backend is COMPILED
        return {place: one for place, one in edits.items() if one.sources or not done}

    def edit_heads(self, result: AttentionResult) -> None:
        """Do to z [T, H, d_v] of each sequence what is left of its edits, in place; none takes another's."""
        for place, edits in self.head_edits.items():
            edits.apply(result.z[self.extents[place].rows])

    def collect(
        self, layer: int, result: AttentionResult, problem_of: ProblemOf, lengths: OutputLengths | None = None
    ) -> Steps[None]:
        """Collect what is asked of each sequence's scores in a layer, and of its z before W_O."""
        if self.reads_heads:
            for sequence, extent in zip(self.sequences, self.extents, strict=True):
                if sequence.asks("z_heads", layer):
                    z_HTV = result.z[extent.rows].transpose(0, 1)
                    sequence.collector.put("z_heads", layer, chosen_part(z_HTV, sequence.at(layer).selection))
        if self.reads_scores:
            outputs = result.outputs or [None] * len(self.sequences)
            of_each = zip(self.sequences, result.lse, result.weights, outputs, strict=True)
            told = tell_rows(self.sequences, layer, result.packed_lse)
            for sequence, lse, weights, made in of_each:
                problem = partial(problem_of, sequence)
                yield from sequence.collect(
                    layer, problem, lse=lse, weights=weights, made=made, lengths=lengths, told=told
                )

    def mended(
        self, result: AttentionResult, problem_of: ProblemOf, through: ThroughOutput | None = None
    ) -> Steps[AttentionResult]:
        """Return a result of which the reference has made what was not finite, and what is edited.

        Nobody else is made again. `through`: what makes rows of the result of z [T, H, d_v], where they are
        not that.
        """
        lse, weights, outputs = list(result.lse), list(result.weights), list(result.outputs)
        for place in sorted({*result.spoiled, *self.edited}):
            sequence, extent = self.sequences[place], self.extents[place]
            again = yield from reference.attend([problem_of(sequence)], [extent.reads_scores])
            done = self.edits[place].heads if place in self.edits and place not in self.head_edits else None
            if done is not None:
                done.apply(again.z)
            z = again.z if through is None else (yield from through(again.z))
            result.z[extent.rows] = z.view(-1, *result.z.shape[1:])
            lse[place], weights[place] = again.lse[0], None
            outputs[place : place + 1] = [None] * len(outputs[place : place + 1])
        return AttentionResult(result.z, lse, weights, outputs=outputs, projected=result.projected)


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One row of the table: which sequences it takes, and how it computes a group.

    `takes(rule, heads, queries, keys, reads_z)`; `attend` as `Group.attend`.
    """

    name: str
    takes: Callable[[Rule, Heads, int, int, bool], bool]
    attend: Callable[[Group, Tensor, Tensor, Tensor, ProblemOf], Steps[AttentionResult]]


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
    return ragged.attend(q, k, v, batch, scale=group.scale, causal=band is not None)


def _by_reference(
    group: Group, q: Tensor, _k: Tensor, v: Tensor, problem_of: ProblemOf
) -> Steps[AttentionResult]:
    if not group.reads_z:
        nothing: list[Tensor | None] = [None] * len(group.sequences)
        return AttentionResult(q.new_empty(0, q.shape[1], v.shape[2]), nothing, nothing)
    problems = (problem_of(sequence) for sequence in group.sequences)
    return (yield from reference.attend(problems, [extent.reads_scores for extent in group.extents]))


COMPILED = Backend("compiled", _compiled_takes, _by_compiled)
RAGGED = Backend("ragged", _ragged_takes, _by_ragged)
REFERENCE = Backend("reference", lambda *_: True, _by_reference)
BACKENDS = (COMPILED, RAGGED, REFERENCE)


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
    backend = backend_of(rule, heads, sequence.queries, sequence.keys, reads_z=reads_z)
    if backend is not COMPILED:
        return backend, backend is RAGGED
    apart = rule.apart or sequence.crosses or rule.spec.similarity != "dot"
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
        # Compiled code has masks and biases of each: they part nobody.
        own = backend, packed, rule.spec if backend is COMPILED and packed else rule, reads_z
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
