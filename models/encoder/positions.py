"""Where a token stands: tables added to embeddings, biases on the scores.

Sources: sinusoidal, "Attention Is All You Need", section 3.5; ALiBi, Press et al. 2022, section 3;
relative buckets, Raffel et al. 2020 (T5), section 2.1; vectors of distances, Shaw et al. 2018, equation 4,
and Huang et al. 2020, method 4 (of query and key).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.compiled.rules import DistanceTable
from models.device.staging import settle
from models.mechanism import PositionSpec


def position_ids(lengths: Iterable[int]) -> NDArray[np.int64]:
    """Return the position of every packed row in its own sequence, int64 [N]."""
    return np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])


def sinusoidal(positions: int, width: int) -> Tensor:
    """Return PE[p, 2i] = sin(p/10000^(2i/d)), PE[p, 2i+1] = cos(…), float32 [positions, width]."""
    place = torch.arange(positions, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    table = torch.empty(positions, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)
    return table.float()


class DistanceBiases:
    """What is added to a score by the distance of key from query alone, [H, P]: for sequences of any length.

    `make` gives the biases of distances int64 [P], float32 [H, P]; they are kept for as far as any sequence
    has needed them yet. Threads that make them at once make the same.
    """

    def __init__(self, make: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._make = make
        self._device = device
        self._table: DistanceTable | None = None

    def table(self, *, queries: int, keys: int) -> DistanceTable:
        """Return the biases for so many queries and keys, or more of either."""
        table, far = self._table, max(queries, keys)
        if table is None or table.zero < far:
            far = 1 << (far - 1).bit_length()
            distance = torch.arange(-far, far + 1, device=self._device)
            table = DistanceTable(self._make(distance).float().contiguous(), far)
            settle(self._device)
            self._table = table
        return table


def alibi(heads: int, device: torch.device) -> DistanceBiases:
    """Return ALiBi's biases: score(i, j) −= slope_h·|i − j|, with the slopes of the paper."""
    slopes_H1 = alibi_slopes(heads, device)[:, None]
    return DistanceBiases(lambda distance_P: -slopes_H1 * distance_P.abs(), device)


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """Return the geometric slopes, float32 [H]; for H not a power of two, as the reference code does."""
    power = 2 ** math.floor(math.log2(heads))
    ratios = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    ratios += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
    return torch.tensor(ratios, dtype=torch.float32, device=device)


def relative(table_BH: Tensor, spec: PositionSpec) -> DistanceBiases:
    """Return T5's and MPNet's learned biases: score(i, j) += table[bucket(j − i), h], table [buckets, H]."""
    return DistanceBiases(lambda distance_P: table_BH[_bucket(distance_P, spec)].T, table_BH.device)


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
