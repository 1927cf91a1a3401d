"""Signs of life from batches: one begins, reaches a yield point, ends; for whoever watches the device."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Signs"]


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

    @contextmanager
    def running(self) -> Iterator[Callable[[], None]]:
        """Count a batch, or one step of it, as running on this thread; yield what gives further signs."""
        me, last, clock = threading.get_ident(), self._last, self._clock

        def give() -> None:
            last[me] = clock()

        give()
        try:
            yield give
        finally:
            del last[me]
