import logging
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.tracing.exporters import Quiet, Reasons, exporters
from service.tracing.tracing import Tracing

ENDPOINT, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"
SPANS = [ReadableSpan("x")] * 3


def made(environ: dict[str, str], endpoint: str | None = None) -> list[type[SpanExporter]]:
    found = exporters(environ, endpoint)
    for one in found:
        one.shutdown()
    return [type(one) for one in found]


@pytest.mark.parametrize(
    ("environ", "endpoint", "kinds"),
    [
        ({}, "http://c:4317", [ByGrpc]),
        ({}, "http://c:4317/", [ByGrpc]),
        ({}, "http://c:4318", [ByHttp]),
        ({}, "https://c", [ByHttp]),
        ({ENDPOINT: "http://c:4317"}, None, [ByGrpc]),
        ({ENDPOINT: "c:4317"}, None, [ByGrpc]),
        ({ENDPOINT: "http://c:4317", PROTOCOL: "http/protobuf"}, None, [ByHttp]),
        ({ENDPOINT: "http://c:4318", PROTOCOL: "grpc"}, None, [ByGrpc]),
        ({PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, None, [ByHttp]),
        ({ENDPOINT: "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d:4317"}, None, [ByGrpc]),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, None, [ByHttp]),
        ({"OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, None, [ByGrpc]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, None, [ConsoleSpanExporter, ByHttp]),
    ],
)
def test_exporter_is_the_one_that_the_variables_name(
    environ: dict[str, str], endpoint: str | None, kinds: list[type[SpanExporter]]
) -> None:
    assert made(environ, endpoint) == kinds


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ("OTEL_TRACES_EXPORTER", "'zipkin'", "otlp, console or none")),
        ({PROTOCOL: "http/json"}, (PROTOCOL, "'http/json'", "grpc or http/protobuf")),
        ({ENDPOINT: "collector:4318"}, ("'collector:4318'", "http://host:4318")),
    ],
)
def test_what_no_exporter_can_be_made_of_is_refused(environ: dict[str, str], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        exporters(environ, None)
    assert all(word in str(error.value) for word in words)


class Collector(SpanExporter):
    """One that is away while told so, and says so in the SDK's own way each time."""

    def __init__(self) -> None:
        self.away = True
        self.raises = False
        self.taken: list[ReadableSpan] = []
        self.block = threading.Event()
        self.block.set()
        self.entered = threading.Event()
        self.shut = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.block.wait(30)
        if self.raises:
            raise RuntimeError("of its own making")
        if self.away:
            logging.getLogger("opentelemetry.exporter.x").warning("nobody listens at %s", "c:4317")
            logging.getLogger("opentelemetry.exporter.x").error("failed to export")
            return SpanExportResult.FAILURE
        self.taken += spans
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shut.set()
        self.block.set()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_collector_that_is_away_is_told_of_once_and_so_is_its_return(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    reasons, collector = Reasons(), Collector()
    reasons.listen()
    try:
        quiet = Quiet(collector, reasons)
        assert [quiet.export(SPANS) for _ in range(5)] == [SpanExportResult.FAILURE] * 5
        assert lines(caplog) == ["traces are lost until a collector takes them: nobody listens at c:4317"]
        collector.away = False
        assert quiet.export(SPANS) is quiet.export(SPANS) is SpanExportResult.SUCCESS
        assert lines(caplog)[1:] == ["traces are sent again; at least 15 spans were lost"]
        collector.raises = True
        quiet.export(SPANS)
        assert lines(caplog)[2:] == [
            "traces are lost until a collector takes them: RuntimeError: of its own making"
        ]
    finally:
        reasons.forget()


def test_spans_that_find_no_room_are_lost_without_a_word(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    collector = Collector()
    collector.away = False
    collector.block.clear()
    tracing = Tracing([collector])
    tracing.start()
    tracer = tracing._tracer
    for _ in range(100):
        tracer.start_span("x").end()
    assert collector.entered.wait(10)
    for _ in range(500):
        tracer.start_span("x").end()
    collector.block.set()
    tracing.stop()
    assert 100 <= len(collector.taken) <= 164  # what was being sent, and what had room
    assert lines(caplog) == []


def test_end_does_not_wait_for_a_collector_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.tracing.tracing.FLUSH_SECONDS", 0.05)
    collector = Collector()
    collector.block.clear()
    tracing = Tracing([collector])
    tracing.start()
    tracing._tracer.start_span("x").end()
    stopped = threading.Thread(target=tracing.stop)
    stopped.start()
    assert collector.entered.wait(10)
    assert collector.shut.wait(10), "the exporter is told to give up"
    stopped.join(10)
    assert not stopped.is_alive()
    tracing._reasons.forget()


def test_every_exporter_gets_every_span() -> None:
    both = [InMemorySpanExporter(), InMemorySpanExporter()]
    tracing = Tracing(both)
    tracing._tracer.start_span("x").end()
    tracing.stop()
    assert [[span.name for span in one.get_finished_spans()] for one in both] == [["x"], ["x"]]
