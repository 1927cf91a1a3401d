"""The parts of a wired application, and its life: it begins, has a pulse, and ends.

Beside the request line.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import FastAPI
from starlette.types import ASGIApp

from models.device.allocator import IDLE_SECONDS, Rest, give_back_free_blocks
from service.batching.work_queue import WorkQueue
from service.http.around.lifecycle import Lifecycle
from service.http.pages.health import Health
from service.memory_budget import Budget
from service.metrics.registry import Metrics
from service.socket.places import Places
from service.watchdog import Heartbeat, Patience, stacks
from service.wire.compiled.native import native

PULSE_SECONDS = 0.1
STOP_SECONDS = 0.5  # for the device thread to end, when all that was accepted has been answered

log = logging.getLogger(__name__)


class TraceSender(Protocol):
    """What sends traces, as `service.tracing` has it."""

    def station(self, app: ASGIApp) -> ASGIApp:
        """Return what stands in front of the observer."""

    def after(self, count: Callable[[Any], object]) -> Callable[[Any], None]:
        """Return what is told of a batch, and tells `count` first."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Send what is left, for a moment; blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The parts of a wired application that its process looks at; `heartbeat` is its event loop's.

    `tracing` is None where nobody asks for traces.
    """

    engine: WorkQueue
    lifecycle: Lifecycle
    metrics: Metrics
    health: Health
    heartbeat: Heartbeat
    places: Places
    budget: Budget
    tracing: TraceSender | None = None

    def abandon(self) -> None:
        """Answer what is still queued with 503 `draining`, at once."""
        self.engine.stop(timeout_seconds=0)

    def refused(self, status: int) -> None:
        """Count a request that was refused before it had a route."""
        self.metrics.request(route="unknown", model="", code=status, seconds=0.0)


def lifespan(service: Service) -> Callable[[FastAPI], Any]:
    """Return what starts the queue and the pulse of an application, and stops them at its end."""

    @asynccontextmanager
    async def lived(_: FastAPI) -> AsyncIterator[None]:
        native()  # is loaded before anyone waits for it
        service.engine.start()
        service.health.missing()  # takes note of what is served, before any of it may be unloaded
        if service.tracing is not None:
            service.tracing.start()
        service.lifecycle.begin()
        pulse = asyncio.create_task(_pulse(service))
        try:
            yield
        finally:
            pulse.cancel()
            await asyncio.to_thread(service.engine.stop, STOP_SECONDS)
            if service.tracing is not None:
                await asyncio.to_thread(service.tracing.stop)

    return lived


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
