"""The two routes: `POST /v1/models/{model}/attend`, and `POST /v1/attention` on the caller's own Q, K, V."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from models.outputs import OUTPUTS
from models.protocol import ModelCard, Text
from service.batching.job import Completed
from service.errors import Invalid
from service.http.context import Context
from service.http.envelope import options_from_query, read_envelope, require_few_options
from service.http.exchange import Asked, Numbers, exchange, reading
from service.http.fields.apart import with_options
from service.http.fields.predictions import spelled
from service.http.negotiate import reply_format, request_format
from service.http.pages.openapi import reply_docs, request_docs
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.http.schemas import ATTENTION_OUTPUTS, AttendRequest, AttentionRequest
from service.http.texts.reading import Reading
from service.wire.dtypes import Buffer, Reserve
from service.wire.reply import Reply


def router(context: Context) -> APIRouter:
    """Return the two routes over one server's parts."""
    routes = APIRouter(tags=["attention"])

    @routes.post(
        "/v1/models/{model}/attend",
        summary="Contextual vectors and attention of sequences, by a model",
        openapi_extra=request_docs(AttendRequest),
        responses=reply_docs(tuple(OUTPUTS), model=True),
        response_class=Response,
    )
    async def attend(request: Request, model: str) -> Response:
        """Take sequences of any lengths; give for each the chosen outputs of the chosen layers.

        Binary formats carry the tensors in the body and the options as query parameters of the same names;
        lists are separated by commas.
        """
        return await exchange(request, context, Negotiated(request, context, context.runtime.card(model)))

    @routes.post(
        "/v1/attention",
        summary="Attention over the caller's own queries, keys and values",
        openapi_extra=request_docs(AttentionRequest),
        responses=reply_docs(ATTENTION_OUTPUTS, model=False),
        response_class=Response,
    )
    async def attention(request: Request) -> Response:
        """Take queries, keys and values, with or without a head axis; give the chosen outputs of each."""
        return await exchange(request, context, Negotiated(request, context, None))

    return routes


class Negotiated:
    """One request in the formats of its Content-Type and Accept, to a model or, without a card, to none.

    `query`: options of a body that has no place for them; None: those of the request's own query.
    """

    padded_bytes = 0
    _tokens = True  # whether the reply tells which tokens texts have

    def __init__(
        self,
        request: Request,
        context: Context,
        card: ModelCard | None,
        *,
        query: list[tuple[str, str]] | None = None,
    ) -> None:
        self._context, self._card = context, card
        if card is not None:
            request.scope["heed.model"] = card.name
        headers = request.scope["headers"]
        self._read_as, self._written_as = request_format(headers), reply_format(headers)
        self.incoming, self.outgoing = self._read_as.name, self._written_as.name
        self.json_bytes = 0 if self._read_as.views else None
        self.numbers: Numbers = "binary" if self._written_as.encode_pieces is None else "json"
        if query is None:
            query = []
            if text := request.scope["query_string"]:
                require_few_options(text)
                query = request.query_params.multi_items()
        self._query = query
        if query and self._read_as.options_in == "body":
            kind = self._read_as.media_type
            raise Invalid(f"options of {kind} go into the body, not into the query")

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the checked request; its options are in the query where the body has no place for them."""
        envelope = self._read_as.decode(body, reserve)
        if self._read_as.options_in == "query":
            envelope = with_options(envelope, options_from_query(self._query))
        return self.understood(envelope)

    def understood(self, envelope: Mapping[str, Any]) -> tuple[Asked, Reading | None]:
        """Return the checked request that an envelope holds."""
        if self._card is None:
            return read_envelope(AttentionRequest, envelope), None
        asked = read_envelope(AttendRequest, envelope)
        self._tokens = asked.tokens
        return asked, reading(asked, self._context.limits, self._card)

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items, whose outputs the reply's format can carry."""
        self._written_as.check([item.selection for item in resolved.items])
        return resolved

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        headers = ((b"content-type", self._written_as.media_type.encode()),)
        return self._written_as.encode(self._reply(done, resolved)), headers

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the JSON piece by piece."""
        assert self._written_as.encode_pieces is not None
        return self._written_as.encode_pieces(self._reply(done, resolved))

    def fields(self, done: Completed, resolved: Resolved) -> Fields:  # noqa: ARG002  the line's
        """Return the headers of a reply in pieces."""
        return JSON

    def _reply(self, done: Completed, resolved: Resolved) -> Reply:
        return Reply(
            answers=done.answers,
            texts=resolved.texts if self._tokens else [text and _unnamed(text) for text in resolved.texts],
            tokens=resolved.tokens,
            spans=resolved.spans,
            next_tokens=spelled(done.answers, self._card, self._context.runtime),
            edited=resolved.edited,
            model=None if self._card is None else self._card.name,
            version=None if self._card is None else self._card.version,
        )


def _unnamed(text: Text) -> Text:
    """Return a text without what its tokens are, and where."""
    return replace(text, tokens=(), offsets=(), special=(), parts=())
