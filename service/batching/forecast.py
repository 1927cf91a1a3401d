"""When a request would be answered, and what is refused because that is too late.

What is expected of a new request: the work ahead of it in serving order, less what the device has done of it,
at the pace that its class has lately seen, then its own. Refused at once is what would end past its deadline:
its caller can go elsewhere, and the device works for those who still wait. What was admitted and has become
late all the same is dropped by the scheduler before it starts. Not thread-safe, as the backlog's other parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from service.batching.estimates import Estimates
from service.batching.fairness import FairQueue
from service.batching.job import Admitted, Job
from service.batching.slots import Slots
from service.errors import DeadlineExceeded, Overloaded

__all__ = ["Forecast"]

SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0

# Of the time that is left, for what is not foreseen. It costs nothing while there is work for the rest.
MARGIN = 0.15

# The pace: seconds waited for each that was expected. It holds what the sum of the work ahead leaves out:
# those who come later and go first, the time between batches, the event loop's share of a core.
DECAY = 0.95
LEAST_PACE, MOST_PACE = 0.5, 4.0
LEAST_WAIT_SECONDS = 0.02  # that was expected, to be counted: less is noise


@dataclass(slots=True)
class _Begun:
    """A batch on the device: since when, how long the whole device would take, what part of it it has."""

    at: float
    seconds: float
    part: float
    long: bool


@dataclass(slots=True)
class _Pace:
    waited: float = 0.0
    expected: float = 0.0

    @property
    def factor(self) -> float:
        if not self.expected:
            return 1.0
        return min(max(self.waited / self.expected, LEAST_PACE), MOST_PACE)


class Forecast:
    """What runs, and how waits that were expected compare with those that were."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._begun: dict[Job, _Begun] = {}  # by the first of a batch
        self._paces: dict[tuple[int, bool], _Pace] = {}  # by priority and size class
        self.estimates = Estimates()

    def admit(self, ticket: Admitted, queue: FairQueue, now: float) -> None:
        """Estimate a new request's jobs; raise Overloaded or DeadlineExceeded where it would be late.

        Takes time for the request's own jobs, and none for those in the queue.
        """
        job = ticket.jobs[0]
        ahead = before = queue.ahead(job) + self._running_seconds(now, long=job.long)
        own = longest = 0.0
        for one in ticket.jobs:
            self.estimates.estimate(one, now)
            one.ahead = before
            before += one.seconds
            own += one.needs
            if one.needs > longest:
                longest = one.needs
        left = job.deadline - now
        if left <= 0 or left == math.inf:
            return
        later = own
        for one in ticket.jobs:
            later -= one.needs
            one.later = later
        own = max(own, longest * self._slots.slowed(alone=not ahead))
        if own > left:
            raise DeadlineExceeded(
                f"this request takes about {_said(own)} and its deadline leaves {_said(left)}; allow more "
                "time, or send less work"
            )
        if not ahead:
            return
        wait = ahead * self._pace(job).factor
        late = wait + own - (1 - MARGIN) * left
        if late > 0:
            seconds = _whole_seconds(late)
            raise Overloaded(
                f"the answer would take about {_said(wait + own)}, the deadline leaves {_said(left)}; "
                f"try again in {seconds:.0f} s, or allow more time",
                retry_after_seconds=seconds,
            )

    def retry_seconds(self, queue: FairQueue, now: float) -> float:
        """Return whole seconds, 1 to 60, in which what is admitted now should have been worked off."""
        return _whole_seconds(queue.seconds + self._running_seconds(now))

    def slowed(self, *, alone: bool = False) -> float:
        """Return how many times longer than expected a batch may take: more cautious where others wait."""
        return self._slots.slowed(alone=alone) * (1 if alone else self.estimates.caution)

    def begin(self, jobs: Sequence[Job], slots: int, now: float) -> None:
        """Note that a batch goes to the device, with so many of its slots."""
        seconds = 0.0
        for job in jobs:
            seconds += job.seconds
            if job.ahead >= LEAST_WAIT_SECONDS:
                pace = self._pace(job)
                pace.waited += now - job.arrival
                pace.expected += job.ahead
        first = jobs[0]
        if first.ahead:
            pace = self._pace(first)
            pace.waited *= DECAY
            pace.expected *= DECAY
        self._begun[first] = _Begun(now, seconds, slots / self._slots.slots, first.long)

    def end(self, job: Job) -> None:
        """Note that a job has left the device."""
        self._begun.pop(job, None)

    def _running_seconds(self, now: float, *, long: bool = True) -> float:
        """Return what is left of the batches on the device.

        Without the long ones for a short job: it goes in between.
        """
        seconds = 0.0
        for one in self._begun.values():
            if long or not one.long:
                seconds += max(0.0, one.seconds - (now - one.at) * one.part)
        return seconds

    def _pace(self, job: Job) -> _Pace:
        key = (job.priority, job.long)
        found = self._paces.get(key)
        if found is None:
            found = self._paces[key] = _Pace()
        return found


def _whole_seconds(seconds: float) -> float:
    return min(max(float(math.ceil(seconds)), SHORTEST_RETRY_SECONDS), LONGEST_RETRY_SECONDS)


def _said(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
