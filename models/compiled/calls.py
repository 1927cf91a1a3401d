"""Calls of compiled attention: checked and filled in, and one long sequence's in parts of bounded length."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.compiled import structures
from models.compiled.extents import Extent, GroupOutputs, parts_of
from models.compiled.panels import Angles, AngleTables, row_stride
from models.compiled.rules import FLOAT_BYTES, sinks_pointer
from models.compiled.structures import AttentionCall

FEW_ROWS = 8
LEAST_ROWS = 256  # of one call: keys and values come from memory again for each


def attention_call(
    q_NHD: Tensor, k_MGD: Tensor, v_MGV: Tensor, extents: Sequence[Extent], sinks_H: Tensor | None
) -> tuple[AttentionCall, GroupOutputs, Tensor, tuple[Tensor, ...]]:
    """Return a call of attention alone, what it makes, z [N', H, V], and the tensors that it reads."""
    if not (readable(q_NHD, 3) and readable(k_MGD, 3) and readable(v_MGV, 3)):
        raise ValueError(f"q, k and v are float32, on a processor, not {said(q_NHD, k_MGD, v_MGV)}")
    rows, heads, width = q_NHD.shape
    key_rows, key_heads, key_width = k_MGD.shape
    if width != key_width or k_MGD.shape[:2] != v_MGV.shape[:2] or not key_heads or heads % key_heads:
        raise ValueError(f"q, k and v do not fit each other: {said(q_NHD, k_MGD, v_MGV)}")
    q, k, v = (one if one.stride(2) == 1 else one.contiguous() for one in (q_NHD, k_MGD, v_MGV))
    outputs = GroupOutputs.of(extents, heads, q, rows, key_rows)
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
    key_heads, rows, keys, several = call.key_heads, sequence.length, sequence.keys, sequence.parts > 1
    step = rows
    if group * rows * keys > most_pairs:
        step = max(LEAST_ROWS, most_pairs // (group * keys))
    part = 0
    for key_head in range(0, key_heads, at_once):
        call.first_head, call.key_heads = key_head * group, min(at_once, key_heads - key_head)
        call.heads = call.key_heads * group
        for row in range(0, rows, step):
            sequence.first, sequence.last = row, min(row + step, rows)
            sequence.parts = (
                parts_of(sequence.last - row, keys, together=bool(sequence.together)) if several else 1
            )
            call.lays_out = bool(sequence.laid) and row == 0
            yield part
            part += 1


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


def readable(x: Tensor, axes: int) -> bool:
    """Whether C can read a tensor of so many axes."""
    return x.dtype == torch.float32 and x.is_cpu and x.ndim == axes


def said(*tensors: Tensor | None) -> str:
    """Return what tensors are, for a message."""
    return ", ".join(f"{one.dtype} {list(one.shape)} on {one.device}" for one in tensors if one is not None)


def padded_rows(like: Tensor, rows: int, width: int) -> Tensor:
    """Return rows that a product may read, [rows, width], not written yet."""
    stride = row_stride(width)
    return like.new_empty(rows, stride)[:, :width] if stride > width else like.new_empty(rows, width)


def padded(x_ND: Tensor) -> Tensor:
    """Return rows as far from each other as `padded_rows` would have them."""
    if row_stride(x_ND.shape[1]) == x_ND.shape[1] or x_ND.shape[0] < FEW_ROWS:
        return x_ND
    return padded_rows(x_ND, *x_ND.shape).copy_(x_ND)
