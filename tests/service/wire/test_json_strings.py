import json
from typing import Any

import pytest

from service.errors import TooLarge
from service.wire.json_strings import MOST_BACKSLASHES, MOST_QUOTES, require_few_string_bytes


def refused(body: bytes, most: int) -> bool:
    outcomes = {_refused(form, most) for form in (body, bytearray(body), memoryview(body))}
    assert len(outcomes) == 1
    return outcomes.pop()


def _refused(body: Any, most: int) -> bool:
    try:
        require_few_string_bytes(body, most)
    except TooLarge:
        return True
    return False


def test_the_refusal_names_the_limit_and_the_remedy():
    with pytest.raises(TooLarge, match=r"over 3 bytes of text, the limit.*; send fewer") as caught:
        require_few_string_bytes(b'["abcd"]', 3)
    assert caught.value.code == "sequence_too_long"


@pytest.mark.parametrize(
    "strings",
    [["abcd"], ["ab", "", "cd"], ['a"bc'], ["\\\\"], ['\\"'], ['"' * 2], ["é"], ["\\" * 30 + '"']],
)
def test_the_bytes_between_quotes_are_counted_as_they_are_written(strings):
    body = json.dumps(strings, ensure_ascii=False).encode() + b" " * 1000
    size = sum(len(json.dumps(one, ensure_ascii=False).encode()) - 2 for one in strings)
    assert refused(body, size - 1)
    assert not refused(body, size)


def test_numbers_are_no_strings():
    assert not refused(json.dumps([[1.5] * 100] * 100).encode(), 8)


def test_a_body_that_fits_is_not_looked_at():
    assert not refused(b'"aaaa"', 6)
    require_few_string_bytes(b'"' * 1000, None)


def test_a_string_without_an_end_is_left_to_the_parser():
    assert not refused(b'{"a": "' + b"b" * 1000, 8)


def test_quotes_and_backslashes_without_number_are_looked_at_for_a_while_only():
    short = b'"",' * MOST_QUOTES
    assert not refused(short + b'"aaaaaaaaaa"', 8)
    assert not refused(b'"' + b"\\" * (MOST_BACKSLASHES + 1) + b'"' * 4, 8)
