"""The gRPC server of one process: its port, its limits, its methods, and an end at which no call is lost.

It runs on the event loop of the HTTP server, and is begun and ended by it (`service.socket.beside`). Methods
are taken as streams of one message, which is the same on the wire, so that a call is known before its message
is read. Options: gRPC `include/grpc/impl/channel_arg_names.h`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from starlette.types import ASGIApp

from service.grpc import schema
from service.grpc.address import address_of
from service.grpc.asgi import AsgiCall, MessageReads
from service.grpc.health import HEALTH, LIVENESS, READINESS, HealthService
from service.grpc.infer import LARGEST_MESSAGE
from service.grpc.reflection.stream import NAMES, ReflectionService

SERVICE = "inference.GRPCInferenceService"
STREAMS = 256  # calls of one connection at a time; its client lets others wait
MORE_CALLS = 1024  # of all connections, beyond those that may be admitted
LATE_CALL_SECONDS = 0.3  # for gRPC to be done with calls that the server has given up
FOREVER_SECONDS = 1e6
SETTLE_SECONDS = 0.3  # after the last call, for those that have come and are not known here yet
HELD_SECONDS = 0.5  # replies, at the most, until no call has come for QUIET_SECONDS
QUIET_SECONDS, POLL_SECONDS = 0.05, 0.002
# Pings: whether the other side is still there, ours and how often a client may ask.
PING_SECONDS, PONG_SECONDS, PINGED_SECONDS = 30, 20, 10
# A connection is closed in order after so long, so that clients spread over new servers; calls have more.
AGE_SECONDS, AGED_SECONDS = 1800, 300


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits:
    """What callers have to keep to; `reads`: messages that come at a time."""

    message_bytes: int
    reads: int
    read_seconds: float
    calls: int
    connections: Callable[[], int]
    idle_seconds: int
    handshake_seconds: int


class GrpcServer:
    """Calls on a port of their own. `ready`: whether new requests should be sent here."""

    def __init__(
        self, app: ASGIApp, *, host: str, port: int, limits: GrpcLimits, ready: Callable[[], bool]
    ) -> None:
        self._app = app
        self._address = address_of(host, port)
        self._limits = limits
        self._ready = ready
        self._open = 0
        self._came = self._changed = 0.0  # when a call came; when one came or was answered
        self._held: asyncio.Event | None = None
        self._server: grpc.aio.Server | None = None
        self._health: HealthService | None = None
        self._reflection: ReflectionService | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def unanswered(self) -> int:
        """How many calls have come and have not had their answer; one while gRPC has not ended yet."""
        ending = self._ending
        if self._open or ending is None or ending.done():
            return self._open
        return int(asyncio.get_running_loop().time() - self._changed < SETTLE_SECONDS)

    async def begin(self) -> None:
        """Take calls from now on; raises OSError where the port is not to be had."""
        limits = self._limits
        self._reads = MessageReads(limits.reads, seconds=limits.read_seconds)
        self._health = health = HealthService(self._status, self._reads, ready=self._ready, service=SERVICE)
        handlers = {name: self._method(f"/{SERVICE}/{name}") for name in schema.methods(SERVICE)}
        handlers["ServerLive"] = health.asked(f"/{SERVICE}/ServerLive", LIVENESS, "live")
        handlers["ServerReady"] = health.asked(f"/{SERVICE}/ServerReady", READINESS, "ready")
        self._server = server = grpc.aio.server(
            options=_options(limits), maximum_concurrent_rpcs=limits.calls
        )
        self._reflection = reflection = ReflectionService(self._reads, (SERVICE, HEALTH))
        services = {SERVICE: handlers, HEALTH: health.handlers()}
        services |= dict.fromkeys(NAMES, reflection.handlers())
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]
        )
        try:
            server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address} for gRPC: {error}") from None
        await server.start()

    async def close(self) -> None:
        """Take no more; those that have come are answered, and clients are told to go elsewhere."""
        if self._server is None or self._health is None or self._ending is not None:
            return
        self._health.end()
        if self._reflection is not None:
            self._reflection.end()
        self._held = asyncio.Event()
        try:
            await self._quiet()
            # Whoever runs the process says when those that are left have had their time.
            self._ending = asyncio.ensure_future(self._server.stop(FOREVER_SECONDS))
            await asyncio.sleep(QUIET_SECONDS)
        finally:
            self._changed = asyncio.get_running_loop().time()
            self._held.set()

    async def end(self) -> None:
        """End at once, with whoever is left."""
        if self._server is not None:
            await self.close()
            ending = asyncio.ensure_future(self._server.stop(None))
            await asyncio.wait([ending], timeout=LATE_CALL_SECONDS)

    async def _quiet(self) -> None:
        """Wait until no call has come for a moment, while replies are held.

        gRPC cancels what comes between its stop and the caller's hearing of it. Those who wait for a reply
        ask nothing, and hear of it before they have theirs.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + HELD_SECONDS
        while (now := clock()) < until and now - self._came < QUIET_SECONDS:
            await asyncio.sleep(POLL_SECONDS)

    def _method(self, path: str) -> Any:
        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            call = await self._answered(context, path)
            if self._held is not None:
                await self._held.wait()
            return await call.reply()

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _status(self, context: grpc.aio.ServicerContext[Any, Any], path: str, asks: str) -> int:
        return (await self._answered(context, path, asks)).status

    async def _answered(
        self, context: grpc.aio.ServicerContext[Any, Any], path: str, asks: str | None = None
    ) -> AsgiCall:
        """Return a call that the application has answered."""
        self._open += 1
        self._came = self._changed = asyncio.get_running_loop().time()
        context.add_done_callback(self._done)
        call = AsgiCall(self._app, context, self._reads, path=path, asks=asks)
        await call.run()
        return call

    def _done(self, _: object) -> None:
        self._open -= 1
        self._changed = asyncio.get_running_loop().time()


def _options(limits: GrpcLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # HTTP processes share the port; that it was free was seen at the start
        ("grpc.max_receive_message_length", min(limits.message_bytes, LARGEST_MESSAGE)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS),
        ("grpc.http.overload_protection", 0),  # it resets calls of clients that keep to STREAMS
        ("grpc.max_allowed_incoming_connections", limits.connections()),
        ("grpc.server_handshake_timeout_ms", 1000 * limits.handshake_seconds),
        ("grpc.max_connection_idle_ms", 1000 * limits.idle_seconds),
        ("grpc.max_connection_age_ms", 1000 * AGE_SECONDS),
        ("grpc.max_connection_age_grace_ms", 1000 * AGED_SECONDS),
        ("grpc.keepalive_time_ms", 1000 * PING_SECONDS),
        ("grpc.keepalive_timeout_ms", 1000 * PONG_SECONDS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000 * PINGED_SECONDS),
    ]
