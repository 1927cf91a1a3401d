import asyncio
import logging
import random

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded, TooLarge
from service.http.around.lifecycle import Lifecycle
from service.http.around.middleware import Observer
from service.http.errors import install
from service.metrics.registry import Metrics
from tests.asgi import Reply, call, echo


class Ticks:
    """A clock that moves by a quarter of a second each time it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.25
        return self.now


def observed(app: ASGIApp, metrics: Metrics | None = None, lifecycle: Lifecycle | None = None) -> Observer:
    return Observer(
        app,
        metrics=metrics or Metrics(),
        lifecycle=lifecycle or Lifecycle(),
        is_model=lambda name: name == "fake",
        clock=Ticks(),
    )


def routes() -> FastAPI:
    app = FastAPI(redirect_slashes=False)
    install(app)

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, str]:
        return {"model": model}

    @app.get("/full")
    async def full() -> None:
        raise Overloaded("full")

    @app.get("/large")
    async def large() -> None:
        raise TooLarge("large", code="result_too_large")

    return app


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Samples of one name by their label values, in the order of the label names."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
        if sample.name == name
    }


@pytest.mark.parametrize("name", ["trace-1", "a.b:c_d", "x" * 128])
def test_callers_own_request_id_comes_back(name: str) -> None:
    reply = call(observed(echo), headers=[("x-request-id", name)])
    assert reply.header("x-request-id") == name
    assert reply.scope["heed.request_id"] == name


@pytest.mark.parametrize("name", ["", "a b", "a\r\nset-cookie: x", "\x1b[31m", "x" * 129, "é", "a,b"])
def test_unfit_request_id_is_replaced(name: str) -> None:
    given = call(observed(echo), headers=[("x-request-id", name)]).header("x-request-id")
    assert given is not None
    assert given != name
    assert len(given) == 32


def test_every_request_without_an_id_gets_its_own() -> None:
    app = observed(echo)
    assert len({call(app).header("x-request-id") for _ in range(50)}) == 50


def test_refusal_names_the_same_id_in_header_and_body() -> None:
    reply = call(observed(routes()), "/full", headers=[("x-request-id", "r-9")])
    assert reply.header("x-request-id") == reply.json()["error"]["request_id"] == "r-9"


class Panic(BaseException):
    """As native code's panics come: no Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_unexpected_exception_is_answered_logged_and_contained(
    caplog: pytest.LogCaptureFixture, kind: type[BaseException]
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise kind("inside story")

    with caplog.at_level(logging.ERROR):
        reply = call(observed(broken))
    assert (reply.status, reply.json()["error"]["code"]) == (500, "internal")
    assert "inside" not in reply.body.decode()
    assert "inside story" in caplog.text


