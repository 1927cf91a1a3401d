"""Text into tokens, with the `tokenizers` package alone and the model's own tokenizer file.

Padding and truncation that a file switches on are switched off: what is cut is counted and told. One
Tokenizer is called by many threads at once, so nothing of it is changed after it is made.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from tokenizers import Encoding
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from models.config import read_json
from models.errors import SpecError, TextError, TooLong
from models.protocol import ModelCard, Text

__all__ = ["Tokenizer", "read_text"]

MOST_CHARACTERS = 2**20  # of one text: a second's work, and more tokens than any model has positions for
SPECIAL_TOKENS = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}
MOST_CUTTERS = 4  # limits for which a truncating copy is kept
Made = TypeVar("Made")
LIVE = ("_tokenizer", "_cutters", "_lock")  # of a Tokenizer; the rest is plain data


def read_text(
    tokenizer: "Tokenizer | None", card: ModelCard, text: str, pair: str | None, *, truncate: bool
) -> Text:
    """Return the tokens of a text as a model reads it; raise TextError, TooLong unless `truncate`."""
    if tokenizer is None or "text" not in card.inputs:
        raise TextError(f"model {card.name} has no tokenizer; send embeddings")
    return tokenizer.encode(text, pair, limit=card.max_tokens, truncate=truncate)


class Tokenizer:
    """The tokenizer of one model folder, from `tokenizer.json` or from a BERT `vocab.txt`."""

    def __init__(self, file: Path, *, vocabulary: int | None = None) -> None:
        """Read a tokenizer; raise TextError when it cannot be.

        `vocabulary`: rows of the model's embedding table; a text with a token beyond them is refused.
        """
        self._tokenizer = _read(file)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._vocabulary = vocabulary
        self._cutters: dict[int, tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()

    def written(self) -> dict[str, Any]:
        """Return all of it as plain data, for `read` in another process."""
        plain = {name: value for name, value in vars(self).items() if name not in LIVE}
        return {"json": self._tokenizer.to_str(), "fields": plain}

    @classmethod
    def read(cls, written: dict[str, Any]) -> "Tokenizer":
        """Return the tokenizer that was `written`; raise TextError when it cannot be made."""
        tokenizer = _guarded(
            lambda: tokenizers.Tokenizer.from_str(written["json"]), "this is not a tokenizer"
        )
        made = cls.__new__(cls)
        live = dict(zip(LIVE, (tokenizer, {}, threading.Lock()), strict=True))
        vars(made).update(written["fields"], **live)
        return made

    @property
    def size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(
        self, text: str, pair: str | None = None, *, limit: int | None = None, truncate: bool = False
    ) -> Text:
        """Return the tokens of a text, or of a pair of texts, special ones included.

        Offsets count characters, in a pair each text's own. Over `limit` tokens (None: any number) raises
        TooLong; with `truncate` the text is cut instead, the longer of a pair first, special tokens kept,
        and `truncated` tells by how many tokens. Raises TextError for text without tokens or not readable.
        """
        for one in (text, pair or ""):
            _check(one)
        whole = _encode(self._tokenizer, text, pair)
        if len(whole.ids) == 0:
            raise TextError("the text has no tokens; give some words")
        kept = whole
        if limit is not None and len(whole.ids) > limit:
            kept = self._cut(text, pair, limit, whole=len(whole.ids), truncate=truncate)
        return self._text(kept, truncated=len(whole.ids) - len(kept.ids))

    def _text(self, encoding: Encoding, *, truncated: int) -> Text:
        ids = np.array(encoding.ids, dtype=np.int64)
        if self._vocabulary is not None and ids.max() >= self._vocabulary:
            token = encoding.tokens[int(ids.argmax())]
            raise TextError(f"token {token!a:.40} is beyond the model's {self._vocabulary} embeddings")
        return Text(
            ids=ids,
            type_ids=np.array(encoding.type_ids, dtype=np.int64),
            tokens=tuple(encoding.tokens),
            offsets=tuple(encoding.offsets),
            special=tuple(mark == 1 for mark in encoding.special_tokens_mask),
            truncated=truncated,
            parts=tuple(part or 0 for part in encoding.sequence_ids),
        )

    def _cut(self, text: str, pair: str | None, limit: int, *, whole: int, truncate: bool) -> Encoding:
        """Return the encoding cut as the tokenizer itself cuts; raise TooLong where that may not be."""
        if not truncate:
            raise TooLong(
                f"the text has {whole} tokens, over the model's limit of {limit}; shorten it or set truncate"
            )
        special = self._tokenizer.num_special_tokens_to_add(pair is not None)
        if special >= limit:
            raise TooLong(f"a limit of {limit} tokens has no room for text beside {special} special tokens")
        return _encode(self._cutter(limit), text, pair)

    def _cutter(self, limit: int) -> tokenizers.Tokenizer:
        """Return a copy that truncates to `limit` tokens, so that no setting is switched while in use."""
        with self._lock:
            cutter = self._cutters.get(limit)
            if cutter is None:
                cutter = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
                cutter.enable_truncation(max_length=limit, strategy="longest_first")
                if len(self._cutters) >= MOST_CUTTERS:
                    self._cutters.pop(next(iter(self._cutters)))
                self._cutters[limit] = cutter
            return cutter


def _check(text: str) -> None:
    """Raise TextError for what no tokenizer reads: lone surrogates, NUL; and for texts of absurd length."""
    if len(text) > MOST_CHARACTERS:
        raise TooLong(f"the text has {len(text)} characters, over the limit of {MOST_CHARACTERS}; split it")
    if "\0" in text:
        raise TextError(f"the text has a NUL character at {text.index(chr(0))}; remove it")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise TextError(
            f"the text has a lone surrogate at {problem.start}, which is no character; remove it"
        ) from None


def _encode(tokenizer: tokenizers.Tokenizer, text: str, pair: str | None) -> Encoding:
    return _guarded(lambda: tokenizer.encode(text, pair), "the tokenizer cannot read this text")


def _guarded(work: Callable[[], Made], trouble: str) -> Made:
    """Return what a call of the package returns, whatever it raises as TextError.

    It raises nothing narrower than Exception, and when it panics, not even that.
    """
    try:
        return work()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:
        raise TextError(f"{trouble}: {str(problem)[:120]}") from problem


def _read(file: Path) -> tokenizers.Tokenizer:
    try:
        return _word_piece(file) if file.name == "vocab.txt" else tokenizers.Tokenizer.from_file(str(file))
    except (TextError, SpecError) as problem:
        raise TextError(f"there is no tokenizer: {problem}") from problem
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as problem:  # as in `_guarded`
        raise TextError(f"{file.name} is not a tokenizer: {str(problem)[:120]}") from problem


def _word_piece(file: Path) -> tokenizers.Tokenizer:
    """Build BERT's tokenizer from its vocabulary, one token a line, as `tokenizer_config.json` sets it up.

    Devlin et al. 2019: basic tokenization, greedy longest-match-first word pieces, [CLS] A [SEP] B [SEP].
    """
    with file.open(encoding="utf-8") as lines:
        ids = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    options = _options(file.with_name("tokenizer_config.json"))
    unknown, first, last, *others = (str(options.get(name, usual)) for name, usual in SPECIAL_TOKENS.items())
    for token in (unknown, first, last):
        if token not in ids:
            raise TextError(f"vocab.txt has no {token!a:.40}; without a tokenizer.json it must be BERT's")
    tokenizer = tokenizers.Tokenizer(WordPiece(ids, unk_token=unknown, max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(
        lowercase=options.get("do_lower_case", True),
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, ids[first]), (last, ids[last])],
    )
    tokenizer.add_special_tokens([token for token in (unknown, first, last, *others) if token in ids])
    return tokenizer


def _options(file: Path) -> dict[str, Any]:
    """Return the options of a tokenizer_config.json, if there is one; a token may be given as an object."""
    if not file.is_file():
        return {}
    return {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in read_json(file).items()
    }
