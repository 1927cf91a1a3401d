"""The chain of stations around the routes, and the application that stands in it.

What a station answers itself never enters the framework.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

Station = Callable[[ASGIApp], ASGIApp]  # makes one in front of the next


class Stations:
    """ASGI: an application behind its stations, the outermost first.

    All that is the framework's has to be there: its own stations are put together here, less its last
    handler, for which there is one of ours.
    """

    def __init__(self, app: FastAPI, stations: Sequence[Station]) -> None:
        stack = app.build_middleware_stack()
        self._app = app
        self._first: ASGIApp = stack.app if isinstance(stack, ServerErrorMiddleware) else stack
        for station in reversed(stations):
            self._first = station(self._first)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        scope["app"] = self._app
        return self._first(scope, receive, send)


class Application(FastAPI):
    """FastAPI behind `stations`. `needs_key`: its description says the two ways to give a key.

    Of what it would trace and count itself nothing is on: every request is seen by stations of ours.
    """

    stations: Stations | None = None
    needs_key = False

    def __init__(self, **how: Any) -> None:
        off: Any = dict.fromkeys(("tracing", "metrics", "logs", "auto_configure"), False)
        super().__init__(telemetry=off, **how)  # before 0.165 it was kept, and not looked at

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API."""
        schema = super().openapi()
        if self.needs_key:
            schema.setdefault("components", {})["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            schema["security"] = [{"bearer": []}, {"key": []}]
        return schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the application's life."""
        if self.stations is None or scope["type"] != "http":
            await super().__call__(scope, receive, send)
        else:
            await self.stations(scope, receive, send)
