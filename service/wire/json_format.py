"""JSON, both ways: bytes ↔ numpy without a Python float in between.

In: compiled code lifts the large lists of floats out of a body (`native`); simdjson reads the rest, or all
of it: its flat buffer of doubles, then float32. The buffer hides how the rows were nested, so lengths of rows
are compared, and the brackets of the body counted: as many as there are arrays we know of means that none
hides inside a row. Out: `json_text`, the shortest float32 that reads back equal.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

import simdjson

from service.errors import Invalid, Malformed
from service.wire.compiled.native import Lifted, native
from service.wire.counts import MOST_EDITS_TOGETHER, MOST_INPUTS, MOST_NAMES
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.effort import spend
from service.wire.json_strings import count_byte, require_few_lists, require_few_values, reserve_numbers
from service.wire.json_tensor import HIGHEST_RANK, JsonTensor, Kind, kind_of, read_tensor
from service.wire.json_text import dumps, pieces
from service.wire.names import member, quoted
from service.wire.reply import Reply, in_json

Kinds = Mapping[str, Kind | Callable[[Mapping[str, Any]], Kind | None]]

LISTS = ("inputs", "instances")  # of objects that hold tensors
# Fields of inputs[i] that become arrays; every other value becomes plain Python.
TENSORS: Mapping[str, Kind] = {
    "embeddings": "float",
    "memory": "float",
    "query": "float",
    "key": "float",
    "value": "float",
    "token_ids": "integer",
    "type_ids": "integer",
    "mask": "mask",
}
LIFTED = frozenset(name for name, kind in TENSORS.items() if kind != "integer")
# Fields of inputs[i] that are lists of objects, and which fields of these become arrays where they are lists.
INNER: Mapping[str, Mapping[str, Kind]] = {"edits": {"value": "float"}}

DEEPEST = 16
MOST_FIELDS = 64  # of the body and of each input; other objects have names that callers gave
MOST_VALUES = 1 << 18  # outside tensors
SMALLEST_LIFTED_BODY = 4096  # below it nothing is gained
LARGEST_KEPT_BODY = 4 << 20
VALUE_US, FIELD_US, INPUT_US = 0.6, 1.0, 4.0  # what one takes to be read, in microseconds
MENDED_BYTE_US, LARGEST_MENDED_BODY = 0.05, 8 << 20

# A thread's parser is kept between bodies with its memory, whose page faults would take as long as the
# parsing. It is taken out while in use, for no two documents may share one.
_spare = threading.local()

_REASONS = {
    "EMPTY": "the body is empty; send a JSON object",
    "UTF8_ERROR": "the body is not UTF-8",
    "BIGINT_ERROR": "an integer is beyond 64 bits; write it with an exponent",
    "NUMBER_ERROR": "a number is not written as JSON has it, or is beyond any float",
    "STRING_ERROR": "a string has an escape that is no character, such as half a surrogate pair",
    "UNESCAPED_CHARS": "a string has control characters that must be escaped",
    "UNCLOSED_STRING": "a string has no end",
    "DEPTH_ERROR": f"the body nests deeper than {DEEPEST}",
    "CAPACITY": "the body is larger than the parser reads",
}
_OTHER_REASON = (
    "the body is not one whole JSON document (NaN, Infinity, comments and trailing commas are not JSON)"
)
# A string, or an integer of 19 digits and more that is not part of a fraction or an exponent.
_LONG_INTEGER = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(?<![\d.eE+])(?<![eE]-)\d{19,}+(?![\d.eE])')


def decode(
    body: Buffer,
    reserve: Reserve = reserve_nothing,
    *,
    tensors: Kinds = TENSORS,
    lifted: Collection[str] = LIFTED,
) -> dict[str, Any]:
    """Return a JSON object as plain Python values, the `tensors` of each object of its LISTS as arrays.

    `lifted` are those of them that will be floats or masks, as far as is known: compiled code reads them,
    however long they are. Of all other values there may be about a million. `reserve` is told what reading
    takes, at most. Floats come as float32, integers as int64, masks as bool or float32 (null among their
    numbers is −inf), of the rank they were written in. A tensor given as null is None.

    Raises Malformed, which names the place: not JSON, not an object, a name twice, ragged or mixed rows,
    anything but numbers in a tensor, numbers beyond float32 or int64, nesting deeper than 16. Raises TooLarge
    (payload_too_large) for more values than are parsed.
    """
    require_few_lists(body)
    compiled = native()
    if compiled is not None and lifted and len(body) >= SMALLEST_LIFTED_BODY:
        reserve_numbers(reserve, body, lifted=True)
        without = compiled.lift(body, lifted)
        if without is not None:
            # Whatever is wrong is said of the body as it was sent.
            with contextlib.suppress(Malformed, _Misplaced):
                return _decode(without.text, tensors, without, reserve)
        del without
    return _decode(body, tensors, None, reserve)


class _Misplaced(Exception):
    """A list was lifted out of a place that is not for floats or masks."""


def _decode(body: Buffer, tensors: Kinds, lifted: Lifted | None, reserve: Reserve) -> dict[str, Any]:
    _admit(body, reserve)
    parser: simdjson.Parser = _spare.__dict__.pop("parser", None) or simdjson.Parser()
    root = _parse(parser, body)
    if not isinstance(root, simdjson.Object):
        raise Malformed(f"the body is {kind_of(root)}; send a JSON object")
    reader = _Reader(tensors, lifted)
    envelope = reader.envelope(root)
    reader.check_brackets(body)
    # After an error the parser is dropped: the traceback may still hold what it gave out.
    if len(body) <= LARGEST_KEPT_BODY:
        _spare.parser = parser
    return envelope


def decode_value(text: Buffer, reserve: Reserve = reserve_nothing, *, what: str = "the body") -> Any:
    """Return any JSON value as plain Python, under the guards of `decode`; raises Malformed of `what`."""
    try:
        require_few_lists(text)
        _admit(text, reserve)
        return _Reader({}).plain(_parse(simdjson.Parser(), text), "the value", depth=1)
    except Malformed as error:
        raise Malformed(str(error).replace("the body", what, 1)) from None


def encode(reply: Reply) -> Buffer:
    """Return the contract's reply. Arrays are C-contiguous float32, float16 or int32; −inf, NaN: null."""
    return dumps(in_json(reply))


