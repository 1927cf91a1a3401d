"""What `/openapi.json` and `GET /v2/models/{model}` say about the Open Inference Protocol's bodies."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from models.outputs import OUTPUTS
from models.protocol import ModelCard
from service.wire.dtypes import OIP


class InferenceError(BaseModel):
    """Every refusal under `/v2`."""

    error: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": InferenceError} for status in ("4XX", "5XX", 422)
}

_NAME = {"type": "string", "minLength": 1}
_PARAMETERS = {"type": ["object", "null"]}  # null is absent wherever a field is optional
_FLAG = {"type": ["boolean", "null"]}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _NAME,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 8},
        "datatype": {"type": "string", "enum": [*OIP.all, "BYTES"]},
        "parameters": _PARAMETERS,
        "data": {"type": ["array", "null"], "items": {}},
    },
    "additionalProperties": False,
}
_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": ["string", "null"], "maxLength": 256},
        "parameters": _PARAMETERS,
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {
            "type": ["array", "null"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": _NAME, "parameters": _PARAMETERS},
                "additionalProperties": False,
            },
        },
        "model_name": {"type": ["string", "null"]},
        "model_version": {"type": ["string", "null"]},
    },
    "additionalProperties": False,
    "example": {
        "inputs": [
            {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["She sat on the bank of the river."]}
        ],
        "outputs": [{"name": "z"}, {"name": "tokens"}],
        "parameters": {"layers": -1},
    },
}

_REPLY = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "id": {"type": "string"},
        "model_name": _NAME,
        "model_version": _NAME,
        "parameters": {
            "type": "object",
            "additionalProperties": {"type": "boolean"},
            "description": "`0.edited` is true where the first sequence had edits",
        },
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": _TENSOR["properties"],
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
_BINARY = {"type": "string", "format": "binary"}


def infer_docs() -> dict[str, Any]:
    """Return the documentation of an inference request: JSON, or JSON and bytes."""
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "required": False,
        "description": "how many bytes of the body are JSON; the tensors' bytes follow. 0: a raw body, rows "
        "of float32 embeddings",
        "schema": {"type": "integer", "minimum": 0},
    }
    return {
        "parameters": [header],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _REQUEST},
                "application/octet-stream": {"schema": _BINARY},
            },
        },
        "responses": {
            "200": {
                "description": "the outputs as JSON, or as JSON and bytes where any is asked for in binary",
                "content": {
                    "application/json": {"schema": _REPLY},
                    "application/octet-stream": {"schema": _BINARY},
                },
            }
        },
    }


def index_docs() -> dict[str, Any]:
    """Return the documentation of an index request."""
    return _optional_body({"ready": _FLAG})


def parameters_docs(allowed: Sequence[str]) -> dict[str, Any]:
    """Return the documentation of a load or unload request; `allowed` parameters are true or false."""
    flags = dict.fromkeys(allowed, _FLAG)
    return _optional_body({"parameters": {**_PARAMETERS, "properties": flags, "additionalProperties": False}})


def metadata(card: ModelCard) -> dict[str, Any]:
    """Return the protocol's description of a model; sizes that depend on the request are −1.

    Of the source tensors, one is given; `H` and the absence of `L` are those of a request without options.
    """
    sizes = {"H": card.heads, "G": card.key_heads, "D": card.d_model, "Q": card.d_k, "V": card.d_v, "6": 6}
    inputs = {
        "embeddings": ("FP32", [-1, card.width]),
        "token_ids": ("INT64", [-1]),
        "text": ("BYTES", [-1]),
    }
    described = [_described(name, *inputs[name]) for name in inputs if name in card.inputs]
    described.append(_described("lengths", "INT32", [-1]))
    if card.cross:
        described.append(_described("memory", "FP32", [-1, card.d_model]))
        described.append(_described("memory_lengths", "INT32", [-1]))
    described.append(_described("mask", "BOOL", [-1]))
    if card.types:
        described.append(_described("type_ids", "INT64", [-1]))
    outputs = [
        _described(
            name,
            "INT32" if OUTPUTS[name].dtype == "int32" else "FP32",
            [sizes.get(axis, -1) for axis in OUTPUTS[name].axes],
        )
        for name in card.outputs
    ]
    outputs.append(_described("lengths", "INT32", [-1]))
    if "text" in card.inputs:
        outputs.append(_described("tokens", "BYTES", [-1]))
        if "next_ids" in card.outputs:
            outputs.append(_described("next_tokens", "BYTES", [-1, -1]))
    return {
        "name": card.name,
        "versions": [card.version],
        "platform": "heed",
        "inputs": described,
        "outputs": outputs,
    }


def configuration(card: ModelCard) -> dict[str, Any]:
    """Return a model's configuration as Triton has it (`docs/protocol/extension_model_configuration.md`).

    `max_batch_size` 0: shapes are whole, as in the metadata; what is batched is said there.
    """
    about = metadata(card)

    def described(tensor: dict[str, Any]) -> dict[str, Any]:
        kind = {"BYTES": "STRING"}.get(tensor["datatype"], tensor["datatype"])
        return {"name": tensor["name"], "data_type": f"TYPE_{kind}", "dims": tensor["shape"]}

    source = ("embeddings", "token_ids", "text")
    several = len([one for one in about["inputs"] if one["name"] in source]) > 1
    return {
        "name": card.name,
        "platform": "heed",
        "backend": "heed",
        "version_policy": {"specific": {"versions": about["versions"]}},
        "max_batch_size": 0,
        "input": [
            described(one) | {"optional": several or one["name"] not in source} for one in about["inputs"]
        ],
        "output": [described(one) for one in about["outputs"]],
    }


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _optional_body(properties: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}
