"""Over all words of some rows, a block of each at a time: the sum, the likeliest, and those asked for.

Scores of all words of all rows are never held: of each block of them, its part of the log of the sum of
exponentials, its likeliest, and the scores of words that are asked for are what is kept. Each row's bits are
its own: blocks of words are the same whatever is beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.device.steps import Steps
from models.predictions.table import Words

Cuts = Sequence[tuple[slice, int]]  # rows, and how many of the likeliest words are wanted of each


@dataclass(frozen=True, slots=True)
class Likely:
    """Of rows: log Σ exp(scores) [N], float64; the likeliest words and their scores, [N, k] a cut.

    They come in descending order. `asked_NM`: scores of the words that were asked for, NaN where it was −1.
    """

    lse_N: Tensor
    ids: tuple[Tensor, ...]
    scores: tuple[Tensor, ...]
    asked_NM: Tensor


def likeliest(table: Words, rows_ND: Tensor, cuts: Cuts, asked_NM: Tensor) -> Steps[Likely]:
    """Return what is wanted of rows [N, D]; `cuts` follow each other, and `asked_NM` are words, or −1."""
    parts = []
    step = table.rows_at_once
    for start in range(0, len(rows_ND), step):
        rows = slice(start, min(start + step, len(rows_ND)))
        own = [
            (slice(max(of.start, rows.start) - start, min(of.stop, rows.stop) - start), k) for of, k in cuts
        ]
        parts.append((yield from _of_block(table, rows_ND[rows], own, asked_NM[rows])))
    if len(parts) == 1:
        return parts[0]
    return Likely(
        torch.cat([part.lse_N for part in parts]),
        tuple(torch.cat([part.ids[at] for part in parts]) for at in range(len(cuts))),
        tuple(torch.cat([part.scores[at] for part in parts]) for at in range(len(cuts))),
        torch.cat([part.asked_NM for part in parts]),
    )


def _of_block(table: Words, rows_ND: Tensor, cuts: Cuts, asked_NM: Tensor) -> Steps[Likely]:
    """Return the same of a block of rows; a cut may have none of them."""
    cuts = [(slice(of.start, max(of.start, of.stop)), k) for of, k in cuts]
    lse_N: Tensor | None = None
    best: list[tuple[Tensor, Tensor] | None] = [None] * len(cuts)
    asked_scores = rows_ND.new_full(asked_NM.shape, torch.nan, dtype=torch.float32)
    for start, scores_NV in table.blocks(rows_ND):
        if start:
            yield
        for at, (of, k) in enumerate(cuts):
            best[at] = _better(best[at], scores_NV[of], start, k)
        if asked_NM.numel():
            _look_up(asked_scores, scores_NV, asked_NM, start)
        part_N = _log_sum(scores_NV)  # last, for it writes over the scores
        lse_N = part_N if lse_N is None else torch.logaddexp(lse_N, part_N)
    assert lse_N is not None
    found = [one for one in best if one is not None]
    return Likely(lse_N, tuple(ids for _, ids in found), tuple(scores for scores, _ in found), asked_scores)


def _better(
    before: tuple[Tensor, Tensor] | None, scores_NV: Tensor, start: int, k: int
) -> tuple[Tensor, Tensor]:
    """Return the k largest of those before and of a block, and their words, in descending order."""
    scores, ids = scores_NV.topk(min(k, scores_NV.shape[1]), dim=-1)
    ids = ids + start
    if before is None:
        return scores, ids
    scores, ids = (torch.cat(both, dim=-1) for both in zip(before, (scores, ids), strict=True))
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return scores[:, :k], ids.gather(-1, order[:, :k])


def _look_up(found_NM: Tensor, scores_NV: Tensor, asked_NM: Tensor, start: int) -> None:
    """Fill in the scores of those words asked for that are of a block."""
    places = asked_NM - start
    inside = (places >= 0) & (places < scores_NV.shape[1])
    scores = scores_NV.gather(-1, places.clamp(0, scores_NV.shape[1] - 1))
    torch.where(inside, scores, found_NM, out=found_NM)


def _log_sum(scores_NV: Tensor) -> Tensor:
    """Return log Σ exp over the words of a block, float64 [N]; the scores are written over."""
    largest_N = scores_NV.amax(-1)
    sum_N = scores_NV.sub_(largest_N[:, None]).exp_().sum(-1)
    return sum_N.double().log() + largest_N.double()
