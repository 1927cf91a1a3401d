"""What a connection holds of the budget, on real sockets, on either event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.server import ServerState

from service.http.around.gate import Gate
from service.http.around.lifecycle import Lifecycle
from service.inlet import Inlet
from service.memory_budget import CLAIM, MIB, Budget
from service.socket.connection import Connection

LIMIT = 64 * MIB
REPLY = 12 * MIB  # more than sockets hold
WINDOW = 64 * 1024
PATIENCE_SECONDS = 20
HEAD = b"POST /any HTTP/1.1\r\nHost: x\r\n"

Story = Callable[["Line"], Awaitable[None]]


class Line:
    """A server of one application behind the gate, and its callers."""

    def __init__(self, app: ASGIApp) -> None:
        self.budget = Budget(LIMIT)
        self.loop = asyncio.get_running_loop()
        self._state = ServerState()
        self._app = Gate(app, max_body_bytes=LIMIT * 2, lifecycle=Lifecycle(), budget=self.budget)
        self._callers: list[socket.socket] = []

    def protocol(self) -> Inlet:
        config = uvicorn.Config(self._app, log_config=None, access_log=False, ws="none", interface="asgi3")
        connection = Connection(
            max_body_bytes=LIMIT * 2,
            budget=self.budget,
            config=config,
            server_state=self._state,
            app_state={},
            _loop=self.loop,
        )
        return Inlet(connection)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await self.loop.create_server(self.protocol, "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        try:
            yield
        finally:
            for caller in self._callers:
                caller.close()
            server.close()
            while self._state.connections:
                await asyncio.sleep(0)

    async def call(self, raw: bytes) -> socket.socket:
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        caller.setblocking(False)
        self._callers.append(caller)
        await self.loop.sock_connect(caller, self.address)
        await self.loop.sock_sendall(caller, raw)
        return caller

    async def read(
        self, caller: socket.socket, size: int = 1 << 40, *, end: bytes = b"\r\n\r\n\r\n"
    ) -> bytes:
        """Read so many bytes, or until what has come ends so, or all there is."""
        received = bytearray()
        while len(received) < size and not received.endswith(end):
            piece = await self.loop.sock_recv(caller, min(MIB, size - len(received)))
            if not piece:
                break
            received += piece
        return bytes(received)

    async def until(self, held: Callable[[int], bool]) -> None:
        async def wait() -> None:
            while not held(self.budget.held):
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), PATIENCE_SECONDS)


@pytest.fixture(params=["asyncio", "uvloop"])
def on_a_line(request: pytest.FixtureRequest) -> Callable[[ASGIApp, Story], None]:
    def run(app: ASGIApp, story: Story) -> None:
        async def main() -> None:
            line = Line(app)
            async with line.serving():
                await story(line)
                await line.until(lambda held: held == 0)

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    return run


Run = Callable[[ASGIApp, Story], None]


async def whole_body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def reply(send: Send, body: bytes | memoryview, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def large(*more: tuple[bytes, bytes]) -> ASGIApp:
    """An application whose every reply is counted and large."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        scope[CLAIM].take_reply(REPLY)
        await reply(send, memoryview(bytes(REPLY)), *more)

    return app


