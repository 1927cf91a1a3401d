"""Edits of attention, resolved against a model and its inputs: from what callers write to `models/edit.py`.

Whatever is wrong with an edit is said here, before anything is computed. An edit does the same in each of
its heads, so weights of heads mean nothing to it: those of a named set are left, those of pairs refused.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.edit import VERBS, Edit, Pattern, Verb
from models.outputs import Spans
from models.protocol import ModelCard
from models.shapes import Dims
from service.errors import Invalid
from service.http.envelope import nearest
from service.http.fields.addresses import WeightedPairs
from service.http.fields.arrays import floats, require_shape
from service.http.fields.edit_schemas import OF_ATTENTION, PATTERNS, AttendEdit, AttentionEdit, GivenEdit
from service.http.fields.heads import every_pair, numbers_of, set_of
from service.http.fields.positions import Axis, numbers, once, ranges
from service.wire.counts import MOST_EDITED_HEADS
from service.wire.effort import spend
from service.wire.names import quoted

EDIT_US = 15.0  # what one takes to be resolved, in microseconds
Pairs = tuple[tuple[int, int], ...]

# What a verb takes beside heads and layers; all of it but `queries` and `keys` it needs.
TAKES: dict[str, tuple[str, ...]] = {
    "add": ("queries", "keys", "value"),
    "block": ("queries", "keys"),
    "pattern": ("queries", "value"),
    "set": ("queries", "value"),
    "from": ("queries", "input"),
    "scale": ("queries", "value"),
}
ADDRESSES = ("queries", "keys")
OF_ONE_SEQUENCE = ("previous", "self")  # patterns that say nothing where keys are another sequence's


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One input as its edits see it: its sizes, and the positions on its two axes."""

    dims: Dims
    queries: Axis
    keys: Axis


class EditResolver:
    """Resolves the edits of one request, to a model or, without a card, to none.

    Which inputs `from` may take from is checked where they become jobs (`models.edit.linked`).
    """

    def __init__(self, card: ModelCard | None) -> None:
        self._card = card
        self._left = MOST_EDITED_HEADS
        self._known: dict[Hashable, Pairs] = {}  # those that several edits name are held once

    def edits(self, given: Sequence[GivenEdit], site: Site) -> tuple[Edit, ...]:
        """Return the edits of one input.

        Raises Invalid (a verb that is not offered, what it does not take or lacks, ranges, shapes), Malformed
        (NaN, infinities).
        """
        spend(EDIT_US * len(given))
        path = site.queries.path
        return tuple(self._edit(edit, site, f"{path}.edits[{n}]") for n, edit in enumerate(given))

    def _edit(self, given: GivenEdit, site: Site, path: str) -> Edit:
        verb = self._verb(given.edit, path)
        _require_taken(given, verb, path)
        at = self._at(given, site, path)
        queries = _ranges(given.queries, site.queries, f"{path}.queries")
        return Edit(
            verb=verb,
            at=at,
            queries=queries,
            keys=_ranges(given.keys, site.keys, f"{path}.keys"),
            value=_value(given, site, path, heads=len(at)),
            source=getattr(given, "input", None),
        )

    def _verb(self, name: str, path: str) -> Verb:
        card = self._card
        offered = OF_ATTENTION if card is None else card.edits
        for verb in VERBS:
            if verb == name and verb in offered:
                return verb
        if name not in VERBS:
            raise Invalid(f"{path}.edit is {quoted(name)}, which is no verb; {nearest(name, offered)}")
        if card is None:
            raise Invalid(
                f"{path}.edit is {name}; /v1/attention has {', '.join(offered)}, the others are of models"
            )
        why = card.not_offered.get(f"edits.{name}")
        raise Invalid(
            f"{path}.edit is {name}, which model {card.name} does not offer{f': {why}' if why else ''}; "
            f"it offers {', '.join(offered) or 'no edits'}"
        )

    def _at(self, given: GivenEdit, site: Site, path: str) -> Pairs:
        """Return the (layer, head) that an edit is of, each once."""
        if self._card is None:
            assert isinstance(given, AttentionEdit)
            numbers = numbers_of(given.heads, site.dims.heads, field=f"{path}.heads")
            at = self._every((0,), range(site.dims.heads) if numbers is None else numbers)
        else:
            assert isinstance(given, AttendEdit)
            at = self._pairs(given, self._card, path)
        self._left -= len(at)
        if self._left < 0:
            raise Invalid(
                f"up to {path} the edits name {MOST_EDITED_HEADS - self._left} heads, each edit's counted; "
                f"the limit of a request is {MOST_EDITED_HEADS}: send fewer edits or inputs at a time"
            )
        return at

    def _pairs(self, given: AttendEdit, card: ModelCard, path: str) -> Pairs:
        """Return the (layer, head) of an edit of a model."""
        heads = given.heads
        if isinstance(heads, WeightedPairs) and heads.weights is not None:
            raise Invalid(
                f"{path}.heads has weights, and an edit does the same in each of its heads; leave them out, "
                "and give an edit for each value"
            )
        found = set_of(heads, card, field=f"{path}.heads")
        if found is not None:
            if given.layers is not None:
                raise Invalid(f"{path} has layers beside heads that bring theirs; leave layers out")
            return found.pairs
        if given.layers is None:
            raise Invalid(
                f'{path} does not say of which layers: give layers, a list or "all", or heads as pairs '
                "[layer, head]"
            )
        layers = _layers(given.layers, card, path)
        numbers = numbers_of(heads, card.heads, field=f"{path}.heads")  # type: ignore[arg-type]  # no pairs
        return self._every(layers, range(card.heads) if numbers is None else numbers)

    def _every(self, layers: Sequence[int], heads: Sequence[int]) -> Pairs:
        """Return each of these heads of each of these layers."""
        key = (layers, heads)
        if key not in self._known:
            self._known[key] = every_pair(layers, heads)
        return self._known[key]


