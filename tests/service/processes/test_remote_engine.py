"""The queue that several HTTP processes share: what holds of one process's requests, and of all together."""

import asyncio
import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from models.edit import Edit
from models.errors import OutOfMemory, TooLong
from models.mechanism import AttentionSpec
from models.outputs import Mix, Selection, Share
from models.protocol import QKV, Item, Tokens
from service.batching.job import Completed
from service.batching.limits import Limits
from service.errors import DeadlineExceeded, HeedError, Invalid, NotFinite, Overloaded, TooLarge, Unavailable
from service.processes.memory import Memory, Region
from service.processes.remote_engine import AT_ONCE_BYTES
from tests.fakes import fake_card
from tests.halved import HALVES, halved
from tests.queueing import HeldRuntime, sequence
from tests.service.processes.served import Served, broken, first_numbers, outcome, submit, until

Serve = Callable[..., Served]
TOO_LARGE = 2e30


def z(done: Completed | HeedError, index: int = 0) -> float:
    assert isinstance(done, Completed), done
    return float(done.answers[index].tensors["z"][0, 0])


def item(served: Served, value: float = 1.0, *, tokens: int = 2, process: int = 0) -> Item:
    return sequence(tokens, card=served.models[process].card("fake"), value=value)


# ---- one process


def test_every_kind_of_input_reaches_the_device_as_it_was_sent(serve: Serve) -> None:
    ran: list[Item] = []  # copied: their memory is free once they are answered
    served = serve(HeldRuntime(before_run=lambda batch: ran.extend(copy.deepcopy(batch))))
    card = served.models[0].card("fake")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    chosen = Selection(outputs=("z", "weights"), layers=(0, 1), layer_axis=True, heads=(1,), rows=(0, 2))
    spans = Selection(outputs=("weights",), spans=((0, 1), (1, 3)), dtype="float16")
    rule = AttentionSpec(causal=True, softcap=5.5, left_window=3)
    bias = np.full((3, 3), -np.inf, dtype=np.float32)
    sent = [
        Item(card=card, input=Tokens(embeddings=x, mask=np.array([True, False, True])), selection=chosen),
        Item(card=card, input=Tokens(embeddings=x, memory=x + 1, prompt=1), selection=chosen),
        Item(card=card, input=Tokens(ids=np.array([1, 2**40]), type_ids=np.array([0, 0])), selection=spans),
        Item(card=card, input=Tokens(embeddings=x.astype(np.float64)), selection=chosen, deterministic=True),
        Item(card=card, input=Tokens(embeddings=x + 2), selection=PAIRS, edits=edits(x)),
        *(
            Item(
                card=card,
                input=Tokens(embeddings=halved(x, kind), memory=halved(x + 1, kind)),
                selection=chosen,
            )
            for kind in HALVES
        ),
    ]
    direct = QKV(query=x[None], key=x[None], value=x[None], mask=bias, rule=rule, head_axis=False)
    blocked = Edit(verb="block", at=((0, 0),), keys=((1, 2),))
    alone = Item(card=None, input=direct, selection=Selection(outputs=("weights",)), edits=(blocked,))
    narrow = [
        Item(card=None, input=QKV(query=y, key=y, value=y, mask=y), selection=Selection(outputs=("weights",)))
        for y in (halved(x[None, :, :3], kind) for kind in HALVES)
    ]

    async def run() -> None:
        served.start()
        for items in (sent, [alone], narrow):
            done = await outcome(submit(served.engines[0], items))
            assert isinstance(done, Completed)
            assert [tuple(answer.tensors) for answer in done.answers] == [
                one.selection.outputs for one in items
            ]

    asyncio.run(run())
    for given in (*sent, alone, *narrow):
        (got,) = [one for one in ran if same_input(one.input, given.input)]
        assert (got.selection, got.deterministic) == (given.selection, given.deterministic)
        assert (got.card is None) == (given.card is None)
        assert len(got.edits) == len(given.edits)
        assert all(map(same_fields, got.edits, given.edits))


