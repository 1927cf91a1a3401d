"""An application on the fake runtime with its gRPC server, and a caller, on one event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from service.app import create_app, service_of
from service.grpc import schema
from service.grpc.server import GrpcServer
from service.grpc.starting import grpc_beside, take_port
from service.lifetime import Service
from service.settings import Settings
from tests.fakes import FakeRuntime
from tests.waiting import POLL_SECONDS, WAIT_SECONDS

INFERENCE = "inference.GRPCInferenceService"
X = (np.arange(12, dtype=np.float32).reshape(3, 4) - 5) / 4
CLIENT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@dataclass(frozen=True)
class Calling:
    """What a test asks, and looks at."""

    channel: grpc.aio.Channel
    server: GrpcServer
    service: Service
    runtime: FakeRuntime
    port: int

    def method(self, path: str) -> Any:
        """A method that takes bytes and gives bytes."""
        return self.channel.unary_unary(path)

    async def ask(self, method: str, *, metadata: Any = None, timeout: float = 20, **fields: Any) -> Any:
        """Call a method of the protocol with a message of these fields."""
        message = schema.message(f"inference.{method}Request")(**fields)
        reply = await self.method(f"/{INFERENCE}/{method}")(
            message.SerializeToString(), metadata=metadata, timeout=timeout
        )
        return schema.message(f"inference.{method}Response").FromString(reply)

    async def infer(self, body: bytes | None = None, **options: Any) -> Any:
        """Call ModelInfer with the bytes of a message."""
        body = infer_request() if body is None else body
        reply = await self.method(f"/{INFERENCE}/ModelInfer")(body, **{"timeout": 20, **options})
        return schema.message("inference.ModelInferResponse").FromString(reply)


def infer_request(array: np.ndarray = X, *, model: str = "fake", **fields: Any) -> bytes:
    """The bytes of a ModelInferRequest with one tensor of embeddings."""
    message = schema.message("inference.ModelInferRequest")(model_name=model, **fields)
    message.inputs.add(name="embeddings", datatype="FP32", shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    return bytes(message.SerializeToString())


def output(reply: Any, name: str, dtype: Any = np.float32) -> np.ndarray:
    """One tensor of a reply."""
    place = [one.name for one in reply.outputs].index(name)
    return np.frombuffer(reply.raw_output_contents[place], dtype).reshape(tuple(reply.outputs[place].shape))


@asynccontextmanager
async def calling(
    runtime: FakeRuntime | None = None, *, tracing: Any = None, **settings: Any
) -> AsyncIterator[Calling]:
    chosen, held = take_port(Settings(port=0, grpc_port=0, **settings), {})
    runtime = runtime or FakeRuntime()
    app = create_app(chosen, runtime, tracing=tracing)
    server = grpc_beside(chosen, app, service_of(app))
    assert isinstance(server, GrpcServer)
    assert held is not None
    async with app.router.lifespan_context(app):
        await server.begin()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{chosen.grpc_port}", options=CLIENT) as channel:
                assert chosen.grpc_port
                yield Calling(channel, server, service_of(app), runtime, chosen.grpc_port)
        finally:
            runtime.gate.set()
            await server.end()
            held.close()


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """What a call is refused with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("it was not refused")


async def wait_for(condition: Callable[[], object]) -> None:
    """Return once it holds; fail when it has not within what `wait_until` allows."""
    await asyncio.wait_for(_held(condition), WAIT_SECONDS)


async def _held(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(POLL_SECONDS)
