"""What a tokenizer can make of a text at the most, read from what it is made of, before it is ever used.

A normalizer can write a thousand characters for one, and five in a row 50 to the fifth; a template can put
ten million tokens around a word. Both are said by the file, and refused by it. How long a pattern takes is
said by none: what is not known to be quick is tried (`models/text/trial.py`).
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer

from models.errors import TextError
from models.text.rules import QWEN2_WORDS

MOST_EXPANSION = 64  # bytes that a normalizer may write for one
MOST_AROUND = 1024  # tokens that a template may put around a text
MOST_TEXTS = 8  # times that a template may have a text
MOST_STEPS = 32
MOST_WORD_CHARACTERS = 1024  # of a word that is cut into pieces, in time that grows with its square
LONGEST_UNICODE_BYTES = 48  # that SentencePiece's tables have for a character: its longest is U+FDFA's
# Patterns of well-known tokenizers, whose time grows with the text's length and no faster.
QUICK = frozenset(
    {
        QWEN2_WORDS,
        QWEN2_WORDS.replace(r"|\p{N}", r"|\p{N}{1,3}", 1),  # Llama 3's
        " {2,}",
        r"\s+",
        r"\n",
        " ",
    }
)
State = Mapping[str, Any]


def parts_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what stands before and behind the model of a tokenizer, as its file would say it."""
    found = {}
    for name in ("normalizer", "pre_tokenizer", "post_processor"):
        part = getattr(tokenizer, name)
        found[name] = None if part is None else json.loads(part.__getstate__())
    kind = type(tokenizer.model).__name__
    word = getattr(tokenizer.model, "max_input_chars_per_word", 0) if kind == "WordPiece" else 0
    return {**found, "model": {"type": kind, "max_input_chars_per_word": word}}


def require_bounded(state: State) -> None:
    """Raise TextError for a tokenizer that multiplies what it is given, by its parts or its whole file.

    What is not as such a file should be is left to the `tokenizers` package to refuse.
    """
    factor = 1.0
    for step in _steps(state.get("normalizer"), "normalizers"):
        factor *= _expansion(step)
    if factor > MOST_EXPANSION:
        raise TextError(
            f"its normalizer can make {factor:.3g} bytes of one, the limit is {MOST_EXPANSION}; mend its "
            "replacements"
        )
    around, texts = 0, 1
    for step in _steps(state.get("post_processor"), "processors"):
        if step.get("type") == "TemplateProcessing":
            counts = [_template(step, name) for name in ("single", "pair")]
            around += max(tokens for tokens, _ in counts)
            texts *= max(1, *(count for _, count in counts))
    if around > MOST_AROUND or texts > MOST_TEXTS:
        raise TextError(
            f"its post-processor puts {around} tokens around a text, which it has up to {texts} times; the "
            f"limits are {MOST_AROUND} and {MOST_TEXTS}"
        )


def doubts_of(state: State) -> list[str]:
    """Return the patterns whose time is not known, and in words whatever else should be tried."""
    normalizers = list(_steps(state.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_steps(state.get("pre_tokenizer"), "pretokenizers"))
    found = []
    for step in (*normalizers, *pre_tokenizers):
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if regex is not None and regex not in QUICK:
            found.append(str(regex))
    if len(normalizers) + len(pre_tokenizers) > MOST_STEPS:
        found.append(f"{len(normalizers) + len(pre_tokenizers)} steps")
    model = state.get("model")
    word = model.get("max_input_chars_per_word") if isinstance(model, Mapping) else None
    if isinstance(word, int) and word > MOST_WORD_CHARACTERS:
        found.append(f"words of {word} characters")
    return found


def _steps(part: Any, name: str) -> Iterator[State]:
    """Give a part, or each of a sequence of them, however they are nested."""
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, Mapping):
            inner = one.get(name)
            if isinstance(inner, list):
                waiting.extend(inner)
            else:
                yield one


def _expansion(step: State) -> float:
    """Return how many bytes a normalizer can write for one, forms of Unicode left out: 18 at the most."""
    kind = step.get("type")
    if kind == "Replace":
        pattern, content = step.get("pattern"), len(str(step.get("content", "")).encode())
        if isinstance(pattern, Mapping) and (said := str(pattern.get("String", ""))):
            return max(1.0, content / len(said.encode()))
        return 1.0 + content  # it may match a character, or nothing
    if kind == "Prepend":
        return max(1.0, len(str(step.get("prepend", "")).encode()) / LONGEST_UNICODE_BYTES)
    if kind == "Precompiled":
        return max(1.0, _longest(str(step.get("precompiled_charsmap", ""))) / LONGEST_UNICODE_BYTES)
    return 1.0


def _longest(charsmap: str) -> int:
    """Return the bytes of the longest text in SentencePiece's table of characters.

    It is the size of a trie, the trie, and then texts that each end with a NUL.
    """
    try:
        table = base64.b64decode(charsmap)
    except (binascii.Error, ValueError):
        return 0
    start = 4 + int.from_bytes(table[:4], "little")
    return max(map(len, table[start:].split(b"\0")))


def _template(step: State, name: str) -> tuple[int, int]:
    """Return how many tokens a template puts around a text, and how often it has one."""
    tokens = texts = 0
    special = step.get("special_tokens")
    pieces = step.get(name)
    for piece in pieces if isinstance(pieces, list) else []:
        if not isinstance(piece, Mapping):
            continue
        if "Sequence" in piece:
            texts += 1
        elif isinstance(said := piece.get("SpecialToken"), Mapping) and isinstance(special, Mapping):
            ids = special.get(said.get("id"), {})
            ids = ids.get("ids", ()) if isinstance(ids, Mapping) else ()
            tokens += len(ids) if isinstance(ids, list) else 0
    return tokens, texts
