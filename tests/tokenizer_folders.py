"""Folders of small tokenizers, one a class of transformers, trained on a few lines, and variations."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    "The quick brown fox jumps over the lazy dog, and the river bank flooded the village.",
    "Grüße aus Köln: naïve café, don't they've it's 12345 67 89!",
    "She sat on the bank of the river 漢字 and sang; nobody came to help. <html> code(x) = y * 2",
] * 4
TEXTS = [
    "She sat on The Bank",
    " leading space, trailing ",
    "two  spaces\tand\na line",
    "Grüße aus KÖLN naïve Café",
    "漢字 mixed漢字words 12345",
    "don't they've it's",
    "a",
    "  ",
    "[MASK] <mask> [CLS] </s> <unk> <pad> [ENT] <ent> x",
    "😀 emoji and unknown ☃",
]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ANGLES = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def word_piece(special: list[str]) -> tokenizers.Tokenizer:
    unknown = "[UNK]"
    made = tokenizers.Tokenizer(models.WordPiece(unk_token=unknown))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=260, special_tokens=special))
    first, last = special[2], special[3]
    if "<s>" in special:
        first, last = "<s>", "</s>"
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(token, made.token_to_id(token)) for token in (first, last)],
    )
    return made


def byte_pairs(special: list[str], *, end: str = "") -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    if end:
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.token_to_id(end))]
        )
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def metaspaced(special: list[str]) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hexes = [f"<0x{number:02X}>" for number in range(256)]
    made.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=520, special_tokens=[*special, *hexes]))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    return made


def unigram(special: list[str], unknown: str) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        LINES, trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token=unknown)
    )
    state = json.loads(made.to_str())
    state["model"]["unk_id"] = special.index(unknown)
    return tokenizers.Tokenizer.from_str(json.dumps(state))


# By class: the model_type of the folder, the tokenizer, and the special tokens that its configuration names.
CLASSES: dict[str, tuple[str, Any, dict[str, str]]] = {
    "BertTokenizer": ("bert", lambda: word_piece(BRACKETS), {}),
    "DistilBertTokenizer": ("distilbert", lambda: word_piece(BRACKETS), {}),
    "MPNetTokenizer": ("mpnet", lambda: word_piece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]), {}),
    "RobertaTokenizer": ("roberta", lambda: byte_pairs(ANGLES), {}),
    "GPT2Tokenizer": ("gpt2", lambda: byte_pairs(["<|endoftext|>"]), {}),
    "GPTNeoXTokenizer": ("gpt_neox", lambda: byte_pairs(["<|endoftext|>", "<|padding|>"]), {}),
    "Qwen2Tokenizer": (
        "qwen3",
        lambda: byte_pairs(["<|endoftext|>", "<|im_end|>"], end="<|endoftext|>"),
        {"eos_token": "<|im_end|>"},
    ),
    "LlamaTokenizer": ("llama", lambda: metaspaced(["<unk>", "<s>", "</s>"]), {}),
    "GemmaTokenizer": (
        "gemma",
        lambda: metaspaced(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<s>"]),
        {},
    ),
    "XLMRobertaTokenizer": ("xlm-roberta", lambda: unigram(ANGLES, "<unk>"), {}),
    "CamembertTokenizer": (
        "camembert",
        lambda: unigram(["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<s>", "</s>", "<mask>"], "<unk>"),
        {},
    ),
    "T5Tokenizer": ("t5", lambda: unigram(["<pad>", "</s>", "<unk>"], "<unk>"), {}),
    "AlbertTokenizer": (
        "albert",
        lambda: unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"),
        {},
    ),
    "PreTrainedTokenizerFast": ("mistral", lambda: byte_pairs(ANGLES, end="</s>"), {}),
}

# What is varied, one at a time: fields of tokenizer_config.json.
FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"strip_accents": True},
    {"strip_accents": False, "do_lower_case": True},
    {"tokenize_chinese_chars": False},
    {"add_prefix_space": True},
    {"add_prefix_space": False},
    {"truncation_side": "left"},
    {"model_max_length": 7},
    {"model_max_length": 10**30},
    {"model_input_names": ["input_ids", "attention_mask"]},
    {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": False},
    {"additional_special_tokens": ["<ent>"]},
    {"extra_special_tokens": {"entity_token": "<ent>"}},
    {"split_special_tokens": True},
    {"legacy": True},
    {"legacy": False},
    {"keep_accents": True},
    {"trim_offsets": False},
    {"mask_token": {"__type": "AddedToken", "content": "[ENT]", "lstrip": True, "normalized": False}},
    {"padding_side": "left", "clean_up_tokenization_spaces": True, "chat_template": "{{ x }}"},
)


_TRAINED: dict[str, str] = {}  # by class, once in a run


def write(folder: Path, name: str, fields: dict[str, Any], **files: Any) -> Path:
    """Write a folder of one class with these fields; `files` are more JSON files by stem."""
    family, make, special = CLASSES[name]
    folder.mkdir(parents=True, exist_ok=True)
    if name not in _TRAINED:
        _TRAINED[name] = make().to_str()
    (folder / "tokenizer.json").write_text(_TRAINED[name], encoding="utf-8")
    config = {"tokenizer_class": name, **special, **fields}
    for stem, content in {"config": {"model_type": family}, "tokenizer_config": config, **files}.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder
