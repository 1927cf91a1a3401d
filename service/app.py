"""The only place that wires: settings become plain values, stations are handed to each other.

`create_app(settings, runtime)` is the whole service; a test gives it a fake runtime, `heed serve` a real one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from models.device.allocator import IDLE_SECONDS, Rest, give_back_free_blocks
from models.errors import UnknownModel
from models.protocol import Models, Runtime
from service import __version__
from service.batching.engine import BatchReport, Engine
from service.batching.job import CancelReason
from service.batching.limits import Limits
from service.batching.work_queue import WorkQueue
from service.http import attend, embeddings
from service.http.around.auth import Authentication
from service.http.around.compression import Compression
from service.http.around.gate import Gate
from service.http.around.heads import Heads
from service.http.around.lifecycle import Lifecycle
from service.http.around.middleware import Observer
from service.http.around.quotas import QuotaLimits, Quotas
from service.http.around.shortcut import Shortcut, busy_routes
from service.http.around.unpacking import Unpacking
from service.http.context import Context, RequestLimits
from service.http.errors import ErrorBody, install
from service.http.oip import administration
from service.http.oip import routes as inference
from service.http.pages import api_page, catalog, explorer, health
from service.http.pages.catalog import CatalogLimits
from service.http.pages.health import Health, missing_models
from service.memory_budget import Budget
from service.memory_granted import default_budget
from service.metrics import Metrics
from service.settings import Settings
from service.socket.endings import Endings
from service.socket.pace import ConnectionLimits
from service.socket.places import Places
from service.watchdog import Heartbeat, Patience, stacks
from service.wire.compiled.native import native

__all__ = ["Service", "connection_limits", "create_app", "engine_limits", "service_of"]

PULSE_SECONDS = 0.1
STOP_SECONDS = 0.5  # for the device thread to end, when all that was accepted has been answered

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a wired application that its process looks at; `heartbeat` is its event loop's."""

    engine: WorkQueue
    lifecycle: Lifecycle
    metrics: Metrics
    health: Health
    heartbeat: Heartbeat
    places: Places
    budget: Budget

    def abandon(self) -> None:
        """Answer what is still queued with 503 `draining`, at once."""
        self.engine.stop(timeout_seconds=0)

    def refused(self, status: int) -> None:
        """Count a request that was refused before it had a route."""
        self.metrics.request(route="unknown", model="", code=status, seconds=0.0)


