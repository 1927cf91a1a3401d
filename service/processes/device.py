"""The device process's side: a thread for each HTTP process runs its batches, others answer questions.

As many batches run side by side as the device has slots (`slots`). In a pause of a long batch its own process
goes first, then whatever short batch of another process is waiting.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
CALLERS = 4  # questions answered at a time; loading a model is one

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class Link:
    """One HTTP process as the device sees it."""

    control: Channel
    lines: Sequence[Line]
    listening: threading.Event = field(default_factory=threading.Event)
    shown: set[int] = field(default_factory=set)  # models it may still refer to


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
        self._callers = ThreadPoolExecutor(CALLERS, thread_name_prefix="heed-call")
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

    def _show_cards(self) -> None:
        """Tell every process what is loaded now, and under which numbers."""
        assert self._runtime is not None
        with self._cards:
            known = {id(card): number for number, card in self._numbered.items()}
            shown = []
            for card in self._runtime.cards():
                number = known.get(id(card)) or next(self._numbers)
                self._numbered[number] = card
                shown.append([number, pack(card, put=_written)])
            for link in self._links:
                link.shown.update(number for number, _ in shown)
                _tell(link, {"cards": shown, "slot_tokens": self._runtime.slot_tokens})

    def _listen(self, link: Link) -> None:
        try:
            while True:
                message = link.control.receive()
                if "unused" in message:
                    self._forget(link, message["unused"])
                elif "news" in message:
                    link.listening.set()
                    self._on_news()
                else:
                    self._callers.submit(self._answer, link, message)
        except Closed:
            for number in list(link.shown):
                self._forget(link, number)
            self._on_news()

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
        except Exception as error:
            log.exception("a question of an HTTP process failed")
            answer = _error(error)
        _tell(link, {"number": message["number"], **answer})

    def _call(self, name: str, *arguments: Any) -> Any:
        runtime = self._runtime
        assert runtime is not None
        if name == "tokenize":
            number, text, pair, truncate, longest = arguments
            return runtime.tokenize(self._card(number), text, pair, truncate=truncate, longest=longest)
        if name in ("load", "unload"):
            card = getattr(runtime, name)(*arguments)
            self._show_cards()
            return card
        assert name in ("index", "memory")
        return getattr(runtime, name)()


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
