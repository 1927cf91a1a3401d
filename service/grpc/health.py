"""How the server is, asked over gRPC: `grpc.health.v1.Health`, and ServerLive and ServerReady.

Source: gRPC `doc/health-checking.md`. No key is needed, as over HTTP; the answers are those of `/v2/health`.
A probe of Kubernetes may give the names `liveness` and `readiness`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.grpc import schema
from service.grpc.asgi import MessageReads

HEALTH = "grpc.health.v1.Health"
LIVENESS, READINESS = "/v2/health/live", "/v2/health/ready"
WATCH_SECONDS = 0.1  # from a change to those who watch
MOST_WATCHERS = 256
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3

Ask = Callable[
    [Any, str, str], Awaitable[int]
]  # context, method and path of HTTP, to the status of its answer


class HealthService:
    """The methods that say how the server is.

    `ask` has the application answer; `ready` is asked for those who watch. `service` is what is served.
    """

    def __init__(self, ask: Ask, reads: MessageReads, *, ready: Callable[[], bool], service: str) -> None:
        self._ask, self._reads, self._ready = ask, reads, ready
        self._paths = dict.fromkeys(("", service, "readiness"), READINESS) | {"liveness": LIVENESS}
        self._ending = asyncio.Event()
        self._watchers = 0
        self._request = schema.message("grpc.health.v1.HealthCheckRequest")
        self._response = schema.message("grpc.health.v1.HealthCheckResponse")

    def end(self) -> None:
        """Tell those who watch that it is over, and let them go."""
        self._ending.set()

    def handlers(self) -> dict[str, Any]:
        """Return the methods of gRPC's own service."""
        return {
            "Check": grpc.stream_unary_rpc_method_handler(self._check),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch),
        }

    def asked(self, method: str, path: str, field: str) -> Any:
        """Return a method of the Open Inference Protocol whose answer is one field, true or false."""
        response = schema.message(f"inference.{method.rpartition('/')[2]}Response")

        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            status = await self._ask(context, method, path)
            return bytes(response(**{field: status == 200}).SerializeToString())

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _check(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        path = self._paths.get(await self._service(context))
        if path is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service; known: {self._known}")
        assert path is not None
        status = await self._ask(context, f"/{HEALTH}/Check", path)
        return self._written(SERVING if status == 200 else NOT_SERVING)

    async def _watch(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Tell each change; at the end that it does not serve, and then that it is gone."""
        path = self._paths.get(await self._service(context))
        if self._watchers >= MOST_WATCHERS:
            said = f"{self._watchers} callers watch, the limit is {MOST_WATCHERS}; use Check"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, said)
        self._watchers += 1
        context.add_done_callback(self._left)
        told = None
        while True:
            ending = self._ending.is_set()
            status = SERVICE_UNKNOWN if path is None else self._now(path) if not ending else NOT_SERVING
            if status != told:
                await context.write(self._written(status))
                told = status
            if ending:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is going down")
            try:
                await asyncio.wait_for(self._ending.wait(), WATCH_SECONDS)
            except TimeoutError:
                continue

    def _now(self, path: str) -> int:
        return SERVING if path == LIVENESS or self._ready() else NOT_SERVING

    def _left(self, _: object) -> None:
        self._watchers -= 1

    async def _service(self, context: grpc.aio.ServicerContext[Any, Any]) -> str:
        try:
            return str(self._request.FromString(await self._reads.read(context)).service)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the bytes are no HealthCheckRequest")
            raise

    @property
    def _known(self) -> str:
        return ", ".join(name for name in self._paths if name)

    def _written(self, status: int) -> bytes:
        return bytes(self._response(status=status).SerializeToString())
