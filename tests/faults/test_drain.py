"""SIGTERM under mixed load of a real model loses nothing, and the exit comes whatever is being done."""

import asyncio
import signal

import pytest

from tests.faults.bombs import LONG_TEXT
from tests.faults.conftest import Start
from tests.faults.drain import drain_under_load
from tests.faults.wire import attend, connect

DRAIN_SECONDS = 2


@pytest.mark.parametrize("keep_alive", [True, False], ids=["kept", "closed"])
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_mixed_load_loses_nothing(start: Start, workers: int, keep_alive: bool) -> None:
    server = start(http_workers=workers)
    drained = asyncio.run(drain_under_load(server, callers=20, before=100, keep_alive=keep_alive))
    assert (drained.lost, drained.status) == ([], 0)
    assert drained.answers[200] >= 100
    assert server.tracebacks() == 0


def test_exit_does_not_wait_for_long_texts(start: Start) -> None:
    server = start(drain_seconds=DRAIN_SECONDS)
    with connect(server.port) as waiting:
        waiting.sendall(attend({"inputs": [{"text": LONG_TEXT}] * 30}))
        assert server.healthy()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(3 * (DRAIN_SECONDS + 2))  # the promise is a third of it; machines are busy
