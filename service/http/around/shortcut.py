"""The way past the framework for the routes that carry the load.

Between the middleware and the framework, pure ASGI. FastAPI finds a route by asking each in turn and solves
its parameters anew for every request, about a third of what a small request costs. The busy routes are a few
fixed templates whose functions read the request themselves: they are looked up here and called at once. The
same functions are routes of the framework too, which documents them and answers what does not match exactly.
"""

from collections.abc import Awaitable, Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import ModelError
from service.errors import HeedError
from service.http.errors import send_error

MODEL = "{model}"


class Shortcut:
    """Pure ASGI: calls a busy route's function itself, and leaves every other request to the framework.

    `routes`: POST routes whose functions take the request and, where the path has it, the name of a model,
    which is all that they are given here. Raises ValueError for any other: what the framework would have done
    for it, dependencies and all, would be left out.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[APIRoute]) -> None:
        self.app = app
        self._whole: dict[str, APIRoute] = {}
        self._of_models: list[tuple[str, str, APIRoute]] = []  # with what stands before and after the name
        for route in routes:
            _require_plain(route)
            before, found, after = route.path.partition(MODEL)
            if found:
                self._of_models.append((before, after, route))
            else:
                self._whole[route.path] = route

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer one request, refusals included."""
        if scope["type"] == "http" and scope["method"] == "POST":
            path = scope["path"]
            for before, after, route in self._of_models:
                if path.startswith(before) and path.endswith(after):
                    model = path[len(before) : len(path) - len(after)]
                    if model and "/" not in model:
                        return _answer(route, {"model": model}, scope, receive, send)
            if path in self._whole:
                return _answer(self._whole[path], {}, scope, receive, send)
        return self.app(scope, receive, send)


async def _answer(
    route: APIRoute, parameters: dict[str, str], scope: Scope, receive: Receive, send: Send
) -> None:
    scope["route"], scope["path_params"] = route, parameters
    try:
        response = await route.endpoint(request=Request(scope, receive, send), **parameters)
    except (HeedError, ModelError) as refusal:
        await send_error(scope, send, refusal)
        return
    await response(scope, receive, send)


def _require_plain(route: APIRoute) -> None:
    """Raise ValueError for a route that needs more than the request and the name of a model."""
    needs = route.dependant
    given = {"model"} if MODEL in route.path else set()
    why = None
    if route.methods != {"POST"} or "{" in route.path.replace(MODEL, "", 1):
        why = "is no POST route with at most {model} in its path"
    elif needs.dependencies or route.dependencies:
        why = "has dependencies"
    elif needs.query_params or needs.header_params or needs.cookie_params or needs.body_params:
        why = "has parameters beside the path"
    elif needs.request_param_name != "request" or {one.name for one in needs.path_params} != given:
        why = "does not take `request` and what its path names"
    if why:
        raise ValueError(f"{route.path} {why}; leave it to the framework")
