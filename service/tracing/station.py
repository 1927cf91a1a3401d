"""Around every request that is traced: its span, from its first byte to its last.

Pure ASGI, outermost, in front of the observer: whatever is logged and counted on the way knows the trace.
"""

from opentelemetry import context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.around.stages import STAGES, Stages
from service.tracing.spans import Clock, StageSpans, asked, finish, method_of

# Asked every few seconds by whoever runs or watches the server: nobody looks for them among traces.
UNTRACED = frozenset({"/health", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"})
PARENT = "traceparent"
AGENT = b"user-agent"
TRACE_ID = "heed.trace_id"  # in the scope, of a trace that is recorded: 32 hexadecimal digits


class _Reply:
    """One reply, as far as it has come; `trace` is told to the caller, "" is not."""

    __slots__ = ("_send", "_trace", "status", "whole")

    def __init__(self, send: Send, trace: str) -> None:
        self._send = send
        self._trace = trace
        self.status = 0
        self.whole = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._trace:
                headers = message.get("headers", ())
                message["headers"] = [*headers, (b"traceresponse", self._trace.encode())]
            await self._send(message)
        else:
            await self._send(message)
            self.whole = not message.get("more_body", False)


class SpanStation:
    """Gives every request but probes a span, which is the current one until its reply is sent."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer, stage_spans: StageSpans) -> None:
        self.app = app
        self._tracer = tracer
        self._stage_spans = stage_spans
        fields = propagate.get_global_textmap().fields
        self._fields = {name.encode("latin-1"): name for name in fields}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and record it where its trace is sampled."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        parent, agent = self._caller(scope)
        span = self._tracer.start_span(method_of(scope), parent, SpanKind.SERVER, asked(scope, agent))
        of_span = span.get_span_context()
        stages, clock = Stages(""), Clock.now()
        if of_span.trace_flags.sampled:
            trace_id = scope[TRACE_ID] = trace.format_trace_id(of_span.trace_id)
            span_id = trace.format_span_id(of_span.span_id)
            stages = scope[STAGES] = Stages(f"00-{trace_id}-{span_id}-{of_span.trace_flags:02x}")
        reply = _Reply(send, stages.trace)
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            await self.app(scope, receive, reply.send)
        finally:
            context.detach(token)
            if span.is_recording():
                finish(span, scope, stages, status=reply.status, whole=reply.whole)
                if stages.trace:
                    self._stage_spans.record(span, stages, clock)
                span.end()

    def _caller(self, scope: Scope) -> tuple[Context, str]:
        """Return what a request is part of, and the program that sends it.

        That is the span of whoever calls this application in this process, where there is one, else what the
        headers say; a `traceparent` that is malformed, or given twice, is none (W3C Trace Context, 3.2).
        """
        found: dict[str, list[str]] = {}
        agent = ""
        for name, value in scope["headers"]:
            if name in self._fields:
                found.setdefault(self._fields[name], []).append(value.decode("latin-1"))
            elif name == AGENT:
                agent = value.decode("latin-1")
        current = context.get_current()
        if not found or trace.get_current_span(current).get_span_context().is_valid:
            return current, agent
        if len(found.get(PARENT, ())) > 1:
            del found[PARENT]
        return propagate.extract(found, current), agent
