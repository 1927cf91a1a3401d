"""A group of sequences in tiles: which kernels are launched, and with which tiles.

Sequences that ask for the same are one launch. What is asked of all heads and rows comes of the pass that
makes z; of chosen heads and rows, of a pass over those alone, without z.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from models.attention.reductions import TOP_K
from models.attention.tiles.asking import (
    LISTS,
    alike,
    beside,
    chooses,
    home_of,
    listed,
    names_made,
    of_lists,
    of_the_pass,
    of_the_pass_without_z,
    puts_lse,
)
from models.attention.tiles.choice import Tiles, kernel, lanes_of, padded, parts, precision_of, tiles_of
from models.attention.tiles.results import Found, Results, owners
from models.attention.tiles.table import Once, SequenceTable, table_of
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import ScoreRule
from models.device.gathering import OutputHome

OF_FORWARD = ("entropy", *TOP_K)  # in the order in which the kernel has them
OVER_HEADS = ("weights_mean", "weights_max")
PUT_ROWS = 256


@dataclass(slots=True, eq=False)
class Launches:
    """One group's attention: its packed q [N, H, D], k [N, G, D], v [N, G, V], and how scores are made.

    `once`: of its batch, so that the same places are laid out once; None: for each launch.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    rule: ScoreRule
    sinks: Tensor | None = None
    reads_z: bool = True
    once: Once | None = None
    z: Tensor = field(init=False)
    lse: Tensor = field(init=False)  # of all heads and rows

    def __post_init__(self) -> None:
        if self.q.stride(2) != 1 or self.k.stride(2) != 1 or self.v.stride(2) != 1:
            raise ValueError("vectors of q, k and v are contiguous")
        for name, x in (("q", self.q), ("k", self.k), ("v", self.v)):
            if x.shape[1] > 1 and x.stride(1) != x.shape[2]:
                raise ValueError(f"heads of {name} stand one after another")
        rows, heads, _ = self.q.shape
        self.z = self.q.new_empty(rows if self.reads_z else 0, heads, self.v.shape[2])
        self.lse = self.q.new_empty(heads, rows, dtype=torch.float32)

    def attend_table(self, table: SequenceTable) -> Tensor:
        """Return z alone, of rows whose places are in a table: one kernel, and nothing else."""
        nothing = Results.of(OF_FORWARD, (), (), table, heads=0, lse=self.lse)
        self._pass(table, self.q, nothing, None, z=self.z, lse=self.lse)
        return self.z

    def attend(self, extents: Sequence[Extent], lse_HN: Tensor | None = None) -> AttentionResult:
        """Return z, logsumexps, and of each sequence those of its extent's outputs that are made here.

        `lse_HN`: logsumexps of all rows, where another kernel has made them. They are put where they go, and
        weights are made of them: there is no pass for them alone.
        """
        found: Found = [{} for _ in extents]
        known = [self.reads_z] * len(extents)
        without_z = of_the_pass_without_z if lse_HN is None else of_lists
        for places in alike(extents, of_the_pass if self.reads_z else without_z):
            for place in places:
                known[place] = True
            some = self._some(extents, places, self.q)
            names = () if chooses(some.first) else listed(some.first)
            self._forward(some, names, found, heads=None, z=self.z if self.reads_z else None)
        if lse_HN is None and all(known):
            lse_HN = self.lse
        for places in alike(extents, beside):
            self._make_beside(extents, places, found, lse_HN)
        if lse_HN is not None:
            for places in alike(extents, puts_lse):
                self._put_lse(lse_HN, extents, places, found)
        of_each = zip(extents, known, strict=True)
        lse = [self.lse[:, one.rows] if there and one.reads_scores else None for one, there in of_each]
        return AttentionResult(
            self.z,
            lse,
            [made.pop("all_weights", None) for made in found],
            outputs=[made or None for made in found],
            packed_lse=self.lse if all(known) else None,
        )

    def _some(
        self, extents: Sequence[Extent], places: Sequence[int], q: Tensor, *, chosen: bool = False
    ) -> "_Alike":
        own, (total, heads, _) = [extents[place] for place in places], self.q.shape
        table = table_of(own, heads=heads, total=total, device=q.device, chosen=chosen, once=self.once)
        return _Alike(places, own, table, q, self.lse)

    def _make_beside(
        self, extents: Sequence[Extent], places: Sequence[int], found: Found, lse_HN: Tensor | None
    ) -> None:
        """Make what the pass of z did not: of chosen heads and rows, and what needs the logsumexp.

        `lse_HN`: of all rows, which tells whether they are sound; None: those that are made here tell.
        """
        first = extents[places[0]]
        some = self._some(extents, places, self.q, chosen=first.selection.rows is not None)
        some.lse = self.lse if lse_HN is None else lse_HN
        if chooses(first):
            chosen, heads = some.table.chosen, first.selection.heads
            some.q = self.q if chosen is None else self.q.index_select(0, chosen)
            some.lse = self.lse.new_empty(len(_numbers(heads, self.q)), some.q.shape[0])
            self._forward(some, listed(first), found, heads=heads, z=None)
            homes = [home_of(one) for one in some.extents]
            if lse_HN is None and all(homes):
                self._tell(some.table, [one for one in homes if one is not None], some.lse)
        names = names_made(first)
        rows, keys, heads_count = max(some.table.count), max(some.table.keys), some.lse.shape[0]
        tiles = tiles_of(self.q.dtype, self.q.shape[2], much=some.table.hidden or some.table.biased)
        by_rows, by_keys, each = parts(rows, tiles.rows), parts(keys, tiles.keys), len(places)
        if "received" in names:
            self._weights("sum_rows", ("received",), (by_keys, heads_count, each), tiles, some, found)
        if not names.isdisjoint(OVER_HEADS):
            flags = {
                f"READS_{name}": one in names for name, one in zip(("MEAN", "MOST"), OVER_HEADS, strict=True)
            }
            self._weights("over_heads", OVER_HEADS, (by_rows, by_keys, each), tiles, some, found, **flags)
        if "weights" in names or first.weights:
            grid = (by_rows, heads_count, each)
            self._weights("write_weights", ("weights",), grid, tiles, some, found)

    def _tell(self, table: SequenceTable, homes: Sequence[OutputHome], greatest_HN: Tensor) -> None:
        """Let whoever gathers answers look whether all of [H', N] is below infinity, of each sequence."""
        homes[0].gathering.check_below(greatest_HN.amax(0), *owners(table, homes))

    def _forward(
        self,
        some: "_Alike",
        names: Sequence[str],
        found: Found,
        *,
        heads: Sequence[int] | None,
        z: Tensor | None,
    ) -> None:
        results = some.results(OF_FORWARD, names)
        top = 0 if LISTS.isdisjoint(names) else min(some.first.selection.top_k, max(some.table.keys))
        self._pass(some.table, some.q, results, heads, z=z, lse=some.lse, top=top, entropy="entropy" in names)
        results.share(some.places, found)

    def _pass(
        self, table: SequenceTable, q: Tensor, results: Results, heads: Sequence[int] | None, *,
        z: Tensor | None, lse: Tensor, top: int = 0, entropy: bool = False,
    ) -> None:  # fmt: skip
        """Launch the forward kernel."""
        numbers = _numbers(heads, q)
        width = max(self.q.shape[2], self.v.shape[2])
        tiles = tiles_of(q.dtype, width, much=table.hidden or table.biased)
        grid = (parts(max(table.count), tiles.rows), len(numbers), len(table.count))
        self._launch(
            "forward", grid, tiles, table, q,
            (self.v, self.z if z is None else z, lse, *results.tensors, results.places),
            (table.rows, table.positions, numbers, lse if self.sinks is None else self.sinks),
            DV=self.v.shape[2], DV_PADDED=padded(self.v.shape[2]),
            top=top, LISTED=top > 0, TOP_PADDED=lanes_of(top),
            OWN=self.rule.own is not None and z is not None, SINK=self.sinks is not None,
            VALUES=z is not None, READS_ENTROPY=entropy,
        )  # fmt: skip

    def _weights(
        self, name: str, outputs: Sequence[str], grid: tuple[int, ...], tiles: Tiles, some: "_Alike",
        found: Found, **flags: bool,
    ) -> None:  # fmt: skip
        """Launch a kernel that makes weights again, of q, k and logsumexps."""
        results = some.results(outputs, names_made(some.first) if name != "write_weights" else outputs)
        numbers = _numbers(some.first.selection.heads, some.q)
        after = (some.table.rows, some.table.positions, numbers)
        before = (some.lse, *results.tensors, results.places)
        count = (len(numbers),) if name == "over_heads" else ()
        self._launch(name, grid, tiles, some.table, some.q, before, (*after, *count), **flags)
        results.share(some.places, found)

    def _put_lse(
        self, lse_HN: Tensor, extents: Sequence[Extent], places: Sequence[int], found: Found
    ) -> None:
        """Put logsumexps of the chosen heads and rows where they go; what a narrower dtype loses is told."""
        first = extents[places[0]]
        some = self._some(extents, places, self.q, chosen=first.selection.rows is not None)
        table, results = some.table, some.results(("lse",), ("lse",))
        numbers = _numbers(first.selection.heads, self.q)
        narrowed = results.tensors[0].dtype != torch.float32
        lost = lse_HN.new_empty((len(numbers), table.total) if narrowed else 1)
        chosen = table.positions if table.chosen is None else table.chosen
        grid = (parts(max(table.count), PUT_ROWS), len(numbers), len(places))
        with _on(self.q.device):
            kernel("put_lse")[grid](
                lse_HN, *results.tensors, lost, results.places, table.rows, chosen, numbers,
                lse_HN.stride(0), table.total,
                ROWS=PUT_ROWS, CHOOSES=table.chosen is not None, NARROWED=narrowed,
            )  # fmt: skip
        results.share(places, found)
        if narrowed:
            self._tell(table, [one for one in map(home_of, some.extents) if one is not None], lost)

    def _launch(
        self, name: str, grid: tuple[int, ...], tiles: Tiles, table: SequenceTable, q: Tensor,
        before: Sequence[Any], after: Sequence[Any], **more: Any,
    ) -> None:  # fmt: skip
        """Launch one kernel: its own tensors, strides, what all have, and what it is compiled for."""
        rule, width = self.rule, q.shape[2]
        strides = (q.stride(0), self.k.stride(0), *((self.v.stride(0),) if name == "forward" else ()))
        numbers = (self.scale, rule.softcap or 1.0, rule.low or 0, rule.high or 0, rule.hole or 0)
        own = (rule.own or 0,) if name == "forward" else ()
        group = q.shape[1] // self.k.shape[1]
        with _on(q.device):
            kernel(name)[grid](
                q, self.k, *before, *after, *strides, *numbers, *own, q.shape[0], group,
                D=width, D_PADDED=padded(width), ROWS=tiles.rows, KEYS=tiles.keys,
                LOW=rule.low is not None, HIGH=rule.high is not None, HOLE=rule.hole is not None,
                CAP=rule.softcap is not None, HIDDEN=table.hidden, BIASED=table.biased,
                PRECISION=precision_of(q.dtype), num_warps=tiles.warps, num_stages=tiles.stages, **more,
            )  # fmt: skip


@dataclass(slots=True, eq=False)
class _Alike:
    """Sequences that ask for the same, by their places in the group; q and logsumexps of their rows."""

    places: Sequence[int]
    extents: Sequence[Extent]
    table: SequenceTable
    q: Tensor
    lse: Tensor

    @property
    def first(self) -> Extent:
        return self.extents[0]

    def results(self, of_kernel: Sequence[str], asked: Collection[str]) -> Results:
        return Results.of(of_kernel, asked, self.extents, self.table, heads=self.lse.shape[0], lse=self.lse)


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Let what is launched be launched on a device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _numbers(heads: Sequence[int] | None, q_NHD: Tensor) -> Tensor:
    """Return the numbers of heads on the device, of all of q's where they are None."""
    return _every(q_NHD.shape[1], q_NHD.device) if heads is None else _some(tuple(heads), q_NHD.device)


@cache  # for good: where a launch is played back, its memory must be what it was
def _every(heads: int, device: torch.device) -> Tensor:
    return torch.arange(heads, dtype=torch.int32, device=device)


@lru_cache(maxsize=256)  # callers ask for the same again and again
def _some(heads: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(heads, dtype=torch.int32, device=device)
