"""RemoteRuntime against a Device in the same process: everything real but the processes."""

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from models.errors import DeviceFailed, OutOfMemory, TextError, TooLong, UnknownModel
from models.outputs import Selection
from models.protocol import Answer, BatchResult, Item, ModelCard, Tokens
from models.signs import Signs
from models.text import Tokenizer
from service.errors import Unavailable
from service.processes.channel import Channel
from service.processes.device import SHORT_TOKENS, Device, Link
from service.processes.line import LINES, Line
from service.processes.parcel import KEPT_BYTES
from service.processes.remote import RemoteRuntime
from tests.fakes import FakeRuntime, fake_card
from tests.service.processes.waiters import wait_for_waiters
from tests.waiting import wait_until


class Panic(BaseException):
    """As native code's panics come: no Exception."""


class Pausing(FakeRuntime):
    """A runtime that pauses once before each batch; `order` has the first number of every batch it ran."""

    def __init__(self) -> None:
        super().__init__(fake_card(max_tokens=None, handle=object()))
        self.order: list[float] = []
        self.paused = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def run(
        self, batch: Sequence[Item], *, slots: int = 1, pause: Callable[[], int | None] | None = None
    ) -> BatchResult:
        if pause is not None:
            self.paused.set()
            assert self.go_on.wait(30)
            pause()
        assert isinstance(batch[0].input, Tokens)
        assert batch[0].input.embeddings is not None
        self.order.append(float(batch[0].input.embeddings[0, 0]))
        return super().run(batch, slots=slots)

    def load(self, name: str) -> ModelCard:
        self._cards[name] = fake_card(name, version="2", handle=object())
        return self._cards[name]


class Served:
    def __init__(self, runtime: FakeRuntime, count: int = 1) -> None:
        self.runtime = runtime
        self.fds: list[int] = []
        self.channels: list[Channel] = []
        self.lines: list[list[Line]] = []  # of each remote
        links = []
        self.remotes = []
        for _ in range(count):
            control = self._pair()
            ends = [Line.pair() for _ in range(LINES)]
            theirs = [line for _, fds in ends for line in Line.at(fds)]
            self.fds += [fd for _, (_, *arenas) in ends for fd in arenas]
            self.channels += [line.batches for line in (*theirs, *(line for line, _ in ends))]
            links.append(Link(control=control[0], lines=[line for line, _ in ends]))
            self.lines.append(theirs)
            self.remotes.append(RemoteRuntime(control=control[1], lines=theirs))
        self.device = Device(links, on_news=lambda: None)
        self.device.start(runtime)
        for remote in self.remotes:
            remote.start()

    def _pair(self) -> tuple[Channel, Channel]:
        one, other = socket.socketpair()
        self.channels += [Channel(one), Channel(other)]
        return self.channels[-2], self.channels[-1]

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def serve(runtime: FakeRuntime | None = None, count: int = 1) -> Served:
        started.append(Served(runtime or FakeRuntime(), count))
        return started[-1]

    yield serve
    for one in started:
        one.close()


def item(card: ModelCard, first: float = 1.0, tokens: int = 2) -> Item:
    x = np.full((tokens, 4), first, dtype=np.float32)
    return Item(card=card, input=Tokens(embeddings=x), selection=Selection(outputs=("z",)))


def z(result: BatchResult, place: int = 0) -> float:
    answer = result.answers[place]
    assert isinstance(answer, Answer)
    return float(answer.tensors["z"][0, 0])


def test_answers_are_the_runtimes_and_stay_when_the_next_batch_runs(serve: Callable[..., Served]) -> None:
    (remote,) = serve().remotes
    first = remote.run([item(remote.card("fake"), 3.0)])
    remote.run([item(remote.card("fake"), 5.0)])
    assert z(first) == 6.0
    assert first.computed_tokens == 2


def test_an_answer_beyond_what_is_kept_of_the_shared_memory_arrives_whole(
    serve: Callable[..., Served],
) -> None:
    (remote,) = serve().remotes
    tokens = KEPT_BYTES // 8  # of four numbers: twice what is kept
    for first in (3.0, 5.0):
        result = remote.run([item(remote.card("fake"), first, tokens)])
        (answer,) = result.answers
        assert isinstance(answer, Answer)
        assert (answer.tensors["z"] == 2 * first).all()


