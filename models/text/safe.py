"""A tokenizer made of its files, or a reason why it is not trusted with this process.

Its file is looked at before the `tokenizers` package reads it, and what was made of it afterwards, for two
readers of one file may see different things in it. What is in doubt is tried elsewhere first.
"""

from dataclasses import replace

import orjson

from models.config import shown
from models.errors import TextError, is_fault
from models.text.bounds import State, doubts_of, parts_of, require_bounded
from models.text.build import BuiltTokenizer, build
from models.text.files import TokenizerFiles, require_small
from models.text.trial import try_out


class NotATokenizer(TextError):
    """A file that is broken or harmful, rather than one that says what cannot be obeyed."""


def build_safely(files: TokenizerFiles) -> BuiltTokenizer:
    """Return the tokenizer; raise NotATokenizer, or TextError for files that say what cannot be obeyed."""
    name = files.file.name
    for file in (files.file, files.file.with_name("merges.txt")):
        require_small(file)
    try:
        tried = _checked(files) if files.from_json else []
        built = build(files)
        parts = parts_of(built.tokenizer)
        if new := [doubt for doubt in _doubts(parts, name) if doubt not in tried]:
            _try(built.tokenizer.to_str().encode(), new, name)
    except (TextError, MemoryError):
        raise
    except BaseException as problem:  # the package raises nothing narrower, and panics
        if not is_fault(problem):
            raise
        raise NotATokenizer(f"{name} is not a tokenizer: {str(problem)[:120]}") from problem
    return replace(built, tried=bool(tried or new))


def _checked(files: TokenizerFiles) -> list[str]:
    """Return what was in doubt in a file and has passed; raise NotATokenizer."""
    name, content = files.file.name, files.file.read_bytes()
    state = orjson.loads(content)
    if not isinstance(state, dict):
        raise NotATokenizer(f"{name} is not a tokenizer: it must hold an object")
    doubts = _doubts(state, name)
    if doubts:
        _try(content, doubts, name)
    return doubts


def _doubts(state: State, name: str) -> list[str]:
    try:
        require_bounded(state)
    except TextError as problem:
        raise NotATokenizer(f"{name} is not served: {problem}") from None
    return doubts_of(state)


def _try(tokenizer: bytes, doubts: list[str], name: str) -> None:
    wrong = try_out(tokenizer, doubts)
    if wrong:
        raise NotATokenizer(f"{name} is not served, for {shown(doubts[0])}: {wrong}")
