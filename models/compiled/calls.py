"""Calls of compiled attention: checked and filled in, and one long sequence's in parts of bounded length."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.extents import TASK_ROWS, Extent, GroupOutputs
from models.compiled.panels import Angles, AngleTables, Feed, whole_lines
from models.compiled.rules import FLOAT_BYTES, PLAIN, sinks_pointer
from models.compiled.structures import AttentionCall, FeedCall
from models.compiled.weights import MOST_INT8_INPUTS

LEAST_ROWS = 256  # of one call: keys and values come from memory again for each


def attention_call(
    q_NHD: Tensor,
    k_MGD: Tensor,
    v_MGV: Tensor,
    extents: Sequence[Extent],
    sinks_H: Tensor | None,
    *,
    alone: bool = False,
) -> tuple[AttentionCall, GroupOutputs, Tensor, tuple[Tensor, ...]]:
    """Return a call of attention alone, what it makes, z [N', H, V], and the tensors that it reads."""
    if not (readable(q_NHD, 3) and readable(k_MGD, 3) and readable(v_MGV, 3)):
        raise ValueError(f"q, k and v are float32, on a processor, not {said(q_NHD, k_MGD, v_MGV)}")
    rows, heads, width = q_NHD.shape
    key_rows, key_heads, key_width = k_MGD.shape
    if width != key_width or k_MGD.shape[:2] != v_MGV.shape[:2] or not key_heads or heads % key_heads:
        raise ValueError(f"q, k and v do not fit each other: {said(q_NHD, k_MGD, v_MGV)}")
    q, k, v = (one if one.stride(2) == 1 else one.contiguous() for one in (q_NHD, k_MGD, v_MGV))
    outputs = GroupOutputs.of(extents, heads, q, rows, key_rows, alone=alone, value_width=v.shape[2])
    z = q.new_empty(outputs.rows, heads, v.shape[2])
    call = AttentionCall()
    call.q, call.k, call.v, call.z_heads = q.data_ptr(), k.data_ptr(), v.data_ptr(), z.data_ptr()
    call.z_heads_stride = heads * v.shape[2]
    call.q_stride, call.q_head_stride, _ = q.stride()
    call.k_stride, call.k_head_stride, _ = k.stride()
    call.v_stride, call.v_head_stride, _ = v.stride()
    call.heads, call.key_heads, call.width, call.value_width = heads, key_heads, width, v.shape[2]
    call.sinks = sinks_pointer(sinks_H, heads)
    return call, outputs, z, (q, k, v)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows [N, d_model] to be filled with what a block has on its way, None where it is not wanted.

    `mid`: x and what attention gave, added up. `feed_forward`: what the network gives, as it is added.
    """

    mid: Tensor | None = None
    feed_forward: Tensor | None = None

    def part(self, rows: slice) -> "Points":
        """Return some of the rows."""
        mid, fed = (None if one is None else one[rows] for one in (self.mid, self.feed_forward))
        return Points(mid, fed)

    def put(self, *, mid: Tensor | None = None, feed_forward: Tensor | None = None) -> None:
        """Fill those that are wanted."""
        for wanted, made in ((self.mid, mid), (self.feed_forward, feed_forward)):
            if wanted is not None and made is not None:
                wanted.copy_(made)


def feed_call(
    network: Feed, x_ND: Tensor | None, z_ND: Tensor, y_ND: Tensor, points: Points | None
) -> FeedCall:
    """Return a call of what follows attention, its memory but for what nobody reads after it."""
    filled = (y_ND, None, None) if points is None else (y_ND, points.mid, points.feed_forward)
    given = [one for one in filled if one is not None]
    for one in given:
        if not readable(one, 2) or one.shape[1] != network.up.inner:
            raise ValueError(f"rows are float32 [N, {network.up.inner}], on a processor, not {said(one)}")
    if not all(one.is_contiguous() for one in given):
        raise ValueError("y is filled in its own memory, whose rows must follow each other")
    if not all(one.shape == z_ND.shape for one in (*given, x_ND) if one is not None):
        raise ValueError(f"x, z and y have as many rows: {said(x_ND, z_ND, *given)}")
    if network.parallel and x_ND is None:
        raise ValueError("a network beside the attention reads x, and there is none")
    call = FeedCall.from_buffer_copy(network.call)
    call.x, call.z, call.rows = 0 if x_ND is None else x_ND.data_ptr(), z_ND.data_ptr(), z_ND.shape[0]
    call.y, call.mid, call.fed_rows = (0 if one is None else one.data_ptr() for one in filled)
    return call


def key_heads_at_once(call: AttentionCall, sequence: structures.Sequence, most_pairs: int) -> int:
    """Return how many key heads one part has, with all heads that read them."""
    pairs = call.heads // call.key_heads * sequence.length * sequence.keys
    fits: int = min(call.key_heads, most_pairs // max(1, pairs))
    return max(1, fits)


def parted(call: AttentionCall, sequence: structures.Sequence, most_pairs: int) -> Iterator[int]:
    """Set a call, whose one sequence this is, to one part of it after another; its caller calls in between.

    A part is about `most_pairs` pairs of query and key: whole key heads, or some rows of one. Keys and values
    are laid out in the first of a key head only.
    """
    at_once, group = key_heads_at_once(call, sequence, most_pairs), call.heads // call.key_heads
    key_heads, rows, keys, parts = call.key_heads, sequence.length, sequence.keys, sequence.parts
    step = rows
    if group * rows * keys > most_pairs:
        step = max(LEAST_ROWS, most_pairs // (group * keys))
    part = 0
    for key_head in range(0, key_heads, at_once):
        call.first_head, call.key_heads = key_head * group, min(at_once, key_heads - key_head)
        call.heads = call.key_heads * group
        for row in range(0, rows, step):
            sequence.first, sequence.last = row, min(row + step, rows)
            sequence.parts = max(1, min(parts, (sequence.last - row) // TASK_ROWS))
            call.lays_out = bool(sequence.laid) and row == 0
            yield part
            part += 1


def put_scratch(call: AttentionCall, floats_of: Callable[..., int], keys: int, *, edited: bool) -> None:
    """Tell a call how many numbers a thread needs to itself, for sequences of at most so many keys."""
    sizes = (keys, call.width, call.value_width, 0)
    floats = floats_of(call.rule, *sizes)
    if edited:  # weights that are given are of all keys, whatever the rule; and a row of what is added
        unbounded = structures.Rule()
        PLAIN.put(unbounded, scale=1.0)
        call.edit_floats = whole_lines(structures.MADE_FLOATS + keys)
        floats = whole_lines(max(floats, floats_of(unbounded, *sizes))) + call.edit_floats
    call.scratch_floats = floats


def put_rotation(call: AttentionCall, angles: Angles, outputs: GroupOutputs) -> list[AngleTables]:
    """Tell C of tables of angles; return what is to live as long as the call."""
    call.rotation.half, call.rotation.interleaved = angles.half, angles.interleaved
    if not angles.by_length:
        return [put_tables(call.rotation, angles, outputs.most_keys)]
    return [put_tables(sequence, angles, sequence.length) for sequence in outputs.sequences]


def put_tables(
    to: structures.Rotation | structures.Sequence, angles: Angles, positions: int, first: int = 0
) -> AngleTables:
    """Tell C of the tables of a sequence of so many positions, from the `first` on."""
    tables = angles.tables(positions)
    if not tables.readable or tables.positions < positions or tables.half != angles.half:
        raise ValueError(
            f"tables of angles are float32 [{positions}, {angles.half}] or longer, on a processor, "
            f"not {said(tables.cosines)}"
        )
    to.cosines, to.sines = (at + first * tables.half * FLOAT_BYTES for at in tables.at)
    return tables


def check_weight(weight: Tensor, bias: Tensor | None, *, kept_as: str, known: Collection[str]) -> None:
    """Raise ValueError for a weight [out, inner] and a bias [out] that cannot be laid out so."""
    halves = weight.is_cpu and weight.ndim == 2 and weight.dtype in (torch.bfloat16, torch.float16)
    if not (halves or readable(weight, 2)) or not (bias is None or readable(bias, 1)):
        raise ValueError(f"panels are float32, on a processor, not {said(weight, bias)}")
    out, inner = weight.shape
    if bias is not None and len(bias) != out:
        raise ValueError(f"a weight [{out}, {inner}] has a bias of {out} numbers, not {len(bias)}")
    if kept_as not in known:
        raise ValueError(f"weights are kept as {', '.join(sorted(known))} here, not {kept_as}")
    if kept_as == "int8" and inner > MOST_INT8_INPUTS:
        raise ValueError(f"int8 has no sums of {inner} products; {MOST_INT8_INPUTS} is the limit")


def readable(x: Tensor, axes: int) -> bool:
    """Whether C can read a tensor of so many axes."""
    return x.dtype == torch.float32 and x.is_cpu and x.ndim == axes


def said(*tensors: Tensor | None) -> str:
    """Return what tensors are, for a message."""
    return ", ".join(f"{one.dtype} {list(one.shape)} on {one.device}" for one in tensors if one is not None)
