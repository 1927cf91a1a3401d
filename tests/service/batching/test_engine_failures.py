"""What fails in a batch fails alone; what takes the device down takes everything, at once and for good."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from models.errors import DeviceFailed, OutOfMemory, TooLong
from models.protocol import BatchResult, Item
from service.batching.engine import Engine
from service.batching.job import Completed, Ticket
from service.batching.limits import Limits
from service.errors import HeedError, Invalid, NotFinite, Unavailable
from tests.fakes import FakeRuntime
from tests.queueing import Bench, sequence

Make = Callable[..., Bench]

POISON = 1e31
BAD = 99.0


async def outcome(ticket: Ticket) -> float | HeedError:
    """The first number of the only answer, or what was raised."""
    try:
        done: Completed = await ticket.result()
    except HeedError as error:
        return error
    finally:
        ticket.cancel()
    return float(done.answers[0].tensors["z"].flat[0])


def together(one: Bench, items: Sequence[Item]) -> list[float | HeedError]:
    """Submit each item as a request of its own, so that all are in one batch, and await all outcomes."""

    async def main() -> list[float | HeedError]:
        held = await one.hold()
        tickets = [one.engine.submit([item]) for item in items]
        one.release()
        await held.result()
        held.cancel()
        return [await outcome(ticket) for ticket in tickets]

    return asyncio.run(main())


def first_numbers(batch: Sequence[Item]) -> list[float]:
    return [float(item.input.embeddings.flat[0]) for item in batch]


def raise_where_bad(error: Exception) -> Callable[[Sequence[Item]], None]:
    def before_run(batch: Sequence[Item]) -> None:
        if BAD in first_numbers(batch):
            raise error

    return before_run


def test_poisoned_request_fails_alone_in_a_batch_of_eight(bench: Make) -> None:
    one = bench()
    outcomes = together(one, [sequence(value=POISON if number == 3 else number) for number in range(8)])
    assert one.runtime.sizes == [1, 8]
    assert isinstance(outcomes.pop(3), NotFinite)
    assert outcomes == [0, 2, 4, 8, 10, 12, 14]
    assert one.engine.queued_requests == 0


def test_a_batch_too_large_for_the_device_is_halved_until_it_fits(bench: Make) -> None:
    def before_run(batch: Sequence[Item]) -> None:
        if len(batch) > 2:
            raise OutOfMemory("no")

    one = bench(before_run)
    assert together(one, [sequence(value=number) for number in range(8)]) == [2.0 * n for n in range(8)]
    assert one.runtime.sizes == [1, 8, 4, 2, 2, 4, 2, 2]
    assert one.engine.state == "ready"


@pytest.mark.parametrize("error", [OutOfMemory("no"), MemoryError()])
def test_a_sequence_too_large_for_the_device_fails_alone(bench: Make, error: Exception) -> None:
    one = bench(raise_where_bad(error))
    outcomes = together(one, [sequence(value=BAD if number == 3 else number) for number in range(4)])
    failed = outcomes.pop()
    assert isinstance(failed, Unavailable)
    assert failed.code == "out_of_memory"
    assert outcomes == [0, 2, 4]


def test_an_unexpected_fault_is_narrowed_to_the_request_that_causes_it(
    bench: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = bench(raise_where_bad(ZeroDivisionError("secret internals")))
    outcomes = together(one, [sequence(value=BAD if n == 5 else n) for n in range(16)])
    failed = outcomes.pop(5)
    assert isinstance(failed, HeedError)
    assert failed.code == "internal"
    assert "secret" not in failed.message
    assert "secret" in caplog.text
    assert outcomes == [2.0 * n for n in range(16) if n != 5]
    assert len(one.runtime.batches) == 1 + 1 + 2 * 4  # held, whole, two a halving


def test_what_the_models_say_of_an_input_reaches_the_caller(bench: Make) -> None:
    one = bench(raise_where_bad(TooLong("17 tokens are over the model's 16")))
    good, bad = together(one, [sequence(value=1), sequence(value=BAD)])
    assert good == 2
    assert isinstance(bad, Invalid)
    assert bad.message == "17 tokens are over the model's 16"


def test_a_runtime_that_miscounts_hands_nobody_anothers_answer() -> None:
    class Miscounting(FakeRuntime):
        def run(self, batch: Sequence[Item], **how: Any) -> BatchResult:
            return replace(super().run(batch, **how), answers=[])

    async def main() -> float | HeedError:
        return await outcome(engine.submit([sequence()]))

    engine = Engine(Miscounting(), Limits())
    engine.start()
    failed = asyncio.run(main())
    assert isinstance(failed, HeedError)
    assert failed.code == "internal"
    assert engine.stop(10)


def test_the_first_failure_drops_the_rest_of_the_request(bench: Make) -> None:
    async def main() -> None:
        items = [sequence(value=number, deterministic=True) for number in (1, POISON, 3, 4)]
        with pytest.raises(NotFinite):
            await one.engine.submit(items).result()
        assert await outcome(one.engine.submit([sequence()])) == 2

    one = bench()
    asyncio.run(main())
    assert len(one.runtime.batches) == 3
    assert one.engine.queued_requests == 0  # a failed request holds no capacity, cancel() or not


def test_a_request_cancelled_while_its_batch_is_retried_is_not_run_again(bench: Make) -> None:
    def before_run(batch: Sequence[Item]) -> None:
        if len(batch) == 4:
            tickets[3].over = True
            raise OutOfMemory("no")

    async def main() -> None:
        await one.hold()
        tickets.extend(one.engine.submit([sequence(value=number)]) for number in range(4))
        one.release()
        for ticket in tickets[:3]:
            await ticket.result()
        assert await asyncio.to_thread(one.engine.stop, 10)

    tickets: list[Ticket] = []
    one = bench(before_run)
    asyncio.run(main())
    assert one.runtime.sizes == [1, 4, 2, 1]


def test_a_dead_device_fails_what_runs_what_waits_and_what_comes(bench: Make) -> None:
    async def main() -> list[str]:
        held = await one.hold()
        waiting = [one.engine.submit([sequence(), sequence()]) for _ in range(5)]
        one.release()
        codes = [getattr(await outcome(ticket), "code", "answered") for ticket in (held, *waiting)]
        with pytest.raises(Unavailable) as refusal:
            one.engine.submit([sequence()])
        return [*codes, refusal.value.code]

    def before_run(batch: Sequence[Item]) -> None:
        raise DeviceFailed("the device is gone")

    one = bench(before_run)
    assert asyncio.run(main()) == ["device_failed"] * 7
    assert one.engine.stop(10)
    assert one.engine.state == "failed"
    assert not one.engine.alive
    assert [type(error) for error in one.fatal] == [DeviceFailed]
    assert one.engine.queued_requests == one.engine.queued_tokens == 0
    assert one.runtime.sizes == [1]


def test_a_device_that_dies_while_a_batch_is_retried_leaves_no_one_waiting(bench: Make) -> None:
    def before_run(batch: Sequence[Item]) -> None:
        if len(batch) == 4:
            raise OutOfMemory("no")
        if 2.0 in first_numbers(batch):
            raise DeviceFailed("gone")

    one = bench(before_run)
    outcomes = together(one, [sequence(value=number) for number in range(4)])
    assert outcomes[:2] == [0, 2]
    assert [getattr(each, "code", "answered") for each in outcomes[2:]] == ["device_failed"] * 2


def test_a_thread_that_dies_of_anything_is_noticed(bench: Make) -> None:
    def before_run(batch: Sequence[Item]) -> None:
        raise SystemExit(3)

    async def main() -> float | HeedError:
        return await outcome(one.engine.submit([sequence()]))

    one = bench(before_run)
    failed = asyncio.run(main())
    assert getattr(failed, "code", "") == "device_failed"
    assert one.engine.stop(10)
    assert one.engine.state == "failed"
    assert [type(error) for error in one.fatal] == [SystemExit]


def test_a_fault_in_a_callback_does_not_stop_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: object) -> None:
        raise ValueError("a counter is broken")

    async def main() -> list[float | HeedError]:
        return [await outcome(engine.submit([sequence()])) for _ in range(3)]

    engine = Engine(FakeRuntime(), Limits(), on_batch=broken)
    engine.start()
    with caplog.at_level(logging.ERROR):
        assert asyncio.run(main()) == [2, 2, 2]
        assert engine.stop(10)
    assert len(caplog.records) == 3


def test_what_is_wrong_with_one_sequence_of_several_is_said_with_its_place(bench: Make) -> None:
    one = bench(raise_where_bad(TooLong("17 tokens are over the model's 16")))

    async def main() -> float | HeedError:
        return await outcome(one.engine.submit([sequence(value=value) for value in (1, 2, BAD)]))

    failed = asyncio.run(main())
    assert isinstance(failed, Invalid)
    assert failed.message == "inputs[2]: 17 tokens are over the model's 16"
