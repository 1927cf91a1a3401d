"""One layer's edits as compiled code takes them."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from models.compiled.edits import TableEdit, ranges_of
from models.edits.layer import LayerEdits


def table_edits(edits: LayerEdits, *, heads: int, queries: int, keys: int, diagonal: int) -> list[TableEdit]:
    """Return what is done to a sequence of so many heads, queries and keys, in the order in which it is done.

    `diagonal`: by how much a row's own key is ahead of it. What is done to z only where none is taken of
    another sequence.
    """
    return [
        *_of_scores(edits, heads, queries, keys),
        *_of_weights(edits, heads, queries, keys, diagonal),
        *_of_z(edits, heads, queries),
    ]


def _of_scores(edits: LayerEdits, heads: int, queries: int, keys: int) -> Iterator[TableEdit]:
    for one in edits.scores.edits if edits.scores is not None else ():
        yield TableEdit(
            "block" if one.value is None else "add",
            _places(dict.fromkeys(one.heads, 0), heads),
            ranges_of(one.queries.ranges, queries),
            ranges_of(one.keys.ranges, keys),
            value=one.value or 0.0,
        )


def _of_weights(edits: LayerEdits, heads: int, queries: int, keys: int, diagonal: int) -> Iterator[TableEdit]:
    ahead = {"self": diagonal, "previous": diagonal - 1, "first": -queries - abs(diagonal)}
    for one in edits.patterns.edits if edits.patterns is not None else ():
        where = _places(one.heads, heads), ranges_of(one.queries.ranges, queries), ranges_of(None, keys)
        if not isinstance(one.value, str):
            yield TableEdit("give", *where, values=one.value)
        elif one.value == "uniform":
            yield TableEdit("uniform", *where)
        else:
            yield TableEdit("one", *where, ahead=ahead[one.value])


def _of_z(edits: LayerEdits, heads: int, queries: int) -> Iterator[TableEdit]:
    if edits.heads is None or edits.heads.sources:
        return
    for one in edits.heads.edits:
        made = partial(
            TableEdit,
            head_places=_places(one.heads, heads),
            rows=ranges_of(one.queries, queries),
            keys=ranges_of((), 0),
        )
        yield (
            made("set", values=one.value)
            if isinstance(one.value, np.ndarray)
            else made("scale", value=one.value)
        )


def _places(chosen: Mapping[int, int], heads: int) -> NDArray[np.int32]:
    """Return of each head where it stands among the chosen, −1: nowhere."""
    return np.array([chosen.get(head, -1) for head in range(heads)], np.int32)  # few: numpy is no quicker
