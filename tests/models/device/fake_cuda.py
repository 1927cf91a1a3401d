"""Torch's module of CUDA as far as the runtime uses it: without a device, it notes what is done where."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.models.device.fake_graphs import FakeGraph, Pool


class Stream:
    def __init__(self, name: str, log: list[tuple[Any, ...]]) -> None:
        self.name, self._log = name, log
        self.cuda_stream = int(name.split()[1])

    def synchronize(self) -> None:
        self._log.append(("wait for", self.name))


class Event:
    def __init__(self, log: list[tuple[Any, ...]], elapsed: Callable[[], float] = lambda: 0.0) -> None:
        self._log, self.of, self.done, self._elapsed = log, "", False, elapsed

    def record(self, stream: Stream | None = None) -> None:
        self.of = stream.name if stream else "current"

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True
        self._log.append(("wait for event of", self.of))

    def elapsed_time(self, _end: "Event") -> float:
        return self._elapsed()


class FakeCuda:
    """Its `log` has what was done; streams are called by the order in which they were made.

    `elapsed` tells milliseconds between two events; `refuses` may raise while a graph is recorded, by how
    many were before.
    """

    def __init__(self, graph: type[FakeGraph] = FakeGraph) -> None:
        self._graph = graph
        self.log: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.priorities: list[int] = []
        self.emptied = 0
        self.elapsed: Callable[[], float] = lambda: 0.0
        self.refuses: Callable[[int], None] = lambda _: None
        self.graphs: list[FakeGraph] = []
        self._own = threading.local()

    def Stream(self, _device: Any, priority: int = 0) -> Stream:
        self.streams.append(Stream(f"stream {len(self.streams)}", self.log))
        self.priorities.append(priority)
        return self.streams[-1]

    def Event(self, *, enable_timing: bool = False) -> Event:
        return Event(self.log, self.elapsed) if enable_timing else Event(self.log)

    def CUDAGraph(self) -> FakeGraph:
        self.graphs.append(self._graph(len(self.graphs), self.refuses))
        return self.graphs[-1]

    def graph_pool_handle(self) -> Pool:
        return Pool()

    def current_stream(self, _device: Any) -> Stream:
        now: Stream = self._own.now
        return now

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.log.append(("in", stream.name))
        before = getattr(self._own, "now", None)
        self._own.now = stream
        try:
            yield
        finally:
            self._own.now = before

    def get_allocator_backend(self) -> str:
        return "native"

    def empty_cache(self) -> None:
        self.emptied += 1

    def memory_allocated(self, _device: Any) -> int:
        return 3

    def memory_reserved(self, _device: Any) -> int:
        return 5
