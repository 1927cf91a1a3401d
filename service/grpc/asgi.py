"""One call of gRPC as one request to the application: its metadata are headers, its message is the body."""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import grpc
from starlette.types import ASGIApp, Message, Scope

from service.errors import DeadlineExceeded, Malformed
from service.grpc.station import GRPC_CALL, GrpcRoute
from service.grpc.statuses import details_of, metadata_of, status_of
from service.http.around.host import BUFFERS, DEPARTURE, Departure
from service.memory_budget import CLAIM, Claim

# Of HTTP, about a body that is none of ours: what a caller says of it as metadata means nothing.
OF_BODIES = ("accept", "content-", "grpc-", "if-", "inference-", "transfer-")
OF_CONNECTIONS = ("connection", "expect", "host", "range", "te", "upgrade")


class MessageReads:
    """Messages on their way in, `most` at a time: only when one is there does anyone know how long it was.

    Before a call's turn no more of its message comes than gRPC's window of a stream. A message has `seconds`
    to come, its turn included.
    """

    def __init__(self, most: int, *, seconds: float) -> None:
        self._turns = asyncio.Semaphore(most)
        self._seconds = seconds

    async def read(self, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Return the call's message; raises Malformed, DeadlineExceeded."""
        try:
            async with asyncio.timeout(self._seconds), self._turns:
                message = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the message has not come within {self._seconds:g} s (DEADLINE_MS); send less at a time"
            ) from None
        if not isinstance(message, bytes):
            raise Malformed("the call has no message; send one")
        return message


class AsgiCall:
    """One call, as the application sees it, and what it answers."""

    def __init__(
        self,
        app: ASGIApp,
        context: grpc.aio.ServicerContext[Any, Any],
        reads: MessageReads,
        *,
        path: str,
        asks: str | None = None,
    ) -> None:
        """Begin a call to `path`; `asks` is a path of HTTP to ask instead, which needs no message."""
        self._app, self._context, self._reads = app, context, reads
        self._read = asks is not None
        self._departure = Departure()
        self._pieces: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "2",
            "method": "POST" if asks is None else "GET",
            "scheme": "http",
            "path": asks or path,
            "raw_path": (asks or path).encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers_of(context.invocation_metadata()),
            "client": client_of(context.peer()),
            "server": None,
            "extensions": {BUFFERS: {}},
            DEPARTURE: self._departure,
        }
        if asks is None:
            self.scope[GRPC_CALL] = GrpcRoute(path, seconds=context.time_remaining())

    async def run(self) -> None:
        """Have it answered; whoever works for it is told when the caller leaves."""
        task = asyncio.ensure_future(self._app(self.scope, self._receive, self._send))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._departure.happened()
            await asyncio.wait([task])
            raise

    async def reply(self) -> bytes:
        """Return the message that answers; raises what ends the call where it is refused."""
        metadata = metadata_of(self._headers)
        body = b"".join(self._pieces) if len(self._pieces) != 1 else self._pieces[0]
        self._pieces = []
        if self.status != 200:
            status = status_of(self.status, self.scope.get("heed.code", ""))
            await self._context.abort(status, details_of(body), metadata)
        self._context.set_trailing_metadata(metadata)
        return body if isinstance(body, bytes) else bytes(body)

    async def _receive(self) -> Message:
        if self._read:
            gone = asyncio.get_running_loop().create_future()
            self._departure.listen(partial(gone.set_result, None))
            await gone
            return {"type": "http.disconnect"}
        self._read = True
        message = await self._reads.read(self._context)
        return {"type": "http.request", "body": message, "more_body": False}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], list(message["headers"])
            self._hold()
        elif not self._departure.gone:
            self._pieces.append(message.get("body", b""))

    def _hold(self) -> None:
        """Keep what the request holds of memory until the reply has left."""
        claim = cast(Claim | None, self.scope.get(CLAIM))
        if claim is not None:
            claim.join()
            self._context.add_done_callback(lambda _: claim.let_go())


def headers_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[bytes, bytes]]:
    """Return a call's metadata as headers, but for those about the body, and those in binary."""
    return [
        (name.encode("ascii"), value.encode("latin-1", "replace"))
        for name, value in metadata or ()
        if isinstance(value, str) and name not in OF_CONNECTIONS and not name.startswith(OF_BODIES)
    ]


def client_of(peer: str) -> tuple[str, int] | None:
    """Return address and port of `ipv4:127.0.0.1:5000` or `ipv6:%5B::1%5D:5000`; None for a Unix socket."""
    kind, _, address = unquote(peer).partition(":")
    host, _, port = address.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return host.strip("[]"), int(port)
