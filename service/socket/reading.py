"""Requests out of the bytes of a connection: uvicorn's httptools protocol, with the limits it does not have.

Under `connection`. Headers are capped while they arrive, bodies are not buffered past the limit, and a
request without exactly one Host is refused. A body of declared length goes past the parser, which would copy
it twice, into its place (`inlet`). An offer to change protocols (`Upgrade: h2c`) is declined by answering in
this one (RFC 9110, section 7.8), whatever the framing of the request's body.
"""

import asyncio
from collections import deque
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.around.gate import MAX_HEADER_BYTES
from service.http.around.host import BUFFERS, CROWDED, DEPARTURE, Departure
from service.inlet import Body
from service.memory_budget import CLAIM, COUNTED_BYTES, Budget
from service.socket.cycle import Cycle
from service.socket.framing import complaint, declared_length, framing_line, tensors_at
from service.socket.outgoing import Outgoing

END_OF_HEAD = b"\r\n\r\n"
OVER_CAP = f"its head is over {MAX_HEADER_BYTES} bytes"
MOST_PIPELINED = 4  # requests of one connection that are read before the first is answered


class RequestReader(HttpToolsProtocol):
    """Reads requests and begins them, in order; `Connection` is the rest of the connection."""

    cycle: Cycle
    outgoing: Outgoing

    def __init__(self, *, max_body_bytes: int, budget: Budget | None = None, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._max_body_bytes = max_body_bytes
        self._budget = Budget() if budget is None else budget
        self._head_since: float | None = None  # waiting for a request head since then
        self._head_bytes = 0  # parsed of the present head
        self._raw_bytes = 0  # received since its first byte
        self._body_bytes = 0
        self._pieces: list[bytes] = []
        self._parsing_head = True
        self._length = 0  # of the body that is due, where it may go past the parser
        self._framing = b""  # header line of a body that is due, where the parser believes that none follows
        self._resuming = False  # the parser is being told what it has read already
        self._ended = False  # no request follows the last one
        self._unanswered: deque[Cycle] = deque()  # whole or on their way in; the first is being answered
        self.body: Body | None = None  # that is coming in past the parser
        self._active = 0.0  # when the last byte came, or the last reply was done
        self._body_since = 0.0  # waiting for the body that is due since then
        self._crowded = False  # without a place among the connections that may be

    @property
    def answering(self) -> bool:
        """Whether a request has begun that is not yet answered."""
        return bool(self._unanswered)

    @property
    def parsing_body(self) -> bool:
        """Whether the parser is at a body, whose length is not known beforehand."""
        return not self._parsing_head

    @property
    def body_due(self) -> bool:
        """Whether more of a body is to come, of any framing."""
        return not self._ended and (self.body is not None or not self._parsing_head)

    @property
    def body_bytes(self) -> int:
        """How much of it has come."""
        return self._body_bytes if self.body is None else self.body.filled

    def data_received(self, data: bytes) -> None:
        """Take what came; more than once around only for a body, or for requests sent without waiting."""
        try:
            while data and not self._ended and not self.transport.is_closing():
                data = self._take(data)
        except MemoryError:
            self.out_of_memory()

    def out_of_memory(self) -> None:
        """Take no more of a body that there is no memory for: its request fails with MemoryError."""
        if not self.fail_body(MemoryError("no memory for a request body")):
            self.transport.abort()

    def fail_body(self, trouble: BaseException) -> bool:
        """Read no more; return whether there is a request that can be told why its body is not taken."""
        self._ended = True
        self.body, self._length = None, 0
        self._pieces.clear()
        told = bool(self._unanswered) and self._unanswered[-1].more_body
        if told:
            self._unanswered[-1].fail(trouble)
        return told

    def still_crowded(self) -> bool:
        """Whether the connection has no place yet."""
        return False

    def body_received(self) -> None:
        """Take note that bytes of `body` are in place; when all are, hand it over."""
        assert self.body is not None
        self._active = self.loop.time()
        if self.body.missing:
            return
        body, self.body = self.body, None
        self._begin_parser()  # the last one still waits for this body
        self._ended = not self.cycle.keep_alive
        if self.answering:
            self.cycle.whole = body.whole()
        self.on_message_complete()

    def _take(self, data: bytes) -> bytes:
        """Take a head, or a body, or as much as there is of it; return what follows."""
        if self.body is not None:
            piece = data[: self.body.missing]
            self.body.put(piece)
            self.body_received()
            return data[len(piece) :]
        at = data.find(END_OF_HEAD) if self._parsing_head else -1
        end = len(data) if at < 0 else at + len(END_OF_HEAD)
        taken = self._parse(data[:end])
        if self._length:
            self.body, self._length = Body(self._length, aligned_at=tensors_at(self.headers)), 0
        return data[taken:]

    def _parse(self, data: bytes) -> int:
        """Parse; refuse a head that is over the cap before it ends. Return how many bytes were taken.

        They are all, but for a head that offers to change protocols: the parser stops behind it.
        """
        self._active = now = self.loop.time()
        if self._head_since is None and self._parsing_head and not self.answering:
            self._head_since = now
        counted = self._head_since is not None
        if counted:
            self._raw_bytes += len(data)
        taken = len(data)
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            taken = offer.args[0]
            self._decline()
        except httptools.HttpParserError as error:  # the parser's own words, or what was raised in its calls
            self.send_400_response(str(error.__context__ or error))
        if not counted and self._head_since is not None:  # of a head that begins behind an unanswered one
            self._raw_bytes += len(data)
        endless = self._head_since is not None and self._raw_bytes > MAX_HEADER_BYTES
        if endless and not self.transport.is_closing():
            self.send_400_response(OVER_CAP)
        return taken

    def _decline(self) -> None:
        """Go on in this protocol behind a head that offered another one, without a word.

        A new parser is needed. Where a body follows that it has to read, it is told the framing first.
        """
        if self._length:  # the body goes past the parser, and a new one is made behind it
            return
        self._begin_parser()
        if not self._framing:
            return
        keep = b"" if self.cycle.keep_alive else b"Connection: close\r\n"
        head = b"POST / HTTP/1.1\r\n%b%b" % (keep, self._framing) + END_OF_HEAD
        self._framing, self._resuming = b"", True
        try:
            self.parser.feed_data(head)
        finally:
            self._resuming = False
        self._parsing_head = False

    def _begin_parser(self) -> None:
        self._parsing_head = True
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn sets its own

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._resuming:
            return
        super().on_message_begin()
        self._head_bytes = self._body_bytes = 0
        self._pieces.clear()
        if self._head_since is None:
            self._head_since = self._active

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        if self._resuming:
            return
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header."""
        if self._resuming:
            return
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request, where its head is as it must be."""
        if self._resuming:
            return
        if wrong := complaint(self.headers, self.parser.get_http_version()):
            raise ValueError(wrong)
        self._head_since = None
        self._raw_bytes = 0
        self._body_since = self._active
        self._parsing_head = False
        super().on_headers_complete()
        self._length = declared_length(self.headers, most=self._max_body_bytes)
        self.cycle.__class__ = Cycle  # uvicorn asks for no factory
        cycle, scope = self.cycle, cast(dict[str, Any], self.scope)
        cycle.transport = cast(asyncio.Transport, self.outgoing)
        cycle.claim = scope[CLAIM] = self._budget.claim()
        if self._length and not cycle.take_body(self._length):
            self._length, self._ended = 0, True  # nothing more of it is taken
        stops = self.parser.should_upgrade() and not self._length
        self._framing = framing_line(self.headers) if stops else b""
        scope["extensions"] = {BUFFERS: {}}
        if self._crowded:
            self._crowded = self.still_crowded()
            if self._crowded:
                scope["extensions"][CROWDED] = {}
                cycle.keep_alive = False
        scope[DEPARTURE] = cycle.departure = Departure()
        self._unanswered.append(cycle)
        if len(self._unanswered) <= MOST_PIPELINED:  # uvicorn stops here: nobody would see the caller leave
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body, at most one byte past the limit: enough for the reader to see it.

        The reader is woken when all is there, or too much: nothing here begins before a body has ended, and
        being woken for every piece of a megabyte costs more than parsing it.
        """
        self._length = 0
        room = self._max_body_bytes + 1 - self._body_bytes
        self._body_bytes += len(body)
        over = self._body_bytes > self._max_body_bytes
        if not self.answering:
            if over:
                self.transport.close()  # the reply went out without the body; the rest is not worth reading
            return
        if not self.cycle.take_piece(len(body)):
            self._ended = True
            self._pieces.clear()
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
        if self._length or self._framing:  # the parser believes in another protocol, and reads no body
            return
        self._parsing_head = True
        if self.answering and self._pieces:
            self._hand_over()
        super().on_message_complete()

    def _drop_incomplete(self) -> None:
        """Forget the newest request where it is not all there: nothing can be answered to it."""
        if not self._unanswered or not self._unanswered[-1].more_body:
            return
        self.body, self._length = None, 0
        if self.pipeline and self.pipeline[0][0] is self._unanswered[-1]:
            self.pipeline.popleft()
        self._unanswered.pop().leave()

    def _hand_over(self) -> None:
        """Join the pieces, once; a body in one piece is not copied at all."""
        if self._body_bytes >= COUNTED_BYTES:
            self.cycle.claim.give(self._body_bytes)
        try:
            body = _joined(self.cycle.body, self._pieces)
        except MemoryError:  # here, for the parser that calls this takes any error for a malformed request
            self.out_of_memory()
            return
        self._pieces.clear()
        # As bytes, which uvicorn then hands on as they are; of its bytearray it would make a copy.
        self.cycle.body = cast(bytearray, body)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEADER_BYTES:
            raise ValueError(OVER_CAP)


def _joined(before: bytes | bytearray, pieces: list[bytes]) -> bytes:
    return b"".join([before, *pieces]) if before else b"".join(pieces)
