"""Both clients before several real servers: one is killed, drains, starts anew, or is slow."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from heed_client import AsyncClient, Client, Retries
from service.cli import cli
from tests.e2e.conftest import FakeServer, Start

X = np.arange(12, dtype=np.float32).reshape(3, 4)
CALLERS, REQUESTS = 12, 40
NO_RETRIES = Retries(attempts=1)  # one round: whoever must wait has failed


def url(server: FakeServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def metric(server: FakeServer, name: str) -> float:
    page = httpx.get(url(server) + "/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(name))


def sequences(server: FakeServer) -> float:
    """Return how many sequences a server has computed."""
    return metric(server, "heed_batch_sequences_sum")


def under_load(client: Client, halfway: Callable[[], None], *, callers: int = CALLERS) -> int:
    """Ask from several threads, do something when half is answered; return how many answers were right."""
    answered = 0
    lock = threading.Lock()

    def caller(_: int) -> None:
        nonlocal answered
        for _ in range(REQUESTS):
            [one] = client.attend("fake", X, outputs="z")
            np.testing.assert_array_equal(one.z, 2 * X)
            with lock:
                answered += 1
                if answered == callers * REQUESTS // 2:
                    halfway()

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(caller, range(callers)))
    return answered


async def under_load_async(client: AsyncClient, halfway: Callable[[], None]) -> int:
    answered = 0

    async def caller() -> None:
        nonlocal answered
        for _ in range(REQUESTS):
            [one] = await client.attend("fake", X, outputs="z")
            np.testing.assert_array_equal(one.z, 2 * X)
            answered += 1
            if answered == CALLERS * REQUESTS // 2:
                halfway()

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return answered


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "drained"])
@pytest.mark.parametrize("kind", ["threads", "async"])
def test_no_request_fails_when_one_of_two_servers_goes(start: Start, kind: str, number: int) -> None:
    gone, stays = start(batch_seconds=0.004), start(batch_seconds=0.004)

    def go() -> None:
        os.kill(gone.process.pid, number)

    urls = [url(gone), url(stays)]
    if kind == "threads":
        with Client(urls, retries=NO_RETRIES) as client:
            assert under_load(client, go) == CALLERS * REQUESTS
    else:

        async def ask() -> int:
            async with AsyncClient(",".join(urls), retries=NO_RETRIES) as client:
                return await under_load_async(client, go)

        assert asyncio.run(ask()) == CALLERS * REQUESTS
    assert sequences(stays) > CALLERS * REQUESTS / 4  # what is asked after the other went, at least
    assert gone.process.wait(timeout=20) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    assert stays.process.poll() is None


def test_server_that_comes_back_is_asked_again(start: Start) -> None:
    first, stays = start(), start()
    with Client([url(first), url(stays)], retries=NO_RETRIES) as client:
        for _ in range(2):
            client.attend("fake", X, outputs="z")
        first.process.kill()
        first.process.wait(timeout=20)
        for _ in range(2):
            client.attend("fake", X, outputs="z")
        again = start(settings={"port": first.port})
        assert again.port == first.port
        while sequences(again) < 2:
            client.attend("fake", X, outputs="z")


def test_slow_server_is_asked_less(start: Start) -> None:
    plan = {"max_batch_tokens": 16}
    slow, quick = start(batch_seconds=0.05, settings=plan), start(batch_seconds=0.002, settings=plan)
    with Client([url(slow), url(quick)]) as client:
        assert under_load(client, lambda: None, callers=8) == 8 * REQUESTS
    asked = sequences(slow), sequences(quick)
    assert sum(asked) == 8 * REQUESTS
    assert 0 < asked[0] < asked[1] / 2


def test_full_server_sends_its_callers_to_the_other(start: Start) -> None:
    """It has room for one that waits and one that is computed: of sixteen callers most must go elsewhere."""
    full = start(batch_seconds=0.02, settings={"max_queued_requests": 1, "max_batch_tokens": 3})
    other = start(batch_seconds=0.02, settings={"max_batch_tokens": 12})
    with Client([url(full), url(other)], retries=NO_RETRIES) as client:
        assert under_load(client, lambda: None, callers=16) == 16 * REQUESTS
    assert metric(full, "heed_rejected_total") > 0


def test_commands_take_several_servers(start: Start) -> None:
    servers = [start(), start()]
    urls = ",".join(["http://127.0.0.1:9", *map(url, servers)])
    words = ["attend", "fake", "a b", "--json", "--outputs", "z", "--url", urls]
    for _ in range(4):
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
    bench = ["bench", "fake", "--seconds", "0.2", "--connections", "2", "--longest", "16"]
    done = CliRunner().invoke(cli, [*bench, "--url", ",".join(map(url, servers))])
    assert done.exit_code == 0, done.output
    assert min(map(sequences, servers)) > 4
    done = CliRunner().invoke(cli, ["models", "--url", "localhost:8000"])
    assert done.exit_code == 1
    assert "http://HOST:PORT" in done.output
