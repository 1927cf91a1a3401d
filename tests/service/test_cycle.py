"""The writes of one reply: its head goes out with the first piece of its body."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.socket.cycle import JOINED_BYTES
from tests.service.test_connection import Line, on_a_line

GET = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


class Telling(Line):
    """A connection to an application that sends these pieces."""

    def __init__(self, pieces: list[bytes], *, length: int | None = None, breaks: bool = False) -> None:
        super().__init__()
        self.pieces = pieces
        self.length = sum(map(len, pieces)) if length is None else length
        self.breaks = breaks
        self.writes: list[bytes] = []
        kept = self.transport.write

        def write(data: Any) -> None:
            self.writes.append(bytes(data))
            kept(data)

        self.transport.write = write  # type: ignore[method-assign]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.release.wait()
        headers = [] if self.length < 0 else [(b"content-length", b"%d" % self.length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if self.breaks:
            raise RuntimeError("broken")
        for place, piece in enumerate(self.pieces):
            more = place + 1 < len(self.pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


def writes_of(asked: bytes, pieces: list[bytes], **options: Any) -> tuple[list[bytes], bool]:
    found: list[Any] = []

    async def story() -> None:
        line = Telling(pieces, **options)
        line.say(asked)
        line.release.set()
        while line.connection.answering and not line.transport.closed:
            await asyncio.sleep(0)
        found.extend((line.writes, line.transport.closed))
        line.hang_up()

    on_a_line(lambda _: story())
    return found[0], found[1]


def test_head_and_a_small_body_are_one_write():
    (whole,), closed = writes_of(GET, [b"body"])
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\nbody")
    assert not closed


def test_large_first_piece_is_not_copied_to_its_head():
    large = bytes(JOINED_BYTES + 1)
    head, body, rest = writes_of(GET, [large, b"rest"])[0]
    assert head.endswith(b"\r\n\r\n")
    assert (body, rest) == (large, b"rest")


def test_pieces_behind_the_first_go_as_they_come():
    first, second = writes_of(GET, [b"one", b"two"], length=-1)[0]
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert second == b"3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize("asked", [HEAD, GET, LAST])
def test_answer_without_a_body_is_its_head(asked):
    writes, closed = writes_of(asked, [b""], length=7 if asked is HEAD else 0)
    (whole,) = [one for one in writes if one]
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert whole.endswith(b"\r\n\r\n")
    assert closed is (asked is LAST)


def test_answers_of_one_connection_follow_each_other():
    writes, _ = writes_of(GET + GET, [b"body"])
    assert [one.count(b"HTTP/1.1 200") for one in writes] == [1, 1]


def test_reply_that_breaks_before_its_body_leaves_nothing(caplog):
    writes, closed = writes_of(GET, [], breaks=True)
    assert writes == []
    assert closed