PAIRS = Selection(
    outputs=("z", "weights"),
    pairs=((1, 0), (0, 1)),
    mix=Mix(
        pairs=((1, 0), (0, 1)),
        weights=(0.5, -2.0),
        columns=((0, 1), (1, 3)),
        reduce="mean",
        symmetric=True,
        apc=True,
        skip=(1, 1),
        bias=0.25,
        sigmoid=True,
    ),
    share=Share(of=((0, 1),), over=((0, 1), (2, 3))),
    targets=(7, 2**31),
)


def edits(x: np.ndarray) -> tuple[Edit, ...]:
    """One of each verb, with every kind of value."""
    at = ((1, 0), (0, 1))
    return (
        Edit(verb="set", at=at, queries=((0, 1), (2, 3)), value=x[:2, None, :2].repeat(2, 1)),
        Edit(verb="pattern", at=at, value=x[:3, :3]),
        Edit(verb="add", at=at, keys=((0, 1),), value=-4.5),
        Edit(verb="block", at=at, queries=((1, 3),), keys=((0, 1), (2, 3))),
        Edit(verb="pattern", at=at[:1], value="previous"),
        Edit(verb="scale", at=at[:1], value=0.0),
    )


def same_input(one: Tokens | QKV, other: Tokens | QKV) -> bool:
    """Equal in kind, and in every field."""
    return type(one) is type(other) and same_fields(one, other)


def same_fields(one: object, other: Tokens | QKV | Edit) -> bool:
    """Equal in every field, and every array in type, shape and every bit."""

    def bits(value: object) -> object:
        return (value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    return all(bits(getattr(one, name)) == bits(getattr(other, name)) for name in other.__dataclass_fields__)


def test_answers_are_the_runtimes_and_stay_when_others_come(serve: Serve) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        kept = [
            await outcome(submit(served.engines[0], [item(served, n), item(served, -n)])) for n in range(40)
        ]
        assert [(z(one), z(one, 1)) for one in kept] == [(2 * n, -2 * n) for n in range(40)]
        assert served.memories[0].used > 0
        del kept

    asyncio.run(run())
    gc.collect()
    assert served.memories[0].used == 0


def test_inputs_too_large_for_the_event_loop_are_copied_beside_it(serve: Serve) -> None:
    limits = Limits(max_queued_tokens=1 << 22, max_sequence_tokens=1 << 21, max_queued_scores=1 << 50)
    served = serve(HeldRuntime(fake_card(max_tokens=None)), limits=limits)
    tokens = AT_ONCE_BYTES // 16 + 1

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        asked = [submit(engine, [item(served, 3.0, tokens=tokens)]), submit(engine, [item(served)])]
        leaves = submit(engine, [item(served, 5.0, tokens=tokens)])
        leaves.cancel()
        large, small = [await outcome(ticket) for ticket in asked]
        assert z(small) == 2.0
        assert isinstance(large, Completed)
        assert (large.answers[0].tensors["z"] == 6.0).all()
        await until(lambda: not engine._sent, "the one that left is forgotten")

    asyncio.run(run())
    assert [5.0] not in [first_numbers(batch) for batch in served.runtime.batches]


def test_failed_sequence_fails_its_request_and_no_other(serve: Serve) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        holding = await served.hold(item(served))
        asked = [
            submit(engine, [item(served, 3.0)]),
            submit(engine, [item(served), item(served, TOO_LARGE)]),
            submit(engine, [item(served, 5.0)]),
        ]
        await served.queued(4)
        served.runtime.gate.set()
        done = [await outcome(ticket) for ticket in asked]
        assert (z(done[0]), z(done[2])) == (6.0, 10.0)
        assert isinstance(done[1], NotFinite)
        assert done[1].message.startswith("inputs[1]: ")
        await outcome(holding)
        await until(lambda: not engine._sent, "all is over")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (OutOfMemory("too large"), Unavailable, "out_of_memory"),
        (MemoryError(), Unavailable, "out_of_memory"),
        (RuntimeError("a fault"), HeedError, "internal"),
    ],
)
def test_failed_batch_is_that_batchs_alone(
    serve: Serve, error: Exception, kind: type[HeedError], code: str
) -> None:
    failures = [error]

    def before(_: Sequence[Item]) -> None:
        if failures:
            raise failures.pop()

    served = serve(HeldRuntime(before_run=before))

    async def run() -> None:
        served.start()
        first, second = [await outcome(submit(served.engines[0], [item(served)])) for _ in range(2)]
        assert (type(first), first.code) == (kind, code)  # type: ignore[union-attr]
        assert z(second) == 2.0

    asyncio.run(run())


