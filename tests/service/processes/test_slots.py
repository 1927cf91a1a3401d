"""Slots shared between the batches of several processes."""

import threading
from collections.abc import Callable

from service.processes.slots import MOST_PASSED, Slots
from tests.service.processes.waiters import wait_for_waiters


def begin(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_batch_alone_has_all_slots_and_two_have_one_each() -> None:
    slots = Slots(2)
    assert slots.take(short=True) == 2
    slots.give_back(2)
    assert slots.take(short=True, single=True) == 1
    assert slots.take(short=True) == 1


def test_next_one_waits_until_a_slot_is_free() -> None:
    slots = Slots(2)
    taken = slots.take(short=False)
    got: list[int] = []
    thread = begin(lambda: got.append(slots.take(short=True)))
    wait_for_waiters(slots, 1)
    assert got == []
    slots.give_back(taken)
    thread.join(10)
    assert got == [2]


def test_short_goes_before_long_but_not_for_ever() -> None:
    slots = Slots(1)
    slots.take(short=True)
    order: list[str] = []

    def run(name: str, *, short: bool) -> None:
        slots.take(short=short)
        order.append(name)
        slots.give_back(1)

    threads = [begin(lambda: run("long", short=False))]
    wait_for_waiters(slots, 1)
    for number in range(MOST_PASSED + 3):
        threads.append(begin(lambda number=number: run(f"short {number}", short=True)))
        wait_for_waiters(slots, number + 2)
    slots.give_back(1)
    for thread in threads:
        thread.join(10)
    assert order.index("long") == MOST_PASSED
    assert len(order) == MOST_PASSED + 4


def test_long_one_makes_room_for_whoever_waits_and_lends_its_last_slot_to_short_ones() -> None:
    slots = Slots(2)
    mine = slots.take(short=False)
    assert slots.step_aside(mine) == 2  # nobody waits
    order: list[str] = []
    released = threading.Event()

    def long() -> None:
        slots.take(short=False)
        order.append("other long")
        assert released.wait(10)
        slots.give_back(1)

    def short() -> None:
        slots.take(short=True)
        order.append("short")
        slots.give_back(1)

    threads = [begin(long)]
    wait_for_waiters(slots, 1)
    assert slots.step_aside(mine) == 1  # beside the other from here on
    wait_for_waiters(slots, 0)
    threads.append(begin(short))
    wait_for_waiters(slots, 1)
    assert slots.step_aside(1) == 1
    order.append("mine")
    released.set()
    for thread in threads:
        thread.join(10)
    assert order == ["other long", "short", "mine"]
    assert slots._free == 1
    slots.give_back(1)


def test_one_that_comes_back_goes_before_long_ones_that_have_not_begun() -> None:
    slots = Slots(1)
    slots.take(short=False)
    order: list[str] = []

    def run(name: str, *, short: bool) -> None:
        slots.take(short=short)
        order.append(name)
        slots.give_back(1)

    threads = [begin(lambda: run("other long", short=False))]
    wait_for_waiters(slots, 1)
    threads.append(begin(lambda: run("short", short=True)))
    wait_for_waiters(slots, 2)
    slots.step_aside(1)
    order.append("mine")
    slots.give_back(1)
    for thread in threads:
        thread.join(10)
    assert order == ["short", "mine", "other long"]
