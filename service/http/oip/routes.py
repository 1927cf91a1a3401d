"""Open Inference Protocol v2: what Triton's and KServe's own clients speak, on the same line as `attend`.

Sources: open-inference-protocol `specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`, `extension_model_configuration.md`. The specification prints
server-ready as `{"live": …}` by mistake.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.protocol import ModelCard, Models
from service.batching.job import Completed
from service.errors import Invalid, Malformed
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.exchange import Asked, Numbers, exchange, reading
from service.http.fields.predictions import spelled
from service.http.oip.outputs import check_reply, reply_tensors
from service.http.oip.schemas import ERRORS, configuration, infer_docs, metadata
from service.http.oip.tensors import attend_envelope, plan_of, settled
from service.http.pages.health import Health
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.http.schemas import AttendRequest
from service.http.texts.reading import Reading
from service.wire import oip
from service.wire.buffers import gather
from service.wire.dtypes import Buffer, Reserve
from service.wire.oip import InferRequest
from service.wire.oip_tensor import Tensor

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
HEADER_LENGTH = b"inference-header-content-length"
BINARY = (b"content-type", b"application/octet-stream")
NO_STORE = {"cache-control": "no-store"}


def router(context: Context, *, health: Health, version: str, max_result_bytes: int) -> APIRouter:
    """Return the protocol's routes over one server's parts."""
    routes = APIRouter(tags=["open inference protocol"], responses=ERRORS)
    _about_the_server(routes, health=health, version=version)
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


def _inference(routes: APIRouter, context: Context, max_result_bytes: int) -> None:
    @routes.post("/v2/models/{model}/infer", openapi_extra=infer_docs())
    async def model_infer(model: str, request: Request) -> Response:
        """Attend to one sequence, or to a padded batch of them.

        Options are `parameters` under the names of `attend`; outputs are its outputs. `lengths` [B] gives the
        true lengths of a batch, and is an output too, as are `tokens` for text, and `next_tokens` where words
        are predicted.
        """
        card = context.runtime.card(model)
        return await exchange(request, context, _Inference(request, context, card, max_result_bytes))

    @routes.post("/v2/models/{model}/versions/{version}/infer", openapi_extra=infer_docs())
    async def model_version_infer(model: str, version: str, request: Request) -> Response:
        """As above, by one version of a model."""
        card = context.runtime.card(model, version)
        return await exchange(request, context, _Inference(request, context, card, max_result_bytes))


class _Inference:
    """One request in the protocol's words, JSON or binary."""

    incoming = outgoing = "oip"

    def __init__(self, request: Request, context: Context, card: ModelCard, max_result_bytes: int) -> None:
        self._context, self._card = context, card
        request.scope["heed.model"] = card.name
        self._max_result_bytes = max_result_bytes
        self.json_bytes = _header_length(request)
        self.numbers: Numbers = "json"
        self.padded_bytes = 0

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the same request to `attend`, and how its texts are read."""
        infer = settled(self._decode(body, reserve))
        if infer.ignored:
            self._context.ignored.note(infer.ignored, where="parameters under /v2")
        plan = plan_of(infer)
        binary = {output.binary for output in plan.outputs}
        self.numbers = "json" if True not in binary else "mixed" if False in binary else "binary"
        asked = read_envelope(AttendRequest, attend_envelope(infer, plan))
        self._plan, self._id = plan, infer.id
        return asked, reading(asked, self._context.limits, self._card)

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items, whose outputs the reply can carry."""
        self.padded_bytes = check_reply(self._plan, resolved.items, max_result_bytes=self._max_result_bytes)
        return resolved

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        encoded = oip.encode(self._tensors(done, resolved), **self._about(resolved))
        if encoded.header_length is None:
            return gather(encoded.buffers), JSON
        return gather(encoded.buffers), (BINARY, (HEADER_LENGTH, b"%d" % encoded.header_length))

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the JSON piece by piece."""
        return oip.encode_pieces(self._tensors(done, resolved), **self._about(resolved))

    def fields(self, done: Completed, resolved: Resolved) -> Fields:  # noqa: ARG002  the line's
        """Return the headers of a reply in pieces."""
        return JSON

    def _decode(self, body: Buffer, reserve: Reserve) -> InferRequest:
        if self.json_bytes != 0:
            return oip.decode(body, self.json_bytes, reserve)
        if "embeddings" not in self._card.inputs:
            name = self._card.name
            raise Invalid(f"a raw body is embeddings, which model {name} does not take; send JSON")
        return oip.decode_raw(body, "embeddings", width=self._card.width)

    def _tensors(self, done: Completed, resolved: Resolved) -> list[tuple[Tensor, bool]]:
        asked, card = self._plan.asks("next_tokens"), self._card
        words = spelled(done.answers, card, self._context.runtime) if asked else ()
        return reply_tensors(self._plan, resolved.items, done.answers, resolved.texts, words)

    def _about(self, resolved: Resolved) -> dict[str, Any]:
        """Return what a reply says beside its tensors: `0.edited` of each sequence that had edits is true."""
        card = self._card
        edited = {f"{place}.edited": True for place, one in enumerate(resolved.edited) if one}
        names = {"model_name": card.name, "model_version": card.version, "request_id": self._id}
        return {**names, "parameters": edited}


def _header_length(request: Request) -> int | None:
    """Return how many bytes of the body are JSON, None where all of them are."""
    values = []
    said = b""
    for name, value in request.scope["headers"]:
        if name == HEADER_LENGTH:
            values.append(value)
        elif name == b"content-type":
            said = value
    if not values:
        return None
    if len(values) > 1 or not (values[0].isdigit() and len(values[0]) <= 18):
        raise Malformed("Inference-Header-Content-Length must be one number of bytes")
    length = int(values[0])
    if length == 0 and said.partition(b";")[0].strip().lower() == b"application/json":
        raise Malformed(
            "Inference-Header-Content-Length is 0, which says that the body is raw float32, but its "
            "Content-Type says JSON; leave the one out, or make the other application/octet-stream"
        )
    return length


def _json(body: dict[str, Any], *, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, media_type="application/json", headers=NO_STORE)
