"""What the headers of a request say of its body: how long it is, and what lies in it.

Under `reading`. Headers are pairs of bytes, names in lower case.
"""

from collections.abc import Iterable

JSON_LENGTH = b"inference-header-content-length"  # of an OIP body: what follows it are tensors
LONGEST_LENGTH = 18  # digits

Headers = Iterable[tuple[bytes, bytes]]


def declared_length(headers: Headers, *, most: int) -> int:
    """Return the length of the body that follows, 0 where there is none, or the parser must say."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if len(lengths) != 1 or any(name == b"transfer-encoding" for name, _ in headers):
        return 0
    length = _number(lengths[0])
    return 0 if length > most else length


def framing_line(headers: Headers) -> bytes:
    """Return the header line that says how long the body is, empty where there is none."""
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return name + b": " + value
    return b""


def tensors_at(headers: Headers) -> int:
    """Return where in the body tensors begin, if the head says so."""
    return next((_number(value) for name, value in headers if name == JSON_LENGTH), 0)


def _number(value: bytes) -> int:
    return int(value) if value.isdigit() and len(value) <= LONGEST_LENGTH else 0
