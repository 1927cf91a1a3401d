"""A process or a device is stopped or stuck: red everywhere within the watchdog's seconds, then the end."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import ATTEND, FakeServer, Start, attend_request, read, request
from tests.e2e.test_workers import served, workers

WATCHDOG = 2
ENDED = 3 * WATCHDOG + 8  # silent, seen to be silent, told and gone; on a busy machine
ONE = {"watchdog_seconds": WATCHDOG}
TWO = {"http_workers": 2, **ONE}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The servers' temporary folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def text_request() -> bytes:
    body = b'{"inputs": [{"text": "a b"}]}'
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    return request("POST", ATTEND, *lines, body=body)


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def status(server: FakeServer, path: str = "/health") -> int | None:
    """One answer by whichever process takes the connection; None where that is the one that is stuck."""
    with suppress(OSError), server.connect() as connection:
        connection.settimeout(0.3)
        connection.sendall(request("GET", path))
        answer = read(connection)
        return None if answer is None else answer.status
    return None


def wait_for_red(server: FakeServer) -> None:
    """Return once nothing is green any more: six answers in a row are 503, or are none."""
    until = time.monotonic() + ENDED
    seen: list[int | None] = []
    while not (503 in seen[-6:] and 200 not in seen[-6:] and len(seen) >= 6):
        assert time.monotonic() < until, str(seen)
        seen.append(status(server))


def stop(pid: int) -> Callable[[], None]:
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("frozen", ["device process", "HTTP process"])
def test_stopped_process_makes_all_red_and_is_the_end_of_all(
    start: Start, temporary: Path, frozen: str
) -> None:
    before = shared_memory()
    server = start(settings=TWO)
    ours = workers(server)
    stop(server.process.pid if frozen == "device process" else ours[0])
    wait_for_red(server)
    assert status(server, "/metrics") in (200, None)  # at once, or by the one that is stopped
    ended = server.ended(timeout_seconds=ENDED)
    assert ended == (-signal.SIGKILL if frozen == "device process" else 1)
    until = time.monotonic() + ENDED
    while any(served(server, pid) for pid in ours):  # of a killed parent they end a moment later
        assert time.monotonic() < until
    assert [line for line in server.log if "gives no sign" in line["message"]]
    # What a killed first process had, the last HTTP process sweeps.
    assert list(temporary.iterdir()) == []
    assert shared_memory() <= before


@pytest.mark.parametrize("frozen", ["device process", "HTTP process"])
def test_process_that_was_stopped_for_a_moment_is_green_again(start: Start, frozen: str) -> None:
    server = start(settings={**TWO, "watchdog_seconds": 3})
    go_on = stop(server.process.pid if frozen == "device process" else workers(server)[0])
    wait_for_red(server)
    go_on()
    until = time.monotonic() + ENDED
    while [status(server) for _ in range(4)] != [200] * 4:
        assert time.monotonic() < until
    assert {server.attend().status for _ in range(4)} == {200}
    assert server.stop() == 0


@pytest.mark.parametrize("settings", [ONE, TWO], ids=["one process", "two"])
def test_device_that_never_comes_back_makes_all_red_and_ends(
    start: Start, temporary: Path, settings: dict[str, object]
) -> None:
    server = start(hang_after=1, settings=settings)
    assert server.attend().status == 200
    with server.connect() as waiting:
        waiting.sendall(attend_request())
        wait_for_red(server)
        assert server.ended(timeout_seconds=ENDED) == 1
    assert [line for line in server.log if "gives no sign" in line["message"]]
    assert list(temporary.iterdir()) == []


def test_event_loop_that_never_comes_round_ends_a_single_process(start: Start) -> None:
    server = start(stuck_on_text=True, settings=ONE)
    with server.connect() as waiting:
        waiting.sendall(text_request())
        assert server.ended(timeout_seconds=ENDED) == 1
    assert [line for line in server.log if "the event loop gives no sign" in line["message"]]


def test_stopped_device_process_lets_texts_and_questions_be_answered(start: Start) -> None:
    server = start(settings={**TWO, "watchdog_seconds": 60, "deadline_ms": 500})
    go_on = stop(server.process.pid)
    answers = [server.send(text_request()) for _ in range(4)]
    assert [answer.status for answer in answers if answer is not None] == [504] * 4
    assert {server.get(path).status for path in ("/health", "/metrics") for _ in range(4)} == {200}
    go_on()
    assert server.stop() == 0
