"""InferTensorContents: the numbers of a tensor as fields of their own type, and its texts.

Under `request`. Packed numbers of fixed width are views of the message, varints are read by numpy.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed, TooLarge
from service.grpc.protobuf import DELIMITED, FIXED32, FIXED64, VARINT, FieldReader, Value, varints
from service.wire.counts import MOST_INPUTS, MOST_TEXT_BYTES
from service.wire.dtypes import OIP, Reserve, settled, size_in_bytes
from service.wire.effort import spend
from service.wire.names import quoted
from service.wire.oip_tensor import TEXT_US, Tensor

VARINT_BYTES = 32  # of memory that a byte of varints takes while it is read
# By datatype: the field of InferTensorContents that its numbers are in. Half precision has none.
CONTENTS = {
    "BOOL": 1,
    **dict.fromkeys(("INT8", "INT16", "INT32"), 2),
    "INT64": 3,
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), 4),
    "UINT64": 5,
    "FP32": 6,
    "FP64": 7,
    "BYTES": 8,
}
CONTENTS_NAMES = ["bool", "int", "int64", "uint", "uint64", "fp32", "fp64", "bytes"]
PLAIN: dict[int, np.dtype[Any]] = {
    6: np.dtype("<f4"),
    7: np.dtype("<f8"),
}  # of contents, those whose bytes are the numbers


def typed(reader: FieldReader, given: dict[str, Any], reserve: Reserve) -> Tensor:
    """Return a tensor of InferTensorContents."""
    name, datatype, shape = given["name"], given["datatype"], given["shape"]
    field = CONTENTS.get(datatype)
    if field is None:
        raise Malformed(f"{datatype} travels in raw_input_contents only, and {quoted(name)} is not there")
    count = size_in_bytes(shape, 1, name=quoted(name))
    contents = given["contents"] if given["contents"] is not None else memoryview(b"")
    found = _numbers(reader, contents, field, datatype)
    if datatype == "BYTES":
        texts = tuple(_texts(found))
        if len(texts) != count:
            raise _unlike(given, len(texts), count)
        return Tensor(name, None, texts, tuple(shape))
    array = _joined(found, field, reserve)
    if array.size != count:
        raise _unlike(given, array.size, count)
    return Tensor(name, _as(datatype, array, reserve).reshape(shape))


def _numbers(reader: FieldReader, contents: memoryview, wanted: int, datatype: str) -> list[Value]:
    """Return what one field of InferTensorContents has; raises Malformed where another has anything."""
    found: list[Value] = []
    alone = {6: FIXED32, 7: FIXED64, 8: DELIMITED}.get(wanted, VARINT)
    for number, kind, value in reader.fields(contents):
        if number == wanted and kind in (DELIMITED, alone):
            found.append(value)
        elif 1 <= number <= len(CONTENTS_NAMES):
            right, wrong = (f"{CONTENTS_NAMES[one - 1]}_contents" for one in (wanted, number))
            raise Malformed(f"{datatype} stands in {right}, and an input has it in {wrong}")
    return found


def _texts(found: list[Value]) -> Iterator[bytes]:
    if len(found) > MOST_INPUTS:
        raise Malformed(f"a BYTES tensor has {len(found)} elements; the limit is {MOST_INPUTS}")
    spend(TEXT_US * len(found))
    for one in found:
        if isinstance(one, int):
            raise Malformed("bytes_contents holds a number")
        if len(one) > MOST_TEXT_BYTES:
            message = f"a text of {len(one)} bytes is over the limit of {MOST_TEXT_BYTES}; split it"
            raise TooLarge(message, code="sequence_too_long")
        yield bytes(one)


def _joined(found: list[Value], field: int, reserve: Reserve) -> NDArray[Any]:
    """Return numbers that came packed, in one piece or several, or one by one; as they are on the wire."""
    plain = PLAIN.get(field)
    dtype = plain or np.dtype(np.uint64)
    arrays: list[NDArray[Any]] = []
    for one in found:
        if isinstance(one, int):
            arrays.append(np.array([one], dtype=np.uint64))
        elif plain is None:
            reserve(VARINT_BYTES * len(one))
            arrays.append(varints(one))
        elif len(one) % plain.itemsize:
            raise Malformed(f"{CONTENTS_NAMES[field - 1]}_contents holds half a number")
        else:
            arrays.append(np.frombuffer(one, dtype=plain))
    if len(arrays) == 1 and arrays[0].flags.aligned:
        return arrays[0]
    if any(array.dtype != dtype for array in arrays):
        raise Malformed(f"{CONTENTS_NAMES[field - 1]}_contents holds whole numbers")
    reserve(sum(array.nbytes for array in arrays))
    return np.concatenate([np.empty(0, dtype=dtype), *arrays])


def _as(datatype: str, array: NDArray[Any], reserve: Reserve) -> NDArray[Any]:
    """Return numbers in their tensor's dtype, or what that is settled to; raises Malformed."""
    dtype = OIP.all[datatype]
    if dtype.kind == "f":
        return array if datatype in OIP.kept else settled(array, name="a tensor", reserve=reserve)
    if dtype.kind == "b":
        return array.astype(np.bool_)
    if dtype.kind == "i":
        array = array.view(np.int64)
    limits = np.iinfo(dtype)
    if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
        raise Malformed(f"a number is beyond {limits.dtype}, which the tensor's datatype says")
    reserve(array.nbytes)
    if datatype in OIP.kept:
        return array.astype(dtype, copy=False)
    return settled(array, name="a tensor", reserve=reserve)


def _unlike(given: dict[str, Any], has: int, needs: int) -> Malformed:
    return Malformed(
        f"contents of {quoted(given['name'])} have {has} elements, but shape {given['shape']} needs {needs}"
    )
