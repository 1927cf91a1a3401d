"""A day of the backlog in a moment: arrivals, batches and deadlines on a clock that is a list of events."""

import asyncio
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from models.protocol import Answer
from service.batching.backlog import Backlog
from service.batching.cost import Cost
from service.batching.execution import BatchOutcome
from service.batching.job import Job, Ticket, Timing
from service.batching.limits import Limits
from service.errors import DeadlineExceeded, Overloaded
from tests.queueing import job

LIMITS = Limits()


@dataclass(frozen=True)
class Arrival:
    """One request at a second, of sequences of these sizes."""

    at: float
    tokens: tuple[int, ...]
    allows: float  # seconds until its deadline
    priority: int = 0
    tenant: str = ""


@dataclass
class Day:
    """What became of every request; `cost` says how long the whole device takes for a batch."""

    cost: Callable[[Sequence[Job]], float]
    slots: int = 1
    limits: Limits = LIMITS
    answered: list[Arrival] = field(default_factory=list)
    refused: list[tuple[Arrival, float]] = field(default_factory=list)  # and its Retry-After
    hopeless: list[Arrival] = field(default_factory=list)
    computed: int = 0  # sequences
    wanted: int = 0  # of them by somebody when they were done

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.backlog = Backlog(self.limits, slots=self.slots, slot_tokens=192 if self.slots > 1 else None)
        self.backlog.state = "ready"
        self.now = 0.0
        self._free = self.slots
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._arrivals: dict[Ticket, Arrival] = {}

    def run(self, arrivals: Sequence[Arrival]) -> None:
        """Let it all happen."""
        for one in arrivals:
            self._at(one.at, lambda one=one: self._arrive(one))  # type: ignore[misc]
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
            while self._free and self.backlog.waiting:
                self._begin()
        self.loop.close()

    @property
    def wasted(self) -> float:
        """The part of what was computed that nobody waited for any more."""
        return 1 - self.wanted / max(1, self.computed)

    def _at(self, second: float, event: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._events, (second, self._numbers, event))

    def _arrive(self, one: Arrival) -> None:
        deadline = one.at + one.allows
        costs = [Cost(tokens, 4 * tokens**2, 64 * tokens) for tokens in one.tokens]
        ticket = Ticket(
            Cost.total(costs), loop=self.loop, submitted=one.at, deadline=deadline, abandon=lambda *_: None
        )
        jobs = []
        for cost in costs:
            made = job(
                ticket,
                self.limits,
                tokens=cost.tokens,
                scores=cost.scores,
                result_bytes=cost.result_bytes,
                deadline=deadline,
                priority=one.priority,
                tenant=one.tenant,
                kind=cost.tokens.bit_length(),
            )
            made.arrival = one.at
            jobs.append(made)
        ticket.take(jobs)
        try:
            self.backlog.admit(ticket)
        except Overloaded as refusal:
            self.refused.append((one, refusal.retry_after_seconds or 0))
        except DeadlineExceeded:
            self.hopeless.append(one)
        else:
            self._at(deadline, lambda: self._expire(ticket))
            self._arrivals[ticket] = one

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.released:
            self.backlog.withdraw(ticket)

    def _begin(self) -> None:
        taken = self.backlog.take(lambda: self.now)
        assert taken is not None
        choice, slots = taken
        if choice.drop:
            self.backlog.account(BatchOutcome(choice.drop, [one.ticket.expired() for one in choice.drop]))
        if choice.run:
            began, seconds = self.now, self.cost(choice.run) * self.slots / slots
            self._free -= slots
            self._at(began + seconds, lambda: self._end(choice.run, began, seconds, slots))

    def _end(self, jobs: Sequence[Job], began: float, seconds: float, slots: int) -> None:
        self.computed += len(jobs)
        self.wanted += sum(not one.ticket.over for one in jobs)
        timing = Timing(began, self.now, seconds)
        alive = {one.ticket for one in jobs if not one.ticket.over}
        self.backlog.account(BatchOutcome(jobs, [Answer(tensors={})] * len(jobs), timing, slots=slots))
        self.backlog.give_back(slots)
        self._free += slots
        for ticket in alive:
            if not ticket.inside:
                self.answered.append(self._arrivals[ticket])
                self.backlog.withdraw(ticket)
