"""What every route is given: the runtime, the engine, the metrics and the limits, as plain values.

`service.app.create_app` makes one Context and hands it to each `router(context)`; nothing under
`service.http` reads a setting.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from models.protocol import Models
from service.batching.work_queue import WorkQueue
from service.http.envelope import IgnoredNames
from service.http.texts.places import TextPlaces
from service.http.turns import Turns

TEXT_BYTES_A_TOKEN = 64  # texts may be cut: of most no more is left than of these


class WireMetrics(Protocol):
    """The part of `service.metrics.registry.Metrics` that the routes call."""

    def decoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the reading of one body."""
        ...

    def encoded(self, wire_format: str, seconds: float, trace_id: str | None = None) -> None:
        """Time the writing of one reply."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """Bounds of one request that the routes keep; those of memory and of the queue are the engine's.

    `deadline_ms` is both the default and the longest deadline. `truncate`: texts are cut where a request does
    not say. The two numbers of tokens are the engine's, of one sequence and of one request; known here so
    that no text is read for nothing.
    """

    deadline_ms: int = 30_000
    truncate: bool = False
    max_sequence_tokens: int | None = None
    max_queued_tokens: int | None = None

    @property
    def text_bytes(self) -> int | None:
        """The bytes that all texts of a request may have: so many for each token that it may have."""
        return None if self.max_queued_tokens is None else TEXT_BYTES_A_TOKEN * self.max_queued_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One server's parts. `clock` is the one the engine reads deadlines by, in seconds."""

    runtime: Models
    engine: WorkQueue
    metrics: WireMetrics
    limits: RequestLimits = field(default_factory=RequestLimits)
    clock: Callable[[], float] = time.monotonic
    turns: Turns = field(default_factory=Turns)
    places: TextPlaces = field(default_factory=TextPlaces)
    ignored: IgnoredNames = field(default_factory=IgnoredNames)
