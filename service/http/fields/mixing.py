"""What the outputs `mixed` and `share` are of: which heads with which weights, summed over which keys.

heads ──► set_of ─────► HeadSet ──► Selection.mix
columns, reduce ──────────────────┘
share ──► region, twice ──────────► Selection.share
"""

from dataclasses import replace

from models.heads.sets import HeadSet
from models.outputs import Mix, Selection, Share
from models.protocol import ModelCard
from service.errors import Invalid
from service.http.fields.addresses import Columns, Heads, MassShare, Name, Reduce
from service.http.fields.heads import every_pair, set_of
from service.http.fields.positions import Axis, region, spans
from service.wire.counts import MOST_PAIRS

WHOLE = "which is made of whole maps"  # a set whose mixture is symmetric, corrected or cut


def mixture_of(selection: Selection, heads: Heads | None, card: ModelCard) -> Mix:
    """Return what is mixed: the pairs that are asked for, or all chosen heads of all chosen layers alike."""
    found = set_of(heads, card)
    if found is None:
        numbers = range(card.heads) if selection.heads is None else selection.heads
        found = HeadSet(pairs=every_pair(selection.layers, numbers))
    return found.mix()


def require_few_pairs(selection: Selection, mixture: Mix | None, inputs: int) -> None:
    """Raise Invalid where more pairs are asked of so many inputs than one request may name."""
    pairs = len(selection.pairs or ()) + (0 if mixture is None else len(mixture.pairs))
    if pairs * inputs > MOST_PAIRS:
        raise Invalid(
            f"heads are {pairs} pairs of layer and head for each of {inputs} inputs; give at most "
            f"{MOST_PAIRS} together, {MOST_PAIRS // pairs} inputs"
        )


def with_mix(
    selection: Selection,
    mixture: Mix,
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
    return replace(selection, mix=replace(mixture, columns=chosen, reduce=reduce))


def with_share(selection: Selection, share: MassShare, *, keys: Axis) -> Selection:
    """Return the selection with what `share` is of one input; raises Invalid."""
    of, over = (region(getattr(share, name), keys, field=f"share.{name}") for name in ("of", "over"))
    return replace(selection, share=Share(of=of, over=over))
