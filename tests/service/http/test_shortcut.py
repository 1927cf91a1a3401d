from collections.abc import Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import UnknownModel
from service.errors import Invalid
from service.http.around.shortcut import Shortcut
from service.http.errors import install
from tests.asgi import call

ERRORS = {"invalid": Invalid("no such option"), "unknown": UnknownModel("no model is called that")}


def routes() -> APIRouter:
    own = APIRouter()

    @own.post("/v1/models/{model}/attend")
    async def attend(request: Request, model: str) -> Response:
        if model in ERRORS:
            raise ERRORS[model]
        return Response(f"{model} {(await request.body()).decode()}")

    @own.post("/v1/attention")
    async def attention(request: Request) -> Response:
        return Response(await request.body())

    @own.post("/v1/models/{model}/versions/{version}/attend")
    async def versioned(request: Request, model: str, version: str) -> Response:
        return Response(f"{model} {version}")

    @own.get("/v1/models/{model}")
    async def model(model: str) -> Response:
        return Response(model)

    return own


async def framework(scope: Scope, receive: Receive, send: Send) -> None:
    """Stands for all that the shortcut goes past."""
    await Response("framework")(scope, receive, send)


BUSY = ("/v1/models/{model}/attend", "/v1/attention")


def shortcut(app: ASGIApp = framework) -> Shortcut:
    busy = [one for one in routes().routes if isinstance(one, APIRoute) and one.path in BUSY]
    return Shortcut(app, routes=busy)


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/models/minilm/attend", b"x", "minilm x"),
        ("/v1/models/a.b-c_1/attend", b"", "a.b-c_1 "),
        ("/v1/attention", b"qkv", "qkv"),
    ],
)
def test_busy_route_is_answered_without_the_framework(path: str, body: bytes, answer: str) -> None:
    reply = call(shortcut(), path, method="POST", body=body)
    assert (reply.status, reply.body.decode()) == (200, answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models/minilm/attend"),
        ("POST", "/v1/models//attend"),
        ("POST", "/v1/models/a/b/attend"),
        ("POST", "/v1/models/a/versions/1/attend"),
        ("POST", "/v1/models/attend"),
        ("POST", "/v1/models/minilm/attend/"),
        ("POST", "/v1/attention/x"),
        ("POST", "/v1/models/minilm"),
        ("GET", "/health"),
    ],
)
def test_everything_else_is_the_frameworks(method: str, path: str) -> None:
    assert call(shortcut(), path, method=method).body == b"framework"


@pytest.mark.parametrize("path", ["/v1/models/minilm/attend", "/v1/attention"])
def test_scope_names_route_and_parameters_as_the_framework_does(path: str) -> None:
    app = FastAPI()
    app.include_router(routes())
    slow, quick = (call(one, path, method="POST").scope for one in (app, shortcut()))
    assert quick["route"].path == slow["route"].path
    assert quick["path_params"] == slow["path_params"]


@pytest.mark.parametrize("model", ERRORS)
def test_refusals_are_the_same_as_through_the_framework(model: str) -> None:
    app = FastAPI()
    app.include_router(routes())
    install(app)
    slow, quick = (call(one, f"/v1/models/{model}/attend", method="POST") for one in (app, shortcut()))

    def seen(reply: Any) -> tuple[Any, ...]:
        return reply.status, reply.headers, reply.body, reply.scope["heed.code"]

    assert seen(slow) == seen(quick)
    assert slow.status >= 400


async def own(request: Request) -> Response:
    return Response(await request.body())


async def of_a_model(request: Request, model: str) -> Response:
    return Response(model)


async def with_a_header(request: Request, x_key: str = Header()) -> Response:
    return Response(x_key)


async def without_the_request(model: str) -> Response:
    return Response(model)


async def of_a_body(request: Request, given: dict[str, int]) -> Response:
    return Response(str(given))


def checked() -> None:
    """A dependency, as one that looks at a key."""


@pytest.mark.parametrize(
    ("path", "answer", "options", "why"),
    [
        ("/x", own, {"dependencies": [Depends(checked)]}, "has dependencies"),
        ("/x", with_a_header, {}, "has parameters"),
        ("/x", of_a_body, {}, "has parameters"),
        ("/x", of_a_model, {}, "has parameters"),
        ("/{model}", without_the_request, {}, "does not take `request`"),
        ("/{model}", own, {}, "does not take `request`"),
        ("/{model}/{version}", of_a_model, {}, "is no POST route"),
        ("/x", own, {"methods": ["GET"]}, "is no POST route"),
        ("/x", own, {"methods": ["GET", "POST"]}, "is no POST route"),
    ],
)
def test_route_that_needs_the_framework_is_refused_at_start(
    path: str, answer: Callable[..., Any], options: dict[str, Any], why: str
) -> None:
    route = APIRoute(path, answer, **{"methods": ["POST"]} | options)
    with pytest.raises(ValueError, match=why) as caught:
        Shortcut(framework, routes=[route])
    assert path in str(caught.value)


def test_dependencies_of_a_router_count_as_the_routes_own() -> None:
    router = APIRouter(dependencies=[Depends(checked)])
    router.post("/v1/attention")(own)
    busy = [one for one in router.routes if isinstance(one, APIRoute)]
    with pytest.raises(ValueError, match="has dependencies"):
        Shortcut(framework, routes=busy)
