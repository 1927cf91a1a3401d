"""From the socket into place: the bytes of a body are written once, by the kernel, where they are read from.

Under `connection`. Between a transport that asks where to put what comes and a protocol that wants heads as
bytes; a body of known length has a block of its own, and binary tensors in it lie aligned.
"""

import asyncio
from typing import Protocol, cast

import numpy as np

HEAD_BYTES = 4096  # read at a time where a head is due; most are shorter
PARSED_BYTES = 1 << 16  # ... and of a body whose length only the parser can tell
FIRST_BYTES = 1 << 20  # of a block: a declared length alone takes no more memory than this
READ_BYTES = 1 << 18  # ... at a time
ALIGNMENT = 64  # bytes; a cache line, and more than any number needs


class Body:
    """A body of `size` bytes on its way in. The byte at `aligned_at` lies on a multiple of 64."""

    __slots__ = ("_aligned_at", "_at", "_block", "_dropped", "filled", "size")

    def __init__(self, size: int, *, aligned_at: int = 0) -> None:
        self.size = size
        self.filled = 0
        self._aligned_at = aligned_at
        self._block, self._at = _block(min(size, FIRST_BYTES), aligned_at)
        self._dropped = False

    @property
    def missing(self) -> int:
        """How many bytes are still to come."""
        return self.size - self.filled

    def room(self) -> memoryview:
        """Return where the next bytes go: at least one while any is missing, 256 KiB at most.

        More at once, into memory that is new, would take milliseconds of everybody.
        """
        if self._dropped:
            return self._block[: self.missing]
        held = len(self._block) - self._at
        if self.filled == held:  # the kernel gives memory as it is written, and this is the only copy
            whole, at = _block(self.size, self._aligned_at)
            whole[at : at + held] = self._block[self._at :]
            self._block, self._at = whole, at
        start = self._at + self.filled
        return self._block[start : start + (FIRST_BYTES if self.size <= FIRST_BYTES else READ_BYTES)]

    def put(self, piece: bytes) -> None:
        """Take bytes that came otherwise, no more than are missing."""
        at = 0
        while at < len(piece):
            room = self.room()
            count = min(len(room), len(piece) - at)
            room[:count] = piece[at : at + count]
            self.filled += count
            at += count

    def drop(self) -> None:
        """Keep no byte of it, neither what has come nor what is to come: it is answered already."""
        self._dropped = True
        self._block, self._at = memoryview(bytearray(PARSED_BYTES)), 0

    def whole(self) -> memoryview:
        """Return all of it, once nothing is missing; read-only."""
        return self._block[self._at : self._at + self.size].toreadonly()


class _Intake(Protocol):
    """What an Inlet fills: an asyncio protocol that has a body while one of known length comes in."""

    body: Body | None

    @property
    def parsing_body(self) -> bool: ...
    def connection_made(self, transport: asyncio.Transport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def body_received(self) -> None: ...
    def out_of_memory(self) -> None: ...
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class Inlet(asyncio.BufferedProtocol):
    """One connection's transport side."""

    def __init__(self, intake: _Intake) -> None:
        self._intake = intake
        self._small = self._scratch = memoryview(bytearray(HEAD_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """Say where to put what comes next."""
        body = self._intake.body
        if body is not None:
            try:
                return body.room()
            except MemoryError:
                self._intake.out_of_memory()
        if not self._intake.parsing_body:
            self._scratch = self._small
        elif self._scratch is self._small:
            self._scratch = memoryview(bytearray(PARSED_BYTES))
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that are there."""
        body = self._intake.body
        if body is None:
            self._intake.data_received(bytes(self._scratch[:nbytes]))
            return
        body.filled += nbytes
        self._intake.body_received()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the transport to the protocol."""
        self._intake.connection_made(cast(asyncio.Transport, transport))

    def eof_received(self) -> bool:
        """Return whether the transport stays open for what is still to be said."""
        return self._intake.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the connection is gone."""
        self._intake.connection_lost(exc)

    def pause_writing(self) -> None:
        """Say that the transport takes no more for now."""
        self._intake.pause_writing()

    def resume_writing(self) -> None:
        """Say that the transport takes more again."""
        self._intake.resume_writing()


def _block(size: int, aligned_at: int) -> tuple[memoryview, int]:
    """Return memory for `size` bytes, not cleared, and where in it they begin."""
    block = np.empty(size + ALIGNMENT, dtype=np.uint8)
    at = -(block.ctypes.data + aligned_at) % ALIGNMENT
    return memoryview(block)[: at + size], at  # type: ignore[arg-type]  # an array is a buffer
