"""The life of one request, the same on every route: deadlines, callers who leave, capacity given back."""

import asyncio
import json
import threading

import pytest
from starlette.requests import ClientDisconnect

from service.batching.limits import Limits
from service.http.replies import BuffersResponse
from tests.fakes import FakeRuntime
from tests.serving import refused, served

PATH = "/v1/models/fake/attend"
BODY = {"inputs": [{"text": "a b"}], "outputs": ["lse"]}
QKV = {name: [[1.0, 2.0], [3.0, 4.0]] for name in ("query", "key", "value")}
TEXTS = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a b"]}
ROUTES = {
    PATH: BODY,
    "/v1/attention": {"inputs": [QKV], "outputs": ["lse"]},
    "/v1/embeddings": {"input": "a b"},
    "/v2/models/fake/infer": {"inputs": [TEXTS], "outputs": [{"name": "lse"}]},
}
every_route = pytest.mark.parametrize(("path", "body"), ROUTES.items(), ids=ROUTES)


def with_options(path, body, **options):
    return {**body, "parameters": options} if "/v2/" in path else {**body, **options}


def code_of(response):
    """Return status and what is said: the protocol's errors have no code."""
    error = response.json()["error"]
    return response.status_code, error if isinstance(error, str) else error["message"]


class Occupied(FakeRuntime):
    """A runtime whose first batch waits for the gate; `entered` tells that the device has it."""

    def __init__(self):
        super().__init__()
        self.entered = threading.Event()
        self.gate.clear()

    def begin(self, batch, slots):
        self.entered.set()
        super().begin(batch, slots)


class Caller:
    """One connection, seen from the server: what it has sent, and whether it is still there."""

    def __init__(self, app, path=PATH, body=BODY, *, leaves_while_sending=False):
        self._app, self._path = app, path
        self._messages = [
            {"type": "http.request", "body": json.dumps(body).encode(), "more_body": leaves_while_sending}
        ]
        self._gone = asyncio.Event()
        self.sent = []

    async def receive(self):
        if self._messages:
            return self._messages.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    def leave(self):
        self._gone.set()

    async def exchange(self):
        scope = {
            "type": "http",
            "method": "POST",
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }
        await self._app(scope, self.receive, self.send)


async def until(condition):
    """Let other tasks run until something holds; bounded, and without a clock."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never happened")


@every_route
def test_a_caller_who_leaves_while_queued_costs_no_forward_pass(path, body):
    runtime = Occupied()
    with served(runtime) as service:

        async def scenario():
            first, second = (Caller(service.app, path, body) for _ in range(2))
            running = asyncio.ensure_future(first.exchange())
            await asyncio.to_thread(runtime.entered.wait, 10)
            queued = asyncio.ensure_future(second.exchange())
            await until(lambda: service.engine.queued_requests == 2)
            second.leave()
            with pytest.raises(ClientDisconnect):
                await queued
            assert service.engine.queued_requests == 1
            runtime.gate.set()
            await running
            assert first.sent[0]["status"] == 200

        service.runner.run(scenario())
    assert len(runtime.batches) == 1
    assert service.engine.queued_requests == 0


@every_route
def test_while_the_queue_is_full_nothing_of_a_request_is_read(path, body):
    async def main():
        first = Caller(service.app, path, body)
        exchange = asyncio.ensure_future(first.exchange())
        await asyncio.to_thread(runtime.entered.wait, 10)
        second = Caller(service.app, path, "no request at all")
        await second.exchange()
        runtime.gate.set()
        await exchange
        statuses = [caller.sent[0]["status"] for caller in (first, second)]
        assert statuses == [200, 429]

    runtime = Occupied()
    with served(runtime, limits=Limits(max_queued_requests=1)) as service:
        service.runner.run(main())


@every_route
def test_a_caller_who_leaves_while_sending_is_not_answered(path, body):
    with served() as service:

        async def scenario():
            caller = Caller(service.app, path, body, leaves_while_sending=True)
            caller.leave()
            with pytest.raises(ClientDisconnect):
                await caller.exchange()

        service.runner.run(scenario())


@every_route
def test_a_cancelled_exchange_gives_its_place_back(path, body):
    runtime = Occupied()
    with served(runtime) as service:

        async def scenario():
            task = asyncio.ensure_future(Caller(service.app, path, body).exchange())
            await asyncio.to_thread(runtime.entered.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            runtime.gate.set()

        service.runner.run(scenario())
    assert service.engine.queued_requests == 0


@every_route
@pytest.mark.parametrize(("own", "limit"), [(20, 10_000), (None, 20), (10_000, 20)])
def test_the_deadline_is_the_shorter_of_the_callers_and_the_servers(path, body, own, limit):
    runtime = Occupied()
    with served(runtime, deadline_ms=limit) as service:
        asked = body if own is None else with_options(path, body, deadline_ms=own)
        status, message = code_of(service.post(path, asked))
        runtime.gate.set()
    assert status == 504
    assert "deadline" in message


def test_after_a_missed_deadline_the_next_request_is_answered():
    runtime = Occupied()
    with served(runtime, deadline_ms=10_000) as service:
        refused(service.post(PATH, {**BODY, "deadline_ms": 20}), 504, "deadline_exceeded")
        runtime.gate.set()
        assert service.post(PATH, BODY).status_code == 200


def test_capacity_is_given_back_by_answers_and_by_refusals():
    with served(limits=Limits(max_queued_requests=1)) as service:
        for _ in range(3):
            assert service.post(PATH, BODY).status_code == 200
            refused(service.post(PATH, {"inputs": [{"embeddings": [[2e30, 0, 0, 0]]}]}), 422, "not_finite")
    assert service.engine.queued_requests == 0


@every_route
def test_a_reply_is_timed_and_counted_in_its_formats(path, body):
    with served() as service:
        timing = service.post(path, body).headers["server-timing"]
    assert [one.split(";")[0] for one in timing.split(", ")] == [
        "decode",
        "queue",
        "batch",
        "compute",
        "encode",
    ]
    wire_format = "oip" if "/v2/" in path else "json"
    assert service.metrics.formats == [("decoded", wire_format), ("encoded", wire_format)]


@every_route
def test_priority_and_tenant_reach_the_engine(path, body):
    with served() as service:
        seen = []
        draft = service.engine.draft

        def spy(items, **options):
            seen.append(options)
            return draft(items, **options)

        service.engine.draft = spy
        inner = service.app

        async def with_tenant(scope, receive, send):
            await inner({**scope, "heed.tenant": "0123abcd"}, receive, send)

        service.app = with_tenant
        assert service.post(path, with_options(path, body, priority=5)).status_code == 200
    (options,) = seen
    assert (options["priority"], options["tenant"]) == (5, "0123abcd")


def test_a_reply_in_buffers_is_sent_piece_by_piece_with_its_whole_length():
    sent = []

    async def send(message):
        sent.append(message)

    buffers = [b"head", memoryview(b"0123456789")]
    response = BuffersResponse(buffers, headers=((b"content-type", b"application/x-test"),), timing="a;dur=1")
    asyncio.run(response({"type": "http"}, None, send))
    assert dict(sent[0]["headers"]) == {
        b"server-timing": b"a;dur=1",
        b"content-length": b"14",
        b"content-type": b"application/x-test",
    }
    assert [(message["body"], message["more_body"]) for message in sent[1:]] == [
        (b"head", True),
        (memoryview(b"0123456789"), False),
    ]
    assert sent[2]["body"] is buffers[1]
