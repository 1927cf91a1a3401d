"""Smaller JSON for callers who ask: zstd or gzip over 1 KiB, never for tensors in binary formats.

Pure ASGI, the last station but one of a reply. Large pieces are compressed off the event loop, since a
megabyte of JSON costs about 10 ms of zstd and 26 ms of gzip.
"""

import asyncio
import zlib
from collections.abc import Awaitable
from typing import Protocol

import zstandard
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_BYTES = 1024
OFF_LOOP_BYTES = 64 * 1024
LEVEL = 1  # of both: a reply is read once, speed is worth more than the last percent
GZIP = 16 + zlib.MAX_WBITS
PREFERENCE = ("zstd", "gzip")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class Compression:
    """Compresses JSON replies of over 1 KiB, whole or piece by piece, as `Accept-Encoding` asks."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass one request on, its reply through a compressor when the caller takes one."""
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"accept-encoding" and (encoding := chosen_encoding(value.decode("latin-1"))):
                    send = _Reply(send, encoding, chunks=scope["http_version"] != "1.0").send
                    break
        return self.app(scope, receive, send)


def chosen_encoding(accept: str) -> str | None:
    """Return `zstd`, `gzip` or None, from an Accept-Encoding header (RFC 9110, section 12.5.3).

    The caller's weights decide, zstd before gzip where they are equal. `*` alone is not asking.
    """
    weights: dict[str, float] = {}
    for part in accept.split(","):
        name, _, parameters = part.partition(";")
        key, _, number = parameters.strip().partition("=")
        try:
            weights[name.strip().lower()] = float(number) if key.strip().lower() == "q" else 1.0
        except ValueError:
            continue
    best = max(PREFERENCE, key=lambda name: weights.get(name, 0.0))
    return best if weights.get(best, 0.0) > 0 else None


class _Reply:
    """One reply on its way out; the start is held back until the first piece shows whether it is worth it."""

    __slots__ = ("_chunks", "_compressor", "_encoding", "_send", "_start")

    def __init__(self, send: Send, encoding: str, *, chunks: bool) -> None:
        self._send = send
        self._encoding = encoding
        self._chunks = chunks  # HTTP/1.0 has none, so that a length must be known beforehand
        self._start: Message | None = None
        self._compressor: _Compressor | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if _is_plain_json(message["headers"]):
                self._start = message
            else:
                await self._send(message)
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        if self._start is not None:
            start, self._start = self._start, None
            if (not more and len(body) < LEAST_BYTES) or (more and not self._chunks):
                await self._send(start)
            else:
                self._compressor = _compressor(self._encoding)
                body = await self._compress(body, more)
                await self._send(_restarted(start, self._encoding, None if more else len(body)))
                if body or not more:
                    await self._send({"type": "http.response.body", "body": body, "more_body": more})
                return
        elif self._compressor is not None:
            body = await self._compress(body, more)
            if not body and more:
                return
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _compress(self, body: bytes, more: bool) -> bytes:  # noqa: FBT001  ASGI's own word
        assert self._compressor is not None
        if len(body) > OFF_LOOP_BYTES:
            piece = await asyncio.to_thread(self._compressor.compress, body)
        else:
            piece = self._compressor.compress(body)
        return piece if more else piece + self._compressor.flush()


def _compressor(encoding: str) -> _Compressor:
    if encoding == "zstd":
        return zstandard.ZstdCompressor(level=LEVEL).compressobj()
    return zlib.compressobj(LEVEL, zlib.DEFLATED, GZIP)


def _is_plain_json(headers: list[tuple[bytes, bytes]]) -> bool:
    kind = encoding = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"content-encoding":
            encoding = value
    return kind.split(b";")[0].strip() == b"application/json" and not encoding


def _restarted(start: Message, encoding: str, size: int | None) -> Message:
    headers = [header for header in start["headers"] if header[0] != b"content-length"]
    headers += [(b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding")]
    if size is not None:
        headers.append((b"content-length", str(size).encode()))
    return {**start, "headers": headers}
