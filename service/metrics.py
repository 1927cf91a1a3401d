"""What the server counts: every metric of the contract, in a registry of its own.

Beside the request line: the stations call these methods with plain values, `GET /metrics` renders the page.
Labels are given by the route table and the model registry, never by a URL. One of several HTTP processes
keeps its numbers in files beside the others', and its page is of all of them.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

SHARED_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAGS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = tuple(2**power for power in range(3, 18))  # 8 to 131072
MOST_SERIES = 256  # looked up without asking prometheus_client
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
KINDS = ("counter", "histogram", "gauge_livesum")  # of metrics: each process has a file of each
FILE_BYTES = 1 << 16  # of a file at first; it doubles when it is full
ENTRY_BYTES = 32  # of a number in it, beside its name

log = logging.getLogger(__name__)


class Batch(Protocol):
    """One run on the device, as `service.batching.engine.BatchReport` has it."""

    model: str
    sequences: int
    tokens: int
    computed_tokens: int
    compute_seconds: float
    queue_seconds: Sequence[float]


class Metrics:
    """The server's counters and histograms; all methods may be called from any thread.

    What has no labels is counted by a function of its own: requests `memory_refused`, seconds of the event
    loop's `lag`.
    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        # `_created` series double the page and nothing reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its author left it bare
        self._shared = os.environ.get(SHARED_VARIABLE)
        if self._shared:
            values.MmapedDict = _Reserved  # type: ignore[attr-defined]  # looked up there when a file is opened
        self._noted: list[tuple[Gauge, Callable[[], int]]] = []
        self._registry = CollectorRegistry()
        self._kept = None if self._shared else self._registry
        count, spread = self._counter, self._histogram
        self._requests = count("heed_requests", "Requests answered.", "route", "model", "code")
        self._rejected = count("heed_rejected", "Requests refused before any compute.", "reason")
        self._cancelled = count("heed_cancelled", "Requests given up before their answer.", "reason")
        self._ended = count("heed_connections_closed", "Connections that the server ended.", "reason")
        refused = "Requests refused because MAX_MEMORY_BYTES would have been passed."
        self.memory_refused = count("heed_memory_refused", refused).inc
        self._received = count("heed_received_bytes", "Bytes of request bodies read.")
        self._sent = count("heed_sent_bytes", "Bytes of reply bodies written.")
        took = "From the headers read to the last byte written."
        self._request_seconds = spread("heed_request_seconds", took, "route")
        self._queue_seconds = spread("heed_queue_seconds", "From admission to the batch's start.")
        self._compute_seconds = spread("heed_compute_seconds", "One batch on the device.", "model")
        self._decode_seconds = spread("heed_decode_seconds", "Bytes to numpy.", "format")
        self._encode_seconds = spread("heed_encode_seconds", "Numpy to bytes.", "format")
        late = "How late the event loop woke a timer."
        self.lag = spread("heed_event_loop_lag_seconds", late, buckets=LAGS).observe
        self._sequences = spread("heed_batch_sequences", "Sequences in one batch.", buckets=SEQUENCES)
        self._tokens = spread("heed_batch_tokens", "Tokens in one batch.", buckets=TOKENS)
        useful = "Useful tokens over computed tokens of one batch."
        self._fill = spread("heed_batch_fill_ratio", useful, buckets=RATIOS)

        @lru_cache(maxsize=MOST_SERIES)  # prometheus_client's own look-up takes longer than its counting
        def answered(route: str, model: str, code: int) -> tuple[Counter, Histogram]:
            return self._requests.labels(route, model, str(code)), self._request_seconds.labels(route)

        self._answered = answered
        self._of_decoding = lru_cache(maxsize=MOST_SERIES)(self._decode_seconds.labels)
        self._of_encoding = lru_cache(maxsize=MOST_SERIES)(self._encode_seconds.labels)

    def request(
        self, *, route: str, model: str, code: int, seconds: float, received: int = 0, sent: int = 0
    ) -> None:
        """Count one answered request: its route template, its model or "", its status, bytes of bodies."""
        answered, took = self._answered(route, model, code)
        answered.inc()
        took.observe(seconds)
        self._received.inc(received)
        self._sent.inc(sent)

    def decoded(self, wire_format: str, seconds: float) -> None:
        """Time the reading of one body; `wire_format` is a name of `service.wire`."""
        self._of_decoding(wire_format).observe(seconds)

    def encoded(self, wire_format: str, seconds: float) -> None:
        """Time the writing of one reply; `wire_format` is a name of `service.wire`."""
        self._of_encoding(wire_format).observe(seconds)

    def batch(self, report: Batch) -> None:
        """Record one batch that the device ran."""
        self._compute_seconds.labels(report.model).observe(report.compute_seconds)
        self._sequences.observe(report.sequences)
        self._tokens.observe(report.tokens)
        if report.computed_tokens > 0:
            self._fill.observe(min(report.tokens / report.computed_tokens, 1.0))
        for seconds in report.queue_seconds:
            self._queue_seconds.observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count one refusal by its error code."""
        self._rejected.labels(reason).inc()

    def cancelled(self, reason: str) -> None:
        """Count one request given up: "disconnected" or "deadline_exceeded"."""
        self._cancelled.labels(reason).inc()

    def connection_ended(self, reason: str) -> None:
        """Count one connection that the server ended, by its reason in `service.socket.endings`."""
        self._ended.labels(reason).inc()

    def watch(
        self,
        *,
        queued_requests: Callable[[], int],
        queued_tokens: Callable[[], int],
        connections: Callable[[], int],
        model_bytes: Callable[[], Mapping[str, int]],
        device_memory: Callable[[], Mapping[str, int]],
        memory_held: Callable[[], int] = lambda: 0,
        memory_limit: Callable[[], int] = lambda: 0,
    ) -> None:
        """Read these gauges whenever the page is asked for. Call once."""
        limit = ("heed_memory_limit_bytes", "What requests may hold together.", memory_limit)
        numbers = (
            ("heed_connections", "Connections that are open.", connections),
            ("heed_queued_requests", "Requests admitted and not let go of.", queued_requests),
            ("heed_queued_tokens", "Tokens of those requests.", queued_tokens),
            ("heed_memory_held_bytes", "What requests hold: bodies, results, replies.", memory_held),
        )
        if self._shared is None:
            self._registry.register(_Gauges((*numbers, limit), model_bytes, device_memory))
            return
        self._registry.register(_Gauges((limit,), model_bytes, device_memory))
        MultiProcessCollector(self._registry, self._shared)  # type: ignore[no-untyped-call]
        for name, meaning, read in numbers:
            gauge = Gauge(name, meaning, registry=None, multiprocess_mode="livesum")
            self._noted.append((gauge, read))

    def note(self) -> None:
        """Write down what the other processes cannot look at; call often."""
        for gauge, read in self._noted:
            gauge.set(read())

    def page(self) -> bytes:
        """Return every metric in the Prometheus text format."""
        self.note()
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._kept)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(name, meaning, labels, registry=self._kept, buckets=buckets)


def reserve(folder: str, process: int) -> None:
    """Make a process's files before it opens them; raise OSError where there is no room for them."""
    for kind in KINDS:
        with Path(folder, f"{kind}_{process}.db").open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)


