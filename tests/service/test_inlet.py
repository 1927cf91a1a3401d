import asyncio
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.inlet import FIRST_BYTES, HEAD_BYTES, PARSED_BYTES, READ_BYTES, Body, Inlet
from service.socket.connection import Connection
from tests.service.test_connection import Transport

LIMIT = 8 << 20


class Door:
    """A connection behind its inlet, to an application that keeps every body it reads."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.kinds: list[type] = []
        self.transport = Transport()
        config = uvicorn.Config(self.app, log_config=None, access_log=False, ws="none", interface="asgi3")
        self.connection = Connection(
            max_body_bytes=LIMIT, config=config, server_state=ServerState(), app_state={}, _loop=None
        )
        self.inlet = Inlet(self.connection)
        self.inlet.connection_made(self.transport)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces = []
        more = True
        while more:
            message = await receive()
            pieces.append(message["body"])
            more = message["more_body"]
        self.kinds.append(type(pieces[-1]))
        self.bodies.append(b"".join(pieces))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def say(self, data: bytes) -> None:
        """As a socket would: into the room that is given, as much as it holds."""
        while data:
            room = self.inlet.get_buffer(-1)
            piece = data[: len(room)]
            room[: len(piece)] = piece
            self.inlet.buffer_updated(len(piece))
            data = data[len(piece) :]

    async def settle(self, count: int) -> None:
        for _ in range(200):
            if len(self.bodies) >= count:
                return
            await asyncio.sleep(0)


def bodies_of(pieces: Iterable[bytes], *, count: int) -> list[bytes]:
    async def tell() -> list[bytes]:
        door = Door()
        for piece in pieces:
            door.say(piece)
            await asyncio.sleep(0)
        await door.settle(count)
        door.inlet.connection_lost(None)
        await asyncio.sleep(0)
        return door.bodies

    return asyncio.run(tell())


def sized(body: bytes, *extra: str) -> bytes:
    lines = ["POST /x HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *extra]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, *extra: str) -> bytes:
    lines = ["POST /x HTTP/1.1", "Host: h", "Transfer-Encoding: chunked", *extra]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
WRITERS = [write for one in (sized, chunked) for write in (one, lambda body, one=one: one(body, *OFFER))]

# Bodies that look like the ends of heads and like requests.
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\r\n\r\n", b"\r\n", b"ab\r\n\r\ncd\r\n\r\n", sized(b"inner"), b"\n\r\n\r"]),
    st.integers(0, 3 * HEAD_BYTES).map(lambda size: bytes(range(256)) * (size // 256)),
)


@given(
    requests=st.lists(st.tuples(st.sampled_from(WRITERS), BODIES), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
)
def test_bodies_come_whole_however_the_bytes_are_cut(requests: list[Any], cuts: list[int]) -> None:
    stream = b"".join(write(body) for write, body in requests)
    places = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert bodies_of(pieces, count=len(requests)) == [body for _, body in requests]


@pytest.mark.parametrize("cut", range(1, 60))
def test_head_that_is_cut_anywhere_is_still_a_head(cut: int) -> None:
    body = b"\r\nabc\r\n\r\ndef"
    stream = sized(body) + sized(b"next")
    assert bodies_of([stream[:cut], stream[cut:]], count=2) == [body, b"next"]


def test_body_of_known_length_is_handed_on_as_it_lies() -> None:
    async def tell() -> None:
        door = Door()
        door.say(sized(bytes(3 * FIRST_BYTES)))
        await door.settle(1)
        assert door.kinds == [memoryview]
        assert door.bodies == [bytes(3 * FIRST_BYTES)]

    asyncio.run(tell())


@pytest.mark.parametrize("write", [sized, chunked])
@pytest.mark.parametrize("more", [(), ("Expect: 100-continue",)])
def test_offer_of_another_protocol_cut_anywhere_has_its_body_read_and_so_has_what_follows(
    write: Callable[..., bytes], more: tuple[str, ...]
) -> None:
    first, second = b"\r\nabc\r\n\r\ndef", b"next"
    stream = write(first, *OFFER, *more) + write(second, *OFFER) + chunked(b"last")
    for cut in range(1, len(stream)):
        assert bodies_of([stream[:cut], stream[cut:]], count=3) == [first, second, b"last"]
    letters = [stream[at : at + 1] for at in range(len(stream))]
    assert bodies_of(letters, count=3) == [first, second, b"last"]


@pytest.mark.parametrize("write", [sized, chunked])
def test_offer_behind_a_body_that_the_parser_reads_is_declined_too(write: Callable[..., bytes]) -> None:
    stream = chunked(b"one") + write(b"two", *OFFER) + sized(b"three")
    assert bodies_of([stream], count=3) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("write", [sized, chunked])
def test_offer_on_the_last_request_of_a_connection_ends_it(write: Callable[..., bytes]) -> None:
    offer = ("Connection: close, Upgrade", "Upgrade: h2c")
    assert bodies_of([write(b"one", *offer) + write(b"two")], count=1) == [b"one"]


@pytest.mark.parametrize("write", [sized, chunked])
def test_old_protocol_may_offer_another_one_too(write: Callable[..., bytes]) -> None:
    offer = write(b"body", *OFFER).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert bodies_of([offer[:-7], offer[-7:]], count=1) == [b"body"]


def test_offer_with_a_body_past_the_limit_is_read_by_the_parser_which_stops_at_it() -> None:
    async def tell() -> None:
        door = Door()
        door.say(sized(bytes(LIMIT + 1), *OFFER))
        assert door.transport.paused
        await door.settle(1)
        assert [len(body) for body in door.bodies] == [LIMIT + 1]

    asyncio.run(tell())


def test_requests_go_on_after_such_an_offer() -> None:
    offer = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert bodies_of([offer, sized(b"next")], count=2) == [b"", b"next"]


def test_what_follows_the_last_request_is_not_read() -> None:
    stream = sized(b"one", "Connection: close") + sized(b"two")
    assert bodies_of([stream], count=2) == [b"one"]


def test_chunked_body_is_read_in_larger_pieces_than_heads() -> None:
    async def tell() -> None:
        door = Door()
        assert len(door.inlet.get_buffer(-1)) == HEAD_BYTES
        door.say(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert len(door.inlet.get_buffer(-1)) == PARSED_BYTES
        door.say(b"3\r\nabc\r\n0\r\n\r\n")
        await door.settle(1)
        assert len(door.inlet.get_buffer(-1)) == HEAD_BYTES
        assert door.bodies == [b"abc"]

    asyncio.run(tell())


def test_two_lengths_are_refused_by_the_parser() -> None:
    async def tell() -> None:
        door = Door()
        door.say(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
        await asyncio.sleep(0)
        assert door.transport.written.startswith(b"HTTP/1.1 400 ")
        assert door.bodies == []

    asyncio.run(tell())


@given(size=st.integers(1, 5000), aligned_at=st.integers(0, 300))
def test_tensors_in_a_body_lie_aligned(size: int, aligned_at: int) -> None:
    body = Body(size, aligned_at=aligned_at)
    data = np.random.default_rng(size).bytes(size)
    body.put(data)
    assert body.missing == 0
    assert bytes(body.whole()) == data
    if aligned_at < size:
        there = np.frombuffer(body.whole(), np.uint8)[aligned_at:]
        assert there.ctypes.data % 64 == 0


def test_declared_length_alone_takes_little_memory() -> None:
    body = Body(1 << 40, aligned_at=7)
    assert len(body.room()) <= FIRST_BYTES


def test_large_body_is_read_in_small_pieces_and_copied_once() -> None:
    body = Body(60 << 20)
    blocks = set()
    while body.missing:
        room = body.room()
        assert 0 < len(room) <= READ_BYTES
        blocks.add(room.obj.ctypes.data)
        body.filled += len(room)
    assert len(blocks) == 2


def test_block_grows_and_keeps_what_it_has() -> None:
    data = np.random.default_rng(0).bytes(5 * FIRST_BYTES + 3)
    body = Body(len(data), aligned_at=13)
    body.put(data)
    assert body.whole() == data
    assert (np.frombuffer(body.whole(), np.uint8).ctypes.data + 13) % 64 == 0
    with pytest.raises(TypeError):
        body.whole()[0] = 1


def test_more_than_the_limit_is_left_to_the_parser_which_stops_at_it() -> None:
    async def tell() -> None:
        door = Door()
        door.say(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (LIMIT + 1))
        assert door.connection.body is None

    asyncio.run(tell())


@pytest.mark.parametrize("framing", [b"Content-Length: 4000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_there_is_no_memory_for_fails_its_own_request(
    framing: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader is told, its connection closed behind the reply, and no byte of the rest is a request."""

    def no_memory(*_: object, **__: object) -> Any:
        raise MemoryError

    async def main() -> None:
        door = Door()
        told: list[BaseException] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                while (await receive()).get("more_body"):
                    pass
            except MemoryError as error:
                told.append(error)
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        door.connection.app = app  # type: ignore[assignment]
        piece = b"x" * 1000 if b"Length" in framing else b"3e8\r\n" + b"x" * 1000 + b"\r\n"
        door.say(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n" + piece)
        with monkeypatch.context() as starving:
            starving.setattr("service.inlet._block", no_memory)
            starving.setattr("service.socket.reading._joined", no_memory)
            door.say(piece * 1100 + (b"0\r\n\r\n" if b"Length" not in framing else b""))
        while not door.transport.closed:
            await asyncio.sleep(0)
        assert len(told) == 1
        assert door.transport.written.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in door.transport.written
        assert door.transport.written.count(b"HTTP/1.1") == 1

    asyncio.run(main())


def test_large_body_is_read_a_little_at_a_time() -> None:
    body = Body(5 * FIRST_BYTES + 7, aligned_at=3)
    while body.missing:
        room = body.room()
        assert 0 < len(room) <= READ_BYTES
        body.filled += len(room)
    assert len(body.whole()) == 5 * FIRST_BYTES + 7
