"""Who computes attention in each layer of a stack: planned anew only where it must be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from models.attention.backends import Group, plan
from models.attention.problem import Heads, Rule
from models.attention.sequence import InputSequence


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """The groups of a layer, and whose they are; `asked`: of whom something is asked there."""

    active: list[InputSequence]
    groups: Sequence[Group]
    asked: bool


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlans:
    """Those of one batch. `rules`: each layer's; `own_rules`: the same of sequences that have more."""

    rules: Sequence[Rule]
    own_rules: Mapping[Rule, Rule]
    heads: Heads
    _known: dict[Rule, LayerPlan] = field(default_factory=dict)  # of layers in which nothing is asked

    def of(self, layer: int, active: list[InputSequence]) -> LayerPlan:
        """Return that of a layer: what the same sequences had under its rule before, if it is as good."""
        rule = self.rules[layer]
        asked, before = any(layer in one.selection.layers for one in active), self._known.get(rule)
        edited = any(layer in one.edits for one in active)
        if before is not None and before.active is active and not asked and not edited:
            return before
        own = self.own_rules[rule]
        groups = plan(active, [own if one.own_rule else rule for one in active], self.heads, layer)
        made = LayerPlan(active, groups, asked=asked)
        if not asked and not edited:
            self._known[rule] = made
        return made
