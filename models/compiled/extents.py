"""The sequences of a group in packed rows: which are each one's, what is asked of it, and memory for it."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.structures import MOST_TOP_K, TYPES
from models.outputs import ALIASES, OUTPUTS, Selection

TOP_K = ALIASES["top_k"]
SUMMED = ("received",)  # what C adds to
MOST_KEYS = 1 << 24  # float32 counts so far without a gap, and C keeps numbers of keys in them
DTYPES = {name: getattr(torch, name) for name in TYPES}
NUMPY = {"float": np.float32, "int32": np.int32}
EVERYTHING = Selection(outputs=())


@dataclass(frozen=True, slots=True)
class Extent:
    """Which rows are a sequence's, and what is read of its attention beside z.

    `lse` is of all heads and rows; everything else of the heads and rows of `selection`. `outputs`: which
    outputs are made on the way to z. `weights`: all weights in float32, to make others of afterwards.
    """

    rows: slice
    lse: bool = False
    weights: bool = False
    outputs: tuple[str, ...] = ()
    selection: Selection = EVERYTHING

    @property
    def length(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def reads_scores(self) -> bool:
        """Whether anything is read of its scores."""
        return self.lse or self.weights or bool(self.outputs)


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """What a backend gives of a group: rows of z, one sequence's after another's, and more of each.

    `lse` float32 [H, T], `weights` float32 [H', T', S] of the chosen heads and rows and `outputs` by name
    are a sequence's, None where not made on the way; `outputs` are empty where none of any sequence are.
    `finite`: whether all of z is; None: nobody has looked. `projected`: q beside k beside v of all rows,
    where they were made on the way.
    """

    z: Tensor
    lse: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]
    finite: bool | None = None
    projected: Tensor | None = None
    outputs: Sequence[Mapping[str, Tensor] | None] = ()


@dataclass(slots=True)
class GroupOutputs:
    """Memory for what is made of sequences beside z, C's tables of it, their rows, and the longest's.

    `places`: where chosen heads and rows go, which C reads.
    """

    lse: list[Tensor | None]
    weights: list[Tensor | None]
    outputs: list[Mapping[str, Tensor] | None]
    sequences: "ctypes.Array[structures.Sequence]"
    tables: "ctypes.Array[structures.Outputs]"
    rows: int = 0
    longest: int = 0
    places: list["ctypes.Array[ctypes.c_int32]"] = field(default_factory=list)

    @classmethod
    def of(cls, extents: Sequence[Extent], heads: int, rows: int) -> "GroupOutputs":
        """Make it for sequences among so many rows."""
        count = len(extents)
        reading = sum(1 for one in extents if one.weights or one.outputs)
        made = cls([], [], [], (structures.Sequence * count)(), (structures.Outputs * reading)())
        tables = iter(made.tables)
        for sequence, one in zip(made.sequences, extents, strict=True):
            start, stop = one.rows.start, one.rows.stop
            if not 0 <= start <= stop <= rows:
                raise ValueError(f"a sequence is among {rows} rows, not rows {start} to {stop}")
            length = stop - start
            sequence.start, sequence.z_start, sequence.length = start, made.rows, length
            lse = weights = outputs = None
            if one.lse:
                lse = torch.from_numpy(np.empty((heads, length), np.float32))
                sequence.lse = lse.data_ptr()
            if one.weights or one.outputs:
                table = next(tables)
                outputs = made._table(table, one, heads)
                sequence.outputs = ctypes.addressof(table)
                weights = outputs.pop("weights") if one.weights else None
            made.lse.append(lse)
            made.weights.append(weights)
            made.outputs.append(outputs)
            made.rows += length
            made.longest = max(made.longest, length)
        return made

    def _table(self, table: structures.Outputs, extent: Extent, heads: int) -> dict[str, Tensor]:
        """Fill in where a sequence's outputs go; return the memory by name."""
        chosen, keys = extent.selection, extent.length
        table.rows = keys if chosen.rows is None else len(chosen.rows)
        table.keys, table.k = keys, min(chosen.top_k, keys)
        table.type = TYPES["float32" if extent.weights else chosen.dtype]
        if chosen.heads is not None:
            table.head_places = self._places(chosen.heads, heads, "head")
        if chosen.rows is not None:
            table.row_places = self._places(chosen.rows, keys, "row")
        names = {*extent.outputs, "weights"} if extent.weights else {*extent.outputs}
        if not names.isdisjoint(TOP_K):
            names.update(TOP_K)  # each comes with the others
            if not 0 < table.k <= MOST_TOP_K or keys >= MOST_KEYS:
                raise ValueError(
                    f"up to {MOST_TOP_K} of fewer than {MOST_KEYS} keys are found, not {table.k} of {keys}"
                )
        sizes = {
            "H": heads if chosen.heads is None else len(chosen.heads),
            "T": table.rows,
            "S": keys,
            "k": table.k,
        }
        made = {}
        for name in names:
            shape = [sizes[axis] for axis in OUTPUTS[name].axes]
            if name == "weights":
                made[name] = torch.empty(
                    shape, dtype=torch.float32 if extent.weights else DTYPES[chosen.dtype]
                )
            else:  # small ones numpy allocates quicker
                array = (np.zeros if name in SUMMED else np.empty)(shape, NUMPY[OUTPUTS[name].dtype])
                made[name] = torch.from_numpy(array)
            setattr(table, name, made[name].data_ptr())
        return made

    def _places(self, chosen: Sequence[int], count: int, what: str) -> int:
        """Return the address of where each of `count` heads or rows stands among the chosen, −1: nowhere."""
        if min(chosen) < 0 or max(chosen) >= count or len(set(chosen)) < len(chosen):
            raise ValueError(f"each {what} is below {count} and chosen once, not {list(chosen)}")
        places = (ctypes.c_int32 * count)(*[-1] * count)
        for place, number in enumerate(chosen):
            places[number] = place
        self.places.append(places)
        return ctypes.addressof(places)
