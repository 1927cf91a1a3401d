"""One request of the Open Inference Protocol, on the same line as `attend`.

Under `routes`. Sources: open-inference-protocol `specification/protocol/inference_rest.md`; Triton
`docs/protocol/extension_binary_data.md`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import Request

from models.protocol import ModelCard
from service.batching.job import Completed
from service.errors import Invalid, Malformed
from service.http.context import Context
from service.http.envelope import read_envelope
from service.http.exchange import Asked, Numbers, reading
from service.http.fields.predictions import spelled
from service.http.oip.outputs import check_reply, reply_tensors
from service.http.oip.tensors import attend_envelope, plan_of, settled
from service.http.replies import JSON, Fields
from service.http.resolve import Resolved
from service.http.schemas import AttendRequest
from service.http.texts.reading import Reading
from service.wire import oip
from service.wire.buffers import gather
from service.wire.dtypes import Buffer, Reserve
from service.wire.oip import InferRequest
from service.wire.oip_tensor import Tensor

HEADER_LENGTH = b"inference-header-content-length"
BINARY = (b"content-type", b"application/octet-stream")


class Inference:
    """One request in the protocol's words, JSON or binary; the codec of `exchange`.

    Whoever reads another form of the same request (`service.grpc`) knows its model when it is read.
    """

    incoming = outgoing = "oip"

    def __init__(
        self, request: Request, context: Context, max_result_bytes: int, card: ModelCard | None = None
    ) -> None:
        self._scope, self._context = request.scope, context
        self._max_result_bytes = max_result_bytes
        self.json_bytes = _header_length(request)
        self.numbers: Numbers = "json"
        self.padded_bytes = 0
        if card is not None:
            self._of(card)

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the same request to `attend`, and how its texts are read."""
        infer = settled(self._decode(body, reserve))
        if infer.ignored:
            self._context.ignored.note(infer.ignored, where="parameters under /v2")
        plan = plan_of(infer)
        binary = {output.binary for output in plan.outputs}
        self.numbers = "json" if True not in binary else "mixed" if False in binary else "binary"
        asked = read_envelope(AttendRequest, attend_envelope(infer, plan))
        self._plan, self._id = plan, infer.id
        return asked, reading(asked, self._context.limits, self._card)

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items, whose outputs the reply can carry."""
        self.padded_bytes = check_reply(self._plan, resolved.items, max_result_bytes=self._max_result_bytes)
        return resolved

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        encoded = oip.encode(self._tensors(done, resolved), **self._about(resolved))
        if encoded.header_length is None:
            return gather(encoded.buffers), JSON
        return gather(encoded.buffers), (BINARY, (HEADER_LENGTH, b"%d" % encoded.header_length))

    def pieces(self, done: Completed, resolved: Resolved) -> Iterator[Buffer]:
        """Return the JSON piece by piece."""
        return oip.encode_pieces(self._tensors(done, resolved), **self._about(resolved))

    def fields(self, done: Completed, resolved: Resolved) -> Fields:  # noqa: ARG002  the line's
        """Return the headers of a reply in pieces."""
        return JSON

    def _of(self, card: ModelCard) -> None:
        """Take note of the model that is asked."""
        self._card = card
        self._scope["heed.model"] = card.name

    def _decode(self, body: Buffer, reserve: Reserve) -> InferRequest:
        if self.json_bytes != 0:
            return oip.decode(body, self.json_bytes, reserve)
        if "embeddings" not in self._card.inputs:
            name = self._card.name
            raise Invalid(f"a raw body is embeddings, which model {name} does not take; send JSON")
        return oip.decode_raw(body, "embeddings", width=self._card.width)

    def _tensors(self, done: Completed, resolved: Resolved) -> list[tuple[Tensor, bool]]:
        asked, card = self._plan.asks("next_tokens"), self._card
        words = spelled(done.answers, card, self._context.runtime) if asked else ()
        return reply_tensors(self._plan, resolved.items, done.answers, resolved.texts, words)

    def _about(self, resolved: Resolved) -> dict[str, Any]:
        """Return what a reply says beside its tensors: `0.edited` of each sequence that had edits is true."""
        card = self._card
        edited = {f"{place}.edited": True for place, one in enumerate(resolved.edited) if one}
        names = {"model_name": card.name, "model_version": card.version, "request_id": self._id}
        return {**names, "parameters": edited}


def _header_length(request: Request) -> int | None:
    """Return how many bytes of the body are JSON, None where all of them are."""
    values = []
    said = b""
    for name, value in request.scope["headers"]:
        if name == HEADER_LENGTH:
            values.append(value)
        elif name == b"content-type":
            said = value
    if not values:
        return None
    if len(values) > 1 or not (values[0].isdigit() and len(values[0]) <= 18):
        raise Malformed("Inference-Header-Content-Length must be one number of bytes")
    length = int(values[0])
    if length == 0 and said.partition(b";")[0].strip().lower() == b"application/json":
        raise Malformed(
            "Inference-Header-Content-Length is 0, which says that the body is raw float32, but its "
            "Content-Type says JSON; leave the one out, or make the other application/octet-stream"
        )
    return length
