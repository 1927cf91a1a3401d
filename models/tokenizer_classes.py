"""The rules of transformers' tokenizer classes, said with the `tokenizers` package alone.

transformers 5 takes from a tokenizer.json its vocabulary and what stands around a text, and makes the
rest anew as the class and its options say: what is lower-cased, what is split where. So is it here.
Source: transformers 5.23, `models/*/tokenization_*.py` and `tokenization_utils_tokenizers.py`.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

__all__ = ["BARE", "CLASSES", "Options", "TokenizerClass", "charsmap_of", "model_of"]

SPACE = "▁"  # how SentencePiece writes a space
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTE_LEVEL = {"unk_token": None, "fuse_unk": False, "byte_fallback": False}


@dataclass(frozen=True, slots=True)
class Options:
    """What a class is given: fields of tokenizer_config.json, special tokens by name, a charsmap."""

    fields: dict[str, Any]
    tokens: dict[str, AddedToken]
    charsmap: bytes | None = None
    from_json: bool = True  # rather than from a vocabulary alone

    def flag(self, name: str, *, usual: Any) -> Any:
        """Return an option, or what it usually is."""
        return self.fields.get(name, usual)

    def token(self, name: str) -> str:
        """Return the text of a special token."""
        return str(self.tokens[name].content)


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


def _template(tokenizer: Tokenizer, single: str, pair: str, *tokens: str) -> None:
    ids = [
        (token, number)
        for token in dict.fromkeys(tokens)
        if (number := tokenizer.token_to_id(token)) is not None
    ]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _bert(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.flag("tokenize_chinese_chars", usual=True),
        strip_accents=options.flag("strip_accents", usual=None),
        lowercase=options.flag("do_lower_case", usual=True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.model.unk_token = options.token("unk_token")


def _around_bert(tokenizer: Tokenizer, options: Options) -> None:
    first, last = options.token("cls_token"), options.token("sep_token")
    pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    _template(tokenizer, f"{first}:0 $A:0 {last}:0", pair, first, last)


def _pair_of(tokenizer: Tokenizer, options: Options, name: str) -> tuple[str, int]:
    """Return a special token and its id."""
    token = options.token(name)
    number = tokenizer.token_to_id(token)
    assert number is not None, "special tokens were added"
    return token, number


def _around_mpnet(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.post_processor = processors.RobertaProcessing(
        _pair_of(tokenizer, options, "sep_token"),
        _pair_of(tokenizer, options, "cls_token"),
        trim_offsets=True,
        add_prefix_space=False,
    )


def _byte_level(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False))
    )


def _around_roberta(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.post_processor = processors.RobertaProcessing(
        _pair_of(tokenizer, options, "sep_token"),
        _pair_of(tokenizer, options, "cls_token"),
        trim_offsets=options.flag("trim_offsets", usual=True),
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False)),
    )


def _neox(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False)),
        trim_offsets=options.flag("trim_offsets", usual=True),
    )


def _around_none(tokenizer: Tokenizer, options: Options) -> None:
    """Leave what a tokenizer.json puts around a text; there is none in a vocabulary alone."""
    if not options.from_json:
        _around_asked(tokenizer, options)


def _around_asked(tokenizer: Tokenizer, options: Options) -> None:
    """Put add_bos_token and add_eos_token around a text; beside a tokenizer.json they say nothing."""
    asked = {
        name: options.token(f"{name}_token")
        for name in ("bos", "eos")
        if options.fields.get(f"add_{name}_token")
        and f"{name}_token" in options.tokens
        and not options.from_json
    }
    bos, eos = asked.get("bos", ""), asked.get("eos", "")
    before, after = f"{bos}:0 " * bool(bos), f" {eos}:0" * bool(eos)
    single = f"{before}$A:0{after}"
    pair = f"{single}{f' {bos}:1' * bool(bos)} $B:1{f' {eos}:1' * bool(eos)}"
    _template(tokenizer, single, pair, *filter(None, (bos, eos)))


def _qwen2(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated", invert=False)
    space = bool(options.flag("add_prefix_space", usual=False))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])


def _around_qwen2(tokenizer: Tokenizer, options: Options) -> None:
    _around_none(tokenizer, options)
    tokenizer.add_tokens([AddedToken(token.content, special=True) for token in options.tokens.values()])


def _llama(tokenizer: Tokenizer, options: Options) -> None:
    space = options.flag("add_prefix_space", usual=None)
    scheme = "always" if options.flag("legacy", usual=False) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="never" if space is False else scheme, split=False
    )


def _gemma(tokenizer: Tokenizer, options: Options) -> None:
    tokenizer.model.unk_token = options.token("unk_token")
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)


def _pieces(tokenizer: Tokenizer, options: Options, *, space: bool | None = None) -> None:
    """Split at white space, each word with a mark before it: SentencePiece's unigrams."""
    if options.charsmap is not None:
        tokenizer.normalizer = normalizers.Precompiled(options.charsmap)
    space = options.flag("add_prefix_space", usual=True) if space is None else space
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always" if space else "never"),
        ]
    )


