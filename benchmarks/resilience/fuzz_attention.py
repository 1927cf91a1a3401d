"""Attention of odd shapes under odd rules, at random, against float64: a part of `fuzz_kernels`."""

from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from benchmarks.resilience.slowly import Problem, difference
from models.compiled.extents import AttentionResult, Extent
from models.compiled.native import Native
from models.compiled.rules import PLAIN, DistanceTable, ScoreRule
from models.outputs import Mix, Selection, Share, Spans

WIDTHS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 100, 128, 129)
STEP_ROWS = (1, 1, 2, 3, 8, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 130)
MANY_ROWS = (500, 513, 700)  # heads of so many are made in several tasks
SMALL = ("top_k_weights", "entropy", "received")
SUMS = ("mixed", "share")  # made of what a selection says of them
FAR = 1 << 28  # float32 numbers: a gigabyte between one row and the next


@dataclass(frozen=True, slots=True)
class Shapes:
    """Heads and their widths."""

    heads: int
    key_heads: int
    width: int
    value_width: int


class Draw:
    """What is drawn, of one seed."""

    def __init__(self, chance: Random, generator: torch.Generator) -> None:
        self._chance, self._torch = chance, generator
        self._far = torch.empty(2 * FAR + 4096)  # taken from the kernel, and almost nowhere touched

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._torch)

    def shapes(self, *, alike: bool) -> Shapes:
        """Return heads; `alike`: values as wide as keys."""
        chance = self._chance
        key_heads, width = chance.randrange(1, 4), chance.choice(WIDTHS)
        value_width = width if alike or chance.random() < 0.6 else chance.choice(WIDTHS)
        return Shapes(key_heads * chance.randrange(1, 4), key_heads, width, value_width)

    def extents(self, heads: int, *, apart: bool) -> tuple[list[Extent], int, int]:
        """Return sequences, sometimes with rows in between that belong to none; how many rows, and of keys.

        `apart`: keys may stand elsewhere than queries.
        """
        chance, extents, at, key_at = self._chance, [], 0, 0
        apart = apart and chance.random() < 0.5
        for _ in range(chance.randrange(1, 4)):
            at += chance.choice([0, 0, 0, 3])
            length = chance.choice(STEP_ROWS) if chance.random() < 0.97 else chance.choice(MANY_ROWS)
            keys = chance.choice((0, *STEP_ROWS, *MANY_ROWS)) if apart else length
            extent = Extent(slice(at, at + length), lse=chance.random() < 0.5)
            if apart:
                extent = replace(extent, keys=slice(key_at, key_at + keys))
            extents.append(self._asking(extent, heads, length, keys))
            at, key_at = at + length, key_at + keys
        if chance.random() < 0.2:
            chance.shuffle(extents)
        rows = at + chance.choice([0, 0, 2])
        return extents, rows, key_at if apart else rows

    def _asking(self, extent: Extent, heads: int, rows: int, keys: int) -> Extent:
        chance = self._chance
        if chance.random() < 0.4:
            chosen = sorted(chance.sample(range(heads), chance.randrange(1, heads + 1)))
            top_k = chance.randrange(1, 17)
            selection = Selection(
                outputs=("weights",),
                top_k=top_k,
                heads=tuple(chosen) if chance.random() < 0.5 else None,
                mix=self._mix(heads, keys),
                share=Share(of=self._spans(keys), over=self._spans(keys)),
            )
            names = tuple(name for name in (*SMALL, *SUMS) if chance.random() < 0.5 and keys)
            extent = replace(extent, outputs=names, selection=selection, weights=True)
        if chance.random() < 0.3:
            shape = chance.choice([1, heads]), chance.choice([1, rows]), keys
            hidden = torch.rand(shape, generator=self._torch) < 0.3
            boolean = chance.random() < 0.5
            mask = ~hidden if boolean else self._random(*shape).masked_fill(hidden, -torch.inf)
            extent = replace(extent, mask=mask)
        if chance.random() < 0.3:
            table = DistanceTable(self._random(chance.choice([1, heads]), rows + keys), rows)
            own = self._random(heads, rows, keys)
            extent = replace(extent, bias=table if chance.random() < 0.5 else own)
        return extent

    def _mix(self, heads: int, keys: int) -> Mix:
        chance = self._chance
        chosen = chance.sample(range(heads), chance.randrange(1, heads + 1))
        return Mix(
            pairs=tuple((0, head) for head in chosen),
            weights=tuple(chance.uniform(-2, 2) for _ in chosen),
            columns=self._spans(keys) if chance.random() < 0.6 else None,
            reduce=chance.choice([None, "mean", "sum"]),
        )

    def _spans(self, keys: int) -> Spans:
        chance = self._chance
        ends = [sorted(chance.randrange(keys + 1) for _ in range(2)) for _ in range(chance.randrange(4))]
        return tuple((start, stop) for start, stop in ends)

    def rule(self) -> ScoreRule:
        """Return a rule; half of them are none."""
        chance = self._chance
        if chance.random() < 0.5:
            return PLAIN
        near, high = chance.randrange(1, 40), chance.choice([None, 0, 1, -2, 7])
        return ScoreRule(
            low=chance.choice([None, near - 60, (0 if high is None else high) - near]),
            high=high,
            hole=chance.choice([None, None, 0]),
            own=chance.choice([None, None, 0, 1]),
            softcap=chance.choice([None, None, 0.5, 30.0]),
        )

    def strided(self, rows: int, heads: int, width: int, *, far: bool = False) -> Tensor:
        """[rows, heads, width] of rows and heads as far apart as they like."""
        made = self._random(rows, heads, width)
        if far and heads * width <= 1024 and rows <= 3:
            return torch.as_strided(self._far, (rows, heads, width), (FAR, width, 1), 0).copy_(made)
        room = self._random(
            rows, heads + self._chance.choice([0, 1, 5]), width + self._chance.choice([0, 1, 64])
        )
        return room[:, :heads, :width].copy_(made)

    def attend(self, ours: Native) -> str | None:
        """Compare attention of queries, keys and values that are there."""
        chance, shapes = self._chance, self.shapes(alike=False)
        extents, rows, key_rows = self.extents(shapes.heads, apart=True)
        far = chance.random() < 0.05
        if far:
            extents, rows, key_rows = [Extent(slice(0, 3), lse=True, weights=True)], 3, 3
        q = self.strided(rows, shapes.heads, shapes.width, far=far)
        k = self.strided(key_rows, shapes.key_heads, shapes.width, far=far)
        v = self.strided(key_rows, shapes.key_heads, shapes.value_width, far=far)
        odd = chance.random() < 0.05
        if odd and q.numel():
            q[0, 0, 0] = chance.choice([torch.inf, -torch.inf, torch.nan, 3e38])
        scale, rule = chance.choice([shapes.width**-0.5, 1.0, 1e-6, 0.0]), self.rule()
        causal = chance.random() < 0.4
        sinks = self._random(shapes.heads) if chance.random() < 0.2 else None
        made = ours.attend(q, k, v, extents, scale=scale, causal=causal, rule=rule, sinks_H=sinks)
        problem = Problem(scale=scale, causal=causal, rule=rule, sinks=sinks)
        found = self._compare(made, extents, (q, k, v), problem, odd=odd)
        return found and f"{found}: {shapes}, {[_said(one) for one in extents]}, {problem}"

    def _compare(
        self,
        made: AttentionResult,
        extents: list[Extent],
        qkv: tuple[Tensor, Tensor, Tensor],
        problem: Problem,
        *,
        odd: bool,
    ) -> str | None:
        at = 0
        for place, extent in enumerate(extents):
            z, weights, lse = problem.slowly(*qkv, extent)
            found = made.z[at : at + extent.length]
            at += extent.length
            if not made.finite and odd:
                continue  # float32 may overflow where float64 does not
            wrong = difference(found.reshape(z.shape), z)
            if not made.finite:
                wrong = wrong or "said not to be finite"
            if (seen := made.lse[place]) is not None:
                some = lse > -torch.inf  # rows that see something
                if not torch.equal(some, seen > -torch.inf):
                    wrong = wrong or "logsumexp of a row that sees nothing"
                wrong = wrong or difference(seen[some], lse[some], least=1.0)  # of terms of either sign
            wrong = wrong or self._derived(made, place, extent, weights)
            if wrong:
                return wrong
        return None

    def _derived(self, made: AttentionResult, place: int, extent: Extent, weights: Tensor) -> str | None:
        chosen, of_all = extent.selection.heads, weights
        weights = weights if chosen is None else weights[list(chosen)]
        if (seen := made.weights[place]) is not None and (wrong := difference(seen, weights)):
            return wrong
        outputs = (made.outputs[place] if made.outputs else None) or {}
        k = min(extent.selection.top_k, weights.shape[2])
        expected = {
            "entropy": torch.special.entr(weights).sum(-1),
            "received": weights.sum(1),
            "top_k_weights": weights.topk(k).values,
        }
        expected["mixed"] = _mixed(extent.selection.mix, of_all)
        expected["share"] = _shared(extent.selection.share, weights)
        for name in extent.outputs:
            if wrong := difference(outputs[name], expected[name]):
                return f"{name} {wrong}"
        return None


