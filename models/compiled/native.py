"""Products, attention and feed-forward networks by compiled code: of float32 rows, on a processor.

One call for a block's attention, one for what follows it (`native_attention.c`, `native_feed.c`), both
outside the interpreter's lock. It makes no code for a number of rows, as oneDNN does, so nothing grows; a
row's bits depend neither on the rows beside it nor on the number of threads. Where the extension could not
be built, or the processor has none of AVX-512, AVX2 and NEON, torch does the work.
"""

import ctypes
import logging
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from models.c_library import load
from models.compiled import instructions, structures
from models.compiled.calls import (
    Points,
    attention_call,
    check_weight,
    feed_call,
    key_heads_at_once,
    parted,
    put_rotation,
    put_scratch,
    put_tables,
    readable,
    said,
)
from models.compiled.extents import AttentionResult, Extent, GroupOutputs
from models.compiled.panels import Feed, Projections, whole_lines
from models.compiled.rows import CallMemory, padded, room_floats
from models.compiled.rules import FLOAT_BYTES, PLAIN, ScoreRule
from models.compiled.structures import KEPT_AS, AttentionCall, BlockCall, FeedCall, Linear, Rule
from models.compiled.weights import Panels, lay_out

log = logging.getLogger(__name__)


class Native(CallMemory):
    """The C functions of one shared library, with one set of instructions that the processor has, by name.

    Nothing in C checks what it reads and writes. So each of these does, and raises ValueError.
    """

    def __init__(self, library: ctypes.CDLL, using: str) -> None:
        if using not in (there := instructions.sets_of(library)):
            raise ValueError(f"this processor has not {using}, but {', '.join(there) or 'no set we know'}")
        self._attend = library.heed_attend
        self._attend.argtypes = [ctypes.POINTER(AttentionCall)]
        self._feed = library.heed_feed
        self._feed.argtypes = [ctypes.POINTER(FeedCall)]
        self._feed.restype = None
        self._scratch_floats, self._laid_floats = library.heed_scratch_floats, library.heed_laid_floats
        self._row_bytes = library.heed_row_bytes
        for sized in (self._scratch_floats, self._laid_floats, self._row_bytes):
            sized.restype = ctypes.c_int64
        self._scratch_floats.argtypes = [ctypes.POINTER(Rule), *[ctypes.c_int64] * 3, ctypes.c_int]
        self._laid_floats.argtypes = [ctypes.c_int64] * 3
        self._row_bytes.argtypes = [ctypes.POINTER(Linear), ctypes.c_int]
        self.using, self._instructions = using, instructions.SETS[using]
        self.keeps = frozenset(
            name for name, number in KEPT_AS.items() if library.heed_keeps(self._instructions, number)
        )
        self._blocks = library.heed_blocks
        self._blocks.restype = ctypes.c_int64
        self._blocks.argtypes = [ctypes.POINTER(BlockCall), ctypes.c_int64]
        self._columns = int(library.heed_columns(self._instructions))

    def lay_out(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        kept_as: str = "float32",
        multipliers: Tensor | None = None,
    ) -> Panels:
        """Return a weight [out, inner] and a bias [out] as `linear` and `block` take them: see `weights`."""
        check_weight(weight, bias, kept_as=kept_as, known=self.keeps)
        panels = lay_out(weight, bias, self._columns, kept_as=kept_as, multipliers=multipliers)
        return replace(panels, row_bytes=self._row_bytes(panels.linear, self._instructions))

    def linear(self, x_ND: Tensor, panels: Panels) -> Tensor:
        """Return x·Wᵀ + b [N, out] of x [N, inner]."""
        x_ND = padded(self._rows_of(x_ND, panels))
        call = self._project(x_ND, panels)
        y = x_ND.new_empty(call.x_rows, panels.out)
        call.projected, call.projected_stride = y.data_ptr(), panels.out
        rooms = x_ND.new_empty(room_floats(call, call.x_rows, panels.row_bytes))
        call.rooms = rooms.data_ptr()
        self._attend(call)
        return y

    def attend(
        self,
        q_NHD: Tensor,
        k_MGD: Tensor,
        v_MGV: Tensor,
        extents: Sequence[Extent],
        *,
        scale: float,
        causal: bool = False,
        rule: ScoreRule = PLAIN,
        sinks_H: Tensor | None = None,
    ) -> AttentionResult:
        """Return softmax(scale·QKᵀ)·V of each sequence's rows, z [N', H, V], by a rule.

        `causal`: no key after a row's own either. Keys and values may stand elsewhere than queries, and be
        more or fewer (`Extent.keys`); those of several heads are read where H is a multiple of G.
        """
        call, outputs, z, given = attention_call(q_NHD, k_MGD, v_MGV, extents, sinks_H)
        self._begin(call)
        rule.put(call.rule, scale=scale, causal=causal)
        outputs.lay_out(call, self._laid_floats, call.key_heads)
        return outputs.result(z, finite=self._run(call, outputs, given[0]))

    def attend_in_calls(
        self,
        q_NHD: Tensor,
        k_MGD: Tensor,
        v_MGV: Tensor,
        extent: Extent,
        *,
        most_pairs: int,
        scale: float,
        rule: ScoreRule = PLAIN,
        sinks_H: Tensor | None = None,
    ) -> Generator[None, None, AttentionResult]:
        """Return what `attend` does of one sequence, by calls of about so many pairs of query and key."""
        call, outputs, z, given = attention_call(q_NHD, k_MGD, v_MGV, [extent], sinks_H, alone=True)
        self._begin(call)
        rule.put(call.rule, scale=scale)
        sequence, finite = outputs.sequences[0], True
        outputs.lay_out(call, self._laid_floats, key_heads_at_once(call, sequence, most_pairs))
        for part in parted(call, sequence, most_pairs):
            if part:
                yield
            finite &= self._run(call, outputs, given[0])
        return outputs.result(z, finite=finite)

    def block(
        self,
        x_ND: Tensor,
        extents: Sequence[Extent],
        by: Projections,
        *,
        scale: float,
        causal: bool = False,
        rule: ScoreRule = PLAIN,
        through_output: bool = True,
    ) -> AttentionResult:
        """Return the attention of x [N, d_model] through W_QKV and, where it is wanted, W_O: z [N', out].

        The same bits as one after another, without the interpreter in between. `projected` is
        [N, (H + 2·G)·D], q and k as attention reads them. Rows of a sequence are those of no other.
        """
        x_ND = self._rows_of(x_ND, by.qkv)
        if by.before is None:
            x_ND = padded(x_ND)
        call, rows = self._begin(AttentionCall.from_buffer_copy(by.call)), x_ND.shape[0]
        call.x, call.x_rows, call.x_stride = x_ND.data_ptr(), rows, x_ND.stride(0)
        outputs = GroupOutputs.of(extents, by.heads, x_ND, rows, value_width=call.value_width)
        rule.put(call.rule, scale=scale, causal=causal)
        if by.rotation is not None:
            outputs.kept += put_rotation(call, by.rotation, outputs)
        outputs.lay_out(call, self._laid_floats, by.key_heads)
        scratch = self._scratch(call, outputs)
        projected, inner = self._rows("projected", x_ND, rows, by.qkv.out), by.heads * call.width
        q = projected.data_ptr()
        k = q + inner * FLOAT_BYTES
        call.projected, call.q, call.k, call.v = q, q, k, k + by.key_heads * call.width * FLOAT_BYTES
        # What nobody reads later is one piece of memory: asking for it lets the interpreter's lock go.
        of_read = 0 if by.before is None else whole_lines(rows * call.read_stride)
        of_rooms = room_floats(call, max(rows, outputs.rows), by.row_bytes)
        if by.output is None or not through_output:
            z, call.z_heads_stride = self._rows("z", x_ND, outputs.rows, inner), inner
            memory = self._memory(x_ND, of_read + scratch + of_rooms)
            call.read, call.z_heads = memory.data_ptr(), z.data_ptr()
        else:
            z, call.output = self._rows("z", x_ND, outputs.rows, by.output.out), by.output.linear
            of_heads = whole_lines(outputs.rows * call.z_heads_stride)
            memory = self._memory(x_ND, of_read + scratch + of_rooms + of_heads)
            call.z, call.read = z.data_ptr(), memory.data_ptr()
            call.z_heads = memory.data_ptr() + (of_read + scratch + of_rooms) * FLOAT_BYTES
        call.scratch = memory.data_ptr() + of_read * FLOAT_BYTES
        call.rooms = call.scratch + scratch * FLOAT_BYTES if of_rooms else 0
        return outputs.result(z, projected, finite=self._do_attend(call, outputs))

    def project(
        self, x_ND: Tensor, by: Projections, projected_ND: Tensor, *, first: int = 0, length: int
    ) -> None:
        """Fill q beside k beside v of some rows of one sequence, as `block` makes them: [N, (H + 2·G)·D].

        They are its rows from `first` on, of `length` in all.
        """
        x_ND = self._rows_of(x_ND, by.qkv)
        rows, wanted = x_ND.shape[0], (x_ND.shape[0], by.qkv.out)
        if not 0 <= first <= first + rows <= length:
            raise ValueError(f"rows {first} to {first + rows} are not of a sequence of {length}")
        if not readable(projected_ND, 2) or projected_ND.shape != wanted or projected_ND.stride(1) != 1:
            raise ValueError(
                f"q, k and v of {rows} rows fill float32 [{rows}, {by.qkv.out}], not {said(projected_ND)}"
            )
        if by.before is None:
            x_ND = padded(x_ND)
        call = self._begin(AttentionCall.from_buffer_copy(by.call))
        call.x, call.x_rows, call.x_stride = x_ND.data_ptr(), rows, x_ND.stride(0)
        call.projected, call.projected_stride = projected_ND.data_ptr(), projected_ND.stride(0)
        of_rooms = room_floats(call, rows, by.row_bytes)
        memory = x_ND.new_empty(of_rooms + (0 if by.before is None else rows * call.read_stride))
        call.rooms, call.read = memory.data_ptr(), memory.data_ptr() + of_rooms * FLOAT_BYTES
        outputs = GroupOutputs.of([Extent(slice(0, rows))], by.heads, x_ND, rows)
        if by.rotation is not None:
            tables = put_tables(outputs.sequences[0], by.rotation, length, first)  # noqa: F841 - read by C
            call.rotation.half, call.rotation.interleaved = by.rotation.half, by.rotation.interleaved
        call.sequences, call.sequence_count = ctypes.addressof(outputs.sequences), 1
        self._attend(call)

    def feed(
        self,
        network: Feed,
        x_ND: Tensor | None,
        z_ND: Tensor,
        y_ND: Tensor,
        points: Points | None = None,
    ) -> None:
        """Fill y [N, d_model] with what a block makes of x, if there is, and z: see `Feed`; and `points`."""
        x_ND = None if x_ND is None else self._rows_of(x_ND, network.up)
        z_ND = self._rows_of(z_ND, network.up)
        call, rows = feed_call(network, x_ND, z_ND, y_ND, points), z_ND.shape[0]
        # One piece of memory: to be given it, the interpreter's lock is let go of and taken again.
        call.instructions, call.threads = self._instructions, torch.get_num_threads()
        of_sum, of_hidden = whole_lines(rows * call.sum_stride), whole_lines(rows * network.hidden_floats)
        of_rooms = room_floats(call, rows, network.row_bytes)
        memory = self._memory(z_ND, (1 + network.reads_apart) * of_sum + of_hidden + of_rooms)
        call.sum = at = memory.data_ptr()
        call.read = at = at + (of_sum * FLOAT_BYTES if network.reads_apart else 0)
        call.hidden = at = at + of_sum * FLOAT_BYTES
        call.rooms = at + of_hidden * FLOAT_BYTES if of_rooms else 0
        self._feed(call)

    def _do_attend(self, call: AttentionCall, outputs: GroupOutputs) -> bool:  # noqa: ARG002 - its tables are read
        return bool(self._attend(call))

    def _rows_of(self, x_ND: Tensor, panels: Panels) -> Tensor:
        """Return the rows of x [N, inner] one after another, which a product with these panels may read."""
        if x_ND.dtype != torch.float32 or not x_ND.is_cpu or x_ND.ndim != 2 or x_ND.shape[1] != panels.inner:
            raise ValueError(f"rows are float32 [N, {panels.inner}], on a processor, not {said(x_ND)}")
        if panels.columns != self._columns:
            raise ValueError(f"panels have {self._columns} columns on this processor, not {panels.columns}")
        return x_ND.contiguous()

    def _begin(self, call: AttentionCall) -> AttentionCall:
        call.instructions, call.threads = self._instructions, torch.get_num_threads()
        return call

    def _project(self, x_ND: Tensor, panels: Panels) -> AttentionCall:
        """Return a call that begins with a product of these rows."""
        call = self._begin(AttentionCall())
        call.x, call.x_rows, call.x_stride = x_ND.data_ptr(), len(x_ND), x_ND.stride(0)
        call.projection = panels.linear
        return call

    def _scratch(self, call: AttentionCall, outputs: GroupOutputs) -> int:
        """Tell a call of its sequences; return how many numbers its threads need to themselves."""
        call.sequences, call.sequence_count = ctypes.addressof(outputs.sequences), len(outputs.sequences)
        call.z_rows = outputs.rows
        put_scratch(call, self._scratch_floats, outputs.most_keys, edited=outputs.edited)
        return whole_lines(int(call.threads * call.scratch_floats))

    def _run(self, call: AttentionCall, outputs: GroupOutputs, like: Tensor) -> bool:
        """Attend, with a scratch of this call's own; return whether all of z is finite."""
        scratch = like.new_empty(self._scratch(call, outputs))
        call.scratch = scratch.data_ptr()
        return bool(self._attend(call))


def native() -> Native | None:
    """Return the compiled functions, None where there are none for this machine."""
    return load_native()


@lru_cache(maxsize=1)
def load_native() -> Native | None:
    """Load the library, once; None where there is none for this machine, or none is wanted.

    Raises ModelError where a set of instructions is asked for that the processor has not.
    """
    library = load("models.compiled._native", structures.STRUCTURES, structures.NUMBERS)
    if library is None:
        log.warning(
            "attention goes without compiled code, more slowly; install Heed where there is a C compiler"
        )
        return None
    using = instructions.chosen(library)
    return Native(library, using) if using else None
