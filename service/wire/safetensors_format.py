"""The safetensors format, both ways: named tensors, views in, header and views out.

Format: https://huggingface.co/docs/safetensors, "Format": u64 header length, JSON header, tensors without
gaps. Stricter than the Rust reader where it is lax, since bodies come from strangers.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire.dtypes import SAFETENSORS, Buffer, Reserve, raw, reserve_nothing, size_in_bytes
from service.wire.effort import spend

_LARGEST_HEADER = 1 << 20
_ALIGNMENT = 8
HEADER_BYTE_US, WRITTEN_US = 0.08, 2.5  # what a byte takes to be read, a tensor to be written
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Tensors:
    """What one body holds: arrays by name (bfloat16 as uint16 bit patterns), and the strings beside them.

    float64 comes as float32, whole numbers of other widths as int64.
    """

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int


def decode(body: Buffer, reserve: Reserve = reserve_nothing) -> Tensors:
    """Return the tensors of a safetensors body as read-only views of it, in the order of their bytes.

    `reserve` is told of what is no view, before it is made.

    Raises Malformed for a header that is no such header, duplicate names, unknown dtypes, tensors that
    overlap, leave gaps, or do not fill the body exactly.
    """
    header, start = _header(body)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise Malformed("__metadata__ of the safetensors header must map strings to strings")
    entries = sorted((_entry(name, value) for name, value in header.items()), key=lambda e: (e.begin, e.end))
    at = 0
    for entry in entries:
        if entry.begin != at:
            raise Malformed(
                f"safetensors tensors must follow each other without gaps or overlap; one begins at byte "
                f"{entry.begin}, {at} was expected"
            )
        at = entry.end
    if at != len(body) - start:
        raise Malformed(
            f"the safetensors header describes {at} bytes of tensors, but {len(body) - start} follow it"
        )
    arrays = {
        one.name: SAFETENSORS.read(body, one.kind, one.shape, offset=start + one.begin, reserve=reserve)
        for one in entries
    }
    return Tensors(arrays, metadata)


def encode(arrays: Mapping[str, NDArray[Any]], *, metadata: Mapping[str, str] | None = None) -> list[Buffer]:
    """Return a safetensors file as its header and one view an array, nothing copied.

    `arrays` are C-contiguous; uint16 is written as BF16. Wider dtypes come first, so that every tensor
    lies on a multiple of its item size; the header is padded to 8 bytes.
    """
    spend(WRITTEN_US * len(arrays))
    ordered = sorted(arrays.items(), key=lambda pair: -pair[1].itemsize)
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, array in ordered:
        header[name] = {
            "dtype": SAFETENSORS.name(array),
            "shape": array.shape,
            "data_offsets": (at, at + array.nbytes),
        }
        at += array.nbytes
    text = orjson.dumps(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    views: list[Buffer] = [raw(array) for _, array in ordered if array.size]
    return [struct.pack("<Q", len(text)) + text, *views]


def _header(body: Buffer) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the offset of the first tensor."""
    if len(body) < 8:
        raise Malformed("the safetensors body is shorter than its 8-byte header length")
    (length,) = struct.unpack_from("<Q", body)
    if length > min(_LARGEST_HEADER, len(body) - 8):
        raise Malformed(
            f"the safetensors header claims {length} bytes; the body has {len(body) - 8} after the length, "
            f"and the limit is {_LARGEST_HEADER}"
        )
    spend(HEADER_BYTE_US * length)
    try:
        header = json.loads(
            bytes(body[8 : 8 + length]).decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        raise Malformed("the safetensors header is not JSON") from None
    if not isinstance(header, dict):
        raise Malformed("the safetensors header must be an object")
    return header, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("the safetensors header has a name twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _entry(name: str, value: object) -> _Entry:
    """Check one tensor's description."""
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("every safetensors entry must hold exactly dtype, shape and data_offsets")
    kind, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    dtype = SAFETENSORS.find(kind)
    if dtype is None:
        names = ", ".join(SAFETENSORS.all)
        raise Malformed(f"a safetensors dtype is not served; use one of {names}")
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise Malformed("a safetensors shape and its data_offsets must be lists")
    size = size_in_bytes(shape, dtype.itemsize, name="a tensor")
    if len(offsets) != 2 or any(type(offset) is not int or offset < 0 for offset in offsets):
        raise Malformed("data_offsets of a safetensors entry must be two integers, 0 or more")
    begin, end = offsets
    if end - begin != size:
        raise Malformed(
            f"a safetensors entry spans {end - begin} bytes, but its shape and dtype need {size}"
            if end < 2**63 > begin
            else "data_offsets of a safetensors entry are beyond any body"
        )
    return _Entry(name, kind, tuple(shape), begin, end)
