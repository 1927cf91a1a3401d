"""Loads of models: one after another, each on a thread of its own and within a limit of time.

A thread that is stuck in a disk that does not answer, or in somebody else's code, cannot be ended. It is
left behind, with what memory it has taken, and what it comes back with is dropped.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from models.errors import SpecError

__all__ = ["LOAD_SECONDS", "Loads"]

LOAD_SECONDS = 600.0
MOST_LEFT = 8  # threads that did not come back

T = TypeVar("T")


class Loads:
    """The loads of one runtime; `seconds` is the limit of each, and of the wait for those before it."""

    def __init__(self, seconds: float = LOAD_SECONDS) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._left: list[threading.Thread] = []

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Return what `work` returns, or raise what it raises; SpecError when it does not come back."""
        seconds = self.seconds
        if not self._lock.acquire(timeout=seconds):
            raise SpecError(
                f"{name} was not loaded: other loads have taken more than {seconds:g} s; try again"
            )
        try:
            self._left = [thread for thread in self._left if thread.is_alive()]
            if len(self._left) >= MOST_LEFT:
                raise SpecError(
                    f"{name} was not loaded: {len(self._left)} loads have not come back, the limit is "
                    f"{MOST_LEFT}; see to the disk that does not answer, and start the server again"
                )
            future: Future[T] = Future()
            thread = threading.Thread(target=_fulfil, args=(future, work), name="heed-load", daemon=True)
            thread.start()
            if not wait((future,), seconds).done:
                self._left.append(thread)
                raise SpecError(
                    f"{name} was not loaded within {seconds:g} s, and what it comes back with is "
                    "dropped; if its disk answers and it is only large, raise LOAD_SECONDS"
                )
            try:
                return future.result()
            finally:
                del future  # as in `_fulfil`
        finally:
            self._lock.release()


def _fulfil(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  whoever waits raises it
        future.set_exception(error)
    finally:
        del future  # else a traceback, which has this frame, would keep tensors for a while
