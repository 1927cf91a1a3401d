"""Every counter and histogram: the stations call these methods with plain values.

`trace_id` is the request's where it is traced: the last of each bucket is shown as its exemplar. One of
several HTTP processes keeps its numbers in files beside the others', and its page is of all of them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from service.metrics.exposition import TEXT, Exposition
from service.metrics.gauges import Gauges, Readings
from service.metrics.inferences import Inferences, ModelTally, tallies
from service.metrics.processes import Processes
from service.metrics.sharing import SHARED_VARIABLE, Sharing

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
LAGS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = tuple(2**power for power in range(3, 18))  # 8 to 131072
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
MOST_SERIES = 256  # looked up without asking prometheus_client


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

    def __init__(self) -> None:
        # `_created` series double the page and nothing reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # its author left it bare
        folder = os.environ.get(SHARED_VARIABLE)
        self._shared = Sharing(folder) if folder else None
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
        self._computed = count("heed_tokens", "Tokens computed.", "model")
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

        @lru_cache(maxsize=MOST_SERIES)
        def computed(model: str) -> tuple[Histogram, Counter]:
            return self._compute_seconds.labels(model), self._computed.labels(model)

        self._inferences = Inferences(count)
        self._answered = answered
        self._of_computing = computed
        self._of_decoding = lru_cache(maxsize=MOST_SERIES)(self._decode_seconds.labels)
        self._of_encoding = lru_cache(maxsize=MOST_SERIES)(self._encode_seconds.labels)

    def request(
        self,
        *,
        route: str,
        model: str,
        code: int,
        seconds: float,
        received: int = 0,
        sent: int = 0,
        trace_id: str | None = None,
    ) -> None:
        """Count one answered request: its route template, its model or "", its status, bytes of bodies."""
        answered, took = self._answered(route, model, code)
        answered.inc()
        took.observe(seconds, {"trace_id": trace_id} if trace_id else None)
        self._received.inc(received)
        self._sent.inc(sent)

    def decoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the reading of one body; `wire_format` is a name of `service.wire`."""
        self._of_decoding(wire_format).observe(seconds, {"trace_id": trace_id} if trace_id else None)

    def encoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the writing of one reply; `wire_format` is a name of `service.wire`."""
        self._of_encoding(wire_format).observe(seconds, {"trace_id": trace_id} if trace_id else None)

    def batch(self, report: Batch) -> None:
        """Record one batch that the device ran."""
        took, tokens = self._of_computing(report.model)
        took.observe(report.compute_seconds)
        tokens.inc(report.tokens)
        self._sequences.observe(report.sequences)
        self._tokens.observe(report.tokens)
        if report.computed_tokens > 0:
            self._fill.observe(min(report.tokens / report.computed_tokens, 1.0))
        for seconds in report.queue_seconds:
            self._queue_seconds.observe(seconds)

    def inference(
        self, model: str, *, ok: bool, sequences: int, seconds: float, stages: Mapping[str, float]
    ) -> None:
        """Count one request for inference; of one that was answered, where its time went."""
        if ok:
            self._inferences.add(model, sequences=sequences, seconds={"success": seconds, **stages})
        else:
            self._inferences.add(model, sequences=0, seconds={"fail": seconds})

    def statistics(self) -> dict[str, ModelTally]:
        """Return what was asked of each model, of the whole server."""
        self._inferences.put()
        if self._shared is not None:
            return tallies(self._shared.numbers())
        kept = (*self._inferences.counters, self._compute_seconds)
        return tallies(metric for one in kept for metric in one.collect())

    def rejected(self, reason: str) -> None:
        """Count one refusal by its error code."""
        self._rejected.labels(reason).inc()

    def cancelled(self, reason: str) -> None:
        """Count one request given up: "disconnected" or "deadline_exceeded"."""
        self._cancelled.labels(reason).inc()

    def connection_ended(self, reason: str) -> None:
        """Count one connection that the server ended, by its reason in `service.socket.endings`."""
        self._ended.labels(reason).inc()

    def watch(self, readings: Readings) -> None:
        """Read these gauges whenever the page is asked for. Call once."""
        register = self._registry.register
        if self._shared is None:
            register(Gauges(readings, readings.inside))
            register(Processes(lambda: (os.getpid(),)))
            return
        register(self._shared.collector(readings.waiting_requests))
        register(Gauges(readings))
        register(Processes(self._shared.processes))
        for name, meaning, read in readings.inside:
            gauge = Gauge(name, meaning, registry=None, multiprocess_mode="livesum")
            self._noted.append((gauge, read))

    def note(self) -> None:
        """Write down what the other processes cannot look at; call often."""
        self._note_gauges()
        if self._shared is not None:
            self._shared.tell()

    def page(self, exposition: Exposition = TEXT) -> bytes:
        """Return every metric in one of the two formats."""
        self._note_gauges()
        return exposition.write(self._registry)

    def _note_gauges(self) -> None:
        self._inferences.put()
        for gauge, read in self._noted:
            gauge.set(read())

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self._kept)

    def _histogram(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(name, meaning, labels, registry=self._kept, buckets=buckets)
