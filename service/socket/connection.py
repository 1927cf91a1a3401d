"""One TCP connection: its life, its replies, and how long it may keep us waiting.

Before the first station of the request line. `reading` makes requests of what comes; `wait` says what the
other side is late with, and `give_up` ends it; a caller who sends no more still gets its answers.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import HeedError, Malformed, TooSlow
from service.http.browsers.protection import NOSNIFF
from service.http.errors import error_reply
from service.memory_budget import COUNTED_BYTES, Budget, Claim
from service.socket.endings import Ending
from service.socket.outgoing import Outgoing
from service.socket.pace import ConnectionLimits, Pace, unread_bytes
from service.socket.places import Places
from service.socket.reading import RequestReader

SETTLE_SECONDS = 0.25  # an idle connection of a draining server may still have a request on its way
PROBE_SECONDS = 0.1  # from the end of what a caller sends until it is found out whether it still reads
AT_ONCE = struct.pack("ii", 1, 0)  # a linger of no seconds
STILL_THERE = b"HTTP/1.1 100 Continue\r\n\r\n"  # says nothing to who reads; who has left answers with a reset


class Connection(RequestReader):
    """An HTTP connection whose every wait is bounded.

    `refused` is called with the status of each request that ends here, before there is one to route. `budget`
    counts bodies before there is room for them, and replies until the socket has taken them.
    """

    def __init__(
        self,
        *,
        max_body_bytes: int,
        budget: Budget | None = None,
        refused: Callable[[int], None] = lambda _: None,
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008  frozen
        places: Places | None = None,
        **uvicorn: Any,
    ) -> None:
        super().__init__(max_body_bytes=max_body_bytes, budget=budget, **uvicorn)
        self._leaving: list[Claim] = []  # of replies that the socket has not taken to the last byte
        self._refused = refused
        self._limits = limits
        self._places = places or Places()
        self._refusal = b""  # of what came behind the unanswered: replies go out in order (RFC 9112, 9.3.2)
        self._half_closed = False  # the caller sends no more, but may still read
        self._sending = Pace(limits.min_bytes_per_second)  # of the body that is due
        self._sender_since = 0.0
        self._sent_bytes = 0  # of that body, when last looked at
        self._reading = Pace(limits.min_bytes_per_second)  # of replies
        self._unread_bytes = 0  # when last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection; its first request head is due from now."""
        super().connection_made(transport)
        self.outgoing = Outgoing(transport, self.loop)
        self._head_since = self._active = self.loop.time()
        self._crowded = not self._places.enter(self, self._active)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered, and those that wait behind it."""
        super().connection_lost(exc)
        self._places.leave(self)
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
        self.outgoing.flush()
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
        """Take note of how much there is to read."""
        self._look_at_reader(self.loop.time())
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._look_at_reader(self.loop.time())
        if self._leaving:
            self._let_go_of_replies()
            self.transport.set_write_buffer_limits()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close a kept connection on which nothing was asked for too long."""
        if not self.transport.is_closing():
            self._places.endings.add("idle")
        super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, for the reason given, behind the answers that are due; and close."""
        self._refuse(Malformed(f"this is not a request in HTTP/1.1: {msg}"))

    def _refuse(self, refusal: HeedError) -> None:
        self._ended = True
        self._head_since = None
        path = self.url.split(b"?")[0].decode("latin-1") if getattr(self, "url", b"") else "/"
        reply = error_reply(refusal, path=path, request_id=uuid4().hex)
        self._refused(reply.status)
        lines = [*self.server_state.default_headers, *reply.headers, NOSNIFF, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in lines)
        self._drop_incomplete()
        self._refusal = STATUS_LINE[reply.status] + head + b"\r\n" + reply.body
        if not self.answering:
            self.transport.write(self._refusal)
            self.transport.close()

    def still_crowded(self) -> bool:
        """Whether this connection is one too many, now that it has a request."""
        return not self._places.rise(self, self._active)

    # ---- how long the other side keeps us waiting

    def wait(self, now: float) -> tuple[Ending, float] | None:
        """Return what the other side is late with, and by how many seconds; None while it waits for us.

        Who is not late has 0 or less than a moment. To be called a few times a second.
        """
        if self.transport.get_write_buffer_size():
            self._look_at_reader(now)
            return "slow_reader", self._reading.behind(now)
        if self._working:  # what may be coming behind the request at work has its time when that is done
            self._body_since = now
            if self._head_since is not None:
                self._head_since = now
            return None
        if self._head_since is not None:
            return "slow_head", now - self._head_since
        if self.body_due and not self.flow.read_paused:
            self._look_at_sender()
            return "slow_body", self._sending.behind(now)
        return "idle", now - self._active

    def late(self, now: float) -> Ending | None:
        """Return what the other side has been late with for too long."""
        waited = self.wait(now)
        if waited is None or waited[0] == "idle":  # uvicorn's timer looks after that
            return None
        kind, seconds = waited
        limit = self._limits.head_seconds if kind == "slow_head" else self._limits.stall_seconds
        return kind if seconds > limit else None

    def give_up(self, reason: Ending) -> None:
        """End what is late, with 408 where the caller may still be told (RFC 9110, section 15.5.9)."""
        self._places.endings.add(reason)
        told = False
        if reason == "slow_head" and self._raw_bytes:
            seconds = self._limits.head_seconds
            self._refuse(TooSlow(f"the head was not there after {seconds} s (HEAD_SECONDS); send it faster"))
            told = True
        elif reason == "slow_body":
            told = self.fail_body(self._too_slow())
        if not told:
            self.end()

    def _too_slow(self) -> TooSlow:
        seconds, rate = self._limits.stall_seconds, self._limits.min_bytes_per_second
        return TooSlow(
            f"the body fell {seconds} s (STALL_SECONDS) behind {rate} bytes a second (MIN_BYTES_PER_SECOND) "
            f"after {self._sent_bytes} bytes; send it faster, or less at a time"
        )

    def end(self) -> None:
        """Close at once. What a slow reader has not taken, the kernel forgets too (socket(7), SO_LINGER)."""
        connection = self.transport.get_extra_info("socket")
        if connection is not None and self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        self.transport.abort()

    def forgive(self, seconds: float) -> None:
        """Do not count time in which this process did not look."""
        self._sending.forgive(seconds)
        self._reading.forgive(seconds)
        self._active += seconds
        if self._head_since is not None:
            self._head_since += seconds

    @property
    def _working(self) -> bool:
        """Whether a whole request is at hand: it is the caller that waits."""
        return bool(self._unanswered) and not self._unanswered[0].due

    def _look_at_reader(self, now: float) -> None:
        before, self._unread_bytes = self._unread_bytes, unread_bytes(self.transport)
        if not before:
            self._reading.begin(now)
        elif self._unread_bytes < before:
            self._reading.moved(before - self._unread_bytes, now)

    def _look_at_sender(self) -> None:
        if self._body_since != self._sender_since:
            self._sender_since, self._sent_bytes = self._body_since, 0
            self._sending.begin(self._body_since)
        sent = self.body_bytes
        if sent > self._sent_bytes:
            self._sending.moved(sent - self._sent_bytes, self._active)
            self._sent_bytes = sent

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
