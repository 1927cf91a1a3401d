"""How much one caller may ask."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app, service_of
from service.errors import Overloaded
from service.http.around.auth import Authentication
from service.http.around.quotas import MOST_CALLERS, QUOTA, Quota, QuotaLimits, Quotas
from service.settings import Settings
from tests.asgi import Reply, call, echo
from tests.fakes import FakeRuntime
from tests.queueing import Clock


def limited(app: ASGIApp = echo, **limits: int) -> tuple[Quotas, Clock]:
    clock = Clock()
    return Quotas(app, limits=QuotaLimits(**limits), clock=clock), clock


def post(app: ASGIApp, *, path: str = "/v1/attention", headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return call(app, path, method="POST", headers=headers, body=b"{}")


def from_address(app: ASGIApp, address: str) -> int:
    """Ask from another address, without an event loop of its own; the status."""
    statuses = []

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "path": "/v1/models", "headers": [], "client": (address, 1)}
    asked = app(scope, receive, send)  # type: ignore[arg-type]
    with contextlib.suppress(StopIteration):
        asked.__await__().__next__()  # nothing in it waits
    return int(str(statuses[0]))


def charging(tokens: int) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """An application whose every request has so many tokens."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        quota: Quota = scope[QUOTA]
        try:
            quota.require_tokens(tokens)
        except Overloaded:
            await send({"type": "http.response.start", "status": 429, "headers": []})
        else:
            quota.take_tokens(tokens)
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_a_seconds_worth_may_come_at_once_and_then_as_fast_as_the_rate() -> None:
    app, clock = limited(requests_per_second=3)
    assert [post(app).status for _ in range(5)] == [200, 200, 200, 429, 429]
    clock.now += 0.34
    assert [post(app).status for _ in range(2)] == [200, 429]
    clock.now += 100
    assert [post(app).status for _ in range(4)] == [200, 200, 200, 429]


def test_a_refusal_names_the_limit_and_says_when_to_try_again_and_reads_no_body() -> None:
    app, _ = limited(requests_per_second=1)
    post(app)
    reply = post(app)
    assert reply.header("retry-after") == "1"
    error = reply.json()["error"]
    assert error["code"] == "overloaded"
    assert error["message"] == (
        "this address may send 1 requests a second (KEY_REQUESTS_PER_SECOND); try again in 1 s"
    )
    assert reply.unread == 1


def test_every_reply_says_the_limits_and_what_is_left() -> None:
    app, clock = limited(charging(40), requests_per_second=5, tokens_per_second=100, concurrency=2)
    reply = post(app)
    assert reply.header("ratelimit-policy") == (
        '"requests";q=5;w=1, "tokens";q=100;w=1;qu="tokens", "concurrency";q=2;qu="concurrent-requests"'
    )
    assert reply.header("ratelimit") == '"requests";r=4;t=1, "tokens";r=60;t=1, "concurrency";r=1'
    clock.now += 1
    assert post(app).header("ratelimit") == '"requests";r=4;t=1, "tokens";r=60;t=1, "concurrency";r=1'


def test_one_request_of_more_than_a_seconds_tokens_is_let_in_and_paid_for_after_it() -> None:
    app, clock = limited(charging(1000), tokens_per_second=100)
    assert post(app).status == 200
    clock.now += 8.9
    refused = post(app)  # before it is decoded: the debt is not paid
    assert refused.status == 429
    assert refused.json()["error"]["message"].startswith("this address may send 100 tokens a second")
    clock.now += 0.2
    assert post(app).status == 429  # paid, but there is no second's worth yet
    clock.now += 1
    assert post(app).status == 200


def test_over_any_time_tokens_come_no_faster_than_the_rate() -> None:
    app, clock = limited(charging(37), tokens_per_second=100)
    let_in = 0
    for _ in range(1000):
        let_in += post(app).status == 200
        clock.now += 0.1
    assert 37 * let_in == pytest.approx(100 * 100, abs=137)


