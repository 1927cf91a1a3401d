"""Open Inference Protocol v2: what Triton's and KServe's own clients speak, on the same line as `attend`.

Sources: open-inference-protocol `specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`, `extension_model_configuration.md`. The specification prints
server-ready as `{"live": …}` by mistake.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from models.outputs import DTYPES as NUMBER_BYTES
from models.protocol import ModelCard, Models
from service.errors import Invalid, Malformed
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.exchange import Read, admitted, deadline_of, hold_inputs, read_body
from service.http.negotiate import CHECK_MS, READ_JSON_MS, WRITE_JSON_MS
from service.http.oip.schemas import ERRORS, configuration, infer_docs, metadata
from service.http.oip.tensors import Plan, attend_envelope, check_reply, plan_of, reply_tensors, settled
from service.http.pages.health import Health
from service.http.read_ahead import read_ahead, reading, text_ms
from service.http.replies import (
    BuffersResponse,
    PiecesResponse,
    reply_bytes,
    server_timing,
)
from service.http.resolve import Resolved, resolve_attend
from service.http.schemas import AttendRequest
from service.http.turns import MIB
from service.memory_budget import COUNTED_BYTES, claim_of
from service.wire import oip
from service.wire.buffers import gather
from service.wire.compiled.native import LARGEST_NUMBER_BYTES
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.json_strings import require_few_string_bytes
from service.wire.oip import InferRequest, Tensor

__all__ = ["EXTENSIONS", "router"]

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
HEADER_LENGTH = b"inference-header-content-length"
NO_STORE = {"cache-control": "no-store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    infer: InferRequest
    plan: Plan
    attend: AttendRequest
    resolved: Resolved
    padded_bytes: int
    largest_whole: int

    def held(self, result_bytes: int) -> int:
        """Return how much memory a result takes with its reply."""
        written = self.padded_bytes or result_bytes
        number_bytes = NUMBER_BYTES[self.resolved.items[0].selection.dtype]
        binary = [output.binary for output in self.plan.outputs]
        if all(binary):
            return result_bytes + self.padded_bytes
        if any(binary):  # the length of the JSON stands in the head, so all of it is there
            return result_bytes + self.padded_bytes + written // number_bytes * LARGEST_NUMBER_BYTES
        return (
            result_bytes
            + self.padded_bytes
            - written
            + reply_bytes(written, number_bytes=number_bytes, largest_whole=self.largest_whole)
        )


def router(context: Context, *, health: Health, version: str, max_result_bytes: int) -> APIRouter:
    """Return the protocol's routes over one server's parts."""
    routes = APIRouter(tags=["open inference protocol"], responses=ERRORS)
    _about_the_server(routes, health=health, version=version)
    _about_models(routes, context.runtime, health=health)

    async def infer(request: Request, card: ModelCard) -> Response:
        return await _infer(request, context, card, max_result_bytes=max_result_bytes)

    _inference(routes, context.runtime, infer)
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


def _inference(
    routes: APIRouter, runtime: Models, infer: Callable[[Request, ModelCard], Awaitable[Response]]
) -> None:
    @routes.post("/v2/models/{model}/infer", openapi_extra=infer_docs())
    async def model_infer(model: str, request: Request) -> Response:
        """Attend to one sequence, or to a padded batch of them.

        Options are `parameters` under the names of `attend`; outputs are its outputs. `lengths` [B] gives the
        true lengths of a batch, and is an output too, as is `tokens` for text.
        """
        return await infer(request, runtime.card(model))

    @routes.post("/v2/models/{model}/versions/{version}/infer", openapi_extra=infer_docs())
    async def model_version_infer(model: str, version: str, request: Request) -> Response:
        """As above, by one version of a model."""
        return await infer(request, runtime.card(model, version))


async def _infer(request: Request, context: Context, card: ModelCard, *, max_result_bytes: int) -> Response:
    """Answer one request; raises every HeedError of the contract, ClientDisconnect when the caller left."""
    started = context.clock()
    header_length = _header_length(request)
    body = await read_body(request.receive)
    decode_started = time.perf_counter()

    claim = claim_of(request.scope)
    counted = len(body) >= COUNTED_BYTES
    reserve = claim.take if counted else reserve_nothing
    held = claim.held

    def read() -> tuple[InferRequest, Plan]:
        if counted and claim.held > held:  # begun before, on the event loop
            claim.become(held)
        require_few_string_bytes(memoryview(body)[:header_length], context.limits.text_bytes)
        infer = settled(_decode(body, header_length, card, reserve))
        return infer, plan_of(infer)

    def prepare(attend: AttendRequest, read: Read) -> _Asked:
        how = reading(attend, context, card)
        resolved = resolve_attend(attend, runtime=context.runtime, how=how, read=read)
        padded = check_reply(plan, resolved.items, max_result_bytes=max_result_bytes)
        return _Asked(
            infer=infer,
            plan=plan,
            attend=attend,
            resolved=resolved,
            padded_bytes=padded,
            largest_whole=claim.largest_whole,
        )

    json_bytes = len(body) if header_length is None else header_length
    infer, plan = await context.turns.run(read, ms=(READ_JSON_MS * json_bytes + CHECK_MS * len(body)) / MIB)
    context.ignored.note(infer.ignored, where="parameters under /v2")

    def envelope() -> AttendRequest:
        return read_envelope(AttendRequest, attend_envelope(infer, plan))

    check_ms = CHECK_MS * len(body) / MIB
    if plan.texts:
        attend = await context.turns.run(envelope, ms=check_ms)
        how, deadline = reading(attend, context, card), deadline_of(attend, context, started)
        ahead = await read_ahead(request, context, attend, how, deadline=deadline)
        check_ms += 0.0 if ahead is not None else text_ms(attend.inputs, card)
        asked = await context.turns.run(lambda: prepare(attend, ahead), ms=check_ms)
    else:
        asked = await context.turns.run(lambda: prepare(envelope(), None), ms=check_ms)
    if counted and header_length is None:
        await context.turns.run(lambda: hold_inputs(claim, asked.resolved, body_bytes=len(body)), ms=0.0)
    decode_seconds = time.perf_counter() - decode_started
    # Counted while the device computes, or once the reply is on its way.
    soon = asyncio.get_running_loop().call_soon
    soon(context.metrics.decoded, "oip", decode_seconds)
    async with admitted(
        request, context, asked.resolved, asked=asked.attend, started=started, held=asked.held
    ) as done:
        encode_started = time.perf_counter()

        def tensors() -> list[tuple[Tensor, bool]]:
            return reply_tensors(asked.plan, asked.resolved.items, done.answers, asked.resolved.texts)

        names: dict[str, Any] = {
            "model_name": card.name,
            "model_version": card.version,
            "request_id": asked.infer.id,
        }
        result_bytes = sum(tensor.nbytes for answer in done.answers for tensor in answer.tensors.values())
        size = asked.padded_bytes or result_bytes
        if size > claim.largest_whole and not any(output.binary for output in asked.plan.outputs):
            return PiecesResponse(
                lambda: oip.encode_pieces(tensors(), **names),
                media_type="application/json",
                timing=lambda seconds: server_timing(done, decode=decode_seconds, encode=seconds),
                done=partial(context.metrics.encoded, "oip"),
            )
        copied = asked.plan.batched or not all(output.binary for output in asked.plan.outputs)
        encoded = await context.turns.run(
            lambda: oip.encode(tensors(), **names), ms=WRITE_JSON_MS * size / MIB if copied else 0.0
        )
        encode_seconds = time.perf_counter() - encode_started
    soon(context.metrics.encoded, "oip", encode_seconds)
    timing = server_timing(done, decode=decode_seconds, encode=encode_seconds)
    buffers = gather(encoded.buffers)
    if encoded.header_length is None:
        return BuffersResponse(buffers, media_type="application/json", timing=timing)
    length = (HEADER_LENGTH, str(encoded.header_length).encode())
    return BuffersResponse(buffers, media_type="application/octet-stream", timing=timing, more=(length,))


def _decode(body: Buffer, header_length: int | None, card: ModelCard, reserve: Reserve) -> InferRequest:
    if header_length != 0:
        return oip.decode(body, header_length, reserve)
    if "embeddings" not in card.inputs:
        raise Invalid(f"a raw body is embeddings, which model {card.name} does not take; send JSON")
    return oip.decode_raw(body, "embeddings", width=card.width)


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
