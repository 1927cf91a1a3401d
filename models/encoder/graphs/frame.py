"""The memory that graphs of one shape read beside weights: rows, where sequences stand, angles of positions.

It stays where it is; each batch writes it anew, in one copy and, where positions turn, two launches a table.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.attention.ragged.batch import Batch
from models.attention.tiles.table import COLUMNS, SequenceTable
from models.device.staging import ALIGNMENT, write_bytes
from models.encoder.graphs.shapes import GraphShape
from models.encoder.positions import position_ids
from models.encoder.rotary import Rotary

Angles = tuple[Tensor, Tensor]  # cosines and sines, each [N, 1, half]


class Frame:
    """Static tensors of a shape. `rows` [tokens, d_model] is what enters the first of its graphs."""

    def __init__(
        self,
        shape: GraphShape,
        rotaries: Sequence[Rotary],
        *,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.shape = shape
        self.rows = torch.zeros(shape.tokens, width, dtype=dtype, device=device)
        self._rotaries = list(dict.fromkeys(rotaries))
        self._angles = {
            rotary: tuple(torch.zeros(shape.tokens, 1, rotary.half, device=device) for _ in range(2))
            for rotary in self._rotaries
        }
        sizes = (8 * shape.sequences * COLUMNS, 4 * (shape.sequences + 1), 4 * shape.tokens)
        self._parts: list[slice] = []
        end = 0
        for size in sizes:
            self._parts.append(slice(end, end + size))
            end += size + -size % ALIGNMENT
        self._layout = torch.zeros(end, dtype=torch.uint8, device=device)
        table, begins, positions = (self._layout[part] for part in self._parts)
        self.batch = Batch(begins.view(torch.int32), shape.lengths)
        every = [shape.longest] * shape.sequences  # for as many tiles kernels are launched
        self.table = SequenceTable(
            table.view(torch.int64).view(-1, COLUMNS),
            positions.view(torch.int32),
            first=[0] * shape.sequences,
            count=every,
            keys=every,
            chosen=None,
            hidden=False,
            biased=False,
            kept=[],
        )

    def angles(self, rotary: Rotary) -> Angles:
        """Return those of every row."""
        cosines, sines = self._angles[rotary]
        return cosines, sines

    def lay_out(self, lengths: Sequence[int]) -> None:
        """Let rows be of sequences of these lengths, one after another; the device is not waited for."""
        shape, count, total = self.shape, len(lengths), sum(lengths)
        host = np.zeros(self._layout.numel(), np.uint8)
        table, begins, positions = (host[part] for part in self._parts)
        ends = np.cumsum(lengths)
        begins.view(np.int32)[1:] = total  # those that are not there have no rows
        begins.view(np.int32)[1 : count + 1] = ends
        rows = table.view(np.int64).reshape(shape.sequences, COLUMNS)
        rows[:count, 0] = rows[:count, 2] = ends - lengths
        rows[:count, 1] = rows[:count, 3] = lengths
        positions.view(np.int32)[:total] = position_ids(lengths)
        write_bytes(self._layout, host)
        for rotary in self._rotaries:
            for place, made in zip(self._angles[rotary], rotary.angles(lengths, lengths), strict=True):
                place[:total].copy_(made)
