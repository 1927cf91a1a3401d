"""How the process ends: nothing accepted is lost, and what cannot be saved ends quickly."""

import asyncio
import json
import signal
import time

import pytest

from tests.e2e.conftest import ATTEND, Answer, Caller, FakeServer, Start, attend_request, read, request
from tests.waiting import wait_until

CALLERS = 300
SLACK = 3  # of a busy machine; threads that were waited for would take an hour


async def ask_until_told_to_leave(server: FakeServer, answers: list[Answer]) -> None:
    caller = await Caller.to(server.port)
    try:
        while not answers or not answers[-1].closes:
            mine = await caller.ask(attend_request(4))
            answers.append(mine)
            if mine.closes:
                return
    finally:
        await caller.leave()


async def term_under_load(server: FakeServer, signals: int = 1) -> list[Answer]:
    answers: list[list[Answer]] = [[] for _ in range(CALLERS)]
    async with asyncio.TaskGroup() as callers:
        for mine in answers:
            callers.create_task(ask_until_told_to_leave(server, mine))
        while sum(map(len, answers)) < CALLERS // 2:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
    return [answer for mine in answers for answer in mine]


def test_sigterm_under_load_answers_every_request_and_exits_0(start: Start) -> None:
    server = start(batch_seconds=0.02, settings={"max_batch_tokens": 16, "max_queued_tokens": 40_000})
    answers = asyncio.run(term_under_load(server))
    assert {answer.status for answer in answers} == {200}
    assert sum(answer.closes for answer in answers) == CALLERS
    assert server.ended() == 0
    logged = [line for line in server.log if line["message"] == "request" and line["method"] == "POST"]
    assert len(logged) == len(answers)
    assert not [line for line in server.log if line["level"] in ("warning", "error")]


def test_draining_server_is_not_ready_at_once_but_still_answers(start: Start) -> None:
    server = start(grace_seconds=1.0)
    server.process.send_signal(signal.SIGTERM)
    health = server.get("/health")
    while health.status == 200:  # the signal is on its way
        health = server.get("/health")
    assert (health.status, health.json()["status"], health.closes) == (503, "draining", True)
    assert server.get("/v2/health/ready").status == 503
    assert server.get("/v2/health/live").status == 200
    late = server.attend()
    assert (late.status, late.closes) == (200, True)
    assert server.ended() == 0


def test_body_that_arrives_after_the_listener_has_closed_is_answered(start: Start) -> None:
    server = start(grace_seconds=0.1)
    raw = attend_request(3)
    with server.connect() as slow:
        slow.sendall(raw[:-5])
        server.process.send_signal(signal.SIGTERM)
        wait_until_refused(server)
        slow.sendall(raw[-5:])
        answer = read(slow)
        assert answer is not None
        assert (answer.status, answer.closes) == (200, True)
    assert server.ended() == 0


def test_idle_connections_do_not_hold_up_the_end(start: Start) -> None:
    server = start(grace_seconds=0.1)
    idle = [server.connect() for _ in range(20)]
    used = server.connect()
    used.sendall(request("GET", "/health"))
    assert read(used) is not None
    half = server.connect()
    half.sendall(b"GET /health HTT")
    assert server.stop(timeout_seconds=10) == 0
    for connection in (*idle, used, half):
        assert connection.recv(1) == b""
        connection.close()


