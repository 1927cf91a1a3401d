"""Open Inference Protocol v2 bodies, JSON with or without the binary tensor extension, both ways.

Sources: open-inference-protocol `specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`. Which tensors a model takes is not known here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from numpy.typing import NDArray

from service.errors import Invalid, Malformed
from service.wire import json_format
from service.wire.dtypes import OIP, Buffer, Reserve, reserve_nothing, view
from service.wire.effort import spend
from service.wire.json_text import dumps, pieces
from service.wire.names import misspelt, quoted
from service.wire.oip_tensor import Tensor, from_bytes, from_json, json_kind, packed, plain

_FIELDS = {"id", "inputs", "model_name", "model_version", "outputs", "parameters"}
_INPUT_FIELDS = {"data", "datatype", "name", "parameters", "shape"}
_LARGEST_ID = 256
ENTRY_US, STRANGER_US = 5.0, 4.0  # what one takes to be read, in microseconds
_OURS = ("binary_data", "binary_data_output", "binary_data_size")  # parameters that say something here
_NOT_OFFERED = ("classification", "shared_memory")  # ... and what they begin with that ask for what is not

# A client's JSON before its tensors is the same again and again, but for the number of rows: what was read of
# it is kept, and not changed.
_LARGEST_KNOWN = 2048
_MOST_KNOWN = 512

KINDS = {"data": json_kind}
_LIFTED = (b'"FP32"', b'"FP64"', b'"BOOL"')  # datatypes whose numbers compiled code reads
_FIRST_BYTES = 2048  # of a body say of what datatype its first tensor is, as clients write it


@dataclass(frozen=True, slots=True)
class Requested:
    """One output asked for, and whether its numbers follow the JSON as bytes."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. `outputs` None: none was named; `binary` then says how to send them.

    `ignored`: names of parameters of inputs and outputs that mean nothing here. `matrices`: tensors of edits,
    by the numbers of input and edit; `inputs` are without them once the request is settled.
    """

    inputs: dict[str, Tensor]
    outputs: tuple[Requested, ...] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    binary: bool = False
    ignored: tuple[str, ...] = ()
    matrices: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body in pieces; `header_length` is the value of Inference-Header-Content-Length, None without."""

    buffers: list[Buffer]
    header_length: int | None


def decode(body: Buffer, header_length: int | None, reserve: Reserve = reserve_nothing) -> InferRequest:
    """Return the request of a body whose first `header_length` bytes are JSON (None: all of it).

    `reserve` is told of what is no view of the body, before it is made.

    Raises Malformed where a length disagrees with another or the JSON is none, Invalid for names it
    does not know and for features that are not offered.
    """
    if header_length is not None and not 0 < header_length <= len(body):
        raise Malformed(
            f"Inference-Header-Content-Length is {header_length}, but the body has {len(body)} bytes"
        )
    if header_length is None or header_length > _LARGEST_KNOWN:
        lifted = lifted_in(body)
        fields = json_format.decode(body[:header_length], tensors=KINDS, lifted=lifted, reserve=reserve)
    else:
        fields = _known(bytes(body[:header_length]))
    return request_of(
        fields, memoryview(body)[len(body) if header_length is None else header_length :], reserve
    )


def lifted_in(body: Buffer) -> tuple[str, ...]:
    """Return which fields hold numbers that compiled code reads, as the first bytes of a body say."""
    head = bytes(body[:_FIRST_BYTES])
    return ("data",) if any(name in head for name in _LIFTED) else ()


def request_of(fields: dict[str, Any], tail: memoryview, reserve: Reserve = reserve_nothing) -> InferRequest:
    """Return the request of a body's JSON, its tensors read as KINDS say, and of the bytes behind it.

    Raises as `decode` does.
    """
    if fields.keys() - _FIELDS:
        raise Invalid("the request has an unknown field; known: " + ", ".join(sorted(_FIELDS)))
    fields = _object(fields, "the body")
    parameters = dict(_object(fields.get("parameters", {}), "parameters"))
    binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    ignored: set[str] = set()
    return InferRequest(
        inputs=_inputs(fields.get("inputs"), tail, ignored=ignored, reserve=reserve),
        outputs=_outputs(fields.get("outputs"), binary=binary, ignored=ignored),
        parameters=parameters,
        id=checked_id(fields.get("id")),
        binary=binary,
        ignored=tuple(sorted(ignored)),
    )


def decode_raw(body: Buffer, name: str, *, width: int) -> InferRequest:
    """Return the request of a raw body: float32 rows of `width` numbers; its reply is binary."""
    rows, rest = divmod(len(body), 4 * width)
    if rest or not rows:
        raise Malformed(
            f"a raw body for {name} must hold rows of {width} float32 numbers, {4 * width} bytes each; "
            f"it has {len(body)} bytes"
        )
    array = view(body, OIP.kept["FP32"], (rows, width), offset=0, name=name)
    return InferRequest(inputs={name: Tensor(name, array)}, binary=True)


