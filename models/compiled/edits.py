"""What edits do to a sequence's attention, as compiled code is told: checked numbers, and C's table."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.compiled.structures import EDITS, RowEdit
from models.outputs import Spans

Does = Literal["add", "block", "give", "one", "uniform", "set", "scale"]


@dataclass(frozen=True, slots=True, eq=False)
class TableEdit:
    """One edit: `head_places` int32 [H] says of each head where it stands among the chosen, −1: nowhere.

    `rows` and `keys`: `ranges_of` those chosen. `values` float32 [heads or 1, rows, keys], or of `set` the
    width of z. `one`: a row attends the key that stands `ahead` of it.
    """

    does: Does
    head_places: NDArray[np.int32]
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]
    value: float = 0.0
    values: NDArray[np.float32] | None = None
    ahead: int = 0


@lru_cache(maxsize=256)  # in every layer the same again
def ranges_of(chosen: Spans | None, total: int) -> NDArray[np.int64]:
    """Return sorted ranges of positions below `total` as C reads them: from, up to, how many before.

    None: all.
    """
    if chosen is None:
        return np.array([[0, total, 0]], np.int64)
    made = np.empty((len(chosen), 3), np.int64)
    made[:, :2] = np.asarray(chosen, np.int64).reshape(-1, 2)
    np.cumsum(made[:, 1] - made[:, 0], out=made[:, 2])
    made[:, 2] -= made[:, 1] - made[:, 0]
    np.minimum(made[:, :2], total, out=made[:, :2])
    return made


def edit_table(
    edits: Sequence[TableEdit], *, heads: int, keys: int, width: int, kept: list[object]
) -> "ctypes.Array[RowEdit]":
    """Return C's table of what is done to a sequence of so many heads, keys, and numbers of a value.

    `kept` is given what it points into. Raises ValueError for what C would read outside of its memory.
    """
    table = (RowEdit * len(edits))()
    for made, one in zip(table, edits, strict=True):
        _check(one, heads=heads, keys=keys, width=width)
        made.head_places = one.head_places.ctypes.data
        made.rows.of, made.rows.count = one.rows.ctypes.data, len(one.rows)
        made.keys.of, made.keys.count = one.keys.ctypes.data, len(one.keys)
        if one.values is not None:
            made.values, made.row_stride = one.values.ctypes.data, one.values.shape[2]
            made.head_stride = one.values[0].size if one.values.shape[0] > 1 else 0
        made.value, made.ahead, made.does = one.value, one.ahead, EDITS[one.does]
    kept += (table, *edits)
    return table


def _check(one: TableEdit, *, heads: int, keys: int, width: int) -> None:
    places = one.head_places
    if places.dtype != np.int32 or places.shape != (heads,) or not places.flags.c_contiguous:
        raise ValueError(f"an edit has the place of each of {heads} heads, not {places.dtype} {places.shape}")
    for ranges in (one.rows, one.keys):
        fits = ranges.dtype == np.int64 and ranges.ndim == 2 and ranges.shape[1] == 3
        if not fits or not ranges.flags.c_contiguous:
            raise ValueError(f"ranges are int64 [n, 3], not {ranges.dtype} {ranges.shape}")
    if (one.values is None) != (one.does not in ("give", "set")):
        raise ValueError(f"values are given with give and set, and with nothing else, not with {one.does}")
    if one.values is None:
        return
    least = int((one.rows[:, 1] - one.rows[:, 0] + one.rows[:, 2]).max(initial=0))
    expected = (max(1, int(places.max(initial=-1)) + 1), least, keys if one.does == "give" else width)
    shape = tuple(one.values.shape)
    fits = len(shape) == 3 and (shape[0] == 1 or shape[0] >= expected[0]) and shape[1] >= least
    if one.values.dtype != np.float32 or not fits or shape[2] != expected[2]:
        raise ValueError(f"values are float32 {list(expected)}, not {one.values.dtype} {list(shape)}")
    if not one.values.flags.c_contiguous:
        raise ValueError("values stand one after another")
