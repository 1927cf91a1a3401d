"""A whole model built by another library, run on batches of Items: what Stack is to our own encoder.

Sequences are packed into one row where the architecture allows it, and grouped by equal length where it does
not; either way no padding is computed. The model is given embeddings, never ids.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.collect import Collector, answers
from models.interception import Lane, Pass, current, running
from models.lengths import OutputLengths
from models.outputs import OUTPUTS, made_of
from models.pooling import pool
from models.protocol import Answer, Failure, Item, Tokens
from models.scores import Pause, go_on
from models.spec import PoolingSpec

__all__ = ["Tower", "collect_z"]

BLOCK_OUTPUTS = made_of("block")
FROM_CALLS = frozenset(OUTPUTS) - BLOCK_OUTPUTS - made_of("input")


@dataclass(slots=True, eq=False, kw_only=True)
class Tower:
    """One stack of layers, of which one attention a layer is served.

    `forward` takes what the module's own forward does. `calls_per_layer` is 2 where each layer has self- and
    cross-attention, and `first_call` says which of the two is served.
    """

    forward: Callable[..., Any]
    parameters: frozenset[str]  # names that `forward` takes
    device: torch.device
    dtype: torch.dtype
    layers: int
    table: torch.nn.Module | None = None  # ids to embeddings, of so many words
    vocabulary: int = 0
    pooling: PoolingSpec | None = None
    calls_per_layer: int = 1
    first_call: int = 0
    packs: bool = False
    lengths: Sequence[OutputLengths] = ()  # a layer, where the output projections were found
    turn: AbstractContextManager[Any] = field(default_factory=nullcontext)  # held while a batch runs

    def run(self, items: Sequence[Item], *, pause: Pause = go_on) -> list[Answer | Failure]:
        """Return one Answer or Failure an item, in order; all items are of this model.

        `pause` is called between layers and between parts of long attention; it may run another batch.
        """
        answers: dict[int, Answer | Failure] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for place, item in enumerate(items):
            given = _tokens_of(item)
            if self.calls_per_layer == 2 and given.memory is None:
                message = "a decoder needs memory [S, d_model], the hidden states of the encoder's last layer"
                answers[place] = Failure(code="invalid", message=message)
                continue
            sizes = (0, 0) if self.packs else (given.queries, 0 if given.memory is None else given.keys)
            groups.setdefault(sizes, []).append(place)
        for places in groups.values():
            with self.turn:
                found = self._run([items[place] for place in places], pause=pause)
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(items))]

    def layer_of(self, call: int) -> int | None:
        """Return which layer the n-th call of a pass is, None where it is the attention not served."""
        layer, kind = divmod(call, self.calls_per_layer)
        return layer if kind == self.first_call else None

    def _run(self, items: Sequence[Item], *, pause: Pause) -> list[Answer | Failure]:
        """Run one forward pass over sequences that fit together."""
        lanes = self._lanes(items)
        asked = {name for lane in lanes for name in lane.selection.outputs}
        middle = self.layers - 1 > min(min(lane.selection.layers) for lane in lanes)
        now = Pass(
            lanes=lanes,
            layer_of=self.layer_of,
            derived=frozenset(asked & FROM_CALLS),
            ends=BLOCK_OUTPUTS.isdisjoint(asked),
            packed=self.packs,
            pause=pause,
            lengths=self.lengths,
        )
        extra = {"output_hidden_states": True} if not now.ends and middle else {}
        with running(now):
            out = self.forward(**self._inputs(items), **extra)
            if not now.ends:
                self._collect_hidden(out, lanes)
        return answers([lane.collector for lane in lanes])

    def _lanes(self, items: Sequence[Item]) -> list[Lane]:
        ends = list(accumulate(_tokens_of(item).queries for item in items))
        lanes = []
        for place, item in enumerate(items):
            given = _tokens_of(item)
            start = ends[place] - given.queries if self.packs else 0
            mask = None
            if given.mask is not None:
                mask = torch.tensor(given.mask, device=self.device)
                mask = mask if mask.ndim == 2 else mask[None]
            lanes.append(
                Lane(
                    batch=0 if self.packs else place,
                    rows=slice(start, start + given.queries),
                    selection=item.selection,
                    collector=Collector(item.selection, item.dims),
                    sources=None if given.memory is None else slice(0, given.memory.shape[0]),
                    mask=mask,
                )
            )
        return lanes

    def _inputs(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return the arguments of a forward pass, each [1, N, …] packed or [B, T, …] grouped."""
        given = [_tokens_of(item) for item in items]
        join = (lambda parts: torch.cat(parts)[None]) if self.packs else torch.stack
        inputs: dict[str, Any] = {"inputs_embeds": join([self._embedded(one) for one in given])}
        if "use_cache" in self.parameters:
            inputs["use_cache"] = False
        if self.packs:
            places = [torch.arange(one.queries, device=self.device) for one in given]
            inputs["position_ids"] = torch.cat(places)[None]
        types = "token_type_ids" in self.parameters
        if types and any(one.type_ids is not None and one.type_ids.any() for one in given):
            inputs["token_type_ids"] = join([self._types(one) for one in given])
        memories = [one.memory for one in given if one.memory is not None]
        if memories:
            inputs["encoder_hidden_states"] = torch.stack([self._vectors(memory) for memory in memories])
        return inputs

    def _embedded(self, given: Tokens) -> Tensor:
        if given.embeddings is not None:
            return self._vectors(given.embeddings)
        assert given.ids is not None
        assert self.table is not None
        embedded: Tensor = self.table(torch.tensor(given.ids, device=self.device)[None])[0]
        return embedded

    def _vectors(self, array: Any) -> Tensor:
        return torch.tensor(array, dtype=self.dtype, device=self.device)

    def _types(self, given: Tokens) -> Tensor:
        types = np.zeros(given.queries, np.int64) if given.type_ids is None else given.type_ids
        return torch.tensor(types, device=self.device)

    def _collect_hidden(self, out: Any, lanes: Sequence[Lane]) -> None:
        """Keep `hidden` and `pooled`; the last layer's are what the model gives, after its final norm."""
        for lane in lanes:
            for layer in lane.selection.layers:
                last = layer == self.layers - 1
                whole = out.last_hidden_state if last else out.hidden_states[layer + 1]
                own, rows = whole[lane.batch, lane.rows], lane.selection.rows
                if "hidden" in lane.selection:
                    lane.collector.put("hidden", layer, own if rows is None else own[list(rows)])
                if "pooled" in lane.selection:
                    assert self.pooling is not None
                    mask = lane.mask[0] if lane.mask is not None and lane.mask.shape[0] == 1 else None
                    lane.collector.put("pooled", layer, pool(own, self.pooling, mask))


def collect_z(_module: torch.nn.Module, _inputs: Any, output: Tensor) -> None:
    """Keep z: a forward hook of an output projection."""
    now = current()
    if now is not None and now.layer is not None:
        now.collect_z(output)
        now.finish_call()


def _tokens_of(item: Item) -> Tokens:
    assert isinstance(item.input, Tokens)
    return item.input
