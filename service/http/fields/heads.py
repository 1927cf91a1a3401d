"""Heads as callers write them: numbers, pairs of layer and head, pairs with weights, or the name of a set.

Numbers are of heads of every layer that is asked for. Pairs bring their layers. The sets of a model are on
its card (`models/heads/`).
"""

from collections.abc import Sequence

from models.heads.sets import HeadSet, Pairs
from models.protocol import ModelCard
from service.errors import Invalid
from service.http.envelope import nearest
from service.http.fields.addresses import Heads, WeightedPairs
from service.http.fields.positions import once
from service.wire.effort import spend
from service.wire.names import quoted

PAIR_US = 0.6  # what one takes to be checked, in microseconds


def set_of(heads: Heads | None, card: ModelCard, *, field: str = "heads") -> HeadSet | None:
    """Return the pairs that are asked for by pairs or by name, None where heads are numbers, or all.

    Raises Invalid for names that the model has no set of, pairs out of range or given twice, and weights
    that are not as many.
    """
    if isinstance(heads, str):
        return named_set(heads, card, field=field)
    if isinstance(heads, WeightedPairs):
        pairs = _pairs(heads.pairs, card, field=f"{field}.pairs")
        weights = heads.weights
        if weights is not None and len(weights) != len(pairs):
            raise Invalid(f"{field} has {len(pairs)} pairs and {len(weights)} weights; give as many")
        return HeadSet(pairs=pairs, weights=None if weights is None else tuple(map(float, weights)))
    if heads is None or isinstance(heads[0], int):
        return None
    return HeadSet(pairs=_pairs(heads, card, field=field))


def every_pair(layers: Sequence[int], heads: Sequence[int]) -> Pairs:
    """Return (layer, head) of each of these heads of each of these layers."""
    spend(PAIR_US * len(layers) * len(heads))
    return tuple((layer, head) for layer in layers for head in heads)


def named_set(name: str, card: ModelCard, *, field: str = "heads") -> HeadSet:
    """Return a set of the model's folder; raises Invalid where it has none of this name."""
    found = card.head_sets.get(name)
    if found is None:
        known = nearest(name, list(card.head_sets)[:32]) if card.head_sets else "its folder has no head sets"
        raise Invalid(f"{field} is {quoted(name)}, which is no head set of model {card.name}; {known}")
    return found


def numbers_of(heads: Sequence[int] | None, count: int, *, field: str = "heads") -> tuple[int, ...] | None:
    """Return the chosen heads, None where they are all of them in order; raises Invalid."""
    if heads is None:
        return None
    spend(PAIR_US * len(heads))
    for head in heads:
        if not 0 <= head < count:
            raise Invalid(f"{field} has {head}; there are {count}, from 0 to {count - 1}")
    chosen = once(heads, name=field)
    return None if chosen == tuple(range(count)) else chosen


def _pairs(asked: Sequence[Sequence[int]], card: ModelCard, *, field: str) -> Pairs:
    spend(PAIR_US * len(asked))
    pairs = []
    for layer, head in asked:
        if not -card.layers <= layer < card.layers:
            raise Invalid(
                f"{field} has [{layer}, {head}]; model {card.name} has {card.layers} layers, from "
                f"{-card.layers} to {card.layers - 1}"
            )
        if not 0 <= head < card.heads:
            raise Invalid(
                f"{field} has [{layer}, {head}]; there are {card.heads} heads a layer, from 0 to "
                f"{card.heads - 1}"
            )
        pairs.append((layer + card.layers if layer < 0 else layer, head))
    if len(set(pairs)) != len(pairs):
        raise Invalid(f"{field} has the same pair twice; give each once")
    return tuple(pairs)
