"""What the outputs `mixed` and `share` are of: which heads with which weights, summed over which keys.

heads ──► set_of ─────► HeadSet ──► Selection.mix
columns, reduce ──────────────────┘
share ──► region, twice ──────────► Selection.share
"""

from dataclasses import replace

from models.heads.sets import HeadSet
from models.outputs import Selection, Share
from models.protocol import ModelCard
from service.errors import Invalid
from service.http.fields.addresses import Columns, Heads, MassShare, Name, Reduce
from service.http.fields.heads import every_pair, set_of
from service.http.fields.positions import Axis, region, spans

WHOLE = "which is made of whole maps"  # a set whose mixture is symmetric, corrected or cut


def mixture_of(selection: Selection, heads: Heads | None, card: ModelCard) -> HeadSet:
    """Return what is mixed: the pairs that are asked for, or all chosen heads of all chosen layers alike."""
    found = set_of(heads, card)
    if found is not None:
        return found
    numbers = range(card.heads) if selection.heads is None else selection.heads
    return HeadSet(pairs=every_pair(selection.layers, numbers))


def with_mix(
    selection: Selection,
    mixture: HeadSet,
    *,
    columns: Columns | Name | None,
    reduce: Reduce | None,
    queries: Axis,
    keys: Axis,
) -> Selection:
    """Return the selection with what `mixed` is of one input; raises Invalid."""
    if mixture.whole:
        if keys.path != queries.path:
            raise Invalid(
                f"the mixture of this set, {WHOLE}, needs queries and keys of one sequence; "
                f"{queries.path} has memory"
            )
        if queries.length <= sum(mixture.skip):
            raise Invalid(
                f"{queries.path} has {queries.length} positions, and this set leaves out the first "
                f"{mixture.skip[0]} and the last {mixture.skip[1]}; give more"
            )
    chosen = None if columns is None else spans(columns, keys, field="columns")
    return replace(selection, mix=mixture.mix(columns=chosen, reduce=reduce))


def with_share(selection: Selection, share: MassShare, *, keys: Axis) -> Selection:
    """Return the selection with what `share` is of one input; raises Invalid."""
    of, over = (region(getattr(share, name), keys, field=f"share.{name}") for name in ("of", "over"))
    return replace(selection, share=Share(of=of, over=over))
