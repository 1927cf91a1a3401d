"""One linear layer, with the fastest kernel the machine has: chosen by a probe when the weights arrive.

There are three. `heed` is this project's own (`compiled/`): it keeps nothing for a number of rows, and with
it a block's attention is one call, so it is taken where it is about as fast as the others. `onednn` is
oneDNN's linear on weights laid out for it beforehand, which torch has but keeps private; on AMD processors
`torch`, float32 `F.linear`, runs at about half its speed. Each is used only where it is present and agrees
with `F.linear`. `kernel` says which.

Weights in bfloat16, float16 or int8 are read by rows of float32 on a processor, and give rows of float32:
`heed:bfloat16` and so on, with `:widened` where the processor has no instructions that multiply such numbers,
and `:amx` where it multiplies whole tiles of them; without compiled code `torch` widens the weight for each
product, and int8 is refused.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.torch_private import laid_out_linear, lay_out_linear, lays_out_linears
from models.compiled.instructions import manner
from models.compiled.native import native
from models.compiled.weights import MOST_INT8_INPUTS, Panels

PROBE_ROWS = (16, 128)  # a short sequence, and a small batch
PROBE_ROUNDS = 8
PROBES = 4
SMALLEST_PROBED = 128 * 128  # below this a call costs more than the product
ABOUT_AS_FAST = 1.1

NARROW = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
# How far a product may be from that of the same weight in float32, of its largest number, before it is wrong.
NARROW_ERROR = {"bfloat16": 2e-2, "float16": 2e-3, "int8": 6e-2}

SMOOTHING = 0.6  # α; measured: from 0.5 to 0.6 errors are about the least, and differ by their noise
SELDOM, SMALLEST = 0.05, 1e-20  # of the mean; of all

_Kernel = Callable[[Tensor], Tensor]
_fastest: dict[tuple[int, ...], str] = {}  # by the weight's shape
_measuring = threading.Lock()


class Linear:
    """y = x·Wᵀ + b for a weight [out, in] and a bias [out] or None, on rows x [N, in].

    The weight is kept once, as its kernel takes it: `panels`, `packed` or `weight`. `largest` [in], where it
    is set, becomes the largest |x| of each input that the layer is called with.
    """

    __slots__ = (
        "_inputs",
        "_packed_bytes",
        "_product",
        "bias",
        "kernel",
        "largest",
        "packed",
        "panels",
        "weight",
    )

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, probe: bool = True) -> None:
        self.weight: Tensor | None = weight.contiguous()
        self._inputs = int(weight.shape[1])
        self.bias = bias
        self.packed: Any = None
        self.panels: Panels | None = None
        self.largest: Tensor | None = None
        self.kernel = "torch"
        self._product: _Kernel = partial(F.linear, weight=self.weight, bias=bias)
        if self.weight.device.type != "cpu":
            return
        if self.weight.dtype in NARROW:
            self.bias = None if bias is None else bias.float()
            self._product = partial(_widened_product, weight=self.weight, bias=self.bias)
            self._keep_narrow(self.weight, self.bias, NARROW[self.weight.dtype])
        elif probe and self.weight.dtype == torch.float32:
            self._choose(self.weight)

    def __call__(self, x_ND: Tensor) -> Tensor:
        """Return x·Wᵀ + b, [N, out], in the dtype of x."""
        if self.largest is not None and len(x_ND):
            self.largest = torch.maximum(self.largest, x_ND.abs().amax(0))
        return self._product(x_ND)

    @property
    def adds(self) -> bool:
        """Whether `add_to` is there: on a GPU."""
        return self.weight is not None and self.weight.device.type != "cpu"

    def add_to(self, y_ND: Tensor, x_ND: Tensor) -> Tensor:
        """Return y, x·Wᵀ added to it as it is made; the bias, if any, is already in y."""
        assert self.weight is not None
        return y_ND.addmm_(x_ND, self.weight.mT)

    @property
    def inputs(self) -> int:
        """How many numbers a row of x has."""
        return self._inputs

    @property
    def nbytes(self) -> int:
        """Bytes of the weight and the bias as they are kept."""
        if self.panels is not None:
            return self.panels.nbytes
        bias = 0 if self.bias is None else self.bias.nbytes
        return bias + (self._packed_bytes if self.weight is None else self.weight.nbytes)

    def keep_as(self, kept_as: str, multipliers: Tensor | None = None) -> None:
        """Keep the weight in narrower numbers from now on; where compiled code cannot, it stays as it is.

        `multipliers` [in], of int8: those that make the inputs alike in size, see `panels.lay_out`.
        """
        if self.panels is not None and self.panels.kept_as == kept_as:
            return
        weight, bias = self.matrix(), self.bias
        if self.panels is not None and self.panels.bias is not None:
            bias = self.panels.bias[: self.panels.out]
        self._keep_narrow(weight, bias, kept_as, multipliers)

    def matrix(self) -> Tensor:
        """Return W [out, in] again, however it is kept."""
        if self.panels is not None:
            return self.panels.matrix()
        if self.packed is None:
            assert self.weight is not None
            return self.weight
        unit = torch.eye(self._inputs)
        return packed_product(unit, self.packed, None).mT

    def _keep_narrow(
        self, weight: Tensor, bias: Tensor | None, kept_as: str, multipliers: Tensor | None = None
    ) -> None:
        """Lay a weight out in narrower numbers, where compiled code multiplies them and does it well."""
        ours = native()
        if ours is None or kept_as not in ours.keeps or not weight.numel():
            return
        bias = None if bias is None else bias.float()
        panels = ours.lay_out(weight, bias, kept_as=kept_as, multipliers=multipliers)
        product = partial(ours.linear, panels=panels)
        inputs = _inputs(self._inputs)
        if multipliers is not None:
            inputs = [x / multipliers for x in inputs]
        wide = partial(_widened_product, weight=weight, bias=bias)
        if _agrees(product, wide, inputs, error=NARROW_ERROR[kept_as]):
            self.kernel = f"heed:{kept_as}{manner(ours.using, kept_as)}"
            self._product, self.panels = product, panels
            self.packed = self.weight = self.bias = None

    def _choose(self, weight: Tensor) -> None:
        """Lay the weight out for the kernel that suits it; of one shape, the same every time."""
        ours, shape = native(), tuple(weight.shape)
        panels = packed = None
        kernels: dict[str, _Kernel] = {"torch": self._product}
        chosen = _fastest.get(shape)
        if ours is not None and weight.numel() and chosen in (None, "heed"):
            panels = ours.lay_out(weight, self.bias)
            kernels["heed"] = partial(ours.linear, panels=panels)
        if _packable(weight) and chosen in (None, "onednn"):
            packed = lay_out_linear(weight)
            kernels["onednn"] = partial(packed_product, weight=packed, bias=self.bias)
        inputs = _inputs(self._inputs)
        sound = {
            name: kernel for name, kernel in kernels.items() if _agrees(kernel, kernels["torch"], inputs)
        }
        # Weights that overflow agree with nothing, and decide for no others.
        self.kernel = _fastest_of(sound, inputs, shape=shape) if len(sound) > 1 else "torch"
        self._product = kernels[self.kernel]
        if self.kernel == "heed":
            self.panels, self.weight, self.bias = panels, None, None
        elif self.kernel == "onednn":
            self.packed, self.weight, self._packed_bytes = packed, None, weight.nbytes


def keep_int8(layers: Sequence[Linear], *, smoothed: bool = True) -> None:
    """Keep linear layers that read the same rows in int8; such as have more inputs than it sums, in bfloat16.

    `smoothed`: by what was seen of each input, max |x|^α / max |W|^(1 − α) is moved from the rows to the
    weight, so that both are rounded about as much (SmoothQuant, Xiao et al. 2023, equation 4).
    """
    largest, multipliers = layers[0].largest, None
    if smoothed and largest is not None:
        weights = torch.stack([one.matrix().abs().amax(0) for one in layers]).amax(0).float()
        multipliers = _not_tiny(weights) ** (1 - SMOOTHING) / _not_tiny(largest) ** SMOOTHING
    for one in layers:
        if one.inputs > MOST_INT8_INPUTS:
            one.keep_as("bfloat16")
        else:
            one.keep_as("int8", multipliers)


def _not_tiny(sizes: Tensor) -> Tensor:
    """Return sizes, those raised that are far below the others: what was seldom seen may yet be larger."""
    return sizes.clamp(min=max(float(sizes.mean()) * SELDOM, SMALLEST))


def _widened_product(x_ND: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x·Wᵀ + b, [N, out], of a narrower weight that is widened for each product."""
    return F.linear(x_ND, weight.to(x_ND.dtype), bias)


