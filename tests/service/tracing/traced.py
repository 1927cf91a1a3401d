"""The application with its traces kept in memory: everything real but the collector."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from service.app import create_app
from service.settings import Settings
from service.tracing.tracing import Tracing
from tests.fakes import FakeRuntime

ATTEND = "/v1/models/fake/attend"
ROUTE = "/v1/models/{model}/attend"
BODY = {"inputs": [{"embeddings": [[1.0, 2.0, 3.0, 4.0]]}], "outputs": ["z"]}
STAGES = ["decode", "queue", "compute", "encode"]
TRACE_ID, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{CALLER}-01"


@dataclass
class Traced:
    """One application; `spans` are there when its life is over."""

    app: FastAPI
    client: TestClient
    exporter: InMemorySpanExporter
    spans: list[ReadableSpan] = field(default_factory=list)

    def attend(self, body: Any = None, **headers: str) -> Any:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(ATTEND, json=BODY if body is None else body, headers=sent)

    @property
    def servers(self) -> list[ReadableSpan]:
        """The spans of requests, in the order of their ends."""
        return [span for span in self.spans if span.kind is SpanKind.SERVER]

    @property
    def server(self) -> ReadableSpan:
        (one,) = self.servers
        return one

    @property
    def batches(self) -> list[ReadableSpan]:
        return named(self.spans, "batch")

    def stages(self, server: ReadableSpan) -> list[ReadableSpan]:
        """The spans under that of a request, in the order of their begins."""
        under = [span for span in self.spans if span.parent and span.parent.span_id == id_of(server)]
        return sorted(under, key=lambda span: span.start_time or 0)


@contextmanager
def traced(runtime: FakeRuntime | None = None, settings: Settings | None = None) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    app = create_app(settings or Settings(), runtime or FakeRuntime(), tracing=Tracing([exporter]))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield (found := Traced(app, client, exporter))
    found.spans += exporter.get_finished_spans()


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"
