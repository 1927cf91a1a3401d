"""What a reply says before it is bytes: every format of `service/wire` encodes this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.protocol import Answer, Text

Span = tuple[int, int]
FoundSpans = Sequence[Span] | Mapping[str, Span]  # as they were asked for: a list, or by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One Answer an input, in the order asked; `texts` says which inputs were text, None for the others.

    `spans` are those that the server found in the texts, an entry an input, or empty where it found none;
    `next_tokens` are `next_ids` spelt, lists of strings, or empty.
    `model` is None for the caller's own Q, K, V. `tokens` counts the query positions of all inputs.
    """

    answers: Sequence[Answer]
    texts: Sequence[Text | None]
    tokens: int
    spans: Sequence[FoundSpans | None] = ()
    next_tokens: Sequence[Any] = ()
    model: str | None = None
    version: str | None = None
