"""What a hostile or broken caller sends, byte by byte: refused as the contract says; the server goes on."""

import contextlib
import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import ATTEND, Answer, FakeServer, Start, attend_request, read, request
from tests.waiting import wait_until

MAX_BODY = 100_000
JSON = "Content-Type: application/json"


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once(settings={"max_body_bytes": MAX_BODY, "log_level": "warning"})


@pytest.fixture(autouse=True)
def still_serving(server: FakeServer) -> Iterator[None]:
    """After every case the server answers the next request."""
    yield
    assert server.attend().status == 200


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def test_declared_body_over_the_limit_is_refused_before_it_is_sent(server: FakeServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("POST", ATTEND, JSON, f"Content-Length: {MAX_BODY + 1}"))
        answer = read(connection)
        assert answer is not None
        assert (answer.status, answer.code, answer.closes) == (413, "body_too_large", True)
        assert str(MAX_BODY) in answer.json()["error"]["message"]
        assert connection.recv(1) == b""


def test_expect_continue_is_not_invited_when_the_body_is_too_large(server: FakeServer) -> None:
    with server.connect() as connection:
        lines = (JSON, f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue")
        connection.sendall(request("POST", ATTEND, *lines))
        answer = read(connection)
        assert answer is not None
        assert answer.status == 413


def test_expect_continue_is_invited_when_the_body_fits(server: FakeServer) -> None:
    head, _, body = attend_request().partition(b"\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        answer = read(connection)
        assert answer is not None
        assert answer.status == 200


def test_chunked_body_is_cut_at_most_64_kib_past_the_limit(server: FakeServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("POST", ATTEND, JSON, "Transfer-Encoding: chunked"))
        for _ in range(MAX_BODY // 1000 + 1):
            connection.sendall(chunked(b" " * 1000))
        answer = read(connection)
        assert answer is not None
        assert (answer.status, answer.code, answer.closes) == (413, "body_too_large", True)
        size, limit = map(int, re.findall(r"\d+", answer.json()["error"]["message"]))
        assert limit == MAX_BODY
        assert limit < size <= limit + 65_536
        with contextlib.suppress(ConnectionResetError):  # what it has not read when it closes says so
            assert connection.recv(1) == b""


def test_chunked_flood_is_refused_and_not_read_to_its_end(server: FakeServer) -> None:
    flood = request("POST", ATTEND, JSON, "Transfer-Encoding: chunked") + chunked(*[b" " * 65_536] * 1000)
    answer = server.send(flood)
    assert answer is None or (answer.status, answer.code) == (413, "body_too_large")


def test_body_nobody_reads_is_not_read_past_the_limit_either(server: FakeServer) -> None:
    with server.connect() as connection:
        connection.sendall(request("POST", "/nowhere", "Transfer-Encoding: chunked") + chunked(b"x"))
        answer = read(connection)
        assert answer is not None
        assert answer.status == 404
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(chunked(*[b" " * 65_536] * 1000))


@pytest.mark.parametrize(
    "raw",
    [
        request("GET", "/health", "X-Large: " + "x" * 40_000),
        request("GET", "/health", *(f"X-{n}: {'y' * 50}" for n in range(1000))),
        request("GET", "/health?" + "q" * 40_000),
        request("GET", "/" + "p" * 40_000),
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Endless: " + b"z" * 3_000_000,
        b"G" * 100_000,
        b"GET /" + b"p" * 3_000_000,
    ],
    ids=["one-header", "many-headers", "query", "path", "endless-header", "method", "endless-path"],
)
def test_head_over_its_cap_is_refused_and_the_connection_closed(server: FakeServer, raw: bytes) -> None:
    answer = server.send(raw)
    assert answer is None or (answer.status, answer.code, answer.closes) == (400, "malformed", True)


def test_target_of_16_kib_is_only_an_unknown_route(server: FakeServer) -> None:
    answer = server.get("/" + "p" * 16_000)
    assert (answer.status, answer.code) == (404, "unknown_route")


def test_head_under_the_cap_passes_in_pieces_too(server: FakeServer) -> None:
    raw = request("GET", "/health", "X-Large: " + "x" * 30_000)
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(raw), 1000):
            connection.sendall(raw[start : start + 1000])
        answer = read(connection)
        assert answer is not None
        assert answer.status == 200


BODY = b'{"inputs": [{"token_ids": [1]}]}'
MALFORMED = {
    "no host": request("GET", "/health", host="X: y"),
    "two hosts": request("GET", "/health", "Host: y"),
    "length and chunks": request(
        "POST", ATTEND, JSON, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"
    ),
    "two lengths": request("POST", ATTEND, JSON, "Content-Length: 5", "Content-Length: 6", body=b"12345"),
    "negative length": request("POST", ATTEND, JSON, "Content-Length: -5"),
    "length of letters": request("POST", ATTEND, JSON, "Content-Length: five"),
    "huge length": request("POST", ATTEND, JSON, "Content-Length: " + "9" * 30),
    "length with a sign": request("POST", ATTEND, JSON, "Content-Length: +5", body=b"12345"),
    "chunk size of letters": request("POST", ATTEND, JSON, "Transfer-Encoding: chunked", body=b"xyz\r\n"),
    "huge chunk size": request("POST", ATTEND, JSON, "Transfer-Encoding: chunked", body=b"F" * 40 + b"\r\n"),
    "unknown coding": request("POST", ATTEND, JSON, "Transfer-Encoding: gzip", body=BODY),
    "no version": b"GET /health\r\n\r\n",
    "version 9": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "zeros": bytes(1000),
    "bare line feeds": b"GET /health HTTP/1.1\nHost: x\n\n",
    "header without a name": request("GET", "/health", ": x"),
    "space before the colon": request("GET", "/health", "X-A : b"),
    "folded header": request("GET", "/health", "X-A: b\r\n  folded"),
    "null in a header": request("GET", "/health", "X-A: \x00"),
    "path of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute target": b"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": request("BREW", "/health"),
    "upgrade": request("GET", "/health", "Connection: Upgrade", "Upgrade: websocket"),
    "escape in the path": request("GET", "/%0d%0a%1b%5b31m"),
    "null in the path": request("GET", "/v1/models/%00"),
    "bad utf-8 in the path": request("GET", "/v1/models/%ff%fe"),
    "dots": request("GET", "/v1/models/../../etc/passwd"),
    "encoded dots": request("GET", "/web/..%2f..%2fsettings.py"),
    "trailing garbage": request("POST", ATTEND, JSON, "Content-Length: 2", body=BODY),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_bytes_that_are_no_request_get_no_5xx_and_no_200_of_the_main_job(
    server: FakeServer, raw: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = read_any(connection)
    assert answer is None or answer.status < 500
    assert not (answer and answer.status == 200 and raw.startswith(b"POST"))


def read_any(connection: socket.socket) -> Answer | None:
    """The first reply that is not an interim one."""
    answer = read(connection)
    return answer if answer is None or answer.status >= 200 else read(connection)


def test_refusal_below_http_speaks_the_contracts_words(server: FakeServer) -> None:
    answer = server.send(b"this is no request\r\n\r\n")
    assert answer is not None
    assert (answer.status, answer.code, answer.closes) == (400, "malformed", True)
    assert answer.headers["content-type"] == "application/json"
    v2 = server.send(request("GET", "/v2/health/live", host="X: y"))
    assert v2 is not None
    assert isinstance(v2.json()["error"], str)


def test_refusals_below_http_are_counted(server: FakeServer) -> None:
    series = 'heed_requests_total{code="400",model="",route="unknown"}'

    def count() -> float:
        lines = server.get("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(series))

    before = count()
    server.send(b"nonsense\r\n\r\n")
    assert count() == before + 1


def test_pipelined_requests_are_answered_in_order(server: FakeServer) -> None:
    with server.connect() as connection:
        raw = b"".join(
            request(
                "GET", "/v1/models/fake", f"X-Request-Id: {n}", *(["Connection: close"] if n == 4 else [])
            )
            for n in range(5)
        )
        connection.sendall(raw)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    ids = [line.split(b": ")[1] for line in received.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"0", b"1", b"2", b"3", b"4"]


def test_callers_that_leave_at_any_byte_leave_nothing_behind(server: FakeServer) -> None:
    raw = attend_request(8)
    for length in range(0, len(raw) + 1, 7):
        with server.connect() as connection:
            connection.sendall(raw[:length])
    nothing = {"requests": 0, "tokens": 0}
    wait_until(lambda: server.get("/health").json()["queue"] == nothing, "nothing is left in the queue")
    assert server.send(raw).status == 200


def test_unwanted_reply_of_a_caller_that_left_is_no_error(start: Start) -> None:
    server = start(batch_seconds=0.05)
    for _ in range(5):
        with server.connect() as connection:
            connection.sendall(attend_request())
    assert server.stop() == 0
    assert [line for line in server.log if line["level"] in ("warning", "error")] == []
    ids = [line["status"] for line in server.log if line.get("method") == "POST"]
    assert set(ids) <= {200, 499}


def test_control_characters_in_ids_and_paths_make_no_new_log_line(start: Start) -> None:
    server = start()
    server.send(request("GET", "/%0d%0a{}%1b[31m%9b%e2%80%a8", 'X-Request-Id: a"\tb'))
    server.send(request("GET", "/v1/models/%0afake%0a"))
    assert server.stop() == 0  # every line of the log was parsed as JSON
    lines = [line for line in server.log if line.get("status") == 404]
    assert len(lines) == 2
    assert all(json.dumps(line).isprintable() for line in lines)
    assert len(lines[0]["id"]) == 32
