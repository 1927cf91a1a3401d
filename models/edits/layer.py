"""What the edits of one sequence come to in each layer: of scores, of weights, of z."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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


def edits_by_layer(edits: Sequence[Edit], device: torch.device) -> dict[int, LayerEdits]:
    """Return what is done in each layer that has edits; values are brought to the device once."""
    if not edits:
        return {}
    values = {id(one): _value(one, device) for one in edits}
    layers = sorted({layer for one in edits for layer, _ in one.at})
    return {layer: _of_layer(layer, edits, values) for layer in layers}


def _of_layer(layer: int, edits: Sequence[Edit], values: Mapping[int, Any]) -> LayerEdits:
    found: dict[Verb, list[tuple[Edit, dict[int, int]]]] = {}
    for one in edits:
        heads = {head: place for place, (of, head) in enumerate(one.at) if of == layer}
        if heads:
            found.setdefault(one.verb, []).append((one, heads))

    def each(make: Callable[..., Any], *verbs: Verb) -> Iterator[Any]:
        for verb in verbs:
            for one, heads in found.get(verb, ()):
                yield make(one, heads, values[id(one)])

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


def _of_heads(one: Edit, heads: dict[int, int], value: Tensor | float) -> HeadEdit:
    assert one.verb in ("set", "from", "scale")
    return HeadEdit(one.verb, heads, one.queries, value)


def _value(one: Edit, device: torch.device) -> Any:
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
    made = torch.tensor(one.value, dtype=torch.float32, device=device)
    return made[None] if made.ndim == 2 else made
