"""What the service refuses, and why. Status codes are known only to `service/http/errors.py`.

HeedError
├── Malformed          not the format it claims to be
├── Unauthorized       missing or wrong key
├── Forbidden          administration while it is off
├── NotFound           unknown_model, unknown_route
├── NotAcceptable      no reply format the caller accepts
├── UnsupportedMedia   no request format of that name
├── TooSlow            a request that does not arrive
├── TooLarge           body_too_large, result_too_large, sequence_too_long
├── Invalid            well-formed but wrong
│   ├── Empty          nothing is given of what is asked about
│   ├── Unreadable     a text that the model's tokenizer cannot read
│   └── Unable         of a model that does not have it
├── NotFinite          this request's own result overflowed
├── Overloaded         the queue is full
├── Unavailable        not_ready, draining, device_failed, out_of_memory, too_many_connections
└── DeadlineExceeded   not answered in time
"""


class HeedError(Exception):
    """A refusal: `code` is the contract's, the message gives the limit, the value and the remedy."""

    code = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.retry_after_seconds = retry_after_seconds


class Malformed(HeedError):
    """The body is not the format it claims to be."""

    code = "malformed"


class Unauthorized(HeedError):
    """The key is missing or wrong."""

    code = "unauthorized"


class Forbidden(HeedError):
    """Administration is off."""

    code = "forbidden"


class NotFound(HeedError):
    """No such model or route."""

    code = "unknown_route"


class NotAcceptable(HeedError):
    """No reply format that the caller accepts can carry the answer."""

    code = "not_acceptable"


class UnsupportedMedia(HeedError):
    """No request format has this name."""

    code = "unsupported_media_type"


class TooSlow(HeedError):
    """The request does not arrive as fast as it must."""

    code = "request_timeout"


class TooLarge(HeedError):
    """A body, result or sequence is over its limit; decided before any compute."""

    code = "body_too_large"


class Invalid(HeedError):
    """Well-formed but wrong."""

    code = "invalid"


class Empty(Invalid):
    """Nothing is given of what is asked about."""


class Unreadable(Invalid):
    """A text that the model's tokenizer cannot read."""


class Unable(Invalid):
    """What the model does not have: embeddings, or a head."""


class NotFinite(HeedError):
    """This request's own result overflowed; its neighbours are unaffected."""

    code = "not_finite"


class Overloaded(HeedError):
    """The queue is full; try again after `retry_after_seconds`."""

    code = "overloaded"


class Unavailable(HeedError):
    """The server cannot answer now."""

    code = "not_ready"


class DeadlineExceeded(HeedError):
    """The answer would come too late."""

    code = "deadline_exceeded"
