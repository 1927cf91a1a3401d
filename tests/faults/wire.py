"""Requests and replies as bytes: what is sent may be wrong on purpose, what comes back is read strictly."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

MODEL = "demo-attention"
ATTEND = f"/v1/models/{MODEL}/attend"
INFER = f"/v2/models/{MODEL}/infer"
JSON = "Content-Type: application/json"
NPY = "Content-Type: application/x-npy"
SAFETENSORS = "Content-Type: application/x-safetensors"
OIP = "Content-Type: application/octet-stream"


class Cut(Exception):
    """A connection ended before the reply did; the argument is what had come."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP reply: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str | None:
        return self.headers.get("x-request-id")

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


def request(method: str, path: str, *lines: str, body: bytes = b"", host: str | None = "Host: x") -> bytes:
    """One request with exactly these header lines; nothing is added but Host."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *([host] if host else []), *lines])
    return f"{head}\r\n\r\n".encode("latin-1") + body


def post(path: str, body: bytes, *lines: str) -> bytes:
    return request("POST", path, *lines, f"Content-Length: {len(body)}", body=body)


def attend(fields: dict[str, Any], *lines: str, path: str = ATTEND) -> bytes:
    return post(path, json.dumps(fields).encode(), JSON, *lines)


def infer(entries: list[dict[str, Any]], payload: bytes = b"", *lines: str, **more: Any) -> bytes:
    """A request of the Open Inference Protocol with its binary extension."""
    text = json.dumps({"inputs": entries, **more}).encode()
    return post(INFER, text + payload, OIP, f"Inference-Header-Content-Length: {len(text)}", *lines)


def entry(name: str, shape: list[int], datatype: str, size: int) -> dict[str, Any]:
    """How the binary extension describes a tensor of `size` bytes."""
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def tensors(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """A body of safetensors whose header says what it likes."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + payload


def token_ids(count: int, seed: int = 0) -> list[int]:
    """Ids that the demo model knows."""
    return [int(one) for one in np.random.default_rng(seed).integers(0, 120, count)]


def first_reply(received: bytes, *, of_head: bool = False) -> tuple[Reply, bytes] | None:
    """The first whole reply and what follows it; None when it is not whole yet."""
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    version, status = first.split(" ")[:2]
    if version != "HTTP/1.1":
        raise Cut(received[:200])
    if status == "100":
        return first_reply(rest, of_head=of_head)
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if of_head or status in ("204", "304"):
        return Reply(int(status), headers, b""), rest
    if headers.get("transfer-encoding") == "chunked":
        return _chunked(int(status), headers, rest)
    length = int(headers["content-length"])
    if len(rest) < length:
        return None
    return Reply(int(status), headers, rest[:length]), rest[length:]


def _chunked(status: int, headers: dict[str, str], rest: bytes) -> tuple[Reply, bytes] | None:
    pieces, at = [], 0
    while (end := rest.find(b"\r\n", at)) >= 0:
        size, start = int(rest[at:end], 16), end + 2
        at = start + size + 2
        if len(rest) < at:
            return None
        pieces.append(rest[start : start + size])
        if size == 0:
            return Reply(status, headers, b"".join(pieces)), rest[at:]
    return None


class Incoming:
    """One reply as it comes; a long one is parsed once its end may have come, not with every piece."""

    def __init__(self, begun: bytes = b"") -> None:
        self.received = bytearray(begun)
        self._least = 0  # bytes that there must be
        self._end = b""  # with which they must end
        self._head_read = False

    def add(self, piece: bytes) -> Reply | None:
        """Take more; returns the reply when it is whole. Raises Cut when there is no more (no piece)."""
        if not piece:
            raise Cut(bytes(self.received[:200]))
        self.received += piece
        return self.reply()

    def reply(self) -> Reply | None:
        """The reply, if it is whole."""
        if not self._head_read and not self._read_head():
            return None
        if len(self.received) < self._least or not self.received.endswith(self._end):
            return None
        found = first_reply(bytes(self.received))
        return found[0] if found else None

    def _read_head(self) -> bool:
        head, found, _ = bytes(self.received[:65536]).partition(b"\r\n\r\n")
        if found and not head.startswith(b"HTTP/1.1 100"):
            self._head_read = True
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length: "):
                    self._least = len(head) + 4 + int(line[16:])
                elif line == b"transfer-encoding: chunked":
                    self._end = b"0\r\n\r\n"
        return bool(found)


def all_replies(received: bytes, of_head: Iterable[bool] = ()) -> tuple[list[Reply], bytes]:
    """Every whole reply in order, and what is left over; `of_head` says which requests were of HEAD."""
    replies = []
    kinds = iter(of_head)
    while (found := first_reply(received, of_head=next(kinds, False))) is not None:
        reply, received = found
        replies.append(reply)
    return replies, received


def connect(port: int, timeout: float = 20, *, window: int | None = None) -> socket.socket:
    """A connection of one's own; `window` bytes at most wait unread at the caller's end."""
    made = socket.socket()
    made.settimeout(timeout)
    if window is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    try:
        made.connect(("127.0.0.1", port))
    except BaseException:
        made.close()
        raise
    return made


def ask(port: int, raw: bytes, timeout: float = 20) -> Reply:
    """Send bytes on a connection of their own; raises Cut when there is no whole reply, TimeoutError late."""
    with connect(port, timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(raw)  # refused before all is sent, the reply comes all the same
        return read(connection)


def read(connection: socket.socket, begun: bytes = b"") -> Reply:
    """Read one reply, of which `begun` has come; raises Cut when there is no whole one."""
    incoming = Incoming(begun)
    reply = incoming.reply()
    while reply is None:
        try:
            piece = connection.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        reply = incoming.add(piece)
    return reply


async def read_from(reader: asyncio.StreamReader) -> Reply:
    """The same, of a stream."""
    incoming = Incoming()
    while (reply := incoming.add(await reader.read(1 << 20))) is None:
        pass
    return reply
