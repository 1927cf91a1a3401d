"""Everything admitted and not yet answered: what the event loops and the device thread share, under one lock.

ready ── drain() ──► draining ── close() ──► stopped
  └─────────── fail() ───────────────────────► failed
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Literal

from service.batching.admission import Admission
from service.batching.execution import Run
from service.batching.fairness import FairQueue
from service.batching.job import Job, Ticket
from service.batching.limits import Limits
from service.batching.scheduler import Choice, next_batch
from service.errors import HeedError, Unavailable

__all__ = ["Backlog", "State", "call_on", "draining"]

State = Literal["ready", "draining", "failed", "stopped"]


class Backlog:
    """The queue, the admission counters and the tickets' shared fields; safe from any thread.

    The lock is held for bookkeeping only: never while the device computes, a result crosses or a callback
    runs.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._changed = threading.Condition(threading.Lock())
        self._queue = FairQueue()
        self._inside = 0  # jobs queued, running, or on their way back to their loop
        self._running: set[Job] = set()  # taken from the queue and not yet accounted for
        self._drained: list[asyncio.Future[None]] = []
        self.admission = Admission(limits)
        self.state: State = "stopped"

    # ---- for the event loops

    def admit(self, ticket: Ticket) -> None:
        """Queue all of a ticket's jobs; raise Overloaded, or Unavailable when not ready."""
        with self._changed:
            if self.state != "ready":
                raise _refusal(self.state)
            self.admission.acquire(ticket.cost)
            for job in ticket.jobs:
                self._queue.add(job)
            ticket.inside = len(ticket.jobs)
            self._inside += ticket.inside
            self._changed.notify()

    def withdraw(self, ticket: Ticket) -> bool:
        """Let go of a ticket: queued jobs leave now, running ones when done. Whether it was unanswered."""
        with self._changed:
            unanswered = bool(ticket.inside) and not ticket.over
            self._withdraw(ticket)
            self._wake_if_empty()
        return unanswered

    async def empty(self) -> None:
        """Wait until every admitted job is answered."""
        with self._changed:
            if not self._inside:
                return
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._drained.append(waiter)
        await waiter

    # ---- for the device thread

    def take(self, clock: Callable[[], float]) -> Choice | None:
        """Wait for work and take the next batch from the queue; None once the backlog is closed."""
        with self._changed:
            while True:
                now = clock()
                if self._queue:
                    hold_seconds = self._hold_seconds(now)
                    if hold_seconds <= 0:
                        break
                    self._changed.wait(hold_seconds)
                elif self.state == "stopped":
                    return None
                else:
                    self._changed.wait()
            return self._take(next_batch(self._queue.jobs, now, self._limits))

    def take_inside(self, running: Sequence[Job], now: float) -> Choice | None:
        """Take short jobs that may run in a pause of long ones; None, at once, where none waits."""
        with self._changed:
            if not self._queue:
                return None
            choice = next_batch(self._queue.jobs, now, self._limits, inside=running)
            return self._take(choice) if choice.run or choice.drop else None

    def account(self, run: Run) -> set[Ticket]:
        """Take jobs that are done off the books; return the tickets that this has failed."""
        failed = set()
        with self._changed:
            for job, outcome in zip(run.jobs, run.outcomes, strict=True):
                self._running.discard(job)
                job.ticket.inside -= 1
                if isinstance(outcome, HeedError) and not job.ticket.over:
                    failed.add(job.ticket)
                    self._withdraw(job.ticket)
                else:
                    self._release_if_done(job.ticket)
            if run.timing is not None:
                tokens = sum(job.cost.tokens for job in run.jobs)
                self.admission.served(tokens, run.timing.compute_seconds)
        return failed

    def answered(self, jobs: int) -> None:
        """Note that so many accounted jobs have been sent to their loops; wake who waits for the last."""
        with self._changed:
            self._inside -= jobs
            self._wake_if_empty()

    def fail(self) -> Sequence[Job]:
        """Refuse everything from here on; return the jobs that nobody will answer now."""
        with self._changed:
            self.state = "failed"
            return [*self._running, *self._queue.drop(list(self._queue.jobs))]

    # ---- for whoever owns the engine

    def drain(self) -> None:
        """Refuse new work from here on."""
        with self._changed:
            if self.state == "ready":
                self.state = "draining"
            self._changed.notify_all()

    def close(self, timeout_seconds: float | None) -> Sequence[Job]:
        """Wait for the backlog to empty, no longer than this; return the queued jobs that did not make it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside, timeout_seconds)
            if self.state != "failed":
                self.state = "stopped"
            left = self._queue.drop(list(self._queue.jobs))
            self._changed.notify_all()
        return left

    # ---- under the lock

    def _take(self, choice: Choice) -> Choice:
        self._queue.drop(choice.drop)
        self._queue.take(choice.run)
        for head in choice.overtaken:
            head.overtaken += 1
        self._running.update(choice.run, choice.drop)
        return choice

    def _hold_seconds(self, now: float) -> float:
        """Return how long an unfilled batch is to wait for company, where `max_wait_seconds` asks for it."""
        limits = self._limits
        if not limits.max_wait_seconds or self.state != "ready":
            return 0.0
        if sum(job.cost.tokens for job in self._queue.jobs) >= limits.max_batch_tokens:
            return 0.0
        return min(job.arrival for job in self._queue.jobs) + limits.max_wait_seconds - now

    def _withdraw(self, ticket: Ticket) -> None:
        ticket.over = ticket.released = True
        dropped = len(self._queue.drop(ticket.jobs))
        ticket.inside -= dropped
        self._inside -= dropped
        self._release_if_done(ticket)

    def _release_if_done(self, ticket: Ticket) -> None:
        """Give the capacity back, once: when the caller has let go and no job of it is on the device."""
        if ticket.released and ticket.charged and not ticket.inside:
            ticket.charged = False
            ticket.jobs = ()  # a job knows its ticket: without this both would wait for the cycle collector
            self.admission.release(ticket.cost)

    def _wake_if_empty(self) -> None:
        if self._inside:
            return
        self._changed.notify_all()
        for waiter in self._drained:
            call_on(waiter.get_loop(), _resolve, waiter)
        self._drained.clear()


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


def _refusal(state: State) -> Unavailable:
    if state == "draining":
        return draining()
    if state == "failed":
        return Unavailable("the device has failed and the server is ending", code="device_failed")
    return Unavailable(
        "the server is not ready; try again in a moment", code="not_ready", retry_after_seconds=1.0
    )


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
