"""What the headers of a request say of its body: how long it is, what lies in it, and whether it can be read.

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


def complaint(headers: Headers, version: str) -> str:
    """Return what is wrong with a head, "" for nothing (RFC 9112, sections 2.3, 3.2 and 6.1)."""
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here; send HTTP/1.1"
    names = [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        return f"it has {hosts} Host headers; send exactly one"
    if b"transfer-encoding" in names:
        codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            return "Transfer-Encoding is not chunked alone; say in Content-Encoding how a body is packed"
    return ""


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
