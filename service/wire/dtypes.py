"""Number formats on the wire: each protocol's names for them, and exact conversions.

numpy has no bfloat16, so it comes and goes as its bit patterns, `uint16`, and is computed with nowhere
(`models.halves` is what it is on its way to the device). What is only read, float64 and
whole numbers of other widths, is float32 and int64 from the start (`settled`), so a `uint16` array always
means bfloat16.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.halves import bfloat16_of, widened
from service.errors import Malformed

Buffer = bytes | memoryview
Reserve = Callable[[int], None]  # is told of bytes before they are taken, and raises where they are not there


def reserve_nothing(size: int) -> None:
    """Let all bytes be taken."""


class Datatypes:
    """A protocol's names of number formats: those `kept` as they lie in a body, those `settled` at once."""

    def __init__(self, kept: dict[str, str], settled: dict[str, str]) -> None:
        self.kept = {name: np.dtype(dtype) for name, dtype in kept.items()}
        self.all = self.kept | {name: np.dtype(dtype) for name, dtype in settled.items()}
        self._names = {dtype: name for name, dtype in self.kept.items()}

    def find(self, name: object) -> np.dtype[Any] | None:
        """Return the dtype of a parsed, untrusted name, None where it is none that is read."""
        return self.all.get(name) if isinstance(name, str) else None

    def name(self, array: NDArray[Any]) -> str:
        """Return the name of an array's dtype; uint16 is BF16."""
        return self._names[array.dtype]

    def read(
        self, body: Buffer, name: str, shape: Sequence[int], *, offset: int = 0, reserve: Reserve
    ) -> NDArray[Any]:
        """Return a tensor as `view` does, settled where its dtype is not kept."""
        array = view(body, self.all[name], shape, offset=offset, name="a tensor")
        return array if name in self.kept else settled(array, name="a tensor", reserve=reserve)


_KEPT = (
    *(("FP32", "F32", "<f4"), ("FP16", "F16", "<f2"), ("BF16", "BF16", "<u2")),
    *(("INT32", "I32", "<i4"), ("INT64", "I64", "<i8"), ("BOOL", "BOOL", "?")),
)
_SETTLED = (
    *(("FP64", "F64", "<f8"), ("INT8", "I8", "<i1"), ("INT16", "I16", "<i2"), ("UINT8", "U8", "<u1")),
    *(("UINT16", "U16", "<u2"), ("UINT32", "U32", "<u4"), ("UINT64", "U64", "<u8")),
)
OIP, SAFETENSORS = (
    Datatypes(*({names[at]: names[2] for names in table} for table in (_KEPT, _SETTLED))) for at in (0, 1)
)
# `V2` is how numpy saves an ml_dtypes.bfloat16 array.
NPY: dict[str, np.dtype[Any]] = {
    "|b1": np.dtype("?"),
    "<V2": np.dtype("<u2"),
    ">V2": np.dtype(">u2"),
    "|V2": np.dtype("<u2"),
}

_LARGEST_SIZE = 2**63 - 1
_LARGEST_RANK = 8
_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_INFINITY = {np.dtype(np.float16): 0x7C00, np.dtype(np.uint16): 0x7F80}  # bit patterns; uint16 is bfloat16
_SIGN = 0x8000


def size_in_bytes(shape: Sequence[object], item_bytes: int, *, name: str) -> int:
    """Return the bytes of a tensor of parsed, untrusted `shape`, in Python integers that cannot overflow.

    Raises Malformed unless every size is an integer ≥ 0, there are at most 8 and the product fits 63 bits,
    that of the others too where one is 0: no array has such a shape, however few its numbers.
    """
    if len(shape) > _LARGEST_RANK:
        raise Malformed(f"{name} has {len(shape)} axes; the limit is {_LARGEST_RANK}")
    for size in shape:
        # bool is an int in Python; `true` is no size.
        if type(size) is not int or not 0 <= size <= _LARGEST_SIZE:
            raise Malformed(f"the shape of {name} must hold integers from 0 to {_LARGEST_SIZE}")
    count: int = math.prod(shape)  # type: ignore[arg-type]
    if math.prod(max(1, size) for size in shape) * item_bytes > _LARGEST_SIZE:  # type: ignore[call-overload]
        raise Malformed(f"the shape of {name} holds more than {_LARGEST_SIZE} bytes")
    return count * item_bytes


