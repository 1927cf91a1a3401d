"""Attention rollout: how much of each input token is in each output token, through all layers at once."""

import torch
from torch import Tensor

__all__ = ["rolled"]


def rolled(weights_TS: Tensor, before_TS: Tensor | None) -> Tensor:
    """Multiply one layer's mean weights into the rollout so far: (A + I)/2, rows summing to one.

    Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, section 3.
    """
    mixed = weights_TS + torch.eye(weights_TS.shape[0], device=weights_TS.device)
    mixed = mixed / mixed.sum(dim=-1, keepdim=True)
    return mixed if before_TS is None else mixed @ before_TS
