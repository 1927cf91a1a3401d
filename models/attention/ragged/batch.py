"""Where each sequence of a group begins, on the device."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from models.device.staging import to_device

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Sequence i has rows `cu_seqlens[i]` to `cu_seqlens[i + 1]`, int32 [B + 1] on the device."""

    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "Batch":
        """Lay out sequences of these lengths, one after another."""
        cu_seqlens = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        return cls(to_device([cu_seqlens], device, torch.int32), tuple(lengths))

    @property
    def longest(self) -> int:
        """The most rows of a sequence."""
        return max(self.lengths)


@dataclass(frozen=True, slots=True)
class BatchLayouts:
    """Those of one batch's groups: each is laid out once, in however many layers it is attended."""

    known: dict[tuple[int, ...], Batch] = field(default_factory=dict)
    _others: dict[Hashable, object] = field(default_factory=dict)

    def of(self, lengths: tuple[int, ...], device: torch.device) -> Batch:
        """Return that of sequences of these lengths."""
        if lengths not in self.known:
            self.known[lengths] = Batch.of(lengths, device)
        return self.known[lengths]

    def once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what is made once for a batch, whichever of its layers asks for it first."""
        if key not in self._others:
            self._others[key] = make()
        return self._others[key]  # type: ignore[return-value]
