import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from models.config import read_json
from models.errors import TextError
from models.text.files import TokenizerFiles, read_tokenizer_files
from models.text.tokenizer import Tokenizer
from tests.tokenizer_folders import CLASSES, FIELDS, TEXTS, write

LONG = "She sat on the bank of the river, and nobody came to help. " * 3


def read(folder: Path, *, lower: bool = False) -> Tokenizer:
    files = read_tokenizer_files(folder, read_json(folder / "config.json"), lower=lower)
    assert files is not None
    return Tokenizer(files)


def theirs(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def assert_same(folder: Path) -> Tokenizer:
    """Ids, types, and what is left of a long text are those of transformers."""
    ours, expected = read(folder), theirs(folder)
    for text in TEXTS:
        for pair in (None, "The river"):
            made = expected(text, pair)
            if not made["input_ids"]:  # a text without tokens is refused here
                continue
            found = ours.encode(text, pair)
            assert found.ids.tolist() == made["input_ids"], text
            assert found.type_ids.tolist() == made.get("token_type_ids", [0] * len(found.ids)), text
    several = [
        text for text in TEXTS if expected(text)["input_ids"]
    ] * 9  # read without the interpreter's lock
    for text, found in zip(several, ours.encode_all(several)[0], strict=True):
        assert found.ids.tolist() == expected(text)["input_ids"], text
    cut = expected(LONG, truncation=True, max_length=9)["input_ids"]
    assert ours.encode(LONG, limit=9, truncate=True).ids.tolist() == cut
    limit = TokenizerFiles(file=folder, fields=read_json(folder / "tokenizer_config.json")).limit
    assert limit == (None if expected.model_max_length > 10**20 else expected.model_max_length)
    return ours


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_is_obeyed_as_the_class_does_in_transformers(tmp_path, name):
    for number, fields in enumerate(FIELDS):
        assert_same(write(tmp_path / str(number), name, fields))


@pytest.mark.parametrize(
    ("family", "named"),
    [
        ("bert", None),
        ("bert", "PreTrainedTokenizerFast"),
        ("bert", "DistilBertTokenizer"),
        ("electra", "ElectraTokenizerFast"),
        ("mistral", "BertTokenizer"),
        ("modernbert", "BertTokenizer"),
        ("qwen2", "BertTokenizer"),
    ],
)
def test_the_class_is_the_one_that_transformers_finds(tmp_path, family, named):
    folder = write(
        tmp_path, "BertTokenizer", {"tokenizer_class": named}, config={"model_type": family, "vocab_size": 9}
    )
    if (
        family == "qwen2"
    ):  # transformers would read word pieces as byte pairs: here they are taken as they stand
        assert "taken as it stands" in read(folder).notes[0]
    else:
        assert_same(folder)


def test_llamas_class_over_bytes_is_taken_as_it_stands(tmp_path):
    assert_same(
        write(
            tmp_path, "GPT2Tokenizer", {"tokenizer_class": "LlamaTokenizer"}, config={"model_type": "llama"}
        )
    )


def test_a_class_that_only_transformers_knows_is_made_by_it(tmp_path):
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    fields = {"tokenizer_class": "FunnelTokenizer", **special}
    assert_same(write(tmp_path, "BertTokenizer", fields, config={"model_type": "funnel"}))


def test_a_class_that_only_transformers_knows_needs_it(tmp_path, monkeypatch):
    monkeypatch.setattr("models.text.build.find_spec", lambda _: None)
    folder = write(tmp_path, "BertTokenizer", {"tokenizer_class": "FunnelTokenizer"})
    with pytest.raises(TextError, match=r"'FunnelTokenizer' is transformers' own; pip install"):
        read(folder)


def test_a_class_written_in_python_is_said_not_to_be_served(tmp_path):
    folder = write(
        tmp_path, "BertTokenizer", {"tokenizer_class": "CanineTokenizer"}, config={"model_type": "canine"}
    )
    with pytest.raises(TextError, match="CanineTokenizer is written in Python"):
        read(folder)


def test_a_tokenizer_of_another_kind_than_its_class_is_taken_as_it_stands_and_noted(tmp_path):
    ours = read(write(tmp_path, "BertTokenizer", {}, config={"model_type": "roberta"}, tokenizer_config={}))
    assert "holds a WordPiece; RobertaTokenizer would be a BPE" in ours.notes[0]
    assert ours.encode("the bank").tokens[0] == "[CLS]"
    assert ours.encode("the bank", "the river").type_ids.sum() == 0


@pytest.mark.parametrize("asked", [True, False])
def test_a_contradiction_of_the_two_files_is_noted_and_tokenizer_json_counts(tmp_path, asked):
    fields = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": asked, "add_eos_token": not asked}
    ours = assert_same(write(tmp_path, "PreTrainedTokenizerFast", fields))
    assert [note.split(":")[0] for note in ours.notes] == (
        [
            "tokenizer_config.json says add_bos_token true, and tokenizer.json does not add '<s>'",
            "tokenizer_config.json says add_eos_token false, and tokenizer.json adds '</s>'",
        ]
        if asked
        else []
    )


def test_what_the_class_does_not_read_is_noted_where_it_contradicts(tmp_path):
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}
    (note,) = assert_same(write(tmp_path, "BertTokenizer", fields)).notes
    assert note.startswith("tokenizer_config.json says do_lower_case true, and tokenizer.json does not")


