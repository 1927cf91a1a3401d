"""What a batch gives back on a GPU: one block of the device's memory, brought over in one copy.

What is the same for all sequences is one launch a batch: rows of z are put in their places together, and what
makes an output of a whole group may write it there (`Gathering.place`). Whether numbers are finite is told by
the least and the greatest of them, which are in the block too and are looked at by the processor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.device.regions import OutputPlace, OutputRegion, Shape, copies_of
from models.device.staging import ALIGNMENT, NUMPY, begin_copy, to_device


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

    `layers`: which of those asked for the layer is, of each output that may be put so.
    """

    gathering: "Gathering"
    number: int
    dtype: torch.dtype
    layers: Mapping[str, int]


class Gathering:
    """The outputs of a batch; sequences are known by their numbers in it, in the order of their rows."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._regions: dict[tuple[str, torch.dtype], OutputRegion] = {}
        self._of: dict[tuple[int, str], OutputRegion] = {}
        self._block: Tensor | None = None
        self._checks: list[_Check] = []
        self._loose: list[tuple[Tensor, Sequence[int], Sequence[int]]] = []
        self._copies: list[
            tuple[int, int, NDArray[np.uint8]]
        ] = []  # first and last byte, and where they went

    # ---- laying out, before anything is put

    def add(self, number: int, name: str, dtype: torch.dtype, piece: tuple[Shape, int], checks: int) -> None:
        """Make room for one output of one sequence, after those of the same name and dtype.

        `piece`: its shape, and how many layers it has in front; `checks`: how often it, or rows of it, are.
        """
        assert self._block is None, "the block is laid out"
        region = self._regions.setdefault((name, dtype), OutputRegion(dtype))
        region.add(number, *piece, checks)
        self._of[number, name] = region

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

    def place(self, name: str, numbers: Sequence[int], layers: Sequence[int]) -> OutputPlace | None:
        """Return where an output of sequences goes, of sequence i the `layers[i]`-th of those it asks for.

        None where they want it in different dtypes.
        """
        regions = {id(region): region for region in (self._of[number, name] for number in numbers)}
        if len(regions) > 1:
            return None
        (region,) = regions.values()
        self._allocated()
        pieces = [region.pieces[number] for number in numbers]
        shapes = [piece.shape[piece.layers > 1 :] if piece.layers > 1 else piece.shape for piece in pieces]
        of_each = zip(pieces, shapes, layers, strict=True)
        starts = [piece.start + layer * math.prod(own) for piece, own, layer in of_each]
        return OutputPlace(self._numbers(region), np.array(starts, np.int64), shapes)

    def put_rows(
        self, name: str, x_ND: Tensor, sources: Sequence[tuple[int, int, Sequence[int] | None, int]]
    ) -> None:
        """Put rows of x where they belong, of all sequences that want them in the same dtype at once.

        `sources`: a sequence's number, where its rows begin in x, which of them (None: all), and which of
        the layers asked for they are.
        """
        of_region: dict[int, list[tuple[int, int, Sequence[int] | None, int]]] = {}
        for source in sources:
            of_region.setdefault(id(self._of[source[0], name]), []).append(source)
        for some in of_region.values():
            self._put_rows(self._of[some[0][0], name], x_ND, some)

    def _put_rows(
        self,
        region: OutputRegion,
        x_ND: Tensor,
        sources: Sequence[tuple[int, int, Sequence[int] | None, int]],
    ) -> None:
        self._allocated()
        width = x_ND.shape[1]
        read, written, counts = [], [], []
        for number, start, rows, layer in sources:
            piece = region.pieces[number]
            chosen = np.arange(piece.rows) if rows is None else np.array(rows, np.int64)
            first = piece.start // width + layer * piece.rows
            read.append(chosen + start)
            written.append(np.arange(first, first + piece.rows))
            counts.append(piece.rows)
        place_RD = self._numbers(region).view(-1, width)
        rows_RD = self._cut(x_ND, np.concatenate(read))
        there = _run(at := np.concatenate(written))
        if there is not None:
            put_RD = place_RD[there].copy_(rows_RD)
        else:
            put_RD = rows_RD.to(region.dtype)
            place_RD.index_copy_(0, to_device([at], self._device, torch.int64), put_RD)
        self._check(region, put_RD, [source[0] for source in sources], counts)

    def _cut(self, x_ND: Tensor, rows: NDArray[np.int64]) -> Tensor:
        run = _run(rows)
        return (
            x_ND.index_select(0, to_device([rows], self._device, torch.int64)) if run is None else x_ND[run]
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


def _run(rows: NDArray[np.int64]) -> slice | None:
    """Return consecutive numbers as a slice, None where they are not."""
    first, count = (int(rows[0]), len(rows)) if len(rows) else (0, 0)
    consecutive = count == 0 or (int(rows[-1]) == first + count - 1 and bool((np.diff(rows) == 1).all()))
    return slice(first, first + count) if consecutive else None


def _floats(raw: NDArray[np.generic], dtype: torch.dtype) -> NDArray[np.generic]:
    """Return numbers as floats that numpy knows."""
    return (raw.astype(np.uint32) << 16).view(np.float32) if dtype == torch.bfloat16 else raw


def _of_whom(bad: NDArray[np.bool_], numbers: Sequence[int], counts: Sequence[int]) -> set[int]:
    """Return whose some of the flags are: `counts[i]` of them are of sequence `numbers[i]`."""
    if not bad.any():
        return set()
    owners = np.repeat(np.array(numbers), np.array(counts))
    return {int(number) for number in owners[bad]}
