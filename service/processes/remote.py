"""The device as an HTTP process sees it: a `Runtime` whose every batch runs in the device process.

Nothing above knows. A batch is one message and its arrays in shared memory, on a line of its own for as long;
the answers are copied out, so that they live as long as their reply takes to be sent. Texts are tokenized
here: a tokenizer comes with its model's card. What is left to ask is administration, from threads, within a
limit of time; all else the device process tells unasked.
"""

import itertools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import errors
from models.cards import by_name, find
from models.errors import DeviceFailed, TextError
from models.loads import LOAD_SECONDS
from models.protocol import BatchResult, Item, ModelCard, Text
from models.text import Tokenizer, read_text
from service.errors import Unavailable
from service.processes.channel import Channel, Closed
from service.processes.line import Line
from service.processes.parcel import pack, unpack

__all__ = ["RemoteRuntime"]

ERRORS = {name: getattr(errors, name) for name in errors.__all__}
GONE = "the device process has ended"
QUESTION_SECONDS = 30.0

log = logging.getLogger(__name__)


class _Handle:
    """What a card's `handle` is here: the number of the model in the device process, and its tokenizer."""

    __slots__ = ("__weakref__", "number", "tokenizer")

    def __init__(self, number: int, tokenizer: Tokenizer | None) -> None:
        self.number = number
        self.tokenizer = tokenizer


