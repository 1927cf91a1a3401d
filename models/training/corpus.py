"""A text file as training reads it: a tokenizer made from its words, pieces of token ids, batches of them.

Paragraphs, separated by blank lines, are the documents: a token attends to its own paragraph only. Long
ones are cut into pieces. What a step reads follows from seed and step alone, so nothing needs saving.
No torch here.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

from models.errors import SpecError

Ids = NDArray[np.int64]

UNKNOWN, UNKNOWN_ID = "[UNK]", 0
NO_TARGET = -100  # what cross_entropy passes over
HELD_OUT_SHARE = 10  # one different piece in ten is never trained on
SPLIT = -1  # stands before the epochs 0, 1, 2…


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The pieces of a text, int64 [2..context + 1] each, some held out, and how it was made into tokens."""

    tokenizer: Tokenizer
    training: list[Ids]
    held_out: list[Ids]
    sha256: str  # of the text

    @property
    def vocabulary(self) -> int:
        """How many token ids there are."""
        return int(self.tokenizer.get_vocab_size())

    def unigram(self) -> float:
        """Return the held-out cross-entropy, in nats a token, of a model that knows frequencies only.

        Frequencies are those of the training pieces' targets, one added to each.
        """
        counts = np.ones(self.vocabulary)
        for piece in self.training:
            np.add.at(counts, piece[1:], 1)
        surprise = -np.log(counts / counts.sum())
        targets = np.concatenate([piece[1:] for piece in self.held_out])
        return float(surprise[targets].mean())


def read(text: str, *, context: int, vocabulary: int, seed: int) -> Corpus:
    """Make a corpus of a text; the `vocabulary` most frequent words have ids, others are unknown.

    Raises SpecError for a text too short to hold a part of it out.
    """
    paragraphs = [one for part in re.split(r"\n\s*\n", text) if (one := part.strip())]
    tokenizer = _word_tokenizer(paragraphs, limit=vocabulary)
    encoded = tokenizer.encode_batch(paragraphs)
    pieces = [piece for one in encoded for piece in _cut(np.array(one.ids, dtype=np.int64), context)]
    training, held_out = _split(pieces, seed)
    if not training or not held_out:
        raise SpecError(
            f"the text has {len(pieces)} pieces of at most {context} tokens, too few different ones "
            "to train on some and measure on others; give a longer text or a smaller context"
        )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Corpus(tokenizer=tokenizer, training=training, held_out=held_out, sha256=digest)


def drawn(step: int, *, count: int, size: int, seed: int) -> Ids:
    """Return which of `count` pieces a step reads, int64 [size]: shuffled epochs, end to end."""
    places = np.arange(step * size, (step + 1) * size)
    return np.array([_permutation(seed, int(at) // count, count)[at % count] for at in places])


def batch(pieces: Sequence[Ids]) -> tuple[Ids, Ids]:
    """Return inputs and next-token targets, int64 [B, T] each, padded at the end (NO_TARGET in targets).

    Attention is causal, so no token reads the padding after it.
    """
    length = max(len(piece) for piece in pieces) - 1
    inputs = np.full((len(pieces), length), UNKNOWN_ID, dtype=np.int64)
    targets = np.full((len(pieces), length), NO_TARGET, dtype=np.int64)
    for row, piece in enumerate(pieces):
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    return inputs, targets


def _word_tokenizer(paragraphs: Sequence[str], *, limit: int) -> Tokenizer:
    """Make a tokenizer of lower-case words and punctuation, ids by frequency, ties by spelling."""
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.Whitespace()
    counts: Counter[str] = Counter()
    for paragraph in paragraphs:
        words: list[tuple[str, Any]] = splitter.pre_tokenize_str(normalizer.normalize_str(paragraph))
        counts.update(word for word, _ in words)
    kept = sorted(counts, key=lambda word: (-counts[word], word))[: limit - 1]
    ids = {UNKNOWN: UNKNOWN_ID} | {word: index for index, word in enumerate(kept, start=1)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return tokenizer


def _cut(ids: Ids, context: int) -> list[Ids]:
    """Cut one document so that each token but its first is a target exactly once."""
    starts = range(0, max(len(ids) - 1, 0), context)
    return [ids[start : start + context + 1] for start in starts]


def _split(pieces: Sequence[Ids], seed: int) -> tuple[list[Ids], list[Ids]]:
    """Part pieces into training and held-out; all copies of one piece fall on the same side."""
    different = list(dict.fromkeys(piece.tobytes() for piece in pieces))
    order = _permutation(seed, SPLIT, len(different))
    held = {different[index] for index in order[: max(1, len(different) // HELD_OUT_SHARE)]}
    training = [piece for piece in pieces if piece.tobytes() not in held]
    return training, [piece for piece in pieces if piece.tobytes() in held]


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> Ids:
    """Return the shuffled order of one epoch, or of the split."""
    return np.random.default_rng((seed, epoch + 1)).permutation(count)
