"""What is served under which name: one lookup for every runtime, with one answer to a wrong name.

And what a card says of a text's tokens: a tokenizer file is not trusted to know the model's tables.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from models.errors import TextError, UnknownModel
from models.protocol import ModelCard, Text


def by_name(cards: Mapping[str, ModelCard]) -> list[ModelCard]:
    """Return what is loaded, sorted by name."""
    return [card for _, card in sorted(cards.items())]


def find(cards: Mapping[str, ModelCard], name: str, version: str | None) -> ModelCard:
    """Return one loaded model, of this version if one is given; raise UnknownModel."""
    card = cards.get(name)
    if card is None:
        known = ", ".join(sorted(cards)) or "none"
        raise UnknownModel(f"no model is called {name[:64]!r}; loaded: {known}")
    if version not in (None, card.version):
        raise UnknownModel(f"model {name} has no version {version!r:.64} loaded; loaded: {card.version}")
    return card


def within_types(text: Text, card: ModelCard) -> Text:
    """Return a text whose type ids all have a row in the model's table; raise TextError.

    A model with one row, or no table, does not tell types apart: whatever the tokenizer says, they are 0.
    """
    if not text.type_ids.any():
        return text
    if card.types <= 1:
        return replace(text, type_ids=np.zeros_like(text.type_ids))
    low, high = int(text.type_ids.min()), int(text.type_ids.max())
    if low < 0 or high >= card.types:
        raise TextError(
            f"the tokenizer gives a token type {low if low < 0 else high}; model {card.name} has types from "
            f"0 to {card.types - 1}: mend the post-processor of its tokenizer.json"
        )
    return text