def test_older_files_of_added_and_special_tokens_are_read(tmp_path):
    folder = write(
        tmp_path,
        "BertTokenizer",
        {},
        special_tokens_map={
            "cls_token": {"content": "[CLS]", "lstrip": True},
            "additional_special_tokens": ["<ent>"],
        },
    )
    size = read(folder).size - 1
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": size, "<ent>": size + 1}))
    assert assert_same(folder).encode("the [ENT] x").ids[2] == size


def vocabulary(folder: Path, name: str, fields: dict[str, Any], **files: Any) -> Path:
    """A folder of a class with the older files alone: vocab.txt, or vocab.json and merges.txt."""
    write(folder, name, fields, **files)
    model = read_json(folder / "tokenizer.json")["model"]
    (folder / "tokenizer.json").unlink()
    if model["type"] == "WordPiece":
        words = sorted(model["vocab"], key=model["vocab"].get)
        (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    else:
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [" ".join(pair) for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["BertTokenizer", "RobertaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize(
    "fields", [{}, {"add_bos_token": True}, {"do_lower_case": True, "add_prefix_space": True}]
)
def test_a_vocabulary_alone_is_read_as_transformers_reads_it(tmp_path, name, fields):
    assert_same(vocabulary(tmp_path, name, fields))


def test_tokens_added_to_a_vocabulary_have_their_numbers(tmp_path):
    folder = vocabulary(tmp_path, "BertTokenizer", {})
    size = len((folder / "vocab.txt").read_text().splitlines())
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": size}))
    assert assert_same(folder).encode("the [ENT] x").ids[2] == size
    (folder / "added_tokens.json").write_text(json.dumps({"[ENT]": size + 7}))
    with pytest.raises(TextError, match=rf"'\[ENT\]' has the number {size}; its file says {size + 7}"):
        read(folder)


def test_lower_case_of_sentence_transformers_comes_before_all_else(tmp_path):
    folder = write(tmp_path, "GPT2Tokenizer", {})
    assert read(folder, lower=True).encode("THE Bank").tokens == read(folder).encode("the bank").tokens


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"unheard_of": 1}, "'unheard_of', a field that is not known"),
        ({"fix_mistral_regex": True}, "'fix_mistral_regex'"),
        ({"do_lower_case": "no"}, "do_lower_case of 'no'"),
        ({"truncation_side": "middle"}, "truncation_side is 'middle'"),
        ({"model_max_length": "512"}, "model_max_length of '512'"),
        ({"tokenizer_class": 7}, "tokenizer_class is 7"),
        ({"cls_token": 7}, "7 is no token"),
        ({"additional_special_tokens": "x"}, "additional_special_tokens is 'x'"),
        ({"added_tokens_decoder": {"one": "x"}}, "added_tokens_decoder must be"),
    ],
)
def test_what_cannot_be_obeyed_is_named(tmp_path, fields, reason):
    with pytest.raises(TextError) as refusal:
        read(write(tmp_path, "BertTokenizer", fields))
    assert reason in str(refusal.value)


def test_a_vocabulary_without_its_merges_is_refused(tmp_path):
    folder = vocabulary(tmp_path, "GPT2Tokenizer", {})
    (folder / "merges.txt").unlink()
    with pytest.raises(TextError, match=r"needs its merges\.txt"):
        read(folder)
