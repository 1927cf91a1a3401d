"""What decides how `heed train` learns: the model to make, the text's cutting, the optimizer's numbers."""

import math
from dataclasses import dataclass, fields
from typing import Literal

from models.errors import SpecError
from models.mechanism import positive, within
from models.spec import (
    AttentionSpec,
    EmbeddingSpec,
    FeedForwardSpec,
    ModelSpec,
    NormSpec,
    PoolingSpec,
    PositionSpec,
)

__all__ = ["Plan"]

WARM_UP_STEPS = 100
SMALLEST = {"vocabulary": 2, "seed": 0}  # of the others, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that decides what is learned from a text.

    `bare` layers are attention alone, z = W_O·concat(heads); `transformer` layers add residuals, norms
    before each sublayer and a feed-forward network of 4·d_model.
    """

    steps: int = 1000
    layers: int = 1
    heads: int = 4
    d_model: int = 64
    context: int = 64  # tokens a piece of text has at most
    block: Literal["bare", "transformer"] = "bare"
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    vocabulary: int = 8192  # words that have an id, the unknown one included
    batch: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    seed: int = 0
    evaluate_every: int = 100

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int):
                within(one.name, value, SMALLEST.get(one.name, 1))
        positive("learning_rate", self.learning_rate)
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise SpecError(f"weight_decay is {self.weight_decay}; give 0 or a positive finite number")

    def spec(self, vocabulary: int) -> ModelSpec:
        """Return what the learned model declares of itself."""
        bare = self.block == "bare"
        return ModelSpec(
            d_model=self.d_model,
            heads=self.heads,
            layers=self.layers,
            attention=AttentionSpec(causal=True),
            positions=PositionSpec(
                kind=self.positions, max_positions=self.context if self.positions == "learned" else None
            ),
            norm=NormSpec() if bare else NormSpec(kind="layer", placement="pre", final=True),
            residual=not bare,
            feed_forward=None if bare else FeedForwardSpec(d_ff=4 * self.d_model),
            embedding=EmbeddingSpec(vocabulary=vocabulary),
            pooling=PoolingSpec(modes=("mean",)),
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: a linear warm-up, then half a cosine down to zero."""
        warm = min(1.0, (step + 1) / max(1, min(WARM_UP_STEPS, self.steps // 10)))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
