"""A tokenizer made of what its files say: vocabulary, rules of its class, special and added tokens.

As transformers 5 makes it, step by step, so that a text has the same ids.
"""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, normalizers
from tokenizers.models import BPE, WordPiece

from models.config import shown
from models.errors import TextError
from models.protocol import Side
from models.text.classes import BARE, CLASSES, TokenizerClass, model_of
from models.text.files import TokenizerFiles
from models.text.rules import Options, charsmap_of

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltTokenizer:
    """A tokenizer; `types`: whether a second text has types of its own; `side`: on which a text is cut.

    `notes` tell where its files contradict each other. `tried`: how long it may take was not known, and it
    was tried.
    """

    tokenizer: Tokenizer
    types: bool
    side: Side
    notes: tuple[str, ...] = ()
    tried: bool = False


def build(files: TokenizerFiles) -> BuiltTokenizer:
    """Return the tokenizer; raise TextError for files that hold none, or say what cannot be obeyed."""
    if files.kind and files.kind not in CLASSES:
        return _by_transformers(files)
    kind = CLASSES.get(files.kind, BARE)
    stated = _from_file(files, kind)
    tokens = _special_tokens(files, kind)
    added = _added_tokens(files, tokens, stated)
    tokens = {name: _same(token, added) for name, token in tokens.items()}
    tokenizer, notes = stated, []
    remade = kind is not BARE and type(stated.model).__name__ == kind.model
    if kind is not BARE and not remade:
        notes.append(
            f"{files.file.name} holds a {type(stated.model).__name__}; {files.kind} would be a {kind.model}: "
            "it is taken as it stands"
        )
    options = Options(dict(files.fields), tokens, charsmap_of(stated), files.from_json)
    if remade:
        tokenizer = Tokenizer(model_of(stated, kind, options))
        tokenizer.post_processor = stated.post_processor
        kind.before(tokenizer, options)
    _add(tokenizer, added, tokens, _extra_tokens(files, kind))
    if remade:
        kind.after(tokenizer, options)
    _finish(tokenizer, files)
    _check_numbers(tokenizer, added)
    truncation = stated.truncation or {}
    return BuiltTokenizer(
        tokenizer=tokenizer,
        types=_types(files, usual=kind.types),
        side=files.fields.get("truncation_side", truncation.get("direction", "right")),
        notes=(*notes, *_contradictions(tokenizer, files, tokens)),
    )


def _by_transformers(files: TokenizerFiles) -> BuiltTokenizer:
    """Return the tokenizer that transformers makes, of a class whose rules are known to it alone."""
    name = files.fields.get("tokenizer_class") or "of this model"
    if find_spec("transformers") is None:
        raise TextError(
            f"the tokenizer_class {shown(name)} is transformers' own; pip install 'heed-server[transformers]'"
        )
    loader = importlib.import_module("models.text.transformers_tokenizer")
    tokenizer, types, side = loader.load(files.file.parent)
    notes: tuple[str, ...] = ()
    if files.from_json:
        stated = Tokenizer.from_file(str(files.file))
        found, expected = type(stated.model).__name__, type(tokenizer.model).__name__
        if found != expected:
            notes = (
                f"tokenizer.json holds a {found}, its class would be a {expected}: it is taken as it stands",
            )
            tokenizer = stated
    _finish(tokenizer, files)
    return BuiltTokenizer(tokenizer=tokenizer, types=_types(files, usual=types), side=side, notes=notes)


def _from_file(files: TokenizerFiles, kind: TokenizerClass) -> Tokenizer:
    """Return the tokenizer of a file as it stands: of a vocabulary alone, one without any rules."""
    if files.from_json:
        return Tokenizer.from_file(str(files.file))
    if files.file.name == "vocab.json" and kind.model == "BPE":
        return Tokenizer(BPE.from_file(str(files.file), str(files.file.with_name("merges.txt"))))
    if files.file.name == "vocab.txt" and kind.model == "WordPiece":
        return _word_pieces(files.file, files, kind)
    raise TextError(
        f"{files.file.name} alone does not make a {files.kind or 'tokenizer'}; save its tokenizer.json"
    )


def _word_pieces(file: Path, files: TokenizerFiles, kind: TokenizerClass) -> Tokenizer:
    """Read BERT's vocabulary, one token a line.

    Devlin et al. 2019: basic tokenization, greedy longest-match-first word pieces, [CLS] A [SEP] B [SEP].
    """
    with file.open(encoding="utf-8") as lines:
        ids = {line.rstrip("\n"): number for number, line in enumerate(lines)}
    tokens = _special_tokens(files, kind)
    for name in ("unk_token", "cls_token", "sep_token"):
        if str(tokens[name]) not in ids:
            raise TextError(
                f"{file.name} has no {str(tokens[name])!a:.40}; without a tokenizer.json it must have"
            )
    return Tokenizer(WordPiece(ids, unk_token=str(tokens["unk_token"]), max_input_chars_per_word=100))


def _token(value: Any, *, special: bool = False) -> AddedToken:
    """Return an added token from JSON: an object, or its text."""
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags = {name: value[name] for name in FLAGS if type(value.get(name)) is bool}
        return AddedToken(value["content"], **(flags | ({"special": True} if special else {})))
    if isinstance(value, str):
        return AddedToken(value, special=True)
    raise TextError(f"{shown(value)} is no token; give its text, or an object with its content")


