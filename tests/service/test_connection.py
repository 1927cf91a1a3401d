import asyncio
import json
import re
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.errors import TooSlow
from service.http.around.host import CROWDED, DEPARTURE, Departure
from service.inlet import Inlet
from service.socket.connection import (
    PROBE_SECONDS,
    SETTLE_SECONDS,
    STILL_THERE,
    Connection,
)
from service.socket.pace import ConnectionLimits
from service.socket.places import Places
from service.socket.reading import MOST_PIPELINED

LIMITS = ConnectionLimits()
HEAD, STALL, RATE = LIMITS.head_seconds, LIMITS.stall_seconds, LIMITS.min_bytes_per_second


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

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Line:
    """One connection to an application that never reads, on a clock that is set by hand."""

    def __init__(
        self, *, max_body_bytes: int = 100, most: int = 10, min_bytes_per_second: int = RATE
    ) -> None:
        self.now = 1000.0
        self.refusals: list[int] = []
        self.places = Places()
        self.places.most = most
        self.transport = Transport()
        self.loop = asyncio.get_running_loop()
        self.release = asyncio.Event()
        config = uvicorn.Config(self.app, log_config=None, access_log=False, ws="none", interface="asgi3")
        self.connection = Connection(
            max_body_bytes=max_body_bytes,
            refused=self.refusals.append,
            limits=ConnectionLimits(min_bytes_per_second=min_bytes_per_second),
            places=self.places,
            config=config,
            server_state=ServerState(),
            app_state={},
            _loop=(clock := Clock(self.loop, lambda: self.now)),
        )
        self.timers = clock.timers
        self.connection.connection_made(self.transport)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def say(self, data: bytes, *, after_seconds: float = 0.0) -> None:
        self.now += after_seconds
        self.connection.data_received(data)

    def late(self, *, after_seconds: float = 0.0) -> str | None:
        return self.connection.late(self.now + after_seconds)

    def overdue(self, *, after_seconds: float) -> bool:
        return self.late(after_seconds=after_seconds) is not None

    async def answer(self) -> None:
        self.release.set()
        while self.connection.answering:
            await asyncio.sleep(0)
        self.release.clear()

    async def answer_one(self) -> None:
        """Let the request that is being answered be answered, and no other."""
        replies = self.transport.written.count(b"HTTP/1.1 200")
        self.release.set()
        while self.transport.written.count(b"HTTP/1.1 200") == replies:
            await asyncio.sleep(0)
        self.release.clear()

    def hang_up(self) -> None:
        self.connection.connection_lost(None)
        self.release.set()


