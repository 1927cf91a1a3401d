"""The tokenizer classes of transformers whose rules are known here, in one table.

Of which model each is made, which special tokens it has unless a folder names others, and its rules
(`models/text/rules.py`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import Unigram

from models.text import rules
from models.text.rules import Options

Rules = Callable[[Tokenizer, Options], None]


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """One class: the model it is made of, special tokens unless others are named, and what it makes anew.

    `before` sets normalizer and pre-tokenizer, `after` what stands around a text.
    """

    model: str
    tokens: dict[str, str]
    before: Rules
    after: Rules
    types: bool = False  # whether a second text has types of its own
    extra: tuple[str, ...] = ()  # special tokens without a name
    settings: dict[str, Any] = field(default_factory=dict)  # of the model


def model_of(tokenizer: Tokenizer, kind: TokenizerClass, options: Options) -> Any:
    """Return the model of a tokenizer with the settings of a class, its vocabulary as it is."""
    model = tokenizer.model
    if kind.model != "Unigram":
        for name, value in kind.settings.items():
            setattr(model, name, value)
        return model
    state = json.loads(model.__getstate__())
    vocabulary = [(token, score) for token, score in state["vocab"]]
    unknown = kind.settings.get("unk_id")
    if unknown is None:
        texts = [token for token, _ in vocabulary]
        unknown = texts.index(options.token("unk_token")) if options.token("unk_token") in texts else 0
    if state.get("unk_id") == unknown and not state.get("byte_fallback"):
        return model
    return Unigram(vocabulary, unk_id=unknown, byte_fallback=False)


_BRACKETS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_BYTE_LEVEL = {"unk_token": None, "fuse_unk": False, "byte_fallback": False}
_END = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_WORD_PIECES = {"max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
_MERGES = {"dropout": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "ignore_merges": False}
_BYTES = _MERGES | _BYTE_LEVEL

BARE = TokenizerClass("", {}, rules.around_none, rules.around_none)  # a tokenizer.json as it stands
CLASSES: dict[str, TokenizerClass] = {
    "AlbertTokenizer": TokenizerClass(
        "Unigram",
        _BRACKETS | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
        rules.albert,
        rules.around_albert,
        settings={"unk_id": 1},
    ),
    "BertTokenizer": TokenizerClass(
        "WordPiece", _BRACKETS, rules.bert, rules.around_bert, types=True, settings=_WORD_PIECES
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram",
        _ANGLES,
        rules.pieces,
        rules.around_xlm_roberta,
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
    "DistilBertTokenizer": TokenizerClass(
        "WordPiece", _BRACKETS, rules.bert, rules.around_bert, settings=_WORD_PIECES
    ),
    "GPT2Tokenizer": TokenizerClass("BPE", _END, rules.byte_level, rules.around_none, settings=_BYTES),
    "GPTNeoXTokenizer": TokenizerClass(
        "BPE", _END | {"pad_token": "<|padding|>"}, rules.neox, rules.around_asked, settings=_BYTES
    ),
    "GemmaTokenizer": TokenizerClass(
        "BPE",
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        rules.gemma,
        rules.around_none,
        settings=_MERGES | {"fuse_unk": True, "byte_fallback": True},
    ),
    "LlamaTokenizer": TokenizerClass(
        "BPE",
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        rules.llama,
        rules.around_none,
        settings=_MERGES | {"unk_token": None, "fuse_unk": True, "byte_fallback": True},
    ),
    "MPNetTokenizer": TokenizerClass(
        "WordPiece", _ANGLES | {"unk_token": "[UNK]"}, rules.bert, rules.around_mpnet, settings=_WORD_PIECES
    ),
    "Qwen2Tokenizer": TokenizerClass(
        "BPE",
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
        rules.qwen2,
        rules.around_qwen2,
        settings=_BYTES,
    ),
    "RobertaTokenizer": TokenizerClass(
        "BPE", _ANGLES, rules.byte_level, rules.around_roberta, settings=_BYTES
    ),
    "T5Tokenizer": TokenizerClass(
        "Unigram",
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        rules.t5,
        rules.around_t5,
        extra=tuple(f"<extra_id_{number}>" for number in range(100)),
        settings={"unk_id": 2},
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", _ANGLES, rules.pieces, rules.around_xlm_roberta, settings={"unk_id": 3}
    ),
}
