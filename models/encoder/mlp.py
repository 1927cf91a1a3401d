"""Linear, activation, linear: what a projection can be, and the feed-forward network of a block."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.linear import Linear, keep_int8
from models.errors import SpecError


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu2": _relu_squared,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


def check_activation(name: str) -> str:
    """Return the name of an activation; raise SpecError naming the known ones."""
    if name not in ACTIVATIONS:
        raise SpecError(f"unknown activation {name[:40]!r}; known: {', '.join(ACTIVATIONS)}")
    return name


class MLP:
    """W_2·act(W_1·x), or gated: W_2·(act(W_g·x) ⊙ W_1·x)."""

    def __init__(self, parameters: Mapping[str, Tensor], name: str, activation: str) -> None:
        self.activation = check_activation(activation)
        self.up = linear(parameters, f"{name}.up")
        self.down = linear(parameters, f"{name}.down")
        self.gate = linear(parameters, f"{name}.gate") if f"{name}.gate.weight" in parameters else None

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network makes of every row of x."""
        act = ACTIVATIONS[self.activation]
        if self.gate is None:
            return self.down(act(self.up(x)))
        return self.down(act(self.gate(x)).mul_(self.up(x)))

    def quantize(self) -> None:
        """Keep W_1 and its gate in int8, W_2 in bfloat16: what it reads has few large numbers among small."""
        reading = [one for one in (self.up, self.gate) if one is not None]
        keep_int8(reading)
        self.down.keep_as("bfloat16")

    @property
    def linears(self) -> list[Linear]:
        """The linear layers it has."""
        return [one for one in (self.up, self.gate, self.down) if one is not None]


def linear(parameters: Mapping[str, Tensor], name: str) -> Linear:
    """Return the linear layer of a name, with or without a bias."""
    return Linear(parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))
