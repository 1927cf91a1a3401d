"""Whether there are traces at all; in processes of their own where it is about what is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.environment import asked_by, require_tracing, tracing_of
from service.settings import SettingsError

ROOT = Path(__file__).parents[3]
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
COLLECTOR = "http://127.0.0.1:1"
UNWANTED = {"service.tracing", "opentelemetry.sdk", "opentelemetry.exporter", "grpc"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {ENDPOINT: ""},
        {"OTEL_TRACES_EXPORTER": ""},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"},
        {ENDPOINT: COLLECTOR, "OTEL_TRACES_EXPORTER": "none"},
        {ENDPOINT: COLLECTOR, "OTEL_TRACES_EXPORTER": " None "},
        {ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "true"},
        {ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "TRUE"},
    ],
)
def test_nobody_asks_for_traces(environ: dict[str, str]) -> None:
    assert asked_by(environ, None) == []
    assert tracing_of(None, environ) is None


@pytest.mark.parametrize("forbidding", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_short_form_is_turned_off_as_the_long_one_is(forbidding: dict[str, str]) -> None:
    assert tracing_of(COLLECTOR, forbidding) is None


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, COLLECTOR),
        ({ENDPOINT: COLLECTOR}, None),
        ({ENDPOINT: COLLECTOR + "/"}, COLLECTOR),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": COLLECTOR}, None),
        ({"OTEL_TRACES_EXPORTER": "console"}, None),
        ({ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "false"}, None),
    ],
)
def test_somebody_asks_for_traces(environ: dict[str, str], endpoint: str | None) -> None:
    tracing = tracing_of(endpoint, environ)
    assert tracing is not None
    tracing.stop()


def test_two_addresses_for_one_thing_are_refused_naming_both() -> None:
    with pytest.raises(SettingsError) as error:
        require_tracing("http://b:4318", {ENDPOINT: "http://a:4318"})
    (problem,) = error.value.problems
    for word in ("HEED_OTLP_ENDPOINT", ENDPOINT, "http://a:4318", "http://b:4318"):
        assert word in problem


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1"),
    ],
)
def test_what_no_traces_can_be_made_of_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as error:
        require_tracing(COLLECTOR, {variable: value})
    assert len(error.value.problems) == 1


def python(script: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env={**own, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


IMPORTED = """
import json, sys
import service.cli
from service.app import create_app
from service.settings import Settings
from tests.fakes import FakeRuntime
app = create_app(Settings(otlp_endpoint=sys.argv[1] or None), FakeRuntime())
print(json.dumps([sorted(sys.modules), type(app.stations._first).__name__]))
"""


def test_nothing_of_it_is_imported_where_nobody_asks() -> None:
    modules, first = json.loads(python(IMPORTED, "").stdout)
    assert UNWANTED.isdisjoint(modules)
    assert first == "Observer"


def test_all_of_it_is_imported_where_somebody_asks() -> None:
    modules, first = json.loads(python(IMPORTED, "http://127.0.0.1:4317").stdout)
    assert set(modules) >= UNWANTED
    assert first == "SpanStation"


MISSING = """
import sys
sys.modules[sys.argv.pop(1)] = None  # as where it is not installed
from service.cli import main
main()
"""


@pytest.mark.parametrize(
    "package", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_server_refuses_to_start_without_the_packages_and_names_the_remedy(package: str) -> None:
    done = python(MISSING, package, "serve", "--port", "0", **{ENDPOINT: COLLECTOR})
    assert done.returncode == 2
    assert "pip install 'heed-server[otel]'" in done.stderr
    assert ENDPOINT in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_server_refuses_to_start_with_what_cannot_be_sent() -> None:
    done = python(MISSING, "nothing", "serve", "--port", "0", OTEL_TRACES_EXPORTER="zipkin")
    assert done.returncode == 2
    assert "zipkin" in done.stderr


DOUBLED = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
theirs = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(theirs))
trace.set_tracer_provider(provider)
from tests.service.tracing.traced import traced
with traced() as found:
    found.attend()
    found.client.get("/v1/models")
kinds = lambda spans: [span.name for span in spans if span.kind is trace.SpanKind.SERVER]
print(json.dumps([kinds(found.spans), kinds(theirs.get_finished_spans())]))
"""


def test_request_has_one_span_where_the_framework_would_make_its_own() -> None:
    done = python(DOUBLED, FASTAPI_OTEL_AUTO_CONFIGURE="true")
    ours, theirs = json.loads(done.stdout)
    assert ours == ["POST /v1/models/{model}/attend", "GET /v1/models"]
    assert theirs == []


def test_a_wrong_number_is_told_of_in_the_servers_own_log_and_not_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "many")
    require_tracing(None, {ENDPOINT: COLLECTOR})
    assert not caplog.records
