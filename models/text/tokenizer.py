"""Text into tokens, with the `tokenizers` package and the model's own tokenizer files.

Padding and truncation that a file switches on are switched off: what is cut is counted and told. One
Tokenizer is called by many threads at once, so nothing of it is changed after it is made. A text is refused
by its bytes before it is read.
"""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, chain
from typing import Any, TypedDict, Unpack

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Encoding

from models.errors import TextError, TooLong
from models.protocol import Side, Text
from models.text.calls import encode, encode_all, guarded
from models.text.cut import cuts_by_place, kept
from models.text.files import TokenizerFiles
from models.text.safe import build_safely

# What one text may have, whatever its tokens: white space and unknown words of any length may be one token or
# none, so that no number of bytes is surely too many. 8 a token is about twice what texts have; under the
# first number none is refused, which takes a tenth of a second and some 40 MB to read.
FEW_BYTES, BYTES_A_TOKEN = 2**17, 8
MOST_BYTES = 2**20  # where there is no limit of tokens
MOST_TOKENS_A_BYTE = 64  # normalizers make at most 18 characters of one
LEAST_MS, UNKNOWN_MS = 0.05, 1e6
SAMPLES = tuple(
    (words * 1024)[:1024] for words in ("She sat, on the bank; ", "漢字かな", "\U0001f600é", "a!? 1")
)
MOST_CUTTERS = 4  # limits for which a truncating copy is kept
LIVE = ("_tokenizer", "_by_place", "_cutters", "_lock")  # of a Tokenizer; the rest is plain data


class EncodingLimits(TypedDict, total=False):
    """The limits of one text, in tokens; see `Tokenizer.encode`."""

    limit: int | None
    truncate: bool
    most: int | None
    side: Side | None


