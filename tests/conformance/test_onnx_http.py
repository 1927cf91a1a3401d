"""The ONNX `Attention` cases through `POST /v1/attention`, over a real socket.

All but those with a past cache inside the operator go: HTTP has no key that is not sent, so `past_key` and
`past_value` would only be concatenated by the caller, which is what the operator tests do. float16 and
bfloat16 cases are sent as the same numbers; the server computes in float32.
"""

from typing import Any

import httpx
import numpy as np
import pytest
import torch

from tests.conformance.onnx_cases import Call, Sequence, cases
from tests.conformance.test_onnx_attention import TOLERANCE
from tests.real_server import Server

OVER_HTTP = sorted(name for name, case in cases().items() if not Call(case).past)
CASES_OVER_HTTP = 72


def as_json(tensor: torch.Tensor) -> Any:
    """Nested lists; −inf, which JSON has not, is null."""
    if tensor.dtype == torch.bool:
        return tensor.tolist()
    array = tensor.double().numpy().astype(object)
    array[np.isneginf(array.astype(float))] = None
    return array.tolist()


def ask(server: Server, one: Sequence) -> torch.Tensor:
    given: dict[str, Any] = {"query": as_json(one.q), "key": as_json(one.k), "value": as_json(one.v)}
    if one.mask is not None:
        given["mask"] = as_json(one.mask.broadcast_to(one.q.shape[0], one.q.shape[1], one.k.shape[1]))
    rule = one.spec
    body = {
        "inputs": [given],
        "outputs": ["z"],
        "scale": rule.scale,
        "causal": rule.causal,
        "causal_offset": rule.causal_offset,
        "left_window": rule.left_window,
        "right_window": rule.right_window,
        "softcap": rule.softcap,
    }
    reply = httpx.post(f"{server.url}/v1/attention", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    return torch.tensor(reply.json()["outputs"][0]["z"], dtype=torch.float64)


def test_which_cases_go_over_http() -> None:
    assert len(OVER_HTTP) == CASES_OVER_HTTP


@pytest.mark.parametrize("name", OVER_HTTP)
def test_service_agrees_with_onnx(name: str, server: Server) -> None:
    call = Call(cases()[name])
    made = call.joined([ask(server, one) for one in call.sequences()])
    tolerance = TOLERANCE[call.inputs["Q"].dtype]
    np.testing.assert_allclose(made, call.expected["Y"].double(), atol=tolerance, rtol=tolerance)
