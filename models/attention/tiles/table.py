"""Where sequences stand, their masks and biases, as kernels in tiles read it: one table a launch."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.rules import DistanceTable, address_of
from models.device.staging import ALIGNMENT, settle, to_device

COLUMNS = 10  # what they are, `scores.py` says


# Gives what a batch has under a key, made where it is not there yet: `BatchLayouts.once`.
Once = Callable[[Hashable, Callable[[], "SequenceTable"]], "SequenceTable"]


@dataclass(frozen=True, slots=True, eq=False)
class SequenceTable:
    """Sequences of one launch: `rows` int64 [B, 10] on the device, and the position of every row of q.

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


def table_of(
    extents: Sequence[Extent],
    *,
    heads: int,
    total: int,
    device: torch.device,
    chosen: bool = False,
    once: Once | None = None,
) -> SequenceTable:
    """Lay out sequences that read all of their rows, of `total` packed ones; `chosen`: chosen rows alone.

    `once`: of the batch, for one table in all layers in which the same sequences stand alike. Masks and
    biases are known by the memory they are in, which a table holds on to; so what is made for one layer alone
    is not to be kept so.
    """

    def make() -> SequenceTable:
        return _laid_out(extents, heads=heads, total=total, device=device, chosen=chosen)

    return make() if once is None else once(_key(extents, total, chosen=chosen), make)


def _key(extents: Sequence[Extent], total: int, *, chosen: bool) -> Hashable:
    """Return what makes a table: the same for all layers of a batch in which sequences stand alike."""
    own = [
        (
            one.rows.start,
            one.rows.stop,
            None if one.keys is None else (one.keys.start, one.keys.stop),
            one.selection.rows if chosen else None,
            _memory(one.mask),
            _memory(one.bias),
        )
        for one in extents
    ]
    return "sequences in tiles", chosen, total, tuple(own)


def _memory(given: Tensor | DistanceTable | None) -> Hashable:
    """Return which memory a mask or a bias is, as long as somebody holds it."""
    if given is None or isinstance(given, DistanceTable):
        return given  # equal to itself alone
    return given.data_ptr(), given.dtype, tuple(given.shape), given.stride()


def _laid_out(
    extents: Sequence[Extent], *, heads: int, total: int, device: torch.device, chosen: bool
) -> SequenceTable:
    made = np.zeros((len(extents), COLUMNS), np.int64)
    kept: list[object] = []
    positions = np.zeros(sum(_count(one, chosen=chosen) for one in extents) if chosen else total, np.int32)
    rows = np.zeros(positions.shape if chosen else 0, np.int64)
    at = 0
    for place, one in enumerate(extents):
        count, own = _count(one, chosen=chosen), one.rows
        start = at if chosen else own.start
        numbers = one.selection.rows if chosen else None
        positions[start : start + count] = np.arange(count) if numbers is None else numbers
        if chosen:
            rows[start : start + count] = positions[start : start + count] + own.start
        keys = own if one.keys is None else one.keys
        made[place, :4] = start, count, keys.start, keys.stop - keys.start
        for column, given in ((4, one.mask), (7, one.bias)):
            if given is not None:
                wide = int(made[place, 3])
                where = address_of(
                    given, heads=heads, queries=one.length, keys=wide, kept=kept, device=device
                )
                made[place, column : column + 3] = where.pointer, where.head_stride, where.row_stride
                kept.append(given)
        at += count
    rows_BC, rows_N, positions_N = sent([made, rows, positions], device)
    return SequenceTable(
        rows_BC,
        positions_N,
        made[:, 0].tolist(),
        made[:, 1].tolist(),
        made[:, 3].tolist(),
        rows_N if chosen else None,
        bool(made[:, 4].any()),
        bool(made[:, 7].any()),
        kept,
    )


def _count(one: Extent, *, chosen: bool) -> int:
    rows = one.selection.rows if chosen else None
    return one.length if rows is None else len(rows)


def sent(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Return arrays on the device, brought there in one copy.

    Each begins where memory is aligned, for which kernels are compiled: else they were once more.
    """
    starts = [0]
    for one in arrays:
        starts.append(starts[-1] + one.nbytes + -one.nbytes % ALIGNMENT)
    raw = np.zeros(starts[-1], np.uint8)
    for start, one in zip(starts, arrays, strict=False):
        raw[start : start + one.nbytes] = one.reshape(-1).view(np.uint8)
    whole, made = to_device([raw], device, torch.uint8), []
    for start, one in zip(starts, arrays, strict=False):
        part = whole[start : start + one.nbytes].view(torch.from_numpy(one).dtype)
        made.append(part.view(one.shape))
    return made


def marks_of(extents: Sequence[Extent], total: int, device: torch.device) -> Tensor:
    """Return what each of `total` keys counts for in a share, int8: 1 it is of, 2 it is over, 3 both."""
    marks = np.zeros(total, np.int8)
    for one in extents:
        share, keys = one.selection.share, one.rows if one.keys is None else one.keys
        assert share is not None
        for mark, spans in ((1, share.of), (2, share.over)):
            for start, stop in spans:
                marks[keys.start + start : min(keys.start + stop, keys.stop)] |= mark
    return to_device([marks], device, torch.int8)


def numbers_of(heads: Sequence[int] | None, q_NHD: Tensor) -> Tensor:
    """Return the numbers of heads on the device, of all of q's where they are None."""
    if heads is None:
        return _every(q_NHD.shape[1], q_NHD.device)
    # For each launch anew: what is let go of while another stream reads it would be somebody else's.
    return to_device([np.array(heads, np.int32)], q_NHD.device, torch.int32)


@cache  # for good: where a launch is played back, its memory must be what it was
def _every(heads: int, device: torch.device) -> Tensor:
    made = torch.arange(heads, dtype=torch.int32, device=device)
    settle(device)  # other streams read it
    return made