class _Reserved(MmapedDict):
    """A file of numbers whose room is there before it is mapped: the kernel kills who writes where none is.

    What there is no room for is counted in this process alone, and shared again when there is.
    """

    _told = False

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002  its signature
        with open(filename, "ab") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def read_value(self, key: str) -> tuple[float, float]:
        """Return a number and its time; one that is not there yet is 0."""
        return super().read_value(key) if self._has_room(key) else (0.0, 0.0)  # type: ignore[no-untyped-call]

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        """Write a number where there is room for it."""
        if self._has_room(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]

    def _has_room(self, key: str) -> bool:
        """Whether a number is in the file, or fits in; the file grows for it."""
        if key in self._positions:
            return True
        room = self._capacity
        while self._used + len(key.encode()) + ENTRY_BYTES > room:
            room *= 2
        if room == self._capacity:
            return True
        try:
            os.posix_fallocate(self._f.fileno(), 0, room)
        except OSError as error:
            if not self._told:
                _Reserved._told = True
                told = "%s cannot grow (%s): new series on /metrics are of one process until there is room"
                log.warning(told, self._fname, error.strerror)
            return False
        return True


class _Gauges(Collector):
    """Gauges that are read, not kept."""

    def __init__(
        self,
        numbers: Iterable[tuple[str, str, Callable[[], int]]],
        model_bytes: Callable[[], Mapping[str, int]],
        device_memory: Callable[[], Mapping[str, int]],
    ) -> None:
        self._numbers = tuple(numbers)
        self._model_bytes = model_bytes
        self._device_memory = device_memory

    def collect(self) -> Iterator[Metric]:
        for name, meaning, read in self._numbers:
            yield GaugeMetricFamily(name, meaning, value=read())
        models = self._model_bytes()
        yield GaugeMetricFamily("heed_models_loaded", "Models that are served.", value=len(models))
        weights = GaugeMetricFamily(
            "heed_model_memory_bytes", "Bytes of a model's resident weights.", labels=["model"]
        )
        for name, size in sorted(models.items()):
            weights.add_metric([name], size)
        yield weights
        memory = GaugeMetricFamily("heed_device_memory_bytes", "Bytes in use by kind.", labels=["kind"])
        for kind, size in sorted(self._device_memory().items()):
            memory.add_metric([kind], size)
        yield memory
