"""The Open Inference Protocol over a fake runtime: z is twice the embeddings, weights are 1/S."""

import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.http.schemas import AttendOptions
from service.settings import Settings
from service.wire.dtypes import float32_to_bits, widen
from tests.fakes import FakeRuntime, fake_card

INFER = "/v2/models/fake/infer"
LENGTH = "inference-header-content-length"
DTYPES = {"FP32": np.float32, "FP16": np.float16, "BF16": np.uint16, "INT32": np.int32, "INT64": np.int64}


@pytest.fixture
def runtime():
    return FakeRuntime(fake_card(), fake_card("numbers", inputs=("token_ids",)))


@pytest.fixture
def client(runtime):
    with TestClient(create_app(Settings(max_result_bytes=4096), runtime)) as client:
        yield client


def tensor(name: str, array: np.ndarray, datatype: str = "FP32") -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": datatype,
        "data": array.reshape(-1).tolist(),
    }


def texts(*words: str) -> dict[str, Any]:
    return {"name": "text", "shape": [len(words)], "datatype": "BYTES", "data": list(words)}


def ask(client: TestClient, *inputs: dict[str, Any], outputs: Any = None, **more: Any):
    body = {"inputs": list(inputs), **more}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    return client.post(INFER, json=body)


def arrays_of(reply) -> dict[str, np.ndarray]:
    """Read a reply, JSON or binary."""
    assert reply.status_code == 200, reply.text
    header_length = reply.headers.get(LENGTH)
    body = reply.content
    head = json.loads(body if header_length is None else body[: int(header_length)])
    at = int(header_length or len(body))
    found: dict[str, np.ndarray] = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            dtype = object if output["datatype"] == "BYTES" else DTYPES[output["datatype"]]
            found[output["name"]] = np.array(output["data"], dtype=dtype).reshape(output["shape"])
        else:
            raw = np.frombuffer(body[at : at + size], DTYPES[output["datatype"]])
            found[output["name"]] = raw.reshape(output["shape"])
            at += size
    assert at == len(body)
    return found


X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_server_says_what_it_is_and_what_it_can(client):
    about = client.get("/v2").json()
    assert about["name"] == "heed"
    assert about["extensions"] == [
        "binary_tensor_data",
        "model_configuration",
        "model_repository",
        "statistics",
    ]
    assert client.get("/v2/health/live").json() == {"live": True}
    ready = client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True})


def test_readiness_is_decided_by_the_status_code(runtime):
    app = create_app(Settings(), runtime)
    with TestClient(app) as client:
        app.state.service.lifecycle.drain()
        for path in ("/v2/health/ready", "/v2/models/fake/ready"):
            reply = client.get(path)
            assert reply.status_code == 503
            assert reply.json()["ready"] is False
        assert client.get("/v2/health/live").status_code == 200


def test_metadata_names_every_tensor_with_minus_one_where_sizes_vary(client):
    page = client.get("/v2/models/fake").json()
    assert (page["name"], page["versions"], page["platform"]) == ("fake", ["1"], "heed")
    inputs = {one["name"]: one for one in page["inputs"]}
    outputs = {one["name"]: one for one in page["outputs"]}
    assert inputs["embeddings"] == {"name": "embeddings", "datatype": "FP32", "shape": [-1, 4]}
    assert inputs["text"]["datatype"] == "BYTES"
    assert outputs["weights"] == {"name": "weights", "datatype": "FP32", "shape": [2, -1, -1]}
    assert outputs["top_k_keys"]["datatype"] == "INT32"
    assert client.get("/v2/models/fake/versions/1").json() == page


def test_versions_that_are_not_served_are_unknown(client):
    assert client.get("/v2/models/fake/versions/1/ready").status_code == 200
    for path in ("/v2/models/fake/versions/2", "/v2/models/fake/versions/2/ready", "/v2/models/none"):
        reply = client.get(path)
        assert reply.status_code == 404
        assert set(reply.json()) == {"error"}
    body = {"inputs": [tensor("embeddings", X)]}
    assert client.post("/v2/models/fake/versions/1/infer", json=body).status_code == 200
    assert client.post("/v2/models/fake/versions/2/infer", json=body).status_code == 404


