import asyncio
import socket

import pytest

from service.socket.pace import Pace, unread_bytes


def test_who_keeps_the_rate_is_never_behind_however_much_there_is() -> None:
    pace = Pace(500)
    pace.begin(0.0)
    for second in range(1, 100_000):
        pace.moved(500, second)
        assert pace.behind(second) == pytest.approx(0)


def test_who_is_slower_falls_behind_by_what_is_missing() -> None:
    pace = Pace(500)
    pace.begin(0.0)
    for second in range(1, 101):
        pace.moved(400, second)
    assert pace.behind(100) == pytest.approx(20)


def test_what_came_fast_earns_nothing() -> None:
    pace = Pace(500)
    pace.begin(0.0)
    pace.moved(10**9, 1.0)
    assert pace.behind(1.0) == 0
    assert pace.behind(21.0) == 20


def test_what_is_forgiven_is_taken_off() -> None:
    pace = Pace(500)
    pace.begin(0.0)
    pace.forgive(7.0)
    assert pace.behind(10.0) == pytest.approx(3)


def test_unread_bytes_count_what_the_kernel_still_holds() -> None:
    """Each byte that a caller reads shows, though the kernel asks for more only now and then."""

    async def story() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        caller = socket.create_connection(listener.getsockname())
        caller.setblocking(False)
        accepted, _ = listener.accept()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, accepted)
        transport.write(bytes(64 << 20))
        before, ours = unread_bytes(transport), transport.get_write_buffer_size()
        assert 0 < ours < before <= 64 << 20
        while unread_bytes(transport) == before:
            try:
                caller.recv(1 << 16)
            except BlockingIOError:
                await asyncio.sleep(0)
        transport.abort()
        caller.close()
        listener.close()

    asyncio.run(story())
