"""Which layers of a batch are a graph's, and their replaying."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from models.attention.sequence import BLOCK_OUTPUTS, InputSequence
from models.device.graphs import Graph, usable
from models.encoder.block_outputs import ON_THE_WAY
from models.encoder.graphs.frame import Frame
from models.encoder.graphs.shapes import GraphShape, fitting
from models.outputs import made_of

BESIDE = made_of("input") | BLOCK_OUTPUTS - {*ON_THE_WAY}  # what is made of what enters or leaves a block


@dataclass(frozen=True, slots=True, eq=False)
class BlockGraph:
    """One layer: reads what `enters` it and writes what `leaves` it, each [tokens, d_model] of the frame."""

    graph: Graph
    enters: Tensor
    leaves: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class ShapeGraphs:
    """Those of one shape in one stream, by the layer; `whole`: of all layers as one."""

    frame: Frame
    layers: Mapping[int, BlockGraph]
    whole: BlockGraph | None = None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class BlockGraphs:
    """Those of a stack: for each stream, by its number, those of every shape. `stream`: the current one's.

    A graph runs in the stream it was recorded in alone: what its kernels share they share with that.
    """

    stream: Callable[[], int]
    known: Mapping[int, Mapping[GraphShape, ShapeGraphs]]

    def of_batch(self) -> "BatchReplays":
        """Return those that a batch may be replayed by which is run in the current stream."""
        return BatchReplays(self.known.get(self.stream(), {}) if usable() else {})


@dataclass(slots=True, eq=False)
class BatchReplays:
    """The layers of one batch that are replayed; of its sequences, as long as none leaves it."""

    known: Mapping[GraphShape, ShapeGraphs]
    asked: frozenset[int] = frozenset()  # layers of which anything is
    _active: list[InputSequence] | None = None
    _left_out: frozenset[int] = frozenset()
    _graphs: ShapeGraphs | None = None
    _lengths: list[int] = field(default_factory=list)  # until they are laid out
    _total: int = 0
    _at_once: bool = False  # nothing is asked before the last layer, and there is a graph of all

    def takes(self, layer: int, active: list[InputSequence]) -> bool:
        """Whether a layer is a graph's: nothing is asked of it but what is made of what leaves it."""
        if active is not self._active:
            self._begin(layer, active)
        return self._graphs is not None and layer in self._graphs.layers and layer not in self._left_out

    def _begin(self, layer: int, active: list[InputSequence]) -> None:
        self._active, self._graphs, self._at_once = active, None, False
        if not self.known or any(one.own_rule for one in active):
            return
        lengths = [one.queries for one in active]
        shape = fitting(self.known, lengths)
        if shape is None or not min(lengths):
            return
        self._graphs, self._total = self.known[shape], sum(lengths)
        self.asked = frozenset().union(*(one.asked for one in active))
        inside = {
            layer
            for one in active
            for layer, asked in one.asked.items()
            if not BESIDE.issuperset(asked.selection.outputs)
        }
        self._left_out = frozenset(inside).union(*(one.edits for one in active))
        last = len(self._graphs.layers) - 1
        free = not self._left_out and self.asked <= {last} and all(one.last_layer == last for one in active)
        self._at_once = free and layer == 0 and self._graphs.whole is not None
        self._lengths = lengths

    def block(self, layer: int, x_ND: Tensor) -> Tensor:
        """Return what leaves a layer that it takes, [N, d_model]: the next but one writes there again."""
        assert self._graphs is not None
        if self._lengths:
            self._graphs.frame.lay_out(self._lengths)
            self._lengths = []
        one = self._graphs.layers[layer]
        if self._at_once:
            assert self._graphs.whole is not None
            if layer:
                return x_ND  # of the last layer already
            one = self._graphs.whole
        if x_ND.data_ptr() != one.enters.data_ptr():
            one.enters[: self._total].copy_(x_ND)
        one.graph.replay()
        return one.leaves[: self._total]
