"""What waits in the queue: a Ticket is one admitted request, a Job one sequence of it.

A ticket lives on two threads. Its future, answers and timer are touched on the caller's event loop only;
`over`, `inside`, `charged` and `released` are the engine's, under the engine's lock.
"""

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from models.outputs import nbytes
from models.protocol import Answer, Item, Tokens
from service.batching.limits import Limits
from service.errors import DeadlineExceeded, HeedError

__all__ = ["CancelReason", "Completed", "Cost", "Job", "Outcome", "Ticket", "Timing"]

OF_ONE = ("invalid", "not_finite", "out_of_memory")  # codes of what one sequence is refused for

CancelReason = Literal["cancelled", "deadline"]
Outcome = Answer | HeedError


@dataclass(frozen=True, slots=True)
class Cost:
    """What a sequence, or a request, takes of the device and of memory; Python integers, so no overflow.

    `tokens`: T, plus S where the keys are rows of their own (`memory`). `scores`: H·T·S of one layer, for
    layers run one after another and only one layer's scores are ever held; all heads and rows, for Z is
    made from all. `result_bytes`: every chosen output of every chosen layer, exactly.
    """

    tokens: int
    scores: int
    result_bytes: int

    @classmethod
    def of(cls, item: Item) -> Self:
        """Return the cost of one sequence, from shapes alone."""
        dims = item.dims
        crossed = isinstance(item.input, Tokens) and item.input.memory is not None
        return cls(
            dims.T + dims.S if crossed else max(dims.T, dims.S),
            dims.heads * dims.T * dims.S,
            nbytes(item.selection, dims),
        )

    @classmethod
    def total(cls, costs: Sequence[Self]) -> Self:
        """Return the cost of several sequences together."""
        if len(costs) == 1:
            return costs[0]
        return cls(
            sum(cost.tokens for cost in costs),
            sum(cost.scores for cost in costs),
            sum(cost.result_bytes for cost in costs),
        )

    def share(self, limits: Limits) -> float:
        """Return the part of a batch this takes: of the budget it takes most of (1 fills a batch).

        The dominant share of Ghodsi et al., "Dominant Resource Fairness", NSDI 2011, section 4.
        """
        return max(
            self.tokens / limits.max_batch_tokens,
            self.scores / limits.max_batch_scores,
            self.result_bytes / limits.max_batch_result_bytes,
        )


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """One sequence on its way to the device. `draft` fills the first part and never changes it.

    `model` is what a batch must have in common: the loaded weights, not their name, so that the two
    versions around a reload never meet in a batch. `long` and `share` follow from cost and limits. Jobs of
    one `kind` take about the same time a token.
    """

    item: Item
    index: int
    cost: Cost
    ticket: "Ticket" = field(default=None)  # type: ignore[assignment]  # the request's, from admission on
    arrival: float = 0.0
    deadline: float = math.inf
    priority: int = 0
    tenant: str = ""
    model: object = None
    share: float = 0.0
    long: bool = False
    alone: bool = False
    kind: Hashable = None

    # The forecast's, in seconds of the whole device: a guess of what it takes; the same where it is known for
    # certain, else 0; what starting its batch costs; what the request's later jobs need after it; what was
    # expected to go before it.
    seconds: float = 0.0
    needs: float = 0.0
    start: float = 0.0
    later: float = 0.0
    ahead: float = 0.0

    # The queue's: the place in the serving order, and how many batches the first of a lane saw go before it.
    rank: tuple[int, bool, float, int] = field(default=(0, False, 0.0, 0))
    queued: bool = False
    overtaken: int = 0
    accounted: bool = False  # off the books: it has its outcome


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


