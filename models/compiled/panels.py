"""What compiled products read: weights in panels, one by one or as a feed-forward network."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Feed", "Panels"]


@dataclass(frozen=True, slots=True)
class Panels:
    """A linear layer laid out for the compiled product, `out` outputs of `inner` inputs.

    `weight` [panels, inner, columns] is Wᵀ in panels, `bias` [panels·columns] or None, both filled up with 0.
    `pointers` are what C is told of it.
    """

    weight: Tensor
    bias: Tensor | None
    out: int
    pointers: tuple[int, int, int, int]

    @property
    def inner(self) -> int:
        """How many inputs."""
        return int(self.weight.shape[1])

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, out: int) -> "Panels":
        """Return the panels and where they stand."""
        of_bias = 0 if bias is None else bias.data_ptr()
        return cls(weight, bias, out, (weight.data_ptr(), of_bias, weight.shape[1], out))


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A feed-forward network: W_2·act(W_1·x), or gated: W_2·(act(W_g·x) ⊙ W_1·x)."""

    up: Panels
    gate: Panels | None
    down: Panels
    activation: str
