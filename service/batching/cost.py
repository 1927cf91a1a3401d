"""What a sequence, or a request, takes of the device and of memory: counted before anything is computed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from models.edit import Edit
from models.outputs import made_of
from models.protocol import Item, Tokens
from models.shapes import Dims, nbytes
from service.batching.limits import Limits

PREDICTED = made_of("words")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sequence, or a request, takes of the device and of memory; Python integers, so no overflow.

    `tokens`: T, plus S where the keys are rows of their own (`memory`), plus what predicting words is worth,
    which may take as long as the rest. `scores`: H·T·S of one layer, for layers run one after another and
    only one layer's scores are ever held; all heads and rows, for Z is made from all; and what edits work on,
    a range of keys of a row as a score. `result_bytes`: every chosen output of every chosen layer, exactly.
    Edits hold nothing beside: their matrices are read where the request has them, whose bytes are counted.
    """

    tokens: int
    scores: int
    result_bytes: int

    @classmethod
    def of(cls, item: Item) -> Self:
        """Return the cost of one sequence, from shapes alone."""
        dims = item.dims
        crossed = isinstance(item.input, Tokens) and item.input.memory is not None
        return cls(
            (dims.T + dims.S if crossed else max(dims.T, dims.S)) + _predicting(item),
            dims.heads * dims.T * dims.S + sum(_edited(edit, dims) for edit in item.edits),
            nbytes(item.selection, dims),
        )

    @classmethod
    def total(cls, costs: Sequence[Self]) -> Self:
        """Return the cost of several sequences together."""
        if len(costs) == 1:
            return costs[0]
        return cls(
            sum(cost.tokens for cost in costs),
            sum(cost.scores for cost in costs),
            sum(cost.result_bytes for cost in costs),
        )

    def share(self, limits: Limits) -> float:
        """Return the part of a batch this takes: of the budget it takes most of (1 fills a batch).

        The dominant share of Ghodsi et al., "Dominant Resource Fairness", NSDI 2011, section 4.
        """
        return max(
            self.tokens / limits.max_batch_tokens,
            self.scores / limits.max_batch_scores,
            self.result_bytes / limits.max_batch_result_bytes,
        )


def _predicting(item: Item) -> int:
    """Return what predicting words of the chosen rows and layers is worth, in tokens of the model's pass."""
    card, chosen = item.card, item.selection
    if card is None or card.predictions is None or PREDICTED.isdisjoint(chosen.outputs):
        return 0
    rows = item.input.queries if chosen.rows is None else len(chosen.rows)
    return math.ceil(rows * len(chosen.layers) * card.predictions.tokens)


def _edited(edit: Edit, dims: Dims) -> int:
    """Return how many ranges of keys, of each row and head of a layer, an edit has at most."""
    rows = dims.T if edit.queries is None else sum(stop - start for start, stop in edit.queries)
    return min(dims.heads, len(edit.at)) * rows * max(1, len(edit.keys or ()))
