"""A request's way through the engine: what shares a pass, and what comes back."""

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from models.protocol import Item
from service.batching.job import Completed
from service.errors import Unavailable
from tests.fakes import fake_card
from tests.queueing import Bench, sequence, submit

Make = Callable[..., Bench]


def values(done: Completed) -> list[float]:
    return [float(answer.tensors["z"].flat[0]) for answer in done.answers]


def test_answers_come_in_the_order_of_the_items(bench: Make) -> None:
    async def main() -> Completed:
        items = [sequence(size, value=size) for size in (3, 1, 200, 2, 150)]
        return await submit(one.engine, items).result()

    one = bench(max_batch_tokens=100)
    done = asyncio.run(main())
    assert values(done) == [6, 2, 400, 4, 300]
    assert [len(answer.tensors["z"]) for answer in done.answers] == [3, 1, 200, 2, 150]
    assert len(one.runtime.batches) > 1


def test_requests_that_wait_together_share_a_pass(bench: Make) -> None:
    async def main() -> list[Completed]:
        held = await one.hold()
        tickets = [submit(one.engine, [sequence(2, value=number)]) for number in range(8)]
        one.release()
        return [await ticket.result() for ticket in (held, *tickets)]

    one = bench()
    done = asyncio.run(main())
    assert one.runtime.sizes == [1, 8]
    assert [values(each) for each in done[1:]] == [[2.0 * number] for number in range(8)]


def test_a_free_device_starts_at_once(bench: Make) -> None:
    """Nothing is waited for: the only request there is runs though the clock stands still."""

    async def main() -> Completed:
        return await submit(one.engine, [sequence()]).result()

    one = bench()
    assert values(asyncio.run(main())) == [2]


def test_max_wait_holds_a_batch_until_it_is_full(bench: Make) -> None:
    async def main() -> None:
        tickets = [submit(one.engine, [sequence(2)]) for _ in range(4)]
        for ticket in tickets:
            await ticket.result()

    one = bench(max_batch_tokens=8, max_wait_seconds=3600.0)
    asyncio.run(main())
    assert one.runtime.sizes == [4]


def test_max_wait_ends_with_the_time(bench: Make) -> None:
    async def main() -> None:
        first = submit(one.engine, [sequence(2)])
        one.clock.now += 3601
        second = submit(one.engine, [sequence(2)])
        await first.result()
        ran = list(one.runtime.sizes)
        one.engine.drain()  # nor is there any company to wait for then
        await second.result()
        assert ran, "the first ran though its batch was not full"
        assert sum(one.runtime.sizes) == 2

    one = bench(max_batch_tokens=8, max_wait_seconds=3600.0)
    asyncio.run(main())


def test_hundreds_of_tasks_get_their_own_answers(bench: Make) -> None:
    async def ask(number: int) -> list[float]:
        ticket = submit(
            one.engine,
            [sequence(1 + (number + part) % 7, value=10 * number + part) for part in range(3)],
            tenant=f"tenant {number % 5}",
            priority=number % 3,
        )
        try:
            return values(await ticket.result())
        finally:
            ticket.cancel()

    async def main() -> list[list[float]]:
        return await asyncio.gather(*(ask(number) for number in range(500)))

    one = bench(max_batch_tokens=64)
    assert asyncio.run(main()) == [[20.0 * n, 20.0 * n + 2, 20.0 * n + 4] for n in range(500)]
    assert sum(one.runtime.sizes) == 1500
    assert one.engine.queued_requests == one.engine.queued_tokens == 0


def test_two_versions_of_a_model_never_meet_in_a_batch(bench: Make) -> None:
    async def main() -> None:
        await one.hold()
        tickets = [submit(one.engine, [sequence(card=card)]) for card in (old, new, old, new)]
        one.release()
        for ticket in tickets:
            await ticket.result()

    old, new = (fake_card(max_tokens=None, handle=object()) for _ in range(2))
    one = bench()
    asyncio.run(main())
    assert [{id(item.card) for item in batch} for batch in one.runtime.batches[1:]] == [{id(old)}, {id(new)}]


def test_priority_decides_who_goes_first(bench: Make) -> None:
    async def main() -> None:
        await one.hold()
        tickets = [submit(one.engine, [sequence(6, value=level)], priority=level) for level in (0, 2, -1, 1)]
        one.release()
        for ticket in tickets:
            await ticket.result()

    one = bench(max_batch_tokens=10)
    asyncio.run(main())
    assert [int(item.input.embeddings.flat[0]) for (item,) in one.runtime.batches[1:]] == [2, 1, 0, -1]


