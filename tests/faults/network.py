"""Kinds of network fault, what is right for each, and healthy callers who must notice none of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

from tests.faults import conversations as says
from tests.faults import proxy
from tests.faults.conversations import QUESTIONS, Sent, question
from tests.faults.wire import Cut, Reply, all_replies, read_from, request

ANSWER_SECONDS = 30.0  # for what must be answered
QUIET_SECONDS = 0.3  # after which a caller who is owed nothing goes

Complaint = str | None
Right = Callable[["Heard"], Complaint]


@dataclass(frozen=True, slots=True)
class Heard:
    """What one faulty caller got."""

    number: int
    request_id: str
    replies: list[Reply]
    received: bytes
    expected: dict[int, bytes]  # the body that each question must be answered with

    def wrong(self, at: int, number: int, request_id: str) -> Complaint:
        """Why reply `at` is not the right answer to a question; None when it is."""
        if at >= len(self.replies):
            return f"only {len(self.replies)} replies: {self.received[:120]!r}"
        reply = self.replies[at]
        if reply.status != 200 or reply.id != request_id:
            return f"{reply.status} to {reply.id!r} in place of {request_id!r}: {reply.body[:120]!r}"
        if number in self.expected and reply.body != self.expected[number]:
            return f"another body than on a quiet server, to {request_id}"
        return None


def answered(heard: Heard) -> Complaint:
    return heard.wrong(0, heard.number, heard.request_id)


def answered_whatever(heard: Heard) -> Complaint:
    """A right status and the right id; a body of another form than the questions' own."""
    return heard.wrong(0, -1, heard.request_id)


def answered_in_order(count: int) -> Right:
    def right(heard: Heard) -> Complaint:
        for at in range(count):
            if wrong := heard.wrong(at, (heard.number + at) % QUESTIONS, f"{heard.request_id}-{at}"):
                return wrong
        return None

    return right


def answered_twice(heard: Heard) -> Complaint:
    return heard.wrong(0, heard.number, heard.request_id) or heard.wrong(1, heard.number, heard.request_id)


def answered_after_heads(heard: Heard) -> Complaint:
    return heard.wrong(2, heard.number, heard.request_id)


def harmless(heard: Heard) -> Complaint:
    """No fault of the server's, and nothing that was hidden in a body was carried out."""
    if bad := [reply.status for reply in heard.replies if reply.status >= 500]:
        return f"answered with {bad}"
    if b"evil" in heard.received or b"EVIL" in heard.received:
        return f"a request inside another was carried out: {heard.received[:200]!r}"
    return None


def refused(heard: Heard) -> Complaint:
    if accepted := [reply.status for reply in heard.replies if reply.status < 400]:
        return f"answered with {accepted}"
    return harmless(heard)


