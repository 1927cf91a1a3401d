"""A group of sequences in tiles: which kernels are launched, with which tiles, and whose results are where.

Sequences that ask for the same are one launch. What is asked of all heads and rows comes of the pass that
makes z; of chosen heads and rows, of a pass over those alone, without z.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from models.attention.tiles.asking import (
    LISTS,
    alike,
    beside,
    chooses,
    listed,
    names_made,
    of_the_pass,
    of_the_pass_without_z,
)
from models.attention.tiles.choice import Tiles, kernel, lanes_of, padded, parts, precision_of, tiles_of
from models.attention.tiles.table import Once, SequenceTable, table_of, with_results
from models.compiled.extents import AttentionResult, Extent
from models.compiled.rules import ScoreRule
from models.device.collect import TORCH_DTYPES

OVER_HEADS = ("weights_mean", "weights_max")


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
            if x.stride(1) != x.shape[2]:
                raise ValueError(f"heads of {name} stand one after another")
        rows, heads, _ = self.q.shape
        self.z = self.q.new_empty(rows if self.reads_z else 0, heads, self.v.shape[2])
        self.lse = self.q.new_empty(heads, rows, dtype=torch.float32)

    def attend_table(self, table: SequenceTable) -> Tensor:
        """Return z alone, of rows whose places are in a table: one kernel, and nothing else."""
        self._forward(table, self.q, (), k=0, heads=None, z=self.z, lse=self.lse)
        return self.z

    def attend(self, extents: Sequence[Extent]) -> AttentionResult:
        """Return z, logsumexps, and of each sequence those of its extent's outputs that are made here."""
        found: list[dict[str, Tensor]] = [{} for _ in extents]
        known = [self.reads_z] * len(extents)
        for places in alike(extents, of_the_pass if self.reads_z else of_the_pass_without_z):
            for place in places:
                known[place] = True
            table = self._table([extents[place] for place in places])
            first = extents[places[0]]
            names = () if chooses(first) else listed(first)
            made = self._forward(
                table,
                self.q,
                names,
                k=first.selection.top_k,
                heads=None,
                z=self.z if self.reads_z else None,
                lse=self.lse,
            )
            self._share(made, table, places, found)
        for places in alike(extents, beside):
            self._make_beside(extents, places, found)
        of_each = [one.rows for one in extents]
        weights = [made.pop("all_weights", None) for made in found]
        return AttentionResult(
            self.z,
            [self.lse[:, rows] if there else None for rows, there in zip(of_each, known, strict=True)],
            weights,
            outputs=[made or None for made in found],
            packed_lse=self.lse if all(known) else None,
        )

    def _make_beside(
        self, extents: Sequence[Extent], places: Sequence[int], found: list[dict[str, Tensor]]
    ) -> None:
        """Make what the pass of z did not: of chosen heads and rows, and what needs the logsumexp."""
        own = [extents[place] for place in places]
        first, heads = own[0], self.q.shape[1]
        table = self._table(own, chosen=first.selection.rows is not None)
        q, lse = self.q, self.lse
        if chooses(first):
            q = q if table.chosen is None else q.index_select(0, table.chosen)
            count = heads if first.selection.heads is None else len(first.selection.heads)
            lse = q.new_empty(count, q.shape[0], dtype=torch.float32)
            chosen, k = first.selection.heads, first.selection.top_k
            made = self._forward(table, q, listed(first), k=k, heads=chosen, z=None, lse=lse)
            self._share(made, table, places, found)
        names = names_made(first)
        if "received" in names:
            self._received(table, q, lse, first, places, found)
        if not names.isdisjoint(OVER_HEADS):
            self._over_heads(table, q, lse, first, places, found)
        if "weights" in names or first.weights:
            self._weights(table, q, lse, first, places, found)

    def _table(self, extents: Sequence[Extent], *, chosen: bool = False) -> SequenceTable:
        total, heads, _ = self.q.shape
        return table_of(
            extents, heads=heads, total=total, device=self.q.device, chosen=chosen, once=self.once
        )

    def _share(
        self,
        made: Mapping[str, Tensor],
        table: SequenceTable,
        places: Sequence[int],
        found: list[dict[str, Tensor]],
    ) -> None:
        """Give each sequence its rows of [H', N, …], and no more keys than it has."""
        for name, whole in made.items():
            of_each = zip(places, table.first, table.count, table.keys, strict=True)
            for place, first, count, keys in of_each:
                part = whole[:, first : first + count]
                found[place][name] = part[..., :keys] if part.ndim == 3 else part

    def _forward(
        self,
        table: SequenceTable,
        q: Tensor,
        names: Iterable[str],
        *,
        k: int,
        heads: Sequence[int] | None,
        z: Tensor | None,
        lse: Tensor,
    ) -> dict[str, Tensor]:
        names = set(names)
        places = _numbers(heads, q)
        count, total = len(places), q.shape[0]
        top = k if names & LISTS else 0
        most = max(table.keys, default=1)
        top = min(top, most)
        entropy = lse.new_empty((count, total) if "entropy" in names else (1, 1))
        keys = lse.new_empty((count, total, top) if top else (1, 1, 1), dtype=torch.int32)
        weights = lse.new_empty(keys.shape)
        rest = lse.new_empty((count, total) if top else (1, 1))
        width = max(self.q.shape[2], self.v.shape[2])
        tiles = tiles_of(q.dtype, width, much=table.hidden or table.biased)
        grid = (parts(max(table.count), tiles.rows), count, len(table.count))
        self._launch(
            "forward", grid, tiles, table, q,
            (self.v, self.z if z is None else z, lse, entropy, keys, weights, rest),
            (table.rows, table.positions, places, lse if self.sinks is None else self.sinks),
            DV=self.v.shape[2], DV_PADDED=padded(self.v.shape[2]),
            top=top, LISTED=top > 0, TOP_PADDED=lanes_of(top),
            OWN=self.rule.own is not None and z is not None, SINK=self.sinks is not None,
            VALUES=z is not None, READS_ENTROPY="entropy" in names,
        )  # fmt: skip
        made = {"entropy": entropy} if "entropy" in names else {}
        lists = {"top_k_keys": keys, "top_k_weights": weights, "top_k_rest": rest}
        return made | {name: one for name, one in lists.items() if name in names}

    def _received(
        self, table: SequenceTable, q: Tensor, lse: Tensor, first: Extent, places: Sequence[int],
        found: list[dict[str, Tensor]],
    ) -> None:  # fmt: skip
        heads = lse.shape[0]
        rows, ends = with_results(table, [heads * keys for keys in table.keys])
        out = lse.new_empty(ends[-1])
        tiles = tiles_of(q.dtype, q.shape[2], much=table.hidden or table.biased)
        grid = (parts(max(table.keys), tiles.keys), heads, len(places))
        self._launch_weights("sum_rows", grid, tiles, table, rows, q, lse, (out,), first)
        for place, start, keys in zip(places, ends, table.keys, strict=False):
            found[place]["received"] = out[start : start + heads * keys].view(heads, keys)

    def _over_heads(
        self, table: SequenceTable, q: Tensor, lse: Tensor, first: Extent, places: Sequence[int],
        found: list[dict[str, Tensor]],
    ) -> None:  # fmt: skip
        sizes = [count * keys for count, keys in zip(table.count, table.keys, strict=True)]
        rows, ends = with_results(table, sizes)
        asked = [name in first.outputs for name in OVER_HEADS]
        made = [lse.new_empty(ends[-1] if one else 1) for one in asked]
        tiles = tiles_of(q.dtype, q.shape[2], much=table.hidden or table.biased)
        grid = (parts(max(table.count), tiles.rows), parts(max(table.keys), tiles.keys), len(places))
        self._launch_weights(
            "over_heads",
            grid,
            tiles,
            table,
            rows,
            q,
            lse,
            made,
            first,
            READS_MEAN=asked[0],
            READS_MOST=asked[1],
        )
        for place, start, size, count in zip(places, ends, sizes, table.count, strict=False):
            for name, there, one in zip(OVER_HEADS, asked, made, strict=True):
                if there:
                    found[place][name] = one[start : start + size].view(count, -1)

    def _weights(
        self, table: SequenceTable, q: Tensor, lse: Tensor, first: Extent, places: Sequence[int],
        found: list[dict[str, Tensor]],
    ) -> None:  # fmt: skip
        heads = lse.shape[0]
        sizes = [heads * count * keys for count, keys in zip(table.count, table.keys, strict=True)]
        rows, ends = with_results(table, sizes)
        dtype = torch.float32 if first.weights else TORCH_DTYPES[first.selection.dtype]
        out = lse.new_empty(ends[-1], dtype=dtype)
        tiles = tiles_of(q.dtype, q.shape[2], much=table.hidden or table.biased)
        grid = (parts(max(table.count), tiles.rows), heads, len(places))
        self._launch_weights("write_weights", grid, tiles, table, rows, q, lse, (out,), first)
        name = "all_weights" if first.weights else "weights"
        for place, start, size, count in zip(places, ends, sizes, table.count, strict=False):
            found[place][name] = out[start : start + size].view(heads, count, -1)

    def _launch_weights(
        self, name: str, grid: tuple[int, ...], tiles: Tiles, table: SequenceTable, rows: Tensor, q: Tensor,
        lse: Tensor, out: Sequence[Tensor], first: Extent, **more: bool,
    ) -> None:  # fmt: skip
        places = _numbers(first.selection.heads, q)
        after = (rows, table.positions, places, *((len(places),) if name == "over_heads" else ()))
        self._launch(name, grid, tiles, table, q, (lse, *out), after, **more)

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
        with torch.cuda.device(q.device) if q.device.type == "cuda" else nullcontext():
            kernel(name)[grid](
                q, self.k, *before, *after, *strides, *numbers, *own, q.shape[0], group,
                D=width, D_PADDED=padded(width), ROWS=tiles.rows, KEYS=tiles.keys,
                LOW=rule.low is not None, HIGH=rule.high is not None, HOLE=rule.hole is not None,
                CAP=rule.softcap is not None, HIDDEN=table.hidden, BIASED=table.biased,
                PRECISION=precision_of(q.dtype), num_warps=tiles.warps, num_stages=tiles.stages, **more,
            )  # fmt: skip


def _numbers(heads: Sequence[int] | None, q_NHD: Tensor) -> Tensor:
    """Return the numbers of heads on the device, of all of q's where they are None."""
    return _every(q_NHD.shape[1], q_NHD.device) if heads is None else _some(tuple(heads), q_NHD.device)


@cache  # for good: where a launch is played back, its memory must be what it was
def _every(heads: int, device: torch.device) -> Tensor:
    return torch.arange(heads, dtype=torch.int32, device=device)


@lru_cache(maxsize=256)  # callers ask for the same again and again
def _some(heads: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(heads, dtype=torch.int32, device=device)
