"""How a request learns that its caller has left: a call, and not a task that waits for it.

Under the request line. Other servers than ours do not tell so; there, a task listens (`exchange`).
"""

from collections.abc import Callable

__all__ = ["DEPARTURE", "Departure"]

DEPARTURE = "heed.departure"  # in the scope of a request


class Departure:
    """One caller, who may leave; on the event loop."""

    __slots__ = ("_gone", "_listener")

    def __init__(self) -> None:
        self._gone = False
        self._listener: Callable[[], None] | None = None

    @property
    def gone(self) -> bool:
        """Whether the caller has left."""
        return self._gone

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the caller leaves, or now if that has happened."""
        if self._gone:
            listener()
        else:
            self._listener = listener

    def forget(self) -> None:
        """Call nobody any more."""
        self._listener = None

    def happened(self) -> None:
        """Note that the caller has left."""
        self._gone = True
        if self._listener is not None:
            self._listener()
