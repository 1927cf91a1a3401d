"""What waits in the queue: an Admitted is one request, a Job one sequence of it, or several that are linked.

A Ticket is a request whose caller waits on an event loop of this process: its future, answers and timer are
touched there only.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from models.protocol import Answer, Item
from service.batching.cost import Cost
from service.errors import DeadlineExceeded, HeedError

OF_ONE = ("invalid", "not_finite", "out_of_memory")  # codes of what one sequence is refused for

CancelReason = Literal["cancelled", "deadline"]
One = Answer | HeedError  # what became of one sequence
Outcome = One | Sequence[One]  # ... of a job: of each of its linked sequences, or of all of them an error


def each_of(outcome: Outcome) -> Sequence[One]:
    """Return what became of each sequence of a job, or what they all have in common."""
    return (outcome,) if isinstance(outcome, Answer | HeedError) else outcome


def has_failed(outcome: Outcome) -> bool:
    """Whether a job has failed: of linked sequences one is enough."""
    return any(isinstance(one, HeedError) for one in each_of(outcome))


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One sequence on its way to the device. `draft` fills the first part and never changes it.

    `linked`: others that are attended with it, for edits take z of one for another; each with its index.
    They run in one batch, and fail together. Their edits' sources are places in `items`. `model` is what a
    batch must have in common: the loaded weights, not their name, so that the two versions around a reload
    never meet in a batch. `long` and `share` follow from cost and limits. Jobs of
    one `kind` take about the same time a token.
    """

    item: Item
    index: int
    cost: Cost
    ticket: "Admitted" = field(default=None)  # type: ignore[assignment]  # the request's, from admission on
    arrival: float = 0.0
    deadline: float = math.inf
    priority: int = 0
    tenant: str = ""
    model: object = None
    share: float = 0.0
    long: bool = False
    alone: bool = False
    kind: Hashable = None
    linked: Sequence[tuple[int, Item]] = ()

    # The forecast's, in seconds of the whole device: a guess of what it takes; the same where it is known for
    # certain, else 0; what starting its batch costs; what the request's later jobs need after it; what was
    # expected to go before it.
    seconds: float = 0.0
    needs: float = 0.0
    start: float = 0.0
    later: float = 0.0
    ahead: float = 0.0

    # The queue's: the place in the serving order, and how many batches it saw go before it while first.
    rank: tuple[int, bool, float, int] = field(default=(0, False, 0.0, 0))
    queued: bool = False
    overtaken: int = 0
    accounted: bool = False  # off the books: it has its outcome

    @property
    def items(self) -> Sequence[Item]:
        """All its sequences."""
        return (self.item, *(item for _, item in self.linked)) if self.linked else (self.item,)

    @property
    def indexes(self) -> Sequence[int]:
        """Their places in the request."""
        return (self.index, *(index for index, _ in self.linked)) if self.linked else (self.index,)


def traces_of(jobs: Sequence[Job]) -> tuple[str, ...]:
    """Return the spans that jobs are part of, each once, as far as they are recorded."""
    return tuple(dict.fromkeys(trace for job in jobs if (trace := job.ticket.trace)))


def traced(jobs: Sequence[Job]) -> dict[str, object]:
    """Return what a line of the log says of the traces that jobs are part of: "trace_id", where it is one."""
    ids = list(dict.fromkeys(trace.split("-")[1] for trace in traces_of(jobs)))
    if not ids:
        return {}
    return {"fields": {"trace_id": ids[0]} if len(ids) == 1 else {"trace_ids": ids}}


@dataclass(frozen=True, slots=True)
class Timing:
    """When one run on the device took place, in clock seconds."""

    packed: float
    finished: float
    compute_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """A request's answers in the order of its items, and where its time went.

    The three durations add up to the time from submission to the end of the last run:
    `queue_seconds` until the first of its jobs was taken into a batch; `compute_seconds` the runs that held
    any of its jobs, each counted once; `batch_seconds` the rest: packing, and runs between its first and
    last job that held none of its own.
    """

    answers: list[Answer]
    queue_seconds: float
    batch_seconds: float
    compute_seconds: float


