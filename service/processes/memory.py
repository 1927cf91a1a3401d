"""Memory that two processes share: one gives out stretches of it, both write into them and read from them.

It is a memory file (memfd_create(2)), which goes with the last process that has it open.
"""

import mmap
import os
import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
LEAST_BYTES = 1 << 20
KEPT_BYTES = 64 << 20  # from the beginning, that stay with the process; what is free beyond goes back
PIECE_BYTES = 8 << 20  # that are given back to the system at a time


class Place(NamedTuple):
    """Where an array is in a region, and what it is."""

    at: int
    dtype: str
    shape: tuple[int, ...]


def room_for(sizes: Iterable[int]) -> int:
    """Return the bytes of a region that arrays of so many bytes each fit into."""
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)


class Region:
    """A stretch of shared memory that arrays are put into, one after another; its memory lives as they do."""

    __slots__ = ("_bytes", "at", "size", "top")

    def __init__(self, held: NDArray[np.uint8], at: int, top: int = 0) -> None:
        self._bytes = held
        self.at = at
        self.size = held.nbytes
        self.top = top  # where the next array goes

    def put(self, array: NDArray[Any]) -> Place:
        """Copy an array in; return where it is. Raises ValueError where there is no room."""
        at, end = self.top, self.top + array.nbytes
        if end > self.size:
            raise ValueError(f"an array of {array.nbytes} bytes does not fit into {self.size - at}")
        place = Place(at, array.dtype.str, array.shape)
        self.look(place)[...] = array
        self.top = end + -end % ALIGNMENT
        return place

    def look(self, place: Place) -> NDArray[Any]:
        """Return the array at a place, as a view."""
        return np.ndarray(place.shape, place.dtype, self._bytes, place.at)


class Memory:
    """One process's view of it; `fd` is the memory file, which grows as it is needed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._map: mmap.mmap | None = None

    def region(self, at: int, size: int, top: int = 0) -> Region:
        """Return a stretch that its owner has given out, and filled up to `top`."""
        if self._map is None or at + size > self._size:
            self._size = os.fstat(self._fd).st_size
            self._map = mmap.mmap(self._fd, self._size)
        return Region(np.frombuffer(self._map, dtype=np.uint8, count=size, offset=at), at, top)


class OwnMemory(Memory):
    """The owner's: gives out the first stretches that are free; they are again when nothing looks at them."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._lock = threading.Lock()
        self._dead: deque[tuple[int, int]] = deque()  # by finalizers, on whichever thread
        self._free: list[tuple[int, int]] = []  # begin and end, in order, never side by side
        self._top = 0  # nothing is given out beyond
        self._high = 0  # and was not since the last `trim`

    def take(self, size: int) -> Region:
        """Give out a stretch; raises OSError, MemoryError where the system has none."""
        size = max(ALIGNMENT, size + -size % ALIGNMENT)
        with self._lock:
            self._bury()
            place = next((at for at, (begin, end) in enumerate(self._free) if end - begin >= size), None)
            if place is None:
                begin = self._top
                if begin + size > self._size:
                    os.ftruncate(self._fd, max(begin + size, 2 * self._size, LEAST_BYTES))
                self._top = begin + size
                self._high = max(self._high, self._top)
            else:
                begin, end = self._free.pop(place)
                if end - begin > size:
                    self._free.insert(place, (begin + size, end))
            region = self.region(begin, size)
        weakref.finalize(region._bytes, self._dead.append, (begin, begin + size)).atexit = False  # noqa: SLF001
        return region

    @property
    def used(self) -> int:
        """How many bytes are given out."""
        with self._lock:
            self._bury()
            return self._top - sum(end - begin for begin, end in self._free)

    def trim(self) -> None:
        """Give what is free beyond 64 MiB back to the system; takes a while, in pieces."""
        for piece in range(KEPT_BYTES, self._high, PIECE_BYTES):
            with self._lock:
                self._bury()
                for begin, end in (*self._free, (self._top, self._high)):
                    self._give_back(max(begin, piece), min(end, piece + PIECE_BYTES))
        with self._lock:
            if self._top <= KEPT_BYTES:
                self._high = 0

    def _give_back(self, begin: int, end: int) -> None:
        """Give the whole pages between two places back."""
        begin += -begin % mmap.PAGESIZE
        end -= end % mmap.PAGESIZE
        if begin < end and self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, begin, end - begin)

    def _bury(self) -> None:
        """Take back what nothing looks at any more."""
        while self._dead:
            begin, end = self._dead.popleft()
            at = bisect_left(self._free, (begin, end))
            if at < len(self._free) and self._free[at][0] == end:
                end = self._free.pop(at)[1]
            if at and self._free[at - 1][1] == begin:
                at -= 1
                begin = self._free.pop(at)[0]
            if end == self._top:
                self._top = begin
            else:
                self._free.insert(at, (begin, end))
