"""How much of a JSON body is in strings and how much outside, counted without parsing it.

Texts are what a body's strings are; a body with more of them than any request may have is refused before a
parser makes three copies of each. Lists, objects and values take up to twenty times their bytes while they
are read.
"""

import re
from itertools import islice

import numpy as np

from service.errors import Malformed, TooLarge
from service.wire.dtypes import Buffer, Reserve, reserve_nothing
from service.wire.effort import spend
from service.wire.json_tensor import MOST_ROWS

__all__ = [
    "count_byte",
    "require_few_lists",
    "require_few_string_bytes",
    "require_few_values",
    "reserve_numbers",
]

QUOTE = re.compile(rb'"')
MOST_QUOTES = 1 << 16  # looked at: a body of more has short strings, whose number is bounded elsewhere
QUOTE_US = 0.15  # what one takes, in microseconds
MOST_BACKSLASHES = 64  # looked at before a quote
BACKSLASH = ord("\\")
MOST_LISTS = MOST_PARSED = MOST_ROWS + (1 << 16)  # lists and objects; values of any kind, left to simdjson
BLOCK_BYTES = 1 << 16  # counted at a time, so that they stay in the cache
COUNTED_BYTE_US = 0.005

# What a comma, so a number, takes at most while it is read: lifted, two float32; by simdjson, two words of
# its tape, two of the places it found, a double and the number itself. Measured.
LIFTED_BYTES, PARSED_BYTES = 9, 41
UNCOUNTED_BYTES = 6 << 20  # so little is reserved without counting a text's numbers


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


def require_few_lists(body: Buffer) -> None:
    """Raise Malformed for more lists and objects than are parsed; two bytes each are the least."""
    if len(body) <= 2 * MOST_LISTS or count_byte(body, ord("[")) + count_byte(body, ord("{")) <= MOST_LISTS:
        return
    if _outside_strings(body, b"[{") > MOST_LISTS:
        raise Malformed(
            f"the body has more than {MOST_LISTS} lists and objects; send tensors in a binary format"
        )


def require_few_values(text: Buffer) -> None:
    """Raise TooLarge for more values than are parsed."""
    if len(text) <= 2 * MOST_PARSED:
        return
    spend(len(text) * COUNTED_BYTE_US)
    if count_byte(text, ord(",")) >= MOST_PARSED and _outside_strings(text, b",") >= MOST_PARSED:
        raise TooLarge(
            f"the body has over {MOST_PARSED} values that are not plain lists of floats or of a mask, equal "
            "in length; send fewer, or tensors in a binary format"
        )


def reserve_numbers(reserve: Reserve, text: Buffer, *, lifted: bool) -> None:
    """Reserve what a copy of a text takes, and each number in it, by whichever it is read."""
    if reserve is reserve_nothing:
        return
    each = LIFTED_BYTES if lifted else PARSED_BYTES
    most = each * (len(text) // 2)  # a number and its comma are two bytes at least
    reserve(len(text) + (most if most <= UNCOUNTED_BYTES else each * count_byte(text, ord(","))))


def count_byte(body: Buffer, byte: int) -> int:
    """Return how often a byte occurs, in a fifth of bytes.count's time."""
    every = np.frombuffer(body, np.uint8)
    return sum(
        int(np.count_nonzero(every[start : start + BLOCK_BYTES] == byte))
        for start in range(0, len(every), BLOCK_BYTES)
    )


def _outside_strings(body: Buffer, wanted: bytes) -> int:
    """Return how often any of some bytes occurs outside strings."""
    # The quotes that remain each begin or end a string.
    text = bytes(body).replace(b"\\\\", b"").replace(b'\\"', b"")
    every = np.frombuffer(text, np.uint8)
    found = inside = 0
    for start in range(0, len(every), BLOCK_BYTES):
        block = every[start : start + BLOCK_BYTES]
        in_string = np.bitwise_xor.accumulate(block == ord('"')) ^ bool(inside)
        there = np.logical_or.reduce([block == byte for byte in wanted])
        found += int(np.count_nonzero(there & ~in_string))
        inside = in_string[-1]
    return found
