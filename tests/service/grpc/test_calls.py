"""Calls of gRPC go through what requests of HTTP go through: limits, keys, quotas, deadlines, memory."""

import asyncio
import gzip
import logging
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from models.errors import DeviceFailed
from service.grpc import schema
from service.grpc.server import STREAMS
from service.tracing.tracing import Tracing
from tests.fakes import FakeRuntime, fake_card
from tests.service.grpc.calling import (
    INFERENCE,
    Calling,
    X,
    calling,
    infer_request,
    output,
    refused,
    wait_for,
)
from tests.service.tracing.traced import PARENT, TRACE_ID

Code = grpc.StatusCode
KEYS = {"api_keys": "secret,other"}


def ask(test: Callable[[Calling], Any], runtime: FakeRuntime | None = None, **settings: Any) -> None:
    """Run a test against a server."""

    async def run() -> None:
        async with calling(runtime, **settings) as calls:
            await test(calls)

    asyncio.run(run())


def metric(calls: Calling, name: str, **labels: str) -> float:
    from prometheus_client.parser import text_string_to_metric_families

    page = calls.service.metrics.page().decode()
    samples = [one for family in text_string_to_metric_families(page) for one in family.samples]
    return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())


def test_a_tensor_comes_back_attended_under_the_id_and_counted_as_its_own_route() -> None:
    async def test(calls: Calling) -> None:
        reply = await calls.infer(infer_request(id="7"))
        assert (reply.model_name, reply.model_version, reply.id) == ("fake", "1", "7")
        assert [one.name for one in reply.outputs] == ["z", "weights"]
        np.testing.assert_array_equal(output(reply, "z"), 2 * X)
        np.testing.assert_array_equal(output(reply, "weights"), np.full((2, 3, 3), 1 / 3, np.float32))
        labels = {"route": f"/{INFERENCE}/ModelInfer", "model": "fake", "code": "200"}
        assert metric(calls, "heed_requests_total", **labels) == 1
        assert metric(calls, "heed_decode_seconds_count", format="grpc") == 1
        assert metric(calls, "heed_encode_seconds_count", format="grpc") == 1
        assert metric(calls, "heed_received_bytes_total") == len(infer_request(id="7"))

    ask(test)


