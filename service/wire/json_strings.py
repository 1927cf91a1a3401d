"""How many bytes of a JSON body are strings, counted without parsing it.

Texts are what a body's strings are; a body with more of them than any request may have is refused before a
parser makes three copies of each.
"""

import re
from itertools import islice

import numpy as np

from service.errors import TooLarge
from service.wire.dtypes import Buffer
from service.wire.effort import spend

__all__ = ["require_few_string_bytes"]

QUOTE = re.compile(rb'"')
MOST_QUOTES = 1 << 16  # looked at: a body of more has short strings, whose number is bounded elsewhere
QUOTE_US = 0.15  # what one takes, in microseconds
MOST_BACKSLASHES = 64  # looked at before a quote
BACKSLASH = ord("\\")


def require_few_string_bytes(body: Buffer, most: int | None) -> None:
    """Raise TooLarge (sequence_too_long) where the strings of a body surely have over `most` bytes.

    A body of no more bytes than that is not looked at. Of one that is not JSON no more is said than of one
    that is: it is refused here or by the parser.
    """
    if most is None or len(body) <= most:
        return
    size = _string_bytes(body)
    if size > most:
        raise TooLarge(
            f"the body has over {most} bytes of text, the limit for all texts of a request; "
            "send fewer or shorter ones at a time",
            code="sequence_too_long",
        )


def _string_bytes(body: Buffer) -> int:
    """Return the bytes between quotes, or fewer, as far as they were looked at."""
    spend(QUOTE_US * min(MOST_QUOTES, int(np.count_nonzero(np.frombuffer(body, np.uint8) == ord('"')))))
    size, start = 0, -1  # of the string that is open
    for quote in islice(QUOTE.finditer(body), MOST_QUOTES):
        at = quote.start()
        if start < 0:
            start = at + 1
            continue
        escapes = _backslashes(body, start, at)
        if escapes == MOST_BACKSLASHES:
            return size
        if escapes % 2 == 0:
            size += at - start
            start = -1
    return size


def _backslashes(body: Buffer, start: int, end: int) -> int:
    """Return how many backslashes, 64 at most, stand before `end`."""
    count = 0
    while count < MOST_BACKSLASHES and end - count > start and body[end - count - 1] == BACKSLASH:
        count += 1
    return count
