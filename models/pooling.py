"""One vector from the rows of a sequence, as sentence-transformers' pooling configurations name it."""

import torch.nn.functional as F
from torch import Tensor

from models.spec import PoolingSpec

__all__ = ["pool"]


def pool(hidden_TD: Tensor, spec: PoolingSpec, mask: Tensor | None) -> Tensor:
    """Return the sentence embedding [d_model] of `hidden_TD`; a mask of rank 1, bool [T], picks the rows."""
    rows_TD = hidden_TD[mask] if mask is not None and mask.ndim == 1 else hidden_TD
    if rows_TD.shape[0] == 0:
        return hidden_TD.new_zeros(hidden_TD.shape[1])
    rows_TD = rows_TD.float()
    if spec.mode == "mean":
        pooled = rows_TD.mean(dim=0)
    elif spec.mode == "mean_sqrt_len":
        pooled = rows_TD.sum(dim=0) / rows_TD.shape[0] ** 0.5
    elif spec.mode == "max":
        pooled = rows_TD.amax(dim=0)
    else:
        pooled = rows_TD[0 if spec.mode == "cls" else -1]
    return F.normalize(pooled, dim=0) if spec.normalize else pooled
