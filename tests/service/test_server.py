import asyncio
import signal
import socket

import pytest
from starlette.types import Receive, Scope, Send

from service.http.around.lifecycle import Lifecycle
from service.socket.server import Server, bind


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


def server_of(lifecycle: Lifecycle, **options: object) -> Server:
    return Server(hello, lifecycle=lifecycle, drain_seconds=5, max_body_bytes=1000, **options)  # type: ignore[arg-type]


def test_connections_the_kernel_completed_before_the_listener_closed_are_served() -> None:
    """The callers connect and ask while the loop is busy; not one has been accepted when the drain begins."""
    lifecycle = Lifecycle("ready")
    started: list[str] = []
    server = server_of(lifecycle, listening=lambda: started.append("once"))
    listener = bind("127.0.0.1", 0)
    address = listener.getsockname()

    async def drain() -> list[bytes]:
        server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        await server.startup(sockets=[listener])
        callers = [socket.create_connection(address) for _ in range(50)]
        for caller in callers:
            caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await server.shutdown(sockets=[listener])
        replies = [caller.recv(1024) for caller in callers]
        for caller in callers:
            caller.close()
        return replies

    replies = asyncio.run(drain())
    assert all(reply.endswith(b"hello") for reply in replies)
    assert server.exit_status == 0
    assert started == ["once"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_first_signal_drains_and_keeps_serving() -> None:
    lifecycle = Lifecycle("ready")
    server = server_of(lifecycle, grace_seconds=100)

    async def tick() -> bool:
        return await server.on_tick(0)

    assert asyncio.run(tick()) is False
    server.handle_exit(signal.SIGTERM, None)
    assert lifecycle.state == "draining"
    assert asyncio.run(tick()) is False


@pytest.mark.parametrize(("state", "stops"), [("ready", False), ("failed", True)])
def test_server_of_a_failed_device_stops_at_the_next_tick(state: str, stops: bool) -> None:
    server = server_of(Lifecycle(state))  # type: ignore[arg-type]

    async def tick() -> bool:
        return await server.on_tick(1)

    assert asyncio.run(tick()) is stops


def test_signals_are_handed_back_and_not_raised_again() -> None:
    server = server_of(Lifecycle("ready"))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with server.capture_signals():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_address_is_taken_without_listening() -> None:
    with bind("127.0.0.1", 0) as taken, pytest.raises(ConnectionRefusedError):
        socket.create_connection(taken.getsockname())
