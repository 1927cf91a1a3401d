"""A whole model on packed rows: embeddings, blocks, pooling; ragged in, ragged out.

All sequences of a batch stand one after another in one [N, d_model] matrix, so no padding is ever
computed. A sequence leaves the batch after the last layer it asked for. N rows, D d_model, H heads.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from models.attention import contextualize, prepare
from models.collect import Collector, all_finite, answers
from models.embedding import Embedding, standing
from models.layer import Block
from models.masks import Bias
from models.norm import Norm
from models.packed import contextualize_packed
from models.parts import Seen
from models.plain import Found
from models.pooling import Pooling
from models.positions import AlibiBias, DistanceBias, RelativeBias, Rotary
from models.protocol import Answer, Failure, Item, Tokens
from models.reductions import derive
from models.rollout import rolled
from models.running import Running
from models.scores import Pause, Problem, go_on
from models.spec import ModelSpec
from models.staging import to_device

__all__ = ["Stack"]

BLOCK_OUTPUTS = frozenset({"hidden", "pooled"})
STACK_OUTPUTS = frozenset({"z", "hidden", "pooled", "rollout"})


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
        self.dtype = next(iter(parameters.values())).dtype if parameters else torch.float32
        self.blocks = []
        distances = []  # a table a layer, where positions are vectors of distances
        for layer in range(spec.layers):
            if spec.positions.distances:
                distances.append(parameters[f"layers.{layer}.attention.distances.weight"])
            self.blocks.append(Block(spec, parameters, layer))
            if take:
                for name in [name for name in parameters if name.startswith(f"layers.{layer}.")]:
                    del parameters[name]
        self._pooling = Pooling(spec.pooling) if pooling is None and spec.pooling else pooling
        self._embedding = Embedding(spec, parameters, device, self.dtype)
        self._relative = parameters.get("positions.bias.weight")
        self._distances = distances
        self._final_norm = Norm(parameters, "final_norm", spec.norm) if spec.norm.final else None
        self._rotary = None
        if spec.positions.kind == "rotary":
            self._rotary = Rotary(spec.positions, spec.key_width, device)
        # What turns q and k by their positions stands between the projections and attention.
        self._plain = [
            block.plain(spec.attention_of(layer)) if self._rotary is None and not distances else None
            for layer, block in enumerate(self.blocks)
        ]
        if spec.positions.kind == "alibi":
            self._slopes = AlibiBias.slopes(spec.heads, device)

    @property
    def kernels(self) -> set[str]:
        """Which linear kernels run."""
        return set().union(*(block.kernels for block in self.blocks))

    def run(self, items: Sequence[Item], *, pause: Pause = go_on) -> list[Answer | Failure]:
        """Return one Answer or Failure an item, in order; all items are of this model.

        `pause` is called between layers and between parts of long attention; it may run another batch.
        """
        everyone = [self._start(item) for item in items]
        active = everyone
        x_ND = self._embedding([_tokens_of(item) for item in items])
        _place(active)
        for layer, block in enumerate(self.blocks):
            before_ND = block.before(x_ND)
            pause()
            found = self._in_one(layer, before_ND, active)
            if found is not None:
                z_ND = found.z_ND
                self._read_scores(layer, block, found, active, pause=pause)
            else:
                apart = self._attend(layer, block, before_ND, active, pause=pause)
                if apart is None:
                    break
                z_ND = apart
                reading = [one.reads_z(layer) for one in active]
                active, (x_ND, before_ND) = _keep(active, reading, x_ND, before_ND)
            _collect_rows("z", layer, z_ND, active, sound=found is not None)
            going = [one.last_layer > layer or one.needs_block for one in active]
            active, (x_ND, before_ND, z_ND) = _keep(active, going, x_ND, before_ND, z_ND)
            if not active:
                break
            x_ND = block.finish(x_ND, before_ND, z_ND, pause)
            self._collect_hidden(layer, x_ND, active)
            active, (x_ND,) = _keep(active, [one.last_layer > layer for one in active], x_ND)
            if not active:
                break
        return answers([one.collector for one in everyone])

    def _start(self, item: Item) -> Running:
        given, chosen = _tokens_of(item), item.selection
        mask = None if given.mask is None else torch.tensor(given.mask, device=self.device)
        memory = None
        if given.memory is not None:
            memory = torch.tensor(given.memory, dtype=self.dtype, device=self.device)
        derived = tuple(name for name in chosen.outputs if name not in STACK_OUTPUTS)
        one = Running(
            item=item,
            collector=Collector(chosen, item.dims),
            length=given.queries,
            last_layer=max(chosen.layers),
            needs_block=not BLOCK_OUTPUTS.isdisjoint(chosen.outputs),
            derived=replace(chosen, outputs=derived) if derived else None,
            mask=mask,
            memory=memory,
            by_distance=bool(self._distances),
        )
        if self.spec.positions.kind == "alibi":
            one.bias = AlibiBias(self._slopes, one.keys)
        elif self._relative is not None:
            at = self.spec.positions
            one.bias = RelativeBias.from_table(self._relative, at, queries=one.length, keys=one.keys)
        return one

    def _attend(
        self, layer: int, block: Block, before_ND: Tensor, active: list[Running], *, pause: Pause
    ) -> Tensor | None:
        """Collect what is derived from the scores, and return z [N', d_model].

        Only of the sequences whose z is read: by a later layer, by this block, or by the caller.
        """
        memories = [one.memory for one in active if one.memory is not None]
        rows_ND = torch.cat((before_ND, *memories)) if memories else before_ND
        q, k, v = block.project(rows_ND, pause)
        if self._rotary is not None:
            lengths = [one.length for one in active] + [int(memory.shape[0]) for memory in memories]
            cos, sin = self._rotary.angles(to_device([standing(lengths)], self.device, torch.int64))
            q, k = self._rotary.turn(q, cos, sin), self._rotary.turn(k, cos, sin)
        reading = [one for one in active if one.reads_z(layer)]
        z_NHV, seen = self._packed(layer, q, k, v, reading)
        parts: list[Tensor] = []
        memory_start = before_ND.shape[0]
        for one in active:
            keys = one.rows
            if one.memory is not None:
                keys = slice(memory_start, memory_start := memory_start + one.keys)
            made = seen.get(one.start)
            if made is not None and one.take(layer, made):
                continue
            problem = self._problem(one, layer, q[one.rows], k[keys], v[keys], pause=pause)
            # Where z is not read, the weights are made without it.
            lse_HT = None if made is None else made.lse
            if made is None and one.reads_z(layer):
                z_HTV, lse_HT = contextualize(problem, want_lse=one.reads_scores(layer))
                parts.append(z_HTV.transpose(0, 1))
            if one.reads_scores(layer):
                self._derive(one, layer, problem, lse_HT, made)
        if parts:
            z_NHV = torch.cat(parts) if len(parts) > 1 else parts[0]
        return None if z_NHV is None else block.output(z_NHV, pause)

    def _in_one(self, layer: int, before_ND: Tensor, active: list[Running]) -> Found | None:
        """Compute a layer's attention as one call, where all is plain and all z is read; None otherwise."""
        plain = self._plain[layer]
        if plain is None or not all(one.plain and one.reads_z(layer) for one in active):
            return None
        return plain(before_ND, [one.part(layer) for one in active])

    def _read_scores(
        self, layer: int, block: Block, found: Found, active: list[Running], *, pause: Pause
    ) -> None:
        """Collect what is asked of the scores of a layer that was computed as one call."""
        for one, made in zip(active, found.seen, strict=True):
            if not one.take(layer, made):
                q, k, v = (tensor[one.rows] for tensor in block.parted(found.qkv))
                self._derive(one, layer, self._problem(one, layer, q, k, v, pause=pause), made.lse, made)

    def _problem(
        self, one: Running, layer: int, q_THD: Tensor, k_SGD: Tensor, v_SGV: Tensor, *, pause: Pause
    ) -> Problem:
        """Return a layer's attention of one sequence, with its mask and bias."""
        rule = self.spec.attention_of(layer)
        q, k, v = (tensor.transpose(0, 1) for tensor in (q_THD, k_SGD, v_SGV))
        bias: Bias | None = one.bias
        if self._distances:
            of_keys = self.spec.positions.kind == "relative_key_query"
            bias = DistanceBias(self._distances[layer], q, k, rule.scale_for(q.shape[-1]), of_keys)
        return prepare(q, k, v, spec=rule, mask=one.mask, bias=bias, pause=pause)

    def _packed(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, reading: list[Running]
    ) -> tuple[Tensor | None, dict[int, Seen]]:
        """Return z [N', H, d_v] of plain sequences, and what was seen of each by where it starts."""
        if not reading or not all(one.plain for one in reading):
            return None, {}
        parts = [one.part(layer) for one in reading]
        found = contextualize_packed(q, k, v, self.spec.attention_of(layer), parts)
        if found is None:
            return None, {}
        return found[0], {one.start: seen for one, seen in zip(reading, found[1], strict=True)}

    def _derive(
        self, one: Running, layer: int, problem: Problem, lse_HT: Tensor | None, made: Seen | None
    ) -> None:
        """Collect what is derived from a layer's scores, and is not made already."""
        if one.derived is not None:
            one.collector.check_rows(lse_HT)
            done = () if made is None or made.weights is None else one.of_weights
            left = replace(
                one.derived, outputs=tuple(name for name in one.derived.outputs if name not in done)
            )
            for name, tensor in derive(problem, lse_HT, left).items():
                one.collector.put(name, layer, tensor)
        if "rollout" in one.item.selection:
            mean = replace(one.item.selection, outputs=("weights_mean",), rows=None, spans=None)
            self._roll(one, layer, derive(problem, lse_HT, mean)["weights_mean"])

    def _roll(self, one: Running, layer: int, weights_TS: Tensor) -> None:
        """Multiply one layer into the rollout; keep it when the last one is in."""
        one.rollout = rolled(weights_TS, one.rollout)
        if layer == one.last_layer:
            rows = one.item.selection.rows
            one.collector.put("rollout", layer, one.rollout if rows is None else one.rollout[list(rows)])

    def _collect_hidden(self, layer: int, x_ND: Tensor, active: list[Running]) -> None:
        """Keep `hidden` and `pooled`; the last layer's are taken after the final norm."""
        asking = [one for one in active if one.needs_block and layer in one.item.selection.layers]
        if not asking:
            return
        final = layer == self.spec.layers - 1 and self._final_norm is not None
        hidden_ND = self._final_norm(x_ND) if final and self._final_norm is not None else x_ND
        _collect_rows("hidden", layer, hidden_ND, asking)
        for one in asking:
            if "pooled" in one.item.selection:
                assert self._pooling is not None
                prompt = _tokens_of(one.item).prompt
                pooled = self._pooling(hidden_ND[one.rows], one.mask, prompt=prompt)
                one.collector.put("pooled", layer, pooled)


def _tokens_of(item: Item) -> Tokens:
    assert isinstance(item.input, Tokens)
    return item.input


def _place(active: list[Running]) -> None:
    start = 0
    for one in active:
        one.start = start
        start += one.length


def _keep(
    active: list[Running], going: list[bool], *packed: Tensor
) -> tuple[list[Running], tuple[Tensor, ...]]:
    """Drop the sequences that have all they asked for, and their rows from every packed tensor."""
    kept = [one for one, goes in zip(active, going, strict=True) if goes]
    if len(kept) == len(active):
        return active, packed
    if not kept:
        return [], packed
    smaller = tuple(torch.cat([tensor[one.rows] for one in kept]) for tensor in packed)
    _place(kept)
    return kept, smaller


def _collect_rows(
    name: str, layer: int, rows_ND: Tensor, active: list[Running], *, sound: bool = False
) -> None:
    """Keep the chosen rows of z or hidden for every sequence that asked for this layer's.

    `sound`: the caller knows that all are finite.
    """
    asking = [one for one in active if name in one.item.selection and layer in one.item.selection.layers]
    if not asking:
        return
    # Once for the batch: only an unsound batch is looked at one by one. A GPU is not waited for to tell.
    sound = sound or (rows_ND.device.type == "cpu" and all_finite(rows_ND))
    for one in asking:
        own, rows = rows_ND[one.rows], one.item.selection.rows
        one.collector.put(name, layer, own if rows is None else own[list(rows)], sound=sound)
