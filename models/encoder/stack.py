"""A whole model on packed rows: embeddings, blocks, pooling; ragged in, ragged out.

All sequences of a batch stand one after another in one [N, d_model] matrix, so no padding is ever
computed. A sequence leaves the batch after the last layer it asked for. N rows, D d_model, H heads.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.attention.backends import attention_names, way_of
from models.attention.problem import Heads, Rule
from models.attention.sequence import InputSequence, collect_rows, keep, pack
from models.compiled.calls import Points
from models.device.answers import answers, together
from models.device.gpu import Gpu
from models.device.staging import tensor_of
from models.device.steps import AtYield, Steps, finish
from models.encoder.block import Block
from models.encoder.block_outputs import BlockOutputs
from models.encoder.embedding import Embedding, Table
from models.encoder.graphs.blocks import WholeBlocks
from models.encoder.graphs.making import graphs_of
from models.encoder.graphs.replays import BlockGraphs
from models.encoder.layers.attention import LayerAttention
from models.encoder.layers.plans import Layer, LayerPlan, LayerPlans, Links, at_once
from models.encoder.norm import Norm
from models.encoder.pooling import Pooling
from models.encoder.positions import DistanceBiases, alibi, relative
from models.encoder.rotary import rotaries
from models.protocol import Answers, Item, ModelCard
from models.spec import ModelSpec


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
        self.graphs: BlockGraphs | None = None  # on a GPU, of blocks of small batches
        self._distances = bool(distances)
        final = Norm(parameters, "final_norm", spec.norm) if spec.norm.final else None
        self.after = BlockOutputs(spec.layers, final=final, pooling=pooling)
        self._rotary = rotaries(spec, device)
        self._heads = Heads(device, self.dtype, spec.heads, spec.key_heads, spec.key_width, spec.value_width)
        self._attention = LayerAttention(spec, self.blocks, self._heads, self._rotary, distances)
        rules = [Rule(spec.attention_of(layer)) for layer in range(spec.layers)]
        known = dict(zip(rules, rules, strict=True))  # equal ones are one
        self._rules = [known[rule] for rule in rules]
        self._own_rules = {rule: Rule(rule.spec, own=True, apart=bool(distances)) for rule in known}
        self._biases: DistanceBiases | None = None
        if spec.positions.kind == "alibi":
            self._biases = alibi(spec.heads, device)
        elif (table := parameters.get("positions.bias.weight")) is not None:
            self._biases = relative(table, spec.positions)

    def quantize(self, items: Sequence[Item]) -> int:
        """Keep weights in int8, by how large inputs are when `items` run, if any; return the bytes saved."""
        blocks = list(dict.fromkeys(self.blocks))  # layers may share one
        kept = [*self._embedding.kept, *(one for block in blocks for one in block.linears)]
        before = sum(one.nbytes for one in kept)
        if items:
            for block in blocks:
                block.watch()
            self._attention.go_apart()
            self.run(items)
        for block in blocks:
            block.quantize()
        self._embedding.quantize()
        self._attention.go_in_one()
        return before - sum(one.nbytes for one in kept)

    def record(self, gpu: Gpu, card: ModelCard) -> None:
        """Record the blocks as CUDA graphs, where sequences may have no biases and memories of their own."""
        if self._biases is None and not self._distances and not card.part:
            blocks = WholeBlocks(self.blocks, self._rules, self._rotary, self._heads)
            self.graphs = graphs_of(blocks, gpu, card)

    @property
    def words(self) -> Table | None:
        """The table of its words, where it has one."""
        return self._embedding.words

    @property
    def kernel(self) -> str:
        """Which linear kernels run, and which backends of attention."""
        linears = set().union(*(block.kernels for block in self.blocks))
        biased = self._biases is not None or self._distances
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
        replays = None if self.graphs is None else self.graphs.of_batch()
        for layer in range(first, len(self.blocks) if active else 0):
            yield
            if replays is not None and replays.takes(layer, active):
                x_ND, points, asked = replays.block(layer, x_ND), None, layer in replays.asked
            else:
                layer_plan = plans.of(layer, active)
                active, x_ND, points = yield from self._block(layer, active, x_ND, layer_plan, links)
                asked = layer_plan.asked and bool(active)
            if asked:
                yield from self.after.collect(layer, x_ND, active, points)
                active, (x_ND,) = keep(active, [one.last_layer > layer for one in active], x_ND)
            if not active:
                break
        return answers([one.collector for one in sequences])

    def _block(
        self,
        layer: int,
        active: list[InputSequence],
        x_ND: Tensor,
        layer_plan: LayerPlan,
        links: Links,
    ) -> Steps[tuple[list[InputSequence], Tensor, Points | None]]:
        """Return who goes on after a layer, what leaves its block, and points of it that are asked for."""
        block = self.blocks[layer]
        parts = []
        if layer in links:
            parts = yield from self._attention.attend_linked(layer, x_ND, layer_plan.groups, links)
        for at, group in enumerate(layer_plan.groups if layer not in links else ()):
            if at:
                yield
            found = yield from self._attention.attend(layer, x_ND, group)
            if group.reads_z:
                parts.append(found)
        if layer_plan.asked:  # else every sequence reads z, and goes on
            reading = [one.reads_z(layer) for one in active]
            active, (x_ND,) = keep(active, reading, x_ND)
            if not active:
                return active, x_ND, None
        z_ND = parts[0].z if len(parts) == 1 else torch.cat([part.z for part in parts])
        if layer_plan.asked:
            collect_rows("z", layer, z_ND, active, sound=all(part.finite is True for part in parts))
            going = [one.goes_on(layer) for one in active]
            active, (x_ND, z_ND) = keep(active, going, x_ND, z_ND)
            if not active:
                return active, x_ND, None
        points = self.after.points(layer, active, x_ND) if layer_plan.asked else None
        return active, (yield from block.finish(x_ND, z_ND, points)), points

    def _start(self, item: Item, place: int) -> InputSequence:
        sequence = InputSequence.of(item, self.device, place=place, biased=self._distances)
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
            yield plans.of(layer, active).groups, self._attention.projected[layer], self.blocks[layer].in_one
