"""What HTTP processes and the device process tell each other; arrays cross in shared memory.

    HTTP process                    device process
      Submit ───────────────────────► admission, queue, batch
      Cancel ───────────────────────►
             ◄─────────────────────── Done | Failed
             ◄─────────────────────── Over, after Failed or Cancel: its memory is not looked at any more

On a second line go news and questions: `ToDevice` and `ToHttp`. Cards cross once, when they change; a
sequence names its card by number.
"""

from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models import errors as model_errors
from models.edit import Edit, Verb
from models.mechanism import AttentionSpec
from models.outputs import Selection, Spans
from models.protocol import QKV, Item, ModelCard, Tokens
from service import errors
from service.batching.cost import Cost
from service.batching.engine import BatchReport
from service.errors import HeedError
from service.processes.memory import Place, Region

KINDS = (*vars(model_errors).values(), *vars(errors).values())
ERRORS = {kind.__name__: kind for kind in KINDS if isinstance(kind, type) and issubclass(kind, Exception)}

ARRAYS = ("embeddings", "ids", "type_ids", "memory", "mask", "query", "key", "value")


class Message(Struct, array_like=True, tag=True):
    """Anything of these."""


class Error(Message):
    """An error of `models.errors` or `service.errors`, by name; any other is a RuntimeError."""

    name: str
    text: str
    code: str = ""
    retry_after_seconds: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> "Error":
        """Return what is told of an error."""
        name = "OutOfMemory" if isinstance(error, MemoryError) else type(error).__name__
        if isinstance(error, HeedError):
            return cls(name, error.message, error.code, error.retry_after_seconds)
        return cls(name, str(error))

    @property
    def told(self) -> Exception:
        """The error again."""
        kind: Any = ERRORS.get(self.name, RuntimeError)
        if issubclass(kind, HeedError):
            error: HeedError = kind(self.text, code=self.code, retry_after_seconds=self.retry_after_seconds)
            return error
        made: Exception = kind(self.text)
        return made


# ---- the queue


class SentEdit(Message):
    """One edit of a sequence, without its array, where its value is one."""

    verb: Verb
    at: tuple[tuple[int, int], ...]
    queries: Spans | None
    keys: Spans | None
    value: float | str | None
    source: int | None

    @classmethod
    def of(cls, edit: Edit) -> "SentEdit":
        """Return what is told of an edit."""
        value = None if isinstance(edit.value, np.ndarray) else edit.value
        return cls(edit.verb, edit.at, edit.queries, edit.keys, value, edit.source)

    def edit(self, array: NDArray[Any] | None) -> Edit:
        """Return the edit, given the array that its value is."""
        value: Any = self.value if array is None else array
        return Edit(
            verb=self.verb,
            at=self.at,
            queries=self.queries,
            keys=self.keys,
            value=value,
            source=self.source,
        )


class SentItem(Message):
    """One sequence; its arrays as `arrays_of` names them, in the request's memory. Without `rule`, Tokens."""

    card: int | None
    selection: Selection
    cost: Cost
    arrays: dict[str, Place]
    deterministic: bool = False
    prompt: int = 0
    rule: AttentionSpec | None = None
    head_axis: bool = True
    edits: tuple[SentEdit, ...] = ()

    @classmethod
    def of(cls, item: Item, cost: Cost, *, card: int | None, memory: Region) -> "SentItem":
        """Return what is told of an item; copies its arrays into shared memory."""
        given = item.input
        return cls(
            card=card,
            selection=item.selection,
            cost=cost,
            arrays={name: memory.put(array) for name, array in arrays_of(item).items()},
            deterministic=item.deterministic,
            prompt=given.prompt if isinstance(given, Tokens) else 0,
            rule=given.rule if isinstance(given, QKV) else None,
            head_axis=not isinstance(given, QKV) or given.head_axis,
            edits=tuple(map(SentEdit.of, item.edits)),
        )

    def item(self, memory: Region, card: ModelCard | None) -> Item:
        """Return the item; its arrays are views."""
        arrays: dict[str, Any] = {name: memory.look(place) for name, place in self.arrays.items()}
        edits = tuple(edit.edit(arrays.pop(_of_edit(n), None)) for n, edit in enumerate(self.edits))
        given = (
            Tokens(prompt=self.prompt, **arrays)
            if self.rule is None
            else QKV(rule=self.rule, head_axis=self.head_axis, **arrays)
        )
        return Item(
            card=card,
            input=given,
            selection=self.selection,
            deterministic=self.deterministic,
            edits=edits,
        )


def arrays_of(item: Item) -> dict[str, NDArray[Any]]:
    """Return the arrays of an item: of its input by the name of the field, of its edits by their number."""
    found = ((name, getattr(item.input, name, None)) for name in ARRAYS)
    arrays = {name: array for name, array in found if array is not None}
    values = ((_of_edit(number), edit.value) for number, edit in enumerate(item.edits))
    return arrays | {name: value for name, value in values if isinstance(value, np.ndarray)}


def _of_edit(number: int) -> str:
    return f"edits.{number}"


class Submit(Message):
    """One request whose size was checked: where its memory begins, its size, and from where results go."""

    number: int
    items: list[SentItem]
    memory: tuple[int, int, int]
    submitted: float  # in seconds of time.monotonic, which all processes share
    deadline: float | None
    priority: int
    tenant: str
    trace: str = ""


class Cancel(Message):
    """Its caller has left, or its deadline has passed."""

    number: int


class Done(Message):
    """Where its answers are, output by output; and where its time went, as `Completed` has it."""

    number: int
    answers: list[dict[str, Place]]
    queue_seconds: float
    batch_seconds: float
    compute_seconds: float


class Failed(Message):
    """Why it is not answered; `refused`: it was not admitted, and no Over follows."""

    number: int
    error: Error
    refused: bool = False


class Over(Message):
    """The device looks at nothing of it any more."""

    number: int


# ---- news and questions


class Setup(Message):
    """The first that an HTTP process is told: the command line's settings, and what it shares."""

    options: dict[str, Any]
    grace_seconds: float
    process: int  # the device process
    ledger: tuple[int, int]  # its descriptor, and the place in it


class Alive(Message):
    """How long ago the event loop came round; answered with Vital."""

    silent_seconds: float


class Listening(Message):
    """It takes connections."""


class Took(Message):
    """The version of the list of models that it serves by."""

    version: int


class Unused(Message):
    """A model that it refers to no more."""

    card: int


class Question(Message):
    """Something to be answered."""

    number: int
    name: Literal["index", "load", "unload"]
    model: str = ""


class Answer(Message):
    """Of a question: the card that was loaded, the index, or an error."""

    number: int
    card: ModelCard | None = None
    index: list[dict[str, str]] | None = None
    error: Error | None = None


class Shown(Message):
    """A model that is served, under its number; its tokenizer where the process has not got it yet."""

    number: int
    card: ModelCard
    tokenizer: dict[str, Any] | None = None


class Cards(Message):
    """All that is served from now on, and what the device process is made of."""

    version: int
    shown: list[Shown]
    about: dict[str, str]


class Vital(Message):
    """How the device is, what is wrong with a process, and the batches that have run since the last one."""

    silent_seconds: float
    batch_seconds: float
    memory: dict[str, int]
    waiting_requests: int
    trouble: str
    batches: list[BatchReport]


class Gone(Message):
    """Nothing will be answered any more: the device has failed, unless `reason` is something else."""

    reason: str = ""


ToQueue = Submit | Cancel
FromQueue = Done | Failed | Over
ToDevice = Alive | Listening | Took | Unused | Question
ToHttp = Setup | Answer | Cards | Vital | Gone
