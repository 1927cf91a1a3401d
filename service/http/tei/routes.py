"""The routes of text-embeddings-inference, all of one model (`tei_model`), on the line of `/v1/embeddings`.

Source: text-embeddings-inference `router/src/http/server.rs`.
"""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from service.errors import Unable
from service.http.context import Context
from service.http.exchange import exchange
from service.http.pages.openapi import inlined
from service.http.tei.codec import Task, TeiCodec, tei_model
from service.http.tei.info import info_of
from service.http.tei.schemas import (
    DecodeRequest,
    EmbedAllRequest,
    EmbedRequest,
    Info,
    SimilarityRequest,
    SimpleToken,
    TeiError,
    TeiTokenizeRequest,
    body_of,
)
from service.http.tei.tokens import DecodeWork, TokenizeWork
from service.http.tokens.line import answer as tokens_line

ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": TeiError} for status in ("4XX", "5XX", 422, 424)}
_VECTORS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_SIMILARITIES = {"type": "array", "items": {"type": "number"}}
_ROWS = {"type": "array", "items": _VECTORS}
HEADS = {
    "/rerank": "model {} is no re-ranker: it has no head with one label that the server knows of",
    "/predict": "model {} is no classifier: it has no head with labels that the server knows of",
    "/embed_sparse": "model {} has no sparse embeddings: it is not pooled as SPLADE",
}


def router(context: Context) -> APIRouter:
    """Return the routes over one server's parts."""
    routes = APIRouter(tags=["text-embeddings-inference"], responses=ERRORS)

    @routes.get("/info", response_model=None, responses={200: {"model": Info}})
    async def info(request: Request) -> Response:
        """Say which model answers, and what the server allows."""
        card = tei_model(context)
        request.scope["heed.model"] = card.name
        return Response(orjson.dumps(info_of(card, context)), media_type="application/json")

    _computed(routes, context)
    _of_tokens(routes, context)
    for path, said in HEADS.items():
        _headless(routes, context, path, said)
    return routes


def _computed(routes: APIRouter, context: Context) -> None:
    async def answer(request: Request, task: Task | None) -> Response:
        return await exchange(request, context, TeiCodec(request, context, task))

    @routes.post("/embed", openapi_extra=body_of(EmbedRequest), responses=_reply(_VECTORS))
    async def embed(request: Request) -> Response:
        """Give one vector an input, pooled as the model's own configuration says."""
        return await answer(request, "embed")

    @routes.post("/embed_all", openapi_extra=body_of(EmbedAllRequest), responses=_reply(_ROWS))
    async def embed_all(request: Request) -> Response:
        """Give one vector a token of each input: the last layer's `hidden`, not pooled."""
        return await answer(request, "embed_all")

    @routes.post("/similarity", openapi_extra=body_of(SimilarityRequest), responses=_reply(_SIMILARITIES))
    async def similarity(request: Request) -> Response:
        """Give the cosine of one sentence's vector with that of each of the others."""
        return await answer(request, "similarity")

    @routes.post(
        "/",
        openapi_extra=body_of(EmbedRequest, SimilarityRequest),
        responses=_reply({"anyOf": [_VECTORS, _SIMILARITIES]}),
    )
    async def dispatched(request: Request) -> Response:
        """Answer as `/similarity` where the body has a `source_sentence`, as `/embed` elsewhere."""
        return await answer(request, None)


def _of_tokens(routes: APIRouter, context: Context) -> None:
    tokens = {"type": "array", "items": {"type": "array", "items": inlined(SimpleToken)}}
    texts = {"type": "array", "items": {"type": "string"}}

    @routes.post("/tokenize", openapi_extra=body_of(TeiTokenizeRequest), responses=_reply(tokens))
    async def tei_tokenize(request: Request) -> Response:
        """Give the tokens of each text, whatever its length; nothing is computed."""
        return await tokens_line(request, context, TokenizeWork(request, context))

    @routes.post("/decode", openapi_extra=body_of(DecodeRequest), responses=_reply(texts))
    async def tei_decode(request: Request) -> Response:
        """Give the text of each list of token ids, as the model's tokenizer writes it."""
        return await tokens_line(request, context, DecodeWork(request, context))


def _headless(routes: APIRouter, context: Context, path: str, said: str) -> None:
    async def refuse() -> Response:
        raise Unable(said.format(tei_model(context).name))

    routes.post(
        path,
        name=path[1:],
        summary="Refused with 424, as of a model without such a head",
        response_class=Response,
        openapi_extra={
            "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
        },
    )(refuse)


def _reply(schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {
            "description": "in the order of the inputs",
            "content": {"application/json": {"schema": schema}},
        }
    }