def _layers(asked: int | Sequence[int] | str, card: ModelCard, path: str) -> Sequence[int]:
    if asked == "all":
        return range(card.layers)
    assert not isinstance(asked, str)
    layers = [asked] if isinstance(asked, int) else asked
    for layer in layers:
        if not -card.layers <= layer < card.layers:
            raise Invalid(
                f"{path}.layers has {layer}; model {card.name} has {card.layers} layers, from {-card.layers} "
                f"to {card.layers - 1}"
            )
    return once([layer % card.layers for layer in layers], name=f"{path}.layers")


def _require_taken(given: GivenEdit, verb: Verb, path: str) -> None:
    """Raise Invalid for a field that the verb does not take, and for one that it lacks."""
    takes = TAKES[verb]
    for name in ("queries", "keys", "value", "input"):
        there = getattr(given, name, None) is not None
        if there and name not in takes:
            raise Invalid(f"{path} has {name}, which {verb} does not take; it takes {', '.join(takes)}")
        if not there and name in takes and name not in ADDRESSES:
            raise Invalid(f"{path} has no {name}, which {verb} needs")
    if verb == "block" and given.queries is None and given.keys is None:
        raise Invalid(
            f"{path} blocks every key of every row; say which in queries or keys, or silence the heads by "
            "scale 0"
        )


def _ranges(asked: Any, axis: Axis, field: str) -> Spans | None:
    """Return positions as sorted ranges, None for all of them."""
    if asked is None:
        return None
    found = ranges(asked, axis, field=field)
    return None if found == ((0, axis.length),) else found


def _value(
    given: GivenEdit, site: Site, path: str, *, heads: int
) -> float | Pattern | NDArray[np.float32] | None:
    """Return the value of an edit as its verb has it, rows of an array sorted; raises Invalid."""
    value, where = given.value, f"{path}.value"
    if value is None:
        return None
    if given.edit in ("add", "scale"):
        if isinstance(value, str | np.ndarray):
            raise Invalid(f"{where} must be a number: {given.edit} does the same wherever it is")
        return float(value)
    if given.edit == "pattern" and isinstance(value, str):
        return _pattern(value, site, where)
    if not isinstance(value, np.ndarray):
        what = "a matrix, or the name of a pattern" if given.edit == "pattern" else "an array"
        raise Invalid(f"{where} of {given.edit} must be {what}")
    rows, keys, order = site.queries.length, site.keys.length, None
    if given.queries is not None:
        chosen = numbers(given.queries, site.queries, field=f"{path}.queries")  # each once, as ordered
        rows = len(chosen)
        order = None if all(one < other for one, other in pairwise(chosen)) else np.argsort(chosen)
    shapes = (
        [(rows, keys), (heads, rows, keys)] if given.edit == "pattern" else [(heads, rows, site.dims.d_v)]
    )
    require_shape(value, where, shapes)
    array = floats(value, where)
    return array if order is None else np.ascontiguousarray(array[..., order, :])


def _pattern(given: str, site: Site, path: str) -> Pattern:
    name = next((one for one in PATTERNS if one == given), None)
    if name is None:
        raise Invalid(f"{path} is {quoted(given)}, which is no pattern; {nearest(given, PATTERNS)}")
    if name in OF_ONE_SEQUENCE and site.keys is not site.queries and not site.dims.z_heads:
        raise Invalid(
            f"{path} is {name}, which needs queries and keys of one sequence; {site.queries.path} has "
            "memory; give a matrix"
        )
    return name
