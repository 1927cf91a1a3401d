"""One tensor of the Open Inference Protocol: its numbers in JSON, or as bytes after it, both ways."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed, TooLarge
from service.wire.counts import MOST_INPUTS, MOST_TEXT_BYTES
from service.wire.dtypes import OIP, Buffer, Reserve, raw, reserve_nothing, size_in_bytes
from service.wire.effort import spend
from service.wire.json_tensor import Kind

TEXT_US = 0.5  # what one text takes to be read or written, in microseconds
_BINARY_ONLY = {"FP16", "BF16"}
_KINDS: dict[str, Kind] = {
    name: {"f": "float", "b": "mask"}.get(dtype.kind, "integer")  # type: ignore[misc]
    for name, dtype in OIP.all.items()
    if name not in _BINARY_ONLY
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a request or reply: numbers (bfloat16 as uint16 bit patterns), or texts row-major.

    float64 has become float32 and whole numbers of other widths int64, which is then its datatype.
    """

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
        return "BYTES" if self.array is None else OIP.name(self.array)


def from_bytes(
    name: str, datatype: object, shape: list[Any], piece: memoryview, reserve: Reserve = reserve_nothing
) -> Tensor:
    """Return a tensor whose bytes are `piece`, a view of it; raise Malformed unless they fit exactly.

    `reserve` is told of what is no view, before it is made.
    """
    if datatype == "BYTES":
        texts = _texts(piece, count=size_in_bytes(shape, 1, name="a tensor"))
        return Tensor(name, None, texts, tuple(shape))
    dtype = _dtype(datatype)
    expected = size_in_bytes(shape, dtype.itemsize, name="a tensor")
    if len(piece) != expected:
        raise Malformed(
            f"binary_data_size is {len(piece)}, but the tensor's shape and datatype need {expected}"
        )
    return Tensor(name, OIP.read(piece, str(datatype), shape, reserve=reserve))


def json_kind(fields: Mapping[str, Any]) -> Kind | None:
    """Return what the `data` of an input holds; None leaves it to be read as plain JSON, or refused."""
    datatype = fields.get("datatype")
    return _KINDS.get(datatype) if isinstance(datatype, str) else None


def from_json(name: str, fields: dict[str, Any], shape: list[Any]) -> Tensor:
    """Return a tensor whose numbers are the field `data`; raise Malformed unless they fit exactly."""
    datatype, data = fields.get("datatype"), fields["data"]
    if datatype == "BYTES":
        count = size_in_bytes(shape, 1, name="a tensor")
        spend(TEXT_US * (len(data) if isinstance(data, list) else 1))
        flat = isinstance(data, list) and len(data) == count and all(isinstance(one, str) for one in data)
        texts = tuple(text.encode() for text in (data if flat else _nested(data, shape, count=count)))
        return Tensor(name, None, texts, tuple(shape))
    if datatype in _BINARY_ONLY:
        raise Malformed(f"{datatype} travels in binary only; send it with binary_data_size")
    dtype = _dtype(datatype)
    expected = size_in_bytes(shape, dtype.itemsize, name="a tensor") // dtype.itemsize
    if data.size != expected or data.shape not in (tuple(shape), (expected,)):
        raise Malformed(
            f"data of a tensor must hold the {expected} numbers of its shape, flat or nested as it says"
        )
    return Tensor(name, _narrow(data, dtype, kept=datatype in OIP.kept).reshape(shape))


def _narrow(numbers: NDArray[Any], dtype: np.dtype[Any], *, kept: bool) -> NDArray[Any]:
    """Return numbers read from JSON, float32 or int64, in their tensor's dtype where it is one to be kept.

    Raises Malformed where they do not fit it.
    """
    if (numbers.dtype.kind == "b") != (dtype.kind == "b"):
        raise Malformed("data of a BOOL tensor must be true and false")
    if dtype.kind in "iu" and numbers.size:
        limits = np.iinfo(dtype)
        if not (limits.min <= numbers.min() and numbers.max() <= limits.max):
            raise Malformed(f"a number is beyond {limits.dtype}, which the tensor's datatype says")
    return numbers.astype(dtype, copy=False) if kept else numbers


def _nested(data: object, shape: Sequence[int], *, count: int) -> Iterator[str]:
    """Give the texts of a BYTES tensor nested as its shape says, row-major; raises Malformed."""
    if not shape and isinstance(data, str):
        yield data
    elif shape and isinstance(data, list) and len(data) == shape[0]:
        for inner in data:
            yield from _nested(inner, shape[1:], count=count)
    else:
        raise Malformed(
            f"data of a BYTES tensor must hold the {count} strings of its shape, flat or nested as it says"
        )


def _texts(piece: memoryview, *, count: int) -> tuple[bytes, ...]:
    """Split BYTES elements, each a u32 length and that many bytes; they must fill `piece` exactly."""
    if count > MOST_INPUTS:
        raise Malformed(f"a BYTES tensor has {count} elements; the limit is {MOST_INPUTS}")
    spend(TEXT_US * count)
    texts: list[bytes] = []
    at = 0
    while at < len(piece):
        if len(piece) - at < 4 or len(texts) == count:
            raise Malformed("the BYTES elements do not fill the bytes of their tensor exactly")
        (length,) = struct.unpack_from("<I", piece, at)
        at += 4
        if length > len(piece) - at:
            raise Malformed("a BYTES element is longer than what is left of its tensor's bytes")
        if length > MOST_TEXT_BYTES:
            message = f"a text of {length} bytes is over the limit of {MOST_TEXT_BYTES}; split it"
            raise TooLarge(message, code="sequence_too_long")
        texts.append(bytes(piece[at : at + length]))
        at += length
    if len(texts) != count:
        raise Malformed(f"a BYTES tensor holds {len(texts)} elements, but its shape needs {count}")
    return tuple(texts)


def packed(tensor: Tensor) -> Buffer:
    """Return a tensor's bytes; a text is its u32 length and its bytes."""
    if tensor.array is not None:
        return raw(tensor.array)
    spend(TEXT_US * len(tensor.texts))
    return b"".join(piece for text in tensor.texts for piece in (struct.pack("<I", len(text)), text))


def plain(tensor: Tensor) -> object:
    """Return a tensor as orjson writes it: flat, row-major."""
    if tensor.array is None:
        spend(TEXT_US * len(tensor.texts))
        return [text.decode("utf-8", "replace") for text in tensor.texts]
    assert tensor.datatype not in _BINARY_ONLY
    return np.ascontiguousarray(tensor.array).reshape(-1)


def _dtype(datatype: object) -> np.dtype[Any]:
    dtype = OIP.find(datatype)
    if dtype is None:
        names = ", ".join(OIP.all)
        raise Malformed(f"the datatype of an input is not served; use one of {names}, BYTES")
    return dtype
