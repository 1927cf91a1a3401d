"""One linear layer, with the fastest kernel the machine has: chosen by a probe when the weights arrive.

On AMD processors torch's float32 `F.linear` runs at about half the speed of oneDNN's linear on weights laid
out for it beforehand. That operator is torch's own but private, so it is used only where it is present,
agrees with `F.linear`, and measures faster; otherwise the stock path runs. `kernel` says which.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Linear", "product", "whole_rows"]

PROBE_ROWS = (16, 128)  # a short sequence, and a small batch
PROBE_ROUNDS = 5
SMALLEST_PACKED = 128 * 128  # below this a call costs more than the product

_Kernel = Callable[[Tensor], Tensor]
_faster: dict[tuple[int, ...], bool] = {}  # whether oneDNN's was, by the weight's shape
_measuring = threading.Lock()


class Linear:
    """y = x·Wᵀ + b for a weight [out, in] and a bias [out] or None, on rows x [N, in]."""

    __slots__ = ("bias", "kernel", "packed", "weight")

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, probe: bool = True) -> None:
        self.weight: Tensor | None = weight.contiguous()
        self.bias = bias
        self.packed: Any = None
        self.kernel = "torch"
        if probe and _packable(self.weight):
            self._try_packed(self.weight)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Return x·Wᵀ + b, [N, out], in the dtype of x."""
        return product(x_ND, *self.stored)

    @property
    def stored(self) -> tuple[Tensor, Tensor | None, bool]:
        """What `product` takes: the weight as it is kept, the bias, whether oneDNN laid the weight out."""
        if self.packed is not None:
            return self.packed, self.bias, True
        assert self.weight is not None
        return self.weight, self.bias, False

    def _try_packed(self, weight: Tensor) -> None:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001

        def stock(x: Tensor) -> Tensor:
            return F.linear(x, weight, self.bias)

        def onednn(x: Tensor) -> Tensor:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, self.bias, "none", [], "")  # noqa: SLF001
            return result

        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(rows, weight.shape[1], generator=generator) for rows in PROBE_ROWS]
        for x in inputs:
            expected = stock(x)
            if not torch.allclose(onednn(x), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())):
                return
        if _is_faster(onednn, stock, inputs, shape=tuple(weight.shape)):
            self.packed, self.weight, self.kernel = packed, None, "onednn"


def product(x_ND: Tensor, weight: Tensor, bias: Tensor | None, packed: bool) -> Tensor:  # noqa: FBT001 - for TorchScript
    """Return x·Wᵀ + b, [N, out], of a weight as `Linear.stored` gives it."""
    if not packed:
        return F.linear(x_ND, weight, bias)
    rows = x_ND.size(0)
    whole = whole_rows(rows)
    if whole > rows:
        given, x_ND = x_ND, x_ND.new_empty([whole, x_ND.size(1)])
        x_ND[:rows] = given
        x_ND[rows:] = 0.0
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x_ND, weight, bias, "none", [], "")  # noqa: SLF001
    return result[:rows]


def whole_rows(rows: int) -> int:
    """Return the next number of rows that oneDNN is asked for: each up to 128, then 64 an octave up to 512.

    oneDNN writes a kernel for every number of rows it meets, in a millisecond, and keeps up to 1,024 of them:
    0.6 MB each, and 0.3 for every further thread. Ragged batches meet every number there is. The rows added
    here are 0.4% on average; beyond 512, where few batches are alike and each takes long, none are.
    """
    step = 1
    if rows <= 512:
        while rows > 128 * step:
            step *= 2
    return (rows + step - 1) // step * step


def _is_faster(one: _Kernel, other: _Kernel, inputs: list[Tensor], *, shape: tuple[int, ...]) -> bool:
    """Whether one kernel beats another on weights of a shape; measured once, so that it does not change."""
    with _measuring:
        if shape not in _faster:
            seconds = [sum(_best_seconds(kernel, x) for x in inputs) for kernel in (one, other)]
            _faster[shape] = seconds[0] < seconds[1]
        return _faster[shape]


def _packable(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() >= SMALLEST_PACKED
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _best_seconds(function: Callable[[Tensor], Tensor], x: Tensor) -> float:
    best = float("inf")
    for _ in range(PROBE_ROUNDS):
        begin = time.perf_counter()
        function(x)
        best = min(best, time.perf_counter() - begin)
    return best
