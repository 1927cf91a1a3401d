"""One budget of memory for all callers: what would pass it is refused, and others are served."""

import gzip
import json
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.faults.bombs import weights_of
from tests.faults.conftest import Start
from tests.faults.greed import at_once, non_readers, unfinished_bodies
from tests.faults.running import Running
from tests.faults.wire import ATTEND, JSON, attend, connect, post, request

MI = 1 << 20
BUDGET = 256 * MI
BESIDE = 192 * MI  # what one computation takes beside what it returns, and what an allocator keeps
SIDE = 2000  # an answer of 32 MB, and of about 70 MB in JSON
GOOD = attend({"inputs": [{"text": "a b c"}]})
REFUSALS = {"413", "429", "503"}
WORKERS = (1, 2)
PATIENCE_SECONDS = 20
DRAIN_SECONDS = 2  # new connections are taken for half of it after SIGTERM


@pytest.fixture(params=WORKERS, ids=lambda workers: f"{workers} workers")
def server(start: Start, request: pytest.FixtureRequest) -> Running:
    server = start(max_memory_bytes=BUDGET, http_workers=request.param)
    assert server.ask(GOOD).status == 200
    server.forget_peak()
    return server


def most(server: Running) -> int:
    """Beside the budget: a result crosses between processes in memory that both count, and once is copied."""
    return BUDGET + BESIDE * (2 if server.children() else 1)


def held(server: Running) -> float:
    return server.metric("heed_memory_held_bytes")


def until_nothing_is_held(server: Running) -> float:
    until = time.monotonic() + PATIENCE_SECONDS
    while (left := held(server)) and time.monotonic() < until:
        time.sleep(0.05)  # of a process that gives no other sign
    return left


def test_callers_who_do_not_read_are_refused_beyond_the_budget(server: Running) -> None:
    before = server.memory()
    with non_readers(server.port, weights_of(SIDE), 24) as answers:
        assert server.ask(GOOD).status == 200
        assert 0 < held(server) <= BUDGET
    assert set(answers) <= {"200", *REFUSALS}
    assert answers["200"] < 24
    assert server.memory("VmHWM") - before < most(server)
    assert until_nothing_is_held(server) == 0


def test_bodies_without_an_end_are_refused_beyond_the_budget(server: Running) -> None:
    before = server.memory()
    with unfinished_bodies(server.port, 30 * MI, 24) as answers:
        assert server.ask(GOOD).status == 200
        assert 0 < held(server) <= BUDGET
    assert answers["taken"] < 24
    assert set(answers) <= {"taken", "closed", *REFUSALS}
    assert server.memory("VmHWM") - before < most(server)
    assert until_nothing_is_held(server) == 0


def test_large_replies_of_json_stay_within_the_budget(server: Running) -> None:
    before = server.memory()
    answers = at_once(server.port, weights_of(SIDE, form="application/json"), 8)
    assert set(answers) <= {"200", *REFUSALS}
    assert answers["200"] >= 1
    assert server.ask(GOOD).status == 200
    assert server.memory("VmHWM") - before < most(server)
    assert until_nothing_is_held(server) == 0


def test_a_refusal_says_what_was_asked_what_is_free_and_the_remedy(start: Start) -> None:
    server = start(max_memory_bytes=48 * MI)
    with unfinished_bodies(server.port, 30 * MI, 1):
        refused = server.ask(weights_of(1500))
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        error = json.loads(refused.body)["error"]
        assert error["code"] == "out_of_memory"
        assert all(said in error["message"] for said in ("MAX_MEMORY_BYTES", str(48 * MI), "try again"))
        assert server.ask(GOOD).status == 200
        assert server.healthy()
        assert server.metric("heed_memory_refused_total") == 1
    body = post(ATTEND, bytes(45 * MI), JSON)
    never = server.ask(body)
    assert (never.status, json.loads(never.body)["error"]["code"]) == (413, "body_too_large")
    result = server.ask(weights_of(SIDE * 2))
    assert (result.status, json.loads(result.body)["error"]["code"]) == (413, "result_too_large")
    assert until_nothing_is_held(server) == 0


