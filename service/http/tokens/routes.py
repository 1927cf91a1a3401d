"""`POST /v1/tokenize`: the tokens of texts by a model's own tokenizer; nothing is computed."""

from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.protocol import ModelCard, Text
from service.errors import Invalid, Malformed, Unable
from service.http.context import TEXTS, Context
from service.http.envelope import read_envelope
from service.http.negotiate import require_json
from service.http.read_ahead import require_few_characters, require_few_together
from service.http.schemas import AttendInput
from service.http.texts.inputs import MOST_INPUTS
from service.http.texts.reading import KIB, TEXT_MS, Reading, read_text, read_whole
from service.http.tokens.line import answer
from service.http.tokens.schemas import TokenizeReply, TokenizeRequest
from service.wire import json_format
from service.wire.dtypes import Buffer, Reserve

TOKEN_BYTES = 512  # what a token and its JSON take, at the most, beside its spelling
ENCODE_TOKEN_MS = 0.003


def router(context: Context) -> APIRouter:
    """Return the route over one server's parts."""
    routes = APIRouter(tags=["tokens"])
    body = {"content": {"application/json": {"schema": TokenizeRequest.model_json_schema()}}}

    @routes.post(
        "/v1/tokenize",
        summary="Tokens of texts, without computing",
        openapi_extra={"requestBody": {"required": True, **body}},
        responses={200: {"model": TokenizeReply}},
        response_class=Response,
    )
    async def tokenize(request: Request) -> Response:
        """Give each text's token ids, tokens, offsets and count, by the model's own tokenizer."""
        return await answer(request, context, _Tokenized(request, context))

    return routes


class TextWork:
    """Texts that are turned into tokens: what is common to the routes that do."""

    model = ""

    def __init__(self, request: Request, context: Context) -> None:
        require_json(request.scope["headers"])
        self.context = context

    def begin(self, card: ModelCard, texts: Sequence[str], *, special: bool, field: str) -> list[float]:
        """Take note of the texts; return what each takes, in milliseconds. Raises Invalid, TooLarge."""
        if "text" not in card.inputs:
            why = card.not_offered.get("text", "it has no tokenizer")
            raise Unable(f"model {card.name} takes no text: {why}")
        require_few_characters(sum(map(len, texts)), len(texts), self.context.limits.text_bytes)
        self.card, self.texts, self.special, self.field = card, texts, special, field
        self.model = card.name
        self.tokens = 0
        return [TEXT_MS + card.text_ms * len(text) / KIB for text in texts]

    def make(self, at: int) -> Text:
        """Return the tokens of one text, whatever its length."""
        return read_whole(
            self.texts[at],
            f"{self.field}[{at}]",
            self.card,
            self.context.runtime,
            special=self.special,
            longest=self.context.limits.max_sequence_tokens,
            most=self.context.limits.max_queued_tokens,
        )

    def check(self, made: Sequence[Text]) -> int:
        """Return the bytes of some texts' tokens; raise TooLarge for more tokens than a request may have."""
        count = sum(len(text.ids) for text in made)
        self.tokens += count
        require_few_together(self.tokens, len(self.texts), self.context.limits.max_queued_tokens)
        return TOKEN_BYTES * count + 4 * sum(sum(map(len, text.tokens)) for text in made)

    def encode_ms(self) -> float:
        """Return what writing the reply takes, in milliseconds."""
        return ENCODE_TOKEN_MS * self.tokens


def object_of(body: Buffer, reserve: Reserve) -> dict[str, Any]:
    """Return the object that a body is; raises Malformed."""
    envelope = json_format.decode_value(body, reserve)
    if not isinstance(envelope, dict):
        raise Malformed("the body must be a JSON object")
    return envelope


class _Tokenized(TextWork):
    """One request to `/v1/tokenize`."""

    def read(self, body: Buffer, reserve: Reserve) -> list[float]:
        """Return what each text takes."""
        envelope = object_of(body, reserve)
        if strangers := envelope.keys() - TokenizeRequest.model_fields.keys():
            self.context.ignored.note(strangers, where="/v1/tokenize")
        asked = read_envelope(TokenizeRequest, envelope)
        card = self.context.model(asked.model, TEXTS)
        self._truncate = asked.truncate
        return self.begin(
            card, texts_of(asked.input, "input"), special=asked.add_special_tokens, field="input"
        )

    def make(self, at: int) -> Text:
        """Return the tokens of one text, cut where the request says so."""
        if not self._truncate:
            return super().make(at)
        how = Reading(
            card=self.card, truncate=True, most=self.context.limits.max_sequence_tokens, field="input"
        )
        text = read_text(AttendInput(text=self.texts[at]), at, how, self.context.runtime)
        return text if self.special else without_special(text)

    def encode(self, made: Sequence[Text]) -> Buffer:
        """Return the reply."""
        limits = (self.card.max_text_tokens, self.card.max_tokens, self.context.limits.max_sequence_tokens)
        body = {
            "model": self.card.name,
            "max_model_len": min((limit for limit in limits if limit is not None), default=None),
            "data": [_told(index, text) for index, text in enumerate(made)],
            "usage": {"tokens": self.tokens},
        }
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def without_special(text: Text) -> Text:
    """Return a text without the tokens that the model put around it."""
    places = [at for at, special in enumerate(text.special) if not special]
    return Text(
        ids=text.ids[places],
        type_ids=text.type_ids[places],
        tokens=tuple(text.tokens[at] for at in places),
        offsets=tuple(text.offsets[at] for at in places),
        special=(False,) * len(places),
        truncated=text.truncated,
    )


def texts_of(given: Any, field: str) -> list[str]:
    """Return the texts that a field holds, one or several; raises Invalid."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list):
        raise Invalid(f"{field} must be a text, or a list of texts")
    if not texts:
        raise Invalid(f"{field} has 0 items; give at least 1")
    if len(texts) > MOST_INPUTS:
        raise Invalid(f"{field} has {len(texts)} items; give at most {MOST_INPUTS}")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise Invalid(f"{field}[{index}] must be a text")
    return texts


def _told(index: int, text: Text) -> dict[str, Any]:
    entry = {
        "index": index,
        "count": len(text.ids),
        "ids": text.ids,
        "tokens": text.tokens,
        "offsets": text.offsets,
        "special": text.special,
    }
    return {**entry, "truncated": text.truncated} if text.truncated else entry
