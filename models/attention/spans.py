"""Attention between words out of attention between subwords: weights summed over spans of tokens.

The sum over the queries and the keys of each pair of spans, as Clark et al., 2019 (arXiv:1906.04341, §4.1)
sum attention to a split word; block by block, so that [H, T, S] is never held.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.attention.blocks import compact, view_of
from models.attention.problem import Problem
from models.attention.torch_private import told_at_once
from models.device.staging import tensor_of
from models.device.steps import Steps


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
    spans_of = [n for n, (start, stop) in enumerate(spans) for _ in range(start, stop)]
    span_of = tensor_of(spans_of, problem.q.device, torch.int64)
    key_at = tensor_of(members, problem.q.device, torch.int64)
    view = view_of(problem, lse_HT, heads=heads, rows=members)
    out = torch.zeros(len(view.heads), len(spans), len(spans), device=problem.q.device)
    for block in view.blocks():
        yield
        scored = view.scores(block)
        weights = view.weights(block, scored)
        keys_at, of_keys = key_at, span_of
        places = [place for place, key in enumerate(members) if block.keys.start <= key < block.keys.stop]
        if len(places) < len(members):  # a band hides some, and where they are no GPU is asked
            at = tensor_of(places, problem.q.device, torch.int64)
            keys_at, of_keys = key_at[at], span_of[at]
        if not told_at_once(weights.device):  # a GPU adds in any order, but multiplies in one
            number_N = torch.arange(len(spans), device=weights.device)
            in_NR = (span_of[block.rows] == number_N[:, None]).float()
            in_MN = (of_keys[:, None] == number_N).float()
            out[block.heads] += in_NR @ (weights[..., keys_at - block.keys.start] @ in_MN)
            continue
        first, last = spans_of[block.rows.start], spans_of[block.rows.stop - 1]
        rows_summed = weights.new_zeros(weights.shape[0], last - first + 1, weights.shape[-1])
        rows_summed.index_add_(1, span_of[block.rows] - first, weights)
        columns = rows_summed.permute(2, 0, 1).index_select(0, keys_at - block.keys.start)
        both_summed = columns.new_zeros(len(spans), *columns.shape[1:])
        both_summed.index_add_(0, of_keys, columns)
        out[block.heads, first : last + 1] += both_summed.permute(1, 2, 0)
    return out