def test_batches_are_on_their_way_side_by_side_each_on_a_line_of_its_own(
    serve: Callable[..., Served],
) -> None:
    runtime = FakeRuntime()
    runtime.slots = LINES
    meeting = threading.Barrier(LINES)
    runtime.before_run = lambda _: meeting.wait(10)  # type: ignore[assignment, return-value]
    (remote,) = serve(runtime).remotes
    assert remote.slots == LINES
    card = remote.card("fake")
    with ThreadPoolExecutor(LINES) as threads:
        found = list(threads.map(lambda first: remote.run([item(card, first)]), [1.0, 2.0, 3.0, 4.0]))
    assert [z(result) for result in found] == [2.0, 4.0, 6.0, 8.0]


def test_questions_are_answered_as_the_runtime_does(serve: Callable[..., Served]) -> None:
    served = serve()
    (remote,) = served.remotes
    real = served.runtime
    assert [replace(card, handle=None) for card in remote.cards()] == real.cards()
    assert remote.index() == real.index()
    assert remote.memory() == real.memory()
    ours, theirs = (one.tokenize(one.card("fake"), "a b", "c") for one in (remote, real))
    assert np.array_equal(ours.ids, theirs.ids)
    assert (ours.tokens, ours.offsets) == (theirs.tokens, theirs.offsets)
    with pytest.raises(TooLong, match="17 tokens"):
        remote.tokenize(remote.card("fake"), "a " * 17)
    with pytest.raises(UnknownModel):
        remote.unload("none")
    with pytest.raises(UnknownModel):
        remote.card("fake", "9")


@pytest.mark.parametrize("error", [OutOfMemory("too large"), MemoryError(), RuntimeError("a fault")])
def test_failure_of_a_batch_is_that_batchs_alone(serve: Callable[..., Served], error: Exception) -> None:
    failures = [error]

    def before(_: Sequence[Item]) -> None:
        if failures:
            raise failures.pop()

    (remote,) = serve(FakeRuntime(before_run=before)).remotes
    with pytest.raises(OutOfMemory if not isinstance(error, RuntimeError) else RuntimeError):
        remote.run([item(remote.card("fake"))])
    assert z(remote.run([item(remote.card("fake"))])) == 2.0


def test_tokenizing_asks_the_device_process_nothing(serve: Callable[..., Served]) -> None:
    served = serve()
    (remote,) = served.remotes
    card = remote.card("fake")
    for channel in served.channels:
        channel.close()
    assert remote.tokenize(card, "b a").tokens == ("b", "a")
    again = Tokenizer.read(remote.written_tokenizer(card) or {})
    assert again.encode("b a").ids.tolist() == [98, 97]


def test_model_that_takes_no_text_has_no_tokenizer_here_either(serve: Callable[..., Served]) -> None:
    (remote,) = serve(FakeRuntime(fake_card(inputs=("embeddings",)))).remotes
    assert remote.written_tokenizer(remote.card("fake")) is None
    with pytest.raises(TextError, match="no tokenizer"):
        remote.tokenize(remote.card("fake"), "a")


def test_question_that_panics_is_answered_with_an_error(serve: Callable[..., Served]) -> None:
    served = serve()

    def panic() -> list[dict[str, str]]:
        raise Panic("called `Option::unwrap()` on a `None` value")

    served.runtime.index = panic  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="unwrap"):
        served.remotes[0].index()
    assert z(served.remotes[0].run([item(served.remotes[0].card("fake"))])) == 2.0