def test_json_request_gets_a_json_reply_with_its_id(client):
    reply = ask(client, tensor("embeddings", X), id="42")
    head = reply.json()
    assert (head["id"], head["model_name"], head["model_version"]) == ("42", "fake", "1")
    found = arrays_of(reply)
    np.testing.assert_array_equal(found["z"], 2 * X)
    np.testing.assert_allclose(found["weights"], np.full((2, 3, 3), 1 / 3, np.float32))
    assert "compute;dur=" in reply.headers["server-timing"]


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16"])
def test_binary_request_gets_a_binary_reply_in_the_dtype_asked(client, datatype):
    sent = {"FP32": X, "FP16": X.astype(np.float16), "BF16": float32_to_bits(X)}[datatype]
    dtype = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16"}[datatype]
    entry = {
        "name": "embeddings",
        "shape": [3, 4],
        "datatype": datatype,
        "parameters": {"binary_data_size": sent.nbytes},
    }
    head = json.dumps(
        {"inputs": [entry], "parameters": {"binary_data_output": True, "dtype": dtype}}
    ).encode()
    reply = client.post(INFER, content=head + sent.tobytes(), headers={LENGTH: str(len(head))})
    assert reply.headers["content-type"] == "application/octet-stream"
    np.testing.assert_array_equal(widen(arrays_of(reply)["z"]), 2 * X)


def test_outputs_may_be_binary_one_by_one(client):
    outputs = [
        {"name": "weights", "parameters": {"binary_data": False}},
        {"name": "z", "parameters": {"binary_data": True}},
        {"name": "top_k"},
    ]
    reply = client.post(INFER, json={"inputs": [tensor("embeddings", X)], "outputs": outputs})
    assert list(arrays_of(reply)) == ["weights", "z", "top_k_keys", "top_k_weights", "top_k_rest"]
    entries = {one["name"]: one for one in json.loads(reply.content[: int(reply.headers[LENGTH])])["outputs"]}
    assert "data" in entries["weights"]
    assert entries["z"]["parameters"] == {"binary_data_size": X.nbytes}


def test_raw_body_is_embeddings_and_its_reply_is_binary(client):
    reply = client.post(INFER, content=X.tobytes(), headers={LENGTH: "0"})
    np.testing.assert_array_equal(arrays_of(reply)["z"], 2 * X)


def test_raw_body_that_says_it_is_json_is_malformed(client):
    headers = {LENGTH: "0", "content-type": "application/json; charset=utf-8"}
    reply = client.post(INFER, content=X.tobytes(), headers=headers)
    assert reply.status_code == 400
    assert "Content-Type says JSON" in reply.json()["error"]


def test_raw_body_for_a_model_without_embeddings_is_invalid(client):
    reply = client.post("/v2/models/numbers/infer", content=X.tobytes(), headers={LENGTH: "0"})
    assert reply.status_code == 422


def test_batch_is_cut_to_its_lengths_and_padded_with_zeros(client, runtime):
    batch = np.ones((2, 3, 4), np.float32)
    reply = ask(client, tensor("embeddings", batch), tensor("lengths", np.array([3, 1]), "INT64"))
    found = arrays_of(reply)
    assert [item.input.queries for item in runtime.batches[-1]] == [3, 1]
    expected = 2 * batch
    expected[1, 1:] = 0
    np.testing.assert_array_equal(found["z"], expected)
    np.testing.assert_allclose(found["weights"][0], 1 / 3, rtol=1e-6)
    assert found["weights"].shape == (2, 2, 3, 3)
    assert found["weights"][1, 0, 0, 0] == 1
    assert found["weights"][1].sum() == 2
    np.testing.assert_array_equal(found["lengths"], [3, 1])


def test_batch_without_lengths_is_all_full(client, runtime):
    found = arrays_of(ask(client, tensor("embeddings", np.ones((2, 3, 4), np.float32)), outputs=["z"]))
    assert found["z"].shape == (2, 3, 4)
    assert [item.input.queries for item in runtime.batches[-1]] == [3, 3]


def test_batch_of_one_keeps_its_axis(client):
    assert arrays_of(ask(client, tensor("embeddings", X[None])))["z"].shape == (1, 3, 4)


def test_texts_are_a_batch_and_give_their_tokens_and_lengths(client):
    reply = ask(client, texts("a bank of the river", "[UNK]"), outputs=["z", "tokens", "lengths"])
    found = arrays_of(reply)
    assert found["z"].shape == (2, 5, 4)
    assert found["tokens"].tolist() == [["a", "bank", "of", "the", "river"], ["[UNK]", "", "", "", ""]]
    np.testing.assert_array_equal(found["lengths"], [5, 1])


@pytest.mark.parametrize("nested", [True, False])
def test_texts_of_a_column_are_a_batch_as_triton_has_them(client, nested):
    words = ["a bank of the river", "[UNK]"]
    column = {**texts(*words), "shape": [2, 1], "data": [[word] for word in words] if nested else words}
    for names in (["z", "tokens", "lengths"], ["weights"]):
        expected, got = ask(client, texts(*words), outputs=names), ask(client, column, outputs=names)
        assert got.status_code == 200, got.text
        assert got.content == expected.content


