import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from service.errors import HeedError, Overloaded
from service.http.around.gate import MAX_HEADER_BYTES, Gate
from service.http.around.lifecycle import Lifecycle
from service.http.errors import send_error
from tests.asgi import Headers, Reply, call, echo

LIMIT = 1000


def send_body(
    body: bytes | list[bytes],
    *headers: tuple[str, str],
    app: object = echo,
    lifecycle: Lifecycle | None = None,
    path: str = "/v1/attention",
) -> Reply:
    gate = Gate(app, max_body_bytes=LIMIT, lifecycle=lifecycle or Lifecycle())  # type: ignore[arg-type]
    return call(gate, path, method="POST", headers=headers, body=body)


def test_body_at_the_limit_passes() -> None:
    assert send_body(b"x" * LIMIT).body == b"x" * LIMIT
    assert send_body(b"x" * LIMIT, ("content-length", str(LIMIT))).status == 200


def test_declared_body_over_the_limit_is_refused_without_being_read() -> None:
    reply = send_body(b"x" * (LIMIT + 1), ("content-length", str(LIMIT + 1)))
    assert reply.status == 413
    assert reply.unread == 1
    assert reply.header("connection") == "close"
    error = reply.json()["error"]
    assert error["code"] == "body_too_large"
    assert str(LIMIT) in error["message"]
    assert str(LIMIT + 1) in error["message"]


def test_undeclared_body_is_cut_at_the_piece_that_passes_the_limit() -> None:
    reply = send_body([b"x" * 400] * 100)
    assert reply.status == 413
    assert reply.unread == 97
    assert reply.header("connection") == "close"
    assert "1200 bytes" in reply.json()["error"]["message"]


def test_refusal_wins_over_whatever_the_route_makes_of_it() -> None:
    async def careless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        except HeedError:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    reply = send_body([b"x" * 400] * 100, app=careless)
    assert (reply.status, reply.json()["error"]["code"]) == (413, "body_too_large")


def test_refusals_of_the_route_are_left_to_others() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        raise Overloaded("full")

    with pytest.raises(Overloaded):
        send_body(b"x", app=refusing)


def test_reply_that_began_before_the_limit_was_passed_is_not_mixed_with_a_refusal() -> None:
    async def early(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await echo_rest(receive)
        await send({"type": "http.response.body", "body": b"end"})

    async def echo_rest(receive: Receive) -> None:
        while (await receive())["more_body"]:
            pass

    reply = send_body([b"x" * 400] * 100, app=early)
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "-1")],
        [("content-length", "+5")],
        [("content-length", "5.0")],
        [("content-length", "")],
        [("content-length", "0x5")],
        [("content-length", "９")],
        [("content-length", "9" * 40)],
        [("content-length", "5"), ("content-length", "6")],
        [("content-length", "5"), ("transfer-encoding", "chunked")],
        [("x-filler", "x" * MAX_HEADER_BYTES)],
        [(f"x-{n}", "") for n in range(6000)],
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_bad_headers_are_malformed_and_close_the_connection(headers: Headers) -> None:
    encodable = [(name, value.encode().decode("latin-1")) for name, value in headers]
    reply = send_body(b"x" * 5, *encodable)
    assert (reply.status, reply.json()["error"]["code"]) == (400, "malformed")
    assert reply.header("connection") == "close"


@pytest.mark.parametrize("body", [b"", b"x" * 4, b"x" * 6])
def test_body_that_disagrees_with_its_declared_length_is_malformed(body: bytes) -> None:
    reply = send_body(body, ("content-length", "5"))
    assert (reply.status, reply.json()["error"]["code"]) == (400, "malformed")
    assert "5" in reply.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/models", "/v2/models/fake/ready", "/", "/nowhere"])
def test_after_a_device_failure_nothing_is_answered_with_200(path: str) -> None:
    lifecycle = Lifecycle()
    lifecycle.fail()
    assert send_body(b"", lifecycle=lifecycle, path=path).status == 503


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v2/health/live"])
def test_after_a_device_failure_probes_still_reach_their_routes(path: str) -> None:
    lifecycle = Lifecycle()
    lifecycle.fail()
    assert send_body(b"", lifecycle=lifecycle, path=path).status == 200


def test_other_kinds_of_connection_pass_untouched() -> None:
    seen = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    gate = Gate(inner, max_body_bytes=LIMIT, lifecycle=Lifecycle())
    asyncio.run(gate({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]


def test_error_body_of_a_v2_path_is_the_protocols() -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await send_error(scope, send, AssertionError("the gate should have refused"))

    reply = send_body(b"", ("content-length", "99999"), app=never, path="/v2/models/x/infer")
    assert reply.status == 413
    assert isinstance(reply.json()["error"], str)