def test_requests_at_a_time_are_counted_until_their_reply_is_written() -> None:
    beside: list[int] = []

    async def asks_beside(scope: Scope, receive: Receive, send: Send) -> None:
        if not beside:
            beside.append(0)
            beside.append(from_address(app, "127.0.0.1"))
        await echo(scope, receive, send)

    app, _ = limited(asks_beside, concurrency=1)
    assert post(app).status == 200
    assert beside == [0, 429]
    assert post(app).status == 200


def test_a_request_that_fails_is_not_under_way_any_more() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("broken")

    app, _ = limited(fails, concurrency=1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            post(app)


def test_each_key_has_its_own_whatever_address_it_comes_from() -> None:
    quotas, _ = limited(requests_per_second=1)
    app = Authentication(quotas, keys=("one", "two"))
    statuses = [post(app, headers=(("x-api-key", key),)).status for key in ("one", "one", "two", "two")]
    assert statuses == [200, 429, 200, 429]
    refused = post(app, headers=(("x-api-key", "one"),))
    assert refused.json()["error"]["message"].startswith("this key may send 1 ")


def test_without_keys_each_address_has_its_own_whatever_a_header_says() -> None:
    app, _ = limited(requests_per_second=1)
    for number in range(3):
        forged = (("x-forwarded-for", f"10.0.0.{number}"), ("forwarded", f"for=10.0.0.{number}"))
        assert post(app, headers=forged).status == (200 if number == 0 else 429)
    assert from_address(app, "10.0.0.9") == 200


def test_an_ipv6_network_is_one_caller_and_a_mapped_address_is_its_ipv4() -> None:
    app, _ = limited(requests_per_second=1)
    addresses = [
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:0:1::1",
        "fe80::1%eth0",
        "192.0.2.1",
        "::ffff:192.0.2.1",
    ]
    assert [from_address(app, one) for one in addresses] == [200, 429, 200, 200, 200, 429]


@pytest.mark.parametrize("path", ["/health", "/metrics", "/web/explorer.js", "/v2/health/ready"])
def test_what_needs_no_key_is_not_counted(path: str) -> None:
    app, _ = limited(requests_per_second=1)
    replies = [post(app, path=path) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert replies[0].header("ratelimit") is None


def test_callers_that_are_remembered_are_bounded() -> None:
    app, _ = limited(requests_per_second=1)

    async def all_of_them() -> None:
        for number in range(MOST_CALLERS + 100):
            scope = {"type": "http", "path": "/v1", "headers": [], "client": (str(number), 1)}
            await app(scope, quiet, ignored)  # type: ignore[arg-type]

    async def quiet() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ignored(message: dict[str, object]) -> None:
        pass

    asyncio.run(all_of_them())
    assert len(app) == MOST_CALLERS
    assert from_address(app, str(MOST_CALLERS + 99)) == 429
    assert from_address(app, "0") == 200


def test_the_server_counts_the_tokens_of_what_it_admits() -> None:
    app = create_app(Settings(key_tokens_per_second=1), FakeRuntime())
    body = b'{"inputs": [{"text": "a b c"}, {"text": "d e"}], "outputs": ["z"]}'

    async def main() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://heed") as client:
            headers = {"content-type": "application/json"}
            return [await client.post("/v1/models/fake/attend", content=body, headers=headers) for _ in "ab"]

    engine = service_of(app).engine
    engine.start()
    first, second = asyncio.run(main())
    engine.stop(5)
    assert (first.status_code, second.status_code) == (200, 429)
    assert first.headers["ratelimit"] == '"tokens";r=0;t=5'
    assert "1 tokens a second (KEY_TOKENS_PER_SECOND)" in second.json()["error"]["message"]


def test_without_quotas_replies_say_nothing_of_them() -> None:
    reply = call(create_app(Settings(), FakeRuntime()), "/v1/models", headers=(("host", "x"),))
    assert reply.status == 200
    assert reply.header("ratelimit") is reply.header("ratelimit-policy") is None
