"""The forward pass in tiles: z, logsumexp, entropy and the largest weights, in one kernel.

After Dao et al., "FlashAttention", 2022 (arXiv:2205.14135): scores of a tile of rows are made a tile of keys
at a time and never written. Entropy −Σ w·ln w = (l·ln L + Σ e^(s−m)·(m−s)) / L has only terms that are not
negative, l being the sum of e^(s−m) and L the same with the sink's; so nothing cancels.

Legend: q [N, H, D], k [M, G, D], v [M, G, V] packed, last axis contiguous; lse [H', N]; z [N, H', V]. Of each
sequence, where its place is: entropy, rest [H', T'], lists [H', T', k'], in the dtype of their memory. What
stands in a row of the table of sequences, `scores` says.
"""

import triton
import triton.language as tl

from models.attention.tiles.lists import empty_list, entered, write_list
from models.attention.tiles.scores import (
    first_key,
    last_key,
    result_of,
    rows_of,
    scores_of,
    sequence_of,
    vectors,
)


@triton.jit(do_not_specialize=["low", "high", "hole", "own", "total", "group", "top"])
def forward(
    Q, K, V, Z, LSE, ENTROPY, TOP_KEYS, TOP_WEIGHTS, REST, PLACES, SEQUENCES, POSITIONS, HEADS, SINKS,
    q_stride, k_stride, v_stride, scale, softcap, low, high, hole, own, total, group, top,
    D: tl.constexpr, D_PADDED: tl.constexpr, DV: tl.constexpr, DV_PADDED: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, LISTED: tl.constexpr, TOP_PADDED: tl.constexpr,
    LOW: tl.constexpr, HIGH: tl.constexpr, HOLE: tl.constexpr, OWN: tl.constexpr, CAP: tl.constexpr,
    HIDDEN: tl.constexpr, BIASED: tl.constexpr, SINK: tl.constexpr, VALUES: tl.constexpr,
    READS_ENTROPY: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend one tile of rows of one head of one sequence."""
    head = tl.load(HEADS + tl.program_id(1))
    q_first, rows, k_first, keys = sequence_of(SEQUENCES)
    if tl.program_id(0) * ROWS >= rows:
        return
    row, there, position = rows_of(POSITIONS, tl.program_id(0) * ROWS, q_first, rows, ROWS)
    q = vectors(Q, row, there, q_stride, head, D, D_PADDED)
    m = tl.full([ROWS], float("-inf"), tl.float32)
    l = tl.zeros([ROWS], tl.float32)  # noqa: E741  its name in the papers
    below = tl.zeros([ROWS], tl.float32)
    visible = tl.zeros([ROWS], tl.int32)
    z = tl.zeros([ROWS, DV_PADDED], tl.float32)
    top = tl.minimum(top, keys)
    most, most_keys = empty_list(top, ROWS, TOP_PADDED)
    first = first_key(position, there, keys, low, LOW)
    stop = last_key(position, there, keys, high, HIGH)
    for key_0 in range(first // KEYS * KEYS, stop, KEYS):
        key = key_0 + tl.arange(0, KEYS)
        inside = key < keys
        k = vectors(K, k_first + key, inside, k_stride, head // group, D, D_PADDED)
        s, seen = scores_of(
            q, k, position, key, there, inside, head, scale, softcap, low, high, hole, SEQUENCES,
            LOW, HIGH, HOLE, CAP, HIDDEN, BIASED, PRECISION,
        )  # fmt: skip
        visible = tl.maximum(visible, tl.max(seen.to(tl.int32), 1))
        new = tl.maximum(m, tl.max(s, 1))
        new_0 = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp(s - new_0[:, None])
        shrink = tl.exp(m - new_0)
        if READS_ENTROPY:
            farther = tl.where(l > 0.0, (new - m) * l, 0.0)
            apart = tl.where(s > float("-inf"), p * (new_0[:, None] - s), 0.0)
            below = shrink * (below + farther) + tl.sum(apart, 1)
        l = l * shrink + tl.sum(p, 1)  # noqa: E741
        if VALUES:
            # Values that no row of the tile may attend are 0: times a weight of 0, what is not finite is NaN.
            v = vectors(
                V, k_first + key, (key >= first) & (key < stop), v_stride, head // group, DV, DV_PADDED
            )
            if HIDDEN or BIASED:
                v = tl.where((tl.max(seen.to(tl.int32), 0) > 0)[:, None], v, 0.0).to(v.dtype)
            z = z * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
        m = new
        if LISTED:
            most, most_keys = entered(most, most_keys, s, key, TOP_PADDED)
    _write(
        Z, V, LSE, ENTROPY, TOP_KEYS, TOP_WEIGHTS, REST, PLACES, SINKS, m, l, below, visible, z, most,
        most_keys, head, row, there, position, q_first, rows, k_first, keys, v_stride, own, total, group, top,
        DV, DV_PADDED, ROWS, LISTED, TOP_PADDED, OWN, SINK, VALUES, READS_ENTROPY,
    )  # fmt: skip


@triton.jit
def _write(
    Z, V, LSE, ENTROPY, TOP_KEYS, TOP_WEIGHTS, REST, PLACES, SINKS, m, l, below, visible, z, most,  # noqa: E741
    most_keys, head, row, there, position, q_first, rows, k_first, keys, v_stride, own, total, group, top,
    DV: tl.constexpr, DV_PADDED: tl.constexpr, ROWS: tl.constexpr, LISTED: tl.constexpr,
    TOP_PADDED: tl.constexpr, OWN: tl.constexpr, SINK: tl.constexpr, VALUES: tl.constexpr,
    READS_ENTROPY: tl.constexpr,
):  # fmt: skip
    """Write what a tile of rows came to; the sink takes its share first."""
    whole = l
    if SINK:
        sink = tl.load(SINKS + head)
        new = tl.maximum(m, sink)
        shrink = tl.exp(m - new)
        below = shrink * (below + tl.where(l > 0.0, (new - m) * l, 0.0))
        z = z * shrink[:, None]
        l, m = l * shrink, new  # noqa: E741
        whole = l + tl.exp(sink - new)
    blind = visible == 0
    lse = tl.where(blind, float("-inf"), m + tl.log(whole))
    whole = tl.where(blind, 1.0, whole)
    tl.store(LSE + tl.program_id(1) * total + row, lse, mask=there)
    at = tl.program_id(1).to(tl.int64) * rows + row - q_first  # among the sequence's own
    if READS_ENTROPY:
        entropy = tl.where(blind, 0.0, (l * tl.log(whole) + below) / whole)
        out = ENTROPY + result_of(PLACES, 0)
        tl.store(out + at, entropy.to(ENTROPY.dtype.element_ty), mask=there)
    if VALUES:
        z = z / whole[:, None]
        if OWN:
            own_key = position + own
            own_there = there & (own_key >= 0) & (own_key < keys)
            z += vectors(V, k_first + own_key, own_there, v_stride, head // group, DV, DV_PADDED).to(
                tl.float32
            )
        column = tl.arange(0, DV_PADDED)
        z_at = Z + (row * tl.num_programs(1) + tl.program_id(1))[:, None].to(tl.int64) * DV + column[None, :]
        tl.store(z_at, z.to(Z.dtype.element_ty), mask=there[:, None] & (column < DV)[None, :])
    if LISTED:
        mass = tl.where(blind, 0.0, l / whole)
        write_list(
            TOP_KEYS + result_of(PLACES, 1), TOP_WEIGHTS + result_of(PLACES, 2), REST + result_of(PLACES, 3),
            most, most_keys, lse, mass, blind, keys, at, there, top, ROWS, TOP_PADDED,
        )  # fmt: skip
