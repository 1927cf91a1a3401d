"""The ONNX `Attention` operator's own test cases, opset 23 to 25, through the operator: all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.attention.backends import plan
from models.attention.problem import Heads, Rule, prepare
from models.attention.sequence import InputSequence
from models.compiled.instructions import sets_of
from models.compiled.native import Native, native
from models.device.collect import Collector
from models.device.steps import finish
from models.mechanism import AttentionSpec
from models.outputs import Selection
from models.shapes import Dims
from tests.compiled import library
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


SETS = sets_of(library()) if native() is not None else ()


def by_compiled(ours: Native, one) -> torch.Tensor:
    """z [H, T, V] as the plan has it where compiled code does it, in float32."""
    q, k, v = (x.float() for x in (one.q, one.k, one.v))
    problem = prepare(q, k, v, spec=one.spec, mask=one.mask)
    heads = Heads(q.device, q.dtype, len(q), len(k), q.shape[2], v.shape[2], compiled=ours)
    chosen, sizes = Selection(outputs=("z",)), Dims(T=1, S=1, heads=1, key_heads=1, d_z=1, d_k=1, d_v=1)
    sequence = InputSequence(
        selection=chosen,
        collector=Collector(chosen, sizes),
        queries=q.shape[1],
        keys=k.shape[1],
        outlives=True,
    )
    (group,) = plan([sequence], [Rule(one.spec, own=True, apart=True)], heads, 0)
    assert group.backend.name == "compiled"
    rows = (x.transpose(0, 1) for x in (q, k, v))
    return finish(group.attend(*rows, lambda _: problem)).z.transpose(0, 1).to(one.q.dtype)


@pytest.mark.parametrize("using", SETS)
@pytest.mark.parametrize("name", sorted(cases()))
def test_compiled_code_agrees_with_onnx(name: str, using: str) -> None:
    call = Call(cases()[name])
    ours = Native(library(), using)
    made = call.joined([by_compiled(ours, one) for one in call.sequences()])
    expected, tolerance = call.expected["Y"], TOLERANCE[call.inputs["Q"].dtype]
    np.testing.assert_allclose(made.double(), expected.double(), atol=tolerance, rtol=tolerance)
