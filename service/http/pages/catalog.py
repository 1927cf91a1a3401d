"""What is served: `GET /v1/models` and `/v1/models/{model}`, written from the cards and `models/outputs.py`.

Beside the request line: a caller reads here what the main job may be asked for.
"""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from models.heads.sets import HeadSet
from models.outputs import OUTPUTS
from models.protocol import ModelCard, Models

FEW_MODELS = 32  # are written at once, in about a millisecond
FEW_PAIRS = 64  # of a head set are listed
# The runtime's own reference; outputs are written out below; a measurement is for us.
HIDDEN = ("handle", "outputs", "text_ms")


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


class PooledPage(BaseModel):
    """What the folder says of `pooled` and of embeddings.

    `prompts` by name, of which `default_prompt` is put before the texts of `/v1/embeddings`;
    `truncate_dim`: how many numbers of an embedding are kept when nobody asks; `cut`: whether
    `dimensions` may be asked for, any or those that are listed.
    """

    width: int
    pooling: str
    normalized: bool
    prompts: dict[str, str]
    default_prompt: str | None
    include_prompt: bool
    cut: bool
    dimensions: list[int]
    truncate_dim: int | None
    spans: bool


class PredictionsPage(BaseModel):
    """Which words a model predicts.

    `of`: a row speaks of the `next` word, or of its `own`; `table`: that of the `embedding`, or an `own` one;
    `tokens`: what predicting of one row takes, in tokens of the model's pass.
    """

    words: int
    of: str
    table: str
    tokens: float


class HeadSetPage(BaseModel):
    """A head set of the folder, by whose name `heads` may ask for it.

    `pairs`: how many; `heads`: which, `[layer, head]` in their order, where they are at most 64, else empty;
    `layers`: how many layers run for them; `weighted`: whether `mixed` weighs them;
    `whole`: whether `mixed` is of whole maps, so that no rows or columns of it may be chosen.
    """

    pairs: int
    heads: list[list[int]]
    layers: int
    weighted: bool
    whole: bool
    source: str


class ModelPage(BaseModel):
    """One model: its sizes, where and how it runs, what it takes and gives, and its specification.

    `dtype` is what weights are kept in; `computed_in` what is between products, and what their sums are.
    `d_input` is the width of `embeddings` where it is not `d_model`; `part` is `decoder` or `cross` where
    this is that attention of an encoder-decoder model, else empty. A text is cut, or refused, over
    `max_text_tokens`, as `text_limit` says. `notes`: what the folder says and is not obeyed;
    `not_offered`: the reason for each output, or kind of input, that the folder could be expected to
    have, and as `edits.VERB` for each verb that is not among `edits`, those that a sequence's edits may have.
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
    computed_in: str
    device: str
    bytes_resident: int
    inputs: list[str]
    max_tokens: int | None
    vocabulary: int | None
    types: int
    cross: bool
    part: str
    kernel: str
    examples: list[str]
    outputs: list[OutputPage]
    limits: LimitsPage
    spec: dict[str, Any]
    max_text_tokens: int | None
    text_limit: str
    pooled: PooledPage | None
    predictions: PredictionsPage | None
    notes: list[str]
    not_offered: dict[str, str]
    edits: list[str]
    head_sets: dict[str, HeadSetPage]


class OpenAIModel(BaseModel):
    """The same model in the words of OpenAI's list, for clients that read nothing else.

    `created` is when this server began, in Unix seconds. `max_model_len` is vLLM's: the longest text that the
    model embeds whole, in tokens.
    """

    id: str
    object: str
    created: int
    owned_by: str
    max_model_len: int


class OneModel(ModelPage, OpenAIModel):
    """One model, in full and in the words of OpenAI's clients."""


class ModelList(BaseModel):
    """Every model that is served, sorted by name."""

    models: list[ModelPage]
    object: str
    data: list[OpenAIModel]


def router(runtime: Models, limits: CatalogLimits) -> APIRouter:
    """Return the two routes; cards are read anew each time, for models come and go."""
    routes = APIRouter(tags=["models"])
    began = int(time.time())

    @routes.get("/v1/models", response_model=None, responses={200: {"model": ModelList}})
    async def every_model() -> Response:
        """Everything that is served."""
        cards = runtime.cards()

        def listed() -> Response:
            models = [_page(card, limits) for card in cards]
            data = [_openai(card, limits, began) for card in cards]
            return _json({"models": models, "object": "list", "data": data})

        return listed() if len(cards) <= FEW_MODELS else await asyncio.to_thread(listed)

    @routes.get("/v1/models/{model}", response_model=None, responses={200: {"model": OneModel}})
    async def one_model(model: str, request: Request) -> Response:
        """One model: sizes, device, outputs offered, limits and specification; `id` for OpenAI's clients."""
        card = runtime.card(model)
        request.scope["heed.model"] = card.name
        return _json(_page(card, limits) | _openai(card, limits, began))

    return routes


def _page(card: ModelCard, limits: CatalogLimits) -> dict[str, Any]:
    page = {name: getattr(card, name) for name in card.__dataclass_fields__ if name not in HIDDEN}
    page["outputs"] = [_output(name) for name in card.outputs]
    page["head_sets"] = {name: _head_set(found) for name, found in card.head_sets.items()}
    page["limits"] = {**asdict(limits), "max_sequence_tokens": _longest(card, limits)}
    return page


def _openai(card: ModelCard, limits: CatalogLimits, began: int) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": began,
        "owned_by": "heed",
        "max_model_len": min(_longest(card, limits), card.max_text_tokens or limits.max_sequence_tokens),
    }


def _longest(card: ModelCard, limits: CatalogLimits) -> int:
    """Return the most tokens of one sequence: the server's limit, or the model's, if that is less."""
    return min(limits.max_sequence_tokens, card.max_tokens or limits.max_sequence_tokens)


def _output(name: str) -> dict[str, Any]:
    output = OUTPUTS[name]
    return {
        "name": name,
        "shape": output.shape,
        "dtype": "int32" if output.dtype == "int32" else "float32",
        "layered": output.layered,
        "meaning": output.meaning,
    }


def _head_set(found: HeadSet) -> dict[str, Any]:
    return {
        "pairs": len(found.pairs),
        "heads": found.pairs if len(found.pairs) <= FEW_PAIRS else [],
        "layers": found.layers,
        "weighted": found.weights is not None,
        "whole": found.whole,
        "source": found.source,
    }


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
