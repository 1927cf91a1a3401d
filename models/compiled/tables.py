"""Memory for outputs that compiled code makes on the way to z, and C's table of where they go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.structures import MOST_TOP_K, TYPES
from models.outputs import ALIASES, OUTPUTS, Mix, Selection, Share
from models.shapes import together

TOP_K = ALIASES["top_k"]
OF_ALL_HEADS = ("weights_mean", "weights_max", "mixed")  # made of one head after another
ADDED_TO = ("received", *OF_ALL_HEADS)  # by C, block after block
MOST_KEYS = 1 << 24  # float32 counts so far without a gap, and C keeps numbers of keys in them
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in TYPES}
NUMPY: dict[str, type[np.float32] | type[np.int32]] = {"float": np.float32, "int32": np.int32}


def output_table(
    names: Sequence[str],
    selection: Selection,
    *,
    heads: int,
    rows: int,
    keys: int,
    single: bool,
    parts: int = 1,
    kept: list[object],
    into: Tensor | None = None,
) -> tuple[structures.Outputs, dict[str, Tensor]]:
    """Return the table of a sequence's outputs and the memory for them, by name.

    `single`: weights are float32, whatever the reply's dtype; else they go `into` a tensor, where there is
    one. Sums over rows are made in `parts`, and have that axis first where there are several. `kept` is given
    what the table points into beside. Raises ValueError for what C could not make within that memory.
    """
    table = structures.Outputs()
    table.heads = heads if selection.heads is None else len(selection.heads)
    table.rows = rows if selection.rows is None else len(selection.rows)
    table.keys, table.k = keys, min(selection.top_k, keys)
    table.type = TYPES["float32" if single else selection.dtype]
    if selection.heads is not None:
        table.head_places = _places(selection.heads, heads, "head", kept)
    if selection.rows is not None:
        table.row_places = _places(selection.rows, rows, "row", kept)
    sizes = {"H": table.heads, "T": table.rows, "S": keys, "k": table.k}
    if selection.spans is not None:
        table.spans, sizes["N"] = _put_spans(selection.spans, min(rows, keys), kept)
        table.span_count = sizes["N"]
    if "share" in names:
        _put_share(table, selection.share, keys, kept)
    made = {}
    for memory in _memories(tuple(names), spans=selection.spans is not None):
        shape = [sizes[axis] for axis in memory.axes]
        if memory.name == "mixed":
            shape = _put_mix(table, selection.mix, heads, kept)
        if parts > 1 and (
            memory.field in ("received", "between_spans")
            or (shape and memory.field == "mixed" and table.sums_rows)
        ):
            shape.insert(0, parts)
        if memory.field == "weights":
            dtype = DTYPES["float32" if single else selection.dtype]
            fits = into is not None and not single and (into.dtype, list(into.shape)) == (dtype, shape)
            made["weights"] = into if fits and into is not None else torch.empty(shape, dtype=dtype)
        else:  # small ones numpy allocates quicker
            made[memory.name] = torch.from_numpy(memory.allocate(shape, memory.dtype))
        setattr(table, memory.field, made[memory.name].data_ptr())
    if "top_k_keys" in made and (not 0 < table.k <= MOST_TOP_K or keys >= MOST_KEYS):
        raise ValueError(
            f"up to {MOST_TOP_K} of fewer than {MOST_KEYS} keys are found, not {table.k} of {keys}"
        )
    return table, made


@dataclass(frozen=True, slots=True)
class _Memory:
    """What an output's memory is like: N of its axes are spans."""

    name: str
    field: str  # of the table
    axes: str
    dtype: type[np.float32] | type[np.int32]
    allocate: Callable[..., Any]


@lru_cache(maxsize=256)  # callers ask for the same again and again
def _memories(names: tuple[str, ...], *, spans: bool) -> tuple[_Memory, ...]:
    """Return what is to be allocated for outputs: of those of top-k each comes with the others."""
    wanted = dict.fromkeys((*names, *TOP_K) if any(name in TOP_K for name in names) else names)
    found = []
    for name in wanted:
        field, axes = name, OUTPUTS[name].axes
        if name == "weights" and spans:
            field, axes = "between_spans", "HNN"
        zeros = name in ADDED_TO or field == "between_spans"
        dtype = NUMPY[OUTPUTS[name].dtype]
        found.append(_Memory(name, field, axes, dtype, np.zeros if zeros else np.empty))
    return tuple(found)


def _places(chosen: Sequence[int], count: int, what: str, kept: list[object]) -> int:
    """Return the address of where each of `count` heads or rows stands among the chosen, −1: nowhere."""
    numbers, places = np.asarray(chosen), np.full(count, -1, np.int32)
    inside = numbers.min() >= 0 and numbers.max() < count
    if inside:
        places[numbers] = np.arange(len(numbers), dtype=np.int32)
    if not inside or np.count_nonzero(places >= 0) < len(numbers):
        raise ValueError(f"each {what} is below {count} and chosen once, not {list(chosen)}")
    kept.append(places)
    return int(places.ctypes.data)


def _put_mix(table: structures.Outputs, mix: Mix | None, heads: int, kept: list[object]) -> list[int]:
    """Tell a table what is mixed, the mean over rows too; return the shape of that."""
    if mix is None or mix.whole or len(mix.pairs) != len(mix.weights):
        raise ValueError("mixed on the way is a sum of weights, as many as there are pairs")
    places = [head for _, head in mix.pairs]
    weights = np.zeros(heads, np.float32)
    if places and not 0 <= min(places) <= max(places) < heads:
        raise ValueError(f"each head is below {heads}, not {places}")
    weights[places] = np.asarray(mix.weights) / (max(1, table.rows) if mix.reduce == "mean" else 1)
    kept.append(weights)
    table.mix_weights, table.sums_rows = weights.ctypes.data, mix.reduce is not None
    wide = table.keys
    if mix.columns is not None:
        table.columns, table.column_count = _put_spans(mix.columns, table.keys, kept)
        wide = table.column_count
    return [wide] if mix.reduce else [table.rows, wide]


def _put_share(table: structures.Outputs, share: Share | None, keys: int, kept: list[object]) -> None:
    """Tell a table of which keys there are shares."""
    if share is None:
        raise ValueError("a share is of some keys over others")
    table.of, table.of_count = _put_spans(together(share.of), keys, kept)
    table.over, table.over_count = _put_spans(together(share.over), keys, kept)


def _put_spans(spans: Sequence[tuple[int, int]], positions: int, kept: list[object]) -> tuple[int, int]:
    """Return the address of spans of rows or keys, and how many there are; none has an address, too."""
    bounds = np.asarray(spans).reshape(-1, 2)
    if len(bounds) and not (
        bounds.min() >= 0 and bounds.max() <= positions and (bounds[:, 0] <= bounds[:, 1]).all()
    ):
        raise ValueError(f"spans are of {positions} positions, not {list(spans)}")
    bounds = np.ascontiguousarray(bounds, np.int32)
    kept.append(bounds)
    return bounds.ctypes.data, len(bounds)