def test_second_signal_ends_the_process_at_once(start: Start) -> None:
    server = start(hang_after=0, grace_seconds=60, settings={"drain_seconds": 3600})
    with server.connect() as waiting:
        waiting.sendall(attend_request())
        wait_for_queue(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health").json()["status"] == "draining", "the server drains")
        assert server.stop() == 128 + signal.SIGTERM


def test_requests_that_cannot_be_finished_in_time_are_told_and_the_status_says_so(start: Start) -> None:
    server = start(hang_after=0, grace_seconds=0.1, settings={"drain_seconds": 1, "max_batch_tokens": 2})
    connections = [server.connect() for _ in range(5)]
    for connection in connections:
        connection.sendall(attend_request())
    wait_for_queue(server, requests=5)
    assert server.stop() == 1
    for connection in connections:
        answer = read(connection)
        connection.close()
        assert answer is not None
        assert (answer.status, answer.code) == (503, "draining")


def test_bodies_that_are_cut_off_by_the_end_are_told_without_a_traceback(start: Start) -> None:
    server = start(grace_seconds=0.1, settings={"drain_seconds": 1})
    connections = [server.connect() for _ in range(3)]
    for connection in connections:
        connection.sendall(attend_request()[:-5])
    wait_until(lambda: b"heed_connections 4.0" in server.get("/metrics").body, "all are connected")
    assert server.stop() == 1
    for connection in connections:
        answer = read(connection)
        connection.close()
        assert answer is not None
        assert (answer.status, answer.code) == (503, "draining")
    assert [line for line in server.log if "exception" in line] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_thread_that_never_comes_back_does_not_hold_up_the_end(start: Start, workers: int) -> None:
    """A long text is tokenized on a thread, and a model is loaded on one; nobody waits for either."""
    settings = {"drain_seconds": 1, "admin": True, "http_workers": workers}
    server = start(stuck_on_text=True, stuck_on_load=True, grace_seconds=0.1, settings=settings)
    text = json.dumps({"inputs": [{"text": "a " * 8192}]}).encode()
    lines = ("Content-Type: application/json", f"Content-Length: {len(text)}")
    asked = [request("POST", "/v2/repository/models/another/load", "Content-Length: 0")]
    if workers == 1:
        asked.append(request("POST", ATTEND, *lines, body=text))
    connections = [server.connect() for _ in asked]
    for connection, raw in zip(connections, asked, strict=True):
        connection.sendall(raw)
    assert server.attend(1).status == 200
    began = time.monotonic()
    assert server.stop() == 1
    assert time.monotonic() - began < 1 + 2 + SLACK
    for connection in connections:
        answer = read(connection)
        connection.close()
        assert answer is not None
        assert answer.status == 503


def test_device_failure_ends_the_process_and_nothing_is_answered_with_200(start: Start) -> None:
    server = start(fail_after=3)
    assert [server.attend().status for _ in range(3)] == [200] * 3
    failed_at = time.monotonic()
    first = server.attend()
    assert (first.status, first.code) == (503, "device_failed")
    seen = []
    try:
        while True:
            for raw in (request("GET", "/health"), request("GET", "/v1/models"), attend_request()):
                answer = server.send(raw)
                seen.append(answer.status if answer else None)
    except ConnectionRefusedError:
        pass
    assert set(seen) <= {503, None}
    assert seen[0] == 503
    assert server.ended(timeout_seconds=5 - (time.monotonic() - failed_at)) == 1


def test_callers_of_a_device_that_fails_are_told(start: Start) -> None:
    server = start(fail_after=0, batch_seconds=0.05, settings={"max_batch_tokens": 2})

    async def ask_all() -> list[Answer]:
        callers = await asyncio.gather(*(Caller.to(server.port) for _ in range(50)))
        answers = await asyncio.gather(*(caller.ask(attend_request()) for caller in callers))
        await asyncio.gather(*(caller.leave() for caller in callers))
        return answers

    answers = asyncio.run(ask_all())
    assert {(answer.status, answer.code) for answer in answers} == {(503, "device_failed")}
    assert server.ended(timeout_seconds=5) == 1


def wait_until_refused(server: FakeServer) -> None:
    def refused() -> bool:
        try:
            server.send(request("GET", "/health"))
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused, "connections are refused")


def wait_for_queue(server: FakeServer, requests: int = 1) -> None:
    wait_until(
        lambda: server.get("/health").json()["queue"]["requests"] >= requests, f"{requests} requests queued"
    )
