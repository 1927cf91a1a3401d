"""A span for each batch that the device ran, linked to the requests in it.

Batches are made of requests of many traces, so that each is a trace of its own. It is recorded when one of
its requests is, whatever the sampler would say of it.
"""

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, TraceFlags, Tracer

from service.batching.engine import BatchReport
from service.tracing.spans import Attributes, Clock

NAME = "batch"


class Batches:
    """Makes spans with a tracer that records all it is given; called on any thread."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def record(self, report: BatchReport) -> None:
        """Record one run on the device, where a request in it is recorded."""
        if not report.traces:
            return
        clock = Clock.now()
        attributes: Attributes = {
            "heed.model": report.model,
            "heed.batch.sequences": report.sequences,
            "heed.batch.tokens": report.tokens,
            "heed.batch.computed_tokens": report.computed_tokens,
            "heed.batch.compute_seconds": report.compute_seconds,
        }
        span = self._tracer.start_span(
            NAME,
            Context(),
            attributes=attributes,
            links=[Link(_context(trace)) for trace in report.traces],
            start_time=clock.at(report.started),
        )
        span.end(clock.at(report.ended))


def _context(traceparent: str) -> SpanContext:
    """Return the span that a traceparent of our own names."""
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(int(flags, 16))
    )
