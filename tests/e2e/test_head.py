"""HEAD over a real socket: a client that looks at health so finds the connection in order after it."""

import http.client

import pytest

from tests.e2e.conftest import FakeServer, Start


@pytest.fixture(scope="module")
def server(start_once: Start) -> FakeServer:
    return start_once()


@pytest.mark.parametrize("path", ["/health", "/v2/health/ready", "/v1/models", "/", "/metrics", "/docs"])
def test_head_is_get_without_its_body(server: FakeServer, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    found = []
    for method in ("GET", "HEAD", "GET"):
        connection.request(method, path)
        reply = connection.getresponse()
        found.append((reply.status, reply.headers["content-type"], len(reply.read())))
    connection.close()
    (status, kind, size), head, again = found
    assert head == (status, kind, 0)
    assert size > 0
    assert again[:2] == (status, kind)


def test_metrics_count_it_with_the_route_it_asked_for(server: FakeServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("HEAD", "/v1/models/fake")
    assert connection.getresponse().read() == b""
    connection.close()
    assert (
        b'heed_requests_total{code="200",model="fake",route="/v1/models/{model}"} 1.0'
        in server.get("/metrics").body
    )
