"""Outputs made of whole weights, where the pass that makes z has held them: q and k are not read again.

What `reductions` computes for any problem, in blocks, is here a few operators on [H, T, S].
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from models.masks import take
from models.outputs import made_of
from models.scripted import scripted

__all__ = ["FROM_WEIGHTS", "made_of_weights"]

TOP_K = ("top_k_keys", "top_k_weights", "top_k_rest")
FROM_WEIGHTS = made_of("weights", "top_k")


def made_of_weights(
    weights_HTS: Tensor,
    names: Iterable[str],
    *,
    heads: Sequence[int] | None,
    rows: Sequence[int] | None,
    k: int,
) -> dict[str, Tensor]:
    """Return outputs of `FROM_WEIGHTS` by name, of the chosen heads and rows (None: all), as `derive` does.

    `weights_HTS`: float32, of rows that attend at least one key each; kept as they are.
    """
    weights = weights_HTS
    for axis, chosen in enumerate((heads, rows)):
        weights = weights if chosen is None else take(weights, axis, chosen)
    asked = set(names)
    made: dict[str, Tensor] = {}
    if not asked.isdisjoint(TOP_K):
        found = _top_k(weights, min(k, weights.shape[-1]))
        made |= {name: one for name, one in zip(TOP_K, found, strict=True) if name in asked}
    if "weights" in asked:
        made["weights"] = weights
    if "weights_mean" in asked:
        made["weights_mean"] = weights.mean(0)
    if "weights_max" in asked:
        made["weights_max"] = weights.amax(0)
    if "received" in asked:
        made["received"] = weights.sum(-2)
    if "entropy" in asked:
        made["entropy"] = torch.special.entr(weights).sum(-1)
    return made


def top_k_of(weights: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the keys of each row's k largest weights, int32 [H, T, k], these, and the mass left out."""
    largest, keys = weights.topk(k, dim=-1)
    return keys.to(torch.int32), largest, (1.0 - largest.sum(-1)).clamp_(min=0.0)


_top_k = scripted(top_k_of)
