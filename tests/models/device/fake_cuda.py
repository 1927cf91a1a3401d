"""Torch's module of CUDA as far as the runtime uses it: without a device, it notes what is done where."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stream:
    def __init__(self, name: str, log: list[tuple[Any, ...]]) -> None:
        self.name, self._log = name, log

    def synchronize(self) -> None:
        self._log.append(("wait for", self.name))


class Event:
    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        self._log, self.of, self.done = log, "", False

    def record(self, stream: Stream | None = None) -> None:
        self.of = stream.name if stream else "current"

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.done = True
        self._log.append(("wait for event of", self.of))


class FakeCuda:
    """Its `log` has what was done; streams are called by the order in which they were made."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.priorities: list[int] = []
        self.emptied = 0
        self.now: Stream | None = None

    def Stream(self, _device: Any, priority: int = 0) -> Stream:
        self.streams.append(Stream(f"stream {len(self.streams)}", self.log))
        self.priorities.append(priority)
        return self.streams[-1]

    def Event(self) -> Event:
        return Event(self.log)

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.log.append(("in", stream.name))
        yield

    def empty_cache(self) -> None:
        self.emptied += 1

    def memory_allocated(self, _device: Any) -> int:
        return 3

    def memory_reserved(self, _device: Any) -> int:
        return 5
