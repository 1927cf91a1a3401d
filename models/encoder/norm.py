"""Layer norm and root-mean-square norm over the rows of a block, and what is added up before them."""

from collections.abc import Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.rowwise import launch
from models.encoder.rowwise.launch import RowNorm
from models.encoder.rowwise.trial import norms_on
from models.spec import NormSpec


class Norm:
    """Layer norm, or root-mean-square norm, over the last axis; statistics in float32."""

    def __init__(self, parameters: Mapping[str, Tensor], name: str, spec: NormSpec) -> None:
        weight = parameters[f"{name}.weight"]
        self.weight = weight + 1 if spec.unit_offset else weight
        self.rms = spec.kind == "rms"
        self.bias = None if self.rms else parameters.get(f"{name}.bias")
        self.eps = spec.eps
        # As kernels of our own read it: a weight that is stored less 1 is not rounded again.
        offset = spec.unit_offset and weight.device.type != "cpu"
        self.of_rows = RowNorm(weight.float() + 1 if offset else self.weight, self.bias, self.eps, self.rms)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised x, in its own dtype."""
        if x.dim() == 2 and self.one_launch:
            return launch.add_norm(None, x, outer=self.of_rows)[1]
        if self.rms:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.weight.numel()

    @property
    def compiled(self) -> bool:
        """Whether compiled code can read it: float32 on a processor, one number after another."""
        return all(
            one is None or (one.dtype == torch.float32 and one.device.type == "cpu" and one.is_contiguous())
            for one in (self.weight, self.bias)
        )

    @cached_property
    def one_launch(self) -> bool:
        """Whether a kernel of our own is right for such rows on this device; it is tried the first time."""
        return norms_on(self.weight.device, self.weight.dtype, self.width, rms=self.rms)


def add_norm(
    x_ND: Tensor | None,
    z_ND: Tensor,
    *,
    inner: Norm | None = None,
    outer: Norm | None = None,
    more_D: Tensor | None = None,
    reads_sum: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return x + inner(z) and outer of that, [N, D] each: on a GPU in one launch.

    Without x nothing is added, and a norm that is None leaves rows as they are. `more` is added to the sum
    that is returned, and not to what `outer` normalises. Unless `reads_sum`, the sum may be anything where
    there is an `outer`.
    """
    if _in_one_launch(z_ND, inner, outer, more_D):
        before, after = (None if one is None else one.of_rows for one in (inner, outer))
        return launch.add_norm(x_ND, z_ND, inner=before, outer=after, more_D=more_D, reads_sum=reads_sum)
    y_ND = z_ND if inner is None else inner(z_ND)
    y_ND = y_ND if x_ND is None else x_ND + y_ND
    normed = y_ND if outer is None else outer(y_ND)
    return y_ND if more_D is None else y_ND + more_D, normed


def _in_one_launch(z_ND: Tensor, inner: Norm | None, outer: Norm | None, more_D: Tensor | None) -> bool:
    norms = [one for one in (inner, outer) if one is not None]
    if not norms:
        return more_D is not None and norms_on(z_ND.device, z_ND.dtype, z_ND.shape[1], rms=False)
    return len({one.rms for one in norms}) == 1 and all(one.one_launch for one in norms)
