"""Texts as a model reads them: how long they may be by its card, and which types its table has."""

from collections.abc import Sequence
from typing import Unpack

from models.cards import within_types
from models.errors import TextError
from models.protocol import ModelCard, Text, TextLimits
from models.text.tokenizer import EncodingLimits, Tokenizer


def read_text(
    tokenizer: Tokenizer | None,
    card: ModelCard,
    text: str,
    pair: str | None,
    *,
    special: bool = True,
    whole: bool = False,
    **limits: Unpack[TextLimits],
) -> Text:
    """Return the tokens of a text as a model reads it, in whatever process; no more than `longest`.

    Raises TextError where the model takes no text, TooLong unless `truncate`, and over `most` in any case.
    `whole`: of whatever length; without `special` tokens where they are not wanted.
    """
    able, how = _able(tokenizer, card), _limited(card, limits)
    return within_types(able.encode(text, pair, special=special, whole=whole, **how), card)


def read_texts(
    tokenizer: Tokenizer | None, card: ModelCard, texts: Sequence[str], **limits: Unpack[TextLimits]
) -> list[Text]:
    """Return of each text the ids and types that `read_text` finds, and how much was cut; nothing else.

    Raises what `read_text` would of any of them.
    """
    found, typed = _able(tokenizer, card).encode_all(texts, **_limited(card, limits))
    return [within_types(one, card) for one in found] if typed else found


class TextReader:
    """What `Models` has of texts, by the tokenizer that whoever has the models gives of each."""

    def tokenizer(self, card: ModelCard) -> Tokenizer | None:
        """Return the tokenizer of a model, None where it has none."""
        raise NotImplementedError

    def tokenize(
        self, card: ModelCard, text: str, pair: str | None = None, **limits: Unpack[TextLimits]
    ) -> Text:
        """Return the tokens of a text, special ones included; raise TextError, TooLong unless `truncate`."""
        return read_text(self.tokenizer(card), card, text, pair, **limits)

    def tokenize_all(self, card: ModelCard, texts: Sequence[str], **limits: Unpack[TextLimits]) -> list[Text]:
        """Return ids and types of several texts; raise TextError, TooLong unless `truncate`."""
        return read_texts(self.tokenizer(card), card, texts, **limits)

    def tokens_of(
        self, card: ModelCard, text: str, *, special: bool = True, **limits: Unpack[TextLimits]
    ) -> Text:
        """Return the tokens of a text of whatever length; raise TextError, TooLong over `most` of them.

        It has no more bytes than a text of as many tokens as the other limits say.
        """
        return read_text(self.tokenizer(card), card, text, None, special=special, whole=True, **limits)

    def text_of(self, card: ModelCard, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of tokens, as the model's tokenizer writes it; raise TextError."""
        return _able(self.tokenizer(card), card).decode(ids, skip_special=skip_special)

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


def _limited(card: ModelCard, limits: TextLimits) -> EncodingLimits:
    """Return the limits of a text as its tokenizer has them: the least of the caller's and the model's."""
    truncate = limits.get("truncate", False)
    own, longest = card.max_text_tokens if truncate else card.max_tokens, limits.get("longest")
    limit = min((one for one in (own, longest) if one is not None), default=None)
    return {
        "limit": limit,
        "truncate": truncate,
        "most": limits.get("most"),
        "side": limits.get("side"),
    }
