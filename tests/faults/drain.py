"""SIGTERM in the middle of mixed work: every request that was taken is answered, whole and rightly."""

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from tests.faults.conversations import QUESTIONS, question
from tests.faults.network import one_reply
from tests.faults.running import Running
from tests.faults.wire import Cut, connect, read, read_from

LENGTHS = (None, None, None, 20, 60, 60, 700)  # tokens; None is short
REPLY_SECONDS = 60.0
# A server that ends waits a quarter of a second for the first byte of a new connection (connection.py); a
# caller whom a busy machine has kept from writing for about as long is as one on a kept connection.
LATE_SECONDS = 0.2
ANSWERS_TO_TEXTS = (200, 413, 422, 429, 503, 504)  # what a long text may be told, while draining too

Expected = Mapping[tuple[int, int | None], bytes]  # what each question is answered with


@dataclass(slots=True)
class Drained:
    """How one drain went; `lost` were taken and not answered, or answered wrongly."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    texts: Counter[int] = field(default_factory=Counter)
    late: int = 0  # new connections on which the caller itself was late
    lost: list[str] = field(default_factory=list)
    status: int | None = None
    seconds: float = 0.0


async def learn_all(port: int) -> Expected:
    """Ask every question of every length once, while nothing is wrong."""
    expected = {}
    for tokens in set(LENGTHS):
        for number in range(QUESTIONS):
            reply = await one_reply(port, question(number, "learn", tokens=tokens))
            assert reply.status == 200, reply
            expected[number, tokens] = reply.body
    return expected


async def drain_under_load(
    server: Running,
    *,
    callers: int,
    before: int,
    keep_alive: bool,
    seed: int = 0,
    texts: Sequence[bytes] = (),
    expected: Expected | None = None,
) -> Drained:
    """Send SIGTERM once `before` answers have come; return when the server has ended.

    `texts` are requests that are under way by then, and must be told something too. A request on a kept
    connection that ends without a byte of reply is no loss: every client sends it again.
    """
    drained = Drained()
    tasks = [
        asyncio.create_task(
            _caller(server.port, Random(1000 * seed + number), drained, keep_alive, expected or {})
        )
        for number in range(callers)
    ]
    async with asyncio.timeout(60):
        while drained.answers.total() < before:
            await asyncio.sleep(0.005)
    under_way = [threading.Event() for _ in texts]
    tasks += [
        asyncio.create_task(asyncio.to_thread(_text, server.port, raw, drained, sent))
        for raw, sent in zip(texts, under_way, strict=True)
    ]
    for sent in under_way:
        await asyncio.to_thread(sent.wait)
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    drained.status = await asyncio.to_thread(server.process.wait, 60)
    drained.seconds = time.monotonic() - started
    await asyncio.gather(*tasks)
    return drained


def _text(port: int, raw: bytes, drained: Drained, sent: threading.Event) -> None:
    """Send much on a thread of its own: the callers' event loop must not wait for megabytes to be copied."""
    try:
        with connect(port, REPLY_SECONDS) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(raw)  # refused before all is sent, the reply comes all the same
            sent.set()
            status = read(connection).status
        drained.texts[status] += 1
        if status not in ANSWERS_TO_TEXTS:
            drained.lost.append(f"{status} to a long text")
    except (OSError, Cut) as problem:
        drained.lost.append(f"{problem!r} to a long text")
    finally:
        sent.set()


async def _caller(port: int, chance: Random, drained: Drained, keep_alive: bool, expected: Expected) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while True:
        fresh, began = writer is None, time.monotonic()
        if writer is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return  # the port is closed: not taken
        assert reader is not None
        name = f"drain-{chance.getrandbits(48):x}"
        number, tokens = chance.randrange(QUESTIONS), chance.choice(LENGTHS)
        raw = question(number, name, tokens=tokens)
        if not keep_alive:
            raw = raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        drained.sent += 1
        try:
            writer.write(raw)
            if fresh and time.monotonic() - began > LATE_SECONDS:
                fresh, drained.late = False, drained.late + 1
            reply = await asyncio.wait_for(read_from(reader), REPLY_SECONDS)
        except (OSError, TimeoutError, Cut) as problem:
            if fresh or not isinstance(problem, OSError | Cut) or (problem.args and problem.args[0]):
                drained.lost.append(f"{problem!r} on a {'new' if fresh else 'kept'} connection")
            writer.close()
            writer = None
            continue
        drained.answers[reply.status] += 1
        if reply.status not in (200, 503) or (reply.status == 200 and reply.id != name):
            drained.lost.append(f"{reply.status} with id {reply.id} in place of {name}")
        if reply.status == 200 and reply.body != expected.get((number, tokens), reply.body):
            drained.lost.append(f"another body than on a quiet server, to {name}")
        if reply.closes or not keep_alive:
            writer.close()
            writer = None
