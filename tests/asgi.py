"""One request straight into an ASGI application, message by message; no sockets, no client library."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = Sequence[tuple[str, str]]


@dataclass
class Reply:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    pieces: int = 0
    complete: bool = False
    scope: dict[str, Any] = field(default_factory=dict)
    unread: int = 0  # messages of the body that nobody asked for

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key == name]
        assert len(values) <= 1, f"{name} is given {len(values)} times"
        return values[0] if values else None

    def json(self) -> Any:
        return orjson.loads(self.body)


def call(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Headers = (),
    body: bytes | Iterable[bytes] = b"",
    leaves: bool = False,
) -> Reply:
    """Send one request; a body in pieces arrives as messages. `leaves`: the client goes before its end."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    messages: list[Message] = [
        {"type": "http.request", "body": piece, "more_body": leaves or number < len(pieces) - 1}
        for number, piece in enumerate(pieces)
    ]
    messages.append({"type": "http.disconnect"})
    reply = Reply()

    async def receive() -> Message:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert reply.status == 0, "a reply starts once"
            reply.status = message["status"]
            reply.headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
        else:
            assert reply.status, "a reply starts before its body"
            assert not reply.complete, "nothing follows the end"
            reply.body += message.get("body", b"")
            reply.pieces += 1
            reply.complete = not message.get("more_body", False)

    reply.scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(reply.scope, receive, send))  # type: ignore[arg-type]
    reply.unread = len(messages) - 1
    return reply


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the whole body and answers with it."""
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})
