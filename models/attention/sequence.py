"""One input on its way through a model: where its rows are, what it asks for, what is collected of it."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from models.attention.asked import NOTHING, Asked, by_layer
from models.attention.blocks import compact
from models.attention.lengths import OutputLengths
from models.attention.masks import Bias, select
from models.attention.problem import Problem
from models.attention.reductions import derive, reduce_weights, rolled
from models.compiled.extents import Extent
from models.device.answers import check_rows, collector_of, put_rows
from models.device.collect import Collector, all_finite
from models.device.staging import tensor_of
from models.device.steps import Steps
from models.edits.layer import LayerEdits, edits_by_layer
from models.outputs import Selection, made_of
from models.protocol import Item, Tokens

BLOCK_OUTPUTS = made_of("block", "words")
PooledRows = tuple[slice, Tensor | None, int]  # the rows, their mask, and how many are of a prompt
PoolEach = Callable[[Tensor, Sequence[PooledRows]], Sequence[Tensor] | Tensor]  # one vector a sequence


@dataclass(slots=True, eq=False, kw_only=True)
class InputSequence:
    """One input: rows [start, start + queries) of the packed matrix, of `keys` keys.

    `mask` [S] or [T, S], `bias` and `memory` [S, d_model] are its own; `crosses`: its keys are those of a
    memory. `biased`: each layer adds a bias, made of q and k. `outlives`: every layer's z is read, whatever
    is asked for.
    """

    selection: Selection
    collector: Collector
    queries: int
    keys: int
    start: int = 0
    place: int = 0  # in the batch as it came
    given: Tokens | None = None
    mask: Tensor | None = None
    bias: Bias | None = None
    biased: bool = False
    memory: Tensor | None = None
    crosses: bool = False
    outlives: bool = False
    edits: Mapping[int, LayerEdits] = field(default_factory=dict)  # by the layer
    lends_until: int = -1  # the last layer of which another sequence takes z
    rollout: Tensor | None = None
    ways: dict[int, Any] = field(default_factory=dict)  # who computes it, by the rule: see `backends`
    asked: Mapping[int, Asked] = field(init=False)  # by the layers of which anything is
    needs_block: bool = field(init=False)
    last_layer: int = field(init=False)  # −1 where what enters the first is all that is asked for

    def __post_init__(self) -> None:
        self.asked = by_layer(self.selection)
        self.needs_block = not BLOCK_OUTPUTS.isdisjoint(self.selection.outputs)
        self.last_layer = max(self.asked, default=-1)

    @classmethod
    def of(cls, item: Item, device: torch.device, **more: Any) -> Self:
        """Return the sequence of an item, its mask on the device; `more`: further fields."""
        given, mask = item.input, item.input.mask
        kind = torch.bool if mask is not None and mask.dtype == np.bool_ else torch.float32
        tokens = given if isinstance(given, Tokens) else None
        return cls(
            selection=item.selection,
            collector=collector_of(item.selection, item.dims, device),
            queries=given.queries,
            keys=given.keys,
            given=tokens,
            mask=None if mask is None else tensor_of(mask, device, kind),
            crosses=given.queries != given.keys if tokens is None else tokens.memory is not None,
            edits=edits_by_layer(item.edits),
            **more,
        )

    @property
    def rows(self) -> slice:
        """Where it stands in the packed matrix."""
        return slice(self.start, self.start + self.queries)

    @property
    def own_rule(self) -> bool:
        """Whether more decides what it attends than the layer's specification."""
        return self.crosses or self.biased or self.mask is not None or self.bias is not None

    def at(self, layer: int | None) -> Asked:
        """Return what is asked of a layer; None: of what is no layer of the model."""
        return NOTHING if layer is None else self.asked.get(layer, NOTHING)

    def edits_in(self, layer: int | None) -> LayerEdits | None:
        """Return what is done to its attention in a layer; None: of what is no layer of the model."""
        return None if layer is None else self.edits.get(layer)

    def lend(self, layer: int) -> None:
        """Stay until another sequence has taken z of a layer."""
        self.lends_until = max(self.lends_until, layer)
        self.last_layer = max(self.last_layer, layer)

    def asks(self, name: str, layer: int | None) -> bool:
        """Whether an output of a layer is asked for; None: of what is no layer of the model."""
        return name in self.at(layer).selection.outputs

    def goes_on(self, layer: int) -> bool:
        """Whether what follows attention in a layer is read, by a later layer or by the caller."""
        if self.last_layer > layer or self.outlives:
            return True
        return self.needs_block and layer in self.selection.layers

    def reads_z(self, layer: int) -> bool:
        """Whether a layer's z is read: by what follows, or by the caller."""
        if self.goes_on(layer) or layer <= self.lends_until:
            return True
        return self.asks("z", layer) or self.asks("z_heads", layer)

    def reads_scores(self, layer: int | None) -> bool:
        """Whether anything is asked of a layer's scores."""
        return self.at(layer).reads_scores

    @property
    def pooled_rows(self) -> list[PooledRows]:
        """What of the packed matrix is pooled, to one vector each: all its rows, or those of each span.

        A memory's mask says nothing of its own rows, and a span has no prompt. Masks are on the processor.
        """
        prompt = 0 if self.given is None else self.given.prompt
        read = None if self.crosses or self.given is None else self.given.mask
        mask = None if read is None else torch.from_numpy(read)
        if self.selection.spans is None:
            return [(self.rows, mask, prompt)]
        if mask is not None and mask.ndim > 1:
            mask = None
        return [
            (slice(self.start + start, self.start + end), None if mask is None else mask[start:end], 0)
            for start, end in self.selection.spans
        ]

    def extent(self, start: int, layer: int | None) -> Extent:
        """Return where its rows stand in a group, from `start`, and what is made on the way to z."""
        rows, asked = slice(start, start + self.queries), self.at(layer)
        if not asked.reads_scores:
            return Extent(rows)
        in_place = layer is not None and "weights" in asked.on_the_way
        return Extent(
            rows,
            lse=asked.others or "lse" in asked.on_the_way,
            weights=bool(asked.of_weights),
            outputs=tuple(name for name in asked.on_the_way if name != "lse"),
            selection=asked.selection,
            into=self.collector.room("weights", layer or 0) if in_place else None,
            home=None if layer in self.edits else self.collector.home(layer),  # what is edited is made again
        )

    def collect(
        self,
        layer: int,
        problem: Callable[[], Problem],
        *,
        lse: Tensor | None,
        weights: Tensor | None = None,
        made: Mapping[str, Tensor | None] | None = None,
        lengths: OutputLengths | None = None,
        told: bool = False,
    ) -> Steps[None]:
        """Collect what is asked of a layer's scores.

        Where a sound pass has made them: `weights` [H', T', S] of the chosen heads and rows, and outputs
        (None: it is put). `told`: whether rows are sound is known, or will be; else the logsumexp tells, or
        what is put.
        """
        asked = self.at(layer)
        if not asked.reads_scores:
            return
        left: Collection[str] = asked.derived
        if told:
            self.collector.trust_rows()
        else:
            self.collector.check_rows(lse)
        if weights is not None or made is not None:
            found = {name: made[name] for name in asked.on_the_way if name in made} if made else {}
            if weights is not None:
                found |= reduce_weights(weights, asked.of_weights, k=asked.selection.top_k)
            self._put(layer, found)
            left = [name for name in left if name not in found]
        if "lse" in left and lse is not None:
            self._put(layer, {"lse": chosen_part(lse, asked.selection)})
            left = [name for name in left if name != "lse"]
        if left:
            chosen = replace(asked.selection, outputs=tuple(left))
            made = yield from derive(problem(), lse, chosen, output_lengths=lengths, ids=self._ids(chosen))
            self._put(layer, made)
        if "rollout" in asked.selection:  # over its layers, of all heads where pairs are chosen
            mean = replace(self.selection, outputs=("weights_mean",), rows=None, spans=None, pairs=None)
            made = yield from derive(problem(), lse, mean)
            self.rollout = rolled(made["weights_mean"], self.rollout)
            if layer == max(self.selection.layers):
                self.collector.put("rollout", layer, self.chosen_rows(self.rollout))

    def _ids(self, chosen: Selection) -> Tensor | None:
        """Return the ids of its tokens [T], where something is made of them."""
        if self.given is None or self.given.ids is None or "head_profile" not in chosen:
            return None
        return torch.from_numpy(self.given.ids)

    def chosen_rows(self, x_TD: Tensor) -> Tensor:
        """Return those of its rows that are asked for."""
        rows = self.selection.rows
        if rows is None:
            return x_TD
        return x_TD[list(rows)] if x_TD.device.type == "cpu" else select(x_TD, 0, compact(rows))

    def _put(self, layer: int, made: Mapping[str, Tensor | None]) -> None:
        for name, tensor in made.items():
            if tensor is not None:
                self.collector.put(name, layer, tensor)


