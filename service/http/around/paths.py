"""Paths behind a proxy's prefix: everything behind this station sees our own, whoever took the prefix away.

The outermost station, there when ROOT_PATH is set.
"""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send


class Paths:
    """Pure ASGI: takes `prefix` from a request's path, where the proxy has not."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self.app = app
        self._prefix = prefix

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        if scope["type"] == "http":
            path: str = scope["path"]
            prefix = self._prefix
            if prefix and path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                path = path[len(prefix) :] or "/"
                scope["path"], scope["raw_path"] = path, path.encode("utf-8", "replace")
        return self.app(scope, receive, send)
