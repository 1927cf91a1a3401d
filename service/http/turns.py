"""Where Python work of a request is done: at once, in its turn on the event loop, or on a thread.

Reading and writing JSON holds the interpreter's lock, all the time or in between compiled code, so that a
thread for it frees hardly anybody: it only adds switches, and every lane of the device waits for more of
them. What takes a millisecond or a few is done on the loop, but one piece an iteration, and whatever else is
ready goes in between.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["LONGEST_TURN_MS", "MIB", "Turns"]

MIB = 1 << 20
AT_ONCE_MS = 0.3
LONGEST_TURN_MS = 5.0

Made = TypeVar("Made")


class Turns:
    """One event loop's order of work; costs are estimates in milliseconds."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], Made], *, ms: float) -> Made:
        """Return what `work` returns, or raise what it raises."""
        if ms <= AT_ONCE_MS:
            return work()
        if ms > LONGEST_TURN_MS:
            return await asyncio.to_thread(work)
        await self._lock.acquire()
        try:
            return work()
        finally:  # in the next iteration, so that whoever else is ready in this one has to wait
            asyncio.get_running_loop().call_soon(self._lock.release)
