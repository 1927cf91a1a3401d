import gzip
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from models.errors import DeviceFailed
from service.app import create_app, service_of
from service.environment import load_settings
from service.settings import Settings
from tests.fakes import FakeRuntime, fake_card
from tests.waiting import wait_until

ATTEND = "/v1/models/fake/attend"
BODY = {"inputs": [{"embeddings": [[1.0, 2.0, 3.0, 4.0]]}], "outputs": ["z"]}


@contextmanager
def serving(settings: Settings | None = None, runtime: FakeRuntime | None = None) -> Iterator[TestClient]:
    app = create_app(settings or Settings(), runtime or FakeRuntime())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def metric(client: TestClient, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(client.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def test_one_request_goes_down_the_whole_line() -> None:
    with serving() as client:
        reply = client.post(ATTEND, json=BODY)
        assert reply.status_code == 200
        assert reply.json()["outputs"] == [{"z": [[2.0, 4.0, 6.0, 8.0]]}]
        assert "compute;dur=" in reply.headers["server-timing"]
        assert reply.headers["x-request-id"]


def test_everything_the_request_did_is_counted() -> None:
    with serving() as client:
        client.post(ATTEND, json=BODY)
        route = "/v1/models/{model}/attend"
        assert metric(client, "heed_requests_total", route=route, model="fake", code="200") == 1
        assert metric(client, "heed_batch_sequences_sum") == 1
        assert metric(client, "heed_batch_fill_ratio_sum") == 1
        for name in ("queue", "compute", "decode", "encode", "request"):
            assert metric(client, f"heed_{name}_seconds_count") >= 1, name
        assert metric(client, "heed_compute_seconds_count", model="fake") == 1
        assert metric(client, "heed_received_bytes_total") > 0
        assert metric(client, "heed_models_loaded") == 1
        assert metric(client, "heed_device_memory_bytes", kind="weights") == 1024


def test_pages_of_the_framework_are_counted_under_their_own_names() -> None:
    with serving() as client:
        for path in ("/docs", "/openapi.json", "/redoc"):
            client.get(path)
        assert metric(client, "heed_requests_total", route="/docs", code="200") == 1
        assert metric(client, "heed_requests_total", route="/openapi.json", code="200") == 1
        assert metric(client, "heed_requests_total", route="unknown", code="404") == 1


def test_limits_of_the_settings_reach_the_engine_and_the_catalogue() -> None:
    settings = Settings(max_result_bytes=1024, max_sequence_tokens=8, max_body_bytes=4096)
    with serving(settings) as client:
        wide = {"inputs": [{"embeddings": [[0.0] * 4] * 7}], "outputs": ["weights", "scores", "value_norms"]}
        refusal = client.post(ATTEND, json=wide)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (413, "result_too_large")
        assert "1176" in refusal.json()["error"]["message"]
        long = client.post(ATTEND, json={"inputs": [{"token_ids": [1] * 9}], "outputs": ["z"]})
        assert (long.status_code, long.json()["error"]["code"]) == (413, "sequence_too_long")
        assert client.post(ATTEND, content=b" " * 4097).json()["error"]["code"] == "body_too_large"
        limits = client.get("/v1/models/fake").json()["limits"]
        assert limits == {
            "max_body_bytes": 4096,
            "max_result_bytes": 1024,
            "max_sequence_tokens": 8,
            "deadline_ms": 30000,
        }
        assert metric(client, "heed_rejected_total") == 3
        assert metric(client, "heed_compute_seconds_count") == 0


def test_deadline_of_the_settings_is_kept_and_counted() -> None:
    runtime = FakeRuntime()
    runtime.gate.clear()
    with serving(Settings(deadline_ms=1), runtime) as client:
        late = client.post(ATTEND, json=BODY)
        runtime.gate.set()
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert metric(client, "heed_cancelled_total", reason="deadline_exceeded") == 1


def test_keys_close_what_holds_data_and_leave_probes_open() -> None:
    with serving(load_settings({"HEED_API_KEYS": "secret"}, {})) as client:
        refusal = client.post(ATTEND, json=BODY)
        assert (refusal.status_code, refusal.json()["error"]["code"]) == (401, "unauthorized")
        assert refusal.headers["x-request-id"] == refusal.json()["error"]["request_id"]
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v2/models/fake").status_code == 401
        assert client.post(ATTEND, json=BODY, headers={"X-API-Key": "secret"}).status_code == 200
        for path in ("/", "/docs", "/openapi.json", "/health", "/metrics", "/v2/health/ready"):
            assert client.get(path).status_code == 200, path


def test_api_description_offers_the_keys_only_where_they_are_set() -> None:
    with serving() as client:
        assert "security" not in client.get("/openapi.json").json()
    with serving(load_settings({"HEED_API_KEYS": "secret"}, {})) as client:
        page = client.get("/openapi.json").json()
        assert page["components"]["securitySchemes"].keys() == {"bearer", "key"}
        assert "secret" not in str(page)


def test_large_json_is_compressed_where_asked() -> None:
    runtime = FakeRuntime(fake_card(max_tokens=None))
    body = {"inputs": [{"embeddings": [[0.5] * 4] * 200}], "outputs": ["weights"]}
    with serving(runtime=runtime) as client:
        plain = client.post(ATTEND, json=body, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        with client.stream("POST", ATTEND, json=body, headers={"Accept-Encoding": "gzip"}) as packed:
            raw = b"".join(packed.iter_raw())
        assert packed.headers["content-encoding"] == "gzip"
        assert len(raw) < len(plain.content) / 10
        assert gzip.decompress(raw) == plain.content


def test_administration_is_closed_unless_opened() -> None:
    with serving() as client:
        assert client.post("/v2/repository/index").status_code == 403
    with serving(Settings(admin=True)) as client:
        assert client.post("/v2/repository/models/late/load").status_code == 200
        assert client.get("/v1/models/late").status_code == 200


def test_trailing_slash_is_no_redirect_to_a_host_the_caller_names() -> None:
    with serving() as client:
        reply = client.get("/health/", headers={"Host": "evil.example"}, follow_redirects=False)
        assert reply.status_code == 404
        assert "location" not in reply.headers


def test_failed_device_turns_health_red_and_every_answer_503(caplog: pytest.LogCaptureFixture) -> None:
    def fall_off(_: object) -> None:
        raise DeviceFailed("the device fell off the bus")

    with caplog.at_level(logging.CRITICAL), serving(runtime=FakeRuntime(before_run=fall_off)) as client:
        assert client.post(ATTEND, json=BODY).json()["error"]["code"] == "device_failed"
        wait_until(lambda: client.get("/health").status_code != 200, "health is red")
        assert client.get("/health").json()["status"] == "failed"
        for path in ("/v1/models", "/v2/health/live", "/v2/health/ready", "/v2/models/fake/ready", "/"):
            assert client.get(path).status_code == 503, path


def test_device_thread_that_dies_without_a_word_is_noticed() -> None:
    app = create_app(Settings(), FakeRuntime())
    service = service_of(app)
    with TestClient(app) as client:
        assert client.get("/health").status_code == 200
        slot = service.engine._device_slots[0]
        living, slot.thread = slot.thread, threading.Thread()  # one that does not run
        assert not service.health.live
        wait_until(lambda: service.lifecycle.state == "failed", "the pulse has noticed")
        assert client.get("/v1/models").status_code == 503
        slot.thread = living


def test_device_thread_lives_as_long_as_the_application() -> None:
    app = create_app(Settings(), FakeRuntime())
    service = service_of(app)
    assert not service.engine.alive
    assert service.lifecycle.state == "starting"
    with TestClient(app):
        assert service.engine.alive
        assert service.lifecycle.state == "ready"
    assert not service.engine.alive


def test_event_loop_lag_is_measured() -> None:
    with serving() as client:
        wait_until(lambda: metric(client, "heed_event_loop_lag_seconds_count") > 0, "the lag is measured")
        assert metric(client, "heed_event_loop_lag_seconds_sum") >= 0


def test_torch_is_not_needed_to_serve() -> None:
    for file in (Path(__file__).parents[2] / "service").rglob("*.py"):
        assert "import torch" not in file.read_text(), file
