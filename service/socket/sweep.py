"""Over all connections, twice a second: those that are too late are ended, a few at a time.

Beside `server`. There is no timer for a request, so that one that is well costs nothing. Callers who came
together are late together, and come again together: ended all at once, they would keep the others waiting.
"""

import asyncio
from collections.abc import Collection

from service.socket.connection import Connection
from service.socket.endings import Endings

TICKS_A_LOOK = 5  # ticks are 0.1 s apart
LOOKED_AT_AT_ONCE = 1000  # connections; a millisecond
MOST_SEEN_SECONDS = 1.0  # between two looks; in what is over that, this process stood still
ENDED_A_TICK = 16
PART = 64  # of all connections that are ended in a tick, where that is more


class Sweep:
    """Ends late connections; call `over` ten times a second, or more often."""

    def __init__(self, endings: Endings) -> None:
        self._endings = endings
        self._looked = float("inf")
        self._ticks = 0
        self._late: list[Connection] = []

    async def over(self, connections: Collection[Connection], now: float) -> None:
        """Look for what the other side is too late with, and end some of it."""
        if self._ticks % TICKS_A_LOOK == 0:
            await self._look(connections, now)
        self._ticks += 1
        for _ in range(max(ENDED_A_TICK, len(connections) // PART)):
            if not self._late:
                break
            connection = self._late.pop()
            if connection in connections and (reason := connection.late(now)):  # both may have changed
                connection.give_up(reason)
        self._endings.tell(now)

    async def _look(self, connections: Collection[Connection], now: float) -> None:
        """Find late connections, other work in between; while this process stood still, nobody was late."""
        unseen = now - self._looked - MOST_SEEN_SECONDS
        self._looked = now
        self._late = []
        for number, connection in enumerate(list(connections), 1):
            if unseen > 0:
                connection.forgive(unseen)
            if connection in connections and connection.late(now):
                self._late.append(connection)
            if number % LOOKED_AT_AT_ONCE == 0:
                await asyncio.sleep(0)
