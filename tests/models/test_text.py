import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from models.errors import TextError, TooLong
from models.text.files import TokenizerFiles, read_tokenizer_files
from models.text.tokenizer import BYTES_A_TOKEN, FEW_BYTES, MOST_BYTES, Tokenizer

WORDS = [
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[PAD]",
    "she",
    "sat",
    "on",
    "the",
    "bank",
    "of",
    "river",
    "##s",
    "é",
    "\u2028",
]


def read(file: Path, **rows: int) -> Tokenizer:
    """The tokenizer of a file, in a folder without a configuration of a model."""
    files = read_tokenizer_files(file.parent)
    assert files is not None
    assert files.file == file
    return Tokenizer(files, **rows)


def small(folder: Path, *, template: bool = True, unknown: str = "[UNK]") -> Path:
    """A tokenizer file of whole words, which pads to 16 and truncates to 4."""
    tokenizer = tokenizers.Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token=unknown))
    tokenizer.pre_tokenizer = Whitespace()
    if template:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    tokenizer.enable_padding(length=16, pad_id=3, pad_token="[PAD]")
    tokenizer.enable_truncation(max_length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return read(small(tmp_path))


def test_padding_and_truncation_of_the_file_are_switched_off(tokenizer):
    text = tokenizer.encode("she sat on the bank of the river")
    assert text.tokens == ("[CLS]", "she", "sat", "on", "the", "bank", "of", "the", "river", "[SEP]")
    assert text.truncated == 0


def test_a_text_has_ids_offsets_and_marks_of_what_the_model_added(tokenizer):
    text = tokenizer.encode("she  sat")
    assert text.ids.dtype == text.type_ids.dtype == np.int64
    assert text.ids.tolist() == [1, 4, 5, 2]
    assert text.offsets == ((0, 0), (0, 3), (5, 8), (0, 0))
    assert text.special == (True, False, False, True)


def test_offsets_count_characters_not_bytes(tokenizer):
    text = tokenizer.encode("é 😀 sat")
    assert text.offsets[1:-1] == ((0, 1), (2, 3), (4, 7))


def test_a_pair_has_type_ids_of_its_own(tokenizer):
    text = tokenizer.encode("she sat", "on the bank")
    assert text.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert text.offsets[4] == (0, 2)


def test_a_special_token_that_the_caller_wrote_is_not_marked_as_added(tokenizer):
    assert sum(tokenizer.encode("[SEP] she").special) == 2


def test_a_text_as_long_as_the_limit_is_not_cut(tokenizer):
    assert tokenizer.encode("she sat", limit=4).truncated == 0


def test_a_text_over_the_limit_is_refused_with_both_numbers_and_the_remedy(tokenizer):
    with pytest.raises(TooLong, match="10 tokens, over the model's limit of 5; shorten it or set truncate"):
        tokenizer.encode("she sat on the bank of the river", limit=5)


def test_a_text_is_cut_to_the_limit_with_its_closing_token_kept(tokenizer):
    text = tokenizer.encode("she sat on the bank of the river", limit=5, truncate=True)
    assert text.tokens == ("[CLS]", "she", "sat", "on", "[SEP]")
    assert text.special == (True, False, False, False, True)
    assert text.truncated == 5


def test_the_longer_of_a_pair_is_cut_first(tokenizer):
    text = tokenizer.encode("she sat on the bank", "of the", limit=8, truncate=True)
    assert text.tokens == ("[CLS]", "she", "sat", "on", "[SEP]", "of", "the", "[SEP]")
    assert text.truncated == 2


@pytest.mark.parametrize(("pair", "limit"), [(None, 2), (None, 0), ("the bank", 3)])
def test_a_limit_without_room_for_text_is_refused(tokenizer, pair, limit):
    with pytest.raises(TooLong, match="no room"):
        tokenizer.encode("she sat on", pair, limit=limit, truncate=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("she \ud800 sat", "lone surrogate at 4"),
        ("\udfff", "lone surrogate at 0"),
    ],
)
def test_what_is_not_text_is_refused_by_name(tokenizer, text, reason):
    for given in ((text,), ("she", text)):
        with pytest.raises(TextError, match=reason):
            tokenizer.encode(*given)


