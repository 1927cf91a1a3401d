"""A text is read and cut as the `tokenizers` package reads and cuts it, whatever the tokenizer."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.processors import ByteLevel, RobertaProcessing, Sequence, TemplateProcessing

from models.config import read_json
from models.errors import TextError, TooLong
from models.text.calls import LOCKED_CHARACTERS
from models.text.files import TokenizerFiles, read_tokenizer_files
from models.text.tokenizer import Tokenizer
from tests.tokenizer_folders import CLASSES, LINES, TEXTS, write

PIECES = [
    *" ".join(LINES).split(),
    *TEXTS,
    "\u0301",
    "\ufdfa",
    "ﬁ",
    "한국어",
    "\u200b",
    "\x07",
    "\n\n",
    "…",
    "x" * 120,
    "İ",
]
SIDES = ("right", "left")
LIMITS = (None, 3, 4, 16, 61)


def sentences(count: int) -> list[str]:
    chance = random.Random(7)
    lengths = [chance.choice((1, 3, 9, 40)) for _ in range(count - 4)] + [LOCKED_CHARACTERS // 3] * 4
    return [" ".join(chance.choices(PIECES, k=length)) for length in lengths]


SENTENCES = sentences(220)


def theirs(ours: Tokenizer, limit: int | None, side: str) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer.from_str(ours.written()["json"])
    made.no_padding()
    made.no_truncation()
    if limit is not None:
        made.enable_truncation(max_length=limit, strategy="longest_first", direction=side)
    return made


def read(folder: Path) -> Tokenizer:
    files = read_tokenizer_files(folder, read_json(folder / "config.json"))
    assert files is not None
    return Tokenizer(files)


def assert_same(ours: Tokenizer, side: str, limit: int | None, texts: list[tuple[str, str | None]]) -> None:
    expected, whole = theirs(ours, limit, side), theirs(ours, None, side)
    for text, pair in texts:
        made = expected.encode(text, pair) if limit is None or _has_room(expected, limit, pair) else None
        if made is None:
            with pytest.raises(TooLong, match="no room"):
                ours.encode(text, pair, limit=limit, truncate=True)
            continue
        if not made.ids:
            with pytest.raises(TextError, match="no tokens"):
                ours.encode(text, pair, limit=limit, truncate=True)
            continue
        found = ours.encode(text, pair, limit=limit, truncate=True)
        assert found.ids.tolist() == made.ids, text
        assert list(found.tokens) == made.tokens
        assert list(found.offsets) == made.offsets
        assert list(found.special) == [mark == 1 for mark in made.special_tokens_mask]
        assert list(found.parts) == [part or 0 for part in made.sequence_ids]
        assert found.truncated == len(whole.encode(text, pair).ids) - len(made.ids)


def _has_room(expected: tokenizers.Tokenizer, limit: int, pair: str | None) -> bool:
    return expected.num_special_tokens_to_add(pair is not None) < limit


def paired(texts: list[str]) -> list[tuple[str, str | None]]:
    return [(text, None if at % 2 else texts[at * 7 % len(texts)]) for at, text in enumerate(texts)]


@pytest.mark.parametrize("name", CLASSES)
def test_tokens_of_every_class_are_those_of_the_package(tmp_path, name):
    for side in SIDES:
        ours = read(write(tmp_path / side, name, {"truncation_side": side, "add_prefix_space": True}))
        for limit in LIMITS:
            texts = SENTENCES if limit in (None, 16) else SENTENCES[::16]
            assert_same(ours, side, limit, paired(texts))


MARKS = [("<s>", 0), ("</s>", 1)]
AROUND: dict[str, Any] = {
    "nothing": None,
    "bytes": ByteLevel(trim_offsets=True, add_prefix_space=True),
    "roberta": RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=True),
    "a text twice": TemplateProcessing(single="<s> $A </s> $A", pair="$A $B <s>", special_tokens=MARKS),
    "the second text first": TemplateProcessing(single="$A", pair="<s> $B $A", special_tokens=MARKS),
    "two": Sequence(
        [
            ByteLevel(trim_offsets=True),
            TemplateProcessing(single="<s> $A", pair="$A $B", special_tokens=MARKS),
        ]
    ),
}


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("side", SIDES)
def test_whatever_is_put_around_a_text_it_is_cut_as_the_package_cuts(tmp_path, name, side):
    folder = write(tmp_path, "PreTrainedTokenizerFast", {})
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.post_processor = AROUND[name]
    plain.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))
    ours = Tokenizer(TokenizerFiles(file=folder / "tokenizer.json", fields={"truncation_side": side}))
    for limit in LIMITS:
        assert_same(ours, side, limit, paired(SENTENCES[::11]))


@pytest.mark.parametrize("name", AROUND)
@pytest.mark.parametrize("side", SIDES)
def test_a_text_is_cut_on_the_side_that_is_asked_for(tmp_path, name, side):
    folder = write(tmp_path, "PreTrainedTokenizerFast", {})
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.post_processor = AROUND[name]
    plain.save(str(folder / "tokenizer.json"))
    other = {"right": "left", "left": "right"}[side]
    ours = Tokenizer(TokenizerFiles(file=folder / "tokenizer.json", fields={"truncation_side": other}))
    expected = theirs(ours, 16, side)
    texts = SENTENCES[::11]
    for text in texts:
        found = ours.encode(text, limit=16, truncate=True, side=side)
        assert found.ids.tolist() == expected.encode(text).ids
    together, _ = ours.encode_all(texts, limit=16, truncate=True, side=side)
    assert [one.ids.tolist() for one in together] == [expected.encode(text).ids for text in texts]


def test_a_written_tokenizer_cuts_as_the_one_that_was_written(tmp_path):
    for side in SIDES:
        ours = Tokenizer.read(
            read(write(tmp_path / side, "RobertaTokenizer", {"truncation_side": side})).written()
        )
        assert_same(ours, side, 16, paired(SENTENCES[::11]))
