"""One HTTP process's requests in the device process: into the engine, and their answers back.

A thread reads what comes; the engine's threads write answers into the memory that the HTTP process has kept
for them, and tell it. A request's memory is let go of by `Done`, or by `Over` once no job of it is left.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from models.protocol import Answer, ModelCard
from service.batching.cost import Cost
from service.batching.draft import jobs_of
from service.batching.engine import Engine, Settled
from service.batching.job import Admitted, Completed, Job, Outcome, Timing, each_of, has_failed, traced
from service.batching.limits import Limits
from service.errors import HeedError, Unavailable
from service.processes.channel import Channel, Closed
from service.processes.memory import Memory, Place, Region
from service.processes.messages import Cancel, Done, Error, Failed, FromQueue, Over, Submit, ToQueue

log = logging.getLogger(__name__)

NO_MEMORY = "the device process has no memory to read this request; try again soon, or send or ask for less"
NOTHING = Answer(tensors={})  # in place of one that is in shared memory


class _Request(Admitted):
    """One request of another process; under its lock whether it is over, and what is to be told."""

    __slots__ = ("_news", "_over", "lock", "memory", "number", "places")

    def __init__(self, message: Submit, home: "Submissions", memory: Region) -> None:
        cost = Cost.total([item.cost for item in message.items])
        super().__init__(cost, home, message.submitted, message.deadline, trace=message.trace)
        self.released = True  # once it is answered, its memory is the other process's to count
        self.number = message.number
        self.memory = memory
        self.lock = threading.Lock()
        self.places: list[dict[str, Place]] = [{} for _ in message.items]
        self._news: FromQueue | None = None
        self._over = False  # answered or cancelled

    def settle(self, job: Job, outcome: Outcome, timing: Timing | None) -> None:
        """Take one job's outcome, its answer into shared memory."""
        if self._over:
            return
        if not has_failed(outcome):
            answers = each_of(outcome)
            try:
                put = self.memory.put
                for index, answer in zip(job.indexes, answers, strict=True):
                    assert isinstance(answer, Answer)
                    self.places[index] = {name: put(array) for name, array in answer.tensors.items()}
                outcome = [NOTHING] * len(job.indexes)
            except Exception:
                log.exception("an answer cannot be told", extra=traced((job,)))
                outcome = HeedError("the server failed on this input; its log says why")
        super().settle(job, outcome, timing)

    def finish(self, outcome: Completed | HeedError) -> None:
        """Have the caller told."""
        self._over = True
        if isinstance(outcome, HeedError):
            self._news = Failed(self.number, Error.of(outcome))
        else:
            took = (outcome.queue_seconds, outcome.batch_seconds, outcome.compute_seconds)
            self._news = Done(self.number, self.places, *took)

    def cancel(self) -> None:
        """Answer no more."""
        self._over = True

    def news(self) -> Iterator[FromQueue]:
        """Give what is to be told now."""
        news, self._news = self._news, None
        if news is not None:
            yield news
        if self._over and not self.inside and self.home.forget(self.number) and not isinstance(news, Done):
            yield Over(self.number)


class Submissions:
    """Reads from a thread of its own; `card` says which model has a number."""

    def __init__(
        self, channel: Channel[ToQueue], memory: Memory, limits: Limits, *, card: Callable[[int], ModelCard]
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._limits = limits
        self._card = card
        self._requests: dict[int, _Request] = {}

    def serve(self, engine: Engine) -> None:
        """Put into the engine what comes, until the other process has ended."""
        with suppress(Closed):
            while True:
                for message in self._channel.receive():
                    if isinstance(message, Cancel):
                        self._cancel(engine, message.number)
                    else:
                        self._submit(engine, message)
        for number in list(self._requests):
            self._cancel(engine, number)

    @staticmethod
    def deliver(home: "Submissions", settled: Settled, timing: Timing | None) -> bool:
        """Take outcomes of one process's jobs; False where it has ended."""
        messages: list[FromQueue] = []
        for job, outcome in settled:
            request = job.ticket
            assert isinstance(request, _Request)
            with request.lock:
                if outcome is not None:
                    request.settle(job, outcome, timing)
                messages += request.news()
        return home.tell(*messages)

    def tell(self, *messages: FromQueue) -> bool:
        """Tell the other process; False where it has ended."""
        try:
            if messages:
                self._channel.send(*messages)
        except Closed:
            return False
        return True

    def forget(self, number: int) -> bool:
        """Forget a request; whether it was known."""
        return self._requests.pop(number, None) is not None

    def _submit(self, engine: Engine, message: Submit) -> None:
        try:
            memory = self._memory.region(*message.memory)
            request = self._requests[message.number] = _Request(message, self, memory)
            items = [
                sent.item(memory, None if sent.card is None else self._card(sent.card))
                for sent in message.items
            ]
            jobs = jobs_of(
                items,
                [sent.cost for sent in message.items],
                self._limits,
                deadline=message.deadline,
                priority=message.priority,
                tenant=message.tenant,
            )
            engine.enter(request, jobs)
        except HeedError as refusal:
            self._refuse(message.number, refusal)
        except (OSError, MemoryError):  # of a mapping: the system has no room for one as large
            self._refuse(message.number, Unavailable(NO_MEMORY, code="out_of_memory"))

    def _refuse(self, number: int, refusal: HeedError) -> None:
        self.forget(number)
        self.tell(Failed(number, Error.of(refusal), refused=True))

    def _cancel(self, engine: Engine, number: int) -> None:
        request = self._requests.get(number)
        if request is not None:
            with request.lock:
                engine.abandon(request, "cancelled")
                request.cancel()
                self.tell(*request.news())
