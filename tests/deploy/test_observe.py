"""docker-compose.yml's profile `observe`, without a container: its files are right, and agree."""

import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from service.metrics.exposition import OPENMETRICS
from service.metrics.registry import Metrics
from tests.deploy.conftest import DEPLOY, ROOT, tool

FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OBSERVERS = {"prometheus", "grafana", "collector", "jaeger"}
OBSERVE = DEPLOY / "observe"


def read(name: str) -> Any:
    return yaml.safe_load((OBSERVE / name).read_text())


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against the published schema of compose files."""
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_compose_file_passes_its_published_schema():
    done = checked(FILE)
    assert done.returncode == 0, done.stdout


def test_mistyped_field_of_a_compose_file_fails(tmp_path: Path):
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text().replace("cap_drop", "cap_dropp"))
    assert "cap_dropp" in checked(wrong).stdout


def test_nothing_but_the_server_runs_unless_it_is_asked_for():
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"heed"}
    assert {name for name, service in SERVICES.items() if service.get("profiles") == ["observe"]} == OBSERVERS
    traced = SERVICES["heed"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    assert traced == "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"  # to nowhere


@pytest.mark.parametrize("name", sorted(OBSERVERS))
def test_observer_is_of_one_version_reached_from_this_machine_alone_and_finds_its_files(name):
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["cap_drop"] == ["ALL"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")
    for volume in service.get("volumes", ()):
        source, _, *how = volume.split(":")
        if source.startswith("."):
            assert (ROOT / source).is_file()
            assert how == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


def mounted(name: str) -> dict[str, Path]:
    """Return files of ours by where a container has them."""
    pairs = (volume.split(":")[:2] for volume in SERVICES[name]["volumes"])
    return {inside: ROOT / source for source, inside in pairs if source.startswith(".")}


def test_prometheus_takes_its_configuration_and_keeps_exemplars(tmp_path: Path):
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]
    inside = mounted("prometheus")
    (config,) = (
        word.partition("=")[2] for word in SERVICES["prometheus"]["command"] if "config.file" in word
    )
    text = inside[config].read_text()
    for place, file in inside.items():  # as it is found there
        text = text.replace(place, str(file))
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [tool("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


def test_prometheus_looks_for_the_servers_that_there_are():
    heed, collector = read("prometheus.yaml")["scrape_configs"]
    (found,) = heed["dns_sd_configs"]
    assert set(found["names"]) == {name for name, service in SERVICES.items() if "build" in service}
    for name in found["names"]:
        assert SERVICES[name]["ports"][0].endswith(f":{found['port']}")
    (reader,) = read("collector.yaml")["service"]["telemetry"]["metrics"]["readers"]
    assert collector["static_configs"][0]["targets"] == [
        f"collector:{reader['pull']['exporter']['prometheus']['port']}"
    ]


def test_collector_uses_what_it_declares_and_nothing_else():
    config = read("collector.yaml")
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in used.items():
            names.update(pipeline[kind])
    assert used == {kind: set(config[kind]) for kind in used}
    assert config["service"]["pipelines"]["traces"]["processors"][0] == "memory_limiter"  # as it must be


def test_spans_go_from_the_server_to_the_collector_and_on_to_jaeger():
    config = read("collector.yaml")
    (written,) = re.findall(r"^# OTEL_EXPORTER_OTLP_ENDPOINT=(\S+) ", FILE.read_text(), re.MULTILINE)
    to = urlsplit(written)
    assert to.hostname in SERVICES
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{to.port}"
    host, _, port = config["exporters"]["otlp"]["endpoint"].partition(":")
    assert (host, port) == ("jaeger", "4317")
    assert host in SERVICES


def test_grafana_has_its_sources_where_they_run_and_leads_from_exemplars_to_traces():
    sources = {one["uid"]: one for one in read("grafana/datasources.yaml")["datasources"]}
    for one in sources.values():
        where = urlsplit(one["url"])
        assert SERVICES[where.hostname]["ports"][0].endswith(f":{where.port}")
    assert [one["uid"] for one in sources.values() if one.get("isDefault")] == ["prometheus"]
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert sources[destination["datasourceUid"]]["type"] == "jaeger"
    metrics = Metrics()
    metrics.request(route="/", model="", code=200, seconds=0.0, trace_id="0af7651916cd43dd8448eb211c80319c")
    assert f'# {{{destination["name"]}="0af7' in metrics.page(OPENMETRICS).decode()


def test_grafana_finds_our_dashboard():
    inside = mounted("grafana")
    (provider,) = read("grafana/dashboards.yaml")["providers"]
    board = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert board.startswith(provider["options"]["path"] + "/")
    assert inside[board] == ROOT / "deploy/monitoring/heed.json"
    provisioned = {place.split("/")[4] for place in inside if place.startswith("/etc/grafana/provisioning/")}
    assert provisioned == {"datasources", "dashboards"}
