"""How scores are made and who may attend whom, as compiled attention is told of a call and of a sequence."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from models.compiled import structures
from models.mechanism import AttentionSpec

LARGEST = torch.finfo(torch.float32).max
BEYOND = 1 << 40  # as in native_kinds.h: so far from a row stands no key
FLOAT_BYTES = 4
PROCESSOR = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class ScoreRule:
    """Row i may attend key j where low ≤ j − i ≤ high and j − i ≠ hole; None: no such bound.

    Scores become softcap·tanh(scores/softcap). The value that stands `own` from a row is added to its z.
    """

    low: int | None = None
    high: int | None = None
    hole: int | None = None
    own: int | None = None
    softcap: float | None = None

    @staticmethod
    @lru_cache(maxsize=256)  # each batch asks for those of its model
    def of(spec: AttentionSpec) -> "ScoreRule":
        """Return that of a specification, for any number of queries and keys."""
        at = spec.causal_offset
        low = None if spec.left_window is None else at - spec.left_window
        high = None if spec.right_window is None else at + spec.right_window
        if spec.causal:
            high = at if high is None else min(high, at)
        hole, own = (at if there else None for there in (spec.exclude_self, spec.add_self))
        return ScoreRule(low, high, hole, own, spec.softcap)

    def moved(self, row: int) -> Self:
        """Return what the rule is to rows from `row` on where they are counted from there."""
        low, high, hole, own = (
            None if one is None else one + row for one in (self.low, self.high, self.hole, self.own)
        )
        return replace(self, low=low, high=high, hole=hole, own=own)

    def put(self, to: structures.Rule, *, scale: float, causal: bool = False) -> None:
        """Tell C; `causal`: no key after a row's own either."""
        high = self.high
        if causal:
            high = 0 if high is None else min(high, 0)
        to.low = _bounded(self.low, -BEYOND)
        to.high = _bounded(high, BEYOND)
        to.hole, to.own = _bounded(self.hole, BEYOND), _bounded(self.own, BEYOND)
        to.scale, to.softcap = _single(scale), _single(self.softcap or 0.0)


PLAIN = ScoreRule()


@dataclass(frozen=True, slots=True, eq=False)
class DistanceTable:
    """A bias that depends on the distance alone: that of key j to row i is `table[h, zero + j − i]`."""

    table_HP: Tensor
    zero: int


# What is added to scores, float32, or which keys may be attended, bool: [H or 1, T or 1, S]
Mask = Tensor
Bias = Tensor | DistanceTable


@dataclass(frozen=True, slots=True)
class Address:
    """Where numbers of a head's row begin, and the strides from head to head and from row to row."""

    pointer: int = 0
    head_stride: int = 0
    row_stride: int = 0


def address_of(
    given: Bias,
    *,
    heads: int,
    queries: int,
    keys: int,
    kept: list[object],
    device: torch.device = PROCESSOR,
) -> Address:
    """Return where a mask or a bias of a sequence is; what it is copied to, if it is, is put into `kept`.

    Raises ValueError where it does not fit, or is not on the device.
    """
    if isinstance(given, DistanceTable):
        return _of_distances(given, heads=heads, queries=queries, keys=keys, device=device)
    if given.dtype not in (torch.bool, torch.float32) or given.device != device or given.ndim != 3:
        raise ValueError(
            f"a mask is bool or float32 [H, T, S], on {device}, not {given.dtype} {list(given.shape)}"
        )
    shape = tuple(given.shape)
    if shape[0] not in (1, heads) or shape[1] not in (1, queries) or shape[2] != keys:
        raise ValueError(f"a mask is [{heads} or 1, {queries} or 1, {keys}], not {list(shape)}")
    if given.stride(2) != 1:
        given = given.contiguous()
        kept.append(given)
    strides = [stride if size > 1 else 0 for size, stride in zip(shape, given.stride(), strict=True)]
    return Address(given.data_ptr(), strides[0], strides[1])


def _of_distances(
    given: DistanceTable, *, heads: int, queries: int, keys: int, device: torch.device
) -> Address:
    table = given.table_HP
    if table.dtype != torch.float32 or table.device != device or table.ndim != 2 or table.stride(1) != 1:
        raise ValueError(
            f"biases of distances are float32 [H, P], on {device}, not {table.dtype} {list(table.shape)}"
        )
    count, distances = table.shape
    if count not in (1, heads) or not (given.zero >= queries - 1 and given.zero + keys <= distances):
        raise ValueError(
            f"biases of distances are [{heads} or 1, P], at least {queries - 1} before that of distance 0 "
            f"and {keys - 1} after it, not {list(table.shape)} with {given.zero} before it"
        )
    pointer = table.data_ptr() + given.zero * FLOAT_BYTES
    return Address(pointer, table.stride(0) if count > 1 else 0, -1)


def _bounded(distance: int | None, none: int) -> int:
    return none if distance is None else max(-BEYOND, min(BEYOND, distance))


def _single(number: float) -> float:
    """Return a number that float32 can hold: infinite where it cannot, so that nothing comes out finite."""
    return number if abs(number) <= LARGEST else math.copysign(math.inf, number)


def sinks_pointer(sinks_H: Tensor | None, heads: int) -> int:
    """Return where sinks are, 0 for none; raises ValueError where they do not fit."""
    if sinks_H is None:
        return 0
    if sinks_H.dtype != torch.float32 or not sinks_H.is_cpu or sinks_H.shape != (heads,):
        raise ValueError(
            f"sinks are float32 [{heads}], on a processor, not {sinks_H.dtype} {list(sinks_H.shape)}"
        )
    if not sinks_H.is_contiguous():
        raise ValueError("sinks stand one after another")
    return sinks_H.data_ptr()
