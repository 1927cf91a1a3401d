"""What a batch gives back on a GPU: one block of the device's memory, brought over in one copy.

What is the same for all sequences is one launch a batch: rows of z are put in their places together, and what
makes an output of a whole group may write it there (`Gathering.place`). Whether numbers are finite is told by
the least and the greatest of them, which are in the block too and are looked at by the processor.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.regions import OutputPlace, OutputRegion, Shape, copies_of
from models.device.staging import ALIGNMENT, NUMPY, begin_copy, to_device
from models.outputs import Selection

Made = TypeVar("Made")
Source = tuple[int, int, Sequence[int] | None, int]


@dataclass(frozen=True, slots=True)
class _Check:
    """Numbers from `start` on in the flags of a region, `counts[i]` of them of sequence `numbers[i]`."""

    region: OutputRegion
    start: int
    numbers: Sequence[int]
    counts: Sequence[int]


@dataclass(frozen=True, slots=True, eq=False)
class OutputHome:
    """Where outputs of a sequence in one layer go with those of others, for who makes them of many at once.

    `indices`: where along the first axis of each output that may be put so: which of the layers asked for it
    is, or the first of its pairs.
    """

    gathering: "Gathering"
    number: int
    dtype: torch.dtype
    indices: Mapping[str, int]


class Gathering:
    """The outputs of a batch; sequences are known by their numbers in it, in the order of their rows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._regions: dict[tuple[str, torch.dtype], OutputRegion] = {}
        self._of: dict[tuple[int, str], OutputRegion] = {}
        self._wanted: dict[int, Any] = {}  # by the selection
        self._block: Tensor | None = None
        self._checks: list[_Check] = []
        self._loose: list[tuple[Tensor, Sequence[int], Sequence[int]]] = []
        self._copies: list[
            tuple[int, int, NDArray[np.uint8]]
        ] = []  # first and last byte, and where they went

    # ---- laying out, before anything is put

    def region(self, name: str, dtype: torch.dtype) -> OutputRegion:
        """Return where outputs of a name and a dtype lie."""
        return self._regions.setdefault((name, dtype), OutputRegion(dtype))

    def add(
        self, number: int, name: str, region: OutputRegion, piece: tuple[Shape, int], checks: int
    ) -> None:
        """Make room for one output of one sequence, after those of the same name and dtype.

        `piece`: its shape, and how many layers it has in front; `checks`: how often it, or rows of it, are.
        """
        assert self._block is None, "the block is laid out"
        region.add(number, *piece, checks)
        self._of[number, name] = region

    def once(self, selection: Selection, make: Callable[[], Made]) -> Made:
        """Return what is made once for all sequences that ask for the same; `selection` is held by one."""
        known = self._wanted.get(id(selection))
        if known is None:
            known = self._wanted[id(selection)] = make()
        return known

    def __contains__(self, of: tuple[int, str]) -> bool:
        return of in self._of

    def _allocated(self) -> Tensor:
        if self._block is None:
            end = 0
            for region in self._regions.values():
                region.start = end
                end += region.nbytes + -region.nbytes % ALIGNMENT
            self._block = torch.empty(end, dtype=torch.uint8, device=self._device)
        return self._block

    def _numbers(self, region: OutputRegion) -> Tensor:
        stop = region.start + region.numel * region.dtype.itemsize
        return self._allocated()[region.start : stop].view(region.dtype)

    def _flags(self, region: OutputRegion) -> Tensor:
        start = region.start + region.numel * region.dtype.itemsize
        return self._allocated()[start : region.start + region.nbytes].view(region.dtype).view(2, -1)

    # ---- putting

    def view(self, number: int, name: str) -> Tensor:
        """Return the memory of one output of one sequence, all of its layers."""
        region = self._of[number, name]
        self._allocated()
        piece = region.pieces[number]
        return self._numbers(region)[piece.start : piece.start + piece.numel].view(piece.shape)

    def place(self, name: str, numbers: Sequence[int], indices: Sequence[int]) -> OutputPlace | None:
        """Return where an output of sequences goes, of sequence i from `indices[i]` on along its first axis.

        None where they want it in different dtypes.
        """
        regions = {id(region): region for region in (self._of[number, name] for number in numbers)}
        if len(regions) > 1:
            return None
        (region,) = regions.values()
        self._allocated()
        pieces = [region.pieces[number] for number in numbers]
        of_each = zip(pieces, indices, strict=True)
        starts = [piece.start + index * math.prod(piece.shape[1:]) for piece, index in of_each]
        return OutputPlace(self._numbers(region), np.array(starts, np.int64))

    def put_rows(self, name: str, x_ND: Tensor, sources: Sequence[Source]) -> None:
        """Put rows of x where they belong, of all sequences that want them in the same dtype at once.

        `sources`: a sequence's number, where its rows begin in x, which of them (None: all), and which of
        the layers asked for they are.
        """
        of_region: dict[int, list[Source]] = {}
        for source in sources:
            of_region.setdefault(id(self._of[source[0], name]), []).append(source)
        for some in of_region.values():
            self._put_rows(self._of[some[0][0], name], x_ND, some)

    def _put_rows(
        self,
        region: OutputRegion,
        x_ND: Tensor,
        sources: Sequence[Source],
    ) -> None:
        self._allocated()
        width = x_ND.shape[1]
        pieces = [region.pieces[source[0]] for source in sources]
        counts = [piece.rows for piece in pieces]
        written = [
            (first := piece.start // width + source[3] * piece.rows, first + piece.rows)
            for piece, source in zip(pieces, sources, strict=True)
        ]
        place_RD = self._numbers(region).view(-1, width)
        rows_RD = self._cut(x_ND, sources, counts)
        there = _run(written)
        if isinstance(there, slice):
            put_RD = place_RD[there].copy_(rows_RD)
        else:
            put_RD = rows_RD.to(region.dtype)
            place_RD.index_copy_(0, to_device([there], self._device, torch.int64), put_RD)
        self._check(region, put_RD, [source[0] for source in sources], counts)

    def _cut(self, x_ND: Tensor, sources: Sequence[Source], counts: Sequence[int]) -> Tensor:
        """Return the rows that are put, one after another: a view where they are so in x."""
        if all(rows is None for _, _, rows, _ in sources):
            run = _run(
                [(start, start + count) for (_, start, _, _), count in zip(sources, counts, strict=True)]
            )
        else:
            of_each = zip(sources, counts, strict=True)
            at = [
                np.arange(count) + start if rows is None else np.array(rows, np.int64) + start
                for (_, start, rows, _), count in of_each
            ]
            run = _consecutive(np.concatenate(at))
        return (
            x_ND[run]
            if isinstance(run, slice)
            else x_ND.index_select(0, to_device([run], self._device, torch.int64))
        )

    # ---- whether all is finite

    def _check(
        self, region: OutputRegion, put_RD: Tensor, numbers: Sequence[int], counts: Sequence[int]
    ) -> None:
        """Note the least and the greatest of each row: NaN is both."""
        rows = put_RD.shape[0]
        if not put_RD.numel():
            return
        start, region.flagged = region.flagged, region.flagged + rows
        least, greatest = self._flags(region)[:, start : region.flagged]
        torch.aminmax(put_RD, dim=1, out=(least, greatest))
        self._checks.append(_Check(region, start, numbers, counts))

    def check(self, name: str, number: int, put: Tensor) -> None:
        """Note that what was put of one sequence must be finite."""
        self._check(self._of[number, name], put.reshape(1, -1), [number], [1])

    def check_below(self, greatest: Tensor, numbers: Sequence[int], counts: Sequence[int]) -> None:
        """Note that all of `greatest`, float32, must be below infinity: `counts[i]` of them of sequence i."""
        self._loose.append((greatest.reshape(-1), numbers, counts))

    # ---- to the processor

    def fetch(self) -> tuple[Mapping[tuple[int, str], NDArray[np.generic]], NDArray[np.generic] | None]:
        """Begin to copy everything; the arrays hold it once the stream is done.

        Small outputs are one copy, into memory that they share. A large one has memory of its own, so that a
        caller who is slow to read his holds on to nobody else's. And what must be below infinity.
        """
        loose = None
        if self._loose:
            loose = begin_copy(torch.cat([one.float() for one, _, _ in self._loose]).view(torch.uint8))
        found: dict[tuple[int, str], NDArray[np.generic]] = {}
        block = self._allocated()
        for start, stop in copies_of(self._regions.values(), block.numel()):
            if stop > start:
                self._copies.append((start, stop, begin_copy(block[start:stop])))
        for (number, name), region in self._of.items():
            piece = region.pieces[number]
            first = region.start + piece.start * region.dtype.itemsize
            raw = self._host(first, first + piece.numel * region.dtype.itemsize)
            found[number, name] = raw.view(NUMPY[region.dtype]).reshape(piece.shape)
        return found, None if loose is None else loose.view(np.float32)

    def _host(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes of the block where they were copied to."""
        for first, last, host in self._copies:
            if first <= start and stop <= last:
                return host[start - first : stop - first]
        raise AssertionError("every piece is in one copy")

    def unsound(self, loose: NDArray[np.generic] | None) -> set[int]:
        """Return the numbers of sequences of which something is not sound, once the stream is done."""
        bad: set[int] = set()
        for check in self._checks:
            region = check.region
            start = region.start + region.numel * region.dtype.itemsize
            raw = self._host(start, region.start + region.nbytes).view(NUMPY[region.dtype]).reshape(2, -1)
            part = _floats(raw[:, check.start : check.start + sum(check.counts)], region.dtype)
            bad |= _of_whom(~np.isfinite(part).all(0), check.numbers, check.counts)
        first = 0
        for tensor, numbers, counts in self._loose:
            assert loose is not None
            part = loose[first : first + tensor.numel()]
            bad |= _of_whom(~(np.asarray(part, np.float32) < np.inf), numbers, counts)
            first += tensor.numel()
        return bad


def _run(ranges: Sequence[tuple[int, int]]) -> slice | NDArray[np.int64]:
    """Return ranges as one slice, where each begins as the one before it ends; else all numbers in them."""
    if all(one[1] == other[0] for one, other in pairwise(ranges)):
        return slice(ranges[0][0], ranges[-1][1])
    return np.concatenate([np.arange(*one) for one in ranges])


def _consecutive(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return consecutive numbers as a slice, others as they are."""
    if not len(rows) or bool((np.diff(rows) == 1).all()):
        return slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
    return rows


def _floats(raw: NDArray[np.generic], dtype: torch.dtype) -> NDArray[np.generic]:
    """Return numbers as floats that numpy knows."""
    return (raw.astype(np.uint32) << 16).view(np.float32) if dtype == torch.bfloat16 else raw


def _of_whom(bad: NDArray[np.bool_], numbers: Sequence[int], counts: Sequence[int]) -> set[int]:
    """Return whose some of the flags are: `counts[i]` of them are of sequence `numbers[i]`."""
    if not bad.any():
        return set()
    owners = np.repeat(np.array(numbers), np.array(counts))
    return {int(number) for number in owners[bad]}
