"""Where sequences stand, their masks and biases, as kernels in tiles read it: one table a launch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.rules import address_of
from models.device.staging import to_device

COLUMNS = 11  # what they are, `scores.py` says


@dataclass(frozen=True, slots=True, eq=False)
class SequenceTable:
    """Sequences of one launch: `rows` int64 [B, 11] on the device, and the position of every row of q.

    `first` and `count` are each one's rows of q; `chosen` their numbers in the packed matrix, where some are
    chosen. `kept`: what the addresses point into.
    """

    rows: Tensor
    positions: Tensor
    first: Sequence[int]
    count: Sequence[int]
    keys: Sequence[int]
    chosen: Tensor | None
    hidden: bool
    biased: bool
    kept: list[object]

    @property
    def total(self) -> int:
        """How many rows q has."""
        return int(self.positions.shape[0])


def table_of(extents: Sequence[Extent], *, heads: int, total: int, device: torch.device) -> SequenceTable:
    """Lay out sequences that read all of their rows, of `total` packed ones, or chosen rows alone."""
    chosen = extents[0].selection.rows is not None
    made = np.zeros((len(extents), COLUMNS), np.int64)
    kept: list[object] = []
    positions = np.zeros(sum(_count(one) for one in extents) if chosen else total, np.int32)
    rows = np.zeros(positions.shape if chosen else 0, np.int64)
    at = 0
    for place, one in enumerate(extents):
        count, own = _count(one), one.rows
        start = at if chosen else own.start
        numbers = one.selection.rows if chosen else None
        positions[start : start + count] = np.arange(count) if numbers is None else numbers
        if chosen:
            rows[start : start + count] = positions[start : start + count] + own.start
        keys = own if one.keys is None else one.keys
        made[place, :4] = start, count, keys.start, keys.stop - keys.start
        for column, given in ((5, one.mask), (8, one.bias)):
            if given is not None:
                wide = int(made[place, 3])
                where = address_of(
                    given, heads=heads, queries=one.length, keys=wide, kept=kept, device=device
                )
                made[place, column : column + 3] = where.pointer, where.head_stride, where.row_stride
                kept.append(given)
        at += count
    return SequenceTable(
        to_device([made], device, torch.int64),
        to_device([positions], device, torch.int32),
        made[:, 0].tolist(),
        made[:, 1].tolist(),
        made[:, 3].tolist(),
        to_device([rows], device, torch.int64) if chosen else None,
        bool(made[:, 5].any()),
        bool(made[:, 8].any()),
        kept,
    )


def with_results(table: SequenceTable, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return the table with places of parts of a ragged result, of so many numbers each, and the places."""
    ends = np.cumsum([0, *sizes])
    rows = table.rows.clone()
    rows[:, 4] = to_device([ends[:-1]], rows.device, torch.int64)
    return rows, ends.tolist()


def _count(one: Extent) -> int:
    return one.length if one.selection.rows is None else len(one.selection.rows)
