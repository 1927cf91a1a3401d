"""Queries and keys of one input, with the spans that callers have named there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from models.protocol import Text
from service.errors import Invalid
from service.http.fields.positions import Axis, Convert, within
from service.http.schemas import AttendInput
from service.http.texts.spans import Span, spans_of_characters, spans_of_words
from service.wire.effort import spend
from service.wire.names import member
from service.wire.reply import FoundSpans

SPAN_US = 1.0  # what one takes to be checked, in microseconds
NO_CHARACTERS = "span_unit counts characters of a text, and keys of memory are none: give it as tokens"

Ranges = Sequence[Sequence[int]]
Asked = Ranges | Mapping[str, Sequence[int]] | Literal["words"] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Where positions of one input are counted.

    `spans`: half-open ranges of tokens between which `weights` are summed; None where spans have names, or
    there are none. `told`: the spans that the server found in the text, for the reply to tell.
    """

    queries: Axis
    keys: Axis
    spans: tuple[Span, ...] | None = None
    told: FoundSpans | None = None


def axes_of(
    asked: Asked,
    given: AttendInput,
    *,
    unit: Literal["tokens", "characters"],
    text: Text | None,
    queries: int,
    keys: int | None,
    path: str,
) -> Axes:
    """Return the axes of an input of so many queries; `keys` of its memory, None where they are its own.

    Raises Invalid for spans that are none of this input.
    """
    characters = unit == "characters"
    convert = partial(_tokens_of, given, text, path) if characters else None
    names: dict[str, Span] = {}
    if isinstance(asked, Mapping):
        labels = [member("spans", name) for name in asked]
        axis = Axis(length=max(queries, keys or 0), path=path)
        names = dict(zip(asked, _checked(list(asked.values()), labels, axis, convert), strict=True))
    own = Axis(length=queries, path=path, names=names, convert=convert)
    other = own if keys is None else _of_memory(keys, path, names, characters=characters)
    if asked is None or isinstance(asked, Mapping):
        return Axes(queries=own, keys=other, told=names if names and characters else None)
    if asked == "words":
        spans = tuple(spans_of_words(*_text(given, text, path), given.pair, path=path))
    else:
        labels = [f"spans[{index}]" for index in range(len(asked))]
        spans = _checked(asked, labels, own, convert)
    return Axes(queries=own, keys=other, spans=spans, told=spans if asked == "words" or characters else None)


def _of_memory(keys: int, path: str, names: Mapping[str, Span], *, characters: bool) -> Axis:
    """Return the axis of keys that are not of the input's own text."""
    if not characters:
        return Axis(length=keys, path=f"{path}.memory", names=names)
    return Axis(length=keys, path=f"{path}.memory", unnamed=NO_CHARACTERS, convert=_refused)


def _refused(ranges: Ranges, labels: Sequence[str]) -> Ranges:
    raise Invalid(f"{labels[0]} has {list(ranges[0])}; {NO_CHARACTERS}")


def _checked(asked: Ranges, labels: Sequence[str], axis: Axis, convert: Convert | None) -> tuple[Span, ...]:
    spend(SPAN_US * len(asked))
    found = asked if convert is None else convert(asked, labels)
    pairs = zip(found, labels, strict=True)
    return tuple(within(start, end, axis, said=f"{label} is") for (start, end), label in pairs)


def _tokens_of(
    given: AttendInput, text: Text | None, path: str, ranges: Ranges, labels: Sequence[str]
) -> Ranges:
    """Return ranges of characters as ranges of tokens; raises Invalid where they have none."""
    tokens, whole = _text(given, text, path)
    if given.pair is not None:
        raise Invalid(f"spans of characters are of one text, and {path} is a pair; give spans of tokens")
    return spans_of_characters(ranges, tokens, whole, path=path, labels=labels)


def _text(given: AttendInput, text: Text | None, path: str) -> tuple[Text, str]:
    if text is None or given.text is None:
        raise Invalid(f"words and characters are of texts, and {path} is none; give spans of its positions")
    return text, given.text
