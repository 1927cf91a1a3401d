"""The bodies of text-embeddings-inference's routes, as they are checked and documented.

Fields that are not known are ignored, as serde does there, and named once in the log. Source:
text-embeddings-inference `router/src/http/types.rs`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from service.http.envelope import NullIsAbsent
from service.http.fields.addresses import LARGEST
from service.http.pages.openapi import inlined
from service.http.texts.inputs import MOST_INPUTS

_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_IDS: dict[str, Any] = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": LARGEST},
    "minItems": 1,
}
INPUTS: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        _IDS,
        {
            "type": "array",
            "items": {"anyOf": [_TEXT, _IDS]},
            "minItems": 1,
            "maxItems": MOST_INPUTS,
        },
    ]
}
TEXTS: dict[str, Any] = {
    "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MOST_INPUTS}]
}
ID_LISTS: dict[str, Any] = {
    "anyOf": [_IDS, {"type": "array", "items": _IDS, "minItems": 1, "maxItems": MOST_INPUTS}]
}
Inputs = Annotated[Any, WithJsonSchema(INPUTS)]
Sentence = Annotated[str, WithJsonSchema(_TEXT)]
Direction = Literal["left", "right", "Left", "Right"]


class TeiRequest(NullIsAbsent):
    """What is common to the bodies: null is absent, and unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class EncodingRequest(TeiRequest):
    """How texts are read."""

    truncate: bool | None = Field(
        default=None, description="cut what is too long, instead of refusing; default: the server's TRUNCATE"
    )
    truncation_direction: Direction = Field(default="right", description="the side that is cut off")
    prompt_name: str | None = Field(
        default=None,
        max_length=128,
        description="which of the folder's prompts is put before each text; default: the folder's default",
    )


class EmbedAllRequest(EncodingRequest):
    """Texts or token ids, of each of whose tokens a vector is asked for."""

    inputs: Inputs = Field(description="a text or token ids, or a list of either")


class EmbedRequest(EmbedAllRequest):
    """Texts or token ids, of each of which a vector is asked for."""

    normalize: bool = Field(
        default=True, description="true: vectors of length 1; false: as the folder's own modules make them"
    )
    dimensions: Annotated[int, Field(ge=1, le=LARGEST)] | None = Field(
        default=None,
        description="how many numbers of each vector, where the model's folder says that they may be cut",
    )


class SimilarityInputs(TeiRequest):
    """One sentence, and those that it is compared with."""

    source_sentence: Sentence
    sentences: list[Sentence] = Field(json_schema_extra={"minItems": 1, "maxItems": MOST_INPUTS - 1})


class SimilarityRequest(TeiRequest):
    """Sentences whose similarity is asked for."""

    inputs: SimilarityInputs
    parameters: EncodingRequest | None = None


class TeiTokenizeRequest(TeiRequest):
    """Texts whose tokens are asked for."""

    inputs: Annotated[Any, WithJsonSchema(TEXTS)] = Field(description="a text, or a list of texts")
    add_special_tokens: bool = True
    prompt_name: str | None = Field(
        default=None,
        max_length=128,
        description="which of the folder's prompts is put before each text; default: the folder's default",
    )


class DecodeRequest(TeiRequest):
    """Token ids whose text is asked for."""

    ids: Annotated[Any, WithJsonSchema(ID_LISTS)] = Field(description="token ids, or a list of such lists")
    skip_special_tokens: bool = True


class SimpleToken(BaseModel):
    """One token; `start` and `stop` count bytes of UTF-8, and are null of a special one."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TeiError(BaseModel):
    """The body of every error of these routes."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class EmbeddingKind(BaseModel):
    """How rows are pooled."""

    pooling: str


class ModelKind(BaseModel):
    """What kind of model it is."""

    embedding: EmbeddingKind


class Info(BaseModel):
    """The model that answers, and the server's limits.

    `max_client_batch_size`: so many of the longest texts are one batch of the device; more are taken.
    """

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: ModelKind
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


def body_of(*schemas: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of a route's body: one of these schemas."""
    written = [inlined(schema) for schema in schemas]
    schema = written[0] if len(written) == 1 else {"anyOf": written}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