def test_answer_that_does_not_fit_fails_its_request_and_writes_over_no_other(serve: Serve) -> None:
    served = serve()
    real = served.runtime._answer

    def answer(asked: Item) -> object:
        found = real(asked)
        if first_numbers([asked]) == [7.0]:
            found.tensors["z"] = np.full((1000, 4), 9.0, dtype=np.float32)
        return found

    served.runtime._answer = answer

    async def run() -> None:
        served.start()
        holding = await served.hold(item(served))
        asked = [submit(served.engines[0], [item(served, value)]) for value in (3.0, 7.0, 5.0)]
        await served.queued(4)
        served.runtime.gate.set()
        done = [await outcome(ticket) for ticket in asked]
        assert (z(done[0]), z(done[2])) == (6.0, 10.0)
        assert isinstance(done[1], HeedError)
        assert done[1].code == "internal"
        await outcome(holding)

    asyncio.run(run())


def test_what_is_too_large_is_refused_before_anything_crosses(serve: Serve) -> None:
    served = serve(limits=Limits(max_sequence_tokens=4))
    told: list[tuple[int, int]] = []

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        with pytest.raises(TooLarge, match="inputs\\[0\\] has 5 tokens"):
            submit(engine, [item(served, tokens=5)])

        def refuse(result_bytes: int, input_bytes: int) -> None:
            told.append((result_bytes, input_bytes))
            raise Unavailable("no memory", code="out_of_memory")

        with pytest.raises(Unavailable, match="no memory"):
            submit(engine, [item(served)], reserve=refuse)
        assert engine.queued_requests == 0

    asyncio.run(run())
    assert told == [(32, 64)]  # of copied inputs, aligned
    assert served.memories[0].used == 0
    assert served.runtime.batches == []


def test_memory_that_the_system_has_not_got_refuses_the_request_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        with monkeypatch.context() as broken_system:

            def truncate(fd: int, size: int) -> None:
                raise OSError("no memory")

            broken_system.setattr("os.ftruncate", truncate)
            with pytest.raises(Unavailable) as refused:
                submit(engine, [item(served)])
        assert refused.value.code == "out_of_memory"
        assert engine.queued_requests == 0
        assert z(await outcome(submit(engine, [item(served)]))) == 2.0

    asyncio.run(run())


def test_memory_that_the_device_process_cannot_map_refuses_the_request_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        with monkeypatch.context() as broken_system:
            region = Memory.region

            def mapped(memory: Memory, *place: int) -> Region:
                if type(memory) is Memory:
                    raise OSError("no memory")
                return region(memory, *place)

            broken_system.setattr(Memory, "region", mapped)
            refused = await outcome(submit(engine, [item(served)]))
        assert isinstance(refused, Unavailable)
        assert refused.code == "out_of_memory"
        assert z(await outcome(submit(engine, [item(served)]))) == 2.0

    asyncio.run(run())


# ---- several


