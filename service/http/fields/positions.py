"""Positions as callers write them, on one axis of a sequence's attention: numbers, ranges, names, all but.

`rows`, `columns`, `share` and edits address queries and keys in these words. Single numbers are positions of
tokens, negative ones from the end; ranges and names are in the request's `span_unit`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from models.outputs import Spans
from service.errors import Invalid
from service.http.envelope import nearest
from service.http.fields.addresses import Outside, Rows
from service.wire.effort import spend
from service.wire.names import quoted

POSITION_US, RANGE_US = 0.15, 1.0  # what one takes to be checked, in microseconds

Convert = Callable[[Sequence[Sequence[int]], Sequence[str]], Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The queries or the keys of one input: how many there are, and what is called by a name there.

    `path` is the input's, `inputs[0]`. `names`: half-open ranges of tokens; `unnamed`: what to do where there
    are none. `convert` makes ranges as the caller wrote them, with what each is called in messages, ranges of
    tokens, or raises Invalid; None: they are.
    """

    length: int
    path: str
    names: Mapping[str, Sequence[int]] = field(default_factory=dict)
    unnamed: str = 'give spans as an object, {"name": [start, end]}'
    convert: Convert | None = None


def numbers(asked: Any, axis: Axis, *, field: str) -> tuple[int, ...]:
    """Return single positions from 0 in the order asked: what `rows` are; raises Invalid.

    `asked`: a number, a range, a name, {"start", "stop"}, {"outside": …}, or a list of the first three.
    """
    if isinstance(asked, Outside):
        return _flat(ranges(asked, axis, field=field))
    if isinstance(asked, Rows):
        return _flat([_rows(asked, axis, field=field)])
    items = _items(asked)
    spend(POSITION_US * len(items))
    if len(items) > axis.length:  # before more are made than there are
        raise Invalid(f"{field} of {axis.path} has the same one twice; give each once")
    found: list[int] = []
    for start, end in _ends(items, axis, field=field):
        found += range(start, end)
        if len(found) > axis.length:
            break  # one is there twice
    return once(found, name=f"{field} of {axis.path}")


def ranges(asked: Any, axis: Axis, *, field: str) -> Spans:
    """Return the same as sorted half-open ranges that neither overlap nor touch: what is taken as one."""
    if isinstance(asked, Outside):
        return _outside(ranges(asked.outside, axis, field=field), axis, field=field)
    if isinstance(asked, Rows):
        return (_rows(asked, axis, field=field),)
    return merged(_ends(_items(asked), axis, field=field))


def region(asked: Any, axis: Axis, *, field: str) -> Spans:
    """Return a range, a name or a list of both as `ranges` does: two numbers are the ends of one range."""
    alone = isinstance(asked, list | tuple) and len(asked) == 2 and all(isinstance(one, int) for one in asked)
    return ranges([asked] if alone else asked, axis, field=field)


def spans(asked: Any, axis: Axis, *, field: str) -> Spans:
    """Return a name, or ranges and names one by one, as ordered; they may overlap: what `columns` are."""
    return tuple(_ends(_items(asked), axis, field=field))


def merged(found: Sequence[tuple[int, int]]) -> Spans:
    """Return half-open ranges sorted, those that overlap or touch made one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return tuple(joined)


def within(start: int, end: int, axis: Axis, *, said: str) -> tuple[int, int]:
    """Return a half-open range of an axis; raise Invalid, beginning with `said`, where it is none."""
    if not 0 <= start < end <= axis.length:
        raise Invalid(
            f"{said} [{start}, {end}]; give start < end ≤ {axis.length}, the positions of {axis.path}"
        )
    return start, end


def once(found: Sequence[int], *, name: str) -> tuple[int, ...]:
    """Return numbers as they are; raise Invalid where one is there twice."""
    spend(POSITION_US * len(found))
    unique = dict.fromkeys(found)
    if len(unique) != len(found):
        raise Invalid(f"{name} has the same one twice; give each once")
    return tuple(unique)


def _items(asked: Any) -> Sequence[Any]:
    return asked if isinstance(asked, list | tuple) else [asked]


def _ends(items: Sequence[Any], axis: Axis, *, field: str) -> list[tuple[int, int]]:
    """Return the half-open range of tokens of each position, range and name, in order; raises Invalid."""
    written = [item for item in items if not isinstance(item, int | str)]
    spend(RANGE_US * len(written))
    if axis.convert is not None and written:
        written = list(axis.convert(written, [field] * len(written)))
    left = iter(written)
    return [
        _number(item, axis, field=field)
        if isinstance(item, int)
        else _named(item, axis, field=field)
        if isinstance(item, str)
        else _within(next(left), axis, field=field)
        for item in items
    ]


def _within(span: Sequence[int], axis: Axis, *, field: str) -> tuple[int, int]:
    start, end = span
    return within(start, end, axis, said=f"{field} has")


def _number(at: int, axis: Axis, *, field: str) -> tuple[int, int]:
    count = axis.length
    if not -count <= at < count:
        raise Invalid(f"{field} has {at}; {axis.path} has {count} positions, from {-count} to {count - 1}")
    return (at, at + 1) if at >= 0 else (at + count, at + count + 1)


def _named(name: str, axis: Axis, *, field: str) -> tuple[int, int]:
    span = axis.names.get(name)
    if span is None:
        raise Invalid(f"{field} has {quoted(name)}, which is no span of {axis.path}; {_known(name, axis)}")
    start, end = span
    return within(start, end, axis, said=f"{field} has {quoted(name)}, which is")


def _known(name: str, axis: Axis) -> str:
    return nearest(name, list(axis.names)[:32]) if axis.names else axis.unnamed


def _rows(rows: Rows, axis: Axis, *, field: str) -> tuple[int, int]:
    count = axis.length
    start, stop = (
        at + count if at < 0 else at for at in (rows.start, count if rows.stop is None else rows.stop)
    )
    if not 0 <= start < stop <= count:
        end = "the end" if rows.stop is None else rows.stop
        raise Invalid(
            f"{field} from {rows.start} to {end} is no range within the {count} positions of {axis.path}"
        )
    return start, stop


def _outside(inside: Spans, axis: Axis, *, field: str) -> Spans:
    """Return what is left between sorted ranges; raises Invalid where that is nothing."""
    ends = (0, *(end for _, end in inside))
    starts = (*(start for start, _ in inside), axis.length)
    left = tuple((end, start) for end, start in zip(ends, starts, strict=True) if end < start)
    if not left:
        raise Invalid(f"{field} leaves nothing outside of the {axis.length} positions of {axis.path}")
    return left


def _flat(found: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(at for start, end in found for at in range(start, end))
