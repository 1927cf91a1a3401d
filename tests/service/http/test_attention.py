"""`POST /v1/attention` over the fake runtime and the real engine."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes import FakeRuntime
from tests.serving import refused, served

FLAT = {"query": [[1.0, 2.0]] * 3, "key": [[1.0, 2.0]] * 5, "value": [[1.0, 2.0, 3.0]] * 5}
HEADS = {name: [array] * 2 for name, array in FLAT.items()}


@pytest.fixture(scope="module")
def service():
    with served() as running:
        yield running


def shapes(output):
    return {name: np.array(array).shape for name, array in output.items()}


def test_heads_in_are_heads_out(service):
    reply = service.attention({"inputs": [HEADS]}).json()
    assert set(reply) == {"outputs", "usage"}
    assert reply["usage"] == {"sequences": 1, "tokens": 3}
    assert shapes(reply["outputs"][0]) == {"z": (2, 3, 3), "weights": (2, 3, 5)}


def test_without_a_head_axis_in_none_comes_out(service):
    body = {"inputs": [FLAT], "outputs": ["z", "weights", "lse", "top_k", "keys"], "top_k": 2}
    assert shapes(service.attention(body).json()["outputs"][0]) == {
        "z": (3, 3),
        "weights": (3, 5),
        "lse": (3,),
        "top_k_keys": (3, 2),
        "top_k_weights": (3, 2),
        "top_k_rest": (3,),
        "keys": (5, 2),
    }


def test_problems_of_several_sizes_share_a_request(service):
    small = {"query": [[1]], "key": [[1]], "value": [[7]]}
    outputs = service.attention({"inputs": [HEADS, small, FLAT], "outputs": ["z"]}).json()["outputs"]
    assert [shapes(output)["z"] for output in outputs] == [(2, 3, 3), (1, 1), (3, 3)]


def test_the_rule_and_the_mask_reach_the_runtime():
    runtime = FakeRuntime()
    mask = [[0.0, None, -2.5, 0.0, 0.0]] * 3
    body = {
        "inputs": [{**FLAT, "mask": mask}],
        "causal": True,
        "causal_offset": 2,
        "scale": None,
        "softcap": 5,
    }
    with served(runtime) as service:
        assert service.attention(body).status_code == 200
    ((item,),) = runtime.batches
    assert (item.input.rule.causal, item.input.rule.causal_offset, item.input.rule.softcap) == (True, 2, 5.0)
    assert np.array_equal(item.input.mask, np.array([[0, -np.inf, -2.5, 0, 0]] * 3, np.float32))


def test_masked_scores_are_null():
    class Masking(FakeRuntime):
        def run(self, batch, **how):
            outcome = super().run(batch, **how)
            for answer in outcome.answers:
                answer.tensors["scores"][:] = [0.5, -np.inf, 1, 2, 3]
            return outcome

    with served(Masking()) as service:
        reply = service.attention({"inputs": [FLAT], "outputs": ["scores"]})
    assert reply.json()["outputs"] == [{"scores": [[0.5, None, 1.0, 2.0, 3.0]] * 3}]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"inputs": [{"query": [[1]], "key": [[1]]}]}, 422, "invalid"),
        ({"inputs": [{**FLAT, "text": "a"}]}, 422, "invalid"),
        ({"inputs": [FLAT], "layers": 0}, 422, "invalid"),
        ({"inputs": [FLAT], "outputs": ["pooled"]}, 422, "invalid"),
        ({"inputs": [FLAT], "outputs": ["rollout"]}, 422, "invalid"),
        ({"inputs": [FLAT], "similarity": "euclid"}, 422, "invalid"),
        ({"inputs": [FLAT], "softcap": -1}, 422, "invalid"),
        ({"inputs": [FLAT], "scale": 1e300}, 422, "invalid"),
        ({"inputs": [FLAT], "left_window": -1}, 422, "invalid"),
        ({"inputs": [FLAT], "causal_offset": 2**40}, 422, "invalid"),
        ({"inputs": [FLAT], "dtype": "bfloat16"}, 422, "invalid"),
        ({"inputs": [{**FLAT, "mask": [True] * 4}]}, 422, "invalid"),
        ({"inputs": [{**FLAT, "key": [[1.0, 2.0]] * 4}]}, 422, "invalid"),
        ({"inputs": [{**FLAT, "key": [[1.0], [1.0, 2.0]]}]}, 400, "malformed"),
        ({"inputs": [{**FLAT, "mask": [[True], [1]]}]}, 400, "malformed"),
    ],
)
def test_what_does_not_fit_is_refused(service, body, status, code):
    refused(service.attention(body), status, code)


numbers = st.floats(width=32) | st.integers(-3, 3) | st.none() | st.booleans()
tensors = st.recursive(numbers, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=12)
problems = st.fixed_dictionaries(
    {name: st.sampled_from([FLAT[name], HEADS[name]]) | tensors for name in FLAT}, optional={"mask": tensors}
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(problems, max_size=3), st.sampled_from([{}, {"causal": True}, {"heads": [0]}, {"rows": [0]}]))
def test_random_tensors_are_answered_or_refused_and_never_fail(service, inputs, options):
    reply = service.attention(json.dumps({"inputs": inputs, **options}).encode())
    assert reply.status_code in (200, 400, 422)
