"""Names that callers wrote: made fit for a message or a log line, and told from names that are ours."""

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 64
NEAR = 0.75  # of 1; `layer` is near `layers`, `sequence_id` is near nothing
STRANGERS = frozenset({"content_type", "headers"})  # MLServer's, on every request; not our `heads` misspelt


def quoted(name: str) -> str:
    """Return at most 64 characters of a caller's name in quotes, everything unprintable escaped."""
    return ascii(name if len(name) <= LONGEST else name[: LONGEST - 3] + "...")


def member(path: str, name: str) -> str:
    """Return the path of an object's member, `inputs[0].mask`; a name that is no identifier is quoted."""
    plain = name.isascii() and name.isidentifier() and len(name) <= LONGEST
    return ".".join(part for part in (path, name if plain else quoted(name)) if part)


def misspelt(name: str, known: Iterable[str]) -> str | None:
    """Return the name of ours that an unknown name looks like, None where it looks like a stranger's."""
    if name in STRANGERS:
        return None
    # A long name is near nothing, and comparing it costs its length squared.
    near = get_close_matches(name[:LONGEST].lower().replace("-", "_"), known, n=1, cutoff=NEAR)
    return near[0] if near else None
