"""A runtime without torch, whose every answer can be computed by hand."""

import json
import re
import string
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from models.device.signs import Signs
from models.edit import VERBS, Edit
from models.errors import TextError, TooLong, UnknownModel
from models.halves import widened
from models.outputs import OUTPUTS, Spans
from models.pooling_spec import PredictionCard
from models.protocol import QKV, Answer, BatchResult, Failure, Item, ModelCard, Side, Text
from models.shapes import shape_of
from models.spec import ModelSpec

WORDS = 100
WORD = re.compile(r"\S+")
WRITTEN = ("ein", "Satz", *string.ascii_lowercase)  # words that the tokenizer knows in another process


def fake_card(name: str = "fake", **changes: object) -> ModelCard:
    """A model of 2 layers, 2 heads and d_model 4 that takes text of at most 16 tokens."""
    fields: dict[str, object] = {
        "name": name,
        "version": "1",
        "family": "heed",
        "layers": 2,
        "heads": 2,
        "key_heads": 2,
        "d_model": 4,
        "d_k": 2,
        "d_v": 2,
        "dtype": "float32",
        "device": "cpu",
        "bytes_resident": 1024,
        "outputs": tuple(OUTPUTS),
        "inputs": ("embeddings", "token_ids", "text"),
        "max_tokens": 16,
        "vocabulary": WORDS,
        "cross": True,
        "predictions": PredictionCard(words=WORDS, of="next", table="embedding", tokens=0.0),
        "kernel": "fake",
        "spec": {"d_model": 4},
        "edits": VERBS,
    }
    return ModelCard(**{**fields, **changes})  # type: ignore[arg-type]


def card_of(spec: ModelSpec, **changes: object) -> ModelCard:
    """A model as a specification has it, of sequences of any length."""
    own: dict[str, object] = {
        "layers": spec.layers,
        "heads": spec.heads,
        "key_heads": spec.key_heads,
        "d_model": spec.d_model,
        "d_k": spec.key_width,
        "d_v": spec.value_width,
        "max_tokens": None,
    }
    return fake_card(**{**own, **changes})  # type: ignore[arg-type]


