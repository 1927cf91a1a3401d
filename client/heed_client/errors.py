"""What can go wrong, and what a caller can do about it.

Where several servers were asked, `asked` has what each of them said last, by its URL, and so has the message.

HeedError
├── ConnectionFailed      no answer came: refused, reset, unreachable
├── DeadlineExceeded      no answer in time, by the caller's clock or by the server's (504)
├── InvalidReply          an answer came that is not Heed's
└── Refused               the server said no: `status`, `code`, `message`, `request_id`
    ├── InvalidRequest    400, 406, 415, 422: the request itself must change
    ├── NotAuthorized     401, 403
    ├── NotFound          404: no such model
    ├── TooLarge          413: body, result or sequence over the server's limit
    ├── Overloaded        429: try again after `retry_after` seconds
    └── Unavailable       500 and above
"""

from collections.abc import Mapping
from types import MappingProxyType

__all__ = [
    "ConnectionFailed",
    "DeadlineExceeded",
    "HeedError",
    "InvalidReply",
    "InvalidRequest",
    "NotAuthorized",
    "NotFound",
    "Overloaded",
    "Refused",
    "TooLarge",
    "Unavailable",
    "refusal",
]


class HeedError(Exception):
    """Anything this package raises on purpose."""

    asked: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        """Return what went wrong, and where several servers were asked, what each of them said."""
        said = super().__str__()
        if len(self.asked) < 2:
            return said
        all_said = "; ".join(f"{url}: {what}" for url, what in self.asked.items())
        last = "" if said in self.asked.values() else f"{said}; "
        return f"{last}{len(self.asked)} servers were asked, {all_said}"


class ConnectionFailed(HeedError):
    """No answer came; `broken` where the server had been reached, and may have been at work on it."""

    def __init__(self, message: str, *, broken: bool = False) -> None:
        super().__init__(message)
        self.broken = broken


class DeadlineExceeded(HeedError):
    """The answer would have come too late."""


class InvalidReply(HeedError):
    """What answered does not speak Heed's protocol."""


class Refused(HeedError):
    """The server's refusal, in its own words."""

    def __init__(
        self, status: int, code: str, message: str, *, request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(f"{message} ({code})" if code else message)
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id
        self.retry_after = retry_after


class InvalidRequest(Refused):
    """The request must change before it can be answered."""


class NotAuthorized(Refused):
    """The key is missing or wrong, or administration is off."""


class NotFound(Refused):
    """No model has this name."""


class TooLarge(Refused):
    """A body, result or sequence is over the server's limit."""


class Overloaded(Refused):
    """The server's queue is full."""


class Unavailable(Refused):
    """The server cannot answer now."""


_KINDS: dict[int, type[Refused]] = {
    400: InvalidRequest,
    401: NotAuthorized,
    403: NotAuthorized,
    404: NotFound,
    406: InvalidRequest,
    413: TooLarge,
    415: InvalidRequest,
    422: InvalidRequest,
    429: Overloaded,
}


def refusal(
    status: int, code: str, message: str, *, request_id: str = "", retry_after: float | None = None
) -> HeedError:
    """Return the error for a reply that is no success."""
    if status == 504:
        return DeadlineExceeded(message)
    kind = _KINDS.get(status, Unavailable if status >= 500 else Refused)
    return kind(status, code, message, request_id=request_id, retry_after=retry_after)
