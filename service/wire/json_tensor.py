"""One array of a JSON body, from simdjson's proxy to numpy: its shape proved, its numbers copied flat.

simdjson gives the numbers of nested arrays as one buffer without a word on how they were nested. The shape is
read from the lengths of the rows; that no array hides inside a row is left to `check_brackets`, which
the reader of the whole body seldom needs.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.errors import Malformed
from service.wire.effort import spend

Kind = Literal["float", "integer", "mask"]

HIGHEST_RANK = 13  # inside {"inputs": [{…}]}, depth 16 in all
MOST_ROWS = 1 << 20
ROW_US, ENTRY_US = 0.4, 0.15  # what one takes to be looked at, in microseconds
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_MASKED = b"1e99"  # stands for null, as long; as a caller's own number it is beyond float32
PART_BYTES = 1 << 18  # of a mask with null that is read at a time
_KINDS = {simdjson.Array: "a list", simdjson.Object: "an object", str: "a string", bool: "a boolean"}


def kind_of(value: object) -> str:
    """Return what JSON calls a parsed value, with its article."""
    return "null" if value is None else _KINDS.get(type(value), "a number")


@dataclass(frozen=True, slots=True)
class JsonTensor:
    """An array whose rows agree in length at every level that begins with an array.

    `shape` as the rows say; `arrays`: how many arrays, the outermost included, that shape is made of.
    """

    proxy: Any
    path: str
    shape: tuple[int, ...]
    arrays: int

    @classmethod
    def of(cls, value: Any, path: str, *, highest: int = HIGHEST_RANK) -> "JsonTensor":
        """Measure a value; raises Malformed if it is no array, ragged, of mixed depth or too deep."""
        if not isinstance(value, simdjson.Array):
            raise Malformed(f"{path} is {kind_of(value)}; give an array")
        shape: list[int] = []
        first: Any = value
        while isinstance(first, simdjson.Array):
            if len(shape) == highest:
                raise Malformed(f"{path} nests deeper than {highest}")
            shape.append(len(first))
            first = first[0] if shape[-1] else None
        level: Iterable[Any] = [value]
        arrays = 1
        for axis, length in enumerate(shape[1:], 1):
            count = math.prod(shape[:axis])
            if arrays + count > MOST_ROWS:
                raise Malformed(f"{path} has more than {MOST_ROWS} rows; send it in a binary format")
            arrays += count
            spend(ROW_US * count)
            inner = (item for row in level for item in row)
            # Each is an object while it is looked at; those of the last axis are not kept.
            level = inner if axis == len(shape) - 1 else list(inner)
            for index, item in enumerate(level):
                if type(item) is not simdjson.Array:
                    raise Malformed(f"{path}{_at(index, shape[:axis])} is {kind_of(item)} beside lists")
                if len(item) != length:
                    raise _ragged(path, index, shape[:axis], length=len(item), before=length)
        return cls(value, path, tuple(shape), arrays)

    @property
    def size(self) -> int:
        """How many numbers the shape has."""
        return math.prod(self.shape)

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Give every innermost array with its path."""
        level: Iterator[Any] = iter([self.proxy])
        for _ in self.shape[:-1]:
            level = itertools.chain.from_iterable(level)
        for index, row in enumerate(level):
            yield f"{self.path}{_at(index, self.shape[:-1])}", row

    def check_brackets(self) -> None:
        """Raise Malformed if an array hides inside a row; only right for a tensor that holds no strings."""
        if self.proxy.mini.count(b"[") == self.arrays:
            return
        spend(ENTRY_US * self.size)
        for path, row in self.rows():
            for index, item in enumerate(row):
                if isinstance(item, simdjson.Array):
                    raise Malformed(f"{path}[{index}] is a list beside numbers")


class _NotNumbers(Exception):
    """simdjson met something in an array that is not of the wanted type."""


def read_tensor(tensor: JsonTensor, *, kind: Kind) -> NDArray[Any]:
    """Return float32, int64 or a mask (bool, or float32 where it has numbers); raises Malformed."""
    if kind == "mask":
        return _mask(tensor)
    try:
        if kind == "float":
            return _float32(tensor, _flat(tensor, tensor.proxy, of_type="d"))
        integers: NDArray[np.int64] = _flat(tensor, tensor.proxy, of_type="i")
        return integers.reshape(tensor.shape)
    except _NotNumbers:
        if kind == "float":
            raise _not_of_type(tensor, (int, float), "give numbers only") from None
        raise _not_of_type(tensor, (int,), "give 64-bit integers only") from None


def _flat(tensor: JsonTensor, proxy: Any, *, of_type: Literal["d", "i"]) -> NDArray[Any]:
    """Return the numbers of an array as float64 ("d") or int64 ("i"), flat."""
    dtype = np.float64 if of_type == "d" else np.int64
    if not tensor.size:
        return np.zeros(0, dtype)
    try:
        buffer = proxy.as_buffer(of_type=of_type)
    except (TypeError, ValueError):
        raise _NotNumbers from None
    numbers: NDArray[Any] = np.frombuffer(buffer, dtype)
    if numbers.size != tensor.size:
        tensor.check_brackets()
        # simdjson counts the items of one array up to 2^24 − 1.
        raise Malformed(f"{tensor.path} has {numbers.size} numbers, more than one array may have")
    return numbers


