"""Names that callers wrote, made fit for a message or a log line."""

__all__ = ["member", "quoted"]

LONGEST = 64


def quoted(name: str) -> str:
    """Return at most 64 characters of a caller's name in quotes, everything unprintable escaped."""
    return ascii(name if len(name) <= LONGEST else name[: LONGEST - 3] + "...")


def member(path: str, name: str) -> str:
    """Return the path of an object's member, `inputs[0].mask`; a name that is no identifier is quoted."""
    plain = name.isascii() and name.isidentifier() and len(name) <= LONGEST
    return ".".join(part for part in (path, name if plain else quoted(name)) if part)
