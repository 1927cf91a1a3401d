"""What replies write goes out together, in order, and no later than when their writer waits."""

import asyncio
from collections.abc import Callable
from typing import Any

from service.socket.outgoing import MOST_HELD, Outgoing


class Transport(asyncio.Transport):
    """A transport that keeps what each call of it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[bytes]] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.calls.append([bytes(data)])

    def writelines(self, list_of_data: Any) -> None:
        self.calls.append([bytes(one) for one in list_of_data])

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def after(story: Callable[[Outgoing, Transport], None]) -> Transport:
    """Return the transport after a story, and one turn of the loop."""

    async def tell() -> Transport:
        transport = Transport()
        story(Outgoing(transport, asyncio.get_running_loop()), transport)
        await asyncio.sleep(0)
        return transport

    return asyncio.run(tell())


def test_what_is_written_without_a_wait_is_one_call() -> None:
    def story(outgoing: Outgoing, transport: Transport) -> None:
        for piece in (b"head", b"{}", memoryview(b"tensor")):
            outgoing.write(piece)
        assert transport.calls == []
        outgoing.flush()
        outgoing.flush()
        outgoing.write(b"next")
        outgoing.flush()

    assert after(story).calls == [[b"head", b"{}", b"tensor"], [b"next"]]


def test_what_nobody_ends_goes_out_when_its_writer_waits() -> None:
    def story(outgoing: Outgoing, transport: Transport) -> None:
        outgoing.write(b"head")
        outgoing.write(b"a piece")

    assert after(story).calls == [[b"head", b"a piece"]]


def test_a_large_piece_goes_by_itself_and_at_once() -> None:
    large = bytes(MOST_HELD)

    def story(outgoing: Outgoing, transport: Transport) -> None:
        for piece in (b"head", b"{}", large):
            outgoing.write(piece)
        assert transport.calls == [[b"head", b"{}"], [large]]
        outgoing.write(large)
        assert transport.calls[2:] == [[large]]

    after(story)


def test_no_more_than_a_bound_is_held() -> None:
    half = bytes(MOST_HELD // 2)

    def story(outgoing: Outgoing, transport: Transport) -> None:
        outgoing.write(half)
        outgoing.write(half)
        assert transport.calls == [[half, half]]

    after(story)


def test_a_connection_is_closed_behind_what_was_written() -> None:
    def story(outgoing: Outgoing, transport: Transport) -> None:
        outgoing.write(b"the last words")
        outgoing.close()

    transport = after(story)
    assert (transport.calls, transport.closed) == ([[b"the last words"]], True)


def test_nothing_is_written_to_a_connection_that_is_closed() -> None:
    def story(outgoing: Outgoing, transport: Transport) -> None:
        outgoing.write(b"too late")
        transport.close()
        assert outgoing.is_closing()

    assert after(story).calls == []
