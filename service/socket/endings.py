"""Connections that the server ended by itself: each counted, and a log line that does not flood.

Beside `connection` and `places`, which say why.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Literal

Ending = Literal["slow_head", "slow_body", "slow_reader", "idle", "room", "full"]

LINES_APART_SECONDS = 10.0
MEANING = {
    "slow_head": "no whole request head in HEAD_SECONDS",
    "slow_body": "a request body STALL_SECONDS behind MIN_BYTES_PER_SECOND",
    "slow_reader": "a reply read STALL_SECONDS behind MIN_BYTES_PER_SECOND",
    "room": "those that kept us waiting longest, closed to make room for new ones",
    "full": "refused: every connection is at work (MAX_CONNECTIONS)",
}

log = logging.getLogger(__name__)


class Endings:
    """Counts endings; `count` is told of each, the log of all of a reason together."""

    def __init__(self, count: Callable[[str], None] = lambda _: None) -> None:
        self._count = count
        self._untold: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def add(self, reason: Ending) -> None:
        """Take note of one."""
        self._count(reason)
        if reason in MEANING:  # an idle connection that is closed in time is nothing to tell
            self._untold[reason] += 1

    def tell(self, now: float) -> None:
        """Log what was not told yet, at most one line a reason in ten seconds; call often."""
        if not self._untold:
            return
        for reason in list(self._untold):
            if now - self._told.get(reason, float("-inf")) >= LINES_APART_SECONDS:
                self._told[reason] = now
                fields = {"reason": reason, "connections": self._untold.pop(reason), "why": MEANING[reason]}
                log.warning("connections ended", extra={"fields": fields})
