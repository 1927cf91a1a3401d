"""Heads, named one by one: (layer, head) pairs, each with a weight where they are mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["HeadSet", "Heads", "heads_as_json"]


@dataclass(frozen=True, slots=True)
class HeadSet:
    """Pairs (layer, head), each once; negative layers count from the end.

    Pairs bring their layers: what has heads then has one axis for them, in this order. `weights`, as many,
    are what the output `mixed` multiplies each head's attention by; 1 each where there are none.
    """

    pairs: Sequence[tuple[int, int]]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("a HeadSet needs at least one (layer, head) pair")
        if any(len(pair) != 2 for pair in self.pairs):
            raise ValueError("the pairs of a HeadSet are (layer, head), two numbers each")
        if self.weights is not None and len(self.weights) != len(self.pairs):
            raise ValueError(
                f"a HeadSet needs a weight a pair; it has {len(self.weights)} for {len(self.pairs)}"
            )

    def as_json(self) -> Any:
        """Return it as the server reads it."""
        pairs = [[int(layer), int(head)] for layer, head in self.pairs]
        if self.weights is None:
            return pairs
        return {"pairs": pairs, "weights": [float(weight) for weight in self.weights]}


Heads: TypeAlias = Sequence[int] | Sequence[tuple[int, int]] | HeadSet | str


def heads_as_json(heads: Heads) -> Any:
    """Return heads as the server reads them: numbers, pairs, a HeadSet, or the name of the model's set."""
    if isinstance(heads, HeadSet):
        return heads.as_json()
    if isinstance(heads, str):
        return heads
    return [int(one) if not isinstance(one, Sequence) else [int(one[0]), int(one[1])] for one in heads]