class Tokenizer:
    """The tokenizer of one model folder."""

    def __init__(self, files: TokenizerFiles, *, vocabulary: int | None = None) -> None:
        """Read a tokenizer; raise TextError when it cannot be.

        `vocabulary`: rows of the model's embedding table; a text with a token beyond them is refused.
        """
        built = build_safely(files)
        self.notes = built.notes
        self._tokenizer = built.tokenizer
        self._typed, self._side, self._tried = built.types, built.side, built.tried
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._vocabulary = vocabulary
        self._by_place = _cut_by_place(self._tokenizer)
        self._cutters: dict[tuple[int, Side], tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()

    def written(self) -> dict[str, Any]:
        """Return all of it as plain data, for `read` in another process."""
        plain = {name: value for name, value in vars(self).items() if name not in LIVE}
        return {"json": self._tokenizer.to_str(), "fields": plain}

    @classmethod
    def read(cls, written: dict[str, Any]) -> "Tokenizer":
        """Return the tokenizer that was `written`; raise TextError when it cannot be made."""
        tokenizer = guarded(lambda: tokenizers.Tokenizer.from_str(written["json"]), "this is not a tokenizer")
        made = cls.__new__(cls)
        live = dict(zip(LIVE, (tokenizer, _cut_by_place(tokenizer), {}, threading.Lock()), strict=True))
        vars(made).update(written["fields"], **live)
        return made

    @property
    def size(self) -> int:
        """How many tokens there are, added ones included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def special(self) -> int:
        """How many tokens are put around one text."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def spelled(self, ids: Sequence[int]) -> list[str | None]:
        """Return tokens as `Text.tokens` has them; None for what is none: a model may have more rows."""
        return [self._tokenizer.id_to_token(one) for one in ids]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token that is spelt so."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of tokens as the tokenizer writes it; ids that are none are passed over."""
        return guarded(
            lambda: self._tokenizer.decode(ids, skip_special_tokens=skip_special),
            "the tokenizer cannot write these ids",
        )

    def milliseconds(self) -> float:
        """Return what 1,024 characters take of the processor, of the slowest of a few kinds; measured now.

        Of a tokenizer whose time depends on the text in ways that nobody knows, more than any request has.
        """
        if self._tried:
            return UNKNOWN_MS
        slowest = LEAST_MS
        for sample in SAMPLES:
            with suppress(TextError):
                slowest = max(slowest, min(self._seconds(sample) for _ in range(2)) * 1000)
        return slowest

    def _seconds(self, text: str) -> float:
        before = time.thread_time()
        self.encode(text)
        return time.thread_time() - before

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        special: bool = True,
        whole: bool = False,
        **limits: Unpack[EncodingLimits],
    ) -> Text:
        """Return the tokens of a text, or of a pair of texts, with or without special ones.

        Offsets count characters of the text, or of its own one of a pair. A text of over `limit` tokens is
        TooLong, or, with `truncate`, cut: on `side`, or where its files say, the longer of a pair first,
        special tokens kept; `truncated` tells by how many tokens. What is left over `most` is TooLong, and so
        is a text of more bytes than so many tokens may have. Raises TextError for one that has none. `whole`:
        the limit is of its bytes only, and it may have no tokens.
        """
        limit, most = limits.get("limit"), limits.get("most")
        size = _size((text, pair or ""), most_bytes(limit, most), limit if limit is not None else most)
        found = encode(self._tokenizer, text, pair, special=special)
        count = len(found)
        if count == 0 and not whole:
            raise TextError("the text has no tokens; give some words")
        self._check_number(count, size, pair=pair is not None)
        left = count if whole or limit is None else min(limit, count)
        if left < count and not limits.get("truncate"):
            raise TooLong(
                f"the text has {count} tokens, over the model's limit of {limit}; shorten it or set truncate"
            )
        if most is not None and left > most:
            raise TooLong(f"the text has {left} tokens, the server's limit is {most}; send a shorter one")
        return self._text(found) if left == count else self._cut(found, text, pair, left, limits)

    def encode_all(self, texts: Sequence[str], **limits: Unpack[EncodingLimits]) -> tuple[list[Text], bool]:
        """Return ids and types of each text as `encode` makes them, and whether any type is not 0.

        Their `tokens`, `offsets`, `special` and `parts` are left empty, which saves half of the time. Raises
        as `encode` does.
        """
        limit, most = limits.get("limit"), limits.get("most")
        tokens = limit if limit is not None else most
        sizes = [_size((text, ""), most_bytes(limit, most), tokens) for text in texts]
        found = encode_all(self._tokenizer, texts)
        counts = [len(one) for one in found]
        for count, size in zip(counts, sizes, strict=True):
            self._check_number(count, size, pair=False)
        ids = np.fromiter(chain.from_iterable(one.ids for one in found), np.int64, sum(counts))
        allowed = min((one for one in (limit, most) if one is not None), default=max(counts))
        known = self._vocabulary is None or not ids.size or ids.max() < self._vocabulary
        if min(counts) == 0 or max(counts) > allowed or not known:  # to be cut, or refused for a reason
            return [self.encode(one, **limits) for one in texts], self._typed
        types = [one.type_ids for one in found] if self._typed else []
        typed = any(map(any, types))
        type_ids = (
            np.fromiter(chain.from_iterable(types), np.int64, len(ids)) if typed else np.zeros_like(ids)
        )
        return [
            Text(ids=ids[end - count : end], type_ids=type_ids[end - count : end])
            for count, end in zip(counts, accumulate(counts), strict=True)
        ], typed

    def _check_number(self, count: int, size: int, *, pair: bool) -> None:
        """Raise TextError where there are more tokens than any honest tokenizer makes of so many bytes."""
        around = self._tokenizer.num_special_tokens_to_add(pair)
        if count > MOST_TOKENS_A_BYTE * size + around:
            raise TextError(
                f"the tokenizer makes {count} tokens of {size} bytes, over {MOST_TOKENS_A_BYTE} of each; "
                "mend the model's tokenizer.json"
            )

    def _text(
        self, encoding: Encoding, *, places: NDArray[np.intp] | None = None, truncated: int = 0
    ) -> Text:
        """Return a whole encoding, or what is left of it at some of its places."""
        ids = np.array(encoding.ids, dtype=np.int64)
        tokens, parts, marks = encoding.tokens, encoding.sequence_ids, encoding.special_tokens_mask
        type_ids = np.array(encoding.type_ids, dtype=np.int64) if self._typed else np.zeros_like(ids)
        if places is None:
            offsets = encoding.offsets
        else:
            ids, type_ids, chosen = ids[places], type_ids[places], places.tolist()
            tokens, parts, marks = ([those[at] for at in chosen] for those in (tokens, parts, marks))
            found = (encoding.token_to_chars(at) for at in chosen)  # of few: a list of all takes megabytes
            offsets = [(0, 0) if one is None else one for one in found]
        if self._vocabulary is not None and ids.size and ids.max() >= self._vocabulary:
            token = tokens[int(ids.argmax())]
            raise TextError(f"token {token!a:.40} is beyond the model's {self._vocabulary} embeddings")
        return Text(
            ids=ids,
            type_ids=type_ids,
            tokens=tuple(tokens),
            offsets=tuple(offsets),
            special=tuple(mark == 1 for mark in marks),
            truncated=truncated,
            parts=tuple(part or 0 for part in parts),
        )

    def _cut(self, whole: Encoding, text: str, pair: str | None, left: int, limits: EncodingLimits) -> Text:
        """Return a text cut as the tokenizer itself cuts; raise TooLong where there is no room."""
        side = limits.get("side") or self._side
        special = self._tokenizer.num_special_tokens_to_add(pair is not None)
        if special >= left:
            raise TooLong(f"a limit of {left} tokens has no room for text beside {special} special tokens")
        if not self._by_place[side]:
            cut = encode(self._cutter(left, side), text, pair)
            return self._text(cut, truncated=len(whole) - len(cut))
        parts = np.array([-1 if part is None else part for part in whole.sequence_ids], dtype=np.int64)
        places = kept(parts, left - special, pair=pair is not None, side=side)
        return self._text(whole, places=places, truncated=len(parts) - len(places))

    def _cutter(self, limit: int, side: Side) -> tokenizers.Tokenizer:
        """Return a copy that truncates to `limit` tokens, so that no setting is switched while in use."""
        with self._lock:
            cutter = self._cutters.get((limit, side))
            if cutter is None:
                cutter = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
                cutter.enable_truncation(max_length=limit, strategy="longest_first", direction=side)
                if len(self._cutters) >= MOST_CUTTERS:
                    self._cutters.pop(next(iter(self._cutters)))
                self._cutters[limit, side] = cutter
            return cutter