def first_answered(heard: Heard) -> Complaint:
    """What follows a good question is no matter of that question (RFC 9112, 9.3.2)."""
    return answered(heard) or harmless(heard)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: what is sent, what happens on the way, what is right."""

    name: str
    right: Right = harmless
    sent: Sent = says.good
    treatment: proxy.Treatment = proxy.forward
    back: proxy.Back = proxy.back
    replies: int = 0  # that are owed, and waited for
    of_head: tuple[bool, ...] = ()


KINDS = (
    # on the way there
    Kind("delayed", answered, treatment=proxy.delay, replies=1),
    Kind("byte by byte", answered, treatment=proxy.dribble, replies=1),
    Kind("split everywhere", answered, treatment=proxy.split_segments, replies=1),
    Kind("split at the head's end", answered, treatment=proxy.split_at_head, replies=1),
    Kind("cut in the head", treatment=proxy.cut_in_head),
    Kind("cut in the body", treatment=proxy.cut_in_body),
    Kind("reset at once", treatment=proxy.reset_at_once),
    Kind("reset in the head", treatment=proxy.reset_in_head),
    Kind("reset in the body", treatment=proxy.reset_in_body),
    Kind("reset after the request", treatment=proxy.reset_after_request),
    Kind("half-closed after the request", answered, treatment=proxy.half_close, replies=1),
    Kind("half-closed in the body", refused, treatment=proxy.half_close_in_body),
    Kind("a wrong byte in the head", treatment=proxy.corrupt_head),
    Kind("a wrong byte in the body", treatment=proxy.corrupt_body),
    Kind("bytes twice", treatment=proxy.duplicate_bytes),
    Kind("bytes lost", treatment=proxy.lose_bytes),
    Kind("halves in the wrong order", treatment=proxy.swap_halves),
    # on the way back
    Kind("slow reader", answered_whatever, says.long_reply, back=proxy.slow_back, replies=1),
    Kind("reader who pauses", answered_whatever, says.long_reply, back=proxy.pausing_back, replies=1),
    Kind("reset while replying", sent=says.long_reply, back=proxy.resetting_back),
    Kind("closed while replying", sent=says.long_reply, back=proxy.closing_back),
    # several in one connection
    Kind("twice in one packet", answered_twice, says.twice, replies=2),
    Kind("five pipelined", answered_in_order(5), says.pipelined(5), replies=5),
    Kind(
        "fifty pipelined, split", answered_in_order(50), says.pipelined(50), proxy.split_segments, replies=50
    ),
    Kind("pipelined, then reset", sent=says.pipelined(9), treatment=proxy.reset_after_request),
    Kind(
        "HEAD and GET in front",
        answered_after_heads,
        says.heads_between,
        replies=3,
        of_head=(True, False, False),
    ),
    Kind("garbage in front", refused, says.before(lambda c: c.randbytes(40) + b"\r\n\r\n")),
    Kind("an empty line in front", answered, says.before(lambda _: b"\r\n"), replies=1),
    Kind("a line of garbage behind", first_answered, says.after(lambda _: b"GARBAGE\r\n\r\n"), replies=1),
    Kind("random bytes behind", first_answered, says.after(lambda c: c.randbytes(300)), replies=1),
    # framing
    Kind("chunks, allowed", answered_whatever, says.chunked_well, replies=1),
    Kind("chunks, split", answered_whatever, says.chunked_well, proxy.split_segments, replies=1),
    Kind("chunk with a wrong end", refused, says.bad_chunk_end),
    Kind("chunk with a wrong size", refused, says.bad_chunk_size),
    Kind("chunk longer than it says", refused, says.chunk_too_small),
    Kind("chunks without an end", refused, says.chunks_without_end, proxy.half_close),
    Kind("body longer than it says", harmless, says.length_too_short),
    Kind("body shorter than it says", refused, says.length_too_long, proxy.half_close),
    Kind("a wrong length", refused, says.bad_length),
    # smuggling
    Kind("length and chunks", refused, says.length_and_chunks),
    Kind("chunks and length", refused, says.chunks_and_length),
    Kind("two lengths", refused, says.two_lengths),
    Kind("an odd encoding", refused, says.odd_encoding),
    Kind("a space behind the encoding's name", refused, says.spaced_encoding),
    Kind("a request in the body of a GET", harmless, says.body_of_get),
    Kind("a request in the body of an upgrade", harmless, says.body_of_upgrade),
    Kind("a request in the body of a CONNECT", refused, says.body_of_connect),
    Kind("an absolute address", harmless, says.absolute_address),
    # heads
    Kind("a head of 200 kB", refused, says.huge_head),
    Kind("a head of 4,000 lines", refused, says.many_lines),
    Kind("a line without an end", refused, says.endless_line),
    Kind("bare newlines", harmless, says.bare_newlines),
    Kind("a folded line", harmless, says.folded_line),
    Kind("two hosts", refused, says.two_hosts),
    Kind("no host", refused, says.no_host),
    Kind("NUL in a head", refused, says.null_in_head),
    Kind("another protocol", refused, says.other_protocol),
    Kind("random bytes", refused, says.random_bytes),
    Kind("continue, and no body", harmless, says.expect_then_leave, proxy.half_close),
)


async def learn(port: int) -> dict[int, bytes]:
    """What each question is answered with while nothing is wrong."""
    expected = {}
    for number in range(QUESTIONS):
        reply = await one_reply(port, question(number, "learn"))
        assert reply.status == 200, reply
        expected[number] = reply.body
    return expected


async def one_reply(port: int, raw: bytes, timeout: float = ANSWER_SECONDS) -> Reply:
    """Ask on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        return await asyncio.wait_for(read_from(reader), timeout)
    finally:
        writer.close()


