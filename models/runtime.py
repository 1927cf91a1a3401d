"""The device: loads model folders, runs ragged batches, gives numpy back.

The concrete `Runtime` of `models/protocol.py`. Batches run on a thread a slot: on a processor each has its
share of the cores; on a GPU each has streams of its own, so that one batch is copied in or out while
another is computed. Everything else may be called from any thread. A model is replaced by swapping one
reference, and what was admitted before keeps the old one.
"""

import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.attention.qkv import attend_qkv
from models.cards import by_name, find
from models.compiled.native import native
from models.device.allocator import give_back_free_blocks, keep_large_blocks
from models.device.capacity import granted_cores
from models.device.gpu import begin, pick
from models.device.graphs import none_recorded
from models.device.signs import Signs
from models.device.steps import Value, finish
from models.encoder.calibration import make_ready
from models.encoder.dtypes import require_dtype
from models.errors import ModelError, SpecError, UnknownModel, of_batch, of_load
from models.folders.loads import LOAD_SECONDS, Loads
from models.folders.repository import Repository
from models.loading import build, loaded
from models.protocol import Answers, BatchResult, Item, ModelCard
from models.text.reading import TextReader
from models.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MOST_SLOTS = 4  # Python between the operators runs one thread at a time: more would wait for each other
ROWS_A_THREAD = 512  # measured: packed products reach their full speed far below
GPU_SLOTS = 2  # one batch is computed while another is copied


