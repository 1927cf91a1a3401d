"""The engine: takes admitted jobs, has the device's slots run them, hands answers back.

Work-conserving: a free device starts on whatever waits. The event loop never touches the runtime; the
results of a run cross back with one `call_soon_threadsafe` per loop, or as one message per process.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

from models.protocol import Item, Runtime
from service.batching.backlog import Backlog, State, call_on, draining
from service.batching.device_slot import DeviceSlot
from service.batching.draft import Draft, draft
from service.batching.execution import BatchOutcome
from service.batching.job import Admitted, CancelReason, Job, Outcome, Ticket, Timing, traces_of
from service.batching.limits import Limits
from service.batching.work_queue import Reserve
from service.errors import Unavailable

log = logging.getLogger(__name__)
Args = ParamSpec("Args")
Settled = Sequence[tuple[Job, Outcome | None]]  # None: its request was over before its turn


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """One run on the device. `tokens` are query rows, to be held against `computed_tokens`.

    `model` is "" for the caller's own Q, K, V; `queue_seconds` has one entry a sequence. It ran from
    `started` to `ended`, in clock seconds; `traces` are the spans of its requests, where they are recorded.
    """

    model: str
    sequences: int
    tokens: int
    computed_tokens: int
    compute_seconds: float
    queue_seconds: tuple[float, ...]
    started: float = 0.0
    ended: float = 0.0
    traces: tuple[str, ...] = ()


def _deliver(loop: asyncio.AbstractEventLoop, settled: Settled, timing: Timing | None) -> bool:
    """Settle jobs on the loop that their callers wait on."""
    return call_on(loop, _settle, settled, timing)


def _settle(settled: Settled, timing: Timing | None) -> None:
    for job, outcome in settled:
        if outcome is not None:
            job.ticket.settle(job, outcome, timing)


class Engine:
    """One device, a thread for each of its slots. `admit` and its ticket belong to an event loop.

    `deliver` hands settled jobs to the `home` of their tickets; False where nobody is left to be told.
    `on_batch` runs on a slot's thread; `on_cancel("cancelled" | "deadline")` on whichever thread drops a
    request before it was answered; `on_fatal` on a slot's thread, once, after the engine has failed.
    """

    def __init__(
        self,
        runtime: Runtime,
        limits: Limits,
        *,
        deliver: Callable[[Any, Settled, Timing | None], bool] = _deliver,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
        on_fatal: Callable[[BaseException], None] = lambda _: None,
        on_cancel: Callable[[CancelReason], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._deliver = deliver
        self._on_batch = on_batch
        self._on_fatal = on_fatal
        self._on_cancel = on_cancel
        self._clock = clock
        self._backlog = Backlog(
            limits,
            slots=runtime.slots,
            slot_tokens=runtime.slot_tokens,
            divides=runtime.shares_cores,
        )
        self._failing = threading.Lock()
        self._device_slots = [
            DeviceSlot(
                number,
                runtime=runtime,
                backlog=self._backlog,
                limits=limits,
                done=self._finish,
                report=self._report,
                late=self._late,
                failed=self._fail,
                clock=clock,
            )
            for number in range(runtime.slots)
        ]

    # ---- what others may look at; each is one read, safe from any thread

    @property
    def state(self) -> State:
        """Whether work is taken ("ready"), only finished ("draining"), or neither ("failed", "stopped")."""
        return self._backlog.state

    @property
    def alive(self) -> bool:
        """Whether every one of the device's threads is running."""
        return all(slot.thread.is_alive() for slot in self._device_slots)

    @property
    def oldest_batch_seconds(self) -> float:
        """How long the device has been at the oldest of its present batches; 0 when it is free."""
        started = [at for slot in self._device_slots if (at := slot.run_started) is not None]
        return max(0.0, self._clock() - min(started)) if started else 0.0

    @property
    def queued_requests(self) -> int:
        """Requests admitted and not let go of: what `max_queued_requests` limits."""
        return self._backlog.admission.requests

    @property
    def queued_tokens(self) -> int:
        """Tokens of the requests admitted and not let go of: what `max_queued_tokens` limits."""
        return self._backlog.admission.tokens

    @property
    def waiting_requests(self) -> int:
        """Requests admitted of which the device has begun nothing."""
        return self._backlog.waiting_requests

    @property
    def admitted_requests(self) -> int:
        """How many requests have been admitted so far."""
        return self._backlog.admission.admitted

    # ---- the life of the engine

    def start(self) -> None:
        """Start the device's threads; once."""
        self._backlog.state = "ready"
        for slot in self._device_slots:
            slot.thread.start()

    def drain(self) -> None:
        """Refuse new work from here on, and finish what was admitted."""
        self._backlog.drain()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Drain, then end the threads; whether they have ended. Blocks: not for the event loop.

        Jobs still queued after `timeout_seconds` fail as draining. A batch that the device never finishes
        keeps its thread, and so the process, alive: what to do about it is the caller's decision.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self.drain()
        left = self._backlog.close(timeout_seconds)
        self._finish(BatchOutcome(left, [draining()] * len(left)))
        threads = [slot.thread for slot in self._device_slots]
        for thread in threads:
            if thread.ident is not None:
                thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # ---- requests; on an event loop

    def draft(
        self, items: Sequence[Item], *, deadline: float | None = None, priority: int = 0, tenant: str = ""
    ) -> Draft:
        """Return a request as `admit` takes it; on any thread. Raises TooLarge."""
        return draft(items, self._limits, deadline=deadline, priority=priority, tenant=tenant)

    def require_place(self) -> None:
        """Raise Overloaded where no request would be admitted: before anything is read of one."""
        self._backlog.require_place(self._clock())

    def admit(self, draft: Draft, *, reserve: Reserve = lambda *_: None) -> Ticket:
        """Admit one request, all of it or none, at once.

        `reserve` is told of the bytes of its result before it is queued, and raises where they are not there.
        Raises Overloaded, DeadlineExceeded where the request alone takes longer than its deadline leaves,
        Unavailable (not_ready, draining, device_failed).
        """
        reserve(draft.cost.result_bytes, 0)
        ticket = Ticket(
            draft.cost,
            loop=asyncio.get_running_loop(),
            submitted=self._clock(),
            deadline=draft.deadline,
            abandon=self.abandon,
            trace=draft.trace,
        )
        self.enter(ticket, draft.jobs)
        ticket.watch_deadline()
        return ticket

    # ---- requests; on any thread

    def enter(self, ticket: Admitted, jobs: Sequence[Job]) -> None:
        """Queue the jobs of a request; raises as `admit` does."""
        for job in jobs:
            job.ticket, job.arrival = ticket, ticket.submitted
        ticket.take(jobs)
        self._backlog.admit(ticket)

    def abandon(self, ticket: Admitted, reason: CancelReason) -> None:
        """Let go of a request: what of it is queued leaves, what runs is not answered."""
        if self._backlog.withdraw(ticket):
            self._tell(self._on_cancel, reason)

    # ---- the device's threads

    def _late(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        late = BatchOutcome(jobs, [None if job.ticket.over else job.ticket.expired() for job in jobs])
        for _ in self._finish(late):
            self._tell(self._on_cancel, "deadline")

    def _finish(self, run: BatchOutcome) -> set[Admitted]:
        """Take jobs off the books, then tell where they came from, then whoever waits for the last one.

        In this order a caller who has its answer finds its capacity free, and a drained engine has told all.
        Returns the tickets that this has failed.
        """
        failed, jobs = self._backlog.account(run)
        by_home: dict[Any, list[tuple[Job, Outcome | None]]] = {}
        for job, outcome in zip(run.jobs, run.outcomes, strict=True):
            by_home.setdefault(job.ticket.home, []).append((job, outcome))
        for home, settled in by_home.items():
            if not self._deliver(home, settled, run.timing):
                for ticket in {job.ticket for job, _ in settled}:
                    self.abandon(ticket, "cancelled")
        self._backlog.answered(jobs)
        return failed

    def _report(self, run: BatchOutcome) -> None:
        if run.timing is None:
            return
        card, packed = run.jobs[0].item.card, run.timing.packed
        report = BatchReport(
            model="" if card is None else card.name,
            sequences=sum(len(job.items) for job in run.jobs),
            tokens=sum(item.input.queries for job in run.jobs for item in job.items),
            computed_tokens=run.computed_tokens,
            compute_seconds=run.timing.compute_seconds,
            queue_seconds=tuple(packed - job.arrival for job in run.jobs for _ in job.items),
            started=packed,
            ended=run.timing.finished,
            traces=traces_of(run.jobs),
        )
        self._tell(self._on_batch, report)

    def _fail(self, error: BaseException) -> None:
        """Fail whatever is not answered yet; the second slot to fail has nothing left to do."""
        log.critical("a device thread has failed", exc_info=error)
        with self._failing:
            if self._backlog.state == "failed":
                return
            left = self._backlog.fail()
        refusal = Unavailable("the device has failed and the server is ending", code="device_failed")
        self._finish(BatchOutcome(left, [refusal] * len(left)))
        self._tell(self._on_fatal, error)

    def _tell(self, callback: Callable[Args, None], *args: Args.args, **kwargs: Args.kwargs) -> None:
        """Call what the application gave; a fault in its counters must not end the device thread."""
        try:
            callback(*args, **kwargs)
        except Exception:
            log.exception("a callback of the engine failed")
