"""What transformers' tokenizer classes do to a text, said with the `tokenizers` package alone.

transformers 5 takes from a tokenizer.json its vocabulary and what stands around a text, and makes the
rest anew as the class and its options say: what is lower-cased, what is split where. So is it here.
Source: transformers 5.23, `models/*/tokenization_*.py` and `tokenization_utils_tokenizers.py`.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors

SPACE = "▁"  # how SentencePiece writes a space
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


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


def template(tokenizer: Tokenizer, single: str, pair: str, *tokens: str) -> None:
    """Put tokens around a text, as templates of one and of two texts say."""
    ids = [
        (token, number)
        for token in dict.fromkeys(tokens)
        if (number := tokenizer.token_to_id(token)) is not None
    ]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def bert(tokenizer: Tokenizer, options: Options) -> None:
    """Split at white space, punctuation and Chinese characters; lower-case where the options say."""
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.flag("tokenize_chinese_chars", usual=True),
        strip_accents=options.flag("strip_accents", usual=None),
        lowercase=options.flag("do_lower_case", usual=True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.model.unk_token = options.token("unk_token")


def around_bert(tokenizer: Tokenizer, options: Options) -> None:
    """Put [CLS] A [SEP] B [SEP] around texts, the second of its own type."""
    first, last = options.token("cls_token"), options.token("sep_token")
    pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    template(tokenizer, f"{first}:0 $A:0 {last}:0", pair, first, last)


def pair_of(tokenizer: Tokenizer, options: Options, name: str) -> tuple[str, int]:
    """Return a special token and its id."""
    token = options.token(name)
    number = tokenizer.token_to_id(token)
    assert number is not None, "special tokens were added"
    return token, number


def around_mpnet(tokenizer: Tokenizer, options: Options) -> None:
    """Put <s> A </s> </s> B </s> around texts."""
    tokenizer.post_processor = processors.RobertaProcessing(
        pair_of(tokenizer, options, "sep_token"),
        pair_of(tokenizer, options, "cls_token"),
        trim_offsets=True,
        add_prefix_space=False,
    )


def byte_level(tokenizer: Tokenizer, options: Options) -> None:
    """Split as GPT-2 does, every byte a character."""
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False))
    )


def around_roberta(tokenizer: Tokenizer, options: Options) -> None:
    """Put <s> A </s> </s> B </s> around texts; offsets leave spaces out where the options say."""
    tokenizer.post_processor = processors.RobertaProcessing(
        pair_of(tokenizer, options, "sep_token"),
        pair_of(tokenizer, options, "cls_token"),
        trim_offsets=options.flag("trim_offsets", usual=True),
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False)),
    )


def neox(tokenizer: Tokenizer, options: Options) -> None:
    """Compose characters, then split as GPT-2 does."""
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(options.flag("add_prefix_space", usual=False)),
        trim_offsets=options.flag("trim_offsets", usual=True),
    )


def around_none(tokenizer: Tokenizer, options: Options) -> None:
    """Leave what a tokenizer.json puts around a text; there is none in a vocabulary alone."""
    if not options.from_json:
        around_asked(tokenizer, options)


def around_asked(tokenizer: Tokenizer, options: Options) -> None:
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
    template(tokenizer, single, pair, *filter(None, (bos, eos)))


def qwen2(tokenizer: Tokenizer, options: Options) -> None:
    """Compose characters, then split as Qwen2 does, every digit by itself."""
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated", invert=False)
    space = bool(options.flag("add_prefix_space", usual=False))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])


def around_qwen2(tokenizer: Tokenizer, options: Options) -> None:
    """Leave what the file puts around a text; special tokens take no space in."""
    around_none(tokenizer, options)
    tokenizer.add_tokens([AddedToken(token.content, special=True) for token in options.tokens.values()])


def llama(tokenizer: Tokenizer, options: Options) -> None:
    """Write spaces as marks, one before the text; nothing is split."""
    space = options.flag("add_prefix_space", usual=None)
    scheme = "always" if options.flag("legacy", usual=False) else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme="never" if space is False else scheme, split=False
    )


def gemma(tokenizer: Tokenizer, options: Options) -> None:
    """Write spaces as marks; nothing is split."""
    tokenizer.model.unk_token = options.token("unk_token")
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)


def pieces(tokenizer: Tokenizer, options: Options, *, space: bool | None = None) -> None:
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


def around_xlm_roberta(tokenizer: Tokenizer, options: Options) -> None:
    """Put <s> A </s> </s> B </s> around texts."""
    first, last = options.token("bos_token"), options.token("eos_token")
    template(tokenizer, f"{first} $A {last}", f"{first} $A {last} {last} $B {last}", first, last)


def t5(tokenizer: Tokenizer, options: Options) -> None:
    """Split at white space, a mark before each word, whatever the options say."""
    pieces(tokenizer, options, space=True)


def around_t5(tokenizer: Tokenizer, options: Options) -> None:
    """Put the end token after each text."""
    number = tokenizer.token_to_id(options.token("eos_token"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", number)]
    )


def albert(tokenizer: Tokenizer, options: Options) -> None:
    """Write quotes alike, take accents off and lower-case where the options say, then split into pieces."""
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not options.flag("keep_accents", usual=False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if options.flag("do_lower_case", usual=True):
        steps.append(normalizers.Lowercase())
    if options.charsmap is not None:
        steps.append(normalizers.Precompiled(options.charsmap))
    pieces(tokenizer, options)
    tokenizer.normalizer = normalizers.Sequence(steps)


def around_albert(tokenizer: Tokenizer, options: Options) -> None:
    """Put [CLS] A [SEP] B [SEP] around texts, the second of its own type."""
    ids = [
        (name, tokenizer.token_to_id(options.token(token)))
        for name, token in (("[CLS]", "cls_token"), ("[SEP]", "sep_token"))
    ]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=ids
    )


def charsmap_of(tokenizer: Tokenizer) -> bytes | None:
    """Return SentencePiece's table of characters, where a tokenizer's normalizer has one."""
    if tokenizer.normalizer is None:
        return None
    state = json.loads(tokenizer.normalizer.__getstate__())
    for step in state.get("normalizers", [state]):
        if step.get("type") == "Precompiled":
            return base64.b64decode(step["precompiled_charsmap"])
    return None
