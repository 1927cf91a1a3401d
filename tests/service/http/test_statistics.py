"""Statistics of models, as Triton's extension of the protocol has them, over the whole application."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeRuntime, fake_card

ATTEND = "/v1/models/fake/attend"
STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def client():
    with TestClient(create_app(Settings(), FakeRuntime(fake_card(), fake_card("other")))) as client:
        yield client


def statistics(client: TestClient, path: str = "/v2/models/fake/stats") -> dict[str, Any]:
    reply = client.get(path)
    assert (reply.status_code, reply.headers["cache-control"]) == (200, "no-store")
    (found,) = reply.json()["model_stats"]
    return found


def counts(found: dict[str, Any]) -> dict[str, int]:
    return {name: one["count"] for name, one in found["inference_stats"].items()}


def test_before_anything_is_asked_all_is_0(client: TestClient) -> None:
    found = statistics(client)
    assert (found["name"], found["version"]) == ("fake", "1")
    assert (found["inference_count"], found["execution_count"]) == (0, 0)
    assert counts(found) == dict.fromkeys(("success", "fail", *STAGES), 0)
    assert found["memory_usage"] == [{"type": "CPU", "id": 0, "byte_size": 1024}]


def test_requests_sequences_and_batches_are_counted_whichever_route_they_came_by(client: TestClient) -> None:
    texts = {"inputs": [{"text": "a b"}, {"text": "c"}], "outputs": ["z"]}
    assert client.post(ATTEND, json=texts).status_code == 200
    assert client.post("/v1/embeddings", json={"model": "fake", "input": ["a", "b", "c"]}).status_code == 200
    assert client.post(ATTEND, json={"inputs": [{"text": "a"}], "outputs": ["none"]}).status_code == 422
    client.get("/v1/models/fake")
    client.post("/v1/tokenize", json={"model": "fake", "input": "a"})  # computes nothing
    found = statistics(client)
    assert found["inference_count"] == 5
    assert counts(found) == {"success": 2, "fail": 1, **dict.fromkeys(STAGES, 2)}
    assert 2 <= found["execution_count"] <= 5
    spent = {name: one["ns"] for name, one in found["inference_stats"].items()}
    assert min(spent.values()) > 0
    assert sum(spent[name] for name in STAGES) < spent["success"]
    assert statistics(client, "/v2/models/other/stats")["inference_count"] == 0


def test_they_are_of_one_model_of_one_version_or_of_all(client: TestClient) -> None:
    client.post(ATTEND, json={"inputs": [{"text": "a"}]})
    one = statistics(client)
    assert statistics(client, "/v2/models/fake/versions/1/stats") == one
    whole = client.get("/v2/models/stats").json()["model_stats"]
    assert [found["name"] for found in whole] == ["fake", "other"]
    assert whole[0] == one
    for path in ("/v2/models/none/stats", "/v2/models/fake/versions/9/stats"):
        reply = client.get(path)
        assert (reply.status_code, list(reply.json())) == (404, ["error"])
    assert "statistics" in client.get("/v2").json()["extensions"]


def test_a_large_reply_that_goes_piece_by_piece_has_its_time_of_writing_too() -> None:
    settings = Settings(max_memory_bytes=2**24)
    with TestClient(create_app(settings, FakeRuntime(fake_card(pooled=None)))) as client:
        many = {"inputs": [{"text": "a b c d e f g h i j"}] * 400, "layers": "all"}
        reply = client.post(ATTEND, json=many)
        assert (reply.status_code, "content-length" in reply.headers) == (200, False)
        found = statistics(client)
    assert found["inference_stats"]["compute_output"]["ns"] > 0
    assert found["inference_count"] == 400