def test_text_with_a_nul_is_read_as_the_tokenizer_reads_it(tokenizer, tmp_path):
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    plain.no_padding()
    plain.no_truncation()
    for given in (("she\0 sat\0",), ("the \0 bank", "on\0"), ("\0",)):
        expected = plain.encode(*given)
        text = tokenizer.encode(*given)
        assert text.ids.tolist() == expected.ids
        assert list(text.offsets) == expected.offsets


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, MOST_BYTES),
        ({"limit": 5}, FEW_BYTES),
        ({"limit": 5, "truncate": True}, FEW_BYTES),
        ({"most": FEW_BYTES}, BYTES_A_TOKEN * FEW_BYTES),
        ({"limit": FEW_BYTES, "most": 7}, FEW_BYTES),
    ],
)
def test_a_text_has_no_more_bytes_than_its_tokens_may_have(tokenizer, limits, most):
    """White space of any length is no token: what would fit is refused too, before it is read."""
    spaces = " " * (most - len("she") - len("é".encode()))
    assert tokenizer.encode(f"she{spaces}é", **limits).tokens[1:-1] == ("she", "é")
    assert tokenizer.encode(f"she{spaces}", "é", **limits).parts[-2] == 1
    for given in ((f"she{spaces}é ",), (f"she{spaces} ", "é"), ("a" * 2**22,)):
        with pytest.raises(TooLong, match=f"bytes, over the limit of {most}.*; split it"):
            tokenizer.encode(*given, **limits)


@pytest.mark.parametrize("truncate", [False, True])
def test_a_text_over_the_servers_limit_is_refused_whether_cut_or_not(tokenizer, truncate):
    sentence = "she sat on the bank of the river"
    with pytest.raises(TooLong, match="the server's limit is 5"):
        tokenizer.encode(sentence, truncate=truncate, limit=10, most=5)
    assert tokenizer.encode(sentence, truncate=True, limit=5, most=5).truncated == 5


def test_a_text_without_tokens_is_refused(tmp_path):
    with pytest.raises(TextError, match="no tokens"):
        read(small(tmp_path, template=False)).encode("  ")


def test_an_unknown_word_without_an_unknown_token_is_a_text_error(tmp_path):
    with pytest.raises(TextError, match="cannot read this text"):
        read(small(tmp_path, unknown="<none>")).encode("zebra")


def test_a_whole_text_may_be_longer_than_the_model_or_have_no_tokens(tokenizer):
    text = "she sat on the bank"
    assert tokenizer.encode(text, limit=3, whole=True).ids.tolist() == [1, 4, 5, 6, 7, 8, 2]
    plain = tokenizer.encode(text, limit=3, whole=True, special=False)
    assert plain.ids.tolist() == [4, 5, 6, 7, 8]
    assert plain.offsets[-1] == (15, 19)
    assert tokenizer.encode("", whole=True).ids.tolist() == [1, 2]
    assert tokenizer.encode(" ", whole=True, special=False).ids.tolist() == []
    with pytest.raises(TooLong, match="7 tokens, the server's limit is 6"):
        tokenizer.encode(text, whole=True, most=6)
    with pytest.raises(TooLong, match="bytes"):
        tokenizer.encode("x" * (FEW_BYTES + 1), limit=3, whole=True)


def test_ids_are_written_as_text_with_or_without_special_tokens(tmp_path):
    marked = tokenizers.Tokenizer.from_file(str(small(tmp_path)))
    marked.add_special_tokens(["[CLS]", "[SEP]"])
    marked.save(str(tmp_path / "tokenizer.json"))
    tokenizer = read(tmp_path / "tokenizer.json")
    ids = [1, 4, 5, 2, 999_999]
    assert tokenizer.decode(ids) == "she sat"
    assert tokenizer.decode(ids, skip_special=False).startswith("[CLS] she")
    assert tokenizer.decode([]) == ""
    with pytest.raises(TextError, match="cannot write these ids"):
        tokenizer.decode([-1])


def test_a_token_beyond_the_embedding_table_is_refused(tmp_path):
    tokenizer = read(small(tmp_path), vocabulary=8)
    assert tokenizer.encode("she sat on the").ids.max() == 7
    with pytest.raises(TextError, match="'of' is beyond the model's 8 embeddings"):
        tokenizer.encode("the bank of the")


