"""What compiled attention, products and feed-forward networks must give: float64, the slow way."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

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


def slowly(q: Tensor, k: Tensor, v: Tensor, *, scale: float, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return z [T, H, D], weights [H, T, T] and logsumexp [H, T] of one sequence in float64."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (one.double().transpose(0, 1) for one in (q, k, v))
    scores = scale * q @ k.repeat_interleave(group, 0).mT
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    weights = scores.softmax(-1)
    return (weights @ v.repeat_interleave(group, 0)).transpose(0, 1), weights, scores.logsumexp(-1)


def norms(kind: Literal["layer", "rms"], weight: Tensor, bias: Tensor) -> tuple[Norm, Norm]:
    """Return a norm in float32, and the same in float64."""
    spec = NormSpec(kind=kind, eps=1e-5)
    single = {"n.weight": weight, "n.bias": bias}
    doubled = {name: one.double() for name, one in single.items()}
    return Norm(single, "n", spec), Norm(doubled, "n", spec)
