"""Starting, draining, stopping, and loops that go away."""

import asyncio
from collections.abc import Callable

import pytest

from service.batching.job import Ticket
from service.errors import Unavailable
from tests.queueing import Bench, sequence

Make = Callable[..., Bench]


def refused(one: Bench) -> str:
    """The code with which a request is refused."""

    async def main() -> str:
        with pytest.raises(Unavailable) as refusal:
            one.engine.submit([sequence()])
        return refusal.value.code

    return asyncio.run(main())


def test_before_start_and_after_stop_it_is_not_ready(bench: Make) -> None:
    one = bench(start=False)
    assert (one.engine.state, one.engine.alive) == ("stopped", False)
    assert refused(one) == "not_ready"
    one.engine.start()
    assert (one.engine.state, one.engine.alive) == ("ready", True)
    assert one.engine.stop(10)
    assert (one.engine.state, one.engine.alive) == ("stopped", False)
    assert refused(one) == "not_ready"


def test_draining_refuses_new_work_and_finishes_the_old(bench: Make) -> None:
    async def main() -> list[float]:
        tickets = [await one.hold(), *(one.engine.submit([sequence(value=n)]) for n in range(5))]
        one.engine.drain()
        assert one.engine.state == "draining"
        with pytest.raises(Unavailable) as refusal:
            one.engine.submit([sequence()])
        assert refusal.value.code == "draining"
        assert refusal.value.retry_after_seconds
        waiting = asyncio.create_task(asyncio.to_thread(one.engine.stop, 10))
        await asyncio.sleep(0)
        assert not waiting.done()
        one.release()
        await waiting
        return [float((await ticket.result()).answers[0].tensors["z"].flat[0]) for ticket in tickets[1:]]

    one = bench()
    assert asyncio.run(main()) == [0, 2, 4, 6, 8]


def test_drain_under_load_loses_nothing_that_was_admitted(bench: Make) -> None:
    answered = 0
    admitted = 0

    async def client(number: int) -> str:
        nonlocal admitted, answered
        while True:
            try:
                ticket = one.engine.submit([sequence(1 + number % 5)] * 2)
            except Unavailable as refusal:
                return refusal.code
            admitted += 1
            try:
                await ticket.result()
            finally:
                ticket.cancel()
            answered += 1
            if answered == 1000:
                one.engine.drain()

    async def main() -> list[str]:
        codes = await asyncio.gather(*(client(number) for number in range(100)))
        assert await asyncio.to_thread(one.engine.stop, 10)
        return codes

    one = bench(max_batch_tokens=50)
    assert set(asyncio.run(main())) == {"draining"}
    assert answered == admitted >= 1000
    assert sum(one.runtime.sizes) == 2 * answered
    assert one.engine.queued_requests == 0


def test_results_are_there_when_the_drain_is_over(bench: Make) -> None:
    async def main() -> bool:
        ticket = one.engine.submit([sequence()])
        waiting = asyncio.create_task(ticket.result())
        assert await asyncio.to_thread(one.engine.stop, 10)
        await asyncio.sleep(0)  # the answer was sent first, so its task is ahead of this one
        return waiting.done()

    one = bench()
    assert asyncio.run(main())


def test_an_idle_engine_that_drains_may_be_stopped(bench: Make) -> None:
    one = bench()
    one.engine.drain()
    assert one.engine.state == "draining"
    assert one.engine.stop(10)


def test_stop_out_of_patience_fails_what_is_queued(bench: Make) -> None:
    async def main() -> None:
        held, waiting = await one.hold(), one.engine.submit([sequence()])
        assert not await asyncio.to_thread(one.engine.stop, 0)  # the device is still at it
        with pytest.raises(Unavailable) as refusal:
            await waiting.result()
        assert refusal.value.code == "draining"
        one.release()
        await held.result()

    one = bench()
    asyncio.run(main())
    assert one.engine.stop(10)
    assert one.runtime.sizes == [1]
    assert one.engine.state == "stopped"


def test_stop_finishes_what_is_queued(bench: Make) -> None:
    async def main() -> None:
        tickets = [await one.hold(), one.engine.submit([sequence()])]
        stopping = asyncio.create_task(asyncio.to_thread(one.engine.stop, 10))
        one.release()
        for ticket in tickets:
            await ticket.result()
        assert await stopping

    one = bench()
    asyncio.run(main())


def test_a_loop_that_was_closed_does_not_end_the_thread(bench: Make) -> None:
    async def leave() -> list[Ticket]:
        return [await one.hold(), one.engine.submit([sequence(), sequence()])]

    async def stay() -> float:
        ticket = one.engine.submit([sequence(value=3)])
        one.release()
        return float((await ticket.result()).answers[0].tensors["z"].flat[0])

    one = bench()
    tickets = asyncio.run(leave())  # its loop is closed on return
    assert asyncio.run(stay()) == 6
    assert one.engine.stop(10)
    assert one.engine.state == "stopped"
    assert one.engine.queued_requests == 1  # the one that stayed and did not let go
    assert all(ticket.released for ticket in tickets)
    assert one.fatal == []


def test_one_engine_serves_several_loops(bench: Make) -> None:
    async def main(number: int) -> float:
        ticket = one.engine.submit([sequence(value=number)])
        return float((await ticket.result()).answers[0].tensors["z"].flat[0])

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*(asyncio.to_thread(asyncio.run, main(n)) for n in range(8)))

    one = bench()
    assert asyncio.run(all_of_them()) == [2.0 * number for number in range(8)]


def test_the_age_of_the_present_batch_can_be_watched(bench: Make) -> None:
    async def main() -> None:
        assert one.engine.oldest_batch_seconds == 0
        held = await one.hold()
        one.clock.now += 42
        assert one.engine.oldest_batch_seconds == 42
        one.release()
        await held.result()

    one = bench()
    asyncio.run(main())