def test_a_batch_holds_requests_of_several_processes(serve: Serve) -> None:
    served = serve(count=3)

    async def run() -> None:
        served.start()
        holding = await served.hold(item(served))
        asked = [
            submit(served.engines[process], [item(served, float(process), process=process)])
            for process in (0, 1, 2, 1)
        ]
        await served.queued(5)
        served.runtime.gate.set()
        assert [z(await outcome(ticket)) for ticket in asked] == [0.0, 2.0, 4.0, 2.0]
        await outcome(holding)

    asyncio.run(run())
    assert served.runtime.sizes == [1, 4]
    assert sorted(first_numbers(served.runtime.batches[1])) == [0.0, 1.0, 1.0, 2.0]


def test_linked_inputs_of_a_process_are_one_job_with_sources_by_places_in_the_batch(serve: Serve) -> None:
    ran: list[tuple[float, int | None]] = []

    def note(batch: Sequence[Item]) -> None:
        values = first_numbers(batch)
        for one, value in zip(batch, values, strict=True):
            ran.extend((value, int(values[edit.source])) for edit in one.edits if edit.source is not None)

    served = serve(HeldRuntime(before_run=note), count=2)

    def request(first: float, process: int) -> list[Item]:
        takes = Edit(verb="from", at=((0, 0),), source=2)
        one, other, source = (item(served, first + n, process=process) for n in range(3))
        return [replace(one, edits=(takes,)), other, source]

    async def run() -> None:
        served.start()
        holding = await served.hold(item(served, 0.0))
        asked = [
            submit(served.engines[process], request(10.0 * (process + 1), process)) for process in (0, 1)
        ]
        await served.queued(3)
        served.runtime.gate.set()
        for process, ticket in enumerate(asked):
            done = await outcome(ticket)
            first = 10.0 * (process + 1)  # whose z is that of the source
            assert [z(done, n) for n in range(3)] == [2 * (first + 2), 2 * (first + 1), 2 * (first + 2)]
        await outcome(holding)

    asyncio.run(run())
    assert sorted(ran) == [(10.0, 12), (20.0, 22)]


def test_limits_hold_for_all_processes_together(serve: Serve) -> None:
    served = serve(count=2, limits=Limits(max_queued_requests=4))

    async def run() -> None:
        served.start()
        asked = [await served.hold(item(served))]
        asked += [submit(served.engines[n % 2], [item(served, process=n % 2)]) for n in range(5)]
        await until(lambda: sum(one._done.done() for one in asked) == 2, "two of the six are refused")
        assert served.queue.queued_requests == 4
        served.runtime.gate.set()
        done = [await outcome(one) for one in asked]
        assert [z(one) for one in done if isinstance(one, Completed)] == [2.0] * 4
        assert {str(one) for one in done if isinstance(one, Overloaded)} == {
            "the queue holds 4 requests, 1 more would pass the limit of 4; try again in 1 s"
        }
        assert z(await outcome(submit(served.engines[1], [item(served, process=1)]))) == 2.0

    asyncio.run(run())


def test_a_process_refuses_by_itself_what_it_alone_holds_too_much_of(serve: Serve) -> None:
    served = serve(limits=Limits(max_queued_requests=2))

    async def run() -> None:
        served.start()
        asked = [await served.hold(item(served)), submit(served.engines[0], [item(served)])]
        with pytest.raises(Overloaded, match="the queue holds 2 requests"):
            submit(served.engines[0], [item(served)])
        served.runtime.gate.set()
        assert [z(await outcome(one)) for one in asked] == [2.0, 2.0]

    asyncio.run(run())


