"""Scores in row blocks of bounded size: what every path that is not the fused kernel reads.

A View is the chosen heads and rows of one problem. It walks them in blocks that fit a cache, and never
looks at keys that no row of a block can see.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.masks import Band, Sight, Visibility, take
from models.spec import AttentionSpec

__all__ = [
    "Block",
    "Problem",
    "View",
    "compact",
    "grouped",
    "row_blocks",
    "unattended",
    "view_of",
    "with_sink",
]

# Elements of one float32 block [heads, rows, keys]: 16 MiB stays within a server's last-level cache.
BLOCK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
# A matrix product of fewer rows is bound by reading the keys.
ENOUGH_ROWS = 128


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One sequence's attention, ready to be computed: made by `attention.prepare`.

    `q`, `k`, `v` are what the mathematics reads (normalised for cosine); `queries`, `keys`, `values` what
    was given. Legend: H query heads, G key heads, T queries, S keys, D d_k, V d_v.
    """

    q: Tensor  # [H, T, D]
    k: Tensor  # [G, S, D]
    v: Tensor  # [G, S, V]
    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    spec: AttentionSpec
    visibility: Visibility
    sinks: Tensor | None  # float32 [H]

    @property
    def group(self) -> int:
        """How many query heads read one key head."""
        return self.q.shape[0] // self.k.shape[0]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a view: slices of its key heads, its query heads, its rows, and of the keys in sight."""

    groups: slice
    heads: slice
    rows: slice
    keys: slice


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Chosen heads and rows: q [G', n, T', D], k [G', S, D], both float32.

    The scale is applied to the product, as the fused kernel does: where scores are large, the two would
    otherwise round apart.

    `heads` and `rows` are their numbers in the problem; head g·n + i of the view reads key head g.
    """

    problem: Problem
    heads: Sequence[int]
    rows: Sequence[int]
    key_heads: Sequence[int]
    q: Tensor
    k: Tensor

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of at most BLOCK_ELEMENTS scores (but at least one row), heads outermost."""
        groups, n, total, _ = self.q.shape
        budget = BLOCK_ELEMENTS.get(self.q.device.type, BLOCK_ELEMENTS["cuda"])
        keys = self.k.shape[1]
        at_once = max(1, min(groups, budget // max(1, n * min(total, ENOUGH_ROWS) * keys)))
        for rows, seen in row_blocks(
            self.rows, keys=keys, band=self.problem.visibility.band, most=budget // max(1, at_once * n)
        ):
            for g in range(0, groups, at_once):
                stop = min(g + at_once, groups)
                yield Block(slice(g, stop), slice(g * n, stop * n), rows, seen)

    def scores(self, block: Block, *, minus: Tensor | None = None, into: Tensor | None = None) -> Tensor:
        """Return float32 [heads, rows, keys] of a block: scaled, capped, biased and masked (−inf).

        `minus` [heads, rows] is subtracted from each row; `into` [H', T', S] receives the block where its
        layout allows, and the result is then a view of it.
        """
        groups, n, _, width = self.q[block.groups].shape
        q = self.q[block.groups, :, block.rows].reshape(groups, -1, width)
        k = self.k[block.groups, block.keys].mT
        out = self._place(block, into)
        cap, scale = self.problem.spec.softcap, self.problem.scale
        shift = None if minus is None else minus.reshape(groups, -1, 1)
        if shift is None or cap is not None:
            shift_or_any = q.new_empty(()).expand(groups, 1, 1)  # beta 0 reads nothing of it
            scores = torch.baddbmm(shift_or_any, q, k, beta=0, alpha=scale, out=out)
        else:
            scores = torch.baddbmm(shift, q, k, beta=-1, alpha=scale, out=out)
        if cap is not None:
            scores.div_(cap).tanh_().mul_(cap)
            if shift is not None:
                scores.sub_(shift)
        scores = scores.view(groups * n, -1, scores.shape[-1]) if n > 1 else scores
        sight = self.sight(block)
        return scores if sight is None else sight.apply(scores)

    def sight(self, block: Block) -> Sight | None:
        """Return the masks of a block."""
        return self.problem.visibility.sight(
            self.heads[block.heads], self.rows[block.rows], block.keys, device=self.q.device
        )

    def lse(self, block: Block, scores: Tensor) -> Tensor:
        """Return the logsumexp [heads, rows] of a block's scores, sinks left out; −inf for empty rows.

        Emptiness is read from the masks: a row that overflowed to −inf throughout gives NaN.
        """
        lse = scores.logsumexp(-1)
        nothing = lse == -math.inf
        if not bool(nothing.any()):
            return lse
        sight = self.sight(block)
        empty = None if sight is None else sight.empty()
        lse = lse.masked_fill_(nothing, math.nan)
        return lse if empty is None else lse.masked_fill_(empty, -math.inf)

    def log_weights(
        self, block: Block, rows_lse: Tensor, *, known: bool, into: Tensor | None = None
    ) -> Tensor:
        """Return scores − logsumexp of a block, whose exponentials are the weights; −inf where blocked.

        `rows_lse` [H', T'] is read where it is `known`, and filled in where it is not.
        """
        if known:
            return self.scores(block, minus=unattended(rows_lse[block.heads, block.rows]), into=into)
        return self.subtract_lse(block, self.scores(block, into=into), rows_lse, known=False)

    def subtract_lse(self, block: Block, scores: Tensor, rows_lse: Tensor, *, known: bool) -> Tensor:
        """Turn a block of scores into log weights, in place."""
        if not known:
            lse = self.lse(block, scores)
            sinks = self.problem.sinks
            if sinks is not None:
                lse = with_sink(lse, take(sinks, 0, self.heads)[block.heads, None])
            rows_lse[block.heads, block.rows] = lse
        return scores.sub_(unattended(rows_lse[block.heads, block.rows])[..., None])

    def rows_lse(self, lse_HT: Tensor | None) -> Tensor:
        """Return the logsumexp of the chosen heads and rows [H', T']; −inf throughout where not known yet."""
        if lse_HT is None:
            return torch.full((len(self.heads), len(self.rows)), -math.inf, device=self.q.device)
        return take(take(lse_HT, 0, self.heads), 1, self.rows)

    def _place(self, block: Block, into: Tensor | None) -> Tensor | None:
        """Return where in `into` a matrix product can write a block, or None."""
        groups, n, total, _ = self.q.shape
        if into is None or (n > 1 and block.rows != slice(0, total)):
            return None
        return into.view(groups, n * total, -1)[
            block.groups, slice(None) if n > 1 else block.rows, block.keys
        ]


def view_of(
    problem: Problem, *, heads: Sequence[int] | None = None, rows: Sequence[int] | None = None
) -> View:
    """Return the view of some heads and rows (None: all)."""
    rows = range(problem.q.shape[1]) if rows is None else compact(rows)
    key_heads: Sequence[int] = range(problem.k.shape[0])
    if heads is None:
        heads = range(problem.q.shape[0])
        q = grouped(take(problem.q, 1, rows), problem.group)
    else:  # a key head is repeated for each chosen head that reads it
        heads = compact(heads)
        key_heads = compact([head // problem.group for head in heads])
        q = take(take(problem.q, 0, heads), 1, rows)[:, None]
    k = take(problem.k, 0, key_heads)
    return View(problem, heads, rows, key_heads, q.float(), k.float())


def grouped(x_HTD: Tensor, group: int) -> Tensor:
    """Return [H, T, D] as a view [G, n, T, D]: query heads g·n … g·n + n − 1 read key head g."""
    heads, *rest = x_HTD.shape
    return x_HTD.view(heads // group, group, *rest)


def compact(numbers: Sequence[int]) -> Sequence[int]:
    """Return consecutive numbers as a range, whose slices are views; others as they are."""
    if not numbers or isinstance(numbers, range):
        return numbers
    run = range(numbers[0], numbers[0] + len(numbers))
    return run if numbers[-1] == run[-1] and list(numbers) == list(run) else numbers


def row_blocks(
    rows: Sequence[int], *, keys: int, band: Band | None, most: int
) -> Iterator[tuple[slice, slice]]:
    """Yield slices of `rows` and of the keys they see, at most `most` pairs a block (at least one row).

    Under a band the blocks are kept short, so that few keys outside it are looked at; rows that see
    nothing at all are left out.
    """
    step = max(1, most // max(1, keys))
    if band is not None:
        step = min(step, max(64, (band.width or keys) // 4))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        seen = slice(0, keys) if band is None else band.keys(rows[part], keys)
        if seen.stop > seen.start:
            yield part, seen


def with_sink(lse_HT: Tensor, sinks_H1: Tensor) -> Tensor:
    """Return the logsumexp with each head's sink in it; a row that attends nothing keeps −inf."""
    return torch.where(lse_HT == -math.inf, lse_HT, torch.logaddexp(lse_HT, sinks_H1))


def unattended(lse_HT: Tensor) -> Tensor:
    """Return what to subtract from scores: +inf in place of −inf, so that weights are 0."""
    return lse_HT.masked_fill(lse_HT == -math.inf, math.inf)
