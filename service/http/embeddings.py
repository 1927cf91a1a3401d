"""`POST /v1/embeddings`, `/embeddings`: sentence embeddings, asked for as OpenAI's clients do.

A second way to one output of the main job, `pooled` of the last layer. Fields that are not known are ignored,
as OpenAI's own service and its peers do, and named in the log. Sources: OpenAI API reference, "Create
embeddings"; vLLM's `truncate_prompt_tokens`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.protocol import ModelCard
from service.batching.job import Completed
from service.errors import Invalid, Malformed, Unable
from service.http.context import EMBEDDINGS, Context
from service.http.envelope import NullIsAbsent, read_envelope
from service.http.exchange import Asked, Numbers, exchange, reading
from service.http.fields.addresses import LARGEST
from service.http.negotiate import require_json
from service.http.prompts import cut as cut_vectors
from service.http.prompts import mark_prompt, prompt_of, prompted, width_of
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.http.schemas import LONGEST_DEADLINE_MS, AttendRequest
from service.http.texts.inputs import INPUT, cut_ids, embedded_inputs
from service.http.texts.late_chunking import one_of_chunks
from service.http.texts.reading import Reading
from service.wire import json_format
from service.wire.dtypes import Buffer, Reserve
from service.wire.effort import spend
from service.wire.json_text import Base64, dumps, pieces

# OpenAI's path, and text-embeddings-inference's other one for the same (`router/src/http/server.rs`).
PATHS = {"/v1/embeddings": "embeddings", "/embeddings": "embeddings_at_the_root"}
VECTOR_US = 6.0  # what one takes to be written, in microseconds


class EmbeddingsRequest(NullIsAbsent):
    """What OpenAI's clients send, and this service's own options beside it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    input: Annotated[Any, WithJsonSchema(INPUT)] = Field(description="what to embed; token ids as they are")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="listed by `GET /v1/models`; left out: DEFAULT_MODEL, or the only one with embeddings",
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
    late_chunking: bool | None = Field(
        default=None,
        description="true: the inputs are chunks of one text, which is read whole; each has its vector",
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
    """Return the route over one server's parts, under both of its paths."""
    routes = APIRouter(tags=["embeddings"])
    body = {"content": {"application/json": {"schema": EmbeddingsRequest.model_json_schema()}}}

    async def embeddings(request: Request) -> Response:
        """Pool the last layer of a model as its own configuration says, one vector an input."""
        return await exchange(request, context, Embedded(request, context))

    for path, name in PATHS.items():
        routes.post(
            path,
            name=name,
            summary="Sentence embeddings, as OpenAI's clients ask for them",
            openapi_extra={"requestBody": {"required": True, **body}},
            responses={200: {"model": EmbeddingsReply}},
            response_class=Response,
        )(embeddings)
    return routes


class Embedded:
    """One request of OpenAI's as one to the main job, and its vectors as OpenAI's reply."""

    incoming = outgoing = "json"
    json_bytes: int | None = None
    numbers: Numbers = "json"
    padded_bytes = 0

    def __init__(self, request: Request, context: Context) -> None:
        require_json(request.scope["headers"])
        self._scope, self._context = request.scope, context

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the same request to the main job, and how its texts are read."""
        envelope = json_format.decode_value(body, reserve)
        if not isinstance(envelope, dict):
            raise Malformed("the body must be a JSON object")
        return self.understood(envelope)

    def understood(self, envelope: Mapping[str, Any]) -> tuple[Asked, Reading | None]:
        """Return the same request to the main job that an envelope holds."""
        if strangers := envelope.keys() - EmbeddingsRequest.model_fields.keys():
            self._context.ignored.note(strangers, where="/v1/embeddings")
        asked = read_envelope(EmbeddingsRequest, envelope)
        card = self._context.model(asked.model, EMBEDDINGS)
        self._scope["heed.model"] = card.name
        self._width = width_offered(asked.dimensions, card)
        self._base64 = asked.encoding_format == "base64"
        self._prompt = prompt_of(asked.prompt_name, card)
        self._card = card
        longest = _longest(asked, card)
        main, self._cut = _main(asked, self._prompt, longest, card)
        chunked = asked.late_chunking is True
        return main, reading(
            main,
            self._context.limits,
            card,
            longest=longest,
            field="input",
            bare=not chunked,
            chunked=chunked,
        )

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items; the tokens of the prompt are marked where the pooling leaves them out."""
        return mark_prompt(resolved, self._prompt, card=self._card, runtime=self._context.runtime)

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        return (dumps(self._reply(done, resolved)),), JSON

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the reply piece by piece."""
        return pieces(self._reply(done, resolved))

    def fields(self, done: Completed, resolved: Resolved) -> Fields:  # noqa: ARG002  the line's
        """Return the headers of a reply in pieces."""
        return JSON

    def _reply(self, done: Completed, resolved: Resolved) -> dict[str, Any]:
        """Return the reply's JSON; numbers are written so that float32 reads back equal."""
        spend(VECTOR_US * len(done.answers))
        pooled = [answer.tensors["pooled"] for answer in done.answers]
        if resolved.items[0].selection.spans is not None:
            pooled = list(pooled[0])
        vectors = cut_vectors(pooled, self._width, self._card)
        form = Base64 if self._base64 else np.asarray
        usage = {"prompt_tokens": resolved.tokens, "total_tokens": resolved.tokens}
        cut = self._cut + sum(text.truncated for text in resolved.texts if text is not None)
        if cut:
            usage["truncated"] = cut
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": form(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": self._card.name,
            "usage": usage,
        }


def width_offered(dimensions: int | None, card: ModelCard) -> int | None:
    """Return how many numbers of a vector are asked for; raise Invalid for what a model cannot give."""
    if "pooled" not in card.outputs:
        why = card.not_offered.get("pooled", "it has no pooling configuration")
        raise Unable(f"model {card.name} has no embeddings of whole inputs: {why}")
    return width_of(dimensions, card)


def _main(
    asked: EmbeddingsRequest, prompt: str, longest: int | None, card: ModelCard
) -> tuple[AttendRequest, int]:
    """Return the same request to the main job, and how many ids were cut off."""
    if asked.late_chunking:
        return _late(asked, prompt, longest, card), 0
    inputs = prompted(embedded_inputs(asked.input), prompt)
    cut = 0
    if longest is not None:
        inputs, cut = cut_ids(inputs, longest)
    main = AttendRequest(
        inputs=inputs,
        outputs=["pooled"],
        truncate=True if longest is not None else asked.truncate,
        deadline_ms=asked.deadline_ms,
        priority=asked.priority,
    )
    return main, cut


def _late(asked: EmbeddingsRequest, prompt: str, longest: int | None, card: ModelCard) -> AttendRequest:
    """Return the request for a vector of each chunk of one text; raises Invalid where it would be cut."""
    if asked.truncate or longest is not None:
        raise Invalid("late_chunking gives every chunk a vector, so that nothing may be cut; leave truncate")
    whole = one_of_chunks(embedded_inputs(asked.input), prompt, card)
    return AttendRequest(
        inputs=[whole],
        outputs=["pooled"],
        span_unit="tokens" if whole.text is None else "characters",
        truncate=False,
        deadline_ms=asked.deadline_ms,
        priority=asked.priority,
    )


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
