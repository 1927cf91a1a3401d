"""The exact shape of every output of one sequence, and the bytes of all that is asked for.

Sizes are Python integers, computed before anything is allocated.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from models.outputs import DTYPES, OUTPUTS, Selection, Spans

Pairs = tuple[tuple[int, int], ...]  # (layer, head), each once


@dataclass(frozen=True, slots=True, kw_only=True)
class Dims:
    """The sizes of one sequence's attention: T queries, S keys, H heads, G key heads, widths."""

    T: int
    S: int
    heads: int
    key_heads: int
    d_z: int  # width of z: d_model, or d_v of the caller's own values
    d_k: int
    d_v: int
    d_pooled: int | None = None  # None: that of z
    words: int = 0  # that a model predicts
    head_axis: bool = True  # False: the caller's own Q, K, V came without a head axis, so none comes out
    z_heads: bool = False  # True: z keeps a head axis, [H, T, d_v] (the caller's own Q, K, V)


@lru_cache(maxsize=4096)  # lengths are few, and every sequence asks
def dims_of(
    tokens: int,
    keys: int,
    heads: int,
    key_heads: int,
    d_z: int,
    d_k: int,
    d_v: int,
    d_pooled: int | None,
    words: int,
) -> Dims:
    """Return the sizes of a sequence of a model that has these."""
    return Dims(
        T=tokens,
        S=keys,
        heads=heads,
        key_heads=key_heads,
        d_z=d_z,
        d_k=d_k,
        d_v=d_v,
        d_pooled=d_pooled,
        words=words,
    )


def shape_of(name: str, selection: Selection, dims: Dims) -> tuple[int, ...]:
    """Return the exact shape of one output of one sequence, numbers in axis order."""
    output = OUTPUTS[name]
    if name == "mixed":
        return _of_mixture(selection, dims)
    spans = selection.spans if name == "weights" else None
    pairs = selection.pairs if output.of_heads else None
    shape = tuple([_size(axis, selection, dims, pairs, spans) for axis in axes_of(name, dims)])
    if name == "pooled" and selection.spans is not None:
        shape = (len(selection.spans), *shape)
    if name == "logprobs" and selection.targets is not None:
        shape = (*shape, len(selection.targets))
    return (len(selection.layers), *shape) if has_layers(name, selection) else shape


def _size(axis: str, selection: Selection, dims: Dims, pairs: Pairs | None, spans: Spans | None) -> int:
    """Return how long an axis is: asked for every output of every sequence of a batch."""
    match axis:
        case "T" if spans is None:
            return dims.T if selection.rows is None else len(selection.rows)
        case "S" if spans is None:
            return dims.S
        case "T" | "S":
            return len(spans or ())
        case "H" if pairs is None:
            return dims.heads if selection.heads is None else len(selection.heads)
        case "G" if pairs is None:
            return key_heads_of(selection.heads, dims)
        case "H" | "G":
            return len(pairs or ())
        case "k":
            return min(selection.top_k, dims.S)
        case "K":
            return min(selection.top_k, dims.words)
        case "E":
            return dims.d_pooled or dims.d_z
    return {"D": dims.d_z, "Q": dims.d_k, "V": dims.d_v, "6": 6}[axis]


def _of_mixture(selection: Selection, dims: Dims) -> tuple[int, ...]:
    mix = selection.mix
    assert mix is not None, "mixed is asked for without what it is made of"
    if mix.whole:
        return (dims.T - sum(mix.skip), dims.S - sum(mix.skip))
    keys = dims.S if mix.columns is None else len(mix.columns)
    rows = dims.T if selection.rows is None else len(selection.rows)
    return (keys,) if mix.reduce else (rows, keys)


def has_layers(name: str, selection: Selection) -> bool:
    """Whether an output has an axis of layers, in front: pairs bring theirs, and have none."""
    output, chosen = OUTPUTS[name], selection.pairs
    return selection.layer_axis and output.layered and (chosen is None or not output.of_heads)


def axes_of(name: str, dims: Dims) -> str:
    """Return the axes of one output of one sequence, without that of layers, as letters of the legend."""
    axes = "HTD" if name == "z" and dims.z_heads else OUTPUTS[name].axes
    return axes if dims.head_axis else axes.replace("H", "").replace("G", "")


def key_heads_of(heads: tuple[int, ...] | None, dims: Dims) -> int:
    """Return how many stored key heads the chosen query heads read, each counted once."""
    if heads is None:
        return dims.key_heads
    group = dims.heads // dims.key_heads
    return len({head // group for head in heads})


def nbytes(selection: Selection, dims: Dims) -> int:
    """Return the bytes of all chosen outputs of one sequence in the reply's dtype."""
    width = DTYPES[selection.dtype]
    return sum(
        math.prod(shape_of(name, selection, dims)) * (4 if OUTPUTS[name].dtype == "int32" else width)
        for name in selection.outputs
    )


def together(spans: Spans) -> Spans:
    """Return spans sorted, those that overlap or touch made one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        else:
            found.append((start, stop))
    return tuple(found)


@lru_cache(maxsize=64)  # of a set the same for every sequence, and of many pairs
def places_by_layer(pairs: Pairs) -> Mapping[int, tuple[int, ...]]:
    """Return where among all pairs (layer, head) those of each layer stand."""
    found: dict[int, list[int]] = {}
    for place, (layer, _) in enumerate(pairs):
        found.setdefault(layer, []).append(place)
    return {layer: tuple(places) for layer, places in found.items()}
