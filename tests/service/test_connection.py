import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.connection import HEADER_SECONDS, SETTLE_SECONDS, STALL_SECONDS, Connection


class Transport(asyncio.Transport):
    """A transport that keeps what is written and remembers whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.paused = False
        self.unread_bytes = 0

    def get_write_buffer_size(self) -> int:
        return self.unread_bytes

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Line:
    """One connection to an application that never reads, on a clock that is set by hand."""

    def __init__(self, *, max_body_bytes: int = 100) -> None:
        self.now = 1000.0
        self.refusals = 0
        self.transport = Transport()
        self.loop = asyncio.get_running_loop()
        self.release = asyncio.Event()
        config = uvicorn.Config(self.app, log_config=None, access_log=False, ws="none", interface="asgi3")
        self.connection = Connection(
            max_body_bytes=max_body_bytes,
            refused=self._refused,
            config=config,
            server_state=ServerState(),
            app_state={},
            _loop=Clock(self.loop, lambda: self.now),
        )
        self.connection.connection_made(self.transport)

    def _refused(self) -> None:
        self.refusals += 1

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def say(self, data: bytes, *, after_seconds: float = 0.0) -> None:
        self.now += after_seconds
        self.connection.data_received(data)

    def overdue(self, *, after_seconds: float) -> bool:
        return self.connection.overdue(self.now + after_seconds)

    async def answer(self) -> None:
        self.release.set()
        while self.connection.answering:
            await asyncio.sleep(0)
        self.release.clear()

    def hang_up(self) -> None:
        self.connection.connection_lost(None)
        self.release.set()


class Clock:
    """A loop whose time is ours and whose timers never fire."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[], float]) -> None:
        self._loop = loop
        self.time = read
        self.create_task = loop.create_task

    def call_later(self, _seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(3600, callback)


def on_a_line(story: Callable[[Line], Any], **options: int) -> None:
    async def tell() -> None:
        line = Line(**options)
        try:
            result = story(line)
            if asyncio.iscoroutine(result):
                await result
        finally:
            line.hang_up()
            await asyncio.sleep(0)

    asyncio.run(tell())


REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n"


def test_connection_that_says_nothing_is_overdue_after_the_time_for_a_head() -> None:
    def story(line: Line) -> None:
        assert not line.overdue(after_seconds=HEADER_SECONDS)
        assert line.overdue(after_seconds=HEADER_SECONDS + 0.1)

    on_a_line(story)


def test_head_sent_letter_by_letter_gains_no_time() -> None:
    def story(line: Line) -> None:
        for letter in REQUEST[:30]:
            line.say(bytes([letter]), after_seconds=HEADER_SECONDS / 25)
        assert line.overdue(after_seconds=0)

    on_a_line(story)


def test_empty_lines_before_a_request_gain_no_time() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        await line.answer()
        for _ in range(30):
            line.say(b"\r\n", after_seconds=HEADER_SECONDS / 25)
        assert line.overdue(after_seconds=0)

    on_a_line(story)


def test_body_that_stalls_is_overdue_and_one_that_trickles_is_not() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST)
        for _ in range(10):
            line.say(b"x", after_seconds=STALL_SECONDS - 1)
            assert not line.overdue(after_seconds=1)
        assert line.overdue(after_seconds=STALL_SECONDS + 0.1)

    on_a_line(story)


def test_request_that_waits_for_its_answer_is_never_overdue() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        assert not line.overdue(after_seconds=1e6)

    on_a_line(story)


def test_caller_who_does_not_read_is_overdue() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.connection.pause_writing()
        assert not line.overdue(after_seconds=STALL_SECONDS)
        assert line.overdue(after_seconds=STALL_SECONDS + 0.1)
        line.connection.resume_writing()
        assert not line.overdue(after_seconds=1e6)

    on_a_line(story)


def test_caller_who_reads_slowly_is_never_overdue() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.transport.unread_bytes = 1000
        line.connection.pause_writing()
        for _ in range(10):
            line.now += STALL_SECONDS - 1
            line.transport.unread_bytes -= 1
            assert not line.overdue(after_seconds=0)
        assert line.overdue(after_seconds=STALL_SECONDS + 0.1)

    on_a_line(story)


def test_next_request_on_a_connection_has_its_own_time() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        await line.answer()
        assert not line.overdue(after_seconds=1e6)  # idle: uvicorn's keep-alive timer looks after that
        line.say(b"GET / HT", after_seconds=500)
        assert not line.overdue(after_seconds=HEADER_SECONDS)
        assert line.overdue(after_seconds=HEADER_SECONDS + 0.1)

    on_a_line(story)


def test_body_past_the_limit_is_not_kept_and_no_more_is_read() -> None:
    def story(line: Line) -> None:
        line.say(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        line.say(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        assert line.transport.paused
        assert len(line.connection.cycle.body) == 101

    on_a_line(story, max_body_bytes=100)


def test_body_at_the_limit_is_kept_whole() -> None:
    async def story(line: Line) -> None:
        line.say(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n" + bytes(100))
        assert not line.transport.paused
        assert len((await line.connection.cycle.receive())["body"]) == 100

    on_a_line(story, max_body_bytes=100)


def test_draining_connection_closes_when_nothing_is_on_its_way() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.connection.retire(line.now + 1e6)
        assert not line.transport.closed
        await line.answer()
        assert line.transport.closed
        assert b"connection: close" in line.transport.written

    on_a_line(story)


def test_draining_connection_waits_a_moment_for_a_request_that_may_be_coming() -> None:
    def story(line: Line) -> None:
        line.connection.retire(line.now + SETTLE_SECONDS)
        assert not line.transport.closed
        line.connection.retire(line.now + SETTLE_SECONDS + 0.01)
        assert line.transport.closed

    on_a_line(story)


@pytest.mark.parametrize("raw", [b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"G" * 40_000])
def test_refusal_is_written_counted_and_final(raw: bytes) -> None:
    def story(line: Line) -> None:
        line.say(raw)
        assert line.refusals == 1
        assert line.transport.closed
        assert line.transport.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b'"malformed"' in line.transport.written

    on_a_line(story)


def test_refusal_before_routing_has_an_id_of_its_own() -> None:
    def story(line: Line) -> None:
        line.say(b"nonsense\r\n\r\n")
        head, _, body = line.transport.written.partition(b"\r\n\r\n")
        request_id = json.loads(body)["error"]["request_id"]
        assert len(request_id) == 32
        assert f"x-request-id: {request_id}".encode() in head

    on_a_line(story)


def test_offer_of_another_protocol_is_declined_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    def story(line: Line) -> None:
        line.say(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert line.connection.answering
        assert not line.transport.closed

    on_a_line(story)
    assert caplog.text == ""


def test_old_protocol_needs_no_host() -> None:
    def story(line: Line) -> None:
        line.say(b"GET / HTTP/1.0\r\n\r\n")
        assert line.refusals == 0
        assert line.connection.answering

    on_a_line(story)
