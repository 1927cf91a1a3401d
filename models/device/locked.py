"""Page-locked memory of the processor, which a GPU's copy engines reach by themselves.

Torch keeps such memory in powers of two, and for ever. Here a block is as large as was asked for, to a page;
one that is free serves again what is about as large, and goes back in quiet times; and no more is locked than
`MOST_BYTES`: what goes beyond is in ordinary memory, to which copies take longer.

Torch is imported where memory is locked: whoever only gives memory back, as each HTTP process does, has none.
"""

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 1 << 30  # that are locked at a time, in use or free
KEPT_BYTES = 1 << 28  # of free blocks, for the next batch
SPARE = 1.25  # how much larger than what is asked for a free block may be that serves it
LOCK_EVERYWHERE = 1  # cudaHostRegisterPortable


@dataclass(slots=True, eq=False)
class _Block:
    """Memory of the process's own; locking it takes a fraction of a millisecond a MiB."""

    memory: mmap.mmap
    address: int
    nbytes: int


def _register(address: int, nbytes: int) -> bool:
    """Lock memory; whether CUDA let it."""
    import torch

    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    if int(cudart.cudaHostRegister(address, nbytes, LOCK_EVERYWHERE)) == 0:
        return True
    with suppress(RuntimeError):  # else the next launch of whoever it is would be told of this
        torch.zeros(1, device="cuda")
    return False


def _unregister(address: int) -> None:
    import torch

    cudart: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    cudart.cudaHostUnregister(address)


class LockedMemory:
    """Lends blocks as arrays: one goes back when nobody holds its array, or a view of it, any more."""

    def __init__(
        self,
        register: Callable[[int, int], bool] = _register,
        unregister: Callable[[int], None] = _unregister,
        *,
        most: int = MOST_BYTES,
        kept: int = KEPT_BYTES,
    ) -> None:
        self._register, self._unregister = register, unregister
        self._most, self._kept = most, kept
        self._lock = threading.Lock()
        self._free: list[_Block] = []  # the one that was used last is the last
        self._returned: deque[_Block] = deque()  # by whoever let go of an array, on whatever thread
        self._sent: deque[tuple[Any, NDArray[np.uint8]]] = deque()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """How many bytes are locked, in use or free."""
        return self._bytes

    def take(self, nbytes: int) -> NDArray[np.uint8] | None:
        """Return so many bytes, uint8; None where that would be more than may be locked."""
        if not nbytes:
            return np.empty(0, np.uint8)
        with self._lock:
            self._settle()
            block = self._fitting(nbytes) or self._new(nbytes)
        if block is None:
            return None
        array = np.frombuffer(block.memory, np.uint8, count=nbytes)
        weakref.finalize(array, self._returned.append, block).atexit = False
        return array

    def hold_until(self, event: Any, array: NDArray[np.uint8]) -> None:
        """Hold on to an array that the device reads or writes, until an event that was recorded after it."""
        with self._lock:
            self._sent.append((event, array))

    def give_back(self) -> None:
        """Unlock all that is free."""
        with self._lock:
            self._settle()
            for block in self._free:
                self._drop(block)
            self._free.clear()

    def _settle(self) -> None:
        """Take back what was let go of; of what is free keep so much."""
        while self._sent and self._sent[0][0].query():
            self._sent.popleft()
        while self._returned:
            self._free.append(self._returned.popleft())
        while self._free and sum(one.nbytes for one in self._free) > self._kept:
            self._drop(self._free.pop(0))

    def _fitting(self, nbytes: int) -> _Block | None:
        most = nbytes * SPARE + mmap.PAGESIZE
        for place in reversed(range(len(self._free))):
            if nbytes <= self._free[place].nbytes <= most:
                return self._free.pop(place)
        return None

    def _new(self, nbytes: int) -> _Block | None:
        nbytes += -nbytes % mmap.PAGESIZE
        while self._free and self._bytes + nbytes > self._most:
            self._drop(self._free.pop(0))
        if self._bytes + nbytes > self._most:
            return None
        memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = np.frombuffer(memory, np.uint8).ctypes.data
        if not self._register(address, nbytes):
            return None
        self._bytes += nbytes
        return _Block(memory, address, nbytes)

    def _drop(self, block: _Block) -> None:
        self._unregister(block.address)
        self._bytes -= block.nbytes


@cache
def locked_memory() -> LockedMemory:
    """Return that of this process."""
    return LockedMemory()
