"""Where Python work of a request is done: at once, in its turn on the event loop, or on a thread.

Reading and writing JSON holds the interpreter's lock, all the time or in between compiled code, so that a
thread for it frees hardly anybody: it only adds switches, and every slot of the device waits for more of
them. What takes a millisecond or a few is done on the loop, but one piece an iteration, and whatever else is
ready goes in between. What takes longer is done on a thread: by the bytes it reads or writes, or by what it
says itself that it is about to do (`service.wire.effort`).
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from service.errors import HeedError
from service.wire.effort import TooMuch, within

MIB = 1 << 20
AT_ONCE_MS = 0.3
LONGEST_TURN_MS = 5.0
ALLOWED = 1500.0  # microseconds of declared work on the loop, beside what the bytes take

Made = TypeVar("Made")


class Turns:
    """One event loop's order of work; costs are estimates in milliseconds."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def run(self, work: Callable[[], Made], *, ms: float) -> Made:
        """Return what `work` returns, or raise what it raises.

        It may be begun on the loop, found to be too much for it, and done from its beginning on a thread.
        """
        allowed = min(ALLOWED, 1000 * (LONGEST_TURN_MS - ms))
        try:
            if ms <= AT_ONCE_MS:
                return within(allowed, work)
            if ms <= LONGEST_TURN_MS:
                await self._lock.acquire()
                try:
                    return within(allowed, work)
                finally:  # in the next iteration, so that whoever else is ready in this one has to wait
                    asyncio.get_running_loop().call_soon(self._lock.release)
        except TooMuch:
            pass
        return await asyncio.to_thread(_on_thread, work)


def _on_thread(work: Callable[[], Made]) -> Made:
    """Do work on a thread; what a refused request was read into is let go of there, and not on the loop."""
    try:
        return work()
    except HeedError as refusal:
        said = refusal
        said.__traceback__ = said.__context__ = said.__cause__ = None
    try:
        raise said
    finally:
        del said  # it would hold this frame, which holds it, and with it every frame that it passes
