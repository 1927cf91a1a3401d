"""One text of a request into tokens: what limits it, and whose fault it is when it cannot be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from models.errors import TextError, TooLong
from models.protocol import ModelCard, Models, Side, Text, TextLimits
from service.errors import Invalid, TooLarge, Unreadable
from service.http.schemas import AttendInput

TEXT_MS = 0.02  # of any text, however short
KIB = 1024
SOURCES = ("embeddings", "token_ids", "text")
OR_CUT = " or set truncate"  # the end of messages about texts that might have been cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the texts of a request to a model are read.

    `truncate`: they are cut, to `longest` tokens, or to what the model takes, if that is less. What is left
    over `most` is refused. `field`: what the caller calls the inputs, for messages. `bare`: inputs are
    texts or ids and nothing else, and only their ids are needed: texts may be read together. `chunked`: the
    one text is what the caller calls all of its inputs, and may not be cut. `side`: where texts are cut;
    None: where the model's tokenizer cuts.
    """

    card: ModelCard
    truncate: bool = False
    longest: int | None = None
    most: int | None = None
    field: str = "inputs"
    bare: bool = False
    chunked: bool = False
    side: Side | None = None

    @property
    def limits(self) -> TextLimits:
        """What the runtime is told of it."""
        return {
            "truncate": self.truncate,
            "longest": self.longest,
            "most": self.most,
            "side": self.side,
        }

    def too_long(self, index: int, problem: object) -> TooLarge:
        """Return the refusal of a text, with a remedy that its caller has."""
        if self.chunked:
            said = f"all of {self.field} together: {str(problem).removesuffix(OR_CUT)}"
        else:
            said = f"{self.field}[{index}]: {problem}"
        return TooLarge(said, code="sequence_too_long")


def text_ms(inputs: Sequence[AttendInput], card: ModelCard) -> float:
    """Return about how long the texts of a request take to tokenize."""
    count = characters = 0
    for one in inputs:
        if one.text is not None:
            count += 1
            characters += len(one.text)
        if one.pair is not None:
            count += 1
            characters += len(one.pair)
    return TEXT_MS * count + card.text_ms * characters / KIB


def is_text(given: AttendInput, path: str, card: ModelCard) -> bool:
    """Return whether an input is a text; raises Invalid unless it is one thing that the model takes."""
    text = given.text is not None
    if (given.embeddings is not None) + (given.token_ids is not None) + text != 1:
        has = " and ".join(name for name in SOURCES if getattr(given, name) is not None) or "none of them"
        raise Invalid(f"{path} must have exactly one of embeddings, token_ids and text; it has {has}")
    source = "text" if text else "token_ids" if given.embeddings is None else "embeddings"
    if source not in card.inputs:
        takes = f"{path} has {source}; model {card.name} takes {' or '.join(card.inputs)}"
        why = card.not_offered.get(source)
        raise Invalid(f"{takes}: {why}" if why else takes)
    if given.pair is not None and not text:
        raise Invalid(f"{path} has pair, the second of two texts, without text")
    if text and given.type_ids is not None:
        raise Invalid(f"{path} has type_ids; they stand beside token_ids, and a text has its own")
    return text


def read_text(given: AttendInput, index: int, how: Reading, runtime: Models) -> Text:
    """Return an input's text as tokens; raises Invalid, TooLarge (sequence_too_long)."""
    assert given.text is not None
    try:
        return runtime.tokenize(how.card, given.text, given.pair, **how.limits)
    except TextError as error:
        raise Unreadable(f"{how.field}[{index}]: {error}") from None
    except TooLong as error:
        raise how.too_long(index, error) from None


def read_whole(
    text: str, path: str, card: ModelCard, runtime: Models, *, special: bool, **limits: Unpack[TextLimits]
) -> Text:
    """Return a text as tokens, whatever the model takes; raises Unreadable, TooLarge over `most` of them.

    Its bytes are limited as those of a text of `longest` tokens that is computed.
    """
    try:
        return runtime.tokens_of(card, text, special=special, **limits)
    except TextError as error:
        raise Unreadable(f"{path}: {error}") from None
    except TooLong as error:
        raise TooLarge(f"{path}: {error}", code="sequence_too_long") from None


def read_together(inputs: Sequence[AttendInput], how: Reading, runtime: Models) -> Sequence[Text] | None:
    """Return the ids and types of inputs that are texts; None where they have to be read one by one.

    That is so where one of them is anything else, and where one is refused: it is then said which.
    """
    texts = [one.text for one in inputs if one.text is not None and one.pair is None]
    if len(texts) < len(inputs):
        return None
    try:
        return runtime.tokenize_all(how.card, texts, **how.limits)
    except (TextError, TooLong):
        return None
