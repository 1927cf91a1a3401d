"""From a request's options to a Selection: names spelled out, negative numbers counted from the end.

Half of the station between decoding and admission; the other half, `resolve.py`, makes the Items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from models.heads.sets import HeadSet
from models.outputs import ALIASES, NEEDS, OUTPUTS, DtypeName, Selection, Spans, expand
from models.protocol import ModelCard
from service.errors import Invalid
from service.http.envelope import nearest
from service.http.fields.addresses import Positions
from service.http.fields.heads import numbers_of, set_of
from service.http.fields.mixing import WHOLE
from service.http.fields.positions import Axis, numbers, once
from service.http.schemas import ATTENTION_OUTPUTS, AttendOptions, AttentionOptions
from service.wire.effort import spend
from service.wire.names import quoted

MOST_KNOWN = 256
LAYER_US = 0.15  # what one takes to be checked, in microseconds


def select_attend(options: AttendOptions, card: ModelCard) -> Selection:
    """Return what a request wants of every sequence: all but what depends on lengths, as rows and spans do.

    Raises Invalid for outputs this model does not offer, for layers and heads out of range, and for fields
    that speak of outputs that are not asked for.
    """
    chosen = None if options.heads is None else set_of(options.heads, card)
    selection = _selected(
        tuple(options.outputs),
        tuple(options.layers) if isinstance(options.layers, list) else options.layers,
        None if chosen or options.heads is None else tuple(options.heads),
        options.top_k,
        options.dtype,
        name=card.name,
        offered=card.outputs,
        reasons=tuple(card.not_offered.items()),
        of_layers=card.layers,
        of_heads=card.heads,
    )
    _require_what_belongs_together(options, selection.outputs, chosen)
    return selection if chosen is None else replace(selection, pairs=chosen.pairs)


def _require_what_belongs_together(
    options: AttendOptions, outputs: Sequence[str], chosen: HeadSet | None
) -> None:
    """Raise Invalid where a field speaks of an output that is not asked for, or the other way round."""
    of_mixed = {"columns": options.columns is not None, "reduce": options.reduce is not None}
    for name, there in of_mixed.items():
        if there and "mixed" not in outputs:
            raise Invalid(
                f"{name} is of the output mixed, which is not among outputs; ask for it or leave {name}"
            )
    if options.share is None and "share" in outputs:
        raise Invalid('the output share needs the field share, {"of": …, "over": …}')
    if options.share is not None and "share" not in outputs:
        raise Invalid("share is of the output share, which is not among outputs; ask for it or leave share")
    if options.targets is not None and "logprobs" not in outputs:
        raise Invalid(
            "targets are of the output logprobs, which is not among outputs; ask for it or leave them"
        )
    if chosen is None:
        return
    if "rollout" in outputs:
        raise Invalid("rollout goes through whole layers; give heads as numbers, or leave rollout")
    if chosen.whole and "mixed" in outputs:
        for name, there in {"rows": options.rows is not None, **of_mixed}.items():
            if there:
                raise Invalid(f"{name} may not be chosen of the mixture of this set, {WHOLE}; leave {name}")


@lru_cache(maxsize=MOST_KNOWN)  # callers ask for the same again and again
def _selected(
    outputs: tuple[str, ...],
    chosen: int | tuple[int, ...] | Literal["all"],
    heads: tuple[int, ...] | None,
    top_k: int,
    dtype: DtypeName,
    *,
    name: str,
    offered: tuple[str, ...],
    reasons: tuple[tuple[str, str], ...],
    of_layers: int,
    of_heads: int,
) -> Selection:
    layers = range(of_layers) if chosen == "all" else (chosen,) if isinstance(chosen, int) else chosen
    assert not isinstance(layers, str)
    return Selection(
        outputs=_outputs(outputs, offered, where=f"model {name}", reasons=dict(reasons)),
        layers=_layers(layers, of_layers),
        layer_axis=not isinstance(chosen, int),
        heads=numbers_of(heads, of_heads),
        top_k=top_k,
        dtype=dtype,
    )


def select_attention(options: AttentionOptions, *, heads: int) -> Selection:
    """Return what a request wants of one problem of the caller's own with this many query heads."""
    return Selection(
        outputs=_outputs(options.outputs, ATTENTION_OUTPUTS, where="/v1/attention"),
        heads=numbers_of(options.heads, heads),
        top_k=options.top_k,
        dtype=options.dtype,
    )


def narrowed(
    selection: Selection, *, rows: Positions | None, queries: Axis, spans: Spans | None = None
) -> Selection:
    """Return the selection with rows and spans of one sequence put in."""
    if spans is not None:
        if "weights" not in selection and "pooled" not in selection:
            raise Invalid(
                "spans are of the outputs weights and pooled, which are not among outputs; ask for one of "
                "them or leave spans"
            )
        if rows is not None and "weights" in selection:
            raise Invalid("spans sum over all query positions; leave rows or leave spans")
    if rows is None and spans is None:
        return selection
    return replace(selection, rows=None if rows is None else _rows(rows, queries), spans=spans)


def require_pooled_spans(card: ModelCard) -> None:
    """Raise Invalid where a model pools whole sequences alone."""
    if card.pooled is not None and not card.pooled.spans:
        raise Invalid(
            f"model {card.name} pools one token for the whole sequence ({card.pooled.pooling}), and spans "
            "have none that stands for them; pool the output hidden yourself"
        )


def _outputs(
    names: Sequence[str], offered: Sequence[str], *, where: str, reasons: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    outputs = expand(names)
    for name in outputs:
        if name not in OUTPUTS:
            raise Invalid(f"outputs has {quoted(name)}, which is none; {nearest(name, [*offered, *ALIASES])}")
        if name not in offered:
            need = OUTPUTS[name].needs
            why = f", which needs {NEEDS[need]}" if need else ""
            why = f": {reasons[name]}" if reasons and name in reasons else why
            raise Invalid(f"{where} does not offer the output {name}{why}; it offers {', '.join(offered)}")
    return outputs


def _rows(rows: Positions, queries: Axis) -> tuple[int, ...] | None:
    """Return the chosen query positions, None where they are all of them in order."""
    chosen = numbers(rows, queries, field="rows")
    return None if chosen == tuple(range(queries.length)) else chosen


def _layers(asked: Sequence[int], count: int) -> tuple[int, ...]:
    """Return layers as numbers from 0, negative ones counted from the end, in the asked order."""
    spend(LAYER_US * len(asked))
    for at in asked:
        if not -count <= at < count:
            raise Invalid(f"layers has {at}; the model has {count} layers, from {-count} to {count - 1}")
    return once([at + count if at < 0 else at for at in asked], name="layers")