def create_app(
    settings: Settings,
    runtime: Models,
    *,
    queue: Callable[..., WorkQueue] | None = None,
    elsewhere: Callable[[], str] = lambda: "",
    budget: Budget | None = None,
) -> FastAPI:
    """Return the application over `runtime`; its lifespan starts and stops the queue.

    `queue` makes the queue of its limits and callbacks; without it `runtime` is a Runtime, and the queue an
    Engine in front of it. `elsewhere` says what is wrong with another process of the server, "" for nothing.
    `budget` is this process's part in a budget of several.
    """
    if budget is None:
        budget = Budget(settings.max_memory_bytes or default_budget())
    service = _service(settings, runtime, queue or partial(Engine, cast(Runtime, runtime)), elsewhere, budget)
    app = _Application(
        title="Heed",
        summary="The attention server: contextual vectors and attention matrices over HTTP.",
        version=__version__,
        lifespan=_lifespan(service),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from Host, which anyone may write
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}, 422: {"model": ErrorBody}},
    )
    app.state.service = service
    context = Context(
        runtime=runtime,
        engine=service.engine,
        metrics=service.metrics,
        limits=RequestLimits(
            deadline_ms=settings.deadline_ms,
            truncate=settings.truncate,
            max_sequence_tokens=settings.max_sequence_tokens,
            max_queued_tokens=settings.max_queued_tokens,
        ),
    )
    attention = attend.router(context)
    protocol = inference.router(
        context, health=service.health, version=__version__, max_result_bytes=settings.max_result_bytes
    )
    pooled = embeddings.router(context)
    app.include_router(attention)
    app.include_router(pooled)
    app.include_router(catalog.router(runtime, _catalog_limits(settings)))
    app.include_router(protocol)
    app.include_router(administration.router(runtime, admin=settings.admin))
    app.include_router(
        health.router(service.health, runtime=runtime, metrics=service.metrics, version=__version__)
    )
    app.include_router(explorer.router())
    app.include_router(api_page.router(lambda: app.openapi()))
    install(app)
    busy = busy_routes([*attention.routes, *pooled.routes, *protocol.routes])
    app.surround = lambda routed: _surrounded(
        Shortcut(Heads(routed), routes=busy), settings=settings, service=service, runtime=runtime
    )
    if settings.api_keys:
        app.openapi = _with_keys(app)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def service_of(app: FastAPI) -> Service:
    """Return the parts that `create_app` wired."""
    service: Service = app.state.service
    return service


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return what callers have to keep to on their connections."""
    return ConnectionLimits(
        keep_alive_seconds=settings.keep_alive_seconds,
        head_seconds=settings.head_seconds,
        stall_seconds=settings.stall_seconds,
        min_bytes_per_second=settings.min_bytes_per_second,
    )


def _service(
    settings: Settings,
    runtime: Models,
    queue: Callable[..., WorkQueue],
    elsewhere: Callable[[], str],
    budget: Budget,
) -> Service:
    metrics = Metrics()
    places = Places(settings.max_connections, Endings(metrics.connection_ended))
    lifecycle = Lifecycle()
    engine = queue(
        engine_limits(settings),
        on_batch=_batch_counter(metrics),
        on_fatal=lambda _: lifecycle.fail(),
        on_cancel=_expiry_counter(metrics),
    )
    metrics.watch(
        queued_requests=lambda: engine.queued_requests,
        queued_tokens=lambda: engine.queued_tokens,
        connections=lambda: places.open,
        model_bytes=lambda: {card.name: card.bytes_resident for card in runtime.cards()},
        device_memory=runtime.memory,
        memory_held=lambda: budget.held,
        memory_limit=lambda: budget.limit,
    )
    budget.on_refusal = metrics.memory_refused
    return Service(
        engine=engine,
        lifecycle=lifecycle,
        metrics=metrics,
        health=Health(
            lifecycle=lifecycle,
            engine=engine,
            missing=missing_models(settings.named, runtime),
            silent_seconds=lambda: runtime.silent_seconds,
            elsewhere=elsewhere,
            watchdog_seconds=settings.watchdog_seconds,
        ),
        heartbeat=Heartbeat(),
        places=places,
        budget=budget,
    )


def engine_limits(settings: Settings) -> Limits:
    """Return the bounds of the queue and of batches."""
    standard = Limits()
    return Limits(
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_scores=settings.max_batch_scores,
        max_batch_result_bytes=max(standard.max_batch_result_bytes, settings.max_result_bytes),
        max_queued_requests=settings.max_queued_requests,
        max_queued_tokens=settings.max_queued_tokens,
        max_queued_result_bytes=max(standard.max_queued_result_bytes, 4 * settings.max_result_bytes),
        max_result_bytes=settings.max_result_bytes,
        max_sequence_tokens=settings.max_sequence_tokens,
        max_wait_seconds=settings.max_wait_ms / 1000,
    )


def _catalog_limits(settings: Settings) -> CatalogLimits:
    return CatalogLimits(
        max_body_bytes=settings.max_body_bytes,
        max_result_bytes=settings.max_result_bytes,
        max_sequence_tokens=settings.max_sequence_tokens,
        deadline_ms=settings.deadline_ms,
    )


def _batch_counter(metrics: Metrics) -> Callable[[BatchReport], None]:
    def count(report: BatchReport) -> None:
        metrics.batch(
            model=report.model,
            sequences=report.sequences,
            tokens=report.tokens,
            computed_tokens=report.computed_tokens,
            compute_seconds=report.compute_seconds,
        )
        for seconds in report.queue_seconds:
            metrics.queued(seconds)

    return count


def _expiry_counter(metrics: Metrics) -> Callable[[CancelReason], None]:
    def count(reason: CancelReason) -> None:
        if reason == "deadline":  # a caller who left is counted where it is noticed, by the observer
            metrics.cancelled("deadline_exceeded")

    return count


class _Application(FastAPI):
    """FastAPI, with Heed's stations around all of it: what they answer themselves never enters it."""

    surround: Callable[[ASGIApp], ASGIApp] = staticmethod(lambda routed: routed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's life."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        """Return the stations around the framework's own, less its last handler: the observer is ours."""
        stack = super().build_middleware_stack()
        return self.surround(stack.app if isinstance(stack, ServerErrorMiddleware) else stack)


def _surrounded(app: ASGIApp, *, settings: Settings, service: Service, runtime: Models) -> ASGIApp:
    """Put the stations around the routes, the innermost first."""

    def is_model(name: str) -> bool:
        try:
            return runtime.card(name).name == name
        except UnknownModel:
            return False

    app = Compression(app)
    app = Unpacking(app, max_body_bytes=settings.max_body_bytes)
    limits = QuotaLimits(
        requests_per_second=settings.key_requests_per_second,
        tokens_per_second=settings.key_tokens_per_second,
        concurrency=settings.key_concurrency,
    )
    if limits.any:
        app = Quotas(app, limits=limits)
    app = Authentication(app, keys=[key.get_secret_value() for key in settings.api_keys])
    app = Gate(
        app,
        max_body_bytes=settings.max_body_bytes,
        lifecycle=service.lifecycle,
        budget=service.budget,
    )
    return Observer(
        app,
        metrics=service.metrics,
        lifecycle=service.lifecycle,
        is_model=is_model,
        pages=("/docs", "/openapi.json"),
    )


def _lifespan(service: Service) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        native()  # is loaded before anyone waits for it
        service.engine.start()
        service.health.missing()  # takes note of what is served, before any of it may be unloaded
        service.lifecycle.begin()
        pulse = asyncio.create_task(_pulse(service))
        try:
            yield
        finally:
            pulse.cancel()
            await asyncio.to_thread(service.engine.stop, STOP_SECONDS)

    return lifespan


async def _pulse(service: Service) -> None:
    """Measure how late the event loop wakes, and notice a device that died without a word or gives no sign.

    And give back what is free once nothing has been asked for a while: what large results took stays else.
    """
    loop = asyncio.get_running_loop()
    rest = Rest(IDLE_SECONDS)
    patience = Patience(service.health.watchdog_seconds)
    while True:
        service.heartbeat.beat()
        due = loop.time() + PULSE_SECONDS
        await asyncio.sleep(PULSE_SECONDS)
        service.metrics.lag(max(0.0, loop.time() - due))
        service.metrics.note()
        if rest.due(
            loop.time(), served=service.engine.admitted_requests, busy=service.engine.queued_requests > 0
        ):
            await asyncio.to_thread(give_back_free_blocks)
        if service.engine.state in ("ready", "draining") and not service.engine.alive:
            service.lifecycle.fail()
        if patience.ended(loop.time(), trouble=service.health.silent):
            if service.lifecycle.state != "failed":
                log.critical("the device gives no sign; the server ends", extra={"fields": {"at": stacks()}})
            service.lifecycle.fail()


def _with_keys(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Return `app.openapi` with the two ways to give a key, so that `/docs` offers them."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            schema.setdefault("components", {})["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            schema["security"] = [{"bearer": []}, {"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi
