"""A residual added up, with norms before and after, in one kernel: x + inner(z), and outer of that.

Layer norm is (x − mean)/√(variance + ε) · weight + bias (Ba et al. 2016, equation 4), rms norm
x/√(mean of squares + ε) · weight (Zhang and Sennrich 2019, equation 4). A row stays in registers, so its
statistics are those of the numbers that are normalised, and the variance is summed of differences.
"""

import triton
import triton.language as tl


@triton.jit
def normalized(x, inside, WEIGHT, BIAS, eps, WIDTH: tl.constexpr, RMS: tl.constexpr, BIASED: tl.constexpr):
    """Return rows of x [rows, columns], normalised over the columns that are `inside`."""
    column = tl.arange(0, x.shape[1])
    weight = tl.load(WEIGHT + column, mask=inside, other=0.0).to(tl.float32)
    if not RMS:
        mean = tl.sum(x, 1) / WIDTH
        x = tl.where(inside[None, :], x - mean[:, None], 0.0)
    x = x / tl.sqrt(tl.sum(x * x, 1) / WIDTH + eps)[:, None] * weight[None, :]
    if BIASED:
        x += tl.load(BIAS + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    return x


@triton.jit(do_not_specialize=["rows"])
def add_norm(
    X, Z, MORE, SUM, NORMED, INNER_WEIGHT, INNER_BIAS, OUTER_WEIGHT, OUTER_BIAS,
    rows, x_stride, z_stride, inner_eps, outer_eps,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ADDS: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr, RMS: tl.constexpr,
    INNER_BIASED: tl.constexpr, OUTER_BIASED: tl.constexpr, WRITES_SUM: tl.constexpr, ADDS_MORE: tl.constexpr,
):  # fmt: skip
    """Write x + inner(z) [N, D] and outer of it, of a tile of rows; more [D] is added to the first alone."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < WIDTH
    there = (row < rows)[:, None] & inside[None, :]
    y = tl.load(Z + row[:, None] * z_stride + column[None, :], mask=there, other=0.0).to(tl.float32)
    if INNER:
        y = normalized(y, inside, INNER_WEIGHT, INNER_BIAS, inner_eps, WIDTH, RMS, INNER_BIASED)
    if ADDS:
        y += tl.load(X + row[:, None] * x_stride + column[None, :], mask=there, other=0.0).to(tl.float32)
    at = row[:, None] * WIDTH + column[None, :]
    if WRITES_SUM:
        total = y
        if ADDS_MORE:
            total += tl.load(MORE + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        tl.store(SUM + at, total.to(SUM.dtype.element_ty), mask=there)
    if OUTER:
        y = normalized(y, inside, OUTER_WEIGHT, OUTER_BIAS, outer_eps, WIDTH, RMS, OUTER_BIASED)
        tl.store(NORMED + at, y.to(NORMED.dtype.element_ty), mask=there)