def test_tensors_may_have_the_names_they_have_in_transformers(client, runtime):
    ids, mask = np.array([[5, 6, 0], [7, 8, 9]]), np.array([[1, 1, 0], [1, 1, 1]])
    ours = ask(client, tensor("token_ids", ids, "INT64"), tensor("mask", mask == 1, "BOOL"))
    for datatype in ("INT32", "INT64", "UINT8"):
        theirs = ask(
            client,
            tensor("input_ids", ids, "INT64"),
            tensor("attention_mask", mask, datatype),
            tensor("token_type_ids", 0 * ids, "INT64"),
        )
        assert theirs.status_code == 200, theirs.text
        assert theirs.content == ours.content
        assert [item.input.mask.tolist() for item in runtime.batches[-1]] == (mask == 1).tolist()
        assert [item.input.type_ids.tolist() for item in runtime.batches[-1]] == [[0, 0, 0]] * 2


def test_type_ids_of_a_batch_are_cut_to_their_lengths(client, runtime):
    ids = np.array([[5, 6, 0], [7, 8, 9]])
    ask(
        client,
        tensor("token_ids", ids, "INT64"),
        tensor("type_ids", 0 * ids, "INT32"),
        tensor("lengths", np.array([[2], [3]]), "INT64"),
    )
    assert [item.input.type_ids.shape for item in runtime.batches[-1]] == [(2,), (3,)]


def test_parameters_of_other_servers_change_nothing(client):
    given = tensor("embeddings", X)
    strange = {"content_type": "np", "headers": {"a": "b"}, "sequence_id": 7, "sequence_start": True}
    expected = client.post(INFER, json={"inputs": [given], "outputs": [{"name": "z"}]})
    got = client.post(
        INFER,
        json={
            "inputs": [{**given, "parameters": strange}],
            "outputs": [{"name": "z", "parameters": strange}],
            "parameters": strange,
        },
    )
    assert got.status_code == 200, got.text
    assert got.content == expected.content


def test_null_is_absent_in_every_parameter(client):
    given = tensor("embeddings", X)
    options = dict.fromkeys([*AttendOptions.model_fields, "timeout", "binary_data_output"])
    options.pop("outputs")
    expected = ask(client, given)
    assert ask(client, given, parameters=options).content == expected.content


def test_text_without_an_axis_is_one_sequence(client):
    text = {"name": "text", "shape": [], "datatype": "BYTES", "data": ["two words"]}
    found = arrays_of(ask(client, text, outputs=["z", "tokens"]))
    assert found["z"].shape == (2, 4)
    assert found["tokens"].tolist() == ["two", "words"]


def test_token_ids_are_one_sequence_or_a_batch(client):
    ids = np.array([[5, 6, 0], [7, 8, 9]])
    one = arrays_of(ask(client, tensor("token_ids", ids[1], "INT64"), outputs=["z"]))["z"]
    batch = arrays_of(
        ask(
            client,
            tensor("token_ids", ids, "INT32"),
            tensor("lengths", np.array([2, 3]), "INT32"),
            outputs=["z"],
        )
    )["z"]
    np.testing.assert_array_equal(batch[1], one)
    np.testing.assert_array_equal(batch[0, :, 0], [10, 12, 0])


def test_memory_and_mask_of_a_batch_are_cut_to_their_lengths(client, runtime):
    ask(
        client,
        tensor("embeddings", np.ones((2, 3, 4), np.float32)),
        tensor("memory", np.ones((2, 5, 4), np.float32)),
        tensor("memory_lengths", np.array([5, 2]), "INT32"),
        tensor("mask", np.ones((2, 5), bool), "BOOL"),
    )
    items = runtime.batches[-1]
    assert [(item.input.queries, item.input.keys) for item in items] == [(3, 5), (3, 2)]
    assert [item.input.mask.shape for item in items] == [(5,), (2,)]


@pytest.mark.parametrize("layers", ["all", [0, 1], "0,1", "[0, 1]"])
def test_options_are_parameters_in_every_spelling_that_a_query_has(client, layers):
    reply = ask(client, tensor("embeddings", X), outputs=["z"], parameters={"layers": layers})
    assert arrays_of(reply)["z"].shape == (2, 3, 4)


def test_timeout_of_tritons_clients_is_a_deadline(client, runtime):
    runtime.gate.clear()
    reply = ask(client, tensor("embeddings", X), parameters={"timeout": 20_000})
    runtime.gate.set()
    assert reply.status_code == 504


def test_same_answer_as_attend(client):
    v1 = client.post(
        "/v1/models/fake/attend",
        json={"inputs": [{"text": "one two"}], "outputs": ["z", "weights", "entropy"], "heads": [1]},
    ).json()["outputs"][0]
    v2 = arrays_of(
        ask(client, texts("one two"), outputs=["z", "weights", "entropy"], parameters={"heads": [1]})
    )
    for name in ("z", "weights", "entropy"):
        np.testing.assert_array_equal(v2[name][0], np.array(v1[name], np.float32))


