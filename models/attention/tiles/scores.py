"""Scores of a tile of rows and a tile of keys, and where a sequence stands: what all kernels share.

A row of the table of sequences, int64: first row of q, rows, first row of k, keys; then, twice, for its mask
(bool, true may be attended) and for what is added to its scores (float32): address, stride from head to head,
from row to row. An address of 0: it has none. A row of the table of places [C, B], int64: where each
sequence's part of one output begins.
"""

import triton
import triton.language as tl

COLUMNS = tl.constexpr(10)


@triton.jit
def sequence_of(SEQUENCES):
    """Return first row, rows, first key and keys of the sequence of this program."""
    at = SEQUENCES + tl.program_id(2) * COLUMNS
    first, rows = tl.load(at).to(tl.int32), tl.load(at + 1).to(tl.int32)
    return first, rows, tl.load(at + 2).to(tl.int32), tl.load(at + 3).to(tl.int32)


@triton.jit
def result_of(PLACES, output: tl.constexpr):
    """Return where the sequence's part of an output begins, one of those that the kernel has."""
    return tl.load(PLACES + output * tl.num_programs(2) + tl.program_id(2))


@triton.jit
def rows_of(POSITIONS, row_0, q_first, rows, ROWS: tl.constexpr):
    """Return the rows of a tile among all, which of them are the sequence's, and their positions in it."""
    at = row_0 + tl.arange(0, ROWS)
    there = at < rows
    return q_first + at, there, tl.load(POSITIONS + q_first + at, mask=there, other=0)


@triton.jit
def vectors(X, row, there, stride, head, D: tl.constexpr, D_PADDED: tl.constexpr):
    """Return a head's vectors of some rows, 0 where none are there."""
    d = tl.arange(0, D_PADDED)
    at = X + row[:, None].to(tl.int64) * stride + head * D + d[None, :]
    return tl.load(at, mask=there[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def first_key(position, there, keys, low, LOW: tl.constexpr):
    """Return the first key that any of the rows may attend."""
    first = keys * 0
    if LOW:
        lowest = tl.min(tl.where(there, position, 2147483647), 0)
        first = tl.minimum(tl.maximum(lowest + low, 0), keys)
    return first


@triton.jit
def last_key(position, there, keys, high, HIGH: tl.constexpr):
    """Return the key after the last that any of the rows may attend."""
    last = keys
    if HIGH:
        highest = tl.max(tl.where(there, position, -2147483647), 0)
        last = tl.minimum(tl.maximum(highest + high + 1, 0), keys)
    return last


@triton.jit
def _tanh(x):
    """Tanh that is as exact near 0 as elsewhere."""
    size = tl.abs(x)
    power = tl.exp(-2.0 * size)
    far = (1.0 - power) / (1.0 + power)
    far = tl.where(x < 0.0, -far, far)
    square = x * x
    near = 1.0 + square * (-0.33333334 + square * (0.13333334 + square * (-0.05396825 + square * 0.02186949)))
    return tl.where(size < 0.2, x * near, far)


@triton.jit
def scores_of(
    q, k, position, key, there, inside, head, scale, softcap, low, high, hole, SEQUENCES,
    LOW: tl.constexpr, HIGH: tl.constexpr, HOLE: tl.constexpr, CAP: tl.constexpr,
    HIDDEN: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return scores [rows, keys], −inf where not seen, and which keys each row may attend."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if CAP:
        s = softcap * _tanh(s / softcap)
    seen = there[:, None] & inside[None, :]
    ahead = key[None, :] - position[:, None]
    if LOW:
        seen = seen & (ahead >= low)
    if HIGH:
        seen = seen & (ahead <= high)
    if HOLE:
        seen = seen & (ahead != hole)
    row = SEQUENCES + tl.program_id(2) * COLUMNS
    if BIASED:
        address = tl.load(row + 7)
        added_at = address.to(tl.pointer_type(tl.float32), bitcast=False) + (
            head * tl.load(row + 8) + position[:, None] * tl.load(row + 9) + key[None, :]
        )
        added = tl.load(added_at, mask=seen & (address + ahead != ahead), other=0.0)
        s += added
        seen = seen & (added != float("-inf"))
    if HIDDEN:
        address = tl.load(row + 4)
        open_at = address.to(tl.pointer_type(tl.int8), bitcast=False) + (
            head * tl.load(row + 5) + position[:, None] * tl.load(row + 6) + key[None, :]
        )
        seen = seen & (tl.load(open_at, mask=seen & (address + ahead != ahead), other=1) != 0)
    return tl.where(seen, s, float("-inf")), seen