def view(body: Buffer, dtype: np.dtype[Any], shape: Sequence[int], *, offset: int, name: str) -> NDArray[Any]:
    """Return `shape` numbers of `body` from byte `offset` on: a read-only view, copied only if unaligned.

    The caller has checked that the bytes are there. Booleans must be 0 or 1, else Malformed.
    """
    count = math.prod(shape)
    if dtype.kind == "b":
        flags = np.frombuffer(body, dtype=np.uint8, count=count, offset=offset)
        if count and flags.max() > 1:
            raise Malformed(f"{name} is boolean; each byte must be 0 or 1")
    array: NDArray[Any] = np.frombuffer(body, dtype=dtype, count=count, offset=offset)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def settled(array: NDArray[Any], *, name: str, reserve: Reserve = reserve_nothing) -> NDArray[Any]:
    """Return float32 of float64, int64 of whole numbers of any width; raise Malformed where they do not fit.

    Infinities and NaN stay what they are, and are refused where they may not be.
    """
    reserve(array.size * (4 if array.dtype.kind == "f" else 8))
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow: NDArray[np.float32] = array.astype(np.float32)
        if np.isinf(narrow).any() and not np.array_equal(np.isinf(narrow), np.isinf(array)):
            raise Malformed(f"{name} holds a number beyond float32; the largest is ±{_LARGEST_FLOAT:.8e}")
        return narrow
    if array.dtype == np.uint64 and array.size and int(array.max()) > _LARGEST_SIZE:
        raise Malformed(f"{name} holds an integer beyond 64 bits; the largest is {_LARGEST_SIZE}")
    return array.astype(np.int64)


def raw(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array in row-major order: a view where it is C-contiguous."""
    return array.reshape(-1).view(np.uint8).data


def widen(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 of float32 (itself), float16 or bfloat16 bit patterns; exact."""
    return bits_to_float32(array) if array.dtype == np.uint16 else widened(array)


def bits_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 numbers of bfloat16 bit patterns; exact, NaN payloads included."""
    return widened(bfloat16_of(bits))


def float32_to_bits(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return bfloat16 bit patterns, rounded to nearest, ties to even; every NaN stays a (quiet) NaN.

    Numbers that round beyond the largest bfloat16 become infinite, as IEEE 754 asks.
    """
    bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
    rounded: NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Adding to a NaN's payload can carry into the sign: keep its top bits and set the quiet one.
    nan = np.isnan(array)
    if nan.any():
        rounded[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)
    return rounded


def require_finite(array: NDArray[Any], *, name: str) -> None:
    """Raise Malformed if a float32, float16 or bfloat16 (uint16) array holds NaN or an infinity."""
    if array.dtype in _INFINITY:
        infinity = _INFINITY[array.dtype]
        positive, negative = _highest_bits(array)
        finite = positive < infinity and negative < _SIGN + infinity
    elif array.dtype.kind != "f":
        return
    else:
        # A finite sum proves that every term is finite, and holds no array of booleans.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(array.sum(dtype=np.float32))) or bool(np.isfinite(array).all())
    if not finite:
        raise Malformed(f"{name} holds NaN or Infinity; every number must be finite")


def can_be_added(array: NDArray[Any]) -> bool:
    """Whether float32, float16 or bfloat16 (uint16) can be added to scores: no NaN, no +∞; −∞ masks."""
    if array.dtype in _INFINITY:
        infinity = _INFINITY[array.dtype]
        positive, negative = _highest_bits(array)
        return positive < infinity and negative <= _SIGN + infinity
    return not (np.isnan(array).any() or np.isposinf(array).any())


def _highest_bits(array: NDArray[Any]) -> tuple[int, int]:
    """Return the highest bit pattern of 16 bits under a sign of plus, and of all; 0 where there is none.

    Patterns of one sign are in the order of what they are the numbers of, infinity and then NaN the highest:
    looked at as whole numbers they are compared many times faster than as numbers.
    """
    return int(array.view(np.int16).max(initial=0)), int(array.view(np.uint16).max(initial=0))
