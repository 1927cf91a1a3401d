"""Number formats on the wire: each protocol's names for them, and exact conversions.

numpy has no bfloat16, so it travels inside Heed as its bit patterns, `uint16`. What is only read, float64 and
whole numbers of other widths, is float32 and int64 from the start (`settled`), so a `uint16` array always
means bfloat16.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed

__all__ = [
    "NPY",
    "OIP",
    "OIP_READ",
    "SAFETENSORS",
    "SAFETENSORS_READ",
    "Buffer",
    "Reserve",
    "bits_to_float32",
    "float32_to_bits",
    "oip_name",
    "raw",
    "read",
    "require_finite",
    "reserve_nothing",
    "safetensors_name",
    "settled",
    "size_in_bytes",
    "view",
    "widen",
]

Buffer = bytes | memoryview
Reserve = Callable[[int], None]  # is told of bytes before they are taken, and raises where they are not there


def reserve_nothing(size: int) -> None:
    """Let all bytes be taken."""


_OTHER_INTEGERS = [("", 1), ("", 2), *(("U", size) for size in (1, 2, 4, 8))]

# Format name → dtype as it lies in the body, little-endian.
OIP: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}
SAFETENSORS: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
}
# ... and what is read besides, and settled at once.
OIP_READ: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    **{f"{kind}INT{8 * size}": np.dtype(f"<{kind.lower() or 'i'}{size}") for kind, size in _OTHER_INTEGERS},
}
SAFETENSORS_READ: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    **{
        f"{kind or 'I'}{8 * size}": np.dtype(f"<{kind.lower() or 'i'}{size}")
        for kind, size in _OTHER_INTEGERS
    },
}
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
_OIP_NAMES = {dtype: name for name, dtype in OIP.items()}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


def oip_name(array: NDArray[Any]) -> str:
    """Return the Open Inference Protocol's name of an array's dtype; uint16 is BF16."""
    return _OIP_NAMES[array.dtype]


def safetensors_name(array: NDArray[Any]) -> str:
    """Return the safetensors name of an array's dtype; uint16 is BF16."""
    return _SAFETENSORS_NAMES[array.dtype]


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


def read(
    body: Buffer,
    kind: str,
    shape: Sequence[int],
    *,
    offset: int,
    known: Mapping[str, np.dtype[Any]],
    besides: Mapping[str, np.dtype[Any]],
    name: str,
    reserve: Reserve = reserve_nothing,
) -> NDArray[Any]:
    """Return a tensor as `view` does, settled where its format's name of the dtype is only read."""
    if kind in known:
        return view(body, known[kind], shape, offset=offset, name=name)
    return settled(view(body, besides[kind], shape, offset=offset, name=name), name=name, reserve=reserve)


def raw(array: NDArray[Any]) -> memoryview:
    """Return the bytes of an array in row-major order: a view where it is C-contiguous."""
    return array.reshape(-1).view(np.uint8).data


def widen(array: NDArray[Any]) -> NDArray[np.float32]:
    """Return float32 of float32 (itself), float16 or bfloat16 bit patterns; exact."""
    if array.dtype == np.uint16:
        return bits_to_float32(array)
    return array.astype(np.float32, copy=False)


def bits_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 numbers of bfloat16 bit patterns; exact, NaN payloads included."""
    wide: NDArray[np.uint32] = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


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
    if array.dtype == np.uint16:
        finite = not bool(((array & 0x7F80) == 0x7F80).any())
    elif array.dtype.kind != "f":
        return
    else:
        # A finite sum proves that every term is finite, and holds no array of booleans.
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(array.sum(dtype=np.float32))) or bool(np.isfinite(array).all())
    if not finite:
        raise Malformed(f"{name} holds NaN or Infinity; every number must be finite")
