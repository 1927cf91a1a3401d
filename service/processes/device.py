"""The device process's side: a thread a line runs its batches, another a process listens to what it says.

As many batches run side by side as the device has slots (`slots`). In a pause of a long batch its own process
goes first, then whatever short batch of another process is waiting. A question has a thread of its own, so
that none waits for a load; each sign of life of an HTTP process is answered with one.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from models.errors import DeviceFailed, ModelError
from models.protocol import Item, ModelCard, Runtime
from service.interpreter import step_back
from service.processes.channel import Channel, Closed
from service.processes.line import Line
from service.processes.parcel import pack, unpack
from service.processes.slots import Slots

__all__ = ["Device", "Link"]

SHORT_TOKENS = 2048  # of a batch that goes before a long one, and in its pauses

TAKEN_SECONDS = 10.0  # for a process to make the tokenizer of a model that was loaded

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Link:
    """One HTTP process as the device sees it."""

    control: Channel
    lines: Sequence[Line]
    listening: threading.Event = field(default_factory=threading.Event)
    shown: set[int] = field(default_factory=set)  # models it may still refer to
    took: float = 0  # the last list of models that it serves by
    came_round: float | None = None  # when its event loop last did, in seconds of time.monotonic

    def silent_seconds(self, now: float) -> float:
        """How long its event loop has not come round; 0 until it listens."""
        return 0.0 if self.came_round is None else now - self.came_round


class Device:
    """Serves a Runtime to other processes; `on_news` is called, on any thread, when something changed."""

    def __init__(self, links: Sequence[Link], *, on_news: Callable[[], None]) -> None:
        self._links = list(links)
        self._on_news = on_news
        self._runtime: Runtime | None = None
        self._slots = Slots(1)
        self._cards = threading.RLock()  # which cards have which number, and who was told
        self._numbered: dict[int, ModelCard] = {}
        self._numbers = itertools.count(1)
        self._trouble = ""
        self._lists = 0  # of models that were shown so far
        self._taken = threading.Condition()
        self.failed = threading.Event()
        self.served = 0  # batches, about: threads count without a lock
        self.busy: set[Line] = set()  # with a batch

    def start(self, runtime: Runtime) -> None:
        """Serve from now on; tells every process what is loaded."""
        self._runtime = runtime
        self._slots = Slots(runtime.slots)
        for link in self._links:
            threading.Thread(target=self._listen, args=(link,), name="heed-news", daemon=True).start()
        self._show_cards()
        for line in (line for link in self._links for line in link.lines):
            threading.Thread(target=self._live, args=(line,), name="heed-device", daemon=True).start()

    @property
    def silent_seconds(self) -> float:
        """How long a running batch has given no sign of life."""
        return 0.0 if self._runtime is None else self._runtime.silent_seconds

    def tell_trouble(self, trouble: str) -> None:
        """Let every HTTP process say what is wrong with one of them; "": nothing is any more."""
        if trouble != self._trouble:
            self._trouble = trouble
            for link in self._links:
                _tell(link, self._vital())

    def fail(self) -> None:
        """Tell every process that nothing will be answered any more."""
        self.failed.set()
        for link in self._links:
            try:
                link.control.send({"failed": True})
            except Closed:
                continue
        self._on_news()

    # ---- the device's threads, one a line

    def _live(self, line: Line) -> None:
        assert self._runtime is not None
        if self._runtime.shares_cores:
            step_back()
        try:
            while True:
                self._serve(line)
        except Closed:
            return  # its process has ended
        except BaseException as error:
            log.critical("a device thread has failed", exc_info=error)
            self.fail()

    def _serve(self, line: Line) -> None:
        """Run one batch of a line."""
        assert self._runtime is not None
        message = line.batches.receive()
        self.served += 1
        self.busy.add(line)
        batch = [unpack(one, get=line.inputs.look, card=self._card) for one in message["run"]]
        short = sum(item.input.queries for item in batch) <= SHORT_TOKENS
        single = batch[0].deterministic or not self._runtime.shares_cores
        slots = self._slots.take(short=short, single=single)

        def pause() -> int:
            nonlocal slots
            slots = self._pause(line, slots)
            return slots

        try:
            answer = self._run(batch, slots, pause if message["pausable"] else None)
        finally:
            self._slots.give_back(slots)
        line.batches.send(self._packed(answer, line))
        line.results.rewind(0)
        self.busy.discard(line)

    def _run(self, batch: list[Item], slots: int, pause: Callable[[], int] | None) -> dict[str, Any]:
        runtime = self._runtime
        assert runtime is not None
        if self.failed.is_set():
            return _error(DeviceFailed("the device failed and serves nothing any more"))
        return self._attempt(
            lambda: runtime.run(batch, slots=slots, pause=pause), what=f"a batch of {len(batch)}"
        )

    def _packed(self, answer: dict[str, Any], line: Line) -> dict[str, Any]:
        """Put the arrays of an answer where its process reads them."""
        if "result" not in answer:
            return answer
        return self._attempt(lambda: pack(answer["result"], put=line.results.put), what="packing an answer")

    def _attempt(self, work: Callable[[], Any], *, what: str) -> dict[str, Any]:
        """Return what `work` returns, or the error that it raises, as a message has it."""
        try:
            return {"result": work()}
        except DeviceFailed as error:
            log.critical("the device has failed", exc_info=error)
            self.fail()
            return _error(error)
        except (ModelError, MemoryError) as error:
            return _error(error)
        except Exception as error:
            log.exception("%s failed", what)
            return _error(error)

    def _pause(self, paused: Line, slots: int) -> int:
        """Let others go before a long batch: first what its own process sends, then the other processes."""
        with suppress(Closed):  # noticed once the batch is done
            paused.batches.send({"pause": True})
            while "run" in (message := paused.batches.receive()):
                batch = [unpack(one, get=paused.inputs.look, card=self._card) for one in message["run"]]
                paused.batches.send(self._packed(self._run(batch, slots, None), paused))
                paused.results.rewind(0)
        return self._slots.step_aside(slots)

    # ---- cards and quick questions

    def _card(self, number: int) -> ModelCard:
        return self._numbered[number]

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
                shown.append([number, pack(card, put=_written)])
            tokenizers: dict[int, dict[str, Any] | None] = {}
            for link in self._links:
                for number, _ in shown:
                    if number not in link.shown and number not in tokenizers:
                        tokenizers[number] = self._runtime.written_tokenizer(self._numbered[number])
                told = [[*one, None if one[0] in link.shown else tokenizers[one[0]]] for one in shown]
                link.shown.update(number for number, _ in shown)
                news = {"cards": told, "list": self._lists, "slot_tokens": self._runtime.slot_tokens}
                _tell(link, news | self._vital())
            return self._lists

    def _wait_until_taken(self, number: int) -> None:
        """Wait until every process serves by a list of models, or is long in coming."""
        with self._taken:
            self._taken.wait_for(lambda: all(link.took >= number for link in self._links), TAKEN_SECONDS)

    def _take(self, link: Link, number: float) -> None:
        with self._taken:
            link.took = number
            self._taken.notify_all()

    def _vital(self) -> dict[str, Any]:
        """Return what an HTTP process tells of the device without asking."""
        assert self._runtime is not None
        return {
            "silent": self._runtime.silent_seconds,
            "memory": self._runtime.memory(),
            "trouble": self._trouble,
        }

    def _listen(self, link: Link) -> None:
        try:
            while True:
                message = link.control.receive()
                if "alive" in message:
                    link.came_round = time.monotonic() - message["alive"]
                    _tell(link, self._vital())
                elif "took" in message:
                    self._take(link, message["took"])
                elif "unused" in message:
                    self._forget(link, message["unused"])
                elif "news" in message:
                    link.came_round = time.monotonic()
                    link.listening.set()
                    self._on_news()
                else:
                    threading.Thread(
                        target=self._answer, args=(link, message), name="heed-call", daemon=True
                    ).start()
        except Closed:
            for number in list(link.shown):
                self._forget(link, number)
            self._take(link, math.inf)
            self._on_news()
        except BaseException as error:
            log.critical("listening to an HTTP process has failed", exc_info=error)
            self.fail()

    def _forget(self, link: Link, number: int) -> None:
        """Let a model go that is not served any more, once no process refers to it."""
        assert self._runtime is not None
        with self._cards:
            link.shown.discard(number)
            serving = any(card is self._numbered.get(number) for card in self._runtime.cards())
            if not serving and not any(number in one.shown for one in self._links):
                self._numbered.pop(number, None)

    def _answer(self, link: Link, message: dict[str, Any]) -> None:
        try:
            value = self._call(message["call"], *message["arguments"])
            answer = {"value": pack(value, put=_written)}
        except ModelError as error:
            answer = _error(error)
        except BaseException as error:  # a panic of native code is no Exception, and whoever asked waits
            log.exception("a question of an HTTP process failed")
            answer = _error(error)
        _tell(link, {"number": message["number"], **answer})

    def _call(self, name: str, *arguments: Any) -> Any:
        runtime = self._runtime
        assert runtime is not None
        if name in ("load", "unload"):
            card = getattr(runtime, name)(*arguments)
            self._wait_until_taken(self._show_cards())
            return card
        assert name == "index"
        return runtime.index()


def _written(array: Any) -> list[Any]:
    """Put a small array into the message itself."""
    return [array.dtype.str, array.tolist()]


def _error(error: BaseException) -> dict[str, Any]:
    name = "OutOfMemory" if isinstance(error, MemoryError) else type(error).__name__
    return {"error": [name, str(error)]}


def _tell(link: Link, message: dict[str, Any]) -> None:
    try:
        link.control.send(message)
    except Closed:
        return  # its process has ended, which is noticed elsewhere
