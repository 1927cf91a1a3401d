"""Typed messages between two processes over a socket that both were born with: a length, then MessagePack."""

import socket
import struct
import threading
from contextlib import suppress
from typing import Any, Generic, TypeVar

from msgspec import msgpack

LENGTH = struct.Struct("<I")
PIECE_BYTES = 256 << 10
ENCODER = msgpack.Encoder()

Told = TypeVar("Told")


class Closed(Exception):
    """The other process has ended."""


class Channel(Generic[Told]):
    """One end; `send` may be called from any thread and never waits, `receive` is called from one.

    `takes` is the type of what comes. What the other end has no room for, as while it is stopped, a thread
    sends later.
    """

    def __init__(self, end: socket.socket, *, takes: Any) -> None:
        end.setblocking(True)  # noqa: FBT003  the standard library's signature
        self._end = end
        self._decode = msgpack.Decoder(list[takes]).decode
        self._got = bytearray()
        self._sending = threading.Lock()
        self._late = bytearray()  # what is to be sent yet
        self._gone = False

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._end.fileno()

    def send(self, *messages: Any) -> None:
        """Send messages, all at once; raise Closed."""
        body = ENCODER.encode(messages)
        frame = LENGTH.pack(len(body)) + body
        with self._sending:
            if self._gone:
                raise Closed
            if not self._late:
                try:
                    sent = self._end.send(frame, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError:
                    raise Closed from None
                if sent == len(frame):
                    return
                frame = frame[sent:]
                threading.Thread(target=self._catch_up, name="heed-send", daemon=True).start()
            self._late += frame

    def receive(self, *, wait: bool = True) -> list[Told]:
        """Return the messages that have come, at least one unless told not to `wait`; raise Closed."""
        while True:
            try:
                piece = self._end.recv(PIECE_BYTES, 0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return []
            except OSError:
                piece = b""
            if not piece:
                raise Closed
            self._got += piece
            if (messages := self._whole()) or not wait:
                return messages

    def close(self) -> None:
        """Close this end, and wake whoever waits on it."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._end.close()

    def _whole(self) -> list[Told]:
        """Return the messages that have come whole."""
        messages: list[Told] = []
        at = 0
        with memoryview(self._got) as got:
            while len(got) - at >= LENGTH.size:
                begin = at + LENGTH.size
                end = begin + LENGTH.unpack_from(got, at)[0]
                if end > len(got):
                    break
                messages += self._decode(got[begin:end])
                at = end
        del self._got[:at]
        return messages

    def _catch_up(self) -> None:
        """Send what is late as the other end makes room."""
        try:
            while True:
                with self._sending:
                    piece = bytes(self._late[:PIECE_BYTES])
                sent = self._end.send(piece)
                with self._sending:
                    del self._late[:sent]
                    if not self._late:
                        return
        except OSError:
            with self._sending:
                self._gone = True
                self._late.clear()
