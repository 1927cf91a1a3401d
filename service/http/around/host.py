"""What our own server says to the application in the scope of a request, beyond what ASGI has.

ASGI has bodies be `bytes`, and servers rely on it: Ray Serve pickles every message. Our own connection writes
any buffer, so that tensors leave without being copied. And it says that a caller has left by a call, where
under other servers a task listens for that (`exchange`).
"""

from collections.abc import Callable

BUFFERS = "heed.buffers"  # in scope["extensions"]: the body of a message may be any buffer
CROWDED = "heed.crowded"  # ... the request came on a connection beyond MAX_CONNECTIONS
DEPARTURE = "heed.departure"  # in the scope


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