def test_metadata_of_a_reply_have_its_id_and_times_and_the_caller_may_give_the_id() -> None:
    async def test(calls: Calling) -> None:
        call = calls.method(f"/{INFERENCE}/ModelInfer")(infer_request(), metadata=(("x-request-id", "mine"),))
        await call
        told = dict(await call.trailing_metadata())
        assert told["x-request-id"] == "mine"
        assert "compute;dur=" in told["server-timing"]

    ask(test)


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (infer_request(model="none"), Code.NOT_FOUND, "no model is called 'none'"),
        (infer_request(model_version="9"), Code.NOT_FOUND, "no model is called"),
        (infer_request(model=""), Code.INVALID_ARGUMENT, "model_name is empty"),
        (infer_request(X[:, :3].copy()), Code.INVALID_ARGUMENT, "rows of 4"),
        (infer_request(np.full((2, 4), np.nan, np.float32)), Code.INVALID_ARGUMENT, "NaN"),
        (infer_request(np.full((2, 4), 2e30, np.float32)), Code.INVALID_ARGUMENT, "overflowed"),
        (infer_request(np.zeros((9, 4), np.float32)), Code.INVALID_ARGUMENT, "8"),
        (b"\xff\xff", Code.INVALID_ARGUMENT, "no message of its kind"),
        (b"", Code.INVALID_ARGUMENT, "no inputs"),
        (infer_request(id="x" * 300), Code.INVALID_ARGUMENT, "256"),
        (infer_request(np.zeros((300, 4), np.float32)), Code.RESOURCE_EXHAUSTED, "MAX_BODY_BYTES"),
        (infer_request(np.zeros((1200, 4), np.float32)), Code.RESOURCE_EXHAUSTED, "vs. 8192"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_has_the_status_that_means_it_and_the_message(body: bytes, code: Code, words: str) -> None:
    async def test(calls: Calling) -> None:
        error = await refused(calls.infer(body))
        assert (error.code(), words in error.details()) == (code, True), error.details()
        reply = await calls.infer()  # and the next one is answered
        np.testing.assert_array_equal(output(reply, "z"), 2 * X)
        await wait_for(lambda: calls.service.budget.held == 0)

    ask(test, max_body_bytes=4096, max_sequence_tokens=8, max_batch_tokens=8)


def test_a_result_over_the_limit_is_refused_before_it_is_computed() -> None:
    async def test(calls: Calling) -> None:
        error = await refused(calls.infer(infer_request(np.zeros((16, 4), np.float32))))
        assert (error.code(), "1024" in error.details()) == (Code.RESOURCE_EXHAUSTED, True), error.details()
        assert calls.runtime.batches == []

    ask(test, max_result_bytes=1024)


def test_keys_are_asked_for_before_a_message_is_read_and_probes_need_none() -> None:
    async def test(calls: Calling) -> None:
        for metadata in (None, (("authorization", "Bearer wrong"),), (("x-api-key", "wrong"),)):
            error = await refused(calls.infer(metadata=metadata))
            assert (error.code(), "valid key" in error.details()) == (Code.UNAUTHENTICATED, True)
            assert (await refused(calls.ask("ModelMetadata", name="fake"))).code() is Code.UNAUTHENTICATED
        assert metric(calls, "heed_received_bytes_total") == 0
        for metadata in ((("authorization", "Bearer secret"),), (("x-api-key", "other"),)):
            np.testing.assert_array_equal(output(await calls.infer(metadata=metadata), "z"), 2 * X)
            assert (await calls.ask("ModelMetadata", name="fake", metadata=metadata)).name == "fake"
        assert (await calls.ask("ServerReady")).ready
        assert (await calls.ask("ServerLive")).live

    ask(test, **KEYS)


def test_administration_is_forbidden_where_it_is_off() -> None:
    async def test(calls: Calling) -> None:
        for method, fields in (
            ("RepositoryIndex", {}),
            ("RepositoryModelLoad", {"model_name": "fake"}),
            ("RepositoryModelUnload", {"model_name": "fake"}),
        ):
            error = await refused(calls.ask(method, **fields))
            assert (error.code(), "ADMIN" in error.details()) == (Code.PERMISSION_DENIED, True)

    ask(test)


def test_quotas_are_those_of_http_and_say_when_to_try_again() -> None:
    async def test(calls: Calling) -> None:
        await calls.infer()
        error = await refused(calls.infer())
        assert (error.code(), "KEY_REQUESTS_PER_SECOND" in error.details()) == (Code.RESOURCE_EXHAUSTED, True)
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1

    ask(test, key_requests_per_second=1)


def test_a_full_queue_refuses_the_next_call() -> None:
    async def test(calls: Calling) -> None:
        calls.runtime.gate.clear()
        waiting = asyncio.ensure_future(calls.infer())
        await wait_for(lambda: calls.service.engine.queued_requests == 1)
        error = await refused(calls.infer())
        assert error.code() is Code.RESOURCE_EXHAUSTED
        assert "retry-after" in dict(error.trailing_metadata())
        calls.runtime.gate.set()
        np.testing.assert_array_equal(output(await waiting, "z"), 2 * X)

    ask(test, max_queued_requests=1)


@pytest.mark.parametrize("by", ["the call", "deadline_ms", "timeout"])
def test_a_deadline_ends_a_call_that_waits(by: str) -> None:
    async def test(calls: Calling) -> None:
        calls.runtime.gate.clear()
        if by == "the call":
            call = calls.infer(timeout=0.2)
        else:
            parameters = {by: {"int64_param": 200 if by == "deadline_ms" else 200_000}}
            call = calls.infer(infer_request(parameters=parameters))
        assert (await refused(call)).code() is Code.DEADLINE_EXCEEDED
        await wait_for(lambda: calls.server.unanswered == 0)

    ask(test)


def test_a_caller_who_leaves_is_not_computed_for() -> None:
    async def test(calls: Calling) -> None:
        calls.runtime.gate.clear()
        first = asyncio.ensure_future(calls.infer())
        await wait_for(lambda: calls.service.engine.queued_requests == 1)
        second = calls.method(f"/{INFERENCE}/ModelInfer")(infer_request())
        await wait_for(lambda: calls.service.engine.queued_requests == 2)
        second.cancel()
        await wait_for(lambda: calls.service.engine.queued_requests == 1)
        calls.runtime.gate.set()
        await first
        assert len(calls.runtime.batches) == 1
        assert metric(calls, "heed_cancelled_total", reason="disconnected") == 1
        await wait_for(lambda: calls.server.unanswered == calls.service.budget.held == 0)

    ask(test)


def test_a_message_that_does_not_come_is_waited_for_until_the_deadline() -> None:
    async def test(calls: Calling) -> None:
        call = calls.channel.stream_unary(f"/{INFERENCE}/ModelInfer")()  # and never writes
        error = await refused(call)
        assert (error.code(), "DEADLINE_MS" in error.details()) == (Code.DEADLINE_EXCEEDED, True)
        np.testing.assert_array_equal(output(await calls.infer(), "z"), 2 * X)

    ask(test, deadline_ms=300)


def test_a_call_without_a_message_is_refused() -> None:
    async def test(calls: Calling) -> None:
        call = calls.channel.stream_unary(f"/{INFERENCE}/ModelInfer")()
        await call.done_writing()
        error = await refused(call)
        assert (error.code(), "no message" in error.details()) == (Code.INVALID_ARGUMENT, True)

    ask(test)


def test_memory_that_is_not_there_is_refused_and_given_back() -> None:
    async def test(calls: Calling) -> None:
        large = infer_request(np.zeros((2**20, 4), np.float32))  # 16 MiB
        error = await refused(calls.infer(large))
        assert (error.code(), "MAX_MEMORY_BYTES" in error.details()) == (Code.RESOURCE_EXHAUSTED, True)
        await calls.infer()
        await wait_for(lambda: calls.server.unanswered == calls.service.budget.held == 0)

    ask(test, max_memory_bytes=16 * 2**20)


def test_a_small_message_that_unpacks_to_a_large_one_is_refused() -> None:
    async def test(calls: Calling) -> None:
        body = infer_request(np.zeros((2**20, 4), np.float32))
        assert len(gzip.compress(body)) < 2**16
        error = await refused(calls.infer(body, compression=grpc.Compression.Gzip))
        assert error.code() is Code.RESOURCE_EXHAUSTED
        reply = await calls.infer(compression=grpc.Compression.Gzip)
        np.testing.assert_array_equal(output(reply, "z"), 2 * X)

    ask(test, max_body_bytes=2**16)


def test_a_device_that_failed_is_unavailable_and_its_server_no_longer_lives() -> None:
    def fail(_: object) -> None:
        raise DeviceFailed("the device fell off the bus")

    async def test(calls: Calling) -> None:
        assert (await refused(calls.infer())).code() is Code.UNAVAILABLE
        assert not (await calls.ask("ServerLive")).live
        assert not (await calls.ask("ServerReady")).ready
        assert (await refused(calls.ask("ModelReady", name="fake"))).code() is Code.UNAVAILABLE

    ask(test, FakeRuntime(before_run=fail))


def test_what_is_asked_of_server_and_models_is_what_http_answers() -> None:
    async def test(calls: Calling) -> None:
        about = await calls.ask("ServerMetadata")
        assert (about.name, "model_repository" in about.extensions) == ("heed", True)
        page = await calls.ask("ModelMetadata", name="fake", version="1")
        assert (page.name, list(page.versions), page.platform) == ("fake", ["1"], "heed")
        (given,) = (one for one in page.inputs if one.name == "embeddings")
        assert (given.datatype, list(given.shape)) == ("FP32", [-1, 4])
        config = (await calls.ask("ModelConfig", name="fake")).config
        assert (config.name, list(config.version_policy.specific.versions)) == ("fake", [1])
        assert [one.name for one in config.output] == [one.name for one in page.outputs]
        assert (await calls.ask("ModelReady", name="fake")).ready
        assert not (await calls.ask("ModelReady", name="none")).ready
        (row,) = (await calls.ask("RepositoryIndex", ready=True)).models
        assert (row.name, row.version, row.state) == ("fake", "1", "READY")
        await calls.ask("RepositoryModelLoad", model_name="another")
        assert (await calls.ask("ModelReady", name="another")).ready
        unload = {"unload_dependents": {"bool_param": False}}
        await calls.ask("RepositoryModelUnload", model_name="another", parameters=unload)
        assert not (await calls.ask("ModelReady", name="another")).ready

    ask(test, admin=True)


def test_statistics_are_those_of_http_of_one_model_or_of_all() -> None:
    async def test(calls: Calling) -> None:
        await calls.infer()
        (one,) = (await calls.ask("ModelStatistics", name="fake", version="1")).model_stats
        assert (one.name, one.version, one.inference_count, one.execution_count) == ("fake", "1", 1, 1)
        stats = one.inference_stats
        assert (stats.success.count, stats.fail.count, stats.queue.count) == (1, 0, 1)
        assert 0 < stats.compute_infer.ns < stats.success.ns
        assert [(one.type, one.byte_size) for one in one.memory_usage] == [("CPU", 1024)]
        every = (await calls.ask("ModelStatistics")).model_stats
        assert [one.name for one in every] == ["another", "fake"]

    ask(test, FakeRuntime(fake_card(), fake_card("another")))


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("ModelStatistics", {"name": "none"}, Code.NOT_FOUND),
        ("ModelMetadata", {"name": "none"}, Code.NOT_FOUND),
        ("ModelMetadata", {"name": "a/b"}, Code.NOT_FOUND),
        ("ModelMetadata", {"name": "fake", "version": "1/config"}, Code.NOT_FOUND),
        ("ModelMetadata", {}, Code.INVALID_ARGUMENT),
        ("ModelConfig", {"name": "fake", "version": "9"}, Code.NOT_FOUND),
        ("ModelReady", {"name": "x" * 70_000}, Code.INVALID_ARGUMENT),
        ("RepositoryModelLoad", {"model_name": "../fake"}, Code.NOT_FOUND),
        (
            "RepositoryModelLoad",
            {"model_name": "fake", "parameters": {"config": {"string_param": "{}"}}},
            Code.INVALID_ARGUMENT,
        ),
        (
            "RepositoryModelLoad",
            {"model_name": "fake", "parameters": {"file:1/model": {"bytes_param": b"x"}}},
            Code.INVALID_ARGUMENT,
        ),
    ],
)
def test_a_wrong_question_is_refused_in_the_words_of_http(
    method: str, fields: dict[str, Any], code: Code
) -> None:
    async def test(calls: Calling) -> None:
        error = await refused(calls.ask(method, **fields))
        assert (error.code(), bool(error.details())) == (code, True), error.details()

    ask(test, admin=True)


