"""Short requests run between the steps of a long one, which keeps its share of the device."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Generator, Sequence

import pytest

from models.errors import DeviceFailed
from models.protocol import BatchResult, Item
from service.batching.job import Completed, Ticket
from service.errors import Unavailable
from tests.queueing import Bench, sequence, submit

Make = Callable[..., Bench]
LONG = 60  # tokens, of the hundred a batch may hold in these tests


async def hold_long(one: Bench, *, yields: int, priority: int = 0) -> Ticket:
    """Have a long sequence on the device, in `yields` + 1 steps once released."""
    one.runtime.yields = yields
    one.runtime.gate.clear()
    ticket = submit(one.engine, [sequence(LONG)], priority=priority)
    assert await asyncio.to_thread(one.runtime.entered.acquire, timeout=10)
    return ticket


def order(one: Bench) -> list[int]:
    """The tokens of each batch's first sequence, in the order in which batches began."""
    return [batch[0].input.queries for batch in one.runtime.batches]


def test_short_request_does_not_wait_for_the_end_of_a_long_one(bench: Make) -> None:
    async def main() -> None:
        long = await hold_long(one, yields=2)
        short = submit(one.engine, [sequence(3)])
        one.release()
        await short.result()
        await long.result()

    one = bench(max_batch_tokens=100)
    asyncio.run(main())
    assert order(one) == [LONG, 3]
    assert [report.tokens for report in one.reports] == [3, LONG]  # the short one ended first


def test_answers_of_a_long_request_go_as_soon_as_it_is_let_go_of(bench: Make) -> None:
    """Not when the cycle collector comes round: they may be a hundred megabytes each."""

    async def main() -> weakref.ref[object]:
        ticket = await hold_long(one, yields=2)
        one.release()
        done = await ticket.result()
        ticket.cancel()
        return weakref.ref(done.answers[0].tensors["z"])

    one = bench(max_batch_tokens=100)
    gc.collect()
    gc.disable()
    try:
        kept = asyncio.run(main())
        assert one.engine.stop(10)
        assert kept() is None
    finally:
        gc.enable()


def test_long_requests_do_not_run_between_steps(bench: Make) -> None:
    async def main() -> None:
        tickets = [await hold_long(one, yields=3), submit(one.engine, [sequence(LONG + 1)])]
        one.release()
        for ticket in tickets:
            await ticket.result()

    one = bench(max_batch_tokens=100)
    asyncio.run(main())
    assert [report.tokens for report in one.reports] == [LONG, LONG + 1]


def test_nobody_of_lower_priority_runs_between_steps(bench: Make) -> None:
    async def main() -> None:
        long = await hold_long(one, yields=3, priority=1)
        tickets = [submit(one.engine, [sequence(size)], priority=size) for size in (1, 2)]
        lower = submit(one.engine, [sequence(4)], priority=0)
        one.release()
        for ticket in (long, *tickets, lower):
            await ticket.result()

    one = bench(max_batch_tokens=100)
    asyncio.run(main())
    assert one.engine.stop(10)  # what it reports comes after the answers
    tokens = [report.tokens for report in one.reports]
    assert tokens.index(4) > tokens.index(LONG)
    assert sum(tokens[: tokens.index(LONG)]) == 1 + 2


def test_long_request_keeps_its_share_of_the_device(bench: Make) -> None:
    """With a share of 4, a run of 8 seconds between steps is followed by 2 of the long one's own."""

    def tick(batch: Sequence[Item]) -> None:
        if batch[0].input.queries < LONG:
            one.clock.now += 8.0

    async def main() -> Completed:
        long = await hold_long(one, yields=5)
        tickets = [submit(one.engine, [sequence(2, deterministic=True)]) for _ in range(4)]
        one.release()
        done = await long.result()
        for ticket in tickets:
            await ticket.result()
        return done

    one = bench(max_batch_tokens=100, interlude_share=4.0, before_run=tick)
    done = asyncio.run(main())
    assert one.engine.stop(10)
    tokens = [report.tokens for report in one.reports]
    assert tokens == [2, LONG, 2, 2, 2]  # its clock stood still in its own steps: no second interlude
    assert done.compute_seconds == 0.0
    assert done.batch_seconds == pytest.approx(8.0)


def test_expired_request_is_dropped_between_steps_without_a_forward_pass(bench: Make) -> None:
    async def main() -> None:
        long = await hold_long(one, yields=1)
        late = submit(one.engine, [sequence(2)], deadline=one.clock.now + 60)
        one.clock.now += 61
        one.release()
        await long.result()
        with pytest.raises(Exception, match="answer"):
            await late.result()

    one = bench(max_batch_tokens=100)
    asyncio.run(main())
    assert order(one) == [LONG]


def test_device_that_fails_between_steps_fails_the_long_request_too(bench: Make) -> None:
    def fail(batch: Sequence[Item]) -> None:
        if batch[0].input.queries < LONG:
            raise DeviceFailed("gone")

    async def main() -> None:
        tickets = [await hold_long(one, yields=1), submit(one.engine, [sequence(2)])]
        one.release()
        for ticket in tickets:
            with pytest.raises(Unavailable) as refused:
                await ticket.result()
            assert refused.value.code == "device_failed"

    one = bench(max_batch_tokens=100, before_run=fail)
    asyncio.run(main())
    assert one.engine.stop(10)
    assert one.engine.state == "failed"
    assert len(one.fatal) == 1


def test_long_batch_is_let_go_of_where_the_device_fails_between_its_steps(bench: Make) -> None:
    let_go = threading.Event()

    def fail(batch: Sequence[Item]) -> None:
        if batch[0].input.queries < LONG:
            raise DeviceFailed("gone")

    def steps(batch: Sequence[Item], *, slots: int = 1) -> Generator[None, int | None, BatchResult]:
        one.runtime.begin(batch, slots)
        try:
            yield
        finally:
            let_go.set()
        return one.runtime.result(batch)

    async def main() -> None:
        tickets = [await hold_long(one, yields=1), submit(one.engine, [sequence(2)])]
        one.release()
        for ticket in tickets:
            with pytest.raises(Unavailable):
                await ticket.result()
        assert let_go.is_set()

    one = bench(max_batch_tokens=100, before_run=fail)
    one.runtime.steps = steps
    asyncio.run(main())
