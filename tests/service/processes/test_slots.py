"""Slots shared between the batches of several processes."""

import threading
from collections.abc import Callable

from service.processes.slots import MOST_PASSED, Slots


def begin(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def waiting(slots: Slots, count: int) -> None:
    """Wait until so many threads wait."""
    with slots._changed:
        assert slots._changed.wait_for(lambda: len(slots._waiting) == count, 10)


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
    waiting(slots, 1)
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
    waiting(slots, 1)
    for number in range(MOST_PASSED + 3):
        threads.append(begin(lambda number=number: run(f"short {number}", short=True)))
        waiting(slots, number + 2)
    slots.give_back(1)
    for thread in threads:
        thread.join(10)
    assert order.index("long") == MOST_PASSED
    assert len(order) == MOST_PASSED + 4


def test_long_one_lends_its_slots_to_short_ones_and_gets_them_back() -> None:
    slots = Slots(2)
    mine = slots.take(short=False)
    slots.step_aside(mine)  # nobody waits: at once
    order: list[str] = []

    def short() -> None:
        taken = slots.take(short=True)
        order.append("short")
        slots.give_back(taken)

    thread = begin(short)
    waiting(slots, 1)
    slots.step_aside(mine)
    order.append("long")
    thread.join(10)
    assert order == ["short", "long"]
    assert slots._free == 0
    slots.give_back(mine)
    assert slots._free == 2
