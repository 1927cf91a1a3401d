"""Deaths and freezes of every process: all are red, the whole ends and says so, and nothing is left."""

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import Start as StartFake
from tests.e2e.conftest import attend_request
from tests.faults.conftest import Start
from tests.faults.deaths import left_behind, strike
from tests.faults.running import running

WATCHDOG_SECONDS = 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_death_of_an_http_process_ends_the_whole(start: Start, number: signal.Signals) -> None:
    server = start(http_workers=2)
    aftermath = strike(server, "worker", number)
    assert aftermath.red_seconds is not None
    assert (aftermath.status, aftermath.survivors, left_behind(server)) == (1, 0, [])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_death_of_the_device_process_ends_the_others(
    start: Start, repository: Path, number: signal.Signals
) -> None:
    server = start(http_workers=2)
    aftermath = strike(server, "device", number)
    assert aftermath.red_seconds is not None
    assert (aftermath.status, aftermath.survivors) == (-number, 0)
    if number == signal.SIGKILL:
        assert left_behind(server)  # nobody was left to remove it, until the next start
        again = {"repository": repository, "port": server.port, "drain_seconds": 1}
        with running(server.scratch.parent, **again) as following:  # type: ignore[arg-type]
            assert following.stop() == 0
            assert left_behind(following) == []


@pytest.mark.parametrize("victim", ["device", "worker"])
def test_frozen_process_turns_all_red(start: Start, victim: str) -> None:
    server = start(http_workers=2, watchdog_seconds=WATCHDOG_SECONDS)
    aftermath = strike(server, victim, signal.SIGSTOP)
    assert aftermath.red_seconds is not None
    assert aftermath.status not in (0, None)
    assert aftermath.survivors == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_frozen_thread_of_the_device_turns_all_red(start_fake: StartFake, workers: int) -> None:
    server = start_fake(
        hang_after=0, settings={"http_workers": workers, "watchdog_seconds": WATCHDOG_SECONDS}
    )
    with server.connect() as waiting:
        waiting.sendall(attend_request())
        until = time.monotonic() + 10 * WATCHDOG_SECONDS
        while server.get("/health").status == 200:
            assert time.monotonic() < until
        assert server.get("/v2/health/ready").status == 503


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_thread_of_the_device_ends_the_whole(start_fake: StartFake, workers: int) -> None:
    server = start_fake(fail_after=0, settings={"http_workers": workers})
    first = server.attend()
    assert (first.status, first.code) == (503, "device_failed")
    assert server.ended(timeout_seconds=10) == 1
