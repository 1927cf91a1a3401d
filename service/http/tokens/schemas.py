"""The request and the reply of `POST /v1/tokenize`, as they are checked and documented."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from service.http.envelope import NullIsAbsent
from service.http.texts.inputs import MOST_INPUTS

_TEXT: dict[str, Any] = {"type": "string"}
TEXTS_INPUT: dict[str, Any] = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_INPUTS}]
}


class TokenizeRequest(NullIsAbsent):
    """Texts whose tokens are asked for; fields that are not known are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    input: Annotated[Any, WithJsonSchema(TEXTS_INPUT)] = Field(description="a text, or a list of texts")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="listed by `GET /v1/models`; left out: DEFAULT_MODEL, or the only one that takes text",
    )
    add_special_tokens: bool = Field(
        default=True,
        description="whether what the model puts around a text, as [CLS] is, is among its tokens",
    )
    truncate: bool = Field(
        default=False,
        description="true: cut to what the model takes; false: the whole text, whatever its length",
    )


class TokenizedText(BaseModel):
    """The tokens of one text: `count` of them, `offsets` their characters, half-open."""

    index: int
    count: int
    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]
    special: list[bool]
    truncated: int = Field(default=0, description="tokens cut off; only where any were")


class TokenizeUsage(BaseModel):
    """How many tokens all texts have."""

    tokens: int


class TokenizeReply(BaseModel):
    """One entry a text, in order; `max_model_len`: tokens of the longest text that the model embeds whole."""

    model: str
    max_model_len: int | None
    data: list[TokenizedText]
    usage: TokenizeUsage
