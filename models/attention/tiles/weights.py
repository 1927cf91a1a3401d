"""Weights exp(s − lse) in tiles, from q, k and the logsumexp: as they are, their sums, over heads.

No kernel adds to memory that another adds to: each place is written once, by one program that goes through
rows or heads in their order, so the bits of a result are the same whatever runs beside it.
"""

import triton
import triton.language as tl

from models.attention.tiles.scores import (
    first_key,
    last_key,
    result_of,
    rows_of,
    scores_of,
    sequence_of,
    vectors,
)


@triton.jit(do_not_specialize=["low", "high", "hole", "total", "group"])
def write_weights(
    Q, K, LSE, OUT, PLACES, SEQUENCES, POSITIONS, HEADS,
    q_stride, k_stride, scale, softcap, low, high, hole, total, group,
    D: tl.constexpr, D_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, HOLE: tl.constexpr, CAP: tl.constexpr,
    HIDDEN: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write weights [H', T', S] of a tile of rows of one head of one sequence, in the dtype of OUT."""
    place = tl.program_id(1)
    head = tl.load(HEADS + place)
    q_first, rows, k_first, keys = sequence_of(SEQUENCES)
    if tl.program_id(0) * ROWS >= rows:
        return
    row, there, position = rows_of(POSITIONS, tl.program_id(0) * ROWS, q_first, rows, ROWS)
    q = vectors(Q, row, there, q_stride, head, D, D_PADDED)
    lse = tl.load(LSE + place * total + row, mask=there, other=0.0)
    blind = lse == float("-inf")
    out = OUT + result_of(PLACES, 0) + (place.to(tl.int64) * rows + row - q_first)[:, None] * keys
    first = first_key(position, there, keys, low, LOW)
    last = last_key(position, there, keys, high, HIGH)
    for key_0 in range(0, keys, KEYS):
        key = key_0 + tl.arange(0, KEYS)
        inside = key < keys
        w = tl.zeros([ROWS, KEYS], tl.float32)
        if (key_0 + KEYS > first) & (key_0 < last):
            k = vectors(K, k_first + key, inside, k_stride, head // group, D, D_PADDED)
            s, seen = scores_of(
                q, k, position, key, there, inside, head, scale, softcap, low, high, hole, SEQUENCES,
                LOW, HIGH, HOLE, CAP, HIDDEN, BIASED, PRECISION,
            )  # fmt: skip
            w = tl.where(seen & ~blind[:, None], tl.exp(s - lse[:, None]), 0.0)
        tl.store(out + key[None, :], w.to(OUT.dtype.element_ty), mask=there[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["low", "high", "hole", "total", "group"])
def sum_rows(
    Q, K, LSE, OUT, PLACES, SEQUENCES, POSITIONS, HEADS,
    q_stride, k_stride, scale, softcap, low, high, hole, total, group,
    D: tl.constexpr, D_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, HOLE: tl.constexpr, CAP: tl.constexpr,
    HIDDEN: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write what rows give to each of a tile of keys of one head of one sequence, Σ [H', S]."""
    place = tl.program_id(1)
    head = tl.load(HEADS + place)
    q_first, rows, k_first, keys = sequence_of(SEQUENCES)
    key_0 = tl.program_id(0) * KEYS
    if key_0 >= keys:
        return
    key = key_0 + tl.arange(0, KEYS)
    inside = key < keys
    k = vectors(K, k_first + key, inside, k_stride, head // group, D, D_PADDED)
    summed = tl.zeros([KEYS], tl.float32)
    for row_0 in range(0, rows, ROWS):
        row, there, position = rows_of(POSITIONS, row_0, q_first, rows, ROWS)
        first = first_key(position, there, keys, low, LOW)
        last = last_key(position, there, keys, high, HIGH)
        if (key_0 + KEYS > first) & (key_0 < last):
            q = vectors(Q, row, there, q_stride, head, D, D_PADDED)
            lse = tl.load(LSE + place * total + row, mask=there, other=0.0)
            s, seen = scores_of(
                q, k, position, key, there, inside, head, scale, softcap, low, high, hole, SEQUENCES,
                LOW, HIGH, HOLE, CAP, HIDDEN, BIASED, PRECISION,
            )  # fmt: skip
            seen = seen & (lse != float("-inf"))[:, None]
            summed += tl.sum(tl.where(seen, tl.exp(s - lse[:, None]), 0.0), 0)
    out = OUT + result_of(PLACES, 0) + place * keys
    tl.store(out + key, summed.to(OUT.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["heads", "low", "high", "hole", "total", "group"])
def over_heads(
    Q, K, LSE, MEAN, MOST, PLACES, SEQUENCES, POSITIONS, HEADS, heads,
    q_stride, k_stride, scale, softcap, low, high, hole, total, group,
    D: tl.constexpr, D_PADDED: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, HOLE: tl.constexpr, CAP: tl.constexpr,
    HIDDEN: tl.constexpr, BIASED: tl.constexpr, PRECISION: tl.constexpr,
    READS_MEAN: tl.constexpr, READS_MOST: tl.constexpr,
):  # fmt: skip
    """Write mean and largest over heads [T', S] of a tile of rows and keys of one sequence."""
    q_first, rows, k_first, keys = sequence_of(SEQUENCES)
    row_0, key_0 = tl.program_id(0) * ROWS, tl.program_id(1) * KEYS
    if (row_0 >= rows) | (key_0 >= keys):
        return
    row, there, position = rows_of(POSITIONS, row_0, q_first, rows, ROWS)
    key = key_0 + tl.arange(0, KEYS)
    inside = key < keys
    mean = tl.zeros([ROWS, KEYS], tl.float32)
    most = tl.zeros([ROWS, KEYS], tl.float32)
    first = first_key(position, there, keys, low, LOW)
    last = last_key(position, there, keys, high, HIGH)
    if (key_0 + KEYS > first) & (key_0 < last):
        for place in range(heads):
            head = tl.load(HEADS + place)
            q = vectors(Q, row, there, q_stride, head, D, D_PADDED)
            k = vectors(K, k_first + key, inside, k_stride, head // group, D, D_PADDED)
            lse = tl.load(LSE + place * total + row, mask=there, other=0.0)
            s, seen = scores_of(
                q, k, position, key, there, inside, head, scale, softcap, low, high, hole, SEQUENCES,
                LOW, HIGH, HOLE, CAP, HIDDEN, BIASED, PRECISION,
            )  # fmt: skip
            seen = seen & (lse != float("-inf"))[:, None]
            w = tl.where(seen, tl.exp(s - lse[:, None]), 0.0)
            mean += w
            most = tl.maximum(most, w)
    at = (row - q_first)[:, None].to(tl.int64) * keys + key[None, :]
    written = there[:, None] & inside[None, :]
    if READS_MEAN:
        tl.store(MEAN + result_of(PLACES, 0) + at, (mean / heads).to(MEAN.dtype.element_ty), mask=written)
    if READS_MOST:
        tl.store(MOST + result_of(PLACES, 1) + at, most.to(MOST.dtype.element_ty), mask=written)
