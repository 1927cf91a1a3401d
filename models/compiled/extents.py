"""The sequences of a group in packed rows: where each one's stand, and what attention gives."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["AttentionResult", "Extent"]


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a sequence's rows stand, and what is read of its attention beside z."""

    rows: slice
    lse: bool = False
    weights: bool = False

    @property
    def length(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """What a backend gives of a group: rows of z, one sequence's after another's, and more of each.

    `lse` float32 [H, T] and `weights` [H, T, T] are a sequence's, None where not made on the way. `finite`:
    whether all of z is; None: nobody has looked. `projected`: q beside k beside v of all rows, where they
    were made on the way.
    """

    z: Tensor
    lse: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]
    finite: bool | None = None
    projected: Tensor | None = None
