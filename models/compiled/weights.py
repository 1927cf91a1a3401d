"""Weights laid out in panels, as compiled products read them.

A panel has the columns of Wᵀ that a product makes at once. Weights narrower than float32 are kept as
bfloat16, float16 or int8, of which some inputs stand beside each other, as many as an instruction multiplies.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.compiled.structures import KEPT_AS, Linear

STEPS = {"float32": 1, "bfloat16": 2, "float16": 1, "int8": 4}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
LARGEST_INT8 = 127
MOST_INT8_INPUTS = 2**16  # their sum of products is less than 2^31


@dataclass(frozen=True, slots=True)
class Quantized:
    """What belongs to a weight [out, inner] of int8: w ≈ `scales` [out] · int8, of x · `multipliers` [inner].

    `sums` [out], int32: of each row's whole numbers, by which a zero point of x is taken off again. Scales
    and sums are filled up with 0 as panels are.
    """

    scales: Tensor
    sums: Tensor
    multipliers: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return sum(one.nbytes for one in (self.scales, self.sums, self.multipliers) if one is not None)


@dataclass(frozen=True, slots=True)
class Panels:
    """A linear layer laid out for the compiled product, `out` outputs of `inner` inputs.

    `weight` [panels, inner / step, columns, step] is Wᵀ in panels, `bias` [panels·columns] or None, float32;
    both filled up with 0. `linear` is what C is told of it. `row_bytes`: of a row of x as the product reads
    it, where that is no float32.
    """

    weight: Tensor
    bias: Tensor | None
    inner: int
    out: int
    columns: int
    linear: Linear
    kept_as: str = "float32"
    quantized: Quantized | None = None
    row_bytes: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        other = (self.bias, self.quantized)
        return self.weight.nbytes + sum(one.nbytes for one in other if one is not None)

    def matrix(self) -> Tensor:
        """Return W [out, inner] again, float32."""
        matrix = self.weight.transpose(1, 2).reshape(len(self.weight) * self.columns, -1)
        matrix = matrix[: self.out, : self.inner].float()
        if self.quantized is None:
            return matrix
        matrix = matrix * self.quantized.scales[: self.out, None]
        return matrix if self.quantized.multipliers is None else matrix * self.quantized.multipliers


def lay_out(
    weight: Tensor, bias: Tensor | None, columns: int, *, kept_as: str, multipliers: Tensor | None = None
) -> Panels:
    """Return a weight [out, inner] and a bias [out] in panels of so many columns.

    `multipliers` [inner], of int8 only: x·multipliers is what is made whole numbers, so W is divided by them.
    """
    out, inner = weight.shape
    quantized = None
    if kept_as == "int8":
        weight, quantized = _quantize(weight, multipliers, missing=-out % columns)
    else:
        weight = weight.to(DTYPES[kept_as])
    step = STEPS[kept_as]
    missing = (0, -inner % step, 0, -out % columns)
    padded = F.pad(weight, missing) if any(missing) else weight
    panels = padded.reshape(-1, columns, padded.shape[1] // step, step).transpose(1, 2).contiguous()
    bias = None if bias is None else F.pad(bias.float(), (0, missing[3])).contiguous()
    linear = Linear(
        weight=panels.data_ptr(),
        bias=0 if bias is None else bias.data_ptr(),
        inner=inner,
        out=out,
        numbers=KEPT_AS[kept_as],
    )
    if quantized is not None:
        linear.scales, linear.sums = quantized.scales.data_ptr(), quantized.sums.data_ptr()
        if quantized.multipliers is not None:
            linear.multipliers = quantized.multipliers.data_ptr()
    return Panels(panels, bias, inner, out, columns, linear, kept_as, quantized)


def _quantize(weight: Tensor, multipliers: Tensor | None, *, missing: int) -> tuple[Tensor, Quantized]:
    """Return whole numbers from −127 to 127 [out, inner], and what belongs to them, longer by `missing`."""
    weight = weight.float()
    if multipliers is not None:
        multipliers = multipliers.float().contiguous()
        weight = weight / multipliers
    scales = weight.abs().amax(1) / LARGEST_INT8
    scales = torch.where(scales > 0, scales, torch.ones_like(scales))
    whole = (weight / scales[:, None]).round().clamp(-LARGEST_INT8, LARGEST_INT8).to(torch.int8)
    sums = whole.sum(1, dtype=torch.int32)
    return whole, Quantized(F.pad(scales, (0, missing)), F.pad(sums, (0, missing)), multipliers)
