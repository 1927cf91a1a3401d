"""The structures that cross into C, and the proof that both sides mean the same by them.

Declared once more as `native_calls.h` has them. The library tells the name, offset and size of every field,
and the numbers that have names: where any differs from what is here, it was built for other structures.
"""

import ctypes
from ctypes import Structure, c_char_p, c_int64, c_void_p
from itertools import count, takewhile

__all__ = ["NUMBERS", "LiftCall", "LiftedList", "Shape", "WriteCall", "difference"]

NUMBERS = {  # what a list holds, then limits
    "NUMBERS": 0,
    "NUMBERS_AND_NULLS": 1,
    "FLAGS": 2,
    "FEWEST_LIFTED": 64,
    "HIGHEST_RANK": 16,
}


Shape = NUMBERS["HIGHEST_RANK"] * c_int64


class LiftedList(Structure):
    """A list that was lifted out of a text: which numbers are its own, and its shape."""

    __slots__ = ()  # so that a name which is no field raises, here and below
    _fields_ = (("start", c_int64), ("holds", c_int64), ("rank", c_int64), ("shape", 4 * c_int64))


class LiftCall(Structure):
    """A text, and memory for what is read of it."""

    __slots__ = ()
    _fields_ = (
        *(("text", c_void_p), ("text_bytes", c_int64), ("names", c_char_p), ("mark", c_char_p)),
        *(("rest", c_void_p), ("rest_bytes", c_int64), ("numbers", c_void_p)),
        *(("lists", c_void_p), ("most_lists", c_int64), ("plain", c_int64)),
    )


class WriteCall(Structure):
    """An array, and memory for its text."""

    __slots__ = ()
    _fields_ = (
        *(("out", c_void_p), ("numbers", c_void_p)),
        *(("shape", Shape), ("rank", c_int64), ("plain", c_int64)),
    )


class _Field(Structure):
    _fields_ = (("of", c_char_p), ("name", c_char_p), ("offset", c_int64), ("size", c_int64))


STRUCTURES = {"list": LiftedList, "lift_call": LiftCall, "write_call": WriteCall}


def difference(library: ctypes.CDLL) -> str | None:
    """Return what a library has otherwise than this module, None where they agree."""
    first = ctypes.pointer(_Field.in_dll(library, "heed_fields"))
    told = takewhile(lambda field: field.name, map(first.__getitem__, count()))
    theirs = {f"{one.of.decode()}.{one.name.decode()}": (one.offset, one.size) for one in told}
    ours = {
        f"{of}.{name}": (getattr(structure, name).offset, getattr(structure, name).size)
        for of, structure in STRUCTURES.items()
        for name, *_ in structure._fields_
    }
    ours |= {f"number.{name}": (number, 0) for name, number in NUMBERS.items()}
    return ", ".join(name for name in ours | theirs if ours.get(name) != theirs.get(name)) or None
