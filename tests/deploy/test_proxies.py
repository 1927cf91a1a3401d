"""Two servers behind each proxy as deploy/proxy has it: one is killed under load, and nobody notices."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.deploy.proxies import PROXIES, proxy
from tests.e2e.conftest import ATTEND, FakeServer, Start
from tests.e2e.conftest import start as start

CALLERS, REQUESTS = 6, 40
BODY = {"inputs": [{"token_ids": [1, 2, 3]}], "outputs": ["z"]}


@pytest.fixture(params=PROXIES)
def behind(request, start: Start, tmp_path: Path) -> Iterator[tuple[str, list[FakeServer]]]:
    servers = [start(batch_seconds=0.005), start(batch_seconds=0.005)]
    with proxy(request.param, [server.port for server in servers], tmp_path) as url:
        yield url, servers


def test_server_that_is_killed_under_load_fails_nobody(behind):
    url, servers = behind
    statuses = asyncio.run(_under_load(url, kill=servers[0]))
    assert statuses == [200] * CALLERS * REQUESTS
    assert servers[1].process.poll() is None


async def _under_load(url: str, *, kill: FakeServer) -> list[int]:
    answered: list[int] = []

    async def caller(http: httpx.AsyncClient) -> None:
        for _ in range(REQUESTS):
            reply = await http.post(url + ATTEND, json=BODY)
            answered.append(reply.status_code)
            if len(answered) == CALLERS * REQUESTS // 3:
                os.kill(kill.process.pid, signal.SIGKILL)

    async with httpx.AsyncClient(timeout=30) as http:
        await asyncio.gather(*(caller(http) for _ in range(CALLERS)))
    return answered


def test_large_bodies_pass_through_byte_for_byte(behind):
    url, _ = behind
    x = np.random.default_rng(0).random((1, 3_000_000 // 16, 4), dtype=np.float32)
    import io

    body = io.BytesIO()
    np.save(body, x[0][:16])
    small = httpx.post(
        url + ATTEND,
        params={"outputs": '["z"]'},
        content=body.getvalue(),
        headers={"content-type": "application/x-npy", "accept": "application/x-npy"},
        timeout=60,
    )
    assert small.status_code == 200
    np.testing.assert_array_equal(np.load(io.BytesIO(small.content)), 2 * x[0][:16])


def test_both_servers_are_asked(behind):
    url, servers = behind
    asyncio.run(_ask_at_once(url, 32))
    asked = [_metric(server, "heed_batch_sequences_sum") for server in servers]
    assert sum(asked) == 32
    assert min(asked) > 0


async def _ask_at_once(url: str, count: int) -> None:
    async with httpx.AsyncClient(timeout=30) as http:
        replies = await asyncio.gather(*(http.post(url + ATTEND, json=BODY) for _ in range(count)))
    assert {reply.status_code for reply in replies} == {200}


def _metric(server: FakeServer, name: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))
