"""A model's predictions as its folder has them, or why it has none."""

from dataclasses import dataclass

import torch

from models.encoder.embedding import Table
from models.encoder.stack import Stack
from models.folders.predictions import PredictionPlan, predictions_of
from models.pooling_spec import PredictionCard
from models.predictions.head import Head
from models.predictions.predicting import PREDICTED, Predicting
from models.predictions.table import WordTable

PRODUCTS_A_TOKEN = (
    12  # d_model² multiplications and additions of a block, about: 4 of attention, 8 of the network
)


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a card says of them, or the `reason` why there are none.

    `own`: a table that is not the embedding's; `nbytes` of all that is held for predictions alone.
    """

    card: PredictionCard | None
    reason: str = ""
    nbytes: int = 0
    own: Table | None = None

    @property
    def not_offered(self) -> dict[str, str]:
        """Why outputs are not offered, by name."""
        return {} if self.card is not None else dict.fromkeys(sorted(PREDICTED), self.reason)

    def quantize(self) -> int:
        """Keep a table of its own in int8; return the bytes saved."""
        if self.own is None:
            return 0
        before = self.own.nbytes
        self.own.quantize()
        return before - self.own.nbytes


def give_predictions(
    stack: Stack, plan: PredictionPlan | str, *, dtype: torch.dtype | None, others: torch.dtype | None
) -> Predictions:
    """Let a stack predict words by what is planned, if it can be; return what is told of it."""
    read = predictions_of(plan, stack.spec, dtype=dtype, others=others)
    if isinstance(read, str):
        return Predictions(None, read)
    parameters = {name: tensor.to(stack.device) for name, tensor in read.items()}
    spec = stack.spec
    own = Table(parameters["head.weight"]) if "head.weight" in parameters else None
    table = own or stack.words
    assert table is not None
    head = Head(spec.prediction, parameters, stack.after.final)
    words = WordTable(table, spec.prediction, parameters.get("head.bias"))
    looks_back = spec.attention.causal
    stack.after.predict = Predicting(head, words, of="next" if looks_back else "own")
    return Predictions(
        PredictionCard(
            words=words.words,
            of="next" if looks_back else "own",
            table="embedding" if own is None else "own",
            tokens=words.words * words.width / (PRODUCTS_A_TOKEN * spec.layers * spec.d_model**2),
        ),
        nbytes=sum(tensor.nbytes for tensor in parameters.values()),
        own=own,
    )
