"""One array of a JSON body, from simdjson's proxy to numpy: its shape proved, its numbers copied flat.

simdjson gives the numbers of nested arrays as one buffer without a word on how they were nested. The shape is
read from the lengths of the rows; that no array hides inside a row is left to `check_brackets`, which
the reader of the whole body seldom needs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.errors import Malformed

__all__ = ["JsonTensor", "Kind", "kind_of", "read_tensor"]

Kind = Literal["float", "integer", "mask"]

HIGHEST_RANK = 13  # inside {"inputs": [{…}]}, depth 16 in all
MOST_ROWS = 1 << 20  # each is an object while its length is read
LARGEST_FLOAT = float(np.finfo(np.float32).max)
_MASKED = b"1.7976931348623157e+308"  # stands for null; as a caller's own number it is beyond float32
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
    def of(cls, value: Any, path: str) -> "JsonTensor":
        """Measure a value; raises Malformed if it is no array, ragged, of mixed depth or too deep."""
        if not isinstance(value, simdjson.Array):
            raise Malformed(f"{path} is {kind_of(value)}; give an array")
        shape: list[int] = []
        level: list[Any] = [value]
        arrays = 0
        while True:
            lengths = [len(row) for row in level]
            if lengths.count(lengths[0]) != len(lengths):
                raise _ragged(path, shape, lengths)
            arrays += len(level)
            shape.append(lengths[0])
            if not lengths[0] or not isinstance(level[0][0], simdjson.Array):
                return cls(value, path, tuple(shape), arrays)
            if len(shape) == HIGHEST_RANK:
                raise Malformed(f"{path} nests deeper than {HIGHEST_RANK}")
            if arrays + lengths[0] * len(level) > MOST_ROWS:
                raise Malformed(f"{path} has more than {MOST_ROWS} rows; send it in a binary format")
            level = [item for row in level for item in row]
            if set(map(type, level)) != {simdjson.Array}:
                odd = next(i for i, item in enumerate(level) if not isinstance(item, simdjson.Array))
                raise Malformed(f"{path}{_at(odd, shape)} is {kind_of(level[odd])} beside lists")

    @property
    def size(self) -> int:
        """How many numbers the shape has."""
        return math.prod(self.shape)

    def rows(self) -> Iterator[tuple[str, Any]]:
        """Give every innermost array with its path."""
        level = [self.proxy]
        for _ in self.shape[:-1]:
            level = [item for row in level for item in row]
        for index, row in enumerate(level):
            yield f"{self.path}{_at(index, self.shape[:-1])}", row

    def check_brackets(self) -> None:
        """Raise Malformed if an array hides inside a row; only right for a tensor that holds no strings."""
        if self.proxy.mini.count(b"[") == self.arrays:
            return
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
        at = _at(int(np.argmin(np.isfinite(narrow))), tensor.shape)
        raise Malformed(f"{tensor.path}{at} is beyond float32; the largest is ±{LARGEST_FLOAT:.8e}")
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
    """Read a mask of numbers in which null stands for −inf."""
    text = tensor.proxy.mini
    try:
        numbers = _flat(tensor, simdjson.Parser().parse(text.replace(b"null", _MASKED)), of_type="d").copy()
    except _NotNumbers:
        raise _not_of_type(tensor, (int, float, NoneType), "give numbers and null only") from None
    holes = numbers == float(_MASKED)
    if int(holes.sum()) == text.count(b"null"):  # otherwise a caller wrote the number that stands for null
        numbers[holes] = 0
    narrow = _float32(tensor, numbers)
    narrow.reshape(-1)[holes] = -np.inf
    return narrow


def _at(index: int, shape: "list[int] | tuple[int, ...]") -> str:
    """Return the place of a flat index in an array of this shape, as `[3][7]`."""
    return "".join(f"[{int(i)}]" for i in np.unravel_index(index, tuple(shape))) if shape else ""


def _ragged(path: str, shape: list[int], lengths: list[int]) -> Malformed:
    odd = next(i for i, length in enumerate(lengths) if length != lengths[0])
    return Malformed(
        f"{path}{_at(odd, shape)} has {lengths[odd]} numbers, the row before {lengths[0]}; make them equal"
    )


def _not_of_type(tensor: JsonTensor, types: tuple[type, ...], remedy: str) -> Malformed:
    """Name the first entry that is of none of these types; an integer must fit 64 bits."""
    for path, row in tensor.rows():
        for index, item in enumerate(row):
            if type(item) in types and not (types == (int,) and item >= 2**63):
                continue
            number = "beyond 64 bits" if type(item) is int else "not an integer"
            what = number if types == (int,) and kind_of(item) == "a number" else kind_of(item)
            return Malformed(f"{path}[{index}] is {what}; {remedy}")
    return Malformed(f"{tensor.path} is not an array of one kind; {remedy}")
