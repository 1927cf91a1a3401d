"""Where edits are: rows and keys by sorted half-open ranges, of which any part is asked for at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.staging import tensor_of
from models.outputs import Spans


@dataclass(frozen=True, slots=True)
class Ranges:
    """Positions in sorted half-open `ranges` that do not overlap; None: all."""

    ranges: Spans | None

    def among(self, chosen: Sequence[int], device: torch.device) -> Tensor | None:
        """Return bool [n], which of some positions are here; None: all of them."""
        if self.ranges is None or self._covers(chosen):
            return None
        if not self.ranges:
            return torch.zeros(len(chosen), dtype=torch.bool, device=device)
        at, which = self._which(chosen, device)
        return (which >= 0) & (at < self._numbers([stop for _, stop in self.ranges], device)[which])

    def ranks(self, chosen: Sequence[int]) -> NDArray[np.int64]:
        """Return how many positions here are before each of some that are here."""
        device = torch.device("cpu")
        at, which = self._which(chosen, device)
        if self.ranges is None:
            return at.numpy()
        before = accumulate((stop - start for start, stop in self.ranges), initial=0)
        firsts = [earlier - start for earlier, (start, _) in zip(before, self.ranges, strict=False)]
        return (at + self._numbers(firsts, device)[which]).numpy()

    def _covers(self, chosen: Sequence[int]) -> bool:
        """Whether one range has all of some consecutive positions."""
        if not isinstance(chosen, range) or self.ranges is None:
            return False
        return any(start <= chosen.start and chosen.stop <= stop for start, stop in self.ranges)

    def _which(self, chosen: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return positions, and of each the number of the last range that begins no later, −1 for none."""
        at = self._numbers(chosen, device)
        if self.ranges is None:
            return at, torch.zeros_like(at)
        starts = self._numbers([start for start, _ in self.ranges], device)
        return at, torch.searchsorted(starts, at, right=True) - 1

    @staticmethod
    def _numbers(numbers: Sequence[int], device: torch.device) -> Tensor:
        if isinstance(numbers, range):
            return torch.arange(numbers.start, numbers.stop, device=device)
        return tensor_of(numbers, device, torch.int64)


def whether_of(heads: Sequence[int], chosen: frozenset[int], device: torch.device) -> Tensor | None:
    """Return bool [h], which of some heads are chosen; None: all of them."""
    found = [head in chosen for head in heads]
    return None if all(found) else tensor_of(found, device, torch.bool)
