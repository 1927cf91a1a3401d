"""A load generator that times every request by itself, where wrk cannot: open loops, several kinds at once.

An open loop sends at a rate whatever the server does, and counts latency from when a request was due, so
that a stalled server is not asked less. A closed loop here finishes what it began, so that requests that
take seconds count.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

from benchmarks.load import Load
from benchmarks.workload import Body

MOST_CONNECTIONS = 512
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """The bytes of one whole HTTP request, and what kind of work it is."""

    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Timed:
    """One answered request: when it was due or sent, when its last byte came, in seconds; its status."""

    kind: str
    begin: float
    end: float
    status: int
    size: int


def request_of(kind: str, url: str, path: str, body: Body) -> Request:
    """Return a request as the bytes that go over the wire."""
    fields = [("Host", urlsplit(url).netloc), ("Content-Type", body.content_type), *body.headers]
    fields.append(("Content-Length", str(len(body.content))))
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    return Request(kind, head.encode() + body.content)


def open_loop(
    url: str, requests: Sequence[Request], *, rate: float, seconds: float, seed: int = 0
) -> list[Timed]:
    """Send at `rate` a second for `seconds`, at random times (Poisson), in order; return all answers."""
    chance = np.random.default_rng(seed)
    due = np.cumsum(chance.exponential(1 / rate, size=max(1, int(rate * seconds))))

    async def run() -> list[Timed]:
        pool = _Pool(url)
        begin = time.perf_counter()

        async def one(number: int, at: float) -> Timed:
            await asyncio.sleep(begin + at - time.perf_counter())
            return await pool.send(requests[number % len(requests)], begin + at)

        try:
            return await asyncio.gather(*(one(number, at) for number, at in enumerate(due)))
        finally:
            pool.close()

    return uvloop.run(run())


def closed(url: str, requests: Sequence[Request], *, connections: int, seconds: float) -> list[Timed]:
    """Keep `connections` requests in flight for `seconds`, then wait for the last; return all answers."""

    async def run() -> list[Timed]:
        pool = _Pool(url)
        until = time.perf_counter() + seconds
        answers: list[Timed] = []
        at = 0

        async def client() -> None:
            nonlocal at
            while (now := time.perf_counter()) < until:
                at += 1
                answers.append(await pool.send(requests[at % len(requests)], now))

        try:
            await asyncio.gather(*(client() for _ in range(connections)))
        finally:
            pool.close()
        return answers

    return uvloop.run(run())


def closed_until_done(url: str, path: str, bodies: list[Body], *, connections: int, seconds: float) -> Load:
    """Return what a closed loop of one kind measured, the time its last requests took included."""
    requests = [request_of("", url, path, body) for body in bodies]
    return summary(closed(url, requests, connections=connections, seconds=seconds), connections=connections)


def each_once(url: str, path: str, bodies: list[Body], *, connections: int) -> Load:
    """Send every body once, so many at a time; return what was measured until the last was answered."""
    requests = [request_of("", url, path, body) for body in bodies]
    return summary(answers_to(url, requests, connections=connections), connections=connections)


def answers_to(url: str, requests: Sequence[Request], *, connections: int) -> list[Timed]:
    """Send every request once, so many at a time; return all answers."""

    async def run() -> list[Timed]:
        pool = _Pool(url)
        waiting = iter(requests)

        async def client() -> list[Timed]:
            return [await pool.send(one, time.perf_counter()) for one in waiting]

        try:
            answered = await asyncio.gather(*(client() for _ in range(connections)))
            return [one for answers in answered for one in answers]
        finally:
            pool.close()

    return uvloop.run(run())


def summary(answers: Sequence[Timed], *, connections: int = 0) -> Load:
    """Return rate, percentiles and errors of some answers; the rate is over first sending to last answer."""
    seconds = max(answer.end for answer in answers) - min(answer.begin for answer in answers)
    took = [(answer.end - answer.begin) * 1e3 for answer in answers]
    good = sum(200 <= answer.status < 300 for answer in answers)
    return Load(
        connections=connections,
        requests_per_second=good / seconds,
        bytes_per_second=sum(answer.size for answer in answers) / seconds,
        p50_ms=float(np.percentile(took, 50)),
        p99_ms=float(np.percentile(took, 99)),
        errors=len(answers) - good,
    )


class _Pool:
    """Connections that are kept alive; one more is opened when none is free."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.idle: list[_Connection] = []
        self.all: list[_Connection] = []
        self.room = asyncio.Semaphore(MOST_CONNECTIONS)

    async def send(self, request: Request, begin: float) -> Timed:
        """Send one request and wait for its whole answer; status 0 where the connection broke."""
        async with self.room:
            connection = self.idle.pop() if self.idle else await self._connect()
            status, size = await connection.exchange(request.content)
            end = time.perf_counter()
            if status and connection.open:
                self.idle.append(connection)
        return Timed(request.kind, begin, end, status, size)

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, *self.address)
        self.all.append(connection)
        return connection

    def close(self) -> None:
        for connection in self.all:
            connection.transport.close()


class _Connection(asyncio.Protocol):
    """One exchange at a time: of an answer only the status and where it ends are looked at."""

    def __init__(self) -> None:
        self.open = False
        self.head = b""
        self.left = -1  # bytes still to come; −1 while the head is incomplete
        self.tail: bytes | None = None  # the last bytes of an answer in chunks
        self.size = 0
        self.status = 0
        self.answered: asyncio.Future[tuple[int, int]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own is no subclass of it
        self.open = True

    def exchange(self, content: bytes) -> "asyncio.Future[tuple[int, int]]":
        """Send; the future has the status and the size of the answer."""
        self.head, self.left, self.size, self.tail = b"", -1, 0, None
        self.answered = asyncio.get_running_loop().create_future()
        if self.open:
            self.transport.write(content)
        else:
            self.answered.set_result((0, 0))
        return self.answered

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        if self.left < 0:
            self.head += data
            head, found, rest = self.head.partition(b"\r\n\r\n")
            if not found:
                return
            lines = head.lower().split(b"\r\n")
            self.status = int(lines[0].split()[1])
            lengths = [line for line in lines if line.startswith(b"content-length:")]
            if lengths:
                self.left = int(lengths[0].split(b":")[1]) - len(rest)
            else:
                assert b"transfer-encoding: chunked" in lines, head
                self.left, self.tail = 1, rest[-len(LAST_CHUNK) :]
        elif self.tail is not None:
            self.tail = (self.tail + data[-len(LAST_CHUNK) :])[-len(LAST_CHUNK) :]
        else:
            self.left -= len(data)
        if self.left == 0 or self.tail == LAST_CHUNK:
            self._finish(self.status)

    def connection_lost(self, _: Exception | None) -> None:
        self.open = False
        self._finish(0)

    def _finish(self, status: int) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_result((status, self.size))
