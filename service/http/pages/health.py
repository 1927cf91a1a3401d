"""How the server is: `GET /health` for people and probes, `GET /metrics` for Prometheus.

Beside the request line. Health looks at the device itself: a server whose device thread died, or has given
no sign of life for longer than the watchdog allows, is not well, however quickly it answers. Of several
processes each is as well as the worst of them.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from models.protocol import Models
from service.batching.work_queue import WorkQueue
from service.http.around.accept import accept_of, quality, ranges_of
from service.http.around.lifecycle import Lifecycle
from service.metrics.exposition import OPENMETRICS, TEXT, Exposition
from service.metrics.registry import Metrics
from service.watchdog import BEAT_SECONDS, WATCHDOG_SECONDS

NO_STORE = {"cache-control": "no-store"}

EXPOSITIONS: dict[str, Any] = {TEXT.media_type: {}, OPENMETRICS.media_type: {}}

Status = Literal["starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the process, its device and the processes beside it say together.

    `silent_seconds`: since the device's last sign of life. `elsewhere`: what is wrong in another process.
    """

    lifecycle: Lifecycle
    engine: WorkQueue
    missing: Callable[[], list[str]] = list  # models that were named and are not served
    silent_seconds: Callable[[], float] = lambda: 0.0
    elsewhere: Callable[[], str] = lambda: ""
    watchdog_seconds: float = WATCHDOG_SECONDS

    @property
    def trouble(self) -> str:
        """Why nothing can be answered; "" when all is well."""
        engine = self.engine
        if self.lifecycle.state == "failed" or engine.state == "failed":
            return self.lifecycle.refusal.message
        if engine.state in ("ready", "draining") and not engine.alive:
            return "the device thread has ended"
        if self.silent:
            return f"the device has given no sign for over {self.watchdog_seconds:g} s"
        return self.elsewhere()

    @property
    def silent(self) -> bool:
        """Whether the device has given no sign of life for as long as the watchdog allows.

        A beat earlier: who froze it with the first request after a sign is told within the limit, too.
        """
        return self.silent_seconds() > self.watchdog_seconds - BEAT_SECONDS

    @property
    def status(self) -> Status:
        """`failed` when there is trouble, else where the process is in its life.

        It is `starting` until all models that were named are served.
        """
        if self.trouble:
            return "failed"
        return "starting" if self.lifecycle.state == "ready" and self.missing() else self.lifecycle.state

    @property
    def reason(self) -> str:
        """Why it is not ready, where there is more to say than the status does."""
        missing = self.missing()
        return self.trouble or (f"not served yet: {', '.join(missing)}" if missing else "")

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.status == "ready"

    @property
    def live(self) -> bool:
        """Whether the process is worth keeping."""
        return self.status != "failed"


def missing_models(named: Iterable[str], runtime: Models) -> Callable[[], list[str]]:
    """Return a function that tells which of the named models have not been served yet.

    One that was, and was unloaded since, is not missed: an administrator wanted it so.
    """
    waiting = set(named)

    def missing() -> list[str]:
        if waiting:
            waiting.difference_update(card.name for card in runtime.cards())
        return sorted(waiting)

    return missing


class Queue(BaseModel):
    """What is admitted and not let go of."""

    requests: int
    tokens: int


class Device(BaseModel):
    """The thread that owns the device."""

    state: str
    oldest_batch_seconds: float


class Summary(BaseModel):
    """One server at a glance; `reason` says what is wrong when it is `failed`, or what is awaited."""

    status: Status
    reason: str
    version: str
    models: list[str]
    queue: Queue
    device: Device


def router(health: Health, *, runtime: Models, metrics: Metrics, version: str) -> APIRouter:
    """Return `GET /health` and `GET /metrics`."""
    routes = APIRouter(tags=["operation"])
    # Of its own: a page of many models or processes takes milliseconds, and waits for nobody's stuck threads.
    writer = ThreadPoolExecutor(1, "heed-metrics")

    @routes.get("/health", response_model=None, responses={200: {"model": Summary}, 503: {"model": Summary}})
    async def summary() -> Response:
        """Whether the server is ready (200) or not (503), and what it holds."""
        engine = health.engine
        body = {
            "status": health.status,
            "reason": health.reason,
            "version": version,
            "models": [card.name for card in runtime.cards()],
            "queue": {"requests": engine.queued_requests, "tokens": engine.queued_tokens},
            "device": {
                "state": engine.state,
                "oldest_batch_seconds": round(engine.oldest_batch_seconds, 3),
            },
        }
        status = 200 if health.ready else 503
        return Response(orjson.dumps(body), status, media_type="application/json", headers=NO_STORE)

    @routes.get("/metrics", response_model=None, responses={200: {"content": EXPOSITIONS}})
    async def page(request: Request) -> Response:
        """Every metric in the Prometheus text format, or in OpenMetrics where Accept names it."""
        exposition = _liked(accept_of(request.scope["headers"]))
        written = await asyncio.get_running_loop().run_in_executor(writer, metrics.page, exposition)
        return Response(written, headers={**NO_STORE, "content-type": exposition.content_type})

    return routes


def _liked(accept: str) -> Exposition:
    """Return OpenMetrics where it is named and liked no less than the text format, which is for all others.

    A range of many types does not name it: who asks for `*/*` may know the older of the two alone.
    """
    ranges = ranges_of(accept)
    named = [one for one in ranges if one.media_type == OPENMETRICS.media_type]
    best, least = (
        quality(one.media_type, given, version=one.version)
        for one, given in ((OPENMETRICS, named), (TEXT, ranges))
    )
    return OPENMETRICS if best > 0 and best >= least else TEXT