def _cut_by_place(tokenizer: tokenizers.Tokenizer) -> dict[Side, bool]:
    return {"left": cuts_by_place(tokenizer, "left"), "right": cuts_by_place(tokenizer, "right")}


def most_bytes(*limits: int | None) -> int:
    """Return how many bytes a text may have that is to be of so many tokens, the least of the limits."""
    tokens = min((limit for limit in limits if limit is not None), default=None)
    return MOST_BYTES if tokens is None else max(FEW_BYTES, BYTES_A_TOKEN * tokens)


def _size(texts: tuple[str, str], most: int, tokens: int | None) -> int:
    """Return the bytes of a text and its pair, in UTF-8.

    Raises TooLong over `most` of them, TextError for lone surrogates, which no tokenizer reads.
    """
    size = sum(map(len, texts))  # characters, which are no more than the bytes: looked at first
    try:
        size = size if size > most else sum(len(text.encode()) for text in texts)
    except UnicodeEncodeError as problem:
        raise TextError(
            f"the text has a lone surrogate at {problem.start}, which is no character; remove it"
        ) from None
    if size > most:
        of = "" if tokens is None else f" for {tokens} tokens"
        raise TooLong(
            f"the text has {size} bytes, over the limit of {most}{of}; split it, or cut it yourself"
        )
    return size
