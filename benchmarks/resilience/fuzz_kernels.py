"""Odd shapes, strides and numbers through the compiled products, attention and feed-forward networks.

    python -m benchmarks.resilience.fuzz_kernels SECONDS [SEED]
    python -m benchmarks.resilience.fuzz_kernels overflow   # does wrong on purpose: a sanitizer must say so

No rows at all, one, as many as a block has and one more or less; widths beside every vector; rows so far
apart that 32 bits do not count the bytes between them; numbers that are none; rules, masks, biases and
outputs of every kind; several threads; every set of instructions. What is finite is compared with float64.
"""

import math
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from benchmarks.resilience.fuzz_attention import Draw
from benchmarks.resilience.slowly import ACTIVATED, CLOSE, CLOSE_NORMED, Problem, difference, norms
from models.compiled.instructions import sets_of
from models.compiled.native import Native, native
from models.compiled.panels import AngleTables, Feed, Projections
from models.compiled.structures import ACTIVATIONS, Linear
from models.compiled.weights import Panels
from models.encoder.norm import Norm
from tests.compiled import library

MOST_FINDINGS = 20
ROWS = (0, 1, 2, 5, 13, 14, 15, 16, 27, 28, 29, 64, 127, 253, 300)
INNER = (1, 2, 3, 7, 8, 15, 16, 17, 31, 63, 64, 65, 255, 384, 385, 769, 1024, 2048)
OUT = (1, 2, 5, 15, 16, 17, 31, 32, 33, 47, 64, 100, 384, 1024)
# How far results may be off where weights, and what they are multiplied by, are kept in so many bits.
ROUNDED = {"float32": CLOSE, "float16": 1e-2, "bfloat16": 5e-2, "int8": 0.2}
FEW = 8  # numbers a row: a norm of so few, or of what so few made, may magnify their roundings


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
        self._draw = Draw(self._chance, self._torch)
        self._close = CLOSE  # what a result must be, for the weights that have been drawn

    def one(self) -> None:
        """Try one call of one kind."""
        chance = self._chance
        torch.set_num_threads(chance.choice([1, 2, 3, 4]))
        what, attempt = chance.choice(
            [
                ("linear", self._linear),
                ("attend", self._draw.attend),
                ("block", self._block),
                ("feed", self._feed),
            ]
        )
        self._close = CLOSE
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
        kept_as = "float32" if self._chance.random() < 0.5 else self._chance.choice(sorted(ours.keeps))
        self._close = max(self._close, ROUNDED[kept_as])
        return ours.lay_out(weight, bias, kept_as=kept_as), weight.double(), doubled

    def _linear(self, ours: Native) -> str | None:
        chance = self._chance
        panels, weight, bias = self._panels(ours, chance.choice(OUT), chance.choice(INNER))
        x = self._rows(chance.choice(ROWS), weight.shape[1])
        found = difference(ours.linear(x, panels), x.double() @ weight.T + bias, close=self._close)
        return found and f"{found}: x {tuple(x.shape)}, weight {tuple(weight.shape)}"

    def _block(self, ours: Native) -> str | None:
        chance, shapes = self._chance, self._draw.shapes(alike=True)
        extents, rows, _ = self._draw.extents(shapes.heads, apart=False)
        heads, key_heads, width = shapes.heads, shapes.key_heads, shapes.width
        model = chance.choice(INNER[:14])
        x = self._rows(rows, model)
        projection, weight, bias = self._panels(ours, (heads + 2 * key_heads) * width, model)
        output = self._panels(ours, chance.choice(OUT), heads * width) if chance.random() < 0.6 else None
        before, query, key = (self._norm(of, 0.3) for of in (model, width, width))
        angles = self._angles(width) if width > 1 and chance.random() < 0.4 else None
        by = Projections(
            qkv=projection,
            output=None if output is None else output[0],
            heads=heads,
            key_heads=key_heads,
            before=before.single,
            query_norm=query.single,
            key_norm=key.single,
            rotation=angles,
        )
        problem = Problem(scale=width**-0.5, causal=chance.random() < 0.5, rule=self._draw.rule())
        made = ours.block(x, extents, by, scale=problem.scale, causal=problem.causal, rule=problem.rule)
        heads_of = [heads, key_heads, key_heads]
        q, k, v = (before(x.double()) @ weight.T + bias).view(rows, -1, width).split(heads_of, 1)
        q, k = (of(one).clone() for of, one in ((query, q), (key, k)))
        for one in extents if angles is not None else ():
            for turned in (q, k):
                turned[one.rows] = angles.turned(turned[one.rows])
        expected = torch.cat([problem.slowly(q, k, v, one)[0] for one in extents]).reshape(-1, heads * width)
        if output is not None:
            expected = expected @ output[1].T + output[2]
        normed = any(one.single is not None for one in (before, query, key)) and min(model, width) <= FEW
        found = difference(made.z, expected, close=self._within(normed=normed))
        turns = "" if angles is None else f", {2 * angles.half} numbers turned"
        return found and f"{found}: x {tuple(x.shape)}, {shapes}, {extents}, {problem}{turns}"

    def _within(self, *, normed: bool) -> float:
        """Return how close a result must be; `normed`: of so few numbers that roundings are magnified."""
        if not normed:
            return self._close
        return CLOSE_NORMED if self._close == CLOSE else math.inf

    def _norm(self, width: int, often: float) -> "Norms":
        if self._chance.random() > often:
            return Norms(None, None)
        return Norms(*norms(self._chance.choice(["layer", "rms"]), self._random(width), self._random(width)))

    def _angles(self, width: int) -> "Turned":
        half = self._chance.randrange(1, width // 2 + 1)
        return Turned(half, self._chance.random() < 0.5, self._chance.random() < 0.3)

    def _feed(self, ours: Native) -> str | None:
        chance = self._chance
        rows, model, inner = chance.choice(ROWS), chance.choice(INNER[:14]), chance.choice(OUT)
        up, down = self._panels(ours, inner, model), self._panels(ours, model, inner)
        gate = self._panels(ours, inner, model) if chance.random() < 0.4 else None
        activation, post = chance.choice(list(ACTIVATIONS)), chance.random() < 0.5
        attended, before, fed, after = (self._norm(model, often) for often in (0.2, 0.5, 0.2, 0.5))
        x = self._rows(rows, model) if chance.random() < 0.7 else None
        parallel = x is not None and not post and chance.random() < 0.3
        network = Feed(
            up=up[0],
            gate=None if gate is None else gate[0],
            down=down[0],
            activation=activation,
            attended=attended.single,
            before=before.single,
            fed=fed.single,
            after=after.single,
            post=post,
            parallel=parallel,
        )
        z, y = self._rows(rows, model), torch.empty(rows, model)
        ours.feed(network, x, z, y)
        total = attended(z.double()) + (0 if x is None else x.double())
        read = before(x.double() if parallel and x is not None else total)
        act, wide = ACTIVATED[activation], read @ up[1].T + up[2]
        hidden = act(wide) if gate is None else act(read @ gate[1].T + gate[2]) * wide
        expected = fed(hidden @ down[1].T + down[2]) + (0 if x is None else read if post else total)
        expected = after(expected)
        all_norms = (attended, before, fed, after)
        normed = any(one.single is not None for one in all_norms) and min(model, inner) <= FEW
        found = difference(y, expected, close=self._within(normed=normed))
        kind = f"{activation}{', gated' if gate else ''}{', post' if post else ''}{', parallel' * parallel}"
        kind += f", norms {[one.single is not None for one in all_norms]}"
        return found and f"{found}: {rows} rows, {model} → {inner}, {kind}"


@dataclass(frozen=True, slots=True)
class Norms:
    """A norm in float32 and in float64, or none."""

    single: Norm | None
    doubled: Norm | None

    def __call__(self, x: Tensor) -> Tensor:
        """Return float64 rows normalised, or as they are."""
        return x if self.doubled is None else self.doubled(x)


@dataclass(frozen=True, slots=True)
class Turned:
    """Rotations of heads; positions are turned more slowly where they are counted `by_length`."""

    half: int
    interleaved: bool
    by_length: bool

    def tables(self, positions: int) -> AngleTables:
        """Return cosines and sines of so many positions."""
        rates = 10.0 ** -torch.linspace(0, 3, self.half).double() / (positions if self.by_length else 1)
        angles = torch.arange(positions)[:, None] * rates
        return AngleTables(angles.cos().float(), angles.sin().float())

    def turned(self, x: Tensor) -> Tensor:
        """Return heads [T, H, D] turned, in float64."""
        made, tables = x.clone(), self.tables(x.shape[0])
        c, s = (one.double()[:, None] for one in (tables.cosines, tables.sines))
        first = slice(0, 2 * self.half, 2) if self.interleaved else slice(0, self.half)
        second = slice(1, 2 * self.half, 2) if self.interleaved else slice(self.half, 2 * self.half)
        made[..., first] = x[..., first] * c - x[..., second] * s
        made[..., second] = x[..., second] * c + x[..., first] * s
        return made


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