class RemoteRuntime:
    """A `Runtime` over a channel, `control`, for questions and news, and `lines` for `run`.

    `on_failed` is called, on a thread of its own, when the device process has failed or ended. `load_seconds`
    is the limit of a load there.
    """

    shares_cores = False  # the threads that compute are the device process's

    def __init__(
        self, *, control: Channel, lines: Sequence[Line], load_seconds: float = LOAD_SECONDS
    ) -> None:
        self._control = control
        self._load_seconds = 2 * load_seconds + QUESTION_SECONDS  # its turn, itself, and to be told of it
        self.slots = len(lines)  # batches on their way; the device process shares its own slots among all
        # The last one used first: the thread that serves it, its caches and its cores are the warmest.
        self._lines: queue.LifoQueue[Line] = queue.LifoQueue()
        for line in lines:
            self._lines.put(line)
        self._own = threading.local()
        self.slot_tokens: int | None = None
        self._cards: dict[str, ModelCard] = {}
        self._by_number: weakref.WeakValueDictionary[int, _Handle] = weakref.WeakValueDictionary()
        self._unused: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._calls: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._loaded = threading.Event()
        self._heard = time.monotonic()  # of the device process, and what it said:
        self._silent_seconds = 0.0
        self._memory: dict[str, int] = {}
        self.trouble = ""  # of another HTTP process
        self.failed = threading.Event()
        self.gone = False  # the device process has ended, without a word
        self.on_failed: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Read news from now on; returns when the models are known. Raises DeviceFailed."""
        threading.Thread(target=self._listen, name="heed-news", daemon=True).start()
        threading.Thread(target=self._release, name="heed-release", daemon=True).start()
        self._loaded.wait()
        if self.failed.is_set():
            raise DeviceFailed(GONE)

    def tell(self, news: str) -> None:
        """Tell the device process something that needs no answer."""
        self._control.send({"news": news})

    def alive(self, seconds: float) -> None:
        """Tell the device process how long ago the event loop came round; it answers how it is itself."""
        with suppress(Closed):  # noticed where it is listened to
            self._control.send({"alive": seconds})

    @property
    def unheard_seconds(self) -> float:
        """How long the device process has said nothing at all."""
        return time.monotonic() - self._heard

    @property
    def silent_seconds(self) -> float:
        """How long there has been no sign of life, of a running batch or of the whole device process."""
        return self._silent_seconds + self.unheard_seconds

    # ---- models.protocol.Runtime

    def cards(self) -> list[ModelCard]:
        """Return what is loaded, sorted by name."""
        return by_name(self._cards)

    def card(self, name: str, version: str | None = None) -> ModelCard:
        """Return one loaded model; raise UnknownModel."""
        return find(self._cards, name, version)

    def index(self) -> list[dict[str, str]]:
        """Return every model folder: name, version, state, reason."""
        return list(self._call("index"))

    def tokenize(
        self,
        card: ModelCard,
        text: str,
        pair: str | None = None,
        *,
        truncate: bool = False,
        longest: int | None = None,
        most: int | None = None,
    ) -> Text:
        """Return the tokens of a text; raise TextError, TooLong unless `truncate`."""
        tokenizer = _handle(card).tokenizer
        return read_text(tokenizer, card, text, pair, truncate=truncate, longest=longest, most=most)

    def written_tokenizer(self, card: ModelCard) -> dict[str, Any] | None:
        """Return what makes the tokenizer of a model again in another process, None where there is none."""
        tokenizer = _handle(card).tokenizer
        return None if tokenizer is None else tokenizer.written()

    def run(
        self, batch: Sequence[Item], *, slots: int = 1, pause: Callable[[], int | None] | None = None
    ) -> BatchResult:
        """Attend every item of one batch; raise OutOfMemory, DeviceFailed."""
        assert slots == 1
        outer: Line | None = getattr(self._own, "line", None)  # of the batch in whose pause this one runs
        line = self._own.line = outer or self._lines.get()
        start = line.inputs.top
        try:
            items = [pack(item, put=line.inputs.put, number=_number) for item in batch]
            return _exchange(line, {"run": items, "pausable": pause is not None}, pause)
        except Closed:
            raise DeviceFailed(GONE) from None
        finally:
            line.inputs.rewind(start)
            if outer is None:
                line.inputs.trim()
                line.results.trim()
                self._own.line = None
                self._lines.put(line)

    def load(self, name: str) -> ModelCard:
        """Have a model folder loaded, then serve it in place of the old one."""
        card: ModelCard = self._call("load", name, within_seconds=self._load_seconds)
        return self._cards.get(name, card)  # unloaded again by another process: it was loaded all the same

    def unload(self, name: str) -> None:
        """Stop serving a model; what was admitted before is still answered."""
        self._call("unload", name)

    def memory(self) -> dict[str, int]:
        """Return bytes in use by kind, as the device process last said."""
        return dict(self._memory)

    # ---- the control channel

    def _call(self, name: str, *arguments: Any, within_seconds: float = QUESTION_SECONDS) -> Any:
        """Ask the device process; raise its error, DeviceFailed, or Unavailable when no answer comes."""
        number = next(self._numbers)
        waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._calls[number] = waiting
        try:
            if self.failed.is_set():
                raise DeviceFailed(GONE)
            self._control.send({"call": name, "number": number, "arguments": arguments})
            answer = waiting.get(timeout=within_seconds)
        except Closed:
            raise DeviceFailed(GONE) from None
        except queue.Empty:
            raise Unavailable(
                f"the device process has not answered {name} within {within_seconds:g} s; it may yet do it"
            ) from None
        finally:
            del self._calls[number]
        _raise_if_error(answer)
        return unpack(answer["value"], get=_array)

    def _listen(self) -> None:
        message: dict[str, Any] = {}
        with suppress(Closed):
            while "failed" not in (message := self._control.receive()):
                if "silent" in message:
                    self._memory, self.trouble = message["memory"], message["trouble"]
                    self._silent_seconds, self._heard = message["silent"], time.monotonic()
                if "cards" in message:
                    self.slot_tokens = message["slot_tokens"]
                    self._take_cards(message["cards"])
                    self._control.send({"took": message["list"]})
                elif "number" in message and (waiting := self._calls.get(message["number"])) is not None:
                    waiting.put(message)
        self.gone = "failed" not in message
        self.failed.set()
        self._loaded.set()
        for waiting in list(self._calls.values()):
            waiting.put({"error": ["DeviceFailed", GONE]})
        self.on_failed()

    def _take_cards(self, numbered: list[list[Any]]) -> None:
        cards = {}
        for number, packed, written in numbered:
            handle = self._by_number.get(number)
            if handle is None:
                handle = self._by_number[number] = _Handle(number, _tokenizer(written))
                weakref.finalize(handle, self._unused.put, number).atexit = False
            card = replace(unpack(packed, get=_array), handle=handle)
            cards[card.name] = card
        self._cards = cards
        self._loaded.set()

    def _release(self) -> None:
        """Tell the device process of models that nothing here refers to any more; finalizers queue them."""
        with suppress(Closed):
            while True:
                self._control.send({"unused": self._unused.get()})


def _exchange(line: Line, message: dict[str, Any], pause: Callable[[], int | None] | None) -> BatchResult:
    line.batches.send(message)
    answer = line.batches.receive()
    while "pause" in answer:
        assert pause is not None
        pause()
        line.batches.send({"resume": True})
        answer = line.batches.receive()
    _raise_if_error(answer)
    result: BatchResult = unpack(answer["result"], get=lambda place: line.results.look(place).copy())
    return replace(result, answers=list(result.answers))


def _handle(card: ModelCard) -> _Handle:
    assert isinstance(card.handle, _Handle)
    return card.handle


def _number(card: ModelCard) -> int:
    return _handle(card).number


def _tokenizer(written: dict[str, Any] | None) -> Tokenizer | None:
    try:
        return None if written is None else Tokenizer.read(written)
    except TextError as error:
        log.error("a tokenizer cannot be made again: %s", error)
        return None


def _array(written: list[Any]) -> NDArray[Any]:
    """Return a small array that came in the message itself."""
    dtype, numbers = written
    return np.array(numbers, dtype=dtype)


def _raise_if_error(answer: dict[str, Any]) -> None:
    if "error" in answer:
        name, text = answer["error"]
        raise ERRORS.get(name, RuntimeError)(text)
