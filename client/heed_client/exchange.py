"""Conversations with the server as generators, without I/O: `Client` and `AsyncClient` drive the same ones.

A flow yields a Call and is sent its Reply (or the ConnectionFailed or DeadlineExceeded that came in its
place), or yields a Pause and is sent None when that time has passed; what it returns is the caller's result.
"""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from heed_client.errors import (
    ConnectionFailed,
    DeadlineExceeded,
    HeedError,
    InvalidReply,
    Refused,
    refusal,
)

__all__ = [
    "Call",
    "Deadline",
    "Flow",
    "Outcome",
    "Pause",
    "Reply",
    "Retries",
    "Step",
    "failure_of",
    "json_of",
]

T = TypeVar("T")
_LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request, to `server` (its URL). What is None leaves the client's own timeouts.

    `timeout_seconds` bounds the whole of it, `connect_seconds` how long a connection may take.
    """

    method: str
    path: str
    server: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_seconds: float | None = None
    connect_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One HTTP response, read to its end. Header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


Step: TypeAlias = Call | Pause
Outcome: TypeAlias = Reply | ConnectionFailed | DeadlineExceeded
Flow: TypeAlias = Generator[Step, Outcome | None, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When to try again: after 429 and 503, and when no connection could be made.

    The server's Retry-After is respected; without one the wait doubles from `first_seconds`. No wait is
    longer than `longest_seconds`: a server that asks for more is taken at its word, and its refusal raised.
    With several servers the others are asked before there is a wait, which is the shortest of them.
    """

    attempts: int = 4
    first_seconds: float = 0.1
    longest_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; give 1 for no retries, or more")

    def wait_seconds(self, attempt: int, failure: HeedError) -> float | None:
        """Return how long to wait after the failure of attempt 0, 1, …; None: give up."""
        if attempt + 1 >= self.attempts:
            return None
        if isinstance(failure, Refused):
            if failure.status not in (429, 503) or failure.code == "device_failed":
                return None
            if failure.retry_after is not None:
                return failure.retry_after if failure.retry_after <= self.longest_seconds else None
        elif not isinstance(failure, ConnectionFailed):
            return None
        wait: float = self.first_seconds * 2**attempt
        return min(wait, self.longest_seconds)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment by `clock` after which the caller wants no answer; None: whenever it comes."""

    clock: Callable[[], float]
    at: float | None = None

    @classmethod
    def after(cls, seconds: float | None, *, clock: Callable[[], float]) -> "Deadline":
        """Return the moment `seconds` from now."""
        if seconds is not None and seconds <= 0:
            raise ValueError(f"deadline is {seconds} seconds; give more than 0")
        return cls(clock, None if seconds is None else clock() + seconds)

    def left(self) -> float | None:
        """Return the seconds that are left; raise DeadlineExceeded when none are."""
        if self.at is None:
            return None
        left = self.at - self.clock()
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before the server answered")
        return left


def json_of(reply: Reply) -> object:
    """Return the parsed body; raise InvalidReply when it is not JSON."""
    try:
        return json.loads(reply.body)
    except ValueError as error:
        raise InvalidReply("the reply is not the JSON it claims to be") from error


def failure_of(outcome: Outcome) -> HeedError | None:
    """Return the error that an outcome is; None: it is a successful reply."""
    if isinstance(outcome, HeedError):
        return outcome
    if 200 <= outcome.status < 300:
        return None
    code, message, request_id = _explanation(outcome)
    return refusal(
        outcome.status, code, message, request_id=request_id, retry_after=_retry_after(outcome.headers)
    )


def _explanation(reply: Reply) -> tuple[str, str, str]:
    """Return code, message and request id of Heed's error body, or what there is of another server's."""
    try:
        error = json.loads(reply.body)["error"]
        return str(error["code"]), str(error["message"]), str(error["request_id"])
    except (ValueError, KeyError, TypeError):
        text = reply.body[:_LONGEST_MESSAGE].decode("utf-8", "replace").strip()
        return "", f"HTTP {reply.status}: {text}", reply.headers.get("x-request-id", "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header; a date, which Heed never sends, counts as none."""
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None
