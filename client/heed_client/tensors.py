"""The safetensors format with numpy: named arrays to bytes and back.

Format: https://huggingface.co/docs/safetensors, "Format". bfloat16, which numpy does not have, is read as
float32, which holds it exactly.
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heed_client.errors import InvalidReply

__all__ = ["body_of", "read", "size_of"]

_WRITTEN = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64", "bool": "BOOL"}
_READ = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8", "BOOL": "?"}
_METADATA = "__metadata__"


def size_of(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return about how many bytes `body_of` gives: the tensors, and a generous header."""
    return sum(array.nbytes + len(name) + 96 for name, array in arrays.items()) + 16


def body_of(arrays: Mapping[str, NDArray[Any]], *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file of C-contiguous arrays, wide dtypes first so that all are aligned."""
    ordered = sorted(arrays.items(), key=lambda pair: -pair[1].itemsize)
    header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
    at = 0
    for name, array in ordered:
        offsets = [at, at + array.nbytes]
        header[name] = {
            "dtype": _WRITTEN[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": offsets,
        }
        at = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(_raw(array) for _, array in ordered)])


def read(body: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return arrays by name, read-only views of `body`, and the strings of the header's metadata.

    Raises InvalidReply when the body is no safetensors file.
    """
    try:
        start = 8 + int.from_bytes(body[:8], "little")
        header = json.loads(body[8:start])
        metadata = header.pop(_METADATA, {})
        return dict(_arrays(header, body, start)), metadata
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidReply("the reply is not the safetensors file it claims to be") from error


def _arrays(header: dict[str, Any], body: bytes, start: int) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, entry in header.items():
        kind, shape = entry["dtype"], tuple(entry["shape"])
        array: NDArray[Any] = np.frombuffer(
            body, dtype=_READ[kind], count=math.prod(shape), offset=start + entry["data_offsets"][0]
        ).reshape(shape)
        yield name, _widened(array) if kind == "BF16" else array


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _raw(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data