def test_question_that_is_not_answered_in_time_is_refused_and_keeps_no_other_waiting(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    (remote,) = served.remotes
    monkeypatch.setattr(remote, "_load_seconds", 0.01)
    go_on = threading.Event()
    real = served.runtime.load

    def slow(name: str) -> ModelCard:
        assert go_on.wait(30)
        return real(name)

    served.runtime.load = slow  # type: ignore[method-assign]
    for number in range(8):
        with pytest.raises(Unavailable, match="has not answered load within"):
            remote.load(f"model-{number}")
    assert remote.index() == served.runtime.index()
    go_on.set()
    wait_until(lambda: len(remote.cards()) == 9, "each is loaded all the same, on a thread of its own")


def test_device_process_tells_how_it_is_whenever_it_hears_of_a_process(serve: Callable[..., Served]) -> None:
    served = serve(count=2)
    one, other = served.remotes
    link = served.device._links[0]
    assert link.silent_seconds(time.monotonic()) == 0  # it does not listen yet
    served.runtime.signs = Signs(lambda: silence)
    silence = 0.0
    served.runtime.signs.begin()
    silence = 42.0
    one.alive(7.0)
    wait_until(lambda: one.silent_seconds >= 42, "the silence is told by another thread")
    assert link.silent_seconds(time.monotonic()) >= 7
    assert one.memory() == served.runtime.memory()
    assert other.silent_seconds < 42
    served.device.tell_trouble("a process hangs")
    wait_until(lambda: (one.trouble, other.trouble) == ("a process hangs",) * 2, "both know of the trouble")
    served.device.tell_trouble("")
    wait_until(lambda: not (one.trouble or other.trouble), "the trouble is over")


def test_device_failure_is_told_to_every_process(serve: Callable[..., Served]) -> None:
    def before(_: Sequence[Item]) -> None:
        raise DeviceFailed("fell off the bus")

    served = serve(FakeRuntime(before_run=before), 2)
    told = [threading.Event(), threading.Event()]
    for remote, event in zip(served.remotes, told, strict=True):
        remote.on_failed = event.set
    with pytest.raises(DeviceFailed):
        served.remotes[0].run([item(served.remotes[0].card("fake"))])
    assert all(event.wait(20) for event in told)
    assert served.device.failed.is_set()


def test_pause_runs_the_processs_own_batches_first(serve: Callable[..., Served]) -> None:
    served = serve(Pausing())
    (remote,) = served.remotes
    card = remote.card("fake")
    inner: list[float] = []

    def pause() -> None:
        inner.extend(z(remote.run([item(card, first)])) for first in (2.0, 3.0))

    outer = remote.run([item(card, 1.0, tokens=9000)], pause=pause)
    assert inner == [4.0, 6.0]
    assert z(outer) == 2.0
    assert served.runtime.order == [2.0, 3.0, 1.0]


@pytest.mark.parametrize(("tokens", "order"), [(2, [2.0, 1.0]), (SHORT_TOKENS + 1, [1.0, 2.0])])
def test_pause_lets_short_batches_of_other_processes_go_first(
    serve: Callable[..., Served], tokens: int, order: list[float]
) -> None:
    runtime = Pausing()
    runtime.go_on.clear()
    served = serve(runtime, 2)
    one, other = served.remotes
    results: list[float] = []
    long = threading.Thread(
        target=lambda: results.append(z(one.run([item(one.card("fake"), 1.0, 9000)], pause=lambda: None)))
    )
    long.start()
    assert runtime.paused.wait(20)
    short = threading.Thread(
        target=lambda: results.append(z(other.run([item(other.card("fake"), 2.0, tokens)])))
    )
    short.start()
    wait_for_waiters(served.device._slots, 1)  # on its way to the device it is seen by no pause
    runtime.go_on.set()
    long.join(20)
    short.join(20)
    assert runtime.order == order
    assert sorted(results) == [2.0, 4.0]


def test_model_that_was_replaced_is_kept_until_nothing_refers_to_it(serve: Callable[..., Served]) -> None:
    runtime = Pausing()
    served = serve(runtime)
    (remote,) = served.remotes
    old = remote.card("fake")
    assert remote.load("fake").version == "2"
    assert remote.card("fake").handle is not old.handle
    assert z(remote.run([item(old)])) == 2.0
    assert len(served.device._numbered) == 2
    del old
    runtime.batches.clear()
    gc.collect()
    wait_until(lambda: len(served.device._numbered) == 1, "the old card is forgotten")
    assert z(remote.run([item(remote.card("fake"))])) == 2.0


def test_model_that_was_loaded_through_one_process_is_served_by_the_others_by_then(
    serve: Callable[..., Served],
) -> None:
    one, other = serve(count=2).remotes
    for number in range(20):
        one.load(f"model-{number}")
        assert other.tokenize(other.card(f"model-{number}"), "a").tokens == ("a",)
        one.unload(f"model-{number}")
        with pytest.raises(UnknownModel):
            other.card(f"model-{number}")


def test_process_that_ends_leaves_the_others_served(serve: Callable[..., Served]) -> None:
    served = serve(count=2)
    one, other = served.remotes
    for line in served.lines[0]:
        line.batches.close()
    one._control.close()
    assert z(other.run([item(other.card("fake"))])) == 2.0


def test_device_process_that_ends_before_its_first_word_fails_the_start() -> None:
    one, other = socket.socketpair()
    control = Channel(other)
    one.close()
    remote = RemoteRuntime(control=control, lines=[])
    with pytest.raises(DeviceFailed):
        remote.start()
    assert remote.gone
    control.close()
