"""Whose batch runs where: the slots of the device, shared by the HTTP processes' batches.

A batch takes one slot, or all of them where it is alone. Who waits is served first come first, but short
ones before long ones; a long one that has been passed often enough goes first.
"""

import threading
from dataclasses import dataclass

__all__ = ["Slots"]

MOST_PASSED = 8


@dataclass(slots=True, eq=False)
class _Waiter:
    short: bool
    passed: int = 0


class Slots:
    """`count` slots; safe from any thread."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._waiting: list[_Waiter] = []
        self._changed = threading.Condition()

    def take(self, *, short: bool, single: bool = False) -> int:
        """Wait for a slot; return how many the batch has got: `single` never has more than one."""
        with self._changed:
            self._waiting.append(waiter := _Waiter(short))
            self._wait(waiter)
            alone = self._free == self._count and not self._waiting and not single
            taken = self._count if alone else 1
            self._free -= taken
            return taken

    def give_back(self, slots: int) -> None:
        """Free what `take` gave."""
        with self._changed:
            self._free += slots
            self._changed.notify_all()

    def step_aside(self, slots: int) -> int:
        """Make room for those that wait, in a pause of a long batch; return how many slots it goes on with.

        All but one are given back; the last one is lent to the short ones and waited for.
        """
        with self._changed:
            if not self._waiting:
                return slots
            self._free += slots - 1
            self._changed.notify_all()
            if slots == 1 and any(waiter.short for waiter in self._waiting):
                self._free += 1
                self._waiting.insert(0, waiter := _Waiter(short=False))  # before those that have not begun
                self._wait(waiter)
                self._free -= 1
            return 1

    def _wait(self, waiter: _Waiter) -> None:
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._free > 0 and self._next() is waiter)
        for other in self._waiting[: self._waiting.index(waiter)]:
            other.passed += 1
        self._waiting.remove(waiter)
        self._changed.notify_all()

    def _next(self) -> _Waiter:
        first = self._waiting[0]
        if first.passed >= MOST_PASSED:
            return first
        return next((waiter for waiter in self._waiting if waiter.short), first)
