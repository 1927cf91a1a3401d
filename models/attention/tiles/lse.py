"""Logsumexps of packed rows, put where those of each sequence go."""

import triton
import triton.language as tl

from models.attention.tiles.scores import result_of, sequence_of


@triton.jit(do_not_specialize=["stride", "total"])
def put_lse(
    LSE, OUT, LOST, PLACES, SEQUENCES, CHOSEN, HEADS, stride, total,
    ROWS: tl.constexpr, CHOOSES: tl.constexpr, NARROWED: tl.constexpr,
):  # fmt: skip
    """Put the logsumexp [H, N] of a tile of rows of one head where one sequence's go, [H', T'].

    Where it is narrowed, LOST [H', N'] is infinite where a number becomes so that was not.
    """
    place = tl.program_id(1)
    q_first, rows, _, _ = sequence_of(SEQUENCES)
    at = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = at < rows
    row = q_first + at
    if CHOOSES:
        row = tl.load(CHOSEN + q_first + at, mask=there, other=0).to(tl.int32)
    lse = tl.load(LSE + tl.load(HEADS + place) * stride + row, mask=there, other=0.0)
    put = lse.to(OUT.dtype.element_ty)
    tl.store(OUT + result_of(PLACES, 0) + place.to(tl.int64) * rows + at, put, mask=there)
    if NARROWED:
        infinite = tl.abs(put.to(tl.float32)) == float("inf")
        lost = tl.where(infinite & (tl.abs(lse) < float("inf")), float("inf"), 0.0)
        tl.store(LOST + place * total + q_first + at, lost, mask=there)
