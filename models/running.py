"""One sequence on its way through a stack: where its rows are, and what it asks of each layer."""

from dataclasses import dataclass

from torch import Tensor

from models.collect import Collector
from models.outputs import Selection
from models.parts import Part, Seen
from models.positions import AlibiBias, RelativeBias
from models.protocol import Item
from models.whole import FROM_WEIGHTS, made_of_weights

__all__ = ["Running"]


@dataclass(slots=True)
class Running:
    """One sequence on its way through the stack: rows [start, start + length) of the packed matrix."""

    item: Item
    collector: Collector
    length: int
    last_layer: int
    needs_block: bool
    derived: Selection | None  # what is asked of the scores, if anything
    mask: Tensor | None
    memory: Tensor | None
    bias: AlibiBias | RelativeBias | None = None
    by_distance: bool = False  # each layer adds a bias of its own, made of q and k
    start: int = 0
    rollout: Tensor | None = None

    @property
    def rows(self) -> slice:
        """Where it stands in the packed matrix."""
        return slice(self.start, self.start + self.length)

    @property
    def plain(self) -> bool:
        """Whether it attends itself, unmasked and unbiased."""
        return self.mask is None and self.memory is None and self.bias is None and not self.by_distance

    @property
    def keys(self) -> int:
        """How many keys its queries meet."""
        return self.length if self.memory is None else int(self.memory.shape[0])

    @property
    def of_weights(self) -> tuple[str, ...]:
        """Which outputs can be made of this sequence's weights, were they all there."""
        chosen = self.item.selection
        if chosen.spans is not None:
            return ()
        return tuple(name for name in chosen.outputs if name in FROM_WEIGHTS)

    def reads_z(self, layer: int) -> bool:
        """Whether a layer's z is read: by a later layer, by its own block, or by the caller."""
        asked = "z" in self.item.selection or "z_heads" in self.item.selection
        return self.last_layer > layer or self.needs_block or asked

    def reads_heads(self, layer: int) -> bool:
        """Whether the caller reads a layer's z before W_O."""
        return "z_heads" in self.item.selection and layer in self.item.selection.layers

    def reads_scores(self, layer: int) -> bool:
        """Whether anything is asked of a layer's scores."""
        chosen = self.item.selection
        return layer in chosen.layers and (self.derived is not None or "rollout" in chosen)

    @property
    def others(self) -> tuple[str, ...]:
        """What else is read of its scores."""
        derived = () if self.derived is None else self.derived.outputs
        rollout = ("rollout",) if "rollout" in self.item.selection else ()
        return tuple(name for name in (*derived, *rollout) if name not in self.of_weights)

    def part(self, layer: int) -> Part:
        """Return its rows, and what a packed pass over them is to keep for this layer's outputs."""
        reads = self.reads_scores(layer)
        return Part(self.rows, lse=reads and bool(self.others), weights=reads and bool(self.of_weights))

    def take(self, layer: int, made: Seen) -> bool:
        """Collect what a packed pass has made of the layer's outputs; whether none is left to be derived."""
        if not self.reads_scores(layer):
            return True
        if made.weights is None:
            return False
        chosen = self.item.selection
        self.collector.trust_rows()
        outputs = made_of_weights(
            made.weights, self.of_weights, heads=chosen.heads, rows=chosen.rows, k=chosen.top_k
        )
        for name, tensor in outputs.items():
            self.collector.put(name, layer, tensor)
        return not self.others
