"""Messages between two processes over a socket that both were born with: a length, then JSON."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import orjson

__all__ = ["Channel", "Closed"]

LENGTH = struct.Struct("<I")


class Closed(Exception):
    """The other process has ended."""


class Channel:
    """One end; `send` may be called from any thread, `receive` from one."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(True)  # noqa: FBT003  the standard library's signature
        self._end = end
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._end.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; raise Closed."""
        body = orjson.dumps(message)
        try:
            with self._sending:
                self._end.sendall(LENGTH.pack(len(body)) + body)
        except OSError:
            raise Closed from None

    def receive(self) -> dict[str, Any]:
        """Wait for one message; raise Closed."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        message: dict[str, Any] = orjson.loads(self._exactly(length))
        return message

    def close(self) -> None:
        """Close this end, and wake whoever waits on it."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _exactly(self, count: int) -> bytearray:
        got = bytearray(count)
        left = memoryview(got)
        while left:
            try:
                size = self._end.recv_into(left)
            except OSError:
                size = 0
            if not size:
                raise Closed
            left = left[size:]
        return got
