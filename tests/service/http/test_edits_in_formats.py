"""The same edits in every format: the same reaches the device, and replies say what was edited."""

import io
import json

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.edit import Edit
from service.wire import safetensors_format
from tests.fakes import FakeRuntime
from tests.serving import refused, served

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
MATRIX = np.float32([[0.5, 0.25, 0.25], [1, 0, 0]])
Z = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 8
EDITS = [
    {"edit": "scale", "heads": [[0, 1]], "queries": [-1], "value": 0.5},
    {"edit": "pattern", "layers": -1, "queries": [[0, 2]], "value": MATRIX},
    {"edit": "block", "layers": "all", "keys": {"outside": [1]}},
    {"edit": "set", "layers": 0, "value": Z},
]
APART = [{name: value for name, value in edit.items() if not isinstance(value, np.ndarray)} for edit in EDITS]
MATRICES = {"1.edits.1": MATRIX, "1.edits.3": Z}
SAFETENSORS = {"content-type": "application/x-safetensors"}
TO_SAFETENSORS = {"accept": "application/x-safetensors"}
INFER = "/v2/models/fake/infer"


@pytest.fixture(scope="module")
def runtime():
    return FakeRuntime()


@pytest.fixture(scope="module")
def service(runtime):
    with served(runtime) as running:
        yield running


def in_json(service):
    edits = [
        {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in edit.items()}
        for edit in EDITS
    ]
    inputs = [{"embeddings": X[0].tolist()}, {"embeddings": X[1].tolist(), "edits": edits}]
    return service.attend({"inputs": inputs})


def in_large_json(service):
    """Padded, so that compiled code lifts matrices out."""
    edits = [
        {**edit, "value": edit["value"].tolist()}
        if "value" in edit and not np.isscalar(edit["value"])
        else edit
        for edit in EDITS
    ]
    inputs = [{"embeddings": X[0].tolist()}, {"embeddings": X[1].tolist(), "edits": edits}]
    return service.attend(json.dumps({"inputs": inputs}, indent=40).encode())


def in_safetensors(service, *, params=None, metadata=None, tensors=MATRICES):
    bodies = {"0.embeddings": X[0], "1.embeddings": X[1], **tensors}
    body = safetensors.numpy.save(bodies, metadata=metadata)
    return service.attend(body, headers=SAFETENSORS, params=params)


def in_the_query_of_safetensors(service):
    return in_safetensors(service, params={"edits": json.dumps({"1": APART})})


def in_the_metadata_of_safetensors(service):
    return in_safetensors(service, metadata={"edits": json.dumps({"1": APART}), "format": "np"})


def in_float16_safetensors(service):
    tensors = {name: matrix.astype(np.float16) for name, matrix in MATRICES.items()}
    return in_safetensors(service, params={"edits": json.dumps({"1": APART})}, tensors=tensors)


def inferred(service, parameters, *, tensors=MATRICES, binary=False, **more):
    entries, tail = [], b""
    for name, array in {"embeddings": X, **tensors}.items():
        entry = {"name": name, "shape": array.shape, "datatype": "FP32"}
        if binary:
            tail += array.tobytes()
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.reshape(-1).tolist()
        entries.append(entry)
    head = json.dumps({"inputs": entries, "parameters": parameters, **more}).encode()
    headers = {"inference-header-content-length": str(len(head))} if binary else {}
    return service.post(INFER, head + tail, headers=headers)


def in_parameters(service):
    return inferred(service, {"edits": {"1": APART}})


def in_a_string_of_parameters(service):
    return inferred(service, {"edits": json.dumps({"1": APART})}, binary=True)


