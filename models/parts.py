"""The sequences of a batch, one after another in packed rows: where each stands, what was seen of it."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Part", "Seen"]


@dataclass(frozen=True, slots=True)
class Part:
    """Where a sequence's rows stand, and what is read of its attention beside z."""

    rows: slice
    lse: bool = False
    weights: bool = False

    @property
    def length(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found on the way: the logsumexp [H, T], and the weights [H, T, T] where they were made."""

    lse: Tensor | None = None
    weights: Tensor | None = None
