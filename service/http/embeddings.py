"""`POST /v1/embeddings`: sentence embeddings, asked for as OpenAI's clients do.

A second way to one output of the main job, `pooled` of the last layer. Fields that are not known are ignored,
as OpenAI's own service and its peers do, and named in the log. Sources: OpenAI API reference, "Create
embeddings"; vLLM's `truncate_prompt_tokens`.
"""

import time
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.protocol import ModelCard, Models
from service.errors import Invalid, Malformed, UnsupportedMedia
from service.http.around.leniency import NullIsAbsent
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.exchange import Read, admitted, deadline_of, read_body
from service.http.negotiate import READ_JSON_MS, WRITE_JSON_MS, request_format
from service.http.prompts import cut as cut_vectors
from service.http.prompts import mark_prompt, prompt_of, prompted, width_of
from service.http.read_ahead import read_ahead, reading, text_ms
from service.http.replies import PiecesResponse, reply_bytes, server_timing
from service.http.resolve import Resolved, resolve_attend
from service.http.schemas import LARGEST, LONGEST_DEADLINE_MS, AttendInput, AttendRequest
from service.http.texts.reading import Reading
from service.http.turns import MIB
from service.memory_budget import COUNTED_BYTES, Claim, claim_of
from service.wire import json_format
from service.wire.dtypes import Buffer
from service.wire.effort import spend
from service.wire.json_strings import require_few_string_bytes
from service.wire.json_text import Base64, dumps, pieces

__all__ = ["router"]

MOST_INPUTS = 2048
INPUT_US, ID_US, VECTOR_US = 3.0, 0.15, 6.0  # what one takes to be read, or written, in microseconds
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