def _float32(tensor: JsonTensor, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise _beyond(tensor, int(np.argmin(np.isfinite(narrow))))
    return narrow.reshape(tensor.shape)


def _mask(tensor: JsonTensor) -> NDArray[Any]:
    """Return bool where the first entry is true or false, else float32 with −inf where null stands."""
    if not tensor.size:
        return np.zeros(tensor.shape, np.bool_)
    _, row = next(tensor.rows())
    if isinstance(row[0], bool):
        return _booleans(tensor)
    try:
        return _float32(tensor, _flat(tensor, tensor.proxy, of_type="d"))
    except _NotNumbers:
        return _with_nulls(tensor)


def _booleans(tensor: JsonTensor) -> NDArray[np.bool_]:
    text = tensor.proxy.mini
    # Of true there remains t, of false f, of anything else something else.
    marks = np.frombuffer(text.translate(None, b"[],rueals"), np.uint8)
    allowed: NDArray[np.bool_] = marks == ord("t")
    if marks.size != tensor.size or not (allowed | (marks == ord("f"))).all():
        raise _not_of_type(tensor, (bool,), "give true and false only")
    if text.count(b"[") != tensor.arrays:
        tensor.check_brackets()
    return allowed.reshape(tensor.shape)


def _with_nulls(tensor: JsonTensor) -> NDArray[np.float32]:
    """Read a mask of numbers in which null stands for −inf, a part at a time, as each takes many bytes."""
    flat = tensor.proxy.mini
    if flat.count(b"[") != tensor.arrays:
        tensor.check_brackets()
    flat = flat.translate(None, b"[]")
    numbers = np.empty(tensor.size, np.float32)
    start = filled = 0
    while start < len(flat):
        comma = flat.find(b",", start + PART_BYTES)
        end = len(flat) if comma < 0 else comma
        part = _part_with_nulls(tensor, flat[start:end])
        if filled + part.size > numbers.size:
            break
        numbers[filled : filled + part.size] = part
        filled += part.size
        start = end + 1
    if filled != tensor.size or end < len(flat):
        raise Malformed(f"{tensor.path} has more numbers than one array may have")  # 2^24 − 1 to simdjson
    beyond = np.isposinf(numbers)
    if beyond.any():
        raise _beyond(tensor, int(np.argmax(beyond)))
    return numbers.reshape(tensor.shape)


def _part_with_nulls(tensor: JsonTensor, text: bytes) -> NDArray[np.float32]:
    """Return some numbers, −inf where null stands; +inf for what is beyond float32."""
    try:
        document: Any = simdjson.Parser().parse(b"[" + text.replace(b"null", _MASKED) + b"]")
        wide = np.frombuffer(document.as_buffer(of_type="d"), np.float64)
    except (TypeError, ValueError):
        raise _no_mask(tensor) from None
    holes = wide == float(_MASKED)
    with np.errstate(over="ignore"):
        numbers = wide.astype(np.float32)
    numbers[np.isinf(numbers)] = np.inf
    if int(holes.sum()) == text.count(b"null"):  # otherwise a caller wrote the number that stands for null
        numbers[holes] = -np.inf
    return numbers


def _no_mask(tensor: JsonTensor) -> Malformed:
    return _not_of_type(tensor, (int, float, NoneType), "give numbers and null only")


def _beyond(tensor: JsonTensor, index: int) -> Malformed:
    at = _at(index, tensor.shape)
    return Malformed(f"{tensor.path}{at} is beyond float32; the largest is ±{LARGEST_FLOAT:.8e}")


def _at(index: int, shape: "list[int] | tuple[int, ...]") -> str:
    """Return the place of a flat index in an array of this shape, as `[3][7]`."""
    return "".join(f"[{int(i)}]" for i in np.unravel_index(index, tuple(shape))) if shape else ""


def _ragged(path: str, index: int, shape: list[int], *, length: int, before: int) -> Malformed:
    return Malformed(
        f"{path}{_at(index, shape)} has {length} numbers, the row before {before}; make them equal"
    )


def _not_of_type(tensor: JsonTensor, types: tuple[type, ...], remedy: str) -> Malformed:
    """Name the first entry that is of none of these types; an integer must fit 64 bits."""
    spend(ENTRY_US * tensor.size)
    for path, row in tensor.rows():
        for index, item in enumerate(row):
            if type(item) in types and not (types == (int,) and item >= 2**63):
                continue
            number = "beyond 64 bits" if type(item) is int else "not an integer"
            what = number if types == (int,) and kind_of(item) == "a number" else kind_of(item)
            return Malformed(f"{path}[{index}] is {what}; {remedy}")
    return Malformed(f"{tensor.path} is not an array of one kind; {remedy}")
