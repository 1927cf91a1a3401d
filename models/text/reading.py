"""Texts as a model reads them: how long they may be by its card, and which types its table has."""

from collections.abc import Sequence

from models.cards import within_types
from models.errors import TextError
from models.protocol import ModelCard, Text
from models.text.tokenizer import Tokenizer


def read_text(
    tokenizer: Tokenizer | None,
    card: ModelCard,
    text: str,
    pair: str | None,
    *,
    truncate: bool,
    longest: int | None = None,
    most: int | None = None,
) -> Text:
    """Return the tokens of a text as a model reads it, in whatever process; no more than `longest`.

    Raises TextError where the model takes no text, TooLong unless `truncate`, and over `most` in any case.
    """
    able, limit = tokenizer_of(tokenizer, card), _limit(card, longest, truncate=truncate)
    return within_types(able.encode(text, pair, limit=limit, truncate=truncate, most=most), card)


def read_texts(
    tokenizer: Tokenizer | None,
    card: ModelCard,
    texts: Sequence[str],
    *,
    truncate: bool,
    longest: int | None = None,
    most: int | None = None,
) -> list[Text]:
    """Return of each text the ids and types that `read_text` finds, and how much was cut; nothing else.

    Raises what `read_text` would of any of them.
    """
    able, limit = tokenizer_of(tokenizer, card), _limit(card, longest, truncate=truncate)
    found, typed = able.encode_all(texts, limit=limit, truncate=truncate, most=most)
    return [within_types(one, card) for one in found] if typed else found


def tokenizer_of(tokenizer: Tokenizer | None, card: ModelCard) -> Tokenizer:
    """Return the tokenizer of a model that takes text; raises TextError where it takes none."""
    if tokenizer is None or "text" not in card.inputs:
        reason = card.not_offered.get("text", "it has no tokenizer")
        raise TextError(f"model {card.name} takes no text: {reason}; send embeddings")
    return tokenizer


def _limit(card: ModelCard, longest: int | None, *, truncate: bool) -> int | None:
    own = card.max_text_tokens if truncate else card.max_tokens
    return min((limit for limit in (own, longest) if limit is not None), default=None)
