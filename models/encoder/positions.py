"""Where a token stands: tables added to embeddings, rotations of q and k, biases on the scores.

Sources: sinusoidal, "Attention Is All You Need", section 3.5; rotary, Su et al. 2021, equation 34;
ALiBi, Press et al. 2022, section 3; relative buckets, Raffel et al. 2020 (T5), section 2.1; vectors of
distances, Shaw et al. 2018, equation 4, and Huang et al. 2020, method 4 (of query and key).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.encoder.rates import rotary_rates
from models.mechanism import PositionSpec, RotarySpec


def sinusoidal(positions: int, width: int) -> Tensor:
    """Return PE[p, 2i] = sin(p/10000^(2i/d)), PE[p, 2i+1] = cos(…), float32 [positions, width]."""
    place = torch.arange(positions, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    table = torch.empty(positions, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)
    return table.float()


class Rotary:
    """Turns the first numbers of each head's q and k by angles that grow with the position.

    `by_length`: whether the angles depend on the sequence's length too; else there is one table of them.
    """

    def __init__(self, spec: RotarySpec, turned: int, device: torch.device, *, interleaved: bool) -> None:
        self._spec = spec
        self._turned = turned
        self._interleaved = interleaved
        self._rate = rotary_rates(spec, turned).to(device)
        self._magnitude = 1.0 if spec.scaling is None else spec.scaling.magnitude
        self.by_length = spec.scaling is not None and spec.scaling.by_length

    def rates(self, longest: int) -> Tensor:
        """Return the angle from one position to the next, float32 [turned/2], in a sequence so long."""
        if not self.by_length:
            return self._rate
        return rotary_rates(self._spec, self._turned, longest=longest).to(self._rate.device)

    def angles(
        self, position_N: Tensor, lengths: Sequence[int] = (), longest: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return cos and sin [N, 1, turned] in float32 for rows at positions `position_N`, int64 [N].

        Rows are of parts of so many `lengths`, and each part of a sequence of `longest` positions: read where
        angles are `by_length`.
        """
        rate = self._rate
        if self.by_length:
            rates = [self.rates(one).expand(length, -1) for length, one in zip(lengths, longest, strict=True)]
            rate = torch.cat(rates)
        angle = position_N.to(torch.float32)[:, None] * rate
        both = angle.repeat_interleave(2, dim=-1) if self._interleaved else torch.cat((angle, angle), dim=-1)
        return both.cos()[:, None] * self._magnitude, both.sin()[:, None] * self._magnitude

    def rotate(self, x_NHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return q or k [N, H, d_k] turned by `angles`, in its own dtype."""
        turned, kept = x_NHD[..., : self._turned], x_NHD[..., self._turned :]
        if self._interleaved:
            rotated = torch.stack((-turned[..., 1::2], turned[..., 0::2]), dim=-1).flatten(-2)
        else:
            half = self._turned // 2
            rotated = torch.cat((-turned[..., half:], turned[..., :half]), dim=-1)
        result = turned * cos.to(x_NHD.dtype) + rotated * sin.to(x_NHD.dtype)
        return torch.cat((result, kept), dim=-1) if kept.shape[-1] else result


@dataclass(frozen=True, slots=True)
class AlibiBias:
    """score(i, j) −= slope_h·|i − j|, with the slopes of the paper for `heads` heads."""

    slopes_H: Tensor
    keys: int

    @staticmethod
    def slopes(heads: int, device: torch.device) -> Tensor:
        """Return the geometric slopes, float32 [H]; for H not a power of two, as the reference code does."""
        power = 2 ** math.floor(math.log2(heads))
        ratios = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        ratios += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
        return torch.tensor(ratios, dtype=torch.float32, device=device)

    def __call__(self, rows: slice, heads: Tensor | list[int] | None) -> Tensor:
        """Return the bias of some rows and heads, float32 [H', R, S]."""
        slopes = self.slopes_H if heads is None else self.slopes_H[heads]
        return -slopes[:, None, None] * _distances(rows, self.keys, slopes.device).abs()


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """score(i, j) += table[bucket(j − i), h]: T5's and MPNet's learned bias, one lookup a distance."""

    by_distance_HD: Tensor  # bias of distance j − i at column j − i + T − 1
    queries: int
    keys: int

    @classmethod
    def from_table(cls, table_BH: Tensor, spec: PositionSpec, *, queries: int, keys: int) -> "RelativeBias":
        """Spread a table [buckets, H] over every distance of a T×S problem."""
        distance = torch.arange(-(queries - 1), keys, device=table_BH.device)
        return cls(table_BH[_bucket(distance, spec)].T.float().contiguous(), queries, keys)

    def __call__(self, rows: slice, heads: Tensor | list[int] | None) -> Tensor:
        """Return the bias of some rows and heads, float32 [H', R, S]."""
        table = self.by_distance_HD if heads is None else self.by_distance_HD[heads]
        return table[:, self.queries - 1 - _distances(rows, self.keys, table.device)]


@dataclass(frozen=True, slots=True, eq=False)
class DistanceBias:
    """score(i, j) += scale · q_i · a[i − j], and scale · k_j · a[i − j] too where `of_keys`.

    `table_PD` [2·max − 1, d_k] holds a vector for every distance from 1 − max to max − 1; what is further
    away has that of the furthest (Shaw et al. clip distances so).
    """

    table_PD: Tensor
    q_HTD: Tensor
    k_GSD: Tensor
    scale: float
    of_keys: bool

    def __call__(self, rows: slice, heads: Tensor | list[int] | None) -> Tensor:
        """Return the bias of some rows and heads, float32 [H', R, S]."""
        furthest = self.table_PD.shape[0] // 2
        distance_RS = _distances(rows, self.k_GSD.shape[1], self.table_PD.device)
        at_RS = distance_RS.clamp(-furthest, furthest) + furthest
        first, last = int(at_RS.min()), int(at_RS.max())
        table_DP = self.table_PD[first : last + 1].float().T
        at_RS = at_RS - first
        chosen = list(range(self.q_HTD.shape[0])) if heads is None else heads
        q_HRD = self.q_HTD[:, rows][chosen].float()
        bias = (q_HRD @ table_DP).gather(2, at_RS.expand(q_HRD.shape[0], -1, -1))
        if self.of_keys:
            group = self.q_HTD.shape[0] // self.k_GSD.shape[0]
            k_GSP = self.k_GSD.float() @ table_DP
            by_key_GRS = k_GSP.gather(2, at_RS.T.expand(k_GSP.shape[0], -1, -1)).mT
            bias = bias + by_key_GRS.repeat_interleave(group, dim=0)[chosen]
        return bias * self.scale


def _distances(rows: slice, keys: int, device: torch.device) -> Tensor:
    """Return i − j of some rows and all keys, int64 [R, S]."""
    row = torch.arange(rows.start, rows.stop, device=device)
    return row[:, None] - torch.arange(keys, device=device)


def _bucket(distance: Tensor, spec: PositionSpec) -> Tensor:
    """Return the bucket of each signed distance j − i: exact when near, logarithmic when far."""
    buckets = spec.buckets
    first = torch.zeros_like(distance)
    if spec.bidirectional:
        buckets //= 2
        first = (distance > 0).long() * buckets
        far = distance.abs()
    else:
        far = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(far.clamp(min=1).float() / exact) / math.log(spec.max_distance / exact)
    logarithmic = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(far < exact, far, logarithmic)