def pack(sequences: Iterable[InputSequence]) -> None:
    """Let sequences stand one after another in the packed matrix."""
    start = 0
    for one in sequences:
        one.start = start
        start += one.queries


def collect_rows(
    name: str, layer: int | None, x_ND: Tensor, sequences: Iterable[InputSequence], *, sound: bool = False
) -> None:
    """Collect the chosen rows of every sequence that asks for them; `layer` None: what is of no layer."""
    asking = [one for one in sequences if name in one.selection and (layer is None or one.asks(name, layer))]
    if not asking:
        return
    if put_rows(name, layer or 0, x_ND, [(one.collector, one.start, one.selection.rows) for one in asking]):
        return
    # Once for the batch: only an unsound batch is looked at one by one.
    sound = sound or all_finite(x_ND)
    for one in asking:
        one.collector.put(name, layer or 0, one.chosen_rows(x_ND[one.rows]), sound=sound)


def tell_rows(sequences: Sequence[InputSequence], layer: int, lse_HN: Tensor | None) -> bool:
    """Note of packed sequences at once whether softmax rows that are read are sound; False: of none."""
    reading = [one for one in sequences if one.reads_scores(layer)] if lse_HN is not None else []
    places = [(one.collector, one.start - sequences[0].start, one.queries) for one in reading]
    return lse_HN is not None and check_rows(lse_HN, places)