def test_a_key_with_one_request_does_not_wait_behind_anothers_many_in_another_process(serve: Serve) -> None:
    served = serve(count=2, limits=Limits(max_batch_tokens=2))

    async def run() -> None:
        served.start()
        one, other = served.engines
        holding = await served.hold(item(served))
        many = [submit(one, [item(served, 100.0 + n)], tenant="many") for n in range(6)]
        await served.queued(7)
        single = submit(other, [item(served, 1.0, process=1)], tenant="single")
        await served.queued(8)
        served.runtime.gate.set()
        for ticket in (holding, *many, single):
            await outcome(ticket)

    asyncio.run(run())
    order = [number for batch in served.runtime.batches for number in first_numbers(batch)]
    assert order.index(1.0) <= 2
    assert [number for number in order if number >= 100] == [100.0 + n for n in range(6)]


def test_priorities_hold_over_processes(serve: Serve) -> None:
    served = serve(count=2, limits=Limits(max_batch_tokens=2))

    async def run() -> None:
        served.start()
        one, other = served.engines
        holding = await served.hold(item(served))
        low = [submit(one, [item(served, 100.0)]) for _ in range(3)]
        await served.queued(4)
        high = submit(other, [item(served, 1.0, process=1)], priority=1)
        await served.queued(5)
        served.runtime.gate.set()
        for ticket in (holding, *low, high):
            await outcome(ticket)

    asyncio.run(run())
    assert first_numbers(served.runtime.batches[1]) == [1.0]


# ---- departures and deadlines


def test_caller_who_leaves_takes_queued_work_along_and_the_memory_is_free(serve: Serve) -> None:
    served = serve(count=2)

    async def run() -> None:
        served.start()
        one, other = served.engines
        holding = await served.hold(item(served))
        leaves = submit(one, [item(served, 3.0), item(served, 3.0)])
        stays = submit(other, [item(served, 5.0, process=1)])
        await served.queued(3)
        leaves.cancel()
        leaves.cancel()
        await served.queued(2)
        await until(lambda: one.queued_requests == 1, "its capacity is free")
        served.runtime.gate.set()
        assert z(await outcome(stays)) == 10.0
        await outcome(holding)
        await until(lambda: not one._sent, "nothing of it is kept")

    asyncio.run(run())
    assert [3.0] not in [first_numbers(batch)[:1] for batch in served.runtime.batches]
    assert served.cancelled == []


def test_memory_of_a_caller_who_left_is_kept_while_the_device_works_on_it(serve: Serve) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        (memory,) = served.memories
        running = await served.hold(item(served, 3.0))
        held = memory.used
        running.cancel()
        await until(lambda: all(one._over for one in requests()), "the device process knows")
        assert memory.used == held > 0
        assert engine.queued_requests == 1  # so that who leaves again and again is refused
        after = submit(engine, [item(served, 5.0)])  # is given other memory
        await until(lambda: len(requests()) == 2, "it is queued")
        served.runtime.gate.set()
        assert z(await outcome(after)) == 10.0
        await until(lambda: not engine._sent, "the first is over")

    def requests() -> list[object]:
        return [job.ticket for job in (*served.queue._backlog._running, *served.queue._backlog._queue.jobs)]

    asyncio.run(run())
    assert first_numbers(served.runtime.batches[0]) == [3.0]  # was not written over
    gc.collect()
    assert served.memories[0].used == 0


def test_deadline_that_passes_in_the_queue_is_answered_and_never_packed(serve: Serve) -> None:
    served = serve(count=2)

    async def run() -> None:
        served.start()
        one, other = served.engines
        holding = await served.hold(item(served))
        late = submit(one, [item(served, 3.0)], deadline=one._clock() + 0.05)
        stays = submit(other, [item(served, 5.0, process=1)], deadline=one._clock() + 60)
        done = await outcome(late)
        assert isinstance(done, DeadlineExceeded)
        assert "within the deadline of 50 ms" in done.message
        await served.queued(2)
        served.runtime.gate.set()
        assert z(await outcome(stays)) == 10.0
        await outcome(holding)

    asyncio.run(run())
    assert [first_numbers(batch) for batch in served.runtime.batches] == [[1.0], [5.0]]
    assert served.cancelled == ["deadline"]


