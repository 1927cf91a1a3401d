import asyncio
import threading

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from service.errors import Overloaded
from service.settings import Settings
from tests.asgi import call
from tests.fakes import FakeRuntime, fake_card
from tests.service.tracing.traced import (
    ATTEND,
    BODY,
    CALLER,
    PARENT,
    ROUTE,
    STAGES,
    TRACE_ID,
    Traced,
    id_of,
    trace_of,
    traced,
)
from tests.waiting import wait_until


def test_request_is_a_server_span_by_the_conventions() -> None:
    with traced() as found:
        reply = found.attend(x_request_id="r1", user_agent="me/1")
    span = found.server
    assert (span.name, span.kind, span.parent) == (f"POST {ROUTE}", SpanKind.SERVER, None)
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": reply.status_code,
        "url.path": ATTEND,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "testserver",
        "server.port": 80,
        "client.address": "testclient",
        "user_agent.original": "me/1",
        "heed.request_id": "r1",
        "heed.model": "fake",
        "heed.sequences": 1,
        "heed.tokens": 1,
    }


def test_stations_lie_one_after_another_inside_the_request() -> None:
    with traced() as found:
        reply = found.attend()
    stages = found.stages(found.server)
    assert [span.name for span in stages] == STAGES
    times = [at for span in [*stages] for at in (span.start_time, span.end_time)]
    assert times == sorted(times)
    assert found.server.start_time <= times[0]
    assert times[-1] <= found.server.end_time
    told = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    for span in stages:
        ms = (span.end_time - span.start_time) / 1e6
        expected = float(told[span.name]) + (float(told["batch"]) if span.name == "compute" else 0.0)
        assert ms == pytest.approx(expected, abs=5 if span.name == "encode" else 0.01), span.name


def test_every_span_of_a_request_is_of_its_trace_and_says_which_server() -> None:
    with traced() as found:
        found.attend(traceparent=PARENT)
    for span in [found.server, *found.stages(found.server)]:
        assert trace_of(span) == TRACE_ID
    for span in found.spans:
        assert span.resource.attributes["service.name"] == "heed"
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "heed"


def test_resource_is_named_by_opentelemetrys_own_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ears")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    with traced() as found:
        found.attend()
    attributes = found.server.resource.attributes
    assert attributes["service.name"] == "ears"
    assert attributes["deployment.environment.name"] == "test"


def test_traceparent_and_tracestate_make_the_request_part_of_the_callers_trace() -> None:
    with traced() as found:
        reply = found.attend(traceparent=PARENT, tracestate="vendor=1")
    span = found.server
    assert trace_of(span) == TRACE_ID
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == CALLER
    assert span.context is not None
    assert span.context.trace_state["vendor"] == "1"
    assert reply.headers["traceresponse"] == f"00-{TRACE_ID}-{id_of(span):016x}-01"


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "00",
        PARENT.upper().replace("00-", "zz-", 1),
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{CALLER}-01",
        f"00-{TRACE_ID}-{CALLER}-01-x",
        "00-" + "é" * 32 + "-x-01",
        "x" * 30_000,
    ],
)
def test_malformed_traceparent_begins_a_new_trace(sent: str) -> None:
    with traced() as found:
        reply = call(found.app, "/v1/models", headers=[("traceparent", sent)])
    assert reply.status == 200
    assert found.server.parent is None
    assert trace_of(found.server) != TRACE_ID


def test_traceparent_that_is_given_twice_is_none() -> None:
    with traced() as found:
        call(found.app, "/v1/models", headers=[("traceparent", PARENT)] * 2)
    assert found.server.parent is None


def test_batch_is_a_trace_of_its_own_linked_to_the_requests_in_it() -> None:
    runtime = FakeRuntime()
    with traced(runtime) as found:
        runtime.gate.clear()
        callers = [threading.Thread(target=found.attend) for _ in range(4)]
        for caller in callers:
            caller.start()
        engine = found.app.state.service.engine
        wait_until(lambda: engine.queued_requests == 4, "four requests are admitted")
        runtime.gate.set()
        for caller in callers:
            caller.join()
    links = [(span, [link.context.span_id for link in span.links]) for span in found.batches]
    assert sorted(one for _, ids in links for one in ids) == sorted(map(id_of, found.servers))
    assert max(len(ids) for _, ids in links) > 1
    for span, ids in links:
        assert span.parent is None
        attributes = span.attributes or {}
        assert attributes["heed.model"] == "fake"
        assert attributes["heed.batch.sequences"] == attributes["heed.batch.tokens"] == len(ids)
        for server in (one for one in found.servers if id_of(one) in ids):
            assert server.start_time <= span.start_time < span.end_time <= server.end_time
            assert trace_of(server) != trace_of(span)


def test_request_of_several_sequences_is_linked_once_to_a_batch() -> None:
    with traced() as found:
        found.attend({**BODY, "inputs": BODY["inputs"] * 3})
    assert (found.server.attributes or {})["heed.sequences"] == 3
    assert [[link.context.span_id for link in span.links] for span in found.batches] == [
        [id_of(found.server)]
    ]


