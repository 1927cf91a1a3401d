"""The device: loads model folders, runs one ragged batch at a time, gives numpy back.

The concrete `Runtime` of `models/protocol.py`. Batches run on one thread; everything else may be called
from any. A model is replaced by swapping one reference, and what was admitted before keeps the old one.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from models.allocator import keep_large_blocks
from models.direct import attend_direct
from models.errors import DeviceFailed, ModelError, OutOfMemory, SpecError, TextError, UnknownModel
from models.families import ModelFolder, read_spec
from models.outputs import OUTPUTS, Selection
from models.protocol import Answer, BatchResult, Failure, Item, ModelCard, Text, Tokens
from models.repository import Repository
from models.spec import ModelSpec
from models.stack import Stack
from models.text import Tokenizer
from models.weights import load_weights

__all__ = ["TorchRuntime"]

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PROBE_TOKENS = 3


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a card's `handle` holds: the weights on the device, and the tokenizer."""

    stack: Stack
    tokenizer: Tokenizer | None


class TorchRuntime:
    """Serves the models of a repository folder on one torch device.

    `models`: which to load; None loads all, and a folder that cannot be loaded is left out with its reason
    in `index()`. Naming one that cannot be loaded raises SpecError or UnknownModel.
    """

    def __init__(self, repository: Path, *, models: tuple[str, ...] | None, device: str, dtype: str) -> None:
        self._device = _pick(device)
        keep_large_blocks()
        self._dtype = DTYPES[dtype]
        self._repository = Repository(repository)
        self._lock = threading.Lock()
        self._cards: dict[str, ModelCard] = {}
        self._reasons: dict[str, str] = {}
        for name in self._repository.names() if models is None else models:
            try:
                self.load(name)
            except ModelError as error:
                if models is not None:
                    raise
                log.warning("model %s is not served: %s", name, error)

    def cards(self) -> list[ModelCard]:
        """Return what is loaded, sorted by name."""
        return [card for _, card in sorted(self._cards.items())]

    def card(self, name: str, version: str | None = None) -> ModelCard:
        """Return one loaded model; raise UnknownModel."""
        card = self._cards.get(name)
        if card is None:
            known = ", ".join(sorted(self._cards)) or "none"
            raise UnknownModel(f"no model is called {name[:64]!r}; loaded: {known}")
        if version not in (None, card.version):
            raise UnknownModel(f"model {name} has no version {version!r:.64} loaded; loaded: {card.version}")
        return card

    def index(self) -> list[dict[str, str]]:
        """Return every model folder: name, version, state (READY, UNAVAILABLE), reason."""
        rows = []
        for row in self._repository.index():
            card = self._cards.get(row["name"])
            ready = card is not None and card.version == row["version"]
            reason = "" if ready else self._reasons.get(row["name"], row.get("reason", ""))
            rows.append({**row, "state": "READY" if ready else "UNAVAILABLE", "reason": reason})
        return rows

    def tokenize(
        self, card: ModelCard, text: str, pair: str | None = None, *, truncate: bool = False
    ) -> Text:
        """Return the tokens of a text, special ones included; raise TextError, TooLong unless `truncate`."""
        tokenizer = _handle(card).tokenizer
        if tokenizer is None:
            raise TextError(f"model {card.name} has no tokenizer; send embeddings")
        return tokenizer.encode(text, pair, limit=card.max_tokens, truncate=truncate)

    def run(self, batch: Sequence[Item]) -> BatchResult:
        """Attend every item of one batch; raise OutOfMemory, DeviceFailed."""
        trouble: ModelError | None = None
        answers: list[Answer | Failure] = []
        try:
            answers = self._run(batch)
        except RuntimeError as error:
            trouble = _trouble(error)
            if trouble is None:
                raise
        if trouble is not None:  # raised here, so that the traceback keeps no tensor alive
            if isinstance(trouble, OutOfMemory) and self._device.type == "cuda":
                torch.cuda.empty_cache()
            raise trouble
        return BatchResult(answers=answers, computed_tokens=sum(item.input.queries for item in batch))

    def load(self, name: str) -> ModelCard:
        """Build, warm and probe a model folder, then serve it in place of the old one."""
        try:
            version, folder = self._repository.find(name)
            card = self._build(name, version, read_spec(folder))
        except ModelError as error:
            self._reasons[name] = str(error)
            raise
        with self._lock:
            self._cards = {**self._cards, name: card}
            self._reasons.pop(name, None)
        return card

    def unload(self, name: str) -> None:
        """Stop serving a model; what was admitted before is still answered."""
        with self._lock:
            self.card(name)
            self._cards = {other: card for other, card in self._cards.items() if other != name}
            self._reasons[name] = "unloaded"

    def memory(self) -> dict[str, int]:
        """Return bytes in use by kind."""
        kinds = {"weights": sum(card.bytes_resident for card in self._cards.values())}
        if self._device.type == "cuda":
            kinds["allocated"] = torch.cuda.memory_allocated(self._device)
            kinds["reserved"] = torch.cuda.memory_reserved(self._device)
        return kinds

    def _run(self, batch: Sequence[Item]) -> list[Answer | Failure]:
        with torch.inference_mode():
            card = batch[0].card
            if card is None:
                return [attend_direct(item, self._device) for item in batch]
            return _handle(card).stack.run(batch)

    def _build(self, name: str, version: str, folder: ModelFolder) -> ModelCard:
        parameters = load_weights(folder.weights, folder.spec, folder.naming, dtype=self._dtype)
        parameters = {key: tensor.to(self._device) for key, tensor in parameters.items()}
        resident = sum(tensor.nbytes for tensor in parameters.values())
        stack = Stack(folder.spec, parameters, self._device)
        vocabulary = folder.spec.embedding.vocabulary if folder.spec.embedding else None
        tokenizer = None
        if folder.tokenizer is not None:
            tokenizer = Tokenizer(folder.tokenizer, vocabulary=vocabulary)
        width = folder.spec.embedding_width
        card = ModelCard(
            name=name,
            version=version,
            family=folder.family,
            layers=folder.spec.layers,
            heads=folder.spec.heads,
            key_heads=folder.spec.key_heads,
            d_model=folder.spec.d_model,
            d_input=None if width == folder.spec.d_model else width,
            d_k=folder.spec.key_width,
            d_v=folder.spec.value_width,
            dtype=str(self._dtype).removeprefix("torch."),
            device=str(self._device),
            bytes_resident=resident,
            outputs=_offered(folder.spec),
            inputs=_accepted(folder.spec, tokenizer),
            max_tokens=folder.spec.positions.max_positions,
            vocabulary=vocabulary,
            cross=folder.family == "heed",
            kernel="+".join(sorted(stack.kernels)) or "torch",
            spec=folder.spec.to_config(),
            handle=_Loaded(stack, tokenizer),
        )
        self._probe(card)
        return card

    def _probe(self, card: ModelCard) -> None:
        """Run every layer once: it warms the kernels, and a model that gives no numbers is refused."""
        chance = np.random.default_rng(0)
        embeddings = chance.standard_normal((PROBE_TOKENS, card.d_input or card.d_model), dtype=np.float32)
        chosen = Selection(outputs=("z", "weights"), layers=tuple(range(card.layers)), layer_axis=True)
        item = Item(card=card, input=Tokens(embeddings=embeddings), selection=chosen)
        (answer,) = self.run([item]).answers
        if isinstance(answer, Failure):
            raise SpecError(f"the weights of {card.name} give numbers that are not finite")


def _handle(card: ModelCard) -> _Loaded:
    assert isinstance(card.handle, _Loaded)
    return card.handle


def _offered(spec: ModelSpec) -> tuple[str, ...]:
    has = {"": True, "square": True, "block": spec.blocks, "pooling": spec.pooling is not None}
    return tuple(name for name, output in OUTPUTS.items() if has[output.needs])


def _accepted(
    spec: ModelSpec, tokenizer: Tokenizer | None
) -> tuple[Literal["embeddings", "token_ids", "text"], ...]:
    if spec.embedding is None:
        return ("embeddings",)
    return ("embeddings", "token_ids") if tokenizer is None else ("embeddings", "token_ids", "text")


def _pick(device: str) -> torch.device:
    """Return the device by its name, `auto` for a GPU where there is one; raise SpecError without it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SpecError(f"device {device} was asked for, but torch sees no GPU; use cpu or auto")
    return torch.device(device)


def _trouble(error: RuntimeError) -> ModelError | None:
    """Tell what a torch error means for the batch: too large, the device gone, or neither (None)."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
        return OutOfMemory("the device has no memory left for this batch")
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return DeviceFailed("the device failed and serves nothing any more")
    return None
