"""`mixed`: a weighted sum over heads, of their whole maps, of sums over columns, over rows, or of contacts.

One head at a time is walked, in blocks of rows of bounded size, and added to what comes out; no head's map is
held beside that.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.attention.blocks import view_of
from models.attention.problem import Problem
from models.attention.sums.shares import mass
from models.device.steps import Steps
from models.outputs import Mix

PART = 32  # of a block as others are: it stays in a core's cache, and with its masks well within such a block
Add = Callable[[Tensor, Sequence[int], slice, float], None]  # weights [R, K], their rows, their keys, times


def mixture(
    problem: Problem, lse_HT: Tensor | None, mix: Mix, *, rows: Sequence[int] | None
) -> Steps[Tensor]:
    """Return what the heads of one layer add to `mixed`: Σ weight · A of the chosen rows, float32.

    [T', S], or of sums over columns [T', N]; with `reduce`, over the rows, [S] or [N]. Its bias and
    its logistic function are for later. Heads are added in the order of the pairs.
    """
    if mix.whole:
        return (yield from _contacts(problem, lse_HT, mix))
    asked = range(problem.q.shape[1]) if rows is None else rows
    keys, columns = problem.k.shape[1], mix.columns
    wide = keys if columns is None else len(columns)
    made = problem.q.new_zeros((wide,) if mix.reduce else (len(asked), wide), dtype=torch.float32)

    def add(weights_RK: Tensor, places: Sequence[int], seen: slice, times: float) -> None:
        part = slice(places[0], places[-1] + 1)
        if mix.reduce:
            weights_RK = weights_RK.sum(0)
        place = made if mix.reduce else made[part]
        if columns is None:
            place[..., seen].add_(weights_RK, alpha=times)
            return
        for column, span in enumerate(columns):
            place[..., column].add_(mass(weights_RK, seen, [span]), alpha=times)

    yield from _walk(problem, lse_HT, mix, rows=asked, add=add)
    if mix.reduce == "mean":
        made /= len(asked)
    return made


def _contacts(problem: Problem, lse_HT: Tensor | None, mix: Mix) -> Steps[Tensor]:
    """Return Σ weight · map [T'', T''] of positions without the first and last `skip`.

    A map is A, made symmetric A + Aᵀ, less (its row sums × its column sums) / its total where `apc` corrects
    by average products, as Rao et al., 2020, have it.
    """
    first, last = mix.skip[0], problem.q.shape[1] - mix.skip[1]
    size, rows = last - first, range(first, last)
    made = problem.q.new_zeros((size, size), dtype=torch.float32)
    sums = problem.q.new_zeros((2, size), dtype=torch.float64)  # of rows and of columns, of one head

    def add(weights_RK: Tensor, places: Sequence[int], seen: slice, times: float) -> None:
        left, right = max(seen.start, first), min(seen.stop, last)
        weights_RK = weights_RK[:, left - seen.start : max(left, right) - seen.start]
        part, keys = slice(places[0], places[-1] + 1), slice(left - first, max(left, right) - first)
        made[part, keys].add_(weights_RK, alpha=times)
        if mix.symmetric:
            made[keys, part].add_(weights_RK.T, alpha=times)
        if mix.apc:
            sums[0, part] += weights_RK.sum(1)
            sums[1, keys] += weights_RK.sum(0)

    def correct(times: float) -> None:
        of_rows, of_columns = (sums.sum(0), sums.sum(0)) if mix.symmetric else (sums[0], sums[1])
        total = float(of_rows.sum())
        if mix.apc and total > 0:
            made.addr_((of_rows * (-times / total)).float(), of_columns.float())
        sums.zero_()

    yield from _walk(problem, lse_HT, mix, rows=rows, add=add, after=correct)
    return made


def _walk(
    problem: Problem,
    lse_HT: Tensor | None,
    mix: Mix,
    *,
    rows: Sequence[int],
    add: Add,
    after: Callable[[float], None] = lambda _: None,
) -> Steps[None]:
    """Give each block of rows of each head of a mixture; `after` each head, its weight."""
    for (_, head), times in zip(mix.pairs, mix.weights, strict=True):
        view = view_of(problem, lse_HT, heads=[head], rows=rows)
        for block in view.blocks(PART):
            yield
            (weights_RK,) = view.weights(block, view.scores(block))
            add(weights_RK, range(block.rows.start, block.rows.stop), block.keys, times)
        after(times)
