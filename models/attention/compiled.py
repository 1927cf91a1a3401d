"""The backend of our own C: attention of short sequences on a processor, in float32.

With the projections around it where nothing else stands in between: W_Q, W_K, W_V, attention and W_O of a
layer are then one call, with the same bits as one after another. A forward pass of a millisecond has no time
for the interpreter in between.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.compiled.extents import AttentionResult, Extent
from models.compiled.native import Native, native
from models.compiled.panels import Panels

__all__ = ["Projected", "attend"]


def attend(
    q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor, extents: Sequence[Extent], *, scale: float, causal: bool
) -> AttentionResult:
    """Return z [N, H, D] of sequences' rows, one after another, logsumexp and weights of each as wanted."""
    ours = native()
    assert ours is not None
    return ours.attend(q_NHD, k_NGD, v_NGD, extents, scale=scale, causal=causal)


@dataclass(frozen=True, slots=True)
class Projected:
    """The attention of a layer with its projections; `output` None where there is no W_O."""

    library: Native
    heads: int
    key_heads: int
    projection: Panels
    output: Panels | None

    def __call__(
        self, x_ND: Tensor, extents: Sequence[Extent], *, scale: float, causal: bool, through_output: bool
    ) -> AttentionResult:
        """Return z [N, d_model] of the rows that attention reads; [N, H·D] unless `through_output`."""
        return self.library.block(
            x_ND,
            self.projection,
            self.output if through_output else None,
            extents,
            heads=self.heads,
            key_heads=self.key_heads,
            scale=scale,
            causal=causal,
        )
