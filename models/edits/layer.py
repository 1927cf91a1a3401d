"""What the edits of one sequence come to in each layer: of scores, of weights, of z."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.edit import Edit, Verb
from models.edits.heads import HeadEdit, HeadEdits
from models.edits.patterns import PatternEdit, Patterns
from models.edits.ranges import Ranges
from models.edits.scores import ScoreEdit, ScoreEdits


@dataclass(frozen=True, slots=True, eq=False)
class LayerEdits:
    """What is done to one sequence in one layer; None where nothing is."""

    scores: ScoreEdits | None = None
    patterns: Patterns | None = None
    heads: HeadEdits | None = None

    @property
    def inside(self) -> bool:
        """Whether anything is done before z."""
        return self.scores is not None or self.patterns is not None


_Here = tuple[
    Edit, dict[int, int], Any
]  # an edit, its heads in a layer with their places among all, its value


def edits_by_layer(edits: Sequence[Edit]) -> dict[int, LayerEdits]:
    """Return what is done in each layer that has edits; matrices are read where they are."""
    layers: dict[int, dict[Verb, list[_Here]]] = {}
    for one in edits:
        heads: dict[int, dict[int, int]] = {}
        for place, (layer, head) in enumerate(one.at):
            heads.setdefault(layer, {})[head] = place
        value = _value(one)
        for layer, own in heads.items():
            layers.setdefault(layer, {}).setdefault(one.verb, []).append((one, own, value))
    return {layer: _of_layer(found) for layer, found in layers.items()}


def _of_layer(found: Mapping[Verb, Sequence[_Here]]) -> LayerEdits:
    def each(make: Callable[..., Any], *verbs: Verb) -> Iterator[Any]:
        for verb in verbs:
            for one in found.get(verb, ()):
                yield make(*one)

    of_scores, of_weights = tuple(each(_of_scores, "add", "block")), tuple(each(_of_weights, "pattern"))
    of_z = tuple(each(_of_heads, "set", "from", "scale"))
    return LayerEdits(
        ScoreEdits(of_scores) if of_scores else None,
        Patterns(of_weights) if of_weights else None,
        HeadEdits(of_z) if of_z else None,
    )


def _of_scores(one: Edit, heads: dict[int, int], value: float | None) -> ScoreEdit:
    return ScoreEdit(frozenset(heads), Ranges(one.queries), Ranges(one.keys), value)


def _of_weights(one: Edit, heads: dict[int, int], value: Any) -> PatternEdit:
    return PatternEdit(heads, Ranges(one.queries), value)


def _of_heads(one: Edit, heads: dict[int, int], value: NDArray[np.float32] | float) -> HeadEdit:
    assert one.verb in ("set", "from", "scale")
    return HeadEdit(one.verb, heads, one.queries, value)


def _value(one: Edit) -> Any:
    """Return what an edit is done with: a number, a source, a name, or float32 with an axis of pairs."""
    if one.verb == "block":
        return None
    if one.verb == "from":
        return one.source
    if one.verb in ("add", "scale"):
        assert isinstance(one.value, int | float)
        return float(one.value)
    if isinstance(one.value, str):
        return one.value
    made = np.require(one.value, np.float32, ["C", "A"])
    return made[None] if made.ndim == 2 else made
