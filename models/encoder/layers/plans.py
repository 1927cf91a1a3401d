"""How a batch goes through the layers of a stack: who computes attention in each, and who takes z from whom.

And which of the first blocks, where nothing is asked of them, are one call: no interpreter in between.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from torch import Tensor

from models.attention.backends import COMPILED, plan
from models.attention.groups import Group
from models.attention.problem import Heads, Rule
from models.attention.ragged.batch import BatchLayouts
from models.attention.sequence import InputSequence
from models.compiled.extents import AttentionResult
from models.compiled.native import Native
from models.compiled.panels import Projections
from models.compiled.through import Through, reads_in_place
from models.edit import sources_first
from models.edits.heads import HeadEdits
from models.encoder.finish import STEP_ROWS, Finish

Layer = tuple[Sequence[Group], Projections | None, Finish | None]


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """The groups of a layer, and whose they are; `asked`: of whom something is asked there."""

    active: list[InputSequence]
    groups: Sequence[Group]
    asked: bool


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlans:
    """Those of one batch. `rules`: each layer's, equal ones the same; `own_rules`: of sequences with more."""

    rules: Sequence[Rule]
    own_rules: Mapping[Rule, Rule]
    heads: Heads
    _known: dict[int, LayerPlan] = field(default_factory=dict)  # of layers in which nothing is asked
    _batches: BatchLayouts = field(default_factory=BatchLayouts)

    def of(self, layer: int, active: list[InputSequence]) -> LayerPlan:
        """Return that of a layer: what the same sequences had under its rule before, if it is as good."""
        rule = self.rules[layer]
        asked = any(layer in one.asked for one in active)
        touched = asked or any(layer in one.edits for one in active)
        before = None if touched else self._known.get(id(rule))
        if before is not None and before.active is active:
            return before
        rules = [self.own_rules[rule] if one.own_rule else rule for one in active]
        made = LayerPlan(active, plan(active, rules, self.heads, layer, self._batches), asked=asked)
        if not touched:
            self._known[id(rule)] = made
        return made


@dataclass(frozen=True, slots=True)
class Links:
    """`order`: places in the batch, sources first; `layers`: in which z is taken."""

    order: Sequence[int] = ()
    layers: frozenset[int] = frozenset()

    @classmethod
    def of(cls, sequences: Sequence[InputSequence]) -> Self:
        """Return those of a batch, in the order of its places; sources stay as long as they are needed."""
        if not any(one.edits for one in sequences):
            return cls()
        sources = [
            {layer: edits.heads.sources for layer, edits in one.edits.items() if edits.heads is not None}
            for one in sequences
        ]
        order = sources_first([sorted(set().union(*one.values())) for one in sources])
        layers = set()
        for place in reversed(order):  # those who take first: what they stay for, their sources stay for
            for layer, of_layer in sources[place].items():
                if of_layer and layer <= sequences[place].last_layer:
                    layers.add(layer)
                    for source in of_layer:
                        sequences[source].lend(layer)
        return cls(order, frozenset(layers))

    def __contains__(self, layer: int) -> bool:
        return layer in self.layers

    def edit_heads(self, made: Iterable[tuple[Group, AttentionResult]]) -> None:
        """Do to the z [T, H, d_v] of every sequence of a layer what is left of its edits, in place."""
        z_of: dict[int, Tensor] = {}
        edits: dict[int, HeadEdits] = {}
        for group, result in made:
            left = group.head_edits
            for at, sequence in enumerate(group.sequences if group.reads_z else ()):
                z_of[sequence.place] = result.z[group.extents[at].rows]
                if at in left:
                    edits[sequence.place] = left[at]
        for place in self.order:
            if place in edits:
                edits[place].apply(z_of[place], z_of.__getitem__)


def at_once(x_ND: Tensor, layers: Iterable[Layer], ours: Native | None) -> tuple[int, Tensor]:
    """Return how many of the layers were done, and the rows that enter the next one, x where there are none.

    It ends before a layer that is not two calls of compiled code, and before z that is not finite.
    """
    if ours is None or x_ND.shape[0] > 2 * STEP_ROWS:
        return 0, x_ND
    notes, made = None, [x_ND]
    for groups, projections, after in layers:
        group = groups[0]
        if len(groups) > 1 or group.backend is not COMPILED or not group.packed:
            break
        if projections is None or after is None or not reads_in_place(projections):
            break
        notes = notes or Through(ours)
        z = notes.block(made[-1], group.extents, projections, scale=group.scale, rule=group.scoring).z
        made.append(notes.y(z))
        notes.feed(after.network, made[-2] if after.residual else None, z, made[-1])
    done = 0 if notes is None else notes.run()
    return done, made[done]
