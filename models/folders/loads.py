"""Loads of models: one after another, each on a thread of its own and within a limit of time.

A thread that is stuck in a disk that does not answer, or in somebody else's code, cannot be ended. It is
left behind, with what memory it has taken, and what it comes back with is dropped.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from models.errors import SpecError

__all__ = ["LOAD_SECONDS", "Loads"]

LOAD_SECONDS = 600.0
MOST_LEFT = 8  # threads that did not come back

Made = TypeVar("Made")


class Loads:
    """The turns of the loads of one runtime; `seconds` is the limit of each, and of the wait for its turn."""

    def __init__(self, seconds: float = LOAD_SECONDS) -> None:
        self._seconds = seconds
        self._turn = threading.Lock()
        self._left: list[threading.Thread] = []

    def run(self, name: str, work: Callable[[], Made]) -> Made:
        """Return what `work` returns, or raise what it raises; SpecError when it does not come back."""
        if not self._turn.acquire(timeout=self._seconds):
            raise SpecError(
                f"{name} was not loaded: other loads have taken more than {self._seconds:g} s; try again"
            )
        try:
            self._left = [thread for thread in self._left if thread.is_alive()]
            if len(self._left) >= MOST_LEFT:
                raise SpecError(
                    f"{name} was not loaded: {len(self._left)} loads have not come back, the limit is "
                    f"{MOST_LEFT}; see to the disk that does not answer, and start the server again"
                )
            load = _Load(work)
            thread = threading.Thread(target=load.run, name="heed-load", daemon=True)
            thread.start()
            if not load.done.wait(self._seconds):
                self._left.append(thread)
                raise SpecError(
                    f"{name} was not loaded within {self._seconds:g} s, and what it comes back with is "
                    "dropped; if its disk answers and it is only large, raise LOAD_SECONDS"
                )
            return load.result()
        finally:
            self._turn.release()


class _Load(Generic[Made]):
    """One load, from its thread to whoever waits for it."""

    def __init__(self, work: Callable[[], Made]) -> None:
        self._work = work
        self._made: Made | None = None
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._made = self._work()
        except BaseException as error:  # noqa: BLE001  whoever waits raises it
            self._error = error
        self.done.set()

    def result(self) -> Made:
        made, error = self._made, self._error
        self._made = self._error = None
        try:
            if error is not None:
                raise error
            return made  # type: ignore[return-value]
        finally:
            del made, error  # else its traceback, which has this frame, would keep tensors for a while