def encode_pieces(reply: Reply) -> Iterator[Buffer]:
    """Give the same piece by piece, each made when it is asked for."""
    return pieces(in_json(reply))


def _admit(text: Buffer, reserve: Reserve) -> None:
    """Bound what is parsed: its memory, and its values where compiled code takes the large lists."""
    if native() is not None:
        require_few_values(text)
    reserve_numbers(reserve, text, lifted=False)


def _parse(parser: simdjson.Parser, body: Buffer) -> Any:
    """Return simdjson's view of a body, or raise Malformed."""
    try:
        return parser.parse(body)
    except (RuntimeError, ValueError) as error:
        said = str(error)
    if "allocating memory" in said or "MEMALLOC" in said:
        raise MemoryError(said)
    # An integer beyond 64 bits is a number all the same: JavaScript writes 1e20 in digits.
    if ("BIGINT" in said or "NUMBER_ERROR" in said) and len(body) <= LARGEST_MENDED_BODY:
        spend(MENDED_BYTE_US * len(body))
        try:
            return parser.parse(_LONG_INTEGER.sub(_with_fraction, bytes(body)))
        except (RuntimeError, ValueError) as error:
            said = str(error)
    raise Malformed(next((why for code, why in _REASONS.items() if code in said), _OTHER_REASON))


def _with_fraction(match: re.Match[bytes]) -> bytes:
    token = match.group()
    return token if token.startswith(b'"') else token + b".0"


