"""Layer norm and root-mean-square norm over the rows of a block."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from models.spec import NormSpec


class Norm:
    """Layer norm, or root-mean-square norm, over the last axis; statistics in float32."""

    def __init__(self, parameters: Mapping[str, Tensor], name: str, spec: NormSpec) -> None:
        weight = parameters[f"{name}.weight"]
        self.weight = weight + 1 if spec.unit_offset else weight
        self.rms = spec.kind == "rms"
        self.bias = None if self.rms else parameters.get(f"{name}.bias")
        self.eps = spec.eps

    def __call__(self, x: Tensor) -> Tensor:
        """Return the normalised x, in its own dtype."""
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
