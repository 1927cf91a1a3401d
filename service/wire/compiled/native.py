"""Numbers in JSON by compiled code, which leaves the interpreter's lock to others while it reads or writes.

`native_read.c` lifts lists of numbers out of a body, `native_write.c` writes arrays: the extension
`service.wire.compiled._native`, which knows nothing of Python. Where it could not be built, and for a body
that is not plainly what it reads, simdjson and orjson do the work: the same numbers, the same text, and
mostly two to three times as slowly.
"""

import ctypes
import importlib.util
import logging
import math
import secrets
import threading
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.wire.dtypes import Buffer
from service.wire.json_tensor import Kind

__all__ = ["Lifted", "Native", "native"]

log = logging.getLogger(__name__)

INTERFACE = 2  # of the functions, as in native_write.c: what was built before them is not called
FEWEST_LIFTED = 64  # numbers of a list; as in native_read.c
FIELDS = 7  # of what is said of one list: its place, what it holds, its rank, four lengths
NUMBERS, NUMBERS_AND_NULLS, FLAGS = range(3)  # ... that may be
LARGEST_NUMBER_BYTES = 17  # -0.0000119631895 and a comma
HIGHEST_RANK = 16
LARGEST_KEPT_BODY = 4 << 20

# What a body is read into is kept, as page faults would take half as long as the reading; what was read is
# copied from there.
_spare = threading.local()


class Lifted:
    """A body without its lists of numbers: in their places `text` has strings, which `take` knows."""

    __slots__ = ("_lists", "_mark", "_numbers", "_taken", "text")

    def __init__(
        self, text: bytes, *, mark: str, numbers: NDArray[np.float32], lists: NDArray[np.int64]
    ) -> None:
        self.text = text
        self._mark = mark
        self._numbers = numbers
        self._lists = lists
        self._taken: set[int] = set()

    def take(self, value: str, kind: Kind) -> NDArray[Any] | None:
        """Return the array that stood where this string stands; None for another string or kind.

        float: float32. mask: bool where it has true and false, else float32 with −inf where null stood.
        """
        number = value.removeprefix(self._mark)
        if number == value or not number.isdecimal() or int(number) >= len(self._lists):
            return None
        place, held, rank, *lengths = self._lists[int(number)].tolist()
        if kind == "integer" or (kind == "float" and held != NUMBERS):
            return None
        self._taken.add(int(number))
        shape = tuple(lengths[:rank])
        array = self._numbers[place : place + math.prod(shape)].reshape(shape)
        return array != 0 if held == FLAGS else array

    @property
    def left(self) -> int:
        """How many lists have not been taken."""
        return len(self._lists) - len(self._taken)


class Native:
    """The C functions of one shared library; `plain`: those parts of them that run on any processor."""

    def __init__(self, library: ctypes.CDLL, *, plain: bool = False) -> None:
        pointer, size = ctypes.c_void_p, ctypes.c_int64
        self._lift = library.heed_lift
        self._lift.restype = size
        self._lift.argtypes = [
            *(pointer, size, ctypes.c_char_p, ctypes.c_char_p),
            *(pointer, pointer, pointer, pointer, size, size),
        ]
        self._write = library.heed_write
        self._write.restype = size
        self._write.argtypes = [pointer, pointer, size, pointer, size]
        self._plain = plain
        self._mark = f"heed:{secrets.token_hex(8)}:"  # that nobody can have written

    def lift(self, body: Buffer, names: Iterable[str]) -> Lifted | None:
        """Return a body without the lists of numbers that are values of these names; None: read all of it.

        Lists of true and false are such lists too, and null may stand among numbers, as in masks. What is
        lifted is checked, the rest is not: it has to be parsed. Lists of fewer than 64 numbers stay.
        """
        source = np.frombuffer(body, np.uint8)
        most_found = source.size // (2 * FEWEST_LIFTED) + 1
        found = np.empty((most_found, FIELDS), np.int64)
        rest_length = ctypes.c_int64()
        rest, numbers = _space(source.size)
        count = self._lift(
            source.ctypes.data,
            source.size,
            _terminated(tuple(names)),
            self._mark.encode(),
            rest.ctypes.data,
            ctypes.addressof(rest_length),
            numbers.ctypes.data,
            found.ctypes.data,
            most_found,
            self._plain,
        )
        kept = source.size <= LARGEST_KEPT_BODY
        if kept:
            _spare.space = rest, numbers
        if count <= 0:
            return None
        place, _, rank, *lengths = found[count - 1].tolist()
        used = place + math.prod(lengths[:rank])
        return Lifted(
            rest[: rest_length.value].tobytes(),
            mark=self._mark,
            numbers=numbers[:used].copy() if kept else numbers[:used],
            lists=found[:count].copy(),
        )

    def writes(self, array: NDArray[np.generic]) -> bool:
        """Whether `write` takes this array, and is worth calling."""
        return (
            array.dtype == np.float32
            and array.size >= FEWEST_LIFTED
            and array.ndim <= HIGHEST_RANK
            and array.flags.c_contiguous
        )

    def write(self, array: NDArray[np.generic], out: NDArray[np.uint8]) -> int:
        """Write an array as JSON to the beginning of `out`, which has `room` for it; returns the length."""
        shape = np.array(array.shape, np.int64)
        written: int = self._write(
            out.ctypes.data, array.ctypes.data, array.ndim, shape.ctypes.data, self._plain
        )
        return written

    @staticmethod
    def room(array: NDArray[np.generic]) -> int:
        """Return how many bytes `write` may touch."""
        lists: int = array.size // array.shape[-1]
        return LARGEST_NUMBER_BYTES * array.size + 2 * array.ndim * lists + 64


@lru_cache(maxsize=1)
def native() -> Native | None:
    """Return the compiled functions, None where they were not built."""
    found = importlib.util.find_spec("service.wire.compiled._native")
    try:
        if found is not None and found.origin is not None:
            library = ctypes.CDLL(found.origin)
            if library.heed_interface() == INTERFACE:
                return Native(library)
    except (OSError, AttributeError):  # built for another machine, or no library of ours
        pass
    log.warning("JSON goes without compiled code, more slowly; install Heed where there is a C compiler")
    return None


@lru_cache(maxsize=16)
def _terminated(names: tuple[str, ...]) -> bytes:
    return b"".join(name.encode() + b"\0" for name in names) + b"\0"


def _space(body_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return room for the rest of a body and for its numbers, of which every second byte may be one."""
    kept: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = _spare.__dict__.pop("space", None)
    if kept is not None and kept[0].size >= body_bytes:
        return kept
    return np.empty(body_bytes, np.uint8), np.empty(body_bytes // 2 + 1, np.float32)
