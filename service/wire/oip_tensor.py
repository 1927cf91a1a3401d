"""One tensor of the Open Inference Protocol: its numbers in JSON, or as bytes after it, both ways."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire.dtypes import OIP, Buffer, oip_name, raw, size_in_bytes, view
from service.wire.json_tensor import Kind

__all__ = ["Tensor", "from_bytes", "from_json", "json_kind", "packed", "plain"]

_BINARY_ONLY = {"FP16", "BF16"}
_KINDS: dict[object, Kind] = {"FP32": "float", "INT32": "integer", "INT64": "integer", "BOOL": "mask"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a request or reply: numbers (bfloat16 as uint16 bit patterns), or texts row-major."""

    name: str
    array: NDArray[Any] | None = None
    texts: tuple[bytes, ...] = ()
    text_shape: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its axes."""
        return self.text_shape if self.array is None else self.array.shape

    @property
    def datatype(self) -> str:
        """The protocol's name of its number format."""
        return "BYTES" if self.array is None else oip_name(self.array)


def from_bytes(name: str, datatype: object, shape: list[Any], piece: memoryview) -> Tensor:
    """Return a tensor whose bytes are `piece`, a view of it; raise Malformed unless they fit exactly."""
    if datatype == "BYTES":
        texts = _texts(piece, count=size_in_bytes(shape, 1, name="a tensor"))
        return Tensor(name, None, texts, tuple(shape))
    dtype = _dtype(datatype)
    expected = size_in_bytes(shape, dtype.itemsize, name="a tensor")
    if len(piece) != expected:
        raise Malformed(
            f"binary_data_size is {len(piece)}, but the tensor's shape and datatype need {expected}"
        )
    return Tensor(name, view(piece, dtype, shape, offset=0, name="a tensor"))


def json_kind(fields: Mapping[str, Any]) -> Kind | None:
    """Return what the `data` of an input holds; None leaves it to be read as plain JSON, or refused."""
    datatype = fields.get("datatype")
    return _KINDS.get(datatype) if isinstance(datatype, str) else None


def from_json(name: str, fields: dict[str, Any], shape: list[Any]) -> Tensor:
    """Return a tensor whose numbers are the field `data`; raise Malformed unless they fit exactly."""
    datatype, data = fields.get("datatype"), fields["data"]
    if datatype == "BYTES":
        texts = tuple(_strings(data))
        if len(texts) != size_in_bytes(shape, 1, name="a tensor"):
            raise Malformed(f"a tensor has {len(texts)} texts, which is not what its shape needs")
        return Tensor(name, None, texts, tuple(shape))
    if datatype in _BINARY_ONLY:
        raise Malformed(f"{datatype} travels in binary only; send it with binary_data_size")
    dtype = _dtype(datatype)
    expected = size_in_bytes(shape, dtype.itemsize, name="a tensor") // dtype.itemsize
    if data is None:
        raise Malformed("data of a tensor must be a list")
    if data.size != expected or data.shape not in (tuple(shape), (expected,)):
        raise Malformed(
            f"data of a tensor must hold the {expected} numbers of its shape, flat or nested as it says"
        )
    return Tensor(name, _narrow(data, dtype).reshape(shape))


def _narrow(numbers: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return numbers read from JSON in their tensor's dtype; raise Malformed where they do not fit."""
    if (numbers.dtype.kind == "b") != (dtype.kind == "b"):
        raise Malformed("data of a BOOL tensor must be true and false")
    if dtype.kind == "i" and numbers.size:
        limits = np.iinfo(dtype)
        if not (limits.min <= numbers.min() and numbers.max() <= limits.max):
            raise Malformed(f"a number is beyond {oip_name(np.empty(0, dtype))}")
    return numbers.astype(dtype, copy=False)


def _strings(data: object) -> Iterator[bytes]:
    """Give the texts of a BYTES tensor, flat or nested, row-major."""
    if isinstance(data, list):
        for inner in data:
            yield from _strings(inner)
    elif isinstance(data, str):
        yield data.encode()
    else:
        raise Malformed("data of a BYTES tensor must be strings")


def _texts(piece: memoryview, *, count: int) -> tuple[bytes, ...]:
    """Split BYTES elements, each a u32 length and that many bytes; they must fill `piece` exactly."""
    texts: list[bytes] = []
    at = 0
    while at < len(piece):
        if len(piece) - at < 4 or len(texts) == count:
            raise Malformed("the BYTES elements do not fill binary_data_size exactly")
        (length,) = struct.unpack_from("<I", piece, at)
        at += 4
        if length > len(piece) - at:
            raise Malformed("a BYTES element is longer than what is left of binary_data_size")
        texts.append(bytes(piece[at : at + length]))
        at += length
    if len(texts) != count:
        raise Malformed(f"a BYTES tensor holds {len(texts)} elements, but its shape needs {count}")
    return tuple(texts)


def packed(tensor: Tensor) -> Buffer:
    """Return a tensor's bytes; a text is its u32 length and its bytes."""
    if tensor.array is not None:
        return raw(tensor.array)
    return b"".join(piece for text in tensor.texts for piece in (struct.pack("<I", len(text)), text))


def plain(tensor: Tensor) -> object:
    """Return a tensor as orjson writes it: flat, row-major."""
    if tensor.array is None:
        return [text.decode("utf-8", "replace") for text in tensor.texts]
    assert tensor.datatype not in _BINARY_ONLY
    return np.ascontiguousarray(tensor.array).reshape(-1)


def _dtype(datatype: object) -> np.dtype[Any]:
    dtype = OIP.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise Malformed(f"the datatype of an input is not served; use one of {', '.join(OIP)}, BYTES")
    return dtype
