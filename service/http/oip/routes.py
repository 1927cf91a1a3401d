"""Open Inference Protocol v2: what Triton's and KServe's own clients speak, on the same line as `attend`.

Sources: open-inference-protocol `specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`, `extension_model_configuration.md`, `extension_statistics.md`. The
specification prints server-ready as `{"live": …}` by mistake.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.protocol import ModelCard, Models
from service.http.context import Context
from service.http.exchange import exchange
from service.http.oip.inference import Inference
from service.http.oip.schemas import ERRORS, configuration, infer_docs, metadata
from service.http.oip.statistics import model_statistics
from service.http.pages.health import Health
from service.metrics.inferences import ModelTally

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
NO_STORE = {"cache-control": "no-store"}


def router(
    context: Context,
    *,
    health: Health,
    version: str,
    max_result_bytes: int,
    tallies: Callable[[], Mapping[str, ModelTally]],
) -> APIRouter:
    """Return the protocol's routes over one server's parts; `tallies` say what was asked of each model."""
    routes = APIRouter(tags=["open inference protocol"], responses=ERRORS)
    _about_the_server(routes, health=health, version=version)
    _statistics(routes, context.runtime, tallies)
    _about_models(routes, context.runtime, health=health)
    _inference(routes, context, max_result_bytes)
    return routes


def _about_the_server(routes: APIRouter, *, health: Health, version: str) -> None:
    @routes.get("/v2")
    async def server_metadata() -> Response:
        """Name, version and the extensions that are offered."""
        return _json({"name": "heed", "version": version, "extensions": list(EXTENSIONS)})

    @routes.get("/v2/health/live")
    async def server_live() -> Response:
        """Whether the process is worth keeping; the status code says the same."""
        return _json({"live": health.live}, status=200 if health.live else 503)

    @routes.get("/v2/health/ready")
    async def server_ready() -> Response:
        """Whether requests should be sent here; the status code says the same."""
        return _json({"ready": health.ready}, status=200 if health.ready else 503)


def _about_models(routes: APIRouter, runtime: Models, *, health: Health) -> None:
    def ready(card: ModelCard) -> Response:
        body = {"name": card.name, "version": card.version, "ready": health.ready}
        return _json(body, status=200 if health.ready else 503)

    @routes.get("/v2/models/{model}")
    async def model_metadata(model: str) -> Response:
        """Describe inputs and outputs of a model; sizes that depend on the request are −1."""
        return _json(metadata(runtime.card(model)))

    @routes.get("/v2/models/{model}/versions/{version}")
    async def model_version_metadata(model: str, version: str) -> Response:
        """Describe inputs and outputs of one version of a model."""
        return _json(metadata(runtime.card(model, version)))

    @routes.get("/v2/models/{model}/config")
    async def model_configuration(model: str) -> Response:
        """Describe a model as Triton's model configuration extension does."""
        return _json(configuration(runtime.card(model)))

    @routes.get("/v2/models/{model}/versions/{version}/config")
    async def model_version_configuration(model: str, version: str) -> Response:
        """Describe one version of a model as Triton's model configuration extension does."""
        return _json(configuration(runtime.card(model, version)))

    @routes.get("/v2/models/{model}/ready")
    async def model_ready(model: str) -> Response:
        """Whether a model answers; 404 when there is none of this name."""
        return ready(runtime.card(model))

    @routes.get("/v2/models/{model}/versions/{version}/ready")
    async def model_version_ready(model: str, version: str) -> Response:
        """Whether one version of a model answers."""
        return ready(runtime.card(model, version))


def _statistics(routes: APIRouter, runtime: Models, tallies: Callable[[], Mapping[str, ModelTally]]) -> None:
    async def told(cards: Sequence[ModelCard]) -> Response:
        found = await asyncio.to_thread(tallies)  # files of several processes
        return _json({"model_stats": [model_statistics(card, found.get(card.name)) for card in cards]})

    @routes.get("/v2/models/stats")  # before the page of a model, which could be called so
    async def statistics() -> Response:
        """Say what was asked of every model since the server began, and where its time went."""
        return await told(runtime.cards())

    @routes.get("/v2/models/{model}/stats")
    async def statistics_of_model(model: str) -> Response:
        """Say what was asked of one model since the server began, and where its time went."""
        return await told([runtime.card(model)])

    @routes.get("/v2/models/{model}/versions/{version}/stats")
    async def statistics_of_version(model: str, version: str) -> Response:
        """Say the same of a version that is served; numbers are those of the model's name."""
        return await told([runtime.card(model, version)])


def _inference(routes: APIRouter, context: Context, max_result_bytes: int) -> None:
    @routes.post("/v2/models/{model}/infer", openapi_extra=infer_docs())
    async def model_infer(model: str, request: Request) -> Response:
        """Attend to one sequence, or to a padded batch of them.

        Options are `parameters` under the names of `attend`; outputs are its outputs. `lengths` [B] gives the
        true lengths of a batch, and is an output too, as are `tokens` for text, and `next_tokens` where words
        are predicted.
        """
        card = context.runtime.card(model)
        return await exchange(request, context, Inference(request, context, max_result_bytes, card))

    @routes.post("/v2/models/{model}/versions/{version}/infer", openapi_extra=infer_docs())
    async def model_version_infer(model: str, version: str, request: Request) -> Response:
        """As above, by one version of a model."""
        card = context.runtime.card(model, version)
        return await exchange(request, context, Inference(request, context, max_result_bytes, card))


def _json(body: dict[str, Any], *, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json", headers=NO_STORE)
