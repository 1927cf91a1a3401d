"""One edit of a sequence's attention, resolved against its model; plain data that crosses the wall.

And which sequences edits link: whoever takes z `from` another must be attended with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from models.errors import SpecError
from models.outputs import Spans

Verb = Literal["add", "block", "pattern", "set", "from", "scale"]
Pattern = Literal["previous", "self", "first", "uniform"]
VERBS: tuple[Verb, ...] = get_args(Verb)  # in the order in which they are done


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """One edit: in a layer they are done in the order add, block, pattern, set, from, scale.

    scores → `add`, `block` → softmax → `pattern` → · V → `set`, `from` → `scale` → W_O. Several of one verb
    are done in the order given. What is reported is what was after them: `scores` and `lse` after `add` and
    `block` (a pattern changes neither), weights and all that is made of them after `pattern`, `z_heads` and z
    after `scale`. A row of which every key is blocked attends nothing: weights and z of 0.

    `at`: (layer, head), each once. `queries`, `keys`: sorted half-open ranges that do not overlap; None: all;
    verbs other than `add` and `block` have no keys. `value`: of `add` and `scale` a number; of `pattern` a
    Pattern, or weights float32 [T', S] (of every head alike) or [P, T', S], T' the chosen queries, P the
    pairs of `at` in order, which nothing hides keys from; of `set` z of heads float32 [P, T', d_v].

    A Pattern: a row attends its own key (`self`), the one before it (`previous`; the first row its own),
    the first (`first`), whether or not the model lets it, or alike all that it may attend after `block`
    (`uniform`). `source`: of `from`, which sequence z of the same heads and rows is taken from, as that one's
    `z_heads` is after its own edits; by its place among the inputs of a request, or in a batch.
    """

    verb: Verb
    at: tuple[tuple[int, int], ...]
    queries: Spans | None = None
    keys: Spans | None = None
    value: float | Pattern | NDArray[Any] | None = None
    source: int | None = None


def linked(edits: Sequence[Sequence[Edit]], lengths: Sequence[int]) -> list[tuple[int, ...]]:
    """Return which sequences of a request must be attended together, all in order, each of the others alone.

    `edits` and `lengths` (T) of each. Raises SpecError where `from` names a sequence that is not there, is
    itself, lacks a row that is taken, or takes from the one that takes from it.
    """
    sources = [_sources(place, edits, lengths) for place in range(len(edits))]
    sources_first(sources)
    towards = list(range(len(edits)))  # the least place of each one's group, by way of others

    def first_of(place: int) -> int:
        while towards[place] != place:
            towards[place] = place = towards[towards[place]]
        return place

    for place, others in enumerate(sources):
        for other in others:
            low, high = sorted((first_of(place), first_of(other)))
            towards[high] = low
    groups: dict[int, list[int]] = {}
    for place in range(len(edits)):
        groups.setdefault(first_of(place), []).append(place)
    return [tuple(one) for one in groups.values()]


def sources_first(sources: Sequence[Sequence[int]]) -> list[int]:
    """Return the places of sequences in an order in which each comes after those it takes z from.

    Raises SpecError where they take from each other in a circle.
    """
    order: list[int] = []
    done, waits = set[int](), set[int]()
    for first in range(len(sources)):
        path = [first]
        while path:
            place = path[-1]
            waits.add(place)
            left = [one for one in sources[place] if one not in done]
            if place in done or not left:
                order += [] if place in done else [place]
                done.add(place)
                waits.discard(path.pop())
                continue
            if left[0] in waits:
                circle = [*path[path.index(left[0]) :], left[0]]
                said = " from ".join(f"inputs[{one}]" for one in circle)
                raise SpecError(f"{said}: inputs cannot take z from each other; leave one of these edits out")
            path.append(left[0])
    return order


def moved(edits: Sequence[Edit], place_of: Callable[[int], int]) -> tuple[Edit, ...]:
    """Return edits whose sources stand at other places."""
    return tuple(one if one.source is None else replace(one, source=place_of(one.source)) for one in edits)


def _sources(place: int, edits: Sequence[Sequence[Edit]], lengths: Sequence[int]) -> list[int]:
    """Return from which others a sequence takes z, each once."""
    found: dict[int, None] = {}
    for number, one in enumerate(edits[place]):
        if one.verb != "from":
            continue
        where, source = f"inputs[{place}].edits[{number}]", one.source
        if source is None or not 0 <= source < len(edits) or source == place:
            raise SpecError(
                f"{where} takes z from inputs[{source}]; give the place of another of the {len(edits)} inputs"
            )
        rows = lengths[place] if one.queries is None else max((stop for _, stop in one.queries), default=0)
        if rows > lengths[source]:
            raise SpecError(
                f"{where} takes rows up to {rows - 1}, and inputs[{source}] has {lengths[source]} rows; "
                "`from` needs the same rows in both: choose them by queries"
            )
        found[source] = None
    return list(found)
