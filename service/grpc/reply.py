"""A ModelInferResponse, written around the bytes of its tensors, which stay the views they are.

Source: open-inference-protocol `specification/protocol/open_inference_grpc.proto`.
"""

from collections.abc import Sequence
from typing import Any

from service.grpc.protobuf import delimited, flag, opening, string, varint
from service.wire.dtypes import Buffer
from service.wire.oip_tensor import Tensor, packed


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
        shape = b"".join(map(varint, tensor.shape))
        described = string(1, tensor.name) + string(2, tensor.datatype) + delimited(3, shape)
        head.append(delimited(5, described))
        piece = packed(tensor)
        tail += (opening(6, len(piece)), piece)
    return [b"".join(head), *tail]
