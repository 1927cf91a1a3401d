"""npy and safetensors on the two attention routes, over a fake runtime: z is twice the embeddings."""

import io

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from service.wire import safetensors_format
from tests.fakes import FakeRuntime

NPY = {"content-type": "application/x-npy"}
SAFETENSORS = {"content-type": "application/x-safetensors"}
TO_NPY = {"accept": "application/x-npy"}
TO_SAFETENSORS = {"accept": "application/x-safetensors"}
ATTEND = "/v1/models/fake/attend"
X = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(Settings(), FakeRuntime())) as client:
        yield client


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, ">f4"])
def test_npy_in_and_npy_out(client, dtype):
    reply = client.post(ATTEND, params={"outputs": "z"}, content=saved(X.astype(dtype)), headers=NPY | TO_NPY)
    assert reply.headers["content-type"] == "application/x-npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(reply.content)), 2 * X)
    assert "decode;dur=" in reply.headers["server-timing"]


def test_npy_in_and_json_out_unless_asked_otherwise(client):
    reply = client.post(ATTEND, content=saved(X), headers=NPY | {"accept": "*/*"})
    np.testing.assert_array_equal(np.float32(reply.json()["outputs"][0]["z"]), 2 * X)


def test_text_in_and_safetensors_out(client):
    reply = client.post(ATTEND, json={"inputs": [{"text": "two words"}]}, headers=TO_SAFETENSORS)
    read = safetensors_format.decode(reply.content)
    assert set(read.arrays) == {"0.z", "0.weights"}
    assert read.metadata["0.tokens"] == '["two","words"]'
    assert (read.metadata["model"], read.metadata["usage.tokens"]) == ("fake", "2")


def test_ragged_safetensors_in_and_out(client):
    body = safetensors.numpy.save({"0.embeddings": X, "1.embeddings": X[:1]})
    reply = client.post(
        ATTEND, params={"layers": "all", "heads": "1"}, content=body, headers=SAFETENSORS | TO_SAFETENSORS
    )
    arrays = safetensors.numpy.load(reply.content)
    assert arrays["0.weights"].shape == (2, 1, 3, 3)
    assert arrays["1.weights"].shape == (2, 1, 1, 1)
    np.testing.assert_array_equal(arrays["1.z"], [2 * X[:1]] * 2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_replies_come_in_the_dtype_asked(client, dtype):
    for headers in (TO_SAFETENSORS, TO_NPY):
        reply = client.post(
            ATTEND, params={"outputs": "z", "dtype": dtype}, content=saved(X), headers=NPY | headers
        )
        if headers is TO_NPY:
            array = np.load(io.BytesIO(reply.content))
        else:
            array = safetensors_format.decode(reply.content).arrays["0.z"]
        array = array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array
        assert array.dtype == dtype
        np.testing.assert_array_equal(array.astype(np.float32), 2 * X)


def test_attention_of_the_callers_own_tensors(client):
    body = safetensors.numpy.save({"0.query": X, "0.key": X, "0.value": X, "0.mask": np.ones(3, bool)})
    reply = client.post(
        "/v1/attention", params={"causal": "true"}, content=body, headers=SAFETENSORS | TO_SAFETENSORS
    )
    assert safetensors.numpy.load(reply.content)["0.weights"].shape == (3, 3)


@pytest.mark.parametrize(
    ("status", "params", "body", "headers"),
    [
        (400, {}, b"\x93NUMPY", NPY),
        (400, {}, saved(X)[:-1], NPY),
        (400, {}, saved(X.astype(np.complex64)), NPY),
        (400, {}, saved(np.full((2, 4), np.nan, np.float32)), NPY),
        (400, {}, saved(np.float16([[np.inf] * 4])), NPY),
        (400, {}, b"", SAFETENSORS),
        (400, {}, safetensors.numpy.save({"embeddings": X}), SAFETENSORS),
        (406, {}, saved(X), NPY | TO_NPY),
        (406, {"outputs": "top_k"}, saved(X), NPY | TO_NPY),
        (415, {}, saved(X), {"content-type": "application/x-numpy"}),
        (422, {}, saved(X[0]), NPY),
        (422, {}, saved(X[:0]), NPY),
        (422, {"layer": "1"}, saved(X), NPY),
        (422, {"layers": "9"}, saved(X), NPY),
        (422, {"dtype": "bfloat16"}, saved(X), NPY),
        (422, {}, safetensors.numpy.save({"0.embedings": X}), SAFETENSORS),
        (422, {}, safetensors.numpy.save({"0.embeddings": X, "0.text": X}), SAFETENSORS),
        (422, {}, safetensors.numpy.save({"0.embeddings": X, "0.mask": X}), SAFETENSORS),
        (422, {}, safetensors.numpy.save({"0.token_ids": X}), SAFETENSORS),
        (422, {}, safetensors.numpy.save({"0.spans": np.array([[0, 1]]), "0.embeddings": X}), SAFETENSORS),
    ],
)
def test_what_is_wrong_is_refused_with_the_contracts_status(client, status, params, body, headers):
    if "0.spans" in str(body):
        params = {"outputs": "z"}  # spans sum weights, which are not asked for
    reply = client.post(ATTEND, params=params, content=body, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["code"] in {
        "malformed",
        "not_acceptable",
        "unsupported_media_type",
        "invalid",
    }
