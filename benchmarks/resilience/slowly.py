"""What compiled attention, products and feed-forward networks must give: float64, the slow way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.compiled.extents import Extent
from models.compiled.rules import PLAIN, DistanceTable, ScoreRule
from models.encoder.norm import Norm
from models.spec import NormSpec

CLOSE = 2e-5  # of the largest number that is expected
CLOSE_NORMED = 1e-3  # a norm of two numbers that are almost equal multiplies their roundings
LEAST = (
    0.1  # numbers are made to be about 1: what is much smaller is what terms of about 1 left of each other
)
ACTIVATED: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda t: t,
    "gelu": F.gelu,
    "gelu_tanh": lambda t: F.gelu(t, approximate="tanh"),
    "quick_gelu": lambda t: t * torch.sigmoid(1.702 * t),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "relu2": lambda t: torch.relu(t) ** 2,
}


def difference(found: Tensor, expected: Tensor, *, close: float = CLOSE, least: float = LEAST) -> str | None:
    """Say how far two results are apart, for the largest number expected or `least`; None where close."""
    if found.shape != expected.shape:
        return f"{tuple(found.shape)} in place of {tuple(expected.shape)}"
    if not expected.numel():
        return None
    scale = max(least, expected.abs().max().item())
    far = (found.double() - expected).abs().max().item() / scale
    return None if far < close else f"off by {far:.2e} of {scale:.2e}"  # NaN is not close


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """By what rule heads attend."""

    scale: float
    causal: bool = False
    rule: ScoreRule = PLAIN
    sinks: Tensor | None = None

    def slowly(self, q: Tensor, k: Tensor, v: Tensor, extent: Extent) -> tuple[Tensor, Tensor, Tensor]:
        """Return z [T, H, V], weights [H, T, S] and logsumexp [H, T] of one sequence in float64."""
        keys = extent.rows if extent.keys is None else extent.keys
        group = q.shape[1] // k.shape[1]
        q, k, v = (one[at].double().transpose(0, 1) for one, at in ((q, extent.rows), (k, keys), (v, keys)))
        k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
        scores, rule = self.scale * q @ k.mT, self.rule
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        hidden, added = self._apart(extent, *scores.shape)
        scores = (scores + added).masked_fill(hidden, -torch.inf)
        lse = scores.logsumexp(-1)
        if self.sinks is not None:
            with_sink = torch.logaddexp(lse, self.sinks.double()[:, None])
            lse = torch.where(lse == -torch.inf, lse, with_sink)
        weights = torch.where(hidden, 0.0, (scores - lse[..., None]).exp()).nan_to_num(0.0)
        z = weights @ v
        if rule.own is not None:
            for row in range(z.shape[1]):
                if 0 <= row + rule.own < v.shape[1]:
                    z[:, row] += v[:, row + rule.own]
        return z.transpose(0, 1), weights, lse

    def _apart(self, extent: Extent, heads: int, rows: int, keys: int) -> tuple[Tensor, Tensor]:
        """Return which pairs may not attend, and what is added to the scores of the others."""
        distance = torch.arange(keys) - torch.arange(rows)[:, None]
        rule, hidden = self.rule, torch.zeros(heads, rows, keys, dtype=torch.bool)
        added = torch.zeros(heads, rows, keys).double()
        if rule.low is not None:
            hidden |= distance < rule.low
        if rule.high is not None:
            hidden |= distance > rule.high
        if self.causal:
            hidden |= distance > 0
        if rule.hole is not None:
            hidden |= distance == rule.hole
        if extent.mask is not None and extent.mask.dtype == torch.bool:
            hidden |= ~extent.mask
        elif extent.mask is not None:
            hidden |= extent.mask == -torch.inf
            added += extent.mask.nan_to_num(neginf=0.0)
        if isinstance(extent.bias, DistanceTable):
            added += extent.bias.table_HP[:, extent.bias.zero + distance]
        elif extent.bias is not None:
            added += extent.bias
        return hidden, added


def norms(kind: Literal["layer", "rms"], weight: Tensor, bias: Tensor) -> tuple[Norm, Norm]:
    """Return a norm in float32, and the same in float64."""
    spec = NormSpec(kind=kind, eps=1e-5)
    single = {"n.weight": weight, "n.bias": bias}
    doubled = {name: one.double() for name, one in single.items()}
    return Norm(single, "n", spec), Norm(doubled, "n", spec)
