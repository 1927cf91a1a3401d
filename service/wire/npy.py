"""The `.npy` format, versions 1 to 3, both ways: one array a body. A header is parsed, never evaluated.

Format: `numpy.lib.format`, https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import math
import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire.dtypes import NPY, Buffer, Reserve, raw, reserve_nothing, settled, size_in_bytes, view

_MAGIC = b"\x93NUMPY"
_LARGEST_HEADER = 10_000  # what numpy itself reads without being told to trust the file
_ALIGNMENT = 64
_FIELDS = {"descr", "fortran_order", "shape"}
# One entry of the header's dictionary: key, then a string, a boolean or a tuple of numbers.
_ENTRY = re.compile(
    r"""\s*u?(?P<quote>['"])(?P<key>[a-z_]{1,16})(?P=quote)\s*:\s*"""
    r"""(?:u?(?P<mark>['"])(?P<text>[^'"]{0,64})(?P=mark)|(?P<flag>True|False)|\((?P<sizes>[-0-9L,\s]*)\))\s*"""
)
_SIZE = re.compile(r"([0-9]{1,19})\s?L?", re.ASCII)  # Python 2 wrote its long integers as 384L
# What numpy makes a dtype of, as far as it is read: `<f4`, `>i8`, `|u1`, `float32`.
_NUMBERS = re.compile(r"[<>=|]?(?:f[248]|[iu][1248])|float(?:16|32|64)|u?int(?:8|16|32|64)", re.ASCII)
_BOOLEANS = ("|b1", "b1", "<b1", ">b1", "=b1", "?", "|?", "bool")
_KEPT = ("float32", "float16", "int32", "int64", "bool")  # every other is settled


def decode(body: Buffer, reserve: Reserve = reserve_nothing) -> NDArray[Any]:
    """Return the array of a `.npy` body: C-contiguous, native byte order, a view of `body` where it can be.

    `reserve` is told of what is no view, before it is made.

    bfloat16, which numpy saves as `V2`, comes as uint16 bit patterns, float64 as float32, integers of other
    widths as int64. Raises Malformed for anything else, and for lengths that disagree.
    """
    text, offset = _header(body)
    descr, fortran, shape = _fields(text)
    dtype = _dtype(descr)
    expected = size_in_bytes(shape, dtype.itemsize, name="the .npy array")
    if len(body) - offset != expected:
        raise Malformed(
            f"the .npy header declares {expected} bytes of numbers, but {len(body) - offset} follow it"
        )
    array = view(body, dtype, shape[::-1] if fortran else shape, offset=offset, name="the .npy array")
    if fortran or not dtype.isnative:
        reserve(array.nbytes)
    array = np.asarray(array.T if fortran else array, dtype=dtype.newbyteorder("="), order="C")
    kept = descr in NPY or array.dtype.name in _KEPT
    return array if kept else settled(array, name="the .npy array", reserve=reserve)


def encode(array: NDArray[Any]) -> list[Buffer]:
    """Return a version 1 `.npy` file as its header and a view of the array, nothing copied.

    `array` is C-contiguous; uint16 is bfloat16 and written as `<V2`, which
    `numpy.load(...).view(ml_dtypes.bfloat16)` reads.
    """
    descr = "<V2" if array.dtype == np.uint16 else array.dtype.newbyteorder("<").str
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(array.shape)!r}, }}"
    length = len(_MAGIC) + 4 + len(header) + 1
    padding = " " * (math.ceil(length / _ALIGNMENT) * _ALIGNMENT - length)
    line = f"{header}{padding}\n".encode("latin1")
    return [
        _MAGIC + b"\x01\x00" + struct.pack("<H", len(line)) + line,
        raw(array),
    ]


def _dtype(descr: str) -> np.dtype[Any]:
    """Return the dtype that a header names; raises Malformed."""
    if descr in NPY:
        return NPY[descr]
    if descr in _BOOLEANS:
        return np.dtype("?")
    if not _NUMBERS.fullmatch(descr):
        raise Malformed(
            "the .npy array has a dtype that is not served; save it as float32, for example with "
            "array.astype(numpy.float32)"
        )
    return np.dtype(descr)


def _header(body: Buffer) -> tuple[str, int]:
    """Return the header's text and the offset of the first number."""
    if bytes(body[:6]) != _MAGIC or len(body) < 10:
        raise Malformed("the body does not start like a .npy file")
    major, minor = body[6], body[7]
    if major not in (1, 2, 3) or minor != 0:
        raise Malformed(f"the .npy version is {major}.{minor}; versions 1.0, 2.0 and 3.0 are read")
    start = 10 if major == 1 else 12
    if len(body) < start:
        raise Malformed("the .npy header is cut off")
    (length,) = struct.unpack_from("<H" if major == 1 else "<I", body, 8)
    if length > _LARGEST_HEADER:
        raise Malformed(f"the .npy header has {length} bytes; the limit is {_LARGEST_HEADER}")
    if len(body) < start + length:
        raise Malformed("the .npy header is cut off")
    try:
        text = bytes(body[start : start + length]).decode("utf-8" if major == 3 else "latin1")
    except UnicodeDecodeError:
        raise Malformed("the .npy header is not UTF-8") from None
    return text, start + length


def _fields(text: str) -> tuple[str, bool, tuple[int, ...]]:
    """Return descr, fortran_order and shape of a header; each must be there once, and nothing else."""
    inner = text.strip()
    if not (inner.startswith("{") and inner.endswith("}")):
        raise Malformed("the .npy header is not a dictionary")
    found: dict[str, object] = {}
    at, end = 1, len(inner) - 1
    while inner[at:end].strip():
        entry = _ENTRY.match(inner, at, end)
        if entry is None or entry["key"] not in _FIELDS or entry["key"] in found:
            raise Malformed("the .npy header must hold descr, fortran_order and shape, once each")
        found[entry["key"]] = _value(entry)
        at = entry.end()
        if at < end:
            if inner[at] != ",":
                raise Malformed("the .npy header is not a dictionary")
            at += 1
    descr, fortran, shape = (found.get(key) for key in ("descr", "fortran_order", "shape"))
    if not (isinstance(descr, str) and isinstance(fortran, bool) and isinstance(shape, tuple)):
        raise Malformed("the .npy header must hold descr, a string; fortran_order, a boolean; shape, a tuple")
    return descr, fortran, shape


def _value(entry: re.Match[str]) -> object:
    if entry["flag"] is not None:
        return entry["flag"] == "True"
    if entry["text"] is not None:
        return entry["text"]
    sizes = [size.strip() for size in entry["sizes"].split(",")]
    if sizes[-1] == "":
        sizes.pop()  # the comma that ends a tuple, or nothing between the brackets
    if any(size.startswith("-") for size in sizes):
        raise Malformed(f"the .npy shape ({entry['sizes'][:64].strip()}) has a size under 0")
    found = [_SIZE.fullmatch(size) for size in sizes]
    if not all(found):
        raise Malformed("the .npy shape must be a tuple of integers")
    return tuple(int(size[1]) for size in found if size is not None)
