"""Where one launch puts what it makes: where the answers are gathered, or in memory of its own.

In both, each sequence's part of an output is as it is returned, contiguous, and begins where a table says.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.attention.tiles.asking import LISTS, home_of
from models.attention.tiles.table import SequenceTable, sent
from models.compiled.extents import Extent
from models.device.collect import TORCH_DTYPES
from models.device.gathering import OutputHome

Found = list[dict[str, Tensor | None]]  # of each sequence of a group; None: it is in its place


@dataclass(slots=True, eq=False)
class Results:
    """Memory for the outputs that a kernel has, in its order, and `places` int64 [C, B] of parts in them."""

    tensors: list[Tensor]
    places: Tensor
    _gathered: list[str] = field(default_factory=list)
    _own: dict[str, tuple[Tensor, list[int], list[tuple[int, ...]]]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        of_kernel: Sequence[str],
        asked: Collection[str],
        extents: Sequence[Extent],
        table: SequenceTable,
        *,
        heads: int,
        lse: Tensor,
    ) -> "Results":
        """Make it for sequences that ask for the same, of so many heads.

        An output that nobody asks for has memory only where it is made nevertheless, the lists together. What
        is not made has any, for a pointer to be there.
        """
        made = cls([], table.rows)
        starts = np.zeros((len(of_kernel), len(extents)), np.int64)
        homes = [home_of(one) for one in extents]
        with_lists = not LISTS.isdisjoint(asked)
        for column, name in enumerate(of_kernel):
            if name not in asked and not (with_lists and name in LISTS):
                made.tensors.append(table.positions if name == "top_k_keys" else lse)
                continue
            all_weights = name == "weights" and extents[0].weights  # float32, to make others of
            place = None if name not in asked or all_weights else _place(name, homes)
            if place is not None:
                made.tensors.append(place[0])
                starts[column] = place[1]
                made._gathered.append(name)
                continue
            dtype = torch.int32 if name == "top_k_keys" else torch.float32
            if name == "weights" and not all_weights:
                dtype = TORCH_DTYPES[extents[0].selection.dtype]
            shapes = _shapes(name, heads, table, extents[0].selection.top_k)
            ends = np.cumsum([np.prod(shape, dtype=np.int64) for shape in shapes])
            starts[column, 1:] = ends[:-1]
            made.tensors.append(lse.new_empty(int(ends[-1]), dtype=dtype))
            if name in asked:
                made._own["all_weights" if all_weights else name] = (
                    made.tensors[-1],
                    starts[column].tolist(),
                    shapes,
                )
        if made._gathered or made._own:
            (made.places,) = sent([starts], lse.device)
        return made

    def share(self, places: Sequence[int], found: Found) -> None:
        """Say of each sequence, by its place in the group, what was made: its part, or that it is put."""
        for name in self._gathered:
            for place in places:
                found[place][name] = None
        for name, (whole, starts, shapes) in self._own.items():
            for place, start, shape in zip(places, starts, shapes, strict=True):
                found[place][name] = whole[start : start + int(np.prod(shape))].view(shape)


def _place(name: str, homes: Sequence[OutputHome | None]) -> tuple[Tensor, NDArray[np.int64]] | None:
    """Return memory of an output and where each sequence's begins, if it is gathered for all of them."""
    known = [one for one in homes if one is not None and name in one.layers]
    if len(known) < len(homes) or len({id(one.gathering) for one in known}) > 1:
        return None
    numbers, layers = [one.number for one in known], [one.layers[name] for one in known]
    place = known[0].gathering.place(name, numbers, layers)
    return None if place is None else (place.numbers, place.starts)


def _shapes(name: str, heads: int, table: SequenceTable, k: int) -> list[tuple[int, ...]]:
    """Return the shape of an output of each sequence, of so many heads."""
    of_each = list(zip(table.count, table.keys, strict=True))
    if name in ("entropy", "top_k_rest"):
        return [(heads, rows) for rows, _ in of_each]
    if name in LISTS:
        return [(heads, rows, min(k, keys)) for rows, keys in of_each]
    if name == "received":
        return [(heads, keys) for _, keys in of_each]
    return [(heads, rows, keys) if name == "weights" else (rows, keys) for rows, keys in of_each]


def owners(table: SequenceTable, homes: Sequence[OutputHome]) -> tuple[list[int], list[int]]:
    """Return whose the rows of a launch are, by their numbers where answers are gathered, and how many each.

    Of what is between them nobody is the owner: −1.
    """
    numbers, counts, end = [], [], 0
    for home, first, count in zip(homes, table.first, table.count, strict=True):
        numbers += [-1, home.number]
        counts += [first - end, count]
        end = first + count
    return [*numbers, -1], [*counts, table.total - end]
