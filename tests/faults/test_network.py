"""Faults of the network in front of a real server, with 1 and 2 HTTP processes; healthy callers beside.

Each kind is done a few times here and fifty times in `benchmarks.resilience`.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from tests.faults.conftest import Start
from tests.faults.network import KINDS, Trial
from tests.faults.running import Running

TIMES = 3
BY_NAME = {kind.name: kind for kind in KINDS}


class Bench:
    """A trial that goes on beside the tests, on an event loop of its own."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.trial: Trial = self._wait(self._stack.enter_async_context(Trial.of(server.port)))

    def run(self, name: str) -> list[str]:
        wrong: list[str] = self._wait(self.trial.run(BY_NAME[name], TIMES))
        return wrong

    def close(self) -> None:
        self._wait(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work):  # type: ignore[no-untyped-def]
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def bench(start_once: Start, request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(start_once(http_workers=request.param))
    yield bench
    bench.close()


@pytest.mark.parametrize("name", BY_NAME)
def test_fault_does_no_harm_and_what_can_be_answered_is(bench: Bench, name: str) -> None:
    assert bench.run(name) == []
    assert bench.server.alive


def test_healthy_callers_were_answered_all_along(bench: Bench) -> None:
    assert bench.trial.healthy.answered > 100
    assert bench.trial.healthy.complaints == []


def test_there_are_as_many_kinds_as_are_promised() -> None:
    assert len(BY_NAME) == len(KINDS) >= 31
