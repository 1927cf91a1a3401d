"""Scores and weights in row blocks of bounded size, of which the reference is made.

A View is the chosen heads and rows of one problem. It walks them in blocks that fit a cache, and never
looks at keys that no row of a block can see.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.attention.masks import Band, Sight, select
from models.attention.problem import Problem
from models.attention.torch_private import halves_multiply, products_of_halves

# Elements of one float32 block [heads, rows, keys]: 16 MiB stays within a server's last-level cache.
BLOCK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}


@dataclass(frozen=True, slots=True)
class Block:
    """Slices of a view's key heads, of its query heads, of its rows, and of the keys in sight."""

    groups: slice
    heads: slice
    rows: slice
    keys: slice


@dataclass(frozen=True, slots=True, eq=False)
class BlockScores:
    """One block of scores float32 [heads, rows, keys] and the masks that were applied (None: none)."""

    scores: Tensor
    sight: Sight | None


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """Chosen heads and rows: q [G', n, T', D], k [G', S, D], float32, or halves that multiply as such.

    The scale is applied to the product, as the fused kernel does: where scores are large, the two would
    otherwise round apart.

    `heads` and `rows` are their numbers in the problem; head g·n + i of the view reads key head g, which is
    `key_heads[g]` of the problem. `lse` [H', T'] holds the rows' logsumexp, sinks included: from the
    start where it is `known`, else from when `note_lse` saw the block.
    """

    problem: Problem
    heads: Sequence[int]
    rows: Sequence[int]
    key_heads: Sequence[int]
    q: Tensor
    k: Tensor
    lse: Tensor
    known: bool

    def blocks(self, part: int = 1) -> Iterator[Block]:
        """Yield blocks of at most BLOCK_ELEMENTS scores, or a part of that, or one row.

        Of whole heads where they fit.
        """
        groups, n, _, _ = self.q.shape
        budget = BLOCK_ELEMENTS.get(self.q.device.type, BLOCK_ELEMENTS["cuda"]) // part
        band = None if self.problem.patterns is not None else self.problem.visibility.band
        for rows, seen in row_blocks(self.rows, keys=self.k.shape[1], band=band, most=budget // n):
            pairs = (rows.stop - rows.start) * (seen.stop - seen.start)
            at_once = max(1, budget // (n * pairs))
            for g in range(0, groups, at_once):
                stop = min(g + at_once, groups)
                yield Block(slice(g, stop), slice(g * n, stop * n), rows, seen)

    def scores(self, block: Block, *, into: Tensor | None = None) -> BlockScores:
        """Return a block's scores: scaled, capped, biased and masked (−inf).

        `into` [H', T', S] receives them where its layout allows; the result is then a view of it.
        """
        groups, n, _, width = self.q[block.groups].shape
        q = self.q[block.groups, :, block.rows].reshape(groups, -1, width)
        k = self.k[block.groups, block.keys].mT
        if q.dtype == torch.float32:
            place = self._place(block, into)
            unread = q.new_empty(()).expand(groups, 1, 1)  # beta 0: only alpha is wanted
            scores = torch.baddbmm(unread, q, k, beta=0, alpha=self.problem.scale, out=place)
        else:
            scores = products_of_halves(q, k).mul_(self.problem.scale)
        scores = scores.view(groups * n, -1, scores.shape[-1]) if n > 1 else scores
        cap = self.problem.spec.softcap
        if cap is not None:
            scores.div_(cap).tanh_().mul_(cap)
        sight = self.problem.visibility.sight(
            self.heads[block.heads], self.rows[block.rows], block.keys, device=scores.device
        )
        return BlockScores(scores if sight is None else sight.apply(scores), sight)

    def note_lse(self, block: Block, scored: BlockScores) -> None:
        """Fill in a block of `lse` where it is not known: −inf for rows that may attend nothing.

        Emptiness is read from the masks: a row that overflowed to −inf throughout gives NaN.
        """
        if self.known:
            return
        lse = scored.scores.logsumexp(-1)
        lse.masked_fill_(lse == -math.inf, math.nan)
        empty = None if scored.sight is None else scored.sight.empty()
        if empty is not None:
            lse.masked_fill_(empty, -math.inf)
        if self.problem.sinks is not None:
            lse = with_sink(lse, self.sinks[block.heads])
        self.lse[block.heads, block.rows] = lse

    def weights(self, block: Block, scored: BlockScores) -> Tensor:
        """Turn a block of scores into weights, in place.

        A block holds every key in sight of its rows, so that this is their softmax, and they sum to 1 by
        themselves. Of that a sink leaves σ(logsumexp of the keys − sink): read from the logsumexp with the
        sink in it, little would be a difference of two large numbers.
        """
        left = None
        if self.problem.sinks is not None:
            left = torch.sigmoid(scored.scores.logsumexp(-1, keepdim=True) - self.sinks[block.heads, None])
        weights = torch.softmax(scored.scores, dim=-1, out=scored.scores)
        empty = None if scored.sight is None else scored.sight.empty()
        if empty is not None:
            weights.masked_fill_(empty[..., None], 0.0)
        weights = weights if left is None else weights.mul_(left)
        patterns = self.problem.patterns
        return (
            weights
            if patterns is None
            else patterns.put(
                weights,
                self.heads[block.heads],
                self.rows[block.rows],
                diagonal=self.problem.spec.causal_offset,
                blocked=None if scored.sight is None else scored.sight.blocked,
            )
        )

    @property
    def sinks(self) -> Tensor:
        """The chosen heads' sinks [H', 1]."""
        assert self.problem.sinks is not None
        return select(self.problem.sinks, 0, self.heads)[:, None]

    def _place(self, block: Block, into: Tensor | None) -> Tensor | None:
        """Return where in `into` a matrix product can write a block, or None."""
        groups, n, total, _ = self.q.shape
        if into is None or (n > 1 and block.rows != slice(0, total)):
            return None
        rows = slice(None) if n > 1 else block.rows
        return into.view(groups, n * total, -1)[block.groups, rows, block.keys]


def view_of(
    problem: Problem,
    lse_HT: Tensor | None = None,
    *,
    heads: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
) -> View:
    """Return the view of some heads and rows (None: all)."""
    rows = range(problem.q.shape[1]) if rows is None else compact(rows)
    key_heads: Sequence[int] = range(problem.k.shape[0])
    if heads is None:
        heads = range(problem.q.shape[0])
        q = grouped(select(problem.q, 1, rows), problem.group)
    else:  # a key head is repeated for each chosen head that reads it
        heads = compact(heads)
        key_heads = compact([head // problem.group for head in heads])
        q = select(select(problem.q, 0, heads), 1, rows)[:, None]
    if lse_HT is None:
        lse = torch.full((len(heads), len(rows)), -math.inf, device=q.device)
    else:
        lse = select(select(lse_HT, 0, heads), 1, rows)
    k = select(problem.k, 0, key_heads)
    halves = q.dtype == k.dtype and halves_multiply(q.device, q.dtype)
    return View(
        problem=problem,
        heads=heads,
        rows=rows,
        key_heads=key_heads,
        q=q if halves else q.float(),
        k=k if halves else k.float(),
        lse=lse,
        known=lse_HT is not None,
    )


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
        some = slice(start, min(start + step, len(rows)))
        seen = slice(0, keys) if band is None else band.keys(rows[some], keys)
        if seen.stop > seen.start:
            yield some, seen


def with_sink(lse_HT: Tensor, sinks_H1: Tensor) -> Tensor:
    """Return the logsumexp with each head's sink in it; a row that attends nothing keeps −inf."""
    return torch.where(lse_HT == -math.inf, lse_HT, torch.logaddexp(lse_HT, sinks_H1))
