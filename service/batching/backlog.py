"""Everything admitted and not yet answered: what the event loops and the device thread share, under one lock.

ready ── drain() ──► draining ── close() ──► stopped
  └─────────── fail() ───────────────────────► failed
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from service.batching.admission import Admission
from service.batching.execution import BatchOutcome
from service.batching.fairness import FairQueue
from service.batching.forecast import Forecast
from service.batching.job import Admitted, Job, has_failed
from service.batching.limits import Limits
from service.batching.scheduler import Choice, next_batch
from service.batching.slots import Slots
from service.errors import Unavailable

State = Literal["ready", "draining", "failed", "stopped"]


class Backlog:
    """The queue, the admission counters and the tickets' shared fields; safe from any thread.

    The device has `slots`, so many batches run side by side on it, each on a part of it where it `divides`,
    and a batch of `slot_tokens` is as efficient as a larger one (None: the larger, the better). The lock is
    held for bookkeeping only: never while the device computes, a result crosses or a callback runs.
    """

    def __init__(
        self, limits: Limits, *, slots: int = 1, slot_tokens: int | None = None, divides: bool = True
    ) -> None:
        self._limits = limits
        self._slots = Slots(slots, slot_tokens, divides=divides)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # for whoever waits until all is answered
        self._idle: list[threading.Condition] = []  # a device slot each; the last one was the last to work
        self._queue = FairQueue()
        self._inside = 0  # jobs queued, running, or on their way back to their loop
        self.waiting_requests = 0  # of which no job has been taken
        self._running: set[Job] = set()  # taken from the queue and not yet accounted for
        self._forecast = Forecast(self._slots)
        self.admission = Admission(limits)
        self.state: State = "stopped"

    # ---- for the event loops

    def require_place(self, now: float) -> None:
        """Raise Overloaded where no request would be admitted, whatever it asks."""
        if self.admission.full:
            with self._lock:
                self.admission.require_place(self._forecast.retry_seconds(self._queue, now))

    def admit(self, ticket: Admitted) -> None:
        """Queue all of a ticket's jobs; raise Overloaded, DeadlineExceeded, or Unavailable when not ready."""
        with self._lock:
            if self.state != "ready":
                raise refusal(self.state)
            now = ticket.submitted
            self._forecast.admit(ticket, self._queue, now)
            self.admission.acquire(ticket.cost, lambda: self._forecast.retry_seconds(self._queue, now))
            if self._queue or self._running:
                self._slots.crowd(ticket.submitted)
            for job in ticket.jobs:
                self._queue.add(job)
            ticket.inside = len(ticket.jobs)
            self._inside += ticket.inside
            ticket.waits = True
            self.waiting_requests += 1
            self._wake_slot()

    def withdraw(self, ticket: Admitted) -> bool:
        """Let go of a ticket: queued jobs leave now, running ones when done. Whether it was unanswered."""
        with self._lock:
            unanswered = bool(ticket.inside) and not ticket.over
            self._withdraw(ticket)
            self._tell_if_empty()
        return unanswered

    # ---- for the device's threads

    @property
    def waiting(self) -> bool:
        """Whether anything waits for a device slot; one read, without the lock."""
        return bool(self._queue)

    def take(self, clock: Callable[[], float]) -> tuple[Choice, int] | None:
        """Wait for work and take the next batch, with so many slots; None once the backlog is closed.

        The slots are the caller's until `give_back`.
        """
        with self._lock:
            while True:
                now = clock()
                if self._queue and self._slots.free:
                    hold_seconds = self._hold_seconds(now)
                    if hold_seconds <= 0:
                        break
                    self._idle_for(hold_seconds)
                elif self.state in ("stopped", "failed") and not self._queue:
                    return None
                else:
                    self._idle_for(None)
            choice = self._take(
                next_batch(
                    self._queue.jobs,
                    now,
                    self._limits,
                    fill=self._slots.fill(self._queue.jobs),
                    slowed=self._forecast.slowed(alone=len(self._queue) == 1),
                )
            )
            slots = 0
            if choice.run:
                slots = self._slots.take(choice.run, now, others_wait=bool(self._queue))
                self._forecast.begin(choice.run, slots, now)
            if self._queue and self._slots.free:
                self._wake_slot()
            return choice, slots

    def adjust_slots(self, slots: int, *, grow: bool) -> int:
        """Return on how many slots a long batch goes on that has some; on more only if it may `grow`."""
        with self._lock:
            goes_on = self._slots.adjust(slots, others_wait=bool(self._queue), grow=grow)
            if goes_on < slots:
                self._wake_slot()
            return goes_on

    def give_back(self, slots: int) -> None:
        """Free the slots of a batch that has run."""
        with self._lock:
            self._slots.free += slots
            if self._queue:
                self._wake_slot()

    def take_between(self, running: Sequence[Job], now: float) -> Choice | None:
        """Take short jobs to run between two steps of long ones; None where none waits, or a slot is free."""
        with self._lock:
            if not self._queue or self._slots.free:
                return None
            choice = next_batch(
                self._queue.jobs, now, self._limits, between=running, slowed=self._forecast.slowed()
            )
            if choice.run:
                self._forecast.begin(choice.run, 1, now)
            return self._take(choice) if choice.run or choice.drop else None

    def account(self, run: BatchOutcome) -> tuple[set[Admitted], int]:
        """Take jobs that are done off the books; return the tickets that this failed, and how many jobs."""
        failed = set()
        jobs = 0
        with self._lock:
            for job, outcome in zip(run.jobs, run.outcomes, strict=True):
                if job.accounted:  # another slot has failed meanwhile, and this with it
                    continue
                job.accounted = True
                jobs += 1
                self._running.discard(job)
                self._forecast.end(job)
                job.ticket.inside -= 1
                if outcome is not None and has_failed(outcome) and not job.ticket.over:
                    failed.add(job.ticket)
                    self._withdraw(job.ticket)
                else:
                    self._release_if_done(job.ticket)
            if run.timing is not None:
                seconds = run.timing.compute_seconds * run.slots / self._slots.slots
                self._forecast.estimates.measured(run.jobs, seconds, run.timing.finished)
        return failed, jobs

    def answered(self, jobs: int) -> None:
        """Note that so many accounted jobs have been sent to their loops; wake who waits for the last."""
        with self._lock:
            self._inside -= jobs
            self._tell_if_empty()

    def fail(self) -> Sequence[Job]:
        """Refuse everything from here on; return the jobs that nobody will answer now."""
        with self._lock:
            self.state = "failed"
            self._wake_all()
            return [*self._running, *self._queue.drop(list(self._queue.jobs))]

    # ---- for whoever owns the engine

    def drain(self) -> None:
        """Refuse new work from here on."""
        with self._lock:
            if self.state == "ready":
                self.state = "draining"
            self._wake_all()

    def close(self, timeout_seconds: float | None) -> Sequence[Job]:
        """Wait for the backlog to empty, no longer than this; return the queued jobs that did not make it."""
        with self._lock:
            self._changed.wait_for(lambda: not self._inside, timeout_seconds)
            if self.state != "failed":
                self.state = "stopped"
            left = self._queue.drop(list(self._queue.jobs))
            self._wake_all()
        return left

    # ---- under the lock

    def _take(self, choice: Choice) -> Choice:
        self._queue.drop(choice.drop)
        self._queue.take(choice.run)
        for head in choice.overtaken:
            head.overtaken += 1
        self._running.update(choice.run, choice.drop)
        for jobs in (choice.run, choice.drop):
            for job in jobs:
                if job.ticket.waits:
                    self._wait_no_more(job.ticket)
        return choice

    def _wait_no_more(self, ticket: Admitted) -> None:
        ticket.waits = False
        self.waiting_requests -= 1

    def _idle_for(self, seconds: float | None) -> None:
        """Let the calling slot wait for work."""
        mine = threading.Condition(self._lock)
        self._idle.append(mine)
        mine.wait(seconds)
        if mine in self._idle:
            self._idle.remove(mine)

    def _wake_slot(self) -> None:
        """Wake the slot that worked last: its caches and its cores are the warmest."""
        if self._idle:
            self._idle.pop().notify()

    def _wake_all(self) -> None:
        while self._idle:
            self._wake_slot()
        self._changed.notify_all()

    def _hold_seconds(self, now: float) -> float:
        """Return how long an unfilled batch is to wait for company, where `max_wait_seconds` asks for it."""
        limits = self._limits
        if not limits.max_wait_seconds or self.state != "ready":
            return 0.0
        if sum(job.cost.tokens for job in self._queue.jobs) >= limits.max_batch_tokens:
            return 0.0
        return min(job.arrival for job in self._queue.jobs) + limits.max_wait_seconds - now

    def _withdraw(self, ticket: Admitted) -> None:
        ticket.over = ticket.released = True
        if ticket.waits:
            self._wait_no_more(ticket)
        dropped = len(self._queue.drop(ticket.jobs))
        ticket.inside -= dropped
        self._inside -= dropped
        self._release_if_done(ticket)

    def _release_if_done(self, ticket: Admitted) -> None:
        """Give the capacity back, once: when the caller has let go and no job of it is on the device."""
        if ticket.released and ticket.charged and not ticket.inside:
            ticket.charged = False
            ticket.jobs = ()  # a job knows its ticket: without this both would wait for the cycle collector
            self.admission.release(ticket.cost)

    def _tell_if_empty(self) -> None:
        if not self._inside:
            self._changed.notify_all()


def call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: object) -> bool:
    """Call on the loop's own thread; False where the loop is closed and nobody is left to tell."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        return False
    return True


def draining() -> Unavailable:
    """Return the refusal of a server that is shutting down."""
    return Unavailable(
        "the server is shutting down; try again in a moment", code="draining", retry_after_seconds=1.0
    )


def refusal(state: State) -> Unavailable:
    """Return why nothing is admitted where the state is not `ready`."""
    if state == "draining":
        return draining()
    if state == "failed":
        return Unavailable("the device has failed and the server is ending", code="device_failed")
    return Unavailable(
        "the server is not ready; try again in a moment", code="not_ready", retry_after_seconds=1.0
    )
