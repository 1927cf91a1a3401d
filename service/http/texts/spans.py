"""From words, or ranges of characters, to ranges of tokens."""

import re
from bisect import bisect_right
from collections.abc import Sequence

from models.protocol import Text
from service.errors import Invalid
from service.wire.effort import spend

Span = tuple[int, int]
WORD = re.compile(r"\S+")
TOKEN_US, PAIR_US = 1.5, 0.05  # what a token takes, and a range of characters with one


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
    spend(PAIR_US * len(ranges) * len(text.offsets))
    spans = []
    for label, (start, end) in zip(labels, ranges, strict=True):
        if not start < end <= len(first):
            raise Invalid(f"{label} is [{start}, {end}]; give start < end ≤ {len(first)}, the text in {path}")
        touched = [
            index
            for index, ((begin, stop), special) in enumerate(zip(text.offsets, text.special, strict=True))
            if not special and begin < end and stop > start
        ]
        if not touched:
            raise Invalid(f"{label} is [{start}, {end}], where {path} has no token: white space, or cut off")
        spans.append((touched[0], touched[-1] + 1))
    return spans