def test_a_question_that_is_no_message_is_refused() -> None:
    async def test(calls: Calling) -> None:
        error = await refused(calls.method(f"/{INFERENCE}/ModelMetadata")(b"\xff"))
        assert (error.code(), "ModelMetadataRequest" in error.details()) == (Code.INVALID_ARGUMENT, True)

    ask(test)


def test_a_method_that_is_none_is_unimplemented() -> None:
    async def test(calls: Calling) -> None:
        for path in (f"/{INFERENCE}/ModelStreamInfer", "/other.Service/Ask"):
            assert (await refused(calls.method(path)(b""))).code() is Code.UNIMPLEMENTED

    ask(test)


def test_metadata_about_bodies_of_http_mean_nothing() -> None:
    async def test(calls: Calling) -> None:
        metadata = (
            ("content-length", "3"),
            ("inference-header-content-length", "5"),
            ("content-encoding", "gzip"),
            ("accept-encoding", "gzip"),
            ("expect", "100-continue"),
            ("thing-bin", b"\x00\xff"),
        )
        np.testing.assert_array_equal(output(await calls.infer(metadata=metadata), "z"), 2 * X)

    ask(test)


def test_health_checks_of_grpc_are_answered_without_a_key() -> None:
    checked = schema.message("grpc.health.v1.HealthCheckRequest")
    status = schema.message("grpc.health.v1.HealthCheckResponse")

    async def test(calls: Calling) -> None:
        check = calls.method("/grpc.health.v1.Health/Check")

        async def told(service: str) -> int:
            return status.FromString(await check(checked(service=service).SerializeToString())).status

        known = ("", INFERENCE, "readiness", "liveness")
        assert [await told(service) for service in known] == [1, 1, 1, 1]
        calls.service.lifecycle.drain()
        assert [await told(service) for service in known] == [2, 2, 2, 1]
        error = await refused(told("other"))
        assert (error.code(), INFERENCE in error.details()) == (Code.NOT_FOUND, True)

    ask(test, **KEYS)