class Ticket:
    """One admitted request: await `result()`, and always `cancel()` in a `finally`.

    The answers of a finished request count against the admission limits until `cancel()`, for they are
    held in memory until the reply is written.
    """

    __slots__ = (
        "_abandon",
        "_answers",
        "_compute_seconds",
        "_done",
        "_error",
        "_first_packed",
        "_last",
        "_missing",
        "_timer",
        "charged",
        "cost",
        "deadline",
        "inside",
        "jobs",
        "loop",
        "over",
        "released",
        "submitted",
    )

    def __init__(
        self,
        cost: Cost,
        *,
        loop: asyncio.AbstractEventLoop,
        submitted: float,
        deadline: float | None,
        abandon: "Callable[[Ticket, CancelReason], None]",
    ) -> None:
        self.cost = cost
        self.loop = loop
        self.submitted = submitted
        self.deadline = deadline
        self.jobs: Sequence[Job] = ()
        self.inside = 0  # jobs queued or running
        self.over = False  # failed, expired or cancelled: nothing more of it is to run
        self.charged = True  # its cost counts against the admission limits
        self.released = False  # the caller has let go of it
        self._abandon = abandon
        self._done: asyncio.Future[None] = loop.create_future()
        self._error: HeedError | None = None
        self._answers: list[Answer | None] = []
        self._missing = 0
        self._first_packed = submitted
        self._compute_seconds = 0.0
        self._last: Timing | None = None
        self._timer: asyncio.TimerHandle | None = None

    def take(self, jobs: Sequence[Job]) -> None:
        """Take the jobs, before they are queued."""
        self.jobs = jobs
        self._answers = [None] * len(jobs)
        self._missing = len(jobs)

    def watch_deadline(self) -> None:
        """Start the timer; on the loop, once admitted.

        It answers a request whose deadline passes while the device is busy with another, or hangs.
        """
        if self.deadline is not None:
            self._timer = self.loop.call_later(max(0.0, self.deadline - self.submitted), self._expire)

    async def result(self) -> Completed:
        """Wait for all answers.

        Raises NotFinite, Invalid, Unavailable (out_of_memory, device_failed, draining), DeadlineExceeded,
        HeedError (internal); CancelledError after `cancel()`.
        """
        await self._done
        if self._error is not None:
            raise self._error
        assert self._last is not None
        held_seconds = self._last.finished - self._first_packed
        return Completed(
            answers=[answer for answer in self._answers if answer is not None],
            queue_seconds=self._first_packed - self.submitted,
            batch_seconds=max(0.0, held_seconds - self._compute_seconds),
            compute_seconds=self._compute_seconds,
        )

    def cancel(self) -> None:
        """Drop the jobs not yet packed and give the capacity back; on the loop, as often as one likes."""
        self._stop_timer()
        if not self.released:
            self._abandon(self, "cancelled")
        self._done.cancel()

    def settle(self, job: Job, outcome: Outcome, timing: Timing | None) -> None:
        """Take one job's outcome; on the loop. The first failure fails the request."""
        if self._done.done():
            return
        if isinstance(outcome, HeedError):
            self._fail(self._named(outcome, job.index))
            return
        assert timing is not None
        if timing is not self._last:  # several of its jobs may have shared one run
            if self._last is None:
                self._first_packed = timing.packed
            self._compute_seconds += timing.compute_seconds
            self._last = timing
        self._answers[job.index] = outcome
        self._missing -= 1
        if self._missing == 0:
            self._stop_timer()
            self._done.set_result(None)

    def _named(self, error: HeedError, index: int) -> HeedError:
        """Return what is wrong with one sequence of several, with its place."""
        if len(self._answers) == 1 or error.code not in OF_ONE:
            return error
        return type(error)(
            f"inputs[{index}]: {error.message}",
            code=error.code,
            retry_after_seconds=error.retry_after_seconds,
        )

    def expired(self) -> DeadlineExceeded:
        """Return the refusal that names this request's deadline, as what it left after decoding."""
        left_ms = 1000 * ((self.deadline or self.submitted) - self.submitted)
        said = "the deadline had passed"  # while the request was read and decoded
        if left_ms >= 1:
            said = f"not answered within the deadline of {left_ms:.0f} ms"
        return DeadlineExceeded(f"{said}; allow more time, or send less work")

    def _expire(self) -> None:
        if not self._done.done():
            self._abandon(self, "deadline")
            self._fail(self.expired())

    def _fail(self, error: HeedError) -> None:
        # Not set_exception: a caller who has left would have it logged as never retrieved.
        self._stop_timer()
        self._error = error
        self._done.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
