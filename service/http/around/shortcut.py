"""The way past the framework for the routes that carry the load.

Between the middleware and the framework, pure ASGI. FastAPI finds a route by asking each in turn and solves
its parameters anew for every request, about a third of what a small request costs. The busy routes are a few
fixed templates whose functions read the request themselves: they are looked up here and called at once. The
same functions are routes of the framework too, which documents them and answers what does not match exactly.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ModelError
from service.errors import HeedError
from service.http.errors import send_error

__all__ = ["Shortcut", "busy_routes"]

PARAMETER = "{model}"


@dataclass(frozen=True, slots=True)
class _Busy:
    """One route; `path` is its template, as the observer labels it."""

    path: str
    answer: Callable[..., Awaitable[Response]]
    before: str
    after: str
    takes_model: bool

    def parameters(self, path: str) -> dict[str, str] | None:
        """Return what the template's parameter is in a path, None where they do not match."""
        if not self.takes_model:
            return {} if path == self.path else None
        if not (path.startswith(self.before) and path.endswith(self.after)):
            return None
        model = path[len(self.before) : len(path) - len(self.after)]
        return {"model": model} if model and "/" not in model else None


def busy_routes(routes: Iterable[BaseRoute]) -> list[_Busy]:
    """Return the POST routes that need no more than the request and the name of a model."""
    busy = []
    for route in routes:
        if not isinstance(route, Route) or "POST" not in (route.methods or ()):
            continue
        before, found, after = route.path.partition(PARAMETER)
        if "{" not in before + after:
            busy.append(_Busy(route.path, route.endpoint, before, after, bool(found)))
    return busy


class Shortcut:
    """Pure ASGI: calls a busy route's function itself, and leaves every other request to the framework."""

    def __init__(self, app: ASGIApp, *, routes: Iterable[_Busy]) -> None:
        self.app = app
        self._routes = tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, refusals included."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            for route in self._routes:
                parameters = route.parameters(path)
                if parameters is not None:
                    scope["route"], scope["path_params"] = route, parameters
                    await _answer(route, parameters, scope, receive, send)
                    return
        await self.app(scope, receive, send)


async def _answer(
    route: _Busy, parameters: dict[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    try:
        response = await route.answer(request=Request(scope, receive, send), **parameters)
    except (HeedError, ModelError) as refusal:
        await send_error(scope, send, refusal)
        return
    await response(scope, receive, send)
