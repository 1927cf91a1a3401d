"""Odd shapes, strides and numbers through the compiled products, attention and feed-forward networks.

    python -m benchmarks.resilience.fuzz_kernels SECONDS [SEED]
    python -m benchmarks.resilience.fuzz_kernels overflow   # does wrong on purpose: a sanitizer must say so

No rows at all, one, as many as a block has and one more or less; widths beside every vector; rows so far
apart that 32 bits do not count the bytes between them; numbers that are none; several threads; every set of
instructions. What is finite is compared with float64.
"""

import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from benchmarks.resilience.slowly import ACTIVATED, CLOSE, CLOSE_NORMED, difference, norms, slowly
from models.compiled.extents import AttentionResult, Extent
from models.compiled.instructions import sets_of
from models.compiled.native import Native, native
from models.compiled.panels import Feed
from models.compiled.structures import ACTIVATIONS, Linear
from models.compiled.weights import Panels
from tests.compiled import library

MOST_FINDINGS = 20
ROWS = (0, 1, 2, 5, 13, 14, 15, 16, 27, 28, 29, 64, 127, 253, 300)
INNER = (1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 255, 384, 385, 769, 1024, 2048)
OUT = (1, 2, 5, 15, 16, 17, 31, 32, 33, 47, 64, 100, 384, 1024)
WIDTHS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 100, 128, 129)
STEP_ROWS = (1, 1, 2, 3, 8, 13, 14, 15, 16, 17, 27, 28, 29, 31, 32, 33, 63, 64, 65, 130)
FEW = 8  # numbers a row: a norm of so few, or of what so few made, may magnify their roundings
FAR = 1 << 28  # float32 numbers: a gigabyte between one row and the next


def variants() -> list[Native]:
    """Return the functions for every set of instructions that this processor has."""
    found = library()
    return [Native(found, one) for one in sets_of(found)]


