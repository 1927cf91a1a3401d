"""What the span of a request says, and the spans of its stations, made when it is over.

Names are those of OpenTelemetry's conventions for HTTP servers (stable since 1.23), and `heed.*` beside them.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanContext, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from starlette.types import Scope

from service.http.around.host import DEPARTURE, Departure
from service.http.around.stages import Stages

METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)  # that the conventions know; whatever else a caller may write is one, _OTHER
LONGEST = 256  # characters of what a caller writes
EMBEDDINGS = ("/v1/embeddings", "/embeddings")

Attributes = dict[str, AttributeValue]


def method_of(scope: Scope) -> str:
    """Return the method that begins a span's name, HTTP where it is none that is known."""
    method: str = scope["method"]
    return method if method in METHODS else "HTTP"


def asked(scope: Scope, agent: str) -> Attributes:
    """Return what is known of a request before it has a route; samplers may look at it."""
    method = scope["method"]
    attributes: Attributes = {
        "http.request.method": method if method in METHODS else "_OTHER",
        "url.path": scope["path"][:LONGEST],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if method not in METHODS:
        attributes["http.request.method_original"] = method[:LONGEST]
    if agent:
        attributes["user_agent.original"] = agent[:LONGEST]
    server = scope.get("server")
    if server:
        attributes["server.address"] = server[0]
        if server[1] is not None:
            attributes["server.port"] = server[1]
    if client := scope.get("client"):
        attributes["client.address"] = client[0]
    return attributes


def finish(span: Span, scope: Scope, stages: Stages, *, status: int, whole: bool) -> None:
    """Say what became of a request; `status` is 0 where no reply was begun, `whole` that its end was sent."""
    attributes: Attributes = {"heed.request_id": scope.get("heed.request_id", "")}
    route = getattr(scope.get("route"), "path", None)
    if route is not None:
        attributes["http.route"] = route
        span.update_name(f"{method_of(scope)} {route}")
    if model := scope.get("heed.model"):
        attributes["heed.model"] = model
    if stages.sequences:
        attributes["heed.sequences"] = stages.sequences
        attributes["heed.tokens"] = stages.tokens
        if route in EMBEDDINGS:
            attributes["gen_ai.operation.name"] = "embeddings"
            attributes["gen_ai.request.model"] = model or ""
            attributes["gen_ai.usage.input_tokens"] = stages.tokens
    code = scope.get("heed.code", "")
    if code:
        attributes["heed.code"] = code
    if status:
        attributes["http.response.status_code"] = status
    if status >= 500:
        attributes["error.type"] = code or str(status)
        span.set_status(Status(StatusCode.ERROR))
    elif not whole:
        departure: Departure | None = scope.get(DEPARTURE)
        left = status == 0 if departure is None else departure.gone
        attributes["error.type"] = "disconnected" if left else "broken_off"
        if not left:
            span.set_status(Status(StatusCode.ERROR))
    span.set_attributes(attributes)


@dataclass(frozen=True, slots=True)
class Clock:
    """From seconds of time.monotonic to nanoseconds since 1970, as both were at one moment."""

    unix: int
    monotonic: int

    @classmethod
    def now(cls) -> "Clock":
        """Read both."""
        return cls(time.time_ns(), time.monotonic_ns())

    def at(self, seconds: float) -> int:
        """Return the nanosecond of a second."""
        return self.unix + round(seconds * 1e9) - self.monotonic


class StageSpans:
    """Makes the spans of stations: decode, queue, compute, encode, as far as a request has come.

    They are put together here, and not by a Tracer, which takes ten times as long: they have the sampling,
    the resource and the scope of the request's span, and no more than one attribute.
    """

    def __init__(self, provider: TracerProvider, processors: list[SpanProcessor]) -> None:
        self._provider = provider
        self._processors = processors

    def record(self, span: Span, stages: Stages, clock: Clock) -> None:
        """Record what is known of a request, under its span."""
        context, scope = span.get_span_context(), getattr(span, "instrumentation_scope", None)
        for name, start, end, attributes in _stations(stages):
            made = ReadableSpan(
                name,
                SpanContext(
                    context.trace_id,
                    self._provider.id_generator.generate_span_id(),
                    is_remote=False,
                    trace_flags=context.trace_flags,
                    trace_state=context.trace_state,
                ),
                context,
                self._provider.resource,
                attributes,
                instrumentation_scope=scope,
                start_time=clock.at(start),
                end_time=clock.at(end),
            )
            for processor in self._processors:
                processor.on_end(made)


def _stations(stages: Stages) -> Iterator[tuple[str, float, float, Attributes]]:
    """Give the stations that a request came to: name, begin and end in seconds of time.monotonic."""
    decoded = stages.submitted
    if decoded is None:
        return
    yield "decode", decoded - stages.decode_seconds, decoded, {}
    if stages.queue_seconds is None:
        return
    packed = decoded + stages.queue_seconds
    yield "queue", decoded, packed, {}
    yield "compute", packed, packed + stages.run_seconds, {"heed.compute_seconds": stages.compute_seconds}
    if stages.encoded is not None:
        began = min(stages.encoding, stages.encoded - stages.encode_seconds)
        yield "encode", began, stages.encoded, {"heed.encode_seconds": stages.encode_seconds}
