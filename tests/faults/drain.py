"""SIGTERM in the middle of mixed work: every request that was taken is answered, whole and rightly."""

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

from tests.faults.conversations import QUESTIONS, question
from tests.faults.running import Running
from tests.faults.wire import Cut, Reply, first_reply

__all__ = ["Drained", "drain_under_load"]

LENGTHS = (None, None, None, 20, 60, 60, 700)  # tokens; None is short
REPLY_SECONDS = 60.0


@dataclass(slots=True)
class Drained:
    """How one drain went; `lost` were taken and not answered, or answered wrongly."""

    sent: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    status: int | None = None
    seconds: float = 0.0


async def drain_under_load(
    server: Running, *, callers: int, before: int, keep_alive: bool, seed: int = 0
) -> Drained:
    """Send SIGTERM once `before` answers have come; return when the server has ended.

    A request on a kept connection that ends without a byte of reply is no loss: every client sends it again.
    """
    drained = Drained()
    tasks = [
        asyncio.create_task(_caller(server.port, Random(1000 * seed + number), drained, keep_alive))
        for number in range(callers)
    ]
    async with asyncio.timeout(60):
        while drained.answers.total() < before:
            await asyncio.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    drained.status = await asyncio.to_thread(server.process.wait, 60)
    drained.seconds = time.monotonic() - started
    await asyncio.gather(*tasks)
    return drained


async def _caller(port: int, chance: Random, drained: Drained, keep_alive: bool) -> None:
    reader: asyncio.StreamReader | None = None
    writer: asyncio.StreamWriter | None = None
    while True:
        fresh = writer is None
        if writer is None:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return  # the port is closed: not taken
        assert reader is not None
        name = f"drain-{chance.getrandbits(48):x}"
        raw = question(chance.randrange(QUESTIONS), name, tokens=chance.choice(LENGTHS))
        if not keep_alive:
            raw = raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        drained.sent += 1
        try:
            writer.write(raw)
            reply = await asyncio.wait_for(_reply(reader), REPLY_SECONDS)
        except (OSError, TimeoutError, Cut) as problem:
            if fresh or not isinstance(problem, OSError | Cut) or (problem.args and problem.args[0]):
                drained.lost.append(f"{problem!r} on a {'new' if fresh else 'kept'} connection")
            writer.close()
            writer = None
            continue
        drained.answers[reply.status] += 1
        if reply.status not in (200, 503) or (reply.status == 200 and reply.id != name):
            drained.lost.append(f"{reply.status} with id {reply.id} in place of {name}")
        if reply.closes or not keep_alive:
            writer.close()
            writer = None


async def _reply(reader: asyncio.StreamReader) -> Reply:
    received = bytearray()
    while True:
        piece = await reader.read(1 << 20)
        if not piece:
            raise Cut(bytes(received[:200]))
        received += piece
        chunked = b"transfer-encoding: chunked" in received[:1024].lower()
        if chunked and not received.endswith(b"\r\n0\r\n\r\n"):
            continue  # taking a large reply apart again at every piece would make this a slow reader
        if (found := first_reply(bytes(received))) is not None:
            return found[0]
