"""The device process's side: one engine for all HTTP processes, and what each is told of models and health.

Two threads an HTTP process: one puts its requests into the engine (`submissions`), one listens to its news. A
question has a thread of its own, so that none waits for a load; each sign of life is answered with one.
"""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from models.errors import ModelError
from models.protocol import ModelCard, Runtime
from service.batching.engine import BatchReport, Engine
from service.batching.limits import Limits
from service.processes.channel import Channel, Closed
from service.processes.memory import Memory
from service.processes.messages import (
    Alive,
    Answer,
    Cards,
    Error,
    Gone,
    Question,
    Shown,
    ToDevice,
    ToHttp,
    Took,
    ToQueue,
    Unused,
    Vital,
)
from service.processes.submissions import Submissions

BEGIN_SECONDS = 5.0  # from the list of models to the first sign of the event loop, that are no silence
TAKEN_SECONDS = 10.0  # for a process to make the tokenizer of a model that was loaded
MOST_BATCHES = 10_000  # that are told of later; of more the oldest are forgotten

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Link:
    """One HTTP process as the device sees it."""

    control: Channel[ToDevice]
    work: Channel[ToQueue]
    memory: Memory
    listening: threading.Event = field(default_factory=threading.Event)
    shown: set[int] = field(default_factory=set)  # models it may still refer to
    took: float = 0  # the last list of models that it serves by
    came_round: float | None = None  # when its event loop last did, in seconds of time.monotonic

    def silent_seconds(self, now: float) -> float:
        """How long its event loop has not come round; 0 until it has begun, or should have."""
        return 0.0 if self.came_round is None else max(0.0, now - self.came_round)

    def tell(self, message: ToHttp) -> None:
        """Tell it something; if it has ended, that is noticed elsewhere."""
        with suppress(Closed):
            self.control.send(message)


