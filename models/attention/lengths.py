"""How long values are: as they are, and once their head's part of the output projection has read them.

What `value_norms` and `output_norms` weigh: ‖A_ij·v_j·W‖ = A_ij·‖v_j·W‖, so that one number a key and head is
all that is held, never [H, T, S, d_model].
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.device.staging import settle


def value_lengths(values_GSV: Tensor, heads: Sequence[int], *, group: int) -> Tensor:
    """Return ‖v_j‖ as each of the heads reads it, float32 [H', S]; squared in float64, so none overflows."""
    lengths_GS: Tensor = torch.linalg.vector_norm(values_GSV, dim=-1, dtype=torch.float64)
    return torch.stack([lengths_GS[head // group] for head in heads]).float()


class OutputLengths:
    """‖v_j·W_O^h‖ of one layer's heads: Kobayashi et al., "Attention is Not Only a Weight", 2020, section 3.

    `matrix()` gives W_O [d_model, H·d_v]; it is read once, when lengths are first asked for. Kept of it are
    W_O^h·W_O^hᵀ [H, d_v, d_v], for ‖v·W‖² = v·(W·Wᵀ)·vᵀ: in float64, where squares of float32 do not overflow
    and what they lose is below float32's own rounding. Without a matrix W_O is the identity.
    """

    def __init__(self, matrix: Callable[[], Tensor] | None, *, heads: int) -> None:
        self._matrix = matrix
        self._heads = heads
        self._products: Tensor | None = None

    def __call__(self, values_GSV: Tensor, heads: Sequence[int], *, group: int) -> Tensor:
        """Return the lengths as each of the heads reads them, float32 [H', S]."""
        if self._matrix is None:
            return value_lengths(values_GSV, heads, group=group)
        if self._products is None:  # two threads at once make the same
            products = _products(self._matrix(), self._heads)
            settle(products.device)
            self._products = products
        squares = []
        for head in heads:
            v_SV = values_GSV[head // group].double()
            squares.append((v_SV @ self._products[head]).mul_(v_SV).sum(-1))
        return torch.stack(squares).clamp_(min=0.0).sqrt_().float()


def _products(matrix: Tensor, heads: int) -> Tensor:
    """Return W^h·W^hᵀ of every head, float64 [H, d_v, d_v], of W_O [d_model, H·d_v]."""
    parts = (part.double() for part in matrix.detach().chunk(heads, dim=1))
    return torch.stack([part.mT @ part for part in parts])
