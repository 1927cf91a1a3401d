"""The sequences of a group in packed rows: which are each one's, what is asked of it, and memory for it."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct

import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.edits import TableEdit, edit_table
from models.compiled.rules import Bias, Mask, address_of
from models.compiled.tables import OF_ALL_HEADS, output_table
from models.outputs import Selection

EVERYTHING = Selection(outputs=())
TASK_PAIRS = 1 << 18  # of query and key: a fraction of a millisecond of a core
TOGETHER = 4  # heads of a sequence that are attended one after another count as so many
TASK_ROWS = 112  # the fewest of a task that is not a whole head: keys and values come from memory for each
FEW_HEADS = 32  # of all sequences of a call: more keep all threads busy by themselves
SUMMED_PARTS = 8  # of a head's rows where sums over them are made: whatever is beside it, the same
_OF_ALL_HEADS = frozenset(OF_ALL_HEADS)
SEQUENCE_BYTES = ctypes.sizeof(structures.Sequence)
# The first nine fields of `structures.Sequence`, in a fifth of the time that nine assignments take.
place_sequence = Struct("=9q").pack_into


@dataclass(frozen=True, slots=True)
class Extent:
    """Which rows are a sequence's, and what is read of its attention beside z.

    `lse` is of all heads and rows; everything else of the heads and rows of `selection`. `outputs`: which
    outputs are made on the way to z. `weights`: all weights in float32, to make others of afterwards.
    `into`: where weights that are returned go, contiguous and as they are returned. `home`: where outputs go
    that are made of many sequences at once, on a GPU: an `OutputHome` of `models/device/`.
    `keys`: where its keys and values stand, with its rows where None. `mask` and `bias`: its own.
    `edits` count its rows from `first_row` on, where some of a sequence's are attended.
    """

    rows: slice
    lse: bool = False
    weights: bool = False
    outputs: tuple[str, ...] = ()
    selection: Selection = EVERYTHING
    into: Tensor | None = None
    home: object = None
    keys: slice | None = None
    mask: Mask | None = None
    bias: Bias | None = None
    edits: Sequence[TableEdit] = ()
    first_row: int = 0

    @property
    def length(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)

    @property
    def summed(self) -> tuple[str, ...]:
        """Which sums over its rows are asked for."""
        mix = self.selection.mix
        over_rows = {
            "received": True,
            "weights": self.selection.spans is not None,
            "mixed": mix is not None and mix.reduce is not None,
        }
        return tuple(name for name, summed in over_rows.items() if summed and name in self.outputs)

    @property
    def together(self) -> bool:
        """Whether its heads are attended one after another, because something is made of all of them."""
        return not _OF_ALL_HEADS.isdisjoint(self.outputs)

    @property
    def reads_scores(self) -> bool:
        """Whether anything is read of its scores."""
        return self.lse or self.weights or bool(self.outputs)


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """What a backend gives of a group: rows of z, one sequence's after another's, and more of each.

    `lse` float32 [H, T], `weights` float32 [H', T', S] of the chosen heads and rows and `outputs` by name
    are a sequence's, None where not made on the way; `outputs` are empty where none of any sequence are, and
    one of them is None where it is in its place already, which its extent's `home` says.
    `finite`: whether all of z is; None: nobody has looked. `projected`: q beside k beside v of all rows,
    where they were made on the way. `spoiled`: the places of sequences whose z before W_O is not finite.
    `packed_lse`: the logsumexps as the rows of z stand, [H, N], where they were made so.
    """

    z: Tensor
    lse: Sequence[Tensor | None]
    weights: Sequence[Tensor | None]
    finite: bool | None = None
    projected: Tensor | None = None
    spoiled: Sequence[int] = ()
    outputs: Sequence[Mapping[str, Tensor | None] | None] = ()
    packed_lse: Tensor | None = None


@dataclass(slots=True)
class GroupOutputs:
    """Memory for what is made of sequences beside z, C's tables of it, their rows, and the most keys of one.

    `kept`: what the tables point into beside. `long`: whether heads of some sequence are long enough for
    several tasks. `edited`: whether any sequence is.
    """

    lse: list[Tensor | None]
    weights: list[Tensor | None]
    outputs: list[Mapping[str, Tensor] | None]
    sequences: "ctypes.Array[structures.Sequence]"
    rows: int = 0
    most_keys: int = 0
    long: bool = False
    edited: bool = False
    kept: list[object] = field(default_factory=list)
    summed: dict[int, tuple[str, ...]] = field(default_factory=dict)  # which sums of whom are there in parts

    @classmethod
    def of(
        cls,
        extents: Sequence[Extent],
        heads: int,
        like: Tensor,
        rows: int,
        key_rows: int | None = None,
        *,
        alone: bool = False,
        value_width: int = 0,
    ) -> "GroupOutputs":
        """Make it for sequences among so many rows, and so many of keys where those are others.

        `value_width`: numbers of a head's z, for edits of it. `alone`: a call is to have a few heads of one
        sequence, or less.
        """
        count, task, z_rows, most_keys = len(extents), 0, 0, 0
        made = cls([None] * count, [None] * count, [None] * count, (structures.Sequence * count)())
        among, few = rows if key_rows is None else key_rows, alone or count * heads < FEW_HEADS
        for place, one in enumerate(extents):
            start, stop = one.rows.start, one.rows.stop
            first, last = (start, stop) if one.keys is None else (one.keys.start, one.keys.stop)
            if not (0 <= start <= stop <= rows and 0 <= first <= last <= among):
                raise ValueError(
                    f"a sequence is among {rows} rows and {among} of keys, "
                    f"not rows {start} to {stop} and {first} to {last}"
                )
            length, keys = stop - start, last - first
            parts = parts_of(length, keys, one, few=few)
            made.long |= parts > 1
            at = place * SEQUENCE_BYTES
            place_sequence(made.sequences, at, start, z_rows, length, first, keys, 0, length, task, parts)
            task += parts * (1 if one.together else heads)
            z_rows += length
            most_keys = max(most_keys, keys)
            if one.reads_scores or one.mask is not None or one.bias is not None:
                made._add(place, one, heads, like, parts)
            if one.edits:
                made._edit(place, one, heads, value_width)
        made.rows, made.most_keys = z_rows, most_keys
        return made

    def result(
        self,
        z: Tensor,
        projected: Tensor | None = None,
        *,
        finite: bool,
    ) -> AttentionResult:
        """Return what C has made, whether all of it is finite, and q beside k beside v if it made them."""
        for place, sums in self.summed.items():
            made = self.outputs[place] or {}
            self.outputs[place] = {name: one.sum(0) if name in sums else one for name, one in made.items()}
        outputs = self.outputs if self.outputs.count(None) < len(self.outputs) else ()
        spoiled = () if finite else [place for place, one in enumerate(self.sequences) if one.spoiled]
        return AttentionResult(z, self.lse, self.weights, finite, projected, spoiled, outputs)

    def lay_out(self, call: structures.AttentionCall, floats_of: Callable[..., int], key_heads: int) -> None:
        """Give keys and values of long sequences memory to be laid out in, once for all tasks of a call.

        `floats_of`: how many numbers those of a head take, by how many keys there are and their widths.
        """
        call.lays_out = self.long
        for sequence in self.sequences if self.long else ():
            if sequence.parts > 1:
                floats = floats_of(sequence.keys, call.width, call.value_width)
                laid = torch.empty(key_heads * floats)
                self.kept.append(laid)
                sequence.laid = laid.data_ptr()

    def _add(self, place: int, one: Extent, heads: int, like: Tensor, parts: int) -> None:
        """Make room for what is read beside z of a sequence; say what hides its keys and biases scores."""
        sequence = self.sequences[place]
        if one.lse:
            self.lse[place] = lse = like.new_empty(heads, sequence.length)
            self.outputs[place] = {}  # and nothing else: what is made of a finite z is known to be sound
            sequence.lse = lse.data_ptr()
        if one.weights or one.outputs:
            table, outputs = output_table(
                (*one.outputs, "weights") if one.weights else one.outputs,
                one.selection,
                heads=heads,
                rows=sequence.length,
                keys=sequence.keys,
                single=one.weights,
                parts=parts,
                kept=self.kept,
                into=one.into,
            )
            if parts > 1 and one.summed:
                self.summed[place] = one.summed
            sequence.outputs, sequence.together = ctypes.addressof(table), one.together
            self.kept.append(table)
            self.weights[place] = outputs.pop("weights") if one.weights else None
            self.outputs[place] = outputs
        if one.mask is not None or one.bias is not None:
            self._hide(sequence, one, heads)

    def _edit(self, place: int, one: Extent, heads: int, value_width: int) -> None:
        """Say what edits do to a sequence."""
        sequence = self.sequences[place]
        table = edit_table(one.edits, heads=heads, keys=sequence.keys, width=value_width, kept=self.kept)
        sequence.edits, sequence.edit_count = ctypes.addressof(table), len(table)
        sequence.edits_first, self.edited = one.first_row, True

    def _hide(self, sequence: structures.Sequence, one: Extent, heads: int) -> None:
        for given, name in ((one.mask, "mask"), (one.bias, "bias")):
            if given is None:
                continue
            boolean = isinstance(given, Tensor) and given.dtype == torch.bool
            if boolean and name == "bias":
                raise ValueError("a bias is float32; what is bool is a mask")
            at = address_of(given, heads=heads, queries=sequence.length, keys=sequence.keys, kept=self.kept)
            of = "seen" if boolean else name
            setattr(sequence, of, at.pointer)
            setattr(sequence, f"{of}_head_stride", at.head_stride)
            setattr(sequence, f"{of}_stride", at.row_stride)


def parts_of(rows: int, keys: int, one: Extent, *, few: bool) -> int:
    """Return in how many tasks rows are attended, each of one head, or of all together.

    Where there are more heads than `few` each is one task. Sums over rows are parted alike in any case.
    """
    pairs = rows * keys * (TOGETHER if one.together else 1)
    if pairs <= TASK_PAIRS or not (few or one.summed or one.together):
        return 1
    parts = max(1, min(rows // TASK_ROWS, pairs // TASK_PAIRS))
    return min(parts, SUMMED_PARTS) if one.summed else parts
