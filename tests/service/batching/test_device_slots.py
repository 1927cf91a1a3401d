"""Several slots of one device: what runs side by side, what runs alone, and what a failure takes along."""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence

import pytest

from models.errors import DeviceFailed
from models.protocol import BatchResult, Item
from service.batching.engine import Engine
from service.batching.job import Completed, Ticket
from service.batching.limits import Limits
from service.batching.slots import CROWD_SECONDS, SHORT_TOKENS
from service.errors import HeedError, Unavailable
from tests.fakes import FakeRuntime
from tests.queueing import sequence, submit


class Slots(FakeRuntime):
    """Two slots, a part of the device each; notes what a batch was given, holds it until `gate` opens."""

    slots = 2
    shares_cores = True

    def __init__(self, slot_tokens: int | None = None) -> None:
        super().__init__()
        self.slot_tokens = slot_tokens
        self.given: list[tuple[int, int]] = []  # sequences and slots of every batch
        self.entered = threading.Semaphore(0)
        self.fatal = False

    def begin(self, batch: Sequence[Item], slots: int) -> None:
        self.given.append((len(batch), slots))
        fatal, self.fatal = self.fatal, False
        self.entered.release()
        if fatal:
            raise DeviceFailed("the device is gone")
        super().begin(batch, slots)

    def wait(self, batches: int = 1) -> None:
        for _ in range(batches):
            assert self.entered.acquire(timeout=10)


async def outcome(ticket: Ticket) -> Completed | HeedError:
    try:
        return await ticket.result()
    except HeedError as error:
        return error
    finally:
        ticket.cancel()


