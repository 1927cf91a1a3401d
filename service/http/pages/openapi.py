"""How the two attention routes are documented: bodies in every format, replies from the vocabulary.

The routes read raw bodies, so FastAPI cannot see what they take and give; this says it.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from models.outputs import OUTPUTS
from service.http.negotiate import REPLIES, REQUESTS

BINARY: dict[str, Any] = {"type": "string", "format": "binary"}

_OF_TEXT: dict[str, Any] = {
    "tokens": {
        "type": "array",
        "items": {"type": "string"},
        "description": "`[T]`, where the input was text",
    },
    "offsets": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        "description": "`[T, 2]`: each token's characters, half-open",
    },
    "special": {
        "type": "array",
        "items": {"type": "boolean"},
        "description": "`[T]`: added by the model, as [CLS] is",
    },
    "truncated": {"type": "integer", "minimum": 1, "description": "tokens cut off, where any were"},
    "spans": {
        "type": ["array", "object"],
        "description": "ranges of tokens `[start, end]`, by name or in a list, where words or characters "
        "were asked for",
    },
    "next_tokens": {"type": "array", "items": {}, "description": "`next_ids` spelt, of the same shape"},
}

_EDITED: dict[str, Any] = {"type": "boolean", "description": "true where the input had edits"}


def request_docs(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI of a route's body: `schema` in JSON, bytes in the binary formats."""
    options = ", ".join(name for name in schema.model_fields if name != "inputs")
    said = (
        f"Options are query parameters of the names they have in JSON: {options}. "
        "A value is a word, a list with commas, or JSON. `edits`, a list of the one input's or an object by "
        "the number of the input, is JSON there, and the matrix of edit 3 of input 1 the tensor `1.edits.3`."
    )
    content: dict[str, Any] = {
        one.media_type: {
            "schema": inlined(schema) if one.options_in == "body" else {**BINARY, "description": said}
        }
        for one in REQUESTS
    }
    return {"requestBody": {"required": True, "content": content}}


def reply_docs(outputs: Sequence[str], *, model: bool) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI of a route's reply; `model` tells whether it names one and takes text."""
    content = {
        one.media_type: {"schema": _reply(outputs, model=model) if one.name == "json" else BINARY}
        for one in REPLIES
    }
    headers = {
        "Server-Timing": {
            "description": "decode, queue, batch, compute and encode in milliseconds",
            "schema": {"type": "string"},
        },
        "X-Request-Id": {"description": "the caller's, or a new one", "schema": {"type": "string"}},
    }
    return {200: {"description": "one entry an input, in order", "content": content, "headers": headers}}


def _reply(outputs: Sequence[str], *, model: bool) -> dict[str, Any]:
    tensors = {
        name: {
            "type": "array",
            "items": {},
            "description": f"`{OUTPUTS[name].shape}`: {OUTPUTS[name].meaning}",
        }
        for name in outputs
    }
    entry = {
        "type": "object",
        "properties": {**tensors, **(_OF_TEXT if model else {}), "edited": _EDITED},
        "additionalProperties": False,
    }
    counts = {name: {"type": "integer", "minimum": 1} for name in ("sequences", "tokens")}
    usage = {"type": "object", "properties": counts, "required": list(counts)}
    properties: dict[str, Any] = {"outputs": {"type": "array", "items": entry}, "usage": usage}
    if model:
        properties = {"model": {"type": "string"}, "version": {"type": "string"}, **properties}
    return {"type": "object", "properties": properties, "required": list(properties)}


def inlined(schema: type[BaseModel]) -> dict[str, Any]:
    """Return a model's JSON schema with its definitions written out where they are used."""
    whole = schema.model_json_schema()
    definitions = whole.pop("$defs", {})

    def written_out(part: Any) -> Any:
        if isinstance(part, list):
            return [written_out(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return written_out(definitions[part["$ref"].rpartition("/")[2]])
        return {name: written_out(value) for name, value in part.items()}

    found: dict[str, Any] = written_out(whole)
    return found
