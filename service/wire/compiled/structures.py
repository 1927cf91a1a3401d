"""The structures that cross into C, as `native_calls.h` declares them, and numbers with names."""

from ctypes import Structure, c_char_p, c_int64, c_void_p

from models.c_library import fields

__all__ = ["NUMBERS", "STRUCTURES", "LiftCall", "LiftedList", "Shape", "WriteCall"]

# What a list holds, then limits.
NUMBERS = {"NUMBERS": 0, "NUMBERS_AND_NULLS": 1, "FLAGS": 2, "FEWEST_LIFTED": 64, "HIGHEST_RANK": 16}

Shape = NUMBERS["HIGHEST_RANK"] * c_int64


class LiftedList(Structure):
    """A list that was lifted out of a text: which numbers are its own, and its shape."""

    __slots__ = ()  # so that a name which is no field raises, here and below
    _fields_ = (*fields(c_int64, "start holds rank"), ("shape", 4 * c_int64))


class LiftCall(Structure):
    """A text, and memory for what is read of it."""

    __slots__ = ()
    _fields_ = (
        *(("text", c_void_p), ("text_bytes", c_int64), ("names", c_char_p), ("mark", c_char_p)),
        *(("rest", c_void_p), ("rest_bytes", c_int64)),
        *fields(c_void_p, "numbers lists"),
        *fields(c_int64, "most_lists plain"),
    )


class WriteCall(Structure):
    """An array, and memory for its text."""

    __slots__ = ()
    _fields_ = (*fields(c_void_p, "out numbers"), ("shape", Shape), *fields(c_int64, "rank plain"))


STRUCTURES = {"list": LiftedList, "lift_call": LiftCall, "write_call": WriteCall}