def test_reply_that_breaks_off_is_not_completed(caplog: pytest.LogCaptureFixture) -> None:
    async def breaking(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    reply = call(observed(breaking))
    assert (reply.status, reply.complete) == (200, False)
    assert "half way" in caplog.text


def test_client_that_leaves_while_sending_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def reading(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    metrics = Metrics()
    with caplog.at_level(logging.WARNING):
        call(observed(reading, metrics), leaves=True)
    assert caplog.records == []
    assert series(metrics, "heed_cancelled_total") == {("disconnected",): 1}
    assert series(metrics, "heed_requests_total") == {("499", "", "unknown"): 1}


def test_request_cut_off_by_the_end_of_a_drain_is_told_so() -> None:
    sent: list[Message] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    async def cancel() -> None:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        task = asyncio.create_task(observed(endless)(scope, None, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        await task  # and is over: an error would be logged with a traceback

    asyncio.run(cancel())
    assert sent[0]["status"] == 503
    assert b'"draining"' in sent[1]["body"]


def test_request_is_counted_under_its_route_and_model() -> None:
    metrics = Metrics()
    app = observed(routes(), metrics)
    call(app, "/v1/models/fake")
    call(app, "/v1/models/other")
    call(app, "/full")
    call(app, "/full", method="POST")
    assert series(metrics, "heed_requests_total") == {
        ("200", "fake", "/v1/models/{model}"): 1,
        ("200", "", "/v1/models/{model}"): 1,
        ("429", "", "/full"): 1,
        ("405", "", "/full"): 1,
    }
    assert series(metrics, "heed_request_seconds_sum") == {("/v1/models/{model}",): 0.5, ("/full",): 0.5}


def test_model_named_in_a_body_is_counted_when_the_route_says_so() -> None:
    async def embeddings(scope: Scope, receive: Receive, send: Send) -> None:
        scope["heed.model"] = "fake"
        await echo(scope, receive, send)

    metrics = Metrics()
    call(observed(embeddings, metrics))
    assert series(metrics, "heed_requests_total") == {("200", "fake", "unknown"): 1}


def test_twenty_thousand_random_paths_make_no_new_series() -> None:
    metrics = Metrics()
    app = observed(routes(), metrics)
    chance = random.Random(0)

    async def discard(_: Message) -> None:
        pass

    async def ask_all() -> None:
        for number in range(20_000):
            path = chance.choice(("/v1/models/", "/")) + f"{chance.getrandbits(64):x}{number}"
            scope = {
                "type": "http",
                "method": "GET",
                "path": path,
                "root_path": "",
                "headers": [],
                "query_string": b"",
            }
            await app(scope, None, discard)  # type: ignore[arg-type]

    logging.disable(logging.INFO)
    try:
        asyncio.run(ask_all())
    finally:
        logging.disable(logging.NOTSET)
    assert series(metrics, "heed_requests_total").keys() == {
        ("200", "", "/v1/models/{model}"),
        ("404", "", "unknown"),
    }


def test_bytes_of_bodies_are_counted_both_ways() -> None:
    metrics = Metrics()
    call(observed(echo, metrics), body=[b"abc", b"de"])
    assert series(metrics, "heed_received_bytes_total") == {(): 5}
    assert series(metrics, "heed_sent_bytes_total") == {(): 5}


def test_refusals_before_compute_are_counted_by_reason() -> None:
    metrics = Metrics()
    app = observed(routes(), metrics)
    for path in ("/full", "/large", "/nowhere"):
        call(app, path)
    assert series(metrics, "heed_rejected_total") == {("overloaded",): 1, ("result_too_large",): 1}


def access_line(caplog: pytest.LogCaptureFixture, app: ASGIApp, path: str) -> tuple[Reply, dict[str, object]]:
    with caplog.at_level(logging.INFO, logger="service.http.around.middleware"):
        reply = call(app, path, headers=[("x-request-id", "r-1")])
    (record,) = caplog.records
    assert record.getMessage() == "request"
    return reply, record.fields  # type: ignore[attr-defined]


def test_log_line_says_what_was_asked_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    reply, line = access_line(caplog, observed(routes()), "/v1/models/fake")
    assert line == {
        "id": "r-1",
        "method": "GET",
        "route": "/v1/models/{model}",
        "model": "fake",
        "status": 200,
        "ms": 250.0,
        "received_bytes": 0,
        "sent_bytes": len(reply.body),
    }


def test_path_without_a_route_is_logged_escaped_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    _, line = access_line(caplog, observed(routes()), "/a\r\n\x1b[31m" + "b" * 1000)
    assert (line["route"], line["code"], line["status"]) == ("unknown", "unknown_route", 404)
    assert str(line["path"]).isprintable()
    assert str(line["path"]).startswith(r"/a\r\n\x1b[31m")
    assert len(str(line["path"])) < 250


@pytest.mark.parametrize(("state", "expected"), [("ready", None), ("draining", "close"), ("failed", "close")])
def test_replies_of_a_server_that_goes_down_close_the_connection(state: str, expected: str | None) -> None:
    reply = call(observed(echo, lifecycle=Lifecycle(state)))  # type: ignore[arg-type]
    assert reply.header("connection") == expected
