"""Platforms' routes and browsers' questions over a real socket, in one process and more."""

import json
import signal

import pytest

from tests.e2e.conftest import Answer, FakeServer, Start, request

ORIGIN = "https://app.example.com"
HEALTH, PREDICT = "/v1/endpoints/1/deployedModels/2", "/v1/endpoints/1/deployedModels/2:predict"
SETTINGS = {
    "cors_origins": ORIGIN,
    "root_path": "/heed",
    "health_route": HEALTH,
    "predict_route": PREDICT,
    "api_keys": "sesame",
}


def ask(server: FakeServer, method: str, path: str, *lines: str, body: object = None) -> Answer:
    sent = b"" if body is None else json.dumps(body).encode()
    length = () if body is None else (f"Content-Length: {len(sent)}", "Content-Type: application/json")
    answer = server.send(request(method, path, f"Origin: {ORIGIN}", *length, *lines, body=sent))
    assert answer is not None
    return answer


@pytest.mark.parametrize("workers", [1, 2])
def test_pages_and_platforms_are_answered_until_the_end(start: Start, workers: int) -> None:
    server = start(grace_seconds=1.0, settings={**SETTINGS, "http_workers": workers})
    first = ask(server, "OPTIONS", "/heed/v1/models/fake/attend", "Access-Control-Request-Method: POST")
    assert (first.status, first.headers["access-control-allow-origin"]) == (200, ORIGIN)
    body = {"instances": ["a b"], "parameters": {"outputs": ["z"]}}
    for path in (PREDICT, f"/heed{PREDICT}", "/invocations", "/heed/invocations"):
        assert ask(server, "POST", path, body=body).status == 401
        answered = ask(server, "POST", path, "X-API-Key: sesame", body=body)
        assert (answered.status, len(answered.json()["predictions"])) == (200, 1)
        assert answered.headers["access-control-allow-origin"] == ORIGIN
    assert ask(server, "GET", HEALTH).status == 200
    server.process.send_signal(signal.SIGTERM)
    while (ended := ask(server, "GET", HEALTH)).status == 200:  # the signal is on its way
        pass
    assert (ended.status, ended.json(), ended.closes) == (503, {"status": "draining"}, True)
    late = ask(server, "POST", "/invocations", "X-API-Key: sesame", body=body)
    assert (late.status, late.closes) == (200, True)
    assert server.ended() == 0
