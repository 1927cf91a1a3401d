"""Numbers in JSON by compiled code, which leaves the interpreter's lock to others while it reads or writes.

`native_read.c` lifts lists of numbers out of a body, `native_write.c` writes arrays: the extension
`service.wire.compiled._native`, which knows nothing of Python. Where it could not be built, and for a body
that is not plainly what it reads, simdjson and orjson do the work: the same numbers, the same text, and
mostly two to three times as slowly.
"""

import ctypes
import logging
import math
import secrets
import threading
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.c_library import load
from service.wire.compiled import structures
from service.wire.compiled.structures import NUMBERS, LiftCall, LiftedList, Shape, WriteCall
from service.wire.dtypes import Buffer
from service.wire.json_tensor import Kind

log = logging.getLogger(__name__)

FEWEST_LIFTED = NUMBERS["FEWEST_LIFTED"]  # numbers of a list
LARGEST_NUMBER_BYTES = 17  # -0.0000119631895 and a comma
LARGEST_KEPT_BODY = 4 << 20
LIST_BYTES = ctypes.sizeof(LiftedList)

# What a body is read into is kept, as page faults would take half as long as the reading; what was read is
# copied from there.
_spare = threading.local()


class Lifted:
    """A body without its lists of numbers: instead of them `text` has strings, which `take` knows."""

    __slots__ = ("_lists", "_mark", "_numbers", "_taken", "text")

    def __init__(
        self, text: bytes, *, mark: str, numbers: NDArray[np.float32], lists: list[LiftedList]
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
        one = self._lists[int(number)]
        if kind == "integer" or (kind == "float" and one.holds != NUMBERS["NUMBERS"]):
            return None
        self._taken.add(int(number))
        array = self._numbers[one.start : _end(one)].reshape(one.shape[: one.rank])
        return array != 0 if one.holds == NUMBERS["FLAGS"] else array

    @property
    def left(self) -> int:
        """How many lists have not been taken."""
        return len(self._lists) - len(self._taken)


class Native:
    """The C functions of one shared library; `plain`: those parts of them that run on any processor."""

    def __init__(self, library: ctypes.CDLL, *, plain: bool = False) -> None:
        self._lift = library.heed_lift
        self._lift.restype = ctypes.c_int64
        self._lift.argtypes = [ctypes.POINTER(LiftCall)]
        self._write = library.heed_write
        self._write.restype = ctypes.c_int64
        self._write.argtypes = [ctypes.POINTER(WriteCall)]
        self._plain = plain
        self._mark = f"heed:{secrets.token_hex(8)}:"  # that nobody can have written

    def lift(self, body: Buffer, names: Iterable[str]) -> Lifted | None:
        """Return a body without the lists of numbers that are values of these names; None: read all of it.

        Lists of true and false are such lists too, and null may stand among numbers, as in masks. What is
        lifted is checked, the rest is not: it has to be parsed. Lists of fewer than 64 numbers stay.
        """
        source = np.frombuffer(body, np.uint8)
        rest, numbers = _memory(source.size)
        most_lists = source.size // (2 * FEWEST_LIFTED) + 1
        memory = np.empty(most_lists * LIST_BYTES, np.uint8)
        call = LiftCall(names=_terminated(tuple(names)), mark=self._mark.encode(), plain=self._plain)
        call.text, call.text_bytes = source.ctypes.data, source.size
        call.rest, call.numbers = rest.ctypes.data, numbers.ctypes.data
        call.lists, call.most_lists = memory.ctypes.data, most_lists
        count = self._lift(call)
        kept = source.size <= LARGEST_KEPT_BODY
        if kept:
            _spare.memory = rest, numbers
        if count <= 0:
            return None
        lists = [LiftedList.from_buffer_copy(memory.data, LIST_BYTES * at) for at in range(count)]
        used = _end(lists[-1])
        return Lifted(
            rest[: call.rest_bytes].tobytes(),
            mark=self._mark,
            numbers=numbers[:used].copy() if kept else numbers[:used],
            lists=lists,
        )

    def writes(self, array: NDArray[np.generic]) -> bool:
        """Whether `write` takes this array, and is worth calling."""
        return _readable(array) and array.size >= FEWEST_LIFTED

    def write(self, array: NDArray[np.generic], out: NDArray[np.uint8]) -> int:
        """Write an array as JSON to the beginning of `out`, of `most_bytes` or more; returns the length.

        Raises ValueError for an array that C cannot read, or where its text may be longer than `out`.
        """
        return self.join((b"", b""), (array,), out)

    def join(
        self, pieces: Sequence[bytes], arrays: Sequence[NDArray[np.generic]], out: NDArray[np.uint8]
    ) -> int:
        """Write pieces of text to `out`, and between each two of them an array as JSON; returns the length.

        Raises ValueError for an array that C cannot read, or where all of it may be longer than `out`.
        """
        for array in arrays:
            if not _readable(array):
                raise ValueError(f"arrays are C-contiguous float32 of 1 to 16 axes, not {_said(array)}")
        most = sum(map(len, pieces)) + sum(map(self.most_bytes, arrays))
        if not (out.dtype == np.uint8 and out.flags.c_contiguous and out.size >= most):
            raise ValueError(f"a text of up to {most} bytes has no room in {_said(out)}")
        call = WriteCall(plain=self._plain)
        begin = at = out.ctypes.data
        shape = None
        for piece, array in zip(pieces, arrays, strict=False):  # the last piece has no array after it
            ctypes.memmove(at, piece, len(piece))
            if array.shape != shape:
                shape = array.shape
                call.shape, call.rank = Shape(*shape), array.ndim
            call.out, call.numbers = at + len(piece), array.ctypes.data
            at += len(piece) + int(self._write(call))
        ctypes.memmove(at, pieces[-1], len(pieces[-1]))
        return at + len(pieces[-1]) - begin

    @staticmethod
    def most_bytes(array: NDArray[np.generic]) -> int:
        """Return how many bytes `write` may touch."""
        lists: int = array.size // array.shape[-1] if array.size else math.prod(array.shape[:-1])
        return LARGEST_NUMBER_BYTES * array.size + 2 * array.ndim * lists + 64


@lru_cache(maxsize=1)
def native() -> Native | None:
    """Return the compiled functions, None where they were not built."""
    library = load("service.wire.compiled._native", structures.STRUCTURES, NUMBERS)
    if library is not None:
        return Native(library)
    log.warning("JSON goes without compiled code, more slowly; install Heed where there is a C compiler")
    return None


@lru_cache(maxsize=16)
def _terminated(names: tuple[str, ...]) -> bytes:
    return b"".join(name.encode() + b"\0" for name in names) + b"\0"


def _memory(body_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return memory for the rest of a body and for its numbers, of which every second byte may be one."""
    kept: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = _spare.__dict__.pop("memory", None)
    if kept is not None and kept[0].size >= body_bytes:
        return kept
    return np.empty(body_bytes, np.uint8), np.empty(body_bytes // 2 + 1, np.float32)


def _end(one: LiftedList) -> int:
    """Return where the numbers of a list end among all of them."""
    return int(one.start + math.prod(one.shape[: one.rank]))


def _readable(array: NDArray[np.generic]) -> bool:
    return (
        array.dtype == np.float32 and 1 <= array.ndim <= NUMBERS["HIGHEST_RANK"] and array.flags.c_contiguous
    )


def _said(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {list(array.shape)}"
