"""Threads on which long texts are tokenized: few at a time, so that memory and cores are left for the rest.

A place is held until its thread comes back, even where whoever asked has gone: native code cannot be stopped.
One model never has them all, so that a tokenizer that hangs leaves the texts of others alone.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


class TextPlaces:
    """One event loop's places for tokenizing; whoever came first is next."""

    def __init__(self, places: int | None = None) -> None:
        """Make so many places, 2 or more; by default half as many as there are cores."""
        places = max(2, _cores() // 2) if places is None else places
        self.count = places
        self._free = asyncio.Semaphore(places)
        self._of_model: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(places - 1))

    async def run(self, work: Callable[[], Made], *, model: str, seconds: float) -> Made:
        """Return what `work` returns on a thread, or raise what it raises.

        Raises TimeoutError when it has no place, or has not come back, after so many seconds.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        own = self._of_model[model]
        async with asyncio.timeout_at(until):
            await own.acquire()
            try:
                await self._free.acquire()
            except BaseException:
                own.release()
                raise
        future = loop.run_in_executor(None, work)
        future.add_done_callback(lambda done: self._back(done, own))
        # Not `wait_for`, which would cancel it: the thread works on, and holds its place.
        await asyncio.wait({future}, timeout=max(0.0, until - loop.time()))
        if not future.done():
            raise TimeoutError
        return future.result()

    def _back(self, done: "asyncio.Future[Made]", own: asyncio.Semaphore) -> None:
        self._free.release()
        own.release()
        if not done.cancelled():
            done.exception()  # it may be that nobody waits for it any more


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