def test_deadline_that_has_passed_when_a_request_arrives_is_dropped_by_the_queue(serve: Serve) -> None:
    served = serve()

    async def run() -> None:
        served.start()
        (engine,) = served.engines
        done = await outcome(submit(engine, [item(served, 3.0)], deadline=engine._clock() - 1))
        assert isinstance(done, DeadlineExceeded)
        await until(lambda: not engine._sent, "all is over")

    asyncio.run(run())
    assert served.runtime.batches == []
    assert served.cancelled == ["deadline"]


# ---- the end


def test_device_that_fails_answers_every_process_and_refuses_what_comes(serve: Serve) -> None:
    runtime = HeldRuntime()
    served = serve(runtime, count=2)

    async def run() -> None:
        served.start()
        asked = [await served.hold(item(served))]
        asked += [submit(served.engines[1], [item(served, process=1)])]
        await served.queued(2)
        runtime.before_run = broken
        runtime.gate.set()
        done = [await outcome(one) for one in asked]
        assert [getattr(one, "code", None) for one in done] == ["device_failed"] * 2
        await until(lambda: len(served.fatal) == 2, "both processes are told")
        for process, engine in enumerate(served.engines):
            await until(lambda engine=engine: engine.state == "failed", "it has failed")
            assert not engine.alive
            with pytest.raises(Unavailable) as refused:
                submit(engine, [item(served, process=process)])
            assert refused.value.code == "device_failed"

    asyncio.run(run())
    assert served.device.failed.is_set()


def test_device_process_that_ends_without_a_word_answers_all_that_waits(serve: Serve) -> None:
    served = serve(count=2)

    async def run() -> None:
        served.start()
        waiting = await served.hold(item(served))
        for link in served.links:
            link.control.close()
            link.work.close()
        done = await outcome(waiting)
        assert isinstance(done, Unavailable)
        assert done.code == "device_failed"
        await until(lambda: all(models.gone for models in served.models), "both know that it is gone")

    asyncio.run(run())


def test_process_that_ends_takes_its_queued_work_along_and_leaves_the_others_served(serve: Serve) -> None:
    served = serve(count=2)

    async def run() -> None:
        served.start()
        one, other = served.engines
        holding = await served.hold(item(served), engine=1)
        for _ in range(3):
            submit(one, [item(served, 3.0)])
        stays = submit(other, [item(served, 5.0, process=1)])
        await served.queued(5)
        served.channels[1].close()
        served.channels[3].close()
        await served.queued(2)
        served.runtime.gate.set()
        assert z(await outcome(stays)) == 10.0
        await outcome(holding)

    asyncio.run(run())
    assert [first_numbers(batch) for batch in served.runtime.batches] == [[1.0], [5.0]]
    assert not served.device.failed.is_set()


def test_stopping_answers_what_is_queued_with_draining_and_cancels_it(serve: Serve) -> None:
    served = serve(count=2)

    async def run() -> None:
        served.start()
        one, _ = served.engines
        holding = await served.hold(item(served), engine=1)
        asked = [submit(one, [item(served)]) for _ in range(3)]
        await served.queued(4)
        assert one.stop(0)
        done = [await outcome(ticket) for ticket in asked]
        assert {getattr(error, "code", None) for error in done} == {"draining"}
        await served.queued(1)
        served.runtime.gate.set()
        assert z(await outcome(holding)) == 2.0
        with pytest.raises(Unavailable):
            submit(one, [item(served)])

    asyncio.run(run())


def test_refusals_of_a_model_are_told_as_they_are(serve: Serve) -> None:
    def before(_: Sequence[Item]) -> None:
        raise TooLong("17 tokens")

    served = serve(HeldRuntime(before_run=before))

    async def run() -> None:
        served.start()
        done = await outcome(submit(served.engines[0], [item(served)]))
        assert isinstance(done, Invalid)
        assert done.message == "17 tokens"

    asyncio.run(run())