def collect_block(
    layer: int, hidden_ND: Tensor, sequences: Sequence[InputSequence], pooling: PoolEach | None
) -> None:
    """Collect `hidden` and `pooled` of a layer, of every sequence that asks for them."""
    collect_rows("hidden", layer, hidden_ND, sequences)
    asking = [one for one in sequences if one.asks("pooled", layer)]
    if not asking:
        return
    assert pooling is not None
    rows = [one.pooled_rows for one in asking]
    pooled = pooling(hidden_ND, [part for own in rows for part in own])
    starts = accumulate(map(len, rows[:-1]), initial=0)
    sources = [(one.collector, start, None) for one, start in zip(asking, starts, strict=True)]
    stacked = pooled if isinstance(pooled, Tensor) else torch.stack(list(pooled))
    if put_rows("pooled", layer, stacked, sources):
        return
    sound = all_finite(stacked)
    vectors = iter(pooled)
    for one, own in zip(asking, rows, strict=True):
        made = [next(vectors) for _ in own]
        one.collector.put(
            "pooled", layer, made[0] if one.selection.spans is None else torch.stack(made), sound=sound
        )


def chosen_part(x_HT: Tensor, selection: Selection) -> Tensor:
    """Return the chosen heads and rows of [H, T, …], contiguous."""
    for axis, numbers in enumerate((selection.heads, selection.rows)):
        if numbers is not None:
            x_HT = select(x_HT, axis, compact(numbers))
    return x_HT.contiguous()


def keep(
    active: list[InputSequence], going: list[bool], *packed: Tensor
) -> tuple[list[InputSequence], tuple[Tensor, ...]]:
    """Drop the sequences that have all they asked for, and their rows from every packed tensor."""
    if all(going):
        return active, packed
    kept = [one for one, goes in zip(active, going, strict=True) if goes]
    if not kept:
        return [], packed
    smaller = tuple(torch.cat([tensor[one.rows] for one in kept]) for tensor in packed)
    pack(kept)
    return kept, smaller
