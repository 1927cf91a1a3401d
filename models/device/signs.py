"""Signs of life from batches: one begins, reaches a yield point, ends; for whoever watches the device."""

import threading
import time
from collections.abc import Callable


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

    def running(self) -> "_Running":
        """Count a batch, or one step of it, as running on this thread; enter for what gives further signs."""
        return _Running(self._last, self._clock)


class _Running:
    """A batch that runs on the thread that enters. A class, for a generator takes three times as long."""

    __slots__ = ("_clock", "_last", "_thread")

    def __init__(self, last: dict[int, float], clock: Callable[[], float]) -> None:
        self._last, self._clock, self._thread = last, clock, threading.get_ident()

    def __enter__(self) -> Callable[[], None]:
        self._give()
        return self._give

    def __exit__(self, *_: object) -> None:
        del self._last[self._thread]

    def _give(self) -> None:
        self._last[self._thread] = self._clock()
