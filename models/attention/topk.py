"""The largest scores of each row, without sorting it."""

import torch
from torch import Tensor

CHUNK = 64
# Below this, torch's own partial sort of the whole row is quicker (measured on a CPU with k = 8).
LONG_ROW = 4096


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row [..., S], descending, and their int64 places: both [..., k].

    A long row is cut into chunks of 64. The k largest numbers lie in the k chunks with the largest
    maxima, so only those are sorted: reading maxima is far cheaper than sorting. k is at most S.
    """
    total = scores.shape[-1]
    whole = total // CHUNK
    if total < LONG_ROW or k * CHUNK * 4 > total:
        return _topk(scores, k)
    head, tail = scores[..., : whole * CHUNK], scores[..., whole * CHUNK :]
    chunks = head.reshape(*head.shape[:-1], whole, CHUNK)
    best = chunks.amax(-1).topk(k, dim=-1, sorted=False).indices
    found = chunks.gather(-2, best[..., None].expand(*best.shape, CHUNK)).flatten(-2)
    at = (best[..., None] * CHUNK + torch.arange(CHUNK, device=scores.device)).flatten(-2)
    if tail.shape[-1]:
        found = torch.cat([found, tail], dim=-1)
        rest = torch.arange(whole * CHUNK, total, device=scores.device)
        at = torch.cat([at, rest.expand(*at.shape[:-1], -1)], dim=-1)
    values, places = _topk(found, k)
    return values, at.gather(-1, places)


def _topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, places = scores.topk(k, dim=-1)
    return values, places
