"""What a server offers, asked over gRPC by whoever has no .proto file of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from service.grpc import schema
from tests.service.grpc.calling import INFERENCE, Calling, calling, refused

Code = grpc.StatusCode
V1, ALPHA = (f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha"))


def ask(test: Callable[[Calling], Any], **settings: Any) -> None:
    async def run() -> None:
        async with calling(**settings) as calls:
            await asyncio.wait_for(test(calls), 30)

    asyncio.run(run())


def opened(calls: Calling, service: str = V1) -> Any:
    return calls.channel.stream_stream(f"/{service}/ServerReflectionInfo")(timeout=20)


async def told(call: Any, **question: Any) -> Any:
    """The answer to one question of a call that stays open."""
    asked = schema.message("grpc.reflection.v1.ServerReflectionRequest")(**question)
    await call.write(asked.SerializeToString())
    reply = schema.message("grpc.reflection.v1.ServerReflectionResponse").FromString(await call.read())
    assert reply.original_request == asked
    return reply


def file_in(reply: Any) -> descriptor_pb2.FileDescriptorProto:
    (written,) = reply.file_descriptor_response.file_descriptor_proto
    return descriptor_pb2.FileDescriptorProto.FromString(written)


@pytest.mark.parametrize("service", [V1, ALPHA])
def test_services_are_listed_and_described_without_a_key(service: str) -> None:
    async def test(calls: Calling) -> None:
        call = opened(calls, service)
        listed = (await told(call, list_services="", host="here")).list_services_response.service
        names = [one.name for one in listed]
        assert names == [INFERENCE, "grpc.health.v1.Health", V1]
        pool = descriptor_pool.DescriptorPool()
        for name in names:
            pool.Add(file_in(await told(call, file_containing_symbol=name)))
        for name in names:
            assert set(pool.FindServiceByName(name).methods_by_name) == set(schema.methods(name))
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        assert await call.code() is Code.OK

    ask(test, api_keys="sesame")


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "inference.proto"},
        {"file_containing_symbol": "inference.ModelInferRequest.InferInputTensor"},
        {"file_containing_symbol": f"{INFERENCE}.ModelInfer"},
        {"file_containing_symbol": "inference.ModelInferRequest.inputs"},
    ],
)
def test_a_file_is_found_by_its_name_and_by_what_is_in_it(question: dict[str, str]) -> None:
    async def test(calls: Calling) -> None:
        assert file_in(await told(opened(calls), **question)) == schema.read_proto("inference.proto")

    ask(test)


def test_what_is_not_there_is_said_not_to_be_and_the_call_goes_on() -> None:
    async def test(calls: Calling) -> None:
        call = opened(calls)
        extension = {"containing_type": "inference.ModelConfig", "extension_number": 5}
        for question, code in (
            ({"file_by_filename": "../server.py"}, 5),
            ({"file_containing_symbol": "inference.Nothing"}, 5),
            ({"file_containing_symbol": ""}, 5),
            ({"file_containing_extension": extension}, 5),
            ({"all_extension_numbers_of_type": "inference.Nothing"}, 5),
            ({}, 3),
        ):
            error = (await told(call, **question)).error_response
            assert (error.error_code, bool(error.error_message)) == (code, True), question
        none = await told(call, all_extension_numbers_of_type="inference.ModelConfig")
        assert none.all_extension_numbers_response.base_type_name == "inference.ModelConfig"
        await call.write(b"\xff")
        assert (await refused(call.read())).code() is Code.INVALID_ARGUMENT

    ask(test)


def test_who_might_ask_more_is_let_go_when_the_server_goes() -> None:
    async def test(calls: Calling) -> None:
        call = opened(calls)
        await told(call, list_services="")
        await calls.server.close()
        assert (await refused(call.read())).code() is Code.UNAVAILABLE
        assert calls.server.unanswered == 0

    ask(test)


def test_who_asks_no_more_and_stays_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.grpc.reflection.stream.NEXT_SECONDS", 0.05)

    async def test(calls: Calling) -> None:
        error = await refused(opened(calls).read())
        assert (error.code(), "0.05 s" in error.details()) == (Code.DEADLINE_EXCEEDED, True)

    ask(test)
