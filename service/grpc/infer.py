"""One ModelInfer call on the straight line: the codec that reads its message and writes its reply."""

from collections.abc import Sequence

from fastapi import Request

from service.batching.cost import Cost
from service.batching.job import Completed
from service.errors import Invalid, TooLarge
from service.grpc.reply import written_reply
from service.grpc.request import read_request
from service.http.context import Context
from service.http.exchange import Asked
from service.http.oip.inference import Inference
from service.http.replies import Fields
from service.http.resolve import Resolved
from service.http.texts.reading import Reading
from service.wire.buffers import gather
from service.wire.dtypes import Buffer, Reserve
from service.wire.oip import InferRequest

PROTOBUF: Fields = ((b"content-type", b"application/grpc+proto"),)
LARGEST_MESSAGE = (1 << 31) - 1  # bytes; gRPC's length of a message, and what Protocol Buffers can hold
LARGEST_REPLY = LARGEST_MESSAGE - (1 << 16)  # of tensors; names and shapes stand beside them


class InferCall(Inference):
    """The same request as `POST /v2/models/{model}/infer`, as a message; tensors are views of it.

    `seconds`: what the caller's deadline leaves, None where there is none.
    """

    incoming = outgoing = "grpc"

    def __init__(
        self, request: Request, context: Context, max_result_bytes: int, *, seconds: float | None
    ) -> None:
        super().__init__(request, context, min(max_result_bytes, LARGEST_REPLY))
        self._seconds = seconds
        self._bounded = max_result_bytes <= LARGEST_REPLY  # by the queue
        self.json_bytes = 0

    def read(self, body: Buffer, reserve: Reserve) -> tuple[Asked, Reading | None]:
        """Return the same request to `attend`, and how its texts are read."""
        asked, how = super().read(body, reserve)
        if self._seconds is not None:
            left = max(1, int(self._seconds * 1000))
            earlier = left if asked.deadline_ms is None else min(asked.deadline_ms, left)
            asked = asked.model_copy(update={"deadline_ms": earlier})
        return asked, how

    def check(self, resolved: Resolved) -> Resolved:
        """Return the Items, whose outputs one message can carry."""
        resolved = super().check(resolved)
        if self._bounded:
            return resolved
        size = self.padded_bytes or sum(Cost.of(item).result_bytes for item in resolved.items)
        if size > LARGEST_REPLY:
            raise TooLarge(
                f"the result would be {size} bytes, and a message of gRPC holds {LARGEST_REPLY}; ask for "
                "fewer outputs, layers, heads or rows at a time, or over HTTP",
                code="result_too_large",
            )
        return resolved

    def encode(self, done: Completed, resolved: Resolved) -> tuple[Sequence[Buffer], Fields]:
        """Return the reply, and its headers."""
        tensors = [tensor for tensor, _ in self._tensors(done, resolved)]
        return gather(written_reply(tensors, **self._about(resolved))), PROTOBUF

    def _decode(self, body: Buffer, reserve: Reserve) -> InferRequest:
        model, version, infer = read_request(body, reserve)
        if not model:
            raise Invalid("model_name is empty; name the model")
        self._of(self._context.runtime.card(model, version or None))
        return infer
