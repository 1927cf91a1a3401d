"""One edit of a sequence's attention, resolved against its model; plain data that crosses the wall."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from models.outputs import Spans

Verb = Literal["add", "block", "pattern", "set", "from", "scale"]
Pattern = Literal["previous", "self", "first", "uniform"]
VERBS: tuple[Verb, ...] = get_args(Verb)  # in the order in which they are done


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit: in a layer they are done in the order add, block, pattern, set, from, scale.

    scores → `add`, `block` → softmax → `pattern` → · V → `set`, `from` → `scale` → W_O. What is reported
    is what was after them.

    `at`: (layer, head), each once. `queries`, `keys`: sorted half-open ranges that do not overlap; None: all.
    `value`: of `add` and `scale` a number; of `pattern` a Pattern, or weights float32 [T', S] (of every head
    alike) or [P, T', S], T' the chosen queries, P the pairs of `at` in order; of `set` z of heads float32
    [P, T', d_v]. `source`: of `from`, which input of the request z of the same heads and rows is taken from.
    """

    verb: Verb
    at: tuple[tuple[int, int], ...]
    queries: Spans | None = None
    keys: Spans | None = None
    value: float | Pattern | NDArray[Any] | None = None
    source: int | None = None
