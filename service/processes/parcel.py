"""What crosses between processes: plain data as JSON, arrays through shared memory. Nothing is unpickled.

A parcel is a frozen dataclass of `models.protocol` and what it holds. Cards cross once, when they change; an
Item names its card by number.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.outputs import Selection
from models.protocol import QKV, Answer, BatchResult, Failure, Item, ModelCard, PooledCard, Text, Tokens
from models.spec import AttentionSpec

__all__ = ["Arena", "pack", "unpack"]

KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        Answer,
        AttentionSpec,
        BatchResult,
        Failure,
        Item,
        ModelCard,
        PooledCard,
        QKV,
        Selection,
        Text,
        Tokens,
    )
}
PLAIN = frozenset({int, str, float, bool, type(None)})
ALIGNMENT = 64
LEAST_BYTES = 1 << 20
KEPT_BYTES = 64 << 20  # that stay in memory between batches

Number = Callable[[ModelCard], int]
Put = Callable[[NDArray[Any]], list[Any]]
Get = Callable[[list[Any]], NDArray[Any]]
Card = Callable[[int], ModelCard]


def pack(value: Any, *, put: Put, number: Number | None = None) -> Any:
    """Return a value as JSON can carry it; `put` takes its arrays, `number` names its cards."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return {"array": put(value)}
    if isinstance(value, tuple | list):
        if all(type(one) in PLAIN for one in value):
            return value
        return [pack(one, put=put, number=number) for one in value]
    if isinstance(value, dict):
        return {"map": {name: pack(one, put=put, number=number) for name, one in value.items()}}
    if isinstance(value, ModelCard) and number is not None:
        return {"card": number(value)}
    assert is_dataclass(value)
    held = {
        one.name: pack(getattr(value, one.name), put=put, number=number)
        for one in fields(value)
        if one.name != "handle"  # means something in its own process only
    }
    return {"kind": type(value).__name__, "fields": held}


def unpack(value: Any, *, get: Get, card: Card | None = None) -> Any:
    """Return what `pack` was given; every list comes back as a tuple."""
    if isinstance(value, list):
        if all(type(one) in PLAIN for one in value):
            return tuple(value)
        return tuple(unpack(one, get=get, card=card) for one in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return get(value["array"])
    if "map" in value:
        return {name: unpack(one, get=get, card=card) for name, one in value["map"].items()}
    if "card" in value:
        assert card is not None
        return card(value["card"])
    held = {name: unpack(one, get=get, card=card) for name, one in value["fields"].items()}
    return KINDS[value["kind"]](**held)


class Arena:
    """Shared memory that one process writes and another reads; grows as needed, used like a stack.

    `fd` is a memory file (memfd_create(2)) that both have open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = 0
        self._map: mmap.mmap | None = None
        self._high = 0  # bytes that were used at the most since the last `trim`
        self.top = 0  # where the next array goes

    def put(self, array: NDArray[Any]) -> list[Any]:
        """Copy an array in; return where it is, for `look`."""
        at = -(-self.top // ALIGNMENT) * ALIGNMENT
        self.top = at + array.nbytes
        if self.top > self._size:
            os.ftruncate(self._fd, max(self.top, 2 * self._size, LEAST_BYTES))
        place = [at, array.dtype.str, array.shape]
        self.look(place)[...] = array
        return place

    def look(self, place: list[Any]) -> NDArray[Any]:
        """Return the array at a place, as a view."""
        at, dtype, shape = place
        view: NDArray[Any] = np.empty(0, dtype=dtype)
        count = int(np.prod(shape, dtype=np.int64))
        if not count:
            return np.empty(shape, dtype=dtype)
        end = at + count * view.itemsize
        self._high = max(self._high, end)
        if end > self._size or self._map is None:
            self._size = os.fstat(self._fd).st_size
            self._map = mmap.mmap(self._fd, self._size)
        view = np.frombuffer(self._map, dtype=dtype, count=count, offset=at)
        return view.reshape(shape)

    def rewind(self, top: int) -> None:
        """Forget what was put since `top`."""
        self.top = top

    def trim(self) -> None:
        """Give memory beyond 64 MiB back to the system: for the last who looks at what is in it."""
        if self._high > KEPT_BYTES and self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, KEPT_BYTES, self._size - KEPT_BYTES)
        self._high = 0