def encode(
    outputs: Sequence[tuple[Tensor, bool]],
    *,
    model_name: str,
    model_version: str,
    request_id: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> Encoded:
    """Return the reply with each output as bytes after the JSON (True) or numbers in it (False).

    float16 and bfloat16 must be binary. In JSON, numbers that are not finite are null.
    """
    reply, tail = _reply(outputs, model_name, model_version, request_id, parameters)
    text = dumps(reply)
    return Encoded([text, *tail], len(text) if _is_binary(outputs) else None)


def encode_pieces(
    outputs: Sequence[tuple[Tensor, bool]],
    *,
    model_name: str,
    model_version: str,
    request_id: str | None = None,
    parameters: dict[str, Any] | None = None,
) -> Iterator[Buffer]:
    """Give the same piece by piece, each made when it is asked for; only where no output is binary."""
    assert not _is_binary(outputs)
    return pieces(_reply(outputs, model_name, model_version, request_id, parameters)[0])


def _is_binary(outputs: Sequence[tuple[Tensor, bool]]) -> bool:
    return any(binary for _, binary in outputs)


def _reply(
    outputs: Sequence[tuple[Tensor, bool]],
    model_name: str,
    model_version: str,
    request_id: str | None,
    parameters: dict[str, Any] | None,
) -> tuple[dict[str, Any], list[Buffer]]:
    """Return what is JSON of a reply, and the bytes behind it."""
    described: list[dict[str, Any]] = []
    tail: list[Buffer] = []
    for tensor, binary in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary:
            piece = packed(tensor)
            entry["parameters"] = {"binary_data_size": len(piece)}
            tail.append(piece)
        else:
            entry["data"] = plain(tensor)
        described.append(entry)
    reply: dict[str, Any] = {"model_name": model_name, "model_version": model_version, "outputs": described}
    if request_id is not None:
        reply["id"] = request_id
    if parameters:
        reply["parameters"] = parameters
    return reply, [piece for piece in tail if len(piece)]


@lru_cache(maxsize=_MOST_KNOWN)
def _known(text: bytes) -> dict[str, Any]:
    return json_format.decode(text, tensors=KINDS)


def _inputs(entries: object, tail: memoryview, *, ignored: set[str], reserve: Reserve) -> dict[str, Tensor]:
    if not isinstance(entries, list) or not entries:
        raise Malformed("inputs must be a list of at least one tensor")
    spend(ENTRY_US * len(entries))
    found: dict[str, Tensor] = {}
    at = 0
    for entry in entries:
        fields = _object(entry, "an input")
        if entry.keys() - _INPUT_FIELDS:
            raise Invalid("an input has an unknown field; known: " + ", ".join(sorted(_INPUT_FIELDS)))
        name, shape = fields.get("name"), fields.get("shape")
        if not isinstance(name, str) or not isinstance(shape, list):
            raise Malformed("every input needs a name, a string, and a shape, a list of integers")
        if name in found:
            raise Malformed("an input is given twice")
        size = _binary_size(fields, left=len(tail) - at, ignored=ignored)
        if size is None:
            found[name] = from_json(name, fields, shape)
        else:
            piece = tail[at : at + size]
            found[name] = from_bytes(name, fields.get("datatype"), shape, piece, reserve)
            at += size
    if at != len(tail):
        raise Malformed(f"{len(tail)} bytes follow the JSON, but binary_data_size adds up to {at}")
    return found


def _binary_size(fields: dict[str, Any], *, left: int, ignored: set[str]) -> int | None:
    """Return the bytes an input has after the JSON, None where its numbers are in the JSON."""
    parameters = _object(fields.get("parameters", {}), "the parameters of an input")
    size = parameters.get("binary_data_size")
    ignored |= strangers(parameters, "binary_data_size", "an input")
    if (size is None) == ("data" not in fields):
        raise Malformed("an input needs either data or binary_data_size")
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= left:
        raise Malformed(f"binary_data_size must be an integer from 0 to the {left} bytes that are left")
    return size


def strangers(parameters: Mapping[str, Any], known: str, what: str) -> set[str]:
    """Return the names of parameters that mean nothing here; raise Invalid for what looks like ours."""
    if len(parameters) == (known in parameters):
        return set()
    unknown = parameters.keys() - {known}
    spend(STRANGER_US * len(unknown))
    for name in unknown:
        if name.startswith(_NOT_OFFERED):
            raise Invalid(f"{quoted(name)} asks for what is not offered here; leave it out")
        if near := misspelt(name, _OURS):
            raise Invalid(f"{quoted(name)} is no parameter of {what}, and like {near}; it has {known}")
    return unknown


def _outputs(entries: object, *, binary: bool, ignored: set[str]) -> tuple[Requested, ...] | None:
    if entries is None or entries == []:
        return None
    if not isinstance(entries, list):
        raise Malformed("outputs must be a list")
    spend(ENTRY_US * len(entries))
    found: list[Requested] = []
    for entry in entries:
        fields = _object(entry, "an output")
        if entry.keys() - {"name", "parameters"} or not isinstance(fields.get("name"), str):
            raise Malformed("every output needs a name, and may have parameters")
        parameters = _object(fields.get("parameters", {}), "the parameters of an output")
        ignored |= strangers(parameters, "binary_data", "an output")
        found.append(Requested(fields["name"], _flag(parameters.get("binary_data", binary), "binary_data")))
    if len({output.name for output in found}) != len(found):
        raise Malformed("an output is asked for twice")
    return tuple(found)


def _object(value: object, what: str) -> dict[str, Any]:
    """Return an object's fields without those that are null, which is as good as absent."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} must be an object")
    return {name: field for name, field in value.items() if field is not None}


def _flag(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise Malformed(f"{what} must be true or false")
    return value


def checked_id(value: object) -> str | None:
    """Return the id of a request, None where it has none; raises Malformed."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LARGEST_ID:
        raise Malformed(f"id must be a string of at most {_LARGEST_ID} characters")
    return value
