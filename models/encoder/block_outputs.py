"""What is collected once a block is done: points of the residual stream, `hidden`, `pooled`, predictions.

`mid` is the sum of what entered the block and what attention gave, `feed_forward` what the network adds to
it, `residual` what the block gives. `hidden` is the same, of the last layer after the final norm.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from models.attention.sequence import InputSequence, collect_block, collect_rows
from models.compiled.calls import Points
from models.device.steps import Steps
from models.encoder.pooling import Pooling

ON_THE_WAY = ("mid", "feed_forward")
Predict = Callable[[int, Tensor, Sequence[InputSequence]], Steps[None]]  # of a layer, what its block gives


class BlockOutputs:
    """Of a model's blocks: `final` is the norm after the last; `predict`, once it is set, predicts words."""

    def __init__(
        self, layers: int, *, final: Callable[[Tensor], Tensor] | None, pooling: Pooling | None
    ) -> None:
        self._last, self.final = layers - 1, final
        self._pooling = None if pooling is None else pooling.each
        self.predict: Predict | None = None

    def points(self, layer: int, active: Sequence[InputSequence], like_ND: Tensor) -> Points | None:
        """Return rows for a block to fill with its points, None where no sequence asks for any."""
        wanted = {name for one in _asking(layer, active) for name in ON_THE_WAY if name in one.selection}
        return Points(**{name: like_ND.new_empty(like_ND.shape) for name in wanted}) if wanted else None

    def collect(
        self, layer: int, x_ND: Tensor, active: Sequence[InputSequence], points: Points | None
    ) -> Steps[None]:
        """Collect what is asked of a layer of what its block gives, x."""
        asking = _asking(layer, active)
        if not asking:
            return
        for name in ON_THE_WAY if points is not None else ():
            if (made := getattr(points, name)) is not None:
                collect_rows(name, layer, made, asking)
        collect_rows("residual", layer, x_ND, asking)
        hidden_ND = self.final(x_ND) if self.final is not None and layer == self._last else x_ND
        collect_block(layer, hidden_ND, asking, self._pooling)
        if self.predict is not None:
            yield from self.predict(layer, x_ND, asking)


def _asking(layer: int, active: Sequence[InputSequence]) -> list[InputSequence]:
    """Return the sequences that ask for anything of what a layer's block gives."""
    return [one for one in active if one.needs_block and layer in one.selection.layers]
