"""Paths under which routes are called: behind a proxy's prefix, and by names that a platform gives them.

The outermost station, there when ROOT_PATH, HEALTH_ROUTE or PREDICT_ROUTE is set: everything behind it sees
our own paths, whether or not the proxy took its prefix away.
"""

from collections.abc import Awaitable, Iterable, Mapping

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """Pure ASGI: takes `prefix` from a request's path, and puts our own path for one of `names`."""

    def __init__(self, app: ASGIApp, *, prefix: str, names: Mapping[str, str]) -> None:
        self.app = app
        self._prefix = prefix
        self._names = dict(names)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            prefix = self._prefix
            if prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                path = path[len(prefix) :] or "/"
            path = self._names.get(path, path)
            if path != scope["path"]:
                scope["path"], scope["raw_path"] = path, path.encode("utf-8", "replace")
        return self.app(scope, receive, send)


def new_names(routes: Iterable[BaseRoute], *, health: str | None, predict: str | None) -> dict[str, str]:
    """Return our path of each that is given; where one of our routes has it already, that one answers."""
    known = list(routes)
    return {
        path: ours
        for _, path, method, ours in _given(health, predict)
        if _found(known, path, method) is not Match.FULL
    }


def hidden(routes: Iterable[BaseRoute], *, health: str | None, predict: str | None) -> list[str]:
    """Return a sentence for each that is given and takes the place of a route of ours, asked otherwise."""
    known = list(routes)
    return [
        f"{setting} is {path}, which this server answers by another method than {method}, and would no "
        f"longer: choose a path that no route of it has, or leave {setting} out for {ours}"
        for setting, path, method, ours in _given(health, predict)
        if _found(known, path, method) is Match.PARTIAL
    ]


def _given(health: str | None, predict: str | None) -> list[tuple[str, str, str, str]]:
    """Return setting, path, method and our own path of each that a platform has a path of its own for."""
    given = (
        ("HEALTH_ROUTE (AIP_HEALTH_ROUTE)", health, "GET", "/ping"),
        ("PREDICT_ROUTE (AIP_PREDICT_ROUTE)", predict, "POST", "/invocations"),
    )
    return [(setting, path, method, ours) for setting, path, method, ours in given if path and path != ours]


def _found(routes: Iterable[BaseRoute], path: str, method: str) -> Match:
    """Return whether a route answers, PARTIAL: by another method."""
    scope = {"type": "http", "path": path, "method": method, "root_path": ""}
    return max((route.matches(scope)[0] for route in routes), key=lambda one: one.value, default=Match.NONE)
