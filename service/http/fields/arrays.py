"""Arrays of a request, checked against each other and against a model: ids, vectors and masks.

Every function raises Invalid for a wrong shape or kind of number, Malformed for numbers that are none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.halves import Numbers, bfloat16_of, widened
from models.protocol import ModelCard
from service.errors import Invalid, Malformed
from service.wire.dtypes import can_be_added, require_finite, widen


def token_ids_of(array: NDArray[Any], path: str, *, vocabulary: int | None) -> NDArray[np.int64]:
    """Return ids that the vocabulary has, int64 [T]; raises Invalid."""
    if array.ndim != 1:
        raise Invalid(f"{path} has shape {list(array.shape)}; give [T]")
    if array.dtype.kind != "i":
        raise Invalid(f"{path} must be integers; it is {array.dtype}")
    ids = array.astype(np.int64, copy=False)
    limit = vocabulary if vocabulary is not None else 2**31
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        at = int(np.argmax((ids < 0) | (ids >= limit)))
        raise Invalid(f"{path}[{at}] is {int(ids[at])}; the vocabulary has ids from 0 to {limit - 1}")
    return ids


def type_ids_of(array: NDArray[Any], path: str, *, length: int, card: ModelCard) -> NDArray[np.int64]:
    """Return the rows of the type table that a sequence reads, int64 [T]; raises Invalid."""
    if array.shape != (length,):
        raise Invalid(f"{path} has shape {list(array.shape)}; give [{length}], one a token")
    if array.dtype.kind != "i":
        raise Invalid(f"{path} must be integers; it is {array.dtype}")
    ids = array.astype(np.int64, copy=False)
    largest = max(1, card.types) - 1
    wrong = (ids < 0) | (ids > largest)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise Invalid(
            f"{path}[{at}] is {int(ids[at])}; model {card.name} has types from 0 to {largest}"
            if card.types
            else f"{path}[{at}] is {int(ids[at])}; model {card.name} has no token types: give zeros, or none"
        )
    return ids


def vectors(array: NDArray[Any] | None, path: str, *, width: int) -> Numbers:
    """Return `[length, width]` as `numbers_of` does, or raise Invalid."""
    assert array is not None
    numbers = numbers_of(array, path)
    if numbers.ndim >= 1 and len(numbers) == 0:
        raise Invalid(f"{path} is empty; give at least one row of {width} numbers")
    if numbers.ndim != 2 or numbers.shape[1] != width:
        raise Invalid(
            f"{path} has shape {list(numbers.shape)}; the model reads rows of {width}: give [length, {width}]"
        )
    return numbers


def numbers_of(array: NDArray[Any], path: str) -> Numbers:
    """Return float32, float16 or bfloat16 (uint16) as wide as it came, C-contiguous; all finite."""
    if array.dtype.kind != "f" and array.dtype != np.uint16:
        raise Invalid(f"{path} must be floating-point numbers; it is {array.dtype}")
    narrow = _narrow(array)
    require_finite(narrow, name=path)
    return _told(narrow)


def floats(array: NDArray[Any], path: str) -> NDArray[np.float32]:
    """Return float32 of float32, float16 or bfloat16 (uint16), native and C-contiguous; all finite."""
    return widened(numbers_of(array, path))


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Return float16 and bit patterns of bfloat16 as they are, others as float32; native and C-contiguous."""
    kept = array.dtype in (np.float16, np.uint16)
    return np.ascontiguousarray(array, dtype=None if kept else np.float32)


def _told(array: NDArray[Any]) -> Numbers:
    """Return numbers as they cross the wall, where bit patterns of bfloat16 are no whole numbers."""
    return bfloat16_of(array) if array.dtype == np.uint16 else array


def key_mask(array: NDArray[Any], path: str, *, shapes: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
    """Return a mask that says which keys may be attended: booleans as they are, or numbers 0 and 1."""
    require_shape(array, path, shapes)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    numbers = widen(array) if array.dtype == np.uint16 else array
    flags: NDArray[np.bool_] = np.ascontiguousarray(numbers == 1)
    if not (flags | (numbers == 0)).all():
        raise Invalid(
            f"{path} has other numbers than 0 and 1: give true or 1 where a key may be attended, else false"
        )
    return flags


def require_shape(array: NDArray[Any], path: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise Invalid for an array of another shape than these."""
    if array.shape not in shapes:
        raise Invalid(
            f"{path} has shape {list(array.shape)}; give {' or '.join(str(list(shape)) for shape in shapes)}"
        )


def any_mask(
    array: NDArray[Any] | None, path: str, *, shapes: Sequence[tuple[int, ...]]
) -> NDArray[Any] | None:
    """Return a mask, bool or numbers as wide as they came, −inf allowed, of one of these shapes."""
    if array is None:
        return None
    require_shape(array, path, shapes)
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" and array.dtype != np.uint16:
        raise Invalid(f"{path} must be booleans or floating-point numbers; it is {array.dtype}")
    bias = _narrow(array)
    if not can_be_added(bias):
        raise Malformed(f"{path} holds NaN or +Infinity; only −Infinity, which masks, is allowed")
    return _told(bias)
