"""Traces as an operator has them: other people's collector, our server as a process, a caller with traces."""

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from heed_client import AsyncClient, Client
from tests.e2e.conftest import FakeServer, Start
from tests.real_server import ATTEND, serving
from tests.waiting import wait_until

TOOLS = Path(__file__).parents[2] / ".cache" / "deploy"
ROUTE = "POST /v1/models/{model}/attend"
STAGES = {"decode", "queue", "compute", "encode"}
SPAN = re.compile(r"Trace ID +: (\w+)\n +Parent ID +: (\w*)\n +ID +: (\w+)\n +Name +: (.+)\n", re.MULTILINE)
LINK = re.compile(r"SpanLink #\d+\n +-> Trace ID: (\w+)\n +-> ID: (\w+)")
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
TEXT = {"inputs": [{"text": "She sat on the bank of the river."}], "outputs": ["z"]}


@dataclass(frozen=True, slots=True)
class Span:
    trace: str
    parent: str
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Collector:
    """rotel, which prints what it is sent."""

    grpc: str
    http: str
    printed: Path

    def spans(self) -> list[Span]:
        return [Span(*found) for found in SPAN.findall(self.printed.read_text())]

    def links(self) -> set[tuple[str, str]]:
        return set(LINK.findall(self.printed.read_text()))

    def of_trace(self, trace_id: str, *, spans: int) -> list[Span]:
        """Return a trace, once all its spans have come."""
        found: list[Span] = []

        def there() -> bool:
            found[:] = [span for span in self.spans() if span.trace == trace_id]
            return len(found) >= spans

        wait_until(there, f"{spans} spans of one trace are printed")
        return found


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    agents = list(TOOLS.glob("lib/*/site-packages/rotel/rotel-agent"))
    if not agents:
        pytest.skip("rotel is not installed: see tests/deploy/tools.txt")
    folder = tmp_path_factory.mktemp("rotel")
    grpc, http = free_ports(2)
    command = [agents[0], "start", "--exporter", "blackhole", "--debug-log", "traces"]
    command += ["--debug-log-verbosity", "detailed", "--pid-file", folder / "pid"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{http}"]
    printed = folder / "printed"
    with printed.open("wb") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: listens(grpc) and listens(http), "the collector listens")
        yield Collector(f"http://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}", printed)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def program(collector: Collector) -> Iterator[TracerProvider]:
    """A program that is traced, and whose httpx is instrumented."""
    made = TracerProvider(resource=Resource({"service.name": "caller"}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=collector.http + "/v1/traces")
    made.add_span_processor(SimpleSpanProcessor(exporter))
    HTTPXClientInstrumentor().instrument(tracer_provider=made)
    yield made
    HTTPXClientInstrumentor().uninstrument()
    made.shutdown()


def is_one_trace(spans: list[Span], *, calls: int) -> list[Span]:
    """Check a trace of one piece of work, each call under it, our request under the call; return the last."""
    (work,) = (span for span in spans if span.name == "work")
    called = [span for span in spans if span.parent == work.id]
    assert [span.name for span in called] == ["POST"] * calls
    served = [span for span in spans if span.name == ROUTE]
    assert {span.parent for span in served} == {span.id for span in called}
    for one in served:
        assert {span.name for span in spans if span.parent == one.id} == STAGES
    assert len(spans) == 1 + calls * 6
    return served


def logged(file: Path, trace_id: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in file.read_bytes().splitlines() if line.startswith(b"{")]
    return [line for line in lines if line.get("trace_id") == trace_id]


def test_one_trace_from_an_instrumented_caller_to_our_log_by_grpc(
    collector: Collector, program: TracerProvider, repository: Path, tmp_path: Path
) -> None:
    """The server is a real one of a real model, the caller httpx, and our client over it."""
    log = tmp_path / "log"
    environ = SOON | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
    }
    with serving(repository, environ=environ, log=log) as server:
        with program.get_tracer("test").start_as_current_span("work") as work:
            reply = httpx.post(server.url + ATTEND, json=TEXT)
            with Client(server.url) as heed:
                heed.attend("minilm", "hi", outputs=["z"])
        trace_id = trace.format_trace_id(work.get_span_context().trace_id)
        served = is_one_trace(collector.of_trace(trace_id, spans=13), calls=2)
        wait_until(lambda: len(logged(log, trace_id)) == 2, "both requests are logged")
        wait_until(
            lambda: {(trace_id, one.id) for one in served} <= collector.links(), "batches link to both"
        )
        assert reply.headers["traceresponse"].split("-")[1] == trace_id
    assert {line["span_id"] for line in logged(log, trace_id)} == {one.id for one in served}


def test_one_trace_by_http_of_a_server_of_two_processes(
    collector: Collector, program: TracerProvider, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    server = start(settings={"http_workers": 2, "otlp_endpoint": collector.http})

    async def ask() -> None:
        async with AsyncClient(f"http://127.0.0.1:{server.port}") as heed:
            texts = ("a", "b c", "d e f")
            await asyncio.gather(*(heed.attend("fake", text, outputs=["z"]) for text in texts))

    with program.get_tracer("test").start_as_current_span("work") as work:
        asyncio.run(ask())
    trace_id = trace.format_trace_id(work.get_span_context().trace_id)
    served = is_one_trace(collector.of_trace(trace_id, spans=19), calls=3)
    wait_until(
        lambda: {(trace_id, one.id) for one in served} <= collector.links(),
        "batches that ran in the device process link to requests of both",
    )
    assert server.stop() == 0
    lines = [line for line in server.log if line.get("trace_id") == trace_id]
    assert {line["span_id"] for line in lines} == {one.id for one in served}


def answers(server: FakeServer, count: int) -> list[int]:
    return [server.attend().status for _ in range(count)]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_collector_that_is_away_costs_no_request_and_one_line(
    protocol: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nobody,) = free_ports(1)
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
    for name, value in (SOON | environ | {"OTEL_BSP_MAX_QUEUE_SIZE": "64"}).items():
        monkeypatch.setenv(name, value)
    server = start(settings={"otlp_endpoint": f"http://127.0.0.1:{nobody}"})
    assert answers(server, 60) == [200] * 60
    wait_until(lambda: b"traces are lost" in server.log_file.read_bytes(), "the collector is missed")
    assert answers(server, 60) == [200] * 60
    assert server.stop() == 0
    warned = [line for line in server.log if line["level"] not in ("info", "debug")]
    assert len(warned) == 1
    assert f"the collector at http://127.0.0.1:{nobody}" in str(warned[0]["message"])


def test_collector_that_takes_and_never_answers_holds_up_no_request_and_no_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    for name, value in SOON.items():
        monkeypatch.setenv(name, value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = start(settings={"otlp_endpoint": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        assert answers(server, 20) == [200] * 20
        connection, _ = silent.accept()
        with connection:
            assert answers(server, 20) == [200] * 20
            assert server.stop(timeout_seconds=8) == 0  # its own patience is 10 s
