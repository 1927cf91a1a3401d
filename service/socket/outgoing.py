"""What the replies of a connection write, held until it is worth a call of the kernel.

Under `connection`. A reply is a head, some JSON and one tensor after another; written one by one each is a
packet, for which the caller wakes. What is written without a wait in between goes out together.
"""

import asyncio
from typing import cast

from service.wire.dtypes import Buffer

MOST_HELD = 1 << 20  # bytes; what is larger goes by itself, and who writes on is to notice a slow reader


class Outgoing:
    """Takes the place of a transport for those who write replies; `flush` is called where one ends."""

    __slots__ = ("_bytes", "_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[Buffer] = []
        self._bytes = 0

    def write(self, data: Buffer) -> None:
        """Hold bytes until the reply is whole, or until its writer waits for something."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes >= MOST_HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held, in one call but for what is large."""
        held, self._held, self._bytes = self._held, [], 0
        if not held or self._transport.is_closing():
            return
        large = held.pop() if len(held[-1]) >= MOST_HELD else None
        if len(held) == 1:
            self._transport.write(held[0])
        elif held:
            self._transport.writelines(cast(list[bytes], held))
        if large is not None:
            self._transport.write(large)

    def is_closing(self) -> bool:
        """Whether it is, or will be as soon as what is held is written."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close behind what was written."""
        self.flush()
        self._transport.close()
