"""From words, or ranges of characters, to ranges of tokens."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from models.protocol import Text
from service.errors import Invalid
from service.wire.effort import spend

Span = tuple[int, int]
WORD = re.compile(r"\S+")
TOKEN_US, OFFSET_US, RANGE_US = 1.5, 0.3, 3.0  # what a token of a word takes, one of a range, and a range


def spans_of_words(text: Text, first: str, second: str | None, *, path: str) -> list[Span]:
    """Return the tokens of each word, words being what white space separates: half-open ranges in order.

    A token belongs to the word in which it begins, white space of its own not counted. Tokens that the model
    added belong to none, and words that were cut off have none. Raises Invalid where no token is left.
    """
    spend(TOKEN_US * len(text.offsets))
    texts = (first, second or "")
    starts = [[word.start() for word in WORD.finditer(one)] for one in texts]
    spans: list[Span] = []
    latest: tuple[int, int] | None = None  # the word of the token before: which text's, and its number
    for index, ((begin, end), special) in enumerate(zip(text.offsets, text.special, strict=True)):
        part = text.parts[index] if text.parts else 0
        own = texts[part][begin:end]
        if special or not own.strip():
            latest = None
            continue
        word = part, bisect_right(starts[part], begin + len(own) - len(own.lstrip())) - 1
        if word == latest:
            spans[-1] = spans[-1][0], index + 1
        else:
            spans.append((index, index + 1))
        latest = word
    if not spans:
        raise Invalid(f"{path} has no words for spans to sum over")
    return spans


def spans_of_characters(
    ranges: Sequence[Sequence[int]], text: Text, first: str, *, path: str, labels: Sequence[str]
) -> list[Span]:
    """Return the tokens that each range of characters touches; raises Invalid where there are none.

    `labels`: what each range is called in messages, `spans[0]`.
    """
    spend(OFFSET_US * len(text.offsets) + RANGE_US * len(ranges))
    own = [
        (begin, stop, place)
        for place, ((begin, stop), special) in enumerate(zip(text.offsets, text.special, strict=True))
        if not special and begin < stop
    ]
    # The k-th ends at the furthest that any up to it does, and none after it begins before the k-th least.
    furthest = list(accumulate((stop for _, stop, _ in own), max))
    earliest = list(accumulate((begin for begin, _, _ in reversed(own)), min))[::-1]
    spans = []
    for label, (start, end) in zip(labels, ranges, strict=True):
        if not start < end <= len(first):
            raise Invalid(f"{label} is [{start}, {end}]; give start < end ≤ {len(first)}, the text in {path}")
        low, high = bisect_right(furthest, start), bisect_left(earliest, end)
        leading = _touched(own, range(low, high), start, end)
        trailing = _touched(own, range(high - 1, low - 1, -1), start, end)
        if leading is None or trailing is None:
            raise Invalid(f"{label} is [{start}, {end}], where {path} has no token: white space, or cut off")
        spans.append((leading, trailing + 1))
    return spans


def _touched(own: Sequence[tuple[int, int, int]], among: Iterable[int], start: int, end: int) -> int | None:
    """Return the first token among these that a range of characters touches."""
    return next((own[at][2] for at in among if own[at][0] < end and own[at][1] > start), None)
