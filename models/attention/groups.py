"""A group: neighbours in a batch that one backend computes under one rule, and what is done with its result.

Which backend takes which sequences, `backends` says. What a backend leaves to the reference, edits that it
cannot do and numbers that came out infinite or NaN, is made again here, and nobody else with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from models.attention import compiled, reference
from models.attention.lengths import OutputLengths
from models.attention.problem import Heads, Problem, Rule
from models.attention.ragged.batch import BatchLayouts
from models.attention.sequence import InputSequence, chosen_part, tell_rows
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import ScoreRule
from models.device.steps import Steps
from models.edits.heads import HeadEdits
from models.edits.layer import LayerEdits

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
        if self.packed and rule.own and self.backend.on_the_way:
            extent = compiled.with_own(extent, sequence, self.heads.count)
        edits = sequence.edits_in(layer)
        if edits is not None:
            self.edits[len(self.sequences)] = edits
            if self.backend.on_the_way:
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
        return [place for place, edits in self.edits.items() if self.backend.leaves(self, place, edits)]

    @property
    def head_edits(self) -> dict[int, HeadEdits]:
        """What is left to be done to z of sequences, by their places: by the backend it is done already."""
        if not self.reads_z:
            return {}
        edits = {place: one.heads for place, one in self.edits.items() if one.heads is not None}
        done = self.backend.on_the_way
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
                known = told or (self.backend.on_the_way and (weights is not None or made is not None))
                yield from sequence.collect(
                    layer, problem, lse=lse, weights=weights, made=made, lengths=lengths, told=known
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
            outputs[place : place + 1] = [None] * len(outputs[place : place + 1])
            lse[place] = weights[place] = None
            if not self.reads_z:  # what is asked of its scores is made of them alone
                continue
            again = yield from reference.attend([problem_of(sequence)], [extent.reads_scores])
            done = self.edits[place].heads if place in self.edits and place not in self.head_edits else None
            if done is not None:
                done.apply(again.z)
            z = again.z if through is None else (yield from through(again.z))
            result.z[extent.rows] = z.view(-1, *result.z.shape[1:])
            lse[place] = again.lse[0]
        return AttentionResult(result.z, lse, weights, outputs=outputs, projected=result.projected)


@dataclass(frozen=True, slots=True, eq=False)
class Backend:
    """One row of the table: which sequences it takes, and how it computes a group.

    `takes(rule, heads, queries, keys, reads_z)`; `attend` as `Group.attend`. `leaves(group, place, edits)`:
    whether what is done to scores and weights of a sequence is left to the reference. `on_the_way`: edits of
    z are done on the way to it.
    """

    name: str
    takes: Callable[[Rule, Heads, int, int, bool], bool]
    attend: Callable[[Group, Tensor, Tensor, Tensor, ProblemOf], Steps[AttentionResult]]
    leaves: Callable[[Group, int, LayerEdits], bool] = lambda group, place, edits: False  # noqa: ARG005
    on_the_way: bool = False
