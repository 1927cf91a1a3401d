"""The queue: jobs in the order they would like to be served, fair between tenants.

Jobs stand in classes, by priority and by whether they are short or long; a class is ordered by start-time
fair queueing between tenants (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996, section 2):

    start(job) = max(virtual time of the class, finish of the tenant);  finish of the tenant = start + share

The class's virtual time is the start of the first job waiting in it, so a tenant that comes back from idling
has saved nothing up and owes nothing (the lift of Sheng et al., "Fairness in Serving Large Language
Models", OSDI 2024, algorithm 2). Of two tenants with work waiting in a class neither gets ahead by more than
about a batch, however much either queues; with one tenant the order is that of arrival. The tag is given
once, on arrival: adding is a binary search and choosing a batch sorts nothing. (Round robin over what waits
would forget what a tenant was given before: of two tenants with long jobs, which run one at a time, the
older would win every time.)
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from service.batching.job import Job

__all__ = ["FairQueue"]

RANK = attrgetter("rank")


@dataclass(slots=True)
class _PriorityClass:
    """One priority and size class: its virtual time, and where each tenant's next job would start.

    `waiting`: jobs of each tenant; `seconds` and `shares`: of all of them together.
    """

    virtual: float = 0.0
    finishes: dict[str, float] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    shares: float = 0.0


class FairQueue:
    """Jobs waiting, in serving order; not thread-safe."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._classes: dict[tuple[int, bool], _PriorityClass] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> Sequence[Job]:
        """All jobs in serving order: priority downwards, short before long, then by start tag."""
        return self._jobs

    def add(self, job: Job) -> None:
        """Give the job its place."""
        own = self._classes.get(key := _class_of(job))
        if own is None:
            own = self._classes[key] = _PriorityClass()
        start = max(own.virtual, own.finishes.get(job.tenant, 0.0))
        own.finishes[job.tenant] = start + job.share
        own.waiting[job.tenant] = own.waiting.get(job.tenant, 0) + 1
        own.seconds += job.seconds
        own.shares += job.share
        self._arrivals += 1
        job.rank = (-job.priority, job.long, start, self._arrivals)
        job.queued = True
        if not self._jobs or self._jobs[-1].rank < job.rank:
            self._jobs.append(job)
        else:
            insort(self._jobs, job, key=RANK)

    @property
    def seconds(self) -> float:
        """What all jobs that wait should take of the whole device."""
        return sum(own.seconds for own in self._classes.values())

    def ahead(self, job: Job) -> float:
        """Return the seconds of work that would be served before a job that is not here yet.

        That of the classes before its own, and in its own as much as each tenant has before the job's start.
        A sum over classes, whatever waits in them.
        """
        if not self._jobs:
            return 0.0
        own = _class_of(job)
        seconds = 0.0
        for key, other in self._classes.items():
            if key < own:
                seconds += other.seconds
        same = self._classes.get(own)
        if same is None:
            return seconds
        tenants = len(same.waiting) + (job.tenant not in same.waiting)
        if tenants == 1 or not same.shares:
            return seconds + same.seconds
        before = max(0.0, same.finishes.get(job.tenant, 0.0) - same.virtual) * tenants
        return seconds + same.seconds * min(1.0, before / same.shares)

    def take(self, jobs: Iterable[Job]) -> None:
        """Remove jobs that are going to run."""
        touched = set()
        for job in jobs:
            touched.add(self._leave(job))
        self._jobs = [job for job in self._jobs if job.queued]
        for key in touched & self._classes.keys():
            first = self._jobs[bisect_left(self._jobs, key, key=RANK)]
            self._classes[key].virtual = max(self._classes[key].virtual, first.rank[2])

    def drop(self, jobs: Iterable[Job]) -> list[Job]:
        """Remove jobs that will not run, those still here; their tenants are not charged. Return them."""
        dropped = [job for job in jobs if job.queued]
        for job in dropped:
            self._classes[_class_of(job)].finishes[job.tenant] -= job.share
            self._leave(job)
            del self._jobs[bisect_left(self._jobs, job.rank, key=RANK)]
        return dropped

    def _leave(self, job: Job) -> tuple[int, bool]:
        job.queued = False
        key = _class_of(job)
        own = self._classes[key]
        own.waiting[job.tenant] -= 1
        own.seconds = max(0.0, own.seconds - job.seconds)
        own.shares = max(0.0, own.shares - job.share)
        if not own.waiting[job.tenant]:
            del own.waiting[job.tenant]
        if not own.waiting:  # what was served is forgotten with the last job, so nothing grows
            del self._classes[key]
        return key


def _class_of(job: Job) -> tuple[int, bool]:
    return -job.priority, job.long
