"""The Protocol Buffers encoding, as far as tensors need it: fields out of bytes as views, and into bytes.

Source: protobuf.dev `programming-guides/encoding`. The library copies the bytes of a tensor twice before they
are numbers, holds the interpreter's lock meanwhile, and makes a Python object of every number of `contents`.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire.dtypes import Buffer
from service.wire.effort import spend

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5  # wire types; groups, 3 and 4, are of no message here
MOST_FIELDS = 1 << 16  # of a message, those of messages inside it too
FIELD_US = 1.0  # what one takes, in microseconds
LONGEST_VARINT = 10
MOST_NUMBER = 1 << 29  # of a field
_64_BITS = (1 << 64) - 1
_ONE_BYTE = [bytes([number]) for number in range(0x80)]

Value = int | memoryview  # of a varint, or the bytes of any other


class FieldReader:
    """Gives the fields of one message and of those inside it; no more than MOST_FIELDS in all."""

    def __init__(self) -> None:
        self._left = MOST_FIELDS

    def fields(self, piece: memoryview) -> Iterator[tuple[int, int, Value]]:
        """Give number, wire type and value of each field; raises Malformed where the bytes are no message."""
        at, end = 0, len(piece)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Malformed(
                    f"the message has more than {MOST_FIELDS} fields; send numbers in raw_input_contents, or "
                    "packed"
                )
            spend(FIELD_US)
            tag, at = read_varint(piece, at)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < MOST_NUMBER:
                raise _no_message()
            value: Value
            if kind == VARINT:
                value, at = read_varint(piece, at)
            else:
                size = 8 if kind == FIXED64 else 4
                if kind == DELIMITED:
                    size, at = read_varint(piece, at)
                elif kind not in (FIXED64, FIXED32):
                    raise _no_message()
                if size > end - at:
                    raise _no_message()
                value = piece[at : at + size]
                at += size
            yield number, kind, value


def text(value: Value, what: str) -> str:
    """Return a string field; raises Malformed."""
    try:
        return str(value, "utf-8")  # type: ignore[arg-type]  # whoever asks has seen the wire type
    except UnicodeDecodeError:
        raise Malformed(f"{what} is not UTF-8") from None


def signed(value: int) -> int:
    """Return the number that an int32 or int64 field holds."""
    return value - (1 << 64) if value >> 63 else value


def double(value: Value) -> float:
    """Return the number that a double field holds."""
    (number,) = struct.unpack("<d", value)  # type: ignore[arg-type]
    return float(number)


def read_varint(piece: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at a place, and the place behind it."""
    number = 0
    for shift in range(0, 7 * LONGEST_VARINT, 7):
        if at == len(piece):
            raise _no_message()
        byte = piece[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _64_BITS, at
    raise _no_message()


def varints(piece: memoryview) -> NDArray[np.uint64]:
    """Return packed varints as their 64 bits; raises Malformed where the last is cut off or one too long."""
    raw = np.frombuffer(piece, dtype=np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == len(raw):  # each of one byte
        return raw.astype(np.uint64)
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise _no_message()
    starts = np.empty_like(ends)
    starts[0], starts[1:] = 0, ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > LONGEST_VARINT:
        raise _no_message()
    numbers = np.zeros(len(ends), dtype=np.uint64)
    for place in range(longest):
        reach = lengths > place
        bits = (raw[starts[reach] + place] & 0x7F).astype(np.uint64)
        numbers[reach] |= bits << np.uint64(7 * place)
    return numbers


def varint(number: int) -> bytes:
    """Return an unsigned number of at most 64 bits as a varint."""
    if number < 0x80:
        return _ONE_BYTE[number]
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def opening(number: int, size: int) -> bytes:
    """Return what stands before the bytes of a delimited field."""
    return varint(number << 3 | DELIMITED) + varint(size)


def delimited(number: int, value: Buffer) -> bytes:
    """Return a field of text, bytes or a message."""
    return b"".join((opening(number, len(value)), value))


def string(number: int, value: str) -> bytes:
    """Return a string field; the empty one is no field."""
    return delimited(number, value.encode()) if value else b""


def flag(number: int, *, value: bool) -> bytes:
    """Return a field of a bool, one that is false too."""
    return varint(number << 3 | VARINT) + bytes([value])


def _no_message() -> Malformed:
    return Malformed("the bytes of the call are no message of its kind (Protocol Buffers)")
