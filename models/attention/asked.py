"""What is asked of one layer of a sequence, and which of it can be made on the way to z."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from models.attention.reductions import DERIVED, OF_WEIGHTS
from models.compiled.structures import MOST_TOP_K
from models.compiled.tables import TOP_K
from models.outputs import OUTPUTS, Mix, Selection
from models.shapes import Pairs, places_by_layer


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is asked of one layer: `selection` speaks of it alone.

    `derived`: what is made of its scores. Of these, `on_the_way` can be made on the way to z, `of_weights` of
    all weights, were they there. `others`: whether more is asked of the scores.
    """

    selection: Selection
    derived: tuple[str, ...] = ()
    on_the_way: tuple[str, ...] = ()
    of_weights: tuple[str, ...] = ()
    others: bool = False

    @property
    def reads_scores(self) -> bool:
        """Whether anything is asked of the layer's scores."""
        return bool(self.derived) or self.others


NOTHING = Asked(Selection(outputs=()))
_before: list[tuple[Selection, Mapping[int, Asked]]] = [(NOTHING.selection, {})]  # the last that was asked


def by_layer(selection: Selection) -> Mapping[int, Asked]:
    """Return what is asked of each layer of which anything is, ascending.

    Where nothing parts layers it is one for all. A model runs up to the last of them; where there are none,
    what enters the first is all that is asked for. Neighbours in a batch mostly ask for the same.
    """
    before, known = _before[0]
    if before is selection or (selection.rows is None and before == selection):
        return known
    made = _made(selection)
    _before[0] = selection, made
    return made


def _made(selection: Selection) -> Mapping[int, Asked]:
    if selection.pairs is None and selection.mix is None:
        layers = _unparted(selection.outputs, selection.layers)
        return dict.fromkeys(layers, _asked(selection)) if layers else {}
    paired, mix = selection.pairs, selection.mix
    heads = {} if paired is None else places_by_layer(paired)
    mixed = {} if mix is None else places_by_layer(mix.pairs)
    outputs = _by_layer(selection.outputs, selection.layers, paired, None if mix is None else mix.pairs)
    found = {}
    for layer, names in outputs.items():
        own = replace(selection, outputs=names, layers=(layer,), layer_axis=False, mix=None)
        if paired is not None:  # the heads of its pairs, which are its pairs too
            pairs = tuple(paired[place] for place in heads.get(layer, ()))
            own = replace(own, pairs=pairs, heads=tuple(head for _, head in pairs) or None)
        if mix is not None:
            own = replace(own, mix=_part(mix, mixed.get(layer, ())))
        found[layer] = _asked(own)
    return found


@lru_cache(maxsize=256)  # callers ask for the same again and again
def _unparted(outputs: tuple[str, ...], layers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the layers of which anything is asked where they are the same for all outputs, ascending."""
    return tuple(sorted({*layers})) if any(OUTPUTS[name].of != "input" for name in outputs) else ()


@lru_cache(maxsize=64)
def _by_layer(
    outputs: tuple[str, ...], layers: tuple[int, ...], pairs: Pairs | None, mixed: Pairs | None
) -> dict[int, tuple[str, ...]]:
    """Return which outputs are asked of each layer, ascending: what has heads, of the layers of the pairs."""
    found: dict[int, list[str]] = {}
    for name in outputs:
        own: Iterable[int] = layers
        if OUTPUTS[name].of == "input":
            own = ()
        elif name == "mixed":
            own = places_by_layer(mixed or ())
        elif OUTPUTS[name].of_heads and pairs is not None:
            own = places_by_layer(pairs)
        for layer in dict.fromkeys(own):
            found.setdefault(layer, []).append(name)
    return {layer: tuple(found[layer]) for layer in sorted(found)}


def _part(mix: Mix, places: Sequence[int]) -> Mix:
    """Return what one layer adds to a mixture: the pairs at some places."""
    pairs = tuple(mix.pairs[place] for place in places)
    return replace(mix, pairs=pairs, weights=tuple(mix.weights[place] for place in places))


def _asked(selection: Selection) -> Asked:
    few = selection.top_k <= MOST_TOP_K
    maps = selection.mix is not None and selection.mix.whole
    ways = _ways(selection.outputs, few=few, spans=selection.spans is not None, maps=maps)
    derived, on_the_way, of_weights = ways
    others = len(on_the_way) + len(of_weights) < len(derived) or "rollout" in selection
    return Asked(selection, derived, on_the_way, of_weights, others)


@lru_cache(maxsize=256)  # callers ask for the same again and again
def _ways(
    outputs: tuple[str, ...], *, few: bool, spans: bool, maps: bool
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return which are asked of the scores; of these, which can be made on the way to z; which of weights.

    `few`: no more of the largest are asked for than can be found on the way. `maps`: whole maps are mixed.
    """
    derived = tuple(name for name in outputs if name in DERIVED)
    on_the_way = {name for name in derived if OUTPUTS[name].on_the_way and (few or name not in TOP_K)}
    if maps:
        on_the_way.discard("mixed")
    of_weights = {name for name in derived if name in OF_WEIGHTS} - on_the_way
    if spans:
        of_weights = set()  # between spans, weights are summed without being held
    elif of_weights and "weights" in on_the_way:  # which are there once then
        on_the_way.discard("weights")
        of_weights.add("weights")
    return (
        derived,
        tuple(name for name in derived if name in on_the_way),
        tuple(name for name in derived if name in of_weights),
    )