class Clock:
    """A loop whose time is ours and whose timers never fire."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read: Callable[[], float]) -> None:
        self._loop = loop
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.time = read
        self.create_task, self.call_soon = loop.create_task, loop.call_soon

    def call_later(self, seconds: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        self.timers.append((seconds, partial(callback, *args)))
        return self._loop.call_later(3600, callback, *args)


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
        assert not line.overdue(after_seconds=HEAD)
        assert line.overdue(after_seconds=HEAD + 0.1)

    on_a_line(story)


def test_head_sent_letter_by_letter_gains_no_time() -> None:
    def story(line: Line) -> None:
        for letter in REQUEST[:30]:
            line.say(bytes([letter]), after_seconds=HEAD / 25)
        assert line.overdue(after_seconds=0)

    on_a_line(story)


def test_empty_lines_before_a_request_gain_no_time() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        await line.answer()
        for _ in range(30):
            line.say(b"\r\n", after_seconds=HEAD / 25)
        assert line.overdue(after_seconds=0)

    on_a_line(story)


CHUNKED = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def declared(size: int) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size


def chunk(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, bytes(size))


@pytest.mark.parametrize(("head", "piece"), [(declared(10**6), bytes), (CHUNKED, chunk)])
def test_body_below_the_least_rate_is_late_however_often_a_byte_comes(
    head: bytes, piece: Callable[[int], bytes]
) -> None:
    def story(line: Line) -> None:
        line.say(head)
        for _ in range(int(STALL)):
            assert line.late() is None
            line.say(piece(1), after_seconds=1)
        line.say(piece(1), after_seconds=1)
        assert line.late() == "slow_body"

    on_a_line(story, max_body_bytes=10**6)


@pytest.mark.parametrize(("head", "piece"), [(declared(10**6), bytes), (CHUNKED, chunk)])
def test_body_at_the_least_rate_is_never_late(head: bytes, piece: Callable[[int], bytes]) -> None:
    def story(line: Line) -> None:
        line.say(head)
        for _ in range(190):
            line.now += 9
            assert line.late() is None
            line.say(piece(10 * RATE), after_seconds=1)
        assert line.connection.body_due

    on_a_line(story, max_body_bytes=10**6)


def test_what_was_sent_fast_earns_no_time() -> None:
    def story(line: Line) -> None:
        line.say(declared(10**6) + bytes(10**6 - 1))
        assert not line.overdue(after_seconds=STALL)
        assert line.late(after_seconds=STALL + 0.1) == "slow_body"

    on_a_line(story, max_body_bytes=10**6)


def test_each_body_begins_anew() -> None:
    async def story(line: Line) -> None:
        line.say(declared(10**6))
        line.now += STALL - 1
        assert line.late() is None
        line.say(bytes(10**6))
        await line.answer()
        line.say(declared(10**6) + bytes(7))
        assert not line.overdue(after_seconds=STALL)
        assert line.overdue(after_seconds=STALL + 0.1)

    on_a_line(story, max_body_bytes=10**6)


def test_what_comes_behind_a_request_has_its_time_when_that_is_answered() -> None:
    """A caller that waits for us, for however long, is not late with what it sends meanwhile."""

    async def story(line: Line) -> None:
        line.say(SHORT + declared(50) + bytes(7))
        line.now += 1e6
        assert line.late() is None
        await line.answer_one()
        assert not line.overdue(after_seconds=STALL)
        assert line.late(after_seconds=STALL + 0.1) == "slow_body"

    on_a_line(story)


def test_request_whose_body_is_late_is_told_and_the_connection_closed_behind_the_answer() -> None:
    async def story(line: Line) -> None:
        line.say(declared(50) + bytes(7))
        line.connection.give_up("slow_body")
        line.say(bytes(43))  # is not read any more
        with pytest.raises(TooSlow, match=f"{STALL} s .* {RATE} bytes a second"):
            await line.connection.cycle.receive()
        assert line.late(after_seconds=1e6) is None  # its answer is due
        await line.answer()
        assert line.transport.closed

    on_a_line(story)


def test_head_that_is_late_is_told_so() -> None:
    def story(line: Line) -> None:
        line.say(SHORT[:20])
        line.connection.give_up("slow_head")
        assert line.transport.written.startswith(b"HTTP/1.1 408 ")
        assert b'"request_timeout"' in line.transport.written
        assert line.refusals == [408]
        assert line.transport.closed

    on_a_line(story)


def test_caller_who_said_nothing_is_told_nothing() -> None:
    def story(line: Line) -> None:
        line.connection.give_up("slow_head")
        assert line.transport.written == b""
        assert line.transport.closed

    on_a_line(story)


def test_time_in_which_the_server_stood_still_is_nobodys_fault() -> None:
    def story(line: Line) -> None:
        line.say(declared(50) + bytes(7))
        assert not line.overdue(after_seconds=1)
        line.connection.forgive(1e6)
        assert not line.overdue(after_seconds=1e6 + STALL)
        assert line.overdue(after_seconds=1e6 + STALL + 0.1)

    on_a_line(story)


def test_refusals_and_refused_bodies_are_not_late_again() -> None:
    async def story(line: Line) -> None:
        line.say(CHUNKED + chunk(3))
        line.connection.give_up("slow_body")
        assert not line.connection.body_due

    on_a_line(story)


def test_request_that_waits_for_its_answer_is_never_overdue() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        assert not line.overdue(after_seconds=1e6)

    on_a_line(story)


def test_caller_who_does_not_read_is_late() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.transport.unread_bytes = 10**6
        line.connection.pause_writing()
        assert not line.overdue(after_seconds=STALL)
        assert line.late(after_seconds=STALL + 0.1) == "slow_reader"
        line.transport.unread_bytes = 0
        line.connection.resume_writing()
        assert not line.overdue(after_seconds=1e6)

    on_a_line(story)


def test_caller_who_reads_below_the_least_rate_is_late_however_often() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.transport.unread_bytes = 10**6
        line.connection.pause_writing()
        for _ in range(int(STALL) + 1):
            assert line.late() is None
            line.now += 1
            line.transport.unread_bytes -= 1
        assert line.late() == "slow_reader"

    on_a_line(story)


def test_caller_who_reads_at_the_least_rate_is_never_late_whole_or_in_pieces() -> None:
    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        for _ in range(20):  # pieces of a reply, each written when little is left of the one before
            line.transport.unread_bytes += 20 * RATE
            line.connection.pause_writing()
            for _ in range(2):
                line.now += 9
                assert line.late() is None
                line.now += 1
                line.transport.unread_bytes -= 10 * RATE - 1
            line.connection.resume_writing()

    on_a_line(story)


def test_rest_of_a_reply_that_is_never_read_is_late_though_the_writer_goes_on() -> None:
    """What is left is too little to hold the writer up, and the connection is closing: but it stays."""

    def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        line.transport.unread_bytes = 10**6
        line.connection.pause_writing()
        line.transport.unread_bytes = 1000
        line.connection.resume_writing()
        line.transport.close()
        assert line.late(after_seconds=STALL + 0.1) == "slow_reader"

    on_a_line(story)


def test_with_a_rate_of_zero_any_byte_is_enough() -> None:
    def story(line: Line) -> None:
        line.say(declared(10**6))
        for _ in range(10):
            line.say(b"x", after_seconds=STALL - 1)
            assert not line.overdue(after_seconds=1)
        assert line.overdue(after_seconds=STALL + 0.1)

    on_a_line(story, max_body_bytes=10**6, min_bytes_per_second=0)


def test_connection_beyond_the_limit_says_so_with_its_request_and_closes_behind_it() -> None:
    async def story(line: Line) -> None:
        line.say(SHORT)
        (cycle,) = line.connection._unanswered
        assert CROWDED in cycle.scope["extensions"]
        await line.answer()
        assert b"connection: close" in line.transport.written

    on_a_line(story, most=0)


def test_connection_beyond_the_limit_is_as_any_other_when_there_is_a_place_by_its_request() -> None:
    def story(line: Line) -> None:
        line.places.most = 1
        line.say(SHORT)
        (cycle,) = line.connection._unanswered
        assert CROWDED not in cycle.scope["extensions"]
        assert cycle.keep_alive

    on_a_line(story, most=0)


def test_next_request_on_a_connection_has_its_own_time() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50))
        await line.answer()
        assert not line.overdue(after_seconds=1e6)  # idle: uvicorn's keep-alive timer looks after that
        line.say(b"GET / HT", after_seconds=500)
        assert not line.overdue(after_seconds=HEAD)
        assert line.overdue(after_seconds=HEAD + 0.1)

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
        assert line.refusals == [400]
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
        assert line.refusals == []
        assert line.connection.answering

    on_a_line(story)


SHORT = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


def departures(line: Line) -> list[Departure]:
    """Return those of all requests that the connection holds, in order."""
    return [cycle.departure for cycle in line.connection._unanswered]


def told(departure: Departure) -> list[str]:
    """Return a list that has an entry as soon as the caller has left."""
    left: list[str] = []
    departure.listen(lambda: left.append("left"))
    return left


@pytest.mark.parametrize("packets", [[SHORT * 3], [SHORT, SHORT, SHORT]], ids=["in one packet", "one by one"])
def test_every_request_of_a_caller_who_pipelined_and_left_is_told(packets: list[bytes]) -> None:
    async def story(line: Line) -> None:
        for packet in packets:
            line.say(packet)
            await asyncio.sleep(0)
        heard = [told(departure) for departure in departures(line)]
        assert len(heard) == 3
        assert not line.transport.paused  # else nobody would notice
        line.connection.connection_lost(None)
        assert heard == [["left"]] * 3

    on_a_line(story)


def test_a_departure_tells_no_request_that_was_answered() -> None:
    async def story(line: Line) -> None:
        line.say(SHORT * 2)
        first, second = (told(departure) for departure in departures(line))
        await line.answer_one()
        line.connection.connection_lost(None)
        assert (first, second) == ([], ["left"])

    on_a_line(story)


def test_more_requests_than_a_few_are_not_read_before_the_first_is_answered() -> None:
    def story(line: Line) -> None:
        line.say(SHORT * MOST_PIPELINED)
        assert not line.transport.paused
        line.say(SHORT)
        assert line.transport.paused

    on_a_line(story)


def test_caller_who_sends_no_more_gets_all_answers_and_then_the_end() -> None:
    async def story(line: Line) -> None:
        line.say(REQUEST + bytes(50) + SHORT)
        assert line.connection.eof_received()
        await line.answer_one()
        assert not line.transport.closed
        await line.answer()
        assert line.transport.written.count(b"HTTP/1.1 200") == 2
        assert line.transport.closed

    on_a_line(story)


@pytest.mark.parametrize(
    "sent", [b"", SHORT[:9], REQUEST + bytes(49)], ids=["nothing", "half a head", "a body"]
)
def test_caller_who_ends_before_a_request_is_whole_is_left(sent: bytes) -> None:
    def story(line: Line) -> None:
        line.say(sent) if sent else None
        heard = [told(departure) for departure in departures(line)]
        assert not line.connection.eof_received()
        assert heard == [["left"]] * len(heard)

    on_a_line(story)


def test_caller_who_ends_within_the_second_request_gets_the_first_answer() -> None:
    async def story(line: Line) -> None:
        line.say(SHORT + REQUEST + bytes(7))
        assert line.connection.eof_received()
        await line.answer()
        assert line.transport.written.count(b"HTTP/1.1 ") == 1
        assert line.transport.closed

    on_a_line(story)


@pytest.mark.parametrize(("version", "said"), [(b"1.1", STILL_THERE), (b"1.0", b"")])
def test_a_while_after_its_end_a_caller_who_waits_is_told_something(version: bytes, said: bytes) -> None:
    def story(line: Line) -> None:
        line.say(SHORT.replace(b"1.1", version))
        line.connection.eof_received()
        assert line.transport.written == b""
        ((seconds, probe),) = line.timers
        assert seconds == PROBE_SECONDS
        probe()
        assert line.transport.written == said

    on_a_line(story)


def test_nothing_is_said_within_or_behind_a_reply() -> None:
    async def story(line: Line) -> None:
        line.say(SHORT)
        line.connection.eof_received()
        (_, probe), *_ = line.timers
        await line.answer()
        written = line.transport.written
        probe()
        assert line.transport.written == written

    on_a_line(story)


def test_garbage_behind_good_requests_is_refused_behind_their_answers() -> None:
    async def story(line: Line) -> None:
        line.say(SHORT + REQUEST + bytes(50) + b"GARBAGE\r\n\r\n")
        assert line.transport.written == b""
        line.say(SHORT)  # is not read any more
        await line.answer()
        assert re.findall(rb"HTTP/1\.1 (\d{3})", line.transport.written) == [b"200", b"200", b"400"]
        assert line.transport.closed

    on_a_line(story)


def test_garbage_in_a_body_is_that_requests_own_answer() -> None:
    async def story(line: Line) -> None:
        line.say(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
        await asyncio.sleep(0)
        assert line.transport.written.startswith(b"HTTP/1.1 400 ")
        assert line.transport.closed

    on_a_line(story)


@pytest.mark.parametrize("leaves", [True, False])
def test_caller_who_left_while_waiting_is_told_from_one_who_only_sends_no_more(leaves: bool) -> None:
    """On a real socket: what both send is the same, and only what is said to them tells them apart."""

    async def story() -> None:
        heard: list[str] = []
        over = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[DEPARTURE].listen(lambda: (heard.append("left"), over.set()))
            await over.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", interface="asgi3")
        loop = asyncio.get_running_loop()

        def protocol() -> Inlet:
            return Inlet(
                Connection(
                    max_body_bytes=9, config=config, server_state=ServerState(), app_state={}, _loop=loop
                )
            )

        server = await loop.create_server(protocol, "127.0.0.1", 0)
        caller = socket.create_connection(server.sockets[0].getsockname())
        caller.sendall(SHORT)
        if leaves:
            caller.close()
            await asyncio.wait_for(over.wait(), 10)
            assert heard == ["left"]
        else:
            caller.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(caller.recv, len(STILL_THERE)) == STILL_THERE
            over.set()
            caller.settimeout(10)
            reply = await asyncio.to_thread(caller.recv, 100)
            assert reply.startswith(b"HTTP/1.1 200 OK")
            assert await asyncio.to_thread(caller.recv, 100) == b""
            assert heard == []
            caller.close()
        server.close()

    asyncio.run(story())
