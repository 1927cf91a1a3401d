"""The two routes: `POST /v1/models/{model}/attend`, and `POST /v1/attention` on the caller's own Q, K, V."""

from fastapi import APIRouter, Request, Response

from models.outputs import OUTPUTS
from service.http.context import Context
from service.http.exchange import Read, exchange
from service.http.pages.openapi import reply_docs, request_docs
from service.http.read_ahead import reading
from service.http.resolve import Resolved, resolve_attend, resolve_attention
from service.http.schemas import ATTENTION_OUTPUTS, AttendRequest, AttentionRequest

__all__ = ["router"]


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
        card = context.runtime.card(model)

        def resolve(asked: AttendRequest, read: Read) -> Resolved:
            return resolve_attend(
                asked, runtime=context.runtime, how=reading(asked, context, card), read=read
            )

        return await exchange(request, context, schema=AttendRequest, resolve=resolve, card=card)

    @routes.post(
        "/v1/attention",
        summary="Attention over the caller's own queries, keys and values",
        openapi_extra=request_docs(AttentionRequest),
        responses=reply_docs(ATTENTION_OUTPUTS, model=False),
        response_class=Response,
    )
    async def attention(request: Request) -> Response:
        """Take queries, keys and values, with or without a head axis; give the chosen outputs of each."""

        def resolve(asked: AttentionRequest, _: Read) -> Resolved:
            return resolve_attention(asked)

        return await exchange(request, context, schema=AttentionRequest, resolve=resolve)

    return routes
