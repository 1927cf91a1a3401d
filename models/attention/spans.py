"""Attention between words out of attention between subwords: weights summed over spans of tokens.

The sum over the queries and the keys of each pair of spans, as Clark et al., 2019 (arXiv:1906.04341, §4.1)
sum attention to a split word; block by block, so that [H, T, S] is never held.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention.blocks import compact, view_of
from models.attention.problem import Problem
from models.device.steps import Steps

__all__ = ["between_spans"]


def between_spans(
    problem: Problem,
    lse_HT: Tensor | None,
    *,
    heads: Sequence[int] | None,
    spans: Sequence[tuple[int, int]],
) -> Steps[Tensor]:
    """Return float32 [H', N, N]: entry (a, b) is the sum of weights from queries of span a to keys of span b.

    Spans are half-open ranges of positions, in any order; they may overlap and need not cover everything.
    """
    members = compact([at for start, stop in spans for at in range(start, stop)])
    span_of = torch.tensor([n for n, (start, stop) in enumerate(spans) for _ in range(start, stop)])
    span_of = span_of.to(problem.q.device, torch.int64)
    key_at = torch.tensor(members, dtype=torch.int64, device=problem.q.device)
    view = view_of(problem, lse_HT, heads=heads, rows=members)
    out = torch.zeros(len(view.heads), len(spans), len(spans), device=problem.q.device)
    for block in view.blocks():
        yield
        scored = view.scores(block)
        weights = view.weights(block, scored)
        first, last = int(span_of[block.rows.start]), int(span_of[block.rows.stop - 1])
        rows_summed = weights.new_zeros(weights.shape[0], last - first + 1, weights.shape[-1])
        rows_summed.index_add_(1, span_of[block.rows] - first, weights)
        seen = (key_at >= block.keys.start) & (key_at < block.keys.stop)
        columns = rows_summed.permute(2, 0, 1).index_select(0, key_at[seen] - block.keys.start)
        both_summed = columns.new_zeros(len(spans), *columns.shape[1:])
        both_summed.index_add_(0, span_of[seen], columns)
        out[block.heads, first : last + 1] += both_summed.permute(1, 2, 0)
    return out
