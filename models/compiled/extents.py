"""The sequences of a group in packed rows: which are each one's, and what attention gives."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from models.compiled import structures

__all__ = ["AttentionResult", "Extent", "GroupOutputs"]


@dataclass(frozen=True, slots=True)
class Extent:
    """Which rows are a sequence's, and what is read of its attention beside z."""

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


@dataclass(slots=True)
class GroupOutputs:
    """Memory for logsumexp and weights of sequences, C's table of them, their rows, and the longest's."""

    lse: list[Tensor | None]
    weights: list[Tensor | None]
    sequences: "ctypes.Array[structures.Sequence]"
    rows: int
    longest: int

    @classmethod
    def of(cls, extents: Sequence[Extent], heads: int, like: Tensor, rows: int) -> "GroupOutputs":
        """Make it for sequences among so many rows."""
        sequences = (structures.Sequence * len(extents))()
        every_lse: list[Tensor | None] = []
        every_weights: list[Tensor | None] = []
        z_rows = longest = 0
        for sequence, one in zip(sequences, extents, strict=True):
            start, stop = one.rows.start, one.rows.stop
            if not 0 <= start <= stop <= rows:
                raise ValueError(f"a sequence is among {rows} rows, not rows {start} to {stop}")
            length = stop - start
            sequence.start, sequence.z_start, sequence.length = start, z_rows, length
            lse = weights = None
            if one.lse:
                lse = like.new_empty(heads, length)
                sequence.lse = lse.data_ptr()
            if one.weights:
                weights = like.new_empty(heads, length, length)
                sequence.weights = weights.data_ptr()
            every_lse.append(lse)
            every_weights.append(weights)
            z_rows += length
            longest = max(longest, length)
        return cls(every_lse, every_weights, sequences, z_rows, longest)
