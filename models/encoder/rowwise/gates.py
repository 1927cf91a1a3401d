"""An activation and what it gates, in one kernel: act(gate) ⊙ up, or act(gate) alone."""

import triton
import triton.language as tl


@triton.jit
def exact_tanh(x):
    """Return tanh x, as exact near 0 as elsewhere."""
    size = tl.abs(x)
    power = tl.exp(-2.0 * size)
    far = (1.0 - power) / (1.0 + power)
    square = x * x
    series = 0.13333334 + square * (-0.05396825 + square * 0.02186949)
    near = x + x * square * (-0.33333334 + square * series)
    return tl.where(size < 0.2, near, tl.where(x < 0.0, -far, far))


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """Return an activation of x, by the name that `mlp.ACTIVATIONS` has for it."""
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":  # ½(1 + tanh u) is the sigmoid of 2u, from which nothing cancels
        x = x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "quick_gelu":
        x = x * tl.sigmoid(1.702 * x)
    elif ACTIVATION == "silu":
        x = x * tl.sigmoid(x)
    elif ACTIVATION == "sigmoid":
        x = tl.sigmoid(x)
    elif ACTIVATION == "tanh":
        x = exact_tanh(x)
    elif ACTIVATION == "relu" or ACTIVATION == "relu2":
        x = tl.where(x < 0.0, 0.0, x)  # what is not a number stays so
        if ACTIVATION == "relu2":
            x = x * x
    else:
        tl.static_assert(ACTIVATION == "identity")
    return x


@triton.jit(do_not_specialize=["rows"])
def gated(
    GATE, UP, OUT, rows, gate_stride, up_stride,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr, GATES: tl.constexpr,
):  # fmt: skip
    """Write act(gate) ⊙ up [N, F] of a tile of rows and columns; without GATES, act(gate)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < rows)[:, None] & (column < WIDTH)[None, :]
    gate = tl.load(GATE + row[:, None] * gate_stride + column[None, :], mask=there, other=0.0)
    y = activated(gate.to(tl.float32), ACTIVATION)
    if GATES:
        up = tl.load(UP + row[:, None] * up_stride + column[None, :], mask=there, other=0.0)
        y *= up.to(tl.float32)
    tl.store(OUT + row[:, None] * WIDTH + column[None, :], y.to(OUT.dtype.element_ty), mask=there)
