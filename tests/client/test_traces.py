"""The trace that a call is part of goes with it, once, and only where the program has one."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from heed_client import AsyncClient, Client

MODELS = {"models": []}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    yield made
    made.shutdown()


class Kept:
    """A server that keeps what it was sent, for either client."""

    def __init__(self) -> None:
        self.headers: list[httpx.Headers] = []
        self.transport = httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers)
        return httpx.Response(200, json=MODELS)

    @property
    def parents(self) -> list[list[str]]:
        return [headers.get_list("traceparent") for headers in self.headers]


def parent(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_call_outside_of_any_span_says_nothing_of_one() -> None:
    kept = Kept()
    with Client("http://heed", transport=kept.transport) as heed:
        heed.models()
    assert kept.parents == [[]]


def test_call_inside_a_span_is_its_child(provider: TracerProvider) -> None:
    kept = Kept()
    with Client("http://heed", transport=kept.transport) as heed:
        with provider.get_tracer("x").start_as_current_span("work") as span:
            heed.models()
        heed.models()
    assert kept.parents == [[parent(span)], []]


def test_awaited_call_inside_a_span_is_its_child(provider: TracerProvider) -> None:
    kept = Kept()

    async def ask() -> None:
        async with AsyncClient("http://heed", transport=kept.transport) as heed:
            await heed.models()

    with provider.get_tracer("x").start_as_current_span("work") as span:
        asyncio.run(ask())
    assert kept.parents == [[parent(span)]]


def test_httpx_that_is_instrumented_says_its_own_span_and_no_other(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    kept = Kept()
    with Client("http://heed", transport=kept.transport) as heed:
        HTTPXClientInstrumentor.instrument_client(heed._http, tracer_provider=provider)
        with provider.get_tracer("x").start_as_current_span("work"):
            heed.models()
    call, work = exporter.get_finished_spans()
    assert (call.name, work.name) == ("GET", "work")
    assert call.context is not None
    assert call.context.trace_id == work.context.trace_id  # type: ignore[union-attr]
    assert kept.parents == [[parent(trace.NonRecordingSpan(call.context))]]


def test_client_imports_nothing_of_it() -> None:
    script = (
        "import sys, httpx; from heed_client import Client\n"
        "def answer(request): return httpx.Response(200, json={'models': []})\n"
        "Client('http://heed', transport=httpx.MockTransport(answer)).models()\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
