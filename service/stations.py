"""Which stations stand around the routes: settings become plain values, as in `app`.

Under `app`.
"""

from collections.abc import Sequence
from functools import partial

from fastapi.routing import APIRoute

from models.errors import UnknownModel
from service.grpc.starting import grpc_stations
from service.http.around.auth import Authentication
from service.http.around.compression import Compression
from service.http.around.gate import Gate
from service.http.around.head_method import HeadMethod
from service.http.around.middleware import Observer
from service.http.around.paths import Paths, new_names
from service.http.around.quotas import QuotaLimits, Quotas
from service.http.around.shortcut import Shortcut
from service.http.around.stations import Station
from service.http.around.unpacking import Unpacking
from service.http.browsers.cross_origin import CrossOrigin, Preflight
from service.http.context import Context
from service.lifetime import Service
from service.settings import Settings


def outer_stations(settings: Settings, service: Service, routes: Sequence[APIRoute]) -> list[Station]:
    """Return the stations that are there when they are asked for, around the observer."""
    stations: list[Station] = []
    names = new_names(routes, health=settings.health_route, predict=settings.predict_route)
    if settings.root_path or names:
        stations.append(partial(Paths, prefix=settings.root_path or "", names=names))
    if service.tracing is not None:
        stations.append(service.tracing.station)
    if settings.cors_origins:
        stations.append(partial(CrossOrigin, origins=settings.cors_origins))
    return stations


def inner_stations(
    settings: Settings, service: Service, context: Context, busy: Sequence[APIRoute]
) -> list[Station]:
    """Return the stations around the routes, the outermost first."""

    def is_model(name: str) -> bool:
        try:
            return context.runtime.card(name).name == name
        except UnknownModel:
            return False

    observer = partial(
        Observer,
        metrics=service.metrics,
        lifecycle=service.lifecycle,
        is_model=is_model,
        pages=("/docs", "/openapi.json"),
    )
    gate = partial(
        Gate,
        max_body_bytes=settings.max_body_bytes,
        lifecycle=service.lifecycle,
        budget=service.budget,
    )
    stations: list[Station] = [observer, Preflight, gate] if settings.cors_origins else [observer, gate]
    if settings.api_keys:
        keys = [key.get_secret_value() for key in settings.api_keys]
        stations.append(partial(Authentication, keys=keys))
    limits = QuotaLimits(
        requests_per_second=settings.key_requests_per_second,
        tokens_per_second=settings.key_tokens_per_second,
        concurrency=settings.key_concurrency,
    )
    if limits.any:
        stations.append(partial(Quotas, limits=limits))
    stations += [partial(Unpacking, max_body_bytes=settings.max_body_bytes), Compression]
    return [*stations, *grpc_stations(settings, context), partial(Shortcut, routes=busy), HeadMethod]
