"""Attention of one layer of a stack, a group of a batch at a time: W_Q, W_K, W_V, positions, W_O."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from models.attention.backends import COMPILED
from models.attention.groups import Group
from models.attention.masks import Bias
from models.attention.problem import Heads, Problem, prepare
from models.attention.sequence import InputSequence
from models.compiled.extents import AttentionResult
from models.compiled.panels import Projections
from models.device.steps import Steps
from models.encoder.block import Block
from models.encoder.layers.plans import Links
from models.encoder.positions import DistanceBias
from models.encoder.rotary import Rotary
from models.spec import ModelSpec

QKV = tuple[Tensor, Tensor, Tensor]  # q [N, H, d_k], k [N, G, d_k], v [N, G, d_v]


class LayerAttention:
    """The attention of every layer of a stack. `distances`: a table a layer, where positions are vectors."""

    def __init__(
        self,
        spec: ModelSpec,
        blocks: Sequence[Block],
        heads: Heads,
        rotary: Sequence[Rotary],
        distances: Sequence[Tensor],
    ) -> None:
        self._spec, self._blocks, self._heads = spec, blocks, heads
        self._rotary, self._distances = rotary, distances
        self.projected: list[Projections | None] = []
        self.go_in_one()

    def go_in_one(self) -> None:
        """Project, attend and go through W_O in one call, where compiled code can."""
        if self._distances:  # what distances add to scores is made after projections
            self.go_apart()
            return
        turning: list[Rotary | None] = [*self._rotary] or [None] * len(self._blocks)
        self.projected = [block.projected(one) for block, one in zip(self._blocks, turning, strict=True)]

    def go_apart(self) -> None:
        """Do each of these in calls of its own, which see what enters them."""
        self.projected = [None] * len(self._blocks)

    def attend(self, layer: int, x_ND: Tensor, group: Group) -> Steps[AttentionResult]:
        """Collect what is asked of a group's scores; return z [N, d_model], where it is read."""
        block, rows, ours = self._blocks[layer], group.rows, self._heads.compiled
        lengths = block.output_lengths
        x_ND = x_ND if rows.stop - rows.start == x_ND.shape[0] else x_ND[rows]
        projections = self.projected[layer] if group.backend is COMPILED and group.packed else None
        if projections is None:
            qkv = yield from self._project(layer, block, x_ND, group)
            problem_of = partial(self._problem, layer, group, qkv)
            found = yield from group.attend(*qkv, problem_of)
            group.edit_heads(found)
            yield from group.collect(layer, found, problem_of, lengths)
            if not group.reads_z:
                return found
            return AttentionResult((yield from block.output(found.z)), (), ())
        assert ours is not None
        whole = group.reads_z and not group.reads_heads  # through W_O in the same call
        found = ours.block(
            x_ND, group.extents, projections, scale=group.scale, rule=group.scoring, through_output=whole
        )
        projected = found.projected
        assert projected is not None
        if found.finite and not (group.reads_scores or group.reads_heads):
            return found
        if not whole:
            found = replace(found, z=found.z.view(len(found.z), self._heads.count, -1))
        problem_of = partial(self._problem, layer, group, projected)
        if found.spoiled:
            found = yield from group.mended(found, problem_of, block.output if whole else None)
        yield from group.collect(layer, found, problem_of, lengths)
        if whole or not group.reads_z:
            return found
        return AttentionResult((yield from block.output(found.z)), (), ())

    def attend_linked(
        self, layer: int, x_ND: Tensor, groups: Sequence[Group], links: Links
    ) -> Steps[list[AttentionResult]]:
        """Do what `attend` does for all groups of a layer in which sequences take z from each other."""
        block = self._blocks[layer]
        made: list[tuple[Group, AttentionResult]] = []
        problems = []
        for group in groups:
            yield
            qkv = yield from self._project(layer, block, x_ND[group.rows], group)
            problems.append(partial(self._problem, layer, group, qkv))
            made.append((group, (yield from group.attend(*qkv, problems[-1]))))
        links.edit_heads(made)
        parts = []
        for (group, found), problem_of in zip(made, problems, strict=True):
            yield from group.collect(layer, found, problem_of, block.output_lengths)
            if group.reads_z:
                parts.append(AttentionResult((yield from block.output(found.z)), (), ()))
        return parts

    def _project(self, layer: int, block: Block, x_ND: Tensor, group: Group) -> Steps[QKV]:
        """Return q, k, v of a group's rows, then of its memories', turned by their positions."""
        memories = [one.memory for one in group.sequences if one.memory is not None]
        if not memories and (projections := self.projected[layer]) is not None:
            lengths = [one.queries for one in group.sequences]
            return block.split_qkv((yield from block.project_by(projections, x_ND, lengths)))
        x_ND = block.before(x_ND)
        x_ND = torch.cat((x_ND, *memories)) if memories else x_ND
        if not self._rotary:
            return (yield from block.project(x_ND))
        rotary, sequences = self._rotary[layer], group.sequences
        lengths = [one.queries for one in sequences] + [len(memory) for memory in memories]
        longest = [max(one.queries, one.keys) for one in sequences]
        longest += [longest[at] for at, one in enumerate(sequences) if one.memory is not None]
        key = rotary, *lengths, *longest
        angles = group.batches.once(key, lambda: rotary.angles(lengths, longest))
        return (yield from block.project(x_ND, rotary, angles))

    def _problem(self, layer: int, group: Group, qkv: QKV | Tensor, sequence: InputSequence) -> Problem:
        """Return a layer's attention of one sequence, mask and bias with it; `qkv`: also all side by side."""
        if isinstance(qkv, Tensor):
            qkv = self._blocks[layer].split_qkv(qkv)
        rule = group.rule.spec
        start = sequence.start - group.rows.start
        rows = keys = slice(start, start + sequence.queries)
        if sequence.memory is not None:
            before = group.sequences[: group.sequences.index(sequence)]
            start = group.rows.stop - group.rows.start + sum(other.keys for other in before if other.crosses)
            keys = slice(start, start + sequence.keys)
        q, k, v = (x[own].transpose(0, 1) for x, own in zip(qkv, (rows, keys, keys), strict=True))
        bias: Bias | None = sequence.bias
        if self._distances:
            of_keys = self._spec.positions.kind == "relative_key_query"
            bias = DistanceBias(self._distances[layer], q, k, rule.scale_for(q.shape[-1]), of_keys)
        edits = sequence.edits_in(layer)
        return prepare(q, k, v, spec=rule, mask=sequence.mask, bias=bias, edits=edits)
