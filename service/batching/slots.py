"""How much of the device a batch gets: of its slots, and of what waits.

The backlog's, under its lock. Every figure here was measured; docs/lab/side-by-side.md has them.
"""

import math
from collections.abc import Sequence

from service.batching.job import Job

# Of a batch that leaves some for another: smaller ones cost more than they gain.
LEAST_BESIDE_IDLE = 64
LEAST_BESIDE_BUSY = 192

# A short sequence gets all the slots only where nobody has come beside another for so long. Else two callers
# who take turns would each wait for the other's, though side by side both would be done sooner.
CROWD_SECONDS = 0.004
SHORT_TOKENS = 256


class Slots:
    """The device's `slots`, on which so many batches run side by side.

    A batch of `slot_tokens` is as efficient as a larger one (None: the larger, the better). `divides`: a slot
    is a part of the device, which one batch may have all of; else slots only let batches overlap.
    """

    def __init__(self, slots: int, slot_tokens: int | None, *, divides: bool = True) -> None:
        self.slots = self.free = slots
        self._divides = divides
        self._slot_tokens = slot_tokens
        self._crowded = -math.inf

    def crowd(self, now: float) -> None:
        """Note that a request has come beside another, at clock second `now`."""
        self._crowded = now

    def take(self, jobs: Sequence[Job], now: float, *, others_wait: bool) -> int:
        """Take slots for a batch and return how many: one, or all where a sequence is all there is to do.

        A deterministic one always has one, for sums may be made otherwise on more cores.
        """
        all_of_them = self.free == self.slots and not others_wait and not jobs[0].alone
        if now - self._crowded <= CROWD_SECONDS:
            all_of_them = all_of_them and sum(job.cost.tokens for job in jobs) > SHORT_TOKENS
        taken = self.slots if all_of_them and self._divides else 1
        self.free -= taken
        return taken

    def adjust(self, taken: int, *, others_wait: bool, grow: bool) -> int:
        """Return on how many slots a long batch goes on: one where others wait, all once it is alone."""
        if taken > 1 and others_wait:
            self.free += taken - 1
            return 1
        if self._divides and grow and not others_wait and self.free == self.slots - taken:
            self.free = 0
            return self.slots
        return taken

    def slowed(self, *, alone: bool = False) -> int:
        """Return how many times longer a batch takes than on the whole device, beside others or `alone`."""
        return 1 if alone and self._divides else self.slots

    def fill(self, waiting: Sequence[Job]) -> int | None:
        """Return the tokens at which a batch is full: a slot's fair part of all that waits.

        Busy slots count too: whoever took everything would leave them nothing to go on with.
        """
        if self.slots == 1 or not self._divides:
            return self._slot_tokens
        tokens = sum(job.cost.tokens for job in waiting)
        least = LEAST_BESIDE_IDLE if self.free > 1 else LEAST_BESIDE_BUSY
        fair = max(least, -(-tokens // self.slots))
        return fair if self._slot_tokens is None else min(fair, self._slot_tokens)