@dataclass(slots=True)
class Healthy:
    """Callers who keep their connections, do nothing wrong, and check every answer."""

    port: int
    expected: dict[int, bytes]
    answered: int = 0
    complaints: list[str] = field(default_factory=list)
    _over: bool = False

    @asynccontextmanager
    async def asking(self, callers: int = 3) -> AsyncIterator["Healthy"]:
        """Ask while the block runs."""
        tasks = [asyncio.create_task(self._ask(number)) for number in range(callers)]
        try:
            yield self
        finally:
            self._over = True
            await asyncio.gather(*tasks)

    async def _ask(self, caller: int) -> None:
        chance = Random(caller)
        reader = writer = None
        while not self._over:
            number, request_id = chance.randrange(QUESTIONS), f"healthy-{caller}-{chance.getrandbits(48):x}"
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                assert reader is not None
                writer.write(question(number, request_id))
                reply = await asyncio.wait_for(read_from(reader), ANSWER_SECONDS)
            except (OSError, TimeoutError, Cut) as problem:
                self.complaints.append(f"healthy caller: {problem!r}")
                writer = None
                await asyncio.sleep(0.1)
                continue
            heard = Heard(number, request_id, [reply], b"", self.expected)
            if wrong := answered(heard):
                self.complaints.append(f"healthy caller: {wrong}")
            self.answered += 1
            await asyncio.sleep(0.005)
        if writer is not None:
            writer.close()


@dataclass(slots=True)
class Trial:
    """One server behind a faulty proxy, with healthy callers beside."""

    proxy: proxy.Proxy
    healthy: Healthy
    expected: dict[int, bytes]
    chance: Random
    statuses: Counter[int | str] = field(default_factory=Counter)

    @classmethod
    @asynccontextmanager
    async def of(cls, port: int, seed: int = 5) -> AsyncIterator["Trial"]:
        """Learn the answers, then run proxy and healthy callers while the block runs."""
        chance = Random(seed)
        expected = await learn(port)
        async with (
            proxy.Proxy(port, chance).running() as faulty,
            Healthy(port, expected).asking() as healthy,
        ):
            yield cls(faulty, healthy, expected, chance)

    async def run(self, kind: Kind, count: int, *, at_a_time: int = 10) -> list[str]:
        """Do a fault `count` times; returns what was wrong, healthy callers' complaints included."""
        self.proxy.faulty(kind.treatment, kind.back)
        complaints = []
        for first in range(0, count, at_a_time):
            several = (self._one(kind) for _ in range(min(at_a_time, count - first)))
            complaints += [wrong for wrong in await asyncio.gather(*several) if wrong]
            probe = await one_reply(self.healthy.port, request("GET", "/health"))
            if probe.status != 200:
                complaints.append(f"/health says {probe.status}")
        complaints += self.healthy.complaints
        self.healthy.complaints.clear()
        return complaints

    async def _one(self, kind: Kind) -> Complaint:
        number, request_id = self.chance.randrange(QUESTIONS), f"faulty-{self.chance.getrandbits(48):x}"
        received = await self._hear(kind, kind.sent(self.chance, number, request_id))
        try:
            replies, _ = all_replies(received, kind.of_head)
        except (Cut, ValueError, KeyError) as problem:
            return f"what came is no reply: {problem!r} {received[:200]!r}"
        self.statuses.update([reply.status for reply in replies] or ["closed"])
        return kind.right(Heard(number, request_id, replies, received, self.expected))

    async def _hear(self, kind: Kind, raw: bytes) -> bytes:
        """Send through the proxy and listen until what is owed has come, all is quiet, or the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        received = b""
        with suppress(OSError, TimeoutError):
            writer.write(raw)
            await writer.drain()
            patience = ANSWER_SECONDS if kind.replies else QUIET_SECONDS
            while piece := await asyncio.wait_for(reader.read(1 << 18), patience):
                received += piece
                if kind.replies and _count(received, kind) >= kind.replies:
                    patience = QUIET_SECONDS / 10
        writer.close()
        return received


def _count(received: bytes, kind: Kind) -> int:
    with suppress(Cut, ValueError, KeyError):
        return len(all_replies(received, kind.of_head)[0])
    return 0
