"""q and k turned by their positions in one kernel, each vector normalised first where a model does that.

Rotary positions are of Su et al. 2021, equation 34. A vector's first 2·HALF numbers are pairs: number i and
number i + HALF, or neighbours where they are interleaved. What follows them is not turned.
"""

import triton
import triton.language as tl


@triton.jit
def weighed(x, WEIGHT, BIAS, column, inside, BIASED: tl.constexpr):
    """Return x times the norm's weights of some columns, and its bias added."""
    x = x * tl.load(WEIGHT + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if BIASED:
        x += tl.load(BIAS + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit
def turn_vectors(
    X, OUT, COSINES, SINES, WEIGHT, BIAS, tile, rows, heads, x_row, x_head, out_row, out_head, angle_row,
    eps, WIDTH: tl.constexpr, HALF: tl.constexpr, VECTORS: tl.constexpr, COLUMNS: tl.constexpr,
    REST: tl.constexpr, INTERLEAVED: tl.constexpr, NORMS: tl.constexpr, RMS: tl.constexpr,
    BIASED: tl.constexpr, IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Turn a tile of vectors, which are counted head by head, row by row."""
    vector = tile * VECTORS + tl.arange(0, VECTORS)
    there = (vector < rows * heads)[:, None]
    row, head = (vector // heads).to(tl.int64), vector % heads
    at = X + (row * x_row + head * x_head)[:, None]
    to = OUT + (row * out_row + head * out_head)[:, None]
    pair = tl.arange(0, COLUMNS)
    halves = there & (pair < HALF)[None, :]
    both = tl.arange(0, 2 * COLUMNS)
    pairs = there & (both < 2 * HALF)[None, :]
    first, second = pair, pair + HALF
    if INTERLEAVED:
        first, second = 2 * pair, 2 * pair + 1
        x = tl.load(at + both[None, :], mask=pairs, other=0.0).to(tl.float32)
        one, other = tl.split(tl.reshape(x, (VECTORS, COLUMNS, 2)))
    else:
        one = tl.load(at + first[None, :], mask=halves, other=0.0).to(tl.float32)
        other = tl.load(at + second[None, :], mask=halves, other=0.0).to(tl.float32)
    more = 2 * HALF + tl.arange(0, REST)
    kept = there & (more < WIDTH)[None, :]
    KEEPS: tl.constexpr = WIDTH > 2 * HALF and (NORMS or not IN_PLACE)
    rest = tl.zeros([VECTORS, REST], tl.float32)
    if KEEPS:
        rest = tl.load(at + more[None, :], mask=kept, other=0.0).to(tl.float32)
    if NORMS:
        if not RMS:
            mean = ((tl.sum(one, 1) + tl.sum(other, 1) + tl.sum(rest, 1)) / WIDTH)[:, None]
            one, other = tl.where(halves, one - mean, 0.0), tl.where(halves, other - mean, 0.0)
            rest = tl.where(kept, rest - mean, 0.0)
        squares = tl.sum(one * one, 1) + tl.sum(other * other, 1) + tl.sum(rest * rest, 1)
        size = tl.sqrt(squares / WIDTH + eps)[:, None]
        one = weighed(one / size, WEIGHT, BIAS, first, pair < HALF, BIASED)
        other = weighed(other / size, WEIGHT, BIAS, second, pair < HALF, BIASED)
        if KEEPS:
            rest = weighed(rest / size, WEIGHT, BIAS, more, more < WIDTH, BIASED)
    angle = row[:, None] * angle_row + pair[None, :]
    c = tl.load(COSINES + angle, mask=halves, other=0.0).to(tl.float32)
    s = tl.load(SINES + angle, mask=halves, other=0.0).to(tl.float32)
    one, other = one * c - other * s, other * c + one * s
    if IN_PLACE:
        tl.debug_barrier()  # nobody writes what another thread has yet to read
    if INTERLEAVED:
        turned = tl.reshape(tl.join(one, other), (VECTORS, 2 * COLUMNS))
        tl.store(to + both[None, :], turned.to(OUT.dtype.element_ty), mask=pairs)
    else:
        tl.store(to + first[None, :], one.to(OUT.dtype.element_ty), mask=halves)
        tl.store(to + second[None, :], other.to(OUT.dtype.element_ty), mask=halves)
    if KEEPS:
        tl.store(to + more[None, :], rest.to(OUT.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["rows", "heads", "key_heads"])
def turn(
    Q, K, Q_OUT, K_OUT, COSINES, SINES, Q_WEIGHT, Q_BIAS, K_WEIGHT, K_BIAS,
    rows, heads, key_heads, q_row, q_head, k_row, k_head,
    q_out_row, q_out_head, k_out_row, k_out_head, angle_row, q_eps, k_eps,
    WIDTH: tl.constexpr, HALF: tl.constexpr, VECTORS: tl.constexpr, COLUMNS: tl.constexpr,
    REST: tl.constexpr, INTERLEAVED: tl.constexpr, NORMS: tl.constexpr, RMS: tl.constexpr,
    BIASED: tl.constexpr, IN_PLACE: tl.constexpr,
):  # fmt: skip
    """Turn a tile of vectors of q [N, H, D], or of k [N, G, D] once those of q are done."""
    tile = tl.program_id(0)
    of_q = tl.cdiv(rows * heads, VECTORS)
    if tile < of_q:
        turn_vectors(
            Q, Q_OUT, COSINES, SINES, Q_WEIGHT, Q_BIAS, tile, rows, heads,
            q_row, q_head, q_out_row, q_out_head, angle_row, q_eps,
            WIDTH, HALF, VECTORS, COLUMNS, REST, INTERLEAVED, NORMS, RMS, BIASED, IN_PLACE,
        )  # fmt: skip
    else:
        turn_vectors(
            K, K_OUT, COSINES, SINES, K_WEIGHT, K_BIAS, tile - of_q, rows, key_heads,
            k_row, k_head, k_out_row, k_out_head, angle_row, k_eps,
            WIDTH, HALF, VECTORS, COLUMNS, REST, INTERLEAVED, NORMS, RMS, BIASED, IN_PLACE,
        )  # fmt: skip
