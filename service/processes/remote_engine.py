"""The queue as an HTTP process sees it: checks sizes, sends requests to the device process, awaits answers.

All on the event loop, but copying large inputs into shared memory. The memory of a request and of its results
is given out here: results are read where the device process wrote them, and their memory is free again once
the reply is sent.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from models.protocol import Answer, Item, ModelCard
from service.batching.admission import Admission
from service.batching.backlog import State, call_on, draining, refusal
from service.batching.draft import Draft, draft
from service.batching.engine import BatchReport
from service.batching.job import CancelReason, Completed, Ticket
from service.batching.limits import Limits
from service.batching.work_queue import Reserve
from service.errors import DeadlineExceeded, HeedError, Unavailable
from service.processes.channel import Channel, Closed
from service.processes.memory import ALIGNMENT, OwnMemory, Region, room_for
from service.processes.messages import Cancel, Done, Failed, FromQueue, SentItem, Submit, arrays_of
from service.processes.remote import RemoteModels, number_of

RETRY_SECONDS = 1.0
AT_ONCE_BYTES = 4 << 20  # of inputs that the event loop copies itself, in about a millisecond;
AT_ONCE_JOBS = 64  # in as many sequences at the most

log = logging.getLogger(__name__)


class _Sent(Ticket):
    """One request in the device process: `away` once it is told of it, `over` when no answer is awaited."""

    __slots__ = ("away", "cards", "memory", "number")
    number: int
    cards: list[ModelCard | None]  # are in use for as long as the device process may ask for their number
    memory: Region
    away: bool


class RemoteEngine:
    """A `WorkQueue`. `limits` are the server's: what this process alone may hold of them is checked here.

    The three functions are called as an Engine's are: `on_cancel` on the event loop, the others on a thread.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        channel: Channel[FromQueue],
        memory: OwnMemory,
        models: RemoteModels,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
        on_fatal: Callable[[BaseException], None] = lambda _: None,
        on_cancel: Callable[[CancelReason], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._channel = channel
        self._memory = memory
        self._models = models
        self._on_fatal = on_fatal
        self._on_cancel = on_cancel
        self._clock = clock
        self._admission = Admission(limits)
        self._numbers = itertools.count()
        self._sent: dict[int, _Sent] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.state: State = "stopped"
        models.on_batch = on_batch
        models.on_failed = self._device_failed

    # ---- as in WorkQueue

    @property
    def alive(self) -> bool:
        """Whether the device's threads run, as far as is known."""
        return not self._models.failed.is_set()

    @property
    def oldest_batch_seconds(self) -> float:
        """How long the device has been at its oldest batch, as the device process last said."""
        return self._models.batch_seconds

    @property
    def queued_requests(self) -> int:
        """Requests of this process that are not let go of."""
        return self._admission.requests

    @property
    def queued_tokens(self) -> int:
        """Tokens of those requests."""
        return self._admission.tokens

    @property
    def waiting_requests(self) -> int:
        """Requests of all processes that wait, as the device process last said."""
        return self._models.waiting_requests

    @property
    def admitted_requests(self) -> int:
        """How many requests have been sent so far."""
        return self._admission.admitted

    def start(self) -> None:
        """Take work from here on, and listen for answers; on the event loop."""
        self._loop = asyncio.get_running_loop()
        if self._models.failed.is_set():
            self.state = "failed"
            return
        self._loop.add_reader(self._channel.fileno(), self._receive)
        self.state = "ready"

    def stop(self, timeout_seconds: float | None = None) -> bool:  # noqa: ARG002  as of an Engine
        """Answer what is not answered yet with `draining`."""
        if self._loop is not None:
            call_on(self._loop, self._end, "stopped", draining())
        return True

    def draft(
        self, items: Sequence[Item], *, deadline: float | None = None, priority: int = 0, tenant: str = ""
    ) -> Draft:
        """Return a request as `admit` takes it; on any thread. Raises TooLarge."""
        return draft(items, self._limits, deadline=deadline, priority=priority, tenant=tenant)

    def require_place(self) -> None:
        """Raise Overloaded where this process alone has all that may be admitted."""
        self._admission.require_place(RETRY_SECONDS)

    def admit(self, draft: Draft, *, reserve: Reserve = lambda *_: None) -> Ticket:
        """Send one request to the queue, whose refusal would be its result.

        Raises Overloaded where this process alone has all that may be admitted, and Unavailable.
        """
        if self.state != "ready":
            raise self._models.ended if self._models.failed.is_set() else refusal(self.state)
        total = draft.cost
        copied = room_for(array.nbytes for item, _ in draft.sequences for array in arrays_of(item).values())
        reserve(total.result_bytes, copied)
        self._admission.acquire(total, lambda: RETRY_SECONDS)
        try:
            outputs = sum(len(item.selection.outputs) for item, _ in draft.sequences)
            memory = self._memory.take(copied + total.result_bytes + ALIGNMENT * outputs)
        except (OSError, MemoryError):
            self._admission.release(total)
            raise Unavailable(
                f"the system has no memory for {copied} bytes of input and their result; try again soon",
                code="out_of_memory",
                retry_after_seconds=RETRY_SECONDS,
            ) from None
        loop = asyncio.get_running_loop()
        ticket = _Sent(
            total, loop=loop, submitted=self._clock(), deadline=draft.deadline, abandon=self._abandon
        )
        ticket.trace = draft.trace
        ticket.number = next(self._numbers)
        ticket.memory = memory
        ticket.cards = [item.card for item, _ in draft.sequences]
        ticket.away = False
        self._sent[ticket.number] = ticket
        if copied <= AT_ONCE_BYTES and len(draft.sequences) <= AT_ONCE_JOBS:
            self._send(ticket, partial(_written, ticket, draft))
        else:
            written = loop.run_in_executor(None, _written, ticket, draft)
            written.add_done_callback(lambda done: self._send(ticket, done.result))
        ticket.watch_deadline()
        return ticket

    # ---- on the event loop

    def _send(self, ticket: _Sent, message: Callable[[], Submit]) -> None:
        """Send a request that somebody waits for."""
        if ticket.over:
            self._forget(ticket)
            return
        try:
            self._channel.send(message())
            ticket.away = True
        except Closed:
            pass  # noticed where it is listened to
        except Exception:
            log.exception("a request cannot be sent")
            self._forget(ticket)
            ticket.finish(HeedError("the server failed on this input; its log says why"))

    def _abandon(self, ticket: Ticket, reason: CancelReason) -> None:
        """Let go of a request; what nobody has answered is cancelled."""
        assert isinstance(ticket, _Sent)
        ticket.released = True
        if ticket.number in self._sent and not ticket.over:
            ticket.over = True
            if reason == "deadline":
                self._on_cancel(reason)
            if ticket.away:
                with suppress(Closed):
                    self._channel.send(Cancel(ticket.number))
        self._release_if_done(ticket)

    def _forget(self, ticket: _Sent) -> None:
        """Note that a request is not in the device process any more."""
        self._sent.pop(ticket.number, None)
        del ticket.memory  # which is free when the last answer in it is sent
        self._release_if_done(ticket)

    def _release_if_done(self, ticket: _Sent) -> None:
        """Give the capacity back, once: when the caller has let go and the device looks at nothing of it."""
        if ticket.released and ticket.charged and ticket.number not in self._sent:
            ticket.charged = False
            self._admission.release(ticket.cost)

    def _receive(self) -> None:
        try:
            messages = self._channel.receive(wait=False)
        except Closed:
            self._fail()
            return
        for message in messages:
            ticket = self._sent.get(message.number)
            if ticket is not None:
                self._take(ticket, message)

    def _take(self, ticket: _Sent, message: FromQueue) -> None:
        """Take what is told of a request."""
        if isinstance(message, Failed):
            error = message.error.told
            assert isinstance(error, HeedError)
            late = isinstance(error, DeadlineExceeded) and not message.refused
            if late and not ticket.over:
                self._on_cancel("deadline")
            ticket.over = True
            ticket.finish(error)
            if not message.refused:
                return  # its memory may still be looked at
        elif isinstance(message, Done) and not ticket.over:
            look = ticket.memory.look
            ticket.finish(
                Completed(
                    answers=[
                        Answer(tensors={name: look(place) for name, place in one.items()})
                        for one in message.answers
                    ],
                    queue_seconds=message.queue_seconds,
                    batch_seconds=message.batch_seconds,
                    compute_seconds=message.compute_seconds,
                )
            )
        self._forget(ticket)

    def _device_failed(self) -> None:
        """Tell every caller, and the application; on a thread."""
        self._on_fatal(self._models.ended)
        if self._loop is not None:
            call_on(self._loop, self._fail)

    def _fail(self) -> None:
        error = self._models.ended
        self._end("failed" if error.code == "device_failed" else "stopped", error)

    def _end(self, state: State, error: HeedError) -> None:
        """Take no more work, and answer all that is unanswered."""
        assert self._loop is not None
        if self.state == "failed":
            return
        self.state = state
        if state == "failed":
            self._loop.remove_reader(self._channel.fileno())
        for ticket in list(self._sent.values()):
            if not ticket.over:
                ticket.over = True
                ticket.finish(error)
                if ticket.away and state != "failed":
                    with suppress(Closed):
                        self._channel.send(Cancel(ticket.number))


def _written(ticket: _Sent, draft: Draft) -> Submit:
    """Return what is told of a request; copies its inputs into shared memory."""
    memory = ticket.memory
    sent = [
        SentItem.of(item, cost, card=None if item.card is None else number_of(item.card), memory=memory)
        for item, cost in draft.sequences
    ]
    return Submit(
        number=ticket.number,
        items=sent,
        memory=(memory.at, memory.size, memory.top),
        submitted=ticket.submitted,
        deadline=ticket.deadline,
        priority=draft.jobs[0].priority,
        tenant=draft.jobs[0].tenant,
        trace=draft.trace,
    )
