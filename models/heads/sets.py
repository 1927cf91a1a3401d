"""A head set, resolved against its model: plain data that is part of a model's card and crosses processes."""

from dataclasses import dataclass

from models.outputs import Mix

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSet:
    """Heads of one or several layers; (layer, head) from 0, each once, in the order of whoever found them.

    `weights`: as many numbers, of which `mixed` is made; None: 1 each. `source`: who found them, and where.
    The rest is of maps of contacts, and means what it does in `Mix`.
    """

    pairs: Pairs
    weights: tuple[float, ...] | None = None
    source: str = ""
    symmetric: bool = False
    apc: bool = False
    skip: tuple[int, int] = (0, 0)
    bias: float = 0.0
    sigmoid: bool = False

    @property
    def layers(self) -> int:
        """How many layers of the model run for its heads: up to that of the last pair."""
        return 1 + max(layer for layer, _ in self.pairs)

    @property
    def whole(self) -> bool:
        """Whether its mixture is of whole maps, so that no rows or columns of it may be chosen."""
        return self.mix().whole

    def mix(self) -> Mix:
        """Return what `mixed` is of it, of all rows and columns.

        Heads of weight 0 are left out, and their layers need not run.
        """
        weights = self.weights or (1.0,) * len(self.pairs)
        kept = [place for place, weight in enumerate(weights) if weight] or [0]
        return Mix(
            pairs=tuple(self.pairs[place] for place in kept),
            weights=tuple(weights[place] for place in kept),
            symmetric=self.symmetric,
            apc=self.apc,
            skip=self.skip,
            bias=self.bias,
            sigmoid=self.sigmoid,
        )