def _mixed(mix: Mix | None, weights: Tensor) -> Tensor:
    """Return what is mixed of weights [H, T, S] of all heads."""
    if mix is None:
        return weights
    times = torch.zeros(len(weights), dtype=weights.dtype)
    times[[head for _, head in mix.pairs]] = torch.tensor(mix.weights, dtype=weights.dtype)
    mixed = torch.einsum("h,hts->ts", times, weights)
    if mix.columns is not None:
        sums = [mixed[:, start:stop].sum(1) for start, stop in mix.columns]
        mixed = torch.stack(sums, 1) if sums else mixed[:, :0]
    return mixed.mean(0) if mix.reduce == "mean" else mixed.sum(0) if mix.reduce else mixed


def _shared(share: Share | None, weights: Tensor) -> Tensor:
    """Return shares of weights [H, T, S], each key counted once."""
    masses = []
    for spans in () if share is None else (share.of, share.over):
        keys = sorted({key for start, stop in spans for key in range(start, stop)})
        masses.append(weights[..., keys].sum(-1))
    return torch.where(masses[1] > 0, masses[0] / masses[1], 0) if masses else weights


def _said(extent: Extent) -> str:
    keys = "own keys" if extent.keys is None else f"keys {extent.keys.start}:{extent.keys.stop}"
    mask = "" if extent.mask is None else f", mask {extent.mask.dtype} {list(extent.mask.shape)}"
    bias = "" if extent.bias is None else f", bias {type(extent.bias).__name__}"
    return f"rows {extent.rows.start}:{extent.rows.stop}, {keys}{mask}{bias}, {extent.outputs}"
