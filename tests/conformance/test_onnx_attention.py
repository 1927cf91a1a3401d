"""The ONNX `Attention` operator's own test cases, opset 23 to 25, through the operator: all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.attention.problem import prepare
from models.outputs import Selection
from models.spec import AttentionSpec
from tests.conformance.onnx_cases import Call, cases
from tests.in_one import contextualize, derive

CASES = 93
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def contextual_vectors(call):
    """The operator's Y."""
    parts = []
    for one in call.sequences():
        problem = prepare(one.q, one.k, one.v, spec=one.spec, mask=one.mask)
        parts.append(contextualize(problem, want_lse=False)[0])
    return call.joined(parts)


def debug_matrix(call):
    """The operator's fourth output: scores at one of three points of the pipeline, or weights."""
    mode = call.attributes.get("qk_matmul_output_mode", 0)
    name = "weights" if mode == 3 else "scores"
    parts = []
    for one in call.sequences():
        if mode == 0:  # scaled only
            one = replace(one, mask=None, spec=AttentionSpec(scale=one.spec.scale))
        if mode == 1:  # and capped
            one = replace(one, mask=None, spec=AttentionSpec(scale=one.spec.scale, softcap=one.spec.softcap))
        problem = prepare(one.q, one.k, one.v, spec=one.spec, mask=one.mask)
        parts.append(derive(problem, None, Selection(outputs=(name,)))[name].to(one.q.dtype))
    return torch.stack(parts)


def test_there_are_93_cases():
    assert len(cases()) == CASES


@pytest.mark.parametrize("name", sorted(cases()))
def test_operator_agrees_with_onnx(name):
    call = Call(cases()[name])
    made = {"Y": contextual_vectors(call)}
    made["present_key"], made["present_value"] = call.present()
    if "qk_matmul_output" in call.expected:
        made["qk_matmul_output"] = debug_matrix(call)
    tolerance = TOLERANCE[call.inputs["Q"].dtype]
    assert "Y" in call.expected
    for output, expected in call.expected.items():
        assert made[output].dtype == expected.dtype
        np.testing.assert_allclose(
            made[output].double(), expected.double(), atol=tolerance, rtol=tolerance, err_msg=output
        )
