"""All of it put together: one Tracing an application, which begins and ends with it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from starlette.types import ASGIApp

from service import __version__
from service.batching.engine import BatchReport
from service.tracing.batches import Batches
from service.tracing.exporters import Quiet, Reasons, address, exporters, processor
from service.tracing.log_ids import TraceIds
from service.tracing.spans import StageSpans
from service.tracing.station import SpanStation

FLUSH_SECONDS = 1.5  # for what is not sent yet, at the end; a collector that takes longer gets no more
NAME = "heed"


class Tracing:
    """Traces of one application, sent by `exporters`; the sampler and the resource are the environment's.

    `to` is where a collector is said to be. Nothing is made global: whatever else in this process traces
    does so as before.
    """

    def __init__(self, exporters: Sequence[SpanExporter], to: str = "") -> None:
        self._reasons = Reasons()
        self._exporters = [Quiet(exporter, self._reasons, to) for exporter in exporters]
        self._processors: list[SpanProcessor] = [processor(exporter) for exporter in self._exporters]
        resource = _resource()
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        whole = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        for one in self._processors:
            provider.add_span_processor(one)
            whole.add_span_processor(one)
        self._tracer = provider.get_tracer(NAME, __version__)
        self._stage_spans = StageSpans(provider, self._processors)
        self._batches = Batches(whole.get_tracer(NAME, __version__))
        self._ids = TraceIds()
        self._handlers: list[logging.Handler] = []

    @classmethod
    def of(cls, environ: Mapping[str, str], endpoint: str | None) -> "Tracing":
        """Return what the environment asks for; `endpoint` is OTLP_ENDPOINT. Raises as `exporters` does."""
        return cls(exporters(environ, endpoint), address(environ, endpoint))

    def station(self, app: ASGIApp) -> ASGIApp:
        """Return the station in front of all others."""
        return SpanStation(app, tracer=self._tracer, stage_spans=self._stage_spans)

    def after(self, count: Callable[[Any], object]) -> Callable[[BatchReport], None]:
        """Return what records a batch once `count` has been told of it."""
        return partial(self._batch, count)

    def start(self) -> None:
        """Put the ids of traces into the log as it is now."""
        self._reasons.listen()
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self._ids)

    def stop(self) -> None:
        """Send what is not sent yet, for a moment, and end. Blocks: not for the event loop."""
        ending = [threading.Thread(target=one.shutdown, daemon=True) for one in self._processors]
        until = time.monotonic() + FLUSH_SECONDS
        for thread in ending:
            thread.start()
        late = False
        for thread, exporter in zip(ending, self._exporters, strict=True):
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                late = True
                exporter.shutdown()
        for handler in self._handlers:
            handler.removeFilter(self._ids)
        if not late:  # what still tries would say so
            self._reasons.forget()

    def _batch(self, count: Callable[[Any], object], report: BatchReport) -> None:
        count(report)
        self._batches.record(report)


def _resource() -> Resource:
    """Return what is said of this server with every span; OTEL_SERVICE_NAME and the like go before ours."""
    told = OTELResourceDetector().detect().attributes
    ours = {"service.name": NAME, "service.version": __version__}
    return Resource.create({name: value for name, value in ours.items() if name not in told})
