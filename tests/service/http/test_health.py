from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.app import create_app
from service.http.around.lifecycle import Lifecycle
from service.http.pages.health import Health, router
from service.metrics.registry import Metrics
from service.settings import Settings
from tests.asgi import Headers, Reply, call
from tests.fakes import FakeRuntime, fake_card


@dataclass
class Device:
    """What health looks at of an engine."""

    state: str = "ready"
    alive: bool = True
    oldest_batch_seconds: float = 0.0
    queued_requests: int = 2
    queued_tokens: int = 30


def ask(
    device: Device,
    state: str = "ready",
    path: str = "/health",
    *,
    silent: float = 0.0,
    elsewhere: str = "",
    headers: Headers = (),
) -> tuple[Reply, Health]:
    health = Health(
        lifecycle=Lifecycle(state),  # type: ignore[arg-type]
        engine=device,  # type: ignore[arg-type]
        silent_seconds=lambda: silent,
        elsewhere=lambda: elsewhere,
        watchdog_seconds=10.0,
    )
    app = FastAPI()
    runtime = FakeRuntime(fake_card("one"), fake_card("two"))
    app.include_router(router(health, runtime=runtime, metrics=Metrics(), version="1.2.3"))
    return call(app, path, headers=headers), health


def test_ready_server_sums_itself_up() -> None:
    reply, health = ask(Device(oldest_batch_seconds=1.23456))
    assert reply.status == 200
    assert reply.json() == {
        "status": "ready",
        "reason": "",
        "version": "1.2.3",
        "models": ["one", "two"],
        "queue": {"requests": 2, "tokens": 30},
        "device": {"state": "ready", "oldest_batch_seconds": 1.235},
    }
    assert (health.ready, health.live) == (True, True)
    assert reply.header("cache-control") == "no-store"


@pytest.mark.parametrize("state", ["starting", "draining"])
def test_server_that_begins_or_ends_is_live_but_not_ready(state: str) -> None:
    reply, health = ask(Device(), state)
    assert (reply.status, reply.json()["status"]) == (503, state)
    assert (health.ready, health.live) == (False, True)


def test_server_is_ready_when_all_that_was_named_is_served_and_stays_so_when_it_is_unloaded() -> None:
    runtime = FakeRuntime(fake_card("one"))
    app = create_app(Settings(admin=True, models="one,two:float16", model="three=/mnt/three"), runtime)

    def ready(client: TestClient) -> tuple[int, str, str, int]:
        reply = client.get("/health")
        said = reply.json()
        return reply.status_code, said["status"], said["reason"], client.get("/v2/health/ready").status_code

    with TestClient(app) as client:
        assert ready(client) == (503, "starting", "not served yet: three, two", 503)
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/v2/repository/models/two/load").status_code == 200
        assert ready(client) == (503, "starting", "not served yet: three", 503)
        assert client.post("/v2/repository/models/three/load").status_code == 200
        assert ready(client) == (200, "ready", "", 200)
        assert client.post("/v2/repository/models/two/unload").status_code == 200
        assert ready(client) == (200, "ready", "", 200)


@pytest.mark.parametrize(
    ("device", "state", "reason"),
    [
        (Device(state="failed"), "ready", "failed"),
        (Device(), "failed", "failed"),
        (Device(state="failed"), "draining", "failed"),
        (Device(alive=False), "ready", "thread has ended"),
        (Device(state="draining", alive=False), "draining", "thread has ended"),
    ],
)
def test_device_that_cannot_work_is_neither_live_nor_ready(device: Device, state: str, reason: str) -> None:
    reply, health = ask(device, state)
    assert (reply.status, reply.json()["status"]) == (503, "failed")
    assert reason in reply.json()["reason"]
    assert (health.ready, health.live) == (False, False)


def test_device_that_gives_no_sign_is_neither_live_nor_ready() -> None:
    reply, health = ask(Device(), silent=9.8)
    assert (reply.status, reply.json()["reason"]) == (503, "the device has given no sign for over 10 s")
    assert (health.ready, health.live) == (False, False)


def test_process_is_as_well_as_the_worst_beside_it() -> None:
    reply, health = ask(Device(), elsewhere="an HTTP process has given no sign for over 10 s")
    assert (reply.status, reply.json()["reason"]) == (503, "an HTTP process has given no sign for over 10 s")
    assert (health.ready, health.live) == (False, False)


def test_batch_within_the_watchdogs_limit_is_work() -> None:
    assert ask(Device(), silent=9.7)[0].status == 200
    assert ask(Device(oldest_batch_seconds=60.0))[0].status == 200  # long, but it goes on


def test_engine_that_has_stopped_on_purpose_is_not_dead() -> None:
    assert ask(Device(state="stopped", alive=False), "draining")[1].live


def test_metrics_page_is_prometheus_text() -> None:
    reply, _ = ask(Device(), path="/metrics")
    assert reply.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert b"# TYPE heed_batch_sequences histogram" in reply.body


OLD, NEW = "text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"
BOTH = "application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        # what Prometheus sends: until 2.48, since 2.49, since 3.0; with OpenMetrics left out of its protocols
        (f"application/openmetrics-text;version=1.0.0,{BOTH}", NEW),
        (f"application/openmetrics-text;version=1.0.0;q=0.9,{BOTH}", NEW),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;"
            "version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;"
            "q=0.3,*/*;q=0.2",
            NEW,
        ),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OLD),
        ("application/openmetrics-text", NEW),
        ("APPLICATION/OpenMetrics-Text; Version=1.0.0; charset=utf-8", NEW),
        ("application/openmetrics-text, text/plain", NEW),
        ("text/plain, application/openmetrics-text;q=0.9", OLD),
        ("text/plain;q=0.8, application/openmetrics-text;q=0.9", NEW),
        ("application/openmetrics-text;q=0", OLD),
        ("application/openmetrics-text;q=high", OLD),
        ("application/openmetrics-text;version=0.0.1", OLD),
        ("application/openmetrics-text;version=2.0.0, text/plain;q=0.1", OLD),
        ("application/openmetrics-text;version=1.0.0;q=0, application/openmetrics-text", OLD),
        ("text/plain;version=1.0.0;q=0.9, application/openmetrics-text;q=0.5", NEW),
        ("*/*", OLD),
        ("application/*", OLD),
        ("text/*;q=0.1, application/openmetrics-text;q=0.2", NEW),
        ("application/json", OLD),
        ("text/html,application/xhtml+xml,*/*;q=0.8", OLD),
        (";;,,=", OLD),
        ("", OLD),
    ],
)
def test_metrics_page_is_openmetrics_for_who_names_it(accept: str, format_: str) -> None:
    reply, _ = ask(Device(), path="/metrics", headers=[("accept", accept)])
    assert reply.status == 200
    assert reply.header("content-type") == f"{format_}; charset=utf-8"
    assert reply.body.endswith(b"# EOF\n") == (format_ == NEW)


@pytest.mark.parametrize("state", ["starting", "ready", "draining", "failed"])
def test_failure_is_final(state: str) -> None:
    lifecycle = Lifecycle(state)  # type: ignore[arg-type]
    lifecycle.fail()
    lifecycle.drain()
    lifecycle.begin()
    assert lifecycle.state == "failed"


def test_signal_before_the_start_is_not_forgotten() -> None:
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.begin()
    assert lifecycle.state == "draining"
