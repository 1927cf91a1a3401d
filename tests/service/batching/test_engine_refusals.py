"""Requests that leave without an answer: refused, cancelled, too late; and the capacity they give back."""

import asyncio
from collections.abc import Callable

import pytest

from service.errors import DeadlineExceeded, Overloaded, TooLarge
from tests.queueing import Bench, sequence

Make = Callable[..., Bench]


def test_cancelled_job_is_never_run(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        gone, stays = one.engine.submit([sequence(3), sequence(4)]), one.engine.submit([sequence(5)])
        gone.cancel()
        gone.cancel()
        one.release()
        await stays.result()
        await held.result()
        with pytest.raises(asyncio.CancelledError):
            await gone.result()

    one = bench()
    asyncio.run(main())
    assert [[item.input.queries for item in batch] for batch in one.runtime.batches] == [[1], [5]]
    assert one.cancelled == ["cancelled"]


def test_a_task_that_is_cancelled_while_it_waits_costs_no_pass(bench: Make) -> None:
    async def ask() -> None:
        ticket = one.engine.submit([sequence(7)])
        try:
            await ticket.result()
        finally:
            ticket.cancel()

    async def main() -> None:
        await one.hold()
        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        one.release()
        assert await asyncio.to_thread(one.engine.stop, 10)

    one = bench()
    asyncio.run(main())
    assert one.runtime.sizes == [1]


def test_deadline_passed_before_packing_costs_no_pass(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        late = one.engine.submit([sequence(3), sequence(3)], deadline=one.clock() + 10)
        fine = one.engine.submit([sequence(4)], deadline=one.clock() + 100)
        one.clock.now += 10
        one.release()
        with pytest.raises(DeadlineExceeded, match="deadline of 10000 ms"):
            await late.result()
        late.cancel()
        await fine.result()
        await held.result()

    one = bench()
    asyncio.run(main())
    assert [[item.input.queries for item in batch] for batch in one.runtime.batches] == [[1], [4]]
    assert one.cancelled == ["deadline"]


def test_deadline_that_had_passed_when_the_request_came_is_not_called_one_of_zero(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        late = one.engine.submit([sequence(3)], deadline=one.clock() - 0.002)
        one.release()
        with pytest.raises(DeadlineExceeded, match="the deadline had passed; allow more time"):
            await late.result()
        late.cancel()
        await held.result()

    one = bench()
    asyncio.run(main())
    assert one.cancelled == ["deadline"]


def test_a_deadline_is_kept_while_the_device_is_stuck(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        late = one.engine.submit([sequence()], deadline=one.clock())
        with pytest.raises(DeadlineExceeded):
            await late.result()
        assert not one.runtime.batches
        assert one.engine.queued_requests == 1  # and its capacity is free already
        one.release()
        await held.result()

    one = bench()
    asyncio.run(main())
    assert one.runtime.sizes == [1]


def test_a_full_queue_refuses_and_takes_again_when_let_go(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        waiting = one.engine.submit([sequence()])
        with pytest.raises(Overloaded) as refusal:
            one.engine.submit([sequence()])
        assert refusal.value.retry_after_seconds == 1
        waiting.cancel()
        again = one.engine.submit([sequence()])
        one.release()
        await again.result()
        await held.result()
        with pytest.raises(Overloaded):  # answers not yet written are still held in memory
            one.engine.submit([sequence()])
        again.cancel()
        held.cancel()
        await one.engine.submit([sequence()]).result()

    one = bench(max_queued_requests=2)
    asyncio.run(main())


def test_a_request_cancelled_on_the_device_gives_its_capacity_back_when_it_is_done(bench: Make) -> None:
    async def main() -> None:
        held = await one.hold()
        held.cancel()
        assert one.engine.queued_requests == 1
        one.engine.drain()
        one.release()
        assert await asyncio.to_thread(one.engine.stop, 10)
        assert one.engine.queued_requests == one.engine.queued_tokens == 0

    one = bench()
    asyncio.run(main())
    assert one.cancelled == ["cancelled"]


def test_what_is_too_large_is_refused_before_any_compute(bench: Make) -> None:
    async def main() -> None:
        with pytest.raises(TooLarge, match="400 bytes, the limit is 100"):
            one.engine.submit([sequence(25, outputs=("z",))])

    one = bench(max_result_bytes=100)
    asyncio.run(main())
    assert one.runtime.batches == []
    assert one.engine.queued_requests == 0
