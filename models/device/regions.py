"""How the outputs of a batch lie in one block: output by output, and in each the sequences one after another.

Shapes are known before anything is computed. Each sequence's output is C-contiguous in the reply's dtype, and
those of one name and dtype follow each other in the order in which their rows are packed, without gaps.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.staging import SMALL_BYTES

Shape = tuple[int, ...]


class Piece(NamedTuple):
    """One output of one sequence: where it begins in its region, in numbers, how many it has, and its shape.

    `layers`: how many layers it has in front, 1 where it has no such axis; `rows`: of one layer.
    """

    start: int
    numel: int
    shape: Shape
    layers: int
    rows: int


@dataclass(slots=True, eq=False)
class OutputRegion:
    """One output in one dtype, of all sequences that asked for it so.

    `pieces` by the sequence's number; `numbers` [numel] on the device. Of `flags` [2, F], the least and the
    greatest of what was put, the first `flagged` are in use.
    """

    dtype: torch.dtype
    pieces: dict[int, Piece] = field(default_factory=dict)
    numel: int = 0
    flags: int = 0
    start: int = 0  # in the block, in bytes
    flagged: int = 0

    def add(self, number: int, shape: Shape, layers: int, checks: int) -> None:
        """Make room for a sequence's numbers, and for so many checks of them."""
        numel = math.prod(shape)
        self.pieces[number] = Piece(self.numel, numel, shape, layers, numel // max(1, shape[-1]) // layers)
        self.numel += numel
        self.flags += checks

    @property
    def nbytes(self) -> int:
        """Bytes of numbers and flags."""
        return (self.numel + 2 * self.flags) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class OutputPlace:
    """Where an output of several sequences goes, of one layer.

    Sequence i's begin at `numbers[starts[i]]`, [numel] in the reply's dtype.
    """

    numbers: Tensor
    starts: NDArray[np.int64]


def copies_of(regions: Iterable[OutputRegion], end: int) -> Iterator[tuple[int, int]]:
    """Give the parts of a block that are copied apart: a large piece each, and what is between them."""
    start = 0
    for region in regions:
        size = region.dtype.itemsize
        for piece in region.pieces.values():
            if piece.numel * size > SMALL_BYTES:
                first = region.start + piece.start * size
                yield start, first
                start = first + piece.numel * size
                yield first, start
    yield start, end
