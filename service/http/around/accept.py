"""What a caller likes best, by Accept (RFC 9110, section 12.5.1)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

Headers = Iterable[tuple[bytes, bytes]]  # of a request, as ASGI has them


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One range of an Accept header: what it covers, and its quality, 0 where that cannot be read."""

    media_type: str
    quality: float
    parameters: dict[str, str] = field(default_factory=dict)  # but for the quality

    @classmethod
    def read(cls, part: str) -> Self:
        """Read one element of the list."""
        media_type, *pieces = (piece.strip().lower() for piece in part.split(";"))
        parameters = {name.strip(): value.strip() for name, _, value in (p.partition("=") for p in pieces)}
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 0.0
        return cls(media_type, quality if 0 <= quality <= 1 else 0.0, parameters)


def accept_of(headers: Headers) -> str:
    """Return all Accept headers as one; "" where there is none."""
    return b",".join([value for name, value in headers if name == b"accept"]).decode("latin-1").strip()


def ranges_of(accept: str) -> list[MediaRange]:
    """Return the ranges that an Accept header names."""
    return [MediaRange.read(part) for part in accept.split(",")]


def quality(media_type: str, ranges: Sequence[MediaRange], *, version: str = "") -> float:
    """Return how much a media type is liked: what the most specific matching range says, 0 for none.

    Of the same range given twice, the first counts. Where `version` is given, a range that names another does
    not match, and one that names it is more specific; no other parameter is looked at.
    """
    family = media_type.partition("/")[0]
    if version:
        ranges = [one for one in ranges if one.parameters.get("version", version) == version]
        ranges.sort(key=lambda one: "version" not in one.parameters)
    for name in (media_type, f"{family}/*", "*/*"):
        for one in ranges:
            if one.media_type == name:
                return one.quality
    return 0.0