class EmbeddingsRequest(NullIsAbsent):
    """What OpenAI's clients send, and this service's own options beside it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    input: Annotated[Any, WithJsonSchema(_INPUT)] = Field(description="what to embed; token ids as they are")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="a name that `GET /v1/models` lists; may be left out where one model has embeddings",
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="base64: of little-endian float32"
    )
    dimensions: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None,
        description="how many numbers of each vector, where the model's folder says that they may be cut",
    )
    prompt_name: str | None = Field(
        default=None,
        max_length=128,
        description="which of the folder's prompts is put before each text; default: the folder's default",
    )
    user: str | None = Field(default=None, description="not read")
    truncate: bool | None = Field(
        default=None,
        description="cut texts that are too long, instead of refusing; default: the server's TRUNCATE",
    )
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=LARGEST)] | None = Field(
        default=None,
        description="cut every text and list of token ids to so many tokens; −1: to what the model takes",
    )
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
    truncated: int = Field(default=0, description="tokens cut off, of all inputs; only where any were")


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
        claim = claim_of(request.scope)
        before = claim.held

        def parse() -> tuple[EmbeddingsRequest, set[str]]:
            if claim.held > before:  # begun before, on the event loop
                claim.become(before)
            require_few_string_bytes(content, context.limits.text_bytes)
            envelope = _object(content, claim)
            strangers = envelope.keys() - EmbeddingsRequest.model_fields.keys()
            return read_envelope(EmbeddingsRequest, envelope), strangers

        asked, strangers = await context.turns.run(parse, ms=READ_JSON_MS * len(content) / MIB)
        context.ignored.note(strangers, where="/v1/embeddings")
        card = _card(asked, context.runtime)
        request.scope["heed.model"] = card.name
        width = _check(asked, card)
        main, how, cut = await context.turns.run(lambda: _main(asked, card, context), ms=0.0)
        deadline = deadline_of(main, context, started)
        read = await read_ahead(request, context, main, how, deadline=deadline)
        prompt = AttendInput(text=prompt_of(asked.prompt_name, card))  # is read by itself too
        ms = text_ms([prompt] if read is not None else [prompt, *main.inputs], card)
        resolved = await context.turns.run(lambda: _resolve(asked, main, how, read, context), ms=ms)
        cut += sum(text.truncated for text in resolved.texts if text is not None)
        decode_seconds = time.perf_counter() - decode_started
        context.metrics.decoded("json", decode_seconds)

        def held(result_bytes: int) -> int:
            return reply_bytes(result_bytes, number_bytes=4, largest_whole=claim.largest_whole)

        async with admitted(request, context, resolved, asked=main, started=started, held=held) as done:
            encode_started = time.perf_counter()
            vectors = [answer.tensors["pooled"] for answer in done.answers]
            size = 4 * sum(map(len, vectors))
            usage = {"prompt_tokens": resolved.tokens, "total_tokens": resolved.tokens}
            if cut:
                usage["truncated"] = cut

            def body() -> dict[str, Any]:
                return _reply(asked, cut_vectors(vectors, width, card), usage, model=card.name)

            if sum(vector.nbytes for vector in vectors) > claim.largest_whole:
                return PiecesResponse(
                    lambda: pieces(body()),
                    media_type="application/json",
                    timing=lambda seconds: server_timing(done, decode=decode_seconds, encode=seconds),
                    done=partial(context.metrics.encoded, "json"),
                )
            ms = WRITE_JSON_MS * size / MIB
            reply = await context.turns.run(lambda: dumps(body()), ms=ms)
            encode_seconds = time.perf_counter() - encode_started
        context.metrics.encoded("json", encode_seconds)
        timing = server_timing(done, decode=decode_seconds, encode=encode_seconds)
        return Response(reply, media_type="application/json", headers={"server-timing": timing})

    return routes


async def _body(request: Request) -> Buffer:
    if (incoming := request_format(request.headers)).name != "json":
        raise UnsupportedMedia(f"{incoming.media_type} is not read here; send application/json")
    return await read_body(request.receive)


def _object(content: Buffer, claim: Claim) -> dict[str, Any]:
    if len(content) < COUNTED_BYTES:
        envelope = json_format.decode_value(content)
    else:
        envelope = json_format.decode_value(content, claim.take)
        claim.become(2 * len(content))  # the body, and its texts
    if not isinstance(envelope, dict):
        raise Malformed("the body must be a JSON object")
    return envelope


def _check(asked: EmbeddingsRequest, card: ModelCard) -> int | None:
    """Return how many numbers of a vector are asked for; raise Invalid for what a model cannot give."""
    if "pooled" not in card.outputs:
        why = card.not_offered.get("pooled", "it has no pooling configuration")
        raise Invalid(f"model {card.name} has no embeddings of whole inputs: {why}")
    return width_of(asked.dimensions, card)


def _card(asked: EmbeddingsRequest, runtime: Models) -> ModelCard:
    """Return the model that is named, or the only one that has embeddings; raises UnknownModel, Invalid."""
    if asked.model is not None:
        return runtime.card(asked.model)
    able = [card for card in runtime.cards() if "pooled" in card.outputs and "text" in card.inputs]
    if len(able) != 1:
        names = ", ".join(card.name for card in able[:8]) or "none"
        raise Invalid(f"model is missing; name one that has embeddings: {names}")
    return able[0]


def _main(asked: EmbeddingsRequest, card: ModelCard, context: Context) -> tuple[AttendRequest, Reading, int]:
    """Return the same request to the main job, how its texts are read, and how many ids were cut off."""
    inputs = prompted(_inputs(asked.input), prompt_of(asked.prompt_name, card))
    longest = _longest(asked, card)
    cut = 0
    if longest is not None:
        inputs, cut = _cut_ids(inputs, longest)
    main = AttendRequest(
        inputs=inputs,
        outputs=["pooled"],
        truncate=True if longest is not None else asked.truncate,
        deadline_ms=asked.deadline_ms,
        priority=asked.priority,
    )
    return main, reading(main, context, card, longest=longest, field="input"), cut


def _resolve(
    asked: EmbeddingsRequest, main: AttendRequest, how: Reading, read: Read, context: Context
) -> Resolved:
    """Return the request checked against the model."""
    resolved = resolve_attend(main, runtime=context.runtime, how=how, read=read)
    prompt = prompt_of(asked.prompt_name, how.card)
    return mark_prompt(resolved, prompt, card=how.card, runtime=context.runtime)


def _longest(asked: EmbeddingsRequest, card: ModelCard) -> int | None:
    """Return to how many tokens the request has every input cut, None where it says nothing of it."""
    tokens = asked.truncate_prompt_tokens
    if tokens is None:
        return None
    if tokens == 0 or asked.truncate is False:
        raise Invalid(
            "truncate_prompt_tokens must be −1 or at least 1"
            if tokens == 0
            else f"truncate is false, but truncate_prompt_tokens is {tokens}; leave out one of the two"
        )
    limits = [
        limit for limit in (card.max_text_tokens, card.max_tokens, tokens) if limit is not None and limit > 0
    ]
    return min(limits, default=LARGEST)


def _cut_ids(inputs: list[AttendInput], longest: int) -> tuple[list[AttendInput], int]:
    """Return inputs whose token ids are at most so many, and how many were cut off; texts are cut later."""
    cut = 0
    kept = []
    for one in inputs:
        if one.token_ids is not None and len(one.token_ids) > longest:
            cut += len(one.token_ids) - longest
            one = AttendInput(token_ids=one.token_ids[:longest])
        kept.append(one)
    return kept, cut


def _inputs(given: Any) -> list[AttendInput]:
    """Return the inputs, one for a text or a list of token ids; raises Invalid."""
    if isinstance(given, str):
        return [AttendInput(text=given)]
    if not isinstance(given, list) or not given:
        raise Invalid(KINDS)
    spend(sum(INPUT_US + ID_US * len(one) for one in given[: MOST_INPUTS + 1] if isinstance(one, list)))
    spend(ID_US * len(given))
    if _is_ids(given):
        return [AttendInput(token_ids=_ids(given, "input"))]
    if len(given) > MOST_INPUTS:
        raise Invalid(f"input has {len(given)} items; give at most {MOST_INPUTS}")
    texts = isinstance(given[0], str)
    for index, one in enumerate(given):
        if not (isinstance(one, str) if texts else isinstance(one, list) and one and _is_ids(one)):
            kind = "a text" if texts else "a list of token ids, none empty"
            raise Invalid(f"input[{index}] is not {kind}; {KINDS}")
    spend(INPUT_US * len(given))
    if texts:
        return [AttendInput(text=one) for one in given]
    return [AttendInput(token_ids=_ids(one, f"input[{index}]")) for index, one in enumerate(given)]


def _is_ids(given: list[Any]) -> bool:
    return all(type(one) is int for one in given)


def _ids(given: list[int], path: str) -> NDArray[np.int64]:
    try:
        return np.array(given, dtype=np.int64)
    except OverflowError:
        raise Invalid(f"{path} has a token id beyond {LARGEST}") from None


def _reply(
    asked: EmbeddingsRequest, pooled: list[NDArray[np.float32]], usage: dict[str, int], *, model: str
) -> dict[str, Any]:
    """Return the reply's JSON; numbers are written so that float32 reads back equal."""
    spend(VECTOR_US * len(pooled))
    form = Base64 if asked.encoding_format == "base64" else np.asarray
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": form(vector)}
            for index, vector in enumerate(pooled)
        ],
        "model": model,
        "usage": usage,
    }
