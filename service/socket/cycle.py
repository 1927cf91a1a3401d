"""One request on a connection, as uvicorn runs it: what it is given, and whether its caller is still there.

Under `connection`.
"""

from typing import cast

from uvicorn._types import ASGIReceiveEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.errors import HeedError
from service.http.around.host import Departure
from service.memory_budget import Claim


class Cycle(RequestResponseCycle):
    """A request whose body, where it came past the parser, is handed on as it lies, not copied."""

    departure: Departure
    claim: Claim
    whole: memoryview | None = None
    trouble: BaseException | None = None

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
