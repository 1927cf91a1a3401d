"""Kernels over rows, launched on tensors as they are; nothing is copied, waited for or read back.

Shapes: N packed rows, D numbers of a row, H heads of q and G of k. The last axis has one number after
another; any other stride may be what a projection of several things side by side leaves.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.encoder.rowwise.choice import (
    WIDEST,
    RowTiles,
    gate_tiles,
    head_tiles,
    kernel,
    parts,
    power,
    row_tiles,
)


@dataclass(frozen=True, slots=True, eq=False)
class RowNorm:
    """Layer norm, or rms norm, over rows of as many numbers as `weight` has; `bias` of a layer norm alone."""

    weight: Tensor
    bias: Tensor | None
    eps: float
    rms: bool

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.weight.numel()


def add_norm(
    x_ND: Tensor | None,
    z_ND: Tensor,
    *,
    inner: RowNorm | None = None,
    outer: RowNorm | None = None,
    more_D: Tensor | None = None,
    reads_sum: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return x + inner(z) and outer of that, [N, D] each, in the dtype of z.

    Without x, nothing is added; without `outer`, or where nobody reads the sum, both are the same tensor.
    Both norms are of one kind. `more` is added to the sum that is returned, not to what `outer` normalises.
    """
    rows, width = z_ND.shape
    some = inner or outer
    assert width <= WIDEST
    assert some is None or some.width == width, "rows are as wide as their norm"
    z_ND = one_after_another(z_ND)
    x = z_ND if x_ND is None else one_after_another(x_ND)
    sums = reads_sum or outer is None
    total = z_ND.new_empty(rows, width) if sums else None
    normed = total if outer is None else z_ND.new_empty(rows, width)
    assert normed is not None
    tiles = row_tiles(width)
    before, after = ((x, x) if one is None else _parameters(one) for one in (inner, outer))
    _launch(
        "add_norm", (parts(rows, tiles.rows),), tiles,
        (
            x, z_ND, x if more_D is None else more_D, normed if total is None else total, normed,
            *before, *after,
        ),
        (
            rows, x.stride(0), z_ND.stride(0),
            0.0 if inner is None else inner.eps, 0.0 if outer is None else outer.eps,
        ),
        WIDTH=width, ROWS=tiles.rows, COLUMNS=tiles.columns,
        ADDS=x_ND is not None, INNER=inner is not None, OUTER=outer is not None,
        RMS=some is not None and some.rms, INNER_BIASED=inner is not None and inner.bias is not None,
        OUTER_BIASED=outer is not None and outer.bias is not None, WRITES_SUM=sums,
        ADDS_MORE=more_D is not None,
    )  # fmt: skip
    return normed if total is None else total, normed


def gated(gate_NF: Tensor, up_NF: Tensor | None, activation: str) -> Tensor:
    """Return act(gate) ⊙ up [N, F]; without `up`, act(gate)."""
    gate_NF = one_after_another(gate_NF)
    up = gate_NF if up_NF is None else one_after_another(up_NF)
    rows, width = gate_NF.shape
    out = gate_NF.new_empty(rows, width)
    tiles = gate_tiles(width)
    _launch(
        "gated", (parts(rows, tiles.rows), parts(width, tiles.columns)), tiles,
        (gate_NF, up, out), (rows, gate_NF.stride(0), up.stride(0)),
        WIDTH=width, ROWS=tiles.rows, COLUMNS=tiles.columns, ACTIVATION=activation, GATES=up_NF is not None,
    )  # fmt: skip
    return out


def turn(
    q_NHD: Tensor,
    k_NGD: Tensor,
    cosines: Tensor,
    sines: Tensor,
    norms: tuple[RowNorm, RowNorm] | None = None,
    *,
    interleaved: bool,
    in_place: bool,
) -> tuple[Tensor, Tensor]:
    """Return q and k turned by angles [N, 1, half], normalised before where `norms` are given.

    `in_place`: they are written over; else both lie in one new tensor [N, H + G, D].
    """
    rows, heads, width = q_NHD.shape
    key_heads, half = k_NGD.shape[1], cosines.shape[-1]
    q, k, cosines, sines = map(one_after_another, (q_NHD, k_NGD, cosines, sines))
    in_place = in_place and q is q_NHD and k is k_NGD
    q_out, k_out = q, k
    if not in_place:
        out = q.new_empty(rows, heads + key_heads, width)
        q_out, k_out = out[:, :heads], out[:, heads:]
    tiles = head_tiles(half)
    first, last = norms or (None, None)
    of_q, of_k = ((cosines, cosines) if one is None else _parameters(one) for one in (first, last))
    _launch(
        "turn", (parts(rows * heads, tiles.rows) + parts(rows * key_heads, tiles.rows),), tiles,
        (q, k, q_out, k_out, cosines, sines, *of_q, *of_k),
        (
            rows, heads, key_heads, *(one.stride(axis) for one in (q, k, q_out, k_out) for axis in (0, 1)),
            cosines.stride(0), *(0.0 if one is None else one.eps for one in (first, last)),
        ),
        WIDTH=width, HALF=half, VECTORS=tiles.rows, COLUMNS=tiles.columns, REST=power(width - 2 * half),
        INTERLEAVED=interleaved, NORMS=first is not None, RMS=first is not None and first.rms,
        BIASED=first is not None and first.bias is not None, IN_PLACE=in_place,
    )  # fmt: skip
    return q_out, k_out


def one_after_another(x: Tensor) -> Tensor:
    """Return x with the numbers of its last axis one after another, itself where they are."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _parameters(norm: RowNorm) -> tuple[Tensor, Tensor]:
    return norm.weight, norm.weight if norm.bias is None else norm.bias


def _launch(
    name: str,
    grid: tuple[int, ...],
    tiles: RowTiles,
    tensors: Sequence[Tensor],
    numbers: Sequence[float],
    **constants: Any,
) -> None:
    """Launch one kernel, unless there are no rows; all that it is given is in its own order."""
    if not grid[0]:
        return
    device = tensors[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        # Not by their names, which would take Triton half as long again; they are in the kernel's order.
        kernel(name)[grid](*tensors, *numbers, *constants.values(), num_warps=tiles.warps)