def _special_tokens(files: TokenizerFiles, kind: TokenizerClass) -> dict[str, AddedToken]:
    """Return special tokens by name: those the files name, and those the class has otherwise."""
    named = {
        name: value
        for name, value in files.fields.items()
        if name.endswith("_token") and not isinstance(value, bool) and value is not None
    }
    for field in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(extra := files.fields.get(field), dict):
            named |= extra
    return {name: _token(value, special=True) for name, value in {**kind.tokens, **named}.items()}


def _extra_tokens(files: TokenizerFiles, kind: TokenizerClass) -> list[AddedToken]:
    extra = files.fields.get("extra_special_tokens") or files.fields.get("additional_special_tokens") or []
    if isinstance(extra, dict):
        return []
    if not isinstance(extra, list):
        raise TextError(f"additional_special_tokens is {shown(extra)}; it must be a list")
    return [_token(value, special=True) for value in extra or kind.extra]


def _added_tokens(
    files: TokenizerFiles, special: dict[str, AddedToken], stated: Tokenizer
) -> dict[int, AddedToken]:
    """Return the tokens that the files add, by number: tokenizer_config.json's, or else older files'."""
    decoder = files.fields.get("added_tokens_decoder")
    if decoder is not None:
        try:
            return {
                int(number): _token(value)
                for number, value in sorted(decoder.items(), key=lambda one: int(one[0]))
            }
        except ValueError:
            raise TextError("added_tokens_decoder must be an object of tokens by number") from None
    texts = {str(token.content) for token in special.values()}
    found = {
        number: AddedToken(text, normalized=text not in texts, special=text in texts)
        for text, number in files.added.items()
    }
    if files.from_json:
        found |= stated.get_added_tokens_decoder()
    return dict(sorted(found.items()))


def _same(token: AddedToken, added: dict[int, AddedToken]) -> AddedToken:
    """Return a special token as it was added, where it was."""
    return next((one for one in added.values() if one.content == token.content), token)


def _add(
    tokenizer: Tokenizer,
    added: dict[int, AddedToken],
    special: dict[str, AddedToken],
    extra: Iterable[AddedToken],
) -> None:
    """Add what is not there yet: in the order of numbers, then special tokens by name, then others."""
    there = tokenizer.get_added_tokens_decoder()
    known = {repr(token) for token in there.values()}
    adding = [token for token in added.values() if repr(token) not in known]
    texts = {token.content for token in there.values()} | {token.content for token in adding}
    for token in (*(special[name] for name in (*SPECIAL, *special) if name in special), *extra):
        if token.content not in texts:
            texts.add(token.content)
            adding.append(token)
    named = {token.content for token in special.values()}
    for token in adding:
        if token.content in named:
            token.special = True
    tokenizer.add_tokens(adding)


def _finish(tokenizer: Tokenizer, files: TokenizerFiles) -> None:
    if files.fields.get("split_special_tokens"):
        tokenizer.encode_special_tokens = True
    if files.lower:  # before all else, as sentence-transformers does it
        before = tokenizer.normalizer
        steps: list[Any] = [] if before is None else [before]
        if isinstance(before, normalizers.Sequence):
            steps = [before[number] for number in range(len(before))]
        if not any(isinstance(step, normalizers.Lowercase) for step in steps):
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def _types(files: TokenizerFiles, *, usual: bool) -> bool:
    names = files.fields.get("model_input_names")
    return usual if names is None else "token_type_ids" in names


def _check_numbers(tokenizer: Tokenizer, added: dict[int, AddedToken]) -> None:
    """Raise TextError where a token has another number than its file says: ids would be of other tokens."""
    for number, token in added.items():
        found = tokenizer.token_to_id(token.content)
        if found != number:
            raise TextError(
                f"the added token {token.content!a:.40} has the number {found}; its file says {number}"
            )


def _contradictions(tokenizer: Tokenizer, files: TokenizerFiles, tokens: dict[str, AddedToken]) -> list[str]:
    """Tell where tokenizer_config.json says of a text what tokenizer.json does not do, and is not asked."""
    notes: list[str] = []
    if not files.from_json:
        return notes
    ids = tokenizer.encode("").ids  # what stands around a text
    for name, place in (("bos", slice(0, 1)), ("eos", slice(-1, None))):
        said, token = files.fields.get(f"add_{name}_token"), tokens.get(f"{name}_token")
        if said is None or token is None or tokens.get("bos_token") == tokens.get("eos_token"):
            continue
        does = tokenizer.token_to_id(token.content) in ids[place]
        if does != said:
            notes.append(
                f"tokenizer_config.json says add_{name}_token {str(said).lower()}, and tokenizer.json "
                f"{'adds' if does else 'does not add'} {token.content!a:.40}: so it is, as in transformers 5"
            )
    said = files.fields.get("do_lower_case")
    if said is not None and tokenizer.normalizer is not None and not files.lower:
        lowers = "A" not in tokenizer.normalizer.normalize_str("A")
        if lowers != said:
            notes.append(
                f"tokenizer_config.json says do_lower_case {str(said).lower()}, and tokenizer.json "
                f"{'lower-cases' if lowers else 'does not'}: so it is, as in transformers 5"
            )
    return notes