IDS = tensor("token_ids", np.array([1]), "INT64")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"inputs": []}),
        (400, {"inputs": [tensor("embeddings", X) | {"shape": [3, 5]}]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([4]), "INT32")]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([-1]), "INT32")]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([3, 3]), "INT32")]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([[3, 3]]), "INT32")]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([3.0]))]}),
        (400, {"inputs": [tensor("embeddings", X[None]), tensor("memory", np.ones((2, 3, 4)))]}),
        (400, {"inputs": [tensor("embeddings", X)], "outputs": [{"name": "top_k"}, {"name": "top_k_rest"}]}),
        (422, {"inputs": [tensor("embeddings", X[None]), tensor("lengths", np.array([0]), "INT32")]}),
        (422, {"inputs": [tensor("embeddings", X), tensor("lengths", np.array([3]), "INT32")]}),
        (422, {"inputs": [tensor("embeddings", X), tensor("memory_lengths", np.array([3]), "INT32")]}),
        (422, {"inputs": [tensor("embeddings", X[None]), tensor("memory_lengths", np.array([3]), "INT32")]}),
        (422, {"inputs": [tensor("embeddings", np.ones((3, 5)))]}),
        (422, {"inputs": [tensor("embeddings", np.ones(4))]}),
        (422, {"inputs": [tensor("embeddings", np.ones((1, 1, 3, 4)))]}),
        (422, {"inputs": [tensor("embeddings", np.ones((0, 3, 4)))]}),
        (422, {"inputs": [tensor("embedings", X)]}),
        (422, {"inputs": [tensor("embeddings", X), texts("a")]}),
        (422, {"inputs": [tensor("lengths", np.array([1]), "INT32")]}),
        (422, {"inputs": [tensor("text", X)]}),
        (422, {"inputs": [texts("a") | {"name": "embeddings"}]}),
        (422, {"inputs": [texts("a"), tensor("lengths", np.array([1]), "INT32")]}),
        (422, {"inputs": [texts("a"), texts("b") | {"name": "mask"}]}),
        (422, {"inputs": [tensor("embeddings", X)], "outputs": [{"name": "zz"}]}),
        (422, {"inputs": [tensor("embeddings", X)], "outputs": [{"name": "tokens"}]}),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"layer": 1}}),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"layers": 2}}),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"outputs": ["z"]}}),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"timeout": -1}}),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"Top-K": 1}}),
        (422, {"inputs": [texts("a", "b") | {"shape": [1, 2]}]}),
        (
            422,
            {
                "inputs": [
                    tensor("token_ids", np.array([1]), "INT64"),
                    tensor("input_ids", np.array([1]), "INT64"),
                ]
            },
        ),
        (
            422,
            {
                "inputs": [
                    tensor("input_ids", np.array([1]), "INT64"),
                    tensor("token_type_ids", np.array([1]), "INT64"),
                ]
            },
        ),
        (422, {"inputs": [tensor("embeddings", X)], "parameters": {"dtype": "float16"}}),
    ],
)
def test_what_does_not_fit_is_refused_in_the_protocols_words(client, status, body):
    reply = client.post(INFER, json=body)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    assert client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize("value", ["-1", "x", "1.5", "9" * 30, "", "1000000"])
def test_header_length_that_is_no_length_of_the_body_is_malformed(client, value):
    body = json.dumps({"inputs": [tensor("embeddings", X)]}).encode()
    assert client.post(INFER, content=body, headers={LENGTH: value}).status_code == 400


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_body_is_the_body_whose_json_the_header_measures(client, coding):
    given = {"name": "embeddings", "shape": [3, 4], "datatype": "FP32"}
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": X.nbytes}}]}).encode()
    pack = {"gzip": gzip.compress, "deflate": zlib.compress}[coding]
    headers = {LENGTH: str(len(head)), "content-encoding": coding}
    reply = client.post(INFER, content=pack(head + X.tobytes()), headers=headers)
    np.testing.assert_array_equal(arrays_of(reply)["z"], 2 * X)


def test_padding_counts_against_the_limit_before_anything_is_computed(client, runtime):
    batch = np.zeros((16, 16, 4), np.float32)
    lengths = np.array([16] + [1] * 15)
    inputs = (tensor("embeddings", batch), tensor("lengths", lengths, "INT32"))
    reply = ask(client, *inputs, outputs=["weights"])
    assert reply.status_code == 413
    assert str(16 * 2 * 16 * 16 * 4) in reply.json()["error"]
    assert "4096" in reply.json()["error"]
    assert runtime.batches == []