class _Reader:
    """One walk over one document: what it counted so far."""

    def __init__(self, tensors: Kinds, lifted: Lifted | None = None) -> None:
        self._kinds = tensors
        self._lifted = lifted
        self._arrays = 0
        self._values = self._inner = 0
        self._found: list[JsonTensor] = []

    def envelope(self, root: Any) -> dict[str, Any]:
        """Read the root object, whose inputs hold the tensors; raises _Misplaced if one was elsewhere."""
        fields = {
            name: self._inputs(value, name)
            if name in LISTS and isinstance(value, simdjson.Array)
            else self.plain(value, member("", name), depth=2)
            for name, value in self._members(root, "")
        }
        if self._lifted is not None and self._lifted.left:
            raise _Misplaced
        return fields

    def check_brackets(self, body: Buffer) -> None:
        """Raise Malformed if an array hides inside a row of a tensor.

        Every array is a bracket; so is a bracket in a string, and then each tensor is counted by itself.
        """
        if count_byte(body, ord("[")) != self._arrays:
            for tensor in self._found:
                tensor.check_brackets()

    def plain(self, value: Any, path: str, *, depth: int) -> Any:
        """Return a value outside tensors as plain Python."""
        self._count(path)
        if depth > DEEPEST and isinstance(value, simdjson.Array | simdjson.Object):
            raise Malformed(f"the body nests deeper than {DEEPEST}")
        if isinstance(value, simdjson.Array):
            spend(VALUE_US * len(value))
            self._arrays += 1
            return [self.plain(item, path, depth=depth + 1) for item in value]
        if isinstance(value, simdjson.Object):
            return {
                name: self.plain(item, member(path, name), depth=depth + 1)
                for name, item in self._members(value, path, most=MOST_NAMES)
            }
        return value

    def _inputs(self, array: Any, name: str) -> list[Any]:
        if len(array) > MOST_INPUTS:
            raise Invalid(f"{name} has {len(array)} items; give at most {MOST_INPUTS}")
        return self._objects(array, name, self._kinds, depth=3)

    def _objects(self, array: Any, path: str, kinds: Kinds, *, depth: int) -> list[Any]:
        spend(INPUT_US * len(array))
        self._arrays += 1
        places = ((f"{path}[{index}]", value) for index, value in enumerate(array))
        return [
            self._object(value, where, kinds, depth=depth)
            if isinstance(value, simdjson.Object)
            else self.plain(value, where, depth=depth)
            for where, value in places
        ]

    def _object(self, value: Any, path: str, kinds: Kinds, *, depth: int) -> dict[str, Any]:
        """Read an input, or one of a list of objects in it, where other values may stand for arrays."""
        self._count(path)
        inner = kinds is not self._kinds
        fields: dict[str, Any] = {}
        members = self._members(value, path)
        for name, item in members:
            kind = kinds.get(name)
            if callable(kind):
                kind = kind(dict(members))
            where = member(path, name)
            if kind is not None and (not inner or isinstance(item, simdjson.Array | str)):
                fields[name] = self._tensor(item, where, kind=kind, inner=inner)
            elif name in INNER and not inner and isinstance(item, simdjson.Array):
                self._inner += len(item)
                if self._inner > MOST_EDITS_TOGETHER:
                    raise Invalid(
                        f"the inputs have over {MOST_EDITS_TOGETHER} {name} together; send fewer at a time"
                    )
                fields[name] = self._objects(item, where, INNER[name], depth=depth + 2)
            else:
                fields[name] = self.plain(item, where, depth=depth + 1)
        return fields

    def _tensor(self, value: Any, path: str, *, kind: Kind, inner: bool = False) -> Any:
        self._count(path)
        if value is None:
            return None
        if isinstance(value, str):
            array = None if self._lifted is None else self._lifted.take(value, kind)
            if array is not None or inner:
                return value if array is None else array
        tensor = JsonTensor.of(value, path, highest=HIGHEST_RANK - 2 * inner)
        self._arrays += tensor.arrays
        self._found.append(tensor)
        return read_tensor(tensor, kind=kind)

    def _members(self, value: Any, path: str, *, most: int = MOST_FIELDS) -> list[tuple[str, Any]]:
        """Return an object's members; names given twice, and too many of them, are refused."""
        where = path or "the body"
        if len(value) > most:
            raise Malformed(f"{where} has {len(value)} fields; the limit is {most}")
        spend(FIELD_US * len(value))
        names: list[str] = list(value.keys())
        if len(set(names)) != len(names):
            names.sort()
            twice = next(first for first, second in pairwise(names) if first == second)
            raise Malformed(f"{where} has the field {quoted(twice)} twice")
        if any("\0" in name for name in names):  # the lookup below ends a name there
            raise Malformed(f"{where} has a field with a NUL character in its name")
        return [(name, value[name]) for name in names]  # items() would make lists of the arrays

    def _count(self, path: str) -> None:
        self._values += 1
        if self._values > MOST_VALUES:
            raise Malformed(
                f"the body has more than {MOST_VALUES} values outside the tensors of its inputs, at {path}; "
                "send fewer at a time"
            )
