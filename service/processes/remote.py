"""What is served, as an HTTP process sees it: models, questions, and how the device process is.

Texts are tokenized here: a tokenizer comes with its model's card. What is left to ask is administration, from
threads, within a limit of time; all else the device process tells unasked.
"""

import itertools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from models.cards import by_name, find
from models.errors import DeviceFailed, TextError
from models.folders.loads import LOAD_SECONDS
from models.protocol import ModelCard
from models.text.reading import TextReader
from models.text.tokenizer import Tokenizer
from service.batching.engine import BatchReport
from service.errors import Unavailable
from service.processes.channel import Channel, Closed
from service.processes.messages import (
    Alive,
    Answer,
    Cards,
    Error,
    Gone,
    Listening,
    Question,
    Setup,
    Shown,
    ToHttp,
    Took,
    Unused,
    Vital,
)

GONE = "the device process has ended"
QUESTION_SECONDS = 30.0

log = logging.getLogger(__name__)


class _Handle:
    """What a card's `handle` is here: the number of the model in the device process, and its tokenizer."""

    __slots__ = ("__weakref__", "number", "tokenizer")

    def __init__(self, number: int, tokenizer: Tokenizer | None) -> None:
        self.number = number
        self.tokenizer = tokenizer


class RemoteModels(TextReader):
    """The `Models` of the device process, over `control`; a load there may take `load_seconds`.

    On a thread of its own `on_failed` is called when the device process has failed or ended, and `on_batch`
    is told of batches that have run.
    """

    def __init__(self, control: Channel[ToHttp]) -> None:
        self._control = control
        self.load_seconds: float = LOAD_SECONDS
        self._cards: dict[str, ModelCard] = {}
        self._by_number: weakref.WeakValueDictionary[int, _Handle] = weakref.WeakValueDictionary()
        self._unused: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._calls: dict[int, queue.SimpleQueue[Answer]] = {}
        self._numbers = itertools.count()
        self._loaded = threading.Event()
        self._heard = time.monotonic()  # of the device process, and what it said:
        self._vital = Vital(0.0, 0.0, {}, 0, "", [])
        self.about: dict[str, str] = {}
        self.failed = threading.Event()
        self._ending = ""  # why the server ends, where the device is well
        self.gone = False  # the device process has ended, without a word
        self.on_failed: Callable[[], None] = lambda: None
        self.on_batch: Callable[[BatchReport], None] = lambda _: None

    def setup(self) -> Setup:
        """Wait for the first that is told; raise Closed."""
        first, *others = self._control.receive()
        assert isinstance(first, Setup)
        for message in others:
            self._take(message)
        return first

    def start(self) -> None:
        """Read news from now on; returns when the models are known. Raises DeviceFailed."""
        threading.Thread(target=self._listen, name="heed-news", daemon=True).start()
        threading.Thread(target=self._release, name="heed-release", daemon=True).start()
        self._loaded.wait()
        if self.failed.is_set():
            raise DeviceFailed(GONE)

    def listening(self) -> None:
        """Tell the device process that connections are taken."""
        self._control.send(Listening())

    def alive(self, seconds: float) -> None:
        """Tell the device process how long ago the event loop came round; it answers how it is itself."""
        with suppress(Closed):  # noticed where it is listened to
            self._control.send(Alive(seconds))

    @property
    def unheard_seconds(self) -> float:
        """How long the device process has said nothing at all."""
        return time.monotonic() - self._heard

    @property
    def silent_seconds(self) -> float:
        """How long there has been no sign of life, of a running batch or of the whole device process."""
        return self._vital.silent_seconds + self.unheard_seconds

    @property
    def batch_seconds(self) -> float:
        """How long the device has been at its oldest batch, as the device process last said."""
        return self._vital.batch_seconds

    @property
    def waiting_requests(self) -> int:
        """Requests of which the device has begun nothing, as the device process last said."""
        return self._vital.waiting_requests

    @property
    def trouble(self) -> str:
        """What is wrong with another HTTP process."""
        return self._vital.trouble

    @property
    def ended(self) -> Unavailable:
        """What is answered once `failed` is set."""
        if self._ending:
            return Unavailable(self._ending, code="draining")
        return Unavailable("the device has failed and the server is ending", code="device_failed")

    # ---- models.protocol.Models

    def cards(self) -> list[ModelCard]:
        """Return what is loaded, sorted by name."""
        return by_name(self._cards)

    def card(self, name: str, version: str | None = None) -> ModelCard:
        """Return one loaded model; raise UnknownModel."""
        return find(self._cards, name, version)

    def index(self) -> list[dict[str, str]]:
        """Return every model folder: name, version, state, reason."""
        return self._ask("index").index or []

    def tokenizer(self, card: ModelCard) -> Tokenizer | None:
        """Return the tokenizer of a model, which came with its card; None where it has none."""
        return _handle(card).tokenizer

    def load(self, name: str) -> ModelCard:
        """Have a model folder loaded, then serve it in place of the old one."""
        seconds = 2 * self.load_seconds + QUESTION_SECONDS  # its turn, itself, and to be told of it
        card = self._ask("load", name, within_seconds=seconds).card
        assert card is not None
        return self._cards.get(name, card)  # unloaded again by another process: it was loaded all the same

    def unload(self, name: str) -> None:
        """Stop serving a model; what was admitted before is still answered."""
        self._ask("unload", name)

    def memory(self) -> dict[str, int]:
        """Return bytes in use by kind, as the device process last said."""
        return dict(self._vital.memory)

    # ---- the control channel

    def _ask(self, name: Any, model: str = "", *, within_seconds: float = QUESTION_SECONDS) -> Answer:
        """Ask the device process; raise its error, DeviceFailed, or Unavailable when no answer comes."""
        number = next(self._numbers)
        waiting: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._calls[number] = waiting
        try:
            if self.failed.is_set():
                raise self.ended if self._ending else DeviceFailed(GONE)
            self._control.send(Question(number, name, model))
            answer = waiting.get(timeout=within_seconds)
        except Closed:
            raise DeviceFailed(GONE) from None
        except queue.Empty:
            raise Unavailable(
                f"the device process has not answered {name} within {within_seconds:g} s; it may yet do it"
            ) from None
        finally:
            del self._calls[number]
        if answer.error is not None:
            raise answer.error.told
        return answer

    def _listen(self) -> None:
        said_so = False
        with suppress(Closed):
            while not said_so:
                for message in self._control.receive():
                    self._take(message)
                    if isinstance(message, Gone):
                        said_so, self._ending = True, message.reason
        self.gone = not said_so
        self.failed.set()
        self._loaded.set()
        for number, waiting in list(self._calls.items()):
            waiting.put(Answer(number, error=Error.of(self.ended if self._ending else DeviceFailed(GONE))))
        self.on_failed()

    def _take(self, message: ToHttp) -> None:
        if isinstance(message, Vital):
            self._vital, self._heard = message, time.monotonic()
            for batch in message.batches:
                self.on_batch(batch)
        elif isinstance(message, Cards):
            self.about = message.about
            self._cards = {one.card.name: self._known(one) for one in message.shown}
            self._loaded.set()
            self._control.send(Took(message.version))
        elif isinstance(message, Answer) and (waiting := self._calls.get(message.number)) is not None:
            waiting.put(message)

    def _known(self, one: Shown) -> ModelCard:
        """Return a card that refers to its model in the device process."""
        handle = self._by_number.get(one.number)
        if handle is None:
            handle = self._by_number[one.number] = _Handle(one.number, _tokenizer(one.tokenizer))
            weakref.finalize(handle, self._unused.put, one.number).atexit = False
        return replace(one.card, handle=handle)

    def _release(self) -> None:
        """Tell the device process of models that nothing here refers to any more; finalizers queue them."""
        with suppress(Closed):
            while True:
                self._control.send(Unused(self._unused.get()))


def number_of(card: ModelCard) -> int:
    """Return the number that the device process knows a model by."""
    return _handle(card).number


def _handle(card: ModelCard) -> _Handle:
    assert isinstance(card.handle, _Handle)
    return card.handle


def _tokenizer(written: dict[str, Any] | None) -> Tokenizer | None:
    try:
        return None if written is None else Tokenizer.read(written)
    except TextError as error:
        log.error("a tokenizer cannot be made again: %s", error)
        return None