def test_a_tokenizer_that_was_written_and_read_is_the_same(tmp_path):
    one = Tokenizer(TokenizerFiles(file=small(tmp_path)), vocabulary=9)
    again = Tokenizer.read(json.loads(json.dumps(one.written())))
    for text, pair, limit in (("she sat", None, None), ("the bank of", "she", 5)):
        ours, theirs = (t.encode(text, pair, limit=limit, truncate=True) for t in (again, one))
        assert np.array_equal(ours.ids, theirs.ids)
        assert (ours.tokens, ours.offsets, ours.truncated) == (
            theirs.tokens,
            theirs.offsets,
            theirs.truncated,
        )
    with pytest.raises(TextError, match="beyond the model's 9 embeddings"):
        again.encode("river")
    with pytest.raises(TextError, match="not a tokenizer"):
        Tokenizer.read({"json": "{}", "fields": {}})


def test_a_tokenizer_that_panics_is_a_text_error(tmp_path):
    """Native code's panic is no Exception; one is made by a map of characters that is none."""
    file = small(tmp_path)
    content = json.loads(file.read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    file.write_text(json.dumps(content))
    with pytest.raises(TextError, match="not a tokenizer"):
        Tokenizer(TokenizerFiles(file=file))


def test_size_counts_every_token(tokenizer):
    assert tokenizer.size == len(WORDS)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"version": "1.0"}', "\0", '{"version": "9", "model": {}}']
)
def test_a_file_that_is_no_tokenizer_is_a_text_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TextError, match="not a tokenizer"):
        read(tmp_path / "tokenizer.json")


def test_threads_with_different_limits_do_not_disturb_each_other(tokenizer):
    sentence = "she sat on the bank of the river " * 8
    limits = [3 + n % 9 for n in range(400)]

    def length(limit: int) -> int:
        return len(tokenizer.encode(sentence, limit=limit, truncate=limit % 2 == 1).ids)

    def attempt(limit: int) -> int | None:
        try:
            return length(limit)
        except TooLong:
            return None

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as threads:
            lengths = list(threads.map(attempt, limits))
    finally:
        sys.setswitchinterval(before)
    assert lengths == [limit if limit % 2 == 1 else None for limit in limits]


def vocabulary(folder: Path, words: list[str] = WORDS, **options: object) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder / "vocab.txt"


def test_a_vocabulary_alone_makes_a_bert_tokenizer(tmp_path):
    text = read(vocabulary(tmp_path)).encode("She sat on the BANKS.", "The river")
    assert text.tokens == (
        "[CLS]",
        "she",
        "sat",
        "on",
        "the",
        "bank",
        "##s",
        "[UNK]",
        "[SEP]",
        "the",
        "river",
        "[SEP]",
    )
    assert text.type_ids.tolist() == [0] * 9 + [1] * 3


def test_a_vocabulary_keeps_case_where_its_configuration_says_so(tmp_path):
    cased = read(vocabulary(tmp_path, do_lower_case=False, cls_token={"content": "[CLS]"}))
    assert cased.encode("She").tokens == ("[CLS]", "[UNK]", "[SEP]")


def test_lines_of_a_vocabulary_end_at_newlines_alone(tmp_path):
    words = [*WORDS, "[MASK]"]
    assert read(vocabulary(tmp_path, words)).size == len(words)


@pytest.mark.parametrize(
    ("words", "options", "named"),
    [
        (["a", "b"], {}, r"vocab.txt has no '\[UNK\]'"),
        (WORDS, {"cls_token": "<s>"}, "vocab.txt has no '<s>'"),
        (WORDS, {"cls_token": ["[CLS]"]}, r"\['\[CLS\]'\] is no token"),
        (WORDS, {"do_lower_case": "maybe"}, "do_lower_case of 'maybe'"),
        (WORDS, {"strip_accents": 7}, "strip_accents of 7"),
    ],
)
def test_a_vocabulary_that_is_not_berts_says_why(tmp_path, words, options, named):
    with pytest.raises(TextError, match=named):
        read(vocabulary(tmp_path, words, **options))


def test_a_missing_file_is_a_text_error(tmp_path):
    for name in ("vocab.txt", "tokenizer.json"):
        with pytest.raises(TextError, match=name):
            Tokenizer(TokenizerFiles(file=tmp_path / name))


