"""Signs of life from batches: one begins, reaches a yield point, ends; for whoever watches the device."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["Signs"]

Value = TypeVar("Value")


class Signs:
    """When each running batch gave its last sign; a batch belongs to the thread that runs it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[int, float] = {}

    @property
    def silent_seconds(self) -> float:
        """How long the most silent of the running batches has given no sign; 0 when none runs."""
        signs = list(self._last.values())
        return max(0.0, self._clock() - min(signs)) if signs else 0.0

    def begin(self) -> Callable[[], None]:
        """Count a batch of this thread as running, until `end`; return what gives its further signs."""
        me, last, clock = threading.get_ident(), self._last, self._clock

        def give() -> None:
            last[me] = clock()

        give()
        return give

    def end(self) -> None:
        """Tell that this thread's batch is over, however."""
        self._last.pop(threading.get_ident(), None)

    def outside(self, work: Callable[[], Value]) -> Value:
        """Return what `work` returns; this thread's batch does not run meanwhile, though another may."""
        self.end()
        try:
            return work()
        finally:
            self.begin()
