"""What compiled products read: weights in panels, one by one or as a feed-forward network."""

from dataclasses import dataclass

from torch import Tensor

from models.compiled.structures import Linear

__all__ = ["Feed", "Panels"]


@dataclass(frozen=True, slots=True)
class Panels:
    """A linear layer laid out for the compiled product, `out` outputs of `inner` inputs.

    `weight` [panels, inner, columns] is Wᵀ in panels, `bias` [panels·columns] or None, both filled up with 0.
    `linear` is what C is told of it.
    """

    weight: Tensor
    bias: Tensor | None
    inner: int
    out: int
    columns: int
    linear: Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A feed-forward network: W_2·act(W_1·x), or gated: W_2·(act(W_g·x) ⊙ W_1·x).

    Raises ValueError where its layers do not fit each other: nothing in C would notice.
    """

    up: Panels
    gate: Panels | None
    down: Panels
    activation: str

    def __post_init__(self) -> None:
        fits = self.down.inner == self.up.out and self.down.out == self.up.inner
        if not fits or (self.gate and (self.gate.inner, self.gate.out) != (self.up.inner, self.up.out)):
            layers = {"up": self.up, "gate": self.gate, "down": self.down}
            shapes = ", ".join(f"{name} {one.inner} → {one.out}" for name, one in layers.items() if one)
            raise ValueError(f"the layers of a feed-forward network do not fit each other: {shapes}")
