"""How the server speaks to its operator: stdlib logging, one line a record, JSON or text for a terminal.

Beside the request line. Structured values travel as `extra={"fields": {...}}`; nothing a caller sends can
begin a new line or reach a terminal as a control sequence. A thread of their own writes the lines: whoever
reads them slowly, or not at all, holds up no request.
"""

import logging
import sys
import threading
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal, TextIO

import orjson

LOUD = {
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
}  # libraries whose info lines tell operators nothing
UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


GATHER_SECONDS = 0.02  # that a line may wait for others, so that a thousand requests are a few writes
FLUSH_SECONDS = 1.0
MOST_WAITING = 20_000  # lines; beyond them the newest are dropped, and counted


def printable(text: str, limit: int = 200) -> str:
    """Return at most `limit` characters of `text` as printable ASCII, everything else escaped."""
    return text[:limit].encode("unicode_escape").decode("ascii")


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line without its end."""
        line: dict[str, object] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except (TypeError, ValueError):  # a lone surrogate, an integer beyond 64 bits
            return orjson.dumps({key: printable(str(value), 4096) for key, value in line.items()}).decode()


class ConsoleLines(logging.Formatter):
    """Time, level, message and fields in one line; a traceback, when there is one, below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line without its end, or a line and a traceback."""
        fields = "".join(f"  {name}={printable(str(value))}" for name, value in _fields(record).items())
        message = printable(record.getMessage(), 2000)
        line = f"{_time(record):%H:%M:%S} {record.levelname:<7} {message}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class LineWriter(logging.Handler):
    """Writes lines to a stream from a thread of its own, several at a time; warnings without delay.

    At most 20,000 lines wait for a stream that takes none; what comes then is dropped, and a line says how
    much was. `flush` waits until all is written, no longer than a second.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: deque[str | threading.Event] = deque()  # lines, and whoever waits for those before
        self._dropped = 0
        self._told = threading.Event()
        self._urgent = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._live, name="heed-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Put a record's line into the queue."""
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(self.format(record))
        if record.levelno >= logging.WARNING:
            self._urgent.set()
        if not self._told.is_set():
            self._told.set()

    def flush(self) -> None:
        """Wait until everything queued so far is written, or a second has passed."""
        written = threading.Event()
        self._waiting.append(written)
        self._urgent.set()
        self._told.set()
        written.wait(FLUSH_SECONDS)

    def close(self) -> None:
        """Write what waits and end the thread."""
        if not self._ended:
            self._ended = True
            self.flush()
            self._thread.join(FLUSH_SECONDS)
        super().close()

    def _live(self) -> None:
        while not self._ended or self._waiting:
            self._told.wait()
            self._urgent.wait(GATHER_SECONDS)
            self._urgent.clear()
            self._told.clear()  # before taking: a line that comes now tells anew
            self._write()

    def _write(self) -> None:
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        lines = [one for one in taken if isinstance(one, str)]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            said = ("%d lines of this log were dropped", (dropped,))
            lines.append(self.format(logging.LogRecord(__name__, logging.WARNING, "", 0, *said, None)))
        if lines:
            # The reader may be gone, or the stream closed: then there is nobody to tell.
            with suppress(OSError, ValueError):
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
        for one in taken:
            if isinstance(one, threading.Event):
                one.set()


def configure_logging(
    *, lines: Literal["json", "console"], level: str, stream: TextIO | None = None
) -> logging.Handler:
    """Send every logger, uvicorn's included, through one handler to `stream` (None: standard error)."""
    handler = LineWriter(stream or sys.stderr)
    handler.setFormatter(JsonLines() if lines == "json" else ConsoleLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        if isinstance(old, LineWriter):
            old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in UVICORN:  # it may have been given handlers of its own by whoever ran it before
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate, logger.disabled = True, False
        logger.setLevel(logging.NOTSET)
    for name, least in LOUD.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    return handler


def _stamp(seconds: float) -> str:
    """Return a time as 2026-01-31T12:00:00.000+00:00, by a way that costs a third of datetime's."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}+00:00"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}