def leave(port: int, raw: bytes, *, after: int = 0) -> None:
    """Send, read so many bytes of what comes, and be gone with a reset."""
    with connect(port) as caller, suppress(OSError):
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        caller.sendall(raw)
        while after > 0 and (piece := caller.recv(min(after, MI))):
            after -= len(piece)


def answered(port: int, raw: bytes) -> None:
    """Send, and read to the end whatever comes."""
    with connect(port) as caller, suppress(OSError):
        with suppress(OSError):
            caller.sendall(raw)
        caller.shutdown(socket.SHUT_WR)
        while caller.recv(MI):
            pass


def chunked(body: bytes, *, end: bytes = b"0\r\n\r\n") -> bytes:
    return (
        request("POST", ATTEND, JSON, "Transfer-Encoding: chunked")
        + b"%x\r\n" % len(body)
        + body
        + b"\r\n"
        + end
    )


LONG = json.dumps({"inputs": [{"embeddings": [[0.25] * 64] * 2000}]}).encode()
PACKED = gzip.compress(LONG)
CLOSE = "Connection: close"
LARGE = weights_of(SIDE, CLOSE)
LARGE_JSON = weights_of(SIDE, CLOSE, form="application/json")
LARGE_PACKED = weights_of(SIDE, CLOSE, "Accept-Encoding: gzip", form="application/json")

HARM: dict[str, Callable[[int], None]] = {
    "leaves while it is computed": lambda port: leave(port, weights_of(SIDE)),
    "leaves in the middle of a reply": lambda port: leave(port, LARGE, after=9 * MI),
    "leaves in the middle of JSON": lambda port: leave(port, LARGE_JSON, after=9 * MI),
    "leaves in the middle of packed JSON": lambda port: leave(port, LARGE_PACKED, after=20_000),
    "leaves in the middle of a body": lambda port: leave(port, post(ATTEND, LONG, JSON)[:-9]),
    "leaves two behind each other": lambda port: leave(port, weights_of(SIDE) + LARGE, after=MI),
    "reads two behind each other": lambda port: answered(port, weights_of(SIDE) + LARGE),
    "chunks": lambda port: answered(port, chunked(LONG)),
    "chunks without an end": lambda port: leave(port, chunked(LONG, end=b"")),
    "chunks of nonsense": lambda port: answered(port, chunked(LONG, end=b"zz\r\n")),
    "packed": lambda port: answered(port, post(ATTEND, PACKED, JSON, "Content-Encoding: gzip")),
    "packed and cut off": lambda port: answered(
        port, post(ATTEND, PACKED[:-9], JSON, "Content-Encoding: gzip")
    ),
    "no JSON": lambda port: answered(port, post(ATTEND, LONG[:-9], JSON)),
    "no route": lambda port: answered(port, post("/v1/nothing", LONG, JSON)),
    "too wide": lambda port: answered(port, post(ATTEND, LONG, JSON)),
    "a deadline that passes": lambda port: answered(
        port, weights_of(SIDE).replace(b"?outputs", b"?deadline_ms=1&outputs", 1)
    ),
    "small": lambda port: answered(port, GOOD),
    "garbage": lambda port: answered(port, GOOD + b"GARBAGE\r\n\r\n"),
}


@pytest.mark.parametrize("workers", WORKERS)
def test_nothing_is_held_after_a_storm(start: Start, workers: int) -> None:
    server = start(max_memory_bytes=BUDGET, http_workers=workers, drain_seconds=DRAIN_SECONDS)
    for harm in HARM.values():
        harm(server.port)
    with (
        non_readers(server.port, weights_of(SIDE), 4),
        non_readers(server.port, LARGE_JSON, 2),
        unfinished_bodies(server.port, 30 * MI, 4),
    ):
        for harm in HARM.values():
            harm(server.port)
        assert held(server) > 0
    assert until_nothing_is_held(server) == 0
    assert server.ask(GOOD).status == 200
    assert server.tracebacks() == 0
    assert server.stop() == 0
