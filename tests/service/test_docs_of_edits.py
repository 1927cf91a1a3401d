"""docs/edits.md says what the schemas say, and every edit and request that it writes is taken."""

import json
import re
from pathlib import Path

from service.http.envelope import read_envelope
from service.http.fields.edit_schemas import OF_ATTENTION, PATTERNS
from service.http.fields.edits import TAKES
from service.http.resolve import resolve_attend
from service.http.schemas import AttendRequest
from service.http.texts.reading import Reading
from service.wire.counts import MOST_EDITED_HEADS, MOST_EDITS, MOST_EDITS_TOGETHER
from tests.fakes import FakeRuntime, fake_card

PAGE = (Path(__file__).parents[2] / "docs" / "edits.md").read_text()
CARD = fake_card(layers=12, heads=24, key_heads=24, d_model=48)


def test_every_verb_is_documented_with_what_it_takes() -> None:
    _, *rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE)  # the first is the head
    assert {verb: re.findall(r"`(\w+)`", takes) for verb, takes in rows} == {
        verb: list(takes) for verb, takes in TAKES.items()
    }
    assert [name for name in (*PATTERNS, *OF_ATTENTION) if f"`{name}`" not in PAGE] == []


def test_every_limit_is_documented() -> None:
    assert f"{MOST_EDITS} edits an input" in PAGE
    assert f"{MOST_EDITS_TOGETHER:,} edits and {MOST_EDITED_HEADS:,} heads" in PAGE


def test_every_edit_that_is_written_is_one_and_so_is_every_whole_request() -> None:
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", PAGE)]
    edits = [json.loads(span) for span in spans if span.startswith('{"edit"') and "…" not in span]
    blocks = re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE)
    requests = [block for block in blocks if block.startswith('    {"inputs"')]
    for request in requests:
        text = request.replace('"token_ids": […]', '"text": "a b c d"').replace("When John and Mary ", "")
        asked = read_envelope(AttendRequest, json.loads(text.replace(", John gave a drink to", "")))
        assert any(item.edits for item in resolved(asked).items)
    one = {"text": "a b c d", "edits": edits, "spans": {"subject": [0, 1], "instruction": [1, 3]}}
    (item,) = resolved(read_envelope(AttendRequest, {"inputs": [one]})).items
    assert [edit.verb for edit in item.edits] == ["scale", "block", "add", "pattern"]


def resolved(asked: AttendRequest):
    return resolve_attend(asked, runtime=FakeRuntime(CARD), how=Reading(card=CARD))
