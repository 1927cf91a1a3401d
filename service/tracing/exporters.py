"""Who sends spans, by OpenTelemetry's variables; a collector that is away is told of once.

The SDK's batch processor keeps at most OTEL_BSP_MAX_QUEUE_SIZE spans (2048) and sends them from a thread of
its own: what finds no room there is lost, and nobody waits.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SpanExporter,
    SpanExportResult,
)

EXPORTERS = "OTEL_TRACES_EXPORTER"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
BY_PROTOCOL = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
GRPC_PORT = "4317"
TRACES_PATH = "/v1/traces"  # of OTLP over HTTP, below the endpoint
GROUP = "opentelemetry_traces_exporter"  # of entry points, by which packages offer exporters

# Of one request to the collector: 512 spans, the SDK's own, keep the interpreter busy for a long moment.
BATCH_SPANS = 64
LONGEST_REASON = 400  # characters
BATCH_VARIABLE = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
QUEUE_LOG = "opentelemetry.sdk._shared_internal"  # has a line for each span that finds no room

log = logging.getLogger(__name__)


def exporters(environ: Mapping[str, str], endpoint: str | None) -> list[SpanExporter]:
    """Return the exporters that are asked for; `endpoint` is OTLP_ENDPOINT, where that is set.

    Raises ValueError, which says what no exporter can be made of, and ImportError for a package that is
    not there.
    """
    names = [name.strip() for name in (environ.get(EXPORTERS) or "otlp").split(",")]
    return [_exporter(name, environ, endpoint) for name in names if name not in ("", "none")]


def processor(exporter: SpanExporter) -> BatchSpanProcessor:
    """Return what gathers spans and has them sent by a thread; raise ValueError for OTEL_BSP_* that clash."""
    given = os.environ.get(BATCH_VARIABLE)
    return BatchSpanProcessor(exporter, max_export_batch_size=None if given else BATCH_SPANS)


def _exporter(name: str, environ: Mapping[str, str], endpoint: str | None) -> SpanExporter:
    if name == "console":
        return ConsoleSpanExporter()
    if name == "otlp":
        name = BY_PROTOCOL[_protocol(environ, endpoint)]
    found = list(entry_points(group=GROUP, name=name))
    if not found and name in BY_PROTOCOL.values():
        raise ImportError(name)
    if not found:
        raise ValueError(
            f"{EXPORTERS} names {name[:64]!r}, which no installed package has; say otlp, console or none"
        )
    to = address(environ, endpoint)
    if to and name == BY_PROTOCOL["http/protobuf"] and not to.lower().startswith(("http://", "https://")):
        raise ValueError(f"the endpoint is {to[:64]!r}; write it as http://host:4318, or take OTLP over gRPC")
    offered = found[0].load()
    if endpoint is None or environ.get(ENDPOINTS[0]) or name not in BY_PROTOCOL.values():
        exporter: SpanExporter = offered()
    elif name == "otlp_proto_http":
        exporter = offered(endpoint=endpoint.rstrip("/") + TRACES_PATH)
    else:
        exporter = offered(endpoint=endpoint)
    return exporter


def _protocol(environ: Mapping[str, str], endpoint: str | None) -> str:
    """Return how OTLP is spoken: as is said, else gRPC where the endpoint has its port, else HTTP."""
    for variable in PROTOCOLS:
        if said := environ.get(variable, "").strip():
            if said not in BY_PROTOCOL:
                raise ValueError(f"{variable} is {said[:64]!r}; say {' or '.join(BY_PROTOCOL)}")
            return said
    port = address(environ, endpoint).rstrip("/").rpartition(":")[2]
    return "grpc" if port == GRPC_PORT else "http/protobuf"


def address(environ: Mapping[str, str], endpoint: str | None) -> str:
    """Return where a collector is said to be; "" where OpenTelemetry's default is taken."""
    return environ.get(ENDPOINTS[0]) or endpoint or environ.get(ENDPOINTS[1]) or ""


class Quiet(SpanExporter):
    """Sends by another exporter, and says once that nothing is taken, and once that it is again.

    `to` is where its collector is said to be.
    """

    def __init__(self, exporter: SpanExporter, reasons: "Reasons", to: str = "") -> None:
        self._exporter = exporter
        self._reasons = reasons
        self._to = f"the collector at {to}" if to else "a collector"
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; whatever is the matter costs these spans and nothing else."""
        self._reasons.first = ""
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  of whatever exporter this is
            result = SpanExportResult.FAILURE
            self._reasons.first = self._reasons.first or f"{type(error).__name__}: {error}"
        if result is not SpanExportResult.SUCCESS:
            if not self._lost:
                why = self._reasons.first[:LONGEST_REASON]
                log.warning("traces are lost until %s takes them: %s", self._to, why)
            self._lost += len(spans)
        elif self._lost:
            log.info("traces are sent again; at least %d spans were lost", self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        """Give up what is being sent, and whatever waits to be sent again."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is kept here."""
        return self._exporter.force_flush(timeout_millis)


class Reasons(logging.Handler):
    """Takes the SDK's own lines, one for each attempt to send, out of the log; keeps the first one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first = ""
        self._logger = logging.getLogger("opentelemetry")
        self._queue = logging.getLogger(QUEUE_LOG)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a line says."""
        self.first = self.first or record.getMessage()

    def listen(self) -> None:
        """Take the lines from now on."""
        self._logger.addHandler(self)
        self._logger.propagate = False
        self._queue.setLevel(logging.CRITICAL)

    def forget(self) -> None:
        """Let them go to the log again."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
        self._queue.setLevel(logging.NOTSET)
