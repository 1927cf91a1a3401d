"""How many connections there may be, and who goes when there are too many.

Beside `connection`. The number is what the limit of open files leaves, so that accepting never fails. At the
limit those that have kept the server waiting longest are closed for the new one: idle ones, slow heads, slow
bodies, slow readers, never one that waits for an answer. Where none can be, the new one still gets a few
seats that are kept back, on which only health and metrics are answered.
"""

import heapq
import logging
import os
from collections.abc import Iterable
from typing import Protocol

from service.socket.endings import Ending, Endings

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

MOST = 10_000  # connections, where nobody says; each takes some 20 KB
KEPT_BACK = 64  # descriptors for files, pipes and what is accepted and not yet seated; of few, a quarter
SEATS = 16  # connections beyond the limit, for health and metrics
FEWEST = 16
ACCEPTED_AT_ONCE = 8  # by the event loop, before any of them is seen here
SPARED_SECONDS = 0.002  # who keeps us waiting for less is not closed for another
IDLE_COUNTS = 0.1  # a second of it: who is idle owes nothing, and a pool may use its connection at any time
AT_ONCE = 32  # closed together, at most; and no more than a part of all
PART = 16
AGAIN_SECONDS = 1e-5  # a connection, from a look that found nobody to close to the next; it takes 1e-6
UNKNOWN_USE = 64  # descriptors, where the system does not tell

log = logging.getLogger(__name__)


class Guest(Protocol):
    """A connection, as far as it is seen from here."""

    def wait(self, now: float) -> tuple[Ending, float] | None:
        """Return what the other side keeps us waiting for, and how long; None where it waits for us."""

    def end(self) -> None:
        """Close at once."""


class Places:
    """Connections that are open: those with a place, at most `most`, and a few on seats kept back."""

    def __init__(self, max_connections: int = 0, endings: Endings | None = None) -> None:
        self._asked = max_connections
        self.endings = endings or Endings()
        self.most = max_connections or MOST
        self.others = 0  # connections that others in the process may have; of few descriptors, a quarter
        self._placed: set[Guest] = set()
        self._seated: set[Guest] = set()
        self._looked = float("-inf")

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._placed) + len(self._seated)

    @property
    def room(self) -> int:
        """How many more may come at once."""
        return max(SEATS, self.most - self.open)

    def settle(self) -> None:
        """Raise the limit of open files as far as is permitted and needed, and hold `most` under it."""
        wanted = self._asked or MOST
        limit = _raised(wanted + self.others + _in_use() + KEPT_BACK + SEATS)
        free = limit - _in_use() if limit is not None else wanted + self.others + KEPT_BACK + SEATS
        self.others = min(self.others, free // 4)
        free -= self.others
        self.most = max(1, min(wanted, free - min(KEPT_BACK, free // 4) - SEATS))
        if self.most < (self._asked or FEWEST):
            log.warning(
                "only %d connections at a time: the limit of open files is %s; raise it (ulimit -n)",
                self.most,
                limit,
            )

    def enter(self, guest: Guest, now: float) -> bool:
        """Take in a new connection; return whether it has a place."""
        if self._find_place(guest, now):
            return True
        if len(self._seated) >= SEATS and not self._close(_latest(self._seated, now, count=1)):
            self.endings.add("full")
            guest.end()
            return False
        self._seated.add(guest)
        return False

    def rise(self, guest: Guest, now: float) -> bool:
        """Give a place to one who sits, if there is one by now; return whether."""
        if not self._find_place(guest, now):
            return False
        self._seated.discard(guest)
        return True

    def leave(self, guest: Guest) -> None:
        """Forget a connection that is closed."""
        self._placed.discard(guest)
        self._seated.discard(guest)

    def _find_place(self, guest: Guest, now: float) -> bool:
        if len(self._placed) >= self.most and not self._make_room(now):
            return False
        self._placed.add(guest)
        return True

    def _make_room(self, now: float) -> bool:
        """Close some of those that have kept us waiting longest; return whether there were any."""
        if now < self._looked + AGAIN_SECONDS * len(self._placed):
            return False
        count = max(1, min(AT_ONCE, len(self._placed) // PART))
        found = self._close(_latest(self._placed, now, count=count, spared_seconds=SPARED_SECONDS))
        self._looked = float("-inf") if found else now
        return found

    def _close(self, guests: list[Guest]) -> bool:
        for guest in guests:
            self.leave(guest)
            self.endings.add("room")
            guest.end()
        return bool(guests)


def _latest(guests: Iterable[Guest], now: float, *, count: int, spared_seconds: float = 0.0) -> list[Guest]:
    """Return those that have kept us waiting longest, the longest first."""
    waits = ((guest.wait(now), guest) for guest in guests)
    late = [
        (wait[1] * (IDLE_COUNTS if wait[0] == "idle" else 1.0), guest)
        for wait, guest in waits
        if wait is not None and wait[1] >= spared_seconds
    ]
    return [guest for _, guest in heapq.nlargest(count, late, key=lambda pair: pair[0])]


def _raised(wanted: int) -> int | None:
    """Raise the soft limit of open files to `wanted`, if it is under that; return it, None for no limit."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):  # macOS has a lower limit of its own
            pass
    return None if soft == resource.RLIM_INFINITY else soft


def _in_use() -> int:
    """Return how many descriptors this process has open."""
    try:
        return len(os.listdir("/dev/fd"))  # a link to /proc/self/fd on Linux
    except OSError:
        return UNKNOWN_USE