def test_where_the_time_went_adds_up(bench: Make) -> None:
    """Three runs of 2 s with the middle one somebody else's: queue 5, compute 4, batch 2."""

    async def main() -> tuple[Completed, Completed]:
        held = await one.hold()
        first, third = sequence(6), sequence(6)
        asked = submit(one.engine, [first, third], tenant="a")
        between = submit(one.engine, [sequence(6)], tenant="b")
        one.clock.now += 3
        one.release()
        await held.result()
        return await asked.result(), await between.result()

    def run(batch: Sequence[Item]) -> None:
        one.clock.now += 2

    one = bench(run, max_batch_tokens=10)
    asked, between = asyncio.run(main())
    assert (asked.queue_seconds, asked.compute_seconds, asked.batch_seconds) == (5, 4, 2)
    assert (between.queue_seconds, between.compute_seconds, between.batch_seconds) == (7, 2, 0)


def test_each_run_is_reported(bench: Make) -> None:
    async def main() -> None:
        await one.hold()
        one.clock.now += 2
        tickets = [submit(one.engine, [sequence(size)]) for size in (3, 4)]
        one.clock.now += 1
        one.release()
        for ticket in tickets:
            await ticket.result()
        assert await asyncio.to_thread(one.engine.stop, 10)

    one = bench()
    asyncio.run(main())
    assert one.engine.stop(10)
    last = one.reports[-1]
    assert (last.model, last.sequences, last.tokens, last.computed_tokens) == ("fake", 2, 7, 7)
    assert last.queue_seconds == (1, 1)
    assert one.reports[0].compute_seconds == 3


def test_results_of_a_batch_cross_threads_in_one_call(bench: Make) -> None:
    crossings: Counter[str] = Counter()

    class CountingLoop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback, *args, context=None):  # type: ignore[no-untyped-def]
            crossings[getattr(callback, "__name__", "")] += 1
            return super().call_soon_threadsafe(callback, *args, context=context)

    async def main() -> None:
        held = await one.hold()
        tickets = [submit(one.engine, [sequence()]) for _ in range(50)]
        one.release()
        for ticket in (held, *tickets):
            await ticket.result()

    one = bench()
    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())
    assert one.runtime.sizes == [1, 50]
    assert crossings["_settle"] == 2


def test_an_idle_engine_holds_nothing_of_what_it_ran(bench: Make) -> None:
    """Inputs and answers go with the request, by reference count: they are too large for the collector."""

    async def main() -> list[weakref.ref[np.ndarray]]:
        item = sequence(3)
        ticket = submit(one.engine, [item])
        done = await ticket.result()
        ticket.cancel()
        return [weakref.ref(item.input.embeddings), weakref.ref(done.answers[0].tensors["z"])]

    one = bench()
    gc.collect()
    gc.disable()
    try:
        references = asyncio.run(main())
        one.runtime.batches.clear()
        assert one.engine.stop(10)
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_requests_wait_until_any_of_their_sequences_is_taken(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        assert (one.engine.queued_requests, one.engine.waiting_requests) == (1, 0)
        several, left = (submit(one.engine, [sequence(2)] * 3) for _ in range(2))
        assert (one.engine.queued_requests, one.engine.waiting_requests) == (3, 2)
        left.cancel()
        assert (one.engine.queued_requests, one.engine.waiting_requests) == (2, 1)
        one.release()
        for ticket in (held, several):
            await ticket.result()
            ticket.cancel()
        assert (one.engine.queued_requests, one.engine.waiting_requests) == (0, 0)

    one = bench(max_batch_tokens=4)
    asyncio.run(main())


def test_nothing_waits_in_an_engine_that_failed_or_was_stopped(bench: Make) -> None:
    async def main() -> None:
        await one.hold()
        tickets = [submit(one.engine, [sequence(2)]) for _ in range(3)]
        assert one.engine.waiting_requests == 3
        stopping = asyncio.to_thread(one.engine.stop, 0.0)
        await stopping
        for ticket in tickets:
            with pytest.raises(Unavailable):
                await ticket.result()
        assert one.engine.waiting_requests == 0
        one.release()

    one = bench()
    asyncio.run(main())
