"""How the server speaks to its operator: stdlib logging, one line a record, JSON or text for a terminal.

Beside the request line. Structured values travel as `extra={"fields": {...}}`; nothing a caller sends can
begin a new line or reach a terminal as a control sequence.
"""

import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

__all__ = ["ConsoleLines", "JsonLines", "configure_logging", "printable"]

LOUD = {
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
}  # libraries whose info lines tell operators nothing
UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")


def printable(text: str, limit: int = 200) -> str:
    """Return at most `limit` characters of `text` as printable ASCII, everything else escaped."""
    return text[:limit].encode("unicode_escape").decode("ascii")


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line without its end."""
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
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


def configure_logging(
    *, lines: Literal["json", "console"], level: str, stream: TextIO | None = None
) -> logging.Handler:
    """Send every logger, uvicorn's included, through one handler to `stream` (None: standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if lines == "json" else ConsoleLines())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
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


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}
