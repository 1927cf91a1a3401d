"""The wall: what crosses between `service/` and `models/`, numpy and plain data, and the one Protocol.

`service/` makes Items, a Runtime turns a batch of them into Answers. Nothing here imports torch, so the
whole service runs on a fake runtime whose answers can be computed by hand.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from models.edit import Edit, Verb
from models.halves import Numbers
from models.heads.sets import HeadSet
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.pooling_spec import PooledCard, PredictionCard
from models.shapes import Dims, dims_of

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is served under a name: filled by the runtime, shown by `GET /v1/models/{model}`.

    `handle` is the runtime's own reference to the loaded weights: an Item carries its card, so a job
    admitted before a reload is answered by the version that admitted it. `not_offered` gives the reason for
    each output, input or verb of an edit (`edits.VERB`) that could be expected.
    """

    name: str
    version: str
    family: str  # "heed" or the Hugging Face model_type
    layers: int
    heads: int
    key_heads: int
    d_model: int
    d_k: int
    d_v: int
    dtype: str  # of the weights
    device: str
    bytes_resident: int
    outputs: tuple[str, ...]
    inputs: tuple[Literal["embeddings", "token_ids", "text"], ...]
    max_tokens: int | None = None  # positions the model has; None: any length
    vocabulary: int | None = None
    types: int = 0  # rows of the table of token types; 0: there is none, and every type is 0
    d_input: int | None = None  # width of `embeddings` where it is not d_model (ELECTRA)
    cross: bool = False  # whether `memory` may be given
    part: Literal["", "decoder", "cross"] = ""  # of an encoder-decoder model; its encoder has no part
    kernel: str = ""  # which linear and attention kernels run
    computed_in: str = "float32"  # dtype of what is between products, and of their sums
    examples: tuple[str, ...] = ()  # texts worth a first look, as the folder has them
    spec: dict[str, Any] = field(default_factory=dict)
    max_text_tokens: int | None = None  # where a text is cut, and more are never pooled; None: any length
    text_limit: str = ""  # what says so
    text_ms: float = 1.0  # to tokenize 1,024 characters, as measured when it was loaded
    pooled: PooledCard | None = None
    predictions: PredictionCard | None = None
    notes: tuple[str, ...] = ()  # what the folder says and is not obeyed, or contradicts itself in
    not_offered: dict[str, str] = field(default_factory=dict)
    edits: tuple[Verb, ...] = ()  # verbs that a sequence's edits may have
    head_sets: dict[str, HeadSet] = field(default_factory=dict)  # of the folder's head_sets.json, by name
    handle: object = field(default=None, repr=False, compare=False)

    @property
    def width(self) -> int:
        """Numbers in one row of `embeddings`."""
        return self.d_input or self.d_model

    def dims(self, tokens: int, keys: int | None = None) -> Dims:
        """Return the sizes of `tokens` queries to `keys` keys (None, and in a decoder: to themselves)."""
        keys = tokens if keys is None or self.part == "decoder" else keys
        pooled = self.pooled.width if self.pooled else None
        words = self.predictions.words if self.predictions else 0
        return dims_of(
            tokens, keys, self.heads, self.key_heads, self.d_model, self.d_k, self.d_v, pooled, words
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text turned into tokens: ids and type ids int64 [T], one string a token, half-open character offsets.

    `special` marks tokens the model added ([CLS], [SEP]); `truncated` counts tokens cut off the end. `parts`
    says of each token which of a pair of texts it is of, 0 or 1; empty: all are of the one. Where ids and
    types are all that was asked for, the rest is empty.
    """

    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    tokens: tuple[str, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()
    special: tuple[bool, ...] = ()
    truncated: int = 0
    parts: tuple[int, ...] = ()


class TextLimits(TypedDict, total=False):
    """Over the model's limit, or `longest`, a text is refused or cut; what is left over `most` is refused."""

    truncate: bool
    longest: int | None
    most: int | None  # tokens that may be left
    side: Side | None  # where it is cut; None: where the tokenizer's files say


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """One sequence for a model: exactly one of `embeddings` [T, d_model] and `ids` [T] int64.

    `memory` [S, d_model] makes it cross-attention. `mask`: bool [S] or [T, S], True may be attended.
    Numbers are as wide as they came: float32, float16 or bfloat16 (`models.halves`).
    """

    embeddings: Numbers | None = None
    ids: NDArray[np.int64] | None = None
    type_ids: NDArray[np.int64] | None = None
    memory: Numbers | None = None
    mask: NDArray[np.bool_] | None = None
    prompt: int = 0  # so many of the first that the mask lets through are a prompt's; a pooling may skip them

    @property
    def queries(self) -> int:
        """T: the number of query positions."""
        source = self.embeddings if self.embeddings is not None else self.ids
        assert source is not None
        return int(source.shape[0])

    @property
    def keys(self) -> int:
        """S: the number of key positions."""
        return self.queries if self.memory is None else int(self.memory.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class QKV:
    """The caller's own query [H, T, d_k], key [G, S, d_k], value [G, S, d_v]; 2-D ones are given H = G = 1.

    `mask`: bool (True may be attended) or numbers (added to the scores), of rank 1 [S] to 3 [H, T, S].
    Numbers are as wide as they came, as those of Tokens.
    """

    query: Numbers
    key: Numbers
    value: Numbers
    mask: NDArray[Any] | None = None
    rule: AttentionSpec = field(default_factory=AttentionSpec)
    head_axis: bool = True

    @property
    def queries(self) -> int:
        """T: the number of query positions."""
        return int(self.query.shape[1])

    @property
    def keys(self) -> int:
        """S: the number of key positions."""
        return int(self.key.shape[1])

    def dims(self) -> Dims:
        """Return the sizes that fix every output's shape."""
        return Dims(
            T=self.queries,
            S=self.keys,
            heads=int(self.query.shape[0]),
            key_heads=int(self.key.shape[0]),
            d_z=int(self.value.shape[2]),
            d_k=int(self.query.shape[2]),
            d_v=int(self.value.shape[2]),
            head_axis=self.head_axis,
            z_heads=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One sequence to attend: the unit of batching. `card` is None for the caller's own Q, K, V."""

    card: ModelCard | None
    input: Tokens | QKV
    selection: Selection
    deterministic: bool = False  # bit-equal whatever else is in the batch
    edits: tuple[Edit, ...] = ()

    @property
    def dims(self) -> Dims:
        """The sizes that fix every output's shape."""
        if isinstance(self.input, QKV):
            return self.input.dims()
        assert self.card is not None
        return self.card.dims(self.input.queries, self.input.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sequence's outputs by name, C-contiguous, in the selection's dtype.

    float32 and float16 are numpy's own; bfloat16 crosses as its bit patterns, uint16. Integers are int32.
    """

    tensors: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one sequence of a batch has no answer; its neighbours have theirs."""

    code: Literal["not_finite", "out_of_memory", "invalid"]
    message: str


Answers = list[Answer | Failure]  # one an Item, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """One Answer or Failure an Item, in order, and how many token rows the device computed for them."""

    answers: Answers
    computed_tokens: int


class Models(Protocol):
    """What is served, on whatever device. All but `load` are quick; any may be called from any thread."""

    about: dict[str, str]  # what it computes with: torch's version, device, dtype, instructions

    @property
    def silent_seconds(self) -> float:
        """How long a running batch has given no sign of life; 0 when none runs. Quick, whatever hangs."""

    def cards(self) -> list[ModelCard]:
        """Return what is loaded, sorted by name, the default version of each."""

    def card(self, name: str, version: str | None = None) -> ModelCard:
        """Return one loaded model; raise UnknownModel."""

    def index(self) -> list[dict[str, str]]:
        """Return every model folder of the repository: name, version, state (READY, UNAVAILABLE), reason."""

    def tokenize(
        self, card: ModelCard, text: str, pair: str | None = None, **limits: Unpack[TextLimits]
    ) -> Text:
        """Return the tokens of a text, types within the model's; raise TextError, TooLong (bytes, too)."""

    def tokenize_all(self, card: ModelCard, texts: Sequence[str], **limits: Unpack[TextLimits]) -> list[Text]:
        """Return ids and types of several texts as `tokenize`, raising what it does, not saying of which."""

    def tokens_of(
        self, card: ModelCard, text: str, *, special: bool = True, **limits: Unpack[TextLimits]
    ) -> Text:
        """Return the tokens of a text that need not fit, but for its bytes; raise TextError, TooLong."""

    def text_of(self, card: ModelCard, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of tokens, ids that are none left out; raise TextError."""

    def spelled(self, card: ModelCard, ids: Sequence[int]) -> list[str | None]:
        """Return tokens of a model that takes text, spelt as in `Text.tokens`; None: there is none."""

    def token_id(self, card: ModelCard, token: str) -> int | None:
        """Return the token of a model that takes text, spelt so; None where there is none."""

    def load(self, name: str) -> ModelCard:
        """Build, warm and probe a model folder, then serve it; raise SpecError, UnknownModel. Slow."""

    def unload(self, name: str) -> None:
        """Stop serving a model; jobs admitted before are still answered. Raise UnknownModel."""

    def memory(self) -> dict[str, int]:
        """Return bytes in use by kind: `weights`; `allocated`, `reserved` where the device counts."""


class Runtime(Models, Protocol):
    """A device with models on it. Batches run on as many threads at once as there are slots, no more."""

    slots: int  # so many batches may run side by side: each on its part of the cores, or overlapping on a GPU
    shares_cores: bool  # whether it computes on the processor's cores, as those who serve it do
    slot_tokens: int | None  # rows at which a batch on one slot is as efficient as a larger; None: the larger

    def written_tokenizer(self, card: ModelCard) -> dict[str, Any] | None:
        """Return what `Tokenizer.read` makes the tokenizer of again elsewhere; None: it takes no text."""

    def run(self, batch: Sequence[Item], *, slots: int = 1) -> BatchResult:
        """Attend all items of one model or of none, on so many slots; raise OutOfMemory, DeviceFailed."""

    def steps(self, batch: Sequence[Item], *, slots: int = 1) -> Generator[None, int | None, BatchResult]:
        """Do the same in steps, on the thread that drives them, which may `run` another between two.

        May be sent on how many slots to go on.
        """
