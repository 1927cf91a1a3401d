"""What a process serves beside HTTP, on a port of its own: begun and ended with it.

Beside `server`.
"""

from typing import Protocol


class Beside(Protocol):
    """Calls of another protocol, on the event loop of the server."""

    @property
    def unanswered(self) -> int:
        """How many calls have come and have not had their answer."""
        ...

    async def begin(self) -> None:
        """Take calls from now on; raises OSError where the port is not to be had."""
        ...

    async def close(self) -> None:
        """Take no more; those that have come are answered."""
        ...

    async def end(self) -> None:
        """End at once, with whoever is left."""
        ...


class Nobody:
    """No other protocol is served."""

    unanswered = 0

    async def begin(self) -> None:
        """Take nothing."""

    async def close(self) -> None:
        """Have nothing to refuse."""

    async def end(self) -> None:
        """Have nobody left."""
