"""Words that a request asks about, and those that a reply names: `targets` and `next_tokens`.

A target is a token id, or a string of exactly one token: what the tokenizer makes of it as a text, or a token
as `tokens` spells it.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from models.errors import TextError, TooLong
from models.outputs import Selection
from models.protocol import Answer, ModelCard, Models, Tokens
from service.errors import Invalid
from service.http.fields.addresses import LARGEST
from service.wire.effort import spend
from service.wire.names import quoted

MOST_TARGETS, LONGEST_TARGET = 4096, 256
TARGET_US, READ_US, WORD_US = 0.3, 30.0, 0.4  # what one takes to be checked, to be tokenized, to be spelt
MOST_SHOWN = 8  # tokens of a target in one message

Word = Annotated[str, Field(min_length=1, max_length=LONGEST_TARGET)]
Target = Annotated[int, Field(ge=0, le=LARGEST)] | Word
Targets = Annotated[list[Target], Field(min_length=1, max_length=MOST_TARGETS, fail_fast=True)]


def words_of(asked: Targets | None, card: ModelCard, runtime: Models, *, path: str) -> tuple[int, ...] | None:
    """Return targets as token ids, in the order asked; None where there are none.

    Raises Invalid for an id that is no word of the model, a string of more or fewer tokens than one, and any
    string where the model takes no text.
    """
    if asked is None:
        return None
    assert card.predictions is not None
    texts = sum(isinstance(one, str) for one in asked)
    spend(TARGET_US * len(asked) + READ_US * texts)
    if texts and "text" not in card.inputs:
        why = card.not_offered.get("text", "it has no tokenizer")
        raise Invalid(f"{path} has a string, and model {card.name} takes no text: {why}; give token ids")
    found = []
    for index, one in enumerate(asked):
        word = one if isinstance(one, int) else _token_of(one, card, runtime, path=f"{path}[{index}]")
        if word >= card.predictions.words:
            raise Invalid(
                f"{path}[{index}] is {word}; model {card.name} predicts words from 0 to "
                f"{card.predictions.words - 1}"
            )
        found.append(word)
    return tuple(found)


def with_targets(
    selection: Selection,
    targets: tuple[int, ...] | None,
    own: Targets | None,
    given: Tokens,
    card: ModelCard,
    runtime: Models,
    *,
    path: str,
) -> Selection:
    """Return the selection with the words whose log-probabilities are asked for of one input.

    They are its `own`, or else the request's `targets`. Raises Invalid.
    """
    if own is not None:
        if "logprobs" not in selection:
            raise Invalid(f"{path} has targets, and logprobs is not among outputs; ask for it or leave them")
        targets = words_of(own, card, runtime, path=f"{path}.targets")
    if targets is not None:
        return replace(selection, targets=targets)
    if given.ids is None:
        raise Invalid(
            f"logprobs is of tokens, and which ones {path} has is not known of embeddings; give targets"
        )
    return selection


def spelled(answers: Sequence[Answer], card: ModelCard | None, runtime: Models) -> list[Any]:
    """Return `next_ids` of every answer as strings, of the same shape; empty where none are to be spelt."""
    if card is None or "text" not in card.inputs:
        return []
    if not any("next_ids" in answer.tensors for answer in answers):
        return []
    return [_spelled(answer.tensors.get("next_ids"), partial(runtime.spelled, card)) for answer in answers]


def _spelled(ids: Any, spell: Any) -> Any:
    if ids is None:
        return None
    spend(WORD_US * ids.size)
    words = np.empty(ids.size, dtype=object)
    words[:] = spell(ids.reshape(-1).tolist())
    return words.reshape(ids.shape).tolist()


def _token_of(text: str, card: ModelCard, runtime: Models, *, path: str) -> int:
    """Return the one token of a text, or the one that is spelt so."""
    try:
        read = runtime.tokenize(card, text, most=LONGEST_TARGET)
        ids = [int(word) for word, special in zip(read.ids, read.special, strict=True) if not special]
    except (TextError, TooLong) as problem:
        ids, said = [], f": {problem}"
    else:
        said = ""
    if len(ids) == 1:
        return ids[0]
    known = runtime.token_id(card, text)
    if known is not None:
        return known
    if ids:
        named = ", ".join(quoted(token or "") for token in runtime.spelled(card, ids[:MOST_SHOWN]))
        said = f": {named}{' …' if len(ids) > MOST_SHOWN else ''}"
    raise Invalid(
        f"{path} {quoted(text)} is {len(ids)} tokens of model {card.name}, not one{said}; a row predicts one "
        "token: add up logprobs of the tokens that follow each other in a text"
    )
