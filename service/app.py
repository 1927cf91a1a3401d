"""The only place that wires: settings become plain values, stations are handed to each other.

`create_app(settings, runtime)` is the whole service; a test gives it a fake runtime, `heed serve` a real one.
"""

from collections.abc import Callable, Iterable
from functools import partial
from platform import python_version
from typing import Any, cast

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from models.protocol import Models, Runtime
from service import __version__
from service.batching.engine import Engine
from service.batching.job import CancelReason
from service.batching.limits import Limits
from service.batching.work_queue import WorkQueue
from service.environment import tracing_of
from service.http import attend, embeddings
from service.http.around.lifecycle import Lifecycle
from service.http.around.paths import hidden
from service.http.around.stations import Application, Stations
from service.http.context import Context, RequestLimits
from service.http.errors import ErrorBody, install
from service.http.oip import administration
from service.http.oip import routes as inference
from service.http.pages import api_page, catalog, explorer, health
from service.http.pages.catalog import CatalogLimits
from service.http.pages.health import Health, missing_models
from service.http.platforms import routes as platforms
from service.http.tei import routes as tei
from service.http.tokens import routes as tokens
from service.lifetime import Service, TraceSender, lifespan
from service.memory_budget import Budget
from service.memory_granted import default_budget
from service.metrics.gauges import Readings
from service.metrics.registry import Metrics
from service.settings import Settings, SettingsError
from service.socket.endings import Endings
from service.socket.pace import ConnectionLimits
from service.socket.places import Places
from service.stations import inner_stations, outer_stations
from service.watchdog import Heartbeat

# The routes that carry the load: POST, and answered past the framework.
BUSY = (
    "/v1/models/{model}/attend",
    "/v1/attention",
    *embeddings.PATHS,
    "/embed",
    "/",
    "/v2/models/{model}/infer",
    "/invocations",
)


def create_app(
    settings: Settings,
    runtime: Models,
    *,
    queue: Callable[..., WorkQueue] | None = None,
    elsewhere: Callable[[], str] = lambda: "",
    budget: Budget | None = None,
    tracing: TraceSender | None = None,
) -> FastAPI:
    """Return the application over `runtime`; its lifespan starts and stops the queue.

    `queue` makes the queue of its limits and callbacks; without it `runtime` is a Runtime, and the queue an
    Engine in front of it. `elsewhere` says what is wrong with another process of the server, "" for nothing.
    `budget` is this process's part in a budget of several. Without `tracing`, the environment says.
    """
    if budget is None:
        budget = Budget(settings.max_memory_bytes or default_budget())
    tracing = tracing or tracing_of(settings.otlp_endpoint)
    queue = queue or partial(Engine, cast(Runtime, runtime))
    service = _service(settings, runtime, queue, elsewhere, budget, tracing)
    app = Application(
        title="Heed",
        summary="The attention server: contextual vectors and attention matrices over HTTP.",
        version=__version__,
        lifespan=lifespan(service),
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from Host, which anyone may write
        generate_unique_id_function=lambda route: route.name,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}, 422: {"model": ErrorBody}},
        servers=[{"url": settings.root_path}] if settings.root_path else None,
    )
    app.needs_key = bool(settings.api_keys)
    app.state.service = service
    context = _context(settings, runtime, service.engine, service.metrics)
    routers = _routers(settings, context, service.health, service.metrics, describe=lambda: app.openapi())
    for router in routers:
        app.include_router(router)
    routes = _routes(routers)
    methods: dict[str, set[str]] = {}
    for route in routes:
        methods.setdefault(route.path, set()).update(route.methods or ())
    install(app, methods)
    posts = {route.path: route for route in routes if "POST" in (route.methods or ())}
    busy = [posts[path] for path in BUSY]
    stations = inner_stations(settings, service, context, busy)
    app.stations = Stations(app, [*outer_stations(settings, service, routes), *stations])
    return app


def require_paths(settings: Settings) -> None:
    """Raise SettingsError where a path that a platform chose hides a route; before anything is loaded."""
    if settings.health_route is None and settings.predict_route is None:
        return
    nothing: Any = None  # routes look at models, at the queue and at metrics when they are asked
    context = _context(settings, nothing, nothing, nothing)
    routes = _routes(_routers(settings, context, nothing, nothing, describe=dict))
    if found := hidden(routes, health=settings.health_route, predict=settings.predict_route):
        raise SettingsError(found)


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


def _context(settings: Settings, runtime: Models, engine: WorkQueue, metrics: Metrics) -> Context:
    return Context(
        runtime=runtime,
        engine=engine,
        metrics=metrics,
        limits=RequestLimits(
            deadline_ms=settings.deadline_ms,
            truncate=settings.truncate,
            max_sequence_tokens=settings.max_sequence_tokens,
            max_queued_tokens=settings.max_queued_tokens,
            max_queued_requests=settings.max_queued_requests,
            max_batch_tokens=settings.max_batch_tokens,
        ),
        default_model=settings.default_model,
    )


def _routes(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def _routers(
    settings: Settings,
    context: Context,
    about: Health,
    metrics: Metrics,
    *,
    describe: Callable[[], dict[str, Any]],
) -> list[APIRouter]:
    """Return all routes; `describe` says what the others are."""
    runtime = context.runtime
    limits = CatalogLimits(
        max_body_bytes=settings.max_body_bytes,
        max_result_bytes=settings.max_result_bytes,
        max_sequence_tokens=settings.max_sequence_tokens,
        deadline_ms=settings.deadline_ms,
    )
    most = settings.max_result_bytes
    page = explorer.router(prefix=settings.root_path or "", ancestors=settings.frame_ancestors)
    return [
        attend.router(context),
        embeddings.router(context),
        catalog.router(runtime, limits),
        inference.router(
            context,
            health=about,
            version=__version__,
            max_result_bytes=most,
            tallies=lambda: metrics.statistics(),
        ),
        platforms.router(context, health=about, max_result_bytes=most),
        administration.router(runtime, admin=settings.admin),
        tokens.router(context),
        tei.router(context),
        health.router(about, runtime=runtime, metrics=metrics, version=__version__),
        page,
        api_page.router(describe, ancestors=settings.frame_ancestors),
    ]


def _service(
    settings: Settings,
    runtime: Models,
    queue: Callable[..., WorkQueue],
    elsewhere: Callable[[], str],
    budget: Budget,
    tracing: TraceSender | None,
) -> Service:
    metrics = Metrics()
    places = Places(settings.max_connections, Endings(metrics.connection_ended))
    lifecycle = Lifecycle()
    engine = queue(
        engine_limits(settings),
        on_batch=metrics.batch if tracing is None else tracing.after(metrics.batch),
        on_fatal=lifecycle.fail,
        on_cancel=_expiry_counter(metrics),
    )
    readings = Readings(
        queued_requests=lambda: engine.queued_requests,
        queued_tokens=lambda: engine.queued_tokens,
        connections=lambda: places.open,
        model_bytes=lambda: {card.name: card.bytes_resident for card in runtime.cards()},
        device_memory=runtime.memory,
        memory_held=lambda: budget.held,
        memory_limit=lambda: budget.limit,
        waiting_requests=lambda: engine.waiting_requests,
        about=lambda: {"version": __version__, "python": python_version(), **runtime.about},
    )
    metrics.watch(readings)
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
        tracing=tracing,
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


def _expiry_counter(metrics: Metrics) -> Callable[[CancelReason], None]:
    def count(reason: CancelReason) -> None:
        if reason == "deadline":  # a caller who left is counted where it is noticed, by the observer
            metrics.cancelled("deadline_exceeded")

    return count
