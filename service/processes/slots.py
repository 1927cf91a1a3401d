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
    needs: int
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
            self._wait(_Waiter(1, short))
            alone = self._free == self._count and not self._waiting and not single
            taken = self._count if alone else 1
            self._free -= taken
            return taken

    def give_back(self, slots: int) -> None:
        """Free what `take` gave."""
        with self._changed:
            self._free += slots
            self._changed.notify_all()

    def step_aside(self, slots: int) -> None:
        """Lend a long batch's slots to the short ones that wait, and wait until they are free again."""
        with self._changed:
            if not any(waiter.short for waiter in self._waiting):
                return
            self._free += slots
            self._wait(_Waiter(slots, short=False))
            self._free -= slots

    def _wait(self, waiter: _Waiter) -> None:
        # One that comes back to its batch stands before those that have not begun.
        self._waiting.insert(0 if waiter.needs > 1 else len(self._waiting), waiter)
        self._changed.notify_all()
        self._changed.wait_for(lambda: self._next() is waiter and self._free >= waiter.needs)
        for other in self._waiting[: self._waiting.index(waiter)]:
            other.passed += 1
        self._waiting.remove(waiter)
        self._changed.notify_all()

    def _next(self) -> _Waiter:
        first = self._waiting[0]
        if first.passed >= MOST_PASSED:
            return first
        return next((waiter for waiter in self._waiting if waiter.short), first)
