"""`/tokenize` and `/decode` of text-embeddings-inference, which compute nothing.

Offsets are of bytes in UTF-8, as there (core/src/tokenization.rs, `into_tokens`); ours are of characters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Request

from models.errors import TextError
from models.protocol import ModelCard, Text
from service.errors import Empty, Invalid, Unable, Unreadable
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.fields.arrays import token_ids_of
from service.http.prompts import prompt_of
from service.http.read_ahead import require_few_together
from service.http.tei.codec import tei_model
from service.http.tei.inputs import EMPTY, require_few
from service.http.tei.schemas import DecodeRequest, TeiTokenizeRequest
from service.http.texts.inputs import ID_US, ids_of, is_ids
from service.http.tokens.routes import TextWork, object_of, texts_of
from service.wire.dtypes import Buffer, Reserve
from service.wire.effort import spend

DECODED_ID_MS = 0.002
CHARACTER_BYTES = 4  # of a text, at the most
ENCODE_CHARACTER_MS = 1e-5


class TokenizeWork(TextWork):
    """One request to `/tokenize`."""

    def read(self, body: Buffer, reserve: Reserve) -> list[float]:
        """Return what each text takes."""
        asked = read_envelope(TeiTokenizeRequest, _known(body, reserve, TeiTokenizeRequest, self.context))
        card = tei_model(self.context)
        if isinstance(asked.inputs, list):
            require_few(len(asked.inputs))
        if asked.inputs == []:
            raise Empty(EMPTY)
        texts = texts_of(asked.inputs, "inputs")
        for index, text in enumerate(texts):
            if not text:
                raise Empty(f"{EMPTY}; inputs[{index}] is")
        prompt = prompt_of(asked.prompt_name, card)
        prompted = [prompt + text for text in texts]
        return self.begin(card, prompted, special=asked.add_special_tokens, field="inputs")

    def encode(self, made: Sequence[Text]) -> Buffer:
        """Return the reply: of each text its tokens, each with the piece of the text that it is."""
        return orjson.dumps([_tokens(text, read) for text, read in zip(self.texts, made, strict=True)])


class DecodeWork:
    """One request to `/decode`."""

    model = ""

    def __init__(self, request: Request, context: Context) -> None:
        self._of = TextWork(request, context)
        self.context = context
        self._characters = 0

    def read(self, body: Buffer, reserve: Reserve) -> list[float]:
        """Return what each list of ids takes."""
        asked = read_envelope(DecodeRequest, _known(body, reserve, DecodeRequest, self.context))
        self._card = card = _able(tei_model(self.context))
        self.model, self._skip = card.name, asked.skip_special_tokens
        self._lists = _id_lists(asked.ids, vocabulary=card.vocabulary)
        self._characters = 0
        count = sum(map(len, self._lists))
        require_few_together(count, len(self._lists), self.context.limits.max_queued_tokens)
        return [DECODED_ID_MS * (1 + len(ids)) for ids in self._lists]

    def make(self, at: int) -> str:
        """Return the text of one list of ids; those that the tokenizer has no token for are passed over."""
        try:
            return self.context.runtime.text_of(self._card, self._lists[at], skip_special=self._skip)
        except TextError as error:
            raise Unreadable(f"ids[{at}]: {error}") from None

    def check(self, made: Sequence[str]) -> int:
        """Return the bytes of some texts and of their JSON."""
        size = sum(map(len, made))
        self._characters += size
        return 2 * CHARACTER_BYTES * size

    def encode_ms(self) -> float:
        """Return what writing the reply takes, in milliseconds."""
        return ENCODE_CHARACTER_MS * self._characters

    def encode(self, made: Sequence[str]) -> Buffer:
        """Return the reply: the texts."""
        return orjson.dumps(made)


def _known(body: Buffer, reserve: Reserve, schema: Any, context: Context) -> dict[str, Any]:
    """Return the body; names of fields that are not known are logged once."""
    envelope = object_of(body, reserve)
    if strangers := envelope.keys() - schema.model_fields.keys():
        context.ignored.note(strangers, where="/tokenize and /decode")
    return envelope


def _able(card: ModelCard) -> ModelCard:
    if "text" not in card.inputs:
        why = card.not_offered.get("text", "it has no tokenizer")
        raise Unable(f"model {card.name} takes no text: {why}")
    return card


def _id_lists(given: Any, *, vocabulary: int | None) -> list[list[int]]:
    """Return the lists of ids of a request, all in the model's vocabulary; raises Empty, Invalid."""
    if not isinstance(given, list):
        raise Invalid("ids must be a list of token ids, or a list of such lists")
    if not given:
        raise Empty("`ids` cannot be empty")
    spend(ID_US * sum(len(one) if isinstance(one, list) else 1 for one in given))
    alone = is_ids(given)
    lists = [given] if alone else given
    require_few(len(lists))
    for index, ids in enumerate(lists):
        path = "ids" if alone else f"ids[{index}]"
        if not isinstance(ids, list) or not is_ids(ids):
            raise Invalid(f"{path} must be a list of token ids, whole numbers from 0")
        if not ids:
            raise Empty(f"`ids` cannot be empty; {path} is")
        token_ids_of(ids_of(ids, path), path, vocabulary=vocabulary)
    return lists


def _tokens(text: str, read: Text) -> list[dict[str, Any]]:
    at = _byte_offsets(text)
    return [
        {
            "id": id_,
            "text": token if special else text[start:stop],
            "special": special,
            "start": None if special else at[start],
            "stop": None if special else at[stop],
        }
        for id_, token, special, (start, stop) in zip(
            read.ids.tolist(), read.tokens, read.special, read.offsets, strict=True
        )
    ]


def _byte_offsets(text: str) -> Sequence[int]:
    """Return where each character begins in UTF-8, and where the last one ends."""
    if text.isascii():
        return range(len(text) + 1)
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    ends: list[int] = np.cumsum(widths).tolist()
    return [0, *ends]