def _around_xlm_roberta(tokenizer: Tokenizer, options: Options) -> None:
    first, last = options.token("bos_token"), options.token("eos_token")
    _template(tokenizer, f"{first} $A {last}", f"{first} $A {last} {last} $B {last}", first, last)


def _t5(tokenizer: Tokenizer, options: Options) -> None:
    _pieces(tokenizer, options, space=True)


def _around_t5(tokenizer: Tokenizer, options: Options) -> None:
    number = tokenizer.token_to_id(options.token("eos_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", number)]
    )


def _albert(tokenizer: Tokenizer, options: Options) -> None:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not options.flag("keep_accents", usual=False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if options.flag("do_lower_case", usual=True):
        steps.append(normalizers.Lowercase())
    if options.charsmap is not None:
        steps.append(normalizers.Precompiled(options.charsmap))
    _pieces(tokenizer, options)
    tokenizer.normalizer = normalizers.Sequence(steps)


def _around_albert(tokenizer: Tokenizer, options: Options) -> None:
    ids = [
        (name, tokenizer.token_to_id(options.token(token)))
        for name, token in (("[CLS]", "cls_token"), ("[SEP]", "sep_token"))
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )


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


def charsmap_of(tokenizer: Tokenizer) -> bytes | None:
    """Return SentencePiece's table of characters, where a tokenizer's normalizer has one."""
    if tokenizer.normalizer is None:
        return None
    state = json.loads(tokenizer.normalizer.__getstate__())
    for step in state.get("normalizers", [state]):
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return None


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
_END = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_WORD_PIECES = {"max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
_MERGES = {"dropout": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "ignore_merges": False}
_BYTES = _MERGES | BYTE_LEVEL

BARE = TokenizerClass("", {}, _around_none, _around_none)  # a tokenizer.json as it stands
CLASSES: dict[str, TokenizerClass] = {
    "AlbertTokenizer": TokenizerClass(
        "Unigram",
        _BRACKETS | {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
        _albert,
        _around_albert,
        settings={"unk_id": 1},
    ),
    "BertTokenizer": TokenizerClass(
        "WordPiece", _BRACKETS, _bert, _around_bert, types=True, settings=_WORD_PIECES
    ),
    "CamembertTokenizer": TokenizerClass(
        "Unigram",
        _ANGLES,
        _pieces,
        _around_xlm_roberta,
        extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
    ),
    "DistilBertTokenizer": TokenizerClass("WordPiece", _BRACKETS, _bert, _around_bert, settings=_WORD_PIECES),
    "GPT2Tokenizer": TokenizerClass("BPE", _END, _byte_level, _around_none, settings=_BYTES),
    "GPTNeoXTokenizer": TokenizerClass(
        "BPE", _END | {"pad_token": "<|padding|>"}, _neox, _around_asked, settings=_BYTES
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
        _gemma,
        _around_none,
        settings=_MERGES | {"fuse_unk": True, "byte_fallback": True},
    ),
    "LlamaTokenizer": TokenizerClass(
        "BPE",
        {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
        _llama,
        _around_none,
        settings=_MERGES | {"unk_token": None, "fuse_unk": True, "byte_fallback": True},
    ),
    "MPNetTokenizer": TokenizerClass(
        "WordPiece", _ANGLES | {"unk_token": "[UNK]"}, _bert, _around_mpnet, settings=_WORD_PIECES
    ),
    "Qwen2Tokenizer": TokenizerClass(
        "BPE",
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
        _qwen2,
        _around_qwen2,
        settings=_BYTES,
    ),
    "RobertaTokenizer": TokenizerClass("BPE", _ANGLES, _byte_level, _around_roberta, settings=_BYTES),
    "T5Tokenizer": TokenizerClass(
        "Unigram",
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        _t5,
        _around_t5,
        extra=tuple(f"<extra_id_{number}>" for number in range(100)),
        settings={"unk_id": 2},
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram", _ANGLES, _pieces, _around_xlm_roberta, settings={"unk_id": 3}
    ),
}
