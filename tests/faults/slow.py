"""Callers who take their time: over a head, over a body, over a reply, or over nothing at all."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.faults.conversations import question
from tests.faults.wire import ATTEND, JSON, request

SLOW_KINDS = ("idle", "slow head", "slow body", "slow reader")
PASSER_BY = "passer-by"  # not slow at all: asks for nothing that is there, goes, and comes again
BETWEEN_SECONDS = 1.0  # one byte and the next


@asynccontextmanager
async def slow_callers(port: int, kinds: tuple[str, ...], count: int) -> AsyncIterator[Counter[str]]:
    """Keep `count` slow connections of each kind while the block runs; one that is ended comes again.

    Yields how many were made, how many the server ended, and how many readers it began to answer, by kind.
    """
    seen: Counter[str] = Counter()
    tasks = [asyncio.create_task(_come_again(kind, port, seen)) for kind in kinds for _ in range(count)]
    try:
        yield seen
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _come_again(kind: str, port: int, seen: Counter[str]) -> None:
    while True:
        writer = None
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            seen[f"{kind}: made"] += 1
            try:
                await _dawdle(kind, reader, writer, seen)
                seen[f"{kind}: ended by the server"] += 1
            finally:
                writer.close()
        await asyncio.sleep(0.2)


async def _dawdle(
    kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Counter[str]
) -> None:
    """Go on until the server ends the connection or answers."""
    if kind == "idle":
        await reader.read(1)
        return
    if kind == PASSER_BY:
        writer.write(request("GET", "/nothing", "Connection: close"))
        await reader.read()
        return
    if kind == "slow reader":
        writer.write(question(0, "slow", tokens=300))
        if await reader.read(64):
            seen[f"{kind}: answered"] += 1
        while await reader.read(64):
            await asyncio.sleep(BETWEEN_SECONDS)
        return
    if kind == "slow head":
        writer.write(f"POST {ATTEND} HTTP/1.1\r\nHost: x\r\n".encode())
        piece = b"X-A: b\r\n"
    else:
        writer.write(request("POST", ATTEND, JSON, "Content-Length: 60000000"))
        piece = b" "
    while True:
        writer.write(piece)
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(BETWEEN_SECONDS):  # wait_for of Python 3.11 may lose a cancellation
                await reader.read(100)
                return