def packed_product(x_ND: Tensor, weight: Any, bias: Tensor | None) -> Tensor:
    """Return x·Wᵀ + b, [N, out], of a weight that oneDNN has laid out."""
    rows = x_ND.shape[0]
    whole = whole_rows(rows)
    if whole > rows:
        given, x_ND = x_ND, x_ND.new_zeros(whole, x_ND.shape[1])
        x_ND[:rows] = given
    return laid_out_linear(x_ND, weight, bias)[:rows]


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


def _inputs(width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, width, generator=generator) for rows in PROBE_ROWS]


def _agrees(one: _Kernel, other: _Kernel, inputs: list[Tensor], *, error: float = 1e-4) -> bool:
    if one is other:
        return True
    for x in inputs:
        expected = other(x)
        largest = float(expected.abs().max())
        if not math.isfinite(largest) or not torch.allclose(
            one(x), expected, rtol=error, atol=error * largest
        ):
            return False
    return True


def _fastest_of(kernels: dict[str, _Kernel], inputs: list[Tensor], *, shape: tuple[int, ...]) -> str:
    """Return which of the kernels suits weights of a shape; measured once, so that it does not change."""
    with _measuring:
        known = _fastest.get(shape)
        if known is None:
            known = "heed" if "heed" in kernels else "torch"
            if math.prod(shape) >= SMALLEST_PROBED:
                known = _measured(kernels, inputs, preferred=known)
            _fastest[shape] = known
        return known if known in kernels else "torch"


def _measured(kernels: dict[str, _Kernel], inputs: list[Tensor], *, preferred: str) -> str:
    """Return the fastest, or the preferred one if it is about as fast: one busy moment does not refuse it."""
    seconds = dict.fromkeys(kernels, math.inf)
    for _ in range(PROBES):
        again = _best_seconds(kernels, inputs)
        seconds = {name: min(seconds[name], again[name]) for name in kernels}
        best = min(seconds, key=lambda name: seconds[name])
        if seconds[preferred] <= ABOUT_AS_FAST * seconds[best]:
            return preferred
    return best


def _packable(weight: Tensor) -> bool:
    return weight.numel() >= SMALLEST_PROBED and lays_out_linears()


def _best_seconds(kernels: dict[str, _Kernel], inputs: list[Tensor]) -> dict[str, float]:
    """Return how long each takes for all inputs on one thread, its best time for each, measured in turns.

    On more of them each would meet the threads of the one before, which turn for a while when they are done.
    """
    best = dict.fromkeys(itertools.product(kernels, range(len(inputs))), math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(PROBE_ROUNDS):
            for name, at in best:
                begin = time.perf_counter()
                kernels[name](inputs[at])
                best[name, at] = min(best[name, at], time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return {name: sum(best[name, at] for at in range(len(inputs))) for name in kernels}
