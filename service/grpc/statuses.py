"""From a reply's status and code to gRPC's status, and what goes beside it as metadata.

Source: gRPC `doc/statuscodes.md`; of messages that are too large, what gRPC itself says.
"""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import grpc
import orjson

STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
LONGEST_DETAILS = 3000  # characters as they travel, percent-encoded: clients take 8 KiB of metadata in all
TOLD = (
    b"x-request-id",
    b"server-timing",
    b"retry-after",
    b"ratelimit",
    b"ratelimit-policy",
    b"traceresponse",
)

Metadata = tuple[tuple[str, str], ...]


def status_of(status: int, code: str) -> grpc.StatusCode:
    """Return gRPC's status of a reply that is no 200; `code` is the contract's, where it has one."""
    if code == "sequence_too_long":  # which no other moment will take
        return grpc.StatusCode.INVALID_ARGUMENT
    if status in STATUSES:
        return STATUSES[status]
    return grpc.StatusCode.INVALID_ARGUMENT if 400 <= status < 500 else grpc.StatusCode.UNKNOWN


def details_of(body: bytes) -> str:
    """Return the message of an error's body, of `/v1` or `/v2`; of a very long one the beginning."""
    error: Any = orjson.loads(body)["error"]
    said: str = error if isinstance(error, str) else error["message"]
    while len(quote(said)) > LONGEST_DETAILS:
        said = said[: len(said) * 3 // 4]
    return said


def metadata_of(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    """Return what a reply's headers say to a caller of gRPC too."""
    return tuple((name.decode(), value.decode("latin-1")) for name, value in headers if name in TOLD)
