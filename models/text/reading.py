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
    able, limit = _able(tokenizer, card), _limit(card, longest, truncate=truncate)
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
    able, limit = _able(tokenizer, card), _limit(card, longest, truncate=truncate)
    found, typed = able.encode_all(texts, limit=limit, truncate=truncate, most=most)
    return [within_types(one, card) for one in found] if typed else found


class TextReader:
    """What `Models` has of texts, by the tokenizer that whoever has the models gives of each."""

    def tokenizer(self, card: ModelCard) -> Tokenizer | None:
        """Return the tokenizer of a model, None where it has none."""
        raise NotImplementedError

    def tokenize(
        self,
        card: ModelCard,
        text: str,
        pair: str | None = None,
        *,
        truncate: bool = False,
        longest: int | None = None,
        most: int | None = None,
    ) -> Text:
        """Return the tokens of a text, special ones included; raise TextError, TooLong unless `truncate`."""
        tokenizer = self.tokenizer(card)
        return read_text(tokenizer, card, text, pair, truncate=truncate, longest=longest, most=most)

    def tokenize_all(
        self,
        card: ModelCard,
        texts: Sequence[str],
        *,
        truncate: bool = False,
        longest: int | None = None,
        most: int | None = None,
    ) -> list[Text]:
        """Return ids and types of several texts; raise TextError, TooLong unless `truncate`."""
        tokenizer = self.tokenizer(card)
        return read_texts(tokenizer, card, texts, truncate=truncate, longest=longest, most=most)

    def spelled(self, card: ModelCard, ids: Sequence[int]) -> list[str | None]:
        """Return tokens as texts spell them, None for ids that are none."""
        return _able(self.tokenizer(card), card).spelled(ids)

    def token_id(self, card: ModelCard, token: str) -> int | None:
        """Return the token that is spelt so, None where there is none."""
        return _able(self.tokenizer(card), card).token_id(token)


def _able(tokenizer: Tokenizer | None, card: ModelCard) -> Tokenizer:
    if tokenizer is None or "text" not in card.inputs:
        reason = card.not_offered.get("text", "it has no tokenizer")
        raise TextError(f"model {card.name} takes no text: {reason}; send embeddings")
    return tokenizer


def _limit(card: ModelCard, longest: int | None, *, truncate: bool) -> int | None:
    own = card.max_text_tokens if truncate else card.max_tokens
    return min((limit for limit in (own, longest) if limit is not None), default=None)
