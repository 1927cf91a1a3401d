import hashlib

import pytest
from starlette.types import Receive, Scope, Send

from service.http.around.auth import OPEN_PATHS, Authentication
from tests.asgi import Headers, Reply, call


async def tenant(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope.get("heed.tenant", "").encode()})


def ask(*headers: tuple[str, str], path: str = "/v1/models", keys: tuple[str, ...] = ("one", "two")) -> Reply:
    return call(Authentication(tenant, keys=keys), path, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Bearer one")],
        [("authorization", "bearer  two ")],
        [("x-api-key", "one")],
        [("authorization", "Bearer wrong"), ("x-api-key", "two")],
    ],
)
def test_either_header_with_any_key_is_let_in(headers: Headers) -> None:
    assert ask(*headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "one")],
        [("authorization", "Basic one")],
        [("x-api-key", "")],
        [("x-api-key", "on")],
        [("x-api-key", "onee")],
        [("x-api-key", "ONE")],
        [("x-api-key", "\x80\xff")],
        [("host", "/health"), ("x-forwarded-for", "127.0.0.1")],
    ],
)
def test_missing_or_wrong_key_is_refused(headers: Headers) -> None:
    reply = ask(*headers)
    assert reply.status == 401
    assert reply.json()["error"]["code"] == "unauthorized"
    assert reply.header("www-authenticate") == "Bearer"


def test_keys_after_the_fourth_are_not_tried() -> None:
    assert ask(*[("x-api-key", "guess")] * 4, ("x-api-key", "one")).status == 401


@pytest.mark.parametrize("path", [*sorted(OPEN_PATHS), "/web/style.css"])
def test_probes_metrics_and_pages_need_no_key(path: str) -> None:
    assert ask(path=path).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v2", "/v2/models/x/ready", "/healthz", "/nowhere", "/web"])
def test_everything_else_needs_one(path: str) -> None:
    assert ask(path=path).status == 401


def test_without_keys_everyone_is_let_in() -> None:
    assert ask(keys=()).status == 200


def test_tenant_is_a_short_digest_of_the_key_that_was_given() -> None:
    assert ask(("x-api-key", "two")).body.decode() == hashlib.sha256(b"two").hexdigest()[:8]
    assert ask(path="/health").body == b""