class TorchRuntime(TextReader):
    """Serves the models of a repository folder, and single folders, on one torch device.

    `models`: which to load, `name` or `name:dtype` where it is not to be the server's; None loads all, and a
    folder that cannot be loaded is left out with its reason in `index()`. `folders` are models by name,
    wherever they are, and `dtypes` those of them that are not to have the server's. Whatever is named, by
    `models` or in `folders`, must load: else SpecError or UnknownModel is raised. `load_seconds` is the limit
    of each load. `predictions`: output tables are loaded that are not the embedding's, too. `graphs`: on a
    GPU, small batches go through blocks as CUDA graphs.
    """

    def __init__(
        self,
        repository: Path | None,
        *,
        models: tuple[str, ...] | None,
        device: str,
        dtype: str,
        folders: Mapping[str, Path] | None = None,
        dtypes: Mapping[str, str] | None = None,
        load_seconds: float = LOAD_SECONDS,
        predictions: bool = False,
        graphs: bool = True,
    ) -> None:
        self._device = pick(device)
        self._threads = _threads()
        given = {**(dtypes or {}), **{name: one for name, one in map(_parted, models or ()) if one}}
        used = {dtype, *given.values()}
        for one in used:
            require_dtype(one, self._device)
        self.shares_cores = self._device.type == "cpu"
        self.slots = min(self._threads, MOST_SLOTS) if self.shares_cores else GPU_SLOTS
        self.slot_tokens = ROWS_A_THREAD * (self._threads // self.slots) if self.shares_cores else None
        self._dtype, self._predictions, self._graphs = dtype, predictions, graphs
        # refuses to start where the processor lacks the instructions that are asked for
        compiled = native() if self.shares_cores else None
        self._gpu = begin(self._device, used, slots=self.slots)
        self.about = {
            "torch": str(torch.__version__),
            "device": str(self._device),
            "dtype": dtype,
            "instructions": compiled.using if compiled else "none",
        }
        self._repository = Repository(repository, folders)
        self._lock = threading.Lock()
        self._loads = Loads(load_seconds)
        self._unloaded: dict[str, int] = {}  # how often
        self._own = threading.local()
        self._signs = Signs()
        self._cards: dict[str, ModelCard] = {}
        self._reasons: dict[str, str] = {}
        self._dtypes = given
        asked = dict.fromkeys([*(folders or {}), *(name for name, _ in map(_parted, models or ()))])
        for name in asked if models is not None else dict.fromkeys([*asked, *self._repository.names()]):
            try:
                self.load(name)
            except ModelError as error:
                if name in asked:
                    raise type(error)(f"model {name} cannot be served: {error}") from error
                log.warning("model %s is not served: %s", name, error)
        keep_large_blocks()  # of batches; those of the loads are better given back

    @property
    def silent_seconds(self) -> float:
        """How long a running batch has given no sign of life: it gives one at every yield point."""
        return self._signs.silent_seconds

    def cards(self) -> list[ModelCard]:
        """Return what is loaded, sorted by name."""
        return by_name(self._cards)

    def card(self, name: str, version: str | None = None) -> ModelCard:
        """Return one loaded model; raise UnknownModel."""
        return find(self._cards, name, version)

    def index(self) -> list[dict[str, str]]:
        """Return every model folder: name, version, state (READY, UNAVAILABLE), reason."""
        rows = []
        for row in self._repository.index():
            card = self._cards.get(row["name"])
            ready = card is not None and card.version == row["version"]
            reason = "" if ready else self._reasons.get(row["name"], row.get("reason", ""))
            rows.append({**row, "state": "READY" if ready else "UNAVAILABLE", "reason": reason})
        return rows

    def tokenizer(self, card: ModelCard) -> Tokenizer | None:
        """Return the tokenizer of a model, None where it has none."""
        return loaded(card).tokenizer

    def written_tokenizer(self, card: ModelCard) -> dict[str, Any] | None:
        """Return what makes the tokenizer of a model again in another process, None where there is none."""
        tokenizer = loaded(card).tokenizer
        return None if tokenizer is None else tokenizer.written()

    def run(self, batch: Sequence[Item], *, slots: int = 1) -> BatchResult:
        """Attend every item of one batch, on so many of the slots. Raise OutOfMemory, DeviceFailed."""
        card = batch[0].card
        with ExitStack() as stack:
            stream = stack.enter_context(self._gpu.stream()) if self._gpu else None
            if card is None:
                work: Callable[..., Answers] = partial(finish, attend_qkv(batch, self._device))
            else:
                work = partial(loaded(card).model.run, batch)
            return _result(batch, self._compute(work, slots, stream))

    def steps(self, batch: Sequence[Item], *, slots: int = 1) -> Generator[None, int | None, BatchResult]:
        """Do the same in steps. Each gives a sign of life; nothing is set between them."""
        card = batch[0].card
        steps = attend_qkv(batch, self._device) if card is None else loaded(card).model.steps(batch)
        with ExitStack() as stack:
            streams = stack.enter_context(self._gpu.streams()) if self._gpu else None
            stack.enter_context(closing(steps))

            def step(_: Callable[[], None]) -> None:
                next(steps)
                if self._gpu and streams:
                    self._gpu.pace(streams)

            while True:
                try:
                    self._compute(step, slots, streams.batch if streams else None)
                except StopIteration as end:
                    return _result(batch, end.value)
                slots = (yield) or slots

    def load(self, name: str) -> ModelCard:
        """Build, warm and probe a model folder, then serve it in place of the old one.

        Whatever goes wrong on the way, the old one goes on serving. Loads run one after another, each within
        its limit of time; nothing else waits for them. A model that was unloaded meanwhile stays so.
        """
        unloaded = self._unloaded.get(name, 0)
        try:
            cards = self._loads.run(name, lambda: self._build(name))
            with self._lock:
                if self._unloaded.get(name, 0) != unloaded:
                    raise SpecError(f"{name} was unloaded while it was loaded; load it again")
                others = {other: card for other, card in self._cards.items() if not _is_of(card, name)}
                self._cards = others | {card.name: card for card in cards}
                self._reasons.pop(name, None)
        except ModelError as trouble:
            self._reasons[name] = str(trouble)
            raise
        give_back_free_blocks()
        for note in dict.fromkeys(note for card in cards for note in card.notes):
            log.warning("model %s: %s", name, note)
        return cards[0]

    def _build(self, name: str) -> list[ModelCard]:
        """Return the cards of a model folder, ready to run; raise SpecError, UnknownModel."""
        trouble: ModelError | None = None
        try:
            version, folder = self._repository.find(name)
            dtype = self._dtypes.get(name, self._dtype)
            options: dict[str, Any] = {"dtype": dtype, "predictions": self._predictions}
            cards = build(name, version, folder, device=self._device, **options)
            if self._gpu:
                with none_recorded():
                    torch.cuda.synchronize(self._device)  # batches run in other streams than loads
                for card in cards:
                    make_ready(card, loaded(card).model, self._gpu, graphs=self._graphs)
            self._require_free([card.name for card in cards[1:]])
            return cards
        except BaseException as error:  # whatever a loader raises is this model's reason, no other's
            trouble = of_load(name, error)
            if trouble is None:
                raise
            if trouble is not error:
                log.warning("loading model %s failed", name, exc_info=error)
        raise trouble  # here, so that the traceback keeps no tensor alive

    def unload(self, name: str) -> None:
        """Stop serving a model, all its parts; what was admitted before is still answered."""
        with self._lock:
            if self.card(name).part:
                raise UnknownModel(f"{name} is a part of a model; unload the model itself")
            self._unloaded[name] = self._unloaded.get(name, 0) + 1
            self._cards = {other: card for other, card in self._cards.items() if not _is_of(card, name)}
            self._reasons[name] = "unloaded"

    def memory(self) -> dict[str, int]:
        """Return bytes in use by kind."""
        kinds = {"weights": sum(card.bytes_resident for card in self._cards.values())}
        return kinds | (self._gpu.memory() if self._gpu else {})

    def _use(self, slots: int) -> None:
        """Let the calling thread compute on so many slots' share of the cores."""
        if self.shares_cores:
            torch.set_num_threads(max(1, self._threads * slots // self.slots))

    def _inference(self) -> AbstractContextManager[object]:
        """Return the thread's own inference mode, which it enters again and again: it takes 3 µs to make."""
        if not hasattr(self._own, "inference"):
            self._own.inference = torch.inference_mode()
        inference: AbstractContextManager[object] = self._own.inference
        return inference

    def _compute(self, work: Callable[[Callable[[], None]], Value], slots: int, stream: Any) -> Value:
        """Return what `work` makes on the calling thread, on so many slots; it is given what gives a sign.

        `stream`: in which it runs on a GPU.
        """
        self._use(slots)
        trouble: ModelError | None = None
        try:
            with self._signs.running() as sign, self._inference():
                if self._gpu is None:
                    return work(sign)
                with self._gpu.entered(stream):
                    return work(sign)
        except RuntimeError as error:
            trouble = of_batch(error)
            if trouble is None:
                raise
            said = next(iter(str(error).splitlines()), "")
        # Here, so that the traceback keeps no tensor alive.
        if self._gpu:
            trouble = self._gpu.confirmed(trouble)
        raise trouble or RuntimeError(f"the device refused this batch: {said}")

    def _require_free(self, names: list[str]) -> None:
        """Raise SpecError where the name of a part is another model's."""
        for name in names:
            if name in self._repository.names():
                raise SpecError(
                    f"a part of this model would be called {name}, as another model is; rename one"
                )


def _result(batch: Sequence[Item], answers: Answers) -> BatchResult:
    return BatchResult(answers=answers, computed_tokens=sum(item.input.queries for item in batch))


def _parted(model: str) -> tuple[str, str]:
    """Return the name of a model and its own dtype, which may be ""."""
    name, _, dtype = model.partition(":")
    return name, dtype


def _is_of(card: ModelCard, name: str) -> bool:
    """Whether a card is of a model, as itself or as its decoder."""
    return card.name == name or (bool(card.part) and card.name == f"{name}.{card.part}")


def _threads() -> int:
    """Return on how many threads to compute: torch's own count, no more than a container is granted."""
    threads = torch.get_num_threads()
    granted = None if "OMP_NUM_THREADS" in os.environ else granted_cores()
    if granted is not None and granted < threads:
        torch.set_num_threads(granted)
        return granted
    return threads
