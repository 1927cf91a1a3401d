"""One TCP connection: uvicorn's httptools protocol, with the limits it does not have.

Before the first station of the request line. Headers are capped while they arrive, bodies are not buffered
past the limit, a request without exactly one Host is refused, and `overdue` finds connections that stall.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import Malformed
from service.http.errors import error_reply
from service.http.gate import MAX_HEADER_BYTES

__all__ = ["Connection"]

HEADER_SECONDS = 10.0  # to send a whole request head, from the connection or the first byte of it
STALL_SECONDS = 30.0  # without a byte of a body that we wait for, or of a reply that the caller does not read
SETTLE_SECONDS = 0.25  # an idle connection of a draining server may still have a request on its way


class Connection(HttpToolsProtocol):
    """An HTTP connection whose every wait is bounded.

    `refused` is called for each request that ends here, before there is a request to route.
    """

    def __init__(
        self, *, max_body_bytes: int, refused: Callable[[], None] = lambda: None, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self._max_body_bytes = max_body_bytes
        self._refused = refused
        self._head_since: float | None = None  # waiting for a request head since then
        self._head_bytes = 0  # parsed of the present head
        self._raw_bytes = 0  # received since its first byte
        self._body_bytes = 0
        self._pieces: list[bytes] = []
        self._active = 0.0  # when the last byte came, or the last reply was done
        self._blocked_since: float | None = None  # the caller has not read a byte of the reply since then
        self._unread_bytes = 0

    @property
    def answering(self) -> bool:
        """Whether a request has begun that is not yet answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection; its first request head is due from now."""
        super().connection_made(transport)
        self._head_since = self._active = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Parse what came; refuse a head that is over the cap before it ends."""
        self._active = now = self.loop.time()
        if self._head_since is None and not self.answering:
            self._head_since = now
        if self._head_since is not None:
            self._raw_bytes += len(data)
        super().data_received(data)
        endless = self._head_since is not None and self._raw_bytes > MAX_HEADER_BYTES
        if endless and not self.transport.is_closing():
            self.send_400_response("the request head is over its cap")

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._head_bytes = self._body_bytes = 0
        self._pieces.clear()
        if self._head_since is None:
            self._head_since = self._active

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, when it names exactly one host (RFC 9112, section 3.2)."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and not (hosts == 0 and self.parser.get_http_version() == "1.0"):
            raise ValueError("a request names exactly one host")
        self._head_since = None
        self._raw_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, at most one byte past the limit: enough for the reader to see it.

        The reader is woken when all is there, or too much: nothing here begins before a body has ended, and
        being woken for every piece of a megabyte costs more than parsing it.
        """
        room = self._max_body_bytes + 1 - self._body_bytes
        self._body_bytes += len(body)
        over = self._body_bytes > self._max_body_bytes
        if over and not self.answering:
            self.transport.close()  # the reply went out without the body; the rest is not worth reading
        if not self.answering:
            return
        if over:
            self.flow.pause_reading()
            body = body[: max(0, room)]
        self._pieces.append(body)
        if over:
            self._hand_over()
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Hand the whole body over."""
        if self.answering:
            self._hand_over()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._active = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Remember since when the caller has not read, and how much."""
        self._blocked_since = self.loop.time()
        self._unread_bytes = self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._blocked_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words for its log
        """Refuse what is no request, in the contract's words, and close."""
        self._refused()
        path = self.url.split(b"?")[0].decode("latin-1") if getattr(self, "url", b"") else "/"
        refusal = Malformed(
            "this is not an HTTP/1.1 request with exactly one Host and headers of at most "
            f"{MAX_HEADER_BYTES} bytes"
        )
        reply = error_reply(refusal, path=path, request_id=uuid4().hex)
        lines = [*self.server_state.default_headers, *reply.headers, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self.transport.write(STATUS_LINE[reply.status] + head + b"\r\n" + reply.body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: a caller's offer to change protocols is declined by answering in this one."""

    def overdue(self, now: float) -> bool:
        """Whether the other side has kept us waiting for too long, in loop seconds."""
        if self._blocked_since is not None:
            unread_bytes = self.transport.get_write_buffer_size()
            if unread_bytes < self._unread_bytes:  # a large reply on a slow line: it takes its time
                self._unread_bytes, self._blocked_since = unread_bytes, now
            return now - self._blocked_since > STALL_SECONDS
        if self._head_since is not None:
            return now - self._head_since > HEADER_SECONDS
        waiting = self.answering and self.cycle.more_body and not self.flow.read_paused
        return waiting and now - self._active > STALL_SECONDS

    def retire(self, now: float) -> None:
        """Close as soon as nothing is on its way: called again and again while the server drains."""
        if self.answering or now - self._active > SETTLE_SECONDS:
            self.shutdown()

    def _hand_over(self) -> None:
        """Join the pieces, once; a body in one piece is not copied at all."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        # As bytes, which uvicorn then hands on as they are; of its bytearray it would make a copy.
        self.cycle.body = cast(bytearray, bytes(self.cycle.body) + body if self.cycle.body else body)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEADER_BYTES:
            raise ValueError("the request head is over its cap")