@pytest.mark.parametrize(
    "send",
    [
        in_json,
        in_large_json,
        in_the_query_of_safetensors,
        in_the_metadata_of_safetensors,
        in_float16_safetensors,
        in_parameters,
        in_a_string_of_parameters,
    ],
)
def test_edits_are_the_same_in_every_format(service, runtime, send):
    first = len(runtime.batches)
    reply = send(service)
    assert reply.status_code == 200, reply.text
    edited = [item for batch in runtime.batches[first:] for item in batch if item.edits]
    (item,) = edited
    np.testing.assert_array_equal(item.input.embeddings, X[1])
    both, all_four = ((1, 0), (1, 1)), ((0, 0), (0, 1), (1, 0), (1, 1))
    expected = (
        Edit(verb="scale", at=((0, 1),), queries=((2, 3),), value=0.5),
        Edit(verb="pattern", at=both, queries=((0, 2),), value=MATRIX),
        Edit(verb="block", at=all_four, keys=((0, 1), (2, 3))),
        Edit(verb="set", at=((0, 0), (0, 1)), value=Z),
    )
    for got, want in zip(item.edits, expected, strict=True):
        assert [getattr(got, name) for name in ("verb", "at", "queries", "keys")] == [
            getattr(want, name) for name in ("verb", "at", "queries", "keys")
        ]
        np.testing.assert_array_equal(got.value, want.value)
        assert not isinstance(got.value, np.ndarray) or got.value.dtype == np.float32


def test_one_sequence_of_numbers_has_its_edits_in_the_query(service, runtime):
    file = io.BytesIO()
    np.save(file, X[0])
    params = {"edits": json.dumps(APART[:1]), "outputs": "z", "layers": "0"}
    headers = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    reply = service.attend(file.getvalue(), headers=headers, params=params)
    expected = 2 * X[0]
    expected[2, 2:] /= 2
    np.testing.assert_array_equal(np.load(io.BytesIO(reply.content)), expected)


def test_one_sequence_of_the_protocol_has_its_edits_as_a_list(service):
    entry = {"name": "embeddings", "shape": [3, 4], "datatype": "FP32", "data": X[0].reshape(-1).tolist()}
    body = {"inputs": [entry], "outputs": [{"name": "z"}], "parameters": {"edits": APART[:1], "layers": 0}}
    reply = service.post(INFER, body).json()
    assert reply["parameters"] == {"0.edited": True}
    assert reply["outputs"][0]["data"][-2:] == (X[0, 2, 2:]).tolist()


def test_every_reply_says_which_inputs_were_edited(service):
    outputs = in_json(service).json()["outputs"]
    assert [output.get("edited") for output in outputs] == [None, True]
    assert in_parameters(service).json()["parameters"] == {"1.edited": True}
    edits = [{"edit": "scale", "layers": 0, "value": 1}]
    body = {"inputs": [{"text": "a"}, {"text": "b", "edits": edits}, {"text": "c", "edits": []}]}
    read = safetensors_format.decode(service.attend(body, headers=TO_SAFETENSORS).content)
    assert {name for name in read.metadata if name.endswith("edited")} == {"1.edited"}


def test_replies_without_edits_say_nothing_of_them(service):
    reply = service.attend({"inputs": [{"embeddings": X[0].tolist()}]})
    assert "edited" not in reply.text
    assert "parameters" not in inferred(service, {}, tensors={}).json()


