"""A ModelInferResponse, written around the bytes of its tensors, which stay the views they are.

Source: open-inference-protocol `specification/protocol/open_inference_grpc.proto`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from service.grpc.protobuf import delimited, flag, opening, string, varint
from service.wire.dtypes import Buffer
from service.wire.oip_tensor import Tensor, packed

MOST_KNOWN = 512  # tensors whose description is kept: clients ask for the same again and again


def written_reply(
    tensors: Sequence[Tensor],
    *,
    model_name: str,
    model_version: str,
    request_id: str | None,
    parameters: dict[str, Any],
) -> list[Buffer]:
    """Return the message in pieces; `parameters` are all true or false.

    Numbers are row-major and little-endian, a text is its u32 length and its bytes.
    """
    head = [string(1, model_name), string(2, model_version), string(3, request_id or "")]
    head += [
        delimited(4, string(1, name) + delimited(2, flag(1, value=value)))
        for name, value in parameters.items()
    ]
    tail: list[Buffer] = []
    for tensor in tensors:
        head.append(_described(tensor.name, tensor.datatype, tensor.shape))
        piece = packed(tensor)
        tail += (opening(6, len(piece)), piece)
    return [b"".join(head), *tail]


@lru_cache(maxsize=MOST_KNOWN)
def _described(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """Return one InferOutputTensor."""
    sizes = b"".join(map(varint, shape))
    return delimited(5, string(1, name) + string(2, datatype) + delimited(3, sizes))
