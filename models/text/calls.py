"""Calls of the `tokenizers` package: whatever it raises is a TextError.

A long text is read without the interpreter's lock.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tokenizers
from tokenizers import Encoding

from models.errors import TextError, is_fault

LOCKED_CHARACTERS = 1024  # read in less time than it may take to get the interpreter's lock back
Made = TypeVar("Made")


def encode(tokenizer: tokenizers.Tokenizer, text: str, pair: str | None, *, special: bool = True) -> Encoding:
    """Return an encoding, made without the interpreter's lock unless that is quickly done."""
    trouble = "the tokenizer cannot read this text"
    if len(text) + len(pair or "") <= LOCKED_CHARACTERS:
        return guarded(lambda: tokenizer.encode(text, pair, add_special_tokens=special), trouble)
    batch: list[Any] = [text if pair is None else (text, pair)]
    return guarded(lambda: tokenizer.encode_batch(batch, add_special_tokens=special), trouble)[0]


def encode_all(tokenizer: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Return encodings without offsets; a few short ones without a change of the interpreter's lock."""
    if sum(map(len, texts)) <= LOCKED_CHARACTERS:
        return [encode(tokenizer, text, None) for text in texts]
    return guarded(lambda: tokenizer.encode_batch_fast(texts), "the tokenizer cannot read these texts")


def guarded(work: Callable[[], Made], trouble: str) -> Made:
    """Return what a call of the package returns, whatever it raises as TextError.

    It raises nothing narrower than Exception, and when it panics, not even that.
    """
    try:
        return work()
    except (KeyboardInterrupt, SystemExit, MemoryError):  # no fault of the text's
        raise
    except BaseException as problem:
        if not is_fault(problem):
            raise
        raise TextError(f"{trouble}: {str(problem)[:120]}") from problem
