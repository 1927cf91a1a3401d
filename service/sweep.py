"""Twice a second, over all connections: those that are too late are ended, a few between other work.

Beside `server`. There is no timer for a request, so that one that is well costs nothing.
"""

import asyncio
from collections.abc import Collection

from service.connection import Connection
from service.endings import Endings

__all__ = ["Sweep"]

MOST_SEEN_SECONDS = 1.0  # between two sweeps; in what is over that, this process stood still
LOOKED_AT_AT_ONCE = 1000  # connections; a millisecond
ENDED_AT_ONCE = 16  # the same


class Sweep:
    """Ends late connections; call it again and again."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._swept = float("inf")

    async def over(self, connections: Collection[Connection], now: float) -> None:
        """End what the other side is too late with; while this process stood still, nobody was late."""
        unseen = now - self._swept - MOST_SEEN_SECONDS
        self._swept = now
        ended = 0
        for number, connection in enumerate(list(connections), 1):
            if unseen > 0:
                connection.forgive(unseen)
            if connection in connections and (reason := connection.late(now)):  # it may be lost meanwhile
                connection.give_up(reason)
                ended += 1
            if number % LOOKED_AT_AT_ONCE == 0 or ended == ENDED_AT_ONCE:
                ended = 0
                await asyncio.sleep(0)
        self._endings.tell(now)
