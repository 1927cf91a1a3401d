"""One request of text-embeddings-inference as one to the main job, and its reply in its shapes.

Source: text-embeddings-inference `router/src/http/server.rs`. `/` is `/similarity` where its body has a
`source_sentence`, and `/embed` elsewhere: there the server is told which of the two it is.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import BaseModel

from models.protocol import ModelCard, Side
from service.batching.job import Completed
from service.errors import Empty, Malformed, Unable
from service.http.context import EMBEDDINGS, Context
from service.http.embeddings import VECTOR_US, width_offered
from service.http.envelope import read_envelope
from service.http.exchange import Asked, Numbers, reading
from service.http.negotiate import require_json
from service.http.prompts import cut, mark_prompt, prompt_of, prompted, unit
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.http.schemas import AttendInput, AttendRequest
from service.http.tei.inputs import count_characters, inputs_of, require_few, text_input
from service.http.tei.schemas import (
    EmbedAllRequest,
    EmbedRequest,
    EncodingRequest,
    SimilarityInputs,
    SimilarityRequest,
)
from service.http.texts.inputs import cut_ids
from service.http.texts.reading import Reading
from service.wire import json_format
from service.wire.dtypes import Buffer, Reserve
from service.wire.effort import spend
from service.wire.json_text import dumps, pieces

ONE_MODEL = "these routes are of one model: have the server started with DEFAULT_MODEL"
Task = Literal["embed", "embed_all", "similarity"]
SCHEMAS: Mapping[Task, type[EmbedRequest | EmbedAllRequest | SimilarityRequest]] = {
    "embed": EmbedRequest,
    "embed_all": EmbedAllRequest,
    "similarity": SimilarityRequest,
}


class TeiCodec:
    """One request to a task; without one, to the task that its body is of."""

    incoming = outgoing = "json"
    json_bytes: int | None = None
    numbers: Numbers = "json"
    padded_bytes = 0

    def __init__(self, request: Request, context: Context, task: Task | None) -> None:
        self._began = time.perf_counter()
        require_json(request.scope["headers"])
        self._scope, self._context, self._asked_task = request.scope, context, task
        self._read_at = self._texts_at = self._began

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the same request to the main job, and how its texts are read."""
        envelope = json_format.decode_value(body, reserve)
        if not isinstance(envelope, dict):
            raise Malformed("the body must be a JSON object")
        return self.understood(envelope)

    def understood(
        self, envelope: Mapping[str, Any], model: str | None = None
    ) -> tuple[Asked, Reading | None]:
        """Return the same request to the main job that an envelope holds; `model` is asked, where named."""
        self._task = self._asked_task or _task_of(envelope)
        schema = SCHEMAS[self._task]
        for among, known in _objects(envelope, schema):
            if strangers := among.keys() - known.model_fields.keys():
                self._context.ignored.note(strangers, where=f"/{self._task}")
        asked = read_envelope(schema, envelope)
        self._card = card = tei_model(self._context, model)
        self._scope["heed.model"] = card.name
        how = _how(asked)
        inputs = _inputs(asked)
        self._characters = count_characters(inputs)
        self._normalize, self._width = self._vectors(asked)
        self._prompt = prompt_of(how.prompt_name, card)
        side: Side = "left" if how.truncation_direction in ("left", "Left") else "right"
        main = self._main(prompted(inputs, self._prompt), how, side)
        read = reading(main, self._context.limits, card, bare=True, side=side)
        self._read_at = time.perf_counter()
        return main, read

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items; the tokens of the prompt are marked where the pooling leaves them out."""
        if self._task != "embed_all":
            resolved = mark_prompt(resolved, self._prompt, card=self._card, runtime=self._context.runtime)
        self._texts_at = time.perf_counter()
        return resolved

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        return (dumps(self._reply(done)),), self.fields(done, resolved)

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:  # noqa: ARG002  the line's
        """Return the reply piece by piece."""
        return pieces(self._reply(done))

    def fields(self, done: Completed, resolved: Resolved) -> Fields:
        """Return the headers that clients of text-embeddings-inference read; times are in milliseconds."""
        total = _ms(time.perf_counter() - self._began)
        said = {
            "x-compute-type": "cpu" if self._card.device.startswith("cpu") else "gpu",
            "x-compute-time": total,
            "x-compute-characters": self._characters,
            "x-compute-tokens": resolved.tokens,
            "x-total-time": total,
            "x-tokenization-time": _ms(self._texts_at - self._read_at),
            "x-queue-time": _ms(done.queue_seconds),
            "x-inference-time": _ms(done.compute_seconds),
        }
        return (*JSON, *((name.encode(), str(value).encode()) for name, value in said.items()))

    def _vectors(self, asked: EmbedRequest | EmbedAllRequest | SimilarityRequest) -> tuple[bool, int | None]:
        """Return whether vectors are made of length 1, and how many numbers they have; raise Unable."""
        if self._task == "embed_all":
            if "hidden" not in self._card.outputs:
                why = self._card.not_offered.get("hidden", "it is attention alone")
                raise Unable(f"model {self._card.name} has no hidden states: {why}")
            return False, None
        dimensions = asked.dimensions if isinstance(asked, EmbedRequest) else None
        normalize = asked.normalize if isinstance(asked, EmbedRequest) else False
        return normalize, width_offered(dimensions, self._card)

    def _main(self, inputs: list[AttendInput], how: EncodingRequest, side: Side) -> AttendRequest:
        truncate = self._context.limits.truncate if how.truncate is None else how.truncate
        limits = (self._card.max_text_tokens, self._card.max_tokens)
        longest = min((limit for limit in limits if limit is not None), default=None)
        if truncate and longest is not None:
            inputs, _ = cut_ids(inputs, longest, side=side)
        output = "hidden" if self._task == "embed_all" else "pooled"
        return AttendRequest(inputs=inputs, outputs=[output], truncate=truncate)

    def _reply(self, done: Completed) -> list[Any]:
        if self._task == "embed_all":
            return [answer.tensors["hidden"] for answer in done.answers]
        spend(VECTOR_US * len(done.answers))
        vectors = cut([answer.tensors["pooled"] for answer in done.answers], self._width, self._card)
        if self._task == "similarity":
            return cosines(vectors)
        if self._normalize and not _of_length_1(self._card, self._width):
            vectors = [unit(vector) for vector in vectors]
        return vectors


def tei_model(context: Context, name: str | None = None) -> ModelCard:
    """Return the one model of these routes: the default, or the only one with embeddings; or one named."""
    return context.model(name, EMBEDDINGS, remedy=ONE_MODEL)


def cosines(vectors: Sequence[NDArray[np.float32]]) -> list[float]:
    """Return the cosine of the first vector with each of the others, 0 where one is all zeros."""
    matrix = np.stack(vectors).astype(np.float64)
    lengths = np.linalg.norm(matrix, axis=1)
    products = matrix[1:] @ matrix[0]
    scale = lengths[1:] * lengths[0]
    found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return [float(one) for one in np.clip(found, -1, 1)]


def _task_of(envelope: Mapping[str, Any]) -> Task:
    return "similarity" if isinstance(envelope.get("inputs"), dict) else "embed"


def _objects(
    envelope: Mapping[str, Any], schema: type[BaseModel]
) -> Iterator[tuple[Mapping[str, Any], type[BaseModel]]]:
    """Yield the objects of a request, each with the fields that it may have."""
    yield envelope, schema
    if schema is SimilarityRequest:
        for name, known in (("inputs", SimilarityInputs), ("parameters", EncodingRequest)):
            if isinstance(one := envelope.get(name), dict):
                yield one, known


def _how(asked: EmbedRequest | EmbedAllRequest | SimilarityRequest) -> EncodingRequest:
    """Return how texts are read."""
    if isinstance(asked, SimilarityRequest):
        return asked.parameters or EncodingRequest()
    return asked


def _inputs(asked: EmbedRequest | EmbedAllRequest | SimilarityRequest) -> list[AttendInput]:
    if not isinstance(asked, SimilarityRequest):
        return inputs_of(asked.inputs)
    if not asked.inputs.sentences:
        raise Empty("`inputs.sentences` cannot be empty")
    require_few(1 + len(asked.inputs.sentences))
    source = text_input(asked.inputs.source_sentence, "inputs.source_sentence")
    sentences = enumerate(asked.inputs.sentences)
    return [source, *(text_input(text, f"inputs.sentences[{index}]") for index, text in sentences)]


def _of_length_1(card: ModelCard, width: int | None) -> bool:
    """Whether vectors have length 1 as they are: the folder's own cut, unasked, is not followed by a norm."""
    about = card.pooled
    return about is not None and about.normalized and (width is not None or about.truncate_dim is None)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
