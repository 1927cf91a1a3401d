"""Request bodies in gzip or deflate, unpacked before a route sees them, whichever route it is.

Pure ASGI, behind the keys: a stranger's body is not unpacked. What comes out is bounded while it comes out,
by the limit on bodies, so that a small body never takes more memory than a large one may; what takes long
is done on a thread, a few at a time. Source: RFC 9110, section 8.4.1; RFC 1950 to 1952.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import HeedError, Malformed, TooLarge, UnsupportedMedia
from service.http.errors import send_error
from service.inlet import Body
from service.memory_budget import Claim, claim_of
from service.wire.names import quoted

STEP_BYTES = 256 * 1024  # unpacked at a time: under a millisecond, or one turn of several on a thread
MOST_AT_ONCE = 2  # large bodies that are unpacked side by side
TENSORS_AT = b"inference-header-content-length"

ENCODING = b"content-encoding"
GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
CODINGS = ("gzip", "deflate", "identity")


class Unpacking:
    """Gives routes the body as it was before its Content-Encoding; `max_body_bytes` bounds what comes out."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes
        self._threads = asyncio.Semaphore(MOST_AT_ONCE)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass one request on, its body through a decompressor when it has a coding."""
        if scope["type"] == "http" and ENCODING in dict(scope["headers"]):
            try:
                coding = _coding(scope)
            except HeedError as refusal:
                return send_error(scope, send, refusal)
            # What is left to read is neither so long nor so coded.
            dropped = (ENCODING,) if coding is None else (ENCODING, b"content-length")
            scope["headers"] = [header for header in scope["headers"] if header[0] not in dropped]
            if coding is not None:
                receive = _Unpacked(receive, self._stream(coding, scope), self._threads).receive
        return self.app(scope, receive, send)

    def _stream(self, coding: str, scope: Scope) -> Callable[[bytes], "_Stream"]:
        aligned_at = next((int(v) for n, v in scope["headers"] if n == TENSORS_AT and v.isdigit()), 0)
        return lambda packed: _Stream(
            packed, coding, limit=self._max_body_bytes, aligned_at=aligned_at, claim=claim_of(scope)
        )


class _Unpacked:
    """A `receive` that gives the whole body, unpacked, in one piece."""

    def __init__(
        self, receive: Receive, stream: Callable[[bytes], "_Stream"], threads: asyncio.Semaphore
    ) -> None:
        self._receive = receive
        self._open = stream
        self._threads = threads
        self._given = False

    async def receive(self) -> Message:
        if self._given:
            return await self._receive()
        pieces: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                break
        self._given = True
        packed = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if not len(packed):  # no body at all, which some routes take
            return {"type": "http.request", "body": b"", "more_body": False}
        stream = self._open(packed)
        if len(packed) > STEP_BYTES or not stream.step():
            async with self._threads:
                await asyncio.to_thread(stream.finish)
        return {"type": "http.request", "body": stream.whole(), "more_body": False}


class _Stream:
    """One body on its way out of its coding, into memory where tensors lie aligned."""

    def __init__(self, packed: bytes, coding: str, *, limit: int, aligned_at: int, claim: Claim) -> None:
        self._packed = memoryview(packed)
        self._at = 0  # what of it the decoder has been given
        self._coding = coding
        self._limit = limit
        self._claim = claim
        self._body = Body(limit, aligned_at=aligned_at)
        self._decoder = zlib.decompressobj(GZIP if coding == "gzip" else _framing(packed))

    def step(self) -> bool:
        """Unpack a little more; return whether that was all. Raises Malformed, TooLarge."""
        left = self._body.missing
        given: bytes | memoryview = self._decoder.unconsumed_tail
        if not given:
            given = self._packed[self._at : self._at + STEP_BYTES]
            self._at += len(given)
        try:
            # One byte over the limit is enough to know that there are more.
            piece = self._decoder.decompress(given, min(STEP_BYTES, left + 1))
        except zlib.error:
            raise Malformed(f"the body is not {self._coding}, as its Content-Encoding says") from None
        if len(piece) > left:
            raise TooLarge(
                f"the body is over {self._limit} bytes when it is unpacked; the limit is {self._limit} "
                "(MAX_BODY_BYTES): send fewer sequences at a time"
            )
        if len(piece):
            self._claim.take(len(piece))
        self._body.put(piece)
        if self._decoder.eof:
            if self._decoder.unused_data or self._at < len(self._packed):
                raise Malformed(
                    f"the body goes on behind the end of its {self._coding} stream; send one stream"
                )
            return True
        if not piece and not given:
            raise Malformed(f"the body's {self._coding} stream is cut off")
        return False

    def finish(self) -> None:
        """Unpack the rest."""
        while not self.step():
            pass

    def whole(self) -> memoryview:
        """Return what came out; read-only."""
        self._body.size = self._body.filled
        return self._body.whole()


def _coding(scope: Scope) -> str | None:
    """Return `gzip`, `deflate`, or None where the body is as it is; raises UnsupportedMedia."""
    given = b",".join(value for name, value in scope["headers"] if name == ENCODING).decode("latin-1")
    codings = [
        coding for part in given.split(",") if (coding := part.strip().lower()) not in ("", "identity")
    ]
    if not codings:
        return None
    coding = codings[0].removeprefix("x-")
    if len(codings) > 1 or coding not in CODINGS:
        raise UnsupportedMedia(
            f"Content-Encoding {quoted(given)} is not read; send one of {', '.join(CODINGS)}"
        )
    return coding


def _framing(packed: bytes | memoryview) -> int:
    """Tell zlib's format from raw deflate, which many send under the same name (RFC 1950, section 2.2)."""
    if len(packed) >= 2 and packed[0] & 0x0F == 8 and (packed[0] * 256 + packed[1]) % 31 == 0:
        return ZLIB
    return RAW
