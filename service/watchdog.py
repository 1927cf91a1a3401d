"""Who watches what may hang: red at `WATCHDOG_SECONDS` without a sign of life, the end when it lasts.

`/health` is red as soon as a watched part has been silent for that long, and green again once it moves. What
stays silent for twice as long again is taken for dead, and the server ends with status 1: a device or a
process that never comes back is worth a new start, which whoever runs the server makes.
"""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

WATCHDOG_SECONDS = 10.0
BEAT_SECONDS = 0.25  # between two signs of life of a process
MOST_SEEN_SECONDS = 1.0
MOST_CALLS = 12  # of a thread that are logged
PATIENCE = 2  # times the watchdog's seconds, beyond the first

log = logging.getLogger(__name__)


class Patience:
    """How long a trouble has been seen to last: `ended` is asked again and again, with the time in seconds.

    No two looks count for more than a second: who was stopped in between (a paused container, a sleeping
    machine) has not seen that anything was silent.
    """

    def __init__(self, watchdog_seconds: float) -> None:
        self._limit = PATIENCE * watchdog_seconds
        self._looked: float | None = None
        self._seen = 0.0

    def ended(self, now: float, *, trouble: bool) -> bool:
        """Whether the trouble has lasted for twice the watchdog's seconds."""
        since = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        self._seen = self._seen + min(since, MOST_SEEN_SECONDS) if trouble else 0.0
        return self._seen > self._limit


class Heartbeat:
    """An event loop's, looked at by a thread: `tell` is called there with the seconds since the last `beat`.

    Before the first one it is not called.
    """

    def __init__(self) -> None:
        self._last: float | None = None

    def beat(self) -> None:
        """Tell that the loop comes round; call it there, often."""
        self._last = time.monotonic()

    def watch(self, tell: Callable[[float], None]) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, args=(tell,), name="heed-watch", daemon=True).start()

    def _watch(self, tell: Callable[[float], None]) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            if self._last is not None:
                tell(time.monotonic() - self._last)


def end_when_stuck(watchdog_seconds: float, *, end: Callable[[], object]) -> Callable[[float], None]:
    """Return a Heartbeat's `tell` that calls `end` when its loop has not come round for too long."""
    patience = Patience(watchdog_seconds)

    def look(silent_seconds: float) -> None:
        if patience.ended(time.monotonic(), trouble=silent_seconds > watchdog_seconds):
            log.critical("the event loop gives no sign; the server ends", extra={"fields": {"at": stacks()}})
            end()

    return look


def stacks() -> dict[str, list[str]]:
    """Return where every thread is, for a log line: its innermost calls, the last one first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        names.get(number, str(number)): [
            f"{call.filename}:{call.lineno} {call.name}"
            for call in reversed(traceback.extract_stack(frame, limit=MOST_CALLS))
        ]
        for number, frame in sys._current_frames().items()  # noqa: SLF001  documented, in spite of its name
    }
