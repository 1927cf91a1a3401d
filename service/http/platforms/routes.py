"""`GET /ping` and `POST /invocations`: what SageMaker calls, and under paths of its own choice Vertex AI.

Sources: Amazon SageMaker developer guide, "Use your own inference code with hosting services"; Vertex AI,
"Custom container requirements for prediction".
"""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.errors import ModelError
from models.outputs import OUTPUTS
from service.errors import HeedError
from service.http.context import Context
from service.http.embeddings import EmbeddingsReply, EmbeddingsRequest
from service.http.exchange import exchange
from service.http.pages.health import NO_STORE, Health
from service.http.pages.openapi import inlined, reply_docs, request_docs
from service.http.platforms.instances import INSTANCES, in_their_words
from service.http.platforms.invocation import Invocation
from service.http.schemas import AttendRequest
from service.http.tei.schemas import EmbedRequest, SimilarityRequest


def router(context: Context, *, health: Health, max_result_bytes: int) -> APIRouter:
    """Return the two routes over one server's parts."""
    routes = APIRouter(tags=["platforms"])

    @routes.get("/ping", response_model=None)
    async def ping() -> Response:
        """Whether requests should be sent here (200) or not (503)."""
        status = 200 if health.ready else 503
        body = orjson.dumps({"status": health.status})
        return Response(body, status, media_type="application/json", headers=NO_STORE)

    @routes.post(
        "/invocations",
        summary="Whatever the body asks, of the default model",
        openapi_extra=_request_docs(),
        responses=_reply_docs(),
        response_class=Response,
    )
    async def invocations(request: Request) -> Response:
        """Take a body of `attend`, in any of its formats, of `/v1/embeddings`, of `/embed`, or of Vertex AI.

        Options of binary bodies are in X-Amzn-SageMaker-Custom-Attributes as in a query, or in the query.
        """
        invocation = Invocation(request, context, max_result_bytes=max_result_bytes)
        try:
            return await exchange(request, context, invocation)
        except (HeedError, ModelError) as refusal:
            if invocation.instances:
                raise in_their_words(refusal) from None
            raise

    return routes


def _request_docs() -> dict[str, Any]:
    docs = request_docs(AttendRequest)
    content = docs["requestBody"]["content"]
    attend = content["application/json"]["schema"]
    others = [inlined(one) for one in (EmbeddingsRequest, EmbedRequest, SimilarityRequest)]
    shapes = [attend, *others, INSTANCES]
    content["application/json"] = {"schema": {"anyOf": shapes}}
    return docs


def _reply_docs() -> dict[int | str, dict[str, Any]]:
    docs = reply_docs(tuple(OUTPUTS), model=True)
    content = docs[200]["content"]
    attend = content["application/json"]["schema"]
    predictions = {
        "type": "object",
        "properties": {"predictions": attend["properties"]["outputs"]},
        "required": ["predictions"],
    }
    numbers: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
    vectors = {"type": "array", "items": numbers}
    shapes = [attend, inlined(EmbeddingsReply), vectors, numbers, predictions]
    content["application/json"] = {"schema": {"anyOf": shapes}}
    return docs