@pytest.mark.parametrize(
    ("status", "edits", "said"),
    [
        (422, APART, 'edits is one list, and there are 2 inputs; give {"0": […]}, a list an input'),
        (422, {"2": APART}, "edits has '2'; the inputs are numbered from 0 to 1"),
        (422, {"01": APART}, "edits has '01'; the inputs are numbered from 0 to 1"),
        (422, {"1": APART[0]}, "edits of input 1 must be a list"),
        (422, {"1": APART[:1] * 65}, "inputs[1].edits has 65 items; give at most 64"),
        (422, "none", "edits must be a list of edits, or an object with such a list an input"),
        (
            422,
            {"1": [*APART[:1], {**APART[1], "value": "self"}, *APART[2:]]},
            "the tensor 1.edits.1 is the value",
        ),
        (
            422,
            {"1": [{**APART[1], "value": MATRIX.tolist()}, *APART[1:]]},
            "inputs[1].edits[0].value is a matrix",
        ),
        (422, {"1": [3, *APART[1:]]}, "inputs[1].edits[0] must be an object"),
        (400, {"1": APART[:3]}, "the tensor 1.edits.3 is of an edit that is not there"),
        (400, {"0": APART}, "the tensor 1.edits.1 is of an edit that is not there"),
        (400, None, "the tensor 1.edits.1 is of an edit that is not there"),
    ],
)
def test_edits_apart_that_fit_no_input_are_refused(service, status, edits, said):
    code = "malformed" if status == 400 else "invalid"
    reply = in_safetensors(service, params={"edits": json.dumps(edits)} if edits is not None else None)
    assert refused(reply, status, code).startswith(said)
    reply = inferred(service, {} if edits is None else {"edits": edits})
    assert reply.status_code == status
    assert reply.json()["error"].startswith(said)


def test_edits_given_twice_are_refused(service):
    text = json.dumps({"1": APART})
    reply = in_safetensors(service, params={"edits": text}, metadata={"edits": text})
    assert "edits are given twice" in refused(reply, 422, "invalid")


@pytest.mark.parametrize("text", ["[", "NaN", "{}{}", "[" * 40 + "]" * 40])
def test_metadata_that_is_no_json_is_malformed(service, text):
    said = refused(in_safetensors(service, metadata={"edits": text}), 400, "malformed")
    assert "the body" not in said


def test_json_of_a_query_that_is_none_is_named(service):
    said = refused(in_safetensors(service, params={"edits": "[{"}), 400, "malformed")
    assert said.startswith("'edits' is not one whole JSON document")


@pytest.mark.parametrize(
    "name", ["1.edit.3", "1.edits.x", "1.edits.01", "edits.3", "1.edits.", "1.edits.3.4"]
)
def test_tensors_of_other_names_are_none_of_edits(service, name):
    assert in_safetensors(service, tensors={name: MATRIX}).status_code in (400, 422)
    assert "there is no input" in inferred(service, {}, tensors={name: MATRIX}).json()["error"]


def test_numbers_of_a_matrix_must_be_finite_floats(service):
    for matrix, code in ((np.full_like(MATRIX, np.nan), 400), (MATRIX.astype(np.int64), 422)):
        tensors = {"1.edits.0": matrix}
        reply = in_safetensors(service, params={"edits": json.dumps({"1": APART[1:2]})}, tensors=tensors)
        assert reply.status_code == code
        assert "inputs[1].edits[0].value" in reply.json()["error"]["message"]


def test_an_option_that_looks_like_edits_is_refused(service):
    assert "did you mean edits?" in inferred(service, {"edit": []}, tensors={}).json()["error"]


values = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["scale", "all", "pattern", "1", ""])
)
names = st.sampled_from(["0", "1", "2", "edit", "layers", "heads", "value", "queries"])
anything = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
edit = st.fixed_dictionaries(
    {"edit": st.sampled_from(["scale", "pattern", "set"])}, optional={"layers": anything, "value": anything}
)
apart = st.dictionaries(st.sampled_from(["0", "1"]), st.lists(edit, max_size=3)) | anything
tensor_names = st.from_regex(r"[01]\.edits\.[0-3]", fullmatch=True)
tensors = st.dictionaries(tensor_names, st.sampled_from([MATRIX, Z, X[0, :3, :3], MATRIX[0]]), max_size=2)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(apart, tensors)
def test_random_edits_apart_are_done_or_refused_and_never_fail(service, edits, tensors):
    for reply in (
        in_safetensors(service, params={"edits": json.dumps(edits)}, tensors=tensors),
        in_safetensors(service, metadata={"edits": json.dumps(edits)}, tensors=tensors),
        inferred(service, {"edits": edits}, tensors=tensors),
    ):
        assert reply.status_code in (200, 400, 422), reply.text