class FakeRuntime:
    """Answers: z (and hidden) is twice the embeddings, weights are 1/S, mixed and share are of them.

    Edits are done as they are in a model whose scores are all 0, and whose heads have d_v columns of z each.
    Every other output is zeros.
    Token ids are embedded as the id repeated d_model times. `batches` records every batch that ran;
    clear `gate` to hold the device; `before_run` may raise. A sequence whose first number is above 1e30
    fails as not finite.
    """

    slots = 1
    shares_cores = False
    slot_tokens: int | None = None

    def __init__(self, *cards: ModelCard, before_run: Callable[[Sequence[Item]], None] | None = None) -> None:
        self._cards = {card.name: card for card in cards or (fake_card(),)}
        self.about = {"torch": "0", "device": "cpu", "dtype": "float32", "instructions": "none"}
        self.batches: list[list[Item]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.before_run = before_run
        self.yields = 0  # of a batch that is run in steps
        self.signs = Signs()

    @property
    def silent_seconds(self) -> float:
        return self.signs.silent_seconds

    def cards(self) -> list[ModelCard]:
        return [self._cards[name] for name in sorted(self._cards)]

    def card(self, name: str, version: str | None = None) -> ModelCard:
        card = self._cards.get(name)
        if card is None or version not in (None, card.version):
            raise UnknownModel(f"no model is called {name[:64]!r}; loaded: {', '.join(self._cards)}")
        return card

    def index(self) -> list[dict[str, str]]:
        return [
            {"name": card.name, "version": card.version, "state": "READY", "reason": ""}
            for card in self.cards()
        ]

    def tokenize(
        self,
        card: ModelCard,
        text: str,
        pair: str | None = None,
        *,
        truncate: bool = False,
        longest: int | None = None,
        most: int | None = None,
        side: Side | None = None,
    ) -> Text:
        if "text" not in card.inputs:
            raise TextError(f"model {card.name} has no tokenizer; send embeddings")
        found = [(part, word) for part, one in enumerate((text, pair or "")) for word in WORD.finditer(one)]
        words = [word.group() for _, word in found]
        limit = min(card.max_tokens or len(words), longest or len(words))
        if len(words) > limit and not truncate:
            raise TooLong(
                f"the text has {len(words)} tokens, over the model's limit of {limit}; "
                "shorten it or set truncate"
            )
        at = slice(limit) if side != "left" else slice(len(words) - limit, None)
        kept = words[at]
        if most is not None and len(kept) > most:
            raise TooLong(
                f"the text has {len(kept)} tokens, the server's limit is {most}; send a shorter one"
            )
        ids = np.array([_id(word) for word in kept], dtype=np.int64)
        return Text(
            ids=ids,
            type_ids=np.zeros_like(ids),
            tokens=tuple(kept),
            offsets=tuple(word.span() for _, word in found[at]),
            parts=tuple(part for part, _ in found[at]),
            special=(False,) * len(kept),
            truncated=len(words) - len(kept),
        )

    def tokenize_all(self, card: ModelCard, texts: Sequence[str], **limits: Any) -> list[Text]:
        return [self.tokenize(card, text, **limits) for text in texts]

    def tokens_of(
        self,
        card: ModelCard,
        text: str,
        *,
        special: bool = True,
        longest: int | None = None,
        most: int | None = None,
    ) -> Text:
        """Words, between [begin] and [end] where special tokens are wanted."""
        whole = replace(card, max_tokens=None)
        plain = self.tokenize(whole, text, most=most)
        if not special:
            return plain
        return Text(
            ids=np.array([1, *plain.ids, 2]),
            type_ids=np.zeros(len(plain.ids) + 2, np.int64),
            tokens=("[begin]", *plain.tokens, "[end]"),
            offsets=((0, 0), *plain.offsets, (0, 0)),
            special=(True, *plain.special, True),
            parts=(0, *plain.parts, 0),
        )

    def text_of(self, card: ModelCard, ids: Sequence[int], *, skip_special: bool = True) -> str:
        if "text" not in card.inputs:
            raise TextError(f"model {card.name} has no tokenizer; send embeddings")
        around = {1: "" if skip_special else "[begin]", 2: "" if skip_special else "[end]"}
        words = zip(ids, self.spelled(card, ids), strict=True)
        return " ".join(around.get(one, word or "") for one, word in words).strip()

    def spelled(self, card: ModelCard, ids: Sequence[int]) -> list[str | None]:
        words = {_id(word): word for word in WRITTEN}
        return [words.get(one) for one in ids]

    def token_id(self, card: ModelCard, token: str) -> int | None:
        return _id(token) if token in WRITTEN else None

    def written_tokenizer(self, card: ModelCard) -> dict[str, Any] | None:
        if "text" not in card.inputs:
            return None
        words = {word: _id(word) for word in ("[unknown]", *WRITTEN)}
        model = {"type": "WordLevel", "vocab": words, "unk_token": "[unknown]"}
        whole = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"}}
        return {
            "json": json.dumps(whole | {"model": model}),
            "fields": {"_vocabulary": WORDS, "_typed": True, "_side": "right", "notes": ()},
        }

    def run(self, batch: Sequence[Item], *, slots: int = 1) -> BatchResult:
        self.begin(batch, slots)
        return self.result(batch)

    def steps(self, batch: Sequence[Item], *, slots: int = 1) -> Generator[None, int | None, BatchResult]:
        self.begin(batch, slots)
        for _ in range(self.yields):
            yield
        return self.result(batch)

    def begin(self, batch: Sequence[Item], slots: int) -> None:
        """Note a batch that has reached the device, however it is run."""
        with self.signs.running():
            self.gate.wait(timeout=30)
            self.batches.append(list(batch))
            if self.before_run is not None:
                self.before_run(batch)

    def result(self, batch: Sequence[Item]) -> BatchResult:
        return BatchResult(
            answers=[self._answer(item) for item in batch],
            computed_tokens=sum(item.input.queries for item in batch),
        )

    def load(self, name: str) -> ModelCard:
        return self._cards.setdefault(name, fake_card(name))

    def unload(self, name: str) -> None:
        self.card(name)
        del self._cards[name]

    def memory(self) -> dict[str, int]:
        return {"weights": sum(card.bytes_resident for card in self._cards.values())}

    def _answer(self, item: Item) -> Answer | Failure:
        source = _vectors(item)
        if source.flat[0] > 1e30:
            return Failure(code="not_finite", message="the result overflowed")
        batch = next((one for one in reversed(self.batches) if any(item is other for other in one)), [item])
        return Answer(tensors={name: _tensor(name, item, source, batch) for name in item.selection.outputs})


def _id(word: str) -> int:
    return sum(map(ord, word)) % WORDS


def _vectors(item: Item) -> np.ndarray:
    if isinstance(item.input, QKV):
        return widened(item.input.value)
    if item.input.embeddings is not None:
        return widened(item.input.embeddings)
    assert item.input.ids is not None
    assert item.card is not None
    return np.repeat(item.input.ids[:, None], item.card.d_model, axis=1)


def _mixed(item: Item) -> np.ndarray:
    """Return one row of a mixture of weights that are 1/S everywhere; a map of contacts of them is 0."""
    mix, keys = item.selection.mix, item.dims.S
    assert mix is not None
    spans = mix.columns or tuple((key, key + 1) for key in range(keys))
    row = sum(mix.weights) * np.array([(end - start) / keys for start, end in spans])
    if mix.reduce == "sum":
        row *= item.dims.T if item.selection.rows is None else len(item.selection.rows)
    if mix.apc:
        row = np.zeros(keys - sum(mix.skip))
    row = row + mix.bias
    return 1 / (1 + np.exp(-row)) if mix.sigmoid else row


def _tensor(name: str, item: Item, source: np.ndarray, batch: Sequence[Item]) -> np.ndarray:
    chosen = item.selection
    shape = shape_of(name, chosen, item.dims)
    dtype = np.int32 if OUTPUTS[name].dtype == "int32" else np.float32
    if name in ("z", "hidden") and not isinstance(item.input, QKV):
        rows = slice(None) if chosen.rows is None else list(chosen.rows)
        layers = [_edited_z(item, layer, batch)[rows] for layer in chosen.layers]
        tensor = np.array(layers) if chosen.layer_axis else layers[0]
    elif name == "weights" and item.edits and chosen.spans is None:
        tensor = _edited_weights(item).reshape(shape)
    elif name in ("weights", "weights_mean", "weights_max"):
        tensor = np.full(shape, 1 / item.dims.S)
    elif name == "mixed":
        tensor = np.broadcast_to(_mixed(item), shape)
    elif name == "share":
        assert chosen.share is not None
        of, over = (sum(end - start for start, end in part) for part in (chosen.share.of, chosen.share.over))
        tensor = np.full(shape, of / over)
    else:
        tensor = np.zeros(shape)
    tensor = np.ascontiguousarray(tensor, dtype=dtype)
    if dtype is np.float32 and chosen.dtype == "float16":
        return tensor.astype(np.float16)
    if dtype is np.float32 and chosen.dtype == "bfloat16":
        return (tensor.view(np.uint32) >> 16).astype(np.uint16)
    return tensor


def _edited_z(item: Item, layer: int, batch: Sequence[Item]) -> np.ndarray:
    """Return z of a layer after what its edits set, take from others of the batch, and scale."""
    z = 2 * _vectors(item).astype(np.float32)
    for verb in ("set", "from", "scale"):
        for edit in (edit for edit in item.edits if edit.verb == verb):
            rows = _at(edit.queries, len(z))
            for place, (of, head) in enumerate(edit.at):
                columns = slice(head * item.dims.d_v, (head + 1) * item.dims.d_v)
                if of == layer and verb == "set":
                    z[rows, columns] = edit.value[place]
                elif of == layer and verb == "from":
                    z[rows, columns] = _edited_z(batch[edit.source], layer, batch)[rows, columns]
                elif of == layer:
                    z[rows, columns] *= edit.value
    return z


def _edited_weights(item: Item) -> np.ndarray:
    """Return weights of the chosen heads and rows, of all chosen layers, as edits leave them."""
    chosen, dims = item.selection, item.dims
    pairs = chosen.pairs or [
        (layer, head)
        for layer in chosen.layers
        for head in (range(dims.heads) if chosen.heads is None else chosen.heads)
    ]
    made = np.array([_weights_of(item, pair) for pair in pairs])
    return made if chosen.rows is None else made[:, list(chosen.rows)]


def _weights_of(item: Item, pair: tuple[int, int]) -> np.ndarray:
    edits = [edit for edit in item.edits if pair in edit.at]
    scores = np.zeros((item.dims.T, item.dims.S))
    for edit in edits:
        if edit.verb in ("add", "block"):
            where = np.ix_(_at(edit.queries, item.dims.T), _at(edit.keys, item.dims.S))
            scores[where] += -np.inf if edit.verb == "block" else edit.value
    shares = np.exp(scores)
    weights = shares / np.maximum(shares.sum(-1, keepdims=True), 1e-30)
    for edit in edits:
        if edit.verb == "pattern":
            rows = _at(edit.queries, item.dims.T)
            weights[rows] = _pattern(edit, pair, rows, item.dims.S)
    return weights


def _pattern(edit: Edit, pair: tuple[int, int], rows: list[int], keys: int) -> np.ndarray:
    value = edit.value
    if isinstance(value, np.ndarray):
        return value if value.ndim == 2 else value[edit.at.index(pair)]
    if value == "uniform":
        return np.full((len(rows), keys), 1 / keys)
    own = np.eye(keys)
    return own[{"first": [0] * len(rows), "self": rows, "previous": [max(0, row - 1) for row in rows]}[value]]


def _at(ranges: Spans | None, length: int) -> list[int]:
    return [at for start, end in ranges or ((0, length),) for at in range(start, end)]
