"""A TCP proxy that does harm on the way: each treatment is of what a caller sent, or of what comes back."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

PIECE = 1 << 18


@dataclass(slots=True)
class Link:
    """One proxied connection: the caller at one side, the server at the other."""

    caller: asyncio.StreamWriter
    asked: asyncio.StreamReader
    server: asyncio.StreamWriter
    replied: asyncio.StreamReader
    chance: Random

    async def send(self, data: bytes) -> None:
        self.server.write(data)
        await self.server.drain()

    def reset(self, *sides: asyncio.StreamWriter) -> None:
        """End with RST in place of FIN: what is on its way is thrown away."""
        for side in sides:
            side.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            side.transport.abort()


Treatment = Callable[[Link, bytes], Awaitable[None]]
Back = Callable[[Link], Awaitable[None]]


async def forward(link: Link, data: bytes) -> None:
    """Pass it on."""
    await link.send(data)


async def back(link: Link) -> None:
    """Pass on what the server says until it ends."""
    while data := await link.replied.read(PIECE):
        link.caller.write(data)
        await link.caller.drain()


# What is done to what the caller sent. A question is short enough to come in one piece.


async def delay(link: Link, data: bytes) -> None:
    await asyncio.sleep(link.chance.random() * 0.2)
    await link.send(data)


async def dribble(link: Link, data: bytes) -> None:
    for at in range(len(data)):
        await link.send(data[at : at + 1])
        await asyncio.sleep(0.0005)


async def split_segments(link: Link, data: bytes) -> None:
    at = 0
    while at < len(data):
        size = link.chance.choice([1, 2, 3, 50])
        await link.send(data[at : at + size])
        await asyncio.sleep(0)
        at += size


async def split_at_head(link: Link, data: bytes) -> None:
    """The end of the head comes by itself, and the body later."""
    head, end, body = data.partition(b"\r\n\r\n")
    for piece in (head, end[:2], end[2:], body):
        await link.send(piece)
        await asyncio.sleep(0.002)


async def cut_in_head(link: Link, data: bytes) -> None:
    await link.send(data[: link.chance.randrange(1, 60)])
    link.server.close()


async def cut_in_body(link: Link, data: bytes) -> None:
    await link.send(data[: _body_at(data) + link.chance.randrange(20)])
    link.server.close()


async def reset_at_once(link: Link, data: bytes) -> None:
    link.reset(link.server)


async def reset_in_head(link: Link, data: bytes) -> None:
    await link.send(data[: link.chance.randrange(1, 60)])
    await asyncio.sleep(0.003)
    link.reset(link.server)


async def reset_in_body(link: Link, data: bytes) -> None:
    await link.send(data[: _body_at(data) + 5])
    await asyncio.sleep(0.003)
    link.reset(link.server)


async def reset_after_request(link: Link, data: bytes) -> None:
    await link.send(data)
    await asyncio.sleep(link.chance.random() * 0.004)
    link.reset(link.server)


async def half_close(link: Link, data: bytes) -> None:
    await link.send(data)
    link.server.write_eof()


async def half_close_in_body(link: Link, data: bytes) -> None:
    await link.send(data[: _body_at(data) + 5])
    link.server.write_eof()


async def corrupt_head(link: Link, data: bytes) -> None:
    await link.send(_with_byte(data, link.chance.randrange(_body_at(data)), link.chance))


async def corrupt_body(link: Link, data: bytes) -> None:
    await link.send(_with_byte(data, link.chance.randrange(_body_at(data), len(data)), link.chance))


async def duplicate_bytes(link: Link, data: bytes) -> None:
    at = link.chance.randrange(len(data))
    await link.send(data[:at] + data[max(0, at - 9) : at] + data[at:])


async def lose_bytes(link: Link, data: bytes) -> None:
    at = link.chance.randrange(len(data))
    await link.send(data[:at] + data[at + 7 :])


async def swap_halves(link: Link, data: bytes) -> None:
    at = link.chance.randrange(1, len(data))
    await link.send(data[at:] + data[:at])


def _body_at(data: bytes) -> int:
    return data.index(b"\r\n\r\n") + 4


def _with_byte(data: bytes, at: int, chance: Random) -> bytes:
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


# What is done to what comes back.


async def slow_back(link: Link) -> None:
    while data := await link.replied.read(4096):
        link.caller.write(data)
        await asyncio.sleep(0.005)


async def pausing_back(link: Link) -> None:
    """The caller stops reading in the middle for a while."""
    link.caller.write(await link.replied.read(4096))
    await asyncio.sleep(0.3)
    await back(link)


async def resetting_back(link: Link) -> None:
    await link.replied.read(1024)
    link.reset(link.server, link.caller)


async def closing_back(link: Link) -> None:
    await link.replied.read(1024)
    link.server.close()
    link.caller.close()


class Proxy:
    """Connects each caller with the server; how it treats them is set by `faulty`."""

    def __init__(self, target_port: int, chance: Random) -> None:
        self._target_port = target_port
        self._chance = chance
        self._treatment: Treatment = forward
        self._back: Back = back
        self._open: set[asyncio.Task[None]] = set()
        self.port = 0

    def faulty(self, treatment: Treatment, back_treatment: Back) -> None:
        """Treat connections from now on like this."""
        self._treatment, self._back = treatment, back_treatment

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        """Listen while the block runs."""
        listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listening.close()
            for task in self._open:  # none may be left to a loop that is closed
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, asked: asyncio.StreamReader, caller: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._handle(asked, caller))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _handle(self, asked: asyncio.StreamReader, caller: asyncio.StreamWriter) -> None:
        replied, server = await asyncio.open_connection("127.0.0.1", self._target_port)
        link = Link(caller, asked, server, replied, self._chance)
        back_treatment = self._back
        try:
            to = asyncio.create_task(self._forward(link, self._treatment))
            with suppress(OSError):
                await back_treatment(link)
            to.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await to
        finally:
            for side in (server, caller):
                side.close()
                with suppress(OSError):
                    await side.wait_closed()

    async def _forward(self, link: Link, treatment: Treatment) -> None:
        while data := await link.asked.read(PIECE):
            await treatment(link, data)
        if link.server.can_write_eof() and not link.server.is_closing():
            link.server.write_eof()