async def small(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers without reading."""
    await reply(send, b"ok")


@pytest.mark.parametrize("more", [(), ((b"connection", b"close"),)], ids=["kept", "closed"])
def test_a_reply_is_held_until_the_caller_has_read_it(on_a_line: Run, more: Any) -> None:
    async def story(line: Line) -> None:
        caller = await line.call(HEAD + b"Content-Length: 0\r\n\r\n")
        await line.until(lambda held: held == REPLY)
        await line.read(caller, MIB)
        assert line.budget.held == REPLY
        await line.read(caller, REPLY - MIB)
        await line.until(lambda held: held == 0)

    on_a_line(large(*more), story)


def test_a_second_reply_on_a_connection_is_held_too(on_a_line: Run) -> None:
    async def story(line: Line) -> None:
        caller = await line.call(2 * (HEAD + b"Content-Length: 0\r\n\r\n"))
        await line.until(lambda held: held == 2 * REPLY)
        await line.read(caller, REPLY + MIB)
        await line.until(lambda held: held == REPLY)
        await line.read(caller, REPLY - MIB)

    on_a_line(large(), story)


def test_who_leaves_in_the_middle_of_a_reply_holds_nothing(on_a_line: Run) -> None:
    async def story(line: Line) -> None:
        caller = await line.call(HEAD + b"Content-Length: 0\r\n\r\n")
        await line.until(lambda held: held == REPLY)
        caller.close()

    on_a_line(large(), story)


def test_a_declared_body_is_counted_before_it_comes_and_till_its_caller_leaves(on_a_line: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)

    async def story(line: Line) -> None:
        caller = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % (20 * MIB))
        await line.until(lambda held: held == 20 * MIB)
        caller.close()

    on_a_line(app, story)


def test_a_body_that_there_is_no_room_for_is_refused_at_the_head_and_not_read(on_a_line: Run) -> None:
    async def story(line: Line) -> None:
        first = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % (50 * MIB))
        await line.until(lambda held: held == 50 * MIB)
        second = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % (20 * MIB))
        refused = await line.read(second)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in refused
        assert b'"out_of_memory"' in refused
        third = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % (100 * MIB))
        assert (await line.read(third)).startswith(b"HTTP/1.1 413 ")
        fine = await line.call(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi")
        assert (await line.read(fine)).endswith(b"hi")
        assert line.budget.held == 50 * MIB
        first.close()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, await whole_body(receive))

    on_a_line(app, story)


def test_a_body_in_chunks_is_refused_where_it_passes_the_limit(on_a_line: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"%d" % len(await whole_body(receive)))

    async def story(line: Line) -> None:
        piece = b"%x\r\n" % MIB + bytes(MIB) + b"\r\n"
        caller = await line.call(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + 20 * piece)
        await line.until(lambda held: held >= 40 * MIB)
        with pytest.raises(OSError):  # whichever the system says
            await line.loop.sock_sendall(caller, 100 * piece)
        fine = await line.call(
            HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + piece + b"0\r\n\r\n"
        )
        assert (await line.read(fine)).endswith(b"%d" % MIB)

    on_a_line(app, story)


def test_a_body_that_is_answered_before_it_is_there_is_held_no_longer(on_a_line: Run) -> None:
    async def story(line: Line) -> None:
        caller = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % (20 * MIB))
        assert (await line.read(caller, end=b"ok")).startswith(b"HTTP/1.1 200")
        await line.until(lambda held: held == 0)
        await line.loop.sock_sendall(caller, bytes(20 * MIB))  # its rest is taken, and kept nowhere
        await line.loop.sock_sendall(caller, HEAD + b"Content-Length: 0\r\n\r\n")
        assert (await line.read(caller, end=b"ok")).startswith(b"HTTP/1.1 200")

    on_a_line(small, story)


def test_a_body_is_forgotten_with_its_answer(on_a_line: Run) -> None:
    """A connection that is kept holds no body of the request before."""

    async def story(line: Line) -> None:
        caller = await line.call(HEAD + b"Content-Length: %d\r\n\r\n" % MIB + bytes(MIB))
        assert (await line.read(caller, end=b"ok")).startswith(b"HTTP/1.1 200")
        await line.until(lambda held: held == 0)

    on_a_line(small, story)


def test_requests_that_wait_behind_another_are_given_back_when_the_caller_leaves(on_a_line: Run) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await whole_body(receive)
        message: Message = await receive()
        assert message["type"] == "http.disconnect"

    async def story(line: Line) -> None:
        one = HEAD + b"Content-Length: %d\r\n\r\n" % MIB + bytes(MIB)
        caller = await line.call(3 * one)
        await line.until(lambda held: held == 3 * MIB)
        caller.close()

    on_a_line(app, story)
