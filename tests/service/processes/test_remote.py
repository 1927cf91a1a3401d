"""RemoteModels: what an HTTP process knows of the device process's models and health."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from models.device.signs import Signs
from models.errors import DeviceFailed, TextError, TooLong, UnknownModel
from models.heads.sets import HeadSet
from models.pooling_spec import PooledCard
from models.protocol import ModelCard
from models.text.tokenizer import Tokenizer
from service.batching.engine import BatchReport
from service.errors import Unavailable
from service.processes.channel import Channel
from service.processes.device import BEGIN_SECONDS
from service.processes.messages import ToHttp
from service.processes.remote import RemoteModels
from tests.fakes import FakeRuntime, fake_card
from tests.queueing import HeldRuntime, sequence
from tests.service.processes.served import Served, submit
from tests.waiting import wait_until

Serve = Callable[..., Served]


class Panic(BaseException):
    """As native code's panics come: no Exception."""


class Reloading(HeldRuntime):
    """A runtime that serves the second version of whatever is loaded."""

    def load(self, name: str) -> ModelCard:
        self._cards[name] = fake_card(name, version="2", handle=object())
        return self._cards[name]


def test_questions_are_answered_as_the_runtime_does(serve: Serve) -> None:
    served = serve()
    (remote,) = served.models
    real = served.runtime
    assert [replace(card, handle=None) for card in remote.cards()] == real.cards()
    assert remote.index() == real.index()
    assert remote.memory() == real.memory()
    ours, theirs = (one.tokenize(one.card("fake"), "a b", "c") for one in (remote, real))
    assert np.array_equal(ours.ids, theirs.ids)
    assert (ours.tokens, ours.offsets) == (theirs.tokens, theirs.offsets)
    assert remote.tokens_of(remote.card("fake"), "a " * 17, special=False).tokens == ("a",) * 17
    assert remote.text_of(remote.card("fake"), ours.ids.tolist()) == "a b c"
    with pytest.raises(TooLong, match="17 tokens"):
        remote.tokenize(remote.card("fake"), "a " * 17)
    with pytest.raises(UnknownModel):
        remote.unload("none")
    with pytest.raises(UnknownModel):
        remote.card("fake", "9")


def test_every_field_of_a_card_arrives(serve: Serve) -> None:
    pooled = PooledCard(width=3, pooling="mean", normalized=True, prompts={"query": "q: "}, dimensions=(2, 3))
    card = fake_card(
        pooled=pooled,
        notes=("a note",),
        not_offered={"text": "why"},
        head_sets={"qr": HeadSet(pairs=((1, 0),), weights=(0.5,), source="who", skip=(1, 1))},
        examples=("ein Satz",),
        spec={"windows": [None, 4], "scale": 0.5, "inner": {"kind": "x"}},
        part="decoder",
        d_input=7,
    )
    (remote,) = serve(FakeRuntime(card)).models
    assert replace(remote.card("fake"), handle=None) == card


def test_tokenizing_asks_the_device_process_nothing(serve: Serve) -> None:
    served = serve()
    (remote,) = served.models
    card = remote.card("fake")
    for channel in served.channels:
        channel.close()
    assert remote.tokenize(card, "b a").tokens == ("b", "a")


def test_model_that_takes_no_text_has_no_tokenizer_here_either(serve: Serve) -> None:
    (remote,) = serve(FakeRuntime(fake_card(inputs=("embeddings",)))).models
    with pytest.raises(TextError, match="no tokenizer"):
        remote.tokenize(remote.card("fake"), "a")


def test_tokenizer_that_arrives_reads_as_the_one_that_was_sent(serve: Serve) -> None:
    (remote,) = serve().models
    tokenizer = remote.card("fake").handle.tokenizer  # type: ignore[attr-defined]
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.encode("b a").ids.tolist() == [98, 97]


def test_question_that_panics_is_answered_with_an_error(serve: Serve) -> None:
    served = serve()

    def panic() -> list[dict[str, str]]:
        raise Panic("called `Option::unwrap()` on a `None` value")

    real = served.runtime.index
    served.runtime.index = panic
    with pytest.raises(RuntimeError, match="unwrap"):
        served.models[0].index()
    served.runtime.index = real
    assert served.models[0].index() == real()


