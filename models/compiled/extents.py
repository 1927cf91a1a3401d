"""The sequences of a group in packed rows: which are each one's, and what attention gives."""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct

import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.rules import Bias, Mask, address_of

TASK_PAIRS = 1 << 18  # of query and key: about a millisecond of a core
TASK_ROWS = 112  # the fewest of a task that is not a whole head: keys and values come from memory for each


SEQUENCE_BYTES = ctypes.sizeof(structures.Sequence)
# The first nine fields of `structures.Sequence`, in a fifth of the time that nine assignments take.
place_sequence = Struct("=9q").pack_into


@dataclass(frozen=True, slots=True)
class Extent:
    """Which rows are a sequence's, and what is read of its attention beside z.

    `keys`: where its keys and values stand, with its rows where None. `mask` and `bias`: its own.
    """

    rows: slice
    lse: bool = False
    weights: bool = False
    keys: slice | None = None
    mask: Mask | None = None
    bias: Bias | None = None

    @property
    def length(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """What a backend gives of a group: rows of z, one sequence's after another's, and more of each.

    `lse` float32 [H, T] and `weights` [H, T, S] are a sequence's, None where not made on the way. `finite`:
    whether all of z is; None: nobody has looked. `projected`: q beside k beside v of all rows, where they
    were made on the way.
    """

    z: Tensor
    lse: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]
    finite: bool | None = None
    projected: Tensor | None = None


@dataclass(slots=True)
class GroupOutputs:
    """Memory for logsumexp and weights of sequences, C's table of them, their rows, and the most keys."""

    lse: list[Tensor | None]
    weights: list[Tensor | None]
    sequences: "ctypes.Array[structures.Sequence]"
    rows: int = 0
    most_keys: int = 0
    in_parts: bool = False  # whether tasks of some sequence are parts of heads
    kept: list[Tensor] = field(default_factory=list)  # what the table points into

    @classmethod
    def of(
        cls, extents: Sequence[Extent], heads: int, like: Tensor, rows: int, key_rows: int | None = None
    ) -> "GroupOutputs":
        """Make it for sequences among so many rows, and so many of keys where those are others."""
        count = len(extents)
        made = cls([None] * count, [None] * count, (structures.Sequence * count)())
        among = rows if key_rows is None else key_rows
        task = 0
        for place, one in enumerate(extents):
            start, stop = one.rows.start, one.rows.stop
            first, last = (start, stop) if one.keys is None else (one.keys.start, one.keys.stop)
            if not (0 <= start <= stop <= rows and 0 <= first <= last <= among):
                raise ValueError(
                    f"a sequence is among {rows} rows and {among} of keys, "
                    f"not rows {start} to {stop} and {first} to {last}"
                )
            length, keys = stop - start, last - first
            parts = parts_of(length, keys)
            place_sequence(
                made.sequences,
                place * SEQUENCE_BYTES,
                start,
                made.rows,
                length,
                first,
                keys,
                0,
                length,
                task,
                parts,
            )
            task += parts * heads
            made.rows += length
            made.most_keys = max(made.most_keys, keys)
            made.in_parts |= parts > 1
            if one.lse or one.weights or one.mask is not None or one.bias is not None:
                made._add(place, one, heads, like)
        return made

    def _add(self, place: int, one: Extent, heads: int, like: Tensor) -> None:
        """Make room for what is read beside z of a sequence; say what hides its keys and biases scores."""
        sequence = self.sequences[place]
        if one.lse:
            self.lse[place] = lse = like.new_empty(heads, sequence.length)
            sequence.lse = lse.data_ptr()
        if one.weights:
            self.weights[place] = weights = like.new_empty(heads, sequence.length, sequence.keys)
            sequence.weights = weights.data_ptr()
        self._hide(sequence, one, heads)

    def _hide(self, sequence: structures.Sequence, one: Extent, heads: int) -> None:
        """Say what hides keys and biases scores of one sequence."""
        for given, name in ((one.mask, "mask"), (one.bias, "bias")):
            if given is None:
                continue
            boolean = isinstance(given, Tensor) and given.dtype == torch.bool
            if boolean and name == "bias":
                raise ValueError("a bias is float32; what is bool is a mask")
            at = address_of(given, heads=heads, queries=sequence.length, keys=sequence.keys, kept=self.kept)
            field_name = "seen" if boolean else name
            setattr(sequence, field_name, at.pointer)
            setattr(sequence, f"{field_name}_head_stride", at.head_stride)
            setattr(sequence, f"{field_name}_stride", at.row_stride)

    def lay_out(self, floats_of: Callable[[int], int], key_heads: int, like: Tensor) -> bool:
        """Give keys and values of heads that are parted memory to be laid out in; return if any are.

        `floats_of`: how many numbers those of a head take, by how many keys there are.
        """
        for sequence in self.sequences:
            if sequence.parts > 1:
                laid = like.new_empty(key_heads * floats_of(sequence.keys))
                self.kept.append(laid)
                sequence.laid = laid.data_ptr()
        return self.in_parts


def parts_of(rows: int, keys: int) -> int:
    """Return in how many tasks the rows of a head are attended."""
    pairs = rows * keys
    return 1 if pairs < 2 * TASK_PAIRS else max(1, min(rows // TASK_ROWS, pairs // TASK_PAIRS))
