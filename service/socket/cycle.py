"""One request on a connection, as uvicorn runs it: what it is given, and whether its caller is still there.

Under `connection`.
"""

import asyncio
from typing import Any, cast

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import HeedError
from service.http.around.host import Departure
from service.memory_budget import Claim

JOINED_BYTES = 65536  # of a reply's head and the first piece of its body, that go out in one write


class Cycle(RequestResponseCycle):
    """A request whose body, where it came past the parser, is handed on as it lies, not copied.

    The head of its reply waits for the first piece of the body, and both go out in one write: a caller is
    woken once, and no server that is killed in between leaves a head without a body.
    """

    departure: Departure
    claim: Claim
    whole: memoryview | None = None
    trouble: BaseException | None = None

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the reply; its head with the first part of its body."""
        if not self.response_started:
            self.transport = cast(asyncio.Transport, _WithHead(self, self.transport))
            await super().send(message)
            return
        await super().send(message)
        if isinstance(self.transport, _WithHead):  # a part that is nothing: the whole answer to a HEAD
            self.transport.write(b"")

    @property
    def due(self) -> bool:
        """Whether its body is still waited for."""
        return self.more_body and self.trouble is None

    def fail(self, trouble: BaseException) -> None:
        """Have whoever reads the body fail with this; what is left of it makes the connection useless."""
        self.trouble = trouble
        self.keep_alive = False
        self.message_event.set()

    def take_body(self, size: int) -> bool:
        """Count a body of declared length; return whether there is room for it."""
        try:
            self.claim.take_body(size)
        except HeedError as refusal:
            self.claim.refusal = refusal
        return self.claim.refusal is None

    def take_piece(self, size: int) -> bool:
        """Count a piece of a body twice, for pieces are joined; fail, once, where there is no room."""
        if self.claim.refusal is None:
            try:
                self.claim.take(2 * size)
            except HeedError as refusal:
                self.claim.refusal = refusal
                self.fail(refusal)
        return self.claim.refusal is None

    def leave(self) -> None:
        """Take note that the caller has left, and tell whoever works or waits for it."""
        self.disconnected = True
        self.message_event.set()
        self.departure.happened()
        self.claim.let_go()

    def drop_body(self) -> None:
        """Forget a body that nobody has read: it is answered, and the connection may live on for long."""
        self.whole, self.body = None, bytearray()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the body, then wait until the caller has left; raise what the connection failed with."""
        message = await super().receive()
        if self.trouble is not None and message["type"] == "http.request":
            raise self.trouble
        if self.whole is not None and message["type"] == "http.request":
            message["body"] = cast(bytes, self.whole)
            self.whole = None
        return message


class _WithHead:
    """A transport that keeps what is written first, the head, for what is written next."""

    def __init__(self, cycle: Cycle, transport: asyncio.Transport) -> None:
        self._cycle = cycle
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: Any) -> None:
        """Keep the head; write it with what comes after, and be gone."""
        if self._head is None:
            self._head = data
            return
        self._cycle.transport = self._transport
        if len(data) <= JOINED_BYTES:
            self._transport.write(b"".join((self._head, data)))
        else:
            self._transport.write(self._head)
            self._transport.write(data)

    def close(self) -> None:
        """Close; of a reply that breaks off here nothing was written, so that it can be asked for again."""
        if self._cycle.response_complete:
            self.write(b"")
        self._cycle.transport = self._transport
        self._transport.close()
