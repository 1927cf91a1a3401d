"""Tokenizers that take more than a text is worth: refused when they are read, in whatever way they do it."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from models.errors import TextError
from models.text import safe as tokenizer_safe
from models.text.bounds import QUICK, doubts_of, parts_of
from models.text.files import TokenizerFiles, read_tokenizer_files
from models.text.tokenizer import NotATokenizer, Tokenizer
from models.text.trial import try_out

WORDS = {"[UNK]": 0, "a": 1, "##a": 2}
PLAIN = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
}
PIECES = {
    "type": "WordPiece",
    "vocab": WORDS,
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 10**9,
}


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def charsmap(longest: int) -> dict[str, Any]:
    table = struct.pack("<I", 4) + struct.pack("<I", 0) + b"a\0" + b"b" * longest + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def template(*, times: int = 1, ids: int = 1, texts: int = 1) -> dict[str, Any]:
    special = {"SpecialToken": {"id": "[S]", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special] * times + [first] * texts,
        "pair": [first, second],
        "special_tokens": {"[S]": {"id": "[S]", "ids": [1] * ids, "tokens": ["a"] * ids}},
    }


def read(folder: Path, **parts: Any) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps({**PLAIN, **parts}))
    return Tokenizer(TokenizerFiles(file=folder / "tokenizer.json"))


MULTIPLYING: dict[str, dict[str, Any]] = {
    "a replacement": {"normalizer": replace("a" * 65, String="a")},
    "five replacements": {"normalizer": sequence(*[replace("a" * 50, String="a")] * 5)},
    "replacements in replacements": {
        "normalizer": sequence(
            sequence(replace("aa" * 5, String="a")), sequence(replace("b" * 7, String="a"))
        )
    },
    "a replacement of nothing": {"normalizer": replace("a" * 64, String="")},
    "a replacement of a pattern": {"normalizer": replace("a" * 64, Regex="a")},
    "what is put before": {"normalizer": {"type": "Prepend", "prepend": "a" * 4000}},
    "a table of characters": {"normalizer": charsmap(4000)},
    "a template of many tokens": {"post_processor": template(times=1025)},
    "a token of many ids": {"post_processor": template(times=10, ids=1000)},
    "a text again and again": {"post_processor": template(texts=9)},
    "templates of templates": {
        "post_processor": {"type": "Sequence", "processors": [template(texts=3), template(texts=3)]}
    },
}


@pytest.mark.parametrize("name", MULTIPLYING)
def test_a_tokenizer_that_multiplies_is_refused_with_the_limit(tmp_path, name):
    with pytest.raises(NotATokenizer, match=r"tokenizer\.json is not served: its .* limit"):
        read(tmp_path, **MULTIPLYING[name])


def test_what_honest_tokenizers_do_is_within_the_limits(tmp_path):
    steps = (replace('"', String="``"), replace("▁", String=" "), charsmap(33), {"type": "NFKD"})
    assert read(tmp_path, normalizer=sequence(*steps), post_processor=template(times=8, texts=2)).size


SLOW: dict[str, dict[str, Any]] = {
    "grows with a power of the text": {"normalizer": replace("z", Regex="(x+x+)+y")},
    "splits slowly": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a|a)*b"},
            "behavior": "Isolated",
            "invert": False,
        }
    },
}


@pytest.mark.parametrize("name", SLOW)
def test_a_tokenizer_that_takes_too_long_is_refused_with_what_it_was_tried_with(tmp_path, name):
    with pytest.raises(NotATokenizer, match=r"is not served, for .*it was tried, and"):
        read(tmp_path, **SLOW[name])


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\d{1,3}(?=(?:\d{3})*\b)",
    ],
)
def test_a_pattern_that_is_not_known_is_tried_and_served(tmp_path, pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    ours = read(tmp_path, pre_tokenizer=split)
    assert ours.milliseconds() >= 1024 * 100  # one character is too long for the event loop
    tokens = ours.encode("a a").tokens
    assert tokens == tuple(
        tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a a").tokens
    )


def test_what_is_known_to_be_quick_is_not_tried(tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(tokenizer_safe, "try_out", lambda *given: tried.append(given) or "")
    for regex in QUICK:
        read(tmp_path, normalizer=replace("z", Regex=regex))
    assert tried == []
    read(tmp_path, normalizer=replace("z", Regex="q"))
    read(tmp_path, normalizer=sequence(*[{"type": "Lowercase"}] * 33))
    read(tmp_path, model=PIECES)
    assert [doubts for _, doubts in tried] == [["q"], ["34 steps"], ["words of 1000000000 characters"]]


def test_every_quick_pattern_is_quick(tmp_path):
    split = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        for regex in sorted(QUICK)
    ]
    whole = PLAIN | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": split}}
    assert try_out(json.dumps(whole).encode(), sorted(QUICK)) == ""


def test_a_trial_is_over_when_its_time_or_memory_is(tmp_path):
    slow = json.dumps(PLAIN | {"normalizer": replace("z", Regex="(a?){4000}a{4000}")}).encode()
    assert "took over 0.1 s of the processor for 3005 bytes of 'a'" in try_out(
        slow, ["a"], sample_seconds=0.1
    )
    assert "took over 1 s of the processor" in try_out(slow, ["a"], sample_seconds=9, cpu_seconds=1)
    assert try_out(slow, ["a"], wall_seconds=0.2) == "it was tried, and took over 0.2 s"
    large = json.dumps(PLAIN | {"normalizer": replace("a" * 2**20, String="a")}).encode()
    assert "MiB" in try_out(large, [], memory_bytes=2**29)
    assert try_out(json.dumps(PLAIN).encode(), []) == ""
    assert try_out(b"{", []).startswith("it cannot be read")


def test_time_that_grows_with_the_square_of_a_text_is_seen():
    square = json.dumps(PLAIN | {"normalizer": replace("z", Regex="a*b")}).encode()
    assert try_out(square, ["a*b"], sample_seconds=0.1).startswith("it was tried, and took over 0.1 s")
    line = json.dumps(PLAIN | {"normalizer": replace("z", Regex="a+|b")}).encode()
    assert try_out(line, ["a+|b"]) == ""


def test_where_nothing_can_be_tried_nothing_is_trusted(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert try_out(json.dumps(PLAIN).encode(), []) == "it could not be tried: No such file or directory"


def test_what_was_made_is_looked_at_too(tmp_path, monkeypatch):
    """Of a name that is given twice in a file, two readers may each see another one."""
    file = read(tmp_path, normalizer={"type": "NFC"}) and tmp_path / "tokenizer.json"
    made = tokenizer_safe.build(TokenizerFiles(file=file))
    made.tokenizer.normalizer = tokenizers.normalizers.Replace("a", "a" * 100)
    monkeypatch.setattr(tokenizer_safe, "build", lambda _: made)
    with pytest.raises(NotATokenizer, match="100 bytes of one"):
        Tokenizer(TokenizerFiles(file=file))
    made.tokenizer.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex("(x+x+)+y"), "z")
    with pytest.raises(NotATokenizer, match="it was tried"):
        Tokenizer(TokenizerFiles(file=file))


def test_parts_of_what_was_made_are_those_of_its_file(tmp_path):
    parts = {
        "normalizer": sequence(replace("z", Regex="q")),
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": template(),
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(PLAIN | parts | {"model": PIECES}))
    made = parts_of(tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    assert {name: made[name] for name in ("normalizer", "pre_tokenizer")} == {
        name: parts[name] for name in ("normalizer", "pre_tokenizer")
    }
    assert doubts_of(made) == ["q", "words of 1000000000 characters"]


def read_folder(folder: Path, config: dict[str, Any]) -> Tokenizer:
    files = read_tokenizer_files(folder, config)
    assert files is not None
    return Tokenizer(files)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"])
@pytest.mark.parametrize("kind", [{}, {"model_type": "llama", "tokenizer_class": "LlamaTokenizer"}])
def test_a_file_beyond_any_tokenizer_is_not_read(tmp_path, name, kind):
    """A hole of 64 GiB takes no room on the disk."""
    for file in {name, "vocab.json"} if name == "merges.txt" else {name, "merges.txt"}:
        with (tmp_path / file).open("wb") as hole:
            hole.truncate(64 << 30 if file == name else 2)
    with pytest.raises(TextError, match=f"{name} has {64 << 30} bytes, over the limit"):
        read_folder(tmp_path, kind)


def test_a_request_has_no_more_tokens_than_its_bytes_explain(tmp_path):
    """Whatever the file did not show."""
    ours = read(tmp_path)
    written = json.loads(ours.written()["json"]) | {"normalizer": replace("a " * 200, String="a")}
    worse = Tokenizer.read({**ours.written(), "json": json.dumps(written)})
    with pytest.raises(TextError, match="makes 600 tokens of 3 bytes, over 64 of each"):
        worse.encode("aaa")
