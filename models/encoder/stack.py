"""A whole model on packed rows: embeddings, blocks, pooling; ragged in, ragged out.

All sequences of a batch stand one after another in one [N, d_model] matrix, so no padding is ever
computed. A sequence leaves the batch after the last layer it asked for. N rows, D d_model, H heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.attention.backends import COMPILED, attention_names, way_of
from models.attention.groups import Group, ProblemOf
from models.attention.masks import Bias
from models.attention.problem import Heads, Problem, Rule, prepare
from models.attention.sequence import InputSequence, collect_rows, keep, pack
from models.compiled.extents import AttentionResult
from models.compiled.panels import Projections
from models.device.answers import answers, together
from models.device.staging import tensor_of
from models.device.steps import AtYield, Steps, finish
from models.encoder.block import Block
from models.encoder.block_outputs import BlockOutputs
from models.encoder.embedding import Embedding, Table
from models.encoder.layer_plans import Layer, LayerPlans, Links, at_once
from models.encoder.norm import Norm
from models.encoder.pooling import Pooling
from models.encoder.positions import DistanceBias, DistanceBiases, alibi, relative
from models.encoder.rotary import Rotary, rotaries
from models.protocol import Answers, Item
from models.spec import ModelSpec

QKV = tuple[Tensor, Tensor, Tensor]  # q [N, H, d_k], k [N, G, d_k], v [N, G, d_v]


class Stack:
    """A model specification and its parameters, ready to run batches on one device."""

    def __init__(
        self,
        spec: ModelSpec,
        parameters: dict[str, Tensor],
        device: torch.device,
        *,
        pooling: Pooling | None = None,
        take: bool = False,
    ) -> None:
        """Lay the parameters out; `take`: out of the dictionary, so that none is held twice for long.

        `pooling`: that of the specification with its weights, where it has any.
        """
        self.spec = spec
        self.device = device
        self.dtype = torch.float32  # what is computed in; on a processor weights alone may be narrower
        if parameters and device.type != "cpu":
            self.dtype = next(iter(parameters.values())).dtype
        made, tables = [], []  # of parameters, which several layers may share
        for number in range(spec.parameter_sets):
            if spec.positions.distances:
                tables.append(parameters[f"layers.{number}.attention.distances.weight"])
            made.append(Block(spec, parameters, number))
            if take:
                for name in [name for name in parameters if name.startswith(f"layers.{number}.")]:
                    del parameters[name]
        self.blocks = [made[spec.parameters_of(layer)] for layer in range(spec.layers)]
        # A table a layer, where positions are vectors of distances.
        distances = [tables[spec.parameters_of(layer)] for layer in range(spec.layers)] if tables else []
        pooling = Pooling(spec.pooling) if pooling is None and spec.pooling else pooling
        self._embedding = Embedding(spec, parameters, device, self.dtype)
        self._distances = distances
        final = Norm(parameters, "final_norm", spec.norm) if spec.norm.final else None
        self.after = BlockOutputs(spec.layers, final=final, pooling=pooling)
        self._rotary = rotaries(spec, device)
        self._projected = self._in_one_call()
        self._heads = Heads(device, self.dtype, spec.heads, spec.key_heads, spec.key_width, spec.value_width)
        rules = [Rule(spec.attention_of(layer)) for layer in range(spec.layers)]
        known = dict(zip(rules, rules, strict=True))  # equal ones are one
        self._rules = [known[rule] for rule in rules]
        self._own_rules = {rule: Rule(rule.spec, own=True, apart=bool(distances)) for rule in known}
        self._biases: DistanceBiases | None = None
        if spec.positions.kind == "alibi":
            self._biases = alibi(spec.heads, device)
        elif (table := parameters.get("positions.bias.weight")) is not None:
            self._biases = relative(table, spec.positions)

    def _in_one_call(self) -> list[Projections | None]:
        """Return `Block.projected` of every layer; what distances add to scores is made after projections."""
        if self._distances:
            return [None] * self.spec.layers
        turning: list[Rotary | None] = [*self._rotary] or [None] * self.spec.layers
        return [block.projected(rotary) for block, rotary in zip(self.blocks, turning, strict=True)]

    def quantize(self, items: Sequence[Item]) -> int:
        """Keep weights in int8, by how large inputs are when `items` run, if any; return the bytes saved."""
        blocks = list(dict.fromkeys(self.blocks))  # layers may share one
        kept = [*self._embedding.kept, *(one for block in blocks for one in block.linears)]
        before = sum(one.nbytes for one in kept)
        if items:
            self._projected = [None] * len(self.blocks)
            for block in blocks:
                block.watch()
            self.run(items)
        for block in blocks:
            block.quantize()
        self._embedding.quantize()
        self._projected = self._in_one_call()
        return before - sum(one.nbytes for one in kept)

    @property
    def words(self) -> Table | None:
        """The table of its words, where it has one."""
        return self._embedding.words

    @property
    def kernel(self) -> str:
        """Which linear kernels run, and which backends of attention."""
        linears = set().union(*(block.kernels for block in self.blocks))
        biased = self._biases is not None or bool(self._distances)
        rules = self._own_rules.values() if biased else self._own_rules
        return f"{'+'.join(sorted(linears)) or 'torch'}, {attention_names(self._heads, rules)}"

    def run(self, items: Sequence[Item], at_yield: AtYield = lambda: None) -> Answers:
        """Return what `steps` comes to; `at_yield` is called at every yield point."""
        return finish(self.steps(items, whole=True), at_yield)

    def steps(self, items: Sequence[Item], *, whole: bool = False) -> Steps[Answers]:
        """Return one Answer or Failure an item, in order; all items are of this model.

        Yields in every layer, and between parts of long attention and of long products. `whole`: not where
        blocks can be done in one call.
        """
        sequences = [self._start(item, place) for place, item in enumerate(items)]
        links = Links.of(sequences)
        ordered = sorted(sequences, key=self._ways_of) if items[1:] else sequences
        together([one.collector for one in ordered])
        active, x_ND = self._enter(ordered)
        first, plans = 0, LayerPlans(self._rules, self._own_rules, self._heads)
        if whole and active:
            first, x_ND = at_once(x_ND, self._unasked(active, plans, links), self._heads.compiled)
        for layer in range(first, len(self.blocks) if active else 0):
            block = self.blocks[layer]
            yield
            layer_plan = plans.of(layer, active)
            parts = []
            if layer in links:
                parts = yield from self._attend_linked(layer, block, x_ND, layer_plan.groups, links)
            for at, group in enumerate(layer_plan.groups if layer not in links else ()):
                if at:
                    yield
                found = yield from self._attend(layer, block, x_ND, group)
                if group.reads_z:
                    parts.append(found)
            if layer_plan.asked:  # else every sequence reads z, and goes on
                reading = [one.reads_z(layer) for one in active]
                active, (x_ND,) = keep(active, reading, x_ND)
                if not active:
                    break
            z_ND = parts[0].z if len(parts) == 1 else torch.cat([part.z for part in parts])
            if layer_plan.asked:
                collect_rows("z", layer, z_ND, active, sound=all(part.finite is True for part in parts))
                going = [one.goes_on(layer) for one in active]
                active, (x_ND, z_ND) = keep(active, going, x_ND, z_ND)
                if not active:
                    break
            points = self.after.points(layer, active, x_ND) if layer_plan.asked else None
            x_ND = yield from block.finish(x_ND, z_ND, points)
            if layer_plan.asked:
                yield from self.after.collect(layer, x_ND, active, points)
                active, (x_ND,) = keep(active, [one.last_layer > layer for one in active], x_ND)
                if not active:
                    break
        return answers([one.collector for one in sequences])

    def _start(self, item: Item, place: int) -> InputSequence:
        sequence = InputSequence.of(item, self.device, place=place, biased=bool(self._distances))
        if sequence.given is not None and sequence.given.memory is not None:
            sequence.memory = tensor_of(sequence.given.memory, self.device, self.dtype)
        if self._biases is not None:
            sequence.bias = self._biases.table(queries=sequence.queries, keys=sequence.keys)
        return sequence

    def _ways_of(self, sequence: InputSequence) -> tuple[list[tuple[str, bool]], bool]:
        """Return who computes a sequence under each rule there is: by this, neighbours come to one group."""
        rules = self._own_rules.values() if sequence.own_rule else self._own_rules
        ways = [way_of(rule, self._heads, sequence) for rule in rules]
        return [(backend.name, not packed) for backend, packed in ways], sequence.own_rule

    def _enter(self, sequences: list[InputSequence]) -> tuple[list[InputSequence], Tensor]:
        """Return what enters the first block and who goes on; those who asked for no more leave."""
        x_ND = self._embedding([one.given for one in sequences if one.given is not None])
        pack(sequences)
        collect_rows("embedded", None, x_ND, sequences)
        active, (x_ND,) = keep(sequences, [one.last_layer >= 0 for one in sequences], x_ND)
        return active, x_ND

    def _unasked(self, active: list[InputSequence], plans: LayerPlans, links: Links) -> Iterator[Layer]:
        """Give the layers before the first of which anything is asked, or in which z is taken from others."""
        ends = {layer for one in active for layer in one.asked} | links.layers
        for layer in range(min(ends)):
            yield plans.of(layer, active).groups, self._projected[layer], self.blocks[layer].in_one

    def _attend(self, layer: int, block: Block, x_ND: Tensor, group: Group) -> Steps[AttentionResult]:
        """Collect what is asked of a group's scores; return z [N, d_model], where it is read."""
        rows, lengths, ours = group.rows, block.output_lengths, self._heads.compiled
        x_ND = x_ND if rows.stop - rows.start == x_ND.shape[0] else x_ND[rows]
        projections = self._projected[layer] if group.backend is COMPILED and group.packed else None
        if projections is None:
            qkv = yield from self._project(layer, block, x_ND, group)
            problem_of = self._problem_of(layer, group, qkv)
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
        problem_of = self._problem_later(layer, block, group, projected)
        if found.spoiled:
            found = yield from group.mended(found, problem_of, block.output if whole else None)
        yield from group.collect(layer, found, problem_of, lengths)
        if whole or not group.reads_z:
            return found
        return AttentionResult((yield from block.output(found.z)), (), ())

    def _attend_linked(
        self, layer: int, block: Block, x_ND: Tensor, groups: Sequence[Group], links: Links
    ) -> Steps[list[AttentionResult]]:
        """Do what `_attend` does for all groups of a layer in which sequences take z from each other."""
        made: list[tuple[Group, AttentionResult]] = []
        problems = []
        for group in groups:
            yield
            qkv = yield from self._project(layer, block, x_ND[group.rows], group)
            problems.append(self._problem_of(layer, group, qkv))
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
        if not memories and (projections := self._projected[layer]) is not None:
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
        return (yield from block.project(x_ND, rotary, rotary.angles(lengths, longest)))

    def _problem_of(self, layer: int, group: Group, qkv: QKV) -> ProblemOf:
        """Return what makes of a sequence of a group its attention in a layer."""
        return lambda one: self._problem(layer, group, one, qkv)

    def _problem_later(self, layer: int, block: Block, group: Group, projected_ND: Tensor) -> ProblemOf:
        """Do the same for q beside k beside v, which few outputs need again."""
        return lambda one: self._problem(layer, group, one, block.split_qkv(projected_ND))

    def _problem(self, layer: int, group: Group, sequence: InputSequence, qkv: QKV) -> Problem:
        """Return a layer's attention of one sequence, with its mask and bias."""
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
            of_keys = self.spec.positions.kind == "relative_key_query"
            bias = DistanceBias(self._distances[layer], q, k, rule.scale_for(q.shape[-1]), of_keys)
        edits = sequence.edits_in(layer)
        return prepare(q, k, v, spec=rule, mask=sequence.mask, bias=bias, edits=edits)
