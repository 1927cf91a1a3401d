"""Requests as SageMaker's and Vertex AI's gateways pass them on, over a fake runtime whose z is twice x."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from starlette.testclient import TestClient

from service.app import create_app, require_paths, service_of
from service.settings import Settings, SettingsError
from tests.fakes import FakeRuntime, fake_card

INVOCATIONS = "/invocations"
ATTEND = "/v1/models/fake/attend"
# The few headers that SageMaker lets through, by the names that boto3 has for them.
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"
X = np.arange(12, dtype=np.float32).reshape(3, 4)
LONG = np.random.default_rng(0).random((16, 4)).tolist()  # twenty of it are read by compiled code


def served(*names: str, **settings: object) -> TestClient:
    cards = [fake_card(name, pooled=None) for name in names or ("fake",)]
    return TestClient(create_app(Settings(**settings), FakeRuntime(*cards)))


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with served() as client:
        yield client


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_ping_is_200_when_ready_and_503_from_the_first_sign_of_the_end() -> None:
    app = create_app(Settings(api_keys="sesame"), FakeRuntime())
    with TestClient(app) as client:
        ready = client.get("/ping")
        service_of(app).lifecycle.drain()
        ending = client.get("/ping")
        service_of(app).lifecycle.fail()
        failed = client.get("/ping")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (ending.status_code, ending.json()) == (503, {"status": "draining"})
    assert (failed.status_code, failed.json()) == (503, {"status": "failed"})


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [{"text": "two words"}], "outputs": ["z", "weights"], "layers": "all"},
        {"inputs": [{"embeddings": X.tolist()}, {"token_ids": [1, 2]}], "heads": [1]},
        {"inputs": [{"embeddings": LONG}] * 20, "outputs": ["z"]},
    ],
)
def test_inputs_are_a_request_to_attend(client: TestClient, body: dict[str, Any]) -> None:
    reply = client.post(INVOCATIONS, json=body)
    assert reply.status_code == 200
    assert reply.content == client.post(ATTEND, json=body).content
    assert "compute;dur=" in reply.headers["server-timing"]


@pytest.mark.parametrize(
    "body", [{"input": "two words"}, {"input": ["a", "b c"], "encoding_format": "base64", "user": "me"}]
)
def test_input_is_a_request_for_embeddings(client: TestClient, body: dict[str, Any]) -> None:
    reply = client.post(INVOCATIONS, json=body)
    assert reply.status_code == 200
    assert reply.content == client.post("/v1/embeddings", json=body).content


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "two words"},
        {"inputs": ["a", "b c"], "normalize": False, "truncate": True},
        {"inputs": [1, 2, 3]},
        {"inputs": {"source_sentence": "a", "sentences": ["b", "c d"]}},
    ],
)
def test_inputs_that_are_texts_are_those_of_text_embeddings_inference(
    client: TestClient, body: dict[str, Any]
) -> None:
    reply = client.post(INVOCATIONS, json=body)
    assert reply.status_code == 200
    assert reply.content == client.post("/", json=body).content
    assert reply.headers["x-compute-type"] == "cpu"


def test_parameters_of_texts_are_options_as_beside_them(client: TestClient) -> None:
    long = {"inputs": ["a " * 17, "b"]}
    assert client.post(INVOCATIONS, json=long).status_code == 413
    options = {"truncate": True, "normalize": None, "truncation_direction": "left"}
    reply = client.post(INVOCATIONS, json={**long, "parameters": {**options, "model": "fake"}})
    assert reply.status_code == 200
    assert reply.content == client.post("/embed", json={**long, **options}).content


TRITON = "application/vnd.sagemaker-triton.binary+json;json-header-size="


@pytest.mark.parametrize(
    "inputs",
    [
        [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["two words", "three more words"]}],
        [{"name": "embeddings", "shape": [3, 4], "datatype": "FP32", "data": X.ravel().tolist()}],
        [{"name": "embeddings", "shape": [320, 16, 4], "datatype": "FP32", "data": [LONG] * 320}],
        [{"name": "token_ids", "shape": [2], "datatype": "INT64", "data": [1, 2]}],
    ],
)
def test_inputs_that_are_tensors_are_the_open_inference_protocols(
    client: TestClient, inputs: list[dict[str, Any]]
) -> None:
    body = {"id": "7", "inputs": inputs, "outputs": [{"name": "z"}], "parameters": {"layers": "0"}}
    reply = client.post(INVOCATIONS, json=body)
    assert reply.status_code == 200
    assert reply.content == client.post("/v2/models/fake/infer", json=body).content


def binary(outputs_binary: bool) -> tuple[bytes, int]:
    tensor = {"name": "embeddings", "shape": [3, 4], "datatype": "FP32"}
    outputs = [{"name": "z", "parameters": {"binary_data": outputs_binary}}]
    head = {"inputs": [{**tensor, "parameters": {"binary_data_size": X.nbytes}}], "outputs": outputs}
    text = json.dumps(head).encode()
    return text + X.tobytes(), len(text)


def test_tensors_behind_json_say_its_length_as_tritons_users_do_there(client: TestClient) -> None:
    body, length = binary(outputs_binary=True)
    reply = client.post(INVOCATIONS, content=body, headers={"content-type": f"{TRITON}{length}"})
    assert reply.status_code == 200
    said, _, size = reply.headers["content-type"].partition("=")
    assert f"{said}=" == TRITON
    assert "inference-header-content-length" not in reply.headers
    head = json.loads(reply.content[: int(size)])
    assert head["outputs"][0]["shape"] == [3, 4]
    np.testing.assert_array_equal(np.frombuffer(reply.content[int(size) :], "<f4").reshape(3, 4), 2 * X)
    plain, length = binary(outputs_binary=False)
    reply = client.post(INVOCATIONS, content=plain, headers={"content-type": f"{TRITON}{length}"})
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["outputs"][0]["data"] == (2 * X).ravel().tolist()


def test_tensors_behind_json_may_say_its_length_as_the_protocol_does(client: TestClient) -> None:
    body, length = binary(outputs_binary=True)
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
    replies = [
        client.post(path, content=body, headers=headers) for path in (INVOCATIONS, "/v2/models/fake/infer")
    ]
    assert replies[0].status_code == 200
    assert replies[0].content == replies[1].content
    assert replies[0].headers["inference-header-content-length"]


@pytest.mark.parametrize("said", ["", "x", "99999", "10; json-header-size=10", "0"])
def test_a_wrong_length_of_json_is_refused(client: TestClient, said: str) -> None:
    body, _ = binary(outputs_binary=True)
    reply = client.post(INVOCATIONS, content=body[:-1], headers={"content-type": f"{TRITON}{said}"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "malformed")


def test_instances_are_inputs_and_parameters_options(client: TestClient) -> None:
    options = {"outputs": ["z"], "layers": "all"}
    instances = ["two words", *[{"embeddings": LONG}] * 20]
    reply = client.post(INVOCATIONS, json={"instances": instances, "parameters": options})
    asked = client.post(ATTEND, json={"inputs": [{"text": "two words"}, *instances[1:]], **options})
    assert reply.status_code == asked.status_code == 200
    assert reply.json() == {"predictions": asked.json()["outputs"]}
    bare = client.post(INVOCATIONS, json={"instances": ["two words"], "parameters": None})
    assert set(bare.json()["predictions"][0]) >= {"z", "weights", "tokens"}


@pytest.mark.parametrize("attributes", ["outputs=z&layers=all", "outputs=z&layers=all&model=fake"])
def test_a_binary_bodys_options_come_in_the_one_header_that_passes(
    client: TestClient, attributes: str
) -> None:
    headers = {
        "content-type": "application/x-npy",
        "accept": "application/x-npy",
        ATTRIBUTES: attributes,
    }
    reply = client.post(INVOCATIONS, content=saved(X), headers=headers)
    assert reply.status_code == 200
    np.testing.assert_array_equal(np.load(io.BytesIO(reply.content)), [2 * X] * 2)


def test_safetensors_and_the_query_work_as_on_attend(client: TestClient) -> None:
    headers = dict.fromkeys(("content-type", "accept"), "application/x-safetensors")
    body = safetensors.numpy.save({"0.embeddings": X, "1.embeddings": X[:2]})
    asked = {"outputs": "z", "heads": "1"}
    replies = [
        client.post(path, params=asked, content=body, headers=headers) for path in (INVOCATIONS, ATTEND)
    ]
    assert replies[0].status_code == 200
    assert replies[0].content == replies[1].content


def test_an_attribute_that_is_no_option_is_somebodys_mark(client: TestClient) -> None:
    headers = {"content-type": "application/x-npy", ATTRIBUTES: "c000b4f9-df62-4c85-a0bf-7c525f9104a4"}
    assert client.post(INVOCATIONS, content=saved(X), headers=headers).status_code == 200
    assert client.post(INVOCATIONS, json={"input": "a"}, headers={ATTRIBUTES: "trace=1"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "none of them"),
        ({"texts": ["a"]}, 400, '"instances"'),
        ({"input": "a", "inputs": []}, 400, "inputs and input"),
        ({"inputs": [{"text": "a"}], "output": ["z"]}, 422, "did you mean outputs"),
        ({"inputs": [{"text": "a"}], "model": 1}, 422, "model must be a string"),
        ({"inputs": [{"text": "a"}], "model": "none"}, 404, "no model is called"),
        ({"inputs": []}, 422, "inputs has 0 items"),
        ({"inputs": ""}, 422, "cannot be empty"),
        ({"inputs": 1}, 422, "inputs must be a text"),
        ({"inputs": "a", "model": "none"}, 404, "no model is called"),
        ({"inputs": "a", "parameters": {"model": "none"}}, 404, "no model is called"),
        ({"inputs": "a", "parameters": {"model": 1}}, 422, "parameters.model must be a string"),
        ({"inputs": "a", "model": "none", "parameters": {"model": "fake"}}, 422, "name one"),
        ({"inputs": "a", "parameters": ["model"]}, 422, "parameters must be an object, of model, truncate"),
        (
            {"inputs": "a", "parameters": {"normalise": False}},
            422,
            "no option of texts; did you mean normalize",
        ),
        (
            {"inputs": ["a"], "parameters": {"outputs": ["z"]}},
            422,
            "parameters.outputs is no option of texts",
        ),
        ({"inputs": "a", "parameters": {"inputs": "b"}}, 422, "parameters.inputs is no option of texts"),
        ({"inputs": "a", "parameters": {"normalize": 1}}, 422, "normalize must be true or false"),
        (
            {"inputs": "a", "normalize": True, "parameters": {"normalize": False}},
            422,
            "normalize and parameters.normalize say the same; leave one out",
        ),
        ({"instances": "a"}, 422, "instances must be a list"),
        ({"instances": [{"texts": "a"}]}, 422, "instances[0].texts is no field"),
        ({"instances": ["a"], "parameters": []}, 422, "parameters must be an object"),
        ({"instances": ["a"], "parameters": {"inputs": []}}, 422, "give them as instances"),
        ({"instances": ["a"], "parameter": {}}, 422, "did you mean parameters"),
        ({"instances": ["a " * 17]}, 413, "instances[0]"),
        ({"instances": [{"embeddings": [[1, 2]]}]}, 422, "instances[0]"),
        ([1], 400, "send a JSON object"),
    ],
)
def test_refusals_say_what_to_send(client: TestClient, body: object, status: int, said: str) -> None:
    reply = client.post(INVOCATIONS, json=body)
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]
    assert client.post(INVOCATIONS, json={"input": "a"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/csv"}, 415),
        ({"accept": "text/csv"}, 406),
        ({"content-type": "application/x-npy", ATTRIBUTES: "outputs=z&outputs=z"}, 400),
        ({"content-type": "application/x-npy", ATTRIBUTES: "output=z"}, 422),
        ({"content-type": "application/x-npy", ATTRIBUTES: "model=none"}, 404),
        ({"content-type": "application/x-npy", ATTRIBUTES: "&".join(["a=1"] * 70)}, 400),
    ],
)
def test_headers_are_judged_before_anything_is_computed(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.post(INVOCATIONS, content=saved(X), headers=headers).status_code == status


def test_predictions_are_json_alone(client: TestClient) -> None:
    body = {"instances": ["a"], "parameters": {"outputs": ["z"]}}
    assert client.post(INVOCATIONS, json=body, headers={"accept": "application/x-npy"}).status_code == 406


def test_the_default_model_answers_and_of_several_without_one_the_caller_is_told() -> None:
    body = {"inputs": [{"text": "a"}], "outputs": ["z"]}
    with served("one", "two") as client:
        refused = client.post(INVOCATIONS, json=body)
        named = client.post(INVOCATIONS, json={**body, "model": "two"})
        of_instances = {"instances": ["a"], "parameters": {"model": "two", "outputs": ["z"]}}
        instances = client.post(INVOCATIONS, json=of_instances)
        texts = client.post(INVOCATIONS, json={"inputs": "a", "model": "two"})
    with served("one", "two", default_model="one") as client:
        default = client.post(INVOCATIONS, json=body)
    assert refused.status_code == 422
    assert "DEFAULT_MODEL" in refused.json()["error"]["message"]
    assert (named.json()["model"], default.json()["model"]) == ("two", "one")
    assert instances.status_code == 200
    assert texts.status_code == 200


def test_keys_limits_and_metrics_hold_as_on_every_route() -> None:
    with served(api_keys="sesame", max_body_bytes=2048, max_result_bytes=1024) as client:
        key = {"x-api-key": "sesame"}
        statuses = [
            client.post(INVOCATIONS, json={"input": "a"}).status_code,
            client.post(INVOCATIONS, content=b"x" * 3000, headers=key).status_code,
            client.post(INVOCATIONS, json={"instances": ["a b c d e f g h"] * 9}, headers=key).status_code,
            client.post(INVOCATIONS, json={"inputs": [{"text": "a"}]}, headers=key).status_code,
        ]
        page = client.get("/metrics").text
    assert statuses == [401, 413, 413, 200]
    assert 'heed_requests_total{code="200",model="fake",route="/invocations"} 1.0' in page
    assert 'heed_requests_total{code="413",model="fake",route="/invocations"} 1.0' in page


def test_a_platforms_own_paths_are_ours_in_metrics_and_need_the_same_keys() -> None:
    health, predict = "/v1/endpoints/1/deployedModels/2", "/v1/endpoints/1/deployedModels/2:predict"
    with served(health_route=health, predict_route=predict, api_keys="sesame", root_path="/heed") as client:
        assert client.get(health).json() == {"status": "ready"}
        assert client.get(f"/heed{health}").status_code == 200
        assert client.get("/ping").status_code == 200
        body = {"instances": ["a"], "parameters": {"outputs": ["z"]}}
        assert client.post(predict, json=body).status_code == 401
        reply = client.post(predict, json=body, headers={"authorization": "Bearer sesame"})
        page = client.get("/metrics").text
    assert list(reply.json()) == ["predictions"]
    assert 'code="200",model="fake",route="/invocations"} 1.0' in page
    assert 'code="200",model="",route="/ping"} 3.0' in page


@pytest.mark.parametrize("path", ["/v1/embeddings", ATTEND, "/invocations"])
def test_a_route_of_ours_may_be_the_one_that_a_platform_asks(path: str) -> None:
    with served(predict_route=path, health_route="/health") as client:
        body = {"input": "a"} if path != ATTEND else {"inputs": [{"text": "a"}], "outputs": ["z"]}
        assert client.post(path, json=body).status_code == 200
        assert client.get("/health").json()["models"] == ["fake"]


@pytest.mark.parametrize(
    ("setting", "path", "method", "ours"),
    [
        ("health_route", "/v1/embeddings", "GET", "/ping"),
        ("health_route", "/invocations", "GET", "/ping"),
        ("health_route", ATTEND, "GET", "/ping"),
        ("predict_route", "/ping", "POST", "/invocations"),
        ("predict_route", "/v1/models/fake", "POST", "/invocations"),
        ("predict_route", "/openapi.json", "POST", "/invocations"),
    ],
)
def test_a_path_that_would_hide_a_route_of_ours_refuses_to_start(
    setting: str, path: str, method: str, ours: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        require_paths(Settings.model_validate({setting: path}))
    (problem,) = refused.value.problems
    assert problem.startswith(f"{setting.upper()} (AIP_{setting.upper()}) is {path}, ")
    assert f"by another method than {method}" in problem
    assert problem.endswith(f"leave {setting.upper()} (AIP_{setting.upper()}) out for {ours}")


@pytest.mark.parametrize("health", [None, "/ping", "/health", "/v1/endpoints/1", "/v2/models/fake/ready"])
@pytest.mark.parametrize(
    "predict", [None, "/invocations", "/v1/embeddings", ATTEND, "/v1/endpoints/1:predict"]
)
def test_paths_that_hide_nothing_are_taken(health: str | None, predict: str | None) -> None:
    require_paths(Settings(health_route=health, predict_route=predict))


def test_a_large_reply_of_predictions_comes_piece_by_piece_and_is_the_same() -> None:
    body = json.dumps({"instances": ["a b c d e f g h i j"] * 400, "parameters": {"layers": "all"}})
    with served(max_memory_bytes=2**28) as whole, served(max_memory_bytes=2**24) as pieces:
        replies = [client.post(INVOCATIONS, content=body) for client in (whole, pieces)]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert ["content-length" in reply.headers for reply in replies] == [True, False]
    assert replies[0].json() == replies[1].json()