def serve(
    runtime: Slots,
    scenario: Callable[[Engine], object],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Engine:
    engine = Engine(runtime, Limits(), clock=clock)
    engine.start()
    try:
        asyncio.run(scenario(engine))  # type: ignore[arg-type]
    finally:
        runtime.gate.set()
        engine.stop(10)
    return engine


def test_a_sequence_alone_leaves_a_slot_to_the_next_where_slots_only_overlap() -> None:
    """As on a GPU: the next batch is packed and copied meanwhile."""
    runtime = Slots()
    runtime.shares_cores = False
    runtime.gate.clear()

    async def main(engine: Engine) -> None:
        tickets = [submit(engine, [sequence()])]
        await asyncio.to_thread(runtime.wait)
        tickets.append(submit(engine, [sequence()]))
        await asyncio.to_thread(runtime.wait)  # while the first is on the device
        runtime.gate.set()
        for one in tickets:
            assert isinstance(await outcome(one), Completed)

    serve(runtime, main)
    assert runtime.given == [(1, 1)] * 2


def test_sequence_alone_has_the_whole_device() -> None:
    runtime = Slots()

    async def main(engine: Engine) -> None:
        for _ in range(3):
            assert isinstance(await outcome(submit(engine, [sequence()])), Completed)

    serve(runtime, main)
    assert runtime.given == [(1, 2)] * 3


class Overlapping(Slots):
    """Slots that let batches overlap, as on a GPU: none is a part of the device."""

    shares_cores = False


def test_where_batches_only_overlap_each_has_one_slot_and_takes_all_that_waits() -> None:
    runtime = Overlapping()

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        tickets = [submit(engine, [sequence(40)])]
        await asyncio.to_thread(runtime.wait)
        tickets.append(submit(engine, [sequence(40)]))
        await asyncio.to_thread(runtime.wait)  # beside the first, which is still held
        tickets += [submit(engine, [sequence(40)]) for _ in range(6)]
        runtime.gate.set()
        assert all([isinstance(await outcome(one), Completed) for one in tickets])

    serve(runtime, main)
    assert runtime.given == [(1, 1), (1, 1), (6, 1)]


def test_deterministic_one_never_has_more_than_one_slot() -> None:
    runtime = Slots()

    async def main(engine: Engine) -> None:
        assert isinstance(await outcome(submit(engine, [sequence(deterministic=True)])), Completed)

    serve(runtime, main)
    assert runtime.given == [(1, 1)]


def test_what_waits_is_shared_out_and_runs_side_by_side() -> None:
    runtime = Slots()

    side_by_side = threading.Barrier(2)

    def meet(_: Sequence[Item]) -> None:
        if len(runtime.given) in (2, 3):
            side_by_side.wait(10)  # broken, unless the other slot is there at the same time

    runtime.before_run = meet

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        first = submit(engine, [sequence(40)])
        await asyncio.to_thread(runtime.wait)
        rest = [submit(engine, [sequence(40)]) for _ in range(6)]
        runtime.gate.set()
        found = await asyncio.gather(*(outcome(one) for one in [first, *rest]))
        assert all(isinstance(one, Completed) for one in found)

    serve(runtime, main)
    assert runtime.given[:2] == [(1, 2), (3, 1)]
    assert sum(count for count, _ in runtime.given) == 7


def test_second_batch_waits_while_one_has_the_whole_device() -> None:
    runtime = Slots()

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        tickets = [submit(engine, [sequence()])]
        await asyncio.to_thread(runtime.wait)
        tickets.append(submit(engine, [sequence()]))
        assert not await asyncio.to_thread(runtime.entered.acquire, timeout=0.1)
        assert engine.oldest_batch_seconds > 0
        runtime.gate.set()
        assert all([isinstance(await outcome(one), Completed) for one in tickets])

    serve(runtime, main)
    assert runtime.given == [(1, 2), (1, 2)]


@pytest.mark.parametrize(("tokens", "slots"), [(SHORT_TOKENS, 1), (SHORT_TOKENS + 1, 2)])
def test_in_a_crowd_a_short_sequence_has_one_slot_though_it_finds_itself_alone(
    tokens: int, slots: int
) -> None:
    runtime = Slots()
    now = [100.0]

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        first = submit(engine, [sequence()])
        await asyncio.to_thread(runtime.wait)
        beside = submit(engine, [sequence(tokens)])
        runtime.gate.set()
        for one in (first, beside):
            assert isinstance(await outcome(one), Completed)
        for _ in range(1000):  # slots are given back a moment after the answer
            if engine._backlog._slots.free == Slots.slots:
                break
            await asyncio.sleep(0.01)
        now[0] += 2 * CROWD_SECONDS
        assert isinstance(await outcome(submit(engine, [sequence(tokens)])), Completed)

    serve(runtime, main, clock=lambda: now[0])
    assert runtime.given == [(1, 2), (1, slots), (1, 2)]


def test_batch_is_full_at_what_the_device_says() -> None:
    runtime = Slots(slot_tokens=100)

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        tickets = [submit(engine, [sequence()])]
        await asyncio.to_thread(runtime.wait)
        tickets += [submit(engine, [sequence(50)]) for _ in range(8)]
        runtime.gate.set()
        await asyncio.gather(*(outcome(one) for one in tickets))

    serve(runtime, main)
    assert sum(count for count, _ in runtime.given) == 9
    assert max(count for count, _ in runtime.given) == 2


def test_slot_that_fails_takes_the_others_jobs_along_once() -> None:
    runtime = Slots()

    async def main(engine: Engine) -> None:
        runtime.gate.clear()
        first = submit(engine, [sequence(40)])
        await asyncio.to_thread(runtime.wait)
        rest = [submit(engine, [sequence(40)]) for _ in range(2)]
        queued = submit(engine, [sequence(3, deterministic=True)])
        runtime.fatal = True  # of the next batch; the one beside it is held
        runtime.gate.set()
        assert isinstance(await outcome(first), Completed)
        found = await asyncio.gather(*(outcome(one) for one in [*rest, queued]))
        assert any(isinstance(one, Unavailable) and one.code == "device_failed" for one in found)
        with pytest.raises(Unavailable, match="device"):
            submit(engine, [sequence()])
        while engine.queued_requests:
            await asyncio.sleep(0.01)

    engine = serve(runtime, main)
    assert engine.state == "failed"
    assert not engine.alive
    assert engine.queued_tokens == 0


def test_other_slot_ends_too_when_one_has_failed() -> None:
    """A slot that waits for work must not wait for ever."""
    runtime = Slots()
    runtime.fatal = True

    async def main(engine: Engine) -> None:
        assert isinstance(await outcome(submit(engine, [sequence()])), Unavailable)

    engine = serve(runtime, main)
    assert engine.stop(10)


def test_long_batch_makes_room_when_others_come_and_takes_it_back() -> None:
    runtime = Slots()
    had: list[int | None] = []
    come, gone = threading.Event(), threading.Event()

    def steps(batch: Sequence[Item], *, slots: int = 1) -> Generator[None, int | None, BatchResult]:
        runtime.given.append((len(batch), slots))
        had.append((yield))
        runtime.entered.release()
        assert come.wait(10)
        had.append((yield))
        assert gone.wait(10)
        had.append((yield))
        return runtime.result(batch)

    runtime.steps = steps  # type: ignore[method-assign]

    async def main(engine: Engine) -> None:
        long = submit(engine, [sequence(4000)])
        await asyncio.to_thread(runtime.wait)
        short = asyncio.create_task(outcome(submit(engine, [sequence(3)])))
        await asyncio.sleep(0)
        come.set()
        assert isinstance(await short, Completed)
        while engine._backlog._slots.free != 1:  # it has yet to be given back
            await asyncio.sleep(0.01)
        gone.set()
        assert isinstance(await outcome(long), Completed)

    serve(runtime, main)
    assert had == [2, 1, 2]
    assert runtime.given == [(1, 2), (1, 1)]
