"""A replica in a host that names requests itself and may have put it below a path."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.app import create_app, service_of
from service.replicas.replica import Replica
from service.settings import Settings
from tests.fakes import FakeRuntime

BODY = {"inputs": [{"embeddings": [[1, 2, 3, 4]]}], "outputs": ["z"]}


class Host:
    """As ASGI has it, `path` is whole, and `root_path` says how much of it is the host's."""

    def __init__(self, replica: Replica, root: str) -> None:
        self.replica = replica
        self.root = root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", b"the-host-s")]
            await send(message)

        await self.replica({**scope, "root_path": self.root}, receive, named)


@pytest.fixture(params=["", "/a/b", "/v1"])
def root(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def ask(root: str) -> Any:
    def ask(method: str, path: str, **more: Any) -> httpx.Response:
        app = create_app(Settings(api_keys=("key",)), FakeRuntime())  # type: ignore[arg-type]
        host = Host(Replica(app, service_of(app)), root)

        async def asked() -> httpx.Response:
            async with app.router.lifespan_context(app):
                transport = httpx.ASGITransport(host)
                async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
                    return await client.request(method, root + path, **more)

        return asyncio.run(asked())

    return ask


def test_busy_and_other_routes_are_found_below_any_path(ask):
    keyed = {"headers": {"x-api-key": "key"}}
    reply = ask("POST", "/v1/models/fake/attend", json=BODY, **keyed)
    assert reply.status_code == 200, reply.text
    assert reply.json()["outputs"][0]["z"] == [[2, 4, 6, 8]]
    assert ask("GET", "/v1/models/fake", **keyed).json()["name"] == "fake"
    assert ask("GET", "/health").status_code == 200
    assert ask("GET", "/none", **keyed).status_code == 404


def test_keys_are_asked_for_below_any_path(ask):
    assert ask("POST", "/v1/models/fake/attend", json=BODY).status_code == 401
    assert ask("GET", "/v1/models").status_code == 401


def test_a_reply_has_one_request_id_the_host_s(ask):
    for reply in (ask("GET", "/health"), ask("POST", "/v1/models/none/attend", json=BODY)):
        assert reply.headers.get_list("x-request-id") == ["the-host-s"]


def test_what_is_not_below_the_path_is_left_as_it_is(root):
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])

    async def ask(path: str) -> None:
        scope = {"type": "http", "path": path, "raw_path": path.encode(), "root_path": root}
        await Replica(app, None)(scope, None, None)  # type: ignore[arg-type]

    for path in (f"{root}c", f"{root}/c", root or "/"):
        asyncio.run(ask(path))
    assert seen == (["c", "/c", "/"] if not root else [f"{root}c", "/c", "/"])
