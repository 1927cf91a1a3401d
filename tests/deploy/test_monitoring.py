"""Rules that fire when they should, and a dashboard whose every query has data."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.conftest import DEPLOY, tool
from tests.e2e.conftest import ATTEND, FakeServer, Start
from tests.e2e.conftest import start_once as start_once

MONITORING = DEPLOY / "monitoring"
SECONDS = 30  # in which Prometheus must have scraped a few times
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CONFIG = """
global: {scrape_interval: 250ms, evaluation_interval: 250ms}
rule_files: [RULES]
scrape_configs:
  - job_name: heed
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
"""


def test_rules_are_right_and_fire_when_they_should():
    for words in (["check", "rules", "rules.yaml"], ["test", "rules", "tests.yaml"]):
        done = subprocess.run(
            [tool("promtool"), *words], cwd=MONITORING, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test():
    rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    tests = yaml.safe_load((MONITORING / "tests.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    fired = {
        one["alertname"]
        for test in tests["tests"]
        for one in test.get("alert_rule_test", ())
        if one.get("exp_alerts")
    }
    assert alerts == fired


def test_the_clusters_rules_are_the_same():
    ours = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    theirs = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert theirs["spec"] == ours


@pytest.fixture(scope="module")
def prometheus(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prometheus over a server that traces, and has answered and refused."""
    program = tool("prometheus")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
        server = start_once(settings={"api_keys": "", "max_queued_requests": 1}, batch_seconds=0.02)
    folder = tmp_path_factory.mktemp("prometheus")
    config = folder / "prometheus.yaml"
    config.write_text(
        CONFIG.replace("RULES", str(MONITORING / "rules.yaml")).replace("PORT", str(server.port))
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    command += ["--enable-feature=exemplar-storage"]  # it then asks for OpenMetrics first
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + SECONDS
        while _scrapes(url) < 8:
            assert process.poll() is None
            assert time.monotonic() < until, "Prometheus did not scrape in time"
            _load(server)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _load(server: FakeServer) -> None:
    """Have four requests answered and one refused, all of one trace."""
    of_trace = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    good = {"inputs": [{"token_ids": [1, 2]}], "outputs": ["z"]}
    for body in (good, good, good, good, {"inputs": []}):
        httpx.post(f"http://127.0.0.1:{server.port}{ATTEND}", json=body, headers=of_trace)


def _scrapes(url: str) -> float:
    try:
        found = ask(url, 'count_over_time(up{job="heed"}[1m])')
    except httpx.TransportError:
        return 0
    return float(found[0]["value"][1]) if found else 0


def ask(url: str, query: str) -> list[dict]:
    reply = httpx.get(url + "/api/v1/query", params={"query": query})
    if reply.status_code == 503:  # starting
        return []
    page = reply.json()
    assert page["status"] == "success", (query, page)
    return page["data"]["result"]


def test_exemplars_of_a_traced_request_name_its_trace(prometheus):
    found = httpx.get(
        prometheus + "/api/v1/query_exemplars",
        params={"query": "heed_request_seconds_bucket", "start": time.time() - 300, "end": time.time() + 1},
    ).json()
    assert found["status"] == "success", found
    assert {exemplar["labels"]["trace_id"] for one in found["data"] for exemplar in one["exemplars"]} == {
        TRACE
    }
    (route,) = {one["seriesLabels"]["route"] for one in found["data"]}
    assert route == "/v1/models/{model}/attend"


def test_percentiles_of_requests_are_drawn_with_their_exemplars():
    with_points = {title for title, query, exemplar in targets() if exemplar}
    assert with_points == {"Time from first byte to last", "Reading and writing, p99 by format"}


def targets() -> Iterator[tuple[str, str, bool]]:
    board = json.loads((MONITORING / "heed.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target.get("exemplar", False)


def test_every_query_of_the_dashboard_has_data(prometheus):
    empty = []
    for title, query, _ in targets():
        asked = query.replace("$instance", ".*").replace("$__rate_interval", "30s")
        assert "$" not in asked
        values = [float(one["value"][1]) for one in ask(prometheus, asked)]
        if all(value != value for value in values):  # NaN of a route that nobody asks
            empty.append((title, asked))
    assert empty == []


def test_every_metric_of_a_rule_is_one_that_the_server_has(prometheus):
    known = set(httpx.get(prometheus + "/api/v1/label/__name__/values").json()["data"])
    text = (MONITORING / "rules.yaml").read_text()
    queries = [rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    for query in queries:
        for name in ask_names(query):
            assert name in known or name.startswith("heed_rejected"), name


def ask_names(query: str) -> set[str]:
    words = "".join(character if character.isalnum() or character == "_" else " " for character in query)
    return {word for word in words.split() if word.startswith(("heed_", "process_"))}


def test_dashboard_shows_what_the_server_counts(prometheus):
    shown = {name for _, query, _ in targets() for name in ask_names(query)}
    names = httpx.get(prometheus + "/api/v1/label/__name__/values").json()["data"]
    counted = {name for name in names if name.startswith("heed_")}
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in counted}
    seen = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in shown}
    assert families - seen == set()


def test_dashboard_is_in_the_cluster_as_it_is_here():
    assert "files: [heed.json]" in Path(MONITORING / "kustomization.yaml").read_text()
