"""Callers who keep the server waiting, and more connections than there may be, over real sockets."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from service.socket.places import SPARED_SECONDS
from tests.e2e.conftest import ATTEND, FakeServer, Start, attend_request, read, request
from tests.waiting import wait_until

JSON = "Content-Type: application/json"
IMPATIENT = {"head_seconds": 1, "stall_seconds": 1, "min_bytes_per_second": 500}
INFER = "/v2/models/fake/infer"


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once(settings=IMPATIENT)


def spared_no_more() -> None:
    """Return when connections that are idle now may be closed for another."""
    answered = time.monotonic()
    wait_until(lambda: time.monotonic() > answered + 2 * SPARED_SECONDS, "time goes on")


def closed(connection: socket.socket) -> bool:
    """Whether nothing more comes; waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"[", b""])
@pytest.mark.parametrize("framing", ["Content-Length: 60000000", "Transfer-Encoding: chunked"])
def test_body_that_does_not_come_is_answered_with_what_was_too_slow(
    server: FakeServer, framing: str, sent: bytes
) -> None:
    with server.connect() as connection:
        piece = b"1\r\n[\r\n" if sent and "chunked" in framing else sent
        connection.sendall(request("POST", ATTEND, JSON, framing, "X-Request-Id: slow-one") + piece)
        answer = read(connection)
        assert answer is not None
        assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)
        assert answer.json()["error"]["request_id"] == "slow-one"
        assert "MIN_BYTES_PER_SECOND" in answer.json()["error"]["message"]
        assert closed(connection)


def test_body_of_the_protocol_that_does_not_come_is_answered_in_its_words(server: FakeServer) -> None:
    answer = server.send(request("POST", INFER, JSON, "Content-Length: 100") + b"{")
    assert answer is not None
    assert answer.status == 408
    assert set(answer.json()) == {"error"}
    assert isinstance(answer.json()["error"], str)


def test_head_that_does_not_end_is_answered(server: FakeServer) -> None:
    answer = server.send(b"POST /v1/models HTTP/1.1\r\nHost: x\r\nX-")
    assert answer is not None
    assert (answer.status, answer.code, answer.closes) == (408, "request_timeout", True)


def test_caller_who_says_nothing_is_closed_without_a_word(server: FakeServer) -> None:
    with server.connect() as connection:
        assert closed(connection)


def test_what_came_before_a_slow_head_is_answered(server: FakeServer) -> None:
    with server.connect() as connection:
        connection.sendall(attend_request() + b"GET /health HT")
        first = read(connection)
        second = read(connection)
    assert first is not None
    assert second is not None
    assert (first.status, second.status) == (200, 408)


def test_each_ending_is_counted_and_told_in_one_line(start: Start) -> None:
    server = start(settings={**IMPATIENT, "keep_alive_seconds": 1})
    with ExitStack() as opened:
        slow = [opened.enter_context(server.connect()) for _ in range(20)]
        for connection in slow:
            connection.sendall(request("POST", ATTEND, JSON, "Content-Length: 1000"))
        kept = opened.enter_context(server.connect())
        kept.sendall(request("GET", "/health"))
        assert all(read(connection) is not None for connection in slow)
        assert read(kept) is not None
        assert closed(kept)
    page = server.get("/metrics").body.decode().splitlines()
    assert 'heed_connections_closed_total{reason="slow_body"} 20.0' in page
    assert 'heed_connections_closed_total{reason="idle"} 1.0' in page
    assert "heed_connections 1.0" in page  # the one that asks
    assert server.stop() == 0
    lines = [line for line in server.log if line["message"] == "connections ended"]
    assert [line["reason"] for line in lines][:1] == ["slow_body"]
    assert len(lines) <= 2
    assert {line["status"] for line in server.log if line["message"] == "request"} == {200, 408}


@pytest.fixture
def full(start: Start) -> Iterator[tuple[FakeServer, list[socket.socket]]]:
    """A server of four connections, each of which waits for its answer."""
    server = start(settings={"max_connections": 4}, batch_seconds=2.0)
    with ExitStack() as opened:
        waiting = [opened.enter_context(server.connect()) for _ in range(4)]
        for connection in waiting:
            connection.sendall(attend_request())
        yield server, waiting


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v2/health/live", "/v2/health/ready"])
def test_health_and_metrics_are_answered_beyond_the_limit_of_connections(
    full: tuple[FakeServer, list[socket.socket]], path: str
) -> None:
    server, waiting = full
    answer = server.get(path)
    assert (answer.status, answer.closes) == (200, True)
    assert {answer.status for answer in map(read, waiting) if answer is not None} == {200}


def test_other_requests_beyond_the_limit_are_told_when_to_come_again(
    full: tuple[FakeServer, list[socket.socket]],
) -> None:
    server, waiting = full
    answer = server.send(attend_request())
    assert answer is not None
    assert (answer.status, answer.code, answer.closes) == (503, "too_many_connections", True)
    assert answer.headers["retry-after"] == "1"
    answers = list(map(read, waiting))
    assert [answer.status for answer in answers if answer is not None] == [200] * 4
    spared_no_more()
    assert server.send(attend_request()).status == 200  # type: ignore[union-attr]


def test_connections_past_the_seats_are_closed_and_health_is_there_again_at_once(
    full: tuple[FakeServer, list[socket.socket]],
) -> None:
    server, waiting = full
    with ExitStack() as opened:
        flood = [opened.enter_context(server.connect()) for _ in range(100)]
        assert server.get("/health").status == 200
        assert closed(flood[0])
    assert all(answer is not None and answer.status == 200 for answer in map(read, waiting))


def test_new_callers_take_the_place_of_who_was_idle_longest(start: Start) -> None:
    server = start(settings={"max_connections": 3})
    with ExitStack() as opened:
        kept = []
        for _ in range(4):
            kept.append(opened.enter_context(server.connect()))
            kept[-1].sendall(attend_request())
            answer = read(kept[-1])
            assert answer is not None
            assert answer.status == 200
            spared_no_more()
        assert closed(kept[0])
        kept[1].sendall(attend_request())
        answer = read(kept[1])
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize(
    "raw",
    [
        *(
            request("GET", path)
            for path in (
                "/",
                "/docs",
                "/openapi.json",
                "/health",
                "/metrics",
                "/v1/models",
                "/v2",
                "/nowhere",
            )
        ),
        *(request("GET", f"/web/{name}") for name in ("favicon.svg", "docs/swagger-ui.css", "nothing.js")),
        request("DELETE", "/v1/models"),
        request("HEAD", "/health"),
        attend_request(),
        request("POST", ATTEND, JSON, "Content-Length: 999999999999"),
        request("POST", INFER, JSON, "Content-Length: 2", body=b"[]"),
        request("GET", "/", host="X: y"),
        b"nonsense\r\n\r\n",
        b"GET / HT",
    ],
)
def test_every_reply_forbids_to_guess_its_type(server: FakeServer, raw: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(raw)
        head = b""
        while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
            head += piece
    lines = head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert lines.count(b"x-content-type-options: nosniff") == 1


def test_log_of_a_slow_request_has_its_id(start: Start) -> None:
    server = start(settings=IMPATIENT)
    server.send(request("POST", ATTEND, JSON, "Content-Length: 100", "X-Request-Id: late"))
    assert server.stop() == 0
    (line,) = (line for line in server.log if line.get("id") == "late")
    assert (line["status"], line["code"]) == (408, "request_timeout")
    assert json.dumps(line)
