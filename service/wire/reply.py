"""What a reply says before it is bytes: every format of `service/wire` encodes this."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.protocol import Answer, Text
from service.wire.effort import spend

WRITTEN_US, TOKEN_US = 3.0, 0.4  # what an output, and a token of a text, takes, in microseconds

Span = tuple[int, int]
FoundSpans = Sequence[Span] | Mapping[str, Span]  # as they were asked for: a list, or by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One Answer an input, in the order asked; `texts` says which inputs were text, None for the others.

    `spans` are those that the server found in the texts, an entry an input, or empty where it found none.
    `next_tokens`: `next_ids` spelt, lists of strings, an entry an input, or empty. `edited`: which inputs had
    edits, an entry an input, or empty where none had. `model` is None for the caller's own Q, K, V. `tokens`
    counts the query positions of all inputs.
    """

    answers: Sequence[Answer]
    texts: Sequence[Text | None]
    tokens: int
    spans: Sequence[FoundSpans | None] = ()
    next_tokens: Sequence[Any] = ()
    edited: Sequence[bool] = ()
    model: str | None = None
    version: str | None = None


def in_json(reply: Reply) -> dict[str, Any]:
    """Return a reply as its JSON has it, arrays left in it."""
    spend(WRITTEN_US * sum(len(answer.tensors) + 1 for answer in reply.answers))
    spend(TOKEN_US * sum(len(text.tokens) for text in reply.texts if text is not None))
    outputs: list[dict[str, Any]] = []
    for answer, text in zip(reply.answers, reply.texts, strict=True):
        output: dict[str, Any] = dict(answer.tensors)
        if text is not None:
            if text.tokens:
                output |= {"tokens": text.tokens, "offsets": text.offsets, "special": text.special}
            if text.truncated:
                output["truncated"] = text.truncated
        outputs.append(output)
    for output, spans in zip(outputs, reply.spans, strict=False):
        if spans is not None:
            output["spans"] = spans
    for output, words in zip(outputs, reply.next_tokens, strict=False):
        if words is not None:
            output["next_tokens"] = words
    for output, edited in zip(outputs, reply.edited, strict=False):
        if edited:
            output["edited"] = True
    body: dict[str, Any] = {} if reply.model is None else {"model": reply.model, "version": reply.version}
    body["outputs"] = outputs
    body["usage"] = {"sequences": len(outputs), "tokens": reply.tokens}
    return body
