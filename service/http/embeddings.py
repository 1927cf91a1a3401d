"""`POST /v1/embeddings`: sentence embeddings, asked for as OpenAI's clients do.

A second way to one output of the main job, `pooled` of the last layer. Source: OpenAI API reference, "Create
embeddings".
"""

import asyncio
import base64
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.protocol import ModelCard
from service.errors import Invalid, Malformed, UnsupportedMedia
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.exchange import admitted, read_body, server_timing
from service.http.negotiate import WRITE_JSON_MS, request_format
from service.http.resolve import Resolved, resolve_attend
from service.http.schemas import LARGEST, LONGEST_DEADLINE_MS, AttendInput, AttendRequest
from service.http.turns import MIB
from service.wire import json_format
from service.wire.dtypes import Buffer
from service.wire.json_text import dumps

__all__ = ["router"]

MOST_INPUTS = 2048
INLINE_BYTES = 8192  # of a body to tokenize; about a millisecond
KINDS = "input must be a text, a list of texts, a list of token ids, or a list of such lists"

_TEXT: dict[str, Any] = {"type": "string"}
_IDS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": LARGEST},
    "minItems": 1,
}
_INPUT: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_INPUTS},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_INPUTS},
    ]
}


class EmbeddingsRequest(BaseModel):
    """What OpenAI's clients send, and this service's own options beside it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(description="what to embed; token ids as they are")
    model: str = Field(min_length=1, max_length=128, description="a name that `GET /v1/models` lists")
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: of little-endian float32"
    )
    dimensions: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None, description="only the model's own number; nothing is cut"
    )
    user: str | None = Field(default=None, max_length=256, description="not read")
    truncate: bool = Field(default=False, description="cut texts that are too long, instead of refusing")
    deadline_ms: Annotated[int, Field(ge=1, le=LONGEST_DEADLINE_MS)] | None = None
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(default=0, description="larger goes first")


class Embedding(BaseModel):
    """One input's embedding: numbers, or their bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """How many tokens were read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(BaseModel):
    """One embedding an input, in order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


def router(context: Context) -> APIRouter:
    """Return the route over one server's parts."""
    routes = APIRouter(tags=["embeddings"])
    body = {"content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}}}

    @routes.post(
        "/v1/embeddings",
        summary="Sentence embeddings, as OpenAI's clients ask for them",
        openapi_extra={"requestBody": {"required": True, **body}},
        responses={200: {"model": EmbeddingsReply}},
        response_class=Response,
    )
    async def embeddings(request: Request) -> Response:
        """Pool the last layer of a model as its own configuration says, one vector an input."""
        started = context.clock()
        content = await _body(request)
        decode_started = time.perf_counter()
        asked = read_envelope(EmbeddingsRequest, _object(content))
        card = context.runtime.card(asked.model)
        request.scope["heed.model"] = card.name
        _check(asked, card)
        if len(content) > INLINE_BYTES:
            main, resolved = await asyncio.to_thread(_resolve, asked, card, context)
        else:
            main, resolved = _resolve(asked, card, context)
        decode_seconds = time.perf_counter() - decode_started
        context.metrics.decoded("json", decode_seconds)
        async with admitted(request, context, resolved, asked=main, started=started) as done:
            encode_started = time.perf_counter()
            pooled = [answer.tensors["pooled"] for answer in done.answers]
            ms = WRITE_JSON_MS * 4 * len(pooled) * card.d_model / MIB
            reply = await context.turns.run(lambda: _encode(asked, pooled, resolved.tokens), ms=ms)
            encode_seconds = time.perf_counter() - encode_started
        context.metrics.encoded("json", encode_seconds)
        timing = server_timing(done, decode=decode_seconds, encode=encode_seconds)
        return Response(reply, media_type="application/json", headers={"server-timing": timing})

    return routes


async def _body(request: Request) -> Buffer:
    if (incoming := request_format(request.headers)).name != "json":
        raise UnsupportedMedia(f"{incoming.media_type} is not read here; send application/json")
    return await read_body(request.receive)


def _object(content: Buffer) -> dict[str, Any]:
    envelope = json_format.decode_value(content)
    if not isinstance(envelope, dict):
        raise Malformed("the body must be a JSON object")
    return envelope


def _check(asked: EmbeddingsRequest, card: ModelCard) -> None:
    """Raise Invalid for what a model cannot give."""
    if "pooled" not in card.outputs:
        raise Invalid(f"model {card.name} has no pooling configuration, so no embeddings of whole inputs")
    if asked.dimensions not in (None, card.d_model):
        raise Invalid(
            f"dimensions is {asked.dimensions}; model {card.name} gives {card.d_model}, which are never cut; "
            "leave it out"
        )


def _resolve(asked: EmbeddingsRequest, card: ModelCard, context: Context) -> tuple[AttendRequest, Resolved]:
    """Return the same request to the main job, checked against the model."""
    main = AttendRequest(
        inputs=_inputs(asked.input),
        outputs=["pooled"],
        truncate=asked.truncate,
        deadline_ms=asked.deadline_ms,
        priority=asked.priority,
    )
    return main, resolve_attend(main, runtime=context.runtime, card=card)


def _inputs(given: Any) -> list[AttendInput]:
    """Return the inputs, one for a text or a list of token ids; raises Invalid."""
    if isinstance(given, str):
        return [AttendInput(text=given)]
    if not isinstance(given, list) or not given:
        raise Invalid(KINDS)
    if _is_ids(given):
        return [AttendInput(token_ids=_ids(given))]
    if len(given) > MOST_INPUTS:
        raise Invalid(f"input has {len(given)} items; give at most {MOST_INPUTS}")
    if all(isinstance(one, str) for one in given):
        return [AttendInput(text=one) for one in given]
    if all(isinstance(one, list) and one and _is_ids(one) for one in given):
        return [AttendInput(token_ids=_ids(one)) for one in given]
    raise Invalid(KINDS)


def _is_ids(given: list[Any]) -> bool:
    return all(type(one) is int for one in given)


def _ids(given: list[int]) -> NDArray[np.int64]:
    try:
        return np.array(given, dtype=np.int64)
    except OverflowError:
        raise Invalid(f"input has a token id beyond {LARGEST}") from None


def _encode(asked: EmbeddingsRequest, pooled: list[NDArray[np.float32]], tokens: int) -> Buffer:
    """Return the reply as JSON; numbers are written so that float32 reads back equal."""

    def written(vector: NDArray[np.float32]) -> Any:
        if asked.encoding_format == "float":
            return vector
        return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()

    body = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": written(vector)}
            for index, vector in enumerate(pooled)
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return dumps(body)
