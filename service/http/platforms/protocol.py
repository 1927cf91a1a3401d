"""Open Inference Protocol bodies on a path that names no model, as Triton's users send them to SageMaker.

SageMaker lets no Inference-Header-Content-Length through, so that Triton has the length in the Content-Type,
of requests and replies. Source: Triton `qa/L0_sagemaker/sagemaker_test.py`.
"""

from collections.abc import Sequence
from typing import Any

from fastapi import Request

from models.protocol import ModelCard
from service.batching.job import Completed
from service.errors import Malformed
from service.http.context import Context
from service.http.oip.inference import HEADER_LENGTH, Inference
from service.http.replies import Fields
from service.http.resolve import Resolved
from service.wire import oip
from service.wire.dtypes import Buffer, Reserve
from service.wire.oip import InferRequest

MEDIA_TYPE = b"application/vnd.sagemaker-triton.binary+json"
LENGTH = b"json-header-size="
RAW = b"application/octet-stream"


def is_protocols(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a body is said to be tensors behind JSON, by Content-Type or by the protocol's own header."""
    return any(
        name == HEADER_LENGTH
        or (name == b"content-type" and value.partition(b";")[0].strip().lower() in (MEDIA_TYPE, RAW))
        for name, value in headers
    )


def are_tensors(inputs: Any) -> bool:
    """Whether inputs are the protocol's: each says its datatype, which no input of `attend` does."""
    return isinstance(inputs, list) and any(isinstance(one, dict) and "datatype" in one for one in inputs)


class Behind(Inference):
    """One request of tensors behind JSON; a reply says its length as the request did."""

    def __init__(self, request: Request, context: Context, max_result_bytes: int, card: ModelCard) -> None:
        self._tells = _given_length(request)
        super().__init__(request, context, max_result_bytes, card)

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        buffers, headers = super().encode(done, resolved)
        length = dict(headers).get(HEADER_LENGTH)
        if self._tells and length is not None:
            headers = ((b"content-type", b"%s;%s%s" % (MEDIA_TYPE, LENGTH, length)),)
        return buffers, headers


class Written(Inference):
    """One request of tensors in JSON, which has been read."""

    def __init__(
        self,
        request: Request,
        context: Context,
        max_result_bytes: int,
        card: ModelCard,
        *,
        envelope: dict[str, Any],
    ) -> None:
        super().__init__(request, context, max_result_bytes, card)
        self._envelope = envelope

    def _decode(self, body: Buffer, reserve: Reserve) -> InferRequest:  # noqa: ARG002  it has been read
        return oip.request_of(self._envelope, memoryview(b""), reserve)


def _given_length(request: Request) -> bool:
    """Put the length that a Content-Type says where the protocol has it; return whether it said one."""
    headers = request.scope["headers"]
    said = next((value for name, value in headers if name == b"content-type"), b"")
    kind, _, parameters = said.partition(b";")
    if kind.strip().lower() != MEDIA_TYPE:
        return False
    lengths = [part.strip() for part in parameters.split(b";")]
    digits = [part[len(LENGTH) :] for part in lengths if part.lower().startswith(LENGTH)]
    if len(digits) != 1 or any(name == HEADER_LENGTH for name, _ in headers):
        raise Malformed(
            "this Content-Type says once how many bytes of the body are JSON, as "
            "application/vnd.sagemaker-triton.binary+json;json-header-size=123"
        )
    request.scope["headers"] = [*headers, (HEADER_LENGTH, digits[0])]
    return True