def test_minilm_reads_text_as_transformers_does(minilm_folder, sentences):
    ours = read(minilm_folder / "tokenizer.json")
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder)
    for sentence in [*sentences, "Ünïcödé 漢字 😀 naïve\u0301 don't", "[MASK] and [SEP]"]:
        text, expected = ours.encode(sentence), theirs(sentence)
        assert text.ids.tolist() == expected["input_ids"]
        cut, expected = (
            ours.encode(sentence, sentence, limit=24, truncate=True),
            theirs(sentence, sentence, truncation=True, max_length=24),
        )
        assert cut.ids.tolist() == expected["input_ids"]
        assert cut.type_ids.tolist() == expected["token_type_ids"]


def test_minilm_reads_the_same_from_its_vocabulary_alone(minilm_folder, sentences, tmp_path):
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((minilm_folder / name).read_bytes())
    alone, whole = read(tmp_path / "vocab.txt"), read(minilm_folder / "tokenizer.json")
    for sentence in [*sentences, "Ünïcödé 漢字 😀 [MASK] don't"]:
        assert (
            alone.encode(sentence, "and more").ids.tolist() == whole.encode(sentence, "and more").ids.tolist()
        )


SEVERAL = (
    ["she sat on the bank", "she", "of the river é", "the bank " * 40],
    [f"she sat on the bank {number} times" for number in range(80)],
    ["she"],
)


@pytest.mark.parametrize("texts", SEVERAL, ids=["few", "many", "one"])
@pytest.mark.parametrize("template", [True, False])
def test_texts_read_together_have_the_ids_they_have_alone(
    tmp_path: Path, template: bool, texts: list[str]
) -> None:
    tokenizer = read(small(tmp_path, template=template))
    together, typed = tokenizer.encode_all(texts)
    assert not typed
    for one, text in zip(together, texts, strict=True):
        alone = tokenizer.encode(text)
        assert one.ids.dtype == one.type_ids.dtype == np.int64
        assert one.ids.tolist() == alone.ids.tolist()
        assert one.type_ids.tolist() == alone.type_ids.tolist()
        assert one.truncated == 0


def test_texts_read_together_have_the_types_they_have_alone(tmp_path: Path) -> None:
    file = small(tmp_path)
    content = json.loads(file.read_text())
    for part in content["post_processor"]["single"]:
        next(iter(part.values()))["type_id"] = 1
    file.write_text(json.dumps(content))
    together, typed = read(file).encode_all(["she sat", "the bank of"] * 60)
    assert typed
    assert [one.type_ids.tolist() for one in together[:2]] == [[1] * 4, [1] * 5]


def test_texts_read_together_are_cut_as_alone(tokenizer: Tokenizer) -> None:
    texts = ["she sat on the bank of the river", "she"] * 60
    together, _ = tokenizer.encode_all(texts, limit=5, truncate=True)
    assert [one.ids.tolist() for one in together[:2]] == [[1, 4, 5, 6, 2], [1, 4, 2]]
    assert [one.truncated for one in together[:2]] == [5, 0]


@pytest.mark.parametrize(
    ("bad", "limits", "error", "words"),
    [
        ("she sat on the bank", {"limit": 4}, TooLong, "7 tokens, over the model's limit of 4"),
        ("she sat on the bank", {"most": 4}, TooLong, "7 tokens, the server's limit is 4"),
        ("she \ud800 sat", {}, TextError, "lone surrogate"),
        ("a" * (FEW_BYTES + 1), {"limit": 4}, TooLong, "bytes, over the limit"),
    ],
    ids=["over the model's", "over the server's", "no text", "too many bytes"],
)
def test_one_bad_text_of_several_is_refused_as_alone(
    tokenizer: Tokenizer, bad: str, limits: dict[str, int], error: type[Exception], words: str
) -> None:
    for texts in (["she", bad], ["she"] * 600 + [bad]):
        with pytest.raises(error, match=words):
            tokenizer.encode_all(texts, **limits)


def test_a_text_without_tokens_among_several_is_refused(tmp_path: Path) -> None:
    tokenizer = read(small(tmp_path, template=False))
    for texts in (["she", " "], ["she"] * 600 + [" "]):
        with pytest.raises(TextError, match="no tokens"):
            tokenizer.encode_all(texts)


def test_a_token_beyond_the_table_among_several_is_refused_by_name(tmp_path: Path) -> None:
    tokenizer = read(small(tmp_path), vocabulary=WORDS.index("é"))
    assert len(tokenizer.encode_all(["she"] * 600)[0]) == 600
    with pytest.raises(TextError, match="beyond the model's"):
        tokenizer.encode_all(["she"] * 600 + ["é"])
