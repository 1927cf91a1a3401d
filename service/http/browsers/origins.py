"""Origins of pages, and paths, as an operator writes them: checked, and as browsers send them.

Read by `settings`, before the first station. Sources: RFC 6454, section 6.2; Content Security Policy, level
3, section 2.3.1, for `*.` before a host.
"""

import re
from collections.abc import Sequence

SCHEME, LABEL = r"[a-z][a-z0-9+.-]*", r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?"
HOST = rf"(\*\.)?{LABEL}(\.{LABEL})*\.?|\[[0-9a-f:.]+\]"
ORIGIN = re.compile(rf"({SCHEME})://({HOST})(:\d{{1,5}})?")
USUAL_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out
PATH = re.compile(r"(/[A-Za-z0-9._~:@!$&'()*+;=-]+)+")
EVERYONE = "*"

# What our own routes begin with: behind a proxy that takes a prefix away such a path could not be told from
# one that still has it.
OUR_FIRST = (
    "decode", "docs", "embed", "embed_all", "embed_sparse", "embeddings", "health", "info", "invocations",
    "metrics", "openapi.json", "ping", "predict", "rerank", "similarity", "tokenize", "v1", "v2", "web",
)  # fmt: skip


def read_origins(given: object) -> object:
    """Split a comma-separated list of origins; raise ValueError saying what is wrong with one."""
    if not isinstance(given, str):
        return given
    entries = [entry.strip() for entry in given.split(",")] if given.strip() else []
    if EVERYONE in entries and len(entries) > 1:
        raise ValueError("'*' is every page; give it alone, or leave it out")
    return tuple(entry if entry == EVERYONE else _origin(entry) for entry in entries)


def read_ancestors(given: object) -> object:
    """Split a list of origins whose pages may frame ours; `self` is this server's own."""
    if not isinstance(given, str):
        return given
    entries = [entry.strip() for entry in given.split(",")] if given.strip() else []
    own = [entry for entry in entries if entry.strip("'") == "self"]
    others = read_origins(",".join(entry for entry in entries if entry not in own))
    assert isinstance(others, tuple)
    return (*(["'self'"] if own else []), *others)


def read_path(given: object) -> object:
    """Return a path without the slash at its end, None for `/`; raise ValueError for what is no path."""
    if not isinstance(given, str):
        return given
    path = given.strip().rstrip("/")
    if path and not PATH.fullmatch(path):
        raise ValueError("a path begins with '/', as /heed, and has no '//', '%', '?' or '#'; write it so")
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("a path has no '.' or '..' between slashes; write where it leads")
    return path or None


def read_prefix(given: object) -> object:
    """Return a path under which a proxy has this server; raise ValueError for one that our routes have."""
    path = read_path(given)
    if isinstance(path, str) and path.split("/")[1] in OUR_FIRST:
        raise ValueError("this server's own routes begin so; give the proxy another prefix, as /heed")
    return path


def pattern_of(origins: Sequence[str]) -> str:
    """Return the regular expression of those that stand for several hosts, `https://*.example.com`."""
    several = [re.escape(one).replace(r"\*\.", r"([a-z0-9_-]+\.)+") for one in origins if "*." in one]
    return "|".join(several)


def _origin(entry: str) -> str:
    found = ORIGIN.fullmatch(entry.lower())
    if found is None:
        raise ValueError(
            "an origin is a scheme, a host and perhaps a port, as https://app.example.com or "
            "http://localhost:3000, with no path or slash behind it; https://*.example.com is all below it"
        )
    scheme, host = found[1], found[2]
    port = entry.lower()[len(scheme) + 3 + len(host) :]
    return f"{scheme}://{host}" + ("" if USUAL_PORTS.get(scheme) == port else port)
