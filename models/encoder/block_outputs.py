"""What is collected once a block is done: points of the residual stream, `hidden`, `pooled`.

`mid` is the sum of what entered the block and what attention gave, `feed_forward` what the network adds to
it, `residual` what the block gives. `hidden` is the same, of the last layer after the final norm.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from models.attention.sequence import InputSequence, PoolEach, collect_block, collect_rows
from models.compiled.calls import Points

ON_THE_WAY = ("mid", "feed_forward")


def asking(layer: int, active: Sequence[InputSequence]) -> list[InputSequence]:
    """Return the sequences that ask for anything of what a layer's block gives."""
    return [one for one in active if one.needs_block and layer in one.selection.layers]


def points_of(layer: int, active: Sequence[InputSequence], like_ND: Tensor) -> Points | None:
    """Return rows for a block to fill with its points, None where no sequence asks for any."""
    wanted = {name for one in asking(layer, active) for name in ON_THE_WAY if name in one.selection}
    if not wanted:
        return None
    made = {name: like_ND.new_empty(like_ND.shape) for name in wanted}
    return Points(**made)


def collect_after(
    layer: int,
    x_ND: Tensor,
    active: Sequence[InputSequence],
    points: Points | None,
    *,
    final: Callable[[Tensor], Tensor] | None,
    pooling: PoolEach | None,
) -> None:
    """Collect what is asked of a layer of what its block gives, x; `final`: the norm after the last block."""
    reading = asking(layer, active)
    if not reading:
        return
    for name in ON_THE_WAY if points is not None else ():
        if (made := getattr(points, name)) is not None:
            collect_rows(name, layer, made, reading)
    collect_rows("residual", layer, x_ND, reading)
    collect_block(layer, x_ND if final is None else final(x_ND), reading, pooling)
