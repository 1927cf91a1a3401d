"""`share`: of each row the mass on some spans of keys over the mass on others."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention.blocks import Block, View
from models.outputs import Share
from models.shapes import together


class Shares:
    """Σ_of A / Σ_over A of each row of a view [H', T'], filled block by block; 0 where the latter is 0.

    Spans of one side are taken together: a key in several of them counts once.
    """

    def __init__(self, view: View, share: Share) -> None:
        self._of, self._over = together(share.of), together(share.over)
        self._made = torch.zeros(len(view.heads), len(view.rows), device=view.q.device)

    def add(self, block: Block, weights_HRK: Tensor) -> None:
        """Fill in the rows of a block, which holds all keys that they see."""
        of, over = (mass(weights_HRK, block.keys, spans) for spans in (self._of, self._over))
        self._made[block.heads, block.rows] = torch.where(over > 0, of / over, 0.0)

    def result(self) -> Tensor:
        """Return the shares float32 [H', T']."""
        return self._made


def mass(weights: Tensor, keys: slice, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return Σ over the spans of weights [..., K] of keys `keys`: [...]."""
    total = weights.new_zeros(weights.shape[:-1])
    for start, stop in spans:
        first, last = max(start, keys.start) - keys.start, min(stop, keys.stop) - keys.start
        if first < last:
            total += weights[..., first:last].sum(-1)
    return total