def test_who_watches_is_told_of_each_change_and_let_go_at_the_end() -> None:
    status = schema.message("grpc.health.v1.HealthCheckResponse")

    async def test(calls: Calling) -> None:
        watch = calls.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert status.FromString(await watch.read()).status == 1
        calls.service.lifecycle.drain()
        assert status.FromString(await watch.read()).status == 2
        assert calls.server.unanswered == 0  # nobody waits for those
        await calls.server.close()
        assert (await refused(watch.read())).code() is Code.UNAVAILABLE

    ask(test)


def test_calls_that_have_come_are_answered_while_no_others_are_taken() -> None:
    async def test(calls: Calling) -> None:
        calls.runtime.gate.clear()
        waiting = [asyncio.ensure_future(calls.infer()) for _ in range(8)]
        await wait_for(lambda: calls.service.engine.queued_requests == 8)
        await calls.server.close()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{calls.port}") as late:
            error = await refused(late.unary_unary(f"/{INFERENCE}/ModelInfer")(infer_request()))
        assert error.code() is Code.UNAVAILABLE
        assert calls.server.unanswered == 8
        calls.runtime.gate.set()
        for reply in await asyncio.gather(*waiting):
            np.testing.assert_array_equal(output(reply, "z"), 2 * X)
        await wait_for(lambda: calls.server.unanswered == 0)

    ask(test)


def test_a_call_is_part_of_the_callers_trace(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    exporter = InMemorySpanExporter()

    async def test(calls: Calling) -> None:
        call = calls.method(f"/{INFERENCE}/ModelInfer")(infer_request(), metadata=(("traceparent", PARENT),))
        await call
        assert TRACE_ID in dict(await call.trailing_metadata())["traceresponse"]

    ask(test, tracing=Tracing([exporter]))
    (span,) = (one for one in exporter.get_finished_spans() if one.kind is SpanKind.SERVER)
    assert span.name == f"POST /{INFERENCE}/ModelInfer"
    (line,) = (one.fields for one in caplog.records if one.getMessage() == "request")  # type: ignore[attr-defined]
    assert line["trace_id"] == TRACE_ID


def test_who_asks_more_at_a_time_than_a_connection_has_is_let_wait_and_answered() -> None:
    async def test(calls: Calling) -> None:
        asked = [calls.ask("ServerMetadata") for _ in range(4 * STREAMS)]
        assert {one.name for one in await asyncio.gather(*asked)} == {"heed"}

    ask(test)
