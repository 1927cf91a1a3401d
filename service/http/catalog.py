"""What is served: `GET /v1/models` and `/v1/models/{model}`, written from the cards and `models/outputs.py`.

Beside the request line: a caller reads here what the main job may be asked for.
"""

from dataclasses import asdict, dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from models.outputs import OUTPUTS
from models.protocol import ModelCard, Runtime

__all__ = ["CatalogLimits", "router"]

HIDDEN = ("handle", "outputs")  # the runtime's own reference; outputs are written out below


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogLimits:
    """What the server allows one request, whatever the model; bytes, tokens and milliseconds."""

    max_body_bytes: int
    max_result_bytes: int
    max_sequence_tokens: int
    deadline_ms: int


class OutputPage(BaseModel):
    """One output that may be asked for; `shape` is of one sequence, with `L` in front when `layered`."""

    name: str
    shape: str
    dtype: str
    layered: bool
    meaning: str


class LimitsPage(BaseModel):
    """What one request may take. `max_sequence_tokens` is the smaller of the server's and the model's."""

    max_body_bytes: int
    max_result_bytes: int
    max_sequence_tokens: int
    deadline_ms: int


class ModelPage(BaseModel):
    """One model: its sizes, where and how it runs, what it takes and gives, and its specification.

    `d_input` is the width of `embeddings` where it is not `d_model`; `part` is `decoder` or `cross` where
    this is that attention of an encoder-decoder model, else empty.
    """

    name: str
    version: str
    family: str
    layers: int
    heads: int
    key_heads: int
    d_model: int
    d_input: int | None
    d_k: int
    d_v: int
    dtype: str
    device: str
    bytes_resident: int
    inputs: list[str]
    max_tokens: int | None
    vocabulary: int | None
    cross: bool
    part: str
    kernel: str
    examples: list[str]
    outputs: list[OutputPage]
    limits: LimitsPage
    spec: dict[str, Any]


class OpenAIModel(BaseModel):
    """The same model in the words of OpenAI's list, for clients that read nothing else."""

    id: str
    object: str
    owned_by: str


class OneModel(ModelPage, OpenAIModel):
    """One model, in full and in the words of OpenAI's clients."""


class ModelList(BaseModel):
    """Every model that is served, sorted by name."""

    models: list[ModelPage]
    object: str
    data: list[OpenAIModel]


def router(runtime: Runtime, limits: CatalogLimits) -> APIRouter:
    """Return the two routes; cards are read anew each time, for models come and go."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models", response_model=None, responses={200: {"model": ModelList}})
    async def every_model() -> Response:
        """Everything that is served."""
        cards = runtime.cards()
        return _json(
            {
                "models": [_page(card, limits) for card in cards],
                "object": "list",
                "data": [_openai(card) for card in cards],
            }
        )

    @routes.get("/v1/models/{model}", response_model=None, responses={200: {"model": OneModel}})
    async def one_model(model: str, request: Request) -> Response:
        """One model: sizes, device, outputs offered, limits and specification; `id` for OpenAI's clients."""
        card = runtime.card(model)
        request.scope["heed.model"] = card.name
        return _json(_page(card, limits) | _openai(card))

    return routes


def _page(card: ModelCard, limits: CatalogLimits) -> dict[str, Any]:
    longest = limits.max_sequence_tokens
    if card.max_tokens is not None:
        longest = min(longest, card.max_tokens)
    page = {name: getattr(card, name) for name in card.__dataclass_fields__ if name not in HIDDEN}
    page["outputs"] = [_output(name) for name in card.outputs]
    page["limits"] = {**asdict(limits), "max_sequence_tokens": longest}
    return page


def _openai(card: ModelCard) -> dict[str, str]:
    return {"id": card.name, "object": "model", "owned_by": "heed"}


def _output(name: str) -> dict[str, Any]:
    output = OUTPUTS[name]
    return {
        "name": name,
        "shape": output.shape,
        "dtype": "int32" if output.dtype == "int32" else "float32",
        "layered": output.layered,
        "meaning": output.meaning,
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