def test_refusal_of_a_request_is_no_error_of_the_server() -> None:
    with traced() as found:
        found.attend({"inputs": []})
    attributes = found.server.attributes or {}
    assert attributes["http.response.status_code"] == 422
    assert attributes["heed.code"] == "invalid"
    assert "error.type" not in attributes
    assert found.server.status.status_code is StatusCode.UNSET
    assert found.stages(found.server) == []


def test_failure_of_the_server_is_an_error_with_its_code() -> None:
    def fail(_: object) -> None:
        raise RuntimeError("on purpose")

    with traced(FakeRuntime(before_run=fail)) as found:
        assert found.attend().status_code == 500
    attributes = found.server.attributes or {}
    assert attributes["error.type"] == attributes["heed.code"] == "internal"
    assert found.server.status.status_code is StatusCode.ERROR
    assert [span.name for span in found.stages(found.server)] == ["decode"]
    assert found.batches == []


def test_deadline_that_passed_is_an_error_and_has_the_stations_it_came_to() -> None:
    runtime = FakeRuntime()
    runtime.gate.clear()
    with traced(runtime) as found:
        assert found.attend({**BODY, "deadline_ms": 20}).status_code == 504
        runtime.gate.set()
    assert (found.server.attributes or {})["error.type"] == "deadline_exceeded"
    assert [span.name for span in found.stages(found.server)] == ["decode"]


def test_refusal_by_the_queue_has_been_decoded() -> None:
    runtime = FakeRuntime()
    with traced(runtime) as found:

        def full(_: object) -> None:
            raise Overloaded("full")

        found.app.state.service.engine._backlog.admit = full
        assert found.attend().status_code == 429
    assert [span.name for span in found.stages(found.server)] == ["decode"]


def test_route_that_nobody_has_gives_no_name() -> None:
    with traced() as found:
        found.client.get("/secret/of/many/names")
    assert found.server.name == "GET"
    assert "http.route" not in (found.server.attributes or {})


def test_method_that_nobody_knows_is_in_no_name() -> None:
    with traced() as found:
        found.client.request("BREW", "/v1/models")
    assert found.server.name == "HTTP /v1/models"
    attributes = found.server.attributes or {}
    assert attributes["http.request.method"] == "_OTHER"
    assert attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake", "/v2/models/fake", "/v2"])
def test_routes_of_the_framework_are_named_by_their_templates(path: str) -> None:
    with traced() as found:
        assert found.client.get(path).status_code == 200
    assert found.server.name == f"GET {path.replace('fake', '{model}')}"


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v2/health/live", "/v2/health/ready"])
def test_probes_have_no_spans(path: str) -> None:
    with traced() as found:
        reply = found.client.get(path, headers={"traceparent": PARENT})
    assert "traceresponse" not in reply.headers
    assert found.spans == []


def test_reply_in_pieces_is_encoded_until_the_last_one() -> None:
    runtime = FakeRuntime(fake_card(max_tokens=None))
    with traced(runtime, Settings(max_memory_bytes=64 << 20)) as found:
        rows = [[0.5, 0.25, 0.125, 1.0]] * 30_000
        asked = {"inputs": [{"embeddings": rows}], "outputs": ["z", "hidden"], "layers": "all"}
        reply = found.attend(asked)
        assert reply.status_code == 200, reply.text
    assert "content-length" not in reply.headers
    stages = found.stages(found.server)
    assert [span.name for span in stages] == STAGES
    spent = (stages[-1].attributes or {})["heed.encode_seconds"]
    assert 0 < spent * 1e9 <= stages[-1].end_time - stages[-1].start_time


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_embeddings_are_said_in_the_words_for_generative_ai(path: str) -> None:
    with traced() as found:
        found.client.post(path, json={"model": "fake", "input": ["a b", "c"]})
    attributes = found.server.attributes or {}
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.request.model"] == "fake"
    assert attributes["gen_ai.usage.input_tokens"] == 3


def converse(found: Traced, *, takes: int) -> None:
    """Ask by messages of ASGI; the socket takes so many of the reply's. 0: the caller leaves half-way."""
    body = b'{"inputs": [{"embeddings": [[1, 2, 3, 4]]}]}'
    scope = dict(call(found.app, "/health").scope, method="POST", path=ATTEND, headers=[])
    messages = [{"type": "http.request", "body": body if takes else body[:5], "more_body": not takes}]
    taken: list[object] = []

    async def receive() -> dict[str, object]:
        if not messages and takes:
            await asyncio.Event().wait()
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: object) -> None:
        if len(taken) == takes:
            raise OSError("gone")
        taken.append(message)

    asyncio.run(found.app(scope, receive, send))  # type: ignore[arg-type]


def test_caller_who_left_before_the_reply_is_no_error_of_the_server() -> None:
    with traced() as found:
        converse(found, takes=0)
    attributes = found.server.attributes or {}
    assert attributes["error.type"] == "disconnected"
    assert "http.response.status_code" not in attributes
    assert found.server.status.status_code is StatusCode.UNSET


def test_reply_that_broke_off_is_an_error() -> None:
    with traced() as found:
        converse(found, takes=1)
    attributes = found.server.attributes or {}
    assert attributes["error.type"] == "broken_off"
    assert attributes["http.response.status_code"] == 200
    assert found.server.status.status_code is StatusCode.ERROR
