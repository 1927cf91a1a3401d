"""A ModelInferRequest, read into what the other forms of the Open Inference Protocol are read into.

Tensors are views of the message; which of them a model takes is not known here. Sources:
open-inference-protocol `specification/protocol/open_inference_grpc.proto`; of parameters, `double_param` and
`uint64_param` are Triton's.
"""

from typing import Any

import numpy as np

from service.errors import Malformed
from service.grpc.contents import typed
from service.grpc.protobuf import (
    DELIMITED,
    FIXED64,
    VARINT,
    FieldReader,
    Value,
    double,
    read_varint,
    signed,
    text,
)
from service.wire.dtypes import OIP, Buffer, Reserve, size_in_bytes
from service.wire.effort import spend
from service.wire.names import quoted
from service.wire.oip import ENTRY_US, InferRequest, Requested, checked_id, strangers
from service.wire.oip_tensor import Tensor, from_bytes

SHAPE_BYTES = 8 * 80  # of a shape are looked at; eight sizes of the largest kind take fewer


def read_request(body: Buffer, reserve: Reserve) -> tuple[str, str, InferRequest]:
    """Return the names of model and version, and the request; `reserve` is told of what is no view.

    Raises Malformed where the bytes are no such message or disagree with each other, Invalid for parameters
    that ask for what is not offered, TooLarge for a text over the limit.
    """
    reader = FieldReader()
    names = {1: "", 2: "", 3: ""}  # of the model, of its version, the request's id
    parameters: dict[str, Any] = {}
    inputs: list[dict[str, Any]] = []
    outputs: list[Requested] = []
    raw: list[memoryview] = []
    ignored: set[str] = set()
    for number, kind, value in reader.fields(memoryview(body)):
        if kind != DELIMITED:
            continue
        assert isinstance(value, memoryview)
        if number in names:
            names[number] = text(value, ("the model's name", "the version", "the id")[number - 1])
        elif number == 4:
            parameters.update(_entry(reader, value))
        elif number == 5:
            inputs.append(_input(reader, value, ignored))
        elif number == 6:
            outputs.append(_output(reader, value, ignored))
        elif number == 7:
            raw.append(value)
    parameters.pop("binary_data_output", None)  # they are, always
    if len({output.name for output in outputs}) != len(outputs):
        raise Malformed("an output is asked for twice")
    request = InferRequest(
        inputs=_tensors(reader, inputs, raw, reserve),
        outputs=tuple(outputs) or None,
        parameters={name: value for name, value in parameters.items() if value is not None},
        id=checked_id(names[3] or None),
        binary=True,
        ignored=tuple(sorted(ignored)),
    )
    return names[1], names[2], request


def _entry(reader: FieldReader, piece: memoryview) -> dict[str, Any]:
    """Return one entry of a map of InferParameter; of a parameter that says nothing, None."""
    name, found = "", None
    for number, kind, value in reader.fields(piece):
        if (number, kind) == (1, DELIMITED):
            name = text(value, "the name of a parameter")
        elif (number, kind) == (2, DELIMITED):
            assert isinstance(value, memoryview)
            found = _parameter(reader, value, name)
    return {name: found}


def _parameter(reader: FieldReader, piece: memoryview, name: str) -> bool | int | float | str | None:
    found: bool | int | float | str | None = None
    for number, kind, value in reader.fields(piece):
        if kind == VARINT and number in (1, 2, 5):
            assert isinstance(value, int)
            found = bool(value) if number == 1 else signed(value) if number == 2 else value
        elif (number, kind) == (3, DELIMITED):
            found = text(value, f"the parameter {quoted(name)}")
        elif (number, kind) == (4, FIXED64):
            found = double(value)
    return found


def _input(reader: FieldReader, piece: memoryview, ignored: set[str]) -> dict[str, Any]:
    """Return name, datatype, shape and, where there are any, contents of one InferInputTensor."""
    spend(ENTRY_US)
    found: dict[str, Any] = {"name": "", "datatype": "", "shape": [], "contents": None}
    parameters: dict[str, Any] = {}
    for number, kind, value in reader.fields(piece):
        if number == 3 and kind in (VARINT, DELIMITED):
            found["shape"] += _sizes(value)
        elif kind != DELIMITED:
            continue
        elif number in (1, 2):
            key = ("name", "datatype")[number - 1]
            found[key] = text(value, f"the {key} of an input")
        elif number == 4:
            assert isinstance(value, memoryview)
            parameters.update(_entry(reader, value))
        elif number == 5:
            found["contents"] = value
    if not found["name"]:
        raise Malformed("every input needs a name")
    ignored |= strangers(parameters, "binary_data_size", "an input")
    return found


def _sizes(value: Value) -> list[int]:
    """Return sizes of a shape, packed or one by one."""
    if isinstance(value, int):
        return [signed(value)]
    if len(value) > SHAPE_BYTES:
        raise Malformed(f"a shape takes {len(value)} bytes; no tensor has so many axes")
    sizes, at = [], 0
    while at < len(value):
        size, at = read_varint(value, at)
        sizes.append(signed(size))
    return sizes


def _output(reader: FieldReader, piece: memoryview, ignored: set[str]) -> Requested:
    """Return one InferRequestedOutputTensor; outputs come as bytes, whatever it says."""
    spend(ENTRY_US)
    name, parameters = "", {}
    for number, kind, value in reader.fields(piece):
        if (number, kind) == (1, DELIMITED):
            name = text(value, "the name of an output")
        elif (number, kind) == (2, DELIMITED):
            assert isinstance(value, memoryview)
            parameters.update(_entry(reader, value))
    if not name:
        raise Malformed("every output needs a name")
    ignored |= strangers(parameters, "binary_data", "an output")
    return Requested(name, binary=True)


def _tensors(
    reader: FieldReader, inputs: list[dict[str, Any]], raw: list[memoryview], reserve: Reserve
) -> dict[str, Tensor]:
    if not inputs:
        raise Malformed("the request has no inputs; give at least one tensor")
    if raw and len(raw) != len(inputs):
        raise Malformed(
            f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs; give one for each, or none"
        )
    found: dict[str, Tensor] = {}
    for place, given in enumerate(inputs):
        name = given["name"]
        if name in found:
            raise Malformed(f"the input {quoted(name)} is given twice")
        if raw and given["contents"]:
            raise Malformed(f"the input {quoted(name)} has contents, and raw_input_contents is there too")
        if given["datatype"] not in OIP.all and given["datatype"] != "BYTES":
            names = ", ".join(OIP.all)
            raise Malformed(f"the datatype of {quoted(name)} is not served; use one of {names}, BYTES")
        found[name] = _raw(given, raw[place], reserve) if raw else typed(reader, given, reserve)
    return found


def _raw(given: dict[str, Any], piece: memoryview, reserve: Reserve) -> Tensor:
    """Return a tensor of raw_input_contents; copied where it does not lie as numbers must."""
    name, datatype, shape = given["name"], given["datatype"], given["shape"]
    if datatype != "BYTES":
        dtype = OIP.all[datatype]
        needed = size_in_bytes(shape, dtype.itemsize, name=quoted(name))
        if len(piece) != needed:
            raise Malformed(
                f"raw_input_contents of {quoted(name)} has {len(piece)} bytes, but shape {shape} of "
                f"{datatype} needs {needed}"
            )
        if piece and np.frombuffer(piece, np.uint8).ctypes.data % dtype.itemsize:
            reserve(len(piece))
    return from_bytes(name, datatype, shape, piece, reserve)
