"""A reply on its way out: in buffers that are there, or piece by piece as the socket takes them.

The last station of the request line. JSON of a large result is several times the result, so that it is never
there as a whole: each piece is written when the one before it has gone to the socket.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.batching.job import Completed
from service.http.around.host import DEPARTURE, Departure
from service.wire.compiled.native import LARGEST_NUMBER_BYTES
from service.wire.dtypes import Buffer
from service.wire.json_text import PIECE_BYTES

Fields = tuple[tuple[bytes, bytes], ...]  # headers
JSON: Fields = ((b"content-type", b"application/json"),)
PIECES_HELD = 4  # one that is made, one that is compressed or put into a chunk, one that is sent


def reply_bytes(result_bytes: int, *, number_bytes: int, largest_whole: int) -> int:
    """Return what a result takes with the JSON of it, as far as that is there at a time; an upper bound.

    `number_bytes` of the result are one number; over `largest_whole` bytes its JSON is written in pieces.
    """
    if result_bytes > largest_whole:
        return result_bytes + PIECES_HELD * PIECE_BYTES
    return result_bytes + result_bytes // number_bytes * LARGEST_NUMBER_BYTES


def server_timing(done: Completed, *, decode: float, encode: float) -> str:
    """Return the Server-Timing header: where the time went, in milliseconds (W3C Server Timing)."""
    return (
        f"decode;dur={decode * 1000:.3f}, queue;dur={done.queue_seconds * 1000:.3f}, "
        f"batch;dur={done.batch_seconds * 1000:.3f}, compute;dur={done.compute_seconds * 1000:.3f}, "
        f"encode;dur={encode * 1000:.3f}"
    )


class BuffersResponse(Response):
    """A reply in several buffers of bytes, sent one after another without being joined.

    `timing` is its Server-Timing.
    """

    def __init__(
        self,
        buffers: Sequence[Buffer],
        *,
        headers: Fields,
        timing: str,
    ) -> None:
        self._buffers = buffers
        self.status_code, self.background = 200, None
        self.raw_headers = [
            *headers,
            (b"content-length", b"%d" % sum(map(len, buffers))),
            (b"server-timing", timing.encode()),
        ]

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002  the three are ASGI's
        receive: Receive,  # noqa: ARG002
        send: Send,
    ) -> None:
        """Send head and buffers."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        last = len(self._buffers) - 1
        for index, buffer in enumerate(self._buffers):
            await send({"type": "http.response.body", "body": buffer, "more_body": index < last})


class PiecesResponse(Response):
    """A reply whose pieces are made, on a thread, as the socket takes them.

    `pieces` begins them anew. Their length is known only when all have been made, so they go in chunks; for a
    caller who has no chunks (HTTP/1.0) they are made twice. `timing` is its Server-Timing, given the seconds
    that the first piece took; `done` is told at the end how many all took.
    """

    def __init__(
        self,
        pieces: Callable[[], Iterator[Buffer]],
        *,
        headers: Fields,
        timing: Callable[[float], str],
        done: Callable[[float], None],
    ) -> None:
        self._pieces = pieces
        self._timing = timing
        self._done = done
        self.status_code, self.background = 200, None
        self.raw_headers = [*headers]

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,  # noqa: ARG002  ASGI's
        send: Send,
    ) -> None:
        """Send head and pieces; raise ClientDisconnect when the caller has left."""
        departure: Departure | None = scope.get(DEPARTURE)
        pieces = self._pieces()
        piece, seconds = await _made(pieces)  # before the head: what fails here can still be said
        headers = [*self.raw_headers, (b"server-timing", self._timing(seconds).encode())]
        if scope.get("http_version") == "1.0":
            size = await asyncio.to_thread(lambda: sum(map(len, self._pieces())))
            headers.append((b"content-length", str(size).encode()))
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        while piece is not None:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            if departure is not None and departure.gone:
                raise ClientDisconnect
            piece, took = await _made(pieces)
            seconds += took
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self._done(seconds)


async def _made(pieces: Iterator[Buffer]) -> tuple[Buffer | None, float]:
    """Return the next piece, None behind the last, and the seconds that it took."""
    began = time.perf_counter()
    piece = await asyncio.to_thread(next, pieces, None)
    return piece, time.perf_counter() - began
