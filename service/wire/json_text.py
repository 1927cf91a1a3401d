"""Any reply as JSON text: orjson, and compiled code for the arrays in it where there is any.

Whole (`dumps`), or piece by piece (`pieces`) where the whole text would take many times what its numbers do.
"""

import binascii
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.wire.compiled.native import LARGEST_NUMBER_BYTES, Native, native
from service.wire.dtypes import Buffer

PIECE_BYTES = 1 << 20  # of text, about; an array is cut so that a piece of it takes no more than this
PIECE_NUMBERS = PIECE_BYTES // LARGEST_NUMBER_BYTES
SMALL_PIECE_BYTES = 1 << 16  # what is smaller is joined with what is beside it
FEWEST_APART = 1024  # numbers of an array that is not written with what stands around it
_MARK = "\u241ftensor\u241f"

# What a text is written into is up to twice as large as the text: it is kept, and the text copied from it.
# That takes a tenth of the writing, and leaves no memory taken that nobody uses.
LARGEST_KEPT_BYTES = 4 << 20
_spare = threading.local()


class Base64:
    """Numbers that are written as the base64 of their bytes, little-endian."""

    __slots__ = ("_array",)  # no dataclass, which orjson would write as an object

    def __init__(self, array: NDArray[np.float32]) -> None:
        self._array = array

    def text(self) -> bytes:
        """Return the base64, in quotes: there is nothing in it that JSON writes otherwise."""
        numbers = np.ascontiguousarray(self._array, "<f4")
        return b'"' + binascii.b2a_base64(numbers.data, newline=False) + b'"'


Body = dict[str, Any] | list[Any]


def dumps(body: Body) -> Buffer:
    """Return a JSON object or list; its arrays are C-contiguous, numbers that are not finite become null.

    float32 is written with the fewest digits that read back equal.
    """
    compiled = native()
    if compiled is None:
        return _plain(body)
    return _Text(compiled).of(body)


class _Text:
    """One text: a frame without its large arrays, then the frame and the arrays in turns."""

    def __init__(self, compiled: Native) -> None:
        self._compiled = compiled
        self._arrays: list[np.ndarray[Any, Any]] = []

    def of(self, body: Body) -> Buffer:
        frame = orjson.dumps(body, default=self._instead)
        if not self._arrays:
            return frame
        pieces = frame.split(orjson.dumps(_MARK))
        if len(pieces) != len(self._arrays) + 1:  # a caller's own text, given back, has the mark in it
            return _plain(body)
        out = _space(len(frame) + sum(map(self._compiled.most_bytes, self._arrays)))
        at = self._compiled.join(pieces, self._arrays, out)
        if out.size > LARGEST_KEPT_BYTES:
            return out[:at].data
        _spare.out = out
        return out[:at].tobytes()

    def _instead(self, value: object) -> object:
        """Return what stands for a value that orjson does not write by itself; it asks in their order."""
        if isinstance(value, np.ndarray) and self._compiled.writes(value):
            self._arrays.append(value)
            return _MARK
        return orjson.Fragment(value.text() if isinstance(value, Base64) else _plain(value))


def pieces(body: Body) -> Iterator[Buffer]:
    """Give the same text in pieces of 64 KiB to about a MiB, each made when it is asked for."""
    held: list[Buffer] = []
    size = 0
    for piece in _pieces(body):
        if len(piece) < SMALL_PIECE_BYTES:
            held.append(piece)
            size += len(piece)
        if held and (len(piece) >= SMALL_PIECE_BYTES or size >= SMALL_PIECE_BYTES):
            yield b"".join(held)
            held, size = [], 0
        if len(piece) >= SMALL_PIECE_BYTES:
            yield piece
    if held:
        yield b"".join(held)


def _pieces(body: Body) -> Iterator[Buffer]:
    compiled = native()
    mark = secrets.token_hex(16)  # that no caller can have written
    apart: list[NDArray[Any] | Base64] = []

    def instead(value: object) -> object:
        if isinstance(value, Base64) or (isinstance(value, np.ndarray) and value.size >= FEWEST_APART):
            apart.append(value)
            return mark
        return orjson.Fragment(_plain(value))

    frame = orjson.dumps(body, default=instead).split(orjson.dumps(mark))
    for text, value in zip(frame, [*apart, None], strict=True):
        yield text
        if isinstance(value, Base64):
            yield value.text()
        elif value is not None:
            yield from _rows(value, compiled)


def _rows(array: NDArray[Any], compiled: Native | None) -> Iterator[Buffer]:
    """Give one array, so many rows at a time; of rows that are too long each so in its turn."""
    row = array.size // len(array)
    if array.ndim > 1 and row > PIECE_NUMBERS:
        for place, one in enumerate(array):
            yield b"," if place else b"["
            yield from _rows(one, compiled)
    else:
        step = max(1, PIECE_NUMBERS // row)
        for place in range(0, len(array), step):
            yield b"," if place else b"["
            yield _written(array[place : place + step], compiled)[1:-1]
    yield b"]"


def _written(array: NDArray[Any], compiled: Native | None) -> Buffer:
    if compiled is None or not compiled.writes(array):
        return _plain(array)
    out = np.empty(compiled.most_bytes(array), np.uint8)
    return out[: compiled.write(array, out)].data


def _plain(value: object) -> bytes:
    """Return JSON by orjson alone."""
    return orjson.dumps(value, default=_base64, option=orjson.OPT_SERIALIZE_NUMPY)


def _base64(value: object) -> orjson.Fragment:
    if isinstance(value, Base64):
        return orjson.Fragment(value.text())
    raise TypeError


def _space(size: int) -> NDArray[np.uint8]:
    kept: NDArray[np.uint8] | None = _spare.__dict__.pop("out", None)
    return kept if kept is not None and kept.size >= size else np.empty(size, np.uint8)