class Device:
    """Serves a Runtime to other processes; `on_news` is called, on any thread, when something changed."""

    def __init__(self, links: Sequence[Link], *, on_news: Callable[[], None]) -> None:
        self._links = list(links)
        self._on_news = on_news
        self._runtime: Runtime | None = None
        self._engine: Engine | None = None
        self._cards = threading.RLock()  # which cards have which number, and who was told
        self._numbered: dict[int, ModelCard] = {}
        self._numbers = itertools.count(1)
        self._trouble = ""
        self._lists = 0  # of models that were shown so far
        self._taken = threading.Condition()
        self._batches: deque[BatchReport] = deque(maxlen=MOST_BATCHES)  # that nobody was told of
        self.failed = threading.Event()

    def start(self, runtime: Runtime, limits: Limits) -> None:
        """Serve from now on; tells every process what is loaded."""
        self._runtime = runtime
        self._engine = Engine(
            runtime,
            limits,
            deliver=Submissions.deliver,
            on_batch=self._batches.append,
            on_fatal=lambda _: self.fail(),
        )
        self._engine.start()
        for link in self._links:
            asked = Submissions(link.work, link.memory, limits, card=self._numbered.__getitem__)
            self._begin(partial(self._listen, link), name="heed-news")
            self._begin(partial(asked.serve, self._engine), name="heed-work")
        self._show_cards()

    def stop(self) -> None:
        """End the engine's threads, those that do not hang."""
        if self._engine is not None:
            self._engine.stop(timeout_seconds=0)

    @property
    def served(self) -> int:
        """How many requests have been admitted so far."""
        return 0 if self._engine is None else self._engine.admitted_requests

    @property
    def busy(self) -> bool:
        """Whether any request is not answered yet."""
        return self._engine is not None and self._engine.queued_requests > 0

    @property
    def silent_seconds(self) -> float:
        """How long a running batch has given no sign of life."""
        return 0.0 if self._runtime is None else self._runtime.silent_seconds

    def look_after(self) -> None:
        """Notice a thread of the engine that has ended without a word."""
        if self._engine is not None and not self.failed.is_set() and not self._engine.alive:
            log.critical("a device thread has ended")
            self.fail()

    def tell_trouble(self, trouble: str) -> None:
        """Let every HTTP process say what is wrong with one of them; "": nothing is any more."""
        if trouble != self._trouble:
            self._trouble = trouble
            for link in self._links:
                link.tell(self._vital())

    def fail(self, reason: str = "") -> None:
        """Tell every process that nothing will be answered any more; "": for the device has failed."""
        self.failed.set()
        for link in self._links:
            link.tell(Gone(reason))
        self._on_news()

    def _begin(self, serve: Callable[[], None], *, name: str) -> None:
        """Start a thread for an HTTP process; should it fail, so has the device."""

        def live() -> None:
            try:
                serve()
            except BaseException as error:
                log.critical("serving an HTTP process has failed", exc_info=error)
                self.fail()

        threading.Thread(target=live, name=name, daemon=True).start()

    # ---- cards and quick questions

    def _show_cards(self) -> int:
        """Tell every process what is loaded now, and under which numbers; return which list this is."""
        assert self._runtime is not None
        with self._cards:
            self._lists += 1
            known = {id(card): number for number, card in self._numbered.items()}
            shown = []
            for card in self._runtime.cards():
                number = known.get(id(card)) or next(self._numbers)
                self._numbered[number] = card
                shown.append(Shown(number, replace(card, handle=None)))  # which means something here only
            new = {one.number for link in self._links for one in shown if one.number not in link.shown}
            tokenizers = {number: self._runtime.written_tokenizer(self._numbered[number]) for number in new}
            for link in self._links:
                told = [
                    one if one.number in link.shown else Shown(one.number, one.card, tokenizers[one.number])
                    for one in shown
                ]
                link.shown.update(one.number for one in shown)
                link.tell(self._vital())
                link.tell(Cards(self._lists, told, self._runtime.about))
            return self._lists

    def _wait_until_taken(self, number: int) -> None:
        """Wait until every process serves by a list of models, or is long in coming."""
        with self._taken:
            self._taken.wait_for(lambda: all(link.took >= number for link in self._links), TAKEN_SECONDS)

    def _take(self, link: Link, number: float) -> None:
        with self._taken:
            link.took = number
            self._taken.notify_all()

    def _vital(self) -> Vital:
        """Return what an HTTP process is told of the device without asking; each batch is told to one."""
        assert self._runtime is not None
        assert self._engine is not None
        batches = []
        with suppress(IndexError):
            while True:
                batches.append(self._batches.popleft())
        return Vital(
            silent_seconds=self._runtime.silent_seconds,
            batch_seconds=self._engine.oldest_batch_seconds,
            memory=self._runtime.memory(),
            waiting_requests=self._engine.waiting_requests,
            trouble=self._trouble,
            batches=batches,
        )

    def _listen(self, link: Link) -> None:
        try:
            while True:
                for message in link.control.receive():
                    self._hear(link, message)
        except Closed:
            for number in list(link.shown):
                self._forget(link, number)
            self._take(link, math.inf)
            self._on_news()

    def _hear(self, link: Link, message: ToDevice) -> None:
        if isinstance(message, Alive):
            link.came_round = time.monotonic() - message.silent_seconds
            link.tell(self._vital())
        elif isinstance(message, Took):
            if link.came_round is None:
                link.came_round = time.monotonic() + BEGIN_SECONDS
            self._take(link, message.version)
        elif isinstance(message, Unused):
            self._forget(link, message.card)
        elif isinstance(message, Question):
            threading.Thread(target=self._answer, args=(link, message), name="heed-call", daemon=True).start()
        else:
            link.came_round = time.monotonic()
            link.listening.set()
            self._on_news()

    def _forget(self, link: Link, number: int) -> None:
        """Let a model go that is not served any more, once no process refers to it."""
        assert self._runtime is not None
        with self._cards:
            link.shown.discard(number)
            serving = any(card is self._numbered.get(number) for card in self._runtime.cards())
            if not serving and not any(number in one.shown for one in self._links):
                self._numbered.pop(number, None)

    def _answer(self, link: Link, asked: Question) -> None:
        try:
            answer = self._answered(asked)
        except ModelError as error:
            answer = Answer(asked.number, error=Error.of(error))
        except BaseException as error:  # a panic of native code is no Exception, and whoever asked waits
            log.exception("a question of an HTTP process failed")
            answer = Answer(asked.number, error=Error.of(error))
        link.tell(answer)

    def _answered(self, asked: Question) -> Answer:
        runtime = self._runtime
        assert runtime is not None
        if asked.name == "index":
            return Answer(asked.number, index=runtime.index())
        card = None
        if asked.name == "load":
            card = replace(runtime.load(asked.model), handle=None)
        else:
            runtime.unload(asked.model)
        self._wait_until_taken(self._show_cards())
        return Answer(asked.number, card=card)
