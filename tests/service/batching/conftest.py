"""An engine on a device that can be held."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from models.protocol import BatchResult, Item
from service.batching.engine import BatchReport, Engine
from service.batching.limits import Limits
from tests.fakes import FakeRuntime
from tests.queueing import Clock, sequence


class HeldRuntime(FakeRuntime):
    """A fake that says when a batch has reached the device, where `gate` may hold it."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(**changes)
        self.entered = threading.Semaphore(0)

    def run(self, batch: Sequence[Item]) -> BatchResult:
        self.entered.release()
        return super().run(batch)

    @property
    def sizes(self) -> list[int]:
        """How many sequences each batch held."""
        return [len(batch) for batch in self.batches]


class Bench:
    """One engine with everything it was told, and the device in hand."""

    def __init__(self, limits: Limits, before_run: Callable[[Sequence[Item]], None] | None) -> None:
        self.clock = Clock()
        self.runtime = HeldRuntime(before_run=before_run)
        self.reports: list[BatchReport] = []
        self.fatal: list[BaseException] = []
        self.cancelled: list[str] = []
        self.engine = Engine(
            self.runtime,
            limits,
            on_batch=self.reports.append,
            on_fatal=self.fatal.append,
            on_cancel=self.cancelled.append,
            clock=self.clock,
        )

    async def hold(self) -> Any:
        """Keep the device busy with a sequence of one token; return its ticket."""
        self.runtime.gate.clear()
        ticket = self.engine.submit([sequence(1)])
        assert await asyncio.to_thread(self.runtime.entered.acquire, timeout=10)
        return ticket

    def release(self) -> None:
        """Let the device go on."""
        self.runtime.gate.set()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes benches, started; at the end each engine must stop."""
    made: list[Bench] = []

    def make(
        before_run: Callable[[Sequence[Item]], None] | None = None, *, start: bool = True, **limits: Any
    ) -> Bench:
        made.append(Bench(Limits(**limits), before_run))
        if start:
            made[-1].engine.start()
        return made[-1]

    yield make
    for one in made:
        one.release()
        assert one.engine.stop(10)
        assert one.engine.oldest_batch_seconds == 0
