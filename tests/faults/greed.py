"""Callers who ask for much at once: who do not read, who do not finish, or who want it all as JSON.

They count the statuses they are told; a refusal that does not say why, or when to come again, says so.
"""

import contextlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from tests.faults.wire import ATTEND, JSON, Cut, Reply, connect, read, request

Answers = Counter[str]
WINDOW = 4096  # bytes that wait at the end of a caller who does not read
HEAD_BYTES = 15


@contextmanager
def non_readers(port: int, raw: bytes, count: int, timeout: float = 60) -> Iterator[Answers]:
    """Callers, one after another, who read the status of their reply and no more while the block runs."""
    answers: Answers = Counter()
    with ExitStack() as open_connections:
        for _ in range(count):
            try:
                one = open_connections.enter_context(
                    contextlib.closing(connect(port, timeout, window=WINDOW))
                )
                with suppress(BrokenPipeError, ConnectionResetError):
                    one.sendall(raw)
                begun = one.recv(HEAD_BYTES)
                status = _status(begun)
                answers[status if status in ("200", "closed") else _refusal(one, begun)] += 1
            except OSError as problem:
                answers[type(problem).__name__] += 1
        yield answers


@contextmanager
def unfinished_bodies(port: int, size: int, count: int, timeout: float = 5) -> Iterator[Answers]:
    """Callers who send all of a body but its last byte while the block runs."""
    answers: Answers = Counter()
    head = request("POST", ATTEND, JSON, f"Content-Length: {size + 1}")
    body = bytes(size)
    with ExitStack() as open_connections:
        for _ in range(count):
            try:
                one = open_connections.enter_context(contextlib.closing(connect(port, timeout)))
                try:
                    one.sendall(head + body)
                    answers["taken"] += 1
                except (BrokenPipeError, ConnectionResetError, TimeoutError):
                    answers[_refusal(one)] += 1
            except OSError as problem:
                answers[type(problem).__name__] += 1
        yield answers


def at_once(port: int, raw: bytes, count: int, timeout: float = 120) -> Answers:
    """Callers who all ask at the same time and read their whole replies."""
    answers: Answers = Counter()

    def one() -> None:
        try:
            with connect(port, timeout) as connection:
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(raw)
                answers[_whole(connection)] += 1
        except (OSError, Cut) as problem:
            answers[type(problem).__name__] += 1

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _whole(connection: socket.socket) -> str:
    """Read a reply to its end, without keeping it where it is long."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise Cut(received)
        received += piece
    status = _status(received)
    if status != "200":
        return _refusal(connection, received)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
    if "content-length" in lines:
        left = int(lines["content-length"]) - len(body)
        while left > 0:
            left -= len(_more(connection))
    else:
        tail = body[-7:]
        while not tail.endswith(b"0\r\n\r\n"):
            tail = (tail + _more(connection))[-7:]
    return status


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 20)
    if not piece:
        raise Cut(b"200")
    return piece


def _status(received: bytes) -> str:
    return received.split(b" ")[1][:3].decode() if received.startswith(b"HTTP/1.1 ") else "closed"


def _refusal(connection: socket.socket, begun: bytes = b"") -> str:
    """Read a refusal; its status, and what it lacks."""
    try:
        reply = read(connection, begun)
    except (OSError, Cut):
        return "closed"
    return f"{reply.status}{'' if _says_why(reply) else ' without a reason'}"


def _says_why(reply: Reply) -> bool:
    try:
        error = json.loads(reply.body)["error"]
        said = bool(error["code"] and error["message"] and error["request_id"] == reply.id)
    except (ValueError, KeyError, TypeError):
        return False
    return said and (reply.status not in (429, 503) or "retry-after" in reply.headers)