class Campaign:
    """Fuzzing with one seed: what was tried, and what was found."""

    def __init__(self, seed: int) -> None:
        self.tried: Counter[str] = Counter()
        self.findings = 0
        self._chance = Random(seed)
        self._torch = torch.Generator().manual_seed(seed)
        self._variants = variants()
        self._far = torch.empty(2 * FAR + 4096)  # taken from the kernel, and almost nowhere touched

    def one(self) -> None:
        """Try one call of one kind."""
        chance = self._chance
        torch.set_num_threads(chance.choice([1, 2, 3, 4]))
        what, attempt = chance.choice(
            [
                ("linear", self._linear),
                ("attend", self._attend),
                ("block", self._block),
                ("feed", self._feed),
            ]
        )
        try:
            found = attempt(chance.choice(self._variants))
        except Exception:  # noqa: BLE001  nothing here may be refused
            found = traceback.format_exc()[-800:]
        self.tried[what] += 1
        if found is not None:
            self.findings += 1
            print(f"FINDING {what}: {found}", flush=True)

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._torch)

    def _rows(self, rows: int, width: int) -> Tensor:
        """Rows that stand close, apart, or backwards through every second number."""
        layout = self._chance.randrange(4)
        if layout == 0:
            return self._random(rows, width + self._chance.choice([1, 16, 5000]))[:, :width]
        if layout == 1:
            return self._random(rows, 2 * width)[:, ::2]
        return self._random(rows, width)

    def _panels(
        self, ours: Native, out: int, inner: int, biased: float = 0.5
    ) -> tuple[Panels, Tensor, Tensor]:
        """Return panels, and weight and bias (zeros where there is none) in float64."""
        weight = self._random(out, inner) / inner**0.5
        bias = self._random(out) if self._chance.random() < biased else None
        doubled = torch.zeros(out).double() if bias is None else bias.double()
        return ours.lay_out(weight, bias), weight.double(), doubled

    def _linear(self, ours: Native) -> str | None:
        chance = self._chance
        panels, weight, bias = self._panels(ours, chance.choice(OUT), chance.choice(INNER))
        x = self._rows(chance.choice(ROWS), weight.shape[1])
        found = difference(ours.linear(x, panels), x.double() @ weight.T + bias)
        return found and f"{found}: x {tuple(x.shape)}, weight {tuple(weight.shape)}"

    def _extents(self, most: int = 4) -> tuple[list[Extent], int]:
        """Return sequences, sometimes with rows in between that belong to none, and how many rows that is."""
        chance, extents, at = self._chance, [], 0
        for _ in range(chance.randrange(1, most)):
            at += chance.choice([0, 0, 0, 3])
            length = chance.choice(STEP_ROWS)
            extents.append(Extent(slice(at, at + length), chance.random() < 0.5, chance.random() < 0.5))
            at += length
        if chance.random() < 0.2:
            chance.shuffle(extents)
        return extents, at + chance.choice([0, 0, 2])

    def _attend(self, ours: Native) -> str | None:
        chance = self._chance
        key_heads = chance.randrange(1, 4)
        heads, width = key_heads * chance.randrange(1, 4), chance.choice(WIDTHS)
        extents, rows = self._extents()
        far = chance.random() < 0.05
        if far:
            extents, rows = [Extent(slice(0, 3), lse=True, weights=True)], 3
        q, k, v = (self._strided(rows, count, width, far=far) for count in (heads, key_heads, key_heads))
        odd = chance.random() < 0.05
        if odd:
            q[0, 0, 0] = chance.choice([torch.inf, -torch.inf, torch.nan, 3e38])
            extents = [Extent(slice(0, rows), lse=True, weights=True)]
        scale, causal = chance.choice([width**-0.5, 1.0, 1e-6, 0.0]), chance.random() < 0.5
        made = ours.attend(q, k, v, extents, scale=scale, causal=causal)
        return self._compare(made, extents, q, k, v, scale=scale, causal=causal, odd=odd)

    def _strided(self, rows: int, heads: int, width: int, *, far: bool) -> Tensor:
        """[rows, heads, width] of rows and heads as far apart as they like."""
        made = self._random(rows, heads, width)
        if far:
            there = torch.as_strided(self._far, (rows, heads, width), (FAR, width, 1), 0)
            return made if heads * width > 1024 else there.copy_(made)
        room = self._random(
            rows, heads + self._chance.choice([0, 1, 5]), width + self._chance.choice([0, 1, 64])
        )
        return room[:, :heads, :width].copy_(made)

    def _compare(
        self,
        made: AttentionResult,
        extents: list[Extent],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float,
        causal: bool,
        odd: bool,
    ) -> str | None:
        at = 0
        for extent, seen_lse, seen_weights in zip(extents, made.lse, made.weights, strict=True):
            z, weights, lse = slowly(
                q[extent.rows], k[extent.rows], v[extent.rows], scale=scale, causal=causal
            )
            found = made.z[at : at + extent.length]
            at += extent.length
            if made.finite != bool(found.isfinite().all()):
                return f"said to be finite: {made.finite}"
            if not made.finite and odd:
                continue  # float32 may overflow where float64 does not
            wrong = difference(found.reshape(z.shape), z)
            if seen_weights is not None:
                wrong = wrong or difference(seen_weights, weights)
            if seen_lse is not None:
                wrong = wrong or difference(seen_lse, lse, least=1.0)  # of terms of either sign
            if wrong:
                shapes = f"q {tuple(q.shape)} {q.stride()}, k {tuple(k.shape)}, {extent}"
                return f"{wrong}: {shapes}, scale {scale}, causal {causal}"
        return None

    def _block(self, ours: Native) -> str | None:
        chance = self._chance
        key_heads = chance.randrange(1, 3)
        heads, width = key_heads * chance.randrange(1, 3), chance.choice(WIDTHS[:14])
        model = chance.choice(INNER[:14])
        extents, rows = self._extents()
        x = self._rows(rows, model)
        across = (heads + 2 * key_heads) * width
        projection, weight, bias = self._panels(ours, across, model)
        output = self._panels(ours, chance.choice(OUT), heads * width) if chance.random() < 0.6 else None
        scale, causal = width**-0.5, chance.random() < 0.5
        panels = None if output is None else output[0]
        made = ours.block(
            x,
            extents,
            projection=projection,
            output=panels,
            heads=heads,
            key_heads=key_heads,
            scale=scale,
            causal=causal,
        )
        q, k, v = (x.double() @ weight.T + bias).view(rows, -1, width).split([heads, key_heads, key_heads], 1)
        z = [slowly(q[one.rows], k[one.rows], v[one.rows], scale=scale, causal=causal)[0] for one in extents]
        expected = torch.cat(z).reshape(-1, heads * width)
        if output is not None:
            expected = expected @ output[1].T + output[2]
        found = difference(made.z, expected)
        return found and f"{found}: x {tuple(x.shape)}, {heads} of {key_heads} heads of {width}, {extents}"

    def _feed(self, ours: Native) -> str | None:
        chance = self._chance
        rows, model, inner = chance.choice(ROWS), chance.choice(INNER[:14]), chance.choice(OUT)
        up, gate = self._panels(ours, inner, model), None
        if chance.random() < 0.4:
            gate = self._panels(ours, inner, model)
        down = self._panels(ours, model, inner)
        activation = chance.choice(list(ACTIVATIONS))
        network = Feed(up=up[0], gate=None if gate is None else gate[0], down=down[0], activation=activation)
        x = self._rows(rows, model) if chance.random() < 0.7 else None
        z, y = self._rows(rows, model), torch.empty(rows, model)
        first, last = (
            norms(chance.choice(["layer", "rms"]), self._random(model), self._random(model))
            if chance.random() < 0.5
            else None
            for _ in range(2)
        )
        post = chance.random() < 0.5
        ours.feed(network, x, z, y, first and first[0], last and last[0], post=post)
        total = z.double() + (0 if x is None else x.double())
        if post and first is not None:
            total = first[1](total)
        read = total if post or first is None else first[1](total)
        act = ACTIVATED[activation]
        wide = read @ up[1].T + up[2]
        hidden = act(wide) if gate is None else act(read @ gate[1].T + gate[2]) * wide
        expected = hidden @ down[1].T + down[2] + (0 if x is None else total)
        if post and last is not None:
            expected = last[1](expected)
        found = difference(
            y, expected, close=CLOSE_NORMED if (first or last) and min(model, inner) <= FEW else CLOSE
        )
        kind = f"{activation}, {'gated, ' if gate else ''}{'post, ' if post else ''}"
        kind += f"{sum(one is not None for one in (first, last))} norms"
        return found and f"{found}: {rows} rows, {model} → {inner}, {kind}"


def overflow() -> None:
    """Read a weight that is not there."""
    ours = native()
    assert ours is not None
    small = ours.lay_out(torch.ones(1, 8), None)
    wide = Linear(weight=small.linear.weight, inner=8, out=4096)
    ours.linear(torch.ones(3, 8), replace(small, out=4096, linear=wide))


def main(seconds: float, seed: int = 1) -> int:
    """Try until the time is over; return 1 where something was found."""
    until = time.monotonic() + seconds
    campaign = Campaign(seed)
    while time.monotonic() < until and campaign.findings < MOST_FINDINGS:
        campaign.one()
    tried = ", ".join(f"{count} {what}" for what, count in sorted(campaign.tried.items()))
    print(f"{campaign.tried.total()} tries ({tried}), {campaign.findings} findings")
    return int(campaign.findings > 0)


if __name__ == "__main__":
    if sys.argv[1] == "overflow":
        overflow()
    else:
        sys.exit(main(*(int(one) for one in sys.argv[1:])))
