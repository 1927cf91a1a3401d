"""Linear, activation, linear: what a projection can be, and the feed-forward network of a block."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.linear import Linear, keep_int8
from models.encoder.rowwise.launch import gated
from models.encoder.rowwise.trial import gates_on
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

OF_SEVERAL = {"quick_gelu", "relu2"}  # which are several of torch's operators


def check_activation(name: str) -> str:
    """Return the name of an activation; raise SpecError naming the known ones."""
    if name not in ACTIVATIONS:
        raise SpecError(f"unknown activation {name[:40]!r}; known: {', '.join(ACTIVATIONS)}")
    return name


class MLP:
    """W_2·act(W_1·x), or gated: W_2·(act(W_g·x) ⊙ W_1·x).

    On a GPU the gate and what it gates are one product, and what is made of the two is one launch.
    """

    def __init__(self, parameters: Mapping[str, Tensor], name: str, activation: str) -> None:
        self.activation = check_activation(activation)
        has_gate = f"{name}.gate.weight" in parameters
        weight = parameters[f"{name}.up.weight"]
        self._one_launch = (has_gate or activation in OF_SEVERAL) and gates_on(
            weight.device, weight.dtype, activation, ACTIVATIONS[activation]
        )
        self.up: Linear | None = None
        self.gate: Linear | None = None
        self._both: Linear | None = None  # the gate, then what it gates
        if has_gate and self._one_launch:
            self._both = stacked(parameters, (f"{name}.gate", f"{name}.up"))
        else:
            self.up = linear(parameters, f"{name}.up")
            self.gate = linear(parameters, f"{name}.gate") if has_gate else None
        self.down = linear(parameters, f"{name}.down")

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the network makes of every row of x."""
        return self.down(self._hidden(x))

    def add_to(self, y: Tensor, x: Tensor) -> Tensor:
        """Return y, W_2·… of every row of x added to it, where `down.adds`; its bias is already in y."""
        return self.down.add_to(y, self._hidden(x))

    def quantize(self) -> None:
        """Keep W_1 and its gate in int8, W_2 in bfloat16: what it reads has few large numbers among small."""
        reading = [one for one in (self.up, self.gate) if one is not None]
        keep_int8(reading)
        self.down.keep_as("bfloat16")

    @property
    def linears(self) -> list[Linear]:
        """The linear layers it has."""
        return [one for one in (self.up, self.gate, self._both, self.down) if one is not None]

    def _hidden(self, x: Tensor) -> Tensor:
        """Return the rows that W_2 reads."""
        act = ACTIVATIONS[self.activation]
        if self._both is not None:
            gate, up = self._both(x).chunk(2, dim=-1)
            return gated(gate, up, self.activation)
        assert self.up is not None
        if self.gate is not None:
            return act(self.gate(x)).mul_(self.up(x))
        return gated(self.up(x), None, self.activation) if self._one_launch else act(self.up(x))


def linear(parameters: Mapping[str, Tensor], name: str) -> Linear:
    """Return the linear layer of a name, with or without a bias."""
    return Linear(parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))


def stacked(parameters: Mapping[str, Tensor], names: Sequence[str]) -> Linear:
    """Return linear layers of the same rows as one, whose outputs lie side by side."""
    biases = [parameters.get(f"{name}.bias") for name in names]
    present = [bias for bias in biases if bias is not None]
    weight = torch.cat([parameters[f"{name}.weight"] for name in names])
    return Linear(weight, torch.cat(present) if present else None)