def test_question_that_is_not_answered_in_time_is_refused_and_keeps_no_other_waiting(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.processes.remote.QUESTION_SECONDS", 0.01)
    served = serve()
    (remote,) = served.models
    remote.load_seconds = 0.0
    go_on = threading.Event()
    real = served.runtime.load

    def slow(name: str) -> ModelCard:
        assert go_on.wait(30)
        card: ModelCard = real(name)
        return card

    served.runtime.load = slow
    for number in range(8):
        with pytest.raises(Unavailable, match="has not answered load within"):
            remote.load(f"model-{number}")
    monkeypatch.undo()
    assert remote._ask("index", within_seconds=30).index == served.runtime.index()
    go_on.set()
    wait_until(lambda: len(remote.cards()) == 9, "each is loaded all the same, on a thread of its own")


def test_device_process_tells_how_it_is_whenever_it_hears_of_a_process(serve: Serve) -> None:
    served = serve(count=2)
    one, other = served.models
    link = served.links[0]
    now = time.monotonic()
    assert link.silent_seconds(now) == 0  # it has not begun yet
    wait_until(lambda: link.silent_seconds(now + 2 * BEGIN_SECONDS) > 0, "it should have begun by then")
    served.runtime.signs = Signs(lambda: silence)
    silence = 0.0
    running = served.runtime.signs.running()
    running.__enter__()
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


def test_model_that_was_replaced_is_kept_until_nothing_refers_to_it(serve: Serve) -> None:
    served = serve(Reloading(fake_card(handle=object())))
    (remote,), (engine,) = served.models, served.engines

    async def run() -> None:
        served.start()
        old = remote.card("fake")
        asked = await served.hold(sequence(card=old))
        waiting = submit(engine, [sequence(card=old, value=3.0)])
        assert remote.load("fake").version == "2"
        assert remote.card("fake").handle is not old.handle
        late = submit(engine, [sequence(card=old, value=4.0)])
        del old
        gc.collect()
        await served.queued(3)
        served.runtime.gate.set()
        values = [(await one.result()).answers[0].tensors["z"][0, 0] for one in (asked, waiting, late)]
        assert values == [2.0, 6.0, 8.0]
        assert {item.card.version for batch in served.runtime.batches for item in batch} == {"1"}
        for ticket in (asked, waiting, late):
            ticket.cancel()

    assert len(served.device._numbered) == 1
    asyncio.run(run())
    served.runtime.batches.clear()
    gc.collect()
    wait_until(lambda: len(served.device._numbered) == 1, "the old card is forgotten")
    assert remote.card("fake").version == "2"


def test_model_that_was_loaded_through_one_process_is_served_by_the_others_by_then(serve: Serve) -> None:
    one, other = serve(count=2).models
    for number in range(20):
        one.load(f"model-{number}")
        assert other.tokenize(other.card(f"model-{number}"), "a").tokens == ("a",)
        one.unload(f"model-{number}")
        with pytest.raises(UnknownModel):
            other.card(f"model-{number}")


def test_each_batch_is_told_to_one_process_once(serve: Serve) -> None:
    served = serve(count=2)
    told: list[int] = []
    for models in served.models:
        models.on_batch = lambda batch: told.append(batch.sequences)

    async def run() -> None:
        served.start()
        for process in (0, 1, 0):
            card = served.models[process].card("fake")
            ticket = submit(served.engines[process], [sequence(card=card), sequence(card=card)])
            await ticket.result()
            ticket.cancel()

    asyncio.run(run())
    wait_until(lambda: len(served.device._batches) == 3, "the last batch is noted after its caller is told")
    for models in (*served.models, *served.models):
        models.alive(0.0)
    wait_until(lambda: len(told) >= 3, "what has run is told")
    assert told == [2, 2, 2]


def test_batch_is_told_with_the_traces_of_all_processes_in_it(serve: Serve) -> None:
    served = serve(count=2)
    told: list[BatchReport] = []
    served.models[0].on_batch = told.append

    async def run() -> None:
        served.start()
        holding = await served.hold(sequence(card=served.models[0].card("fake")))
        asked = []
        for process, trace in ((0, "00-a-a-01"), (1, "00-b-b-01"), (1, "")):
            engine = served.engines[process]
            draft = engine.draft([sequence(card=served.models[process].card("fake"))])
            asked.append(engine.admit(replace(draft, trace=trace)))
        await served.queued(4)
        served.runtime.gate.set()
        for ticket in (holding, *asked):
            await ticket.result()
            ticket.cancel()

    asyncio.run(run())
    wait_until(lambda: len(served.device._batches) == 2, "the last batch is noted after its caller is told")
    served.models[0].alive(0.0)
    wait_until(lambda: len(told) == 2, "what has run is told")
    assert [set(batch.traces) for batch in told] == [set(), {"00-a-a-01", "00-b-b-01"}]
    assert all(0 < batch.started <= batch.ended <= time.monotonic() for batch in told)


def test_device_process_that_ends_before_its_first_word_fails_the_start() -> None:
    one, other = socket.socketpair()
    control: Channel[ToHttp] = Channel(other, takes=ToHttp)
    one.close()
    models = RemoteModels(control)
    with pytest.raises(DeviceFailed):
        models.start()
    assert models.gone
    control.close()
