"""Vertex AI's words for the main job: instances and parameters in, predictions out.

An instance is an input of `attend`, or a text; parameters are its options; a prediction is what `attend` has
of one input under `outputs`. Source: Vertex AI, "Custom container requirements for prediction".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import Request

from models.errors import ModelError
from models.protocol import ModelCard
from service.batching.job import Completed
from service.errors import HeedError, Invalid, NotAcceptable
from service.http.attend import Negotiated
from service.http.context import Context
from service.http.envelope import nearest
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.wire.dtypes import Buffer
from service.wire.json_text import dumps, pieces
from service.wire.names import quoted
from service.wire.reply import in_json

FIELDS = ("instances", "parameters")
INSTANCES: dict[str, Any] = {
    "type": "object",
    "description": "an instance is a text, or an input of `inputs`; parameters are the other options",
    "properties": {
        "instances": {"type": "array", "minItems": 1, "items": {"type": ["string", "object"]}},
        "parameters": {"type": ["object", "null"]},
    },
    "required": ["instances"],
    "additionalProperties": False,
}


def attend_envelope(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same request as `attend` takes it; raises Invalid for what else is in it."""
    for name in envelope:
        if name not in FIELDS:
            raise Invalid(f"{quoted(name)} is no field beside instances; {nearest(name, FIELDS)}")
    instances, parameters = envelope["instances"], envelope.get("parameters")
    if not isinstance(instances, list):
        raise Invalid("instances must be a list of texts, or of objects as the inputs of attend")
    if not isinstance(parameters, dict | None):
        raise Invalid("parameters must be an object, of the options of attend")
    if parameters and "inputs" in parameters:
        raise Invalid("inputs is no parameter; give them as instances")
    inputs = [{"text": one} if isinstance(one, str) else one for one in instances]
    return {**(parameters or {}), "inputs": inputs}


def in_their_words(refusal: HeedError | ModelError) -> HeedError | ModelError:
    """Return a refusal that speaks of inputs as one that speaks of instances."""
    if isinstance(refusal, HeedError):
        refusal.message = refusal.message.replace("inputs[", "instances[")
        return refusal
    return type(refusal)(str(refusal).replace("inputs[", "instances["))


class Instances(Negotiated):
    """One request of instances, whose reply has predictions."""

    def __init__(self, request: Request, context: Context, card: ModelCard) -> None:
        super().__init__(request, context, card)
        if self.outgoing != "json":
            raise NotAcceptable("predictions are written in JSON alone; accept application/json")

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        return (dumps(self._predictions(done, resolved)),), JSON

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the JSON piece by piece."""
        return pieces(self._predictions(done, resolved))

    def _predictions(self, done: Completed, resolved: Resolved) -> dict[str, Any]:
        return {"predictions": in_json(self._reply(done, resolved))["outputs"]}
