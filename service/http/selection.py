"""From a request's options to a Selection: names spelled out, negative numbers counted from the end.

Half of the station between decoding and admission; the other half, `resolve.py`, makes the Items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from models.outputs import ALIASES, NEEDS, OUTPUTS, DtypeName, Selection, expand
from models.protocol import ModelCard
from service.errors import Invalid
from service.http.envelope import nearest
from service.http.schemas import ATTENTION_OUTPUTS, AttendOptions, AttentionOptions, Rows
from service.wire.effort import spend
from service.wire.names import quoted

MOST_KNOWN = 256
POSITION_US, SPAN_US = 0.15, 1.0  # what one takes to be checked, in microseconds


def select_attend(options: AttendOptions, card: ModelCard) -> Selection:
    """Return what a request wants of every sequence: all but rows and spans, which depend on lengths.

    Raises Invalid for outputs this model does not offer and for layers and heads out of range.
    """
    return _selected(
        tuple(options.outputs),
        tuple(options.layers) if isinstance(options.layers, list) else options.layers,
        None if options.heads is None else tuple(options.heads),
        options.top_k,
        options.dtype,
        name=card.name,
        offered=card.outputs,
        reasons=tuple(card.not_offered.items()),
        of_layers=card.layers,
        of_heads=card.heads,
    )


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
        layers=_positions(layers, of_layers, name="layers", what="layer", of="the model"),
        layer_axis=not isinstance(chosen, int),
        heads=_heads(heads, of_heads),
        top_k=top_k,
        dtype=dtype,
    )


def select_attention(options: AttentionOptions, *, heads: int) -> Selection:
    """Return what a request wants of one problem of the caller's own with this many query heads."""
    return Selection(
        outputs=_outputs(options.outputs, ATTENTION_OUTPUTS, where="/v1/attention"),
        heads=_heads(options.heads, heads),
        top_k=options.top_k,
        dtype=options.dtype,
    )


def narrowed(
    selection: Selection,
    *,
    rows: Rows | list[int] | None,
    spans: Sequence[Sequence[int]] | None,
    tokens: int,
    path: str,
) -> Selection:
    """Return the selection with rows and spans of one sequence of `tokens` query positions put in."""
    if spans is not None:
        if "weights" not in selection:
            raise Invalid(
                "spans sum the output weights, which is not among outputs; ask for it or leave spans"
            )
        if rows is not None:
            raise Invalid("spans sum over all query positions; leave rows or leave spans")
    if rows is None and spans is None:
        return selection
    return replace(
        selection,
        rows=None if rows is None else _rows(rows, tokens, path=path),
        spans=None if spans is None else _spans(spans, tokens, path=path),
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


def _heads(heads: Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    """Return the chosen heads, None where they are all of them in order."""
    if heads is None:
        return None
    spend(POSITION_US * len(heads))
    for head in heads:
        if not 0 <= head < count:
            raise Invalid(f"heads has {head}; there are {count}, from 0 to {count - 1}")
    chosen = _once(heads, name="heads")
    return None if chosen == tuple(range(count)) else chosen


def _rows(rows: Rows | list[int], tokens: int, *, path: str) -> tuple[int, ...] | None:
    """Return the chosen query positions, None where they are all of them in order."""
    if not isinstance(rows, Rows):
        chosen = _positions(rows, tokens, name="rows", what="position", of=path)
        return None if chosen == tuple(range(tokens)) else chosen
    start, stop = (
        at + tokens if at < 0 else at for at in (rows.start, tokens if rows.stop is None else rows.stop)
    )
    if not 0 <= start < stop <= tokens:
        end = "the end" if rows.stop is None else rows.stop
        raise Invalid(f"rows from {rows.start} to {end} is no range within the {tokens} positions of {path}")
    return None if stop - start == tokens else tuple(range(start, stop))


def _positions(asked: Sequence[int], count: int, *, name: str, what: str, of: str) -> tuple[int, ...]:
    """Return positions as numbers from 0, negative ones counted from the end, in the asked order."""
    spend(POSITION_US * len(asked))
    for at in asked:
        if not -count <= at < count:
            raise Invalid(f"{name} has {at}; {of} has {count} {what}s, from {-count} to {count - 1}")
    chosen = [at + count if at < 0 else at for at in asked]
    return _once(chosen, name=f"{name} of {of}" if of != "the model" else name)


def _once(numbers: Sequence[int], *, name: str) -> tuple[int, ...]:
    spend(POSITION_US * len(numbers))
    unique = dict.fromkeys(numbers)
    if len(unique) != len(numbers):
        raise Invalid(f"{name} has the same one twice; give each once")
    return tuple(unique)


def _spans(spans: Sequence[Sequence[int]], tokens: int, *, path: str) -> tuple[tuple[int, int], ...]:
    spend(SPAN_US * len(spans))
    for index, (start, end) in enumerate(spans):
        if not start < end <= tokens:
            raise Invalid(
                f"spans[{index}] is [{start}, {end}]; give start < end ≤ {tokens}, the positions of {path}"
            )
    return tuple((start, end) for start, end in spans)
