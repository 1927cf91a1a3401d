"""One TCP connection: its life, its replies, and how long it may keep us waiting.

Before the first station of the request line. `reading` makes requests of what comes; `overdue` finds
connections that stall; a caller who sends no more still gets its answers.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import Malformed
from service.http.errors import error_reply
from service.http.gate import MAX_HEADER_BYTES
from service.memory_budget import COUNTED_BYTES, Budget, Claim
from service.reading import RequestReader

__all__ = ["Connection"]

HEADER_SECONDS = 10.0  # to send a whole request head, from the connection or the first byte of it
STALL_SECONDS = 30.0  # without a byte of a body that we wait for, or of a reply that the caller does not read
SETTLE_SECONDS = 0.25  # an idle connection of a draining server may still have a request on its way
PROBE_SECONDS = 0.1  # from the end of what a caller sends until it is found out whether it still reads
STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"  # says nothing to who reads; who has left answers with a reset


class Connection(RequestReader):
    """An HTTP connection whose every wait is bounded.

    `refused` is called for each request that ends here, before there is a request to route. `budget` counts
    bodies before there is room for them, and replies until the socket has taken them.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int,
        budget: Budget | None = None,
        refused: Callable[[], None] = lambda: None,
        **uvicorn: Any,
    ) -> None:
        super().__init__(max_body_bytes=max_body_bytes, budget=budget, **uvicorn)
        self._leaving: list[Claim] = []  # of replies that the socket has not taken to the last byte
        self._refused = refused
        self._refusal = b""  # of what came behind the unanswered: replies go out in order (RFC 9112, 9.3.2)
        self._half_closed = False  # the caller sends no more, but may still read
        self._blocked_since: float | None = None  # the caller has not read a byte of the reply since then
        self._unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection; its first request head is due from now."""
        super().connection_made(transport)
        self._head_since = self._active = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, and those that wait behind it."""
        super().connection_lost(exc)
        while self._unanswered:
            self._unanswered.popleft().leave()
        self._let_go_of_replies()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return whether to keep the connection, for answers that a caller who sends no more may still read.

        The end of what a caller sends is also all that is seen of one who has left. In a moment something is
        said to find out; a request that is still incomplete is dropped.
        """
        self._ended = self._half_closed = True
        self._drop_incomplete()
        if not self.answering:
            return False
        self.loop.call_later(PROBE_SECONDS, self._probe)
        return True

    def _probe(self) -> None:
        """Say something that only a caller who has left will mind, before a reply has begun; then look."""
        if self.answering and not self.transport.is_closing():
            first = self._unanswered[0]
            if not first.response_started and first.scope["http_version"] == "1.1":
                self.transport.write(STILL_THERE)
                self.loop.call_later(PROBE_SECONDS, self._look, PROBE_SECONDS)

    def _look(self, waited: float) -> None:
        """End the connection when what was said has come back: nothing is read any more that would tell."""
        if not self.answering or self.transport.is_closing():
            return
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self.loop.call_later(2 * waited, self._look, 2 * waited)

    def on_response_complete(self) -> None:
        """Begin the next request, or wait for it; after the last one the connection may be at its end."""
        self._active = self.loop.time()
        cycle = self._unanswered.popleft()
        cycle.drop_body()
        if self.body is not None and not self._unanswered:
            self.body.drop()
        self._part_with(cycle.claim)
        if not self._unanswered and (self._refusal or self._half_closed):
            self.transport.write(self._refusal)
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Remember since when the caller has not read, and how much."""
        self._blocked_since = self.loop.time()
        self._unread_bytes = self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._blocked_since = None
        if self._leaving:
            self._let_go_of_replies()
            self.transport.set_write_buffer_limits()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words for its log
        """Refuse what is no request, in the contract's words, behind the answers that are due; and close."""
        self._refused()
        self._ended = True
        path = self.url.split(b"?")[0].decode("latin-1") if getattr(self, "url", b"") else "/"
        refusal = Malformed(
            "this is not an HTTP/1.1 request with exactly one Host and headers of at most "
            f"{MAX_HEADER_BYTES} bytes"
        )
        reply = error_reply(refusal, path=path, request_id=uuid4().hex)
        lines = [*self.server_state.default_headers, *reply.headers, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self._drop_incomplete()
        self._refusal = STATUS_LINE[reply.status] + head + b"\r\n" + reply.body
        if not self.answering:
            self.transport.write(self._refusal)
            self.transport.close()

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

    def _part_with(self, claim: Claim) -> None:
        """Let go of an answered request's memory, as soon as the socket has taken its reply to the last byte.

        The rest of a small one, which the transport holds, is not waited for.
        """
        if claim.held < COUNTED_BYTES or not self.transport.get_write_buffer_size():
            claim.let_go()
            return
        self._leaving.append(claim)
        self.transport.set_write_buffer_limits(high=0)  # `resume_writing` then means that nothing is left

    def _let_go_of_replies(self) -> None:
        while self._leaving:
            self._leaving.pop().let_go()
