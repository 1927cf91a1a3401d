"""HEAD says what GET would say, and nothing more."""

import json

import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from service.http.around.head_method import HeadMethod
from service.http.errors import install
from tests.asgi import call


@pytest.fixture
def app() -> HeadMethod:
    app = FastAPI()
    install(app)

    @app.get("/items/{item}")
    def items(item: str) -> dict[str, str]:
        return {"item": item}

    @app.get("/bytes")
    def some() -> Response:
        return Response(b"12345", headers={"etag": "x"})

    @app.post("/work")
    def work() -> None:
        raise AssertionError("HEAD does nothing")

    return HeadMethod(app)


@pytest.mark.parametrize("path", ["/items/3", "/bytes", "/nowhere"])
def test_head_is_that_of_get(app: HeadMethod, path: str) -> None:
    whole, head = (call(app, path, method=method) for method in ("GET", "HEAD"))
    assert whole.body
    assert head.body == b""
    assert (head.status, head.headers) == (whole.status, whole.headers)


def test_stations_around_learn_the_route_and_still_see_head(app: HeadMethod) -> None:
    reply = call(app, "/items/3", method="HEAD")
    assert reply.scope["route"].path == "/items/{item}"
    assert reply.scope["path_params"] == {"item": "3"}
    assert reply.scope["method"] == "HEAD"


def test_routes_that_only_take_work_refuse(app: HeadMethod) -> None:
    reply = call(app, "/work", method="HEAD")
    assert (reply.status, reply.header("allow"), reply.body) == (405, "POST", b"")
    assert json.loads(call(app, "/work").body)["error"]["code"] == "method_not_allowed"
