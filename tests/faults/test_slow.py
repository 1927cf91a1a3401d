"""Slow callers keep nobody else waiting, with many descriptors or few; who is too slow is ended."""

import asyncio
import contextlib
from contextlib import ExitStack

import pytest

from tests.faults.bombs import weights_of
from tests.faults.conftest import Start
from tests.faults.limits import descriptors
from tests.faults.network import Healthy, learn
from tests.faults.running import Running
from tests.faults.slow import SLOW_KINDS, slow_callers
from tests.faults.wire import connect, post

EACH = 60
ANSWERS = 300
FEW_DESCRIPTORS = 128
DRAIN_SECONDS = 2  # new connections are taken for half of it after SIGTERM
PATIENCE = 30  # seconds until those who are too slow have been ended


async def _answered_beside(
    server: Running, kinds: tuple[str, ...], count: int, *, files: bool = False
) -> list[str]:
    """Complaints of healthy callers until enough were answered beside slow ones, who are all there."""
    expected = await learn(server.port)
    async with slow_callers(server.port, kinds, count) as seen:
        async with asyncio.timeout(30):
            while min(seen[f"{kind}: made"] for kind in kinds) < count:
                await asyncio.sleep(0.02)
        healthy = Healthy(server.port, expected)
        async with asyncio.timeout(60), healthy.asking():
            while healthy.answered < ANSWERS and not healthy.complaints:
                await asyncio.sleep(0.02)
        if files:
            healthy.complaints += await asyncio.to_thread(_files_opened, server)
        return healthy.complaints


def _files_opened(server: Running) -> list[str]:
    """Complaints about requests for which the server has to open files."""
    asked = {
        "a model is loaded": post("/v2/repository/models/demo-attention/load", b"{}"),
        "a page is read": b"GET /web/docs/swagger-ui.css HTTP/1.1\r\nHost: x\r\n\r\n",
        "health is asked": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
    }
    statuses = {name: server.ask(raw).status for name, raw in asked.items() for _ in range(3)}
    return [f"{name}: {status}" for name, status in statuses.items() if status != 200]


def test_slow_callers_of_every_kind_keep_nobody_waiting(start: Start) -> None:
    server = start(drain_seconds=DRAIN_SECONDS)
    assert asyncio.run(_answered_beside(server, SLOW_KINDS, EACH)) == []
    assert server.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_slow_bodies_do_not_hold_every_descriptor(start: Start, workers: int) -> None:
    limits = {"prefix": descriptors(FEW_DESCRIPTORS), "drain_seconds": DRAIN_SECONDS}
    server = start(**limits, admin="true", http_workers=workers)
    beside = _answered_beside(server, ("slow body",), workers * FEW_DESCRIPTORS, files=True)
    assert asyncio.run(beside) == []
    assert server.metric("heed_connections_closed_total", reason="room") > 0
    assert server.stop() == 0
    log = server.log_file.read_text()
    assert "Too many open files" not in log
    assert log.count('"reason":"room"') == workers


def test_callers_who_do_not_read_are_ended_and_what_they_held_is_given_back(start: Start) -> None:
    server = start(stall_seconds=1)
    large = weights_of(1500)  # 18 MB, more than the kernel holds for them
    with ExitStack() as opened:
        callers = [opened.enter_context(connect(server.port, PATIENCE, window=4096)) for _ in range(4)]
        for caller in callers:
            caller.sendall(large)
        for caller in callers:
            assert caller.recv(15) == b"HTTP/1.1 200 OK"
        for caller in callers:
            assert _cut_off(caller, server)
    assert server.metric("heed_connections_closed_total", reason="slow_reader") == len(callers)
    assert server.healthy()


def _cut_off(caller, server: Running) -> bool:  # type: ignore[no-untyped-def]
    """Whether a reply ends before its end, for one who begins to read when the server has given up."""
    while server.metric("heed_connections_closed_total", reason="slow_reader") < 1:
        pass
    read = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := caller.recv(1 << 20):
            read += len(piece)
    return read < 18_000_000