@dataclass(slots=True, eq=False)
class Admitted:
    """One request as the engine has it; whoever answers its caller says how, by `finish`.

    `home` is what its outcomes are delivered to, and where they are settled. `inside` to `released` are the
    engine's, under the engine's lock. `trace` is the Draft's.
    """

    cost: Cost
    home: Any
    submitted: float
    deadline: float | None
    jobs: Sequence[Job] = ()
    inside: int = 0  # jobs queued or running
    waits: bool = False  # none of its jobs has been taken
    over: bool = False  # failed, expired or cancelled: nothing more of it is to run
    charged: bool = True  # its cost counts against the admission limits
    released: bool = False  # the caller has let go of it
    trace: str = ""
    _answers: list[Answer | None] = field(default_factory=list)
    _missing: int = 0
    _first_packed: float = 0.0
    _compute_seconds: float = 0.0
    _last: Timing | None = None

    def take(self, jobs: Sequence[Job]) -> None:
        """Take the jobs, before they are queued."""
        self.jobs = jobs
        self._missing = sum(1 + len(job.linked) for job in jobs)
        self._answers = [None] * self._missing

    def finish(self, outcome: "Completed | HeedError") -> None:
        """Answer the caller."""
        raise NotImplementedError

    def settle(self, job: Job, outcome: Outcome, timing: Timing | None) -> None:
        """Take one job's outcome. The first failure fails the request."""
        each = each_of(outcome)
        for index, one in zip(job.indexes, each, strict=False):  # an error of all is told of the first
            if isinstance(one, HeedError):
                self.finish(self._named(one, index))
                return
            self._answers[index] = one
        assert timing is not None
        if timing is not self._last:  # several of its jobs may have shared one run
            if self._last is None:
                self._first_packed = timing.packed
            self._compute_seconds += timing.compute_seconds
            self._last = timing
        self._missing -= len(each)
        if self._missing == 0:
            self.finish(
                Completed(
                    answers=[answer for answer in self._answers if answer is not None],
                    queue_seconds=self._first_packed - self.submitted,
                    batch_seconds=max(0.0, timing.finished - self._first_packed - self._compute_seconds),
                    compute_seconds=self._compute_seconds,
                )
            )

    def expired(self) -> DeadlineExceeded:
        """Return the refusal that names this request's deadline, as what it left after decoding."""
        left_ms = 1000 * ((self.deadline or self.submitted) - self.submitted)
        said = "the deadline had passed"  # while the request was read and decoded
        if left_ms >= 1:
            said = f"not answered within the deadline of {left_ms:.0f} ms"
        return DeadlineExceeded(f"{said}; allow more time, or send less work")

    def _named(self, error: HeedError, index: int) -> HeedError:
        """Return what is wrong with one sequence of several, with its place."""
        if len(self._answers) == 1 or error.code not in OF_ONE:
            return error
        return type(error)(
            f"inputs[{index}]: {error.message}",
            code=error.code,
            retry_after_seconds=error.retry_after_seconds,
        )


class Ticket(Admitted):
    """One request whose caller waits on an event loop: await `result()`, always `cancel()` in a `finally`.

    The answers of a finished request count against the admission limits until `cancel()`, for they are
    held in memory until the reply is written.
    """

    __slots__ = ("_abandon", "_done", "_outcome", "_timer")

    def __init__(
        self,
        cost: Cost,
        *,
        loop: asyncio.AbstractEventLoop,
        submitted: float,
        deadline: float | None,
        abandon: "Callable[[Ticket, CancelReason], None]",
        trace: str = "",
    ) -> None:
        super().__init__(cost, loop, submitted, deadline, trace=trace)
        self._abandon = abandon
        self._done: asyncio.Future[None] = loop.create_future()
        self._outcome: Completed | HeedError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch_deadline(self) -> None:
        """Start the timer; on the loop, once admitted.

        It answers a request whose deadline passes while the device is busy with another, or hangs.
        """
        if self.deadline is not None:
            self._timer = self.home.call_later(max(0.0, self.deadline - self.submitted), self._expire)

    async def result(self) -> Completed:
        """Wait for all answers.

        Raises NotFinite, Invalid, Unavailable (out_of_memory, device_failed, draining), DeadlineExceeded,
        HeedError (internal); where the queue is another process's, what it refuses as well; CancelledError
        after `cancel()`.
        """
        await self._done
        outcome = self._outcome
        assert outcome is not None
        if isinstance(outcome, HeedError):
            raise outcome
        return outcome

    def cancel(self) -> None:
        """Drop the jobs not yet packed and give the capacity back; on the loop, as often as one likes."""
        self._stop_timer()
        if not self.released:
            self._abandon(self, "cancelled")
        self._done.cancel()

    def settle(self, job: Job, outcome: Outcome, timing: Timing | None) -> None:
        """Take one job's outcome; on the loop, as long as anyone waits."""
        if not self._done.done():
            super().settle(job, outcome, timing)

    def finish(self, outcome: Completed | HeedError) -> None:
        """Answer the caller, once; on the loop."""
        if not self._done.done():
            # Not set_exception: a caller who has left would have it logged as never retrieved.
            self._stop_timer()
            self._outcome = outcome
            self._done.set_result(None)

    def _expire(self) -> None:
        if not self._done.done():
            self._abandon(self, "deadline")
            self.finish(self.expired())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
