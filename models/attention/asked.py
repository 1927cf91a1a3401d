"""What is asked of one layer of a sequence, and which of it can be made on the way to z."""

from dataclasses import dataclass, replace
from functools import lru_cache

from models.attention.reductions import DERIVED, OF_WEIGHTS
from models.compiled.structures import MOST_TOP_K
from models.compiled.tables import TOP_K
from models.outputs import OUTPUTS, Mix, Selection


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


def by_layer(selection: Selection) -> dict[int, Asked]:
    """Return what is asked of each layer of which anything is, ascending.

    Where nothing parts layers it is one for all. A model runs up to the last of them; where there are none,
    what enters the first is all that is asked for.
    """
    layers = sorted({layer for name in selection.outputs for layer in _layers_of(name, selection)})
    if selection.pairs is None and selection.mix is None:
        return dict.fromkeys(layers, _asked(selection))
    return {layer: _asked(_of_layer(selection, layer)) for layer in layers}


def _layers_of(name: str, selection: Selection) -> tuple[int, ...]:
    """Return the layers that an output is made of."""
    if OUTPUTS[name].of == "input":
        return ()
    pairs = selection.pairs if OUTPUTS[name].of_heads else None
    if name == "mixed":
        pairs = () if selection.mix is None else selection.mix.pairs
    return selection.layers if pairs is None else tuple(layer for layer, _ in pairs)


def _of_layer(selection: Selection, layer: int) -> Selection:
    """Return what is asked of one layer alone: `heads` are those of its pairs, which are its pairs too."""
    pairs, heads, mix = selection.pairs, selection.heads, selection.mix
    if pairs is not None:
        pairs = tuple(pair for pair in pairs if pair[0] == layer)
        heads = tuple(head for _, head in pairs) or None
    if mix is not None:
        mix = _part(mix, layer)
    outputs = tuple(name for name in selection.outputs if layer in _layers_of(name, selection))
    own = replace(selection, outputs=outputs, layers=(layer,), layer_axis=False)
    return replace(own, heads=heads, pairs=pairs, mix=mix)


def _part(mix: Mix, layer: int) -> Mix:
    """Return what one layer adds to a mixture."""
    there = [(pair, weight) for pair, weight in zip(mix.pairs, mix.weights, strict=True) if pair[0] == layer]
    return replace(mix, pairs=tuple(pair for pair, _ in there), weights=tuple(weight for _, weight in there))


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
