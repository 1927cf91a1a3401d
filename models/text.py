"""Text into tokens, with the `tokenizers` package and the model's own tokenizer files.

Padding and truncation that a file switches on are switched off: what is cut is counted and told. One
Tokenizer is called by many threads at once, so nothing of it is changed after it is made.
"""

import threading

import numpy as np
import tokenizers
from tokenizers import Encoding

from models.errors import TextError, TooLong
from models.protocol import Text
from models.reasons import is_panic
from models.tokenizer_build import Built, build
from models.tokenizer_files import TokenizerFiles

__all__ = ["NotATokenizer", "Tokenizer"]

MOST_CHARACTERS = 2**20  # of one text: a second's work, and more tokens than any model has positions for
MOST_CUTTERS = 4  # limits for which a truncating copy is kept


class NotATokenizer(TextError):
    """A file that is broken, rather than one that says what cannot be obeyed."""


class Tokenizer:
    """The tokenizer of one model folder."""

    def __init__(self, files: TokenizerFiles, *, vocabulary: int | None = None) -> None:
        """Read a tokenizer; raise TextError when it cannot be.

        `vocabulary`: rows of the model's embedding table; a text with a token beyond them is refused.
        """
        built = _built(files)
        self.notes = built.notes
        self._tokenizer = built.tokenizer
        self._typed, self._side = built.types, built.side
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._vocabulary = vocabulary
        self._cutters: dict[int, tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(
        self, text: str, pair: str | None = None, *, limit: int | None = None, truncate: bool = False
    ) -> Text:
        """Return the tokens of a text, or of a pair of texts, special ones included.

        Offsets count characters, in a pair each text's own. Over `limit` tokens (None: any number) raises
        TooLong; with `truncate` the text is cut instead, on the side that its
        files say, the longer of a pair first, special tokens kept, and `truncated` tells by how many
        tokens. Raises TextError for text without tokens or not readable.
        """
        for one in (text, pair or ""):
            _check(one)
        whole = _encode(self._tokenizer, text, pair)
        if len(whole.ids) == 0:
            raise TextError("the text has no tokens; give some words")
        kept = whole
        if limit is not None and len(whole.ids) > limit:
            if not truncate:
                raise TooLong(
                    f"the text has {len(whole.ids)} tokens, over the model's limit of {limit}; "
                    "shorten it or set truncate"
                )
            kept = self._cut(text, pair, limit)
        return self._text(kept, truncated=len(whole.ids) - len(kept.ids))

    def _text(self, encoding: Encoding, *, truncated: int) -> Text:
        ids = np.array(encoding.ids, dtype=np.int64)
        if self._vocabulary is not None and ids.max() >= self._vocabulary:
            token = encoding.tokens[int(ids.argmax())]
            raise TextError(f"token {token!a:.40} is beyond the model's {self._vocabulary} embeddings")
        type_ids = np.array(encoding.type_ids, dtype=np.int64) if self._typed else np.zeros_like(ids)
        return Text(
            ids=ids,
            type_ids=type_ids,
            tokens=tuple(encoding.tokens),
            offsets=tuple(encoding.offsets),
            special=tuple(mark == 1 for mark in encoding.special_tokens_mask),
            truncated=truncated,
            parts=tuple(part or 0 for part in encoding.sequence_ids),
        )

    def _cut(self, text: str, pair: str | None, limit: int) -> Encoding:
        """Return the encoding cut as the tokenizer itself cuts; raise TooLong where there is no room."""
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
                cutter.enable_truncation(max_length=limit, strategy="longest_first", direction=self._side)
                if len(self._cutters) >= MOST_CUTTERS:
                    self._cutters.pop(next(iter(self._cutters)))
                self._cutters[limit] = cutter
            return cutter


def _check(text: str) -> None:
    """Raise TextError for lone surrogates, which no tokenizer reads; TooLong for texts of absurd length."""
    if len(text) > MOST_CHARACTERS:
        raise TooLong(f"the text has {len(text)} characters, over the limit of {MOST_CHARACTERS}; split it")
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise TextError(
            f"the text has a lone surrogate at {problem.start}, which is no character; remove it"
        ) from None


def _encode(tokenizer: tokenizers.Tokenizer, text: str, pair: str | None) -> Encoding:
    try:
        return tokenizer.encode(text, pair)
    except MemoryError:  # no fault of the text's
        raise
    except BaseException as problem:  # the package raises nothing narrower, and panics
        if not isinstance(problem, Exception) and not is_panic(problem):
            raise
        raise TextError(f"the tokenizer cannot read this text: {str(problem)[:120]}") from problem


def _built(files: TokenizerFiles) -> Built:
    try:
        return build(files)
    except (TextError, MemoryError):
        raise
    except BaseException as problem:  # the package raises nothing narrower, and panics
        if not isinstance(problem, Exception) and not is_panic(problem):
            raise
        raise NotATokenizer(f"{files.file.name} is not a tokenizer: {str(problem)[:120]}") from problem
